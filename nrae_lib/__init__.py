"""A reproducible companion to *Neighborhood Reconstructing Autoencoders*: losses, models and training loops.

Import the room you need (``from nrae_lib import methods, runs, grid``); the package itself imports nothing,
so that a bare GPU node needs only torch, numpy and scikit-learn.
"""

__version__ = "0.1.0"

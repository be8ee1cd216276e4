"""A reproducible companion to *Neighborhood Reconstructing Autoencoders*: losses, models and training loops.

Import the room you need (``from nrae_lib import methods, runs, grid``); the package itself imports nothing,
so that a bare GPU node needs only torch, numpy and scikit-learn. For one's own data,
``from nrae_lib import ManifoldAutoencoder`` loads what it needs at that moment.
"""

__version__ = "0.1.0"


def __getattr__(name: str):
    if name == "ManifoldAutoencoder":
        from nrae_lib.estimator import ManifoldAutoencoder

        return ManifoldAutoencoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "ManifoldAutoencoder"])

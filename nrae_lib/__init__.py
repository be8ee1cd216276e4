"""A reproducible companion to *Neighborhood Reconstructing Autoencoders*: losses, models and training loops.

Six floors, each importing only from those above it: ``core``, ``data``, ``runs``, ``paper``, ``pages``, ``own_data``. The
package itself imports none of them, so that a bare GPU node needs only torch, numpy and scikit-learn. For one's own
data, ``from nrae_lib import ManifoldAutoencoder`` loads what it needs at that moment.
"""

from nrae_lib.core import __version__

__all__ = ["ManifoldAutoencoder", "__version__"]


def __getattr__(name: str):
    if name == "ManifoldAutoencoder":
        from nrae_lib.own_data.estimator import ManifoldAutoencoder

        return ManifoldAutoencoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "ManifoldAutoencoder"])

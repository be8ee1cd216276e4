"""What a result holds beside its errors: one view per kind of figure, named by ``Run.keep``.

A view is a function (model, data) -> (metrics, arrays). It is called once, on the trained model in evaluation mode, on
the device of the training, and what it returns is stored: a page draws its figure without the model. ``data`` is the
:class:`nrae_lib.data.datasets.Dataset` with its points wherever they are; :func:`nrae_lib.runs.views.encode` and
:func:`nrae_lib.runs.views.decode` move them block by block.
"""

from collections.abc import Callable

import numpy as np
from torch import nn

from nrae_lib.data.datasets import Dataset
from nrae_lib.runs.views.common import decode, encode
from nrae_lib.runs.views.curvature import curvature
from nrae_lib.runs.views.curve import curve, learned_curve
from nrae_lib.runs.views.denoising import denoising
from nrae_lib.runs.views.images import images
from nrae_lib.runs.views.latent_grid import latent_grid, latent_scores
from nrae_lib.runs.views.neighborhood import neighborhood
from nrae_lib.runs.views.order import order

View = Callable[[nn.Module, Dataset], tuple[dict[str, float], dict[str, np.ndarray]]]


def _errors_only(model: nn.Module, data: Dataset) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """What every result has; of a curve, also the order of its codes."""
    return curve(model, data)[0], {}


VIEWS: dict[str, View] = {
    "metrics": _errors_only,
    "figure": curve,
    "animation": curve,  # and the curve during training
    "images": images,
    "denoising": denoising,
    "order": order,
    "latent_grid": latent_grid,
    "latent_scores": latent_scores,
    "curvature": curvature,
    "neighborhood": neighborhood,
}
# Results of these views are stored with the trained weights, in a file of their own that is not committed.
WITH_WEIGHTS = ("images",)

__all__ = [
    "VIEWS",
    "WITH_WEIGHTS",
    "View",
    "curvature",
    "curve",
    "decode",
    "denoising",
    "encode",
    "images",
    "latent_grid",
    "latent_scores",
    "learned_curve",
    "neighborhood",
    "order",
]

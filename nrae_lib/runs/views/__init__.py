"""What a result holds beside its errors: one view per kind of figure, named by ``Run.keep``.

A view is a function (model, data) -> (metrics, arrays). It is called once, on the trained model in evaluation mode, on
the device of the training, and what it returns is stored: a page draws its figure without the model.
"""

from collections.abc import Callable

import numpy as np
from torch import nn

from nrae_lib.data.datasets import Dataset
from nrae_lib.runs.views.curve import curve, learned_curve
from nrae_lib.runs.views.images import decode, denoising, encode, images
from nrae_lib.runs.views.neighborhood import neighborhood
from nrae_lib.runs.views.order import order
from nrae_lib.runs.views.plane import curvature, latent_grid, latent_scores

View = Callable[[nn.Module, Dataset], tuple[dict[str, float], dict[str, np.ndarray]]]


def metrics(model: nn.Module, data: Dataset) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """What every result has; of a curve, also the order of its codes."""
    return curve(model, data)[0], {}


VIEWS: dict[str, View] = {
    view.__name__: view
    for view in (metrics, images, denoising, order, latent_grid, latent_scores, curvature, neighborhood)
} | {"figure": curve, "animation": curve}  # the latter also has the curve during training
# Results of these views are stored with the trained weights, in a file of their own that is not committed.
WITH_WEIGHTS = ("images",)

__all__ = [
    "VIEWS", "WITH_WEIGHTS", "View", "curvature", "curve", "decode", "denoising", "encode", "images", "latent_grid",
    "latent_scores", "learned_curve", "neighborhood", "order",
]  # fmt: skip

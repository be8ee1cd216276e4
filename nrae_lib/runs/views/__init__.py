"""What a result holds beside its errors: one view per kind of figure, named by ``Run.keep``.

A view is a function (model, data) -> (metrics, arrays). It is called once, on the trained model in evaluation mode, on
the device of the training, and what it returns is stored: a page draws its figure without the model.
"""

from collections.abc import Callable

import numpy as np
from torch import nn

from nrae_lib.data.datasets import Dataset
from nrae_lib.runs.views.curve import curve, learned_curve, neighborhood, order
from nrae_lib.runs.views.images import decode, denoising, encode, images
from nrae_lib.runs.views.plane import curvature, latent_grid

View = Callable[[nn.Module, Dataset], tuple[dict[str, float], dict[str, np.ndarray]]]
VIEWS: dict[str, View] = {
    view.__name__: view for view in (images, denoising, order, latent_grid, curvature, neighborhood)
} | {
    "metrics": lambda model, data: (curve(model, data)[0], {}),  # of a curve, also the order of its codes
    "figure": curve,
    "animation": curve,  # which also has the curve during training
    "order_scores": lambda model, data: (order(model, data)[0], {}),  # without codes and pictures
    "latent_scores": lambda model, data: (latent_grid(model, data)[0], {}),  # without its pictures
}
# Results of these views are stored with the trained weights, in a file of their own that is not committed.
WITH_WEIGHTS = ("images",)

__all__ = [
    "VIEWS", "WITH_WEIGHTS", "View", "curvature", "curve", "decode", "denoising", "encode", "images", "latent_grid",
    "learned_curve", "neighborhood", "order",
]  # fmt: skip

"""Reconstructed test images: some in order, the best and the worst (supplement, Figures 3 and 4)."""

import numpy as np
import torch
from torch import Tensor, nn

from nrae_lib.core import measures
from nrae_lib.data.datasets import Dataset
from nrae_lib.runs.views.common import decode, encode

_SHOWN, _EXTREMES = 40, 8


def as_bytes(images: Tensor) -> np.ndarray:
    """Images in [0, 1] as uint8, rounded; values outside are clipped."""
    return (images.clamp(0, 1) * 255).round().byte().numpy()


@torch.no_grad()
def images(model: nn.Module, data: Dataset) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """What a page of reconstructions shows.

    Returns:
        no metrics; arrays error (M,) mean squared error of every test image, float16; shown: reconstructions of the first
        40 test images; best_index, worst_index: the 8 with the smallest and the largest error (in this order), and
        best, worst: their reconstructions. Images are uint8.
    """
    error = measures.per_point_error(model, data.test).cpu()
    order = error.argsort(stable=True)
    chosen = {"best": order[:_EXTREMES], "worst": order.flip(0)[:_EXTREMES]}
    features = data.test[0].numel()

    def reconstructed(points: Tensor) -> np.ndarray:
        return as_bytes(decode(model, encode(model, points), features))

    arrays = {"error": error.numpy().astype(np.float16), "shown": reconstructed(data.test[:_SHOWN])}
    for name, index in chosen.items():
        arrays[name] = reconstructed(data.test[index])
        arrays[f"{name}_index"] = index.numpy().astype(np.int32)
    return {}, arrays

"""Denoised images: what a model trained on noisy images makes of them, against the clean ones (Table 2)."""

import numpy as np
import torch
from torch import Tensor, nn

from nrae_lib.core import measures
from nrae_lib.data.datasets import Dataset
from nrae_lib.runs.views.common import decode, encode
from nrae_lib.runs.views.images import as_bytes

_BLOCK, _SHOWN = 2048, 10


@torch.no_grad()
def denoising(model: nn.Module, data: Dataset) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """PSNR of reconstructed noisy images against the clean ones, of the training and of the test images.

    The paper does not say of which; nor whether its mean is over the images' decibels or their errors.

    Returns:
        metrics psnr_train, psnr_test (:func:`nrae_lib.core.measures.psnr`), psnr_of_mean_train, psnr_of_mean_test
        (:func:`nrae_lib.core.measures.psnr_of_mean`), in decibels; arrays clean, noisy and denoised, the first 10 test images
        as uint8.

    Raises:
        ValueError: if the data has no noise.
    """
    if data.train_clean is None or data.test_noisy is None:
        raise ValueError("the view 'denoising' needs images with noise: set the data option noise above 0")
    metrics = {}
    for name, noisy, clean in (("train", data.train, data.train_clean), ("test", data.test_noisy, data.test)):
        decibels, error = 0.0, 0.0
        for part, true in zip(noisy.split(_BLOCK), clean.split(_BLOCK), strict=True):
            found, share = _denoised(model, part), len(part) / len(noisy)
            decibels += share * measures.psnr(found, true.cpu())
            error += share * 10 ** (-measures.psnr_of_mean(found, true.cpu()) / 10)
        metrics[f"psnr_{name}"], metrics[f"psnr_of_mean_{name}"] = decibels, float(-10 * np.log10(error))
    shown = {"clean": data.test[:_SHOWN].cpu(), "noisy": data.test_noisy[:_SHOWN].cpu()}
    shown["denoised"] = _denoised(model, data.test_noisy[:_SHOWN])
    return metrics, {name: as_bytes(images) for name, images in shown.items()}


def _denoised(model: nn.Module, points: Tensor) -> Tensor:
    return decode(model, encode(model, points), points[0].numel())

"""Reconstructed and denoised images (Table 2; supplement, Figures 3 and 4), and codes and images block by block."""

import numpy as np
import torch
from torch import Tensor, nn

from nrae_lib.core import measures
from nrae_lib.core.points import as_floats
from nrae_lib.data.datasets import Dataset

_BLOCK_VALUES = 2**22  # values (points x features) that pass through a network at a time
_NOISY_BLOCK = 2048  # images that are denoised at a time
_SHOWN, _EXTREMES, _DENOISED = 40, 8, 10


@torch.no_grad()
def _in_blocks(model: nn.Module, half: nn.Module, points: Tensor, features: int) -> Tensor:
    device, size = next(model.parameters()).device, max(1, _BLOCK_VALUES // max(1, features))
    return torch.cat([half(as_floats(part.to(device))).cpu() for part in points.split(size)])


def encode(model: nn.Module, points: Tensor) -> Tensor:
    """(N, m) codes of ``points``, on the CPU; the points may be uint8 images and may lie on any device."""
    return _in_blocks(model, model.encoder, points, points[0].numel())


def decode(model: nn.Module, codes: Tensor, features: int) -> Tensor:
    """(N, ...) decoded ``codes``, on the CPU; ``features`` is the number of values of one decoded point."""
    return _in_blocks(model, model.decoder, codes, features)


def _reconstructed(model: nn.Module, points: Tensor) -> Tensor:
    return decode(model, encode(model, points), points[0].numel())


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
    arrays = {"error": error.numpy().astype(np.float16), "shown": as_bytes(_reconstructed(model, data.test[:_SHOWN]))}
    for name, index in {"best": order[:_EXTREMES], "worst": order.flip(0)[:_EXTREMES]}.items():
        arrays[name] = as_bytes(_reconstructed(model, data.test[index]))
        arrays[f"{name}_index"] = index.numpy().astype(np.int32)
    return {}, arrays


@torch.no_grad()
def denoising(model: nn.Module, data: Dataset) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """PSNR of reconstructed noisy images against the clean ones, of the training and of the test images.

    The paper does not say of which; nor if its mean is over decibels or errors. ValueError without noise.

    Returns:
        metrics psnr_train, psnr_test (:func:`nrae_lib.core.measures.psnr`), psnr_of_mean_train and psnr_of_mean_test
        (of the mean error), in decibels; arrays clean, noisy and denoised, the first 10 test images as uint8.
    """
    if data.train_clean is None or data.test_noisy is None:
        raise ValueError("the view 'denoising' needs images with noise: set the data option noise above 0")
    metrics = {}
    for name, noisy, clean in (("train", data.train, data.train_clean), ("test", data.test_noisy, data.test)):
        decibels, error = 0.0, 0.0
        for part, true in zip(noisy.split(_NOISY_BLOCK), clean.split(_NOISY_BLOCK), strict=True):
            found, share = _reconstructed(model, part), len(part) / len(noisy)
            decibels += share * measures.psnr(found, true.cpu())
            error += share * 10 ** (-measures.psnr_of_mean(found, true.cpu()) / 10)
        metrics[f"psnr_{name}"], metrics[f"psnr_of_mean_{name}"] = decibels, float(-10 * np.log10(error))
    clean, noisy = data.test[:_DENOISED].cpu(), data.test_noisy[:_DENOISED].cpu()
    shown = {"clean": clean, "noisy": noisy, "denoised": _reconstructed(model, noisy)}
    return metrics, {name: as_bytes(images) for name, images in shown.items()}

"""Reconstruction errors: of a model over a data set, per point, and in decibels.

Data that is empty or not finite, and images of different shapes, raise a ValueError.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from nrae_lib.core.points import as_floats, check_points

_VALUES_PER_BLOCK = 2**24  # so that large images come in smaller blocks: 64 MiB of float32


def blocks(model: nn.Module, points: Tensor, block: int) -> Iterator[Tensor]:
    """``points`` by at most ``block`` and about 2²⁴ values, on the device of the model; bytes as float32 in [0, 1]."""
    check_points(points, "data")
    device = next(model.parameters(), points).device
    size = max(1, min(block, _VALUES_PER_BLOCK // points.shape[1:].numel()))
    return (as_floats(part.to(device)) for part in points.split(size))


@torch.no_grad()
def mean_squared_error(model: nn.Module, points: Tensor, block: int = 4096) -> float:
    """Mean over points and over features of ‖x - f(g(x))‖², "mean-D" (paper, Tables 1 and 3), summed in float64.

    Arguments:
        model: x -> x̂ of the same shape, on any device.
        points: (N, ...) real numbers, or bytes, as float32 in [0, 1], at most ``block`` of them and 2²⁴ values at once.
    """
    parts = blocks(model, points, block)
    total = sum(((model(part) - part).double().square().sum() for part in parts), torch.zeros(()))
    return float(total) / points.numel()


@torch.no_grad()
def per_point_error(model: nn.Module, points: Tensor, block: int = 4096) -> Tensor:
    """(1/D) ‖x_i - f(g(x_i))‖² of each point, (N,) float32 on the model's device; the mean is :func:`mean_squared_error`."""
    parts = blocks(model, points, block)
    return torch.cat([(model(part) - part).double().square().flatten(1).mean(1).float() for part in parts])


def psnr(reconstruction: Tensor, clean: Tensor) -> float:
    """Peak signal-to-noise ratio in decibels, the mean over the images of 10 log₁₀ (1 / MSE_i); nothing is clipped.

    Of (N, ...) images in [0, 1], or bytes, divided by 255; an exact one makes the mean infinite. NRAE's paper does not
    say which mean it takes; papers on restoration report this one. The other is :func:`psnr_of_mean`, which is never
    larger (Jensen's inequality) and much less moved by a few good images.
    """
    return float(-10 * _image_errors(reconstruction, clean).log10().mean())


def psnr_of_mean(reconstruction: Tensor, clean: Tensor) -> float:
    """Peak signal-to-noise ratio of the mean error, 10 log₁₀ (1 / mean_i MSE_i) in decibels, see :func:`psnr`. What
    libraries compute of a whole batch (torchmetrics by default, scikit-image of a stack of images)."""
    return float(-10 * _image_errors(reconstruction, clean).mean().log10())


def _image_errors(reconstruction: Tensor, clean: Tensor) -> Tensor:
    check_points(clean, "clean data")
    check_points(reconstruction, "reconstruction")
    if reconstruction.shape != clean.shape:
        found = f"{tuple(reconstruction.shape)} and {tuple(clean.shape)}"
        raise ValueError(f"PSNR compares images of the same shape (N, ...), not {found}")
    return (as_floats(reconstruction).double() - as_floats(clean).double()).square().flatten(1).mean(1)

"""Reconstruction errors: of a model over a data set, per point, and in decibels."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from nrae_lib.core.points import as_floats

# Values of a block of points, so that large images come in smaller blocks: 64 MiB of float32.
_VALUES_PER_BLOCK = 2**24


@torch.no_grad()
def mean_squared_error(model: nn.Module, points: Tensor, block: int = 4096) -> float:
    """Mean over points and over features of ‖x - f(g(x))‖², "mean-D" (paper, Tables 1 and 3).

    Evaluated in blocks so that memory stays bounded, and summed in float64.

    Arguments:
        model: x -> x̂ of the same shape, on any device; blocks of the points are moved there.
        points: (N, ...) real numbers, or bytes (uint8), which become float32 in [0, 1] as in training.
        block: the most points at once; images of more than 4,096 values come in blocks of about 2²⁴ values.
    """
    parts = _blocks(model, points, block)
    total = sum(((model(part) - part).double().square().sum() for part in parts), torch.zeros(()))
    return float(total) / points.numel()


@torch.no_grad()
def per_point_error(model: nn.Module, points: Tensor, block: int = 4096) -> Tensor:
    r"""Mean over features of the squared error of each point; their mean is :func:`mean_squared_error`.

    .. math:: e_i = \tfrac1D \lVert x_i - f(g(x_i)) \rVert^2

    Arguments:
        model, points, block: as for :func:`mean_squared_error`.

    Returns:
        (N,) float32, on the device of the model.
    """
    errors = [
        (model(part) - part).double().square().flatten(1).mean(1).float() for part in _blocks(model, points, block)
    ]
    return torch.cat(errors)


def psnr(reconstruction: Tensor, clean: Tensor) -> float:
    r"""Peak signal-to-noise ratio in decibels, the mean over the images of each one's; peak 1, nothing is clipped.

    .. math:: \frac1N \sum_i 10 \log_{10} \frac{1}{\mathrm{MSE}_i}

    This is what papers on denoising and restoration report. NRAE's paper does not say which mean it takes; the
    other is :func:`psnr_of_mean`, which is never larger (Jensen's inequality) and much less moved by a few good images.

    Arguments:
        reconstruction, clean: (N, ...) images of the same shape with values in [0, 1], or bytes, divided by 255.

    Returns:
        Decibels; infinite where an image is reproduced exactly.

    Raises:
        ValueError: if the shapes differ, or there is no image.
    """
    return float(-10 * _image_errors(reconstruction, clean).log10().mean())


def psnr_of_mean(reconstruction: Tensor, clean: Tensor) -> float:
    r"""Peak signal-to-noise ratio of the mean squared error over all images, in decibels; peak 1, nothing is clipped.

    .. math:: 10 \log_{10} \frac{1}{\frac1N \sum_i \mathrm{MSE}_i}

    What libraries compute of a whole batch (torchmetrics by default, scikit-image of a stack of images); papers report
    :func:`psnr`. Of models with one mean squared error over equally many pixels this one is the same.

    Arguments:
        reconstruction, clean: as for :func:`psnr`.

    Raises:
        ValueError: if the shapes differ, or there is no image.
    """
    return float(-10 * _image_errors(reconstruction, clean).mean().log10())


def _image_errors(reconstruction: Tensor, clean: Tensor) -> Tensor:
    if reconstruction.shape != clean.shape or clean.numel() == 0:
        shapes = f"{tuple(reconstruction.shape)} and {tuple(clean.shape)}"
        raise ValueError(f"PSNR compares images of the same shape (N, ...), at least one, not {shapes}")
    return (as_floats(reconstruction).double() - as_floats(clean).double()).square().flatten(1).mean(1)


def _blocks(model: nn.Module, points: Tensor, block: int) -> Iterator[Tensor]:
    device = next(model.parameters(), points).device
    size = max(1, min(block, _VALUES_PER_BLOCK // max(1, points.shape[1:].numel())))
    return (as_floats(part.to(device)) for part in points.split(size))

"""Rotated and shifted digits: curves of images with known positions (paper, Figures 5, 8 and 9)."""

from collections.abc import Callable

import torch
from torch import Tensor

from nrae_lib.core.methods.terms import check_choice
from nrae_lib.data.images import images_of
from nrae_lib.data.layouts import torchvision
from nrae_lib.data.points import Dataset, check_options

INTERPOLATIONS = ("nearest", "bilinear")


def _digits(source: str, digit: int, start: int, stop: int) -> Tensor:
    """(stop - start, 1, 28, 28) float32: training images ``start`` to ``stop`` - 1 of ``digit``."""
    images = images_of("mnist", source)
    which = (images.train_labels == digit).nonzero()[:, 0]
    if not 0 <= start < stop <= len(which):
        asked = f"images {start} to {stop - 1} are not among them"
        raise ValueError(f"MNIST ({source}) has {len(which)} training images of the digit {digit}: {asked}")
    return images.train_images[which[start:stop]].float() / 255


def _along(transform: Callable[[Tensor, float], Tensor], images: Tensor, positions: Tensor) -> Tensor:
    """(images * positions, 1, 28, 28): every image at every position, image by image."""
    return torch.stack([transform(images, position) for position in positions.tolist()], 1).flatten(0, 1)


def _placed(interpolation: str, scale: float = 1.0) -> Callable[..., Tensor]:
    """(images, angle in degrees, clockwise, shift to the right in pixels) -> the scaled, turned and shifted images."""
    check_choice("interpolation", interpolation, INTERPOLATIONS)
    if not 0 < scale < float("inf"):
        raise ValueError(f"scale must be a positive number, not {scale}")
    functional = torchvision("transforms.v2.functional")
    mode = functional.InterpolationMode(interpolation)
    # Without fill, outside is black. With fill=0 torchvision multiplies the pixels at the edge by their weight once more.
    return lambda images, angle=0.0, shift=0.0: functional.affine(images, angle, [shift, 0.0], scale, [0.0, 0.0], mode)


def _curve(transform: Callable[[Tensor, float], Tensor], image: Tensor, position: Tensor, test: Tensor) -> Dataset:
    return Dataset(_along(transform, image, position), _along(transform, image, test), position.float(), test.float())


def rotated_digit(
    seed: int, source: str = "official", digit: int = 3, count: int = 20, step: float = 9.0, n_test: int = 200,
    index: int = 0, scale: float = 1.0, interpolation: str = "nearest",
) -> Dataset:  # fmt: skip
    """One digit rotated by i * step degrees, i = 0..count-1, clockwise (supplement, section 1.1, Figures 8 and 9).

    Further images are ``n_test`` rotations evenly spaced from 0 to count * step, with both ends; for a full turn or more
    without the last, which repeats the first. Those up to the last training image, at (count - 1) * step, test; for less than a
    full turn the others lie ``beyond``. Positions are angles in degrees. Black outside, float32 in [0, 1]. The data does not
    depend on the seed.

    Arguments:
        source: "official" or "stand_in" MNIST.
        digit, index: the image is the ``index``-th (from 0) training image of ``digit``; ValueError if there is none.
        scale: of the digit, before it turns.
        interpolation: "nearest", the default of torchvision's affine, which the supplement names, or "bilinear".
    """
    check_options(count=count, n_test=n_test)
    rotated = _placed(interpolation, scale)
    image = _digits(source, digit, index, index + 1)
    position = torch.arange(count, dtype=torch.float64) * step
    end = count * step
    intervals = n_test if abs(end) >= 360 else n_test - 1
    found = _curve(rotated, image, position, torch.arange(n_test, dtype=torch.float64) * (end / intervals))
    return found if abs(end) >= 360 else found.between()


def shifted_digit(
    seed: int, source: str = "official", digit: int = 7, count: int = 20, scale: float = 0.8, reach: float = 10.0,
    n_test: int = 200, index: int = 0, interpolation: str = "nearest",
) -> Dataset:  # fmt: skip
    """One digit, scaled, shifted to the right by -reach to +reach pixels, evenly (supplement, section 1.1, Figure 8).

    Test images are ``n_test`` shifts over the same range. Positions are shifts in pixels. All else is as in :func:`rotated_digit`.
    """
    check_options(count=count, n_test=n_test)
    placed = _placed(interpolation, scale)
    image = _digits(source, digit, index, index + 1)
    ends = (torch.linspace(-reach, reach, n, dtype=torch.float64) for n in (count, n_test))
    return _curve(lambda images, shift: placed(images, shift=shift), image, *ends)


def rotated_digits(
    seed: int, source: str = "official", digit: int = 8, digits: int = 100, rotations: int = 100, step: float = 3.6,
    n_test_digits: int = 20, first_test: int = 0, interpolation: str = "nearest",
) -> Dataset:  # fmt: skip
    """The first images of a digit, each rotated by i * step degrees, i = 0..rotations-1 (supplement 1.1, Figure 5).

    Points are ordered image by image. Test points are the same rotations of ``n_test_digits`` of the images that follow.
    Positions are angles in degrees; labels number the images of the digit from 0. All else is as in
    :func:`rotated_digit`; ValueError for an image that is not there or a number that is too small.

    Arguments:
        first_test: which of the images that follow is the first of the test, from 0; for a search with images of its own.
    """
    check_options(digits=digits, rotations=rotations)
    check_options(1, n_test_digits=n_test_digits)
    check_options(0, first_test=first_test)
    angles = torch.arange(rotations, dtype=torch.float64) * step
    start = digits + first_test
    images = _digits(source, digit, 0, start + n_test_digits)
    train, test = (_along(_placed(interpolation), part, angles) for part in (images[:digits], images[start:]))
    labels = torch.arange(start + n_test_digits).repeat_interleave(rotations)
    return Dataset(
        train, test, angles.float().repeat(digits), angles.float().repeat(n_test_digits),
        train_labels=labels[: len(train)], test_labels=labels[start * rotations :],
    )  # fmt: skip

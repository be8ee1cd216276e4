"""Rotated and shifted digits: curves of images with known positions (paper, Figures 5, 8 and 9)."""

from collections.abc import Callable

import torch
from torch import Tensor

from nrae_lib.data.images import images_of
from nrae_lib.data.layouts import torchvision
from nrae_lib.data.points import Dataset, check_options


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


def _rotated(images: Tensor, angle: float) -> Tensor:
    functional = torchvision("transforms.v2.functional")
    # Without fill, outside is black. With fill=0 torchvision multiplies the pixels at the edge by their weight once more.
    return functional.rotate(images, angle, functional.InterpolationMode.BILINEAR)


def _curve(transform: Callable[[Tensor, float], Tensor], image: Tensor, position: Tensor, test: Tensor) -> Dataset:
    return Dataset(_along(transform, image, position), _along(transform, image, test), position.float(), test.float())


def rotated_digit(
    seed: int,
    source: str = "official",
    digit: int = 3,
    count: int = 20,
    step: float = 9.0,
    n_test: int = 200,
    index: int = 0,
) -> Dataset:
    """One digit rotated by i * step degrees, i = 0..count-1, counterclockwise (supplement, section 1.1, Figures 8 and 9).

    Test images are ``n_test`` rotations evenly spaced from 0 to count * step, with both ends; for a full turn or more without
    the last, which repeats the first. For less than a full turn the last ones lie beyond the last training image, at
    (count - 1) * step. Positions are angles in degrees. Bilinear interpolation, black outside, float32 in [0, 1]. The data does
    not depend on the seed.

    Arguments:
        source: "official" or "stand_in" MNIST.
        digit, index: the image is the ``index``-th (from 0) training image of ``digit``; ValueError if there is none.
    """
    check_options(count=count, n_test=n_test)
    image = _digits(source, digit, index, index + 1)
    position = torch.arange(count, dtype=torch.float64) * step
    end = count * step
    intervals = n_test if abs(end) >= 360 else n_test - 1
    return _curve(_rotated, image, position, torch.arange(n_test, dtype=torch.float64) * (end / intervals))


def shifted_digit(
    seed: int,
    source: str = "official",
    digit: int = 7,
    count: int = 20,
    scale: float = 0.8,
    reach: float = 10.0,
    n_test: int = 200,
    index: int = 0,
) -> Dataset:
    """One digit, scaled, shifted to the right by -reach to +reach pixels, evenly (supplement, section 1.1, Figure 8).

    Test images are ``n_test`` shifts over the same range. Positions are shifts in pixels. All else is as in :func:`rotated_digit`.
    """
    check_options(count=count, n_test=n_test)
    if not 0 < scale < float("inf"):
        raise ValueError(f"scale must be a positive number, not {scale}")
    functional = torchvision("transforms.v2.functional")

    def shifted(images: Tensor, shift: float) -> Tensor:
        return functional.affine(images, 0.0, [shift, 0.0], scale, [0.0, 0.0], functional.InterpolationMode.BILINEAR)

    image = _digits(source, digit, index, index + 1)
    return _curve(shifted, image, *(torch.linspace(-reach, reach, n, dtype=torch.float64) for n in (count, n_test)))


def rotated_digits(
    seed: int,
    source: str = "official",
    digit: int = 8,
    digits: int = 100,
    rotations: int = 100,
    step: float = 3.6,
    n_test_digits: int = 20,
    first_test: int = 0,
) -> Dataset:
    """The first images of a digit, each rotated by i * step degrees, i = 0..rotations-1 (supplement 1.1, Figure 5).

    Points are ordered image by image. Test points are the same rotations of ``n_test_digits`` of the images that follow.
    Positions are angles in degrees; labels number the images of the digit from 0. Interpolation as for
    :func:`rotated_digit`, and ValueError for an image that is not there or a number that is too small.

    Arguments:
        first_test: which of the images that follow is the first of the test, from 0; for a search with images of its own.
    """
    check_options(digits=digits, rotations=rotations)
    check_options(1, n_test_digits=n_test_digits)
    check_options(0, first_test=first_test)
    angles = torch.arange(rotations, dtype=torch.float64) * step
    start = digits + first_test
    images = _digits(source, digit, 0, start + n_test_digits)
    train, test = (_along(_rotated, part, angles) for part in (images[:digits], images[start:]))
    labels = torch.arange(start + n_test_digits).repeat_interleave(rotations)
    return Dataset(
        train, test, angles.float().repeat(digits), angles.float().repeat(n_test_digits),
        train_labels=labels[: len(train)], test_labels=labels[start * rotations :],
    )  # fmt: skip

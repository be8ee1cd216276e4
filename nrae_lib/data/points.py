"""Synthetic curves with noise-free test points and the true position of every point along the curve."""

import hashlib
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from nrae_lib.core.points import check_points


@dataclass(frozen=True)
class Dataset:
    """Training and test points, and what is known about them.

    Images are uint8 (0 to 255) or float32 (0 to 1) of shape (N, C, H, W).

    Arguments:
        train: (N, ...) the training points, noisy where the set has noise.
        test: (M, ...) noise-free.
        train_position, test_position: (N,), (M,) the curve's parameter (x, the angle θ, a rotation in degrees or a shift
            in pixels) of every point; None where it is not known.
        validation: (V, ...) points that decide when to stop, or None.
        train_clean: (N, ...) the training points without their noise, or None.
        test_noisy: (M, ...) the test points with noise of the same law, or None.
        train_labels, test_labels: (N,), (M,) int64 classes, or None.
    """

    train: Tensor
    test: Tensor
    train_position: Tensor | None = None
    test_position: Tensor | None = None
    validation: Tensor | None = None
    train_clean: Tensor | None = None
    test_noisy: Tensor | None = None
    train_labels: Tensor | None = None
    test_labels: Tensor | None = None

    def __post_init__(self):
        for points, name in (
            (self.train, "training data"),
            (self.test, "test data"),
            (self.validation, "validation data"),
            (self.train_clean, "noise-free training data"),
            (self.test_noisy, "noisy test data"),
        ):
            if points is not None:
                check_points(points, name)

    @property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the points.

        Of training, test and, where there are any, validation, noise-free training and noisy test points.
        """
        digest = hashlib.sha256()
        for part in (self.train, self.test, self.validation, self.train_clean, self.test_noisy):
            if part is not None:
                digest.update(str(tuple(part.shape)).encode())
                digest.update(part.cpu().contiguous().numpy())
        return digest.hexdigest()[:16]


def _positions(low: float, high: float, count: int, sampling: str, generator: torch.Generator) -> Tensor:
    if sampling == "random":
        return low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)
    if sampling == "grid":
        return torch.linspace(low, high, count, dtype=torch.float64)
    raise ValueError(f"unknown sampling {sampling!r}: choose 'random' or 'grid'")


def _noisy(clean: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    return (clean + noise * torch.randn(clean.shape, generator=generator, dtype=torch.float64)).float()


def _check_counts(n_train: int, n_test: int, noise: float) -> None:
    if n_train < 2 or n_test < 2:
        raise ValueError(f"n_train and n_test must be at least 2, not {n_train} and {n_test}")
    if not 0 <= noise < float("inf"):
        raise ValueError(f"noise is a standard deviation, a finite number that cannot be negative, got {noise}")


def sine(seed: int, n_train: int = 50, n_test: int = 10_000, noise: float = 0.2, sampling: str = "random") -> Dataset:
    """Noisy samples of {(x, sin x) : x in [-π, π]} (paper, section 4.1, Figure 4 and Table 1).

    The paper draws 50 random points and adds isotropic Gaussian noise of standard deviation 0.2; it does not
    say whether the ten "different noises" share the 50 points. Here every seed draws both anew. The released
    code has ``sampling="grid"``, ``noise=0.3``, ``n_test=1000``. Test points lie on a regular grid, free of noise.
    """
    _check_counts(n_train, n_test, noise)
    generator = torch.Generator().manual_seed(seed)
    position = _positions(-pi, pi, n_train, sampling, generator)
    test_position = torch.linspace(-pi, pi, n_test, dtype=torch.float64)

    def curve(x: Tensor) -> Tensor:
        return torch.stack([x, x.sin()], 1)

    return Dataset(
        _noisy(curve(position), noise, generator), curve(test_position).float(), position.float(), test_position.float()
    )


def swiss_roll(seed: int, n_train: int = 30, n_test: int = 1_000, noise: float = 0.01, shape: str = "text") -> Dataset:
    """One turn of a spiral in the plane (paper, section 4.2, Figure 7).

    ``shape="text"``: the paper's r(θ) = 0.1 + 0.9 θ/2π, θ uniformly random in [0, 2π], points r (cos θ, sin θ).

    ``shape="released"``: what the released code draws. θ_i = 2π i/n and r_i = 0.1 + 2.9 i/(n-1) for
    i = 0..n-1, points r (cos θ, 0.6 sin θ): an ellipse-like spiral of radius 3, on a grid. Because r is
    divided by n - 1 and θ by n, a 30-point training set lies on a slightly different curve than the 1,000 test
    points (up to 0.08 away, eight times the noise); this is kept as released.
    """
    _check_counts(n_train, n_test, noise)
    generator = torch.Generator().manual_seed(seed)
    if shape == "text":
        position = _positions(0, 2 * pi, n_train, "random", generator)
        test_position = torch.linspace(0, 2 * pi, n_test, dtype=torch.float64)

        def curve(angle: Tensor) -> Tensor:
            radius = 0.1 + 0.9 * angle / (2 * pi)
            return radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)

    elif shape == "released":
        position, test_position = (torch.arange(n, dtype=torch.float64) * 2 * pi / n for n in (n_train, n_test))

        def curve(angle: Tensor) -> Tensor:
            radius = torch.linspace(0.1, 3, len(angle), dtype=torch.float64)
            return radius[:, None] * torch.stack([angle.cos(), 0.6 * angle.sin()], 1)

    else:
        raise ValueError(f"unknown Swiss roll shape {shape!r}: choose 'text' or 'released'")
    return Dataset(
        _noisy(curve(position), noise, generator), curve(test_position).float(), position.float(), test_position.float()
    )

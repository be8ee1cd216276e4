"""Synthetic curves with noise-free test points and the true position of every point along the curve."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import pi

import torch
from torch import Tensor

from nrae_lib.core.methods.terms import check_choice
from nrae_lib.core.points import check_points, stream


@dataclass(frozen=True)
class Dataset:
    """Training and test points, and what is known about them. Images are uint8 (0 to 255) or float32 (0 to 1), (N, C, H, W).

    Arguments:
        train: (N, ...) the training points, noisy where the set has noise.
        test: (M, ...) noise-free.
        train_position, test_position: (N,), (M,) the curve's parameter (x, the angle θ, a rotation in degrees or a shift
            in pixels) of every point; None where it is not known.
        beyond, beyond_position: (O, ...), (O,) noise-free points of the family that lie beyond its outermost training points,
            where there is nothing to learn from, and their parameter; None if there are none.
        validation: (V, ...) points that decide when to stop, or None.
        train_clean, test_noisy: (N, ...), (M, ...) the training points without noise, the test points with it, or None.
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
    beyond: Tensor | None = None
    beyond_position: Tensor | None = None

    def __post_init__(self):
        parts = ("training", "test", "validation", "noise-free training", "noisy test")
        names = *(f"{part} data" for part in parts), "data beyond"
        for points, name in zip(self._points, names, strict=True):
            if points is not None:
                check_points(points, name)

    @property
    def _points(self) -> tuple[Tensor | None, ...]:
        return self.train, self.test, self.validation, self.train_clean, self.test_noisy, self.beyond

    def between(self) -> "Dataset":
        """This data with those of its test points that lie between the outermost training points; others are
        ``beyond``. ValueError if fewer than two points lie between."""
        low, high = self.train_position.min(), self.train_position.max()
        inside = (self.test_position >= low) & (self.test_position <= high)
        if (count := int(inside.sum())) < 2:
            where = f"between the outermost training points lie {count} of {len(inside)} test points"
            raise ValueError(f"{where}: choose a larger n_test")
        if inside.all():
            return self
        parts = dict(beyond=self.test[~inside], beyond_position=self.test_position[~inside])
        return replace(self, test=self.test[inside], test_position=self.test_position[inside], **parts)

    @property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of all points that there are, training points first."""
        digest = hashlib.sha256()
        for part in self._points:
            if part is not None:
                digest.update(str(tuple(part.shape)).encode())
                digest.update(part.cpu().contiguous().numpy())
        return digest.hexdigest()[:16]


def _sampled(curve: Callable, position: Tensor, test: Tensor, noise: float, generator: torch.Generator) -> Dataset:
    """Points of ``curve`` at the positions of training points, with noise, and of test points, without."""
    clean = curve(position)
    noisy = clean + noise * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    return Dataset(noisy.float(), curve(test).float(), position.float(), test.float())


def check_options(least: int = 2, noise: float = 0.0, **counts: int) -> None:
    for name, count in counts.items():
        if count < least:
            raise ValueError(f"{name} must be at least {least}, not {count}")
    if not 0 <= noise < float("inf"):
        raise ValueError(f"noise is a standard deviation, a finite number that cannot be negative, got {noise}")


def sine(seed: int, n_train: int = 50, n_test: int = 10_000, noise: float = 0.2, sampling: str = "random") -> Dataset:
    """Noisy samples of {(x, sin x) : x in [-π, π]} (paper, section 4.1, Figure 4 and Table 1).

    The paper draws 50 random points and adds isotropic Gaussian noise of standard deviation 0.2; it does not say
    whether the ten "different noises" share the points. Here every seed draws both anew. The released code has
    ``sampling="grid"``, ``noise=0.3``, ``n_test=1000``. Test points lie on a regular grid, free of noise.
    """
    check_options(n_train=n_train, n_test=n_test, noise=noise)
    check_choice("sampling", sampling, ("random", "grid"))
    generator = torch.Generator().manual_seed(stream(seed, "data"))
    position, test_position = (torch.linspace(-pi, pi, count, dtype=torch.float64) for count in (n_train, n_test))
    if sampling == "random":
        position = 2 * pi * torch.rand(n_train, generator=generator, dtype=torch.float64) - pi
    return _sampled(lambda x: torch.stack([x, x.sin()], 1), position, test_position, noise, generator)


def swiss_roll(seed: int, n_train: int = 30, n_test: int = 1_000, noise: float = 0.01, shape: str = "text") -> Dataset:
    """One turn of a spiral in the plane (paper, section 4.2, Figure 7).

    ``shape="text"``: the paper's r(θ) = 0.1 + 0.9 θ/2π, θ uniformly random in [0, 2π], points r (cos θ, sin θ).

    ``shape="released"``: what the released code draws. θ_i = 2π i/n and r_i = 0.1 + 2.9 i/(n-1) for i = 0..n-1, points
    r (cos θ, 0.6 sin θ): an ellipse-like spiral of radius 3, on a grid. Because r is divided by n - 1 and θ by n, 30 training
    points lie on a slightly different curve than the 1,000 test points (up to 0.08 away, eight times the noise); kept as released.

    Of the ``n_test`` points, evenly spaced over the whole turn, those test that lie between the outermost training points.
    """
    check_options(n_train=n_train, n_test=n_test, noise=noise)
    check_choice("Swiss roll shape", shape, ("text", "released"))
    generator = torch.Generator().manual_seed(stream(seed, "data"))

    def curve(angle: Tensor) -> Tensor:
        radius, height = 0.1 + 0.9 * angle / (2 * pi), 1.0
        if shape == "released":
            radius, height = torch.linspace(0.1, 3, len(angle), dtype=torch.float64), 0.6
        return radius[:, None] * torch.stack([angle.cos(), height * angle.sin()], 1)

    position, test_position = (torch.arange(n, dtype=torch.float64) * 2 * pi / n for n in (n_train, n_test))
    if shape == "text":
        position = 2 * pi * torch.rand(n_train, generator=generator, dtype=torch.float64)
        test_position = torch.linspace(0, 2 * pi, n_test, dtype=torch.float64)
    return _sampled(curve, position, test_position, noise, generator).between()

"""Measures of errors, order and smoothness against hand-computed values and independent implementations."""

import math
import re

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from nrae_lib.core import measures

TURN = 2 * math.pi


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def function(call):
    model = nn.Module()
    model.forward = call
    return model


def test_errors_are_means_in_blocks_of_bounded_size_and_bytes_count_as_fractions():
    shift, halve, seen = function(lambda x: x + torch.tensor([1.0, 3.0])), function(lambda x: 0.5 * x), []
    assert measures.mean_squared_error(shift, torch.zeros(10_000, 2)) == pytest.approx(5.0)
    watched = function(lambda x: seen.append(len(x)) or x)
    measures.mean_squared_error(watched, torch.zeros(1, 1, dtype=torch.uint8).expand(5, 2**23))
    assert seen == [2, 2, 1]
    images = torch.randint(256, (7, 1, 6, 6), generator=generator(), dtype=torch.uint8)
    each = measures.per_point_error(halve, images, block=2)
    assert each.dtype == torch.float32 and each.shape == (7,)
    assert torch.allclose(each, (images / 510).square().mean((1, 2, 3)))
    assert measures.mean_squared_error(halve, images) == measures.mean_squared_error(halve, images / 255)
    assert measures.mean_squared_error(halve, images, block=3) == pytest.approx(float(each.mean()))


def test_psnr_of_known_errors_and_both_means():
    clean = torch.zeros(2, 1, 4, 4)
    noisy = torch.tensor([0.1, 0.01]).view(2, 1, 1, 1).expand(2, 1, 4, 4)  # 20 and 40 dB
    assert measures.psnr(noisy, clean) == pytest.approx(30, abs=1e-4)
    assert measures.psnr_of_mean(noisy, clean) == pytest.approx(-10 * math.log10((1e-2 + 1e-4) / 2), abs=1e-4)
    bytes_ = torch.full((1, 4), 51, dtype=torch.uint8)
    assert measures.psnr(bytes_, torch.zeros(1, 4)) == pytest.approx(-20 * math.log10(0.2), abs=1e-4)
    assert measures.psnr(clean, clean) == math.inf


# Order on a line


def test_rank_correlation_agrees_with_scipy_and_ignores_direction_and_scale():
    code, position = torch.randint(5, (60,), generator=generator()).float(), torch.randn(60, generator=generator(1))
    expected = abs(spearmanr(code.numpy(), position.numpy()).statistic)  # with ties
    assert measures.rank_correlation(code, position) == pytest.approx(expected)
    assert measures.rank_correlation(-position.exp() * 100, position) == pytest.approx(1.0)
    assert measures.rank_correlation(torch.zeros(60), position) == 0.0


@pytest.mark.parametrize(
    ("code", "breaks"),
    [
        ([0, 1, 2, 3, 4, 5], 0),
        ([0, 1, 2, 2, 3, 4], 0),  # standing still is not a break
        ([0, 2, 1, 3, 2, 5], 2),  # two folds
        ([0, 1, 0.97, 2, 3, 4], 0),  # a ripple below 1 % of the range
        ([0, 1, 0, 1, 0, -1, 0], 2),  # as many steps up as down: the better reading
        ([1, 1, 1, 1, 1, 1], 1),  # no order at all
        ([*torch.linspace(0, 1, 500), *torch.linspace(1, 0.9, 100), *torch.linspace(0.9, 2, 500)], 1),  # a slow retreat
        # One with a tiny step forward after each step backward, none of which exceeds the tolerance.
        (
            [
                *torch.linspace(0, 1, 50),
                *torch.tensor([-0.009, 1e-4]).repeat(17).cumsum(0) + 1,
                *torch.linspace(0.85, 2, 50),
            ],
            1,
        ),
        ([3.0, 4, 5, 0, 1, 2, -3, -2, -1], 2),  # two jumps
    ],
)
def test_order_breaks(code, breaks):
    shuffled = torch.randperm(len(code), generator=generator())
    for sign in (1.0, -1.0):
        assert measures.order_breaks(sign * torch.tensor(code)[shuffled], shuffled.float()) == breaks


def test_total_turning_of_known_curves():
    angle = torch.linspace(0, TURN, 2001, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    assert measures.total_turning(circle) == pytest.approx(2.0, abs=2e-3)
    assert measures.total_turning(torch.stack([angle, 3 * angle], 1)) == pytest.approx(0.0, abs=1e-5)
    # The tangent's slope, cos x, runs from -1 to 1 and back to -1: two swings of 90 degrees.
    x = angle - math.pi
    assert measures.total_turning(torch.stack([x, x.sin()], 1)) == pytest.approx(1.0, abs=2e-3)
    # Repeated points and reversals.
    assert measures.total_turning(torch.tensor([[0.0, 0], [1, 0], [1, 0], [0, 0]])) == pytest.approx(1.0)


def test_neighbor_breaks_finds_leaps_and_no_local_swap():
    position = torch.linspace(-10, 10, 20)
    swapped, moved = position.clone(), position.clone()
    swapped[[4, 5]] = swapped[[5, 4]]
    assert measures.neighbor_breaks(position, position) == measures.neighbor_breaks(-swapped, position) == []
    moved[8:11] += 100  # three points from the middle go to the end: one leap where they were, one where they are now
    assert measures.neighbor_breaks(moved, position) == [7, 16]
    angle = torch.arange(0, 360, 12.0)
    turned = (angle + 100) % 360
    assert measures.neighbor_breaks(turned, angle) == [int((turned < 100).sum()) - 1]
    assert measures.neighbor_breaks(turned, angle, period=360.0) == []


# Order on a circle


def test_circular_correlation_of_full_circles_is_that_of_jammalamadaka_and_sengupta_and_of_any_winding_one():
    alpha = torch.arange(60, dtype=torch.float64) / 60 * TURN
    # Noise of which the second moments stay those of a full circle: a permutation of the same angles.
    beta = alpha[(torch.arange(60) + 8 * torch.randn(60, generator=generator())).argsort()]
    expected = abs(torch.exp(1j * (alpha - beta)).mean().abs() - torch.exp(1j * (alpha + beta)).mean().abs())
    assert 0.3 < expected < 0.95
    assert measures.circular_correlation(alpha, beta) == pytest.approx(float(expected), rel=1e-9)
    assert measures.circular_correlation(1 - alpha, 2 + beta) == pytest.approx(float(expected), rel=1e-9)
    uneven = torch.rand(100, generator=generator()) * 4 + 0.3
    for code in (5 + uneven, 5 - uneven):
        assert measures.circular_correlation(code, uneven) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("code", "winding", "breaks"),
    [
        (lambda t: t + 5, 1, 0),  # perfect
        (lambda t: 2 * t, 2, 1),  # wound twice
        (lambda t: (t - math.pi).abs(), 0, 1),  # folded: forward, then back
        (lambda t: 0 * t, 0, 1),  # constant
        (lambda t: t + 0.5 * torch.sin(4 * t), 1, 4),  # four retreats
        (lambda t: t + 0.02 * torch.sin(100 * t), 1, 0),  # ripples below the tolerance
    ],
    ids=["perfect", "double", "fold", "constant", "retreats", "ripple"],
)
def test_circular_codes_as_angles_and_as_points(code, winding, breaks):
    true, shuffled = torch.arange(1000, dtype=torch.float64) / 1000 * TURN, torch.randperm(1000, generator=generator())
    for sign in (1, -1):
        angles = sign * code(true)
        for form in (angles, 3 * torch.stack([angles.cos(), angles.sin()], 1)):
            for offset in (0.0, 1.3, math.pi / 4):  # wherever the circle is cut, here also inside of a retreat
                assert measures.circular_breaks(form[shuffled], (true + offset).remainder(TURN)[shuffled]) == breaks
            assert measures.winding_number(form) == sign * winding
            assert winding == 1 or measures.circular_correlation(form, true) < 0.01


def test_grid_smoothness_of_affine_and_quadratic_grids():
    r, c = torch.meshgrid(torch.arange(6.0), torch.arange(5.0), indexing="ij")
    affine = torch.stack([2 * r - c + 1, 3 * c], 2)
    assert measures.grid_smoothness(affine) == pytest.approx(0, abs=1e-12)
    # r²: second difference 2 along r, first differences 1, 3, 5, 7, 9 along r; c: first difference 1 along c.
    expected = 4 / ((1 + 9 + 25 + 49 + 81) / 5 + 1)
    assert measures.grid_smoothness(r**2 + c) == pytest.approx(expected)
    assert measures.grid_smoothness(-7 * (r**2 + c)) == pytest.approx(expected)
    assert measures.grid_smoothness(torch.randn(80, 80, 20, generator=generator())) == pytest.approx(3, rel=0.02)
    # What lies outside of the marked images does not count.
    marked = torch.ones(6, 8, dtype=torch.bool)
    marked[:, 5:] = False
    wider = torch.cat([r**2 + c, torch.randn(6, 3, generator=generator())], 1)
    assert measures.grid_smoothness(wider, where=marked) == pytest.approx(expected)


# What cannot be measured

LINE, NAN, NONE = torch.arange(4.0), torch.tensor([0.0, math.nan, 1.0, 2.0]), torch.zeros(0)
GRID, PAIR = torch.zeros(4, 4), "same shape (N,) with N >= 2, not"
IMAGES, IDENTITY = torch.zeros(2, 1, 4, 4), function(lambda x: x)
LINEAR = [measures.rank_correlation, measures.order_breaks, measures.neighbor_breaks]
CIRCULAR = [measures.circular_correlation, measures.circular_breaks, lambda code, _: measures.winding_number(code)]


@pytest.mark.parametrize(
    ("measure", "arguments", "sentence"),
    [
        (LINEAR, (LINE[:, None], LINE), f"codes and positions must have the {PAIR} (4, 1) and (4,)"),
        (LINEAR, (LINE[:1], LINE[:1]), f"{PAIR} (1,) and (1,)"),
        (LINEAR, (NAN, LINE), "the codes hold NaN or infinite values: the model has diverged"),
        (LINEAR, (LINE, NAN), "the list of positions holds NaN or infinite values in 1 of 4 points"),
        (LINEAR + CIRCULAR[:2], (LINE, LINE[:3]), f"{PAIR} (4,) and (3,)"),
        (CIRCULAR, (torch.zeros(4, 3), LINE), "angles (N,) or points (N, 2), N >= 2, not of shape (4, 3)"),
        (CIRCULAR, (NONE, LINE), "N >= 2, not of shape (0,)"),
        (CIRCULAR, (torch.tensor([[0.0, 1.0], [math.inf, 1.0]]), LINE), "the codes hold NaN or infinite values"),
        (measures.total_turning, (LINE,), "a matrix (P, D) of points, not of shape (4,)"),
        (measures.total_turning, (NAN[:, None],), "the points of the curve hold NaN or infinite values"),
        (measures.grid_smoothness, (GRID[:2],), "at least 3 rows and 3 columns, not (2, 4)"),
        (measures.grid_smoothness, (GRID * NAN,), "the images hold NaN or infinite values"),
        (measures.grid_smoothness, (GRID, GRID[:3] > 0), "bool of shape (4, 4), not torch.bool of shape (3, 4)"),
        (measures.psnr, (IMAGES, IMAGES[:1]), "same shape (N, ...), not (2, 1, 4, 4) and (1, 1, 4, 4)"),
        (measures.psnr, (IMAGES * math.nan, IMAGES), "the reconstruction holds NaN or infinite values in 2 of 2"),
        (measures.psnr_of_mean, (IMAGES[:0], IMAGES[:0]), "the clean data is empty"),
        (measures.mean_squared_error, (IDENTITY, LINE), "expected shape (points, features...), got (4,)"),
        (measures.per_point_error, (IDENTITY, GRID / 0), "the data holds NaN or infinite values in 4 of 4 points"),
        (measures.scalar_curvature, (IDENTITY, LINE), "codes must be a matrix (N, m), not of shape (4,)"),
        (measures.scalar_curvature, (IDENTITY, GRID * NAN), "the codes hold NaN or infinite values"),
        (measures.frechet_distance, (LINE, GRID, LINE[:2], GRID), "two means (D,) and two covariances (D, D) are needed"),
        (measures.frechet_distance, (LINE, GRID, NAN, GRID), "a mean or covariance holds NaN or infinite values"),
        (measures.inception_features, (LINE[:, None],), "images must have shape (N, 3, H, W)"),
        (measures.fid, (IMAGES / 0, IMAGES), "the set of images holds NaN or infinite values in 2 of 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_one_sentence(measure, arguments, sentence):
    for one in measure if isinstance(measure, list) else [measure]:
        with pytest.raises(ValueError, match=re.escape(sentence)):
            one(*arguments)

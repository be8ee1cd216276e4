"""Measures against hand-computed values and independent implementations."""

import warnings

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from nrae_lib.core import measures


class Shift(nn.Module):
    def forward(self, x):
        return x + torch.tensor([1.0, 3.0])


@pytest.mark.parametrize("count", [1, 7, 10_000])
def test_mean_squared_error_averages_points_and_features(count):
    assert measures.mean_squared_error(Shift(), torch.zeros(count, 2)) == pytest.approx(5.0)


def test_rank_correlation_agrees_with_scipy_also_with_ties():
    generator = torch.Generator().manual_seed(0)
    code = torch.randint(5, (60,), generator=generator).float()
    position = torch.randn(60, generator=generator)
    expected = abs(spearmanr(code.numpy(), position.numpy()).statistic)
    assert measures.rank_correlation(code, position) == pytest.approx(expected)


def test_rank_correlation_ignores_direction_and_scale():
    position = torch.linspace(0, 1, 30)
    assert measures.rank_correlation(-position.exp() * 100, position) == pytest.approx(1.0)
    assert measures.rank_correlation(torch.zeros(30), position) == 0.0


@pytest.mark.parametrize(
    ("code", "breaks"),
    [
        ([0, 1, 2, 3, 4, 5], 0),
        ([5, 4, 3, 2, 1, 0], 0),
        ([0, 1, 2, 2, 3, 4], 0),  # standing still is not a break
        ([3, 4, 5, 0, 1, 2], 1),  # one jump
        ([0, 2, 1, 3, 2, 5], 2),  # two folds
        ([0, 1, 0.97, 2, 3, 4], 0),  # a ripple below 1 % of the range
        ([1, 1, 1, 1, 1, 1], 1),  # no order at all
    ],
)
def test_order_breaks(code, breaks):
    shuffled = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    position = torch.arange(6.0)
    assert measures.order_breaks(torch.tensor(code, dtype=torch.float32)[shuffled], position[shuffled]) == breaks


def test_order_breaks_does_not_depend_on_the_sign_of_the_code():
    code, position = torch.tensor([0.0, 1, 0, 1, 0, -1, 0]), torch.arange(7.0)
    assert measures.order_breaks(code, position) == measures.order_breaks(-code, position)


def test_a_diverged_model_is_not_in_the_right_order():
    with pytest.raises(ValueError, match="diverged"):
        measures.order_breaks(torch.tensor([0.0, float("nan"), 1.0]), torch.arange(3.0))


def test_a_slow_retreat_over_many_points_is_one_break():
    code = torch.cat([torch.linspace(0, 1, 500), torch.linspace(1, 0.9, 100), torch.linspace(0.9, 2, 500)])
    assert measures.order_breaks(code, torch.arange(1100.0)) == 1


def test_total_turning_of_known_curves():
    angle = torch.linspace(0, 2 * torch.pi, 2001, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    assert measures.total_turning(circle) == pytest.approx(2.0, abs=2e-3)
    assert measures.total_turning(torch.stack([angle, 3 * angle], 1)) == pytest.approx(0.0, abs=1e-5)
    # The tangent's slope, cos x, runs from -1 to 1 and back to -1: two swings of 90 degrees.
    x = torch.linspace(-torch.pi, torch.pi, 2001, dtype=torch.float64)
    assert measures.total_turning(torch.stack([x, x.sin()], 1)) == pytest.approx(1.0, abs=2e-3)


def test_total_turning_survives_repeated_points_and_reversals():
    assert measures.total_turning(torch.tensor([[0.0, 0], [1, 0], [1, 0], [0, 0]])) == pytest.approx(1.0)


def moments(count, features, seed):
    samples = np.random.default_rng(seed).normal(size=(count, features)) * np.arange(1, features + 1) + seed
    return samples.mean(0), np.cov(samples.T)


@pytest.mark.parametrize(("count", "tolerance"), [(200, 1e-10), (4, 1e-6)], ids=["regular", "singular"])
def test_frechet_distance_agrees_with_pytorch_fid(count, tolerance):
    """Fewer samples than features leave singular covariances, where pytorch-fid's matrix root loses half the digits."""
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    a, b = moments(count, 6, 0), moments(count, 6, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its use of scipy
        expected = fid_score.calculate_frechet_distance(*a, *b)
    assert measures.frechet_distance(*a, *b) == pytest.approx(expected, rel=tolerance)
    assert measures.frechet_distance(*map(torch.from_numpy, a), *b) == measures.frechet_distance(*a, *b)


def test_frechet_distance_of_diagonal_covariances():
    """Commuting covariances: ‖μa - μb‖² + Σ (σa - σb)², also where a variance is zero."""
    a, b = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([3.0, 0.0, 5.0])
    distance = measures.frechet_distance(torch.zeros(3), a.square().diag(), torch.ones(3), b.square().diag())
    assert distance == pytest.approx(3 + (a - b).square().sum().item(), rel=1e-12)


@pytest.mark.parametrize("count", [3, 100])
def test_frechet_distance_to_itself_is_zero_to_rounding_also_for_singular_covariances(count):
    """Roots of eigenvalues would leave 1e-7 of the trace here."""
    mean, covariance = moments(count, 40, 2)
    assert measures.frechet_distance(mean, covariance, mean, covariance) <= 1e-12 * covariance.trace()


def test_frechet_distance_is_symmetric_and_unchanged_by_a_rotation():
    a, b = moments(5, 8, 0), moments(50, 8, 1)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    turned = [(rotation @ mean, rotation @ covariance @ rotation.T) for mean, covariance in (a, b)]
    distance = measures.frechet_distance(*a, *b)
    assert measures.frechet_distance(*b, *a) == pytest.approx(distance, rel=1e-10)
    assert measures.frechet_distance(*turned[0], *turned[1]) == pytest.approx(distance, rel=1e-10)


def test_frechet_distance_refuses_what_is_no_pair_of_gaussians():
    mean, covariance = torch.zeros(3), torch.eye(3)
    with pytest.raises(ValueError, match=r"two means \(D,\) and two covariances"):
        measures.frechet_distance(mean, covariance, mean[:2], covariance)
    with pytest.raises(ValueError, match="NaN or infinite"):
        measures.frechet_distance(mean, covariance, mean * torch.nan, covariance)

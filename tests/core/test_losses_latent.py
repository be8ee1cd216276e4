"""Terms on the codes, each against an independent computation."""

from math import e, log, pi

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from nrae_lib.core import losses


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_kl_is_that_of_torch():
    mean, log_deviation = normal(6, 3), normal(6, 3, seed=1)
    codes = Independent(Normal(mean, log_deviation.exp()), 1)
    prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
    ours = losses.kl_to_standard_normal(mean, log_deviation)
    torch.testing.assert_close(ours, kl_divergence(codes, prior).mean())


# Maximum mean discrepancy


def median_of_pairs(points):
    """The lower median of the squared distances of all pairs."""
    pairs = [((a - b) ** 2).sum().item() for i, a in enumerate(points) for b in points[:i]]
    return sorted(pairs)[(len(pairs) - 1) // 2]


def gaussian_kernel(z, prior):
    width = median_of_pairs(z) + median_of_pairs(prior)
    return lambda a, b: torch.exp(-((a - b) ** 2).sum() / width)


def imq_kernel(z, prior):
    constants = [2 * z.shape[1] * scale for scale in (0.1, 0.2, 0.5, 1, 2, 5, 10)]
    return lambda a, b: sum(c / (c + ((a - b) ** 2).sum()) for c in constants)


@pytest.mark.parametrize(("kernel", "definition"), [("gaussian", gaussian_kernel), ("imq", imq_kernel)])
def test_discrepancy_against_a_double_loop(kernel, definition):
    z, prior = 0.5 * normal(6, 3) + 0.3, normal(9, 3, seed=1)
    k = definition(z, prior)
    expected = (
        sum(k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j) / (6 * 5)
        + sum(k(a, b) for i, a in enumerate(prior) for j, b in enumerate(prior) if i != j) / (9 * 8)
        - 2 * sum(k(a, b) for a in z for b in prior) / (6 * 9)
    )
    torch.testing.assert_close(losses.maximum_mean_discrepancy(z, prior, kernel), expected)


@pytest.mark.parametrize("kernel", losses.KERNELS)
def test_discrepancy_is_zero_in_expectation_for_equal_distributions_only(kernel):
    draws = normal(1000, 2, 30, 3)
    equal = torch.stack([losses.maximum_mean_discrepancy(z, prior, kernel) for z, prior in draws])
    assert equal.mean().abs() < 4 * equal.std() / len(equal) ** 0.5
    assert (equal < 0).any()  # an unbiased estimate of zero must fall below it
    shifted = torch.stack([losses.maximum_mean_discrepancy(z + 0.5, prior, kernel) for z, prior in draws[:200]])
    assert shifted.mean() > 10 * shifted.std() / len(shifted) ** 0.5


@pytest.mark.parametrize("kernel", losses.KERNELS)
def test_discrepancy_pulls_the_codes_towards_the_prior_and_is_finite_where_they_collapse(kernel):
    z, prior = (3 + normal(50, 2)).requires_grad_(), normal(60, 2, seed=1)
    (gradient,) = torch.autograd.grad(losses.maximum_mean_discrepancy(z, prior, kernel), z)
    assert (gradient.mean(0) > 0).all()
    for prior in (normal(5, 2), torch.zeros(5, 2, dtype=torch.float64)):
        z = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
        loss = losses.maximum_mean_discrepancy(z, prior, kernel)
        assert loss.isfinite() and torch.autograd.grad(loss, z)[0].isfinite().all()


def test_the_bandwidth_has_no_gradient():
    """The codes move, not the ruler: the gradient is that of the kernel with the median as a constant."""
    z, prior = normal(6, 2).requires_grad_(), normal(6, 2, seed=1)
    width = median_of_pairs(z.detach()) + median_of_pairs(prior)
    k = lambda a, b: torch.exp(-(a[:, None] - b).square().sum(2) / width)  # noqa: E731
    constant = (k(z, z).sum() - 6) / 30 - 2 * k(z, prior).mean()
    ours = losses.maximum_mean_discrepancy(z, prior)
    torch.testing.assert_close(*(torch.autograd.grad(loss, z)[0] for loss in (ours, constant)))


def test_impossible_codes_are_refused():
    with pytest.raises(ValueError, match="unknown kernel 'rbf': choose one of gaussian, imq"):
        losses.maximum_mean_discrepancy(normal(3, 2), normal(3, 2), "rbf")
    for n, m in ((1, 5), (5, 1)):
        with pytest.raises(ValueError, match=f"at least two codes and two samples, not {n} and {m}"):
            losses.maximum_mean_discrepancy(normal(n, 2), normal(m, 2))
    with pytest.raises(ValueError, match="at least two codes, not 1"):
        losses.nearest_neighbor_entropy(normal(1, 2))


# Norm, targets, entropy


def test_code_norm_and_distance_to_target_by_hand():
    z, target = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    assert losses.code_norm(z).item() == 30 / 4
    assert losses.distance_to_target(z, target).item() == (4 + 9) / 4


normal_entropy = lambda d: 0.5 * d * log(2 * pi * e)  # noqa: E731


@pytest.mark.parametrize("d", [1, 2, 3])
def test_entropy_of_normal_and_uniform_codes_in_low_dimension(d):
    assert abs(losses.nearest_neighbor_entropy(normal(4000, d, seed=d)) - normal_entropy(d)) < 0.08
    uniform = 3.0 * torch.rand(4000, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)
    assert abs(losses.nearest_neighbor_entropy(uniform) - d * log(3.0)) < 0.1


def test_entropy_against_a_double_loop_and_stretching_adds_its_logarithm():
    """Distances 1, 1 and 2 to the nearest other of 0, 1, 3: H = (log 2)/3 + log 2 + log 2 + γ on the line."""
    z = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    expected = torch.tensor(log(2) / 3 + 2 * log(2) + 0.57721566490153286, dtype=torch.float64)
    torch.testing.assert_close(losses.nearest_neighbor_entropy(z, eps=0.0), expected)
    z = normal(50, 4)
    ours = losses.nearest_neighbor_entropy(10 * z, eps=0.0) - losses.nearest_neighbor_entropy(z, eps=0.0)
    torch.testing.assert_close(ours, torch.tensor(4 * log(10), dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entropy_is_finite_for_duplicates(dtype):
    z = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0]], dtype=dtype, requires_grad=True)
    entropy = losses.nearest_neighbor_entropy(z)
    assert entropy.isfinite() and torch.autograd.grad(entropy, z)[0].isfinite().all()


def test_codes_far_from_the_origin_keep_their_distances():
    """In single precision the expansion ‖a‖² + ‖b‖² - 2ab would lose them; these codes shift without rounding."""
    z, prior = ((64 * points).round().float() / 64 for points in normal(2, 20, 2))
    assert losses.nearest_neighbor_entropy(z + 4096) == losses.nearest_neighbor_entropy(z)
    here = losses.maximum_mean_discrepancy(z, prior)
    assert losses.maximum_mean_discrepancy(z + 4096, prior + 4096) == here


def test_in_high_dimension_the_estimate_is_biased_and_prefers_the_wrong_distribution():
    """Minibatches of 100 in 32 dimensions: too high by more than 3 nats, and higher for the uniform than the normal."""
    draws, d = 40, 32
    gaussian = torch.stack([losses.nearest_neighbor_entropy(z) for z in normal(draws, 100, d)])
    cubes = torch.rand(draws, 100, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    uniform = torch.stack([losses.nearest_neighbor_entropy(12**0.5 * z) for z in cubes])  # unit variance too
    assert gaussian.mean() - normal_entropy(d) > 3
    assert normal_entropy(d) - d * log(12**0.5) > 5  # the truth
    assert uniform.mean() - gaussian.mean() > 0.3  # the estimate
    assert abs(gaussian.mean() - 49.12) < 0.3 and abs(uniform.mean() - 49.69) < 0.3


# Barycentre weights


def test_weights_sum_to_one_and_reproduce_points_of_a_plane():
    plane, origin = normal(2, 5, seed=1), normal(5, seed=2)
    x, x_near = normal(6, 2, seed=3) @ plane + origin, normal(6, 6, 2, seed=4) @ plane + origin
    weights = losses.barycenter_weights(x, x_near, ridge=1e-9)
    assert weights.shape == (6, 6)
    torch.testing.assert_close(weights.sum(0), torch.ones(6, dtype=torch.float64))
    reproduced = torch.stack([sum(weights[j, i] * x_near[j, i] for j in range(6)) for i in range(6)])
    torch.testing.assert_close(reproduced, x, rtol=0, atol=1e-5)
    assert losses.barycenter_error(x, x_near, weights) < 1e-10
    assert losses.barycenter_error(x, x_near, torch.full_like(weights, 1 / 6)) > 1e-2
    pixels = losses.barycenter_weights(x.view(6, 1, 1, 5), x_near.view(6, 6, 1, 1, 5), ridge=1e-9)
    torch.testing.assert_close(pixels, weights)


def test_no_other_weights_are_better():
    """The ridge penalizes Σ w²; among weights of sum one the solution is the minimum of error plus penalty."""
    x, x_near, ridge = normal(1, 8), normal(4, 1, 8, seed=1), 1e-2
    offsets = (x_near - x)[:, 0]

    penalty = ridge * offsets.square().sum()
    objective = lambda weights: (weights @ offsets).square().sum() + penalty * weights.square().sum()  # noqa: E731
    best = losses.barycenter_weights(x, x_near, ridge)[:, 0]
    for change in normal(20, 4, seed=2):
        assert objective(best + 1e-3 * (change - change.mean())) > objective(best)


def test_barycenter_error_by_hand_and_its_trivial_minimum():
    z, z_near = torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.0, 0.0]], [[4.0, 2.0]]])
    weights = torch.tensor([[0.5], [0.5]])
    assert losses.barycenter_error(z, z_near, weights).item() == 2.0  # ‖(1, 0) - (2, 1)‖²
    assert losses.barycenter_error(torch.ones(1, 2), torch.ones(2, 1, 2), weights).item() == 0.0

"""Reconstruction losses against their definitions and their limiting cases."""

from math import e, inf, log

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian, jacobian
from torch.distributions import Normal

from nrae_lib.core import losses
from nrae_lib.core.losses import neighborhood_reconstruction, point_reconstruction
from nrae_lib.core.models import mlp


def sample(sampled=2, points=5, latent=2, features=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(points, latent), draw(sampled, points, latent), draw(points, features), draw(sampled, points, features)


def network(activation, seed=0):
    torch.manual_seed(seed)
    return mlp((2, 16, 16, 3), activation).double()


def by_definition(decoder, z, z_near, x, x_near, order, weight):
    """Equations 2 to 4 on the sampled set {x, x_1..x_n}, point by point, with full Jacobians and Hessians."""
    total = 0.0
    for i in range(len(z)):
        terms = [(x[i] - decoder(z[i])).square().mean()]
        for z_prime, x_prime in zip(z_near[:, i], x_near[:, i], strict=True):
            dz, expansion = z_prime - z[i], decoder(z[i])
            if order >= 1:
                expansion = expansion + jacobian(decoder, z[i]) @ dz
            if order == 2:
                bends = [hessian(lambda point, d=d: decoder(point)[d], z[i]) for d in range(x.shape[1])]
                expansion = expansion + 0.5 * torch.stack([dz @ bend @ dz for bend in bends])
            terms.append(weight * (x_prime - expansion).square().mean())
        total = total + sum(terms) / len(terms)
    return total / len(z)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("activation", ["relu", "elu", "softplus"])
def test_against_the_definition(order, activation):
    decoder, data = network(activation), sample()
    ours = neighborhood_reconstruction(decoder, *data, order, 0.3)
    torch.testing.assert_close(ours, by_definition(decoder, *data, order, 0.3))


def test_the_centre_weighs_one_and_the_neighbours_lambda():
    """Not the other way round, as in the first year of the released code."""
    decoder, (z, z_near, x, _) = network("elu"), sample(sampled=1)
    perfect_neighbour = neighborhood_reconstruction(decoder, z, z_near, x, decoder(z)[None], 0, 0.25)
    torch.testing.assert_close(perfect_neighbour, point_reconstruction(x, decoder(z)) / 2)
    perfect_centre = neighborhood_reconstruction(decoder, z, z_near, decoder(z), x[None], 0, 0.25)
    torch.testing.assert_close(perfect_centre, 0.25 * point_reconstruction(x, decoder(z)) / 2)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_lambda_zero_is_half_the_point_loss_and_no_neighbours_the_whole(order):
    """With λ = 0 only 1/|N| of equation 3 remains, a factor that Adam ignores; value and gradient follow."""
    decoder, (z, z_near, x, x_near) = network("elu"), sample(sampled=1)
    z.requires_grad_()
    point = point_reconstruction(x, decoder(z))
    zero = neighborhood_reconstruction(decoder, z, z_near, x, x_near, order, 0.0)
    none = neighborhood_reconstruction(decoder, z, z_near[:0], x, x_near[:0], order, 10.0)
    torch.testing.assert_close(2 * zero, point)
    torch.testing.assert_close(none, point)
    inputs = [z, *decoder.parameters()]
    expected = torch.autograd.grad(point, inputs)
    for loss, factor in ((zero, 2), (none, 1)):
        for ours, theirs in zip(torch.autograd.grad(loss, inputs), expected, strict=True):
            torch.testing.assert_close(factor * ours, theirs)


@pytest.mark.parametrize("order", [1, 2])
def test_linear_decoder_reconstructs_every_neighbour_from_its_own_code(order):
    """Supplement, equation 5: the expansion is f(z') itself, so NRAE is the autoencoder on centres and neighbours."""
    torch.manual_seed(0)
    decoder, (z, z_near, x, x_near) = nn.Linear(2, 3).double(), sample()
    ours = neighborhood_reconstruction(decoder, z, z_near, x, x_near, order, 0.7)
    plain = point_reconstruction(x, decoder(z)) + 0.7 * 2 * point_reconstruction(x_near, decoder(z_near))
    torch.testing.assert_close(ours, plain / 3)


@pytest.mark.parametrize(("activation", "same"), [("relu", True), ("elu", False)])
def test_relu_with_linear_output_makes_q_equal_l_and_elu_does_not(activation, same):
    decoder, data = network(activation), sample()
    linear, quadratic = (neighborhood_reconstruction(decoder, *data, order, 1.0) for order in (1, 2))
    gradients = [torch.autograd.grad(loss, list(decoder.parameters())) for loss in (linear, quadratic)]
    assert torch.equal(linear, quadratic) if same else not torch.isclose(linear, quadratic)
    assert all(map(torch.equal, *gradients)) if same else not all(map(torch.allclose, *gradients))


def test_gradients_reach_both_codes():
    decoder, (z, z_near, x, x_near) = network("elu"), sample()
    z.requires_grad_()
    z_near.requires_grad_()
    loss = neighborhood_reconstruction(decoder, z, z_near, x, x_near, 2, 1.0)
    assert all(gradient.abs().sum() > 0 for gradient in torch.autograd.grad(loss, [z, z_near]))


def test_equation_weighting_estimates_equation_3_without_bias():
    """Over all single-neighbour samples its mean is the loss with all k neighbours; "sample" weighs them 1/k of it."""
    decoder, (z, z_near, x, x_near) = network("elu"), sample(sampled=4)
    everything = by_definition(decoder, z, z_near, x, x_near, 1, 0.6)
    options = dict(order=1, neighbor_weight=0.6, weighting="equation", n_neighbors=4)
    singles = [neighborhood_reconstruction(decoder, z, z_near[[j]], x, x_near[[j]], **options) for j in range(4)]
    torch.testing.assert_close(torch.stack(singles).mean(), everything)


def test_an_unknown_weighting_is_refused():
    decoder, data = network("elu"), sample()
    with pytest.raises(ValueError, match="unknown weighting 'equaton': choose one of sample, equation"):
        neighborhood_reconstruction(decoder, *data, 1, 1.0, weighting="equaton")
    with pytest.raises(ValueError, match="needs n_neighbors"):
        neighborhood_reconstruction(decoder, *data, 1, 1.0, weighting="equation")


def test_without_the_centre_lambda_is_a_common_factor():
    decoder, data = network("elu"), sample()
    one, hundred = (neighborhood_reconstruction(decoder, *data, 1, w, include_center=False) for w in (1.0, 100.0))
    torch.testing.assert_close(hundred, 100 * one)


# Likelihood and relational reconstruction


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gaussian_likelihood_is_the_density_of_torch_and_best_at_the_root_of_the_error():
    x, reconstruction, log_sigma = normal(5, 3, 4), normal(5, 3, 4, seed=1), torch.tensor(-0.7, dtype=torch.float64)
    expected = -Normal(reconstruction, log_sigma.exp()).log_prob(x).mean()
    error = point_reconstruction(x, reconstruction)
    torch.testing.assert_close(losses.gaussian_likelihood(error, log_sigma), expected)
    best = torch.tensor(0.5 * log(float(error)), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(losses.gaussian_likelihood(error, best), best)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_relational_reconstruction_against_a_double_loop_and_with_the_point_alone():
    x_near, reconstruction, weights = normal(3, 4, 2, 2), normal(4, 2, 2, seed=1), normal(3, 4, seed=2).square()
    total = sum(weights[j, i] * ((x_near[j, i] - reconstruction[i]) ** 2).sum() / 4 for i in range(4) for j in range(3))
    torch.testing.assert_close(losses.relational_reconstruction(x_near, reconstruction, weights), total / 4)
    alone = losses.relational_reconstruction(x_near[:1], reconstruction, torch.ones(1, 4, dtype=torch.float64))
    torch.testing.assert_close(alone, point_reconstruction(x_near[0], reconstruction))


def test_heat_weights_by_hand():
    ours = losses.heat_weights(torch.tensor([0.0, 2.0, inf]), 2.0)
    torch.testing.assert_close(ours, torch.tensor([1.0, 1 / e, 0.0]))

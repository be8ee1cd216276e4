"""The neighbourhood reconstruction loss against its definition and its limiting cases."""

import pytest
import torch
from torch import nn

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
            dz = z_prime - z[i]
            expansion = decoder(z[i])
            if order >= 1:
                expansion = expansion + torch.autograd.functional.jacobian(decoder, z[i]) @ dz
            if order == 2:
                expansion = expansion + 0.5 * torch.stack(
                    [
                        dz @ torch.autograd.functional.hessian(lambda point, d=d: decoder(point)[d], z[i]) @ dz
                        for d in range(x.shape[1])
                    ]
                )
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


def gradients(activation, order):
    decoder, data = network(activation), sample()
    loss = neighborhood_reconstruction(decoder, *data, order, 1.0)
    return loss, torch.autograd.grad(loss, list(decoder.parameters()))


def test_relu_with_linear_output_makes_q_equal_l():
    (linear, linear_gradients), (quadratic, quadratic_gradients) = gradients("relu", 1), gradients("relu", 2)
    assert torch.equal(linear, quadratic)
    assert all(map(torch.equal, linear_gradients, quadratic_gradients))


def test_elu_makes_them_differ():
    (linear, linear_gradients), (quadratic, quadratic_gradients) = gradients("elu", 1), gradients("elu", 2)
    assert not torch.isclose(linear, quadratic)
    assert not all(map(torch.allclose, linear_gradients, quadratic_gradients))


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
    singles = [
        neighborhood_reconstruction(
            decoder, z, z_near[j : j + 1], x, x_near[j : j + 1], 1, 0.6, weighting="equation", n_neighbors=4
        )
        for j in range(4)
    ]
    torch.testing.assert_close(torch.stack(singles).mean(), everything)


def test_an_unknown_weighting_is_refused():
    decoder, data = network("elu"), sample()
    with pytest.raises(ValueError, match="unknown weighting 'equaton': choose one of sample, equation"):
        neighborhood_reconstruction(decoder, *data, 1, 1.0, weighting="equaton")
    with pytest.raises(ValueError, match="needs n_neighbors"):
        neighborhood_reconstruction(decoder, *data, 1, 1.0, weighting="equation")


def test_without_the_centre_lambda_is_a_common_factor():
    decoder, data = network("elu"), sample()
    one, hundred = (
        neighborhood_reconstruction(decoder, *data, 1, weight, include_center=False) for weight in (1.0, 100.0)
    )
    torch.testing.assert_close(hundred, 100 * one)

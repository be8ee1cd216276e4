"""Losses of derivatives and of weights, against full Jacobians, known isometries and finite differences."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.testing import assert_close

from nrae_lib.core import losses
from nrae_lib.core.models import Network, mlp
from tests.core.test_losses import double, gaussian, normal, uniform

ENCODER_TERMS = {
    "contraction": losses.encoder_contraction,
    "contraction, estimate": lambda encoder, x: losses.encoder_contraction(encoder, x, gaussian()),
    "pseudo-isometry": lambda encoder, x: losses.pseudo_isometry(encoder, x, gaussian()),
}
DECODER_TERMS = {
    "Jacobian": losses.decoder_jacobian_norm,
    "Jacobian, estimate": lambda decoder, z: losses.decoder_jacobian_norm(decoder, z, gaussian()),
    "energy": losses.energy_gradient_norm,
    "isometry": lambda decoder, z: losses.isometry(decoder, z, gaussian()),
}


def enlarged(*layers, seed):
    """Weights well above their initialization, so that the derivatives vary over the data."""
    network = nn.Sequential(*layers).double()
    for index, parameter in enumerate(network.parameters()):
        parameter.data.copy_(normal(*parameter.shape, seed=10 * seed + index) / parameter.shape[-1] ** 0.5)
    return network


def case(kind):
    """Encoder, decoder, points and codes; of vectors or of images."""
    if kind == "dense":
        down = enlarged(mlp((5, 16, 16, 3), "elu"), seed=0)
        return down, enlarged(mlp((3, 16, 16, 5), "softplus", "sigmoid"), seed=1), normal(4, 5), normal(4, 3)
    down = enlarged(nn.Conv2d(1, 3, 3, stride=2), nn.ELU(), nn.Flatten(), nn.Linear(27, 2), seed=2)
    up = (nn.Linear(2, 12), nn.Unflatten(1, (3, 2, 2)), nn.ELU(), nn.ConvTranspose2d(3, 1, 3))
    return down, enlarged(*up, seed=3), normal(4, 1, 7, 7), normal(4, 2)


each_kind = pytest.mark.parametrize("kind", ["dense", "images"])


def squared_jacobians(network, points):
    """‖J‖_F² of every point, from its full Jacobian."""
    return torch.stack([torch.func.jacrev(network)(point[None]).square().sum() for point in points])


@each_kind
def test_exact_norms_are_those_of_the_full_jacobians(kind):
    down, up, x, z = case(kind)
    assert_close(losses.encoder_contraction(down, x), squared_jacobians(down, x).mean())
    assert_close(losses.decoder_jacobian_norm(up, z), squared_jacobians(up, z).mean())


def test_estimates_have_the_exact_norms_as_expectation_and_are_repeatable():
    down, up, x, z = case("dense")
    for term, network, points in (
        (losses.encoder_contraction, down, x[:2]),
        (losses.decoder_jacobian_norm, up, z[:2]),
    ):
        exact, many = term(network, points).detach(), points.repeat_interleave(20_000, 0)
        estimates = torch.stack([term(network, many, gaussian(seed)).detach() for seed in range(8)])
        # Relative deviation of one draw of ‖uᵀJ‖² is at most √2, of 8 x 40,000 draws below 0.003.
        assert abs(estimates.mean() / exact - 1) < 0.01 and estimates.std() > 0
        first, again, other = (term(network, points, gaussian(seed)) for seed in (0, 0, 1))
        assert first == again != other


def test_energy_gradient_against_autograd_and_blind_to_a_turn():
    _, up, _, z = case("dense")
    jacobians = torch.stack([torch.func.jacrev(up)(code) for code in z])
    expected = (2 * torch.einsum("bp,bpk->bk", up(z), jacobians)).square().mean()
    assert_close(losses.energy_gradient_norm(up, z), expected)
    # On the circle the released term is zero, the paper's is one.
    circle, z = lambda z: torch.cat([z.cos(), z.sin()], 1), normal(5, 1)
    ours = torch.stack([losses.energy_gradient_norm(circle, z), losses.decoder_jacobian_norm(circle, z)])
    assert_close(ours, double(0.0, 1.0))


@pytest.mark.parametrize("scale", [1.0, 0.0, 0.5, 3.0])
def test_isometries_of_a_scaled_orthonormal_pair(scale):
    """f(z) = c Q z with orthonormal columns, and g(x) = c Qᵀ x. The norm is over the flattened image, not one dimension."""
    frame = torch.linalg.qr(normal(6, 2)).Q
    up, down = lambda z: scale * z @ frame.T, lambda x: scale * x @ frame
    for ours in (
        losses.isometry(up, normal(7, 2), gaussian()),
        losses.isometry(lambda z: up(z).view(-1, 1, 2, 3), normal(7, 2), gaussian()),
        losses.pseudo_isometry(down, normal(7, 6), gaussian()),
    ):
        assert_close(ours, double((scale - 1) ** 2), rtol=1e-5, atol=1e-5)


def test_a_sheet_rolled_to_a_cylinder_is_isometric_and_the_projection_onto_it_pseudo_isometric():
    def roll(z):
        return torch.stack([z[:, 0].cos(), z[:, 0].sin(), z[:, 1]], 1)

    def unroll(x):
        return torch.stack([torch.atan2(x[:, 1], x[:, 0]), x[:, 2]], 1)

    def unroll_twisted(x):
        """The same codes on the cylinder, but another map beside it."""
        return unroll(x) + 2 * (x[:, :2].norm(dim=1, keepdim=True) - 1)

    z = 3 * (2 * uniform(50, 2) - 1)
    x = roll(z)
    assert_close((unroll(x), unroll_twisted(x)), (z, z))
    assert losses.isometry(roll, z, gaussian()) < 1e-12
    assert losses.pseudo_isometry(unroll, x, gaussian()) < 1e-12
    # The inverse alone is not enough: the terms tell a projection from another left inverse.
    assert losses.pseudo_isometry(unroll_twisted, x, gaussian()) > 1.0
    assert losses.isometry(lambda z: roll(z * double(1.0, 2.0)), z, gaussian()) > 0.1


def test_isometry_trains_the_decoder_only():
    down, up, x, _ = case("dense")
    loss = losses.isometry(up, down(x), gaussian())
    gradients = torch.autograd.grad(loss, [*down.parameters(), *up.parameters()], allow_unused=True)
    # The last bias of a decoder that ends in a sigmoid acts on the derivative as well.
    assert [gradient is not None for gradient in gradients] == [False] * 6 + [True] * 6


def test_random_directions_are_uniform_unit_vectors():
    draws = losses._random_directions(torch.empty(100, 1), gaussian())  # ±1
    assert_close(draws.abs(), torch.ones(100, 1))
    assert draws.min() < 0 < draws.max()
    u = losses._random_directions(torch.empty(20_000, 3), gaussian())
    assert_close(u.norm(dim=1), torch.ones(20_000))
    assert_close(u.mean(0), torch.zeros(3), rtol=0, atol=0.02)
    assert_close(u.T @ u / 20_000, torch.eye(3) / 3, rtol=0, atol=0.02)
    # Archimedes: on the sphere in three dimensions every coordinate is uniform.
    assert abs((u[:, 0] < 0.5).double().mean() - 0.75) < 0.02


@pytest.mark.parametrize("term", [*ENCODER_TERMS, *DECODER_TERMS])
@each_kind
def test_gradients_of_network_and_codes_against_differences(term, kind):
    down, up, x, z = case(kind)
    network, points = (down, x) if term in ENCODER_TERMS else (up, z)
    inputs = [*network.parameters()]
    if term in DECODER_TERMS and term != "isometry":  # which takes its codes as constants
        inputs.append(points.requires_grad_())
    loss = (ENCODER_TERMS | DECODER_TERMS)[term]
    tolerance = dict(eps=1e-5, rtol=1e-6, atol=1e-8, fast_mode=True, check_undefined_grad=False)
    assert gradcheck(lambda *_: loss(network, points), inputs, **tolerance)


# Weights


def test_weight_norm_by_hand():
    network = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Sequential(nn.Conv2d(1, 1, 1), nn.ConvTranspose2d(1, 1, 1)))
    for parameter, value in zip(network.parameters(), ([[1.0], [2.0]], 100.0, 3.0, 100.0, -4.0, 100.0), strict=True):
        parameter.data.copy_(torch.tensor(value))
    ours = losses.weight_norm(network)
    assert ours.item() == 1 + 4 + 9 + 16
    gradients = torch.autograd.grad(ours, list(network.parameters()), allow_unused=True)
    assert [None if g is None else g.flatten().tolist() for g in gradients] == [[2, 4], None, [6], None, [-8], None]


def test_weight_norm_is_that_of_the_weights_in_use_and_counts_tied_ones_once():
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
    assert_close(losses.weight_norm(layer.eval()), layer.weight.square().sum())
    tied = Network((4,), 2).build((3,), seed=0, weights="tied")
    assert torch.equal(losses.weight_norm(tied), losses.weight_norm(tied.encoder))

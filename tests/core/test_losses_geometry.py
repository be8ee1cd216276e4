"""Terms on derivatives, against full Jacobians, known isometries and finite differences."""

from functools import partial

import pytest
import torch
from torch import nn

from nrae_lib.core import losses
from nrae_lib.core.losses.geometry import random_directions
from nrae_lib.core.models import Network, mlp

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


def gaussian(seed=0):
    """Standard normal numbers of the shape of the argument, from ``seed`` on."""
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.empty_like(like).normal_(generator=generator)


def normal(*shape, seed=0):
    return gaussian(seed)(torch.empty(*shape, dtype=torch.float64))


encoder = lambda: enlarged(mlp((5, 16, 16, 3), "elu"), seed=0)  # noqa: E731
decoder = lambda: enlarged(mlp((3, 16, 16, 5), "softplus", "sigmoid"), seed=1)  # noqa: E731


def enlarged(network, seed):
    """Weights well above their initialization, so that the derivatives vary over the data."""
    for index, parameter in enumerate(network.double().parameters()):
        parameter.data.copy_(normal(*parameter.shape, seed=10 * seed + index) / parameter.shape[-1] ** 0.5)
    return network


def convolutions():
    down = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.ELU(), nn.Flatten(), nn.Linear(27, 2)).double()
    up = nn.Sequential(nn.Linear(2, 12), nn.Unflatten(1, (3, 2, 2)), nn.ELU(), nn.ConvTranspose2d(3, 1, 3)).double()
    return enlarged(down, seed=2), enlarged(up, seed=3)


def squared_jacobians(network, points):
    """‖J‖_F² of every point, from its full Jacobian."""
    return torch.stack([torch.func.jacrev(network)(point[None]).square().sum() for point in points])


@pytest.mark.parametrize("kind", ["dense", "images"])
def test_exact_norms_are_those_of_the_full_jacobians(kind):
    down, up = (encoder(), decoder()) if kind == "dense" else convolutions()
    x = normal(4, 5) if kind == "dense" else normal(4, 1, 7, 7)
    z = down(x).detach()
    torch.testing.assert_close(losses.encoder_contraction(down, x), squared_jacobians(down, x).mean())
    torch.testing.assert_close(losses.decoder_jacobian_norm(up, z), squared_jacobians(up, z).mean())


def test_estimates_have_the_exact_norms_as_expectation_and_are_repeatable():
    for term, network, points in (
        (losses.encoder_contraction, encoder(), normal(2, 5)),
        (losses.decoder_jacobian_norm, decoder(), normal(2, 3)),
    ):
        exact, many = term(network, points).detach(), points.repeat_interleave(20_000, 0)
        estimates = torch.stack([term(network, many, gaussian(seed)).detach() for seed in range(8)])
        # Relative deviation of one draw of ‖uᵀJ‖² is at most √2, of 8 x 40,000 draws below 0.003.
        assert abs(estimates.mean() / exact - 1) < 0.01
        assert estimates.std() > 0
        first, again, other = (term(network, points, gaussian(seed)) for seed in (0, 0, 1))
        assert first == again != other


def test_energy_gradient_against_autograd_and_blind_to_a_turn():
    up, z = decoder(), normal(4, 3)
    jacobians = torch.stack([torch.func.jacrev(up)(code) for code in z])
    expected = (2 * torch.einsum("bp,bpk->bk", up(z), jacobians)).square().mean()
    torch.testing.assert_close(losses.energy_gradient_norm(up, z), expected)
    # On the circle the released term is zero, the paper's is one.
    circle, z = lambda z: torch.cat([z.cos(), z.sin()], 1), normal(5, 1)
    zero, one = losses.energy_gradient_norm(circle, z), losses.decoder_jacobian_norm(circle, z)
    torch.testing.assert_close(torch.stack([zero, one]), torch.tensor([0.0, 1.0], dtype=torch.float64))


# Isometry


@pytest.mark.parametrize("scale", [1.0, 0.0, 0.5, 3.0])
def test_isometries_of_a_scaled_orthonormal_pair(scale):
    """f(z) = c Q z with orthonormal columns, and g(x) = c Qᵀ x. The norm is over the flattened image, not one dimension."""
    frame = torch.linalg.qr(normal(6, 2)).Q
    up, down = lambda z: scale * z @ frame.T, lambda x: scale * x @ frame
    expected = torch.tensor((scale - 1) ** 2, dtype=torch.float64)
    near = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)
    near(losses.isometry(up, normal(7, 2), gaussian()), expected)
    near(losses.isometry(lambda z: up(z).view(-1, 1, 2, 3), normal(7, 2), gaussian()), expected)
    near(losses.pseudo_isometry(down, normal(7, 6), gaussian()), expected)


def spiral(angle):
    return torch.stack([angle * angle.cos(), angle * angle.sin()], -1)


def arc_length(angle):
    return 0.5 * (angle * (1 + angle**2).sqrt() + torch.asinh(angle))


def swiss_roll(z):
    """(arc length, height) -> R³, an isometry: the angle by Newton's method, whose steps are differentiated too."""
    angle = (2 * z[:, 0]).sqrt()
    for _ in range(20):
        angle = angle - (arc_length(angle) - z[:, 0]) / (1 + angle**2).sqrt()
    return torch.cat([spiral(angle), z[:, 1:]], 1)


def unroll(x):
    """The code of the nearest point of the roll, again by Newton's method; the radius is exact on the roll."""
    angle = x[:, :2].norm(dim=1)
    for _ in range(5):
        sin, cos, offset = angle.sin(), angle.cos(), spiral(angle) - x[:, :2]
        slope = torch.stack([cos - angle * sin, sin + angle * cos], -1)
        bend = torch.stack([-2 * sin - angle * cos, 2 * cos - angle * sin], -1)
        angle = angle - (offset * slope).sum(1) / (slope.square().sum(1) + (offset * bend).sum(1))
    return torch.stack([arc_length(angle), x[:, 2]], 1)


def unroll_by_radius(x):
    """The same codes on the roll, but another map beside it."""
    return torch.stack([arc_length(x[:, :2].norm(dim=1)), x[:, 2]], 1)


def test_the_swiss_roll_in_arc_length_is_isometric_and_its_projection_pseudo_isometric():
    z = torch.rand(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 60 + 10
    x = swiss_roll(z)
    torch.testing.assert_close(unroll(x), z)
    torch.testing.assert_close(unroll_by_radius(x), z)
    assert losses.isometry(swiss_roll, z, gaussian()) < 1e-12
    assert losses.pseudo_isometry(unroll, x, gaussian()) < 1e-12
    # The inverse alone is not enough: the terms tell a projection from another left inverse.
    assert losses.pseudo_isometry(unroll_by_radius, x, gaussian()) > 1.0
    assert losses.isometry(lambda z: swiss_roll(z * z.new_tensor([1.0, 2.0])), z, gaussian()) > 0.1


def test_isometry_trains_the_decoder_only():
    down, up, x = encoder(), decoder(), normal(4, 5)
    loss = losses.isometry(up, down(x), gaussian())
    gradients = torch.autograd.grad(loss, [*down.parameters(), *up.parameters()], allow_unused=True)
    given = [gradient is not None for gradient in gradients]
    # The last bias of a decoder that ends in a sigmoid acts on the derivative as well.
    assert given == [False] * 6 + [True] * 6


def test_random_directions_are_uniform_unit_vectors():
    draws = random_directions(torch.empty(100, 1, dtype=torch.float64), gaussian())  # ±1
    torch.testing.assert_close(draws.abs(), torch.ones_like(draws))
    assert draws.min() < 0 < draws.max()
    u = random_directions(torch.empty(20_000, 3, dtype=torch.float64), gaussian())
    torch.testing.assert_close(u.norm(dim=1), torch.ones(20_000, dtype=torch.float64))
    torch.testing.assert_close(u.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=0.02)
    torch.testing.assert_close(u.T @ u / 20_000, torch.eye(3, dtype=torch.float64) / 3, rtol=0, atol=0.02)
    # Archimedes: on the sphere in three dimensions every coordinate is uniform.
    assert abs((u[:, 0] < 0.5).double().mean() - 0.75) < 0.02


# Gradients


def assert_gradient(loss, parameters, step=1e-5):
    """The derivative along a random direction against a central difference."""
    direction = [normal(*p.shape, seed=100 + i) for i, p in enumerate(parameters)]
    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    ours = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True) if g is not None)
    values = []
    for move in (step, -2 * step):
        with torch.no_grad():
            for parameter, d in zip(parameters, direction, strict=True):
                parameter.add_(d, alpha=move)
            values.append(loss())
    assert ours.abs() > 1e-2 * values[0]  # not a comparison of nothing with nothing
    torch.testing.assert_close(ours, (values[0] - values[1]) / (2 * step), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("term", [*ENCODER_TERMS, *DECODER_TERMS])
@pytest.mark.parametrize("kind", ["dense", "images"])
def test_gradients_reach_the_network(term, kind):
    side = int(term in DECODER_TERMS)
    network = (encoder(), decoder())[side] if kind == "dense" else convolutions()[side]
    points = normal(
        *{("dense", 0): (4, 5), ("dense", 1): (4, 3), ("images", 0): (4, 1, 7, 7), ("images", 1): (4, 2)}[kind, side]
    )
    assert_gradient(lambda: (ENCODER_TERMS | DECODER_TERMS)[term](network, points), list(network.parameters()))


@pytest.mark.parametrize("term", ["Jacobian", "Jacobian, estimate", "energy"])
def test_gradients_reach_the_codes(term):
    network, z = decoder(), normal(4, 3).requires_grad_()
    assert_gradient(lambda: DECODER_TERMS[term](network, z), [z])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_where_the_derivative_is_zero(dtype):
    up, down = nn.Linear(2, 6).to(dtype), nn.Linear(6, 2).to(dtype)
    for network, term, points in ((up, losses.isometry, (4, 2)), (down, losses.pseudo_isometry, (4, 6))):
        nn.init.zeros_(network.weight)
        loss = term(network, torch.zeros(points, dtype=dtype), gaussian())
        (gradient,) = torch.autograd.grad(loss, [network.weight])
        assert loss.isfinite() and gradient.isfinite().all()


# Weights


def test_weight_norm_by_hand():
    network = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Sequential(nn.Conv2d(1, 1, 1), nn.ConvTranspose2d(1, 1, 1)))
    for layer, weight in ((network[0], [[1.0], [2.0]]), (network[2][0], [[[[3.0]]]]), (network[2][1], [[[[-4.0]]]])):
        layer.weight.data.copy_(torch.tensor(weight))
        nn.init.constant_(layer.bias, 100.0)
    ours = losses.weight_norm(network)
    assert ours.item() == 1 + 4 + 9 + 16
    gradients = torch.autograd.grad(ours, list(network.parameters()), allow_unused=True)
    assert [None if g is None else g.flatten().tolist() for g in gradients] == [[2, 4], None, [6], None, [-8], None]


def test_weight_norm_is_that_of_the_weights_in_use_and_counts_tied_ones_once():
    torch.manual_seed(0)
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
    torch.testing.assert_close(losses.weight_norm(layer.eval()), layer.weight.square().sum())
    tied = Network((4,), 2).build((3,), seed=0, weights="tied")
    assert torch.equal(losses.weight_norm(tied), losses.weight_norm(tied.encoder))
    with pytest.raises(ValueError, match="no linear or convolution layer"):
        losses.weight_norm(nn.Tanh())

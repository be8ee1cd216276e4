"""The one-pass jets agree with nested torch.func.jvp, in value and in gradient, and never compute an exact zero."""

import doctest

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from nrae_lib.core import taylor as module
from nrae_lib.core.taylor import taylor


class Squared(nn.Module):
    """A layer that the fast path has never heard of."""

    def forward(self, x):
        return x * x.sin()


class ShiftedLinear(nn.Linear):
    """A subclass whose extra term an isinstance check would drop."""

    def forward(self, x):
        return super().forward(x) + x.mean(-1, keepdim=True) ** 2


def hooked(layer):
    layer.register_forward_hook(lambda layer, inputs, output: output**2)
    return layer


def overridden(layer):
    layer.forward = lambda x: x**3
    return layer


def out_of_place(layer):
    """The reference must not disturb its own primal."""
    return lambda x: layer(x.clone())


def reference(network, point, direction, order):
    """Nested forward mode, one direction at a time."""
    function = out_of_place(network)

    def slope(p, v):
        return torch.func.jvp(function, (p,), (v,))[1]

    several = direction.dim() > point.dim()
    firsts, seconds = [], []
    for v in direction if several else [direction]:
        first, second = torch.func.jvp(lambda p, v=v: slope(p, v), (point,), (v,))
        firsts.append(first)
        seconds.append(second)
    first, second = (torch.stack(firsts), torch.stack(seconds)) if several else (firsts[0], seconds[0])
    return [function(point), first, second][: order + 1]


def check(network, shape=(3, 4), order=2, directions=None, seed=0):
    """Values and all gradients of taylor equal the reference's."""
    network = network.double()
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(size, dtype=torch.float64, generator=generator)

    point = draw(*shape).requires_grad_()
    direction = draw(*((directions,) if directions else ()), *shape).requires_grad_()
    leaves = [point, direction, *network.parameters()]
    before = point.detach().clone()

    jet = taylor(network, point, direction, order)
    assert torch.equal(point, before)
    expected = reference(network, point, direction, order)
    assert all(coefficient is None for coefficient in jet[order + 1 :])
    obtained = [zero_if_none(got, want) for got, want in zip(jet, expected, strict=False)]
    torch.testing.assert_close(obtained, expected)

    # Random weights for every entry, so that no coefficient's gradient can hide behind another's.
    weights = [draw(*coefficient.shape) for coefficient in expected]
    gradients = [
        torch.autograd.grad(
            sum((weight * coefficient).sum() for weight, coefficient in zip(weights, coefficients, strict=True)),
            leaves,
            materialize_grads=True,
        )
        for coefficients in (obtained, expected)
    ]
    torch.testing.assert_close(*gradients)
    return jet


def zero_if_none(coefficient, like):
    return torch.zeros_like(like) if coefficient is None else coefficient


def linear(rows=4, columns=4):
    return nn.Linear(columns, rows)


VECTOR_LAYERS = {
    "relu": nn.ReLU,
    "relu in place": lambda: nn.ReLU(inplace=True),
    "elu": nn.ELU,
    "elu alpha": lambda: nn.ELU(0.7),
    "elu negative alpha": lambda: nn.ELU(-0.5),
    "elu in place": lambda: nn.ELU(1.3, inplace=True),
    "softplus": nn.Softplus,
    "softplus sharp": lambda: nn.Softplus(beta=5.0, threshold=2.0),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
    "linear": linear,
    "linear without bias": lambda: nn.Linear(4, 4, bias=False),
    "spectral norm": lambda: spectral_norm(nn.Linear(4, 4)).eval(),
    "weight norm": lambda: weight_norm(nn.Linear(4, 4)),
    "flatten": lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Flatten()),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(-1, (1, 2, 2)), nn.Conv2d(1, 3, 2, stride=2, padding=1), nn.Flatten(1, -1), nn.Linear(12, 4)
    ),
    "transposed convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (4, 1, 1)), nn.ConvTranspose2d(4, 1, 2, 2, bias=False), nn.Flatten()
    ),
}

FALLBACKS = {
    "gelu": nn.GELU,
    "layer norm": lambda: nn.LayerNorm(4),
    "custom": Squared,
    "subclass": lambda: ShiftedLinear(4, 4),
    "hooked": lambda: hooked(nn.Linear(4, 4)),
    "hooked sequential": lambda: hooked(nn.Sequential(nn.Linear(4, 4), nn.Tanh())),
    "hooked in place": lambda: hooked(nn.ReLU(inplace=True)),
    "overridden": lambda: overridden(nn.Tanh()),
    "pooling": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.MaxPool2d(2, 1, padding=1), nn.Flatten(), linear(4, 9)
    ),
    "padding mode": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), nn.Flatten()
    ),
    "padding same": lambda: nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 1, 2, padding="same"), nn.Flatten()),
}

POSITIONS = {
    "start": lambda layer: nn.Sequential(layer, linear(), nn.Tanh()),
    "middle": lambda layer: nn.Sequential(
        nn.Sequential(linear(), nn.ELU()), layer, nn.Sequential(linear(3), nn.Softplus())
    ),
    "end": lambda layer: nn.Sequential(linear(), nn.Sigmoid(), linear(), layer),
    "alone": lambda layer: layer,
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("directions", [None, 3])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("name", [*VECTOR_LAYERS, *FALLBACKS])
def test_every_layer_in_every_position(name, position, directions, order):
    layer = (VECTOR_LAYERS | FALLBACKS)[name]()
    check(POSITIONS[position](layer), order=order, directions=directions)


@pytest.mark.parametrize("directions", [None, 1, 2])
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1, dilation=1, groups=2),
        lambda: nn.Conv2d(2, 3, (2, 3), padding=(1, 2), dilation=2),
        lambda: nn.ConvTranspose2d(2, 3, 4, stride=2, padding=1, output_padding=1),
        lambda: nn.ConvTranspose2d(2, 4, 2, groups=2, dilation=2),
        lambda: spectral_norm(nn.ConvTranspose2d(2, 3, 2)).eval(),
    ],
)
def test_image_networks(make, directions):
    check(nn.Sequential(nn.Tanh(), make(), nn.Softplus(), nn.Flatten()), (2, 2, 5, 6), directions=directions)


def test_decoder_of_images():
    decoder = nn.Sequential(
        nn.Linear(2, 8), nn.Unflatten(1, (8, 1, 1)), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3), nn.ReLU(inplace=True),
        nn.ConvTranspose2d(4, 1, 4, 2, 1), nn.Sigmoid(),
    )  # fmt: skip
    assert check(decoder, (3, 2)).value.shape == (3, 1, 6, 6)


def test_sequences_of_vectors():
    check(nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Flatten(), nn.Linear(20, 2)), (2, 4, 3), directions=2)


def test_any_callable():
    point, direction = torch.randn(2, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(
        list(taylor(lambda x: x**3, point, direction, 2)),
        [point**3, 3 * point**2 * direction, 6 * point * direction**2],
    )


smooth = st.sampled_from(["elu", "elu alpha", "softplus", "softplus sharp", "sigmoid", "tanh", "gelu", "layer norm"])
layers = st.one_of(smooth, st.sampled_from([*VECTOR_LAYERS, *FALLBACKS]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    names=st.lists(layers, min_size=1, max_size=6),
    cut=st.integers(0, 6),
    order=st.integers(0, 2),
    directions=st.sampled_from([None, 1, 2]),
    seed=st.integers(0, 99),
)
def test_random_architectures(names, cut, order, directions, seed):
    torch.manual_seed(seed)
    chain = [(VECTOR_LAYERS | FALLBACKS)[name]() for name in names]
    network = nn.Sequential(linear(), *chain[:cut], nn.Sequential(linear(), *chain[cut:]))
    check(network, order=order, directions=directions, seed=seed)


def test_shared_layer_receives_both_gradients():
    layer = linear()
    check(nn.Sequential(layer, nn.Tanh(), layer, nn.ELU()))


def mlp(*activations):
    return nn.Sequential(*[part for activation in activations for part in (linear(), activation)])


def test_second_coefficient_is_absent_where_it_is_exactly_zero():
    assert check(nn.Sequential(mlp(nn.ReLU(), nn.ReLU()), linear())).second is None
    assert check(nn.Sequential(linear(), linear())).second is None
    assert check(nn.Sequential(nn.Flatten(), nn.Identity())).second is None
    assert check(mlp(nn.ReLU(), nn.Sigmoid())).second is not None
    assert check(mlp(nn.Tanh(), nn.ReLU())).second is not None


def test_second_coefficient_is_not_computed_before_the_first_smooth_layer(monkeypatch):
    rows = []
    forward = module._Linear.forward
    monkeypatch.setattr(
        module._Linear, "forward", lambda rule, stack, *rest: rows.append(len(stack)) or forward(rule, stack, *rest)
    )
    taylor(mlp(nn.ReLU(), nn.ReLU(), nn.Tanh(), nn.ReLU()), torch.randn(2, 4), torch.randn(2, 4), 2)
    assert rows == [2, 2, 2, 3]


def test_value_is_computed_once_for_several_directions():
    calls = []

    def function(x):
        calls.append(x.shape)
        return x.sin()

    taylor(nn.Sequential(nn.Tanh(), linear()).append(hooked(nn.Tanh())), torch.randn(2, 4), torch.randn(5, 2, 4), 1)
    taylor(function, torch.randn(2, 4), torch.randn(5, 2, 4), 2)
    assert len(calls) == 1


def test_expansion_is_exact_for_a_quadratic_function():
    point, direction = torch.randn(2, 3, 2, dtype=torch.float64)
    jet = taylor(lambda x: 3 * x**2 + x, point, direction, 2)
    end = point + direction
    torch.testing.assert_close(jet.expansion(), 3 * end**2 + end)
    several = taylor(lambda x: 3 * x**2 + x, point, torch.stack([direction, -direction]), 2)
    torch.testing.assert_close(several.expansion()[0], jet.expansion())


def test_expansion_of_absent_coefficients():
    point, direction = torch.randn(2, 3, 4)
    layer = linear()
    torch.testing.assert_close(taylor(layer, point, direction, 2).expansion(), layer(point + direction))
    torch.testing.assert_close(taylor(layer, point, direction, 0).expansion(), layer(point))


def test_gradient_through_one_coefficient_only():
    network = mlp(nn.ELU(), nn.Sigmoid()).double()
    point, direction = torch.randn(2, 3, 4, dtype=torch.float64)
    leaves = list(network.parameters())
    for index in range(3):
        torch.testing.assert_close(
            *(
                torch.autograd.grad(jets(network, point, direction, 2)[index].sum(), leaves, materialize_grads=True)
                for jets in (taylor, reference)
            )
        )


def test_frozen_parameters_and_no_grad():
    network = mlp(nn.ELU(), nn.Tanh())
    network[0].requires_grad_(False)
    point, direction = torch.randn(2, 3, 4)
    taylor(network, point, direction, 2).expansion().sum().backward()
    assert network[0].weight.grad is None and network[2].weight.grad is not None
    with torch.no_grad():
        assert not taylor(network, point, direction, 2).value.requires_grad


def test_changed_weights_before_backward_are_noticed():
    network = mlp(nn.Tanh(), nn.Tanh())
    jet = taylor(network, torch.randn(3, 4), torch.randn(3, 4), 1)
    with torch.no_grad():
        network[2].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        jet.first.sum().backward()


def test_second_differentiation_is_refused():
    point = torch.randn(3, 4, requires_grad=True)
    total = taylor(mlp(nn.Tanh()), point, torch.randn(3, 4), 1).first.sum()
    with pytest.raises(RuntimeError, match="differentiated once only"):
        torch.autograd.grad(total, point, create_graph=True)


def test_single_precision_stays_single():
    network = mlp(nn.Softplus(), nn.ReLU(), nn.Sigmoid())
    assert {coefficient.dtype for coefficient in taylor(network, *torch.randn(2, 3, 4), 2)} == {torch.float32}


@pytest.mark.parametrize("order", [0, 1, 2])
def test_single_precision_of_large_layers(order):
    # Large enough for the products that take another route than small ones.
    network = nn.Sequential(nn.Linear(40, 64), nn.ELU(), nn.Linear(64, 50), nn.Softplus(), nn.Linear(50, 33))
    point, direction = torch.randn(2, 36, 40)
    results = []
    for dtype in (torch.float32, torch.float64):
        network = network.to(dtype)
        jet = taylor(network, point.to(dtype), direction.to(dtype), order)
        gradients = torch.autograd.grad(jet.expansion().square().sum(), list(network.parameters()))
        results.append([tensor.double() for tensor in (jet.expansion(), *gradients)])
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("before", [linear, lambda: nn.Sequential(linear(), nn.Tanh()), nn.Flatten])
def test_large_stacks_are_rectified_in_place(monkeypatch, before, order):
    monkeypatch.setattr(module, "_LARGE", 0)
    check(nn.Sequential(before(), nn.ReLU(), nn.Flatten(), nn.ReLU(), linear(), nn.ReLU()), order=order, directions=2)


IMAGES = {
    "encoder": lambda act: nn.Sequential(nn.Conv2d(3, 8, 3, 2), act(), nn.Conv2d(8, 4, 2), act(), nn.Conv2d(4, 2, 1)),
    "decoder": lambda act: nn.Sequential(nn.ConvTranspose2d(3, 8, 3, 2), act(), nn.ConvTranspose2d(8, 2, 2), act()),
}


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.ELU, nn.Sigmoid])
@pytest.mark.parametrize("name", IMAGES)
def test_channels_last_images_stay_so(monkeypatch, name, activation, order):
    seen = []

    def watched(call):
        def watching(rule, tensor, *rest):
            result = call(rule, tensor, *rest)
            seen.extend(part.flatten(0, 1) for part in (tensor, result[0]) if part is not None and part.dim() == 5)
            return result

        return watching

    for rule in (module._Convolution, module._ReLU, module._Smooth):
        for call in ("forward", "backward"):
            monkeypatch.setattr(rule, call, watched(getattr(rule, call)))
    network = IMAGES[name](activation).double()
    point, direction = torch.randn(2, 3, 3, 7, 9, dtype=torch.float64)
    results = []
    for memory in (torch.contiguous_format, torch.channels_last):
        seen.clear()
        network.to(memory_format=memory)
        point, direction = (part.contiguous(memory_format=memory) for part in (point, direction))
        jet = taylor(network, point, direction, order)
        gradients = torch.autograd.grad(jet.expansion().square().sum(), list(network.parameters()))
        assert len(seen) >= 4 * len(network) - 1  # both ways through every layer, but not to the first one's input
        assert all(part.is_contiguous(memory_format=memory) for part in seen)
        results.append([*jet[: order + 1], *gradients])
    torch.testing.assert_close(*results)


def far_from_kinks(network):
    """Biases that keep a ReLU's argument on one side of zero, where rounding to bfloat16 would otherwise move it across."""
    for layer in network:
        if isinstance(layer, nn.Linear):
            layer.bias.data = 3.0 - 6 * (torch.arange(len(layer.bias)) % 2)
    return network


HALF = {
    "relu": (nn.ReLU, nn.ReLU),
    "elu": (nn.ELU, nn.Sigmoid),
    "softplus": (nn.Softplus, nn.Identity),
    "tanh": (nn.Tanh, nn.Tanh),
    "fallback": (nn.GELU, Squared),
}


def half_network(name):
    inner, last = HALF[name]
    return far_from_kinks(
        nn.Sequential(nn.Linear(4, 64), inner(), nn.Linear(64, 64), inner(), nn.Linear(64, 8), last())
    )


def in_bfloat16(network, point, direction, order, device="cpu"):
    with torch.autocast(device, torch.bfloat16):
        return taylor(network, point, direction, order)


def relative(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("name", HALF)
def test_autocast_rounds_and_no_more(name, order):
    network, (point, direction) = half_network(name), torch.randn(2, 32, 4)
    half = in_bfloat16(network, point, direction, order)
    assert {coefficient.dtype for coefficient in half if coefficient is not None} == {torch.bfloat16}
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(half.expansion().float().square().mean(), parameters)
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        plain = network(point)
    network = network.double()
    exact = taylor(network, point.double(), direction.double(), order)
    # Rounding is 2^-9 for every number, and some numbers cancel: a few times that.
    for got, want in zip(half, exact, strict=True):
        assert got is None or want is None or relative(got, want) < 0.03
    assert relative(half.value, exact.value) < 1.5 * relative(plain, exact.value) + 2**-9
    wanted = torch.autograd.grad(exact.expansion().square().mean(), parameters)
    assert all(relative(got, want) < 0.05 for got, want in zip(gradients, wanted, strict=True))


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.ELU, nn.Softplus])
def test_derivatives_under_autocast_near_saturation(activation):
    # A value rounded to bfloat16 is 1 there, or -1: a slope computed from it would be zero.
    start = {nn.Tanh: 4.0, nn.Sigmoid: 9.0, nn.ELU: -8.0, nn.Softplus: -8.0}[activation]
    network = nn.Sequential(nn.Linear(1, 1), activation())
    nn.init.ones_(network[0].weight)
    nn.init.zeros_(network[0].bias)
    point = torch.full((1, 1), start)
    half = in_bfloat16(network, point, torch.ones_like(point), 2)
    exact = taylor(network.double(), point.double(), torch.ones(1, 1, dtype=torch.float64), 2)
    for got, want in zip(half, exact, strict=True):
        assert relative(got, want) < 0.01


def test_autocast_leaves_double_precision_alone():
    network, (point, direction) = mlp(nn.ELU(), Squared()).double(), torch.randn(2, 3, 4, dtype=torch.float64)
    for got, want in zip(in_bfloat16(network, point, direction, 2), taylor(network, point, direction, 2), strict=True):
        assert torch.equal(got, want)


def test_autocast_rounds_images_too():
    network = nn.Sequential(nn.Unflatten(1, (4, 1, 1)), nn.ConvTranspose2d(4, 8, 4), nn.Softplus(), nn.Conv2d(8, 3, 2))
    point, direction = torch.randn(2, 5, 4)
    half = in_bfloat16(network, point, direction, 2)
    gradients = torch.autograd.grad(half.expansion().float().square().sum(), list(network.parameters()))
    exact = taylor(network.double(), point.double(), direction.double(), 2)
    wanted = torch.autograd.grad(exact.expansion().square().sum(), list(network.parameters()))
    assert {coefficient.dtype for coefficient in half} == {torch.bfloat16}
    for got, want in zip((*half, *gradients), (*exact, *wanted), strict=True):
        assert relative(got, want) < 0.03


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", HALF)
def test_autocast_on_gpu(name):
    network, (point, direction) = half_network(name).cuda(), torch.randn(2, 32, 4, device="cuda")
    half = in_bfloat16(network, point, direction, 2, "cuda")
    gradients = torch.autograd.grad(half.expansion().float().square().mean(), list(network.parameters()))
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    exact = taylor(network.double(), point.double(), direction.double(), 2)
    for got, want in zip(half, exact, strict=True):
        assert got is None or want is None or relative(got, want) < 0.03


def test_global_hooks_are_respected():
    network, (point, direction) = mlp(nn.Tanh()).double(), torch.randn(2, 3, 4, dtype=torch.float64)
    hook = nn.modules.module.register_module_forward_hook(lambda layer, inputs, output: output**2)
    try:
        torch.testing.assert_close(list(taylor(network, point, direction, 2)), reference(network, point, direction, 2))
    finally:
        hook.remove()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees_with_cpu():
    network = mlp(nn.ELU(), nn.ReLU(), nn.Sigmoid()).double()
    point, direction = torch.randn(2, 3, 4, dtype=torch.float64)
    on_cpu = list(taylor(network, point, direction, 2))
    on_gpu = taylor(network.cuda(), point.cuda(), direction.cuda(), 2)
    torch.testing.assert_close([coefficient.cpu() for coefficient in on_gpu], on_cpu)


@pytest.mark.parametrize("order", [-1, 3, 1.5, 2.0, True, None, "2"])
def test_order_is_checked(order):
    with pytest.raises(ValueError, match="order must be 0, 1 or 2"):
        taylor(linear(), torch.zeros(2, 4), torch.zeros(2, 4), order)


@pytest.mark.parametrize("shape", [(4,), (2, 3), (3, 4), (1, 4), (5, 2, 3), (5, 5, 2, 4), ()])
@pytest.mark.parametrize("order", [0, 1])
def test_shapes_are_checked(shape, order):
    with pytest.raises(ValueError, match="direction must have the shape of point"):
        taylor(linear(), torch.zeros(2, 4), torch.zeros(shape), order)


def test_types_are_checked():
    with pytest.raises(ValueError, match="direction must have the type and device of point"):
        taylor(linear(), torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.float64), 1)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_an_empty_batch_is_an_empty_result(order):
    network = nn.Sequential(linear(), nn.Softplus())
    jet = taylor(network, torch.zeros(0, 4), torch.zeros(3, 0, 4), order)
    assert jet.value.shape == network(torch.zeros(0, 4)).shape
    if order:
        assert jet.first.shape == (3, *jet.value.shape)


def test_documented_example():
    assert doctest.testmod(module).failed == 0

"""The one-pass jets agree with nested torch.func.jvp, in value and in gradient, and never compute an exact zero."""

from functools import partial
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from nrae_lib.core import taylor as module
from nrae_lib.core.models import ConvNetwork
from nrae_lib.core.taylor import taylor


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


def reference(network, point, direction, order):
    """Nested forward mode, one direction at a time."""

    def slope(p, v):
        return torch.func.jvp(lambda x: network(x.clone()), (p,), (v,))[1]  # a copy, because a layer may work in place

    several = direction.dim() > point.dim()
    pairs = [torch.func.jvp(partial(slope, v=v), (point,), (v,)) for v in (direction if several else [direction])]
    derivatives = [torch.stack(parts) if several else parts[0] for parts in zip(*pairs, strict=True)]
    return [network(point.clone()), *derivatives][: order + 1]


def check(network, shape=(3, 4), order=2, directions=None, seed=0, device="cpu"):
    """Values and all gradients of taylor equal the reference's."""
    network, generator = network.to(device, torch.float64), torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(size, dtype=torch.float64, generator=generator).to(device).requires_grad_()

    point, direction = draw(*shape), draw(*[directions] * bool(directions), *shape)
    leaves, before = [point, direction, *network.parameters()], point.detach().clone()
    jet = taylor(network, point, direction, order)
    for layer in network.modules():
        layer.inplace = False  # PyTorch itself refuses two activations in a row of which the second is in place
    expected = reference(network, point, direction, order)
    assert torch.equal(point, before) and all(coefficient is None for coefficient in jet[order + 1 :])
    obtained = [torch.zeros_like(want) if got is None else got for got, want in zip(jet, expected, strict=False)]
    torch.testing.assert_close(obtained, expected)
    # Random weights for every entry, so that no coefficient's gradient can hide behind another's.
    weights = [draw(*coefficient.shape) for coefficient in expected]
    sums = [sum((w * part).sum() for w, part in zip(weights, parts, strict=True)) for parts in (obtained, expected)]
    torch.testing.assert_close(*(torch.autograd.grad(one, leaves, materialize_grads=True) for one in sums))
    return jet


def linear(rows=4, columns=4):
    return nn.Linear(columns, rows)


def mlp(*activations):
    return nn.Sequential(*[part for activation in activations for part in (linear(), activation)])


def of_images(*layers, shape=(1, 2, 2)):
    return nn.Sequential(nn.Unflatten(-1, shape), *layers, *([] if layers[1:] else [nn.Flatten()]))


LAYERS = {
    **{kind.__name__.lower(): kind for kind in (nn.ReLU, nn.ELU, nn.Softplus, nn.Sigmoid, nn.Tanh, nn.Identity)},
    "relu in place": lambda: nn.ReLU(inplace=True),
    "elu alpha": lambda: nn.ELU(0.7),
    "elu negative alpha": lambda: nn.ELU(-0.5),
    "elu in place": lambda: nn.ELU(1.3, inplace=True),
    "softplus sharp": lambda: nn.Softplus(beta=5.0, threshold=2.0),
    "linear": linear,
    "linear without bias": lambda: nn.Linear(4, 4, bias=False),
    "spectral norm": lambda: spectral_norm(nn.Linear(4, 4)).eval(),
    "weight norm": lambda: weight_norm(nn.Linear(4, 4)),
    "flatten": lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Flatten()),
    "convolution": lambda: of_images(nn.Conv2d(1, 3, 2, stride=2, padding=1), nn.Flatten(1, -1), nn.Linear(12, 4)),
    "transposed convolution": lambda: of_images(nn.ConvTranspose2d(4, 1, 2, 2, bias=False), shape=(4, 1, 1)),
    # Those without a rule:
    "gelu": nn.GELU,
    "layer norm": lambda: nn.LayerNorm(4),
    "subclass": lambda: ShiftedLinear(4, 4),
    "hooked": lambda: hooked(nn.Linear(4, 4)),
    "hooked sequential": lambda: hooked(nn.Sequential(nn.Linear(4, 4), nn.Tanh())),
    "hooked in place": lambda: hooked(nn.ReLU(inplace=True)),
    "overridden": lambda: overridden(nn.Tanh()),
    "pooling": lambda: of_images(nn.MaxPool2d(2, 1, padding=1), nn.Flatten(), linear(4, 9)),
    "padding mode": lambda: of_images(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")),
    "padding same": lambda: of_images(nn.Conv2d(1, 1, 2, padding="same")),
}

POSITIONS = {
    "start": lambda layer: nn.Sequential(layer, linear(), nn.Tanh()),
    "middle": lambda layer: nn.Sequential(mlp(nn.ELU()), layer, nn.Sequential(linear(3), nn.Softplus())),
    "end": lambda layer: nn.Sequential(linear(), nn.Sigmoid(), linear(), layer),
}

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("directions", [None, 3])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_in_every_position(name, position, directions, order):
    check(POSITIONS[position](LAYERS[name]()), order=order, directions=directions)


NETWORKS = {  # with the shape of a point
    "grouped": ((2, 5, 6), lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1, dilation=1, groups=2)),
    "dilated": ((2, 5, 6), lambda: nn.Conv2d(2, 3, (2, 3), padding=(1, 2), dilation=2)),
    "padded": ((2, 5, 6), lambda: nn.ConvTranspose2d(2, 3, 4, stride=2, padding=1, output_padding=1)),
    "transposed": ((2, 5, 6), lambda: nn.ConvTranspose2d(2, 4, 2, groups=2, dilation=2)),
    "spectral": ((2, 5, 6), lambda: spectral_norm(nn.ConvTranspose2d(2, 3, 2)).eval()),
    "shared": ((4,), lambda: nn.Sequential(*[nn.Linear(4, 4), nn.ELU(), nn.Tanh()] * 2)),
    "sequences": ((4, 3), lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Flatten(), nn.Linear(20, 2))),
}
for side, activation in ((28, "relu"), (28, "softplus"), (32, "softplus"), (64, "softplus")):
    model = ConvNetwork(2, activation, width=0.01).build((3, side, side), seed=0)
    NETWORKS[f"encoder {side} {activation}"] = (3, side, side), lambda part=model.encoder: part
    NETWORKS[f"decoder {side} {activation}"] = (2,), lambda part=model.decoder: part


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
@pytest.mark.parametrize("directions", [None, 1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_points_of_any_shape(name, directions, device):
    shape, make = NETWORKS[name]
    network = nn.Sequential(nn.Tanh(), make(), nn.Softplus(), nn.Flatten())
    check(network, (2, *shape), directions=directions, device=device)


def test_second_coefficient_is_absent_where_it_is_exactly_zero():
    flat = nn.Sequential(mlp(nn.ReLU(), nn.ReLU()), linear()), mlp(nn.Identity()), nn.Flatten()
    curved = mlp(nn.ReLU(), nn.Sigmoid()), mlp(nn.Tanh(), nn.ReLU())
    assert [check(network).second is None for network in (*flat, *curved)] == [True, True, True, False, False]


def test_nothing_is_computed_before_it_is_needed_or_twice(monkeypatch):
    rows, forward, calls = [], module._Linear.forward, []
    monkeypatch.setattr(module._Linear, "forward", lambda *given: rows.append(len(given[1])) or forward(*given))
    taylor(mlp(nn.ReLU(), nn.ReLU(), nn.Tanh(), nn.ReLU()), torch.randn(2, 4), torch.randn(2, 4), 2)
    assert rows == [2, 2, 2, 3]
    taylor(lambda x: calls.append(x) or x.sin(), torch.randn(2, 4), torch.randn(5, 2, 4), 2)
    assert len(calls) == 1


def test_expansion_is_exact_for_a_quadratic_function_and_without_coefficients():
    point, directions = torch.randn(3, 2, dtype=torch.float64), torch.randn(2, 3, 2, dtype=torch.float64)
    ends, jet = point + directions, taylor(lambda x: 3 * x**2 + x, point, directions, 2)
    torch.testing.assert_close(list(jet), [3 * point**2 + point, (6 * point + 1) * directions, 6 * directions**2])
    torch.testing.assert_close(jet.expansion(), 3 * ends**2 + ends)
    layer, (point, direction) = linear(), torch.randn(2, 3, 4)
    for order, end in ((2, point + direction), (0, point)):
        torch.testing.assert_close(taylor(layer, point, direction, order).expansion(), layer(end))


def test_gradients_of_one_coefficient_and_of_some_parameters_and_those_that_are_refused():
    network, (point, direction) = mlp(nn.ELU(), nn.Sigmoid()).double(), torch.randn(2, 3, 4, dtype=torch.float64)
    for index in range(3):
        sums = [jets(network, point, direction, 2)[index].sum() for jets in (taylor, reference)]
        gradients = [torch.autograd.grad(one, [*network.parameters()], materialize_grads=True) for one in sums]
        torch.testing.assert_close(*gradients)
    network[0].requires_grad_(False)
    taylor(network, point, direction, 2).expansion().sum().backward()
    assert network[0].weight.grad is None and network[2].weight.grad is not None
    with torch.no_grad():
        assert not taylor(network, point, direction, 2).value.requires_grad
    total = taylor(network, point, direction, 1).first.sum()
    with pytest.raises(RuntimeError, match="differentiated once only"):
        torch.autograd.grad(total, network[2].weight, create_graph=True)
    with torch.no_grad():
        network[2].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@pytest.mark.parametrize("order", [0, 1, 2])
def test_single_precision_of_large_layers(order):
    # Large enough for the products that take another route than small ones.
    network = nn.Sequential(nn.Linear(40, 64), nn.ELU(), nn.Linear(64, 50), nn.Softplus(), nn.Linear(50, 33))
    results, (point, direction) = [], torch.randn(2, 36, 40)
    for dtype in (torch.float32, torch.float64):
        jet = taylor(network.to(dtype), point.to(dtype), direction.to(dtype), order)
        assert {coefficient.dtype for coefficient in jet if coefficient is not None} == {dtype}
        gradients = torch.autograd.grad(jet.expansion().square().sum(), list(network.parameters()))
        results.append([tensor.double() for tensor in (jet.expansion(), *gradients)])
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("before", [linear, lambda: nn.Sequential(linear(), nn.Tanh()), nn.Flatten])
def test_large_stacks_are_rectified_in_place(monkeypatch, before, order):
    monkeypatch.setattr(module, "_LARGE", 0)
    check(nn.Sequential(before(), nn.ReLU(), nn.Flatten(), nn.ReLU(), linear(), nn.ReLU()), order=order, directions=2)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.ELU, nn.Sigmoid])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_channels_last_images_stay_so(monkeypatch, kind, activation, order):
    seen, results = [], []
    for rule in (module._Convolution, module._ReLU, module._Smooth):
        for way in (rule.forward, rule.backward):  # both ways through every layer
            monkeypatch.setattr(rule, way.__name__, lambda *given, way=way: seen.append(given[1]) or way(*given))
    network = nn.Sequential(kind(3, 8, 3, 2), activation(), kind(8, 4, 2), activation(), kind(4, 2, 1)).double()
    points = torch.randn(2, 3, 3, 7, 9).double()
    for memory in (torch.contiguous_format, torch.channels_last):
        seen.clear()
        network.to(memory_format=memory)
        jet = taylor(network, *(part.contiguous(memory_format=memory) for part in points), order)
        gradients = torch.autograd.grad(jet.expansion().square().sum(), list(network.parameters()))
        assert len(seen) == 2 * len(network) and jet.value.is_contiguous(memory_format=memory)
        assert all(part.flatten(0, 1).is_contiguous(memory_format=memory) for part in seen)
        results.append([*jet[: order + 1], *gradients])
    torch.testing.assert_close(*results)


def half_network(inner, last):
    network = nn.Sequential(nn.Linear(4, 64), inner(), nn.Linear(64, 64), inner(), nn.Linear(64, 8), last())
    for layer in network[::2]:  # a ReLU's argument stays on its side of zero, across which rounding would move it
        layer.bias.data = 3.0 - 6 * (torch.arange(len(layer.bias)) % 2)
    return network


HALF = {
    "relu": lambda: half_network(nn.ReLU, nn.ReLU),
    "elu": lambda: half_network(nn.ELU, nn.Sigmoid),
    "softplus": lambda: half_network(nn.Softplus, nn.Identity),
    "tanh": lambda: half_network(nn.Tanh, nn.Tanh),
    "fallback": lambda: half_network(nn.GELU, nn.SiLU),
    "images": lambda: of_images(nn.ConvTranspose2d(4, 8, 4), nn.Softplus(), nn.Conv2d(8, 3, 2), shape=(4, 1, 1)),
}


def in_bfloat16(network, point, direction, order):
    with torch.autocast(point.device.type, torch.bfloat16):
        return taylor(network, point, direction, order)


def relative(got, want):
    return ((got.double() - want).norm() / want.norm()).item()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("name", HALF)
def test_autocast_rounds_and_no_more(name, order, device):
    network, (point, direction) = HALF[name]().to(device), torch.randn(2, 32, 4, device=device)
    half = in_bfloat16(network, point, direction, order)
    assert {coefficient.dtype for coefficient in half if coefficient is not None} == {torch.bfloat16}
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(half.expansion().float().square().mean(), parameters)
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    with torch.autocast(device, torch.bfloat16):
        plain = network(point)
    exact = taylor(network.double(), point.double(), direction.double(), order)
    # Rounding is 2^-9 for every number, and some numbers cancel: a few times that.
    for got, want in zip(half, exact, strict=True):
        assert got is None or want is None or relative(got, want) < 0.03
    assert relative(half.value, exact.value) < 1.5 * relative(plain, exact.value) + 2**-9
    wanted = torch.autograd.grad(exact.expansion().square().mean(), parameters)
    assert all(relative(got, want) < 0.05 for got, want in zip(gradients, wanted, strict=True))
    kept = in_bfloat16(network, point.double(), direction.double(), order)  # double precision is left alone
    assert all(got is None or torch.equal(got, want) for got, want in zip(kept, exact, strict=True))


@pytest.mark.parametrize(("activation", "start"), [(nn.Tanh, 4.0), (nn.Sigmoid, 9.0), (nn.ELU, -8), (nn.Softplus, -8)])
def test_derivatives_under_autocast_near_saturation(activation, start):
    # A value rounded to bfloat16 is 1 there, or -1: a slope computed from it would be zero.
    network, point = nn.Sequential(nn.Linear(1, 1, bias=False), activation()), torch.full((1, 1), float(start))
    nn.init.ones_(network[0].weight)
    half = in_bfloat16(network, point, torch.ones_like(point), 2)
    exact = taylor(network.double(), point.double(), torch.ones(1, 1, dtype=torch.float64), 2)
    assert all(relative(got, want) < 0.01 for got, want in zip(half, exact, strict=True))


def test_global_hooks_and_transforms_are_respected(request):
    network, (point, direction) = mlp(nn.ELU(), nn.Sigmoid()).double(), torch.randn(2, 5, 4, dtype=torch.float64)
    jet = taylor(network, point, direction, 2)
    mapped = torch.func.vmap(lambda p, v: tuple(taylor(network, p[None], v[None], 2)))(point, direction)
    torch.testing.assert_close([one.squeeze(1) for one in mapped], list(jet))
    slope = torch.func.jvp(lambda p: taylor(network, p, direction, 1).value, (point,), (direction,))[1]
    torch.testing.assert_close(slope, jet.first)
    hook = nn.modules.module.register_module_forward_hook(lambda layer, inputs, output: output**2)
    request.addfinalizer(hook.remove)
    check(mlp(nn.Tanh()))


def test_arguments_are_checked_and_an_empty_batch_is_an_empty_result():
    for order in (0, 1, 2):
        check(nn.Sequential(linear(), nn.Softplus()), (0, 4), order, directions=3)
    for order in (-1, 3, 1.5, 2.0, True, None, "2"):
        with pytest.raises(ValueError, match="order must be 0, 1 or 2"):
            taylor(linear(), torch.zeros(2, 4), torch.zeros(2, 4), order)
    wrong = [torch.zeros(shape) for shape in [(4,), (2, 3), (3, 4), (1, 4), (5, 2, 3), (5, 5, 2, 4), ()]]
    for direction, order in product([*wrong, torch.zeros(2, 4).double()], (0, 1)):
        with pytest.raises(ValueError, match=r"like point, \(2, 4\) of torch.float32 on cpu, or have one leading"):
            taylor(linear(), torch.zeros(2, 4), direction, order)

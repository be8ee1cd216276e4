"""The convolutional networks are those of the supplement, every method trains them, and descriptions survive storage."""

from dataclasses import asdict

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from nrae_lib.core import methods
from nrae_lib.core.models import ConvNetwork, Network, network_from_dict
from nrae_lib.core.taylor import taylor
from nrae_lib.core.training import Optimization, fit

# Supplement, section 1.2: (channels, side, z) -> layers and millions of parameters of encoder and decoder, with the encoder's
# fourth kernel for 28 pixels mended from 3 to 2, and as z the dimension of which the counts of parameters speak.
SUPPLEMENT = {
    (1, 28, 16): (
        ("Conv2d", "1,128,3,2,0 - 128,256,3,2,0 - 256,512,3,2,0 - 512,1024,2,2,0 - 1024,z,1,1,0", 3.59),
        ("ConvTranspose2d", "z,1024,8,1,0 - 1024,512,3,2,1 - 512,256,2,2,1 - 256,1,1,1,0", 6.29),
    ),
    (3, 32, 128): (
        ("Conv2d", "3,128,4,2,0 - 128,256,4,2,0 - 256,512,4,2,0 - 512,1024,2,2,0 - 1024,z,1,1,0", 4.86),
        ("ConvTranspose2d", "z,1024,8,1,0 - 1024,512,4,2,1 - 512,256,4,2,1 - 256,3,1,1,0", 18.88),
    ),
    (3, 64, 128): (
        ("Conv2d", "3,128,5,2,0 - 128,256,5,2,0 - 256,512,5,2,0 - 512,1024,5,2,0 - 1024,z,1,1,0", 17.35),
        ("ConvTranspose2d", "z,1024,8,1,0 - 1024,512,4,2,1 - 512,256,4,2,1 - 256,128,4,2,1 - 128,3,1,1,0", 19.40),
    ),
}


def layers_of(part: nn.Module) -> list[tuple]:
    """(kind, channels in, channels out, kernel, stride, padding) of every convolution."""
    return [
        (type(layer).__name__, layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.stride[0], layer.padding[0])
        for layer in part.modules()
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))
    ]  # fmt: skip


@pytest.mark.parametrize("case", SUPPLEMENT)
def test_layers_and_parameters_are_the_supplements(case):
    channels, side, latent_dim = case
    model = ConvNetwork(latent_dim).build((channels, side, side), seed=0)
    for part, (kind, text, millions) in zip((model.encoder, model.decoder), SUPPLEMENT[case], strict=True):
        layers = [(kind, *map(int, layer.replace("z", str(latent_dim)).split(","))) for layer in text.split(" - ")]
        assert layers_of(part) == layers
        parameters = sum(parameter.numel() for parameter in part.parameters())
        assert parameters == sum(wide * narrow * kernel**2 + narrow for _, wide, narrow, kernel, _, _ in layers)
        assert round(parameters / 1e6, 2) == millions


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 28, 28), (3, 32, 32), (1, 64, 64)])
def test_images_come_back_as_images_in_the_unit_interval(shape):
    model = ConvNetwork(5, width=0.02).build(shape, seed=0)
    x = torch.rand(2, *shape)
    assert model.encoder(x).shape == (2, 5)
    assert model(x).shape == x.shape
    assert model(x).min() > 0 and model(x).max() < 1
    assert ConvNetwork(5, output="linear", width=0.02).build(shape, seed=0).decoder[-1].out_channels == shape[0]


def test_activation_stands_between_layers_only():
    model = ConvNetwork(2, "tanh", width=0.02).build((1, 28, 28), seed=0)
    kinds = [[type(layer).__name__ for layer in part] for part in (model.encoder, model.decoder)]
    assert kinds == [
        ["Conv2d", "Tanh"] * 4 + ["Conv2d", "Flatten"],
        ["Unflatten"] + ["ConvTranspose2d", "Tanh"] * 3 + ["ConvTranspose2d", "Sigmoid"],
    ]


def test_width_scales_hidden_channels_only():
    model = ConvNetwork(4, width=0.25).build((3, 32, 32), seed=0)
    assert [layer[1:3] for layer in layers_of(model.encoder)] == [(3, 32), (32, 64), (64, 128), (128, 256), (256, 4)]
    assert [layer[1:3] for layer in layers_of(model.decoder)] == [(4, 256), (256, 128), (128, 64), (64, 3)]
    least = ConvNetwork(4, width=1e-6).build((3, 32, 32), seed=0)
    assert {layer[2] for layer in layers_of(least.encoder)[:-1]} == {1}


def test_seed_decides_the_weights_and_nothing_else():
    state = torch.get_rng_state()
    first, same, other = (ConvNetwork(2, width=0.02).build((1, 28, 28), seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    equal = [all(torch.equal(value, first[name]) for name, value in one.items()) for one in (same, other)]
    assert equal == [True, False]


@pytest.mark.parametrize(
    ("options", "shape", "weights", "sentence"),
    [
        ({}, (784,), "free", r"needs images of shape \(channels, H, H\) with H one of 28, 32, 64, not \(784,\)"),
        *(({}, shape, "free", "needs images") for shape in [(1, 28, 32), (3, 48, 48), (28, 28), ()]),
        ({}, (1, 28, 28), "tied", "mirrors the encoder"),
        *((dict(width=bad), (1, 28, 28), "free", "must be positive") for bad in (0.0, -1, float("nan"))),
        (dict(latent_dim=0), (1, 28, 28), "free", "must be positive"),
        (dict(activation="gelu"), (1, 28, 28), "free", "unknown activation 'gelu': choose one of relu, elu"),
    ],
)
def test_what_it_cannot_do_is_one_sentence(options, shape, weights, sentence):
    with pytest.raises(ValueError, match=sentence):
        ConvNetwork(**{"latent_dim": 2, "width": 0.02, **options}).build(shape, 0, weights=weights)


@pytest.mark.parametrize("network", [Network((8, 4), 2, "elu"), ConvNetwork(3), ConvNetwork(3, "elu", "linear", 0.5)])
def test_descriptions_survive_storage_and_keep_their_form(network):
    restored = network_from_dict(asdict(network))
    assert restored == network and type(restored) is type(network)
    # Keys of stored runs hash these.
    assert asdict(Network((3,), 1)) == {"hidden": (3,), "latent_dim": 1, "activation": "relu", "output": "linear"}
    assert repr(ConvNetwork(1, width=1)) == repr(ConvNetwork(1, width=1.0))


@pytest.mark.parametrize("name", sorted(methods.CATALOGUE))
@pytest.mark.filterwarnings("ignore:Graph is disconnected")
def test_every_method_takes_a_step(name):
    objective, network = methods.get(name).configure(), ConvNetwork(2, "elu", width=0.01)
    data = torch.rand(24, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    if objective.weights == "tied":
        with pytest.raises(ValueError, match="mirrors the encoder"):
            objective.build(network, (1, 28, 28), seed=0)
        return
    model = objective.build(network, (1, 28, 28), seed=0)
    before = {key: value.clone() for key, value in model.named_parameters()}
    trained = fit(model, objective, data, Optimization(1, 24), seed=0)
    assert torch.isfinite(trained.loss).all()
    assert not [key for key, value in model.named_parameters() if torch.equal(value, before[key])]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64)])
def test_one_pass_jets_agree_with_nested_forward_mode(shape):
    model = ConvNetwork(2, "softplus", width=0.01).build(shape, seed=0).double()
    generator = torch.Generator().manual_seed(0)
    for part, size in ((model.encoder, shape), (model.decoder, (2,))):
        point, direction = torch.randn(2, 2, *size, dtype=torch.float64, generator=generator)
        # A function is not known to be a Sequential, so that torch.func.jvp differentiates it.
        jets = [list(taylor(network, point, direction, 2)) for network in (part, lambda x, part=part: part(x))]
        torch.testing.assert_close(*jets)
        assert jets[0][2].abs().max() > 0
        sums, weights = [sum(c.square().sum() for c in jet) for jet in jets], list(part.parameters())
        torch.testing.assert_close(*(torch.autograd.grad(loss, weights, materialize_grads=True) for loss in sums))


def test_spectral_normalization_reaches_every_convolution():
    model = ConvNetwork(4, width=0.05).build((1, 28, 28), 0, weights="spectral")
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))]
    assert len(layers) == 9 and all(is_parametrized(layer, "weight") for layer in layers)
    for _ in range(50):
        model(torch.rand(1, 1, 28, 28))  # one power iteration per layer
    for layer in layers:
        outputs_first = layer.weight.transpose(0, int(isinstance(layer, nn.ConvTranspose2d))).flatten(1)
        torch.testing.assert_close(torch.linalg.matrix_norm(outputs_first, 2).item(), 1.0, rtol=1e-2, atol=0)


def test_learned_posterior_doubles_the_encoders_outputs():
    model = ConvNetwork(3, width=0.02).build((1, 28, 28), 0, posterior="learned")
    mean, log_deviation = model.encoder.posterior(torch.rand(2, 1, 28, 28))
    assert mean.shape == log_deviation.shape == (2, 3)
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 1, 28, 28)

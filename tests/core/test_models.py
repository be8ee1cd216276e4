"""The convolutional networks are those of the supplement, and every method trains them."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from nrae_lib.core.models import Autoencoder, ConvNetwork

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


def small(shape=(1, 28, 28), seed=0, weights="free", **options) -> Autoencoder:
    return ConvNetwork(**{"latent_dim": 2, "width": 0.02} | options).build(shape, seed, weights=weights)


def convolutions(part: nn.Module) -> list[nn.Module]:
    return [layer for layer in part.modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))]


@pytest.mark.parametrize("case", SUPPLEMENT)
def test_layers_and_parameters_are_the_supplements(case):
    channels, side, latent_dim = case
    model = ConvNetwork(latent_dim).build((channels, side, side), seed=0)
    for part, (kind, text, millions) in zip((model.encoder, model.decoder), SUPPLEMENT[case], strict=True):
        numbers = [map(int, layer.split(",")) for layer in text.replace("z", str(latent_dim)).split(" - ")]
        assert repr(convolutions(part)) == repr([getattr(nn, kind)(*settings) for settings in numbers])
        parameters = sum(parameter.numel() for parameter in part.parameters())
        assert parameters == sum(layer.weight.numel() + layer.out_channels for layer in convolutions(part))
        assert round(parameters / 1e6, 2) == millions


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 28, 28), (3, 32, 32), (1, 64, 64)])
def test_images_come_back_as_images_in_the_unit_interval(shape):
    model, x = small(shape, latent_dim=5), torch.rand(2, *shape)
    assert model.encoder(x).shape == (2, 5) and model(x).shape == x.shape
    assert model(x).min() > 0 and model(x).max() < 1
    assert small(shape, output="linear").decoder[-1].out_channels == shape[0]


def test_activation_stands_between_layers_only_and_width_scales_hidden_channels_only():
    model = small((3, 32, 32), activation="tanh", latent_dim=4, width=0.25)
    kinds = [[type(layer).__name__ for layer in part] for part in (model.encoder, model.decoder)]
    assert kinds == [
        ["Conv2d", "Tanh"] * 4 + ["Conv2d", "Flatten"],
        ["Unflatten"] + ["ConvTranspose2d", "Tanh"] * 3 + ["ConvTranspose2d", "Sigmoid"],
    ]
    assert [layer.out_channels for layer in convolutions(model)] == [32, 64, 128, 256, 4, 256, 128, 64, 3]
    assert {layer.out_channels for layer in convolutions(small((3, 32, 32), width=1e-6).encoder)[:-1]} == {1}


def test_seed_decides_the_weights_and_nothing_else():
    state = torch.get_rng_state()
    first, same, other = (nn.utils.parameters_to_vector(small(seed=seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert repr(ConvNetwork(1, width=1)) == repr(ConvNetwork(1, width=1.0)), "they are one run"


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
        small(shape, weights=weights, **options)


def test_spectral_normalization_reaches_every_convolution():
    model = small(weights="spectral", width=0.05)
    layers = convolutions(model)
    assert len(layers) == 9 and all(is_parametrized(layer, "weight") for layer in layers)
    for _ in range(50):
        model(torch.rand(1, 1, 28, 28))  # one power iteration per layer
    for layer in layers:
        outputs_first = layer.weight.transpose(0, int(isinstance(layer, nn.ConvTranspose2d))).flatten(1)
        torch.testing.assert_close(torch.linalg.matrix_norm(outputs_first, 2).item(), 1.0, rtol=1e-2, atol=0)

"""Encoders, decoders and the networks of the papers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import log, prod

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import register_parametrization

from nrae_lib.core.points import stream

ACTIVATIONS = dict(relu=nn.ReLU, elu=nn.ELU, softplus=nn.Softplus, sigmoid=nn.Sigmoid, tanh=nn.Tanh, linear=nn.Identity)


def mlp(widths: tuple[int, ...], activation: str, output_activation: str = "linear") -> nn.Sequential:
    """Fully connected network of these ``widths``, input first, such as (2, 1024, 1024, 1). ``activation`` stands
    between its layers, ``output_activation`` at the end; unknown ones raise a ValueError."""
    layers = [nn.Linear(wide, narrow) for wide, narrow in zip(widths, widths[1:], strict=False)]
    return nn.Sequential(*_activated(layers, activation, output_activation))


def _activated(layers: list[nn.Module], activation: str, output_activation: str) -> list[nn.Module]:
    """``layers`` with ``activation`` between them and ``output_activation`` at the end, where it is not "linear"."""
    for name in (activation, output_activation):
        if name not in ACTIVATIONS:
            raise ValueError(f"unknown activation {name!r}: choose one of {', '.join(ACTIVATIONS)}")
    found = [part for layer in layers for part in (layer, ACTIVATIONS[activation]())][:-1]
    return found if output_activation == "linear" else [*found, ACTIVATIONS[output_activation]()]


class Circular(nn.Module):
    """A code on the unit circle (m = 2) or sphere: z/‖z‖, per sample (NRAE, section 4.2, Figure 9). Below ‖z‖ = 10⁻⁴,
    where the direction means nothing and its gradient 1/‖z‖ has no bound, it is 10⁴ z."""

    def forward(self, z: Tensor) -> Tensor:
        # Not torch.norm, whose second derivative in forward mode cannot be back-propagated.
        return z / z.square().sum(1, keepdim=True).clamp_min(1e-8).sqrt()


LATENTS = ("plain", "circular", "batchnorm")
WEIGHTS = ("free", "tied", "spectral", "spectral_decoder")


class GaussianEncoder(nn.Module):
    """An encoder with a Gaussian posterior, whose code is the mean; ``body`` maps x to (B, 2m), mean and log σ side by
    side, or to the mean, (B, m), where the ``deviation`` σ is not learned."""

    def __init__(self, body: nn.Module, deviation: float | None = None):
        super().__init__()
        self.body, self.deviation = body, deviation

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, m) mean and (B, m) log σ."""
        return self.moments(self.body(x))

    def moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior from the ``body``'s outputs."""
        if self.deviation is None:
            return outputs.chunk(2, dim=1)
        return outputs, torch.full_like(outputs, log(self.deviation))

    def forward(self, x: Tensor) -> Tensor:
        return self.posterior(x)[0]


class Autoencoder(nn.Module):
    """An encoder g: x -> z, shape (B, ...) -> (B, m), and a decoder f: z -> x̂.

    Arguments:
        encoder, decoder: g and f. An encoder with a method ``posterior`` has Gaussian codes, see :class:`GaussianEncoder`.
        learned: scalars that a loss term learns with the network, by name, such as the decoder's log σ.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, learned: dict[str, float] | None = None):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.learned = nn.ParameterDict({name: torch.tensor(float(value)) for name, value in (learned or {}).items()})

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class _Transposed(nn.Module):
    """Parametrization of a weight by another one's transpose."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.T

    right_inverse = forward


def _tie(encoder: nn.Module, decoder: nn.Module) -> None:
    """Make every weight of the decoder the transpose of its mirror image in the encoder (Rifai et al. 2011)."""
    linear = [[layer for layer in part.modules() if isinstance(layer, nn.Linear)] for part in (encoder, decoder)]
    for ours, mirrored in zip(linear[0], reversed(linear[1]), strict=True):
        register_parametrization(mirrored, "weight", _Transposed())
        mirrored.parametrizations.weight.original = ours.weight


class _Architecture:
    """A description of a network: ``_parts`` makes encoder (B, ...) -> (B, outputs) and decoder (B, m) -> (B, ...)."""

    def build(
        self, data_shape: tuple[int, ...], seed: int, latent: str = "plain", weights: str = "free", posterior: str = "",
        deviation: float | None = None, learned: dict[str, float] | None = None,
    ) -> Autoencoder:  # fmt: skip
        """The network for data of this shape, with PyTorch's default initialization, the same for a seed on every device.

        Arguments:
            latent, weights: forms of the code and of the weights, see :class:`nrae_lib.core.methods.Objective`.
            posterior: "" for a code, "learned" or "constant" for a Gaussian posterior, whose σ is then ``deviation``.
            learned: see :class:`Autoencoder`.

        An activation, shape or form of the weights that this kind of network does not have raises a ValueError.
        """
        outputs = self.latent_dim * (2 if posterior == "learned" else 1)
        with torch.random.fork_rng(devices=[]):  # on the CPU; the global random state is left as it was
            torch.manual_seed(stream(seed, "weights"))
            encoder, decoder = self._parts(tuple(data_shape), outputs, weights)
            limited = {"spectral": (encoder, decoder), "spectral_decoder": (decoder,)}.get(weights, ())
            for layer in [layer for part in limited for layer in part.modules()]:
                if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                    spectral_norm(layer)  # divided by its largest singular value, one power iteration per call
        if latent == "circular" and self.latent_dim < 2:
            raise ValueError("a circular code needs latent_dim (n_components) of at least 2: a line has only +1 and -1")
        if latent != "plain":  # new points are normalized by running statistics
            forms = {"circular": Circular(), "batchnorm": nn.BatchNorm1d(self.latent_dim, affine=False)}
            encoder = nn.Sequential(encoder, forms[latent])
        if posterior:
            encoder = GaussianEncoder(encoder, deviation)
        return Autoencoder(encoder, decoder, learned)


@dataclass(frozen=True)
class Network(_Architecture):
    """Description of a fully connected autoencoder; plain data, part of what identifies a run.

    Arguments:
        hidden: widths of the encoder's hidden layers; the decoder mirrors them.
        latent_dim: m, the dimension of the latent code.
        activation, output: names from ``ACTIVATIONS``; ``output`` follows the decoder's last layer.
    """

    hidden: tuple[int, ...]
    latent_dim: int
    activation: str = "relu"
    output: str = "linear"

    def __post_init__(self):
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if self.latent_dim < 1 or not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"widths and latent_dim must be positive, not {self.hidden} and {self.latent_dim}")

    def _parts(self, data_shape, outputs, weights):
        size = prod(data_shape)
        encoder = mlp((size, *self.hidden, outputs), self.activation)
        decoder = mlp((self.latent_dim, *reversed(self.hidden), size), self.activation, self.output)
        if weights == "tied":
            _tie(encoder, decoder)
        if len(data_shape) > 1:
            encoder = nn.Sequential(nn.Flatten(), encoder)
            decoder = nn.Sequential(decoder, nn.Unflatten(1, data_shape))
        return encoder, decoder


# Side of the image -> kernels of the encoder's four convolutions (stride 2, no padding, down to one pixel), and channels,
# kernel, stride and padding of the decoder's. For 28 pixels the supplement prints kernel 3 in the encoder's fourth layer,
# which is larger than its 2 x 2 input; 2 is what the authors' released code has.
_CONVOLUTIONS = {
    28: ((3, 3, 3, 2), ((1024, 8, 1, 0), (512, 3, 2, 1), (256, 2, 2, 1))),
    32: ((4, 4, 4, 2), ((1024, 8, 1, 0), (512, 4, 2, 1), (256, 4, 2, 1))),
    64: ((5, 5, 5, 5), ((1024, 8, 1, 0), (512, 4, 2, 1), (256, 4, 2, 1), (128, 4, 2, 1))),
}


def _convolutions(kind: type[nn.Module], channels: int, steps: Iterable[tuple[int, ...]]) -> Iterator[nn.Module]:
    """Layers of ``kind`` from ``channels`` on, one for each (channels, kernel, stride, padding)."""
    for outputs, *settings in steps:
        yield kind(channels, outputs, *settings)
        channels = outputs


@dataclass(frozen=True)
class ConvNetwork(_Architecture):
    """Description of a convolutional autoencoder of NRAE (supplement, section 1.2); plain data, part of what identifies a run.

    For images (C, H, H) of H = 28, 32 or 64 pixels. Strided convolutions reduce the image to one pixel with 1024
    channels, a 1 x 1 convolution gives the code; transposed convolutions lead back. The supplement names no activation
    after the last layer: a sigmoid, for images in [0, 1], is what the authors' released code has.

    Arguments:
        latent_dim, activation, output: as for :class:`Network`.
        width: multiplies the number of channels of all hidden layers; the supplement's networks have 1.
    """

    latent_dim: int
    activation: str = "relu"
    output: str = "sigmoid"
    width: float = 1.0

    def __post_init__(self):
        if self.latent_dim < 1 or not 0 < self.width < float("inf"):
            raise ValueError(f"latent_dim and width must be positive, not {self.latent_dim} and {self.width}")
        object.__setattr__(self, "width", float(self.width))  # 1 and 1.0 are one run

    def _parts(self, data_shape, outputs, weights):
        if len(data_shape) != 3 or data_shape[1] != data_shape[2] or data_shape[1] not in _CONVOLUTIONS:
            needed = f"images of shape (channels, H, H) with H one of {', '.join(map(str, _CONVOLUTIONS))}"
            raise ValueError(f"a convolutional network needs {needed}, not {data_shape}")
        if weights == "tied":
            need = "a decoder that mirrors the encoder layer by layer, unlike the convolutional networks"
            valid = "free, spectral or spectral_decoder, or a fully connected network"
            raise ValueError(f"weights 'tied' need {need}: choose {valid}")
        channels, side, _ = data_shape
        kernels, steps = _CONVOLUTIONS[side]
        scaled = lambda count: max(1, round(self.width * count))  # noqa: E731
        down = [(scaled(128 * 2**place), kernel, 2, 0) for place, kernel in enumerate(kernels)]
        up = [(scaled(wide), *settings) for wide, *settings in steps]
        encoder = [*_convolutions(nn.Conv2d, channels, [*down, (outputs, 1, 1, 0)])]
        decoder = [*_convolutions(nn.ConvTranspose2d, self.latent_dim, [*up, (channels, 1, 1, 0)])]
        return (
            nn.Sequential(*_activated(encoder, self.activation, "linear"), nn.Flatten()),
            nn.Sequential(nn.Unflatten(1, (self.latent_dim, 1, 1)), *_activated(decoder, self.activation, self.output)),
        )

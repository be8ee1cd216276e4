"""Encoders, decoders and the networks of the papers."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

ACTIVATIONS = {
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "linear": nn.Identity,
}


def mlp(widths: tuple[int, ...], activation: str, output_activation: str = "linear") -> nn.Sequential:
    """Fully connected network with ``activation`` between its layers and ``output_activation`` at the end.

    Arguments:
        widths: sizes of all layers, input first, for example (2, 1024, 1024, 1).

    Raises:
        ValueError: for an unknown activation.

    Example:
        >>> mlp((2, 8, 1), "relu")
        Sequential(
          (0): Linear(in_features=2, out_features=8, bias=True)
          (1): ReLU()
          (2): Linear(in_features=8, out_features=1, bias=True)
        )
    """
    for name in (activation, output_activation):
        if name not in ACTIVATIONS:
            raise ValueError(f"unknown activation {name!r}: choose one of {', '.join(ACTIVATIONS)}")
    layers: list[nn.Module] = []
    for wide, narrow in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(wide, narrow), ACTIVATIONS[activation]()]
    layers[-1] = ACTIVATIONS[output_activation]()
    if output_activation == "linear":
        del layers[-1]
    return nn.Sequential(*layers)


class Autoencoder(nn.Module):
    """An encoder g: x -> z, shape (B, ...) -> (B, m), and a decoder f: z -> x̂."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


@dataclass(frozen=True)
class Network:
    """Description of an autoencoder; plain data, part of what identifies a run.

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

    def build(self, data_shape: tuple[int, ...], seed: int) -> Autoencoder:
        """The network for data of shape ``data_shape`` with PyTorch's default initialization from ``seed``.

        The weights are drawn on the CPU, so that a seed means the same weights on every device; the global
        random state is left as it was.
        """
        size = prod(data_shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = mlp((size, *self.hidden, self.latent_dim), self.activation)
            decoder = mlp((self.latent_dim, *reversed(self.hidden), size), self.activation, self.output)
        if len(data_shape) > 1:
            encoder = nn.Sequential(nn.Flatten(), encoder)
            decoder = nn.Sequential(decoder, nn.Unflatten(1, tuple(data_shape)))
        return Autoencoder(encoder, decoder)

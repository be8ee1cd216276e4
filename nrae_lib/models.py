"""Encoders, decoders and the networks of the papers."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log, prod

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import register_parametrization

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


class Circular(nn.Module):
    """A code on the unit circle (m = 2) or sphere: z/‖z‖, per sample (NRAE, section 4.2, Figure 9)."""

    def forward(self, z: Tensor) -> Tensor:
        # Not torch.norm, whose second derivative in forward mode cannot be back-propagated.
        return z / z.square().sum(1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny).sqrt()


# Forms of the latent code: what follows the encoder's last layer. The entropic autoencoder normalizes each coordinate
# over the batch, without trainable scale; new points are normalized by the running statistics.
LATENTS: dict[str, Callable[[int], nn.Module | None]] = {
    "plain": lambda latent_dim: None,
    "circular": lambda latent_dim: Circular(),
    "batchnorm": lambda latent_dim: nn.BatchNorm1d(latent_dim, affine=False),
}
WEIGHTS = ("free", "tied", "spectral", "spectral_decoder")


class GaussianEncoder(nn.Module):
    """An encoder with a Gaussian posterior: its code is the mean.

    Arguments:
        body: x -> (B, 2m), mean and log σ side by side, or (B, m) if σ is given.
        deviation: σ where it is not learned.
    """

    def __init__(self, body: nn.Module, deviation: float | None = None):
        super().__init__()
        self.body, self.deviation = body, deviation

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, m) mean and (B, m) log σ."""
        if self.deviation is None:
            mean, log_deviation = self.body(x).chunk(2, dim=1)
            return mean, log_deviation
        mean = self.body(x)
        return mean, torch.full_like(mean, log(self.deviation))

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
        self.encoder = encoder
        self.decoder = decoder
        self.learned = nn.ParameterDict({name: torch.tensor(float(value)) for name, value in (learned or {}).items()})

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class _Transposed(nn.Module):
    """Parametrization of a weight by another one's transpose."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.T

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.T


def _tie(encoder: nn.Module, decoder: nn.Module) -> None:
    """Make every weight of the decoder the transpose of its mirror image in the encoder (Rifai et al. 2011)."""
    linear = [[layer for layer in part.modules() if isinstance(layer, nn.Linear)] for part in (encoder, decoder)]
    for ours, mirrored in zip(linear[0], reversed(linear[1]), strict=True):
        register_parametrization(mirrored, "weight", _Transposed())
        mirrored.parametrizations.weight.original = ours.weight


def _limit(part: nn.Module) -> None:
    """Divide every linear and convolution weight by its largest singular value (one power iteration per call)."""
    for layer in list(part.modules()):
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            spectral_norm(layer)


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

    def build(
        self,
        data_shape: tuple[int, ...],
        seed: int,
        latent: str = "plain",
        weights: str = "free",
        posterior: str = "",
        deviation: float | None = None,
        learned: dict[str, float] | None = None,
    ) -> Autoencoder:
        """The network for data of shape ``data_shape`` with PyTorch's default initialization from ``seed``.

        The weights are drawn on the CPU, so that a seed means the same weights on every device; the global
        random state is left as it was.

        Arguments:
            latent, weights: forms of the code and of the weights, see :class:`nrae_lib.methods.Objective`.
            posterior: "" for a code, "learned" or "constant" for a Gaussian posterior, whose σ is then ``deviation``.
            learned: see :class:`Autoencoder`.
        """
        size = prod(data_shape)
        outputs = self.latent_dim * (2 if posterior == "learned" else 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = mlp((size, *self.hidden, outputs), self.activation)
            decoder = mlp((self.latent_dim, *reversed(self.hidden), size), self.activation, self.output)
            if weights == "tied":
                _tie(encoder, decoder)
            for part in {"spectral": (encoder, decoder), "spectral_decoder": (decoder,)}.get(weights, ()):
                _limit(part)
        if len(data_shape) > 1:
            encoder = nn.Sequential(nn.Flatten(), encoder)
            decoder = nn.Sequential(decoder, nn.Unflatten(1, tuple(data_shape)))
        if latent == "circular" and self.latent_dim < 2:
            raise ValueError(
                "a circular code needs latent_dim (n_components) of at least 2: on a line only +1 and -1 are left"
            )
        form = LATENTS[latent](self.latent_dim)
        if form is not None:
            encoder = nn.Sequential(encoder, form)
        if posterior:
            encoder = GaussianEncoder(encoder, deviation)
        return Autoencoder(encoder, decoder, learned)

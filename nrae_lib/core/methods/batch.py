"""What a loss term may ask for: the batch and everything already computed of it, and what is prepared once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property, partial

import torch
from torch import Tensor, nn

from nrae_lib.core.graph import knn_graph, rows_per_block, sample_neighbors
from nrae_lib.core.points import as_floats, picked
from nrae_lib.core.taylor import taylor

# From about this many points on, the one-pass kernels beat PyTorch's own on the CPU; with fewer, what they have to
# prepare costs more than they gain. The page of Table 1 compares both, with 100 points and with 32.
_ONE_PASS_POINTS = 64


def neighbor_blocks(data: Tensor, graph: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(b, ...) points and (k, b, ...) their neighbours in ``graph``, in order, a few at a time (64 MiB)."""
    rows = rows_per_block(as_floats(data[:1]), graph.shape[1])
    for own, near in zip(data.split(rows), graph.split(rows), strict=True):
        yield as_floats(own), picked(data, near.T)


class Preparation:
    """The training data, and what is computed from it once before training; two terms share one graph.

    ``graph(k)`` are (N, k) indices of the nearest neighbours, see :func:`nrae_lib.core.graph.knn_graph`.

    Arguments:
        data: (N, ...) all training points as they are stored, on the device of the training.
        latent_dim, seed: m, and the seed of preparations that draw random numbers.
    """

    def __init__(self, data: Tensor, latent_dim: int, seed: int):
        self.data, self.latent_dim, self.seed = data, latent_dim, seed
        self.graph = cache(partial(knn_graph, data))


class Batch:
    """One batch on its way through the terms of an objective; its codes are computed once, by whoever asks first.

    Arguments:
        model: the autoencoder.
        data: (N, ...) all training points as they are stored, on the device.
        index: (B,) the points of this batch, or None for all of them in order.
        generator: the source of randomness, on the same device; whatever the terms draw comes from here.
    """

    def __init__(self, model: nn.Module, data: Tensor, index: Tensor | None, generator: torch.Generator):
        self.model, self.data, self.generator = model, data, generator
        self.is_whole = index is None
        self.index = torch.arange(len(data), device=data.device) if index is None else index
        self._statistics: tuple[Tensor, Tensor] | None = None  # of the codes before their normalization

    @cached_property
    def x(self) -> Tensor:
        """(B, ...) the points of this batch."""
        return as_floats(self.data) if self.is_whole else self.rows(self.index)

    def rows(self, index: Tensor) -> Tensor:
        """Any training points, of the shape of ``index`` and then that of a point."""
        return picked(self.data, index)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape of ``like``."""
        return torch.empty_like(like).normal_(generator=self.generator)

    def near(self, graph: Tensor, count: int, replace: bool = False) -> Tensor:
        """(n, B) indices of ``count`` neighbours of every point, drawn by chance."""
        return sample_neighbors(graph, self.index, count, self.generator, replace)

    def decode(self, z: Tensor) -> Tensor:
        """f(z)."""
        return evaluate(self.model.decoder, z)

    @property
    def is_stochastic(self) -> bool:
        """Whether the encoder gives a Gaussian posterior instead of a code."""
        return hasattr(self.model.encoder, "posterior")

    @cached_property
    def posterior(self) -> tuple[Tensor, Tensor]:
        """(B, m) mean μ and (B, m) log σ of the codes of ``x``."""
        return self._posterior(self.x)

    def _posterior(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.encoder.moments(evaluate(self.model.encoder.body, points))

    @cached_property
    def code(self) -> Tensor:
        """(B, m) codes of ``x``: z = g(x), or a draw μ + σ ε from the posterior."""
        if self.is_stochastic:
            return self._drawn(*self.posterior)
        if self._normalization is None:
            return evaluate(self.model.encoder, self.x)
        raw = evaluate(self.model.encoder[:-1], self.x)
        self._statistics = raw.mean(0), raw.var(0, correction=0)
        return self._normalization(raw)

    def _drawn(self, mean: Tensor, log_deviation: Tensor, noise: Tensor | None = None) -> Tensor:
        return mean + log_deviation.exp() * (self.normal(mean) if noise is None else noise)

    @property
    def _normalization(self) -> nn.Module | None:
        """The batch normalization that ends the encoder, if it is one in training mode."""
        last = self.model.encoder[-1] if isinstance(self.model.encoder, nn.Sequential) else None
        return last if isinstance(last, nn.BatchNorm1d) and last.training else None

    @contextmanager
    def encoder(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """The encoder (of a posterior, its mean) as a function of each point alone, whose Jacobian exists.

        Codes that are normalized over the batch are normalized by the statistics of this batch's centres, which are
        functions of the weights but constants to the point; with constants instead, a penalty on the Jacobian would
        shrink the weights without end. Batch normalization inside the network takes its running statistics.
        """
        if self._normalization is not None:
            _ = self.code  # before anything is frozen: the statistics are those of the batch
        with per_sample(self.model.encoder):
            if self._statistics is None:
                yield self.model.encoder
            else:
                mean, variance = self._statistics
                *body, last = self.model.encoder
                yield lambda points: (nn.Sequential(*body)(points) - mean) / (variance + last.eps).sqrt()

    @contextmanager
    def autoencoder(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Decoder after encoder as a function of each point alone; a posterior's ε is one constant per point."""
        with self.encoder() as encoder, per_sample(self.model.decoder) as decoder:
            if self.is_stochastic:
                noise = self.normal(self.code)
                yield lambda points: decoder(self._drawn(*self.model.encoder.posterior(points), noise))
            else:
                modules = isinstance(encoder, nn.Module)
                yield nn.Sequential(encoder, decoder) if modules else lambda x: decoder(encoder(x))

    def code_near(self, near: Tensor) -> Tensor:
        """(n, B, m) codes of the points with indices ``near`` (n, B); together with those of ``x`` if these are missing."""
        if self.is_whole and not self.is_stochastic:  # every neighbour is in the batch: its code is already there
            return self.code[near]
        points, shape = self.rows(near).flatten(0, 1), near.shape
        if self._normalization is not None:
            with self.encoder() as encoder:
                return encoder(points).unflatten(0, shape)
        together = "code" not in vars(self)
        if together:  # one call for centres and neighbours
            points, shape = torch.cat([self.x, points]), (len(near) + 1, len(self.x))
        if self.is_stochastic:
            mean, log_deviation = (part.unflatten(0, shape) for part in self._posterior(points))
            codes = self._drawn(mean, log_deviation)
        else:  # the one-pass value is the encoder's, by faster kernels
            codes = taylor(self.model.encoder, points, points, 0).value.unflatten(0, shape)
        if together:
            if self.is_stochastic:
                self.posterior = (mean[0], log_deviation[0])
            self.code, codes = codes[0], codes[1:]
        return codes


def evaluate(network: nn.Module, points: Tensor) -> Tensor:
    """``network(points)`` by the faster kernels; the same numbers but for rounding, to be differentiated once."""
    if points.device.type == "cpu" and len(points) >= _ONE_PASS_POINTS and torch.is_grad_enabled():
        return taylor(network, points, points, 0).value
    return network(points)


@contextmanager
def per_sample(network: nn.Module) -> Iterator[nn.Module]:
    """``network`` with batch normalization by its running statistics, because a Jacobian is of one sample.

    In training mode the normalization mixes the samples of a batch, and a batched Jacobian product would be wrong.
    """
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    mixing = [part for part in network.modules() if isinstance(part, kinds) and part.training]
    for part in mixing:
        part.eval()
    try:
        yield network
    finally:
        for part in mixing:
            part.train()

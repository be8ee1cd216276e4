"""What a loss term may ask for: the batch and everything already computed of it, and what is prepared once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nrae_lib.core.feed import Feed, feed_of
from nrae_lib.core.graph import approximate_knn_graph, cached_knn_graph, rows_per_block, sample_neighbors
from nrae_lib.core.taylor import taylor

# From about this many points on, the one-pass kernels beat PyTorch's own on the CPU; with fewer, what they have to
# prepare costs more than they gain. benchmarks/step_time.py compares both, with 100 points and with 32.
_ONE_PASS_POINTS = 64


def as_feed(data: Tensor | Feed) -> Feed:
    """``data`` itself if it is a feed, else a feed of it where it is."""
    return data if isinstance(data, Feed) else feed_of(data, data.device)


def neighbor_blocks(feed: Feed, graph: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(b, ...) points and (k, b, ...) their neighbours in ``graph``, in order, a few at a time (64 MiB)."""
    index = torch.arange(len(feed), device=feed.device)
    rows = rows_per_block(feed.rows(index[:1]), graph.shape[1])
    for own, near in zip(index.split(rows), graph.split(rows), strict=True):
        yield feed.rows(own), feed.rows(near.T)


class Preparation:
    """The training data, and what is computed from it once before training; two terms share one graph.

    Arguments:
        data: (N, ...) all training points, on the device of the training, or a feed of them.
        latent_dim: m.
        seed: for preparations that draw random numbers.
        approximate: whether neighbours may be found by :func:`nrae_lib.core.graph.approximate_knn_graph`.
        progress: called with the points done and of all while a graph is computed.

    Attributes:
        recalls: k -> share of the true neighbours that an approximate graph holds, measured on a sample.
    """

    def __init__(
        self,
        data: Tensor | Feed,
        latent_dim: int,
        seed: int,
        approximate: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ):
        self.feed = as_feed(data)
        self.latent_dim, self.seed, self.approximate, self.progress = latent_dim, seed, approximate, progress
        self.recalls: dict[int, float] = {}
        self._graphs: dict[int, Tensor] = {}

    @property
    def data(self) -> Tensor:
        """(N, ...) all training points; ValueError where they do not fit on the device."""
        return self.feed.rows(None)

    def graph(self, n_neighbors: int) -> Tensor:
        """(N, k) indices of the nearest neighbours, see :func:`nrae_lib.core.graph.knn_graph`."""
        if n_neighbors not in self._graphs:
            if self.approximate:
                points = self.feed.raw.cpu() if isinstance(self.feed.raw, Tensor) else self.feed.raw
                graph, self.recalls[n_neighbors] = approximate_knn_graph(points, n_neighbors, self.seed)
            else:
                graph = cached_knn_graph(self.feed.raw, n_neighbors, device=self.feed.device, progress=self.progress)
            self._graphs[n_neighbors] = graph.to(self.feed.device)
        return self._graphs[n_neighbors]


class Batch:
    """One batch on its way through the terms of an objective; its codes are computed once, by whoever asks first.

    Arguments:
        model: the autoencoder.
        data: (N, ...) all training points, on the device, or a feed of them.
        index: (B,) the points of this batch, or None for all of them in order.
        generator: the source of randomness, on the same device; whatever the terms draw comes from here, by
            :meth:`normal`, :meth:`uniform` and :meth:`near`.
    """

    def __init__(self, model: nn.Module, data: Tensor | Feed, index: Tensor | None, generator: torch.Generator):
        self.model, self.generator = model, generator
        self.feed = as_feed(data)
        self.is_whole = index is None
        if index is not None:
            self.index = index
        self._near: dict[tuple, Tensor] = {}
        self._statistics: tuple[Tensor, Tensor] | None = None  # of the codes before their normalization

    @cached_property
    def index(self) -> Tensor:
        """(B,) the points of this batch."""
        return torch.arange(len(self.feed), device=self.feed.device)

    @cached_property
    def x(self) -> Tensor:
        """(B, ...) the points of this batch."""
        return self.feed.rows(None if self.is_whole else self.index)

    def rows(self, index: Tensor) -> Tensor:
        """Any training points, of the shape of ``index`` and then that of a point."""
        return self.feed.rows(index)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape of ``like``."""
        return torch.empty_like(like).normal_(generator=self.generator)

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform numbers between 0 and 1 of the shape of ``like``."""
        return torch.empty_like(like).uniform_(generator=self.generator)

    def near(self, graph: Tensor, count: int | None = None, replace: bool = False) -> Tensor:
        """(n, B) indices of ``count`` neighbours of every point, drawn once per batch and graph; of all k without it."""
        key = id(graph), count
        if key not in self._near:
            self._near[key] = (
                graph[self.index].T
                if count is None
                else sample_neighbors(graph, self.index, count, self.generator, replace)
            )
        return self._near[key]

    def decode(self, z: Tensor) -> Tensor:
        """f(z) by the faster kernels."""
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
        encoder = self.model.encoder
        return encoder.moments(evaluate(encoder.body, points))

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

    def of(self, x: Tensor) -> "Batch":
        """A batch of other points ``x`` in the place of these, such as corrupted ones."""
        return Batch(self.model, x, None, self.generator)

    @contextmanager
    def encoder(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """The encoder as a function of each point alone, whose Jacobian exists.

        Codes that are normalized over the batch are normalized by the statistics of this batch's centres, which are
        functions of the weights but constants to the point; with constants instead, a penalty on the Jacobian would
        shrink the weights without end. Batch normalization inside the network takes its running statistics. Of a Gaussian
        posterior it is the mean.
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
                yield (
                    nn.Sequential(encoder, decoder) if isinstance(encoder, nn.Module) else lambda x: decoder(encoder(x))
                )

    def code_near(self, near: Tensor) -> Tensor:
        """(n, B, m) codes of the points with indices ``near`` (n, B); together with those of ``x`` if these are missing."""
        if self.is_whole and not self.is_stochastic:  # every neighbour is in the batch: its code is already there
            return self.code[near]
        points, shape = self.rows(near).flatten(0, 1), near.shape
        if self._normalization is not None:
            with self.encoder() as encoder:
                return encoder(points).unflatten(0, shape)
        alone = "code" in vars(self)
        if not alone:  # one call for centres and neighbours
            points, shape = torch.cat([self.x, points]), (len(near) + 1, len(self.x))
        if self.is_stochastic:
            mean, log_deviation = (part.unflatten(0, shape) for part in self._posterior(points))
            codes = self._drawn(mean, log_deviation)
        else:  # the one-pass value is the encoder's, by faster kernels
            codes = taylor(self.model.encoder, points, points, 0).value.unflatten(0, shape)
        if alone:
            return codes
        if self.is_stochastic:
            self.posterior = (mean[0], log_deviation[0])
        self.code = codes[0]
        return codes[1:]


class Term:
    """A reconstruction term or a penalty: a frozen dataclass whose fields are the method's options.

    Class attributes say what the page of methods shows and what the objective has to know:

    - ``name``: identifier.
    - ``weight_option``: of a penalty, the option that sets its weight; ``<name>_weight`` unless the class says otherwise.
    - ``formula``, ``reference``: LaTeX and source.
    - ``prepares``, ``cost``: in words, what is prepared before training and what a step does.
    - ``fixed``: fields that a method's name decides and no option changes.
    - ``summed``: the paper weighs the penalty against an error summed over D features; this library's error is the
      mean over features, so the weight is divided by D.
    - ``posterior``: "learned" or "constant" where the codes must have a Gaussian posterior.
    - ``fewest_points``: that a batch must have.
    - ``excluded_latents``: forms of the code under which the term has no meaning.
    """

    name: ClassVar[str] = ""
    formula: ClassVar[str] = ""
    reference: ClassVar[str] = ""
    prepares: ClassVar[str] = ""
    cost: ClassVar[str] = ""
    fixed: ClassVar[tuple[str, ...]] = ()
    summed: ClassVar[bool] = False
    posterior: ClassVar[str] = ""
    fewest_points: ClassVar[int] = 1
    excluded_latents: ClassVar[tuple[str, ...]] = ()

    def prepare(self, preparation: Preparation) -> Any:
        """What is computed once before training, made of tensors on the data's device; None for nothing."""
        return None

    def loss(self, batch: Batch, prepared: Any) -> Tensor:
        """Scalar loss of one batch, without the penalty's weight."""
        raise NotImplementedError

    def look_ahead(self, batch: Batch, prepared: Any) -> Tensor | None:
        """Indices of the training points beside those of the batch that :meth:`loss` will read, of any shape.

        For data that has to be fetched. What is drawn for it must be drawn by methods of the batch that keep it.
        """
        return None

    def refresh(self, epoch: int, model: nn.Module, preparation: Preparation, prepared: Any) -> Any:
        """What was prepared, as it is from ``epoch`` on; most terms never change it."""
        return prepared

    @property
    def refreshes(self) -> bool:
        """Whether :meth:`refresh` ever changes anything, so that a checkpoint must keep it."""
        return False

    def parameters(self) -> dict[str, float]:
        """Initial values of scalars that are learned together with the network."""
        return {}


def check_number(name: str, value: float, low: float = 0.0, strict: bool = False) -> None:
    """Stop with one sentence unless ``value`` is finite and at least (``strict``: above) ``low``."""
    inside = low < value < float("inf") if strict else low <= value < float("inf")
    if not inside:
        raise ValueError(f"{name} must be a finite number {'>' if strict else '>='} {low:g}, not {value}")


def check_choice(name: str, value: str, valid: tuple[str, ...]) -> None:
    """Stop with one sentence unless ``value`` is one of ``valid``."""
    if value not in valid:
        raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(valid)}")


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
    kinds = nn.modules.batchnorm._BatchNorm
    mixing = [part for part in network.modules() if isinstance(part, kinds) and part.training]
    for part in mixing:
        part.eval()
    try:
        yield network
    finally:
        for part in mixing:
            part.train()

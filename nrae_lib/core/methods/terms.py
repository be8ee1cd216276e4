"""Loss terms: what they may ask for (batch, preparation), what they are, and those that reconstruct."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cache, cached_property, partial
from math import inf, log
from typing import Any

import torch
from torch import Tensor, nn

from nrae_lib.core import losses
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
    """``network`` with batch normalization by its running statistics, because a Jacobian is of one sample. In training
    mode the normalization mixes the samples of a batch, and a batched Jacobian product would be wrong."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    mixing = [part for part in network.modules() if isinstance(part, kinds) and part.training]
    for part in mixing:
        part.eval()
    try:
        yield network
    finally:
        for part in mixing:
            part.train()


def number(default: float, low: float = 0.0, high: float = inf, strict: bool = False) -> Any:
    """A field that must be finite, at least (``strict``: above) ``low``, and at most ``high``."""

    def check(name: str, value: float) -> None:
        if not low <= value <= high or value == inf or (strict and value == low):
            below = f" and <= {high:g}" * (high < inf)
            raise ValueError(f"{name} must be a finite number {'>' if strict else '>='} {low:g}{below}, not {value}")

    return field(default=default, metadata={"check": check})


def choice(default: Any, valid: tuple) -> Any:
    """A field that must be one of ``valid``."""
    return field(default=default, metadata={"check": partial(check_choice, valid=valid)})


def check_fields(settings: Any, label: Callable[[str], str] = str) -> None:
    """Stop with one sentence unless the fields of a dataclass are what :func:`number` and :func:`choice` ask for."""
    for entry in fields(settings):
        if "check" in entry.metadata:
            entry.metadata["check"](label(entry.name), getattr(settings, entry.name))


def check_choice(name: str, value: Any, valid: Iterable) -> None:
    """Stop with one sentence unless ``value`` is one of ``valid``."""
    if value not in tuple(valid):  # an unhashable value is no key, either
        raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(map(str, valid))}")


class Term:
    """A reconstruction term or a penalty: a frozen dataclass whose fields are the method's options.

    Class attributes say what the page of methods shows and what the objective has to know.
    """

    name = ""
    formula = ""  # LaTeX
    reference = ""
    prepares = ""  # what is prepared before training, in words
    cost = ""  # what a step does, in words
    fixed = ()  # fields that a method's name decides and no option changes
    # The paper weighs the penalty against an error summed over D features; here the error is their mean.
    summed = False
    posterior = ""  # "learned" or "constant" where the codes must have a Gaussian posterior
    fewest_points = 1  # that a batch must have
    excluded_latents = ()  # forms of the code under which the term has no meaning
    refresh_epochs = 0  # after so many epochs what was prepared is prepared anew; 0 for never

    def __post_init__(self):
        check_fields(self, self.option)

    def option(self, name: str) -> str:
        """The option of a method that sets the field ``name``; of a penalty's weight its ``weight_option``."""
        return self.weight_option if name == "weight" else name

    def option_fields(self) -> dict[str, str]:
        """The options that a method has for this term, each with the field that it sets."""
        return {self.option(entry.name): entry.name for entry in fields(self) if entry.name not in self.fixed}

    def prepare(self, preparation: Preparation) -> Any:
        """What is computed once before training, made of tensors on the data's device; None for nothing."""
        return None

    def loss(self, batch: Batch, prepared: Any) -> Tensor:
        """Scalar loss of one batch, without the penalty's weight."""
        raise NotImplementedError

    def refresh(self, model: nn.Module, preparation: Preparation) -> Any:
        """What :meth:`prepare` gave, anew from the codes of ``model``; called every ``refresh_epochs`` epochs."""
        raise NotImplementedError

    def parameters(self) -> dict[str, float]:
        """Initial values of scalars that are learned together with the network."""
        return {}


@dataclass(frozen=True)
class _Reconstruction(Term):
    """What all reconstruction terms share.

    Arguments:
        error: "squared", the mean over features of the squared error, or "gaussian", the negative log likelihood per
            feature under an isotropic Gaussian decoder whose standard deviation s is learned
            (:func:`nrae_lib.core.losses.gaussian_likelihood`), with any of the squared errors in place of ‖x - f(z)‖²/D.
        initial_sigma: where the learned s starts, > 0. Adam moves log s by about its learning rate per step, so that in a
            short training the start decides how small s can become.
    """

    where = ()  # what the formula's symbols mean, in LaTeX

    error: str = choice("squared", ("squared", "gaussian"))
    initial_sigma: float = number(1.0, strict=True)

    def __post_init__(self):
        super().__post_init__()
        if self.error == "squared" and self.initial_sigma != 1:
            raise ValueError("initial_sigma is the start of a learned standard deviation: it needs error 'gaussian'")

    def parameters(self) -> dict[str, float]:
        return {"log_sigma": log(self.initial_sigma)} if self.error == "gaussian" else {}

    def loss(self, batch: Batch, prepared: Any) -> Tensor:
        error = self.squared_error(batch, prepared)
        return error if self.error == "squared" else losses.gaussian_likelihood(error, batch.model.learned["log_sigma"])


@dataclass(frozen=True)
class Point(_Reconstruction):
    """Reconstruct every point from itself."""

    name = "point"
    formula = r"\tfrac1D\|x-f(g(x))\|^2"
    reference = "Lee, Kwon and Park 2021, section 1"
    cost = "one pass of encoder and decoder"

    def squared_error(self, batch: Batch, prepared: None) -> Tensor:
        return losses.point_reconstruction(batch.x, batch.decode(batch.code))


@dataclass(frozen=True)
class Denoising(_Reconstruction):
    """Reconstruct every point from a copy with Gaussian noise of standard deviation ``corruption``.

    From Vincent et al., *Extracting and Composing Robust Features with Denoising Autoencoders*, ICML 2008. Corrupted
    inputs are not clipped; noise is drawn afresh at every step. Penalties see the codes of the uncorrupted points.
    """

    name = "denoising"
    formula = r"\tfrac1D\|x-f(g(x+\sigma\varepsilon))\|^2"
    reference = "Vincent et al. 2008; noise as in Lee, Kwon and Park 2021, supplement 1.2"
    cost = "as the point loss; penalties on codes add a pass of the encoder"

    corruption: float = number(0.1)

    def squared_error(self, batch: Batch, prepared: None) -> Tensor:
        corrupted = batch.x + self.corruption * batch.normal(batch.x) if self.corruption else batch.x
        noisy = Batch(batch.model, corrupted, None, batch.generator)
        return losses.point_reconstruction(batch.x, batch.decode(noisy.code))


@dataclass(frozen=True)
class Neighborhood(_Reconstruction):
    """Reconstruct sampled neighbours from an expansion (NRAE), see :func:`nrae_lib.core.losses.neighborhood_reconstruction`.

    Arguments:
        order: of the expansion: 0, 1 (NRAE-L) or 2 (NRAE-Q).
        space: "latent" expands the decoder at the centre's code; "data" expands decoder and encoder together at the
            centre itself (E-NRAE, section 4.3), without encoding the neighbours.
        neighbor_weight: λ of the kernel (equation 4), >= 0.
        n_neighbors: k of the graph; 0 leaves the point loss.
        neighbors_per_point, replace: n, neighbours sampled per point and step (the paper: 1), with replacement or not.
        include_center, weighting: whether the centre is reconstructed too; "sample" or "equation".
    """

    name = "neighborhood"
    formula = r"\tfrac{1}{|N(x)|}\sum_{x'\in N(x)}K(x',x)\,\tfrac1D\|x'-\tilde F(x';x)\|^2"
    prepares = "k-nearest-neighbour graph"
    cost = "one more coefficient per order through what is expanded; in latent space also the codes of the neighbours"
    fixed = ("order", "space")

    order: int = choice(1, (0, 1, 2))
    space: str = choice("latent", ("latent", "data"))
    neighbor_weight: float = number(1.0)
    n_neighbors: int = number(5)
    neighbors_per_point: int = 1
    replace: bool = False
    include_center: bool = True
    weighting: str = choice("sample", losses.WEIGHTINGS)

    def __post_init__(self):
        super().__post_init__()
        too_many = not self.replace and self.neighbors_per_point > self.n_neighbors > 0
        if self.neighbors_per_point < 1 or too_many:
            raise ValueError(f"neighbors_per_point must be at least 1 and, without replacement, at most n_neighbors "
                             f"(k = {self.n_neighbors}), not {self.neighbors_per_point}")  # fmt: skip

    @property
    def where(self) -> tuple[str, ...]:
        """LaTeX of the kernel and of the expansion of this order."""
        network, at, step = ("F", "x", "(x'-x)") if self.space == "data" else ("f", "z", "(z'-z)")
        terms = f"{network}({at})", f"J_{network}({at}){step}", rf"\tfrac12{step}^\top H_{network}({at}){step}"
        names = r"F=f\circ g" if self.space == "data" else "z=g(x)" + ",\\; z'=g(x')" * (self.order > 0)
        return r"K(x,x)=1,\; K(x',x)=\lambda", r"\tilde F(x';x)=" + "+".join(terms[: self.order + 1]), names

    @property
    def reference(self) -> str:
        return f"Lee, Kwon and Park 2021, {'equations 2 to 4' if self.space == 'latent' else 'section 4.3'}"

    def prepare(self, preparation: Preparation) -> Tensor | None:
        return preparation.graph(self.n_neighbors) if self.n_neighbors else None

    def squared_error(self, batch: Batch, graph: Tensor | None) -> Tensor:
        if not self.n_neighbors:
            return losses.point_reconstruction(batch.x, batch.decode(batch.code))
        near = batch.near(graph, self.neighbors_per_point, self.replace)
        points = batch.x, batch.rows(near)
        if self.space == "data":
            expanded, places = batch.autoencoder(), points
        else:
            z_near = batch.code_near(near)  # first: it finds the centres' codes on the way
            expanded, places = per_sample(batch.model.decoder), (batch.code, z_near)
        options = self.order, self.neighbor_weight, self.include_center, self.weighting, self.n_neighbors
        with expanded as network:
            return losses.neighborhood_reconstruction(network, *places, *points, *options)


@dataclass(frozen=True)
class Relational(_Reconstruction):
    """Reconstruct the neighbours from the centre's code, weighted by their similarity: the generalized autoencoder.

    INFERRED from summaries of GAE (Wang, Huang, Wang and Wang, *Generalized Autoencoder*, CVPR-W 2014), whose text was not
    at hand; Laplacian-eigenmap variant: Σ_j s_ij ‖x_j - f(g(x_i))‖² over the neighbours j of i, s_ij = exp(-‖x_i - x_j‖²/t).
    How t is set, ``temperature`` times the mean squared distance of neighbours, and that neighbours and weights are taken
    anew from the codes every ``refresh_epochs`` epochs are our choices.

    Arguments:
        n_neighbors: k.
        temperature: t in units of the mean squared distance between neighbours, > 0.
        refresh_epochs: 0 keeps the weights of the data space.
    """

    name = "relational"
    formula = r"\sum_{x'\in N(x)\setminus x}s(x,x')\,\tfrac1D\|x'-f(g(x))\|^2"
    reference = "Wang et al. 2014"
    prepares = "k-nearest-neighbour graph, heat-kernel weights"
    cost = "as the point loss, with k targets for every point"

    n_neighbors: int = number(5, 1)
    temperature: float = number(1.0, strict=True)
    refresh_epochs: int = number(50)

    def prepare(self, preparation: Preparation) -> tuple[Tensor, Tensor]:
        return self._weights(preparation.data, preparation.graph(self.n_neighbors))

    def _weights(self, points: Tensor, graph: Tensor) -> tuple[Tensor, Tensor]:
        blocks = neighbor_blocks(points, graph)
        distance = torch.cat([(near - x).square().flatten(2).sum(2).T for x, near in blocks])
        mean = distance.mean().clamp_min(torch.finfo(distance.dtype).tiny)  # all points equal: every weight is one
        return graph, losses.heat_weights(distance, self.temperature * mean)

    @torch.no_grad()
    def refresh(self, model: nn.Module, preparation: Preparation) -> tuple[Tensor, Tensor]:
        model.eval()
        codes = torch.cat([model.encoder(as_floats(part)) for part in preparation.data.split(4096)])
        model.train()
        return self._weights(codes, knn_graph(codes, self.n_neighbors))

    def squared_error(self, batch: Batch, prepared: tuple[Tensor, Tensor]) -> Tensor:
        graph, weights = prepared
        near = batch.rows(graph[batch.index].T)
        return losses.relational_reconstruction(near, batch.decode(batch.code), weights[batch.index].T)


RECONSTRUCTIONS: dict[str, _Reconstruction] = {
    "point": Point(),
    "denoising": Denoising(),
    "gaussian_likelihood": Point("gaussian"),
    **{f"neighborhood_{order}": Neighborhood(order=order) for order in (0, 1, 2)},
    **{f"extended_{order}": Neighborhood(order=order, space="data") for order in (1, 2)},
    "relational": Relational(),
}

"""The catalogue: a method is data. Adding one is one entry here and at most one pure function in ``losses``."""

from dataclasses import dataclass, field, fields, replace
from itertools import product
from typing import Protocol

import torch
from torch import Tensor, nn

from nrae_lib import losses
from nrae_lib.graph import knn_graph, sample_neighbors
from nrae_lib.taylor import taylor


class Batch:
    """Indices into data that already lies on the device; everything a loss term may ask for.

    Arguments:
        data: (N, ...) all training points.
        index: (B,) the points of this batch, or None for all of them in order.
        graph: (N, k) neighbour indices, or None for methods that need none.
        generator: the source of randomness, on the same device.
    """

    def __init__(self, data: Tensor, index: Tensor | None, graph: Tensor | None, generator: torch.Generator):
        self.data, self.graph, self.generator = data, graph, generator
        self.is_whole = index is None
        self.index = torch.arange(len(data), device=data.device) if index is None else index
        self.x = data if index is None else data[index]


class Reconstruction(Protocol):
    """A reconstruction term: its fields are the method's options."""

    def prepare(self, data: Tensor) -> Tensor | None:
        """What is computed once before training (the neighbour graph), or None."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Scalar loss of one batch."""


@dataclass(frozen=True)
class Point:
    """Reconstruct every point from itself, or from a copy with Gaussian noise of standard deviation ``corruption``.

    The target is the uncorrupted point (Vincent et al., *Extracting and Composing Robust Features with Denoising
    Autoencoders*, ICML 2008). Corrupted inputs are not clipped; the noise is drawn afresh at every step.
    """

    corruption: float = 0.0

    def __post_init__(self):
        if not 0 <= self.corruption < float("inf"):
            raise ValueError(f"corruption is a standard deviation and must be >= 0, not {self.corruption}")

    def prepare(self, data: Tensor) -> None:
        return None

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        x = batch.x
        if self.corruption:
            noise = torch.empty_like(x).normal_(generator=batch.generator)
            x = x + self.corruption * noise
        return losses.point_reconstruction(batch.x, model(x))


@dataclass(frozen=True)
class Neighborhood:
    """Reconstruct sampled neighbours from the decoder's Taylor expansion at the centre's code.

    Arguments:
        order: of the expansion: 0, 1 (NRAE-L) or 2 (NRAE-Q).
        neighbor_weight: λ of the kernel (equation 4), >= 0.
        n_neighbors: k of the graph; 0 leaves the plain autoencoder.
        neighbors_per_point: n, neighbours sampled per point and step (the paper: 1).
        replace: draw them with replacement.
        include_center: whether the centre itself is reconstructed too.
        weighting: "sample" or "equation", see :func:`nrae_lib.losses.neighborhood_reconstruction`.
    """

    order: int
    neighbor_weight: float = 1.0
    n_neighbors: int = 5
    neighbors_per_point: int = 1
    replace: bool = False
    include_center: bool = True
    weighting: str = "sample"

    def __post_init__(self):
        if self.order not in (0, 1, 2):
            raise ValueError(f"the order of the expansion must be 0, 1 or 2, not {self.order}")
        if not 0 <= self.neighbor_weight < float("inf"):
            raise ValueError(f"neighbor_weight (λ) must be a finite number >= 0, not {self.neighbor_weight}")
        if self.n_neighbors < 0:
            raise ValueError(f"n_neighbors (k) must be >= 0, not {self.n_neighbors}")
        if self.weighting not in losses.WEIGHTINGS:
            raise ValueError(f"unknown weighting {self.weighting!r}: choose one of {', '.join(losses.WEIGHTINGS)}")
        too_many = not self.replace and self.neighbors_per_point > self.n_neighbors > 0
        if self.neighbors_per_point < 1 or too_many:
            raise ValueError(
                f"neighbors_per_point must be at least 1 and, without replacement, at most n_neighbors "
                f"(k = {self.n_neighbors}), not {self.neighbors_per_point}"
            )

    def prepare(self, data: Tensor) -> Tensor | None:
        return knn_graph(data, self.n_neighbors) if self.n_neighbors else None

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        if not self.n_neighbors:
            return losses.point_reconstruction(batch.x, model(batch.x))
        near = sample_neighbors(batch.graph, batch.index, self.neighbors_per_point, batch.generator, self.replace)
        x_near = batch.data[near]
        if batch.is_whole:  # every neighbour is in the batch: its code is already there
            z = model.encoder(batch.x)
            z_near = z[near]
        else:  # one call for centres and neighbours; the one-pass value is the encoder's, by faster kernels
            both = torch.cat([batch.x[None], x_near]).flatten(0, 1)
            codes = taylor(model.encoder, both, both, 0).value.unflatten(0, (len(near) + 1, len(batch.x)))
            z, z_near = codes[0], codes[1:]
        return losses.neighborhood_reconstruction(
            model.decoder, z, z_near, batch.x, x_near, self.order, self.neighbor_weight,
            self.include_center, self.weighting, self.n_neighbors,
        )  # fmt: skip


@dataclass(frozen=True)
class Method:
    """One entry of the catalogue.

    Arguments:
        name, title: identifier and the papers' spelling.
        reconstruction: the term with its default options.
        options: the fields of ``reconstruction`` a run may set.
        search: option -> candidates of the validation search; the same number of runs is open to every method.
        reference: where the loss is defined.
        semantics: raised whenever the meaning of the loss changes, so that stored results of the old one no
            longer answer for it.
    """

    name: str
    title: str
    reconstruction: Reconstruction
    options: tuple[str, ...] = ()
    search: dict[str, tuple] = field(default_factory=dict)
    reference: str = ""
    semantics: int = 1

    def configure(self, **options) -> Reconstruction:
        """The reconstruction term with ``options`` set.

        Raises:
            ValueError: for an option this method does not have, naming those it has, or a value out of range.
        """
        for name in options:
            if name not in self.options:
                has = f"choose among {', '.join(self.options)}" if self.options else "it has none"
                raise ValueError(f"method {self.name!r} has no option {name!r}: {has}")
        return replace(self.reconstruction, **{name: self._checked(name, value) for name, value in options.items()})

    def _checked(self, name: str, value):
        """``value`` in the type of the option's default; 1 and 1.0 must be one run, "3" none at all."""
        wanted = type(getattr(self.reconstruction, name))
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if wanted is float and number:
            return float(value)
        if type(value) is not wanted:
            raise ValueError(
                f"option {name!r} of method {self.name!r} must be of type {wanted.__name__}, not {value!r}"
            )
        return value

    def describe(self, options: dict) -> str:
        """``options`` in the papers' symbols, such as "λ = 1, k = 8"; the searched ones' defaults, marked, if empty."""
        term, symbols = self.configure(**options), {"neighbor_weight": "λ", "n_neighbors": "k", "corruption": "σ"}
        shown = ", ".join(f"{symbols.get(name, name)} = {getattr(term, name)}" for name in options or self.search)
        return f"{shown} (defaults: no search is stored)" if shown and not options else shown or "none"

    def candidates(self) -> list[dict]:
        """All combinations of ``search``, the options that the validation search tries."""
        return [dict(zip(self.search, values, strict=True)) for values in product(*self.search.values())]


_NEIGHBORHOOD_OPTIONS = tuple(option.name for option in fields(Neighborhood) if option.name != "order")
# Both sides of 1, because paper (λ < 1) and released configurations (λ = 2 to 100) disagree; λ -> 0 is the plain AE.
_NEIGHBORHOOD_SEARCH = {"neighbor_weight": (0.1, 1.0, 10.0, 100.0), "n_neighbors": (2, 4, 8, 16)}


def _neighborhood(name: str, title: str, order: int, reference: str) -> Method:
    return Method(
        name, title, Neighborhood(order), _NEIGHBORHOOD_OPTIONS, _NEIGHBORHOOD_SEARCH,
        f"Lee, Kwon and Park 2021, {reference}",
    )  # fmt: skip


CATALOGUE: dict[str, Method] = {
    entry.name: entry
    for entry in (
        Method("ae", "AE", Point(), reference="Lee, Kwon and Park 2021, section 1"),
        Method(
            "dae", "DAE", Point(corruption=0.1), ("corruption",),
            {"corruption": (0.001, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0)},
            "Vincent et al. 2008; noise as in Lee, Kwon and Park 2021, supplement 1.2",
        ),
        _neighborhood("nrae_0", "NRAE-0", 0, "ablation: equation 2 without its derivatives"),
        _neighborhood("nrae_l", "NRAE-L", 1, "equations 2 to 4, linear"),
        _neighborhood("nrae_q", "NRAE-Q", 2, "equations 2 to 4, quadratic"),
    )
}  # fmt: skip


def get(name: str) -> Method:
    """The catalogue's entry ``name``; ValueError naming all methods if there is none."""
    if name not in CATALOGUE:
        raise ValueError(f"unknown method {name!r}: choose one of {', '.join(CATALOGUE)}")
    return CATALOGUE[name]

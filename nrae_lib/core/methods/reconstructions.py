"""Reconstruction terms."""

from dataclasses import dataclass
from math import log
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nrae_lib.core import losses
from nrae_lib.core.graph import knn_graph
from nrae_lib.core.methods.terms import Batch, Preparation, Term, choice, neighbor_blocks, number, per_sample
from nrae_lib.core.points import picked


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

    where: ClassVar[tuple[str, ...]] = ()  # what the formula's symbols mean, in LaTeX

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

    name: ClassVar[str] = "point"
    formula: ClassVar[str] = r"\tfrac1D\|x-f(g(x))\|^2"
    reference: ClassVar[str] = "Lee, Kwon and Park 2021, section 1"
    cost: ClassVar[str] = "one pass of encoder and decoder"

    def squared_error(self, batch: Batch, prepared: None) -> Tensor:
        return losses.point_reconstruction(batch.x, batch.decode(batch.code))


@dataclass(frozen=True)
class Denoising(_Reconstruction):
    """Reconstruct every point from a copy with Gaussian noise of standard deviation ``corruption``.

    From Vincent et al., *Extracting and Composing Robust Features with Denoising Autoencoders*, ICML 2008. Corrupted
    inputs are not clipped; noise is drawn afresh at every step. Penalties see the codes of the uncorrupted points.
    """

    name: ClassVar[str] = "denoising"
    formula: ClassVar[str] = r"\tfrac1D\|x-f(g(x+\sigma\varepsilon))\|^2"
    reference: ClassVar[str] = "Vincent et al. 2008; noise as in Lee, Kwon and Park 2021, supplement 1.2"
    cost: ClassVar[str] = "as the point loss; penalties on codes add a pass of the encoder"

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
        neighbors_per_point: n, neighbours sampled per point and step (the paper: 1).
        replace: draw them with replacement.
        include_center: whether the centre itself is reconstructed too.
        weighting: "sample" or "equation".
    """

    name: ClassVar[str] = "neighborhood"
    formula: ClassVar[str] = r"\tfrac{1}{|N(x)|}\sum_{x'\in N(x)}K(x',x)\,\tfrac1D\|x'-\tilde F(x';x)\|^2"
    prepares: ClassVar[str] = "k-nearest-neighbour graph"
    cost: ClassVar[str] = (
        "one more coefficient per order through what is expanded; in latent space also the codes of the neighbours"
    )
    fixed: ClassVar[tuple[str, ...]] = ("order", "space")

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
            with batch.autoencoder() as network:
                return self._expanded(network, *points, *points)
        z_near = batch.code_near(near)
        with per_sample(batch.model.decoder) as decoder:
            return self._expanded(decoder, batch.code, z_near, *points)

    def _expanded(self, network: nn.Module, *points: Tensor) -> Tensor:
        options = self.order, self.neighbor_weight, self.include_center, self.weighting, self.n_neighbors
        return losses.neighborhood_reconstruction(network, *points, *options)


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

    name: ClassVar[str] = "relational"
    formula: ClassVar[str] = r"\sum_{x'\in N(x)\setminus x}s(x,x')\,\tfrac1D\|x'-f(g(x))\|^2"
    reference: ClassVar[str] = "Wang et al. 2014"
    prepares: ClassVar[str] = "k-nearest-neighbour graph, heat-kernel weights"
    cost: ClassVar[str] = "as the point loss, with k targets for every point"

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
        index = torch.arange(len(preparation.data), device=preparation.data.device)
        codes = torch.cat([model.encoder(picked(preparation.data, part)) for part in index.split(4096)])
        model.train()
        return self._weights(codes, knn_graph(codes, self.n_neighbors))

    def squared_error(self, batch: Batch, prepared: tuple[Tensor, Tensor]) -> Tensor:
        graph, weights = prepared
        near = batch.rows(batch.near(graph))
        return losses.relational_reconstruction(near, batch.decode(batch.code), weights[batch.index].T)


RECONSTRUCTIONS: dict[str, _Reconstruction] = {
    "point": Point(),
    "denoising": Denoising(),
    "gaussian_likelihood": Point("gaussian"),
    **{f"neighborhood_{order}": Neighborhood(order=order) for order in (0, 1, 2)},
    **{f"extended_{order}": Neighborhood(order=order, space="data") for order in (1, 2)},
    "relational": Relational(),
}

"""Loss terms: reconstruction terms, and penalties that are added to one, each with a weight in its paper's convention."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from math import inf, log
from typing import Any

import torch
from torch import Tensor, nn

from nrae_lib.core import losses
from nrae_lib.core.extras import library
from nrae_lib.core.graph import knn_graph
from nrae_lib.core.methods.batch import Batch, Preparation, neighbor_blocks, per_sample
from nrae_lib.core.points import as_floats

JACOBIANS = ("auto", "exact", "estimate")
# Exact Jacobians take m passes and hold the graphs of all of them; beyond m · D of 2^16 (MNIST with 83 latent
# dimensions, 32 x 32 colour images with 21) the estimate from one pass replaces them.
EXACT_JACOBIAN_LIMIT = 2**16


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


def check_choice(name: str, value: Any, valid: tuple) -> None:
    """Stop with one sentence unless ``value`` is one of ``valid``."""
    if value not in valid:
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
        neighbors_per_point: n, neighbours sampled per point and step (the paper: 1).
        replace: draw them with replacement.
        include_center: whether the centre itself is reconstructed too.
        weighting: "sample" or "equation".
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


@dataclass(frozen=True)
class _Penalty(Term):
    """Arguments: weight: the coefficient, in the paper's convention (see ``summed``), >= 0."""

    weight: float = number(1.0)

    @property
    def weight_option(self) -> str:
        return f"{self.name}_weight"


def _directions(jacobian: str, batch: Batch) -> Callable[[Tensor], Tensor] | None:
    """What draws the directions of an estimate, or None for the exact Jacobian."""
    small = batch.code.shape[1] * batch.x[0].numel() <= EXACT_JACOBIAN_LIMIT
    return None if jacobian == "exact" or (jacobian == "auto" and small) else batch.normal


@dataclass(frozen=True)
class KL(_Penalty):
    """Divergence of the Gaussian posterior from N(0, I), see :func:`nrae_lib.core.losses.kl_to_standard_normal`.

    The encoder then has two outputs, μ and log σ, and the decoder sees μ + σ ε; codes of new points are μ.
    With ``posterior="constant"`` (CV-VAE, Ghosh et al. 2020) σ is ``deviation`` everywhere and only μ is learned.
    """

    name = "kl"
    excluded_latents = ("circular", "batchnorm")
    formula = r"\mathrm{KL}\big(\mathcal N(\mu,\sigma^2)\,\|\,\mathcal N(0,I)\big)"
    reference = "Kingma and Welling 2014"
    cost = "nothing but a wider last layer of the encoder"
    summed = True

    posterior: str = choice("learned", ("learned", "constant"))
    deviation: float = number(0.7, strict=True)

    def loss(self, batch: Batch, prepared: None) -> Tensor:
        return losses.kl_to_standard_normal(*batch.posterior)


@dataclass(frozen=True)
class MMD(_Penalty):
    """Maximum mean discrepancy between the codes and as many draws from N(0, I), fresh at every step, see
    :func:`nrae_lib.core.losses.maximum_mean_discrepancy`.

    Arguments:
        kernel: "gaussian" with the median heuristic (NRAE, after its laboratory's earlier code) or "imq", the inverse
            multiquadratic of Tolstikhin et al. 2018.
    """

    name = "mmd"
    fewest_points = 2
    formula = r"\mathrm{MMD}^2_\kappa\big(g(x),\mathcal N(0,I)\big)"
    reference = "Tolstikhin et al. 2018; kernel as in Lee, Kwon and Park 2021, supplement 1.2"
    cost = "three kernels of B × B pairs"

    weight: float = number(0.01)
    kernel: str = choice("gaussian", losses.KERNELS)

    def loss(self, batch: Batch, prepared: None) -> Tensor:
        return losses.maximum_mean_discrepancy(batch.code, batch.normal(batch.code), self.kernel)


@dataclass(frozen=True)
class Contraction(_Penalty):
    """Squared Frobenius norm of the encoder's Jacobian, see :func:`nrae_lib.core.losses.encoder_contraction`.

    Arguments:
        jacobian: "exact" (m passes), "estimate" (unbiased, one pass) or "auto": exact while m · D is at most 65,536.
    """

    name = "contraction"
    formula = r"\|J_g(x)\|_F^2"
    reference = "Rifai et al. 2011"
    cost = "m vector-Jacobian products of the encoder, or one for the estimate"

    weight: float = number(0.01)
    jacobian: str = choice("auto", JACOBIANS)

    def loss(self, batch: Batch, prepared: None) -> Tensor:
        normal = _directions(self.jacobian, batch)
        with batch.encoder() as encoder:
            return losses.encoder_contraction(encoder, batch.x, normal)


@dataclass(frozen=True)
class PhateTarget(_Penalty):
    """Squared distance of the codes from the PHATE embedding of the data, standardized per coordinate (GRAE).

    PHATE with ``phate_knn`` neighbours, automatic diffusion time, gamma 1 and as many components as the code has
    (Duque et al. 2020; the NRAE paper states none of this), by SMACOF up to 2,000 points, where that is quick, and by
    stochastic descent beyond. The target exists for training points only.
    """

    name = "phate"
    formula = r"\tfrac1m\|g(x)-z_{\mathrm{PHATE}}\|^2"
    reference = "Duque et al. 2020"
    prepares = "PHATE embedding of the training points"
    cost = "nothing in a step; PHATE once before training"

    weight: float = number(100.0)
    phate_knn: int = number(5, 1)

    def prepare(self, preparation: Preparation) -> Tensor:
        phate = library("phate", "phate", "the target of GRAE needs", "phate")
        data = as_floats(preparation.data)
        points = data.flatten(1).cpu().double().numpy()
        if not self.phate_knn < len(points):
            raise ValueError(f"phate_knn must be below the number of points, {len(points)}, not {self.phate_knn}")
        operator = phate.PHATE(
            n_components=preparation.latent_dim, knn=self.phate_knn, t="auto", gamma=1, random_state=preparation.seed,
            n_jobs=1, verbose=False, mds_solver="smacof" if len(points) <= 2000 else "sgd",
        )  # fmt: skip
        try:
            embedding = torch.from_numpy(operator.fit_transform(points)).to(data)
        except ValueError as error:
            raise ValueError(f"PHATE, the target of GRAE, cannot embed these points: {error}") from error
        return (embedding - embedding.mean(0)) / embedding.std(0, correction=0)

    def loss(self, batch: Batch, target: Tensor) -> Tensor:
        return losses.distance_to_target(batch.code, target[batch.index])


@dataclass(frozen=True)
class Barycenter(_Penalty):
    """Squared distance of a code from the same combination of its neighbours' codes that reproduces the point (SPAE).

    The weights are those of locally linear embedding, :func:`nrae_lib.core.losses.barycenter_weights`. INFERRED from the
    paper's remarks: its "SPAE" cites Chen et al. 2021 and "linear coefficients computation"; no formula is printed.
    """

    name = "barycenter"
    formula = r"\big\|g(x)-\textstyle\sum_{x'\in N(x)\setminus x}w(x,x')\,g(x')\big\|^2"
    reference = "Chen et al. 2021; Roweis and Saul 2000; INFERRED"
    prepares = "k-nearest-neighbour graph, barycentre weights"
    cost = "k neighbours of every point through the encoder"

    weight: float = number(1e-3)
    n_neighbors: int = number(5, 1)
    ridge: float = number(1e-3, strict=True)

    def prepare(self, preparation: Preparation) -> tuple[Tensor, Tensor]:
        graph = preparation.graph(self.n_neighbors)
        blocks = neighbor_blocks(preparation.data, graph)
        return graph, torch.cat([losses.barycenter_weights(x, near, self.ridge).T for x, near in blocks])

    def loss(self, batch: Batch, prepared: tuple[Tensor, Tensor]) -> Tensor:
        graph, weights = prepared
        z_near = batch.code_near(graph[batch.index].T)
        return losses.barycenter_error(batch.code, z_near, weights[batch.index].T)


@dataclass(frozen=True)
class Topology(_Penalty):
    """Difference of the 0-dimensional persistence of data and codes, see :func:`nrae_lib.core.losses.topological_loss`;
    the scale of the latent distances is learned."""

    name = "topology"
    fewest_points = 2
    formula = r"\tfrac1B\big(\|A^X[\pi_X]-A^Z[\pi_X]\|^2+\|A^Z[\pi_Z]-A^X[\pi_Z]\|^2\big)"
    reference = "Moor et al. 2020"
    cost = "two minimum spanning trees of B points, built edge by edge"

    def parameters(self) -> dict[str, float]:
        return {"log_latent_scale": 0.0}

    def loss(self, batch: Batch, prepared: None) -> Tensor:
        return losses.topological_loss(batch.x, batch.code, batch.model.learned["log_latent_scale"].exp())


@dataclass(frozen=True)
class Isometry(_Penalty):
    """L_iso of I-AE: the decoder keeps lengths, see :func:`nrae_lib.core.losses.isometry`.

    Arguments:
        latents: where it is asked for, "gaussian" (fitted to the batch's codes), "box" (uniform in the codes'
            bounding box) or "codes" themselves. The paper says "either ... or" of the first two; the default is ours.
    """

    name = "isometry"
    excluded_latents = ("circular",)
    formula = r"\mathbb E_{z,u}\big(\|J_f(z)u\|-1\big)^2"
    reference = "Gropp, Atzmon and Lipman 2020, equation 6"
    cost = "one directional derivative of the decoder"
    summed = True

    weight: float = number(0.1)
    latents: str = choice("gaussian", ("gaussian", "box", "codes"))

    def loss(self, batch: Batch, prepared: None) -> Tensor:
        z = batch.code.detach()
        if self.latents == "gaussian" and len(z) > 1:
            centred = z - z.mean(0)
            covariance = centred.T @ centred / (len(z) - 1)
            # The factor without a check waits for no device; the small diagonal makes it exist for codes on a line, too.
            small = 10 * torch.finfo(z.dtype).eps * covariance.trace() + torch.finfo(z.dtype).tiny
            identity = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
            factor = torch.linalg.cholesky_ex(covariance + small * identity).L
            z = z.mean(0) + batch.normal(z) @ factor.T
        elif self.latents == "box":
            low, high = z.min(0).values, z.max(0).values
            z = low + (high - low) * torch.empty_like(z).uniform_(generator=batch.generator)
        with per_sample(batch.model.decoder) as decoder:
            return losses.isometry(decoder, z, batch.normal)


@dataclass(frozen=True)
class PseudoIsometry(_Penalty):
    """L_piso of I-AE: the encoder is a pseudo-inverse of an isometry, see :func:`nrae_lib.core.losses.pseudo_isometry`.

    Its weight and that of :class:`Isometry` are one option, ``isometry_weight``: the paper has a single λ_iso.
    """

    name = "pseudo_isometry"
    excluded_latents = ("circular",)
    weight_option = "isometry_weight"
    formula = r"\mathbb E_{x,u}\big(\|u^\top J_g(x)\|-1\big)^2"
    reference = "Gropp, Atzmon and Lipman 2020, equation 7"
    cost = "one vector-Jacobian product of the encoder"
    summed = True

    weight: float = number(0.1)

    def loss(self, batch: Batch, prepared: None) -> Tensor:
        with batch.encoder() as encoder:
            return losses.pseudo_isometry(encoder, batch.x, batch.normal)


@dataclass(frozen=True)
class CodeNorm(_Penalty):
    """Mean square of the codes, the embedding loss of RAE, see :func:`nrae_lib.core.losses.code_norm`."""

    name = "code_norm"
    formula = r"\tfrac1m\|g(x)\|^2"
    reference = "Ghosh et al. 2020; reduction of the released code"
    cost = "next to nothing"

    weight: float = number(5e-4)

    def loss(self, batch: Batch, prepared: None) -> Tensor:
        return losses.code_norm(batch.code)


@dataclass(frozen=True)
class WeightNorm(_Penalty):
    """Sum of the squared weights (not biases) of the ``part``: "decoder" (RAE-L2) or "all" (weight decay)."""

    name = "weight_norm"
    formula = r"\textstyle\sum w^2"
    reference = "Ghosh et al. 2020"
    cost = "one reading of the weights"

    weight: float = number(1e-7)
    part: str = choice("decoder", ("decoder", "all"))

    def loss(self, batch: Batch, prepared: None) -> Tensor:
        return losses.weight_norm(batch.model.decoder if self.part == "decoder" else batch.model)


@dataclass(frozen=True)
class DecoderJacobian(_Penalty):
    """Gradient penalty on the decoder (RAE-GP).

    Arguments:
        form: "frobenius", the squared norm of the Jacobian as both papers define it, or "released", what the
            authors' code computes, mean_k (∂ Σ_p f_p² / ∂z_k)² (:func:`nrae_lib.core.losses.energy_gradient_norm`).
        jacobian: see :class:`Contraction`; for "frobenius" only.
    """

    name = "gradient"
    formula = r"\|J_f(g(x))\|_F^2"
    reference = "Ghosh et al. 2020"
    cost = "m directional derivatives of the decoder, or one for the estimate"

    weight: float = number(1e-6)
    form: str = choice("frobenius", ("frobenius", "released"))
    jacobian: str = choice("auto", JACOBIANS)

    def loss(self, batch: Batch, prepared: None) -> Tensor:
        with per_sample(batch.model.decoder) as decoder:
            if self.form == "released":
                return losses.energy_gradient_norm(decoder, batch.code)
            return losses.decoder_jacobian_norm(decoder, batch.code, _directions(self.jacobian, batch))


@dataclass(frozen=True)
class Entropy(_Penalty):
    """Minus the entropy of the batch's codes (EAE), see :func:`nrae_lib.core.losses.nearest_neighbor_entropy`."""

    name = "entropy"
    fewest_points = 2
    formula = r"-\hat H(g(x))"
    reference = "entropic autoencoder, supplement; Kozachenko and Leonenko 1987"
    cost = "distances of B × B pairs"

    weight: float = number(1e-3)

    def loss(self, batch: Batch, prepared: None) -> Tensor:
        return -losses.nearest_neighbor_entropy(batch.code)


RECONSTRUCTIONS: dict[str, _Reconstruction] = {
    "point": Point(),
    "denoising": Denoising(),
    "gaussian_likelihood": Point("gaussian"),
    **{f"neighborhood_{order}": Neighborhood(order=order) for order in (0, 1, 2)},
    **{f"extended_{order}": Neighborhood(order=order, space="data") for order in (1, 2)},
    "relational": Relational(),
}
PENALTIES: dict[str, _Penalty] = {penalty.name: penalty for penalty in (
    KL(), MMD(), Contraction(), PhateTarget(), Barycenter(), Topology(), Isometry(), PseudoIsometry(), CodeNorm(),
    WeightNorm(), DecoderJacobian(), Entropy(),
)}  # fmt: skip

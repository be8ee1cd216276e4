"""Penalties: everything that is added to a reconstruction term, each with a weight in its paper's convention."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nrae_lib.core import losses
from nrae_lib.core.extras import library
from nrae_lib.core.methods.terms import Batch, Preparation, Term, choice, neighbor_blocks, number, per_sample
from nrae_lib.core.points import as_floats

JACOBIANS = ("auto", "exact", "estimate")
# Exact Jacobians take m passes and hold the graphs of all of them; beyond m · D of 2^16 (MNIST with 83 latent
# dimensions, 32 x 32 colour images with 21) the estimate from one pass replaces them.
EXACT_JACOBIAN_LIMIT = 2**16


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


PENALTIES: dict[str, _Penalty] = {penalty.name: penalty for penalty in (
    KL(), MMD(), Contraction(), PhateTarget(), Barycenter(), Topology(), Isometry(), PseudoIsometry(), CodeNorm(),
    WeightNorm(), DecoderJacobian(), Entropy(),
)}  # fmt: skip

"""Reconstruction losses; equations are those of Lee, Kwon and Park, *Neighborhood Reconstructing Autoencoders*, 2021."""

from math import log, pi

import torch
from torch import Tensor, nn

from nrae_lib.core.taylor import taylor

WEIGHTINGS = ("sample", "equation")


def point_reconstruction(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Point loss (1/B) Σ_i (1/D) ‖x_i - f(g(x_i))‖² of the vanilla autoencoder (section 1), both (B, ...)."""
    return (x - reconstruction).square().mean()


def neighborhood_reconstruction(
    decoder: nn.Module,
    z: Tensor,
    z_near: Tensor,
    x: Tensor,
    x_near: Tensor,
    order: int,
    neighbor_weight: float,
    include_center: bool = True,
    weighting: str = "sample",
    n_neighbors: int | None = None,
) -> Tensor:
    r"""Neighbourhood reconstruction loss (equations 2 to 4) on sampled neighbours.

    The kernel K(x', x) weighs the centre with 1 and its neighbours with λ (the released code had the two exchanged
    from November 2021 to November 2022). With F̃(x'; x) the Taylor expansion of the decoder f at z = g(x), evaluated at z' = g(x'),

        order 0: f(z);   order 1 (NRAE-L): f(z) + J_f(z) dz;   order 2 (NRAE-Q): ... + ½ d²f(z)(dz, dz),

    dz = z' - z, the loss is the batch mean of

        weighting "sample" (section 2.2):  1/(n+1) [ ‖x - f(z)‖²/D + λ Σ_j ‖x'_j - F̃(x'_j; x)‖²/D ],
        weighting "equation" (equation 3): 1/(k+1) [ ‖x - f(z)‖²/D + λ (k/n) Σ_j ‖x'_j - F̃(x'_j; x)‖²/D ],

    over the n sampled of k neighbours. The second estimates equation 3 without bias; the paper trains with the
    first, n = 1, where the neighbours together weigh λ against the centre instead of λ k. Gradients flow through
    z and z', as in the released code. Without the centre its term is dropped and the mean is over n neighbours:
    λ is then a common factor, which Adam ignores. With n = 0 the loss is the point loss.

    Arguments:
        decoder: f, from (B, m) to (B, ...).
        z, z_near: (B, m) codes of the centres and (n, B, m) of their neighbours.
        x, x_near: (B, ...) and (n, B, ...) the data.
        order: 0, 1 or 2.
        neighbor_weight: λ >= 0. The paper states 0 <= λ < 1, its released configurations use 2 to 100.
        include_center: whether the centre's own term is part of the loss.
        weighting: "sample" or "equation"; without the centre there is nothing to weigh.
        n_neighbors: k; needed by weighting "equation" only.

    Raises:
        ValueError: for an unknown weighting, or weighting "equation" without k.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"unknown weighting {weighting!r}: choose one of {', '.join(WEIGHTINGS)}")
    if weighting == "equation" and not n_neighbors:
        raise ValueError('weighting "equation" needs n_neighbors, the k of the graph')
    sampled = len(z_near)
    if sampled == 0:
        return point_reconstruction(x, decoder(z))
    jet = taylor(decoder, z, z_near - z, order)
    near = (x_near - jet.expansion()).square().mean()
    if not include_center:
        return neighbor_weight * near
    center = point_reconstruction(x, jet.value)
    if weighting == "equation":
        return (center + neighbor_weight * n_neighbors * near) / (n_neighbors + 1)
    return (center + neighbor_weight * sampled * near) / (sampled + 1)


def gaussian_likelihood(error: Tensor, log_sigma: Tensor) -> Tensor:
    r"""Negative log likelihood per feature of an isotropic Gaussian decoder with trainable deviation.

    For p(x | z) = N(f(z), s² I) with s = exp(log_sigma) and the mean-D squared error E,

        -(1/D) log p = ½ log 2π + log s + E / (2 s²),

    in nats per feature; its minimum over s is at s² = E. The released decoder learns s itself, which can pass through
    zero; its logarithm cannot.

    Arguments:
        error: E, a scalar such as :func:`point_reconstruction`, or a neighbourhood error (NRVAE, Lee et al., table 4).
        log_sigma: scalar, log s.
    """
    return 0.5 * log(2 * pi) + log_sigma + 0.5 * error * torch.exp(-2 * log_sigma)


def relational_reconstruction(x_near: Tensor, reconstruction: Tensor, weights: Tensor) -> Tensor:
    """Reconstruction of weighted relatives, (1/B) Σ_i Σ_j s_ij (1/D) ‖x_j - f(g(x_i))‖²: a sum, not a mean, over j.

    The generalized autoencoder of Wang, Huang, Wang and Wang, *Generalized Autoencoder: A Neural Network Framework
    for Dimensionality Reduction*, CVPR workshops 2014. With the point itself as the only relative and weight 1 it is the
    point loss.

    Arguments:
        x_near, reconstruction: (k, B, ...) the relatives of every point, and (B, ...) f(g(x_i)).
        weights: (k, B) s_ij, for example of :func:`heat_weights` (GAE-LE).
    """
    error = (x_near - reconstruction).square().flatten(2).mean(2)
    return (weights * error).sum(0).mean()


def heat_weights(squared_distance: Tensor, temperature: float) -> Tensor:
    """Heat kernel s_ij = exp(-‖x_i - x_j‖² / t) of GAE-LE (Wang et al. 2014) and Laplacian eigenmaps, between 0 and 1.

    Arguments:
        squared_distance: ‖x_i - x_j‖² of any shape, summed over features.
        temperature: t > 0, in the same unit.
    """
    return torch.exp(-squared_distance / temperature)

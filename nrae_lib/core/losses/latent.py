"""Terms on the latent codes: divergences from a prior, norms, entropy, distances to targets and neighbours."""

from math import lgamma, log, pi

import torch
from torch import Tensor

KERNELS = ("gaussian", "imq")
# Of the inverse multiquadratic kernel, as in the released code of Tolstikhin et al.
_IMQ_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_EULER_GAMMA = 0.5772156649015329


def distances(a: Tensor, b: Tensor) -> Tensor:
    """(n, n') Euclidean distances of the rows, exact for near ones too; the gradient at distance zero is zero."""
    # Without the expansion ‖a‖² + ‖b‖² - 2ab, which has neither property.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def kl_to_standard_normal(mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Kullback-Leibler divergence of N(μ, diag σ²) from N(0, I), mean over the batch of ½ Σ_m (μ² + σ² - 2 log σ - 1).

    Kingma and Welling, *Auto-Encoding Variational Bayes*, 2014, appendix B. In nats, summed over the latent dimensions.

    Arguments:
        mean: (B, m) μ.
        log_deviation: (B, m) log σ, which is half of the log variance that other codes use.
    """
    per_dimension = mean.square() + torch.exp(2 * log_deviation) - 2 * log_deviation - 1
    return 0.5 * per_dimension.sum(1).mean()


def maximum_mean_discrepancy(z: Tensor, prior: Tensor, kernel: str = "gaussian") -> Tensor:
    """Squared maximum mean discrepancy between codes and samples of the prior, zero in expectation if both agree.

    Within each sample the mean of the kernel over pairs of different points, across the mean over all pairs:

        MMD² = (1/(n(n-1))) Σ_{i≠j} k(z_i, z_j) + (1/(n'(n'-1))) Σ_{i≠j} k(p_i, p_j) - (2/(n n')) Σ_{i,j} k(z_i, p_j)

    (Gretton et al., *A Kernel Two-Sample Test*, JMLR 2012, lemma 6). An estimate, so it may be negative.

        "gaussian": k = exp(-d² / (2h²)), 2h² = median of d² within z + median of d² within the prior sample,
        without gradient; the baseline WAE of Lee et al., whose code is that of Yoon et al., *Autoencoding Under
        Normalization Constraints*, 2021. Of an even number of distances the median is the lower of the middle two.
        Since h follows the samples, the expectation is zero only up to a remainder that falls with n.

        "imq": k = Σ_s C_s / (C_s + d²), C_s = 2 m s, s in {0.1, 0.2, 0.5, 1, 2, 5, 10}, for a prior of unit variance;
        Tolstikhin et al., *Wasserstein Auto-Encoders*, 2018, and its released code.

    Arguments:
        z, prior: (n, m) codes and (n', m) fresh samples of the prior.
        kernel: "gaussian" or "imq".

    Raises:
        ValueError: for an unknown kernel, or fewer than two codes or samples.
    """
    if kernel not in KERNELS:
        raise ValueError(f"unknown kernel {kernel!r}: choose one of {', '.join(KERNELS)}")
    if min(len(z), len(prior)) < 2:
        raise ValueError(f"the discrepancy needs at least two codes and two samples, not {len(z)} and {len(prior)}")
    squared = [distances(a, b).square() for a, b in ((z, z), (prior, prior), (z, prior))]
    if kernel == "gaussian":
        width = sum(_off_diagonal(within.detach()).median() for within in squared[:2])
        width = width.clamp_min(torch.finfo(width.dtype).tiny)  # all codes and all samples in one point each
        similarity = [torch.exp(-d / width) for d in squared]
    else:
        scales = [2 * z.shape[1] * scale for scale in _IMQ_SCALES]
        similarity = [sum(scale / (scale + d) for scale in scales) for d in squared]
    codes, samples, across = similarity
    return _off_diagonal(codes).mean() + _off_diagonal(samples).mean() - 2 * across.mean()


def _off_diagonal(matrix: Tensor) -> Tensor:
    """The entries of a square matrix beside its diagonal, in a shape that does not depend on the values."""
    count = len(matrix)
    return matrix.flatten()[1:].view(count - 1, count + 1)[:, :-1]


def code_norm(z: Tensor) -> Tensor:
    """Mean over batch and latent dimensions of z², (B, m): the embedding loss of the regularized autoencoders, without ½.

    Ghosh et al., *From Variational to Deterministic Autoencoders*, 2020; reduction of the released code.
    """
    return z.square().mean()


def nearest_neighbor_entropy(z: Tensor, eps: float = 1e-8) -> Tensor:
    """Kozachenko-Leonenko estimate of the codes' differential entropy from nearest neighbours, in nats.

    With ε_i the distance of code i to the nearest other code of the minibatch, B_d the volume of the unit ball and
    γ Euler's constant,

        H = (d/n) Σ_i log(ε_i + eps) + log B_d + log(n - 1) + γ,

    the entropy that the entropic autoencoder maximizes; only the first term has a gradient, which is zero between
    duplicates. Biased upwards where codes are few for their dimension, and unequally: for minibatches of 100 in 32
    dimensions it prefers a uniform to a normal distribution of the same variance. It spreads codes, and does not make
    them normal.

    Kozachenko and Leonenko, *Sample Estimate of the Entropy of a Random Vector*, 1987.

    Arguments:
        z: (n, d) codes.
        eps: added to the distances, far below them; keeps duplicates finite.

    Raises:
        ValueError: for fewer than two codes.
    """
    count, dimension = z.shape
    if count < 2:
        raise ValueError(f"the distance to the nearest other code needs at least two codes, not {count}")
    itself = torch.eye(count, dtype=torch.bool, device=z.device)
    nearest = distances(z, z).masked_fill(itself, torch.inf).min(dim=1).values
    log_ball = 0.5 * dimension * log(pi) - lgamma(0.5 * dimension + 1)
    return dimension * torch.log(nearest + eps).mean() + log_ball + log(count - 1) + _EULER_GAMMA


def distance_to_target(z: Tensor, target: Tensor) -> Tensor:
    """Mean over batch and latent dimensions of (z - e)², both (B, m): the geometric loss of GRAE.

    Duque, Morin, Wolf and Moon, *Extendable and Invertible Manifold Learning with Geometry Regularized Autoencoders*,
    2020; reduction of the released code. The targets e are an embedding of the training points (PHATE).
    """
    return (z - target).square().mean()


def barycenter_weights(x: Tensor, x_near: Tensor, ridge: float = 1e-3) -> Tensor:
    """Weights that reconstruct each point from its neighbours, w_i = argmin_{Σ_j w_ij = 1} ‖x_i - Σ_j w_ij x_j‖².

    With the local Gram matrix G_jl = (x_j - x_i)·(x_l - x_i) the solution is proportional to (G + r I)^{-1} 1. The
    ridge r = ``ridge`` · trace G (``ridge`` itself if all neighbours coincide with the point) makes it unique when
    there are more neighbours than dimensions. Roweis and Saul, *Nonlinear Dimensionality Reduction by Locally Linear
    Embedding*, Science 2000.

    Arguments:
        x, x_near: (B, ...) and (k, B, ...) the neighbours of every point.
        ridge: relative to the trace.

    Returns:
        (k, B) weights, which sum to one over k and may be negative. Memory: one copy of ``x_near``.
    """
    offsets = (x_near - x).flatten(2).transpose(0, 1)
    gram = offsets @ offsets.mT
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)
    added = ridge * torch.where(trace > 0, trace, 1)
    ones = gram.new_ones(gram.shape[:2])
    solution = torch.linalg.solve(gram + torch.diag_embed(added[:, None] * ones), ones)
    return (solution / solution.sum(1, keepdim=True)).T


def barycenter_error(z: Tensor, z_near: Tensor, weights: Tensor) -> Tensor:
    """How far each code is from the barycentre of its neighbours' codes, mean over the batch of ‖z_i - Σ_j w_ij z_j‖².

    The structure-preserving term of the baseline SPAE of Lee et al. Inferred: the paper says only that linear
    coefficients are computed beforehand (Chen et al., *Neighborhood Geometric Structure-Preserving Variational
    Autoencoder for Smooth and Bounded Data Sources*, 2021) and that the encoder is applied to the neighbours too; this
    reading takes the coefficients of locally linear embedding, :func:`barycenter_weights`. Constant codes minimize it,
    so it needs a reconstruction term beside it. A sum over the m latent dimensions.

    Arguments:
        z, z_near: (B, m) codes of the points and (k, B, m) of their neighbours.
        weights: (k, B), constants.
    """
    barycenter = torch.einsum("kb,kbm->bm", weights, z_near)
    return (z - barycenter).square().sum(1).mean()

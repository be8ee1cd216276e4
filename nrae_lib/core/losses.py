"""Loss terms: pure functions of tensors, one per idea. A method adds some of them with its coefficients.

One reduction everywhere: data-space errors are "mean-D", the mean over the batch of the mean over features, so that
a coefficient means the same for a curve in the plane and for an image. Every other term states its own reduction. What
has no entry "Returns" returns a scalar, with gradients for the parameters and for every tensor that is not called constant.

Terms on derivatives: J_f is the (D, m) Jacobian of the decoder f: (B, m) -> (B, ...), J_g the (m, D) Jacobian of the encoder
g: (B, ...) -> (B, m), per sample and with the data flattened. The networks must treat the samples of a batch independently;
batch normalization in training mode does not. ``normal`` is the source of randomness: a function that gives standard normal
numbers of the shape, type and device of its argument. Directions are drawn uniformly from the unit sphere S^{m-1}: ±1 for m = 1.
"""

from collections.abc import Callable
from math import lgamma, log, pi

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from nrae_lib.core.taylor import taylor

Function = Callable[[Tensor], Tensor]
WEIGHTINGS = ("sample", "equation")
KERNELS = ("gaussian", "imq")
# Of the inverse multiquadratic kernel, as in the released code of Tolstikhin et al.
_IMQ_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_EULER_GAMMA = 0.5772156649015329
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


# Reconstruction; equations are those of Lee, Kwon and Park, Neighborhood Reconstructing Autoencoders, 2021


def point_reconstruction(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Point loss (1/B) Σ_i (1/D) ‖x_i - f(g(x_i))‖² of the vanilla autoencoder (section 1), both (B, ...)."""
    return (x - reconstruction).square().mean()


def neighborhood_reconstruction(
    decoder: nn.Module, z: Tensor, z_near: Tensor, x: Tensor, x_near: Tensor, order: int, neighbor_weight: float,
    include_center: bool = True, weighting: str = "sample", n_neighbors: int | None = None,
) -> Tensor:  # fmt: skip
    r"""Neighbourhood reconstruction loss (equations 2 to 4) on sampled neighbours.

    The kernel K(x', x) weighs the centre with 1 and its neighbours with λ (the released code had the two exchanged
    from November 2021 to November 2022). With F̃(x'; x) the Taylor expansion of the decoder f at z = g(x), evaluated at z' = g(x'),

        order 0: f(z);   order 1 (NRAE-L): f(z) + J_f(z) dz;   order 2 (NRAE-Q): ... + ½ d²f(z)(dz, dz),

    dz = z' - z, the loss is the batch mean of

        weighting "sample" (section 2.2):  1/(n+1) [ ‖x - f(z)‖²/D + λ Σ_j ‖x'_j - F̃(x'_j; x)‖²/D ],
        weighting "equation" (equation 3): 1/(k+1) [ ‖x - f(z)‖²/D + λ (k/n) Σ_j ‖x'_j - F̃(x'_j; x)‖²/D ],

    over the n sampled of k neighbours. The second estimates equation 3 without bias; the paper trains with the first, n
    = 1, where the neighbours together weigh λ against the centre instead of λ k. Gradients flow through z and z', as in
    the released code. Without the centre its term is dropped and the mean is over n neighbours: Adam ignores λ then.
    With n = 0 it is the point loss. ValueError for an unknown weighting, or weighting "equation" without k.

    Arguments:
        decoder: f, from (B, m) to (B, ...).
        z, z_near: (B, m) codes of the centres and (n, B, m) of their neighbours.
        x, x_near: (B, ...) and (n, B, ...) the data.
        neighbor_weight: λ >= 0. The paper states 0 <= λ < 1, its released configurations use 2 to 100.
        weighting, n_neighbors: see above; k is needed by "equation" only. Without the centre there is nothing to weigh.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"unknown weighting {weighting!r}: choose one of {', '.join(WEIGHTINGS)}")
    if weighting == "equation" and not n_neighbors:
        raise ValueError('weighting "equation" needs n_neighbors, the k of the graph')
    if len(z_near) == 0:
        return point_reconstruction(x, decoder(z))
    jet = taylor(decoder, z, z_near - z, order)
    near = (x_near - jet.expansion()).square().mean()
    if not include_center:
        return neighbor_weight * near
    center = point_reconstruction(x, jet.value)
    count = n_neighbors if weighting == "equation" else len(z_near)
    return (center + neighbor_weight * count * near) / (count + 1)


def gaussian_likelihood(error: Tensor, log_sigma: Tensor) -> Tensor:
    r"""Negative log likelihood per feature of an isotropic Gaussian decoder with trainable deviation.

    For p(x | z) = N(f(z), s² I) with s = exp(log_sigma) and the mean-D squared error E,

        -(1/D) log p = ½ log 2π + log s + E / (2 s²),

    in nats per feature; its minimum over s is at s² = E, the scalar ``error``: :func:`point_reconstruction`, or a
    neighbourhood error (NRVAE, Lee et al., table 4). The released decoder learns s, which can pass through zero.
    """
    return 0.5 * log(2 * pi) + log_sigma + 0.5 * error * torch.exp(-2 * log_sigma)


def relational_reconstruction(x_near: Tensor, reconstruction: Tensor, weights: Tensor) -> Tensor:
    """Reconstruction of weighted relatives, (1/B) Σ_i Σ_j s_ij (1/D) ‖x_j - f(g(x_i))‖²: a sum, not a mean, over j.

    The generalized autoencoder of Wang, Huang, Wang and Wang, *Generalized Autoencoder: A Neural Network Framework
    for Dimensionality Reduction*, CVPR workshops 2014. With the point alone and weight 1 it is the point loss.

    Arguments:
        x_near, reconstruction: (k, B, ...) the relatives of every point, and (B, ...) f(g(x_i)).
        weights: (k, B) s_ij, for example of :func:`heat_weights` (GAE-LE).
    """
    return (weights * (x_near - reconstruction).square().flatten(2).mean(2)).sum(0).mean()


def heat_weights(squared_distance: Tensor, temperature: float) -> Tensor:
    """Heat kernel s_ij = exp(-‖x_i - x_j‖² / t) of GAE-LE (Wang et al. 2014) and Laplacian eigenmaps, between 0 and 1.
    ``squared_distance``, of any shape, is summed over features; ``temperature`` t > 0 has the same unit."""
    return torch.exp(-squared_distance / temperature)


# Latent codes: divergences from a prior, norms, entropy, distances to targets and neighbours


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """(n, n') Euclidean distances of the rows, exact for near ones too; the gradient at distance zero is zero."""
    # The expansion ‖a‖² + ‖b‖² - 2ab has neither property.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def kl_to_standard_normal(mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Kullback-Leibler divergence of N(μ, diag σ²) from N(0, I), mean over the batch of ½ Σ_m (μ² + σ² - 2 log σ - 1).
    Kingma and Welling, *Auto-Encoding Variational Bayes*, 2014, appendix B. In nats, summed over the latent dimensions.
    ``mean`` and ``log_deviation`` are (B, m) μ and log σ, which is half of the log variance that other codes use."""
    return 0.5 * (mean.square() + torch.exp(2 * log_deviation) - 2 * log_deviation - 1).sum(1).mean()


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

    ``z`` are (n, m) codes and ``prior`` (n', m) fresh samples; ValueError for another kernel, or fewer than two.
    """
    if kernel not in KERNELS:
        raise ValueError(f"unknown kernel {kernel!r}: choose one of {', '.join(KERNELS)}")
    if min(len(z), len(prior)) < 2:
        raise ValueError(f"the discrepancy needs at least two codes and two samples, not {len(z)} and {len(prior)}")
    squared = [_distances(a, b).square() for a, b in ((z, z), (prior, prior), (z, prior))]
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
    """Mean over batch and latent dimensions of z², (B, m): the embedding loss of the regularized autoencoders, without
    ½. Ghosh et al., *From Variational to Deterministic Autoencoders*, 2020; reduction of the released code."""
    return z.square().mean()


def nearest_neighbor_entropy(z: Tensor, eps: float = 1e-8) -> Tensor:
    """Kozachenko-Leonenko estimate of the codes' differential entropy from nearest neighbours, in nats.

    With ε_i the distance of code i to the nearest other code of the minibatch, B_d the volume of the unit ball and
    γ Euler's constant,

        H = (d/n) Σ_i log(ε_i + eps) + log B_d + log(n - 1) + γ,

    the entropy that the entropic autoencoder maximizes; only the first term has a gradient, which is zero between
    duplicates. Biased upwards where codes are few for their dimension, and unequally: for minibatches of 100 in 16 or
    more dimensions it prefers a uniform to a normal distribution of the same variance. Kozachenko and Leonenko, *Sample
    Estimate of the Entropy of a Random Vector*, 1987. ValueError for fewer than two codes.

    Arguments:
        z: (n, d) codes.
        eps: added to the distances, far below them; keeps duplicates finite.
    """
    count, dimension = z.shape
    if count < 2:
        raise ValueError(f"the distance to the nearest other code needs at least two codes, not {count}")
    itself = torch.eye(count, dtype=torch.bool, device=z.device)
    nearest = _distances(z, z).masked_fill(itself, torch.inf).min(dim=1).values
    log_ball = 0.5 * dimension * log(pi) - lgamma(0.5 * dimension + 1)
    return dimension * torch.log(nearest + eps).mean() + log_ball + log(count - 1) + _EULER_GAMMA


def distance_to_target(z: Tensor, target: Tensor) -> Tensor:
    """Mean over batch and latent dimensions of (z - e)², both (B, m): the geometric loss of GRAE. Duque, Morin, Wolf
    and Moon, *Extendable and Invertible Manifold Learning with Geometry Regularized Autoencoders*, 2020; reduction of
    the released code. The targets e are an embedding of the training points (PHATE)."""
    return (z - target).square().mean()


def barycenter_weights(x: Tensor, x_near: Tensor, ridge: float = 1e-3) -> Tensor:
    """(k, B) weights that rebuild each point from its neighbours, w_i = argmin_{Σ_j w_ij = 1} ‖x_i - Σ_j w_ij x_j‖².

    With the local Gram matrix G_jl = (x_j - x_i)·(x_l - x_i) the solution is proportional to (G + r I)^{-1} 1. The
    ridge r = ``ridge`` · trace G (``ridge`` itself if all neighbours coincide with the point) makes it unique when
    there are more neighbours than dimensions. Roweis and Saul, *Nonlinear Dimensionality Reduction by Locally Linear
    Embedding*, Science 2000.

    Arguments:
        x, x_near: (B, ...) and (k, B, ...) the neighbours of every point.
        ridge: relative to the trace.
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

    The structure-preserving term of the baseline SPAE of Lee et al., a sum over the m latent dimensions; constant codes
    minimize it, so that it needs a reconstruction term beside it. Inferred: the paper says only that linear
    coefficients are computed beforehand (Chen et al., *Neighborhood Geometric Structure-Preserving Variational
    Autoencoder for Smooth and Bounded Data Sources*, 2021) and that the encoder is applied to the neighbours too; this
    reading takes those of locally linear embedding, :func:`barycenter_weights`.

    Arguments:
        z, z_near: (B, m) codes of the points and (k, B, m) of their neighbours.
        weights: (k, B), constants.
    """
    return (z - torch.einsum("kb,kbm->bm", weights, z_near)).square().sum(1).mean()


# Derivatives of encoder and decoder, and their weights


def _random_directions(like: Tensor, normal: Function) -> Tensor:
    """One direction for each row of ``like``, (B, m)."""
    return nn.functional.normalize(normal(like), dim=-1)


def _squared_norm(tensor: Tensor, start: int = 1) -> Tensor:
    """‖·‖² over all dimensions from ``start`` on."""
    return tensor.flatten(start).square().sum(start)


def encoder_contraction(encoder: Function, x: Tensor, normal: Function | None = None) -> Tensor:
    """Contractive penalty: mean over the batch of ‖J_g(x)‖_F² (Rifai et al., *Contractive Auto-Encoders*, ICML 2011).

    Arguments:
        encoder, x: g and (B, ...).
        normal: for the unbiased estimate ‖uᵀ J_g(x)‖² with one u ~ N(0, I_m) per point, by a single vector-Jacobian
            product. None for the exact norm, by m of them.
    """
    z, pull = torch.func.vjp(encoder, x)
    if normal is not None:
        return _squared_norm(pull(normal(z))[0]).mean()
    basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    return sum(_squared_norm(pull(unit.expand_as(z))[0]).mean() for unit in basis)


def decoder_jacobian_norm(decoder: Function, z: Tensor, normal: Function | None = None) -> Tensor:
    """Gradient penalty of RAE-GP: mean over the batch of ‖J_f(z)‖_F², a sum over the D features (Ghosh et al. 2020).

    Released codes compute other things: see :func:`energy_gradient_norm`.

    Arguments:
        decoder, z: f and (B, m), which has gradients too.
        normal: for the unbiased estimate ‖J_f(z) u‖² with one u ~ N(0, I_m) per code. None for the exact norm, by m
            directions through the decoder at once.
    """
    if normal is not None:
        return _squared_norm(taylor(decoder, z, normal(z), 1).first).mean()
    basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    columns = taylor(decoder, z, basis[:, None].expand(-1, len(z), -1), 1).first
    return _squared_norm(columns, 2).sum(0).mean()


def energy_gradient_norm(decoder: Function, z: Tensor) -> Tensor:
    """What the released code of RAE-GP penalizes: mean over batch and k of (∂ Σ_p f_p(z)² / ∂z_k)². Not the paper's
    ‖J_f‖_F² (:func:`decoder_jacobian_norm`): it vanishes wherever ‖f(z)‖ is constant."""
    energy, pull = torch.func.vjp(lambda code: _squared_norm(decoder(code)), z)
    return pull(torch.ones_like(energy))[0].square().mean()


def isometry(decoder: Function, z: Tensor, normal: Function, eps: float = 1e-12) -> Tensor:
    """Isometry of the decoder: mean over the batch of (‖J_f(z) u‖ - 1)², one random direction u per code. Gropp, Atzmon
    and Lipman, *Isometric Autoencoders*, 2020, equation 6. The norm is over all D features. The codes z (B, m), of any
    origin, are constants: only the decoder is trained. ``eps`` under the root keeps gradients finite."""
    z = z.detach()
    return _deviation_from_one(taylor(decoder, z, _random_directions(z, normal), 1).first, eps)


def pseudo_isometry(encoder: Function, x: Tensor, normal: Function, eps: float = 1e-12) -> Tensor:
    """Pseudo-isometry of the encoder: mean over the batch of (‖uᵀ J_g(x)‖ - 1)², one random direction u per point.
    Gropp, Atzmon and Lipman, *Isometric Autoencoders*, 2020, equation 7: zero if J_g has orthonormal rows. ``eps`` is
    added under the root, for a finite gradient where uᵀ J_g = 0."""
    z, pull = torch.func.vjp(encoder, x)
    return _deviation_from_one(pull(_random_directions(z, normal))[0], eps)


def _deviation_from_one(vectors: Tensor, eps: float) -> Tensor:
    return ((_squared_norm(vectors) + eps).sqrt() - 1).square().mean()


def weight_norm(network: nn.Module) -> Tensor:
    """Weight decay as a loss: Σ w² over the weights, not the biases, of all linear and convolution layers, without ½.
    On the decoder it is the term of RAE-L2 and AE-L2 (Ghosh et al. 2020), on the whole network that of AEW. With a
    parametrization the weights are those in use; tied weights count once. ValueError without such a layer."""
    weights = {}
    for layer in network.modules():
        if isinstance(layer, (nn.Linear, *_CONVOLUTIONS)):
            learned = layer.parametrizations.weight.original if is_parametrized(layer, "weight") else layer.weight
            weights.setdefault(learned, layer.weight)
    if not weights:
        raise ValueError("the network has no linear or convolution layer, so there are no weights to decay")
    return sum(weight.square().sum() for weight in weights.values())


# Topology


def minimum_spanning_tree(distance: Tensor) -> Tensor:
    """Edges of a minimum spanning tree of the complete graph, by Prim's algorithm from node 0.

    Their lengths are the death times of the 0-dimensional persistent homology of the Vietoris-Rips complex. Without
    a data-dependent branch, so it never waits for an accelerator; deterministic, ties go to the lowest index.

    From ``distance``, (n, n) symmetric and finite, where zero distances are edges like any other, to (n - 1, 2) int64
    pairs of node indices, in the order in which the tree grows. No gradient.

    Example:
        >>> minimum_spanning_tree(torch.tensor([[0.0, 1.0, 4.0], [1.0, 0.0, 2.0], [4.0, 2.0, 0.0]])).tolist()
        [[0, 1], [1, 2]]
    """
    distance = distance.detach()
    in_tree = torch.zeros(len(distance), dtype=torch.bool, device=distance.device)
    parent = torch.zeros(len(distance), dtype=torch.int64, device=distance.device)
    reach = torch.full_like(distance[0], torch.inf)
    # Indices stay tensors of one element: a tensor in square brackets would wait for the device.
    node, edges = parent[:1], []
    for _ in range(len(distance) - 1):
        in_tree = in_tree.index_fill(0, node, True)
        row = distance.index_select(0, node).squeeze(0)
        parent = torch.where(row < reach, node, parent)
        reach = torch.minimum(reach, row)
        node = reach.masked_fill(in_tree, torch.inf).argmin(0, keepdim=True)
        edges.append(torch.cat([parent.index_select(0, node), node]))
    return torch.stack(edges) if edges else parent.new_empty(0, 2)


def topological_loss(x: Tensor, z: Tensor, latent_scale: Tensor | float = 1.0) -> Tensor:
    """Agreement of the distances that matter for the connected components of data and codes.

    With A^X the distances of the data divided by the largest of the batch, A^Z the distances of the codes divided by a
    trainable scale, and π_X, π_Z the edges of their minimum spanning trees,

        L = (1/B) [ Σ (A^X[π_X] - A^Z[π_X])² + Σ (A^Z[π_Z] - A^X[π_Z])² ].

    Moor, Horn, Rieck and Borgwardt, *Topological Autoencoders*, ICML 2020; no ½, division by B and both scales as in the
    released code. The edges are constants, the distances carry the gradient, which is zero between duplicates.

    Arguments:
        x, z: (B, ...) data and (B, m) codes.
        latent_scale: positive scalar, a parameter initialized at 1 in the released code.
    """
    data, codes = (_distances(points, points) for points in (x.flatten(1), z.flatten(1)))
    data = data / data.max().clamp_min(torch.finfo(data.dtype).tiny)  # a batch of one point, repeated, has no scale
    edges = torch.cat([minimum_spanning_tree(data), minimum_spanning_tree(codes)])
    codes = codes / latent_scale
    return (data[edges[:, 0], edges[:, 1]] - codes[edges[:, 0], edges[:, 1]]).square().sum() / len(x)

"""What is measured of a trained model: functions of (model, data) or of codes, without side effects."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def mean_squared_error(model: nn.Module, points: Tensor, block: int = 4096) -> float:
    """Mean over points and over features of ‖x - f(g(x))‖², "mean-D" (paper, Tables 1 and 3).

    Evaluated in blocks of ``block`` points so that memory stays bounded.
    """
    total = sum(((model(part) - part).double().square().sum() for part in points.split(block)), torch.zeros(()))
    return float(total) / points.numel()


def rank_correlation(code: Tensor, position: Tensor) -> float:
    """Spearman's ρ, without its sign, between one-dimensional codes and the true position along the curve; 1 is perfect order.

    Its sign is dropped, because a latent line has no preferred direction. Ties get their mean rank; a constant
    code has correlation 0.

    Arguments:
        code, position: (N,).
    """
    from scipy.stats import rankdata

    ranks = torch.stack([torch.from_numpy(rankdata(values.double().cpu().numpy())) for values in (code, position)])
    ranks -= ranks.mean(1, keepdim=True)
    spread = ranks.norm(dim=1).prod()
    return abs(float(ranks.prod(0).sum() / spread)) if spread > 0 else 0.0


def order_breaks(code: Tensor, position: Tensor, tolerance: float = 0.01) -> int:
    """How often a one-dimensional code runs backward along the curve; 0 means the right local geometry.

    The codes are read in the order of the true position, in the direction of the overall trend. A break is a
    maximal stretch on which the code retreats by more than ``tolerance`` times the code's whole range: a fold or
    a jump of the chart. Smaller retreats are ripples below what the noise determines. A constant code, which
    orders nothing, counts as one break.

    Arguments:
        code, position: (N,), N >= 2; best evaluated on densely spaced noise-free points.

    Raises:
        ValueError: if a code is not finite.

    Example:
        >>> position = torch.arange(6.0)
        >>> order_breaks(torch.tensor([0.0, 1, 2, 3, 4, 5]), position)
        0
        >>> order_breaks(torch.tensor([3.0, 4, 5, 0, 1, 2]), position)
        1
    """
    if not torch.isfinite(code).all():
        raise ValueError("the codes hold NaN or infinite values: the model has diverged")
    ordered = code.double()[position.argsort(stable=True)]
    extent = float(ordered.max() - ordered.min())
    if extent == 0:
        return 1
    steps = ordered.diff()
    down, up = int((steps < 0).sum()), int((steps > 0).sum())
    # The trend is the direction of most steps, not of the total change: a jump may exceed all steps together. Without
    # a trend the better reading counts, because the sign of a code means nothing.
    readings = [steps] * (up >= down) + [-steps] * (down >= up)
    return min(_retreats(reading.tolist(), tolerance * extent) for reading in readings)


def _retreats(steps: list[float], tolerance: float) -> int:
    """Maximal stretches without a positive step that lose more than ``tolerance``."""
    count, retreat = 0, 0.0
    for step in [*steps, 1.0]:
        if step < 0:
            retreat -= step
        elif step > 0:
            count += retreat > tolerance
            retreat = 0.0
    return count


def total_turning(curve: Tensor) -> float:
    """Total absolute turning of a polygonal curve, in half turns: Σ (unsigned angle between successive chords) / π.

    The discrete total curvature: 0 for a straight line, 2 for a closed convex curve. A curve that runs through
    the noise of its training points turns more than the curve they were drawn around. Chords of length zero
    are passed over.

    Arguments:
        curve: (P, D) points in order.

    Example:
        >>> total_turning(torch.tensor([[0.0, 0], [1, 0], [1, 1]]))
        0.5
    """
    chords = curve.double().diff(dim=0)
    chords = chords[chords.norm(dim=1) > 0]
    chords = chords / chords.norm(dim=1, keepdim=True)
    # The angle from its half: accurate for nearly parallel and for nearly opposite chords, unlike acos.
    half = torch.atan2((chords[1:] - chords[:-1]).norm(dim=1), (chords[1:] + chords[:-1]).norm(dim=1))
    return float(2 * half.sum() / torch.pi)


def frechet_distance(mean_a, covariance_a, mean_b, covariance_b) -> float:
    r"""Squared Frechet distance of two Gaussians; of Inception features, it is the FID.

    .. math:: \lVert \mu_a - \mu_b \rVert^2 + \operatorname{tr}\big(\Sigma_a + \Sigma_b - 2 (\Sigma_a \Sigma_b)^{1/2}\big)

    Computed in float64. The trace of the root is the sum of the singular values of
    :math:`\Sigma_a^{1/2} \Sigma_b^{1/2}`: their squares are the eigenvalues of the symmetric
    :math:`\Sigma_a^{1/2} \Sigma_b \Sigma_a^{1/2}`, but for singular covariances (fewer samples than features) they are
    exact to rounding, where roots of eigenvalues are exact to its square root only. Nothing becomes complex and nothing
    is added to a diagonal.

    Arguments:
        mean_a, mean_b: (D,) tensors or arrays.
        covariance_a, covariance_b: (D, D) symmetric and positive semidefinite.

    Raises:
        ValueError: if shapes do not match, a value is not finite, or a covariance is not symmetric or has a negative
            variance.

    Source: Heusel et al., *GANs Trained by a Two Time-Scale Update Rule*, NeurIPS 2017; Dowson and Landau,
    *The Fréchet distance between multivariate normal distributions*, 1982.

    Example:
        >>> round(frechet_distance(torch.zeros(2), torch.eye(2), torch.ones(2), 4 * torch.eye(2)), 6)
        4.0
    """
    moments = [torch.as_tensor(moment).double() for moment in (mean_a, covariance_a, mean_b, covariance_b)]
    mean_a, covariance_a, mean_b, covariance_b = moments
    shapes, dimension = [tuple(moment.shape) for moment in moments], mean_a.numel()
    if shapes != [(dimension,), (dimension, dimension)] * 2:
        raise ValueError(f"two means (D,) and two covariances (D, D) are needed, not shapes {shapes}")
    if not all(torch.isfinite(moment).all() for moment in moments):
        raise ValueError("a mean or covariance holds NaN or infinite values")
    for covariance in (covariance_a, covariance_b):
        scale = covariance.abs().max() if dimension else 1.0
        if not torch.allclose(covariance, covariance.T, rtol=0, atol=1e-8 * scale) or (covariance.diagonal() < 0).any():
            raise ValueError("a covariance must be symmetric, with no negative variance")
    root = torch.linalg.svdvals(_root(covariance_a).T @ _root(covariance_b)).sum()
    distance = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * root
    return max(float(distance), 0.0)


def _root(covariance: Tensor) -> Tensor:
    """R with R Rᵀ = Σ; eigenvalues below the rounding error count as zero, because their roots would not be small."""
    values, vectors = torch.linalg.eigh(covariance)
    rounding = len(values) * torch.finfo(values.dtype).eps * values[-1]
    return vectors * torch.where(values > rounding, values, 0).sqrt()

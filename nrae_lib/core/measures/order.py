"""Whether codes keep the order of a curve or circle, and how smooth what they decode to is.

Codes of a line and positions have shape (N,). Codes of a circle are (N,) angles in radians, or (N, 2) points around the
origin, whose angles count. All are finite, equally many and at least two, or a ValueError says what is wrong.
"""

import torch
from torch import Tensor

from nrae_lib.core.points import check_finite, check_points


def _check(code: Tensor, position: Tensor) -> None:
    if code.dim() != 1 or code.shape != position.shape or len(code) < 2:
        found = f"{tuple(code.shape)} and {tuple(position.shape)}"
        raise ValueError(f"codes and positions must have the same shape (N,) with N >= 2, not {found}")
    check_finite(code, "codes")
    check_points(position[:, None], "list of positions")


def rank_correlation(code: Tensor, position: Tensor) -> float:
    """Spearman's ρ of one-dimensional codes and the true position along the curve; 1 is perfect order. Without its
    sign: a latent line has no preferred direction. Ties get their mean rank; a constant code has 0."""
    from scipy.stats import rankdata

    _check(code, position)
    ranks = torch.stack([torch.from_numpy(rankdata(values.double().cpu().numpy())) for values in (code, position)])
    ranks -= ranks.mean(1, keepdim=True)
    spread = ranks.norm(dim=1).prod()
    return abs(float(ranks.prod(0).sum() / spread)) if spread > 0 else 0.0


def order_breaks(code: Tensor, position: Tensor, tolerance: float = 0.01) -> int:
    """How often a one-dimensional code runs backward along the curve; 0 means the right local geometry.

    The codes, best of densely spaced noise-free points, are read in the order of the true position, in the direction that
    has fewer breaks. A break is a fold or a jump of the chart: a stretch on which the code falls more than ``tolerance``
    times its range below the largest value since the last break ended; it ends where the code has risen by as much again.
    Smaller retreats are ripples. A constant code has one.

    Example:
        >>> order_breaks(torch.tensor([3.0, 4, 5, 0, 1, 2]), torch.arange(6.0))
        1
    """
    _check(code, position)
    ordered = code.double()[position.argsort(stable=True)]
    extent = float(ordered.max() - ordered.min())
    return min(len(_falls(reading, tolerance * extent)) for reading in (ordered, -ordered)) if extent > 0 else 1


def _falls(values: Tensor, tolerance: float) -> list[int]:
    """The places at which ``values`` have begun to fall by more than ``tolerance``, once for each fall."""
    found, falling, extreme = [], False, -torch.inf
    for place, value in enumerate(values.tolist()):
        if falling and value > extreme + tolerance:
            falling, extreme = False, value
        elif not falling and value < extreme - tolerance:
            falling, extreme = True, value
            found.append(place)
        else:
            extreme = min(extreme, value) if falling else max(extreme, value)
    return found


def total_turning(curve: Tensor) -> float:
    """Total absolute turning of a polygonal curve, (P, D), in half turns: Σ (unsigned angle between successive chords) / π.

    The discrete total curvature: 0 for a straight line, 2 for a closed convex curve, more for one that runs through the
    noise of its training points. Chords of length zero are passed over.

    Example:
        >>> total_turning(torch.tensor([[0.0, 0], [1, 0], [1, 1]]))
        0.5
    """
    if curve.dim() != 2 or curve.numel() == 0:
        raise ValueError(f"a curve is a matrix (P, D) of points, not of shape {tuple(curve.shape)}")
    check_finite(curve, "points of the curve")
    chords = curve.double().diff(dim=0)
    chords = chords[chords.norm(dim=1) > 0]
    chords = chords / chords.norm(dim=1, keepdim=True)
    # The angle from its half: accurate for nearly parallel and for nearly opposite chords, unlike acos.
    half = torch.atan2((chords[1:] - chords[:-1]).norm(dim=1), (chords[1:] + chords[:-1]).norm(dim=1))
    return float(2 * half.sum() / torch.pi)


def circular_correlation(angle_code: Tensor, angle_true: Tensor) -> float:
    r"""Correlation of two angles without its sign: 1 for a perfect winding in either direction, from any origin.

    The coefficient of Jammalamadaka and SenGupta, *Topics in Circular Statistics*, 2001, section 8.2, in their form for
    angles that have no mean direction because they fill the circle,

    .. math:: \Big\lvert\, \big\lvert \tfrac1N \textstyle\sum_i e^{i(\alpha_i - \beta_i)} \big\rvert
              - \big\lvert \tfrac1N \textstyle\sum_i e^{i(\alpha_i + \beta_i)} \big\rvert \,\Big\rvert.

    That is the smaller canonical correlation of the points :math:`(\cos\alpha, \sin\alpha)` and
    :math:`(\cos\beta, \sin\beta)` when both have the second moments of a full circle. Here it is that correlation
    always: a perfect winding of unevenly drawn angles has 1, too. A fold, a double winding and a
    constant code of a full circle have 0.
    """
    angles, frames = (_angles(angle_code), _angles(angle_true)), []
    _check(*angles)
    for angle in angles:
        left, values, _ = torch.linalg.svd(torch.stack([angle.cos(), angle.sin()], 1), full_matrices=False)
        if values[1] <= 1e-7 * values[0]:
            return 0.0  # all on one axis: no winding
        frames.append(left)
    return min(float(torch.linalg.svdvals(frames[0].T @ frames[1])[-1]), 1.0)


def winding_number(code: Tensor) -> int:
    r"""How often codes in the order of the true angle go around the circle, closed from the last to the first.

    .. math:: \frac{1}{2\pi} \sum_i \operatorname{wrap}(\alpha_{i+1} - \alpha_i), \qquad \alpha_{N+1} = \alpha_1,

    with differences wrapped into [-π, π): 1 or -1 for the right topology. Successive codes must differ by less than π.

    Example:
        >>> winding_number(torch.tensor([0.0, 4.0, 2.0]))
        -1
    """
    return round(float(_circular_steps(_angles(code)).sum()) / (2 * torch.pi))


def circular_breaks(code: Tensor, position: Tensor, tolerance: float = 0.01) -> int:
    """How often a circular code runs backward along a closed curve; 0 means the right geometry.

    :func:`order_breaks` for angles: the codes are read once around in the order of the true position, of any origin and
    unit. A break is a stretch, perhaps across the start, on which the code falls back by more than ``tolerance`` of a full
    turn. A code that does not wind once (:func:`winding_number`) has at least one break.

    Example:
        >>> circular_breaks(torch.tensor([0.0, 1, 2, 0.5, 3, 5]), torch.arange(6.0))
        1
    """
    angle = _angles(code)
    _check(angle, position)
    angle = angle[position.argsort(stable=True)]
    # Two laps: what is cut at the start of the first is whole in the second. On a closed curve falls and rises alternate, as
    # many in either direction.
    around = _circular_steps(angle).repeat(2).cumsum(0)
    breaks = sum(place >= len(angle) for place in _falls(around, tolerance * 2 * torch.pi))
    return max(breaks, int(abs(winding_number(angle)) != 1))


def _angles(code: Tensor) -> Tensor:
    if code.dim() not in (1, 2) or code.shape[1:] not in ((), (2,)) or len(code) < 2:
        raise ValueError(f"circular codes are angles (N,) or points (N, 2), N >= 2, not of shape {tuple(code.shape)}")
    check_finite(code, "codes")
    code = code.double()
    return code if code.dim() == 1 else torch.atan2(code[:, 1], code[:, 0])


def _circular_steps(angle: Tensor) -> Tensor:
    """From each angle to the next and from the last to the first, in [-π, π)."""
    return (angle.roll(-1) - angle + torch.pi).remainder(2 * torch.pi) - torch.pi


def neighbor_breaks(code: Tensor, position: Tensor, steps: float = 2.0, period: float | None = None) -> list[int]:
    """The places i, in the order of the code, whose next point does not belong there (by eye in the paper's Figure 8).

    Between the points i and i + 1 the true positions differ by more than ``steps`` times the median spacing of the
    positions: a continuous decoder has to leap. Two neighbours that have merely changed places do not count for
    ``steps`` = 2. Distances of the decoded images would be no rule: they hardly grow once the strokes of two images no
    longer overlap. Positions that close have a ``period``, 360 for a full turn in degrees;

    Example:
        >>> neighbor_breaks(torch.tensor([4.0, 5, 6, 1, 2, 3]), torch.arange(6.0))
        [2]
    """
    _check(code, position)
    distance = position.double()[code.argsort(stable=True)].diff().abs()
    if period is not None:
        distance = torch.minimum(distance, period - distance)
    spacing = position.double().sort().values.diff().median()
    return (distance > steps * spacing * (1 + 1e-6)).nonzero().flatten().tolist()


def grid_smoothness(images: Tensor, where: Tensor | None = None) -> float:
    r"""Roughness of images decoded from an even latent grid (Figure 5 of the paper): 0 for affine maps, higher is rougher.

    .. math:: \frac{\langle \lVert \Delta_r^2 x \rVert^2 \rangle + \langle \lVert \Delta_c^2 x \rVert^2 \rangle}
              {\langle \lVert \Delta_r x \rVert^2 \rangle + \langle \lVert \Delta_c x \rVert^2 \rangle}

    with first and second differences along rows and columns, :math:`\Delta_r^2 x = x_{r+1,c} - 2 x_{r,c} + x_{r-1,c}`,
    and means ⟨·⟩ over all places where they exist. It has no unit, does not change with the images' contrast, and falls
    with the square of the grid's step: compare equal grids. White noise has 3, a zigzag 4; 0 if no neighbours differ.

    Arguments:
        images: (R, C, ...), R, C >= 3, finite.
        where: (R, C) bool; only differences between images that it marks count. All by default.
    """
    size = images.shape[:2]
    if images.dim() < 2 or min(size) < 3:
        raise ValueError(f"the grid needs at least 3 rows and 3 columns, not {tuple(size)}")
    where = torch.ones(size, dtype=torch.bool) if where is None else where
    if where.shape != size or where.dtype != torch.bool:
        raise ValueError(f"where must be bool of shape {tuple(size)}, not {where.dtype} of shape {tuple(where.shape)}")
    check_finite(images, "images")
    flat = images.double().reshape(*size, -1)

    def mean_square(order: int, axis: int) -> float:
        joined = where.to(flat.device).unfold(axis, order + 1, 1).all(-1)  # all neighbours that a difference joins
        squares = flat.diff(n=order, dim=axis).square().sum(2)[joined]
        return float(squares.mean()) if len(squares) else 0.0

    first, second = (mean_square(order, 0) + mean_square(order, 1) for order in (1, 2))
    return second / first if first > 0 else 0.0

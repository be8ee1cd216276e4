"""Whether codes keep the order of a curve or circle, and how smooth what they decode to is."""

import torch
from torch import Tensor


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


def circular_correlation(angle_code: Tensor, angle_true: Tensor) -> float:
    r"""Correlation of two angles without its sign: 1 for a perfect winding in either direction, from any origin.

    Jammalamadaka and SenGupta's coefficient, in their form for angles that have no mean direction because they fill
    the circle,

    .. math:: \Big\lvert\, \big\lvert \tfrac1N \textstyle\sum_i e^{i(\alpha_i - \beta_i)} \big\rvert
              - \big\lvert \tfrac1N \textstyle\sum_i e^{i(\alpha_i + \beta_i)} \big\rvert \,\Big\rvert.

    That is the smaller canonical correlation of the points :math:`(\cos\alpha, \sin\alpha)` and
    :math:`(\cos\beta, \sin\beta)` when both have the second moments of a full circle; here it is the smaller canonical
    correlation always, so that a perfect winding has 1 also for unevenly drawn angles. A fold, a double winding and a
    constant code of a full circle have 0. (With mean directions, the coefficient's other form, a full circle has an
    arbitrary value: its mean direction is rounding error.)

    Arguments:
        angle_code, angle_true: (N,) angles in radians, or (N, 2) points around the origin, whose angles count.

    Raises:
        ValueError: if a code is not finite or of another shape.

    Source: Jammalamadaka and SenGupta, *Topics in Circular Statistics*, 2001, section 8.2.

    Example:
        >>> angle = torch.arange(6.0)
        >>> round(circular_correlation(2.5 - angle, angle), 6)
        1.0
    """
    frames = []
    for angle in (_angles(angle_code), _angles(angle_true)):
        left, values, _ = torch.linalg.svd(torch.stack([angle.cos(), angle.sin()], 1), full_matrices=False)
        if len(values) < 2 or values[1] <= 1e-7 * values[0]:
            return 0.0  # all on one axis: no winding
        frames.append(left)
    return min(float(torch.linalg.svdvals(frames[0].T @ frames[1])[-1]), 1.0)


def winding_number(code: Tensor) -> int:
    r"""How often codes in the order of the true angle go around the circle, closed from the last to the first.

    .. math:: \frac{1}{2\pi} \sum_i \operatorname{wrap}(\alpha_{i+1} - \alpha_i), \qquad \alpha_{N+1} = \alpha_1,

    with differences wrapped into [-π, π): a whole number, 1 or -1 for the right topology. The points must be so
    dense that successive codes differ by less than half a turn.

    Arguments:
        code: (N,) angles in radians, or (N, 2) points around the origin, whose angles count.

    Raises:
        ValueError: if a code is not finite or of another shape.

    Example:
        >>> winding_number(torch.tensor([0.0, 4.0, 2.0]))
        -1
    """
    return round(float(_circular_steps(_angles(code)).sum()) / (2 * torch.pi))


def circular_breaks(code: Tensor, position: Tensor, tolerance: float = 0.01) -> int:
    """How often a circular code runs backward along a closed curve; 0 means the right geometry.

    :func:`order_breaks` for angles: the codes are read once around in the order of the true position, in the direction
    of most steps. A break is a maximal stretch, perhaps across the start, on which the code retreats by more than
    ``tolerance`` of a full turn. A code that does not wind once (:func:`winding_number`) has at least one break.

    Arguments:
        code: (N,) angles in radians, or (N, 2) points around the origin, whose angles count.
        position: (N,) true angle, of any origin and unit.

    Raises:
        ValueError: if a code is not finite or of another shape.

    Example:
        >>> position = torch.arange(6.0)
        >>> circular_breaks(torch.tensor([4.0, 5, 0, 1, 2, 3]), position)
        0
        >>> circular_breaks(torch.tensor([0.0, 1, 2, 0.5, 3, 5]), position)
        1
    """
    steps = _circular_steps(_angles(code)[position.argsort(stable=True)])
    down, up = int((steps < 0).sum()), int((steps > 0).sum())
    readings = [steps] * (up >= down) + [-steps] * (down >= up)
    counts = []
    for reading in readings:
        forward = int((reading > 0).int().argmax())  # start behind a forward step: no stretch is cut
        counts.append(_retreats(reading.roll(-forward - 1).tolist(), tolerance * 2 * torch.pi))
    return max(min(counts), int(abs(round(float(steps.sum()) / (2 * torch.pi))) != 1))


def _angles(code: Tensor) -> Tensor:
    if not (code.dim() == 1 or (code.dim() == 2 and code.shape[1] == 2)):
        raise ValueError(f"circular codes are angles (N,) or points (N, 2), not of shape {tuple(code.shape)}")
    if not torch.isfinite(code).all():
        raise ValueError("the codes hold NaN or infinite values: the model has diverged")
    code = code.double()
    return code if code.dim() == 1 else torch.atan2(code[:, 1], code[:, 0])


def _circular_steps(angle: Tensor) -> Tensor:
    """From each angle to the next and from the last to the first, in [-π, π)."""
    return (angle.roll(-1) - angle + torch.pi).remainder(2 * torch.pi) - torch.pi


def neighbor_breaks(code: Tensor, position: Tensor, steps: float = 2.0, period: float | None = None) -> list[int]:
    """Where points that are next to each other in the latent space do not belong together (Figure 8 of the paper).

    In the order of the code, a discontinuity lies between the points i and i + 1 if their true positions differ by more
    than ``steps`` times the median spacing of the positions: a continuous decoder has to leap there. The paper marks
    such places by eye. Two neighbours that have merely changed places are no discontinuity for ``steps`` = 2. Distances of
    the decoded images would be no rule for a sequence of 20 images: they hardly grow any more once the strokes of two images no
    longer overlap.

    Arguments:
        code, position: (N,), N >= 2.
        period: of positions that close, 360 for a full turn in degrees; the end of the code and its beginning are not
            compared.

    Returns:
        The places i in the order of the code, ascending.

    Raises:
        ValueError: if there are fewer than two points, or a code is not finite.

    Example:
        >>> neighbor_breaks(torch.tensor([4.0, 5, 6, 1, 2, 3]), torch.arange(6.0))
        [2]
    """
    if len(code) < 2 or not torch.isfinite(code).all():
        raise ValueError("breaks are sought between at least two points, all of them with finite codes")
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
    and means ⟨·⟩ over all places where they exist. It has no unit and does not change with the images' contrast. It
    falls with the square of the grid's step: compare grids of equally many images. White noise has 3, a zigzag along
    one direction 4.

    Arguments:
        images: (R, C, ...), R, C >= 3.
        where: (R, C) bool; only differences between images that it marks count. All by default.

    Returns:
        0 also if no marked neighbours differ.

    Raises:
        ValueError: if the grid has fewer than three rows or columns.

    Example:
        >>> grid_smoothness(torch.arange(12.0).reshape(3, 4))
        0.0
    """
    if images.dim() < 2 or min(images.shape[:2]) < 3:
        raise ValueError(f"the grid needs at least 3 rows and 3 columns, not {tuple(images.shape[:2])}")
    flat = images.double().flatten(2) if images.dim() > 2 else images.double()[:, :, None]
    where = torch.ones(flat.shape[:2], dtype=torch.bool) if where is None else where

    def mean_square(order: int, axis: int) -> float:
        # A difference of this order joins order + 1 neighbours.
        joined = where.to(flat.device).unfold(axis, order + 1, 1).all(-1)
        squares = flat.diff(n=order, dim=axis).square().sum(2)[joined]
        return float(squares.mean()) if len(squares) else 0.0

    first, second = (mean_square(order, 0) + mean_square(order, 1) for order in (1, 2))
    return second / first if first > 0 else 0.0

"""Training points and seeds as every floor sees them: what they must be, how rows are picked, and bytes as floats."""

from numbers import Integral

import numpy as np
import torch
from torch import Tensor

STREAMS = ("data", "weights", "training")


def stream(seed: int, name: str) -> int:
    """The seed, 32 bits, of one of the three independent random streams that ``seed`` gives, a name from ``STREAMS``.
    Generators that all start from ``seed`` itself draw the same numbers: noise of images would equal initial weights.
    ValueError if ``seed`` is no whole number of at least 0."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"a seed is a whole number of at least 0, not {seed!r}")
    children = np.random.SeedSequence(seed).spawn(len(STREAMS))
    return int(children[STREAMS.index(name)].generate_state(1)[0])


def on_device(points: Tensor | np.ndarray, device: torch.device, name: str) -> Tensor:
    """``points`` as a tensor on ``device``, checked, in the type they have; what is there already is not copied.
    TypeError unless they are a tensor or array of float32, float64 or uint8; ValueError as :func:`check_points`."""
    if isinstance(points, np.ndarray) and points.dtype in (np.float32, np.float64, np.uint8):
        points = torch.from_numpy(np.require(points, requirements="CW"))  # read-only memory would make a warning
    if not isinstance(points, Tensor) or points.dtype not in (torch.float32, torch.float64, torch.uint8):
        found = getattr(points, "dtype", type(points).__name__)
        raise TypeError(f"the {name} must be a tensor or an array of float32, float64 or uint8 numbers, not {found}")
    check_points(points, name)
    return points.detach().to(device)


def check_points(points: Tensor, name: str) -> None:
    """Stop with one sentence if ``points`` is empty, has no feature dimension, or holds NaN or infinity."""
    if points.dim() < 2 or points.numel() == 0:
        expected = f"expected shape (points, features...), got {tuple(points.shape)}"
        raise ValueError(f"the {name} is empty or has no features: {expected}")
    if points.is_floating_point() and not torch.isfinite(points).all():
        bad = f"{int((~torch.isfinite(points)).flatten(1).any(1).sum())} of {len(points)} points"
        raise ValueError(f"the {name} holds NaN or infinite values in {bad}: remove or replace them first")


def check_finite(found: Tensor, name: str) -> None:
    """Stop with one sentence if what a model has ``found`` holds NaN or infinity."""
    if not torch.isfinite(found).all():
        raise ValueError(f"the {name} hold NaN or infinite values: the model has diverged")


def picked(points: Tensor, index: Tensor) -> Tensor:
    """The points at ``index``, of the shape of ``index`` and then that of a point; bytes become floats."""
    # Copies whole rows; points[index] would copy number by number, which is slower on the CPU.
    rows = points.index_select(0, index.flatten())
    return as_floats(rows.reshape(*index.shape, *points.shape[1:]))


def as_floats(rows: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1], the one way in which training and every measure see them; all else as it is."""
    return rows.to(torch.float32).div_(255) if rows.dtype == torch.uint8 else rows


def batch_bounds(count: int, batch_size: int) -> list[tuple[int, int]]:
    """(start, end) of every batch; a last one of a single point, which has no statistics, joins the one before."""
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and starts[-1] == count - 1 and batch_size > 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))

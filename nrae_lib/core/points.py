"""Training points as every floor sees them: what they must be, and bytes as floats."""

import torch
from torch import Tensor


def check_points(points: Tensor, name: str) -> None:
    """Stop with one sentence if ``points`` is empty, has no feature dimension, or holds NaN or infinity."""
    if points.dim() < 2 or points.numel() == 0:
        raise ValueError(
            f"the {name} is empty or has no features: expected shape (points, features...), got {tuple(points.shape)}"
        )
    if points.is_floating_point() and not torch.isfinite(points).all():
        bad = int((~torch.isfinite(points)).flatten(1).any(1).sum())
        raise ValueError(
            f"the {name} holds NaN or infinite values in {bad} of {len(points)} points: remove or replace them first"
        )


def as_floats(rows: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1], the one way in which training and every measure see them; all else as it is."""
    return rows.to(torch.float32).div_(255) if rows.dtype == torch.uint8 else rows

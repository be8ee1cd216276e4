"""Images along a one-parameter family, a rotation or a shift, and their codes on a line or circle (Figures 8 and 9)."""

from math import pi

import numpy as np
import torch
from torch import Tensor, nn

from nrae_lib.core import measures
from nrae_lib.data.datasets import Dataset
from nrae_lib.runs.views.images import as_bytes, decode, encode

_PATH_POINTS = 61


@torch.no_grad()
def order(model: nn.Module, data: Dataset) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Whether the codes run along the family in the right order, on a line (m = 1) or on the unit circle (m = 2).

    Positions of a circle are angles in degrees. If they cover a full turn, the family is closed and the right code
    winds once around the circle (:func:`nrae_lib.core.measures.circular_breaks`). If they cover less, the right code runs
    along the circle without a retreat (:func:`nrae_lib.core.measures.order_breaks` of the angle, followed across the cut
    at π) and through at most one turn.

    Returns:
        metrics on a line rank_correlation and order_breaks; on a circle circular_correlation, circular_breaks and
        winding_number (of an open family the fraction of a turn between its first and last code, with its sign); each
        also with the prefix ``train_``; neighbor_breaks, the discontinuities among the training points in the order of
        the code. Arrays: code (N, m) and test_code (M, m) with position and test_position; sequence (N,), the training
        points in the order of the code; decoded (N, ...) uint8, their decodings in this order; breaks, the places i whose
        successor i + 1 lies beyond a discontinuity; path_code (61, m), evenly spaced codes over the training codes' range,
        and path (61, ...) uint8, their decodings.

    Raises:
        ValueError: if the data has no positions, or the codes are neither on a line nor in the plane.
    """
    if data.train_position is None or data.test_position is None:
        raise ValueError("the view 'order' needs data with positions: choose another keep for this data set")
    codes = {"train_": encode(model, data.train), "": encode(model, data.test)}
    dimension = codes[""].shape[1]
    if dimension > 2:
        raise ValueError(f"the view 'order' needs codes on a line or a circle (latent_dim 1 or 2), not {dimension}")
    metrics: dict[str, float] = {}
    for prefix, position in (("train_", data.train_position), ("", data.test_position)):
        metrics |= {prefix + name: value for name, value in _order(codes[prefix], position.cpu()).items()}
    code = codes["train_"]
    along = code[:, 0] if dimension == 1 else torch.atan2(code[:, 1], code[:, 0])
    sequence = along.argsort(stable=True)
    features = data.train[0].numel()
    decoded = decode(model, code[sequence], features)
    breaks = measures.neighbor_breaks(along, data.train_position.cpu(), period=None if dimension == 1 else 360.0)
    metrics["neighbor_breaks"] = float(len(breaks))
    path_code = _path(along, dimension)
    arrays = {"code": code, "test_code": codes[""], "position": data.train_position, "path_code": path_code}
    arrays["test_position"] = data.test_position
    return metrics, {
        **{name: value.cpu().numpy().astype(np.float32) for name, value in arrays.items()},
        "sequence": sequence.numpy().astype(np.int32),
        "breaks": np.asarray(breaks, dtype=np.int32),
        "decoded": as_bytes(decoded),
        "path": as_bytes(decode(model, path_code, features)),
    }


def _order(code: Tensor, position: Tensor) -> dict[str, float]:
    if code.shape[1] == 1:
        return {
            "rank_correlation": measures.rank_correlation(code[:, 0], position),
            "order_breaks": float(measures.order_breaks(code[:, 0], position)),
        }
    sequence = position.argsort(stable=True)
    angle, position = torch.atan2(code[:, 1], code[:, 0]).double()[sequence], position[sequence].double()
    correlation = measures.circular_correlation(angle, position * pi / 180)
    # The next point after the last would be the first again: a closed family.
    if float(position[-1] - position[0]) * len(position) / (len(position) - 1) > 359.9:
        turns, breaks = float(measures.winding_number(angle)), measures.circular_breaks(angle, position)
    else:
        steps = (angle.diff() + pi).remainder(2 * pi) - pi
        along = torch.cat([angle[:1], steps]).cumsum(0)
        turns = float(along[-1] - along[0]) / (2 * pi)
        covered = float(along.max() - along.min())
        breaks = max(measures.order_breaks(along, position), int(covered > 2 * pi))
    return {"circular_correlation": correlation, "winding_number": turns, "circular_breaks": float(breaks)}


def _path(along: Tensor, dimension: int) -> Tensor:
    """Evenly spaced codes: over the range of the training codes, or around the circle."""
    if dimension == 1:
        return torch.linspace(float(along.min()), float(along.max()), _PATH_POINTS)[:, None]
    angle = torch.linspace(-pi, pi, _PATH_POINTS)
    return torch.stack([angle.cos(), angle.sin()], 1)

"""Curves and other families of one parameter, and their codes on a line or a circle (Figures 1 to 4 and 7 to 9, Table 1)."""

from math import pi

import numpy as np
import torch
from torch import Tensor, nn

from nrae_lib.core import losses, measures
from nrae_lib.core.graph import knn_graph
from nrae_lib.core.taylor import taylor
from nrae_lib.data.datasets import Dataset
from nrae_lib.runs.views.images import as_bytes, decode, encode

_CURVE_POINTS, _PATH_POINTS, _LOCAL_POINTS = 200, 61, 21
_NEIGHBORS, _TOLERANCE = 4, 0.1


@torch.no_grad()
def learned_curve(model: nn.Module, train: Tensor, points: int) -> Tensor:
    """(points, D) of the learned manifold of a one-dimensional latent space: f, evenly over the training codes' range."""
    code = model.encoder(train)
    fractions = torch.linspace(0, 1, points, device=code.device)[:, None]
    return model.decoder(code.min() + (code.max() - code.min()) * fractions)


@torch.no_grad()
def curve(model: nn.Module, data: Dataset) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Order of the codes and turning of the learned curve; nothing if positions are unknown or codes are not on a line.

    Returns:
        metrics rank_correlation and order_breaks of the test points, with the prefix ``train_`` of the training points, with
        ``whole_`` of the test points and those beyond; total_turning. Arrays curve (200, D), code (N,), reconstruction (at
        most 1000, D) of evenly spaced test points and their test_position, and those of the points beyond.
    """
    if data.test_position is None:
        return {}, {}
    device = next(model.parameters()).device
    train = data.train.to(device)
    code = model.encoder(train)
    if code.shape[1] != 1:
        return {}, {}
    # Even spacing makes the measure independent of how many test points there are.
    some = torch.linspace(0, len(data.test) - 1, min(len(data.test), 1000)).long()
    test, position = data.test[some].to(device), data.test_position[some]
    learned = learned_curve(model, train, _CURVE_POINTS)
    metrics = {"total_turning": measures.total_turning(learned.flatten(1))}
    arrays = {"curve": learned, "code": code[:, 0], "reconstruction": model(test), "test_position": position}
    codes = {"": (model.encoder(test).cpu(), position), "train_": (code.cpu(), data.train_position)}
    if data.beyond is not None:
        beyond = data.beyond.to(device)
        codes["whole_"] = _joined(codes[""], (model.encoder(beyond).cpu(), data.beyond_position))
        arrays |= {"beyond_reconstruction": model(beyond), "beyond_position": data.beyond_position}
    for prefix, found in codes.items():
        metrics |= {prefix + name: value for name, value in _order(*found).items()}
    return metrics, {name: value.cpu().numpy().astype(np.float32) for name, value in arrays.items()}


def _joined(*codes: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Codes and positions of several parts of a family as one."""
    return tuple(torch.cat(parts) for parts in zip(*codes, strict=True))


@torch.no_grad()
def order(model: nn.Module, data: Dataset) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Whether the codes run along the family in the right order, on a line (m = 1) or on the unit circle (m = 2).

    Positions of a circle are angles in degrees. If they cover a full turn, the family is closed and the right code
    winds once around the circle (:func:`nrae_lib.core.measures.circular_breaks`). If they cover less, the right code
    runs along the circle without a retreat (:func:`nrae_lib.core.measures.order_breaks` of the angle, followed across
    the cut at π) and through at most one turn. ValueError without positions, or if codes have more than two dimensions.

    Returns:
        metrics on a line rank_correlation and order_breaks; on a circle circular_correlation, circular_breaks and
        winding_number (of an open family the fraction of a turn between its first and last code, with its sign); each
        also with the prefixes ``train_`` and, where there are points beyond the outermost training points, ``whole_``, of
        these and the test points; neighbor_breaks, the discontinuities among the training points in the order of
        the code. Arrays: code (N, m) and test_code (M, m) with position and test_position; sequence (N,), the training
        points in the order of the code; decoded (N, ...) uint8, their decodings in this order; breaks, the places i whose
        successor i + 1 lies beyond a discontinuity; path_code (61, m), evenly spaced codes over the training codes' range,
        and path (61, ...) uint8, their decodings.
    """
    if data.train_position is None or data.test_position is None:
        raise ValueError("the view 'order' needs data with positions: choose another keep for this data set")
    code, position = encode(model, data.train), data.train_position.cpu()
    test_code, test_position = encode(model, data.test), data.test_position.cpu()
    codes = {"train_": (code, position), "": (test_code, test_position)}
    dimension = code.shape[1]
    if dimension > 2:
        raise ValueError(f"the view 'order' needs codes on a line or a circle (latent_dim 1 or 2), not {dimension}")
    if data.beyond is not None:
        codes["whole_"] = _joined(codes[""], (encode(model, data.beyond), data.beyond_position.cpu()))
    metrics: dict[str, float] = {}
    for prefix, found in codes.items():
        metrics |= {prefix + name: value for name, value in _order(*found).items()}
    if dimension == 1:
        along = code[:, 0]
        path_code = torch.linspace(float(along.min()), float(along.max()), _PATH_POINTS)[:, None]
    else:
        along, angle = torch.atan2(code[:, 1], code[:, 0]), torch.linspace(-pi, pi, _PATH_POINTS)
        path_code = torch.stack([angle.cos(), angle.sin()], 1)
    sequence, features = along.argsort(stable=True), data.train[0].numel()
    breaks = measures.neighbor_breaks(along, position, period=None if dimension == 1 else 360.0)
    metrics["neighbor_breaks"] = float(len(breaks))
    arrays = {"code": code, "test_code": test_code, "position": position, "path_code": path_code}
    arrays["test_position"] = test_position
    return metrics, {
        **{name: value.numpy().astype(np.float32) for name, value in arrays.items()},
        "sequence": sequence.numpy().astype(np.int32),
        "breaks": np.asarray(breaks, dtype=np.int32),
        "decoded": as_bytes(decode(model, code[sequence], features)),
        "path": as_bytes(decode(model, path_code, features)),
    }


def _order(code: Tensor, position: Tensor) -> dict[str, float]:
    if code.shape[1] == 1:
        breaks = float(measures.order_breaks(code[:, 0], position))
        return {"rank_correlation": measures.rank_correlation(code[:, 0], position), "order_breaks": breaks}
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
        covers_more_than_a_turn = float(along.max() - along.min()) > 2 * pi
        breaks = max(measures.order_breaks(along, position), int(covers_more_than_a_turn))
    return {"circular_correlation": correlation, "winding_number": turns, "circular_breaks": float(breaks)}


@torch.no_grad()
def neighborhood(model: nn.Module, data: Dataset) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    r"""How well local approximations of a learned curve reconstruct the neighbourhoods of the training points.

    Every training point x has the neighbourhood N(x) of itself and its four nearest others. With the decoder expanded
    to order o at g(x), :math:`\tilde F(x'; x)` reconstructs x' in N(x), and

    .. math:: \mathcal L_o = \frac1N \sum_x \frac15 \sum_{x' \in N(x)} \tfrac1D \lVert x' - \tilde F(x'; x) \rVert^2

    is equation 3 with K = 1 for all models alike, whatever λ and k they train with. The reach of an expansion is the length
    of the learned curve around F(x) on which it stays closer to the curve than a tenth of the root mean square distance of
    the training points from their mean.

    Returns:
        metrics and arrays of :func:`nrae_lib.runs.views.curve`; metrics neighborhood_o and
        neighbor_error_o (without x itself) for o = 0, 1, 2; mean reach_1 and reach_2. Arrays point (N, D), the F(x); graph
        (N, 4), the neighbours; near_o (N, 4, D), their reconstructions, and local_o (N, 21, D), the expansion over the
        codes of the whole neighbourhood, for o = 1, 2; reach_1, reach_2 (N,).

    Raises:
        ValueError: if the codes are not one-dimensional, or there are fewer than five training points.
    """
    device = next(model.parameters()).device
    train = data.train.to(device)
    z = model.encoder(train)
    if z.shape[1] != 1 or len(train) <= _NEIGHBORS:
        needed = f"codes on a line (latent_dim 1) and more than {_NEIGHBORS} training points"
        found = f"codes of dimension {z.shape[1]} of {len(train)} points"
        raise ValueError(f"the view 'neighborhood' needs {needed}, not {found}")
    metrics, arrays = curve(model, data)
    graph = knn_graph(train, _NEIGHBORS)
    x_near, z_near = train[graph].transpose(0, 1), z[graph].transpose(0, 1)
    for order in (0, 1, 2):
        loss = (model.decoder, z, z_near, train, x_near, order, 1.0)
        metrics[f"neighborhood_{order}"] = float(losses.neighborhood_reconstruction(*loss))
        metrics[f"neighbor_error_{order}"] = float(losses.neighborhood_reconstruction(*loss, include_center=False))
    whole = torch.cat([z[None], z_near])
    fractions = torch.linspace(0, 1, _LOCAL_POINTS, dtype=z.dtype, device=device)[:, None, None]
    low, high = whole.min(0).values, whole.max(0).values
    found = {"point": model.decoder(z), "graph": graph.to(torch.int32)}
    for order in (1, 2):
        for name, codes in (("near", z_near), ("local", low + (high - low) * fractions)):
            expansion = taylor(model.decoder, z, codes - z, order).expansion()
            found[f"{name}_{order}"] = expansion.transpose(0, 1)
        found[f"reach_{order}"] = reach = _reach(model.decoder, z, train, order)
        metrics[f"reach_{order}"] = float(reach.mean())
    return metrics, arrays | {name: value.cpu().numpy() for name, value in found.items()}


def _reach(decoder: nn.Module, z: Tensor, train: Tensor, order: int) -> Tensor:
    """(N,) lengths of the learned curve on which the expansion at each code stays within the tolerance."""
    codes = torch.linspace(float(z.min()), float(z.max()), _CURVE_POINTS, dtype=z.dtype, device=z.device)[:, None]
    decoded = decoder(codes)
    arc = torch.cat([codes.new_zeros(1), decoded.diff(dim=0).norm(dim=1).cumsum(0)])
    tolerance = _TOLERANCE * (train - train.mean(0)).square().sum(1).mean().sqrt()
    expansion = taylor(decoder, z, codes[:, None] - z, order).expansion()
    beyond = (expansion - decoded[:, None]).norm(dim=2) > tolerance  # (codes, N)
    place = torch.arange(_CURVE_POINTS, device=z.device)[:, None]
    after = codes > z.T
    first = torch.where(beyond & after, place, _CURVE_POINTS).min(0).values - 1
    last = torch.where(beyond & ~after, place, -1).max(0).values + 1
    return (arc[first.clamp_min(0)] - arc[last.clamp_max(_CURVE_POINTS - 1)]).clamp_min(0)

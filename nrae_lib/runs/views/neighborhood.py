"""Neighbourhoods and their reconstructions by a local approximation of the decoder (Figures 1 to 3)."""

import numpy as np
import torch
from torch import Tensor, nn

from nrae_lib.core import losses, measures
from nrae_lib.core.graph import knn_graph
from nrae_lib.core.taylor import taylor
from nrae_lib.data.datasets import Dataset
from nrae_lib.runs.views.curve import curve

_NEIGHBORS = 4
_CURVE_POINTS, _LOCAL_POINTS = 200, 21
_TOLERANCE = 0.1


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
        metrics and arrays of :func:`nrae_lib.runs.views.curve`; metrics train_order_breaks; neighborhood_o and
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
        raise ValueError(
            f"the view 'neighborhood' needs codes on a line (latent_dim 1) and more than {_NEIGHBORS} training points, "
            f"not codes of dimension {z.shape[1]} of {len(train)} points"
        )
    metrics, arrays = curve(model, data)
    if data.train_position is not None:
        metrics["train_order_breaks"] = float(measures.order_breaks(z[:, 0].cpu(), data.train_position.cpu()))
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

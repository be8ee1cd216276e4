"""The scalar curvature of the decoded surface over the latent plane (Figure 6)."""

import copy

import numpy as np
import torch
from torch import nn

from nrae_lib.core import measures
from nrae_lib.data.datasets import Dataset
from nrae_lib.runs.views.latent_grid import grid_near, some, whitened_codes

_GRID_POINTS = 32
_CODES = 500


@torch.no_grad()
def curvature(model: nn.Module, data: Dataset) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Scalar curvature of the decoded surface where the training codes are; in float64, as its formula asks.

    Curvature does not depend on the coordinates of the latent plane; whitened ones only say where the field is drawn.
    Its unit is 1 / (unit of the images)², with the norm over all their values.

    Returns:
        metrics curvature, the median of ``abs(R)`` over 500 evenly chosen training codes, log10_curvature, its logarithm,
        and field_curvature, the median over the part of the grid where a training code lies within one step of it. Places
        where the decoder is no immersion are left out. Arrays: field (32, 32) float32, R on the grid, row by row from
        above, NaN elsewhere; code (at most 500, 2), whitened, and code_curvature (at most 500,).

    Raises:
        ValueError: if the codes are not in the plane.
    """
    plane, coordinates = whitened_codes(model, data, "curvature")
    decoder = copy.deepcopy(model.decoder).double()
    device = next(model.parameters()).device
    coordinates_shown = coordinates[some(len(coordinates), _CODES)]
    grid, near = grid_near(coordinates, _GRID_POINTS)
    field = torch.full(near.shape, torch.nan, dtype=torch.float64)
    at_codes, field[near] = (
        measures.scalar_curvature(decoder, plane.codes(places).to(device)).cpu()
        for places in (coordinates_shown, grid[near])
    )
    median = float(at_codes.abs().nanquantile(0.5))
    metrics = {
        "curvature": median,
        "log10_curvature": float(np.log10(max(median, np.finfo(np.float64).tiny))),
        "field_curvature": float(field.abs().nanquantile(0.5)),
    }
    arrays = {"field": field, "code": coordinates_shown, "code_curvature": at_codes}
    return metrics, {name: value.numpy().astype(np.float32) for name, value in arrays.items()}

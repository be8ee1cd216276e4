"""What is decoded from a regular grid over the latent plane, and the curvature of the decoded surface (Figures 5 and 6)."""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from nrae_lib.core import measures
from nrae_lib.core.points import check_finite
from nrae_lib.data.datasets import Dataset
from nrae_lib.runs.views.images import as_bytes, decode, encode

_REACH = 2.0  # half a side of the grid, in standard deviations of the training codes: evenly drawn codes reach 1.7
_GRID_POINTS, _FIELD_POINTS = 19, 32  # of the former every second is kept as a picture, both ends among them
_SHOWN_CODES, _CURVATURE_CODES = 1000, 500


class Whitened:
    """A latent plane in coordinates in which given codes (N, 2) have mean 0 and covariance I. The symmetric square root
    of the inverse covariance: of all such coordinates those that turn the codes least."""

    def __init__(self, codes: Tensor):
        codes = codes.double()
        self.mean = codes.mean(0)
        values, axes = torch.linalg.eigh((codes - self.mean).T @ (codes - self.mean) / len(codes))
        # Codes on a line have no second deviation to divide by.
        deviations = values.clamp_min(1e-12 * float(values.max()) + torch.finfo(values.dtype).tiny).sqrt()
        self._forward, self._back = (axes * scale @ axes.T for scale in (1 / deviations, deviations))

    def of(self, codes: Tensor) -> Tensor:
        """(N, 2) codes in these coordinates, float64."""
        return (codes.double() - self.mean) @ self._forward

    def codes(self, coordinates: Tensor) -> Tensor:
        """Inverse of ``of``."""
        return coordinates.double() @ self._back + self.mean


def grid_near(coordinates: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """A regular grid over [-2, 2]², (points, points, 2) float64, row by row from above, and where the data are, (points,
    points) bool: whether one of the whitened codes (N, 2) lies within one step of the grid."""
    side = torch.linspace(-_REACH, _REACH, points, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), 2).flip(0)
    step = float(side[1] - side[0])
    return grid, torch.stack([torch.cdist(row, coordinates).amin(1) <= step for row in grid])


def _some(count: int, most: int) -> Tensor:
    """At most ``most`` evenly spaced numbers of 0 to ``count`` - 1."""
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).long()


def _whitened(model: nn.Module, data: Dataset, view: str) -> tuple[Whitened, Tensor]:
    """The whitened latent plane of the training codes, and these codes in it."""
    codes = encode(model, data.train)
    if codes.shape[1] != 2:
        raise ValueError(f"the view {view!r} needs codes in the plane (latent_dim 2), not {codes.shape[1]}")
    check_finite(codes, "codes")
    plane = Whitened(codes)
    return plane, plane.of(codes)


@torch.no_grad()
def latent_grid(model: nn.Module, data: Dataset) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """What is decoded from a 19 x 19 grid of the whitened latent plane; ValueError if the codes are not in a plane.

    Returns:
        metrics grid_roughness, :func:`nrae_lib.core.measures.grid_smoothness` of the whole grid, and data_roughness, of
        where some training code lies within one step of it. Arrays: grid (10, 10, ...) uint8, every second row and
        column; near (10, 10) bool, that region; code (at most 1000, 2), whitened training codes, and their position.
    """
    plane, coordinates = _whitened(model, data, "latent_grid")
    grid, near = grid_near(coordinates, _GRID_POINTS)
    places = plane.codes(grid.flatten(0, 1)).to(next(model.parameters()).dtype)
    images = decode(model, places, data.train[0].numel()).unflatten(0, grid.shape[:2])
    whole, near_data = (measures.grid_smoothness(images, where) for where in (None, near))
    metrics = {"grid_roughness": whole, "data_roughness": near_data}
    shown = _some(len(coordinates), _SHOWN_CODES)
    arrays = {"grid": as_bytes(images[::2, ::2]), "near": near[::2, ::2].numpy()}
    arrays["code"] = coordinates[shown].numpy().astype(np.float32)
    if data.train_position is not None:
        arrays["position"] = data.train_position.cpu()[shown].numpy().astype(np.float32)
    return metrics, arrays


@torch.no_grad()
def curvature(model: nn.Module, data: Dataset) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Scalar curvature of the decoded surface where the training codes are; in float64, as its formula asks.

    It does not depend on the coordinates of the latent plane; whitened ones only say where the field is drawn. Its unit is
    1 / (unit of the images)², with the norm over all their values. ValueError if the codes are not in a plane.

    Returns:
        metrics curvature, the median of ``abs(R)`` over 500 evenly chosen training codes, log10_curvature, its logarithm,
        and field_curvature, the median over the grid where a training code lies within one step; places where the decoder
        is no immersion are left out. Arrays: field (32, 32) float32, R on the grid, row by row from above, NaN elsewhere;
        code (at most 500, 2), whitened, and code_curvature (at most 500,).
    """
    plane, coordinates = _whitened(model, data, "curvature")
    decoder, device = copy.deepcopy(model.decoder).double(), next(model.parameters()).device
    shown = coordinates[_some(len(coordinates), _CURVATURE_CODES)]
    grid, near = grid_near(coordinates, _FIELD_POINTS)
    field = torch.full(near.shape, torch.nan, dtype=torch.float64)
    codes = [plane.codes(places).to(device) for places in (shown, grid[near])]
    at_codes, field[near] = (measures.scalar_curvature(decoder, each).cpu() for each in codes)
    median = float(at_codes.abs().nanquantile(0.5))
    metrics = {
        "curvature": median,
        "log10_curvature": float(np.log10(max(median, np.finfo(np.float64).tiny))),
        "field_curvature": float(field.abs().nanquantile(0.5)),
    }
    arrays = {"field": field, "code": shown, "code_curvature": at_codes}
    return metrics, {name: value.numpy().astype(np.float32) for name, value in arrays.items()}

"""Latent circles and planes: codes coloured by angle, decoded grids, curvature fields (Figures 5, 6 and 9)."""

import math

import numpy as np

from nrae_lib.pages.plots.curves import _columns, _with_narrow
from nrae_lib.pages.plots.images import mosaic
from nrae_lib.pages.plots.style import (
    ORDER_COLOURS,
    PAGE_WIDTH,
    _entry,
    _mappable,
    _new_figure,
    _not_empty,
    _points,
    method_label,
    style,
)

# ORDER_COLOURS, closed to a circle through green: an angle has no end.
CYCLIC_COLOURS = (*ORDER_COLOURS, "#2f9150", "#0f8f93", ORDER_COLOURS[0])


def _cyclic():
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    return {"cmap": LinearSegmentedColormap.from_list("angle", CYCLIC_COLOURS), "norm": Normalize(0, 360)}


def code_circles(panels, columns=None):
    """Figure 9 of the paper: points on the unit circle of a circular latent space, coloured by their true angle.

    Points that share a code hide one another on the circle, so they are drawn a second time outside of it, farther out
    the larger their true angle: a code that keeps the order is one spiral, a fold turns back and a jump cuts it.

    Arguments:
        panels: title -> {"code": (N, 2) on the unit circle, "angle": (N,) in degrees, "note": str, optional}.
        columns: pictures per row; chosen from their number when None.

    Returns:
        Figure.
    """
    panels = {title: _coloured(title, panel, "angle") for title, panel in _not_empty(panels).items()}
    return _with_narrow(lambda columns: _draw_circles(panels, columns), _columns(len(panels), columns))


def _draw_circles(panels, columns):
    colours = _cyclic()
    with style():
        figure, axes = _squares(panels, columns)
        for axis, panel in zip(axes, panels.values(), strict=True):
            direction = np.arctan2(panel["code"][:, 1], panel["code"][:, 0])
            for radius, size in ((1.0, 22), (1.3 + 0.7 * panel["colour"] / max(panel["colour"].max(), 1e-9), 5)):
                axis.scatter(
                    radius * np.cos(direction), radius * np.sin(direction), c=panel["colour"], s=size, linewidth=0,
                    rasterized=True, **colours,
                )  # fmt: skip
            axis.set(xlim=(-2.1, 2.1), ylim=(-2.1, 2.1), xticks=[], yticks=[], aspect="equal")
            axis.spines[:].set_visible(False)
        _scale_of_angles(figure, axes, colours, "true angle (degrees)")
    return figure


def latent_grids(panels, columns=3):
    """Figure 5 of the paper: images decoded from a regular grid of each latent space, one picture per method.

    Arguments:
        panels: title -> {"grid": (R, C, channels, H, W) uint8, "near": (R, C) bool, optional, "note": str, optional}.
            Images where ``near`` is False, away from the data, are pale.
        columns: pictures per row.

    Returns:
        Figure.
    """
    panels = {title: _grid_panel(title, panel) for title, panel in _not_empty(panels).items()}
    return _with_narrow(lambda columns: _draw_grids(panels, columns), min(columns, len(panels)))


def _draw_grids(panels, columns):
    with style():
        figure, axes = _squares(panels, columns)
        for axis, panel in zip(axes, panels.values(), strict=True):
            axis.imshow(panel["picture"], interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
    return figure


def code_planes(panels, columns=3):
    """Codes in the plane, coloured by their true angle, with the frame of a decoded grid around [-2, 2]².

    Arguments:
        panels: title -> {"code": (N, 2), "angle": (N,) in degrees, "note": str, optional}.
        columns: pictures per row.

    Returns:
        Figure: all pictures have the same limits, [-3, 3]²; points outside are not drawn.
    """
    panels = {title: _coloured(title, panel, "angle") for title, panel in _not_empty(panels).items()}
    return _with_narrow(lambda columns: _draw_planes(panels, columns), min(columns, len(panels)))


def _draw_planes(panels, columns):
    from matplotlib.patches import Rectangle

    colours = _cyclic()
    with style():
        figure, axes = _squares(panels, columns)
        for axis, panel in zip(axes, panels.values(), strict=True):
            axis.scatter(*panel["code"].T, c=panel["colour"], s=7, linewidth=0, rasterized=True, **colours)
            axis.add_patch(Rectangle((-2, -2), 4, 4, fill=False, linestyle=(0, (4, 3)), alpha=0.6))
            axis.set(xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[], aspect="equal")
            axis.spines[:].set(visible=True, alpha=0.3)
        _scale_of_angles(figure, axes, colours, "true angle (degrees)")
    return figure


def curvature_fields(panels, columns=3):
    """Figure 6 of the paper: the scalar curvature R over each latent space, on one symmetric logarithmic colour scale.

    Arguments:
        panels: title -> {"field": (R, C), R over [-2, 2]², the first row on top, NaN outside of the data;
            "code": (N, 2), "note": str, optional}.
        columns: pictures per row.

    Returns:
        Figure: grey where R = 0, blue where it is negative (a saddle), orange where it is positive; colours are linear
        below the lowest tenth of all ``abs(R)``, and end at the largest hundredth.
    """
    panels = {title: _field_panel(title, panel) for title, panel in _not_empty(panels).items()}
    return _with_narrow(lambda columns: _draw_fields(panels, columns), min(columns, len(panels)))


def _draw_fields(panels, columns):
    from matplotlib.colors import LinearSegmentedColormap, SymLogNorm
    from matplotlib.ticker import SymmetricalLogLocator

    sizes = np.concatenate([np.abs(panel["field"][np.isfinite(panel["field"])]) for panel in panels.values()])
    sizes = sizes[sizes > 0]
    low, high = np.quantile(sizes, [0.1, 0.99]) if len(sizes) else (0.1, 1.0)
    # Whole decades, so that the scale has round ends.
    low, high = 10 ** np.floor(np.log10(low)), 10 ** np.ceil(np.log10(high))
    colours = {
        "cmap": LinearSegmentedColormap.from_list("curvature", ("#1450b4", "#5a9be6", "#a8a8a8", "#f0953c", "#c03a00")),
        "norm": SymLogNorm(low, vmin=-high, vmax=high),
    }
    with style():
        figure, axes = _squares(panels, columns)
        for axis, panel in zip(axes, panels.values(), strict=True):
            step = 4 / (len(panel["field"]) - 1)
            extent = (-2 - step / 2, 2 + step / 2) * 2
            axis.imshow(panel["field"], extent=extent, interpolation="nearest", **colours)
            axis.plot(*panel["code"].T, ".", color="black", markersize=1.6, alpha=0.5, rasterized=True)
            axis.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), xticks=[], yticks=[], aspect="equal")
            axis.spines[:].set(visible=True, alpha=0.3)
        scale = figure.colorbar(
            _mappable(colours), ax=axes, location="bottom", shrink=0.8, aspect=40, label="scalar curvature R"
        )
        scale.solids.set_rasterized(True)
        scale.outline.set_visible(False)
        decades = round(np.log10(high / low))
        ends = [10.0**power for power in np.log10(high) - np.arange(0, decades + 1, max(1, math.ceil(decades / 2)))]
        scale.set_ticks([*(-end for end in ends), 0, *reversed(ends)])
        scale.ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
        scale.ax.xaxis.set_minor_locator(SymmetricalLogLocator(linthresh=high, base=10))
    return figure


def _squares(panels, columns):
    """Figure and a flat list of one square axis per panel, with its title above and its note below."""
    rows = math.ceil(len(panels) / columns)
    width = {1: 360, 2: 500}.get(columns, PAGE_WIDTH)
    figure, axes = _new_figure(width, rows * (width / columns + 42) + 60, rows, columns)
    axes = axes.ravel()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, panel) in zip(axes, panels.items(), strict=False):
        axis.set_title(method_label(title))
        axis.set_xlabel(panel["note"], fontsize=11)
    return figure, list(axes[: len(panels)])


def _scale_of_angles(figure, axes, colours, label):
    scale = figure.colorbar(_mappable(colours), ax=axes, location="bottom", shrink=0.7, aspect=40, label=label)
    scale.solids.set_rasterized(True)
    scale.outline.set_visible(False)
    scale.set_ticks(range(0, 361, 90))


def _coloured(title, panel, name):
    code = _points(_entry(title, panel, "code"), f"code of {title!r}")
    colour = np.asarray(_entry(title, panel, name), dtype=float).reshape(-1)
    if len(colour) != len(code):
        raise ValueError(f"{name} of {title!r} has {len(colour)} values, but code has {len(code)} points")
    return {"code": code, "colour": colour, "note": panel.get("note") or ""}


def _grid_panel(title, panel):
    grid = np.asarray(_entry(title, panel, "grid"))
    picture = mosaic(grid)
    if panel.get("near") is not None:
        near = np.asarray(panel["near"])
        if near.shape != grid.shape[:2]:
            raise ValueError(f"near of {title!r} has shape {near.shape}, but its grid {grid.shape[:2]}")
        height, width = grid.shape[3] + 1, grid.shape[4] + 1
        pale = ~near.repeat(height, 0).repeat(width, 1)[:-1, :-1]
        picture[..., 3] = np.where(pale, picture[..., 3] // 3, picture[..., 3])
    return {"picture": picture, "note": panel.get("note") or ""}


def _field_panel(title, panel):
    field = np.asarray(_entry(title, panel, "field"), dtype=float)
    if field.ndim != 2:
        raise ValueError(f"field of {title!r} must be a matrix, not of shape {field.shape}")
    return {
        "field": field,
        "code": _points(_entry(title, panel, "code"), f"code of {title!r}"),
        "note": panel.get("note") or "",
    }

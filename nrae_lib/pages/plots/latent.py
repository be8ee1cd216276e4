"""Latent circles and planes: codes coloured by angle, decoded grids, curvature fields (Figures 5, 6 and 9)."""

import math

import numpy as np

from nrae_lib.pages.plots.images import mosaic
from nrae_lib.pages.plots.panels import colour_bar, not_empty, points_of, small_multiples
from nrae_lib.pages.plots.style import ORDER_COLOURS

# ORDER_COLOURS, closed to a circle through green: an angle has no end.
CYCLIC_COLOURS = (*ORDER_COLOURS, "#2f9150", "#0f8f93", ORDER_COLOURS[0])


def _by_angle(panels, draw, half, columns=None):
    """Squares of codes that are coloured by their angle in degrees, with a colour bar."""
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    colours = {"cmap": LinearSegmentedColormap.from_list("angle", CYCLIC_COLOURS), "norm": Normalize(0, 360)}

    def drawn(axis, panel):
        code, angle = points_of(panel["code"]), np.asarray(panel["angle"], dtype=float).ravel()
        if len(angle) != len(code):
            raise ValueError(f"angle has {len(angle)} values, but code has {len(code)} points")
        draw(axis, code, angle, dict(c=angle, linewidth=0, rasterized=True, **colours))

    def finish(figure, axes, _):
        colour_bar(figure, axes, colours, "true angle (degrees)").set_ticks(range(0, 361, 90))

    return small_multiples(panels, drawn, ((-half, half),) * 2, columns, finish, extra=30)


def code_circles(panels):
    """Figure 9 of the paper: points on the unit circle of a circular latent space, coloured by their true angle.

    Points that share a code hide one another on the circle, so they are drawn a second time outside of it, farther out
    the larger their true angle: a code that keeps the order is one spiral, a fold turns back and a jump cuts it.

    Arguments:
        panels: title -> {"code": (N, 2) on the unit circle, "angle": (N,) in degrees, "note": str, optional}.
    """

    def draw(axis, code, angle, look):
        direction = np.arctan2(code[:, 1], code[:, 0])
        for radius, size in ((1.0, 22), (1.3 + 0.7 * angle / max(angle.max(), 1e-9), 5)):
            axis.scatter(radius * np.cos(direction), radius * np.sin(direction), s=size, **look)
        axis.spines[:].set_visible(False)

    return _by_angle(panels, draw, 2.1)


def code_planes(panels):
    """Codes in the plane, coloured by their true angle, with the frame of a decoded grid around [-2, 2]².

    Arguments:
        panels: title -> {"code": (N, 2), "angle": (N,) in degrees, "note": str, optional}.

    Returns:
        Figure: all pictures have the same limits, [-3, 3]²; points outside are not drawn.
    """
    from matplotlib.patches import Rectangle

    def draw(axis, code, angle, look):
        axis.scatter(*code.T, s=7, **look)
        axis.add_patch(Rectangle((-2, -2), 4, 4, fill=False, linestyle=(0, (4, 3)), alpha=0.6))

    return _by_angle(panels, draw, 3, columns=3)


def latent_grids(panels):
    """Figure 5 of the paper: images decoded from a regular grid of each latent space, one picture per method.

    Arguments:
        panels: title -> {"grid": (R, C, channels, H, W) uint8, "near": (R, C) bool, "note": str, optional}. Images where
            ``near`` is False, away from the data, are pale.
    """

    def draw(axis, panel):
        grid, near = np.asarray(panel["grid"]), np.asarray(panel["near"])
        if near.shape != grid.shape[:2]:
            raise ValueError(f"near has shape {near.shape}, but its grid {grid.shape[:2]}")
        picture = mosaic(grid)
        pale = ~near.repeat(grid.shape[3] + 1, 0).repeat(grid.shape[4] + 1, 1)[:-1, :-1]
        picture[..., 3] = np.where(pale, picture[..., 3] // 3, picture[..., 3])
        axis.imshow(picture, interpolation="nearest")
        axis.set(xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))
        axis.spines[:].set_visible(False)

    return small_multiples(panels, draw, ((-1, 1),) * 2, 3)


def curvature_fields(panels):
    """Figure 6 of the paper: the scalar curvature R over each latent space, on one symmetric logarithmic colour scale.

    Arguments:
        panels: title -> {"field": (R, C), R over [-2, 2]², the first row on top, NaN outside of the data;
            "code": (N, 2), "note": str, optional}.

    Returns:
        Figure: grey where R = 0, blue where it is negative (a saddle), orange where it is positive; colours are linear
        below the lowest tenth of all ``abs(R)``, and end at the largest hundredth.
    """
    from matplotlib.colors import LinearSegmentedColormap, SymLogNorm
    from matplotlib.ticker import SymmetricalLogLocator

    sizes = np.concatenate([np.abs(panel["field"]).ravel() for panel in not_empty(panels).values()])
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    low, high = np.quantile(sizes, [0.1, 0.99]) if len(sizes) else (0.1, 1.0)
    # Whole decades, so that the scale has round ends.
    low, high = 10 ** np.floor(np.log10(low)), 10 ** np.ceil(np.log10(high))
    shades = ("#1450b4", "#5a9be6", "#a8a8a8", "#f0953c", "#c03a00")
    norm = SymLogNorm(low, vmin=-high, vmax=high)
    colours = {"cmap": LinearSegmentedColormap.from_list("curvature", shades), "norm": norm}

    def draw(axis, panel):
        step = 4 / (len(panel["field"]) - 1)
        extent = (-2 - step / 2, 2 + step / 2) * 2
        axis.imshow(panel["field"], extent=extent, interpolation="nearest", **colours)
        axis.plot(*points_of(panel["code"]).T, ".", color="black", markersize=1.6, alpha=0.5, rasterized=True)
        axis.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))  # imshow changed them

    def finish(figure, axes, _):
        scale = colour_bar(figure, axes, colours, "scalar curvature R", 0.8)
        decades = round(np.log10(high / low))
        ends = [10.0**power for power in np.log10(high) - np.arange(0, decades + 1, max(1, math.ceil(decades / 2)))]
        scale.set_ticks([*(-end for end in ends), 0, *reversed(ends)])
        scale.ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
        scale.ax.xaxis.set_minor_locator(SymmetricalLogLocator(linthresh=high, base=10))

    return small_multiples(panels, draw, ((-2.2, 2.2),) * 2, 3, finish, extra=30)

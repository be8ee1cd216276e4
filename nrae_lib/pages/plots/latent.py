"""Latent circles and planes: codes coloured by angle, decoded grids, curvature fields (Figures 5, 6 and 9)."""

import math

import numpy as np

from nrae_lib.pages.plots import panels as multiples
from nrae_lib.pages.plots.images import mosaic
from nrae_lib.pages.plots.panels import colour_bar, colours_between, points_of, small_multiples
from nrae_lib.pages.plots.style import ORDER_COLOURS

# ORDER_COLOURS, closed to a circle through green: an angle has no end.
CYCLIC_COLOURS = (*ORDER_COLOURS, "#2f9150", "#0f8f93", ORDER_COLOURS[0])


def _by_angle(panels, draw, half, columns=None):
    """Squares of codes that are coloured by their angle in degrees, with a colour bar."""
    multiples.check_lengths(panels, angle="code")
    colours = colours_between(CYCLIC_COLOURS, 0, 360)

    def drawn(axis, panel):
        angle = np.ravel(panel["angle"])
        draw(axis, points_of(panel["code"]), angle, dict(c=angle, linewidth=0, rasterized=True, **colours))

    def finish(figure, axes, _):
        colour_bar(figure, axes, colours, "true angle (degrees)").set_ticks(range(0, 361, 90))

    return small_multiples(panels, drawn, ((-half, half),) * 2, columns, finish, extra=30)


def code_circles(panels):
    """Figure 9 of the paper: points on the unit circle of a circular latent space, coloured by their true angle.

    Points that share a code hide one another on the circle, so they are drawn a second time outside of it, farther out
    the larger their true angle: a code that keeps the order is one spiral, a fold turns back and a jump cuts it.
    ``panels`` are title -> {"code": (N, 2) on the unit circle, "angle": (N,) in degrees, "note": str, optional}.
    """

    def draw(axis, code, angle, look):
        direction = np.arctan2(code[:, 1], code[:, 0])
        for radius, size in ((1.0, 22), (1.3 + 0.7 * angle / max(angle.max(), 1e-9), 5)):
            axis.scatter(radius * np.cos(direction), radius * np.sin(direction), s=size, **look)
        axis.spines[:].set_visible(False)

    return _by_angle(panels, draw, 2.1)


def code_planes(panels):
    """Codes in the plane, coloured by their true angle, with the frame of a decoded grid around [-2, 2]².

    Points outside of [-3, 3]² are not drawn. ``panels`` are title -> {"code": (N, 2), "angle": (N,) in degrees, "note":
    str, optional}.
    """
    from matplotlib.patches import Rectangle

    def draw(axis, code, angle, look):
        axis.scatter(*code.T, s=7, **look)
        axis.add_patch(Rectangle((-2, -2), 4, 4, fill=False, linestyle=(0, (4, 3)), alpha=0.6))

    return _by_angle(panels, draw, 3, columns=3)


def latent_grids(panels):
    """Figure 5 of the paper: images decoded from a regular grid of each latent space, one picture per method.
    ``panels`` are title -> {"grid": (R, C, channels, H, W) uint8, "near": (R, C) bool, "note": str, optional}. Images
    where ``near`` is False, away from the data, are pale."""

    def draw(axis, panel):
        (*size, _, height, width), near = np.shape(panel["grid"]), np.asarray(panel["near"])
        if list(near.shape) != size:
            raise ValueError(f"near has shape {near.shape}, but its grid {tuple(size)}")
        picture = mosaic(panel["grid"])
        near = near.repeat(height + 1, 0).repeat(width + 1, 1)[:-1, :-1]
        picture[..., 3] //= np.where(near, 1, 3).astype(np.uint8)
        axis.imshow(picture, interpolation="nearest")
        axis.set(xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))
        axis.spines[:].set_visible(False)

    return small_multiples(panels, draw, ((-1, 1),) * 2, 3)


def curvature_fields(panels):
    """Figure 6 of the paper: the scalar curvature R over each latent space, on one symmetric logarithmic colour scale.

    Grey where R = 0, blue where it is negative (a saddle), orange where it is positive; colours are linear below the
    lowest tenth of all ``abs(R)``, and end at the largest hundredth. ``panels`` are title -> {"field": (R, C), R over
    [-2, 2]², the first row on top, NaN outside of the data; "code": (N, 2), "note": str, optional}.
    """
    from matplotlib.colors import SymLogNorm
    from matplotlib.ticker import SymmetricalLogLocator

    sizes = np.concatenate([np.abs(panel["field"]).ravel() for panel in multiples.not_empty(panels).values()])
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    # Whole decades, so that the scale has round ends.
    low, high = np.log10(np.quantile(sizes, [0.1, 0.99])) if len(sizes) else (-1, 0)
    low, high = math.floor(low), math.ceil(high)
    colours = colours_between(("#1450b4", "#5a9be6", "#a8a8a8", "#f0953c", "#c03a00"), 0, 1)
    colours["norm"] = SymLogNorm(10.0**low, vmin=-(10.0**high), vmax=10.0**high)

    def draw(axis, panel):
        step = 4 / (len(panel["field"]) - 1)
        extent = (-2 - step / 2, 2 + step / 2) * 2
        axis.imshow(panel["field"], extent=extent, interpolation="nearest", **colours)
        axis.plot(*points_of(panel["code"]).T, ".", color="black", markersize=1.6, alpha=0.5, rasterized=True)
        axis.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))  # imshow changed them

    def finish(figure, axes, _):
        scale = colour_bar(figure, axes, colours, "scalar curvature R", 0.8)
        ends = 10.0 ** np.arange(high, low - 1, -max(1, math.ceil((high - low) / 2)))
        scale.set_ticks([*-ends, 0, *ends[::-1]])
        scale.ax.xaxis.set(
            major_formatter=lambda value, _: f"{value:g}".replace("-", "−"),
            minor_locator=SymmetricalLogLocator(linthresh=10.0**high, base=10),
        )

    return small_multiples(panels, draw, ((-2.2, 2.2),) * 2, 3, finish, extra=30)

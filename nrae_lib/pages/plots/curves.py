"""Learned curves: what they look like, and the order of the codes along them."""

import math

import numpy as np

from nrae_lib.pages.plots.style import (
    MANIFOLD_COLOUR,
    ORDER_COLOURS,
    PAGE_WIDTH,
    SAMPLE_COLOUR,
    _aspect,
    _entry,
    _limits,
    _mappable,
    _new_figure,
    _not_empty,
    _points,
    method_label,
    style,
)


def learned_curves(panels, truth=None, columns=None):
    """Figure 4 of the paper: noisy samples (blue) and learned manifolds (orange), one small picture per method.

    Arguments:
        panels: title -> {"train": (n, 2), "curve": (p, 2) or a list of (p, 2), "note": str, optional}. Of several
            curves (seeds) the first is bold and the others faint. A method's name as title is printed as in the paper.
        truth: (p, 2), the noise-free curve, dashed; optional.
        columns: pictures per row; chosen from their number when None.

    Returns:
        Figure: all pictures share their limits, set by the samples and the truth, and have equal axes.
    """
    panels = {title: _curve_panel(title, panel) for title, panel in _not_empty(panels).items()}
    truth = None if truth is None else _points(truth, "truth")
    limits = _limits([panel["train"] for panel in panels.values()] + ([] if truth is None else [truth]))
    return _with_narrow(lambda columns: _draw_curves(panels, truth, limits, columns), _columns(len(panels), columns))


def _draw_curves(panels, truth, limits, columns):
    with style():
        figure, axes = _multiples(panels, limits, columns)
        for axis, (title, panel) in zip(axes, panels.items(), strict=True):
            axis.set_title(method_label(title))
            axis.set_xlabel(panel["note"], fontsize=11)
            _draw_samples(axis, panel["train"])
            for curve in panel["curves"][1:]:
                axis.plot(*curve.T, color=MANIFOLD_COLOUR, linewidth=1, alpha=0.4)
            axis.plot(*panel["curves"][0].T, color=MANIFOLD_COLOUR, linewidth=2.4, label="learned manifold")
            if truth is not None:
                axis.plot(*truth.T, color="black", linewidth=1.1, linestyle=(0, (4, 3)), alpha=0.75, label="truth")
        _legend_below(figure, axes[0])
    return figure


def latent_order(panels):
    """Figure 7 of the paper: are test points reconstructed, and are training points in the right order in the code?

    Arguments:
        panels: title -> {"train": (n, 2), "reconstruction": (t, 2), "curve": (p, 2), "code": (n,), "angle": (n,),
            "test_angle": (t,), "note": str, optional}; angles in radians.

    Returns:
        Figure: per method the reconstructed test points coloured by true angle over the training points, and below it
        the training codes as dots on a line. Codes are rescaled to [0, 1] and, since the sign of a code is arbitrary,
        turned so that they grow with the angle. In a right order the colours run once from blue to yellow.
    """
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    panels = {title: _order_panel(title, panel) for title, panel in _not_empty(panels).items()}
    angles = np.concatenate([panel[name] for panel in panels.values() for name in ("angle", "test_angle")])
    colours = {
        "cmap": LinearSegmentedColormap.from_list("order", ORDER_COLOURS),
        "norm": Normalize(angles.min(), angles.max()),
    }
    return _with_narrow(lambda columns: _draw_order(panels, colours, columns), _columns(len(panels), None))


def _draw_order(panels, colours, columns):
    limits = _limits([panel["train"] for panel in panels.values()])
    rows = math.ceil(len(panels) / columns)
    width = _width(columns)
    top_height, line_height = width / columns * _aspect(limits), 30
    with style():
        figure, axes = _new_figure(
            width, rows * (top_height + line_height + 60) + 84, 2 * rows, columns,
            gridspec_kw={"height_ratios": [top_height, line_height] * rows},
        )  # fmt: skip
        tops, lines = axes[0::2].ravel(), axes[1::2].ravel()
        for axis in [*tops[len(panels) :], *lines[len(panels) :]]:
            axis.set_visible(False)
        for (title, panel), top, line in zip(panels.items(), tops, lines, strict=False):
            _bare(top, limits)
            top.set_title(method_label(title))
            top.plot(*panel["curve"].T, color="black", linewidth=0.9, alpha=0.5, label="decoded latent line")
            # A thousand coloured dots are ten times smaller as pixels than as vectors.
            top.scatter(*panel["reconstruction"].T, c=panel["test_angle"], s=9, linewidth=0, rasterized=True, **colours)
            top.plot(
                *panel["train"].T, "o", markersize=5.5, markerfacecolor="none", color="black", label="training points"
            )
            line.axhline(0, color="black", linewidth=0.8, alpha=0.5)
            line.scatter(panel["code"], np.zeros_like(panel["code"]), c=panel["angle"], s=52, alpha=0.9, **colours)
            line.set(xlim=(-0.04, 1.04), ylim=(-1, 1), xticks=[], yticks=[])
            # The empty line keeps the note apart from the title of the picture below.
            line.set_xlabel((panel["note"] or "latent code") + "\n", fontsize=11)
            line.spines[:].set_visible(False)
        _legend_below(figure, tops[0])
        scale = figure.colorbar(
            _mappable(colours), ax=axes.ravel().tolist(), location="bottom", shrink=0.7, aspect=40,
            label="true angle (radians) of test points and of latent codes",
        )  # fmt: skip
        _colour_bar_as_image(scale, colours)
    return figure


def _multiple_of_pi(value, _position=None):
    halves = round(value / (math.pi / 2))
    return {0: "0", 1: "π/2", 2: "π"}.get(halves, f"{halves}π/2" if halves % 2 else f"{halves // 2}π")


def _colour_bar_as_image(scale, colours):
    """Replace the 256 vector rectangles of a horizontal colour bar: smaller, and without hairlines between them."""
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    low, high = colours["norm"].vmin, colours["norm"].vmax
    scale.solids.set_visible(False)
    scale.outline.set_visible(False)
    scale.ax.imshow(
        colours["cmap"](np.linspace(0, 1, 64))[None], aspect="auto", extent=(0, 1, 0, 1), transform=scale.ax.transAxes
    )
    scale.ax.set(xlim=(low, high), ylim=(0, 1))
    if high - low > math.pi:
        scale.ax.xaxis.set_major_locator(MultipleLocator(math.pi / 2))
        scale.ax.xaxis.set_major_formatter(FuncFormatter(_multiple_of_pi))


def _draw_samples(axis, train):
    axis.plot(*train.T, "o", color=SAMPLE_COLOUR, markersize=4.2, markeredgewidth=0, alpha=0.85, label="noisy samples")


def _with_narrow(draw, columns):
    """The figure in so many columns, with its form for phones as `figure.narrow` where it would be too wide."""
    figure = draw(columns)
    figure.narrow = draw(2) if columns > 2 else None
    return figure


def _columns(number, columns):
    if columns is None:
        columns = {1: 1, 2: 2, 3: 3, 4: 2}.get(number, 3 if number <= 6 or number == 9 else 4)
    if columns < 1:
        raise ValueError(f"columns must be 1 or more, got {columns}")
    return min(columns, number)


def _multiples(panels, limits, columns):
    """Figure and a flat list of axes, one per panel, equal in scale and without ticks between them."""
    rows = math.ceil(len(panels) / columns)
    width = _width(columns)
    height = rows * (width / columns * _aspect(limits) + 52) + 30
    figure, axes = _new_figure(width, height, rows, columns)
    axes = axes.ravel()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis in axes:
        _bare(axis, limits)
    return figure, list(axes[: len(panels)])


def _width(columns):
    # Two columns at 0.7 of their size, the smallest that is shown, fit on a phone.
    return {1: 360, 2: 500}.get(columns, PAGE_WIDTH)


def _bare(axis, limits):
    """Equal axes with a faint frame: in these pictures shape matters, not coordinates."""
    axis.set(xlim=limits[0], ylim=limits[1], xticks=[], yticks=[], aspect="equal")
    axis.spines[:].set(visible=True, alpha=0.3)


def _legend_below(figure, axis):
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), handlelength=1.6, columnspacing=1.6)


def _curve_panel(title, panel):
    curves = _entry(title, panel, "curve")
    if np.ndim(curves[0]) == 1:
        curves = [curves]
    return {
        "train": _points(_entry(title, panel, "train"), f"train of {title!r}"),
        "curves": [_points(curve, f"curve of {title!r}") for curve in curves],
        "note": panel.get("note") or "",
    }


def _order_panel(title, panel):
    result = {
        name: _points(_entry(title, panel, name), f"{name} of {title!r}")
        for name in ("train", "reconstruction", "curve")
    }
    partners = {"code": "train", "angle": "train", "test_angle": "reconstruction"}
    for name, partner in partners.items():
        values = np.asarray(_entry(title, panel, name), dtype=float).reshape(-1)
        if len(values) != len(result[partner]):
            raise ValueError(
                f"{name} of {title!r} has {len(values)} values, but {partner} has {len(result[partner])} points"
            )
        result[name] = values
    code = result["code"] - result["code"].min()
    code = code / max(code.max(), 1e-12)
    ranks = [values.argsort().argsort() for values in (code, result["angle"])]
    if np.cov(*ranks)[0, 1] < 0:
        code = 1 - code
    return {**result, "code": code, "note": panel.get("note") or ""}

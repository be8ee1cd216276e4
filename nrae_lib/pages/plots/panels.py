"""Small multiples: one picture per method on equal axes, in a wide form and one for phones."""

import numpy as np

from nrae_lib.pages.plots.style import PAGE_WIDTH, method_label, new_figure, style

# How a number that the paper printed is drawn.
PAPER_MARK = dict(fmt="D", markersize=6, markerfacecolor="none", color="black", linewidth=1.2, capsize=3)


def small_multiples(panels, draw, limits, columns=None, finish=None, extra=0, below=52):
    """A Figure of one picture per panel, all with the same equal axes; its form for phones is `figure.narrow`.

    Arguments:
        panels: title -> what ``draw`` takes; "note" stands below a picture.
        draw: function of (axis, panel).
        limits: ((left, right), (bottom, top)); in these pictures shape matters, not coordinates, so there are no ticks.
        columns: pictures per row; chosen from their number when None.
        finish: function of (figure, axes, columns), for legends and colour bars.
        extra, below: further height in CSS pixels of the figure, and of each row for titles and notes.
    """

    def whole(columns):
        width, rows = page_width(columns), -(-len(panels) // columns)
        with style():
            height = rows * (width / columns * np.ptp(limits[1]) / np.ptp(limits[0]) + below) + 30 + extra
            figure, axes = new_figure(height, len(panels), columns, width)
            for axis, (title, panel) in zip(axes, panels.items(), strict=True):
                axis.set(xlim=limits[0], ylim=limits[1], xticks=[], yticks=[], aspect="equal")
                axis.spines[:].set(visible=True, alpha=0.3)
                axis.set_title(method_label(title))
                axis.set_xlabel(panel.get("note") or "", fontsize=11)
                draw(axis, panel)
            if finish:
                finish(figure, axes, columns)
        return figure

    return with_narrow(whole, choose_columns(len(not_empty(panels)), columns))


def with_narrow(draw, columns, narrow=2):
    """The figure in so many columns, and in fewer for phones where it would be too wide."""
    figure = draw(columns)
    figure.narrow = draw(narrow) if columns > narrow else None
    return figure


def choose_columns(number, columns=None):
    """Pictures per row."""
    return min(columns or {4: 2, 9: 3}.get(number, 3 if number <= 6 else 4), number)


def page_width(columns):
    """CSS pixels; two columns at 0.7 of their size, the smallest that is shown, fit on a phone."""
    return {1: 360, 2: 500}.get(columns, PAGE_WIDTH)


def legend_below(figure, axis, columns=None, **options):
    """The legend of one axis below the figure."""
    handles, labels = axis.get_legend_handles_labels()
    look = dict(handlelength=1.6, columnspacing=1.6) | options
    figure.legend(handles, labels, loc="outside lower center", ncols=columns or len(labels), **look)


def colours_between(shades, low, high):
    """The `cmap` and `norm` of numbers from low to high."""
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    return {"cmap": LinearSegmentedColormap.from_list("shades", shades), "norm": Normalize(low, high)}


def colour_bar(figure, axes, colours, label, shrink=0.7):
    """One horizontal colour bar below the axes, as an image: smaller than vectors, and without hairlines."""
    from matplotlib.cm import ScalarMappable

    place = dict(ax=axes, location="bottom", shrink=shrink, aspect=40)
    scale = figure.colorbar(ScalarMappable(**colours), label=label, **place)
    scale.solids.set_rasterized(True)
    scale.outline.set_visible(False)
    return scale


def plain_log(axis):
    """Make an x or y axis logarithmic, with numbers written out at 1, 2 and 5 of every decade."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda number, _: f"{number:g}")
    axis.set_minor_formatter(NullFormatter())


def limits_of(arrays, margin=1 / 16):
    """((left, right), (bottom, top)) around all points, with a margin in units of the larger side."""
    points = np.concatenate([points_of(array) for array in arrays])
    low, high = points.min(axis=0), points.max(axis=0)
    margin *= max((high - low).max(), 1e-6)
    return tuple(zip((low - margin).tolist(), (high + margin).tolist(), strict=True))


def not_empty(panels):
    """``panels``, or one sentence."""
    if not panels:
        raise ValueError("there is nothing to draw: panels is empty; give at least one title -> arrays")
    return panels


def check_lengths(panels, **partners):
    """One sentence unless in every panel the arrays named have as many entries as their partners, such as code="train"."""
    for title, panel in not_empty(panels).items():
        for name, partner in partners.items():
            if len(panel[name]) != len(panel[partner]):
                found = f"{len(panel[name])} entries, but {partner} {len(panel[partner])}"
                raise ValueError(f"{name} of {title!r} has {found}")


def points_of(values):
    """Points of the plane as floats, or one sentence."""
    points = np.asarray(values, dtype=float)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
        raise ValueError(f"points to draw must have shape (points, 2), not {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError("points to draw contain values that are not finite: did training diverge?")
    return points

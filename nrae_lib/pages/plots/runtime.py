"""Pictures of running time and memory: ratios of many methods, and how they grow with one number."""

import numpy as np

from nrae_lib.pages.plots.many_runs import _PAPER_MARK, _plain_log_ticks
from nrae_lib.pages.plots.panels import hide_spare, not_empty
from nrae_lib.pages.plots.style import PAGE_WIDTH, _new_figure, method_colour, method_label, style

_ROW = 22  # CSS pixels
_MARKS = ("o", "s", "^", "v", "P", "X", "D", "p")
_DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))


def cost_chart(series, paper=None, xlabel="time of a step / AE"):
    """Ratios of many methods, one row each: median and quartiles of every series, and the paper's number.

    Arguments:
        series: label -> {method: (median, low, high)}; rows are ordered by the first series, the cheapest on top.
        paper: method -> number as printed; optional.
        xlabel: what the numbers are; their axis is logarithmic.

    Returns:
        Figure: with a line at 1.
    """
    not_empty(series)
    (first_label, first), *_ = series.items()
    others = [name for rows in series.values() for name in rows if name not in first]
    order = [*sorted(first, key=lambda name: first[name][0]), *dict.fromkeys(others)]
    place = {name: row for row, name in enumerate(order)}
    shown = [value for rows in series.values() for value in rows.values()]
    if not shown or not all(np.isfinite(value).all() and min(value) > 0 for value in shown):
        raise ValueError("every ratio must be a positive number: was anything measured?")
    with style():
        figure, axes = _new_figure(PAGE_WIDTH, _ROW * len(order) + 90)
        axis = axes[0, 0]
        axis.axvline(1, color="black", linewidth=1, alpha=0.5)
        offsets = np.linspace(-0.18, 0.18, len(series)) if len(series) > 1 else [0.0]
        for (label, rows), offset, mark in zip(series.items(), offsets, _MARKS, strict=False):
            filled = {} if label == first_label else {"markerfacecolor": "none"}
            for name, (median, low, high) in rows.items():
                axis.errorbar(
                    median, place[name] + offset, xerr=[[median - low], [high - median]], fmt=mark, markersize=6,
                    color=method_colour(name), linewidth=2, **filled,
                )  # fmt: skip
            axis.plot([], [], mark, color="#808080", label=label, **filled)
        printed = {name: number for name, number in (paper or {}).items() if name in place}
        for name, number in printed.items():
            axis.errorbar(number, place[name], **{**_PAPER_MARK, "capsize": 0})
        if printed:
            axis.plot([], [], "D", color="black", markerfacecolor="none", label="paper")
        axis.set_xscale("log")
        _plain_log_ticks(axis.xaxis)
        axis.set_yticks(range(len(order)), [method_label(name) for name in order])
        axis.set_ylim(len(order) - 0.4, -0.6)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="both")
        axis.set_xlabel(f"{xlabel} (log scale)")
        figure.legend(loc="outside lower center", ncols=3, handletextpad=0.3)
    return figure


def scaling(panels):
    """How time or memory grows with one number: one panel each, both axes logarithmic.

    Arguments:
        panels: title -> {"x": label, "y": label, "lines": {label: {"x": (n,), "y": (n,), and optionally "low" and
            "high": (n,), "method": whose colour it has, "form": 0 solid, 1 dashed, 2 dotted}}}. A label has one look in
            all panels.

    Returns:
        Figure: two panels beside each other; below one another on a phone.
    """
    not_empty(panels)
    figure = _draw_scaling(panels, min(len(panels), 2))
    figure.narrow = _draw_scaling(panels, 1) if len(panels) > 1 else None
    return figure


def _draw_scaling(panels, columns):
    rows = -(-len(panels) // columns)
    labels = list(dict.fromkeys(label for panel in panels.values() for label in panel["lines"]))
    legend_columns = 3 if columns > 1 else 2
    height = 290 * rows + 24 * -(-len(labels) // legend_columns) + 10
    with style():
        figure, axes = _new_figure(PAGE_WIDTH if columns > 1 else 440, height, rows, columns)
        handles = {}
        for axis, (title, panel) in zip(hide_spare(axes, len(panels)), panels.items(), strict=True):
            for place, (label, line) in enumerate(panel["lines"].items()):
                # Where lines coincide, the ones below are wider and show on both sides.
                width = 1.5 + 0.55 * (len(panel["lines"]) - 1 - place)
                look = dict(
                    color=method_colour(line.get("method", label)), linestyle=_DASHES[line.get("form", 0)],
                    marker=_MARKS[labels.index(label) % len(_MARKS)], markersize=width + 3.5, linewidth=width,
                )  # fmt: skip
                handles[label] = axis.plot(line["x"], line["y"], **look)[0]
                if "low" in line:
                    axis.fill_between(
                        line["x"], line["low"], line["high"], color=look["color"], alpha=0.18, linewidth=0
                    )
            axis.set_xscale("log")
            axis.set_yscale("log")
            x = sorted({value for line in panel["lines"].values() for value in line["x"]})
            axis.set_xticks(x, [f"{value:g}" for value in x])
            axis.minorticks_off()
            _plain_log_ticks(axis.yaxis)
            axis.grid()
            axis.set(title=title, xlabel=panel["x"], ylabel=panel["y"])
        figure.legend(
            handles=list(handles.values()), labels=list(handles), loc="outside lower center", ncols=legend_columns
        )
    return figure

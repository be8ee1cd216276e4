"""Lines: a measure against a setting that was varied, and how time or memory grows with one number."""

import numpy as np

from nrae_lib.pages.plots.many_runs import finite
from nrae_lib.pages.plots.panels import PAPER_MARK, legend_below, not_empty, plain_log, with_narrow
from nrae_lib.pages.plots.rows import SERIES_MARKS
from nrae_lib.pages.plots.style import PAGE_WIDTH, method_colour, method_label, new_figure, style

_DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))


def sweep(
    frame, across, value, method_order, levels=None, paper=None, panel=None, xlabel=None, ylabel=None, logarithmic="xy",
    emphasis=("nrae_l", "nrae_q"),
):  # fmt: skip
    """Mean over seeds of a measure against a varied setting, one line per method; bars are one standard deviation.

    Arguments:
        frame: DataFrame, one row per run, columns method, `across`, `value` and, if given, `panel`.
        across, value: columns of the horizontal and of the vertical axis.
        method_order: names of methods in the order of the legend; those without runs and levels are left out.
        levels: method -> values of its runs where the setting does not apply to it, (n,): a dashed line across.
        paper: method -> {setting: number as printed}, drawn as open diamonds; optional.
        panel: column whose values get a picture each; one picture without it.
        xlabel, ylabel: of the axes; the names of the columns when None.
        logarithmic: which axes are, "", "x", "y" or "xy".
        emphasis: methods drawn with thicker lines, each thinner than the one before, so that equal lines stay visible.
    """
    drawn, levels, paper = finite(frame, value, method_order), levels or {}, paper or {}
    shown = [name for name in method_order if name in levels or (drawn["method"] == name).any()]
    panels = dict(list(drawn.groupby(panel, sort=False))) if panel else {"": drawn}
    narrow = PAGE_WIDTH / len(panels) < 400
    with style():
        figure, axes = new_figure(340 if narrow else 400, len(panels), len(panels))
        for axis, (title, rows) in zip(axes, panels.items(), strict=True):
            settings = np.sort(rows[across].unique()).astype(float)
            for place, name in enumerate(shown):
                width = 4.4 / 2 ** emphasis.index(name) if name in emphasis else 1.4
                look = {"color": method_colour(name), "linewidth": width}
                axis.plot([], [], "--" if name in levels else "-", label=method_label(name), **look)
                if name in levels:
                    axis.axhline(np.mean(levels[name]), linestyle="--", **look)
                found = rows[rows["method"] == name].groupby(across)[value].agg(["mean", "std"]).fillna(0)
                if len(found):
                    # Bars side by side: those of nearly equal methods would hide each other.
                    shift = (place - (len(shown) - 1) / 2) * 0.006
                    at = found.index * (1 + shift) if "x" in logarithmic else found.index + shift * np.ptp(settings)
                    bars = dict(fmt="o-", markersize=4.5, capsize=2.5, elinewidth=1)
                    axis.errorbar(at, *found.to_numpy().T, **bars, **look)
                if name in paper:
                    printed = {**PAPER_MARK, "fmt": "D:", "color": look["color"], "linewidth": 1}
                    axis.errorbar(*zip(*paper[name].items(), strict=True), **printed)
            if "x" in logarithmic:
                axis.set_xscale("log")
            if "y" in logarithmic:
                plain_log(axis.yaxis)
            axis.minorticks_off()
            axis.set_xticks(settings, [f"{setting:g}" for setting in settings])
            if len(settings) > 5 and narrow:
                axis.tick_params(axis="x", labelrotation=60)
            axis.grid(axis="y")
            axis.set(title=title, xlabel=xlabel or across)
        axes[0].set_ylabel(ylabel or value)
        if paper:
            axes[0].plot([], [], "D:", markerfacecolor="none", color="black", label="paper")
        legend_below(figure, axes[0], min(len(shown) + bool(paper), 5), handlelength=2)
    return figure


def scaling(panels):
    """How time or memory grows with one number: one panel each, both axes logarithmic.

    Two panels stand beside each other, and below one another on a phone.

    Arguments:
        panels: title -> {"x": label, "y": label, "lines": {label: {"x": (n,), "y": (n,), and optionally "low" and
            "high": (n,), "method": whose colour it has, "form": 0 solid, 1 dashed, 2 dotted}}}. A label has one look.
    """
    labels = list(dict.fromkeys(label for panel in not_empty(panels).values() for label in panel["lines"]))

    def draw(columns):
        height = 290 * -(-len(panels) // columns) + 24 * -(-len(labels) // (columns + 1)) + 10
        handles = {}
        with style():
            figure, axes = new_figure(height, len(panels), columns, 440 if columns == 1 else PAGE_WIDTH)
            for axis, (title, panel) in zip(axes, panels.items(), strict=True):
                for place, (label, line) in enumerate(panel["lines"].items(), 1):
                    # Where lines coincide, the ones below are wider and show on both sides.
                    width = 1.5 + 0.55 * (len(panel["lines"]) - place)
                    colour, mark = method_colour(line.get("method", label)), SERIES_MARKS[labels.index(label) % 8]
                    look = dict(linestyle=_DASHES[line.get("form", 0)], linewidth=width, markersize=width + 3.5)
                    handles[label] = axis.plot(line["x"], line["y"], color=colour, marker=mark, **look)[0]
                    if "low" in line:
                        axis.fill_between(line["x"], line["low"], line["high"], color=colour, alpha=0.18, linewidth=0)
                axis.set(title=title, xlabel=panel["x"], ylabel=panel["y"], xscale="log")
                x = sorted({value for line in panel["lines"].values() for value in line["x"]})
                axis.set_xticks(x, [f"{value:g}" for value in x])
                plain_log(axis.yaxis)
                axis.minorticks_off()
                axis.grid()
            place = dict(loc="outside lower center", ncols=columns + 1)
            figure.legend(handles=list(handles.values()), labels=list(handles), **place)
        return figure

    return with_narrow(draw, min(len(panels), 2), narrow=1)

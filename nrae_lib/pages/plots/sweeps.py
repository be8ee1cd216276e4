"""A measure against a setting that was varied, and the rows of a table as a picture."""

import math

import numpy as np

from nrae_lib.pages.plots.many_runs import _PAPER_MARK, _finite, _plain_log_ticks, mean_and_deviation
from nrae_lib.pages.plots.panels import legend_below
from nrae_lib.pages.plots.style import PAGE_WIDTH, _new_figure, method_colour, method_label, style

_MARKERS = "osD^v<>Ph*X"


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

    Returns:
        Figure.

    Raises:
        ValueError: if a column is missing or there is nothing to draw.
    """
    drawn = _finite(frame, value, method_order, across, *([panel] if panel else []))
    levels, paper = levels or {}, paper or {}
    shown = [name for name in method_order if name in levels or (drawn["method"] == name).any()]
    panels = list(dict.fromkeys(drawn[panel])) if panel else [""]
    narrow = PAGE_WIDTH / len(panels) < 400
    with style():
        figure, axes = _new_figure(PAGE_WIDTH, 340 if narrow else 400, 1, len(panels))
        for axis, title in zip(axes[0], panels, strict=True):
            rows = drawn[drawn[panel] == title] if panel else drawn
            settings = np.array(sorted(rows[across].unique()), dtype=float)
            for place, name in enumerate(shown):
                width = 4.4 / 2 ** emphasis.index(name) if name in emphasis else 1.4
                look = {"color": method_colour(name), "linewidth": width}
                axis.plot([], [], "--" if name in levels else "-", label=method_label(name), **look)
                if name in levels:
                    axis.axhline(np.mean(levels[name]), linestyle="--", **look)
                groups = rows[rows["method"] == name].groupby(across)[value]
                found = {float(key): mean_and_deviation(group.to_numpy(float)) for key, group in groups}
                if found:
                    # Bars side by side: those of nearly equal methods would hide each other.
                    shift, at = (place - (len(shown) - 1) / 2) * 0.006, np.array(list(found))
                    at = at * (1 + shift) if "x" in logarithmic else at + shift * np.ptp(settings)
                    bars = dict(fmt="o-", markersize=4.5, capsize=2.5, elinewidth=1)
                    axis.errorbar(at, *np.array(list(found.values())).T, **bars, **look)
                if name in paper:
                    printed = {**_PAPER_MARK, "fmt": "D:", "color": look["color"], "linewidth": 1}
                    axis.errorbar(*zip(*paper[name].items(), strict=True), **printed)
            if "x" in logarithmic:
                axis.set_xscale("log")
            if "y" in logarithmic:
                axis.set_yscale("log")
                _plain_log_ticks(axis.yaxis)
            axis.minorticks_off()
            axis.set_xticks(settings, [f"{setting:g}" for setting in settings])
            if len(settings) > 5 and narrow:
                axis.tick_params(axis="x", labelrotation=60)
            axis.grid(axis="y")
            axis.set(title=title, xlabel=xlabel or across)
        axes[0, 0].set_ylabel(ylabel or value)
        if paper:
            axes[0, 0].plot([], [], "D:", markerfacecolor="none", color="black", label="paper")
        legend_below(figure, axes[0, 0], min(len(shown) + bool(paper), 5), handlelength=2)
    return figure


def dot_rows(rows, columns, xlabel, relative_to=None, printed=()):
    """One line for each row of a comparison table, and on it one mark for each method, with its spread.

    Arguments:
        rows: label -> {method: number, (mean, spread), None, or a text that says why there is none}, as for
            ``pages.comparison_table``; rows without any number are left out.
        columns: names of the methods, in the order of the legend.
        xlabel: what the numbers are.
        relative_to: a method whose number divides those of its row; a row without it is left out.
        printed: labels of rows whose marks are hollow, such as the paper's.

    Returns:
        Figure.

    Raises:
        ValueError: if no row has a number to draw.
    """
    found = {}
    for label, row in rows.items():
        pairs = {name: value if isinstance(value, tuple) else (value, None) for name, value in row.items()}
        pairs = {name: pair for name, pair in pairs.items() if _is_number(pair[0])}
        if relative_to in pairs:
            unit = pairs[relative_to][0]
            pairs = {name: (mean / unit, spread and spread / unit) for name, (mean, spread) in pairs.items()}
        if pairs and (relative_to is None or relative_to in pairs):
            found[label] = pairs
    if not found:
        raise ValueError("no row has a number to draw" + (f" relative to {relative_to}" if relative_to else ""))
    shown = [name for name in columns if any(name in row for row in found.values())]
    with style():
        figure, axes = _new_figure(PAGE_WIDTH, 27 * len(found) + 110)
        axis = axes[0, 0]
        looks = {
            name: dict(color=method_colour(name), marker=_MARKERS[columns.index(name) % len(_MARKERS)], linestyle="")
            for name in shown
        }
        for name in shown:
            axis.plot([], [], label=method_label(name), **looks[name])
        for place, (label, row) in enumerate(found.items()):
            hollow = {"markerfacecolor": "none"} if label in printed else {}
            for name, (mean, spread) in row.items():
                # A little apart, so that equal numbers are seen as several marks.
                height = place + 0.5 * (columns.index(name) / max(1, len(columns) - 1) - 0.5)
                axis.errorbar(
                    mean, height, xerr=spread if _is_number(spread) else None, markersize=6, elinewidth=1.2,
                    **looks[name], **hollow,
                )  # fmt: skip
        if any(label in printed for label in found):
            axis.plot([], [], "o", color="black", markerfacecolor="none", label="hollow: printed")
        if relative_to:
            axis.axvline(1, color=method_colour(relative_to), linewidth=1, linestyle=":")
        axis.set(xlabel=xlabel, ylim=(len(found) - 0.5, -0.5))
        axis.set_yticks(range(len(found)), list(found))
        axis.grid(axis="x")
        legend_below(figure, axis, 6, handletextpad=0.2, columnspacing=1.2)
    return figure


def _is_number(value):
    return isinstance(value, (int, float)) and math.isfinite(value)

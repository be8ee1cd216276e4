"""Rows of marks: the numbers of a table, and what methods cost."""

import math

from nrae_lib.pages.plots.panels import legend_below, not_empty, plain_log
from nrae_lib.pages.plots.style import method_colour, method_label, new_figure, style

_MARKS = "osD^v<>Ph*X"
SERIES_MARKS = "os^vPXDp"


def dot_rows(rows, columns, xlabel, relative_to=None, printed=()):
    """One line for each row of a comparison table, and on it one mark for each method, with its spread.

    Arguments:
        rows: label -> {method: number, (mean, spread), None, or a text that says why there is none}, as for
            ``pages.comparison_table``; rows without any number are left out.
        columns: names of the methods, in the order of the legend.
        xlabel: what the numbers are.
        relative_to: a method whose number divides those of its row; a row without it is left out.
        printed: labels of rows whose marks are hollow, such as the paper's.
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
    with style():
        figure, [axis] = new_figure(27 * len(found) + 110)
        for number, name in enumerate(columns):
            look = dict(color=method_colour(name), marker=_MARKS[number % len(_MARKS)], linestyle="")
            of_rows = [(place, label, row[name]) for place, (label, row) in enumerate(found.items()) if name in row]
            if of_rows:
                axis.plot([], [], label=method_label(name), **look)
            # A little apart, so that equal numbers are seen as several marks.
            apart = 0.5 * (number / max(1, len(columns) - 1) - 0.5)
            for place, label, (mean, spread) in of_rows:
                hollow = {"markerfacecolor": "none"} if label in printed else {}
                bars = dict(xerr=spread if _is_number(spread) else None, markersize=6, elinewidth=1.2)
                axis.errorbar(mean, place + apart, **bars, **look, **hollow)
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


def cost_chart(series, paper=None):
    """Time of a step relative to AE's, one row per method: median and quartiles of every series, and the paper's number.

    Arguments:
        series: label -> {method: (median, low, high)}; rows are ordered by the first series, the cheapest on top.
        paper: method -> number as printed; optional.
    """
    first, *_ = not_empty(series).values()
    shown = [number for row in series.values() for numbers in row.values() for number in numbers]
    if not shown or not all(math.isfinite(number) and number > 0 for number in shown):
        raise ValueError("every ratio must be a positive number: was anything measured?")
    everything = [*sorted(first, key=first.get), *(name for row in series.values() for name in row)]
    names = list(dict.fromkeys(everything))
    with style():
        figure, [axis] = new_figure(22 * len(names) + 90)
        axis.axvline(1, color="black", linewidth=1, alpha=0.5)
        for number, (mark, (label, row)) in enumerate(zip(SERIES_MARKS, series.items(), strict=False)):
            apart = 0.36 * (number - (len(series) - 1) / 2) / max(1, len(series) - 1)
            look = {} if number == 0 else {"markerfacecolor": "none"}
            for name, (median, low, high) in row.items():
                bars = dict(xerr=[[median - low], [high - median]], fmt=mark, markersize=6, linewidth=2)
                axis.errorbar(median, names.index(name) + apart, color=method_colour(name), **bars, **look)
            axis.plot([], [], mark, color="#808080", label=label, **look)
        printed = [(number, names.index(name)) for name, number in (paper or {}).items() if name in names]
        if printed:
            axis.plot(*zip(*printed, strict=True), "D", color="black", markerfacecolor="none", label="paper")
        plain_log(axis.xaxis)
        axis.set_yticks(range(len(names)), [method_label(name) for name in names])
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="both")
        axis.set_xlabel("time of a step / AE (log scale)")
        figure.legend(loc="outside lower center", ncols=3, handletextpad=0.3)
    return figure

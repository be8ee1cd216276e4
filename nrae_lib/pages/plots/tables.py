"""The rows of a table as a picture."""

import math

from nrae_lib.pages.plots.style import PAGE_WIDTH, _new_figure, method_colour, method_label, style

_MARKERS = "osD^v<>Ph*X"


def dot_rows(rows, columns, xlabel, relative_to=None, printed=(), logarithmic=False):
    """One line for each row of a comparison table, and on it one mark for each method, with its spread.

    Arguments:
        rows: label -> {method: number, (mean, spread), None, or a text that says why there is none}, as for
            ``pages.comparison_table``; rows without any number are left out.
        columns: names of the methods, in the order of the legend.
        xlabel: what the numbers are.
        relative_to: a method whose number divides those of its row; a row without it is left out.
        printed: labels of rows whose marks are hollow, such as the paper's.
        logarithmic: whether the axis is.

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
        for place, (label, row) in enumerate(found.items()):
            for name, (mean, spread) in row.items():
                number = columns.index(name)
                # A little apart, so that equal numbers are seen as several marks.
                height = place + 0.5 * (number / max(1, len(columns) - 1) - 0.5)
                axis.errorbar(
                    mean, height, xerr=spread if _is_number(spread) else None, fmt=_MARKERS[number % len(_MARKERS)],
                    color=method_colour(name), markersize=6, linewidth=1.2,
                    markerfacecolor="none" if label in printed else method_colour(name),
                )  # fmt: skip
        if relative_to:
            axis.axvline(1, color=method_colour(relative_to), linewidth=1, linestyle=":")
        if logarithmic:
            axis.set_xscale("log")
        axis.set(xlabel=xlabel, ylim=(len(found) - 0.5, -0.5))
        axis.set_yticks(range(len(found)), list(found))
        axis.grid(axis="x")
        _legend(figure, shown, columns, any(label in printed for label in found))
    return figure


def _is_number(value):
    return isinstance(value, (int, float)) and math.isfinite(value)


def _legend(figure, shown, columns, printed):
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], linestyle="", marker=_MARKERS[columns.index(name) % len(_MARKERS)], color=method_colour(name),
               label=method_label(name))
        for name in shown
    ]  # fmt: skip
    if printed:
        marks.append(
            Line2D([], [], linestyle="", marker="o", color="black", markerfacecolor="none", label="hollow: printed")
        )
    figure.legend(
        handles=marks, loc="outside lower center", ncols=min(len(marks), 6), handletextpad=0.2, columnspacing=1.2
    )

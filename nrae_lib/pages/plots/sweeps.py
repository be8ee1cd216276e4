"""A measure against a setting that was varied, and the rows of a table as a picture."""

import math

import numpy as np

from nrae_lib.pages.plots.many_runs import _plain_log_ticks, _require_columns, mean_and_deviation
from nrae_lib.pages.plots.style import PAGE_WIDTH, _new_figure, method_colour, method_label, style


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
    _require_columns(frame, ["method", across, value, *([panel] if panel else [])])
    levels, paper = levels or {}, paper or {}
    drawn = frame[frame["method"].isin(list(method_order)) & np.isfinite(frame[value].astype(float))]
    if drawn.empty:
        raise ValueError(f"no finite {value!r} for any of {', '.join(method_order)}: there is nothing to draw")
    panels = list(dict.fromkeys(drawn[panel])) if panel else [None]
    shown = [name for name in method_order if name in levels or (drawn["method"] == name).any()]
    with style():
        width = PAGE_WIDTH / len(panels) if len(panels) > 1 else PAGE_WIDTH
        figure, axes = _new_figure(PAGE_WIDTH, 400 if width > 400 else 340, 1, len(panels))
        for axis, title in zip(axes[0], panels, strict=True):
            rows = drawn if title is None else drawn[drawn[panel] == title]
            settings = np.array(sorted(rows[across].unique()), dtype=float)
            for place, name in enumerate(shown):
                options = {"color": method_colour(name), "linewidth": _width(name, emphasis)}
                if name in levels:
                    axis.axhline(
                        mean_and_deviation(np.asarray(levels[name], dtype=float))[0], linestyle="--", **options
                    )
                groups = rows[rows["method"] == name].groupby(across)[value]
                if groups.ngroups:
                    found = {float(key): mean_and_deviation(group.to_numpy(float)) for key, group in groups}
                    # Bars side by side: those of nearly equal methods would hide each other.
                    shift = (place - (len(shown) - 1) / 2) * 0.006
                    at = np.array(list(found))
                    span = settings[-1] - settings[0]
                    at = at * (1 + shift) if "x" in logarithmic else at + shift * span
                    mean, deviation = np.array(list(found.values())).T
                    axis.errorbar(at, mean, deviation, fmt="o-", markersize=4.5, capsize=2.5, elinewidth=1, **options)
                if name in paper:
                    axis.plot(*zip(*paper[name].items(), strict=True), "D:", markerfacecolor="none", markersize=6.5,
                              **{**options, "linewidth": 1})  # fmt: skip
            if "x" in logarithmic:
                axis.set_xscale("log")
            if "y" in logarithmic:
                axis.set_yscale("log")
                _plain_log_ticks(axis.yaxis)
            axis.minorticks_off()
            axis.set_xticks(settings, [f"{setting:g}" for setting in settings])
            if len(settings) > 5 and width < 400:
                axis.tick_params(axis="x", labelrotation=60)
            axis.grid(axis="y")
            axis.set(title=title or "", xlabel=xlabel or across)
        axes[0, 0].set_ylabel(ylabel or value)
        _legend_of_sweep(figure, shown, emphasis, levels, paper)
    return figure


def _legend_of_sweep(figure, shown, emphasis, levels, paper):
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], color=method_colour(name), linewidth=_width(name, emphasis),
               linestyle="--" if name in levels else "-", label=method_label(name))
        for name in shown
    ]  # fmt: skip
    if paper:
        marks.append(Line2D([], [], marker="D", linestyle=":", markerfacecolor="none", color="black", label="paper"))
    figure.legend(handles=marks, loc="outside lower center", ncols=min(len(marks), 5), handlelength=2)


def _width(name, emphasis):
    return 4.4 / 2 ** emphasis.index(name) if name in emphasis else 1.4


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

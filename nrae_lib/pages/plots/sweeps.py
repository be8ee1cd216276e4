"""A measure against a setting that was varied: number of training points, neighbours, batch."""

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
        _legend(figure, shown, emphasis, levels, paper)
    return figure


def _legend(figure, shown, emphasis, levels, paper):
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

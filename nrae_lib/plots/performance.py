"""Pictures of how fast a machine is, what a step is made of, and what more workers gain."""

import numpy as np

from nrae_lib.plots.style import ORDER_COLOURS, PAGE_WIDTH, _new_figure, _not_empty, style

_ROW = 24  # CSS pixels
_MARKS = ("o", "s", "^", "v", "P", "X")
# The three parts of a step: its matrix products, Adam, and what is left.
_PARTS = {"products": ORDER_COLOURS[0], "adam": ORDER_COLOURS[4], "rest": "#8a8a8a"}
_PART_LABELS = {"products": "matrix products, run alone", "adam": "Adam, run alone", "rest": "everything else"}


def rates(rows, xlabel):
    """Measured rates: one row per thing that was measured, one mark per way to do it.

    Arguments:
        rows: label -> {series: (median, low, high)}, all positive.
        xlabel: what the numbers are, with their unit; their axis begins at zero.

    Returns:
        Figure.
    """
    _not_empty(rows)
    series = list(dict.fromkeys(name for row in rows.values() for name in row))
    values = [value for row in rows.values() for value in row.values()]
    if not values or not all(np.isfinite(value).all() and min(value) > 0 for value in values):
        raise ValueError("every rate must be a positive number: was anything measured?")
    with style():
        figure, axes = _new_figure(PAGE_WIDTH, _ROW * len(rows) + 90)
        axis = axes[0, 0]
        for place, row in enumerate(rows.values()):
            for name, (median, low, high) in row.items():
                axis.errorbar(
                    median, place, xerr=[[median - low], [high - median]], markersize=7, linewidth=2,
                    fmt=_MARKS[series.index(name) % len(_MARKS)],
                    color=ORDER_COLOURS[2 * series.index(name) % len(ORDER_COLOURS)],
                )  # fmt: skip
        for number, name in enumerate(series):
            colour = ORDER_COLOURS[2 * number % len(ORDER_COLOURS)]
            axis.plot([], [], _MARKS[number % len(_MARKS)], color=colour, markersize=7, label=name)
        axis.set_xlim(0, 1.05 * max(high for _, _, high in values))
        axis.set_yticks(range(len(rows)), list(rows))
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.tick_params(axis="y", length=0)
        axis.grid()
        axis.set_xlabel(xlabel)
        figure.legend(loc="outside lower center", ncols=3, handletextpad=0.3)
    return figure


def step_parts(rows):
    """What steps are made of, as shares of their time: stacked bars.

    Arguments:
        rows: label -> {"products", "adam": shares of the step between 0 and 1, "note": text at the bar's end, optional}. The parts
            are measured alone, so that together they may be a little more than the step: nothing is left then.

    Returns:
        Figure.
    """
    _not_empty(rows)
    with style():
        figure, axes = _new_figure(PAGE_WIDTH, _ROW * len(rows) + 90)
        axis = axes[0, 0]
        for place, row in enumerate(rows.values()):
            shares = {"products": row["products"], "adam": row["adam"]}
            shares["rest"] = max(0.0, 1 - sum(shares.values()))
            start = 0.0
            for part, share in shares.items():
                axis.barh(place, 100 * share, 0.7, left=100 * start, color=_PARTS[part])
                start += share
            axis.text(100 * max(1.0, start) + 1, place, row.get("note", ""), va="center", fontsize=11)
        for part, label in _PART_LABELS.items():
            axis.barh(0, 0, color=_PARTS[part], label=label)
        axis.axvline(100, color="black", linewidth=1, alpha=0.5)
        axis.set_xlim(0, 150 if any("note" in row for row in rows.values()) else 110)
        axis.set_xticks(range(0, 101, 20))
        axis.set_yticks(range(len(rows)), list(rows))
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.tick_params(axis="y", length=0)
        axis.set_xlabel("% of the step's time")
        figure.legend(loc="outside lower center", ncols=3, handletextpad=0.5)
    return figure


def speedup(series, cores=None, xlabel="workers"):
    """Speed-up over the smallest number of workers, beside the straight line of a perfect one.

    Arguments:
        series: label -> (numbers of workers, seconds), the smallest number first.
        cores: of the machine, marked by a line where given.

    Returns:
        Figure.
    """
    _not_empty(series)
    with style():
        figure, axes = _new_figure(PAGE_WIDTH, 330)
        axis = axes[0, 0]
        ticks, ends = sorted({number for numbers, _ in series.values() for number in numbers}), []
        for place, (label, (numbers, seconds)) in enumerate(series.items()):
            gain = seconds[0] / np.asarray(seconds, dtype=float)
            colour = ORDER_COLOURS[2 * place % len(ORDER_COLOURS)]
            axis.plot(numbers, gain, color=colour, marker=_MARKS[place % len(_MARKS)], markersize=7, label=label)
            ends.append(gain.max())
        axis.plot(ticks, np.divide(ticks, ticks[0]), color="black", linestyle="--", linewidth=1, label="perfect")
        if cores:
            axis.axvline(cores, color="black", alpha=0.5, linewidth=1, linestyle=":", label=f"{cores} cores")
        axis.set_xticks(ticks)
        axis.set_ylim(0, 1.1 * max(*ends, min(ticks[-1], cores or ticks[-1]) / ticks[0]))
        axis.grid()
        axis.set(xlabel=xlabel, ylabel="speed-up")
        axis.legend()
    return figure

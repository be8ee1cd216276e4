"""Pictures of many runs: every seed's number, and what a search found."""

import math

import numpy as np

from nrae_lib.pages.plots.panels import PAPER_MARK, legend_below, plain_log
from nrae_lib.pages.plots.style import (
    MANIFOLD_COLOUR,
    method_colour,
    method_label,
    new_figure,
    relative_luminance,
    style,
)

_LABELS = {"neighbor_weight": "neighbour weight λ", "n_neighbors": "neighbours k"}


def mean_and_deviation(values):
    """Mean and sample standard deviation (0 for a single value) of a 1-D array."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def check_columns(frame, *names):
    """One sentence if the frame lacks a column."""
    for name in names:
        if name not in frame:
            raise ValueError(f"the frame has no column {name!r}; its columns are: {', '.join(map(str, frame.columns))}")


def finite(frame, value, methods):
    """The rows of these methods with a number to draw, or one sentence."""
    check_columns(frame, "method", value)
    drawn = frame[frame["method"].isin(list(methods)) & np.isfinite(frame[value].astype(float))]
    if drawn.empty:
        raise ValueError(f"no finite {value!r} for any of {', '.join(methods)}: there is nothing to draw")
    return drawn


def per_seed(frame, value, method_order, paper=None, ylabel=None, summary=mean_and_deviation, logarithmic=None):
    """Every seed's value per method, their mean and standard deviation, and the paper's number beside them.

    One picture per condition, with the same axes.

    Arguments:
        frame: DataFrame, one row per run, columns method, `value`, the one to draw, and optionally condition.
        method_order: names of methods from left to right; one without runs keeps its place and the paper's number.
        paper: method -> (mean, error or None) as printed in the paper, in the unit of `value`; optional.
        ylabel: label of the value axis; `value` when None.
        summary: function of a method's values, (n,) -> (centre, spread); all seeds' mean and deviation by default.
        logarithmic: whether the value axis is; by default if the largest value is more than 20 times the smallest.
    """
    drawn, paper = finite(frame, value, method_order), paper or {}
    conditions = list(dict.fromkeys(frame["condition"])) if "condition" in frame else [None]
    everything = [*drawn[value], *(paper[name][0] for name in method_order if paper.get(name))]
    if logarithmic is None:
        logarithmic = min(everything) > 0 and max(everything) > 20 * min(everything)
    beside = len(conditions) > 1 and len(method_order) <= 5
    rows, columns = (1, len(conditions)) if beside else (len(conditions), 1)
    with style():
        figure, axes = new_figure(270 * rows + 40, len(conditions), columns, sharey=True, sharex=True)
        for axis, condition in zip(axes, conditions, strict=True):
            runs = drawn if condition is None else drawn[drawn["condition"] == condition]
            for place, method in enumerate(method_order):
                _draw_method(axis, place, method, runs[runs["method"] == method][value].to_numpy(float), summary)
                if paper.get(method):
                    axis.errorbar(place + 0.3, *paper[method], **PAPER_MARK)
            axis.set(title=condition if len(conditions) > 1 else "", xlim=(-0.6, len(method_order) - 0.4))
            axis.set_xticks(range(len(method_order)), [method_label(name) for name in method_order])
            if beside and len(conditions) * len(method_order) > 10:
                axis.tick_params(axis="x", labelrotation=40)
            axis.grid(axis="y")
            if logarithmic:
                plain_log(axis.yaxis)
        if not logarithmic:
            # Once, after everything is drawn: fixing one end stops matplotlib from making room at the other.
            axes[0].set_ylim(bottom=min(0, *everything))
        for axis in axes[::columns]:
            axis.set_ylabel((ylabel or value) + (" (log scale)" if logarithmic else ""))
        axes[0].plot([], [], "o", color="#808080", markeredgewidth=0, label="one run")
        axes[0].plot([], [], "s-", color="#808080", linewidth=2.2, label="mean ± standard deviation")
        if paper:
            axes[0].plot([], [], "D-", markerfacecolor="none", color="black", label="paper")
        legend_below(figure, axes[0])
    return figure


def _draw_method(axis, place, method, values, summary):
    if len(values) == 0:
        axis.annotate("not run", (place, 0.02), xycoords=("data", "axes fraction"), ha="center", fontsize=10, alpha=0.7)
        return
    # Evenly spread in the order of the frame: dots of equal height stay apart, and the picture is the same each time.
    spread = np.linspace(-0.16, 0.04, len(values)) if len(values) > 1 else np.array([-0.06])
    colour = method_colour(method)
    axis.plot(place + spread, values, "o", color=colour, markersize=5, markeredgewidth=0, alpha=0.75)
    axis.errorbar(place + 0.14, *summary(values), fmt="s", markersize=6, color=colour, linewidth=2.2, capsize=4)


def search_grid(frame, chosen):
    """What the search for a method's options found: heat maps for two options, a line for one.

    Heat maps share one logarithmic colour scale. Numbers are printed in the power of ten that stands below.

    Arguments:
        frame: DataFrame, one row per run, columns method, validation_mse and one per option; seeds are averaged.
        chosen: method -> {option: chosen value}. Its keys say which columns are that method's options; the chosen point
            is outlined. Options with a single value in the frame are left out.
    """
    from matplotlib.colors import LogNorm

    maps, lines = {}, {}
    for method in chosen:
        check_columns(frame, "method", "validation_mse", *chosen[method])
        runs = frame[frame["method"] == method]
        # lambda across and k down, as the book's text speaks of them.
        options = sorted(chosen[method], key=lambda name: name == "n_neighbors")
        options = [name for name in options if runs[name].nunique() > 1]
        if len(options) > 2:
            raise ValueError(f"{method!r} was searched over {', '.join(options)}: only one or two options can be drawn")
        if options:
            means = runs.groupby(options)["validation_mse"].mean().replace(np.inf, np.nan)
            (lines if len(options) == 1 else maps)[method] = means
    count = len(maps) + len(lines)
    if not count:
        raise ValueError("no method in chosen has an option with more than one value in the frame: nothing to draw")
    columns = min(3, count)
    with style():
        height, width = 240 * math.ceil(count / columns) + 20, 432 if count == 1 else 720
        figure, axes = new_figure(height, count, columns, width)
        if maps:
            numbers = np.concatenate(list(maps.values()))
            low, high = np.nanmin(numbers[numbers > 0]), np.nanmax(numbers)
            power = 10 ** -math.floor(math.log10(low))
            colours = {"norm": LogNorm(low, max(high, 1.01 * low)), "cmap": "viridis_r"}
            figure.supxlabel("in the cells: validation MSE" + (f" × {power:g}" if power != 1 else ""), fontsize=12)
        for axis, (method, means) in zip(axes, maps.items(), strict=False):
            _draw_heat_map(axis, means.unstack(0), chosen[method], power, colours)
        curves = axes[len(maps) :]
        for axis, (method, means) in zip(curves, lines.items(), strict=True):
            _draw_line(axis, means, chosen[method][means.index.name], method_colour(method))
        for axis in curves[1:]:
            axis.sharey(curves[0])  # one scale for all, so that methods compare
        for axis in curves[:1]:
            axis.autoscale(axis="y")
            axis.set_ylabel("validation MSE")
        for axis, (method, means) in zip(axes, (maps | lines).items(), strict=True):
            labels = [_LABELS.get(name, name.replace("_", " ")) for name in means.index.names]
            axis.set(title=method_label(method), **dict(zip(("xlabel", "ylabel"), labels, strict=False)))
    return figure


def _draw_heat_map(axis, table, choice, power, colours):
    """A DataFrame of numbers, the chosen one framed."""
    from matplotlib.patches import Rectangle

    across, down = table.columns, table.index
    mesh = axis.pcolormesh(np.ma.masked_invalid(table), edgecolor="none", **colours)
    for (row, column), number in np.ndenumerate(table):
        if np.isfinite(number):
            ink = "#101010" if relative_luminance(mesh.to_rgba(number)) > 0.18 else "#fefefe"
            text = f"{number * power:.0f}" if number * power >= 100 else f"{number * power:#.3g}"
            look = dict(color=ink, size=12 if len(across) <= 4 else 10, ha="center", va="center")
            axis.text(column + 0.5, row + 0.5, text, **look)
    if choice[across.name] in across and choice[down.name] in down:
        corner = (across.get_loc(choice[across.name]), down.get_loc(choice[down.name]))
        for colour, width in (("white", 5), (MANIFOLD_COLOUR, 3)):
            axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=colour, linewidth=width, clip_on=False))
    axis.set_xticks(np.arange(len(across)) + 0.5, [f"{number:g}" for number in across])
    axis.set_yticks(np.arange(len(down)) + 0.5, [f"{number:g}" for number in down])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _draw_line(axis, means, choice, colour):
    """Numbers by candidate, the chosen one ringed; candidates stand at equal distances, however they are spaced."""
    axis.plot([f"{number:g}" for number in means.index], means, "o-", color=colour, linewidth=1.8, markersize=5)
    if choice in means.index:
        axis.plot(f"{choice:g}", means[choice], "o", markersize=13, markerfacecolor="none", color="black")
    axis.tick_params(axis="x", labelrotation=30 if len(means) > 6 else 0)
    plain_log(axis.yaxis)
    axis.grid(axis="y")

"""Pictures of many runs: every seed's number, and what a search found."""

import math

import numpy as np

from nrae_lib.pages.plots.panels import hide_spare, legend_below
from nrae_lib.pages.plots.style import (
    MANIFOLD_COLOUR,
    PAGE_WIDTH,
    _new_figure,
    method_colour,
    method_label,
    relative_luminance,
    style,
)

_PAPER_MARK = {
    "fmt": "D", "markersize": 6, "markerfacecolor": "none", "color": "black", "linewidth": 1.2, "capsize": 3,
}  # fmt: skip


def mean_and_deviation(values):
    """Mean and sample standard deviation (0 for a single value) of a 1-D array."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def per_seed(frame, value, method_order, paper=None, ylabel=None, summary=mean_and_deviation, logarithmic=None):
    """Every seed's value per method, their mean and standard deviation, and the paper's number beside them.

    Arguments:
        frame: DataFrame, one row per run, columns method, seed, `value` and optionally condition (one picture each).
        value: the column to draw.
        method_order: names of methods from left to right; one without runs keeps its place and the paper's number.
        paper: method -> (mean, error or None) as printed in the paper, in the unit of `value`; optional.
        ylabel: label of the value axis; `value` when None.
        summary: function of a method's values, (n,) -> (centre, spread); all seeds' mean and deviation by default.
        logarithmic: whether the value axis is; by default if the largest value is more than 20 times the smallest.

    Returns:
        Figure: one picture per condition, with the same axes.

    Raises:
        ValueError: if a column is missing or there is nothing to draw.
    """
    drawn, paper = _finite(frame, value, method_order), paper or {}
    conditions = list(dict.fromkeys(frame["condition"])) if "condition" in frame else [None]
    everything = [*drawn[value], *(paper[name][0] for name in method_order if paper.get(name))]
    if logarithmic is None:
        logarithmic = min(everything) > 0 and max(everything) > 20 * min(everything)
    beside = len(conditions) > 1 and len(method_order) <= 5
    rows, columns = (1, len(conditions)) if beside else (len(conditions), 1)
    with style():
        figure, axes = _new_figure(PAGE_WIDTH, 270 * rows + 40, rows, columns, sharey=True, sharex=True)
        for axis, condition in zip(axes.ravel(), conditions, strict=True):
            runs = drawn if condition is None else drawn[drawn["condition"] == condition]
            for place, method in enumerate(method_order):
                _draw_method(axis, place, method, runs[runs["method"] == method][value].to_numpy(float), summary)
                if paper.get(method):
                    axis.errorbar(place + 0.3, *paper[method], **_PAPER_MARK)
            axis.set(title=condition if len(conditions) > 1 else "", xlim=(-0.6, len(method_order) - 0.4))
            axis.set_xticks(range(len(method_order)), [method_label(name) for name in method_order])
            if beside and len(conditions) * len(method_order) > 10:
                axis.tick_params(axis="x", labelrotation=40)
            axis.grid(axis="y")
            if logarithmic:
                axis.set_yscale("log")
                _plain_log_ticks(axis.yaxis)
        if not logarithmic:
            # Once, after everything is drawn: fixing one end stops matplotlib from making room at the other.
            axes[0, 0].set_ylim(bottom=min(0, *everything))
        for axis in axes[:, 0]:
            axis.set_ylabel((ylabel or value) + (" (log scale)" if logarithmic else ""))
        legend = axes[0, 0]
        legend.plot([], [], "o", color="#808080", markeredgewidth=0, label="one run")
        legend.plot([], [], "s-", color="#808080", linewidth=2.2, label="mean ± standard deviation")
        if paper:
            legend.plot([], [], "D-", markerfacecolor="none", color="black", label="paper")
        legend_below(figure, legend)
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

    Arguments:
        frame: DataFrame, one row per run, columns method, validation_mse and one per option; seeds are averaged.
        chosen: method -> {option: chosen value}. Its keys say which columns are that method's options; the chosen
            point is outlined. Options with a single value in the frame are left out. For NRAE: neighbor_weight
            (lambda) and n_neighbors (k).

    Returns:
        Figure: heat maps share one logarithmic colour scale. Numbers are printed in the power of ten that stands below.

    Raises:
        ValueError: a column is missing, a method has more than two options, or there is nothing to draw.
    """
    searched = []
    for method, choice in chosen.items():
        _require_columns(frame, ["method", "validation_mse", *choice])
        runs = frame[frame["method"] == method]
        options = [name for name in choice if runs[name].nunique() > 1]
        if len(options) > 2:
            raise ValueError(f"{method!r} was searched over {', '.join(options)}: only one or two options can be drawn")
        if options:
            # lambda across and k down, as the book's text speaks of them.
            options.sort(key=lambda name: name == "n_neighbors")
            searched.append((method, options, runs.groupby(options)["validation_mse"].mean(), choice))
    if not searched:
        raise ValueError("no method in chosen has an option with more than one value in the frame: nothing to draw")
    searched.sort(key=lambda one: -len(one[1]))  # heat maps first
    maps = [means.to_numpy(float) for _, options, means, _ in searched if len(options) == 2]
    columns = min(3, len(searched))
    rows = math.ceil(len(searched) / columns)
    with style():
        figure, axes = _new_figure(PAGE_WIDTH if columns > 1 else 0.6 * PAGE_WIDTH, 240 * rows + 20, rows, columns)
        axes = hide_spare(axes, len(searched))
        if maps:
            numbers = np.concatenate(maps)
            numbers = numbers[np.isfinite(numbers) & (numbers > 0)]
            power = 10 ** -math.floor(math.log10(numbers.min()))
            figure.supxlabel("in the cells: validation MSE" + (f" × {power:g}" if power != 1 else ""), fontsize=12)
        for axis, (method, options, means, choice) in zip(axes, searched, strict=True):
            axis.set(title=method_label(method), xlabel=_option_label(options[0]))
            if len(options) == 2:
                _draw_heat_map(axis, means.unstack(options[0]), choice, power, (numbers.min(), numbers.max()))
            else:
                _draw_line(axis, means, choice[options[0]], method_colour(method))
        # One scale for all, so that methods compare.
        lines = axes[len(maps) :]
        for axis in lines[1:]:
            axis.sharey(lines[0])
        if lines:
            lines[0].autoscale(axis="y")
            lines[0].set_ylabel("validation MSE")
    return figure


def _draw_heat_map(axis, table, choice, power, ends):
    """A DataFrame of numbers, the chosen one framed."""
    import matplotlib
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    norm, shades = LogNorm(ends[0], max(ends[1], 1.01 * ends[0])), matplotlib.colormaps["viridis_r"]
    cells = table.to_numpy(float)
    axis.pcolormesh(np.ma.masked_invalid(cells), edgecolor="none", norm=norm, cmap=shades)
    for (row, column), number in np.ndenumerate(cells):
        if np.isfinite(number):
            ink = "#101010" if relative_luminance(shades(norm(number))) > 0.18 else "#fefefe"
            text = f"{number * power:.0f}" if number * power >= 100 else f"{number * power:#.3g}"
            look = dict(color=ink, size=12 if cells.shape[1] <= 4 else 10, ha="center", va="center")
            axis.text(column + 0.5, row + 0.5, text, **look)
    across, down = table.columns, table.index
    if choice[across.name] in across and choice[down.name] in down:
        corner = (across.get_loc(choice[across.name]), down.get_loc(choice[down.name]))
        for colour, width in (("white", 5), (MANIFOLD_COLOUR, 3)):
            axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=colour, linewidth=width, clip_on=False))
    axis.set_xticks(np.arange(len(across)) + 0.5, [f"{number:g}" for number in across])
    axis.set_yticks(np.arange(len(down)) + 0.5, [f"{number:g}" for number in down])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_ylabel(_option_label(down.name))


def _draw_line(axis, means, choice, colour):
    """Numbers by candidate, the chosen one ringed; candidates stand at equal distances, however they are spaced."""
    axis.plot(range(len(means)), means, "o-", color=colour, linewidth=1.8, markersize=5)
    if choice in means.index:
        place = means.index.get_loc(choice)
        axis.plot(place, means[choice], "o", markersize=13, markerfacecolor="none", color="black")
    axis.set_xticks(range(len(means)), [f"{number:g}" for number in means.index])
    axis.tick_params(axis="x", labelrotation=30 if len(means) > 6 else 0)
    axis.set_yscale("log")
    _plain_log_ticks(axis.yaxis)
    axis.grid(axis="y")


def _option_label(name):
    labels = {"neighbor_weight": "neighbour weight λ", "n_neighbors": "neighbours k"}
    return labels.get(name, str(name).replace("_", " "))


def _plain_log_ticks(axis):
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda number, _: f"{number:g}")
    axis.set_minor_formatter(NullFormatter())


def _finite(frame, value, method_order, *columns):
    """The rows of a frame with a number to draw, or one sentence."""
    _require_columns(frame, ["method", value, *columns])
    drawn = frame[frame["method"].isin(list(method_order)) & np.isfinite(frame[value].astype(float))]
    if drawn.empty:
        raise ValueError(f"no finite {value!r} for any of {', '.join(method_order)}: there is nothing to draw")
    return drawn


def _require_columns(frame, names):
    missing = [name for name in names if name not in frame]
    if missing:
        known = ", ".join(map(str, frame.columns))
        raise ValueError(f"the frame has no column {missing[0]!r}; its columns are: {known}")

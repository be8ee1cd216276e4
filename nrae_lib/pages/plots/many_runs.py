"""Pictures of many runs: every seed's number, and what a search found."""

import math

import numpy as np

from nrae_lib.pages.plots.style import (
    MANIFOLD_COLOUR,
    PAGE_WIDTH,
    _mappable,
    _new_figure,
    method_colour,
    method_label,
    relative_luminance,
    style,
)


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
    """
    _require_columns(frame, ["method", value])
    paper = paper or {}
    conditions = list(dict.fromkeys(frame["condition"])) if "condition" in frame else [None]
    drawn = frame[frame["method"].isin(list(method_order)) & np.isfinite(frame[value].astype(float))]
    if drawn.empty:
        raise ValueError(f"no finite {value!r} for any of {', '.join(method_order)}: there is nothing to draw")
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
                    mean, error = paper[method]
                    axis.errorbar(place + 0.3, mean, error, **_PAPER_MARK)
            axis.set_title(condition if len(conditions) > 1 else "")
            axis.set_xlim(-0.6, len(method_order) - 0.4)
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
        _legend_per_seed(figure, bool(paper))
    return figure


_PAPER_MARK = {
    "fmt": "D", "markersize": 6, "markerfacecolor": "none", "color": "black", "linewidth": 1.2, "capsize": 3,
}  # fmt: skip


def _draw_method(axis, place, method, values, summary):
    if len(values) == 0:
        axis.annotate("not run", (place, 0.02), xycoords=("data", "axes fraction"), ha="center", fontsize=10, alpha=0.7)
        return
    # Evenly spread in the order of the frame: dots of equal height stay apart, and the picture is the same each time.
    spread = np.linspace(-0.16, 0.04, len(values)) if len(values) > 1 else np.array([-0.06])
    colour = method_colour(method)
    axis.plot(place + spread, values, "o", color=colour, markersize=5, markeredgewidth=0, alpha=0.75)
    centre, deviation = summary(values)
    axis.errorbar(place + 0.14, centre, deviation, fmt="s", markersize=6, color=colour, linewidth=2.2, capsize=4)


def _legend_per_seed(figure, paper):
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], marker="o", linestyle="", color="#808080", markeredgewidth=0, alpha=0.8, label="one run"),
        Line2D([], [], marker="s", color="#808080", linewidth=2.2, label="mean ± standard deviation"),
    ]
    if paper:
        marks.append(Line2D([], [], marker="D", markerfacecolor="none", color="black", label="paper"))
    figure.legend(handles=marks, loc="outside lower center", ncols=3, handlelength=1.6)


def _plain_log_ticks(axis):
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axis.set_minor_formatter(NullFormatter())


def search_grid(frame, chosen, value="validation_mse"):
    """What the search for a method's options found: heat maps for two options, a line for one.

    Arguments:
        frame: DataFrame, one row per run, columns method, `value` and one per option; seeds are averaged.
        chosen: method -> {option: chosen value}. Its keys say which columns are that method's options; the chosen
            point is outlined. Options with a single value in the frame are left out. For NRAE: neighbor_weight
            (lambda) and n_neighbors (k).
        value: the column to draw, lower is better.

    Returns:
        Figure: heat maps share one logarithmic colour scale. Numbers are printed in the power of ten that the colour
        bar names.
    """
    _require_columns(frame, ["method", value])
    maps, lines = [], []
    for method, choice in chosen.items():
        runs = frame[frame["method"] == method]
        _require_columns(frame, list(choice))
        options = [name for name in choice if runs[name].nunique() > 1]
        if len(options) > 2:
            raise ValueError(f"{method!r} was searched over {', '.join(options)}: only one or two options can be drawn")
        if options:
            means = runs.groupby(options)[value].mean()
            (maps if len(options) == 2 else lines).append((method, options, means, choice))
    if not maps and not lines:
        raise ValueError("no method in chosen has an option with more than one value in the frame: nothing to draw")

    columns = min(3, max(len(maps), len(lines)))
    map_rows, line_rows = math.ceil(len(maps) / columns), math.ceil(len(lines) / columns)
    with style():
        figure, axes = _new_figure(
            PAGE_WIDTH if columns > 1 else 0.6 * PAGE_WIDTH, 300 * map_rows + 210 * line_rows, map_rows + line_rows,
            columns, gridspec_kw={"height_ratios": [300] * map_rows + [210] * line_rows},
        )  # fmt: skip
        for axis in axes.ravel():
            axis.set_visible(False)
        _draw_heat_maps(figure, axes[:map_rows], maps, value)
        drawn = axes[map_rows:].ravel()[: len(lines)]
        for axis, (method, options, means, choice) in zip(drawn, lines, strict=True):
            axis.set_visible(True)
            _draw_line_search(axis, method, options[0], means, choice)
        # One scale for all, so that methods compare; sharing the axes would keep the first one's limits.
        limits = [axis.get_ylim() for axis in drawn]
        for axis in drawn:
            axis.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
        for axis in axes[map_rows:, 1:].ravel():
            axis.tick_params(labelleft=False)
        for row in axes[map_rows:]:
            row[0].set_ylabel(_option_label(value))
    return figure


def _draw_heat_maps(figure, axes, maps, value):
    if not maps:
        return
    import matplotlib
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    numbers = np.concatenate([means.to_numpy(float) for _, _, means, _ in maps])
    numbers = numbers[np.isfinite(numbers) & (numbers > 0)]
    power = -math.floor(math.log10(numbers.min()))
    norm = LogNorm(numbers.min(), max(numbers.max(), 1.01 * numbers.min()))
    colours = {"cmap": matplotlib.colormaps["viridis_r"], "norm": norm}
    for axis, (method, options, means, choice) in zip(axes.ravel(), maps, strict=False):
        axis.set_visible(True)
        # lambda across and k down, as the book's text speaks of them.
        across, down = sorted(options, key=lambda name: name == "n_neighbors")
        table = means.reset_index().pivot(index=down, columns=across, values=means.name).sort_index(axis=0)
        cells = table.to_numpy(float)
        axis.pcolormesh(np.ma.masked_invalid(cells), edgecolor="none", **colours)
        size = 12 if cells.shape[1] <= 5 else 10
        for (row, column), number in np.ndenumerate(cells):
            if np.isfinite(number):
                light = relative_luminance(colours["cmap"](norm(number))) > 0.18
                ink = "#101010" if light else "#fefefe"
                axis.text(
                    column + 0.5,
                    row + 0.5,
                    _three_digits(number * 10**power),
                    color=ink,
                    size=size,
                    ha="center",
                    va="center",
                )
        if choice[across] in table.columns and choice[down] in table.index:
            corner = (table.columns.get_loc(choice[across]), table.index.get_loc(choice[down]))
            axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="white", linewidth=5, clip_on=False))
            axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=MANIFOLD_COLOUR, linewidth=3, clip_on=False))
        axis.set_xticks(np.arange(cells.shape[1]) + 0.5, [f"{number:g}" for number in table.columns])
        axis.set_yticks(np.arange(cells.shape[0]) + 0.5, [f"{number:g}" for number in table.index])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set(title=method_label(method), xlabel=_option_label(across), ylabel=_option_label(down))
    factor = f" (numbers × {10**power:g})" if power else ""
    scale = figure.colorbar(
        _mappable(colours),
        ax=axes.ravel().tolist(),
        location="bottom",
        shrink=0.6,
        aspect=40,
        label=_option_label(value) + factor,
    )
    # Matplotlib's own ticks of a short logarithmic scale overlap.
    ends = np.geomspace(norm.vmin, norm.vmax, 4)
    scale.set_ticks(ends, labels=[_three_digits(number * 10**power) for number in ends])
    scale.minorticks_off()


def _three_digits(number):
    return f"{number:.0f}" if number >= 100 else f"{number:#.3g}"


def _draw_line_search(axis, method, option, means, choice):
    numbers, values = means.index.to_numpy(float), means.to_numpy(float)
    colour = method_colour(method)
    axis.plot(numbers, values, "o-", color=colour, linewidth=1.8, markersize=5)
    if choice[option] in means.index:
        axis.plot(choice[option], means[choice[option]], "o", markersize=13, markerfacecolor="none", color="black")
    if min(numbers) > 0 and max(numbers) > 9 * min(numbers):
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
    if len(numbers) <= 6:
        axis.minorticks_off()
        axis.set_xticks(numbers, [f"{number:g}" for number in numbers])
        places = np.log(numbers) if axis.get_xscale() == "log" else numbers
        if len(numbers) > 1 and np.diff(places).min() < 0.2 * np.ptp(places):  # the labels would touch
            axis.tick_params(axis="x", labelrotation=30)
    axis.set_yscale("log")
    _plain_log_ticks(axis.yaxis)
    axis.grid(axis="y")
    axis.set(title=method_label(method), xlabel=_option_label(option))


def _option_label(name):
    labels = {
        "neighbor_weight": "neighbour weight λ",
        "n_neighbors": "neighbours k",
        "validation_mse": "validation MSE",
    }
    return labels.get(name, str(name).replace("_", " "))


def _require_columns(frame, names):
    missing = [name for name in names if name not in frame]
    if missing:
        raise ValueError(
            f"the frame has no column {missing[0]!r}; its columns are: {', '.join(map(str, frame.columns))}"
        )

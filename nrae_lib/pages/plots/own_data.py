"""Pictures of one's own data: codes, held-out reconstructions, and the errors behind them."""

import math

import numpy as np

from nrae_lib.pages.plots.images import image_rows
from nrae_lib.pages.plots.panels import choose_columns, legend_below, not_empty, page_width, with_narrow
from nrae_lib.pages.plots.style import (
    MANIFOLD_COLOUR,
    ORDER_COLOURS,
    PAGE_WIDTH,
    SAMPLE_COLOUR,
    _mappable,
    _new_figure,
    method_colour,
    style,
)

# Each reads on a white and on a dark page (luminance 0.12 to 0.30); the last is what comes after the others are used up.
CATEGORY_COLOURS = (
    "#2f80d8", "#e0690a", "#2f9150", "#c25aa5", "#8d68c4", "#a9662f", "#0f8f93", "#d8432b", "#8a7d1f", "#5b77c9",
    "#b0557a", "#7d7d7d",
)  # fmt: skip


def codes_of_points(panels, colour, colour_name, seed=0):
    """Two-dimensional codes as points, or one-dimensional codes as a strip, one small picture per method.

    Arguments:
        panels: title -> (n, m) codes, n the same for all. Of more than two coordinates the first two are drawn.
        colour: (n,) numbers or texts. Texts, and whole numbers of at most twelve values, are classes with a legend, the
            eleven most frequent and "other"; other numbers have a colour bar, and NaN is grey.
        colour_name: what the colour means.
        seed: of the order in which points are drawn, so that no class covers the others, and of a strip's heights.

    Returns:
        Figure: every picture has its own range and one unit on both axes, because the scale of a code is arbitrary.

    Raises:
        ValueError: there are no panels, or they do not fit the colour.
    """
    panels = {title: np.asarray(codes, dtype=float) for title, codes in not_empty(panels).items()}
    colour = np.asarray(colour)
    for title, codes in panels.items():
        if codes.ndim != 2 or len(codes) != len(colour):
            raise ValueError(f"codes of {title!r} have the shape {codes.shape}, but the colour has {colour.shape}")
    return with_narrow(
        lambda columns: _draw_codes(panels, colour, colour_name, seed, columns),
        choose_columns(len(panels), 1 if all(codes.shape[1] == 1 for codes in panels.values()) else None),
    )


def _draw_codes(panels, colour, colour_name, seed, columns):
    rows, strip = math.ceil(len(panels) / columns), all(codes.shape[1] == 1 for codes in panels.values())
    width = PAGE_WIDTH if strip else page_width(columns)
    generator = np.random.default_rng(seed)
    order, height = generator.permutation(len(colour)), generator.uniform(-1, 1, len(colour))
    classes = _classes(colour)
    scale, dots = (None, {}) if classes else _numbers(colour, order)
    if classes:
        names, numbers = classes
        shown = [*CATEGORY_COLOURS[: len(names) - 1], CATEGORY_COLOURS[-1 if len(names) > 11 else len(names) - 1]]
        dots = {"c": [shown[number] for number in numbers[order]]}
    look = dict(s=float(np.clip(4000 / len(colour), 4, 40)), linewidth=0, alpha=0.85, rasterized=True)
    with style():
        figure, axes = _new_figure(width, rows * ((64 if strip else width / columns) + 30) + 90, rows, columns)
        for axis in axes.ravel()[len(panels) :]:
            axis.set_visible(False)
        for axis, (title, codes) in zip(axes.ravel(), panels.items(), strict=False):
            axis.scatter(codes[order, 0], (codes[:, 1] if codes.shape[1] > 1 else height)[order], **look, **dots)
            axis.set(title=title, xticks=[], yticks=[])
            axis.spines[:].set(visible=True, alpha=0.3)
            if codes.shape[1] > 1:
                axis.set_aspect("equal", adjustable="datalim")
                axis.set_box_aspect(1)
        if classes:
            for one, name in zip(shown, names, strict=True):
                axes[0, 0].plot([], [], "o", markersize=7, markeredgewidth=0, color=one, label=name)
            across = max(1, int(width // (26 + 9 * max(len(colour_name) / 2, *map(len, names)))))
            place = dict(handletextpad=0.2, columnspacing=1.2, title=colour_name)
            legend_below(figure, axes[0, 0], min(across, len(names)), **place)
        else:
            place = dict(location="bottom", shrink=0.7, aspect=40, label=colour_name)
            bar = figure.colorbar(_mappable(scale), ax=axes.ravel().tolist(), **place)
            bar.solids.set_rasterized(True)
            bar.outline.set_visible(False)
    return figure


def _numbers(colour, order):
    """The scale of numbers, and how dots in this order are coloured by it; NaN is grey."""
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    colour = np.where(np.isfinite(colour.astype(float)), colour.astype(float), np.nan)
    ends = (np.nanmin(colour), np.nanmax(colour)) if np.isfinite(colour).any() else (0, 1)
    shades = LinearSegmentedColormap.from_list("order", ORDER_COLOURS).with_extremes(bad=CATEGORY_COLOURS[-1])
    scale = {"cmap": shades, "norm": Normalize(*ends)}
    return scale, {"c": np.ma.masked_invalid(colour[order]), "plotnonfinite": True, **scale}


def _classes(colour):
    """(names, (n,) their numbers) of at most twelve classes, or None for numbers that are none."""
    if colour.dtype.kind == "f":
        finite = colour[np.isfinite(colour)]
        if len(finite) < len(colour) or not np.array_equal(finite, finite.round()):
            return None
    values, numbers, counts = np.unique(colour, return_inverse=True, return_counts=True)
    if len(values) > 12 and colour.dtype.kind in "iuf":
        return None
    names = [_shortened(f"{value:g}" if colour.dtype.kind in "iuf" else value) for value in values]
    if len(values) > 12:
        frequent = np.sort(np.argsort(-counts, kind="stable")[:11])
        place = np.full(len(values), 11)
        place[frequent] = range(11)
        names, numbers = [*(names[one] for one in frequent), f"other ({len(values) - 11})"], place[numbers]
    return names, numbers


def _shortened(text):
    text = str(text).replace("$", r"\$")  # between two of them matplotlib would read mathematics
    return text if len(text) <= 18 else text[:17] + "…"


def image_reconstructions(originals, reconstructions):
    """Images and what every method makes of them, one row per method, the originals on top.

    Arguments:
        originals: (n, H, W) grey or (n, H, W, 3) colour images in any unit; their smallest value is black, the largest white.
        reconstructions: title -> the same shape.
    """
    originals = np.asarray(originals, dtype=float)
    low, high = originals.min(), max(originals.max(), originals.min() + 1e-12)

    def in_bytes(title, images):
        if np.shape(images) != originals.shape:
            raise ValueError(f"images of {title!r} have the shape {np.shape(images)}, the originals {originals.shape}")
        scaled = (255 * np.clip((np.asarray(images) - low) / (high - low), 0, 1)).round().astype(np.uint8)
        return scaled[:, None] if scaled.ndim == 3 else np.moveaxis(scaled, -1, 1)

    return image_rows(
        {title: in_bytes(title, images) for title, images in {"original": originals, **reconstructions}.items()}
    )


def point_reconstructions(points, reconstructions, names=()):
    """Points of one, two or three dimensions, and where every method puts them, joined by a line.

    Arguments:
        points: (n, D), D at most 3.
        reconstructions: title -> (n, D).
        names: of the D coordinates; optional.

    Returns:
        Figure: for D = 1 the reconstruction against the value, with the diagonal.

    Raises:
        ValueError: more than three dimensions.
    """
    points = np.asarray(points, dtype=float)
    features = points.shape[1]
    if features > 3:
        raise ValueError(f"points have {features} dimensions: at most 3 can be drawn")
    names = [_shortened(name) for name in names] or [f"x{place}" for place in range(1, features + 1)]
    return with_narrow(
        lambda columns: _draw_points(points, not_empty(reconstructions), names, columns),
        choose_columns(len(reconstructions), None),
    )


def _draw_points(points, reconstructions, names, columns):
    features, rows, width = points.shape[1], math.ceil(len(reconstructions) / columns), page_width(columns)
    space = {"projection": "3d"} if features == 3 else {}
    small = dict(markersize=2.6, markeredgewidth=0)
    with style():
        figure, axes = _new_figure(width, rows * (width / columns + 34) + 30, rows, columns, subplot_kw=space)
        for axis in axes.ravel()[len(reconstructions) :]:
            axis.remove()  # the layout fails on a picture in space that is only hidden
        for axis, (title, decoded) in zip(axes.ravel(), reconstructions.items(), strict=False):
            axis.set_title(title)
            if features == 1:
                ends = [points.min(), points.max()]
                axis.plot(ends, ends, color="black", linewidth=1, alpha=0.6, label="exact")
                axis.plot(points, decoded, "o", color=MANIFOLD_COLOUR, markersize=3, label="reconstruction")
                axis.set(xlabel=names[0], ylabel="reconstruction" if axis in axes[:, 0] else "")
                continue
            gap = np.full((len(points), 1, features), np.nan)
            joined = np.concatenate([points[:, None], np.asarray(decoded)[:, None], gap], axis=1).reshape(-1, features)
            axis.plot(*joined.T, color="black", linewidth=0.6, alpha=0.35)
            axis.plot(*points.T, "o", color=SAMPLE_COLOUR, label="point", **small)
            axis.plot(*np.asarray(decoded).T, "o", color=MANIFOLD_COLOUR, label="held-out reconstruction", **small)
            near = {"labelpad": -12} if features == 3 else {}
            axis.set_xlabel(names[0], **near)
            axis.set_ylabel(names[1], **near)
            axis.set(xticks=[], yticks=[])
            if features == 3:
                axis.set(zticks=[])
                axis.grid(False)  # its lines ignore the style, and would cover the points
                for side in (axis.xaxis, axis.yaxis, axis.zaxis):
                    side.set_pane_color((0.5, 0.5, 0.5, 0.06))
                axis.set_zlabel(names[2], labelpad=-12)
        legend_below(figure, axes[0, 0])
    return figure


def feature_errors(errors, titles, names, most=30):
    """Each feature's held-out error relative to its variance, a dot per method.

    Arguments:
        errors: name of a method -> (D,) error divided by the feature's variance; NaN is left out.
        titles: name -> the text that is shown.
        names: of the D features.
        most: features drawn; if there are more, those with the largest mean error over the methods.

    Returns:
        Figure: the features, the worst on top. At 1 a method knows no more than the feature's mean.
    """
    table = np.array(list(not_empty(errors).values()), dtype=float)
    mean = np.where(np.isfinite(table).all(0), table.mean(0), -np.inf)
    worst = [one for one in np.argsort(-mean, kind="stable")[:most] if np.isfinite(mean[one])][::-1]
    if not worst:
        raise ValueError("no feature has a finite error: there is nothing to draw")
    with style():
        figure, axes = _new_figure(PAGE_WIDTH, 22 * len(worst) + 110)
        axis = axes[0, 0]
        axis.axvline(1, color="black", linewidth=1, linestyle=(0, (4, 3)), alpha=0.6)
        for name, values in zip(errors, table, strict=True):
            look = dict(color=_colour(name), markersize=6, markeredgewidth=0, alpha=0.85)
            axis.plot(values[worst], range(len(worst)), "o", label=titles.get(name, name), **look)
        axis.set_yticks(range(len(worst)), [_shortened(names[one]) for one in worst])
        axis.set(xlim=(0, None), ylim=(-0.7, len(worst) - 0.3), xlabel="held-out error / variance of the feature")
        axis.grid(axis="y")
        longest = max(len(titles.get(name, name)) for name in errors)
        legend_below(figure, axis, min(max(1, int(PAGE_WIDTH // (50 + 9 * longest))), len(errors)), handletextpad=0.2)
    return figure


def fold_errors(errors, titles, ylabel):
    """Every fold's error for each method, the same fold joined by a line, and the mean.

    Arguments:
        errors: name of a method -> (folds,).
        titles: name -> the text that is shown.
        ylabel: what the errors are.
    """
    table = np.array(list(not_empty(errors).values()), dtype=float)
    with style():
        figure, axes = _new_figure(PAGE_WIDTH, 280)
        axis = axes[0, 0]
        axis.plot(table, color="black", linewidth=0.8, alpha=0.3)
        for place, (name, values) in enumerate(zip(errors, table, strict=True)):
            colour = _colour(name)
            axis.plot(
                np.full(len(values), place), values, "o", color=colour, markersize=6, markeredgewidth=0, alpha=0.8
            )
            axis.plot([place - 0.2, place + 0.2], [values.mean()] * 2, color=colour, linewidth=3)
        axis.set_xticks(range(len(errors)), [titles.get(name, name) for name in errors])
        axis.tick_params(axis="x", labelrotation=30 if len(errors) > 8 else 0)
        axis.set(xlim=(-0.6, len(errors) - 0.4), ylabel=ylabel)
        axis.grid(axis="y")
    return figure


def _colour(name):
    return CATEGORY_COLOURS[10] if name == "pca" else method_colour(name)

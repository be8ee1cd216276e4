"""Pictures of one's own data: codes, held-out reconstructions, and the worst features."""

import functools

import numpy as np

from nrae_lib.pages.plots import panels as multiples
from nrae_lib.pages.plots.images import image_rows
from nrae_lib.pages.plots.rows import dot_rows
from nrae_lib.pages.plots.style import MANIFOLD_COLOUR, ORDER_COLOURS, SAMPLE_COLOUR, method_label, new_figure, style

# Each reads on a white and on a dark page (luminance 0.12 to 0.30); the last is what comes after the others are used up.
CATEGORY_COLOURS = (
    "#2f80d8", "#e0690a", "#2f9150", "#c25aa5", "#8d68c4", "#a9662f", "#0f8f93", "#d8432b", "#8a7d1f", "#5b77c9",
    "#b0557a", "#7d7d7d",
)  # fmt: skip


def codes_of_points(panels, colour, colour_name, seed=0):
    """Two-dimensional codes as points, or one-dimensional codes as a strip, one small picture per method.

    Every picture has its own range and one unit on both axes, because the scale of a code is arbitrary.

    Arguments:
        panels: method -> (n, m) codes; of more than two coordinates the first two are drawn.
        colour: (n,) numbers or texts. Texts, and whole numbers of at most twelve values, are classes with a legend, the
            eleven most frequent and "other"; other numbers have a colour bar, and NaN is grey.
        colour_name: what the colour means.
        seed: of the order in which points are drawn, so that no class covers the others, and of a strip's heights.
    """
    colour = np.asarray(colour)
    for name, codes in multiples.not_empty(panels).items():
        if np.ndim(codes) != 2 or len(codes) != len(colour):
            raise ValueError(f"codes of {name!r} have the shape {np.shape(codes)}, but the colour has {colour.shape}")
    generator = np.random.default_rng(seed)
    order, height = generator.permutation(len(colour)), generator.uniform(-0.1, 0.1, len(colour))
    look = dict(s=float(np.clip(4000 / len(colour), 4, 40)), linewidth=0, alpha=0.85, rasterized=True)
    names, numbers = _classes(colour)
    if names:
        look["c"] = np.take(CATEGORY_COLOURS, numbers[order])
    else:
        numbers = np.ma.masked_invalid(colour.astype(float))
        ends = (numbers.min(), numbers.max()) if numbers.count() else (0, 1)
        scale = multiples.colours_between(ORDER_COLOURS, *ends)
        scale["cmap"] = scale["cmap"].with_extremes(bad=CATEGORY_COLOURS[-1])
        look |= {"c": numbers[order], "plotnonfinite": True, **scale}

    def draw(axis, panel):
        codes = panel["codes"][:, :2]
        low, high = np.nanmin(codes, axis=0), np.nanmax(codes, axis=0)
        points = (2 * codes - low - high) / (max(high - low) or 1)
        axis.scatter(points[order, 0], (points[:, 1] if codes.shape[1] > 1 else height)[order], **look)

    def finish(figure, axes, columns):
        if not names:
            return multiples.colour_bar(figure, axes, scale, colour_name)
        for shade, name in zip(CATEGORY_COLOURS, names, strict=False):
            axes[0].plot([], [], "o", markersize=7, markeredgewidth=0, color=shade, label=name)
        across = int(multiples.page_width(columns) // (26 + 9 * max(len(colour_name) / 2, *map(len, names))))
        place = dict(handletextpad=0.2, columnspacing=1.2, title=colour_name)
        multiples.legend_below(figure, axes[0], min(max(1, across), len(names)), **place)

    panels = {name: {"codes": np.asarray(codes, float)} for name, codes in panels.items()}
    strip = all(panel["codes"].shape[1] == 1 for panel in panels.values())
    limits = ((-1.07, 1.07), (-0.12, 0.12) if strip else (-1.07, 1.07))
    return multiples.small_multiples(panels, draw, limits, 1 if strip else None, finish, extra=40, below=30)


def _classes(colour):
    """(names, (n,) their numbers, -1 for "other") of at most twelve classes; no names for numbers that are none."""
    import pandas

    numeric, counts = colour.dtype.kind in "iuf", pandas.Series(colour).value_counts()
    if numeric and (len(counts) > 12 or (colour % 1 != 0).any()):
        return [], None
    kept = sorted(counts.index[:11] if len(counts) > 12 else counts.index)
    names = [_shortened(f"{value:g}" if numeric else value) for value in kept]
    other = [f"other ({len(counts) - 11})"] if len(counts) > 12 else []
    return names + other, pandas.Index(kept).get_indexer(colour)


def _shortened(text):
    text = str(text).replace("$", r"\$")  # between two of them matplotlib would read mathematics
    return text if len(text) <= 18 else text[:17] + "…"


def as_images(points):
    """(N, C, H, W) images of (N, H, W), or of 1 or 3 channels first or last; None if the points are no images."""
    if points.ndim == 3:
        return points[:, None]
    if points.ndim == 4 and points.shape[1] not in (1, 3):
        points = np.moveaxis(points, -1, 1)
    return points if points.ndim == 4 and points.shape[1] in (1, 3) else None


def held_out_reconstructions(points, found, names=()):
    """Held-out points and what every method makes of them.

    Images stand in rows, the originals on top, from their smallest value, black, to their largest, white. Points of two
    or three dimensions are joined by a line to where each method puts them.

    ``points`` are (n, ...) images as :func:`as_images` takes them, or (n, D) points, D 2 or 3; ``found`` has the same
    shape by method, and ``names`` are those of the D coordinates.
    """
    for name, decoded in multiples.not_empty(found).items():
        if np.shape(decoded) != np.shape(points):
            raise ValueError(f"{name!r} has the shape {np.shape(decoded)}, the originals {np.shape(points)}")
    points = np.asarray(points, dtype=float)
    if as_images(points) is not None:
        low, scale = points.min(), 255 / (np.ptp(points) or 1)
        rows = {"original": points, **found}
        rows = {name: np.clip((as_images(np.asarray(row)) - low) * scale, 0, 255) for name, row in rows.items()}
        return image_rows({name: row.round().astype(np.uint8) for name, row in rows.items()})
    if points.ndim != 2 or points.shape[1] not in (2, 3):
        raise ValueError(f"points of the shape {points.shape} cannot be drawn: images, or 2 or 3 dimensions are needed")
    names = [_shortened(name) for name in names] or ["x1", "x2", "x3"]
    draw = functools.partial(_draw_points, points, found, names)
    return multiples.with_narrow(draw, multiples.choose_columns(len(found)))


def _draw_points(points, found, names, columns):
    count, features = points.shape
    width, space = multiples.page_width(columns), {"projection": "3d"} if features == 3 else {}
    height = -(-len(found) // columns) * (width / columns + 34) + 30
    small = dict(markersize=2.6, markeredgewidth=0)
    with style():
        figure, axes = new_figure(height, len(found), columns, width, subplot_kw=space)
        for axis, (name, decoded) in zip(axes, found.items(), strict=True):
            joined = np.stack([points, decoded, np.full((count, features), np.nan)], axis=1).reshape(-1, features)
            axis.plot(*joined.T, color="black", linewidth=0.6, alpha=0.35)
            axis.plot(*points.T, "o", color=SAMPLE_COLOUR, label="point", **small)
            axis.plot(*np.asarray(decoded).T, "o", color=MANIFOLD_COLOUR, label="held-out reconstruction", **small)
            axis.set_title(method_label(name))
            for side, coordinate in zip("xyz", names[:features], strict=False):
                axis.set(**{f"{side}label": coordinate, f"{side}ticks": []})
            if features == 3:
                axis.set_box_aspect(None, zoom=0.88)  # the layout does not see the names at the corners
                for side in (axis.xaxis, axis.yaxis, axis.zaxis):
                    side.labelpad = -12
                    side.set_pane_color((0.5, 0.5, 0.5, 0.06))
            axis.grid(False)  # in space its lines ignore the style, and would cover the points
        multiples.legend_below(figure, axes[0])
    return figure


def feature_errors(errors, names, most=30):
    """Each feature's held-out error relative to its variance: 1 is a method that knows no more than the mean.

    ``errors`` are (D,) by method; features with NaN are left out, and all but the ``most`` with the largest mean error.
    """
    mean = np.mean(list(multiples.not_empty(errors).values()), axis=0)
    worst = [one for one in np.argsort(-mean, kind="stable") if np.isfinite(mean[one])][:most]
    rows = {_shortened(names[one]): {name: float(error[one]) for name, error in errors.items()} for one in worst}
    return dot_rows(rows, list(errors), "held-out error / variance of the feature")

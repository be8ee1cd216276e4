"""One style for every picture of the book, and one function per kind of picture.

A picture is built as a matplotlib Figure and handed to `show`, which puts it on the page as inline SVG whose text
follows the page's light or dark mode. `scrubber` shows how a learned manifold moves during training.

Importing this file needs numpy only; matplotlib, pandas and IPython are imported where they are used.
"""

import base64
import hashlib
import html
import io
import json
import math
import re
from contextlib import contextmanager

import numpy as np

# The paper's Figure 4: noisy samples blue, learned manifold orange. Every colour of this file has a relative luminance
# between 0.12 and 0.30, so that its contrast is at least 3:1 both on white and on #121212.
SAMPLE_COLOUR = "#2f80d8"
MANIFOLD_COLOUR = "#e0690a"

METHOD_COLOURS = {
    "ae": "#7d7d7d",
    "vae": "#8d68c4",
    "wae": "#c25aa5",
    "dae": "#0f8f93",
    "cae": "#8a7d1f",
    "grae": "#2f9150",
    "spae": "#a9662f",
    "nrae_0": "#6787a8",
    "nrae_l": SAMPLE_COLOUR,
    "nrae_q": "#dc4b1e",
}
METHOD_LABELS = {name: name.upper().replace("_", "-") for name in METHOD_COLOURS}

# Blue to purple to orange, never lighter or darker than the limits above: an ordinary map such as viridis loses one
# of its two ends on either a white or a dark page.
ORDER_COLOURS = ("#2f6fe4", "#8a5fd6", "#c94f9b", "#de5a4a", "#d97a10", "#a8930f")

PAGE_WIDTH = 720  # CSS pixels: the text column of the book on a desktop
_POINTS_PER_INCH = 72  # matplotlib writes SVG in points; one point is shown as one CSS pixel

# The book's theme puts a light box behind every HTML output in dark mode, for the sake of pictures made for white
# pages. Ours follow the page by themselves.
PAGE_STYLE = (
    '.text_html:has(>[class^="nrae-"]){background:transparent!important;color:inherit!important;padding:0!important}'
)
# On a phone a picture of many panels comes in two columns; any other scrolls sideways rather than shrink its text
# below about 8 pixels.
_FIGURE_STYLE = (
    ".nrae-figure{overflow-x:auto;margin:.5em 0}"
    ".nrae-figure>svg{display:block;width:100%;height:auto;margin:0 auto}"
    ".nrae-figure>svg.nrae-narrow{display:none}"
    "@media(max-width:600px){.nrae-figure>svg.nrae-wide{display:none}.nrae-figure>svg.nrae-narrow{display:block}}"
)


# ------------------------------------------------------------------------------------------------- style and colours


def method_label(name):
    """The name of a method as the paper prints it: "nrae_l" becomes "NRAE-L"; other names stay as they are."""
    return METHOD_LABELS.get(name, str(name))


def method_colour(name):
    """The one colour of a method on every page, as "#rrggbb".

    A method outside `METHOD_COLOURS` gets a hue from its name, at a lightness that reads on white and on dark pages.
    """
    if name in METHOD_COLOURS:
        return METHOD_COLOURS[name]
    import colorsys

    digest = hashlib.sha256(str(name).encode()).digest()
    hue, saturation = digest[0] / 256, 0.45 + 0.3 * digest[1] / 256
    dark, light = 0.0, 1.0
    for _ in range(20):
        lightness = (dark + light) / 2
        red_green_blue = colorsys.hls_to_rgb(hue, lightness, saturation)
        if relative_luminance(red_green_blue) < 0.2:
            dark = lightness
        else:
            light = lightness
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in red_green_blue)


def relative_luminance(colour):
    """Relative luminance (WCAG 2) of "#rrggbb" or of three numbers in [0, 1]: 0 is black, 1 is white."""
    if isinstance(colour, str):
        colour = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@contextmanager
def style():
    """The book's matplotlib style, for `with style(): ...` around a figure of one's own.

    Lines and text are black, which `show` turns into the page's text colour.
    """
    import matplotlib

    settings = {
        "figure.dpi": _POINTS_PER_INCH,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.8,
        "axes.titlesize": 13,
        "axes.titleweight": "bold",
        "axes.labelsize": 12,
        "axes.axisbelow": True,
        "font.size": 12,
        "xtick.labelsize": 11,
        "ytick.labelsize": 11,
        "grid.alpha": 0.18,
        "grid.color": "black",
        "grid.linewidth": 0.8,
        "legend.frameon": False,
        "legend.fontsize": 12,
        "lines.solid_capstyle": "round",
        # A curve may be off by a quarter of a pixel.
        "path.simplify_threshold": 0.25,
    }
    with matplotlib.rc_context(settings):
        yield


def _new_figure(width, height, rows=1, columns=1, **options):
    """Figure and (rows, columns) array of axes; sizes in CSS pixels. The figure is unknown to pyplot: nothing to close."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / _POINTS_PER_INCH, height / _POINTS_PER_INCH), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


# --------------------------------------------------------------------------------------------------------- display


def show(figure, alt, thumbnail=False):
    """Display a figure: inline SVG for the page, PNG on white for thumbnails, `alt` for text.

    Arguments:
        figure: a matplotlib Figure. Black becomes the page's text colour.
        alt: one sentence that says what the picture shows.
        thumbnail: marks the picture that stands for this page in the book's gallery.

    Raises:
        ValueError: `alt` is empty.
    """
    from IPython.display import display

    bundle = {"text/html": figure_html(figure, alt), "image/png": _png(figure), "text/plain": alt}
    display(bundle, raw=True, metadata={"nrae": {"thumbnail": True}} if thumbnail else {})


def figure_html(figure, alt):
    """The figure as `<div class="nrae-figure"><svg>`: no fixed background, black replaced by the page's text colour.

    The same figure and `alt` always give the same text, so that rebuilding the book changes nothing.
    """
    if not alt or not alt.strip():
        raise ValueError("alt is empty: give one sentence that says what the picture shows")
    narrow = getattr(figure, "narrow", None)
    drawing = _svg(figure, alt, "nrae-wide") + _svg(narrow, alt, "nrae-narrow") if narrow else _svg(figure, alt, "")
    # The keyboard can scroll a box only if it can stop there.
    return f'<style>{PAGE_STYLE}{_FIGURE_STYLE}</style><div class="nrae-figure" tabindex="0">{drawing}</div>'


def _svg(figure, alt, kind):
    import matplotlib

    file = io.StringIO()
    # Matplotlib names clip paths and markers by a hash of their content and this salt: with the same salt two equal
    # names mean two equal things, with another salt they differ. So pictures on one page cannot disturb each other.
    with matplotlib.rc_context({"svg.hashsalt": alt + kind, "svg.fonttype": "none"}):
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(file, format="svg", facecolor="none", dpi=2 * _POINTS_PER_INCH, metadata=metadata)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"#000000\b", "currentColor", svg)
    svg = re.sub(r'(font: [^;"]*?\d+px) [^;"]*', r"\1 system-ui, sans-serif", svg)
    # A hundredth of a pixel is enough, and halves the size.
    svg = re.sub(r' (?:d|x|y)="[^"]*"', lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]), svg)
    svg = re.sub(r"(data:image/png;base64,)([^\"]+)", lambda match: match[1] + _fewer_colours(match[2]), svg)
    used = set(re.findall(r"""(?:href="|url\()#([^")]+)""", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    svg = re.sub(r"\n\s*", "\n", svg)

    label = html.escape(alt, quote=True)
    width = figure.get_figwidth() * _POINTS_PER_INCH
    view_box = re.search(r'viewBox="[^"]*"', svg)[0]
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {view_box} role="img"'
        f' class="{kind}" aria-label="{label}" fill="currentColor"'
        f' style="max-width:{width:.0f}px;min-width:{0.7 * width:.0f}px"><title>{label}</title>'
    )
    return re.sub(r"^<svg[^>]*>", lambda _: opening, svg).strip()


def _fewer_colours(picture):
    """The same PNG (base64) with a palette of 256 colours, a third of the size; small ones (colour bars) stay smooth."""
    if len(picture) < 4000:
        return picture
    from PIL import Image

    file = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(re.sub(r"\s", "", picture)))).convert("RGBA")
    image.quantize(256, method=Image.Quantize.FASTOCTREE).save(file, format="png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _png(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor="white", dpi=1.5 * _POINTS_PER_INCH, metadata={"Software": None})
    return base64.b64encode(file.getvalue()).decode()


# ---------------------------------------------------------------------------------------- pictures of learned curves


def learned_curves(panels, truth=None, columns=None):
    """Figure 4 of the paper: noisy samples (blue) and learned manifolds (orange), one small picture per method.

    Arguments:
        panels: title -> {"train": (n, 2), "curve": (p, 2) or a list of (p, 2), "note": str, optional}. Of several
            curves (seeds) the first is bold and the others faint. A method's name as title is printed as in the paper.
        truth: (p, 2), the noise-free curve, dashed; optional.
        columns: pictures per row; chosen from their number when None.

    Returns:
        Figure: all pictures share their limits, set by the samples and the truth, and have equal axes.
    """
    panels = {title: _curve_panel(title, panel) for title, panel in _not_empty(panels).items()}
    truth = None if truth is None else _points(truth, "truth")
    limits = _limits([panel["train"] for panel in panels.values()] + ([] if truth is None else [truth]))
    return _with_narrow(lambda columns: _draw_curves(panels, truth, limits, columns), _columns(len(panels), columns))


def _draw_curves(panels, truth, limits, columns):
    with style():
        figure, axes = _multiples(panels, limits, columns)
        for axis, (title, panel) in zip(axes, panels.items(), strict=True):
            axis.set_title(method_label(title))
            axis.set_xlabel(panel["note"], fontsize=11)
            _draw_samples(axis, panel["train"])
            for curve in panel["curves"][1:]:
                axis.plot(*curve.T, color=MANIFOLD_COLOUR, linewidth=1, alpha=0.4)
            axis.plot(*panel["curves"][0].T, color=MANIFOLD_COLOUR, linewidth=2.4, label="learned manifold")
            if truth is not None:
                axis.plot(*truth.T, color="black", linewidth=1.1, linestyle=(0, (4, 3)), alpha=0.75, label="truth")
        _legend_below(figure, axes[0])
    return figure


def latent_order(panels):
    """Figure 7 of the paper: are test points reconstructed, and are training points in the right order in the code?

    Arguments:
        panels: title -> {"train": (n, 2), "reconstruction": (t, 2), "curve": (p, 2), "code": (n,), "angle": (n,),
            "test_angle": (t,), "note": str, optional}; angles in radians.

    Returns:
        Figure: per method the reconstructed test points coloured by true angle over the training points, and below it
        the training codes as dots on a line. Codes are rescaled to [0, 1] and, since the sign of a code is arbitrary,
        turned so that they grow with the angle. In a right order the colours run once from blue to yellow.
    """
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    panels = {title: _order_panel(title, panel) for title, panel in _not_empty(panels).items()}
    angles = np.concatenate([panel[name] for panel in panels.values() for name in ("angle", "test_angle")])
    colours = {
        "cmap": LinearSegmentedColormap.from_list("order", ORDER_COLOURS),
        "norm": Normalize(angles.min(), angles.max()),
    }
    return _with_narrow(lambda columns: _draw_order(panels, colours, columns), _columns(len(panels), None))


def _draw_order(panels, colours, columns):
    limits = _limits([panel["train"] for panel in panels.values()])
    rows = math.ceil(len(panels) / columns)
    width = _width(columns)
    top_height, line_height = width / columns * _aspect(limits), 30
    with style():
        figure, axes = _new_figure(
            width, rows * (top_height + line_height + 60) + 84, 2 * rows, columns,
            gridspec_kw={"height_ratios": [top_height, line_height] * rows},
        )  # fmt: skip
        tops, lines = axes[0::2].ravel(), axes[1::2].ravel()
        for axis in [*tops[len(panels) :], *lines[len(panels) :]]:
            axis.set_visible(False)
        for (title, panel), top, line in zip(panels.items(), tops, lines, strict=False):
            _bare(top, limits)
            top.set_title(method_label(title))
            top.plot(*panel["curve"].T, color="black", linewidth=0.9, alpha=0.5, label="decoded latent line")
            # A thousand coloured dots are ten times smaller as pixels than as vectors.
            top.scatter(*panel["reconstruction"].T, c=panel["test_angle"], s=9, linewidth=0, rasterized=True, **colours)
            top.plot(
                *panel["train"].T, "o", markersize=5.5, markerfacecolor="none", color="black", label="training points"
            )
            line.axhline(0, color="black", linewidth=0.8, alpha=0.5)
            line.scatter(panel["code"], np.zeros_like(panel["code"]), c=panel["angle"], s=52, alpha=0.9, **colours)
            line.set(xlim=(-0.04, 1.04), ylim=(-1, 1), xticks=[], yticks=[])
            # The empty line keeps the note apart from the title of the picture below.
            line.set_xlabel((panel["note"] or "latent code") + "\n", fontsize=11)
            line.spines[:].set_visible(False)
        _legend_below(figure, tops[0])
        scale = figure.colorbar(
            _mappable(colours), ax=axes.ravel().tolist(), location="bottom", shrink=0.7, aspect=40,
            label="true angle (radians) of test points and of latent codes",
        )  # fmt: skip
        _colour_bar_as_image(scale, colours)
    return figure


def _multiple_of_pi(value, _position=None):
    halves = round(value / (math.pi / 2))
    return {0: "0", 1: "π/2", 2: "π"}.get(halves, f"{halves}π/2" if halves % 2 else f"{halves // 2}π")


def _mappable(colours):
    from matplotlib.cm import ScalarMappable

    return ScalarMappable(**colours)


def _colour_bar_as_image(scale, colours):
    """Replace the 256 vector rectangles of a horizontal colour bar: smaller, and without hairlines between them."""
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    low, high = colours["norm"].vmin, colours["norm"].vmax
    scale.solids.set_visible(False)
    scale.outline.set_visible(False)
    scale.ax.imshow(
        colours["cmap"](np.linspace(0, 1, 64))[None], aspect="auto", extent=(0, 1, 0, 1), transform=scale.ax.transAxes
    )
    scale.ax.set(xlim=(low, high), ylim=(0, 1))
    if high - low > math.pi:
        scale.ax.xaxis.set_major_locator(MultipleLocator(math.pi / 2))
        scale.ax.xaxis.set_major_formatter(FuncFormatter(_multiple_of_pi))


def _draw_samples(axis, train):
    axis.plot(*train.T, "o", color=SAMPLE_COLOUR, markersize=4.2, markeredgewidth=0, alpha=0.85, label="noisy samples")


def _with_narrow(draw, columns):
    """The figure in so many columns, with its form for phones as `figure.narrow` where it would be too wide."""
    figure = draw(columns)
    figure.narrow = draw(2) if columns > 2 else None
    return figure


def _columns(number, columns):
    if columns is None:
        columns = {1: 1, 2: 2, 3: 3, 4: 2}.get(number, 3 if number <= 6 or number == 9 else 4)
    if columns < 1:
        raise ValueError(f"columns must be 1 or more, got {columns}")
    return min(columns, number)


def _multiples(panels, limits, columns):
    """Figure and a flat list of axes, one per panel, equal in scale and without ticks between them."""
    rows = math.ceil(len(panels) / columns)
    width = _width(columns)
    height = rows * (width / columns * _aspect(limits) + 52) + 30
    figure, axes = _new_figure(width, height, rows, columns)
    axes = axes.ravel()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis in axes:
        _bare(axis, limits)
    return figure, list(axes[: len(panels)])


def _width(columns):
    # Two columns at 0.7 of their size, the smallest that is shown, fit on a phone.
    return {1: 360, 2: 500}.get(columns, PAGE_WIDTH)


def _bare(axis, limits):
    """Equal axes with a faint frame: in these pictures shape matters, not coordinates."""
    axis.set(xlim=limits[0], ylim=limits[1], xticks=[], yticks=[], aspect="equal")
    axis.spines[:].set(visible=True, alpha=0.3)


def _aspect(limits):
    (left, right), (bottom, top) = limits
    return (top - bottom) / (right - left)


def _limits(arrays):
    """((left, right), (bottom, top)) around all points, with a margin of a sixteenth of the larger side."""
    points = np.concatenate(arrays)
    low, high = points.min(axis=0), points.max(axis=0)
    margin = max((high - low).max(), 1e-6) / 16
    return tuple(zip((low - margin).tolist(), (high + margin).tolist(), strict=True))


def _legend_below(figure, axis):
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), handlelength=1.6, columnspacing=1.6)


def _not_empty(panels):
    if not panels:
        raise ValueError("there is nothing to draw: panels is empty; give at least one title -> arrays")
    return panels


def _points(values, name):
    points = np.asarray(values, dtype=float)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
        raise ValueError(f"{name} must have shape (points, 2), got {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError(f"{name} contains values that are not finite: did training diverge?")
    return points


def _entry(title, panel, name):
    if name not in panel:
        raise ValueError(f"panel {title!r} lacks {name!r}; it has: {', '.join(map(str, panel))}")
    return panel[name]


def _curve_panel(title, panel):
    curves = _entry(title, panel, "curve")
    if np.ndim(curves[0]) == 1:
        curves = [curves]
    return {
        "train": _points(_entry(title, panel, "train"), f"train of {title!r}"),
        "curves": [_points(curve, f"curve of {title!r}") for curve in curves],
        "note": panel.get("note") or "",
    }


def _order_panel(title, panel):
    result = {
        name: _points(_entry(title, panel, name), f"{name} of {title!r}")
        for name in ("train", "reconstruction", "curve")
    }
    partners = {"code": "train", "angle": "train", "test_angle": "reconstruction"}
    for name, partner in partners.items():
        values = np.asarray(_entry(title, panel, name), dtype=float).reshape(-1)
        if len(values) != len(result[partner]):
            raise ValueError(
                f"{name} of {title!r} has {len(values)} values, but {partner} has {len(result[partner])} points"
            )
        result[name] = values
    code = result["code"] - result["code"].min()
    code = code / max(code.max(), 1e-12)
    ranks = [values.argsort().argsort() for values in (code, result["angle"])]
    if np.cov(*ranks)[0, 1] < 0:
        code = 1 - code
    return {**result, "code": code, "note": panel.get("note") or ""}


# ------------------------------------------------------------------------------------------- pictures of many runs


def mean_and_deviation(values):
    """Mean and sample standard deviation (0 for a single value) of a 1-D array."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def per_seed(frame, value, method_order, paper=None, ylabel=None, summary=mean_and_deviation):
    """Every seed's value per method, their mean and standard deviation, and the paper's number beside them.

    Arguments:
        frame: DataFrame, one row per run, columns method, seed, `value` and optionally recipe (one picture each).
        value: the column to draw.
        method_order: names of methods from left to right; one without runs keeps its place and the paper's number.
        paper: method -> (mean, error or None) as printed in the paper, in the unit of `value`; optional.
        ylabel: label of the value axis; `value` when None.
        summary: function of a method's values, (n,) -> (centre, spread); all seeds' mean and deviation by default.

    Returns:
        Figure: the axis is logarithmic when the largest value is more than 20 times the smallest.
    """
    _require_columns(frame, ["method", value])
    paper = paper or {}
    recipes = list(dict.fromkeys(frame["recipe"])) if "recipe" in frame else [None]
    drawn = frame[frame["method"].isin(list(method_order)) & np.isfinite(frame[value].astype(float))]
    if drawn.empty:
        raise ValueError(f"no finite {value!r} for any of {', '.join(method_order)}: there is nothing to draw")
    everything = [*drawn[value], *(paper[name][0] for name in method_order if paper.get(name))]
    logarithmic = min(everything) > 0 and max(everything) > 20 * min(everything)

    beside = len(recipes) > 1 and len(method_order) <= 5
    rows, columns = (1, len(recipes)) if beside else (len(recipes), 1)
    with style():
        figure, axes = _new_figure(PAGE_WIDTH, 270 * rows + 40, rows, columns, sharey=True, sharex=True)
        for axis, recipe in zip(axes.ravel(), recipes, strict=True):
            runs = drawn if recipe is None else drawn[drawn["recipe"] == recipe]
            for place, method in enumerate(method_order):
                _draw_method(axis, place, method, runs[runs["method"] == method][value].to_numpy(float), summary)
                if paper.get(method):
                    mean, error = paper[method]
                    axis.errorbar(place + 0.3, mean, error, **_PAPER_MARK)
            axis.set_title(f"recipe: {recipe}" if len(recipes) > 1 else "")
            axis.set_xlim(-0.6, len(method_order) - 0.4)
            axis.set_xticks(range(len(method_order)), [method_label(name) for name in method_order])
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
        first = None
        for axis, (method, options, means, choice) in zip(axes[map_rows:].ravel(), lines, strict=False):
            axis.set_visible(True)
            _draw_line_search(axis, method, options[0], means, choice)
            if first is None:
                first = axis
            else:
                axis.sharey(first)
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
    _plain_log_ticks(scale.ax.xaxis)


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
        axis.minorticks_off()
    axis.set_yscale("log")
    axis.set_xticks(numbers, [f"{number:g}" for number in numbers])
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


def loss_histories(histories, ylabel="training loss"):
    """Loss against epoch, logarithmic, one line per run and one colour per method.

    Arguments:
        histories: method -> (epochs,) or a list of (epochs,), one per seed.
        ylabel: label of the loss axis.
    """
    with style():
        figure, axes = _new_figure(PAGE_WIDTH, 320)
        axis = axes[0, 0]
        for method, runs in _not_empty(histories).items():
            for place, run in enumerate([runs] if np.ndim(runs[0]) == 0 else runs):
                label = method_label(method) if place == 0 else None
                axis.plot(np.arange(1, len(run) + 1), run, color=method_colour(method), linewidth=1.4, label=label)
        axis.set(yscale="log", xlabel="epoch", ylabel=ylabel)
        _plain_log_ticks(axis.yaxis)
        axis.grid(axis="y")
        handles, labels = axis.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5))
    return figure


def _require_columns(frame, names):
    missing = [name for name in names if name not in frame]
    if missing:
        raise ValueError(
            f"the frame has no column {missing[0]!r}; its columns are: {', '.join(map(str, frame.columns))}"
        )


# ------------------------------------------------------------------------------------------------- during training


def scrubber(panels, frame_steps, truth=None, alt="The learned manifold during training", unit="epoch"):
    """Display the learned manifold during training, with a slider and a play button; starts at the last frame.

    Arguments:
        panels: title -> {"train": (n, 2), "frames": (F, p, 2)}: the decoded latent line at F moments of training.
        frame_steps: (F,) whole numbers, the epoch of each frame.
        truth: (p, 2), the noise-free curve, dashed; optional.
        alt: one sentence that says what the animation shows.
        unit: the word before the number, "epoch" or "step".
    """
    from IPython.display import display

    display({"text/html": scrubber_html(panels, frame_steps, truth, alt, unit), "text/plain": alt}, raw=True)


def scrubber_html(panels, frame_steps, truth=None, alt="The learned manifold during training", unit="epoch"):
    """The HTML of `scrubber`: self-contained, 16-bit coordinates, at most 160 points per curve."""
    frame_steps = [int(step) for step in frame_steps]
    samples, frames = {}, {}
    for title, panel in _not_empty(panels).items():
        samples[title] = _points(_entry(title, panel, "train"), f"train of {title!r}")
        curve = np.asarray(_entry(title, panel, "frames"), dtype=float)
        if curve.ndim != 3 or curve.shape[::2] != (len(frame_steps), 2):
            raise ValueError(
                f"frames of {title!r} must have shape ({len(frame_steps)} frame_steps, points, 2), got {curve.shape}"
            )
        _points(curve.reshape(-1, 2), f"frames of {title!r}")
        # Neighbouring points are then about a pixel apart in a small picture: more cannot be seen.
        kept = np.linspace(0, curve.shape[1] - 1, min(curve.shape[1], 160)).round().astype(int)
        frames[title] = curve[:, kept]
    truth = None if truth is None else _points(truth, "truth")
    limits = _limits([*samples.values()] + ([] if truth is None else [truth]))
    low, side = np.array(limits)[:, 0], max(high - low for low, high in limits)

    def packed(points):
        # One unit is 1/8192 of the picture's larger side. Early in training a curve may leave the picture:
        # 16 bits reach from -4 to 4 sides, and what lies beyond is cut there, far outside what is drawn.
        units = np.clip((points - low) / side * 8192, -32767, 32767).round().astype("<i2")
        return base64.b64encode(units.tobytes()).decode()

    setup = {
        "steps": frame_steps,
        "unit": unit,
        "aspect": _aspect(limits),
        "scale": 8192 * (limits[0][1] - limits[0][0]) / side,
        "truth": None if truth is None else packed(truth[:: max(1, len(truth) // 160)]),
        "panels": [
            {"title": method_label(title), "train": packed(samples[title]), "frames": packed(frames[title])}
            for title in panels
        ],
        "sample": SAMPLE_COLOUR,
        "manifold": MANIFOLD_COLOUR,
    }
    # "<" could end the script element early; JSON may spell it as an escape.
    data = json.dumps(setup, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    identity = hashlib.sha256((alt + data).encode()).hexdigest()[:12]
    last, final = len(frame_steps) - 1, f"{unit} {frame_steps[-1]}"
    label = html.escape(alt, quote=True)
    unit, final = html.escape(unit, quote=True), html.escape(final, quote=True)
    truth_legend = '<span><i style="border-top:2px dashed;opacity:.6"></i>truth</span>' if truth is not None else ""
    return (
        f"<style>{PAGE_STYLE}{_SCRUBBER_STYLE}</style>"
        f'<div class="nrae-scrubber" data-nrae-scrubber="{identity}">'
        f'<canvas role="img" aria-label="{label}"></canvas>'
        f'<div class="nrae-scrubber-legend">'
        f'<span><i style="width:9px;height:9px;border-radius:50%;background:{SAMPLE_COLOUR}"></i>noisy samples</span>'
        f'<span><i style="border-top:3px solid {MANIFOLD_COLOUR}"></i>learned manifold</span>{truth_legend}</div>'
        f'<div class="nrae-scrubber-controls"><button type="button" aria-label="play">▶</button>'
        f'<input type="range" min="0" max="{last}" value="{last}" step="1" aria-label="{unit}"'
        f' aria-valuetext="{final}"><span class="nrae-scrubber-step">{final}</span></div></div>'
        f"<script>{_SCRUBBER_SCRIPT.replace('IDENTITY', identity).replace('SETUP', data)}</script>"
    )


_SCRUBBER_STYLE = (
    ".nrae-scrubber{max-width:720px;margin:.5em auto;color:inherit}"
    ".nrae-scrubber canvas{display:block;width:100%}"
    ".nrae-scrubber-legend{display:flex;flex-wrap:wrap;justify-content:center;gap:.2em 1.4em;font-size:.85em}"
    ".nrae-scrubber-legend i{display:inline-block;width:1.6em;vertical-align:middle;margin-right:.4em}"
    ".nrae-scrubber-controls{display:flex;align-items:center;gap:.7em;margin-top:.4em}"
    ".nrae-scrubber button{min-width:2.6em;min-height:2.4em;color:inherit;background:transparent;"
    "border:1px solid currentColor;border-radius:.4em;cursor:pointer;font:inherit}"
    f".nrae-scrubber input{{flex:1;min-width:0;height:2.4em;accent-color:{SAMPLE_COLOUR}}}"
    ".nrae-scrubber-step{min-width:6.5em;text-align:right;font-variant-numeric:tabular-nums}"
)

# Found by a data attribute, not by an id or document.currentScript: notebooks move outputs before they run scripts,
# and the same animation may be on a page twice.
_SCRUBBER_SCRIPT = """
(() => {
  const setup = SETUP;
  const decode = text => text && new Int16Array(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
  const truth = decode(setup.truth);
  const panels = setup.panels.map(p => ({title: p.title, train: decode(p.train), frames: decode(p.frames)}));
  const start = box => {
    box.dataset.ready = "yes";
    const canvas = box.querySelector("canvas"), slider = box.querySelector("input");
    const button = box.querySelector("button"), label = box.querySelector(".nrae-scrubber-step");
    const pen = canvas.getContext("2d");
    let timer = null, waiting = false;

    const trace = (points, from, to, x, y, width, height) => {
      const size = width / setup.scale;
      pen.beginPath();
      for (let i = from; i < to; i += 2) pen.lineTo(x + points[i] * size, y + height - points[i + 1] * size);
      pen.stroke();
    };
    const draw = () => {
      waiting = false;
      const whole = box.clientWidth;
      if (!whole) return;
      const rows = Math.ceil(panels.length / Math.max(1, Math.min(panels.length, Math.floor(whole / 165))));
      const columns = Math.ceil(panels.length / rows), gap = 12, head = 24;
      const width = Math.min(340, (whole - gap * (columns - 1)) / columns), height = width * setup.aspect;
      const left = (whole - columns * width - gap * (columns - 1)) / 2;
      const tall = rows * (height + head) + (rows - 1) * 4 + 2;
      const sharp = window.devicePixelRatio || 1, look = getComputedStyle(box), ink = look.color;
      canvas.style.height = tall + "px";
      canvas.width = Math.round(whole * sharp);
      canvas.height = Math.round(tall * sharp);
      pen.setTransform(sharp, 0, 0, sharp, 0, 0);
      pen.lineJoin = pen.lineCap = "round";
      panels.forEach((panel, n) => {
        const x = left + (n % columns) * (width + gap), y = head + Math.floor(n / columns) * (height + head + 4);
        pen.fillStyle = pen.strokeStyle = ink;
        pen.font = "600 13px " + look.fontFamily;
        pen.textAlign = "center";
        pen.fillText(panel.title, x + width / 2, y - 8, width);
        pen.lineWidth = 1;
        pen.globalAlpha = 0.3;
        pen.strokeRect(x + 0.5, y + 0.5, width - 1, height - 1);
        pen.globalAlpha = 1;
        pen.save();
        pen.beginPath();
        pen.rect(x, y, width, height);
        pen.clip();
        pen.fillStyle = setup.sample;
        const size = width / setup.scale, radius = Math.max(1.6, width / 110);
        for (let i = 0; i < panel.train.length; i += 2) {
          pen.beginPath();
          pen.arc(x + panel.train[i] * size, y + height - panel.train[i + 1] * size, radius, 0, 7);
          pen.fill();
        }
        const length = panel.frames.length / setup.steps.length, from = slider.value * length;
        pen.strokeStyle = setup.manifold;
        pen.lineWidth = 2.4;
        trace(panel.frames, from, from + length, x, y, width, height);
        if (truth) {
          pen.strokeStyle = ink;
          pen.lineWidth = 1.1;
          pen.globalAlpha = 0.75;
          pen.setLineDash([4, 3]);
          trace(truth, 0, truth.length, x, y, width, height);
        }
        pen.restore();
      });
    };
    const redraw = () => { if (!waiting) { waiting = true; requestAnimationFrame(draw); } };
    const change = () => {
      label.textContent = setup.unit + " " + setup.steps[slider.value];
      slider.setAttribute("aria-valuetext", label.textContent);
      redraw();
    };
    const play = on => {
      clearInterval(timer);
      timer = null;
      button.textContent = on ? "❚❚" : "▶";
      button.setAttribute("aria-label", on ? "pause" : "play");
      if (!on) return;
      if (slider.value === slider.max) { slider.value = 0; change(); }
      timer = setInterval(() => {
        slider.value = +slider.value + 1;
        change();
        if (slider.value === slider.max || !box.isConnected) play(false);
      }, Math.max(50, 5000 / setup.steps.length));
    };
    button.addEventListener("click", () => play(timer === null));
    slider.addEventListener("input", () => { play(false); change(); });
    new ResizeObserver(redraw).observe(box);
    const mode = new MutationObserver(redraw);
    mode.observe(document.documentElement, {attributes: true});
    mode.observe(document.body, {attributes: true});
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    change();
  };
  document.querySelectorAll('[data-nrae-scrubber="IDENTITY"]:not([data-ready])').forEach(start);
})();
"""

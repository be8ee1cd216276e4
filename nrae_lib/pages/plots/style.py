"""The book's one style: colours, fonts, and how a figure comes onto a page."""

import base64
import hashlib
import html
import io
import re
from pathlib import Path

# The paper's Figure 4: noisy samples blue, learned manifold orange. Every colour of this file has a relative luminance
# between 0.12 and 0.30, so that its contrast is at least 3:1 both on white and on #121212.
SAMPLE_COLOUR = "#2f80d8"
MANIFOLD_COLOUR = "#e0690a"

METHOD_COLOURS = {
    "ae": "#7d7d7d", "vae": "#8d68c4", "wae": "#c25aa5", "dae": "#0f8f93", "cae": "#8a7d1f", "grae": "#2f9150",
    "spae": "#a9662f", "nrae_0": "#6787a8", "nrae_l": SAMPLE_COLOUR, "nrae_q": "#dc4b1e",
}  # fmt: skip
_EMBEDDING_LABELS = {"pca": "PCA", "umap": "UMAP", "tsne": "t-SNE", "lle": "LLE"}
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
_FIGURE_STYLE = (Path(__file__).parent / "figures.css").read_text(encoding="utf-8")


def method_label(name):
    """The name of a method as its paper prints it: "nrae_l" becomes "NRAE-L"; other names stay as they are."""
    from nrae_lib.core.methods import get

    try:
        return get(str(name)).title
    except ValueError:  # not in the catalogue
        return _EMBEDDING_LABELS.get(name, str(name))


def method_colour(name):
    """The one colour of a method on every page, as "#rrggbb". A method outside `METHOD_COLOURS` gets a hue from its
    name, at a lightness that reads on white and on dark pages."""
    if name in METHOD_COLOURS:
        return METHOD_COLOURS[name]
    import colorsys

    from matplotlib.colors import to_hex

    digest = hashlib.sha256(str(name).encode()).digest()
    hue, saturation = digest[0] / 256, 0.45 + 0.3 * digest[1] / 256
    shades = [colorsys.hls_to_rgb(hue, lightness / 256, saturation) for lightness in range(256)]
    return to_hex(min(shades, key=lambda shade: abs(relative_luminance(shade) - 0.2)))


def relative_luminance(colour):
    """Relative luminance (WCAG 2) of a colour as matplotlib takes them: 0 is black, 1 is white."""
    from matplotlib.colors import to_rgb

    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def style():
    """The book's matplotlib style, for `with style(): ...` around a figure of one's own. Lines and text are black,
    which `show` turns into the page's text colour."""
    import matplotlib

    return matplotlib.rc_context({
        "figure.dpi": _POINTS_PER_INCH, "figure.facecolor": "none", "axes.facecolor": "none", "axes.spines.top": False,
        "axes.spines.right": False, "axes.titlesize": 13, "axes.titleweight": "bold", "axes.axisbelow": True,
        "font.size": 12, "xtick.labelsize": 11, "ytick.labelsize": 11, "grid.alpha": 0.18, "grid.color": "black",
        "legend.frameon": False, "lines.solid_capstyle": "round",
        "path.simplify_threshold": 0.25,  # a curve may be off by a quarter of a pixel
    })  # fmt: skip


def new_figure(height, number=1, columns=1, width=PAGE_WIDTH, **options):
    """Figure and list of axes, so many to a row; sizes in CSS pixels. It is unknown to pyplot: nothing to close."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / _POINTS_PER_INCH, height / _POINTS_PER_INCH), layout="constrained")
    axes = figure.subplots(-(-number // columns), columns, squeeze=False, **options).ravel()
    for spare in axes[number:]:
        spare.remove()
    return figure, list(axes[:number])


def show(figure, alt, thumbnail=False):
    """Display a figure: inline SVG for the page, PNG on white for thumbnails, `alt` for text.

    Arguments:
        figure: a matplotlib Figure. Black becomes the page's text colour.
        alt: one sentence that says what the picture shows; a ValueError asks for it where it is empty.
        thumbnail: marks the picture that stands for this page in the book's gallery.
    """
    from IPython.display import display

    file = io.BytesIO()
    figure.savefig(file, format="png", facecolor="white", dpi=1.5 * _POINTS_PER_INCH, metadata={"Software": None})
    picture = base64.b64encode(file.getvalue()).decode()
    bundle = {"text/html": figure_html(figure, alt), "image/png": picture, "text/plain": alt}
    display(bundle, raw=True, metadata={"nrae": {"thumbnail": True}} if thumbnail else {})


def figure_html(figure, alt):
    """The figure as `<div class="nrae-figure"><svg>`: no fixed background, black replaced by the page's text colour.
    The same figure and `alt` always give the same text, so that rebuilding the book changes nothing."""
    if not alt or not alt.strip():
        raise ValueError("alt is empty: give one sentence that says what the picture shows")
    narrow = getattr(figure, "narrow", None)
    drawing = _svg(figure, alt, "nrae-wide") + _svg(narrow, alt, "nrae-narrow") if narrow else _svg(figure, alt, "")
    # The keyboard can scroll a box only if it can stop there, and a screen reader then says where it is.
    box = f'<div class="nrae-figure" tabindex="0" role="region" aria-label="{html.escape(alt)}">'
    return f"<style>{PAGE_STYLE}{_FIGURE_STYLE}</style>{box}{drawing}</div>"


def _svg(figure, alt, kind):
    import matplotlib

    file = io.StringIO()
    # Matplotlib names clip paths and markers by a hash of their content and this salt: with the same salt two equal
    # names mean two equal things, with another salt they differ. So pictures on one page cannot disturb each other.
    with matplotlib.rc_context({"svg.hashsalt": alt + kind, "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", facecolor="none", dpi=2 * _POINTS_PER_INCH)
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

    label, width = html.escape(alt), figure.get_figwidth() * _POINTS_PER_INCH
    view_box = re.search(r'viewBox="[^"]*"', svg)[0]
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {view_box} role="img"'
        f' class="{kind}" aria-label="{label}" fill="currentColor"'
        f' style="max-width:{width:.0f}px;min-width:{0.7 * width:.0f}px"><title>{label}</title>'
    )
    return opening + svg[svg.index(">") + 1 :].strip()


def _fewer_colours(picture):
    """The same PNG (base64) with a palette of 256 colours, a third of the size; small ones (colour bars) stay smooth."""
    if len(picture) < 4000:
        return picture
    from PIL import Image

    file = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(re.sub(r"\s", "", picture)))).convert("RGBA")
    image.quantize(256, method=Image.Quantize.FASTOCTREE).save(file, format="png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()

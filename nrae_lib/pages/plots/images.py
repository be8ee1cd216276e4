"""Rows and grids of images; test images beside their reconstructions, the best and the worst, and one after the other."""

import base64
import hashlib
import html
import io
import json

import numpy as np

from nrae_lib.pages.plots.animation import _SCRUBBER_STYLE
from nrae_lib.pages.plots.panels import not_empty
from nrae_lib.pages.plots.style import MANIFOLD_COLOUR, PAGE_STYLE, PAGE_WIDTH, _new_figure, method_label, style

_ENDS = {"best": "smallest errors", "worst": "largest errors"}


def mosaic(images, gap=1):
    """One picture of a grid of images, separated by transparent lines.

    Arguments:
        images: (R, C, channels, H, W) uint8; one or three channels.
        gap: width of the lines in pixels of the images.

    Returns:
        (R (H + gap) - gap, C (W + gap) - gap, 4) uint8, red, green, blue and opacity.
    """
    images = np.asarray(images)
    rows, columns, _, height, width = images.shape
    picture = np.zeros((rows, height + gap, columns, width + gap, 4), np.uint8)
    picture[:, :height, :, :width, :3] = images.transpose(0, 3, 1, 4, 2)  # one channel spreads to three
    picture[:, :height, :, :width, 3] = 255
    return picture.reshape(rows * (height + gap), columns * (width + gap), 4)[: -gap or None, : -gap or None]


def image_rows(rows, breaks=None, notes=None, width=PAGE_WIDTH):
    """Rows of images, one per method or source; places where two neighbours do not belong together are boxed.

    Arguments:
        rows: label -> (N, channels, H, W) uint8; rows may differ in N. Names of methods are shown as the papers print them.
        breaks: label -> indices i such that a discontinuity lies between image i and i + 1 of the row; optional.
        notes: label -> a short text at the row's right end; optional.
        width: of the figure in CSS pixels.

    Returns:
        Figure.
    """
    from matplotlib.patches import Rectangle

    breaks, notes = breaks or {}, notes or {}
    longest = max(len(images) for images in not_empty(rows).values())
    shape = next(iter(rows.values())).shape[1:]
    height, gap = width * 0.78 / longest * (shape[1] + 1) / (shape[2] + 1), 1
    with style():
        figure, axes = _new_figure(width, len(rows) * (height + 6) + 10, len(rows))
        figure.get_layout_engine().set(h_pad=1 / 72, hspace=0)
        for axis, (label, images) in zip(axes[:, 0], rows.items(), strict=True):
            axis.imshow(mosaic(images[None], gap), interpolation="nearest")
            for place in breaks.get(label, ()):
                corner = (place * (shape[2] + gap) - 1, -1)
                box = Rectangle(corner, 2 * shape[2] + gap + 1, shape[1] + 1, fill=False, linewidth=1.8, clip_on=False)
                axis.add_patch(box)
                box.set_edgecolor(MANIFOLD_COLOUR)
            axis.set(xlim=(-1.5, longest * (shape[2] + gap)), ylim=(shape[1] + 0.5, -1.5), xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            axis.set_ylabel(method_label(label), rotation=0, ha="right", va="center", labelpad=6)
            if label in notes:
                axis.annotate(
                    notes[label], (1.01, 0.5), xycoords="axes fraction", va="center", fontsize=11, annotation_clip=False
                )
    return figure


def best_and_worst(rows, notes=None, width=PAGE_WIDTH):
    """For each method the images with the smallest and the largest error, each above its reconstruction.

    Arguments:
        rows: method -> {"best": (originals, reconstructions), "worst": (originals, reconstructions)}, each
            (N, channels, H, W) uint8.
        notes: method -> {"best": text, "worst": text} under the images; optional.
        width: of the figure in CSS pixels.

    Returns:
        Figure.
    """
    count = len(next(iter(not_empty(rows).values()))["best"][0])
    height = 2 * 0.42 * width / count + (20 if notes else 6)
    with style():
        figure, axes = _new_figure(width, len(rows) * height + 30, len(rows), 2)
        figure.get_layout_engine().set(h_pad=2 / 72, hspace=0)
        for axis, title in zip(axes[0], _ENDS.values(), strict=True):
            axis.set_title(title, fontsize=12)
        for (method, ends), pair in zip(rows.items(), axes, strict=True):
            for axis, end in zip(pair, _ENDS, strict=True):
                axis.imshow(mosaic(np.stack(ends[end])), interpolation="nearest")
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
                if notes:
                    axis.set_xlabel(notes[method][end], fontsize=10, labelpad=2)
            pair[0].set_ylabel(method_label(method), rotation=0, ha="right", va="center", labelpad=6)
    return figure


def image_slider(rows, notes=None, alt="Images beside their reconstructions"):
    """Display one image of each row at a time, with a slider that goes through them; works without a network or server.

    Arguments:
        rows: label -> (N, channels, H, W) uint8, all of one shape; names of methods are shown as the papers print them.
        notes: label -> N short texts below the images, such as errors; optional.
        alt: one sentence that says what the images are.
    """
    from IPython.display import display

    display({"text/html": image_slider_html(rows, notes, alt), "text/plain": alt}, raw=True)


def image_slider_html(rows, notes=None, alt="Images beside their reconstructions"):
    """The HTML of `image_slider`: each row is one picture, grey ones exact (PNG), coloured ones JPEG of high quality.

    Raises:
        ValueError: if there are no rows, or they differ in shape.
    """
    shapes = {np.shape(images) for images in not_empty(rows).values()}
    if len(shapes) > 1:
        raise ValueError(f"all rows must hold images of one shape, not {', '.join(map(str, sorted(shapes)))}")
    [(count, _, height, width)] = shapes
    notes = {label: [str(text) for text in texts] for label, texts in (notes or {}).items()}
    setup = {"count": count, "notes": [notes.get(label) for label in rows]}
    data = json.dumps(setup, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    strips = {label: _strip(np.asarray(images)) for label, images in rows.items()}
    identity = hashlib.sha256((alt + data + "".join(strips.values())).encode()).hexdigest()[:12]
    tiles = "".join(
        f'<figure><div role="img" aria-label="{html.escape(method_label(label), quote=True)}"'
        f' style="aspect-ratio:{width}/{height};background-image:url({strips[label]});background-size:100% {100 * count}%">'
        f"</div><figcaption>{html.escape(method_label(label))}<small>{html.escape(notes[label][0]) if label in notes else ''}"
        "</small></figcaption></figure>"
        for label in rows
    )
    label = html.escape(alt, quote=True)
    return (
        f"<style>{PAGE_STYLE}{_SCRUBBER_STYLE}{_SLIDER_STYLE}</style>"
        f'<div class="nrae-scrubber" data-nrae-slider="{identity}" role="group" aria-label="{label}">'
        f'<div class="nrae-tiles">{tiles}</div><div class="nrae-scrubber-controls">'
        f'<input type="range" min="0" max="{count - 1}" value="0" step="1" aria-label="image: {label}"'
        f' aria-valuetext="image 1 of {count}"><span class="nrae-scrubber-step">image 1 of {count}</span></div></div>'
        f"<script>{_SLIDER_SCRIPT.replace('IDENTITY', identity).replace('SETUP', data)}</script>"
    )


def _strip(images):
    """Images (N, channels, H, W) below one another, as a data address."""
    from PIL import Image

    count, channels, height, width = images.shape
    pixels = images.transpose(0, 2, 3, 1).reshape(count * height, width, channels)
    kind = "png" if channels == 1 else "jpeg"
    options = {"optimize": True} if channels == 1 else {"quality": 92, "subsampling": 0}
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


_SLIDER_STYLE = (
    ".nrae-tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(118px,1fr));gap:.6em}"
    ".nrae-tiles figure{margin:0;text-align:center}"
    ".nrae-tiles figure>div{background-repeat:no-repeat;image-rendering:pixelated;forced-color-adjust:none}"
    ".nrae-tiles figcaption{font-size:.85em;margin:.2em 0 0;color:inherit}"
    ".nrae-tiles small{display:block;opacity:.85;font-variant-numeric:tabular-nums}"
)

# Found by a data attribute for the same reasons as in animation.py.
_SLIDER_SCRIPT = """
(() => {
  const setup = SETUP;
  const start = box => {
    box.dataset.ready = "yes";
    const slider = box.querySelector("input"), label = box.querySelector(".nrae-scrubber-step");
    const tiles = [...box.querySelectorAll("figure")];
    const change = () => {
      const place = +slider.value;
      label.textContent = "image " + (place + 1) + " of " + setup.count;
      slider.setAttribute("aria-valuetext", label.textContent);
      tiles.forEach((tile, i) => {
        tile.querySelector("div").style.backgroundPositionY = 100 * place / Math.max(1, setup.count - 1) + "%";
        if (setup.notes[i]) tile.querySelector("small").textContent = setup.notes[i][place];
      });
    };
    slider.addEventListener("input", change);
    change();
  };
  document.querySelectorAll('[data-nrae-slider="IDENTITY"]:not([data-ready])').forEach(start);
})();
"""

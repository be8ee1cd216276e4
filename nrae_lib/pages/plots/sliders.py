"""What a reader moves with a slider: the learned manifold during training, a point while its code moves, images."""

import base64
import hashlib
import html
import io
import json
from pathlib import Path

import numpy as np

from nrae_lib.pages.plots.panels import aspect, limits_of, not_empty, points_of
from nrae_lib.pages.plots.style import MANIFOLD_COLOUR, PAGE_STYLE, SAMPLE_COLOUR, method_label

_STYLE, _SCRIPT = ((Path(__file__).parent / f"sliders.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))


def scrubber(panels, frame_steps, truth=None, alt="The learned manifold during training", unit="epoch"):
    """Display the learned manifold during training, with a slider and a play button; starts at the last frame.

    Arguments:
        panels: title -> {"train": (n, 2), "frames": (F, p, 2)}: the decoded latent line at F moments of training.
        frame_steps: (F,) whole numbers, the epoch of each frame.
        truth: (p, 2), the noise-free curve, dashed; optional.
        alt: one sentence that says what the animation shows.
        unit: the word before the number, "epoch" or "step".

    Raises:
        ValueError: there are no panels, or their frames do not fit `frame_steps`.
    """
    samples, frames = {}, {}
    for title, panel in not_empty(panels).items():
        curve = np.asarray(panel["frames"], dtype=float)
        if curve.ndim != 3 or curve.shape[::2] != (len(frame_steps), 2):
            raise ValueError(
                f"frames of {title!r} must have shape ({len(frame_steps)} frame_steps, points, 2), got {curve.shape}"
            )
        points_of(curve.reshape(-1, 2))
        # Neighbouring points are then about a pixel apart in a small picture: more cannot be seen.
        kept = np.linspace(0, curve.shape[1] - 1, min(curve.shape[1], 160)).round().astype(int)
        samples[title], frames[title] = points_of(panel["train"]), curve[:, kept]
    labels = [f"{unit} {int(step)}" for step in frame_steps]
    layers = {"noisy samples": samples, "learned manifold": frames, **_truth(truth, samples)}
    _show_panels(layers, labels, alt, unit, len(labels) - 1)


def latent_walk(panels, truth=None, alt="The decoded point while the code moves"):
    """Display learned curves with a dot that moves along all of them while the reader drags a slider or presses play.

    The slider goes from the smallest training code to the largest, in every picture alike.

    Arguments:
        panels: title -> {"train": (n, 2), "curve": (p, 2), decoded from p evenly spaced codes}; p is the same for all.
        truth: (q, 2), the noise-free curve, dashed; optional.
        alt: one sentence that says what is shown.

    Raises:
        ValueError: if there are no panels, or the curves differ in length.
    """
    samples = {title: points_of(panel["train"]) for title, panel in not_empty(panels).items()}
    curves = {title: points_of(panel["curve"]) for title, panel in panels.items()}
    lengths = {len(curve) for curve in curves.values()}
    if len(lengths) > 1:
        raise ValueError(f"all curves must have equally many points, not {', '.join(map(str, sorted(lengths)))}")
    labels = [f"code at {share:.0%}" for share in np.linspace(0, 1, lengths.pop())]
    dots = {"decoded point": {title: curve[:, None] for title, curve in curves.items()}}
    layers = {"noisy samples": samples, "learned manifold": curves, **_truth(truth, samples), **dots}
    _show_panels(layers, labels, alt, "code", 0)


# What stands in a picture and in its legend: whether it is dots, and how it is drawn.
_LOOKS = {
    "noisy samples": (True, f"stroke:{SAMPLE_COLOUR};stroke-width:4.5"),
    "learned manifold": (False, f"stroke:{MANIFOLD_COLOUR};stroke-width:2.4"),
    "truth": (False, "stroke-width:1.1;stroke-dasharray:4 3;opacity:.75"),
    "decoded point": (True, "stroke-width:11"),
}
_WIDTH = 2000  # units of a picture: a fifth of a pixel of a large one


def _show_panels(layers, labels, alt, name, first):
    """Display pictures of curves over a slider.

    Arguments:
        layers: label of `_LOOKS` -> title -> (p, 2), what stays, or (F, p, 2), what moves.
        labels, alt, name, first: as for `_show_slider`.
    """
    titles, fixed = layers["noisy samples"], [*layers["noisy samples"].values(), *layers.get("truth", {}).values()]
    (left, right), (_, top) = limits = limits_of(fixed)

    def drawn(label, points):
        units = (points - (left, top)) * (_WIDTH / (right - left)) * (1, -1)
        # Early in training a curve may leave the picture: far outside of what is drawn it is cut.
        units = np.clip(units, -4 * _WIDTH, 4 * _WIDTH).round().astype(int)
        if _LOOKS[label][0]:
            return "".join(f"M{x} {y}h0" for x, y in units)
        # Steps from point to point are shorter than places.
        return "m" + " ".join(map(str, np.diff(units, axis=0, prepend=0).ravel()))

    pictures, places = "", []
    for title in titles:
        paths = ""
        for label, panels in layers.items():
            moves = panels[title].ndim == 3
            lines = [drawn(label, points) for points in (panels[title] if moves else panels[title][None])]
            paths += _path(label, lines[first if moves else 0], moves)
            places += [("d", lines)] if moves else []
        pictures += (
            f"<figure><figcaption>{html.escape(method_label(title))}</figcaption>"
            f'<svg viewBox="0 0 {_WIDTH} {_WIDTH * aspect(limits):.0f}">{paths}</svg></figure>'
        )
    keys = "".join(
        f'<span><svg viewBox="0 0 26 12">{_path(key, "M13 6h0" if _LOOKS[key][0] else "M1 6h24")}</svg>{key}</span>'
        for key in layers
    )
    columns = -(-len(titles) // -(-len(titles) // 4))  # at most four, in rows as even as possible
    content = (
        f'<div class="nrae-panels" style="--columns:{columns}" role="img" aria-label="{html.escape(alt, quote=True)}">'
        f'{pictures}</div><div class="nrae-keys">{keys}</div>'
    )
    _show_slider(content, places, labels, alt, name, first)


def _path(label, line, moves=False):
    return f'<path style="{_LOOKS[label][1]}"{" data-moves" if moves else ""} d="{line}"/>'


def _truth(truth, titles):
    """The layer of the noise-free curve, at most 160 points of it."""
    return {} if truth is None else {"truth": dict.fromkeys(titles, points_of(truth)[:: max(1, len(truth) // 160)])}


def image_slider(rows, notes=None, alt="Images beside their reconstructions"):
    """Display one image of each row at a time, with a slider that goes through them.

    Grey images are exact (PNG), coloured ones JPEG of high quality.

    Arguments:
        rows: label -> (N, channels, H, W) uint8, all of one shape; names of methods are shown as the papers print them.
        notes: label -> N short texts below the images, such as errors; optional.
        alt: one sentence that says what the images are.

    Raises:
        ValueError: if there are no rows, or they differ in shape.
    """
    shapes = {np.shape(images) for images in not_empty(rows).values()}
    if len(shapes) > 1:
        raise ValueError(f"all rows must hold images of one shape, not {', '.join(map(str, sorted(shapes)))}")
    [(count, _, height, width)] = shapes
    tiles, places = "", []
    for label, images in rows.items():
        title, texts = html.escape(method_label(label), quote=True), [*map(str, (notes or {}).get(label, ()))]
        places += [("y", [-1 - (height + 2) * place for place in range(count)]), *([(None, texts)] if texts else [])]
        tiles += (
            f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}"><image data-moves y="-1"'
            f' width="{width}" height="{count * (height + 2)}" href="{_strip(np.asarray(images))}"/></svg><figcaption>{title}'
            + (f"<small data-moves>{html.escape(texts[0])}</small>" if texts else "")
            + "</figcaption></figure>"
        )
    labels = [f"image {place} of {count}" for place in range(1, count + 1)]
    _show_slider(f'<div class="nrae-tiles">{tiles}</div>', places, labels, alt, "image", 0)


def _strip(images):
    """Images (N, channels, H, W) below one another, as a data address.

    Each has its first and last row twice: at the edge of a picture a screen's pixel may reach beyond the image.
    """
    from PIL import Image

    images = np.pad(images, ((0, 0), (0, 0), (1, 1), (0, 0)), mode="edge")
    count, channels, height, width = images.shape
    pixels = images.transpose(0, 2, 3, 1).reshape(count * height, width, channels)
    kind = "png" if channels == 1 else "jpeg"
    options = {"optimize": True} if channels == 1 else {"quality": 92, "subsampling": 0}
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _show_slider(content, places, labels, alt, name, first):
    """Display content over a slider with a play button: self-contained, without a network or server.

    Arguments:
        content: HTML. Its elements with the attribute data-moves change with the slider.
        places: for each of these (the attribute that changes, or None for its text; a value per place).
        labels: the slider's own text at each place.
        alt, name: what is shown, and what the slider moves, for screen readers.
        first: the place where it starts, which `content` shows already.
    """
    from IPython.display import display

    # "<" could end the script element early; JSON may spell it as an escape.
    data = json.dumps({"labels": labels, "places": places}, separators=(",", ":"), ensure_ascii=False)
    data = data.replace("<", "\\u003c")
    identity = hashlib.sha256((alt + content + data).encode()).hexdigest()[:12]
    spoken, name, label = (html.escape(text, quote=True) for text in (alt, name, labels[first]))
    text = (
        f'<style>{PAGE_STYLE}{_STYLE}</style><div class="nrae-slider" data-nrae-slider="{identity}" role="group"'
        f' aria-label="{spoken}">{content}<div class="nrae-slider-controls"><button type="button" aria-label="play">▶</button>'
        f'<input type="range" min="0" max="{len(labels) - 1}" value="{first}" step="1" aria-label="{name}: {spoken}"'
        f' aria-valuetext="{label}"><span class="nrae-slider-label">{label}</span></div></div>'
        f"<script>{_SCRIPT.replace('IDENTITY', identity).replace('SETUP', data)}</script>"
    )
    display({"text/html": text, "text/plain": alt}, raw=True)

"""What a reader moves with a slider: the learned manifold during training, a point while its code moves, images."""

import base64
import hashlib
import html
import io
import json
from pathlib import Path

import numpy as np

from nrae_lib.pages.plots.panels import limits_of, not_empty, points_of
from nrae_lib.pages.plots.style import MANIFOLD_COLOUR, PAGE_STYLE, SAMPLE_COLOUR, method_label

_STYLE, _SCRIPT = ((Path(__file__).parent / f"sliders.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
# What stands in a picture and in its legend: whether it is dots, and how it is drawn.
_LOOKS = {
    "noisy samples": (True, f"stroke:{SAMPLE_COLOUR};stroke-width:4.5"),
    "learned manifold": (False, f"stroke:{MANIFOLD_COLOUR};stroke-width:2.4"),
    "truth": (False, "stroke-width:1.1;stroke-dasharray:4 3;opacity:.75"),
    "decoded point": (True, "stroke-width:11"),
}
_WIDTH = 2000  # units of a picture: a fifth of a pixel of a large one


def scrubber(panels, frame_steps, truth=None, alt="The learned manifold during training"):
    """Display the learned manifold during training, with a slider and a play button; starts at the last frame.

    Arguments:
        panels: title -> {"train": (n, 2), "frames": (F, p, 2)}: the decoded latent line at F moments of training.
        frame_steps: (F,) whole numbers, the epoch of each frame.
        truth: (q, 2), the noise-free curve, dashed; optional.
        alt: one sentence that says what the animation shows.
    """
    frames = {title: np.asarray(panel["frames"], dtype=float) for title, panel in not_empty(panels).items()}
    for title, curves in frames.items():
        if curves.ndim != 3:
            raise ValueError(f"frames of {title!r} must have the shape (frames, points, 2), not {curves.shape}")
        frames[title] = _thinned(curves)
    labels = [f"epoch {int(step)}" for step in frame_steps]
    _show_panels(panels, {"learned manifold": frames}, truth, labels, alt, "epoch", len(labels) - 1)


def latent_walk(panels, truth=None, alt="The decoded point while the code moves"):
    """Display learned curves with a dot that moves along all of them while the reader drags a slider or presses play.

    The slider goes from the smallest training code to the largest, in every picture alike. ``panels`` are title ->
    {"train": (n, 2), "curve": (p, 2), decoded from p evenly spaced codes}, p the same for all; the rest as for `scrubber`.
    """
    curves = {title: panel["curve"] for title, panel in not_empty(panels).items()}
    dots = {title: curve[:, None] for title, curve in curves.items()}
    labels = [f"code at {share:.0%}" for share in np.linspace(0, 1, max(map(len, curves.values())))]
    _show_panels(panels, {"learned manifold": curves, "decoded point": dots}, truth, labels, alt, "code", 0)


def _thinned(points):
    """At most 160 of the points (..., p, 2): in a small picture they are about a pixel apart, and more cannot be seen."""
    kept = np.linspace(0, points.shape[-2] - 1, min(points.shape[-2], 160)).round().astype(int)
    return points[..., kept, :]


def _show_panels(panels, layers, truth, labels, alt, name, first):
    """Display pictures of curves over a slider. ``layers`` are label of `_LOOKS` -> title -> (p, 2), what stays, or (F,
    p, 2), what moves."""
    layers["noisy samples"] = {title: points_of(panel["train"]) for title, panel in panels.items()}
    if truth is not None:
        layers["truth"] = dict.fromkeys(panels, _thinned(points_of(truth)))
    fixed = [*layers["noisy samples"].values(), *layers.get("truth", {}).values()]
    (left, right), (bottom, top) = limits_of(fixed)
    height = _WIDTH * (top - bottom) / (right - left)
    looks = {label: look for label, look in _LOOKS.items() if label in layers}

    def drawn(points, dots):
        units = (points_of(points) - (left, top)) * (_WIDTH / (right - left)) * (1, -1)
        # Early in training a curve may leave the picture: far outside of what is drawn it is cut.
        units = np.clip(units, -4 * _WIDTH, 4 * _WIDTH).round().astype(int)
        if dots:
            return "".join(f"M{x} {y}h0" for x, y in units)
        # Steps from point to point are shorter than places.
        return "m" + " ".join(map(str, np.diff(units, axis=0, prepend=0).ravel()))

    pictures, places = "", []
    for title in panels:
        pictures += f"<figure><figcaption>{html.escape(method_label(title))}</figcaption>"
        pictures += f'<svg viewBox="0 0 {_WIDTH} {height:.0f}">'
        for label, (dots, look) in looks.items():
            points = layers[label][title]
            if points.ndim == 3:
                lines = [drawn(frame, dots) for frame in points]
                places.append(("d", lines))
                pictures += f'<path style="{look}" data-moves d="{lines[-1 if first else 0]}"/>'
            else:
                pictures += f'<path style="{look}" d="{drawn(points, dots)}"/>'
        pictures += "</svg></figure>"
    keys = "".join(
        f'<span><svg viewBox="0 0 26 12"><path style="{look}" d="{"M13 6h0" if dots else "M1 6h24"}"/></svg>{label}</span>'
        for label, (dots, look) in looks.items()
    )
    columns = -(-len(panels) // -(-len(panels) // 4))  # at most four, in rows as even as possible
    content = (
        f'<div class="nrae-panels" style="--columns:{columns}" role="img" aria-label="{html.escape(alt)}">'
        f'{pictures}</div><div class="nrae-keys">{keys}</div>'
    )
    _show_slider(content, places, labels, alt, name, first)


def image_slider(rows, notes=None, alt="Images beside their reconstructions"):
    """Display one image of each row at a time, with a slider that goes through them.

    Grey images are exact (PNG), coloured ones JPEG of high quality.

    Arguments:
        rows: label -> (N, channels, H, W) uint8, all of one shape; names of methods are shown as the papers print them.
        notes: label -> N short texts below the images, such as errors; optional.
        alt: one sentence that says what the images are.
    """
    tiles, places = "", []
    for label, images in not_empty(rows).items():
        count, _, height, width = images.shape
        title, texts = html.escape(method_label(label)), [str(note) for note in (notes or {}).get(label, ())]
        places.append(("y", [-1 - (height + 2) * place for place in range(count)]))
        tiles += (
            f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}"><image data-moves y="-1"'
            f' width="{width}" height="{count * (height + 2)}" href="{_strip(images)}"/></svg><figcaption>{title}'
        )
        if len(texts):
            places.append((None, list(texts)))
            tiles += f"<small data-moves>{html.escape(texts[0])}</small>"
        tiles += "</figcaption></figure>"
    labels = [f"image {place} of {count}" for place in range(1, count + 1)]
    _show_slider(f'<div class="nrae-tiles">{tiles}</div>', places, labels, alt, "image", 0)


def _strip(images):
    """Images (N, channels, H, W) below one another, as a data address. Each has its first and last row twice: at the
    edge of a picture a screen's pixel may reach beyond the image."""
    from PIL import Image

    images = np.pad(images, ((0, 0), (0, 0), (1, 1), (0, 0)), mode="edge")
    _, channels, _, width = images.shape
    pixels = images.transpose(0, 2, 3, 1).reshape(-1, width, channels)
    kind, options = ("png", {"optimize": True}) if channels == 1 else ("jpeg", {"quality": 92, "subsampling": 0})
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _show_slider(content, places, labels, alt, name, first):
    """Display HTML over a slider with a play button: self-contained, without a network or server.

    What has the attribute data-moves changes with the slider: ``places`` say for each of these (the attribute that
    changes, or None for its text; a value per place). ``labels`` are the slider's own text at each place, ``name`` says
    to screen readers what it moves, and ``first`` is where it starts, which ``content`` shows already. A ValueError says
    that what moves has other places than the slider.
    """
    from IPython.display import display

    if counts := {len(values) for _, values in places} - {len(labels)}:
        found = ", ".join(map(str, sorted(counts)))
        raise ValueError(f"the slider has {len(labels)} places, but what it moves {found}")
    # "<" could end the script element early; JSON may spell it as an escape.
    data = json.dumps({"labels": labels, "places": places}, separators=(",", ":"), ensure_ascii=False)
    data = data.replace("<", "\\u003c")
    identity = hashlib.sha256((alt + content + data).encode()).hexdigest()[:12]
    spoken, label = html.escape(alt), labels[first]
    text = (
        f'<style>{PAGE_STYLE}{_STYLE}</style><div class="nrae-slider" data-nrae-slider="{identity}" role="group"'
        f' aria-label="{spoken}">{content}<div class="nrae-slider-controls"><button type="button" aria-label="play">▶</button>'
        f'<input type="range" min="0" max="{len(labels) - 1}" value="{first}" step="1" aria-label="{name}: {spoken}"'
        f' aria-valuetext="{label}"><span class="nrae-slider-label">{label}</span></div></div>'
        f"<script>{_SCRIPT.replace('IDENTITY', identity).replace('SETUP', data)}</script>"
    )
    display({"text/html": text, "text/plain": alt}, raw=True)

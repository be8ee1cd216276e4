"""The learned manifold during training, with a slider."""

import base64
import hashlib
import html
import json

import numpy as np

from nrae_lib.pages.plots.panels import aspect, limits_of, not_empty, points_of
from nrae_lib.pages.plots.style import MANIFOLD_COLOUR, PAGE_STYLE, SAMPLE_COLOUR, method_label


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
    return _canvas_html(samples, frames, [f"{unit} {int(step)}" for step in frame_steps], truth, alt, unit)


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
    from IPython.display import display

    display({"text/html": latent_walk_html(panels, truth, alt), "text/plain": alt}, raw=True)


def latent_walk_html(panels, truth=None, alt="The decoded point while the code moves"):
    """The HTML of `latent_walk`: self-contained, without a network or server."""
    samples = {title: points_of(panel["train"]) for title, panel in not_empty(panels).items()}
    curves = {title: points_of(panel["curve"])[None] for title, panel in panels.items()}
    lengths = {curve.shape[1] for curve in curves.values()}
    if len(lengths) > 1:
        raise ValueError(f"all curves must have equally many points, not {', '.join(map(str, sorted(lengths)))}")
    labels = [f"code at {share:.0%}" for share in np.linspace(0, 1, lengths.pop())]
    return _canvas_html(samples, curves, labels, truth, alt, "code", still=True)


def _canvas_html(samples, frames, labels, truth, alt, name, still=False):
    """Curves on a canvas over a slider with a play button.

    Arguments:
        samples: title -> (n, 2).
        frames: title -> (F, p, 2), one curve per place of the slider; if ``still``, (1, p, 2), one curve on which a dot
            moves, a point per place.
        labels: text at each place of the slider, which starts at the last, or if ``still`` at the first.
        name: what the slider moves, for screen readers.
    """
    truth = None if truth is None else points_of(truth)
    limits = limits_of([*samples.values()] + ([] if truth is None else [truth]))
    low, side = np.array(limits)[:, 0], max(high - low for low, high in limits)

    def packed(points):
        # One unit is 1/8192 of the picture's larger side. Early in training a curve may leave the picture:
        # 16 bits reach from -4 to 4 sides, and what lies beyond is cut there, far outside what is drawn.
        units = np.clip((points - low) / side * 8192, -32767, 32767).round().astype("<i2")
        return base64.b64encode(units.tobytes()).decode()

    setup = {
        "labels": labels,
        "aspect": aspect(limits),
        "scale": 8192 * (limits[0][1] - limits[0][0]) / side,
        "truth": None if truth is None else packed(truth[:: max(1, len(truth) // 160)]),
        "panels": [
            {"title": method_label(title), "train": packed(samples[title]), "frames": packed(frames[title])}
            for title in samples
        ],
        "sample": SAMPLE_COLOUR,
        "manifold": MANIFOLD_COLOUR,
        "still": still,
    }
    # "<" could end the script element early; JSON may spell it as an escape.
    data = json.dumps(setup, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    identity = hashlib.sha256((alt + data).encode()).hexdigest()[:12]
    last = len(labels) - 1
    first = 0 if still else last
    label, name, shown = (html.escape(text, quote=True) for text in (alt, name, labels[first]))
    legend = [
        f'<i style="width:9px;height:9px;border-radius:50%;background:{SAMPLE_COLOUR}"></i>noisy samples',
        f'<i style="border-top:3px solid {MANIFOLD_COLOUR}"></i>learned manifold',
    ]
    if truth is not None:
        legend.append('<i style="border-top:2px dashed;opacity:.6"></i>truth')
    if still:
        legend.append('<i style="width:12px;height:12px;border-radius:50%;background:currentColor"></i>decoded point')
    return (
        f"<style>{PAGE_STYLE}{_SCRUBBER_STYLE}</style>"
        f'<div class="nrae-scrubber" data-nrae-scrubber="{identity}">'
        f'<canvas role="img" aria-label="{label}"></canvas>'
        f'<div class="nrae-scrubber-legend">{"".join(f"<span>{entry}</span>" for entry in legend)}</div>'
        f'<div class="nrae-scrubber-controls"><button type="button" aria-label="play">▶</button>'
        f'<input type="range" min="0" max="{last}" value="{first}" step="1" aria-label="{name}: {label}"'
        f' aria-valuetext="{shown}"><span class="nrae-scrubber-step">{shown}</span></div></div>'
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
        const length = panel.frames.length / (setup.still ? 1 : setup.labels.length);
        const from = setup.still ? 0 : slider.value * length;
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
        if (setup.still) {
          const at = 2 * slider.value;
          pen.fillStyle = ink;
          pen.globalAlpha = 1;
          pen.beginPath();
          pen.arc(x + panel.frames[at] * size, y + height - panel.frames[at + 1] * size, 2.6 * radius, 0, 7);
          pen.fill();
        }
        pen.restore();
      });
    };
    const redraw = () => { if (!waiting) { waiting = true; requestAnimationFrame(draw); } };
    const change = () => {
      label.textContent = setup.labels[slider.value];
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
      }, Math.max(50, 5000 / setup.labels.length));
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

"""Rows and grids of images; test images above their reconstructions, the best and the worst."""

import itertools

import numpy as np

from nrae_lib.pages.plots.panels import not_empty
from nrae_lib.pages.plots.style import MANIFOLD_COLOUR, PAGE_WIDTH, method_label, new_figure, style

_GAP = 1  # pixels of the images, between two of them


def mosaic(images):
    """One picture of a grid of images, separated by transparent lines of one pixel. From (R, C, channels, H, W) uint8,
    one or three channels, to (R (H + 1) - 1, C (W + 1) - 1, 4) uint8 (RGBA)."""
    rows, columns, _, height, width = images.shape
    picture = np.zeros((rows, height + _GAP, columns, width + _GAP, 4), np.uint8)
    picture[:, :height, :, :width, :3] = images.transpose(0, 3, 1, 4, 2)  # one channel spreads to three
    picture[:, :height, :, :width, 3] = 255
    return picture.reshape(rows * (height + _GAP), columns * (width + _GAP), 4)[:-_GAP, :-_GAP]


def _draw_images(axis, images, label=None):
    """A grid of images in place of the axes."""
    axis.imshow(mosaic(images), interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    if label is not None:
        axis.set_ylabel(method_label(label), rotation=0, ha="right", va="center", labelpad=6)


def image_rows(rows, breaks=None, notes=None):
    """Rows of images, one per method or source; places where two neighbours do not belong together are boxed.

    Arguments:
        rows: label -> (N, channels, H, W) uint8; rows may differ in N. Names of methods are shown as the papers print them.
        breaks: label -> indices i such that a discontinuity lies between image i and i + 1 of the row; optional.
        notes: label -> a short text at the row's right end; optional.
    """
    from matplotlib.patches import Rectangle

    breaks, notes = breaks or {}, notes or {}
    longest = max(len(images) for images in not_empty(rows).values())
    *_, height, width = next(iter(rows.values())).shape
    tall = PAGE_WIDTH * 0.78 / longest * (height + _GAP) / (width + _GAP)
    with style():
        figure, axes = new_figure(len(rows) * (tall + 6) + 10, len(rows))
        figure.get_layout_engine().set(h_pad=1 / 72, hspace=0)
        for axis, (label, images) in zip(axes, rows.items(), strict=True):
            _draw_images(axis, images[None], label)
            for place in breaks.get(label, ()):
                look = dict(fill=False, edgecolor=MANIFOLD_COLOUR, linewidth=1.8, clip_on=False)
                axis.add_patch(Rectangle((place * (width + _GAP) - 1, -1), 2 * width + _GAP + 1, height + 1, **look))
            axis.set(xlim=(-1.5, longest * (width + _GAP)), ylim=(height + 0.5, -1.5))
            right = dict(xycoords="axes fraction", va="center", fontsize=11, annotation_clip=False)
            axis.annotate(notes.get(label, ""), (1.01, 0.5), **right)
    return figure


def best_and_worst(rows, notes):
    """For each method the images with the smallest and the largest error, each above its reconstruction. ``rows`` are
    method -> {"best": (originals, reconstructions), "worst": (originals, reconstructions)}, each (N, channels, H, W)
    uint8; ``notes`` are method -> {"best": text, "worst": text} under the images."""
    count = len(next(iter(not_empty(rows).values()))["best"][0])
    with style():
        height = len(rows) * (2 * 0.42 * PAGE_WIDTH / count + 20) + 30
        figure, axes = new_figure(height, 2 * len(rows), 2)
        figure.get_layout_engine().set(h_pad=2 / 72, hspace=0)
        for axis, (method, end) in zip(axes, itertools.product(rows, ("best", "worst")), strict=True):
            _draw_images(axis, np.stack(rows[method][end]), method if end == "best" else None)
            axis.set_xlabel(notes[method][end], fontsize=10, labelpad=2)
        axes[0].set_title("smallest errors", fontsize=12)
        axes[1].set_title("largest errors", fontsize=12)
    return figure

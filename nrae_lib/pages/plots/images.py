"""Rows and grids of images."""

import numpy as np

from nrae_lib.pages.plots.style import MANIFOLD_COLOUR, PAGE_WIDTH, _new_figure, _not_empty, method_label, style


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
    longest = max(len(images) for images in _not_empty(rows).values())
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

"""A walk along a one-dimensional latent space."""

import numpy as np

from nrae_lib.pages.plots.animation import _canvas_html
from nrae_lib.pages.plots.style import _entry, _not_empty, _points


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
    samples, curves = {}, {}
    for title, panel in _not_empty(panels).items():
        samples[title] = _points(_entry(title, panel, "train"), f"train of {title!r}")
        curves[title] = _points(_entry(title, panel, "curve"), f"curve of {title!r}")[None]
    lengths = {curve.shape[1] for curve in curves.values()}
    if len(lengths) > 1:
        raise ValueError(f"all curves must have equally many points, not {', '.join(map(str, sorted(lengths)))}")
    labels = [f"code at {share:.0%}" for share in np.linspace(0, 1, lengths.pop())]
    return _canvas_html(samples, curves, labels, truth, alt, "code", still=True)

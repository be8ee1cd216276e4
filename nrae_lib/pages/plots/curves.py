"""Learned curves: what they look like, the order of the codes along them, neighbourhoods and their reconstructions."""

import math

import numpy as np

from nrae_lib.pages.plots import panels as multiples
from nrae_lib.pages.plots.panels import legend_below, limits_of, points_of, small_multiples
from nrae_lib.pages.plots.style import MANIFOLD_COLOUR, ORDER_COLOURS, SAMPLE_COLOUR

# The paper's red is too near to the orange of the learned manifold for many eyes.
LOCAL_COLOUR = "#8a5fd6"
_DOTTED = dict(color="black", linewidth=1.1, linestyle=(0, (1, 1.5)))


def learned_curves(panels, truth=None, columns=None):
    """Figure 4 of the paper: noisy samples (blue) and learned manifolds (orange), one small picture per method.

    All pictures share their limits, set by the samples and the truth, and have equal axes.

    Arguments:
        panels: title -> {"train": (n, 2), "curve": (p, 2) or a list of (p, 2), "note": str, optional}. Of several
            curves (seeds) the first is bold and the others faint. A method's name as title is printed as in the paper.
        truth: (p, 2), the noise-free curve, dashed; optional.
        columns: pictures per row; chosen from their number when None.
    """

    def draw(axis, panel):
        first, *others = [panel["curve"]] if np.ndim(panel["curve"][0]) == 1 else panel["curve"]
        _draw_samples(axis, panel)
        for curve in others:
            axis.plot(*points_of(curve).T, color=MANIFOLD_COLOUR, linewidth=1, alpha=0.4)
        axis.plot(*points_of(first).T, color=MANIFOLD_COLOUR, linewidth=2.4, label="learned manifold")
        _draw_truth(axis, truth, linewidth=1.1, alpha=0.75)

    limits = limits_of(_samples(panels, truth))
    return small_multiples(panels, draw, limits, columns, lambda figure, axes, _: legend_below(figure, axes[0]))


def _samples(panels, truth=None):
    return [panel["train"] for panel in multiples.not_empty(panels).values()] + ([] if truth is None else [truth])


def _draw_samples(axis, panel):
    look = dict(color=SAMPLE_COLOUR, markersize=4.2, markeredgewidth=0, alpha=0.85)
    axis.plot(*panel["train"].T, "o", label="noisy samples", **look)


def _draw_truth(axis, truth, **look):
    if truth is not None:
        axis.plot(*truth.T, color="black", linestyle=(0, (4, 3)), label="truth", **look)


def neighborhood_reconstructions(panels, truth=None):
    """Figures 2 and 3 of the paper: neighbours, their local reconstructions, and the distances between them.

    All pictures share their limits, set by the samples and the truth: what lies beyond is cut.

    Arguments:
        panels: title -> {"train": (n, 2), "curve": (p, 2), "graph": (n, k) indices of neighbours, "near": (n, k, 2)
            their local reconstructions, "local": (n, l, 2) the local approximations, "chosen": indices of the centres that
            are drawn, "note": str, optional}.
        truth: (p, 2), the noise-free curve, dashed; optional.
    """

    multiples.check_lengths(panels, graph="train")
    for title, panel in panels.items():
        if np.shape(panel["near"]) != (*np.shape(panel["graph"]), 2):
            shapes = f"{np.shape(panel['graph'])} and {np.shape(panel['near'])}"
            raise ValueError(f"graph and near of {title!r} must have shapes (n, k) and (n, k, 2), not {shapes}")

    def draw(axis, panel):
        train, near, chosen = panel["train"], panel["near"], list(panel["chosen"])
        _draw_truth(axis, truth, linewidth=1, alpha=0.4)
        axis.plot(*points_of(panel["curve"]).T, color=MANIFOLD_COLOUR, linewidth=2.2, label="learned manifold")
        _draw_samples(axis, panel)
        axis.plot([], [], color=LOCAL_COLOUR, linewidth=1.6, label="local approximation")
        axis.plot([], [], label="distance", **_DOTTED)
        for centre in chosen:
            axis.plot(*panel["local"][centre].T, color=LOCAL_COLOUR, linewidth=1.6)
            for pair in np.stack([train[panel["graph"][centre]], near[centre]], 1):
                axis.plot(*pair.T, **_DOTTED)
        squares = dict(color=LOCAL_COLOUR, markersize=4, markeredgewidth=0, label="neighbours, reconstructed")
        axis.plot(*near[chosen].reshape(-1, 2).T, "s", **squares)
        rings = dict(color="black", markersize=8, markerfacecolor="none", markeredgewidth=1.3, label="centre x")
        axis.plot(*train[chosen].T, "o", **rings)

    def finish(figure, axes, columns):
        legend_below(figure, axes[0], 3 if columns > 2 else 2, fontsize=11)

    # Local reconstructions leave the samples behind: some room for them. Two lines of notes, three of the legend.
    return small_multiples(panels, draw, limits_of(_samples(panels, truth), 0.13), finish=finish, extra=43)


def latent_order(panels):
    """Figure 7 of the paper: are test points reconstructed, and are training points in the right order in the code?

    Per method the reconstructed test points coloured by true angle over the training points, and below it the training
    codes as dots on a line. Codes are rescaled to [0, 1] and, since the sign of a code is arbitrary, turned so that they
    grow with the angle. In a right order the colours run once from blue to yellow.

    Arguments:
        panels: title -> {"train": (n, 2), "reconstruction": (t, 2), "curve": (p, 2), "code": (n,), "angle": (n,),
            "test_angle": (t,), "note": str, optional}; angles in radians.
    """
    from matplotlib.ticker import MultipleLocator

    multiples.check_lengths(panels, code="train", angle="train", test_angle="reconstruction")
    angles = np.concatenate([one[name].ravel() for one in panels.values() for name in ("angle", "test_angle")])
    colours = multiples.colours_between(ORDER_COLOURS, angles.min(), angles.max())

    def draw(axis, panel):
        curve = dict(color="black", linewidth=0.9, alpha=0.5, label="decoded latent line")
        axis.plot(*points_of(panel["curve"]).T, **curve)
        # A thousand coloured dots are ten times smaller as pixels than as vectors.
        dots = dict(c=panel["test_angle"], s=9, linewidth=0, rasterized=True)
        axis.scatter(*points_of(panel["reconstruction"]).T, **dots, **colours)
        rings = dict(markersize=5.5, markerfacecolor="none", color="black", label="training points")
        axis.plot(*panel["train"].T, "o", **rings)
        line = axis.inset_axes((0, -0.13, 1, 0.11))
        line.axhline(0, color="black", linewidth=0.8, alpha=0.5)
        code, angle = panel["code"].ravel().astype(float), panel["angle"].ravel()
        code = (code - code.min()) / max(np.ptp(code), 1e-12)
        ranks = [values.argsort().argsort() for values in (code, angle)]
        code = 1 - code if np.cov(*ranks)[0, 1] < 0 else code
        line.scatter(code, np.zeros_like(code), c=angle, s=52, alpha=0.9, **colours)
        line.set(xlim=(-0.04, 1.04), ylim=(-1, 1), xticks=[], yticks=[])
        line.spines[:].set_visible(False)
        line.set_xlabel(panel.get("note") or "latent code", fontsize=11)
        axis.set_xlabel("")

    def finish(figure, axes, _):
        legend_below(figure, axes[0])
        scale = multiples.colour_bar(figure, axes, colours, "true angle (radians) of test points and of latent codes")
        if np.ptp(angles) > math.pi:
            scale.ax.xaxis.set(major_locator=MultipleLocator(math.pi / 2), major_formatter=_multiple_of_pi)

    return small_multiples(panels, draw, limits_of(_samples(panels)), finish=finish, extra=66, below=86)


def _multiple_of_pi(value, _position):
    halves = round(value / (math.pi / 2))
    return {0: "0", 1: "π/2", 2: "π"}.get(halves, f"{halves}π/2" if halves % 2 else f"{halves // 2}π")

"""Pictures of the ideas: neighbourhoods and their reconstructions."""

import numpy as np

from nrae_lib.pages.plots.curves import (
    _columns,
    _draw_samples,
    _multiples,
    _with_narrow,
)
from nrae_lib.pages.plots.style import (
    MANIFOLD_COLOUR,
    _entry,
    _limits,
    _not_empty,
    _points,
    method_label,
    style,
)

# The paper's red is too near to the orange of the learned manifold for many eyes.
LOCAL_COLOUR = "#8a5fd6"


def neighborhood_reconstructions(panels, truth=None, columns=None):
    """Figures 2 and 3 of the paper: neighbours, their local reconstructions, and the distances between them.

    Arguments:
        panels: title -> {"train": (n, 2), "curve": (p, 2), "graph": (n, k) indices of neighbours, "near": (n, k, 2)
            their local reconstructions, "local": (n, l, 2) the local approximations, optional, "chosen": indices of the
            centres that are drawn, all if left out, "note": str, optional}.
        truth: (p, 2), the noise-free curve, dashed; optional.
        columns: pictures per row; chosen from their number when None.

    Returns:
        Figure: all pictures share their limits, set by the samples and the truth: what lies beyond is cut.
    """
    panels = {title: _neighborhood_panel(title, panel) for title, panel in _not_empty(panels).items()}
    truth = None if truth is None else _points(truth, "truth")
    samples = np.concatenate([panel["train"] for panel in panels.values()] + ([] if truth is None else [truth]))
    side = (samples.max(0) - samples.min(0)).max()
    # Local reconstructions leave the samples behind: some room for them.
    limits = _limits([samples, [samples.min(0) - 0.06 * side, samples.max(0) + 0.06 * side]])
    return _with_narrow(
        lambda columns: _draw_neighborhoods(panels, truth, limits, columns), _columns(len(panels), columns)
    )


def _draw_neighborhoods(panels, truth, limits, columns):
    with style():
        figure, axes = _multiples(panels, limits, columns)
        figure.set_figheight(figure.get_figheight() + 0.6)  # two lines of notes, three of the legend
        for axis, (title, panel) in zip(axes, panels.items(), strict=True):
            axis.set_title(method_label(title))
            axis.set_xlabel(panel["note"], fontsize=11)
            if truth is not None:
                axis.plot(*truth.T, color="black", linewidth=1, linestyle=(0, (4, 3)), alpha=0.4, label="truth")
            axis.plot(*panel["curve"].T, color=MANIFOLD_COLOUR, linewidth=2.2, label="learned manifold")
            _draw_samples(axis, panel["train"])
            chosen, near = panel["chosen"], panel["near"]
            for place, centre in enumerate(chosen):
                labels = ("local approximation", "distance") if place == 0 else (None, None)
                if panel["local"] is not None:
                    axis.plot(*panel["local"][centre].T, color=LOCAL_COLOUR, linewidth=1.6, label=labels[0])
                pairs = np.stack([panel["train"][panel["graph"][centre]], near[centre]], 1)
                for number, pair in enumerate(pairs):
                    label = labels[1] if number == 0 else None
                    axis.plot(*pair.T, color="black", linewidth=1.1, linestyle=(0, (1, 1.5)), label=label)
            axis.plot(
                *near[chosen].reshape(-1, 2).T, "s", color=LOCAL_COLOUR, markersize=4, markeredgewidth=0,
                label="neighbours, reconstructed",
            )  # fmt: skip
            axis.plot(
                *panel["train"][chosen].T, "o", color="black", markersize=8, markerfacecolor="none",
                markeredgewidth=1.3, label="centre x",
            )  # fmt: skip
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=3 if columns > 2 else 2, handlelength=1.6, fontsize=11
        )
    return figure


def _neighborhood_panel(title, panel):
    train = _points(_entry(title, panel, "train"), f"train of {title!r}")
    graph, near = np.asarray(_entry(title, panel, "graph")), np.asarray(_entry(title, panel, "near"), dtype=float)
    if graph.shape[:1] != (len(train),) or near.shape != (*graph.shape, 2):
        raise ValueError(
            f"graph and near of {title!r} must have shapes ({len(train)}, k) and ({len(train)}, k, 2), got "
            f"{graph.shape} and {near.shape}"
        )
    return {
        "train": train,
        "curve": _points(_entry(title, panel, "curve"), f"curve of {title!r}"),
        "graph": graph,
        "near": near,
        "local": panel.get("local"),
        "chosen": list(panel.get("chosen", range(len(train)))),
        "note": panel.get("note") or "",
    }

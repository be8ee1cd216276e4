"""One style for every picture of the book, and one function per kind of picture.

A picture is a matplotlib Figure, which `show` puts on the page as SVG that follows its light or dark mode. Importing this
package needs numpy only; matplotlib, pandas and IPython are imported where they are used.
"""

from nrae_lib.pages.plots.curves import latent_order, learned_curves, neighborhood_reconstructions
from nrae_lib.pages.plots.images import best_and_worst, image_rows
from nrae_lib.pages.plots.latent import CYCLIC_COLOURS, code_circles, code_planes, curvature_fields, latent_grids
from nrae_lib.pages.plots.many_runs import mean_and_deviation, per_seed, search_grid
from nrae_lib.pages.plots.own_data import (
    CATEGORY_COLOURS,
    as_images,
    codes_of_points,
    feature_errors,
    held_out_reconstructions,
)
from nrae_lib.pages.plots.runtime import cost_chart, scaling
from nrae_lib.pages.plots.sliders import image_slider, latent_walk, scrubber
from nrae_lib.pages.plots.style import (
    MANIFOLD_COLOUR,
    METHOD_COLOURS,
    ORDER_COLOURS,
    PAGE_STYLE,
    SAMPLE_COLOUR,
    figure_html,
    method_colour,
    method_label,
    relative_luminance,
    show,
    style,
)
from nrae_lib.pages.plots.sweeps import dot_rows, sweep

__all__ = [
    "CATEGORY_COLOURS", "CYCLIC_COLOURS", "MANIFOLD_COLOUR", "METHOD_COLOURS", "ORDER_COLOURS", "PAGE_STYLE",
    "SAMPLE_COLOUR", "as_images", "best_and_worst", "code_circles", "code_planes", "codes_of_points", "cost_chart",
    "curvature_fields", "dot_rows", "feature_errors", "figure_html", "held_out_reconstructions", "image_rows",
    "image_slider", "latent_grids", "latent_order", "latent_walk", "learned_curves", "mean_and_deviation",
    "method_colour", "method_label", "neighborhood_reconstructions", "per_seed", "relative_luminance", "scaling",
    "scrubber", "search_grid", "show", "style", "sweep",
]  # fmt: skip

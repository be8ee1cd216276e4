"""One style for every picture of the book, and one function per kind of picture.

A picture is a matplotlib Figure, which `show` puts on the page as SVG that follows its light or dark mode; sliders display
themselves. Where there is nothing to draw, or values of a curve are not finite, a ValueError says so. Importing this package
needs numpy only; matplotlib, pandas and IPython are imported where they are used.
"""

from nrae_lib.pages.plots.curves import latent_order, learned_curves, neighborhood_reconstructions
from nrae_lib.pages.plots.images import best_and_worst, image_rows
from nrae_lib.pages.plots.latent import code_circles, code_planes, curvature_fields, latent_grids
from nrae_lib.pages.plots.many_runs import mean_and_deviation, per_seed, search_grid
from nrae_lib.pages.plots.own_data import as_images, codes_of_points, feature_errors, held_out_reconstructions
from nrae_lib.pages.plots.rows import cost_chart, dot_rows
from nrae_lib.pages.plots.sliders import image_slider, latent_walk, scrubber
from nrae_lib.pages.plots.style import figure_html, method_colour, method_label, show, style
from nrae_lib.pages.plots.sweeps import scaling, sweep

__all__ = [
    "as_images", "best_and_worst", "code_circles", "code_planes", "codes_of_points", "cost_chart", "curvature_fields",
    "dot_rows", "feature_errors", "figure_html", "held_out_reconstructions", "image_rows", "image_slider",
    "latent_grids", "latent_order", "latent_walk", "learned_curves", "mean_and_deviation", "method_colour",
    "method_label", "neighborhood_reconstructions", "per_seed", "scaling", "scrubber", "search_grid", "show", "style",
    "sweep",
]  # fmt: skip

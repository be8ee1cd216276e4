"""One style for every picture of the book, and one function per kind of picture.

A picture is a matplotlib Figure, which `show` puts on the page as SVG that follows its light or dark mode; sliders display
themselves. Where there is nothing to draw, or values of a curve are not finite, a ValueError says so. Importing this package
needs numpy only; matplotlib, pandas and IPython are imported where they are used.
"""

# ruff: noqa: F401 (imported for whoever imports from here, and for the book)
from nrae_lib.pages.plots.curves import latent_order, learned_curves, neighborhood_reconstructions
from nrae_lib.pages.plots.images import best_and_worst, image_rows
from nrae_lib.pages.plots.latent import code_circles, code_planes, curvature_fields, latent_grids
from nrae_lib.pages.plots.many_runs import mean_and_deviation, per_seed, search_grid
from nrae_lib.pages.plots.own_data import as_images, codes_of_points, feature_errors, held_out_reconstructions
from nrae_lib.pages.plots.rows import cost_chart, dot_rows
from nrae_lib.pages.plots.sliders import image_slider, latent_walk, scrubber
from nrae_lib.pages.plots.style import figure_html, method_colour, method_label, show, style
from nrae_lib.pages.plots.sweeps import scaling, sweep

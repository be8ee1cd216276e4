"""What is measured of a trained model: functions of (model, data) or of codes, without side effects."""

# ruff: noqa: F401, I001 (imported for whoever imports from here, and for the book)
from nrae_lib.core.measures.curvature import scalar_curvature
from nrae_lib.core.measures.errors import mean_squared_error, per_point_error, psnr, psnr_of_mean
from nrae_lib.core.measures.frechet import FID_WEIGHTS, FidWeightsMissing, fid, frechet_distance, inception_features
from nrae_lib.core.measures.likelihood import Likelihood, fit_elbo
from nrae_lib.core.measures.order import (
    circular_breaks, circular_correlation, grid_smoothness, neighbor_breaks, order_breaks, rank_correlation,
    total_turning, winding_number,
)  # fmt: skip

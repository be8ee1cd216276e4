"""Loss terms: pure functions of tensors, one per idea. A method adds some of them with its coefficients.

One reduction everywhere: data-space errors are "mean-D", the mean over the batch of the mean over features, so that
a coefficient means the same for a curve in the plane and for an image. Every other term states its own reduction. What
has no entry "Returns" returns a scalar, with gradients for the parameters and for every tensor that is not called constant.
"""

# ruff: noqa: F401 (imported for whoever imports from here, and for the book)
from nrae_lib.core.losses.geometry import (
    decoder_jacobian_norm,
    encoder_contraction,
    energy_gradient_norm,
    isometry,
    pseudo_isometry,
    weight_norm,
)
from nrae_lib.core.losses.latent import (
    KERNELS,
    barycenter_error,
    barycenter_weights,
    code_norm,
    distance_to_target,
    kl_to_standard_normal,
    maximum_mean_discrepancy,
    nearest_neighbor_entropy,
)
from nrae_lib.core.losses.reconstruction import (
    WEIGHTINGS,
    gaussian_likelihood,
    heat_weights,
    neighborhood_reconstruction,
    point_reconstruction,
    relational_reconstruction,
)
from nrae_lib.core.losses.topology import minimum_spanning_tree, topological_loss

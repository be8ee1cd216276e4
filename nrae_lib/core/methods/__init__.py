"""Methods as data: reconstruction terms, penalties, their combination in an objective, and the catalogue of them."""

# ruff: noqa: F401, I001 (imported for whoever imports from here, and for the book)
from nrae_lib.core.methods.catalogue import CATALOGUE, SECTIONS, SYMBOLS, Method, get
from nrae_lib.core.methods.objective import Objective, compose
from nrae_lib.core.methods.penalties import (
    EXACT_JACOBIAN_LIMIT, KL, MMD, PENALTIES, Barycenter, CodeNorm, Contraction, DecoderJacobian, Entropy, Isometry,
    PhateTarget, PseudoIsometry, Topology, WeightNorm,
)  # fmt: skip
from nrae_lib.core.methods.terms import (
    RECONSTRUCTIONS, Batch, Denoising, Neighborhood, Point, Preparation, Relational, Term,
)  # fmt: skip

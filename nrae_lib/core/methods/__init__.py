"""Methods as data: reconstruction terms, penalties, their combination in an objective, and the catalogue of them."""

from nrae_lib.core.methods.catalogue import CATALOGUE, SECTIONS, SYMBOLS, Method, get
from nrae_lib.core.methods.objective import Objective, compose
from nrae_lib.core.methods.penalties import (
    EXACT_JACOBIAN_LIMIT,
    KL,
    MMD,
    PENALTIES,
    Barycenter,
    CodeNorm,
    Contraction,
    DecoderJacobian,
    Entropy,
    Isometry,
    PhateTarget,
    PseudoIsometry,
    Topology,
    WeightNorm,
)
from nrae_lib.core.methods.reconstructions import RECONSTRUCTIONS, Denoising, Neighborhood, Point, Relational
from nrae_lib.core.methods.terms import Batch, Preparation, Term

__all__ = [
    "CATALOGUE", "EXACT_JACOBIAN_LIMIT", "KL", "MMD", "PENALTIES", "RECONSTRUCTIONS", "SECTIONS", "SYMBOLS", "Barycenter", "Batch",
    "CodeNorm", "Contraction", "DecoderJacobian", "Denoising", "Entropy", "Isometry", "Method", "Neighborhood",
    "Objective", "PhateTarget", "Point", "Preparation", "PseudoIsometry", "Relational", "Term", "Topology", "WeightNorm",
    "compose", "get",
]  # fmt: skip

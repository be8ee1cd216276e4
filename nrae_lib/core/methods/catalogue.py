"""The catalogue: a method is data. Adding one is one entry here and at most one pure function in ``losses``."""

from dataclasses import dataclass, field, replace
from typing import Any

from nrae_lib.core.methods.objective import Objective, compose
from nrae_lib.core.methods.penalties import PENALTIES
from nrae_lib.core.methods.terms import check_choice


@dataclass(frozen=True)
class Method:
    """One entry of the catalogue.

    Arguments:
        name, title: identifier and the papers' spelling.
        objective: the terms and the form of the model, with their default options.
        reference: where the method is defined.
        search: option -> candidates of the validation search; the same number of runs is open to every method.
        density: latent density to sample from, a name from ``densities.DENSITIES``: the authors' own where they have
            one, else a mixture of ten Gaussians fitted to the codes.
        note: what is inferred, chosen by us or different from the source, for the page of methods.
        semantics: raised whenever the meaning of a run changes, so that older results no longer answer for it (2: data,
            weights and training have random streams of their own).
    """

    name: str
    title: str
    objective: Objective
    reference: str
    search: dict[str, tuple] = field(default_factory=dict)
    density: str = "gmm"
    note: str = ""
    semantics: int = 2

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options that a run may set."""
        return tuple(self.objective.options())

    def configure(self, **options) -> Objective:
        """The objective with ``options`` set. ValueError for an option it does not have or a value out of range."""
        try:
            return self.objective.configure(**options)
        except ValueError as error:
            raise ValueError(f"method {self.name!r}: {error}") from None

    def describe(self, options: dict[str, Any]) -> str:
        """``options`` in the papers' symbols, such as "λ = 1, k = 8"; the searched ones' defaults, marked, if empty."""
        values = self.configure(**options).options()
        shown = ", ".join(f"{SYMBOLS.get(name, name)} = {values[name]}" for name in options or self.search)
        return f"{shown} (default)" if shown and not options else shown or "none"


SYMBOLS = {"neighbor_weight": "λ", "n_neighbors": "k", "corruption": "σ", "initial_sigma": "initial s"} | {
    penalty.weight_option: f"{penalty.weight_option.removesuffix('_weight').replace('_', ' ')} weight"
    for penalty in PENALTIES.values()
}


# Sixteen runs for every method that has something to choose. One coefficient: half decades that begin well below what the
# papers name and end far beyond. Two: four by four.
_NEIGHBORS = (2, 4, 8, 16)
# Both sides of 1, because paper (λ < 1) and released configurations (λ = 2 to 100) disagree; λ -> 0 is the plain AE.
_NEIGHBORHOOD_SEARCH = {"neighbor_weight": (0.1, 1.0, 10.0, 100.0), "n_neighbors": _NEIGHBORS}
_COARSE = (1e-3, 0.03, 1.0, 30.0)
_NRAE = "Lee, Kwon and Park 2021"
_RAE = "Ghosh et al. 2020"
_IAE = "Gropp, Atzmon and Lipman 2020"
_SUFFIX = "0LQ"  # by the order of the expansion


def _one_weight(name: str, lowest: int = -5) -> dict[str, tuple]:
    """1e-5, 3e-5, 1e-4, ... for lowest = -5: sixteen values."""
    return {f"{name}_weight": tuple(float(f"{digit}e{lowest + place}") for place in range(8) for digit in (1, 3))}


def _neighborhood(terms: str, order: int, reference: str, prefix: str = "") -> Method:
    name, title = f"{prefix}nrae_{_SUFFIX[order]}".lower(), f"{prefix and prefix + '-'}NRAE-{_SUFFIX[order]}"
    return Method(name, title, compose(f"{terms}_{order}"), f"{_NRAE}, {reference}", _NEIGHBORHOOD_SEARCH)


def _combined(
    base: str, penalty: str, search: dict[str, tuple], note: str = "", density: str = "gmm", **options
) -> list[Method]:
    """The neighbourhood loss in place of the point loss, linear and quadratic (NRAE, Table 4)."""
    return [
        Method(f"nr{base}_{_SUFFIX[order]}".lower(), f"NR{base}-{_SUFFIX[order]}",
               compose(f"neighborhood_{order}", penalty, **options), f"{_NRAE}, section 4.3, Table 4",
               {"neighbor_weight": (0.1, 1.0, 10.0, 100.0), **search}, density,
               note="Penalties act on the centre points, which the paper does not state. " + note)
        for order in (1, 2)
    ]  # fmt: skip


_SPAE_NOTE = "INFERRED from the paper's remarks, no formula is printed; z = const would satisfy the penalty."
# The laboratory's code starts s at 1, from where log s, moved by Adam's step size, takes thousands of steps to small noise.
_INITIAL_SIGMA = 0.3
_SIGMAS = (0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 2.0)
_VAE_NOTE = (
    "Log σ_z and log s are what is learned, so that neither standard deviation can become negative. The paper's VAE has no "
    "coefficient to choose; the search is over the value at which s starts (default ours), because log s moves slowly."
)
_ISO_NOTE = "The paper's λ weighs an error summed over features; codes for the decoder's term are drawn from a Gaussian fitted to the batch."

# The sections of the page of methods.
SECTIONS: dict[str, tuple[Method, ...]] = {
    "Baselines of NRAE": (
        Method("ae", "AE", compose("point"), f"{_NRAE}, section 1"),
        Method("vae", "VAE", compose("gaussian_likelihood", "kl", initial_sigma=_INITIAL_SIGMA), "Kingma and Welling 2014",
               {"initial_sigma": _SIGMAS}, "isotropic", note=_VAE_NOTE),
        Method("wae", "WAE", compose("point", "mmd"), "Tolstikhin et al. 2018", _one_weight("mmd"), "isotropic",
               note="Gaussian kernel with the median heuristic as in NRAE; that of the original paper: kernel='imq'."),
        Method("dae", "DAE", compose("denoising"), f"Vincent et al. 2008; noise as in {_NRAE}, supplement 1.2",
               {"corruption": (0.001, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0)}),
        Method("cae", "CAE", compose("point", "contraction"), "Rifai et al. 2011", _one_weight("contraction")),
        Method("grae", "GRAE", compose("point", "phate"), "Duque et al. 2020",
               {"phate_weight": (0.1, 1.0, 10.0, 100.0), "phate_knn": (5, 10, 15, 25)},
               note="NRAE does not state PHATE's settings: those of GRAE's authors, with as many components as the code has."),
        Method("spae", "SPAE", compose("point", "barycenter"), "Chen et al. 2021",
               {"barycenter_weight": (0.03, 1.0, 30.0, 1000.0), "n_neighbors": _NEIGHBORS}, note=_SPAE_NOTE),
        Method("topoae", "TopoAE", compose("point", "topology"), "Moor et al. 2020", _one_weight("topology"),
               note="The learned scale of the latent distances is kept positive by learning its logarithm."),
        Method("gae", "GAE", compose("relational"), "Wang et al. 2014",
               {"temperature": (0.1, 0.5, 2.0, 10.0), "n_neighbors": _NEIGHBORS},
               note="INFERRED from summaries. A relative of NRAE with a zeroth-order expansion; temperature and refreshing are our choices."),
    ),
    "The NRAE family": (
        _neighborhood("neighborhood", 0, "ablation: equation 2 without its derivatives"),
        _neighborhood("neighborhood", 1, "equations 2 to 4, linear"),
        _neighborhood("neighborhood", 2, "equations 2 to 4, quadratic"),
        _neighborhood("extended", 1, "section 4.3, Table 5, linear", "E"),
        _neighborhood("extended", 2, "section 4.3, Table 5, quadratic", "E"),
    ),
    "Combinations": (
        *_combined(
            "VAE", "kl", {"initial_sigma": (0.05, 0.15, 0.4, 1.0)},
            "Under-specified in the paper: both centre and neighbours are draws from their posteriors, and the neighbourhood "
            "error takes the place of the squared error in the likelihood.",
            "isotropic", error="gaussian", initial_sigma=_INITIAL_SIGMA,
        ),
        *_combined("WAE", "mmd", {"mmd_weight": _COARSE}, density="isotropic"),
        *_combined("CAE", "contraction", {"contraction_weight": _COARSE}),
        *_combined("SPAE", "barycenter", {"barycenter_weight": _COARSE}, _SPAE_NOTE),
        *_combined("GRAE", "phate", {"phate_weight": (0.1, 1.0, 10.0, 100.0)}),
    ),
    "Isometric autoencoders and their baselines": (
        Method("iae", "I-AE", compose("point", "isometry", "pseudo_isometry"), f"{_IAE}, equation 8",
               _one_weight("isometry"), note=_ISO_NOTE),
        Method("iae_piso", "I-AE (piso)", compose("point", "pseudo_isometry"), f"{_IAE}, Table 7",
               _one_weight("isometry"), note="The paper's λ weighs an error summed over features."),
        Method("tcae", "TCAE", compose("point", "contraction", weights="tied"), "Rifai et al. 2011; I-AE baseline",
               _one_weight("contraction"), note="Weights tied layer by layer, biases free."),
        Method("aew", "AE-W", compose("point", "weight_norm", part="all"), f"{_IAE}, baseline", _one_weight("weight_norm", -9),
               note="Weight decay on all weights; its coefficient is stated nowhere."),
    ),
    "Regularized autoencoders and EAE": (
        Method("rae", "RAE", compose("point", "code_norm"), _RAE, _one_weight("code_norm")),
        Method("rae_l2", "RAE-L2", compose("point", "code_norm", "weight_norm", code_norm_weight=1e-4), _RAE,
               {"code_norm_weight": (1e-5, 1e-4, 1e-3, 1e-2), "weight_norm_weight": (1e-8, 1e-7, 1e-6, 1e-5)}),
        Method("rae_gp", "RAE-GP", compose("point", "code_norm", "gradient", code_norm_weight=1e-4), _RAE,
               {"code_norm_weight": (1e-5, 1e-4, 1e-3, 1e-2), "gradient_weight": (1e-7, 1e-5, 1e-3, 0.1)},
               note="The Frobenius norm of both papers; form='released' is what the authors' code computes instead."),
        Method("rae_sn", "RAE-SN", compose("point", "code_norm", code_norm_weight=9e-3, weights="spectral"), _RAE,
               _one_weight("code_norm"),
               note="On encoder and decoder as in the released code; weights='spectral_decoder' for the decoder alone."),
        Method("ae_l2", "AE-L2", compose("point", "weight_norm"), _RAE, _one_weight("weight_norm", -9)),
        Method("cv_vae", "CV-VAE", compose("point", "kl", kl_weight=0.039, posterior="constant"), _RAE,
               _one_weight("kl"), "isotropic",
               note="σ_z = 0.7 and the coefficient are those of the released MNIST configuration."),
        Method("two_stage_vae", "2sVAE", compose("gaussian_likelihood", "kl", initial_sigma=_INITIAL_SIGMA),
               "Dai and Wipf 2019", {"initial_sigma": _SIGMAS}, "second_stage",
               note="The first stage is the VAE with learned s; the second is a latent density, fitted afterwards."),
        Method("eae", "EAE", compose("point", "entropy", latent="batchnorm"), "entropic autoencoder, supplement",
               _one_weight("entropy"), "isotropic", note="The paper's coefficients were not available: the default is ours."),
    ),
}  # fmt: skip
CATALOGUE: dict[str, Method] = {entry.name: entry for entries in SECTIONS.values() for entry in entries}


def get(name: str) -> Method:
    """The catalogue's entry ``name``, or that entry with penalties added: "nrae_q+mmd", "ae+contraction+mmd".
    ValueError for an unknown method or penalty, naming the valid ones."""
    base, *penalties = (part.strip() for part in str(name).split("+"))
    check_choice("method", base, CATALOGUE)
    method = CATALOGUE[base]
    if not penalties:
        return method
    for penalty in penalties:
        check_choice("penalty", penalty, PENALTIES)
    added = tuple(PENALTIES[penalty] for penalty in penalties)
    return replace(
        method, name="+".join((base, *penalties)), title=" + ".join((method.title, *penalties)), search={}, note="",
        objective=replace(method.objective, penalties=method.objective.penalties + added),
    )  # fmt: skip

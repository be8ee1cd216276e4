"""An objective: one reconstruction term, weighted penalties, a form of the latent code."""

from dataclasses import asdict, dataclass, field, replace
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from nrae_lib.core.methods.penalties import PENALTIES
from nrae_lib.core.methods.terms import RECONSTRUCTIONS, Batch, Point, Preparation, Term, check_choice
from nrae_lib.core.models import LATENTS, WEIGHTS, Autoencoder, ConvNetwork, Network


@dataclass(frozen=True)
class Objective:
    """What is minimized, and the form of the model that it needs; any reconstruction term with any penalties.

    The loss is reconstruction + Σ weight · penalty. Where a paper weighs a penalty against an error summed over the D
    features (``summed`` terms), its weight is divided by D here, because the reconstruction error is a mean over
    features everywhere in this library. ValueError for an unknown form, a penalty given twice, a form of the code that
    a penalty excludes, or terms that disagree about an option they share, such as n_neighbors.

    Arguments:
        reconstruction: a reconstruction term, such as ``Point()`` or ``Neighborhood(order=2)``.
        penalties: penalties, such as ``(MMD(0.01), Contraction(0.1))``, each at most once.
        latent: form of the code: "plain", "circular" (z/‖z‖) or "batchnorm" (mean 0, variance 1 per coordinate).
        weights: "free", "tied" (decoder weights are the encoder's transposed), "spectral" (every layer has spectral
            norm 1) or "spectral_decoder" (only the decoder's layers).

    Example:
        >>> from nrae_lib.core.methods import MMD, Neighborhood, Objective
        >>> nrwae = Objective(Neighborhood(order=1, n_neighbors=8), (MMD(weight=0.1),))
        >>> nrwae.options()["mmd_weight"], nrwae.options()["n_neighbors"]
        (0.1, 8)
    """

    reconstruction: Term = field(default_factory=Point)
    penalties: tuple[Term, ...] = ()
    latent: str = "plain"
    weights: str = "free"

    def __post_init__(self):
        object.__setattr__(self, "penalties", tuple(self.penalties))
        check_choice("latent", self.latent, LATENTS)
        check_choice("weights", self.weights, WEIGHTS)
        names = [penalty.name for penalty in self.penalties]
        if len(set(names)) < len(names):
            raise ValueError(f"a penalty stands twice among {', '.join(names)}: give each of them once")
        for penalty in self.penalties:
            if self.latent in penalty.excluded_latents:
                needed = " or ".join(repr(name) for name in LATENTS if name not in penalty.excluded_latents)
                raise ValueError(f"penalty {penalty.name!r} needs latent {needed}, not {self.latent!r}")
        if self.weights == "tied" and self.posterior == "learned":
            raise ValueError(
                "weights 'tied' need as many codes as the decoder has inputs: a learned posterior has twice as many"
            )
        for flat, values in self._values().items():
            if len(set(values)) > 1:
                raise ValueError(f"the terms disagree about {flat}, which is one option: {', '.join(map(str, values))}")

    @property
    def terms(self) -> dict[str, Term]:
        """All terms by name, the reconstruction first."""
        return {"reconstruction": self.reconstruction, **{penalty.name: penalty for penalty in self.penalties}}

    @property
    def posterior(self) -> str:
        """One of "learned", "constant" and, for codes without a posterior, ""."""
        return next((penalty.posterior for penalty in self.penalties if penalty.posterior), "")

    def options(self) -> dict[str, Any]:
        """Every option and its value, by flat name: a penalty's weight is ``<penalty>_weight``, other fields keep their
        names; one that several terms share, such as n_neighbors or the λ_iso of I-AE, is set in all of them."""
        found = {flat: values[0] for flat, values in self._values().items()}
        return {**found, "latent": self.latent, "weights": self.weights}

    def _values(self) -> dict[str, list]:
        """Flat name -> its value in every term that has it."""
        found: dict[str, list] = {}
        for term in self.terms.values():
            for option, name in term.option_fields().items():
                found.setdefault(option, []).append(getattr(term, name))
        return found

    def configure(self, **options) -> "Objective":
        """This objective with ``options`` (flat names) set. ValueError for an option it does not have, naming those it
        has, or a value of the wrong type or range."""
        values = self.options()
        for name in options:
            if name not in values:
                raise ValueError(f"no option {name!r}: choose among {', '.join(values)}")
        options = {name: _checked(name, value, values[name]) for name, value in options.items()}

        def changed(term: Term) -> Term:
            own = term.option_fields()
            return replace(term, **{own[name]: value for name, value in options.items() if name in own})

        form = {name: options[name] for name in ("latent", "weights") if name in options}
        return replace(
            self, reconstruction=changed(self.reconstruction), penalties=tuple(map(changed, self.penalties)), **form
        )

    def identity(self) -> dict[str, Any]:
        """Everything that decides the loss, as plain data."""
        terms = {name: asdict(term) for name, term in self.terms.items()}
        return {**terms, "latent": self.latent, "weights": self.weights}

    def build(self, network: Network | ConvNetwork, data_shape: tuple[int, ...], seed: int) -> Autoencoder:
        """The autoencoder of ``network`` in the form this objective needs, see ``Network.build``."""
        deviation = next((penalty.deviation for penalty in self.penalties if penalty.posterior == "constant"), None)
        learned = {name: value for term in self.terms.values() for name, value in term.parameters().items()}
        return network.build(data_shape, seed, self.latent, self.weights, self.posterior, deviation, learned)

    def check(self, model: nn.Module, batch_size: int) -> None:
        """Stop with one sentence if ``model`` was not built for this objective, or batches are too small for it."""
        learned = {name for term in self.terms.values() for name in term.parameters()}
        if missing := sorted(learned - set(getattr(model, "learned", ()))):
            raise ValueError(f"the model lacks {', '.join(missing)}: build it with this objective's build()")
        if bool(self.posterior) != hasattr(model.encoder, "posterior"):
            raise ValueError(
                "the model and the objective do not agree on a posterior of the codes: build it with this objective's build()"
            )
        fewest = max(1 + (self.latent == "batchnorm"), *(term.fewest_points for term in self.terms.values()))
        if batch_size < fewest:
            raise ValueError(f"batch_size must be at least {fewest} for this method, not {batch_size}")

    def prepare(self, preparation: Preparation) -> dict[str, Any]:
        """What every term prepares, by its name."""
        return {name: term.prepare(preparation) for name, term in self.terms.items()}

    @property
    def refreshes(self) -> bool:
        """Whether what was prepared changes during training."""
        return any(term.refresh_epochs for term in self.terms.values())

    def refresh(self, epoch: int, model: nn.Module, preparation: Preparation, prepared: dict[str, Any]) -> dict:
        """What is prepared from ``epoch`` on; ``prepared`` itself where nothing changes."""
        every = {name: term.refresh_epochs for name, term in self.terms.items()}
        due = [name for name, epochs in every.items() if epochs and epoch and epoch % epochs == 0]
        return prepared | {name: self.terms[name].refresh(model, preparation) for name in due} if due else prepared

    def weighted(self, batch: Batch, prepared: dict[str, Any]) -> dict[str, Tensor]:
        """Every term's contribution to the loss of one batch, scalars by name; terms of weight zero are not computed."""
        found = {"reconstruction": self.reconstruction.loss(batch, prepared["reconstruction"])}
        for penalty in self.penalties:
            if penalty.weight:
                weight = penalty.weight / batch.x[0].numel() if penalty.summed else penalty.weight
                found[penalty.name] = weight * penalty.loss(batch, prepared[penalty.name])
        return found

    @property
    def computed(self) -> tuple[str, ...]:
        """Names of the terms that :meth:`weighted` computes, in its order."""
        return ("reconstruction", *(penalty.name for penalty in self.penalties if penalty.weight))

    def loss(self, batch: Batch, prepared: dict[str, Any], record: Tensor | None = None) -> Tensor:
        """The loss of one batch, a scalar; a ``record``, one place per term of :attr:`computed`, takes their shares."""
        first, *others = parts = list(self.weighted(batch, prepared).values())
        if record is not None:
            record.copy_(torch.stack([part.detach() for part in parts]))
        return sum(others, first)


def _checked(name: str, value, default):
    """``value`` in the type of the option's default; 1 and 1.0 must be one run, "3" none at all."""
    wanted = type(default)
    if isinstance(value, Real) and not isinstance(value, bool):  # NumPy's numbers, too
        value = float(value) if wanted is float else int(value) if isinstance(value, Integral) else value
    if type(value) is not wanted:
        raise ValueError(f"option {name!r} must be of type {wanted.__name__}, not {value!r}")
    return value


def compose(reconstruction: str = "point", *penalties: str, **options) -> Objective:
    """An objective by the names of its terms. ValueError for an unknown name or option, naming the valid ones.

    Arguments:
        reconstruction: a name from ``RECONSTRUCTIONS``.
        penalties: names from ``PENALTIES``.
        options: flat option names, see :meth:`Objective.options`.
    """
    check_choice("reconstruction term", reconstruction, RECONSTRUCTIONS)
    for name in penalties:
        check_choice("penalty", name, PENALTIES)
    return Objective(RECONSTRUCTIONS[reconstruction], tuple(PENALTIES[name] for name in penalties)).configure(**options)

"""A run is everything that decides a result, and nothing else; a result is what it gave."""

import hashlib
import io
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property

import numpy as np
import torch

from nrae_lib.core import methods
from nrae_lib.core.files import seal, unseal
from nrae_lib.core.methods.terms import check_choice
from nrae_lib.core.models import ConvNetwork, Network
from nrae_lib.core.training import Optimization
from nrae_lib.data import datasets
from nrae_lib.runs.views import VIEWS

RECIPES = ("paper", "paper_elu", "released")


@dataclass(frozen=True)
class Run:
    """One training run; equal runs have equal keys, and equal keys have equal results.

    ValueError for an unknown name or option, naming the valid ones.

    Arguments:
        data, data_options: a name from ``datasets.DATASETS`` and its options.
        method, method_options: a name from ``methods.CATALOGUE`` and its options.
        network, optimization: architecture and optimizer.
        seed: decides the data (points and noise), the initial weights and the order of training, by three independent
            random streams (``nrae_lib.core.points.stream``).
        recipe: whose settings these are: "paper" (the text), "paper_elu" (with ELU) or "released" (the authors' code).
        keep: what the result holds beside its errors, a name from ``views.VIEWS``: "metrics" nothing; "figure" the
            learned curve, codes and reconstructions; "animation" also the curve during training; "images" reconstructed
            images, and the trained weights in a file beside; ...
    """

    data: str
    method: str
    network: Network | ConvNetwork
    optimization: Optimization
    seed: int
    data_options: dict = field(default_factory=dict)
    method_options: dict = field(default_factory=dict)
    recipe: str = "paper"
    keep: str = "figure"

    def __post_init__(self):
        check_choice("recipe", self.recipe, RECIPES)
        check_choice("keep", self.keep, VIEWS)
        # "nrae_l + mmd" and "nrae_l+mmd" are one run
        object.__setattr__(self, "method", methods.get(self.method).name)
        self.objective()
        datasets.bound_options(self.data, self.data_options)

    @cached_property
    def key(self) -> str:
        """First 20 hexadecimal digits of the SHA-256 of the run as canonical JSON.

        Same key, same numbers bit for bit on one kind of machine (device, versions, threads), whatever the route: alone
        or among others, in a loop or on workers, in one piece or interrupted. It covers all options of data and method,
        also those left at their defaults, and the method's ``semantics``; no module path, and not the device.
        """
        content = {
            **asdict(self),
            "data_options": datasets.bound_options(self.data, self.data_options),
            "method_options": self.objective().identity(),
            "semantics": methods.get(self.method).semantics,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]

    def dataset(self) -> datasets.Dataset:
        """The data that the run trains on and is measured on."""
        return datasets.make(self.data, self.seed, **self.data_options)

    def objective(self) -> methods.Objective:
        """The method with its options."""
        return methods.get(self.method).configure(**self.method_options)

    @property
    def label(self) -> str:
        options = " ".join(f"{name}={value}" for name, value in self.method_options.items())
        return f"{self.data} {self.recipe} {self.method} {options} seed {self.seed}"

    @staticmethod
    def from_dict(content: dict) -> "Run":
        """The run whose ``dataclasses.asdict`` is ``content``."""
        network = (Network if "hidden" in content["network"] else ConvNetwork)(**content["network"])
        return Run(**{**content, "network": network, "optimization": Optimization(**content["optimization"])})

    def __hash__(self):
        return hash(self.key)


@dataclass
class Result:
    """What a run gave.

    Arguments:
        metrics: name -> number.
        history: loss of (at most 200 evenly spaced) epochs.
        arrays: what figures need, by name.
        seconds, steps_per_second: of training.
        provenance: device, versions, commit, threads, data fingerprint, date.
        weights: the trained model's ``state_dict``, for ``views.WITH_WEIGHTS``; stored apart from everything else.
    """

    run: Run
    metrics: dict[str, float]
    history: list[float]
    arrays: dict[str, np.ndarray]
    seconds: float
    steps_per_second: float
    provenance: dict[str, str]
    weights: dict[str, torch.Tensor] | None = field(default=None, repr=False)

    def to_bytes(self) -> bytes:
        """A compressed npz file: the arrays, and everything else as JSON in the entry ``result``."""
        content = {name: value for name, value in vars(self).items() if name not in ("run", "arrays", "weights")}
        text = json.dumps({"run": asdict(self.run), **content})
        buffer = io.BytesIO()
        np.savez_compressed(buffer, result=np.frombuffer(text.encode(), np.uint8), **self.arrays)
        return seal(buffer.getvalue())  # what follows a zip file disturbs no reader of npz files

    @staticmethod
    def from_bytes(content: bytes) -> "Result":
        """Inverse of :meth:`to_bytes`; ValueError if ``content`` is damaged."""
        try:
            with np.load(io.BytesIO(unseal(content)), allow_pickle=False) as file:
                arrays = dict(file)
            fields = json.loads(arrays.pop("result").tobytes())
            return Result(run=Run.from_dict(fields.pop("run")), arrays=arrays, **fields)
        except Exception as error:  # whatever zip, JSON or numpy make of a file that is not ours
            raise ValueError(str(error)) from error

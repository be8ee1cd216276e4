"""Measures of trained models that are taken after training, such as FID and ELBO, and stored beside their runs.

Each is one sealed JSON file in the folder ``evaluations`` of the run's store.
"""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from nrae_lib.core import measures
from nrae_lib.core.files import seal, unseal, write_atomically
from nrae_lib.data.datasets import Dataset
from nrae_lib.runs.performing import environment, trained_model
from nrae_lib.runs.run import Run
from nrae_lib.runs.store import Store, read
from nrae_lib.runs.views import decode, encode


def evaluate(
    run: Run, name: str, store: Store, function: Callable, options: dict | None = None, device: str = "auto"
) -> dict[str, float]:
    """The metrics that ``function`` gives for the trained model of ``run``: read where stored, else computed and
    stored. ValueError if the run keeps no weights, or a metric is not a finite number; whatever ``function`` raises.

    Arguments:
        run: one whose results are kept with weights (``views.WITH_WEIGHTS``).
        name: of the measure; with the run and ``options`` it identifies the evaluation; another meaning needs another.
        function: ``(model, data, **options) -> metrics``; the model is in evaluation mode, on ``device``.
        options: plain data (numbers, texts, lists).
    """
    found = stored(run, name, store, options)
    if found is not None:
        return found
    model = trained_model(run, store, device)
    metrics = {key: float(value) for key, value in function(model, run.dataset(), **(options or {})).items()}
    for key, value in metrics.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} of run {run.label}: {key} is {value}, not a finite number")
    path, content = _place(run, name, store, options)
    text = json.dumps({**content, "metrics": metrics, "provenance": environment()}, sort_keys=True)
    write_atomically(path, seal(text.encode()))
    return metrics


def stored(run: Run, name: str, store: Store, options: dict | None = None) -> dict[str, float] | None:
    """The stored metrics of an evaluation, see :func:`evaluate`, or None; nothing is computed. A damaged file is
    reported in one sentence and counts as missing."""
    path, content = _place(run, name, store, options)

    def decode(sealed: bytes) -> dict[str, float]:
        found = json.loads(unseal(sealed))
        if {key: found[key] for key in content} != content:
            raise ValueError("it belongs to another evaluation")
        return found["metrics"]

    return read(path, "evaluation", decode)


def reconstruction_fid(model: nn.Module, data: Dataset, **options) -> dict[str, float]:
    """FID of the reconstructed test images and the test images (NRAE, supplement, Table 2); ``options`` and errors are
    those of :func:`nrae_lib.core.measures.fid`."""
    reconstructed = decode(model, encode(model, data.test), data.test[0].numel())
    return {"fid": measures.fid(reconstructed, data.test, next(model.parameters()).device, **options)}


def elbo(model: nn.Module, data: Dataset, floor: float = 1 / 255, samples: int = 16, **options) -> dict[str, float]:
    """Evidence lower bound of the test images, in nats per image (NRAE, supplement, Table 2).

    σ, ε and the density of codes are fitted to the training images and chosen by the validation images, if there are any.

    Arguments:
        floor: smallest σ, in the unit of the pixels.
        samples: draws of z per test image.
        options: of :func:`nrae_lib.core.measures.fit_elbo`.

    Returns:
        elbo, the mean over the test images; at_floor, the fraction of pixels whose σ lies at the floor.
    """
    device = next(model.parameters()).device
    fitted = measures.fit_elbo(model, data.train, data.validation, floor=floor, device=device, **options)
    sigma = fitted.log_sigma.exp()
    return {
        "elbo": float(fitted.elbo(data.test.to(device), samples=samples).double().mean()),
        "at_floor": float((sigma <= floor * (1 + 1e-5)).double().mean()),
    }


def sharpness(reconstructed: Tensor, originals: Tensor) -> float:
    r"""How much of the originals' local contrast their reconstructions have: 1 as sharp, 0 without any.

    :math:`\sum (\hat x_p - \hat x_q)^2 / \sum (x_p - x_q)^2`, over all images and all pairs p, q of horizontal or vertical
    neighbours; both are (N, C, H, W), bytes or floats.
    """

    def contrast(images):
        images = torch.as_tensor(images).double()
        return images.diff(dim=-1).square().sum() + images.diff(dim=-2).square().sum()

    return float(contrast(reconstructed) / contrast(originals))


def _place(run: Run, name: str, store: Store, options: dict | None) -> tuple[Path, dict]:
    """The file of an evaluation, and what identifies it as JSON gives it back (tuples are lists there)."""
    text = json.dumps({"run": run.key, "name": name, "options": options or {}}, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return store.folder / "evaluations" / f"{run.key}-{name}-{digest}.json", json.loads(text)

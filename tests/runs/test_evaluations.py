"""Evaluations: computed once, stored beside their run, damaged files found out."""

import numpy as np
import pytest
import torch
from torch import nn

from nrae_lib.core import measures
from nrae_lib.core.models import ConvNetwork
from nrae_lib.core.training import Optimization
from nrae_lib.data.datasets import Dataset
from nrae_lib.runs import Run, Store, evaluations, perform
from tests.runs.small import model

DATA = {"source": "stand_in", "n_train": 20, "n_validation": 0, "n_test": 12}
RUN = Run("mnist", "ae", ConvNetwork(2, width=0.01), Optimization(1, 10), 0, DATA, keep="images")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"))
    store.put(perform(RUN, "cpu"))
    return store


def test_a_stored_evaluation_is_read_and_options_and_names_tell_them_apart(store):
    calls = []

    def error(trained, data, factor=1.0):
        calls.append(factor)
        return {"mse": factor * measures.mean_squared_error(trained, data.test)}

    assert evaluations.stored(RUN, "mse", store) is None
    first = evaluations.evaluate(RUN, "mse", store, error, device="cpu")
    assert first["mse"] == pytest.approx(store.get(RUN).metrics["test_mse"], rel=1e-6)  # the trained model, its data
    again = evaluations.evaluate(RUN, "mse", store, error, device="cpu")
    assert again == first == evaluations.stored(RUN, "mse", store) and calls == [1.0]
    double = evaluations.evaluate(RUN, "mse", store, error, {"factor": 2.0}, "cpu")
    assert double["mse"] == pytest.approx(2 * first["mse"]) and calls == [1.0, 2.0]
    evaluations.evaluate(RUN, "other", store, error, device="cpu")
    assert calls == [1.0, 2.0, 1.0] and len(list((store.folder / "evaluations").glob("*.json"))) == 3


def test_damage_is_reported_and_computed_again_and_what_is_not_finite_is_not_stored(store):
    evaluations.evaluate(RUN, "one", store, lambda model, data: {"one": 1}, device="cpu")
    [path] = (store.folder / "evaluations").glob("*-one-*.json")
    path.write_bytes(path.read_bytes().replace(b'"one": 1.0', b'"one": 2.0'))
    with pytest.warns(UserWarning, match="checksum does not match"):
        assert evaluations.evaluate(RUN, "one", store, lambda model, data: {"one": 1}, device="cpu") == {"one": 1.0}
    assert evaluations.stored(RUN, "one", store) == {"one": 1.0}
    with pytest.raises(ValueError, match="elbo is nan"):
        evaluations.evaluate(RUN, "bad", store, lambda model, data: {"elbo": torch.nan}, device="cpu")
    assert evaluations.stored(RUN, "bad", store) is None


def test_sharpness_is_the_square_of_the_contrast_and_zero_for_flat_images():
    images = torch.from_numpy(np.random.default_rng(0).uniform(size=(3, 3, 8, 8)))
    assert evaluations.sharpness(0.5 * images + 0.1, images) == pytest.approx(0.25)
    assert evaluations.sharpness(torch.full_like(images, 0.3), images) == pytest.approx(0)
    stripes = (255 * (torch.arange(8) % 2)).byte().expand(1, 1, 8, 8)  # differences along rows only, as bytes
    assert evaluations.sharpness(stripes.flip(-1), stripes) == 1


def test_the_elbo_of_constant_pixels_lies_at_the_floor():
    points = nn.functional.pad(torch.randn(64, 2, generator=torch.Generator().manual_seed(0)), (0, 6))
    padded = model(lambda x: x[:, :2], lambda z: nn.functional.pad(z, (0, 6)))
    normal = nn.Module()
    normal.log_prob = lambda z: torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    high, low = (
        evaluations.elbo(padded, Dataset(points, points), floor, epochs=1, learning_rate=1e-9, density=normal)
        for floor in (0.1, 0.01)
    )
    assert high["at_floor"] == low["at_floor"] == 1.0
    # The six constant pixels add log 10 each; for the two others a smaller ε undoes what a smaller σ gains.
    assert low["elbo"] - high["elbo"] == pytest.approx(6 * np.log(10), abs=0.6)

"""Runs, results and the store: stable keys, exact results, files that are never half-written."""

import random
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nrae_lib.core import methods
from nrae_lib.core.models import ConvNetwork, Network
from nrae_lib.core.training import Optimization
from nrae_lib.runs import Run, Store, code_state, perform, performing, trained_model
from nrae_lib.runs.performing import frame_epochs
from tests.runs.small import ROOT, RUN, small_result


def test_key_covers_everything_that_decides_the_result(monkeypatch):
    """Also defaults and semantics, or a stored result would answer for a loss that it was not trained with."""
    changes = dict(
        data="swiss_roll", method="nrae_q", network=Network((9,), 1), optimization=Optimization(4, 50), seed=1,
        data_options={"n_test": 101}, method_options={"neighbor_weight": 2.0}, recipe="released", keep="metrics",
    )  # fmt: skip
    assert set(changes) == set(asdict(RUN)), "a field of Run is missing from this test"
    keys = {RUN.key, *(replace(RUN, **{name: value}).key for name, value in changes.items())}
    entry = methods.CATALOGUE["nrae_l"]
    for changed in ({"objective": entry.objective.configure(n_neighbors=9)}, {"semantics": entry.semantics + 1}):
        monkeypatch.setitem(methods.CATALOGUE, "nrae_l", replace(entry, **changed))
        keys.add(Run.from_dict(asdict(RUN)).key)
    assert len(keys) == 1 + len(changes) + 2


def test_equal_runs_have_one_key_in_every_process_and_release_however_they_are_written():
    """A changed key orphans every committed result: raise a method's semantics instead, on purpose."""
    assert RUN.key == "7983cb08d8e839f3fd97"
    for run in (RUN, replace(RUN, network=ConvNetwork(3, "elu", "linear", 0.5))):
        assert Run.from_dict(asdict(run)) == run and Run.from_dict(asdict(run)).key == run.key
    for options in ({"neighbor_weight": 1}, {"neighbor_weight": 1.0}, {"n_neighbors": 5}):  # defaults, written out
        assert replace(RUN, method_options=options).key == RUN.key
    assert replace(RUN, data_options={"n_test": 100, "noise": 0.2}).key == RUN.key


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": "nrae"}, "unknown method 'nrae': choose one of ae, vae"),
        ({"data": "moons"}, "unknown data set 'moons'"),
        ({"recipe": "mine"}, "unknown recipe 'mine': choose one of paper"),
        ({"keep": "all"}, "unknown keep 'all'"),
        ({"method_options": {"k": 3}}, "method 'nrae_l': no option 'k'"),
        ({"data_options": {"nosie": 1}}, "has no option 'nosie'"),
    ],
)
def test_unknown_names_are_refused_before_anything_runs(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(RUN, **change)


@pytest.mark.parametrize("name", methods.CATALOGUE)
def test_same_run_bitwise_same_result_and_keep_only_changes_what_is_kept(name):
    run = replace(RUN, method=name, optimization=Optimization(3, 20), keep="animation")  # batches of 20, 20 and 10
    first, again, bare = (perform(one, "cpu") for one in (run, run, replace(run, keep="metrics")))
    assert first.metrics == again.metrics and first.history == again.history
    assert first.arrays.keys() == again.arrays.keys() >= {"curve", "code", "reconstruction", "frames", "frame_epochs"}
    for key, value in first.arrays.items():
        assert np.array_equal(value, again.arrays[key])
    assert len(first.arrays["frames"]) == len(first.arrays["frame_epochs"])
    assert first.metrics == bare.metrics and bare.arrays == {} and "validation_mse" not in bare.metrics


def test_frames_cover_training_and_are_dense_at_the_start():
    epochs = frame_epochs(2000)
    assert (epochs[0], epochs[-1], len(epochs), frame_epochs(3)) == (0, 2000, 40, (0, 1, 2, 3))
    assert epochs[1] - epochs[0] < epochs[-1] - epochs[-2]


def test_result_survives_the_file_and_a_damaged_or_misnamed_one_counts_as_missing_with_one_sentence(tmp_path):
    store, result = Store(tmp_path), perform(replace(RUN, keep="animation"), "cpu")
    store.put(result)
    loaded = store.get(result.run)
    for name in ("run", "metrics", "history", "provenance"):
        assert getattr(loaded, name) == getattr(result, name)
    assert all(np.array_equal(loaded.arrays[name], value) for name, value in result.arrays.items())
    fields = {"device", "torch", "python", "nrae_lib", "commit", "threads", "fingerprint", "date"}
    assert fields <= set(loaded.provenance)
    content = small_result().to_bytes()
    for damaged in (b"", content[:-1], random.Random(0).randbytes(len(content)), content):
        store.path(result.run).write_bytes(damaged)
        sentence = "belongs to another run" if damaged == content else "cannot be used"
        with pytest.warns(UserWarning, match=f"{sentence}.* will be computed again"):
            assert store.get(result.run) is None


def test_stores_of_the_presets_and_an_edit_of_the_library_leaves_quick_results_behind(monkeypatch, tmp_path):
    """What an edit may have changed is computed again; committed results stay where they are."""
    monkeypatch.delenv("NRAE_RESULTS", raising=False)
    assert Store.of("quick", "sine").folder.parent == ROOT / "_build" / "results"
    with pytest.raises(ValueError, match="unknown preset 'fast': choose one of smoke, quick, reduced, paper"):
        Store.of("fast", "sine")
    monkeypatch.setenv("NRAE_RESULTS", str(tmp_path))
    before = Store.of("smoke", "sine").folder
    code_state.cache_clear()
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: original(path) + b"#" * (path.name == "losses.py"))
    after = Store.of("quick", "sine").folder
    assert after != before and after.parent == before.parent == tmp_path
    assert Store.of("paper", "sine").folder == ROOT / "results" / "sine"
    code_state.cache_clear()


def test_an_added_image_set_leaves_only_its_own_quick_results_behind(monkeypatch, tmp_path):
    monkeypatch.setenv("NRAE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("NRAE_DATA", str(tmp_path))
    digits = replace(RUN, data="mnist", network=Network((8,), 2), data_options={"n_train": 20}, keep="metrics")
    store, committed = Store.of("quick", "sine"), Store(tmp_path / "committed")
    for run in (RUN, digits):
        store.put(small_result(run))
        committed.put(small_result(run))
    np.savez(tmp_path / "mnist.npz", train_images=np.zeros((1, 28, 28), np.uint8))
    assert store.get(RUN) is not None and store.get(digits) is None
    assert committed.get(RUN) is not None and committed.get(digits) is not None
    store.put(small_result(digits))
    assert store.get(digits) is not None


EXPLODING = Optimization(1, 50, learning_rate=1e38)


@pytest.mark.parametrize(
    ("changes", "device", "error", "sentence"),
    [
        ({"method": "ae", "optimization": EXPLODING}, "cpu", FloatingPointError, "lower the learning rate"),
        ({"method": "nrae_q", "optimization": EXPLODING}, "cpu", FloatingPointError, "lower the learning rate"),
        ({"method_options": {"n_neighbors": 50}}, "cpu", ValueError, "between 1 and 49 for 50 points, not 50"),
        *(({}, device, ValueError, "cannot be used: choose auto") for device in ("tpu", "cuda:99", 3, "")),
    ],
)
def test_what_diverges_or_is_not_there_is_one_sentence_and_no_result(changes, device, error, sentence):
    with pytest.raises(error, match=sentence):
        perform(replace(RUN, **changes), device)


def test_weights_are_stored_beside_the_result_and_trained_again_where_they_are_missing(tmp_path, monkeypatch):
    store, run = Store(tmp_path), replace(RUN, keep="images")
    result = perform(run, "cpu")
    store.put(result)
    points = torch.randn(5, 2)
    model = trained_model(run, store, "cpu")
    expected = model(points)
    assert all(torch.equal(value, result.weights[name]) for name, value in model.state_dict().items())
    assert store.get(run).metrics == result.metrics and store.get(run).weights is None
    [path] = (tmp_path / ".weights").glob("*.npz")
    path.write_bytes(path.read_bytes()[:-40])  # a torn file is no file
    with pytest.warns(UserWarning, match="cannot be used"):
        assert torch.equal(trained_model(run, store, "cpu")(points), expected)
    with monkeypatch.context() as patched:
        patched.setattr(performing, "perform", lambda *_: pytest.fail("trained again although the weights are there"))
        assert torch.equal(trained_model(run, store, "cpu")(points), expected)
    path.unlink()  # as in a fresh clone: committed results have no weights
    committed = store.path(run).read_bytes()
    assert torch.equal(trained_model(run, store, "cpu")(points), expected)
    assert store.path(run).read_bytes() == committed  # with where and when it was trained
    path.unlink()
    other = store.get(run)
    other.metrics["test_mse"] += 1
    store.put(other)
    with pytest.raises(ValueError, match="on this machine it gives other numbers"):
        trained_model(run, store, "cpu")
    assert store.get(run).metrics == other.metrics
    with pytest.raises(ValueError, match="weights are kept for keep='images'"):
        trained_model(replace(run, keep="metrics"), store)

"""The queue: what the notebooks open, in which order it is performed, and that it goes on after any end."""

import json

import pytest

from nrae_lib.core.models import Network
from nrae_lib.core.training import Optimization
from nrae_lib.pages import queue
from nrae_lib.runs import Plan, Run, Store, Study, grid
from tests.runs.small import ROOT

CONDITION = dict(data="sine", data_options=dict(n_train=12, n_test=20), network=Network((8,), 1))


def plan(preset):
    conditions = {"short": CONDITION | dict(optimization=Optimization(2, 12))}
    conditions["long"] = CONDITION | dict(optimization=Optimization(40, 12))
    return Plan(conditions, ("ae", "dae"), 2, search={"dae": {"corruption": (0.1, 0.5)}}, criterion="test_mse")


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setattr(Store, "of", staticmethod(lambda preset, experiment: Store(tmp_path / "results")))
    monkeypatch.setattr(queue.runs, "project_root", lambda: tmp_path)
    monkeypatch.setattr(queue, "studies", lambda preset: {"toy": Study("toy", plan, preset)})
    return tmp_path / "results"


def test_every_page_of_a_study_is_found_and_a_page_that_opens_none_is_passed_over():
    found = queue.studies("reduced")
    assert {"fig7_swissroll", "table3_generalization", "fig9_circular", "lambda_and_order"} <= found.keys()
    assert "fig3_loss_cases" not in found and "supp_table1_runtime" not in found
    table3, fig7 = found["table3_generalization"], found["fig7_swissroll"]
    assert (table3.preset, fig7.preset) == ("reduced", "paper")  # where full scale is within reach, it is what runs
    assert all(study.store.folder.parent == ROOT / "results" for study in found.values())


def test_the_queue_performs_everything_and_begins_with_most_verdicts_per_second(toy, capsys):
    found = queue.studies("paper")
    order = queue.order(found, queue.Clock(found))
    assert [condition for _, _, condition, *_ in order] == ["short", "long"]
    short, long = (queue.hours([unit], queue.Clock(found)) for unit in order)
    assert long > 5 * short > 0 and queue.hours([*order, *order], queue.Clock(found)) == pytest.approx(short + long)
    before = list(queue.status("paper"))
    assert before[1].split()[2:4] == ["0", "6"] and before[2].split()[2:4] == ["0", "6"]
    assert queue.work("paper") == 0
    assert len(list(toy.glob("*.npz"))) == 2 * (2 + 4) and queue.order(found, queue.Clock(found)) == []
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 12 and said[0].startswith("toy, short: sine paper ") and "core-hours left" in said[0]
    assert list(queue.status("paper"))[1].split()[2:4] == ["6", "0"]
    times = {path: path.stat().st_mtime_ns for path in toy.glob("*.npz")}
    assert queue.work("paper") == 0 and times == {path: path.stat().st_mtime_ns for path in toy.glob("*.npz")}


def test_a_run_that_fails_stops_no_other_and_a_full_disk_is_one_sentence(toy, monkeypatch, capsys):
    attempt = queue.attempt
    broken = lambda run, *how: "Traceback\nValueError: broken" if run.method == "ae" else attempt(run, *how)  # noqa: E731
    monkeypatch.setattr(queue, "attempt", broken)
    assert queue.work("paper") == 4 and len(list(toy.glob("*.npz"))) == 8
    assert capsys.readouterr().out.count("failed: sine paper ae  seed") == 4
    monkeypatch.setattr(queue, "attempt", lambda *_: "Traceback\nOSError: [Errno 28] No space left on device")
    with pytest.raises(SystemExit, match=r"results cannot be kept in .*: OSError.* No space left"):
        queue.work("paper")


def test_runs_of_another_process_are_left_to_it(toy, monkeypatch):
    """Two workers never compute the same; what the other has in hand is passed over and looked at again."""
    found = queue.studies("paper")
    first = found["toy"].remaining("short")[0][0]
    asked = []

    def attempt(run, store, device, report):
        asked.append(run.key)
        if run.key == first.key and asked.count(run.key) == 1:
            return None
        return real(run, store, device, report)

    real = queue.attempt
    monkeypatch.setattr(queue, "attempt", attempt)
    assert queue.work("paper") == 0 and asked.count(first.key) == 2 and len(set(asked)) == 12


def test_a_damaged_result_is_performed_again_and_nothing_is_deleted(toy, capsys):
    assert queue.work("paper") == 0
    path = sorted(toy.glob("*.npz"))[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.warns(UserWarning, match="will be computed again"):
        assert queue.work("paper") == 0
    assert len(list(toy.glob("*.npz"))) == 12 and path.stat().st_size > len(whole) - 100
    assert capsys.readouterr().out.count("core-hours left") == 13


def test_images_that_changed_are_one_sentence_and_run_nothing(toy):
    run = Run("mnist", "ae", None, None, 0, dict(source="stand_in", n_train=30, n_validation=20, n_test=20))
    clock = queue.Clock({})
    clock.check_images(run)
    clock._images[queue._images(run)] = "those of another day"
    with pytest.raises(SystemExit, match="the images of mnist are not those of the stored results"):
        clock.check_images(run)


def test_a_notebook_is_executed_up_to_its_experiment_only(tmp_path):
    cells = ["preset = 'quick'", "from nrae_lib import pages\nfrom tests.pages.test_queue import plan",
             "study = pages.open_study(globals(), 'toy', plan)", "raise RuntimeError('too far')"]  # fmt: skip
    notebook = tmp_path / "toy.ipynb"
    notebook.write_text(json.dumps({"cells": [{"cell_type": "code", "source": [cell]} for cell in cells]}))
    study = queue.study_of(notebook, "reduced")
    assert study.preset == "paper" and list(study.plan.conditions) == ["short", "long"]
    assert grid.stored(study.remaining("short")[0], study.store) == []

"""Committed results: found under their keys, and repeated by the code as it is now.

``python -m tests.runs.test_committed`` trains one run of every kind of data and method again, and says which repeat.
"""

import math
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch

from nrae_lib import paper
from nrae_lib.core import methods
from nrae_lib.data import datasets
from nrae_lib.runs import Result, device_name, grid, perform
from tests.runs.small import ROOT

pytestmark = pytest.mark.skipif(not (ROOT / "results").is_dir(), reason="this copy has no committed results")
AGAIN = [("swiss_roll", "dae"), ("swiss_roll", "nrae_q"), ("shifted_digit", "grae")]


@cache
def committed() -> dict[str, Result]:
    """File name -> result."""
    return {path.stem: Result.from_bytes(path.read_bytes()) for path in (ROOT / "results").rglob("*.npz")}


@cache
def cheapest() -> dict[tuple[str, str], Result]:
    """The run that takes least, of those trained alone, by data and method."""
    alone = sorted((one for one in committed().values() if one.trained_alone), key=lambda one: -one.seconds)
    return {(one.run.data, one.run.method): one for one in alone}


def test_every_file_has_the_name_of_its_key():
    assert [name for name, result in committed().items() if result.run.key != name] == []
    assert len(committed()) >= 2550
    assert sum(not result.trained_alone for result in committed().values()) <= 1034


def same_kind_of_machine(result: Result) -> bool:
    here = (device_name("cpu"), torch.__version__, str(torch.get_num_threads()))
    return here == tuple(result.provenance[name] for name in ("device", "torch", "threads"))


def difference(old: Result, new: Result) -> float:
    """0 where all numbers are equal bit for bit, else the relative difference of the test MSE, and at least 1e-12."""
    equal = (old.metrics, old.history) == (new.metrics, new.history) and old.arrays.keys() == new.arrays.keys()
    if equal and all(np.array_equal(value, new.arrays[name], True) for name, value in old.arrays.items()):
        return 0.0
    return max(1e-12, abs(new.metrics["test_mse"] / old.metrics["test_mse"] - 1))


@pytest.mark.parametrize(("data", "method"), AGAIN)
def test_a_committed_run_is_repeated(data, method):
    """Bit for bit on the same kind of machine; training is chaotic, so that on another it only comes close."""
    old = cheapest()[data, method]
    if old.run.data_options.get("source") == "official" and not datasets.available("mnist"):
        pytest.skip("the images are not here")
    new = perform(old.run, "cpu")
    found = difference(old, new)
    assert new.provenance["fingerprint"] == old.provenance["fingerprint"]
    assert found == 0 if same_kind_of_machine(old) else found < 1, f"the test MSE differs by {found:.2g} of itself"
    assert all(map(math.isfinite, new.history))


@pytest.mark.parametrize(
    ("experiment", "pages"), [("sine", ("fig4_sine", "table1_sine")), ("swissroll", ("fig7_swissroll",))]
)
def test_committed_results_leave_no_claim_without_runs(experiment, pages):
    pytest.importorskip("pandas")
    results = [committed()[path.stem] for path in (ROOT / "results" / experiment).glob("*.npz")]
    frame = grid.frame([one for one in results if one.run.keep != "metrics"])
    names = {"paper": "text", "paper_elu": "text with ELU", "released": "released code"}
    frame["condition"] = frame.recipe.map(names)
    for page in pages:
        for verdict in paper.judge(page, frame, "paper", tuple(frame.condition.unique())):
            assert verdict.status != "not run", verdict
    searched = [one.run for one in results if one.run.keep == "metrics"]
    for method in {run.method for run in searched}:
        tried = [run.method_options for run in searched if run.method == method]
        search = methods.get(method).search
        candidates = [dict(zip(search, values, strict=True)) for values in product(*search.values())]
        assert all(options in tried for options in candidates), f"the search of {method} is incomplete"


if __name__ == "__main__":
    for (data, method), old in cheapest().items():
        found = difference(old, perform(old.run, "cpu"))
        kind = "" if same_kind_of_machine(old) else " on another kind of machine"
        print(f"{data} {method}: {f'differs by {found:.2g}' if found else 'equal'}{kind}", flush=True)

"""Committed results: found under their keys, and repeated by the code as it is now.

``python -m tests.runs.test_committed`` trains one run of every kind of data and method again, and says which repeat.
"""

import math
from functools import cache

import numpy as np
import pytest
import torch

from nrae_lib.core import methods
from nrae_lib.data import datasets
from nrae_lib.runs import Result, device_name, perform
from tests.runs.small import ROOT

pytestmark = pytest.mark.skipif(not (ROOT / "results").is_dir(), reason="this copy has no committed results")
REPEATED = 3  # how many kinds of run are trained again: those that take least


@cache
def committed() -> dict[str, Result]:
    """File name -> result."""
    return {path.stem: Result.from_bytes(path.read_bytes()) for path in (ROOT / "results").rglob("*.npz")}


@cache
def cheapest() -> dict[tuple[str, str], Result]:
    """The run that takes least, by data and method, those that take least first."""
    found = sorted(committed().values(), key=lambda one: -one.seconds)
    return dict(reversed({(one.run.data, one.run.method): one for one in found}.items()))


def test_every_file_has_the_name_of_its_key_and_the_present_meaning_of_a_run():
    assert [name for name, result in committed().items() if result.run.key != name] == []
    assert {methods.get(name).semantics for name in methods.CATALOGUE} == {2}


def same_kind_of_machine(result: Result) -> bool:
    here = (device_name("cpu"), torch.__version__, str(torch.get_num_threads()))
    return here == tuple(result.provenance[name] for name in ("device", "torch", "threads"))


def difference(old: Result, new: Result) -> float:
    """0 where all numbers are equal bit for bit, else the relative difference of the test MSE, and at least 1e-12."""
    equal = (old.metrics, old.history) == (new.metrics, new.history) and old.arrays.keys() == new.arrays.keys()
    if equal and all(np.array_equal(value, new.arrays[name], True) for name, value in old.arrays.items()):
        return 0.0
    return max(1e-12, abs(new.metrics["test_mse"] / old.metrics["test_mse"] - 1))


@pytest.mark.parametrize("place", range(REPEATED))
def test_a_committed_run_is_repeated(place):
    """Bit for bit on the same kind of machine; training is chaotic, so that on another it only comes close."""
    if len(cheapest()) <= place:
        pytest.skip("no result of another kind is committed yet")
    old = list(cheapest().values())[place]
    if old.run.data_options.get("source") == "official" and not datasets.available(datasets.image_set(old.run.data)):
        pytest.skip("the images are not here")
    new = perform(old.run, "cpu")
    found = difference(old, new)
    assert new.provenance["fingerprint"] == old.provenance["fingerprint"]
    assert found == 0 if same_kind_of_machine(old) else found < 1, f"the test MSE differs by {found:.2g} of itself"
    assert all(map(math.isfinite, new.history))


if __name__ == "__main__":
    for (data, method), old in cheapest().items():
        found = difference(old, perform(old.run, "cpu"))
        kind = "" if same_kind_of_machine(old) else " on another kind of machine"
        print(f"{data} {method}: {f'differs by {found:.2g}' if found else 'equal'}{kind}", flush=True)

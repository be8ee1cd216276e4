"""Files that are whole or absent."""

import os

import pytest

from nrae_lib.core import files
from nrae_lib.runs import Store
from tests.runs.small import RUN, small_result


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_litter(call, tmp_path, monkeypatch):
    path, store = tmp_path / "file", Store(tmp_path / "results")
    files.write_atomically(path, b"old")
    store.put(small_result(error=0.25))

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(OSError, match="no space"):
        files.write_atomically(path, b"new")
    with pytest.raises(OSError, match="no space"):
        store.put(small_result(error=0.5))
    assert path.read_bytes() == b"old" and store.get(RUN).metrics == {"test_mse": 0.25}
    assert {*tmp_path.rglob("*")} == {path, store.folder, store.path(RUN)}


def test_two_writers_of_one_file_take_nothing_from_each_other(tmp_path, monkeypatch):
    path, replace = tmp_path / "file", os.replace

    def late(*names):
        monkeypatch.undo()
        files.write_atomically(path, b"second")
        assert path.read_bytes() == b"second", "nothing of the first is there yet"
        replace(*names)

    monkeypatch.setattr(os, "replace", late)
    files.write_atomically(path, b"first")
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]


def test_every_damage_is_told():
    sealed = files.seal(b"content")
    assert files.unseal(sealed) == b"content"
    for damaged in (b"", sealed[:-1], sealed[1:], b"x" + sealed[1:], sealed[:-1] + b"x"):
        with pytest.raises(ValueError, match="checksum does not match"):
            files.unseal(damaged)

"""Files that are whole or absent."""

import pytest

from nrae_lib.core import files


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomically(path, b"old")

    def full_disk(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_every_damage_is_told():
    sealed = files.seal(b"content")
    assert files.unseal(sealed) == b"content"
    for damaged in (b"", sealed[:-1], sealed[1:], b"x" + sealed[1:], sealed[:-1] + b"x"):
        with pytest.raises(ValueError, match="checksum does not match"):
            files.unseal(damaged)

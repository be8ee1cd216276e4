"""The folder of image sets, empty."""

import pytest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NRAE_DATA", str(tmp_path))
    return tmp_path

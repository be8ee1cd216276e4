"""Every notebook by papermill itself; wrong parameters stop with one sentence; sources are clean and agree."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOURCE = {path: path.read_text(encoding="utf-8") for path in NOTEBOOKS}


def papermill(notebook, folder, *parameters):
    command = [sys.executable, "-m", "papermill", f"notebooks/{notebook}.ipynb", str(folder / "out.ipynb"), *parameters]
    # Without any data set; the book that other tests build has those of $NRAE_DATA.
    environment = os.environ | {"NRAE_RESULTS": str(folder / "results"), "NRAE_DATA": str(folder / "data")}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_runs_at_smoke_by_papermill(path, tmp_path):
    source = SOURCE[path]
    extra = ["-p", "method", "nrae_q"] if '"method: str' in source else []
    done = papermill(path.stem, tmp_path, "-p", "preset", "smoke", *extra)
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = [
        output
        for cell in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    text = json.dumps(outputs)
    assert "papermill notebooks/" in text
    assert "nrae-download" in text or "pages.download" not in source
    assert "nrae-verdict" in text or "pages.verdicts" not in source
    assert ("<svg" in text and "Preset smoke" in text) or "plots.show" not in source
    assert list((tmp_path / "results").rglob("*.npz")) or not any(
        one in source for one in ("grid.run_all", "study.train")
    )
    assert "stand in for" in text or ("stand_in" not in source and "datasets.resolve" not in source)


WRONG = [
    (["-p", "method", "nrae_x"], "unknown method 'nrae_x'", "the methods are: ae, vae"),
    (["-p", "preset", "fast"], "parameter 'preset' is 'fast'; it must be one of: 'smoke', 'quick', 'paper'", ""),
    (["-p", "metod", "ae"], "unknown parameter 'metod': did you mean 'method'?", "method, device"),
    (["-p", "device", "tpu"], "device 'tpu' cannot be used", "choose auto"),
    (["-p", "workers", "0"], "workers must be a whole number of at least 1", ""),
    (["-p", "cluster", "elsewhere"], "unknown cluster 'elsewhere'", "the address of a Dask scheduler"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("parameters", "sentence", "choices"), WRONG, ids=lambda value: str(value)[:30])
def test_wrong_parameters_stop_before_anything_runs(parameters, sentence, choices, tmp_path):
    done = papermill("fig7_swissroll", tmp_path, *parameters)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert sentence in last and choices in last
    assert not (tmp_path / "results").exists()


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_sources_are_clean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    tags = [tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])]
    assert tags.count("parameters") == 1
    for cell in code_cells(path):
        assert cell.outputs == [] and cell.execution_count is None
        if "parameters" in cell.metadata.get("tags", []):
            for line in cell.source.splitlines():
                name, comment = line.split(":")[0], line.partition("#")[2]
                assert name.isidentifier() and comment.strip(), f"parameter without a type or a comment: {line}"
    for folder in notebook.metadata.nrae.results:
        assert not (ROOT / "results").is_dir() or (ROOT / "results" / folder).is_dir(), f"results/{folder} is missing"


def test_figure_4_and_table_1_are_the_same_runs():
    """They share their trainings, so everything up to the runs must agree to the letter."""

    def experiment(name):
        sources = [cell.source for cell in code_cells(ROOT / "notebooks" / f"{name}.ipynb")]
        return [
            source
            for source in sources
            if any(word in source for word in ("SETTINGS = {", "def run(", "def all_runs("))
        ]

    first, second = experiment("fig4_sine"), experiment("table1_sine")
    assert len(first) == 3 and first == second

"""Every notebook by papermill itself; wrong parameters stop with one sentence; sources are clean and agree."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from nrae_lib import paper

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOURCE = {path: path.read_text(encoding="utf-8") for path in NOTEBOOKS}


def papermill(notebook, folder, *parameters):
    command = [sys.executable, "-m", "papermill", f"notebooks/{notebook}.ipynb", str(folder / "out.ipynb"), *parameters]
    # Without any data set; the book that other tests build has those of $NRAE_DATA.
    environment = os.environ | {"NRAE_RESULTS": str(folder / "results"), "NRAE_DATA": str(folder / "data")}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)


def shown(path):
    """All that an executed notebook displays, and the text of its outputs together."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    return "".join(
        "".join(part) if isinstance(part, list) else part
        for output in outputs
        for part in [output.get("text", ""), *output.get("data", {}).values()]
        if isinstance(part, (str, list))
    )


# Every page that tests a claim, and what any such page must hold.
PAGES_WITH_CLAIMS = {claim.page for claim in paper.CLAIMS}


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS])
def test_executed_page_holds_what_it_promises(built_book, name):
    text = shown(built_book.root / "book" / "notebooks" / f"{name}.ipynb")
    assert "papermill notebooks/" in text
    if name != "methods":
        assert 'class="nrae-download"' in text
    assert name in {"methods", "scoreboard"} or "Where these numbers come from" in text
    assert name == "scoreboard" or ("<svg" in text or "<canvas" in text)
    assert "reset smoke" in text or name in {"methods", "scoreboard"}
    for claim in paper.CLAIMS:
        if claim.page == name:
            assert f'id="claim-{claim.identifier}' in text or claim.conditions, f"no verdict on {claim.identifier}"
    assert ('class="nrae-verdict"' in text) == (name in PAGES_WITH_CLAIMS or name == "scoreboard")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("fig7_swissroll", ["-p", "method", "nrae_q"], "-p method nrae_q"),
        ("table3_generalization", ["-p", "method", "ae", "-p", "sets", "MNIST S"], "stand in for"),
    ],
)
def test_one_method_by_papermill_itself_and_without_any_data_set(name, parameters, words, tmp_path):
    done = papermill(name, tmp_path, "-p", "preset", "smoke", *parameters)
    assert done.returncode == 0, done.stderr[-3000:]
    assert words in shown(tmp_path / "out.ipynb")
    assert list((tmp_path / "results").rglob("*.npz"))


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

"""The book: which pages are stale, how notebooks are run, and a whole build without a warning."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import psutil
import pytest
import run_notebooks
from run_notebooks import NotebookError, executed, run_stale_notebooks, why_stale

from tests.conftest import PAGES, ROOT, build_environment

NOTEBOOKS = run_notebooks.notebook_names(ROOT)
ALL = {"learns", "compares", "draws", "alone"}  # what the fixture `project` has


def write_notebook(root: Path, name: str, *sources: str, **declared) -> None:
    parameters = nbformat.v4.new_code_cell("preset = 'quick'", metadata={"tags": ["parameters"]})
    cells = [nbformat.v4.new_markdown_cell(f"# {name}"), parameters, *map(nbformat.v4.new_code_cell, sources)]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"nrae": declared})
    (root / "notebooks").mkdir(exist_ok=True)
    nbformat.write(notebook, root / "notebooks" / f"{name}.ipynb")


def pretend_all_ran(root: Path, preset: str = "quick") -> None:
    """Leave what a run leaves, without the minutes that a run takes."""
    for name in run_notebooks.notebook_names(root):
        page, record = executed(root, name)
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text((root / "notebooks" / f"{name}.ipynb").read_text())
        record.write_text(json.dumps(run_notebooks.ingredients(root, name, preset)))


def stale_pages(root: Path, preset: str = "quick") -> set[str]:
    return {name for name in run_notebooks.notebook_names(root) if why_stale(root, name, preset)}


@pytest.fixture
def project(tmp_path) -> Path:
    """A library and four notebooks."""
    library = ("__init__.py", "core/losses.py", "paper/nrae.csv", "notes.txt")
    for name in (*(f"nrae_lib/{file}" for file in library), "requirements.lock", "results/sine/run.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ALL:
        write_notebook(tmp_path, name, "print(1)", results=["sine"] if name == "compares" else [])
    pretend_all_ran(tmp_path)
    return tmp_path


EDITS = {
    "nrae_lib/core/losses.py": ALL,
    "nrae_lib/paper/nrae.csv": ALL,
    "nrae_lib/another.py": ALL,
    "nrae_lib/pages/another.css": ALL,
    "nrae_lib/notes.txt": set(),
    "results/sine/run.json": {"compares"},
    "results/sine/another_run.npz": {"compares"},
    "results/swissroll/run.json": set(),
    "requirements.lock": ALL,
    "book/method.md": set(),
}


@pytest.mark.parametrize(("edited", "expected"), EDITS.items())
def test_an_edit_makes_exactly_the_dependent_pages_stale(project, edited, expected):
    assert stale_pages(project) == set()
    path = project / edited
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("# edited\n" + (path.read_text() if path.exists() else ""))
    assert stale_pages(project) == expected
    for name in expected:
        assert ("nrae_lib changed" if edited.startswith("nrae_lib") else edited) in why_stale(project, name, "quick")


def test_what_else_makes_a_page_stale_and_what_does_not(project, monkeypatch):
    monkeypatch.setenv("NRAE_DATA", str(project / "images"))
    write_notebook(project, "alone", "print('other words')")
    write_notebook(project, "draws", "print(1)", images=True)
    assert stale_pages(project) == {"alone", "draws"}
    pretend_all_ran(project)
    # A reader has run a notebook in place; a run has left more than its result.
    path, sine, pictures = project / "notebooks" / "alone.ipynb", project / "results" / "sine", project / "images"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1] |= {"outputs": [nbformat.v4.new_output("stream", text="hello")], "execution_count": 7}
    nbformat.write(notebook, path)
    (sine / ".hidden").mkdir()
    (sine / ".hidden" / "weights.npz").touch()
    assert stale_pages(project) == set()
    pictures.mkdir()
    (pictures / "mnist.npz").touch()
    assert why_stale(project, "draws", "quick") == "stale: image sets changed"
    (sine / "run.json").unlink()
    assert why_stale(project, "compares", "quick") == "stale: results/sine/run.json is gone"
    assert stale_pages(project) == {"compares", "draws"}
    assert why_stale(project, "draws", "paper") == "stale: preset was quick, is paper"
    executed(project, "draws")[0].unlink()
    assert why_stale(project, "draws", "quick").startswith("missing")


def test_notebooks_run_in_parallel_and_only_once(project):
    source = "import os, nrae_lib\nprint(preset, os.environ['OMP_NUM_THREADS'], nrae_lib.__file__)"
    write_notebook(project, "alone", source)
    write_notebook(project, "draws", source)
    for name, seconds in (("alone", 3), ("draws", 40)):
        executed(project, name)[0].write_text(json.dumps({"metadata": {"papermill": {"duration": seconds}}}))
    lines = []
    assert run_stale_notebooks(project, "quick", say=lines.append) == ["alone", "draws"]
    assert [line.split(":")[0] for line in lines if "started" in line] == ["  draws", "  alone"], "the longest first"
    assert sum("finished in" in line for line in lines) == 2
    page = json.loads(executed(project, "alone")[0].read_text())
    preset, threads, library = page["cells"][-1]["outputs"][0]["text"][0].split(maxsplit=2)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert (preset, int(threads)) == ("quick", max(1, cores // min(2, cores)))
    assert library.startswith(str(project)), "the notebook must use the library beside it"
    assert str(project) not in json.dumps(page["metadata"]), "readers download this page"
    (project / "notebooks" / "draws.ipynb").unlink()
    assert run_stale_notebooks(project, "quick", say=lines.append) == []
    assert [any(path.exists() for path in executed(project, name)) for name in ("alone", "draws")] == [True, False]


def test_a_failing_notebook_is_named_with_its_cell_a_dead_kernel_too_and_the_others_finish(project):
    before = executed(project, "alone")[0].read_text()
    write_notebook(project, "alone", "x = 1", "raise ValueError('first line\\nlambda must be positive')", "y = 2")
    write_notebook(project, "compares", "import os; os._exit(9)")
    write_notebook(project, "draws", "import time; time.sleep(4)")
    with pytest.raises(NotebookError) as failure:
        run_stale_notebooks(project, "quick")
    # Cells: the title, the parameters, x = 1, and the one that fails.
    assert "notebooks/alone.ipynb, cell 4: ValueError: lambda must be positive" in str(failure.value)
    assert "notebooks/compares.ipynb did not run: nbclient.exceptions.DeadKernelError" in str(failure.value)
    assert (project / "_build" / "papermill" / "alone.failed.ipynb").exists()
    assert executed(project, "alone")[0].read_text() == before, "no half-finished page"
    assert stale_pages(project) == {"alone", "compares"}


@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_a_page_that_fills_a_results_folder(project, preset):
    """Under the paper preset `alone` fills it and is fresh; only then can `compares` be found stale, or show the new file."""
    shows = "print(open('results/sine/new.json').read())"
    write_notebook(project, "compares", shows, results=["sine"], after_others=True)
    pretend_all_ran(project, preset)
    write_notebook(project, "alone", "open('results/sine/new.json', 'w').write('new')", results=["sine"])
    assert stale_pages(project, preset) == {"alone"}
    assert run_stale_notebooks(project, preset) == ["alone", "compares"]
    found = why_stale(project, "alone", preset)
    assert found == (None if preset == "paper" else "stale: results/sine/new.json is new")
    assert why_stale(project, "compares", preset) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_stopping_a_build_stops_its_kernels(project, number):
    sleep = "import os, time; open(f'{preset}-%s.pid', 'w').write(str(os.getpid())); time.sleep(600)"
    for name in ALL:
        write_notebook(project, name, sleep % name)
    # As from a terminal: a process in the background of a script ignores Ctrl-C.
    code = "import pathlib, signal, run_notebooks; signal.signal(2, signal.default_int_handler)\n"
    code += "run_notebooks.run_stale_notebooks(pathlib.Path.cwd(), 'quick', say=lambda line: None)"
    places = {"cwd": project, "env": os.environ | {"PYTHONPATH": str(ROOT / "book" / "_ext")}}
    build = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, **places)
    deadline = time.monotonic() + 120
    while not any(path.read_text() for path in project.glob("quick-*.pid")):
        assert build.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    build.send_signal(number)
    assert build.wait(timeout=60) not in (None, 0)
    kernels = [int(path.read_text()) for path in project.glob("quick-*.pid") if path.read_text()]
    while any(psutil.pid_exists(kernel) and psutil.Process(kernel).status() != "zombie" for kernel in kernels):
        assert time.monotonic() < deadline, "a kernel outlived its build"
        time.sleep(0.1)
    assert stale_pages(project) == ALL


def test_a_second_build_waits_and_clears_up_after_a_killed_one(project):
    draft = project / "_build" / "papermill" / "alone.123.ipynb"
    draft.parent.mkdir(parents=True)
    draft.touch()
    lines, second = [], threading.Thread(target=lambda: run_stale_notebooks(project, "quick", say=lines.append))
    with run_notebooks.one_build_at_a_time(project, say=lines.append):
        second.start()
        while not lines and second.is_alive():
            time.sleep(0.05)
        assert lines == ["another build is running the notebooks; waiting for it"]
        assert draft.exists()
    second.join()
    assert not draft.exists()


def test_the_preset_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("NRAE_PRESET", "")
    assert run_notebooks.preset_from_environment() == "quick"
    monkeypatch.setenv("NRAE_PRESET", "fast")
    with pytest.raises(NotebookError, match="'fast'; it must be one of: smoke, quick, reduced, paper"):
        run_notebooks.preset_from_environment()


def test_the_marked_picture_becomes_the_thumbnail(project):
    page, picture = executed(project, "alone")[0], project / "book" / "_static" / "thumbnails" / "alone.png"
    cell = nbformat.v4.new_code_cell()
    for pixels, metadata in ((b"first", {}), (b"marked", {"nrae": {"thumbnail": True}})):
        shown = {"image/png": base64.b64encode(pixels).decode()}
        cell.outputs.append(nbformat.v4.new_output("display_data", shown, metadata=metadata))
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), page)
        os.utime(page, (2e9, 2e9))  # newer than any picture
        run_notebooks.update_thumbnails(project)
        assert picture.read_bytes() == pixels


def test_every_page_about_the_library_exists_once_and_every_page_is_in_the_table_of_contents():
    paths = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "nrae_lib").rglob("*.py")]
    modules = {".".join(path.parts).removesuffix(".__init__") for path in paths}
    pages = list((ROOT / "book" / "api").glob("*.md"))
    documented = re.findall(r"automodule:: (nrae_lib[\w.]*)", "\n".join(page.read_text() for page in pages))
    assert len(documented) == len(set(documented)) and set(documented) <= modules
    floors = {name.split(".")[1] for name in modules if "." in name}
    assert {name.split(".")[1] for name in documented} == floors
    assert {f"api/{page.stem}" for page in pages} == {page for page in PAGES if page.startswith("api/")}
    assert {f"notebooks/{name}" for name in NOTEBOOKS} == {page for page in PAGES if page.startswith("notebooks/")}


def test_book_builds_without_a_warning(built_book):
    assert "build succeeded." in built_book.log
    assert "WARNING" not in built_book.log
    for name in NOTEBOOKS:
        assert re.search(rf"{name}: finished in \d+ s", built_book.log)
    for page in PAGES:
        assert (built_book.site / f"{page}.html").exists()


def test_a_notebook_page_launches_its_source_and_the_site_is_complete_in_itself(built_book):
    page = (built_book.site / "notebooks" / "fig7_swissroll.html").read_text(encoding="utf-8")
    (launch,) = set(re.findall(r'href="(https://mybinder\.org/[^"]*)"', page))
    assert launch.startswith("https://mybinder.org/v2/gh/example/nrae/main?")
    assert launch.endswith("notebooks/fig7_swissroll.ipynb")
    # Nothing that a page loads by itself may come from outside; links that a reader clicks may.
    loads = r"""<(?:script|img|iframe|link|source)\b[^>]*?(?:src|href)=["']((?:https?:)?//[^"']+)"""
    for page in built_book.site.rglob("*.html"):
        assert not re.findall(loads, page.read_text(encoding="utf-8")), page.name


def test_second_build_runs_no_notebook(built_book):
    status, log = built_book.build_again()
    assert status == 0
    assert "started (" not in log
    assert "no targets are out of date" in log
    command = [sys.executable, built_book.root / "book" / "_ext" / "run_notebooks.py", "--status"]
    shown = subprocess.run(command, env=build_environment(), capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines() == [f"{name}: fresh" for name in NOTEBOOKS]

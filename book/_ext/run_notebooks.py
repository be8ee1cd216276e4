"""Sphinx extension: before the book is read, run every notebook that is missing or stale.

A page is stale when something that decides it has changed: its notebook, the preset, the library, the pinned versions,
a folder of committed results that it declares in its metadata (``{"nrae": {"results": ["sine"]}}``), or, if it declares
``"images": true``, the image sets that are there. The hashes of all these lie beside each executed page, so that

    python book/_ext/run_notebooks.py --status

says what would run, and why. The preset is ``$NRAE_PRESET``, or ``quick``. A notebook that shows what the others found
(``{"nrae": {"after_others": true}}``) runs when they are done.
"""

import argparse
import base64
import fcntl
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path

PACKAGE = "nrae_lib"
PRESETS = ("smoke", "quick", "paper")
SECONDS_BETWEEN_REPORTS = 15
# Cells that papermill adds, and that a reader of the notebook does not count.
ADDED_BY_PAPERMILL = {"injected-parameters", "papermill-error-cell-tag"}


class NotebookError(RuntimeError):
    """At least one notebook failed; the message names each notebook, the cell and the error."""


# --- What decides a page -------------------------------------------------------------------------------------------


def ingredients(root: Path, name: str, preset: str) -> dict[str, str]:
    """Everything that decides a page, by name, with its hash (the preset stands for itself)."""
    notebook = read_source(root, name)
    declared = notebook["metadata"].get("nrae", {})
    # Outputs left by a reader who ran the notebook in place decide nothing.
    cells = [
        [cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])] for cell in notebook["cells"]
    ]
    library = [path for path in (root / PACKAGE).rglob("*") if path.suffix in {".py", ".csv"}]
    decided_by = {
        "preset": preset,
        f"notebooks/{name}.ipynb": _hash([cells, declared]),
        PACKAGE: _hash([[str(path.relative_to(root)), _hash_of(path)] for path in sorted(library)]),
        "requirements.lock": _hash_of(root / "requirements.lock"),
    }
    for folder in declared.get("results", []):
        for path in sorted((root / "results" / folder).rglob("*")):
            # Hidden files are locks, checkpoints and weights, not results.
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts):
                decided_by[path.relative_to(root).as_posix()] = _hash_of(path)
    if declared.get("images"):
        decided_by["image sets"] = _image_sets(Path(os.environ.get("NRAE_DATA") or root / "data"))
    return decided_by


def _hash(content: list) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _image_sets(folder: Path) -> str:
    """Which data sets are there: a page that had to take stand-ins is run again once the real images are.

    Not the pictures one by one (CelebA has 200,000), and not what the library itself keeps beside them.
    """
    files = [path for depth in ("*", "*/*", "*/raw/*") for path in sorted(folder.glob(depth)) if path.is_file()]
    kinds = {"", ".npz", ".gz", ".zip", ".mat", ".txt"}
    return _hash([(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.suffix in kinds])


def why_stale(root: Path, name: str, preset: str) -> str | None:
    """None when the executed page is fresh; otherwise one line that says what is missing or what changed."""
    page, record = executed(root, name)
    if not page.exists() or not record.exists():
        return "missing: it has not been run yet"
    then, now = json.loads(record.read_text(encoding="utf-8")), ingredients(root, name, preset)
    if then == now:
        return None
    if then["preset"] != preset:
        return f"stale: preset was {then['preset']}, is {preset}"
    changes = [
        f"{path} {'is new' if path not in then else 'is gone' if path not in now else 'changed'}"
        for path in sorted(then.keys() | now.keys())
        if then.get(path) != now.get(path)
    ]
    return "stale: " + ", ".join(changes)


def executed(root: Path, name: str) -> tuple[Path, Path]:
    """Where the executed copy of a notebook lies, and the record of what decided it."""
    folder = root / "book" / "notebooks"
    return folder / f"{name}.ipynb", folder / f"{name}.json"


def notebook_names(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / "notebooks").glob("*.ipynb"))


def read_source(root: Path, name: str) -> dict:
    return json.loads((root / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))


def after_others(root: Path, name: str) -> bool:
    return read_source(root, name)["metadata"].get("nrae", {}).get("after_others", False)


# --- Running -------------------------------------------------------------------------------------------------------


def child_environment(root: Path, threads: int) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}  # Jupyter sets its own
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment[variable] = str(threads)
    # The package beside the notebook, even where another copy is installed.
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), environment.get("PYTHONPATH")]))
    environment["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    return environment


class Children:
    """The processes that run notebooks now: all of them can be stopped from the main thread."""

    def __init__(self):
        self.running: set[subprocess.Popen] = set()
        self.stopped = False

    def add(self, process: subprocess.Popen) -> None:
        self.running.add(process)
        if self.stopped:  # it started while the others were being killed
            kill_family(process)

    def stop(self) -> None:
        self.stopped = True
        for process in tuple(self.running):
            kill_family(process)


def kill_family(process: subprocess.Popen) -> None:
    """Kill a notebook's process with its kernel, which has a process group of its own: killing ours would spare it."""
    import psutil  # comes with every Jupyter kernel

    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        parent.suspend()  # or it might start a kernel while we look
        for member in [*parent.children(recursive=True), parent]:
            with suppress(psutil.NoSuchProcess):
                member.kill()


@contextmanager
def one_build_at_a_time(root: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock that ends with this process, whatever ends it."""
    path = root / "_build" / ".running_notebooks.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another build is running the notebooks; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def signals_as_exit() -> Iterator[None]:
    """Let a polite request to end, or a closed terminal, unwind like Ctrl-C. Only the main thread may handle signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number, frame):
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_notebook(
    root: Path, name: str, preset: str, threads: int, at_cell: Callable[[str], None], children: Children
) -> None:
    """Execute one notebook in a process of its own; the page appears only when it is whole."""
    decided_by = ingredients(root, name, preset)  # before the run: an edit made meanwhile leaves the page stale
    page, record = executed(root, name)
    draft = Path("_build", "papermill", f"{name}.{os.getpid()}.ipynb")
    for folder in (page.parent, (root / draft).parent):
        folder.mkdir(parents=True, exist_ok=True)
    # Paths relative to the root: papermill writes them into the page, which readers download.
    command = [sys.executable, "-m", "papermill", f"notebooks/{name}.ipynb", draft.as_posix()]
    command += ["-p", "preset", preset, "--kernel", "python3", "--language", "python", "--progress-bar"]
    last_line = ""
    with subprocess.Popen(
        command, cwd=root, env=child_environment(root, threads), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True, errors="replace", start_new_session=True,  # Ctrl-C is for us alone; we kill the children
    ) as process:  # fmt: skip
        children.add(process)
        for line in process.stderr:
            progress = re.search(r"(\d+)/(\d+) \[", line)
            if progress:
                at_cell(f"cell {progress[1]} of {progress[2]}")
            elif line.strip():
                last_line = line.strip()
    children.running.discard(process)
    if children.stopped:
        raise NotebookError("stopped")
    if process.returncode:
        message = describe_failure(root / draft, name) or f"notebooks/{name}.ipynb did not run: {last_line}"
        if (root / draft).exists():
            kept = draft.with_name(f"{name}.failed.ipynb")
            (root / draft).replace(root / kept)
            message += f" (as far as it got: {kept.as_posix()})"
        raise NotebookError(message)
    if preset == "paper":
        # The run itself fills a results folder: that makes the page no older than its results.
        now = ingredients(root, name, preset)
        decided_by |= {path: digest for path, digest in now.items() if path.startswith("results/")}
    # Killed between these steps, the page is missing, and never a new one with an old record.
    record.unlink(missing_ok=True)
    (root / draft).replace(page)
    half_written = record.with_suffix(f".json.{os.getpid()}")
    half_written.write_text(json.dumps(decided_by, indent=1), encoding="utf-8")
    half_written.replace(record)


def describe_failure(draft: Path, name: str) -> str | None:
    """Name the notebook, its cell (counted as in the source, from 1) and the exception's last line."""
    if not draft.exists():
        return None
    cells = json.loads(draft.read_text(encoding="utf-8"))["cells"]
    own = [cell for cell in cells if not ADDED_BY_PAPERMILL & set(cell["metadata"].get("tags", []))]
    for number, cell in enumerate(own, start=1):
        errors = [output for output in cell.get("outputs", []) if output["output_type"] == "error"]
        if errors and cell["metadata"].get("papermill", {}).get("exception"):
            last = (errors[-1]["evalue"].strip().splitlines() or [""])[-1]
            return f"notebooks/{name}.ipynb, cell {number}: {errors[-1]['ename']}: {last}"
    return None


def run_stale_notebooks(root: Path, preset: str, say: Callable[[str], None] = print) -> list[str]:
    """Run what is missing or stale, in parallel on the cores there are; return the names of the notebooks run."""
    with one_build_at_a_time(root, say), signals_as_exit():
        remove_leftovers(root)
        names = notebook_names(root)
        last = {name for name in names if after_others(root, name)}
        try:
            ran = run_wave(root, [name for name in names if name not in last], preset, say)
            # The others' results are among the ingredients of these: look only now whether they are stale.
            return ran + run_wave(root, sorted(last), preset, say)
        finally:
            update_thumbnails(root)


def run_wave(root: Path, names: list[str], preset: str, say: Callable[[str], None]) -> list[str]:
    reasons = {name: why_stale(root, name, preset) for name in names}
    stale = [name for name, reason in reasons.items() if reason]
    if not stale:
        return []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    at_once = min(cores, len(stale))
    threads = max(1, cores // at_once)
    say(f"running {len(stale)} of {len(reasons)} notebooks, {at_once} at a time, {threads} torch thread(s) each")
    started, at_cell, failures, children = {}, {}, [], Children()

    def run(name: str) -> None:
        started[name] = time.monotonic()
        say(f"  {name}: started ({preset}; {reasons[name]})")
        try:
            run_notebook(root, name, preset, threads, lambda progress: at_cell.update({name: progress}), children)
            say(f"  {name}: finished in {time.monotonic() - started[name]:.0f} s")
        except NotebookError as error:
            failures.append(str(error))
            outcome = "stopped" if children.stopped else "FAILED"
            say(f"  {name}: {outcome} after {time.monotonic() - started[name]:.0f} s")
        finally:
            at_cell.pop(name, None)

    with ThreadPoolExecutor(at_once) as pool:
        try:
            running = {pool.submit(run, name) for name in stale}
            while running:
                done, running = wait(running, timeout=SECONDS_BETWEEN_REPORTS)
                for future in done:
                    future.result()
                if running and not done:
                    busy = [
                        f"{name} {cell} ({time.monotonic() - started[name]:.0f} s)" for name, cell in at_cell.items()
                    ]
                    say("  ... " + ", ".join(busy))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            children.stop()
            raise
    if failures:
        raise NotebookError("\n".join(sorted(failures)))
    return stale


def remove_leftovers(root: Path) -> None:
    """Pages whose notebook is gone would otherwise stay in the book for ever; so would what a killed build left."""
    for path in (root / "book" / "notebooks").glob("*.*"):
        if path.suffix not in {".ipynb", ".json"} or path.stem not in notebook_names(root):
            path.unlink()
    # We have the lock, so the process that each of these is named after is gone.
    for draft in (root / "_build" / "papermill").glob("*.[0-9]*.ipynb"):
        draft.unlink()


# --- Thumbnails ----------------------------------------------------------------------------------------------------


def thumbnail(notebook: dict) -> bytes | None:
    """The picture marked ``{"nrae": {"thumbnail": true}}`` in its output's metadata, or else the page's first one."""
    pictures = [
        output
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    pictures.sort(key=lambda output: not output["metadata"].get("nrae", {}).get("thumbnail", False))
    return base64.b64decode("".join(pictures[0]["data"]["image/png"])) if pictures else None


def update_thumbnails(root: Path) -> None:
    """Write each page's thumbnail for the cards of the index; Sphinx must find them before it reads a page."""
    folder = root / "book" / "_static" / "thumbnails"
    folder.mkdir(parents=True, exist_ok=True)
    names = notebook_names(root)
    for old in folder.glob("*.png"):
        if old.stem not in names:
            old.unlink()
    for name in names:
        page, _ = executed(root, name)
        target = folder / f"{name}.png"
        if page.exists() and (not target.exists() or target.stat().st_mtime < page.stat().st_mtime):
            picture = thumbnail(json.loads(page.read_text(encoding="utf-8")))
            if picture:
                target.write_bytes(picture)


# --- Sphinx --------------------------------------------------------------------------------------------------------


def preset_from_environment() -> str:
    preset = os.environ.get("NRAE_PRESET") or "quick"
    if preset not in PRESETS:
        raise NotebookError(f"NRAE_PRESET is {preset!r}; it must be one of: {', '.join(PRESETS)}")
    return preset


def before_reading(app, config) -> None:
    from sphinx.errors import ExtensionError
    from sphinx.util import logging

    # sphinx-thebe (loaded by Jupyter Book) puts two clashing scripts on every page; this book has no live cells.
    for event in ("env-before-read-docs", "doctree-resolved"):
        listeners = app.events.listeners[event]
        listeners[:] = [listener for listener in listeners if listener.handler.__module__ != "sphinx_thebe"]
    # Only a build on GitHub knows the address that the repository and launch buttons must lead to. Binder installs what
    # environment.yml names, so a launched notebook finds the library.
    if "GITHUB_REPOSITORY" in os.environ:
        config.html_theme_options |= {
            "repository_url": "https://github.com/" + os.environ["GITHUB_REPOSITORY"],
            "repository_branch": "main",  # the theme would take "master"
            "use_repository_button": True,
            "launch_buttons": {"binderhub_url": "https://mybinder.org", "notebook_interface": "jupyterlab"},
        }
    try:
        run_stale_notebooks(Path(app.srcdir).parent, preset_from_environment(), logging.getLogger(__name__).info)
    except NotebookError as error:
        raise ExtensionError(str(error)) from None


def setup(app) -> dict:
    # The pages about the library document the package beside the book, even where another copy is installed.
    sys.path.insert(0, str(Path(app.srcdir).parent))
    # Early: Jupyter Book looks for the pages of its table of contents at the usual priority of 500.
    app.connect("config-inited", before_reading, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--status", action="store_true", help="say which pages are fresh, stale or missing, and why")
    only_status, root = parser.parse_args().status, Path(__file__).resolve().parents[2]
    try:
        preset = preset_from_environment()
        if only_status:
            for name in notebook_names(root):
                print(f"{name}: {why_stale(root, name, preset) or 'fresh'}")
        else:
            run_stale_notebooks(root, preset)
    except NotebookError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

"""Sphinx extension: before the book is read, run every notebook that is missing or stale.

A page is stale when something that decides it has changed: its notebook, the preset, the library, the pinned versions,
a folder of committed results that it declares in its metadata (``{"nrae": {"results": ["sine"]}}``), or, if it declares
``"images": true``, the image sets that are there. The hashes of all these lie beside each executed page, so that

    python book/_ext/run_notebooks.py --status

says what would run, and why. The preset is ``$NRAE_PRESET``, or ``quick``. A notebook that shows what the others found
(``{"nrae": {"after_others": true}}``) runs when they are done.
"""

import argparse
import asyncio
import base64
import fcntl
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PRESETS = ("smoke", "quick", "reduced", "paper")
SECONDS_BETWEEN_REPORTS = 15
THUMBNAILS = Path("book", "_static", "thumbnails")
# Cells that papermill adds, and that a reader of the notebook does not count.
ADDED_BY_PAPERMILL = {"injected-parameters", "papermill-error-cell-tag"}


class NotebookError(RuntimeError):
    """At least one notebook failed; the message names each notebook, the cell and the error."""


def notebook_names(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / "notebooks").glob("*.ipynb"))


def read(notebook: Path) -> dict:
    return json.loads(notebook.read_text(encoding="utf-8"))


def declared(notebook: dict) -> dict:
    return notebook["metadata"].get("nrae", {})


def executed(root: Path, name: str) -> tuple[Path, Path]:
    """Where the executed copy of a notebook lies, and the record of what decided it."""
    folder = root / "book" / "notebooks"
    return folder / f"{name}.ipynb", folder / f"{name}.json"


def ingredients(root: Path, name: str, preset: str) -> dict[str, str]:
    """Everything that decides a page, by name, with its hash (the preset stands for itself)."""
    source = read(root / "notebooks" / f"{name}.ipynb")
    # Outputs left by a reader who ran the notebook in place decide nothing.
    cells = [[cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])] for cell in source["cells"]]
    library = sorted(path for path in (root / "nrae_lib").rglob("*") if path.suffix in {".py", ".csv", ".css", ".js"})
    decided_by = {
        "preset": preset,
        f"notebooks/{name}.ipynb": _hash([cells, declared(source)]),
        "nrae_lib": _hash([[str(path.relative_to(root)), _hash(path)] for path in library]),
        "requirements.lock": _hash(root / "requirements.lock"),
    }
    for folder in declared(source).get("results", []):
        for path in sorted((root / "results" / folder).rglob("*")):
            # Hidden files are locks, checkpoints and weights, not results.
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts):
                decided_by[path.relative_to(root).as_posix()] = _hash(path)
    if declared(source).get("images"):
        # Not picture by picture (CelebA has 200,000), and not what the library itself keeps beside them.
        data, kinds = Path(os.environ.get("NRAE_DATA") or root / "data"), {"", ".npz", ".gz", ".zip", ".mat", ".txt"}
        paths = sorted(path for depth in ("*", "*/*", "*/raw/*") for path in data.glob(depth) if path.suffix in kinds)
        sizes = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path.is_file()]
        decided_by["image sets"] = _hash(sizes)
    return decided_by


def _hash(content: Path | list) -> str:
    content = content.read_bytes() if isinstance(content, Path) else json.dumps(content).encode()
    return hashlib.sha256(content).hexdigest()


def why_stale(root: Path, name: str, preset: str) -> str | None:
    """None when the executed page is fresh; otherwise one line that says what is missing or what changed."""
    page, record = executed(root, name)
    if not page.exists() or not record.exists():
        return "missing: it has not been run yet"
    then, now = read(record), ingredients(root, name, preset)
    if then["preset"] != preset:
        return f"stale: preset was {then['preset']}, is {preset}"
    changes = [
        f"{path} {'is new' if path not in then else 'is gone' if path not in now else 'changed'}"
        for path in sorted(then.keys() | now.keys())
        if then.get(path) != now.get(path)
    ]
    return "stale: " + ", ".join(changes) if changes else None


# --- Running -------------------------------------------------------------------------------------------------------


def kill_family(process_id: int) -> None:
    """Kill a notebook's process with its kernel, which has a process group of its own: killing ours would spare it."""
    import psutil  # comes with every Jupyter kernel

    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process_id)
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


async def run_notebook(root: Path, name: str, preset: str, threads: int, tries: int = 2) -> None:
    """Execute one notebook in a process of its own; the page appears only when it is whole."""
    decided_by = ingredients(root, name, preset)  # before the run: an edit made meanwhile leaves the page stale
    page, record = executed(root, name)
    draft = Path("_build", "papermill", f"{name}.{os.getpid()}.ipynb")
    for folder in (page.parent, (root / draft).parent):
        folder.mkdir(parents=True, exist_ok=True)
    # Paths relative to the root: papermill writes them into the page, which readers download.
    command = [sys.executable, "-m", "papermill", f"notebooks/{name}.ipynb", draft.as_posix(), "-p", "preset", preset]
    command += ["--kernel", "python3", "--language", "python", "--no-progress-bar"]
    environment = os.environ | dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)
    )
    environment.pop("MPLBACKEND", None)  # Jupyter sets its own
    # The package beside the notebook, even where another copy is installed.
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), environment.get("PYTHONPATH")]))
    process = await asyncio.create_subprocess_exec(
        *command, cwd=root, env=environment, stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL, start_new_session=True,  # Ctrl-C is for us alone; we kill the children
    )  # fmt: skip
    try:
        said = (await process.communicate())[1].decode(errors="replace").strip()
    finally:
        if process.returncode is None:  # the build is being stopped
            kill_family(process.pid)
            await process.wait()
    if process.returncode:
        # A starting kernel's ports are free when they are chosen; another program may be faster to take one.
        if "Kernel died before replying" in said and tries > 1:
            return await run_notebook(root, name, preset, threads, tries - 1)
        message = f"notebooks/{name}.ipynb did not run: {said.splitlines()[-1] if said else 'no word of why'}"
        if (root / draft).exists():
            kept = draft.with_name(f"{name}.failed.ipynb")
            (root / draft).replace(root / kept)
            message = f"{describe_failure(root / kept, name) or message} (as far as it got: {kept.as_posix()})"
        raise NotebookError(message)
    if preset in ("reduced", "paper"):
        # The run itself fills a results folder: that makes the page no older than its results.
        now = ingredients(root, name, preset)
        decided_by |= {path: digest for path, digest in now.items() if path.startswith("results/")}
    # Killed between these steps, the page is missing, and never a new one with an old record.
    record.unlink(missing_ok=True)
    (root / draft).replace(page)
    half_written = record.with_suffix(f".json.{os.getpid()}")
    half_written.write_text(json.dumps(decided_by, indent=1), encoding="utf-8")
    half_written.replace(record)


def describe_failure(page: Path, name: str) -> str | None:
    """Name the notebook, its cell (counted as in the source, from 1) and the exception's last line."""
    own = [cell for cell in read(page)["cells"] if not ADDED_BY_PAPERMILL & set(cell["metadata"].get("tags", []))]
    for number, cell in enumerate(own, start=1):
        errors = [output for output in cell.get("outputs", []) if output["output_type"] == "error"]
        if errors and cell["metadata"].get("papermill", {}).get("exception"):
            last = (errors[-1]["evalue"].strip().splitlines() or [""])[-1]
            return f"notebooks/{name}.ipynb, cell {number}: {errors[-1]['ename']}: {last}"
    return None


def run_stale_notebooks(root: Path, preset: str, say: Callable[[str], None] = print) -> list[str]:
    """Run what is missing or stale, in parallel on the cores there are; return the names of the notebooks run."""
    with one_build_at_a_time(root, say):
        remove_leftovers(root)
        names = notebook_names(root)
        last = [name for name in names if declared(read(root / "notebooks" / f"{name}.ipynb")).get("after_others")]
        try:
            ran = asyncio.run(run_wave(root, [name for name in names if name not in last], preset, say))
            # The others' results are among the ingredients of these: look only now whether they are stale.
            return ran + asyncio.run(run_wave(root, last, preset, say))
        except asyncio.CancelledError:
            sys.exit("stopped")
        finally:
            update_thumbnails(root)


async def run_wave(root: Path, names: list[str], preset: str, say: Callable[[str], None]) -> list[str]:
    stale = {name: reason for name in names if (reason := why_stale(root, name, preset))}
    if not stale:
        return []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    at_once = min(cores, len(stale))
    threads, free = max(1, cores // at_once), asyncio.Semaphore(at_once)
    say(f"running {len(stale)} of {len(names)} notebooks, {at_once} at a time, {threads} torch thread(s) each")
    started, failures = {}, []

    async def run(name: str) -> None:
        async with free:
            started[name] = time.monotonic()
            say(f"  {name}: started ({preset}; {stale[name]})")
            try:
                await run_notebook(root, name, preset, threads)
                outcome = "finished in"
            except NotebookError as error:
                failures.append(str(error))
                outcome = "FAILED after"
            say(f"  {name}: {outcome} {time.monotonic() - started.pop(name):.0f} s")

    # A polite request to end, or a closed terminal, ends the notebooks as Ctrl-C does.
    with suppress(RuntimeError, ValueError):  # only the main thread may handle signals
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, asyncio.current_task().cancel)
    # The longest first, by the time that papermill wrote into the page when it was last made; new ones before all others.
    last = {name: read(page)["metadata"] for name in stale if (page := executed(root, name)[0]).exists()}
    seconds = {name: metadata.get("papermill", {}).get("duration", 0) for name, metadata in last.items()}
    order = sorted(stale, key=lambda name: -seconds.get(name, float("inf")))
    running = {asyncio.create_task(run(name)) for name in order}
    while running:
        done, running = await asyncio.wait(running, timeout=SECONDS_BETWEEN_REPORTS)
        for task in done:
            task.result()
        if running and not done:
            say("  ... " + ", ".join(f"{name} ({time.monotonic() - start:.0f} s)" for name, start in started.items()))
    if failures:
        raise NotebookError("\n".join(sorted(failures)))
    return list(stale)


def remove_leftovers(root: Path) -> None:
    """Pages whose notebook is gone would otherwise stay in the book for ever; so would what a killed build left."""
    for path in [*(root / "book" / "notebooks").glob("*.*"), *(root / THUMBNAILS).glob("*.png")]:
        if path.suffix not in {".ipynb", ".json", ".png"} or path.stem not in notebook_names(root):
            path.unlink()
    # We have the lock, so the process that each of these is named after is gone.
    for draft in (root / "_build" / "papermill").glob("*.[0-9]*.ipynb"):
        draft.unlink()


def update_thumbnails(root: Path) -> None:
    """Keep the output marked ``{"nrae": {"thumbnail": true}}``, or else the first picture, of each page for the index."""
    (root / THUMBNAILS).mkdir(parents=True, exist_ok=True)
    for name in notebook_names(root):
        page, target = executed(root, name)[0], root / THUMBNAILS / f"{name}.png"
        if not page.exists() or (target.exists() and target.stat().st_mtime >= page.stat().st_mtime):
            continue
        outputs = [output for cell in read(page)["cells"] for output in cell.get("outputs", [])]
        pictures = [output for output in outputs if "image/png" in output.get("data", {})]
        if pictures:
            chosen = max(pictures, key=lambda output: declared(output).get("thumbnail", False))
            target.write_bytes(base64.b64decode("".join(chosen["data"]["image/png"])))


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

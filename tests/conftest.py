"""One build of the book at the smoke preset, shared by every test (and every worker) that reads it."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
TOC = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]


def build_environment() -> dict[str, str]:
    # As on GitHub: the launch and repository buttons are part of the book that is tested.
    environment = os.environ | {"NRAE_PRESET": "smoke", "GITHUB_REPOSITORY": "example/nrae"}
    environment.pop("NRAE_RESULTS", None)
    # With real images where they are at hand; tests/test_notebooks.py runs a page without.
    if "NRAE_DATA" not in environment and (shared := ROOT.parent / "shared" / "data").is_dir():
        environment["NRAE_DATA"] = str(shared)
    return environment


def build(copy: Path) -> tuple[int, str]:
    command = [Path(sys.executable).with_name("jupyter-book"), "build", "book/", "-n", "-W", "--keep-going"]
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=copy, env=build_environment(), timeout=1200, **both)
    return done.returncode, re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)


@pytest.fixture(scope="session")
def built_book(tmp_path_factory) -> SimpleNamespace:
    """`.root` of the copy, its `.site`, the build's `.log`, and `.build_again()` -> (exit status, log)."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    copy, outcome = shared / "clone with spaces", shared / "book.json"
    # The first worker builds, on all cores; the others wait. (xdist's groups do not hold under pytest 9.)
    with (shared / "book.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not outcome.exists():
            # Without executed pages: the checkout keeps its own.
            skip = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "thumbnails")
            for name in ("book", "notebooks", "nrae_lib", "results"):
                shutil.copytree(ROOT / name, copy / name, ignore=skip)
            shutil.rmtree(copy / "book" / "notebooks", ignore_errors=True)
            for name in ("_config.yml", "requirements.lock"):
                shutil.copy(ROOT / name, copy)
            outcome.write_text(json.dumps(build(copy)))
    status, log = json.loads(outcome.read_text())
    if status:
        pytest.fail("the book does not build:\n" + log[-6000:], pytrace=False)
    return SimpleNamespace(root=copy, site=copy / "_build" / "html", log=log, build_again=lambda: build(copy))


@pytest.fixture(scope="module")
def browser():
    """A Chromium that reads files and reaches nothing: a page that asks for anything outside gets an error.

    Not for the whole session: its event loop would be in the way of tests that run their own.
    """
    known = (os.environ.get("CHROMIUM"), *map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    executable = next(filter(None, known), None)
    if not executable:
        if "NRAE_BROWSER_REQUIRED" in os.environ:
            pytest.fail("there is no Chromium, and these tests must not be skipped here")
        pytest.skip("there is no Chromium: install it, or name it in $CHROMIUM")
    from playwright.sync_api import sync_playwright

    # Chromium's own sandbox refuses to start as root, as in most containers. Search reads files beside the page.
    arguments = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    arguments += ["--allow-file-access-from-files"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=arguments)
        yield chromium
        chromium.close()

"""The house around the library: what is declared, what is pinned, what a newcomer types."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
EXTRAS = PROJECT["optional-dependencies"]
DECLARED = [Requirement(line) for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines]
PINNED = [Requirement(entry) for entry in re.findall(r"^(\S+==[^\\\n]+)", LOCK, flags=re.MULTILINE)]


def applicable(python: str) -> dict[str, Requirement]:
    """The pins that hold on Linux with this Python, by name; two pins of one package would be an error."""
    linux = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
    environment = {"python_version": python, "python_full_version": f"{python}.9", **linux}
    pins = [pin for pin in PINNED if pin.marker is None or pin.marker.evaluate(environment)]
    names = [canonicalize_name(pin.name) for pin in pins]
    assert len(names) == len(set(names)), f"pinned twice for Python {python}"
    return dict(zip(names, pins, strict=True))


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("requirement", DECLARED, ids=str)
def test_lock_covers_every_declared_dependency(python, requirement):
    pin = applicable(python)[canonicalize_name(requirement.name)]
    version = next(iter(pin.specifier)).version
    assert requirement.specifier.contains(version), f"{pin} does not satisfy {requirement}"


def test_every_pin_has_hashes_and_no_line_has_an_address():
    entries = re.split(r"^(?=[A-Za-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert len(entries) == len(PINNED) > 100
    without = [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry]
    assert not without
    assert not re.search(r"://|^\s*-[^-]|--(index|extra-index|find-links)|@ ", LOCK, flags=re.MULTILINE)
    assert not re.search(r"(?<![\w.])/\w", LOCK), "an absolute path"


def test_library_alone_needs_three_packages():
    assert {Requirement(line).name for line in PROJECT["dependencies"]} == {"torch", "numpy", "scikit-learn"}


def test_library_imports_without_the_extras():
    """A bare GPU node has no Jupyter and no plotting library: every module must import all the same."""
    import_names = {"jupyter-book": "jupyter_book", "pyyaml": "yaml", "sphinxcontrib-bibtex": "sphinxcontrib"}
    extras = [Requirement(line).name for name in ("book", "cluster", "test") for line in EXTRAS[name]]
    blocked = [import_names.get(name, name.replace("-", "_")) for name in extras] + ["IPython", "tqdm", "pydantic"]
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "nrae_lib").rglob("*.py")
        if path.stem != "__main__"
    ]
    code = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({blocked}))\n"
        f"for name in {modules}: importlib.import_module(name)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


# What README tells a reader to type or to use, and a package without which it fails.
PROMISED = {
    "papermill notebooks/fig7_swissroll.ipynb": "papermill",
    "jupyter-book build book/": "jupyter-book",
    "-p workers 4": "distributed",
    "-p cluster slurm": "dask-jobqueue",
    "python -m nrae_lib.data": "torchvision",
    "FID": "pytorch-fid",
    "GRAE": "phate",
    "RealNVP": "zuko",
    "UMAP": "umap-learn",
    "model.save(": "safetensors",
    ".parquet": "pyarrow",
    "a folder of images": "pillow",
    "device cuda": "torch",
}


@pytest.mark.parametrize(("promise", "package"), PROMISED.items(), ids=list(PROMISED))
def test_conda_environment_installs_what_readme_promises(promise, package):
    assert promise in (ROOT / "README.md").read_text()
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert conda == ["python" + PROJECT["requires-python"], "pip"], "packages belong in pyproject.toml"
    (line,) = pip
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", line)[1].split(",")
    installed = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    assert package in {Requirement(line).name for line in installed}


def test_floors_import_only_from_those_above_them_and_in_no_circle():
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and "2 kept, 0 broken" in result.stdout, result.stdout[-4000:]


def test_no_file_is_longer_than_500_lines():
    for folder in ("nrae_lib", "tests", "benchmarks", "book/_ext"):
        for path in (ROOT / folder).rglob("*.py"):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            assert lines <= 500, f"{path.relative_to(ROOT)} has {lines} lines: split it"


def test_every_target_says_what_it_does():
    text = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)[1].split()
    shown = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    for target in targets:
        assert re.search(rf"make {target}\s+\S", shown), f"`make help` does not explain {target}"
    assert {"env", "book", "test", "paper", "bench", "serve", "lock", "clean"} <= set(targets)


def test_no_python_gives_one_clear_sentence(tmp_path):
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    make = shutil.which("make")
    result = subprocess.run([make, "env"], cwd=tmp_path, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert result.returncode != 0
    assert "No Python >= 3.11 with pip was found" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_versions_agree():
    import nrae_lib

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] == nrae_lib.__version__
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert "MIT License" in (ROOT / "LICENSE").read_text()
    paper = citation["preferred-citation"]
    assert paper["title"] == "Neighborhood Reconstructing Autoencoders"
    assert [author["family-names"] for author in paper["authors"]] == ["Lee", "Kwon", "Park"]


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name)
def test_workflows_call_only_targets_that_exist(path):
    workflow = yaml.safe_load(path.read_text())
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)[1].split()
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    for command in (step["run"] for step in steps if "run" in step):
        for target in re.findall(r"make (\w+)", command):
            assert target in targets
        if command.startswith("."):
            assert os.access(ROOT / command, os.X_OK)


def test_ci_script_is_executable_and_parses():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    assert "make test" in script.read_text()
    assert "make book" in script.read_text()


def test_ruff_is_satisfied():
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff is not installed (it is in the extra `dev`, and in requirements.lock)")
    for command in (["check"], ["format", "--check"]):
        result = subprocess.run([ruff, *command, "."], cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout[-4000:]

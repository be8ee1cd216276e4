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
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    assert not re.search(r"://|^\s*-[^-]|--(index|extra-index|find-links)|@ ", LOCK, flags=re.MULTILINE)
    assert not re.search(r"(?<![\w.])/\w", LOCK), "an absolute path"


def test_library_imports_without_the_extras():
    """A bare GPU node has no Jupyter and no plotting library: all imports but that of the module for Dask."""
    assert {Requirement(line).name for line in PROJECT["dependencies"]} == {"torch", "numpy", "scikit-learn"}
    names = {"pyyaml": "yaml", "sphinxcontrib-bibtex": "sphinxcontrib", "import-linter": "importlinter"}
    extras = [Requirement(line).name for extra in ("book", "cluster", "test") for line in EXTRAS[extra]]
    blocked = [names.get(name, name.replace("-", "_")) for name in extras] + ["IPython", "tqdm", "pydantic"]
    paths = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "nrae_lib").rglob("*.py")]
    modules = {".".join(path.parts).removesuffix(".__init__") for path in paths if path.stem != "__main__"}
    code = f"import importlib, sys; sys.modules.update(dict.fromkeys({blocked}))\n"
    code += f"for name in {modules - {'nrae_lib.runs.cluster'}}: importlib.import_module(name)\n"
    code += "from nrae_lib.runs import grid; grid.check_workers(2)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stderr.splitlines()[-1].endswith("pip install 'nrae-lib[cluster]'"), result.stderr


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
    python, pip, packages = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert (python, pip) == ("python" + PROJECT["requires-python"], "pip")
    (line,) = packages["pip"]
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", line)[1].split(",")
    installed = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    assert package in {Requirement(line).name for line in installed}


def test_floors_import_only_from_those_above_them_and_in_no_circle():
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and "2 kept, 0 broken" in result.stdout, result.stdout[-4000:]


def test_no_file_is_longer_than_500_lines():
    paths = [path for name in ("nrae_lib", "tests", "benchmarks", "book/_ext") for path in (ROOT / name).rglob("*.py")]
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    assert {name: count for name, count in lines.items() if count > 500} == {}


TARGETS = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)[1].split())


def test_every_target_says_what_it_does():
    assert {"help", "env", "book", "test", "reduced", "paper", "bench", "serve", "lock", "clean"} == TARGETS
    shown = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    for target in TARGETS:
        assert re.search(rf"make {target}\s+\S", shown), f"`make help` does not explain {target}"


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


def test_scripts_call_only_targets_that_exist():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK) and subprocess.run(["bash", "-n", script]).returncode == 0
    assert re.findall(r"^make (\w+)", script.read_text(), flags=re.MULTILINE) == ["test", "book"]
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        jobs = yaml.safe_load(path.read_text())["jobs"].values()
        for command in (step["run"] for job in jobs for step in job["steps"] if "run" in step):
            assert set(re.findall(r"make (\w+)", command)) <= TARGETS
            assert not command.startswith(".") or (ROOT / command) == script


def test_ruff_is_satisfied():
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff is not installed (it is in the extra `dev`, and in requirements.lock)")
    for command in (["check"], ["format", "--check"]):
        result = subprocess.run([ruff, *command, "."], cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout[-4000:]

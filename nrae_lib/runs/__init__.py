"""A run is everything that decides a result and nothing else; a store keeps one atomic file per run."""

# ruff: noqa: F401 (imported for whoever imports from here, and for the book)
from nrae_lib.runs.grid import RunsFailed, run_all
from nrae_lib.runs.performing import check_device, device_name, environment, find_device, perform, trained_model
from nrae_lib.runs.run import RECIPES, Result, Run
from nrae_lib.runs.store import PRESETS, SCALES, Store, code_state, project_root
from nrae_lib.runs.study import Plan, Study

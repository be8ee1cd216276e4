"""A run is everything that decides a result and nothing else; a store keeps one atomic file per run."""

from nrae_lib.runs.run import (
    KEEP,
    PRESETS,
    RECIPES,
    Result,
    Run,
    Store,
    check_device,
    code_state,
    device_name,
    environment,
    find_device,
    frame_epochs,
    perform,
    project_root,
    trained_model,
)
from nrae_lib.runs.study import Plan, Study

__all__ = [
    "KEEP",
    "PRESETS",
    "RECIPES",
    "Plan",
    "Result",
    "Run",
    "Store",
    "Study",
    "check_device",
    "code_state",
    "device_name",
    "environment",
    "find_device",
    "frame_epochs",
    "perform",
    "project_root",
    "trained_model",
]  # fmt: skip

"""The training loop: data stays on the device, nothing waits for the host inside an epoch, resume is exact."""

from nrae_lib.core.training.checkpoints import Interrupted, stop_event
from nrae_lib.core.training.loop import Trained, fit
from nrae_lib.core.training.optimization import Optimization
from nrae_lib.core.training.steps import Diverged, step

__all__ = ["Diverged", "Interrupted", "Optimization", "Trained", "fit", "step", "stop_event"]

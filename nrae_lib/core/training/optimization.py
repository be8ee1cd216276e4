"""Adam, its schedule, when to stop, and how exactly to compute; plain data, part of what identifies a run."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, dataclass
from functools import cache
from math import cos, pi

import torch

from nrae_lib.core.methods.terms import check_fields, choice, number
from nrae_lib.core.private import float32_products


@dataclass(frozen=True)
class Optimization:
    """Adam and its schedule; plain data, part of what identifies a run.

    Arguments:
        epochs: passes over the data, at most.
        batch_size: points per step; the last batch of an epoch may be smaller (a single point joins the batch before).
        learning_rate: Adam's step size.
        decay_start: fraction of the epochs after which the learning rate shrinks (released code: 0.8); 1.0 for never.
        decay: "step" multiplies it by ``decay_factor`` every ``decay_every`` epochs (released code: 0.9 and 10);
            "cosine" lets it fall to zero along half a cosine, reached after the last epoch.
        patience: stop when the validation error has risen this many epochs in a row, each time above the epoch
            before (supplement, section 1: 10); 0 for never.
        precision: of matrix products and convolutions on a GPU: "tf32" (inputs rounded to 10 bits, sums in float32),
            "float32", or "bf16" (autocast to bfloat16 in the forward pass; weights and optimizer stay float32). On a
            CPU "tf32" is float32, and "bf16" is emulated where the processor has no such instructions. In bf16 the
            difference z' - z of close codes keeps few digits: an error of about 2^-9 ‖z‖/‖z' - z‖.

    A value out of range raises a ValueError that names what is valid.
    """

    epochs: int = number(MISSING, 1)
    batch_size: int = number(MISSING, 1)
    learning_rate: float = number(1e-3, strict=True)
    decay_start: float = number(1.0, high=1)
    decay_every: int = number(10, 1)
    decay_factor: float = number(0.9, high=1, strict=True)
    decay: str = choice("step", ("step", "cosine"))
    patience: int = number(0)
    precision: str = choice("tf32", ("tf32", "float32", "bf16"))

    def __post_init__(self):
        check_fields(self)

    def rate(self, epoch: int) -> float:
        """Learning rate of ``epoch`` (counted from 0)."""
        start = int(self.decay_start * self.epochs)
        since = max(0, epoch - start)
        if self.decay == "cosine":
            return self.learning_rate * (1 + cos(pi * since / max(1, self.epochs - start))) / 2
        return self.learning_rate * self.decay_factor ** (since // self.decay_every)

    @contextmanager
    def numerics(self, device: torch.device) -> Iterator[None]:
        """The process's settings for a training on ``device``, put back afterwards, but for one that cannot be read.
        Subnormal numbers count as zero: Adam's moments of dead ReLU units decay into them, and CPUs are many times
        slower there. On a GPU ``precision`` decides about TF32. On a CPU glibc keeps freed buffers from now on."""
        with ExitStack() as undo:
            undo.callback(torch.set_flush_denormal, float(torch.tensor(1e-310, dtype=torch.float64) * 1) == 0)
            torch.set_flush_denormal(True)
            if device.type == "cuda":
                undo.enter_context(float32_products(device, exact=self.precision == "float32"))
            else:
                _keep_large_buffers()
            yield

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context of the forward pass."""
        # A cached cast would outlive the step in which a CUDA graph captured it.
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16", cache_enabled=False)


@cache
def _keep_large_buffers() -> None:
    """Let glibc keep freed buffers of more than 32 MB for the next step: clearing fresh pages would cost much of it."""
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for setting in (-1, -3):  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
            library.mallopt(setting, 2**31 - 1)

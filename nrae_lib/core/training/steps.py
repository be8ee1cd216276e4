"""One step of the optimizer: as it is written, or captured once as a CUDA graph and replayed."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from nrae_lib.core.methods import Batch, Objective

_WARM_UP = 3  # steps before a capture, in which libraries choose their kernels and take their memory


class Diverged(FloatingPointError):
    """The loss or the weights are no longer finite, or the loss exploded. In ``epoch`` and ``step``, counted from 1,
    the ``term`` broke first; None if only the weights tell. ``checkpoint`` is the last good one, or None."""

    def __init__(self, message: str, epoch=None, step=None, term=None, checkpoint=None):
        super().__init__(message)
        self.epoch, self.step, self.term, self.checkpoint = epoch, step, term, checkpoint


def step(
    objective: Objective, batch: Batch, prepared: dict[str, Any], optimizer: torch.optim.Optimizer,
    record: Tensor | None = None, autocast: torch.autocast | None = None,
) -> Tensor:  # fmt: skip
    """One step of the optimizer on one batch; returns the loss before it, detached and still on the device. ``record``
    (terms,) is given every term's contribution to the loss; ``autocast`` is the context of the forward pass."""
    with autocast or nullcontext():
        loss = objective.loss(batch, prepared, record)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def adam(model: nn.Module, rate: float) -> torch.optim.Adam:
    """Fused Adam; on a GPU its step size is a tensor, so that a captured step follows the schedule."""
    device = next(model.parameters()).device
    if device.type != "cuda":
        return torch.optim.Adam(model.parameters(), rate, fused=True)
    return torch.optim.Adam(model.parameters(), torch.tensor(rate, device=device), fused=True, capturable=True)


class Captured:
    """A step for batches of one size as a CUDA graph: forward, Taylor pass, backward and optimizer in one launch.

    The batch's indices, the step size, the place of the record and the generator's state are tensors that the graph
    reads. The steps that warm up before the capture are undone. RuntimeError where a part cannot be captured.

    Arguments:
        run: takes a step on the batch of these indices (None: all points in order), ``shape`` being theirs.
        state: the tensors that ``run`` changes beside ``optimizer`` and ``generator``; the last: its row of the record.
    """

    def __init__(self, run, shape, state, optimizer, generator):
        self.device = device = state[0].device
        self.index = None if shape is None else torch.zeros(shape, dtype=torch.int64, device=device)
        kept, random = [tensor.detach().clone() for tensor in state], generator.get_state()
        moments = {p: {name: value.clone() for name, value in values.items()} for p, values in optimizer.state.items()}
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        try:
            with torch.cuda.device(device):  # a capture belongs to the current one
                with torch.cuda.stream(side):
                    for _ in range(_WARM_UP):
                        state[-1].zero_()
                        run(self.index)
                torch.cuda.current_stream(device).wait_stream(side)
                self.graph = torch.cuda.CUDAGraph()
                self.graph.register_generator_state(generator)
                # Other threads of this process may take memory meanwhile.
                with torch.cuda.graph(self.graph, stream=side, capture_error_mode="thread_local"):
                    run(self.index)
                state[-1].zero_()
                self.graph.replay()
                if int(state[-1]) != 1:
                    raise RuntimeError("a replay of the captured step does nothing")
        finally:  # in place, because the graph holds the addresses
            torch.cuda.current_stream(device).wait_stream(side)
            with torch.no_grad():
                for tensor, before in zip(state, kept, strict=True):
                    tensor.copy_(before)
            for parameter, values in optimizer.state.items():
                for name, value in values.items():
                    value.copy_(moments[parameter][name]) if parameter in moments else value.zero_()
            generator.set_state(random)

    def __call__(self, index: Tensor | None) -> None:
        if index is not None:
            self.index.copy_(index)
        with torch.cuda.device(self.device):
            self.graph.replay()

"""Time and memory of training steps, measured so that other work on the machine does little harm.

All contenders take turns, round after round, in an order drawn anew for every round. Ratios are taken within a round and
summarized over rounds by median and quartiles: what slows the machine for a while slows all of them alike. On the CPU one
thread counts its processor time, so that waiting for a core counts nothing; on a GPU the wall's clock is read while the
device is idle. Data and neighbours are random, and the learning rate is zero: they decide no time.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.utils import benchmark

from nrae_lib import paper, runs
from nrae_lib.core import methods
from nrae_lib.core.files import write_atomically
from nrae_lib.core.methods import Batch, Neighborhood, Objective, PhateTarget, Preparation
from nrae_lib.core.models import Network
from nrae_lib.core.training import Optimization, step
from nrae_lib.paper import runtime

if TYPE_CHECKING:
    import pandas

MNIST, TOY, WIDE = "MNIST 784-1000-500-250-2", "toy 2-512-512-512-1", "CelebA-sized 12288-512-128"
Size = tuple[Network, int, int]  # network, features D, batch size
SIZES: dict[str, Size] = {
    MNIST: (Network((1000, 500, 250), 2, "relu", "sigmoid"), 784, 100),  # the supplement's experiment on running time
    TOY: (Network((512, 512, 512), 1, "elu"), 2, 32),  # the released code's two-dimensional examples
    WIDE: (Network((512,), 128, "relu", "sigmoid"), 12_288, 100),  # m · D is far above the limit of exact Jacobians
}
_POINTS = 500  # of the random data; more than the neighbours of any objective


@dataclass(frozen=True, kw_only=True)
class Formulation(Objective):
    """Another way to compute an objective's loss: same batches, same neighbours, same result."""

    formula: Callable[[Objective, Batch, dict], Tensor]  #: (objective, batch, what it prepared) -> loss
    fused: bool = True  #: Adam, as in this library; PyTorch's default, as in the released code, if not

    def loss(self, batch: Batch, prepared: dict, record: Tensor | None = None) -> Tensor:
        return self.formula(self, batch, prepared)


def _plain(objective: Objective, batch: Batch, prepared: dict) -> Tensor:
    return mse_loss(batch.model(batch.x), batch.x)


def _double_backward(objective: Objective, batch: Batch, prepared: dict) -> Tensor:
    """As in the released code (``models/ae.py``): the value once for the centre, the derivatives for the centre, which it
    takes for a neighbour of its own, and for one neighbour, by double backward passes, at order 2 one within another."""
    term, decoder, x = objective.reconstruction, batch.model.decoder, batch.x
    near = torch.stack([x, batch.rows(batch.near(prepared["reconstruction"], 1)[0])], 1)
    repeated = (code := batch.model.encoder(x)).repeat_interleave(2, 0)
    direction = batch.model.encoder(near.flatten(0, 1)) - repeated
    jvp = partial(torch.autograd.functional.jvp, create_graph=True)
    if term.order == 1:
        change = jvp(decoder, repeated, direction)[1]
    else:
        first, second = jvp(lambda z: jvp(decoder, z, direction)[1], repeated, direction)
        change = first + second / 2
    centre, neighbour = (decoder(code)[:, None] + change.view(near.shape)).unbind(1)
    return (mse_loss(centre, x) + term.neighbor_weight * mse_loss(neighbour, near[:, 1])) / 2


def formulations(neighbor_weight: float = 1.0) -> dict[str, Objective]:
    """AE, NRAE-L and NRAE-Q by this library; AE as PyTorch runs it ("plain") and beside the released code, whose Adam is
    PyTorch's default; NRAE as the released code computes it ("released"). ``neighbor_weight`` is λ of all of them."""
    found = {"ae": Objective(), runtime.PLAIN: Formulation(formula=_plain)}
    found[runtime.RELEASED_AE] = Formulation(formula=_plain, fused=False)
    for order, name in ((1, "nrae_l"), (2, "nrae_q")):
        term = Neighborhood(order=order, neighbor_weight=neighbor_weight)
        found[name] = Objective(term)
        found[f"{name}, released"] = Formulation(term, formula=_double_backward, fused=False)
    return found


def check_formulations(contenders: dict[str, Objective]) -> None:
    """AssertionError unless all formulations of a method ("name, way") have the same loss and gradients (float64)."""
    for network in (Network((12, 8), 2, "elu"), Network((12,), 3, "relu", "sigmoid")):
        data, found = torch.rand(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), {}
        for name, objective in contenders.items():
            model = objective.build(network, (6,), seed=0).double()
            prepared = objective.prepare(Preparation(data, network.latent_dim, 0))
            loss = objective.loss(Batch(model, data, torch.arange(9), torch.Generator().manual_seed(0)), prepared)
            result = [loss, *torch.autograd.grad(loss, [*model.parameters()])]
            expected = found.setdefault(name.split(",")[0], result)
            torch.testing.assert_close(result, expected, rtol=1e-7, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


def everything() -> dict[str, Objective]:
    """All formulations, all methods of the catalogue, and the terms that no method has alone, with default options."""
    found = formulations() | {name: method.objective for name, method in methods.CATALOGUE.items()}
    alone = {name: Objective(term) for name, term in methods.RECONSTRUCTIONS.items()}
    alone |= {f"ae+{name}": methods.get(f"ae+{name}").objective for name in methods.PENALTIES}
    return found | {name: objective for name, objective in alone.items() if objective not in found.values()}


class _StandIns(Preparation):
    """Random neighbours instead of the nearest: a step takes the same time, and no graph is built."""

    def graph(self, n_neighbors: int) -> Tensor:
        return torch.randint(len(self.data), (len(self.data), n_neighbors), device=self.data.device)


def turns(size: Size, contenders: dict[str, Objective], device: str = "cpu") -> dict[str, Callable[[], float]]:
    """Name -> function that takes a step (on a GPU, which works ahead of the host, twenty) and returns its seconds.
    Objectives that need the same form of the network share one model. Its first step also makes Adam's moments."""
    (network, features, batch_size), steps = size, 1 if device == "cpu" else 20
    generator = torch.Generator(device).manual_seed(0)
    data = torch.rand(_POINTS, features, generator=generator, device=device)
    target = torch.randn(_POINTS, network.latent_dim, generator=generator, device=device)  # any costs the same
    stand_ins, models = _StandIns(data, network.latent_dim, seed=0), {}

    def turn(objective: Objective) -> Callable[[], float]:
        prepared = {
            name: target if isinstance(term, PhateTarget) else term.prepare(stand_ins)
            for name, term in objective.terms.items()
        }
        learned = tuple(name for term in objective.terms.values() for name in term.parameters())
        fused = getattr(objective, "fused", True)
        form = objective.latent, objective.weights, objective.posterior, learned, fused
        if form not in models:
            model = objective.build(network, (features,), seed=0).to(device)
            models[form] = model, torch.optim.Adam(model.parameters(), lr=0.0, fused=fused or None)
        model, optimizer = models[form]

        def seconds() -> float:
            indices = torch.randint(_POINTS, (steps, batch_size), generator=generator, device=device)
            begin = clock(device)
            for index in indices:
                step(objective, Batch(model, data, index, generator), prepared, optimizer)
            spent = (clock(device) - begin) / steps
            optimizer.zero_grad()  # models of other forms wait for the memory
            return spent

        return seconds

    return {name: turn(objective) for name, objective in contenders.items()}


def clock(device: str) -> float:
    """Seconds: processor time on the CPU, the wall's clock of an idle GPU."""
    return time.process_time() if device == "cpu" else benchmark.timer()


def take_turns(turns: dict, rounds: int) -> pandas.DataFrame:
    """Seconds that the functions of ``turns`` return, one row per round and one column per name: everyone takes one turn
    per round, in an order drawn for each. A round that does not count comes first. ValueError for fewer than one round.
    """
    import pandas

    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, not {rounds}")
    shuffled, found = random.Random(0), []
    for _ in range(rounds + 1):
        found.append({name: turns[name]() for name in shuffled.sample([*turns], len(turns))})
    return pandas.DataFrame(found[1:], columns=list(turns))


def peak_megabytes(turn: Callable[[], object], device: str = "cpu") -> float:
    """The most memory (MB) that the tensors made by ``turn()`` take at once, beyond what was there before: for a step
    gradients and activations. On the CPU by the profiler's record of every allocation; the process keeps freed memory."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        turn()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages would end on the page
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        turn()
    with TemporaryDirectory() as folder:
        profile.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
    memory = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    return max(accumulate((size for _, size in memory), initial=0)) / 1e6


def _measured(turns: dict, rounds: int, device: str) -> tuple[pandas.DataFrame, dict]:
    """Milliseconds of everyone's rounds on one thread, with a training's settings; and their peak memory."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with Optimization(epochs=1, batch_size=1).numerics(torch.device(device)):
            times = (1000 * take_turns(turns, rounds)).round(3)
            return times, {name: round(peak_megabytes(turn, device), 1) for name, turn in turns.items()}
    finally:
        torch.set_num_threads(threads)


def measure_steps(name: str, contenders: dict[str, Objective], rounds: int, device: str) -> dict[str, dict]:
    """Contender -> milliseconds (median), ratio (median of those to "ae", which must be among them), peak_megabytes and
    rounds (milliseconds of each) of steps at one of :data:`SIZES`; plain data."""
    times, peaks = _measured(turns(SIZES[name], contenders, device), rounds, device)
    columns = {
        "milliseconds": times.median().to_dict(),
        "ratio": times.div(times["ae"], axis=0).median().round(3).to_dict(),
        "peak_megabytes": peaks,
        "rounds": times.to_dict("list"),
    }
    return {name: {label: column[name] for label, column in columns.items()} for name in times}


def sweep(sizes: dict[int, Size], contenders: Callable[[int], dict[str, Objective]], rounds: int, device: str) -> dict:
    """Time and memory of steps while one number varies, on which sizes and contenders depend; all take turns in the same
    rounds. Plain data: ``values``; ``milliseconds``, name -> rounds of each; ``peak_megabytes``, name -> one of each."""
    every = {(name, x): turn for x in sizes for name, turn in turns(sizes[x], contenders(x), device).items()}
    times, peaks = _measured(every, rounds, device)
    names = dict.fromkeys(name for name, _ in every)
    return {
        "values": list(sizes),
        "milliseconds": {name: [times[name, x].tolist() for x in sizes] for name in names},
        "peak_megabytes": {name: [peaks[name, x] for x in sizes] for name in names},
    }


def provenance(device: str, rounds: int) -> dict:
    """Device, versions, threads, commit, date, kind of clock and number of rounds."""
    clock = "processor" if device == "cpu" else "wall"
    return {"device": runs.device_name(device), **runs.environment(), "threads": "1", "clock": clock, "rounds": rounds}


def origins(measured: dict[str, dict]) -> dict[str, dict[str, str]]:
    """Where measurements, label -> as stored, come from: rows of a table."""
    names = ("device", "clock", "threads", "rounds", "torch", "nrae_lib", "commit", "date")
    return {label: {name: str(one[name]) for name in names} for label, one in measured.items()}


def _folder(kind: str) -> Path:
    return runs.project_root() / "results" / "step_time" / ("" if kind == "methods" else kind)


def store(kind: str, measured: dict) -> Path:
    """Write a measurement to ``results/step_time``, one file per device; ``kind`` is "methods" or "scaling"."""
    path = _folder(kind) / f"{re.sub('[^a-z0-9]+', '-', measured['device'].lower()).strip('-')}.json"
    write_atomically(path, (json.dumps(measured, ensure_ascii=False, indent=1) + "\n").encode())
    return path


def stored(kind: str) -> list[dict]:
    """All measurements of ``kind`` that are stored, one per device, a GPU's last."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(_folder(kind).glob("*.json"))]


def times_of(measured: dict, name: str = MNIST) -> pandas.DataFrame:
    """Milliseconds of every contender (columns) in every round, at one size of a stored measurement of "methods"."""
    import pandas

    return pandas.DataFrame({key: row["rounds"] for key, row in measured["networks"][name]["steps"].items()})


def judge(page: str, measured: dict, preset: str) -> list[paper.Verdict]:
    """Verdicts on the claims of ``page``, "supp_table1_runtime" or "supp_fig1_runtime_scaling"."""
    table1 = page == "supp_table1_runtime"
    frame = runtime.step_frame(times_of(measured)) if table1 else runtime.scaling_frame(measured)
    return paper.judge(page, frame, preset, tuple(frame.condition.unique()))


def verdicts() -> list[paper.Verdict]:
    """Verdicts on all claims about running time, on the last of the stored measurements."""
    pages = {"supp_table1_runtime": "methods", "supp_fig1_runtime_scaling": "scaling"}
    return [one for page, kind in pages.items() for last in stored(kind)[-1:] for one in judge(page, last, "paper")]

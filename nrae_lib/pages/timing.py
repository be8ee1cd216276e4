"""Time and memory of training steps, measured so that other work on the machine does little harm.

All contenders take turns, round after round, in an order drawn anew for every round. Ratios are taken within a round and
summarized over rounds by median and quartiles: what slows the machine for a while slows all of them alike. On the CPU one
thread counts its processor time, so that waiting for a core counts nothing; on a GPU the wall's clock is read while the
device is idle. ``benchmarks/`` and the pages on running time are made of these functions.

Example:
    >>> from nrae_lib.core import methods
    >>> from nrae_lib.pages import timing
    >>> from nrae_lib.core.models import Network
    >>> bench = timing.Bench(Network((32,), 2), features=8, batch_size=10)
    >>> steppers = {name: bench.stepper(methods.get(name).objective) for name in ("ae", "nrae_q")}
    >>> with timing.threads(1):
    ...     times = timing.take_turns(steppers, rounds=3)
    >>> times.ratio("nrae_q", "ae").median > 0
    True
"""

import json
import os
import random
import re
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nrae_lib import runs
from nrae_lib.core import methods
from nrae_lib.core.files import write_atomically
from nrae_lib.core.graph import knn_graph
from nrae_lib.core.methods import Batch, Contraction, Neighborhood, Objective, PhateTarget, Point, Preparation
from nrae_lib.core.models import Network
from nrae_lib.core.taylor import taylor
from nrae_lib.core.training import step

# Network, features, batch size. Random data and random neighbours will do: they decide no time.
MNIST = "MNIST 784-1000-500-250-2"
NETWORKS = {
    # the supplement's experiment on running time
    MNIST: (Network((1000, 500, 250), 2, "relu", "sigmoid"), 784, 100),
    # the released code's two-dimensional examples
    "toy 2-512-512-512-1": (Network((512, 512, 512), 1, "elu"), 2, 32),
}
# As many features and latent dimensions as CelebA: m · D is far above the limit of exact Jacobians.
WIDE = ("CelebA-sized 12288-512-128", Network((512,), 128, "relu", "sigmoid"), 12_288, 100)
ONE_PASS, PLAIN, RELEASED = "ae, one pass", "ae, plain", "released"
_BOOTSTRAPS = 2000


# ------------------------------------------------------------------------------------------------------- measuring


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many torch threads, and subnormal numbers as zero, as in training; both put back afterwards.

    One thread's processor time is the same work whatever else runs; that of several would also count their waiting, so
    with more than one :func:`clock` reads the wall's.
    """
    before, flushed = torch.get_num_threads(), float(torch.tensor(1e-310, dtype=torch.float64) * 1) == 0
    torch.set_num_threads(count)
    torch.set_flush_denormal(True)  # Adam's moments of dead units decay into slow subnormal numbers
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(flushed)


class _StandIns(Preparation):
    """Random neighbours instead of the nearest: a step takes the same time, and no graph has to be built."""

    def graph(self, n_neighbors: int) -> Tensor:
        if n_neighbors not in self._graphs:
            generator = torch.Generator(self.data.device).manual_seed(self.seed)
            shape = len(self.data), n_neighbors
            self._graphs[n_neighbors] = torch.randint(
                len(self.data), shape, generator=generator, device=self.data.device
            )
        return self._graphs[n_neighbors]


class Bench:
    """One network on random data, to time and weigh steps of any objectives on it.

    Objectives that need the same form of the network share one model. The learning rate is zero: it decides no time, and
    every loss goes on seeing the initial weights.

    Arguments:
        network: hidden layers and latent dimension.
        features: D.
        batch_size: points per step.
        device: "cpu", "cuda", ...
        points: N, of the random data; more than the neighbours of any objective.
        steps: how many steps a turn takes (the clock is read before and after); by default 1 on the CPU and 20 on a GPU,
            which works ahead of the host.
        dtype: of data and weights.
    """

    def __init__(
        self, network: Network, features: int, batch_size: int, device: str = "cpu", points: int = 2000,
        steps: int | None = None, dtype: torch.dtype = torch.float32,
    ):  # fmt: skip
        self.network, self.features, self.batch_size = network, features, batch_size
        self.device, self.dtype = torch.device(device), dtype
        self.steps = steps or (20 if self.device.type == "cuda" else 1)
        self.generator = torch.Generator(self.device).manual_seed(0)
        self.data = torch.rand(points, features, generator=self.generator, device=self.device, dtype=dtype)
        self._preparation = _StandIns(self.data, network.latent_dim, seed=0)
        self._prepared, self._models = {}, {}

    def _prepare(self, term: methods.Term):
        if term not in self._prepared:
            if isinstance(term, PhateTarget):  # any target costs the same in a step
                shape = len(self.data), self.network.latent_dim
                made = torch.randn(shape, generator=self.generator, device=self.device, dtype=self.dtype)
            else:
                made = term.prepare(self._preparation)
            self._prepared[term] = made
        return self._prepared[term]

    def stepper(self, objective: Objective, fused: bool = True) -> Callable[[], float]:
        """A function that takes one turn and returns its seconds per step.

        Arguments:
            objective: what is minimized.
            fused: whether Adam is the fused one, as in this library, or PyTorch's default, as in the released code.
        """
        prepared = {name: self._prepare(term) for name, term in objective.terms.items()}
        learned = tuple(name for term in objective.terms.values() for name in term.parameters())
        form = (objective.latent, objective.weights, objective.posterior, learned, fused)
        if form not in self._models:
            model = objective.build(self.network, (self.features,), seed=0).to(self.device, self.dtype)
            optimizer = torch.optim.Adam(model.parameters(), lr=0.0, fused=True if fused else None)
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()  # makes Adam's moments, which count to the optimizer and not to the first step
            optimizer.zero_grad(set_to_none=True)
            self._models[form] = model, optimizer
        model, optimizer = self._models[form]

        def turn() -> float:
            shape = self.steps, self.batch_size
            indices = torch.randint(len(self.data), shape, generator=self.generator, device=self.device)
            begin = clock(self.device)
            for index in indices:
                step(objective, Batch(model, self._preparation.data, index, self.generator), prepared, optimizer)
            seconds = (clock(self.device) - begin) / self.steps
            optimizer.zero_grad(set_to_none=True)  # models of other forms wait for the memory
            return seconds

        return turn

    def steppers(self, contenders: dict[Hashable, "Contender"]) -> dict[Hashable, Callable[[], float]]:
        """A stepper for each of the contenders."""
        return {name: self.stepper(*contender) for name, contender in contenders.items()}


def clock(device: torch.device) -> float:
    """Seconds: processor time of one thread on the CPU; with several, and of an idle GPU, the wall's clock."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.process_time() if _by_processor(device) else time.perf_counter()


def _by_processor(device: torch.device) -> bool:
    return device.type == "cpu" and torch.get_num_threads() == 1


class Spread(NamedTuple):
    """Median and quartiles over rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Times:
    """Seconds of a step, name -> (rounds,), of contenders that took turns."""

    seconds: dict[Hashable, np.ndarray]

    def milliseconds(self, name: Hashable) -> float:
        """Median over rounds."""
        return 1000 * float(np.median(self.seconds[name]))

    def ratios(self, above: Hashable, below: Hashable) -> np.ndarray:
        """(rounds,) time of ``above`` over time of ``below`` in the same round."""
        return self.seconds[above] / self.seconds[below]

    def ratio(self, above: Hashable, below: Hashable) -> Spread:
        """Median and quartiles of :meth:`ratios`."""
        return Spread(*np.quantile(self.ratios(above, below), (0.5, 0.25, 0.75)).tolist())


def take_turns(steppers: dict[Hashable, Callable[[], float]], rounds: int, warm_up: bool = True) -> Times:
    """Let every stepper take one turn per round, in an order drawn for each round.

    Arguments:
        steppers: name -> function that returns seconds, see :meth:`Bench.stepper`.
        rounds: at least 1.
        warm_up: whether a round that does not count comes first.

    Raises:
        ValueError: for fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, not {rounds}")
    order, shuffle = list(steppers), random.Random(0).shuffle
    seconds = {name: [] for name in steppers}
    for number in range(-1 if warm_up else 0, rounds):
        shuffle(order)
        for name in order:
            spent = steppers[name]()
            if number >= 0:
                seconds[name].append(spent)
    return Times({name: np.array(values) for name, values in seconds.items()})


def peak_megabytes(turn: Callable[[], object], device: torch.device) -> float:
    """The most memory (MB) that the tensors made by ``turn()`` take at once, beyond what was there before.

    For a step that is gradients and activations; the model, its optimizer and the data do not count. On the CPU by the
    profiler's record of every allocation, because the process keeps freed memory.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        turn()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages would end on the page
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        turn()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 1e6


def slope(x, y) -> Spread:
    """Slope of a straight line through y(x): median over rounds of the least-squares slopes, and its 95 % interval.

    Arguments:
        x: (n,), at least two different values.
        y: (rounds, n).

    Returns:
        Spread: ``low`` and ``high`` are the percentile bootstrap's, over rounds.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    slopes = np.polyfit(x, y.T, 1)[0]
    drawn = np.random.default_rng(0).choice(slopes, (_BOOTSTRAPS, len(slopes)))
    return Spread(float(np.median(slopes)), *np.quantile(np.median(drawn, axis=1), (0.025, 0.975)).tolist())


# ------------------------------------------------------------------------------------------------------ contenders


class Contender(NamedTuple):
    """An objective, and whether its Adam is the fused one."""

    objective: Objective
    fused: bool = True


@dataclass(frozen=True, kw_only=True)
class Formulation(Objective):
    """Another way to compute an objective's loss: same batches, same neighbours, same result.

    Arguments:
        formula: (objective, batch, what it prepared) -> loss.
    """

    formula: Callable[[Objective, Batch, dict], Tensor]

    def loss(self, batch: Batch, prepared: dict) -> Tensor:
        return self.formula(self, batch, prepared)


def _squared(target: Tensor, output: Tensor) -> Tensor:
    return nn.functional.mse_loss(output, target)


def _plain(objective: Objective, batch: Batch, prepared: dict) -> Tensor:
    return _squared(batch.x, batch.model(batch.x))


def _one_pass(objective: Objective, batch: Batch, prepared: dict) -> Tensor:
    code = taylor(batch.model.encoder, batch.x, batch.x, 0).value
    return _squared(batch.x, taylor(batch.model.decoder, code, code, 0).value)


def _written_out(loss: Callable[[nn.Module, Tensor, int, float], Tensor]) -> Callable:
    """A formula from a loss of the model and of both, the points x of a batch followed by one neighbour x' of each."""

    def formula(objective: Objective, batch: Batch, prepared: dict) -> Tensor:
        term = objective.reconstruction
        near = batch.near(prepared["reconstruction"], 1, False)[0]
        return loss(batch.model, torch.cat([batch.x, batch.rows(near)]), term.order, term.neighbor_weight)

    return formula


@_written_out
def _plain_encoder(model: nn.Module, both: Tensor, order: int, weight: float) -> Tensor:
    points, neighbours = both.chunk(2)
    code, neighbour_code = model.encoder(both).chunk(2)
    jet = taylor(model.decoder, code, neighbour_code - code, order)
    return (_squared(points, jet.value) + weight * _squared(neighbours, jet.expansion())) / 2


def released_expansion(model: nn.Module, x: Tensor, near: Tensor, order: int) -> Tensor:
    """(B, n, D) expansions at the codes of ``x`` (B, D), evaluated at those of ``near`` (B, n, D), as in the released code.

    The decoder's value once for every centre; the derivatives for every neighbour by one ``torch.autograd.functional.jvp``,
    at order 2 within another, each of them a double backward pass (``models/ae.py`` there).
    """
    jvp = partial(torch.autograd.functional.jvp, create_graph=True)
    code = model.encoder(x)
    repeated = code.repeat_interleave(near.shape[1], 0)
    direction = model.encoder(near.flatten(0, 1)) - repeated
    if order == 1:
        change = jvp(model.decoder, repeated, direction)[1]
    else:
        first, second = jvp(lambda z: jvp(model.decoder, z, direction)[1], repeated, direction)
        change = first + second / 2
    return model.decoder(code)[:, None] + change.view(near.shape)


@_written_out
def _double_backward(model: nn.Module, both: Tensor, order: int, weight: float) -> Tensor:
    # The released code takes the centre for one of its own neighbours, at distance zero.
    points, neighbours = both.chunk(2)
    centre, neighbourhood = released_expansion(model, points, torch.stack([points, neighbours], 1), order).unbind(1)
    return (_squared(points, centre) + weight * _squared(neighbours, neighbourhood)) / 2


@_written_out
def _nested_jvp(model: nn.Module, both: Tensor, order: int, weight: float) -> Tensor:
    points, neighbours = both.chunk(2)
    code, neighbour_code = model.encoder(both).chunk(2)
    direction = neighbour_code - code

    def along(z):
        return torch.func.jvp(model.decoder, (z,), (direction,))

    if order == 1:
        value, first = along(code)
        expansion = value + first
    else:
        (value, first), (_, second) = torch.func.jvp(along, (code,), (direction,))
        expansion = value + first + second / 2
    return (_squared(points, value) + weight * _squared(neighbours, expansion)) / 2


def _full_jacobian(objective: Objective, batch: Batch, prepared: dict) -> Tensor:
    jacobian = torch.func.vmap(torch.func.jacfwd(lambda x: batch.model.encoder(x[None])[0]))(batch.x)
    penalty = jacobian.square().sum() / len(batch.x)
    return _plain(objective, batch, prepared) + objective.penalties[0].weight * penalty


FULL_JACOBIAN = Formulation(Point(), (Contraction(),), formula=_full_jacobian)
"""CAE whose Jacobian is built column by column, all D directions of all points at once in forward mode."""


def formulations(neighbor_weight: float = 1.0) -> dict[str, Contender]:
    """AE, NRAE-L and NRAE-Q, each by this library and in other formulations of the same loss.

    - "ae", "nrae_l", "nrae_q": this library.
    - "ae, plain": AE as PyTorch runs it; "ae, one pass": always by the kernels of :mod:`nrae_lib.core.taylor`, which the library
      takes for AE on the CPU and in large batches only. "nrae_q, plain encoder": the encoder as PyTorch runs it.
    - "nrae_q, released": as the authors' code computes it, by double backward on both points and neighbours, with
      PyTorch's default Adam; "nrae_q, double backward": the same with the fused one. "ae, released": the AE beside it.
    - "nrae_q, nested jvp": ``torch.func.jvp`` within ``torch.func.jvp``.

    Arguments:
        neighbor_weight: λ of all of them.
    """
    plain = Formulation(Point(), formula=_plain)
    found = {
        "ae": Contender(methods.get("ae").objective),
        PLAIN: Contender(plain),
        ONE_PASS: Contender(Formulation(Point(), formula=_one_pass)),
        f"ae, {RELEASED}": Contender(plain, fused=False),
    }
    for order, name in ((1, "nrae_l"), (2, "nrae_q")):
        term = Neighborhood(order=order, neighbor_weight=neighbor_weight)
        found |= {
            name: Contender(Objective(term)),
            f"{name}, plain encoder": Contender(Formulation(term, formula=_plain_encoder)),
            f"{name}, {RELEASED}": Contender(Formulation(term, formula=_double_backward), fused=False),
            f"{name}, double backward": Contender(Formulation(term, formula=_double_backward)),
            f"{name}, nested jvp": Contender(Formulation(term, formula=_nested_jvp)),
        }
    return found


def check_formulations(network: Network, features: int = 8, batch_size: int = 6) -> None:
    """Raise AssertionError unless all formulations of a method give the same loss and gradients, in double precision.

    Few units per layer will do: what is checked is the code, not the numbers.
    """
    results: dict[str, tuple] = {}
    for name, (objective, _) in formulations(neighbor_weight=0.1).items():
        bench = Bench(network, features, batch_size, dtype=torch.float64)
        model = objective.build(network, (features,), seed=0).double()
        index = torch.arange(batch_size)
        prepared = {"reconstruction": bench._prepare(objective.reconstruction)}
        batch = Batch(model, bench.data, index, torch.Generator().manual_seed(0))
        loss = step(objective, batch, prepared, torch.optim.SGD(model.parameters(), lr=0.0))
        result = (loss, [parameter.grad for parameter in model.parameters()])
        expected = results.setdefault(name.split(",")[0], result)
        torch.testing.assert_close(result, expected, rtol=1e-7, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


def everything() -> dict[str, Contender]:
    """All formulations, all methods of the catalogue, and the terms that no method has alone, with default options."""
    found = formulations() | {
        name: Contender(method.objective) for name, method in methods.CATALOGUE.items() if name not in formulations()
    }
    alone = {name: Objective(term) for name, term in methods.RECONSTRUCTIONS.items()}
    alone |= {f"ae+{name}": methods.get(f"ae+{name}").objective for name in methods.PENALTIES}
    known = [contender.objective for contender in found.values()]
    return found | {name: Contender(objective) for name, objective in alone.items() if objective not in known}


# ----------------------------------------------------------------------------------------------- whole measurements


def provenance(device: str, rounds: int) -> dict:
    """Device, versions, threads, commit, date, kind of clock and number of rounds."""
    return {
        "device": runs.device_name(device),
        **runs.environment(),
        "clock": "processor" if _by_processor(torch.device(device)) else "wall",
        "rounds": rounds,
    }


def measure_steps(bench: Bench, contenders: dict[str, Contender], rounds: int) -> dict[str, dict]:
    """One row per contender, as plain data.

    Arguments:
        contenders: among them "ae" and "ae, one pass", to which the ratios are.

    Returns:
        name -> milliseconds (median), ratio and ratio_to_one_pass (medians of ratios within rounds), peak_megabytes, and
        rounds (milliseconds of each).
    """
    steppers = bench.steppers(contenders)
    peaks = {name: peak_megabytes(turn, bench.device) for name, turn in steppers.items()}  # this warms up, too
    times = take_turns(steppers, rounds, warm_up=False)
    return {
        name: {
            "milliseconds": round(times.milliseconds(name), 3),
            "ratio": round(times.ratio(name, "ae").median, 3),
            "ratio_to_one_pass": round(times.ratio(name, ONE_PASS).median, 3),
            "peak_megabytes": round(peaks[name], 1),
            "rounds": [round(1000 * value, 3) for value in times.seconds[name].tolist()],
        }
        for name in contenders
    }


def measure_preparation(points: int, features: int, latent_dim: int, device: str = "cpu") -> dict[str, float]:
    """Seconds of everything that is prepared once, on random points with default options; a graph counts for itself.

    What needs a package that is not installed is left out; with no points everything is.
    """
    if not points:
        return {}
    data = torch.rand(points, features, generator=torch.Generator().manual_seed(0)).to(device)
    preparation, few, seconds = Preparation(data, latent_dim, seed=0), Preparation(data[:20], latent_dim, seed=0), {}
    terms = (*methods.RECONSTRUCTIONS.values(), *methods.PENALTIES.values())

    def timed(name: str, make: Callable[[Preparation], object]) -> None:
        try:
            make(few)  # imports packages, which takes PHATE's longer than many an embedding
        except ImportError:
            return
        begin = clock(data.device)
        make(preparation)
        seconds[name] = round(clock(data.device) - begin, 3)

    def graph(one: Preparation) -> None:  # not by one.graph(), which may read it from the disk
        one._graphs[neighbors] = knn_graph(one.data, neighbors)

    neighbors = Neighborhood().n_neighbors
    timed("graph", graph)
    for term in terms:
        if term.prepares and term.name != "neighborhood":
            timed(term.name, term.prepare)
    return seconds


def measure_methods(
    rounds: int, device: str = "cpu", contenders: dict[str, dict[str, Contender]] | None = None,
    preparation_points: int = 500, thread_count: int = 1,
) -> dict:  # fmt: skip
    """Time and memory of steps on some of ``NETWORKS``, and what is prepared once.

    Arguments:
        rounds, device: as elsewhere; the device must be one, not "auto".
        contenders: network -> contenders, see :func:`measure_steps`; :func:`everything` on all networks by default.
        preparation_points: N of :func:`measure_preparation`.
        thread_count: see :func:`threads`.

    Returns:
        Plain data: provenance, and ``networks``, name -> features, latent_dim, batch_size, points, steps and
        preparation_seconds.
    """
    measured = {}
    with threads(thread_count):
        for name, those in (contenders or dict.fromkeys(NETWORKS, everything())).items():
            network, features, batch_size = NETWORKS[name]
            # A step of the small network is too short to be timed alone.
            several = 4 if features < 100 and device == "cpu" else None
            bench = Bench(network, features, batch_size, device, steps=several)
            measured[name] = {
                "features": features, "latent_dim": network.latent_dim, "batch_size": batch_size,
                "points": preparation_points, "steps": measure_steps(bench, those, rounds),
                "preparation_seconds": measure_preparation(preparation_points, features, network.latent_dim, device),
            }  # fmt: skip
        return {**provenance(device, rounds), "networks": measured}


def measure_jacobians(rounds: int, device: str = "cpu") -> dict:
    """CAE on an input of CelebA's size: its estimate, and the exact Jacobian, which "auto" refuses there."""
    name, network, features, batch_size = WIDE
    cae = methods.get("cae")
    contenders = {name: formulations()[name] for name in ("ae", ONE_PASS)}
    contenders |= {f"cae, {form}": Contender(cae.configure(jacobian=form)) for form in ("estimate", "exact")}
    with threads(1):
        bench = Bench(network, features, batch_size, device, points=2 * batch_size)
        steps = measure_steps(bench, contenders, rounds)
    return {
        "network": name,
        "batch_size": batch_size,
        "features": features,
        "latent_dim": network.latent_dim,
        "steps": steps,
    }


def sweep(
    values: tuple[int, ...], bench: Callable[[int], Bench], contenders: Callable[[int], dict[str, Contender]], rounds: int
) -> dict:  # fmt: skip
    """Time and memory of steps while one number varies; all numbers and contenders take turns in the same rounds.

    Arguments:
        values: what the number is.
        bench, contenders: functions of it; equal benches may be one object.

    Returns:
        Plain data: ``values``; ``milliseconds``, name -> one list of rounds per value; ``peak_megabytes``, name -> one
        number per value. A contender may be missing at some values: None.
    """
    steppers, peaks = {}, {}
    for value in values:
        here = bench(value)
        for name, turn in here.steppers(contenders(value)).items():
            steppers[name, value] = turn
            peaks[name, value] = round(peak_megabytes(turn, here.device), 1)  # this warms up, too
    times = take_turns(steppers, rounds, warm_up=False)
    names = dict.fromkeys(name for name, _ in steppers)
    return {
        "values": list(values),
        "milliseconds": {
            name: [
                [round(1000 * t, 3) for t in times.seconds[name, value].tolist()] if (name, value) in steppers else None
                for value in values
            ]
            for name in names
        },
        "peak_megabytes": {name: [peaks.get((name, value)) for value in values] for name in names},
    }


def scaling_network(latent_dim: int = 2) -> Network:
    """The network of the supplement's Table 1; its Figure 1 names no widths."""
    return Network((1000, 500, 250), latent_dim, "relu", "sigmoid")


def measure_scaling(
    rounds: int, device: str = "cpu", names: tuple[str, ...] = ("ae", "cae", "grae", "spae", "nrae_l", "nrae_q"),
    dimensions: tuple[int, ...] = (), neighbors: tuple[int, ...] = (), latent_dims: tuple[int, ...] = (),
    full_jacobian: tuple[int, ...] = (), full_jacobian_rounds: int = 1, batch_size: int = 100,
) -> dict:  # fmt: skip
    """Steps against the number of features D, of neighbours k, and of latent dimensions m, and CAE's full Jacobian.

    Arguments:
        names: methods of the catalogue; AE is always measured. CAE stands for its exact Jacobian, by m vector-Jacobian
            products; "cae, estimate" comes with it.
        dimensions, neighbors, latent_dims: values of D, k and m; k is varied for the methods that have neighbours.
        full_jacobian: values of D for :data:`FULL_JACOBIAN`, a part of its own with rounds of its own, because one step
            takes seconds and gigabytes.
    """
    names = tuple(dict.fromkeys(("ae", *names)))
    with threads(1):
        default = Bench(scaling_network(), 784, batch_size, device)

        def of_method(name: str) -> dict[str, Contender]:
            if name != "cae":
                return {name: Contender(methods.get(name).objective)}
            cae = methods.get("cae")
            return {
                "cae": Contender(cae.configure(jacobian="exact")),
                "cae, estimate": Contender(cae.configure(jacobian="estimate")),
            }

        every = {label: contender for name in names for label, contender in of_method(name).items()}
        jacobians = {label: contender for label, contender in every.items() if label.split(",")[0] in ("ae", "cae")}
        with_neighbors = {name: methods.get(name) for name in names if "n_neighbors" in methods.get(name).options}

        def at_k(k: int) -> dict[str, Contender]:
            configured = {name: Contender(one.configure(n_neighbors=k)) for name, one in with_neighbors.items()}
            return {"ae": every["ae"]} | configured

        def wide(features: int) -> Bench:
            return Bench(scaling_network(), features, batch_size, device, points=max(500, 2 * batch_size))

        parts = {
            "dimensions": (dimensions, wide, lambda _: every, rounds),
            "neighbors": (neighbors, lambda _: default, at_k, rounds),
            "latent_dims": (
                latent_dims, lambda m: Bench(scaling_network(m), 784, batch_size, device), lambda _: jacobians, rounds,
            ),
            "full_jacobian": (
                full_jacobian, wide, lambda _: {"ae": every["ae"], "cae": Contender(FULL_JACOBIAN)}, full_jacobian_rounds,
            ),
        }  # fmt: skip
        measured = {part: sweep(*arguments) for part, arguments in parts.items() if arguments[0]}
        return {**provenance(device, rounds), "batch_size": batch_size, **measured}


# --------------------------------------------------------------------------------------- stored results and verdicts


def _folder(kind: str) -> Path:
    return runs.project_root() / "results" / "step_time" / ("" if kind == "methods" else kind)


def store(kind: str, measured: dict) -> Path:
    """Write a measurement to ``results/step_time``, one file per device; return its path.

    Arguments:
        kind: "methods" (which the page of methods reads, too), "scaling", ...; each but the first has its own folder.
        measured: plain data with the key ``device``.
    """
    path = _folder(kind) / f"{re.sub('[^a-z0-9]+', '-', measured['device'].lower()).strip('-')}.json"
    write_atomically(path, (json.dumps(measured, ensure_ascii=False, indent=1) + "\n").encode())
    return path


def stored(kind: str) -> list[dict]:
    """All measurements of ``kind`` that are stored, one per device."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(_folder(kind).glob("*.json"))]


def times_of(steps: dict[str, dict]) -> Times:
    """The rounds behind what :func:`measure_steps` returns."""
    return Times({name: np.array(row["rounds"]) / 1000 for name, row in steps.items() if "rounds" in row})


def step_frame(steps: dict[str, dict]):
    """What verdicts on Table 1 need: a DataFrame of condition, method, seed (the round), ratio and topoae_ratio.

    Condition "library" is over this library's AE, "plain" over AE as PyTorch runs it, "released" the released formulation
    over AE, both with PyTorch's default Adam. ``topoae_ratio`` is TopoAE's time over the method's.
    """
    import pandas

    times = times_of(steps)
    conditions = {"library": ("ae", ""), "plain": (PLAIN, ""), "released": (f"ae, {RELEASED}", f", {RELEASED}")}
    return pandas.DataFrame(
        [
            {"condition": condition, "method": method, "seed": number, "ratio": ratio, "topoae_ratio": topoae_ratio}
            for condition, (below, suffix) in conditions.items()
            for method in methods.CATALOGUE
            if {below, method + suffix} <= times.seconds.keys()
            for number, (ratio, topoae_ratio) in enumerate(
                zip(
                    times.ratios(method + suffix, below),
                    times.ratios("topoae", method + suffix)
                    if "topoae" in times.seconds
                    else np.full_like(times.seconds[below], np.nan),
                    strict=True,
                )
            )
        ],
        columns=["condition", "method", "seed", "ratio", "topoae_ratio"],
    )


def scaling_frame(measured: dict):
    """What verdicts on Figure 1 need: a DataFrame of condition, method, seed (the round), d_growth, k_growth, k_exponent.

    Growth is the time at the largest value over that at the smallest, for D relative to AE's at the same D. The exponent
    is that of k in what a step takes beyond AE's, between the two largest k. Conditions: "library"; for CAE "exact",
    "estimate" and "full_jacobian".
    """
    import pandas

    found: dict[tuple, dict] = {}

    def rows(part: str) -> Iterator[tuple[str, np.ndarray]]:
        for name, lists in measured.get(part, {}).get("milliseconds", {}).items():
            if len(lists) > 1:
                yield name, np.array(lists)

    def put(name: str, column: str, numbers: np.ndarray, condition: str = "library") -> None:
        method, _, form = name.partition(", ")
        condition = condition if method != "cae" or condition != "library" else form or "exact"
        for number, value in enumerate(numbers):
            key = condition, method, number
            found.setdefault(key, dict(zip(("condition", "method", "seed"), key, strict=True)))[column] = value

    for part, condition in (("dimensions", "library"), ("full_jacobian", "full_jacobian")):
        times = dict(rows(part))
        for name, lists in times.items():
            if name != "ae":
                put(name, "d_growth", (lists[-1] / times["ae"][-1]) / (lists[0] / times["ae"][0]), condition)
    times = dict(rows("neighbors"))
    for name, lists in times.items():
        put(name, "k_growth", lists[-1] / lists[0])
        if name != "ae":
            k = measured["neighbors"]["values"]
            extra = np.clip(lists - times["ae"], 1e-3, None)
            put(name, "k_exponent", np.log(extra[-1] / extra[-2]) / np.log(k[-1] / k[-2]))
    columns = ["condition", "method", "seed", "d_growth", "k_growth", "k_exponent"]
    return pandas.DataFrame(list(found.values()), columns=columns)

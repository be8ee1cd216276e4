"""What a machine can do, and how much of it training reaches.

:func:`matmul_rates` and :func:`bandwidths` measure the machine; :func:`step_parts` sets the time of training steps against
the same steps' matrix products run alone and against Adam alone; :func:`throughput`, :func:`whole_run` and
:func:`grid_scaling` measure what a user sees. Clock, threads and turns are those of :mod:`nrae_lib.timing`. The page on
performance and ``benchmarks/`` are made of these functions; all return plain data.

Example:
    >>> from nrae_lib import machine, methods, timing
    >>> from nrae_lib.models import Network
    >>> loop = machine.Loop(methods.get("nrae_q").objective, Network((32,), 2), (8,), batch_size=10)
    >>> with timing.threads(1):
    ...     seconds = loop.turn()
    >>> loop.products().flops > 0
    True
"""

import importlib.util
import math
import os
import tempfile
import time
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader
from torch.utils.flop_counter import flop_registry

from nrae_lib import datasets, grid, methods, runs, timing
from nrae_lib.feed import feed_of
from nrae_lib.graph import knn_graph
from nrae_lib.methods import Batch, Neighborhood, Objective
from nrae_lib.models import ConvNetwork, Network
from nrae_lib.runs import Run, Store
from nrae_lib.taylor import _ONEDNN
from nrae_lib.training import Optimization, fit, step
from nrae_lib.training.loop import Training

MNIST_CNN = "MNIST CNN of Table 3"
# Network, shape of a point, batch size.
NETWORKS = {
    name: (network, (features,), batch_size) for name, (network, features, batch_size) in timing.NETWORKS.items()
} | {MNIST_CNN: (ConvNetwork(16), (1, 28, 28), 100)}
TOY = next(name for name in NETWORKS if name.startswith("toy"))
METHODS = ("ae", "nrae_l", "nrae_q")

# The released code's denoising example: two neighbours are drawn with replacement, the centre itself is no target.
RELEASED_TOY = Objective(
    Neighborhood(
        order=2, n_neighbors=10, neighbor_weight=100.0, neighbors_per_point=2, replace=True, include_center=False
    )
)
RELEASED_DATA = dict(n_train=50, noise=0.3, sampling="grid")
RELEASED_EPOCHS, RELEASED_BATCH = 2001, 32

_SHORTEST_TURN = 4e8  # floating point operations; less is over before the clock has ticked


def precisions(device: str) -> tuple[str, ...]:
    """What a device has to offer: on a CPU "tf32" is "float32"."""
    return ("float32", "tf32", "bf16") if torch.device(device).type == "cuda" else ("float32", "bf16")


def _numerics(precision: str, device: torch.device) -> AbstractContextManager:
    return Optimization(1, 1, precision=precision).numerics(device)


# ----------------------------------------------------------------------------------------------------- the machine


def matmul_rates(device: str, rounds: int, square: int = 2048) -> dict:
    """Rate of matrix products, in 1e9 floating point operations per second.

    Products of the sizes that the supplement's and the toy network have, and a large square one. On a CPU float32 products
    are taken from both libraries that PyTorch has: MKL by ``torch.mm`` and oneDNN, which :mod:`nrae_lib.taylor` uses.

    Arguments:
        square: width of the square matrices; by rounding up, products of one size run several times in a turn.

    Returns:
        ``rates``, rows of product, shape (rows, inner, columns), kernel, precision, gflops (median), low and high (quartiles);
        ``peak``, precision -> the largest median; ``all_cores`` (CPU): the best square float32 product by the wall's clock
        on ``cores`` threads, which other work disturbs.
    """
    where = torch.device(device)
    generator = torch.Generator(where).manual_seed(0)
    shapes = {f"square, {square:,}": (square, square, square)}
    for name, (network, (features, *_), batch) in NETWORKS.items():
        if isinstance(network, Network):
            widths = (features, *network.hidden)
            inner, columns = max(zip(widths, widths[1:], strict=False), key=math.prod)
            short = name.split()[0]
            shapes |= {
                f"{short}, forward": (batch, inner, columns),
                f"{short}, forward, point and neighbour": (2 * batch, inner, columns),
                f"{short}, gradient of the weight": (columns, batch, inner),
            }

    def turn(function: Callable, precision: str, left: Tensor, right: Tensor, times: int) -> float:
        with _numerics(precision, where):
            begin = timing.clock(where)
            for _ in range(times):
                function(left, right)
            return (timing.clock(where) - begin) / times

    steppers = {}
    for product, (rows, inner, columns) in shapes.items():
        left, right = (torch.rand(size, inner, generator=generator, device=where) for size in (rows, columns))
        times = math.ceil(_SHORTEST_TURN / (2 * rows * inner * columns))
        for precision in precisions(device):
            pair = [part.bfloat16() if precision == "bf16" else part for part in (left, right)]
            for kernel, function in _kernels(where, precision).items():
                steppers[product, kernel, precision] = partial(turn, function, precision, *pair, times)
    with timing.threads(1):
        times = timing.take_turns(steppers, rounds)
    rows = []
    for (product, kernel, precision), seconds in times.seconds.items():
        rates = 2e-9 * math.prod(shapes[product]) / seconds
        middle, low, high = np.quantile(rates, (0.5, 0.25, 0.75)).round(1).tolist()
        rows.append(
            dict(product=product, shape=list(shapes[product]), kernel=kernel, precision=precision, gflops=middle)
            | dict(low=low, high=high)
        )
    found = {"rates": rows, "peak": {}}
    for row in rows:
        found["peak"][row["precision"]] = max(row["gflops"], found["peak"].get(row["precision"], 0.0))
    if where.type == "cpu":
        found["all_cores"], found["cores"] = _all_cores(square, rounds), os.cpu_count()
    return found


def _kernels(device: torch.device, precision: str) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Name -> function of ``left`` and ``right`` that computes left rightᵀ."""
    if device.type == "cuda":
        return {"cuBLAS": lambda left, right: torch.mm(left, right.t())}
    if precision != "float32":  # PyTorch itself hands these to oneDNN
        return {"oneDNN": lambda left, right: torch.mm(left, right.t())}
    found = {"MKL": lambda left, right: torch.mm(left, right.t())}
    if _ONEDNN:
        found["oneDNN"] = lambda left, right: torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    return found


def _all_cores(square: int, rounds: int) -> float:
    left, right = torch.rand(2, square, square)
    best = math.inf
    with timing.threads(os.cpu_count()):
        for function in [*_kernels(left.device, "float32").values()] * (rounds + 1):
            begin = time.perf_counter()
            function(left, right)
            best = min(best, time.perf_counter() - begin)
    return round(2e-9 * square**3 / best, 3)


def bandwidths(device: str, rounds: int, megabytes: int = 256) -> dict[str, float]:
    """Bytes moved per second, in 1e9, by arrays of ``megabytes`` each, far beyond the caches: medians over rounds.

    - ``copy``: b = a, two arrays. ``triad``: c = a + s b, three. What a cache fetches before it writes does not count.
    - ``adam``: an update by the fused Adam reads weight, gradient and two moments and writes all but the gradient, seven.
    """
    where, count = torch.device(device), megabytes * 250_000
    a, b, c = (torch.ones(count, device=where) for _ in range(3))
    weight = nn.Parameter(a)
    weight.grad = b
    optimizer = torch.optim.Adam([weight], 1e-6, fused=True)
    arrays = {
        "copy": (2, lambda: c.copy_(b)),
        "triad": (3, lambda: torch.add(a.detach(), b, alpha=0.5, out=c)),
        "adam": (7, optimizer.step),
    }

    def turn(move: Callable) -> float:
        begin = timing.clock(where)
        move()
        return timing.clock(where) - begin

    with timing.threads(1):
        times = timing.take_turns({name: partial(turn, move) for name, (_, move) in arrays.items()}, rounds)
    return {
        name: round(0.004 * number * count / 1e3 / times.milliseconds(name), 1) for name, (number, _) in arrays.items()
    }


# ------------------------------------------------------------------------------------------------- training's own loop


class Loop:
    """Steps of :func:`nrae_lib.training.fit`'s own loop, a few at a time; on a GPU they are captured as in ``fit``.

    Arguments:
        objective, network: what is trained on random points of ``shape``.
        batch_size: B.
        points: N; at least B.
        precision: see :class:`nrae_lib.training.Optimization`.
        steps: how many a turn takes; by default enough for the clock, and 20 on a GPU, which works ahead of the host.
    """

    def __init__(
        self, objective: Objective, network: Network | ConvNetwork, shape: tuple[int, ...], batch_size: int,
        device: str = "cpu", points: int = 1000, precision: str = "float32", steps: int | None = None,
    ):  # fmt: skip
        self.device = torch.device(device)
        data = torch.rand(max(points, batch_size), *shape, generator=torch.Generator().manual_seed(0))
        self.model = objective.build(network, shape, seed=0).to(self.device)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        # So small a rate that the weights stay what they are: a loss far from its minimum cannot explode.
        self.optimization = Optimization(10_000, batch_size, 1e-9, precision=precision)
        feed = feed_of(data, self.device)
        self.training = Training(self.model, objective, feed, self.optimization, 0, None, True, None)
        self.steps = steps or (20 if self.device.type == "cuda" else 1)

    def turn(self) -> float:
        """Take one turn; returns its seconds per step."""
        training, end = self.training, len(self.training.bounds)
        with self.optimization.numerics(self.device):
            begin = timing.clock(self.device)
            for _ in range(self.steps):
                if training.position == 0:
                    training.looked = training.epoch  # the record of the losses starts anew
                    training._begin_epoch()
                training._step()
                training.position = (training.position + 1) % end
                training.epoch += training.position == 0
            return (timing.clock(self.device) - begin) / self.steps

    def adam(self) -> float:
        """Seconds of one update by Adam alone, with the gradients of the last step."""
        begin = timing.clock(self.device)
        for _ in range(self.steps):
            self.training.optimizer.step()
        return (timing.clock(self.device) - begin) / self.steps

    def products(self) -> "Products":
        """The matrix products and convolutions of one step, forward and backward."""
        training, feed = self.training, self.training.feed
        index = torch.randperm(len(feed), device=self.device)[: self.optimization.batch_size]
        batch = Batch(self.model, feed, index, training.generator)
        autocast = self.optimization.autocast(self.device)
        with self.optimization.numerics(self.device):
            calls = recorded(
                lambda: step(training.objective, batch, training.prepared, training.optimizer, autocast=autocast)
            )
        return Products(calls, self)


class Products:
    """The matrix products of a step, to be run without the rest of it.

    Attributes:
        flops: their floating point operations, two for each multiplication and addition.
    """

    def __init__(self, calls: list[tuple], loop: Loop):
        self.calls, self.loop, self.flops = calls, loop, flops(calls)
        self.again = self._run
        if loop.device.type == "cuda":  # like the step, without a launch for each
            with loop.optimization.numerics(loop.device):
                side = torch.cuda.Stream(loop.device)
                side.wait_stream(torch.cuda.current_stream(loop.device))
                with torch.cuda.stream(side):
                    self._run()
                torch.cuda.current_stream(loop.device).wait_stream(side)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    self._run()
            self.again = graph.replay

    @torch.no_grad()
    def _run(self) -> None:
        for function, arguments, named in self.calls:
            function(*arguments, **named)

    def turn(self) -> float:
        """Seconds of all products of one step."""
        with self.loop.optimization.numerics(self.loop.device):
            begin = timing.clock(self.loop.device)
            for _ in range(self.loop.steps):
                self.again()
            return (timing.clock(self.loop.device) - begin) / self.loop.steps


class _Recorder(TorchDispatchMode):
    """Keeps every matrix product and convolution with what it was given."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        if function.overloadpacket in _FLOPS:
            self.calls.append((function, arguments, named or {}))
        return function(*arguments, **(named or {}))


def _linear_flops(left: Tensor, right: Tensor, *_, **__) -> int:
    return 2 * left.numel() * len(right)


# PyTorch's own counts, and that of a kernel of its CPU build which has none.
_FLOPS = flop_registry | ({torch.ops.mkldnn._linear_pointwise: _linear_flops} if _ONEDNN else {})


def recorded(work: Callable[[], object]) -> list[tuple]:
    """Every matrix product and convolution that ``work()`` calls, backward passes included: (function, arguments, named)."""
    with _Recorder() as recorder:
        work()
    return recorder.calls


@torch.no_grad()
def flops(calls: list[tuple]) -> int:
    """Floating point operations of what :func:`recorded` returns."""
    return sum(
        _FLOPS[function.overloadpacket](*arguments, **named, out_val=function(*arguments, **named))
        for function, arguments, named in calls
    )


def step_parts(
    device: str, rounds: int, names: tuple[str, ...] = tuple(NETWORKS), of_methods: tuple[str, ...] = METHODS,
    convolution_batch: int | None = None, at: tuple[str, ...] | None = None,
) -> list[dict]:  # fmt: skip
    """What steps are made of: their matrix products run alone, Adam alone, and everything else.

    All parts of one network take turns, so that a share is taken within a round.

    Arguments:
        names: of ``NETWORKS``.
        of_methods: of the catalogue.
        convolution_batch: batch of convolutional networks, whose steps take seconds on a CPU.
        at: precisions; by default all that the device has.

    Returns:
        Rows of network, method, precision, batch_size, parameters, gigaflops (of a step's products), step, products and adam
        (milliseconds, one number per round), peak_megabytes (gradients and activations) and run_megabytes (with model, moments
        and data).
    """
    rows, where = [], torch.device(device)
    for name in names:
        network, shape, batch = NETWORKS[name]
        batch = convolution_batch or batch if len(shape) > 1 else batch
        several = 4 if shape == (2,) and where.type == "cpu" else None  # too short a step to be timed alone
        steppers: dict[Hashable, Callable] = {}
        start = len(rows)
        with timing.threads(1):
            for method, precision in ((method, each) for method in of_methods for each in at or precisions(device)):

                def make(steps: int | None, method: str = method, precision: str = precision) -> Loop:
                    objective = methods.get(method).objective
                    return Loop(objective, network, shape, batch, device, 1000, precision, steps)  # noqa: B023

                # Two steps: the first has no moments yet.
                run_megabytes = timing.peak_megabytes(lambda make=make: make(2).turn(), where)
                loop = make(several)
                loop.turn()
                products = loop.products()
                rows.append({
                    "network": name, "method": method, "precision": precision, "batch_size": batch,
                    "parameters": loop.parameters, "gigaflops": products.flops / 1e9,
                    "step_megabytes": round(timing.peak_megabytes(loop.turn, where), 3),
                    "run_megabytes": round(run_megabytes, 3),
                })  # fmt: skip
                for part, turn in (("step", loop.turn), ("products", products.turn), ("adam", loop.adam)):
                    steppers[method, precision, part] = turn
            times = timing.take_turns(steppers, rounds, warm_up=where.type == "cuda")
        for row in rows[start:]:
            for part in ("step", "products", "adam"):
                seconds = times.seconds[row["method"], row["precision"], part]
                row[part] = [round(1000 * value, 4) for value in seconds.tolist()]
    return rows


def throughput(
    device: str, rounds: int, batch_sizes: tuple[int, ...], names: tuple[str, ...] = (timing.MNIST, TOY),
    of_methods: tuple[str, ...] = METHODS,
) -> dict:  # fmt: skip
    """Points per second against the batch size; all sizes and methods of a network take turns.

    Returns:
        ``batch_sizes``, and ``points_per_second``, network -> method -> one list of rounds per batch size.
    """
    found = {}
    for name in names:
        network, shape, _ = NETWORKS[name]
        with timing.threads(1):
            steppers = {}
            for size in batch_sizes:
                several = max(1, 32 // size) if torch.device(device).type == "cpu" else None
                for method in of_methods:
                    objective = methods.get(method).objective
                    loop = Loop(objective, network, shape, size, device, max(100, *batch_sizes), steps=several)
                    steppers[method, size] = loop.turn
            times = timing.take_turns(steppers, rounds)
        found[name] = {
            method: [[round(size / t, 2) for t in times.seconds[method, size].tolist()] for size in batch_sizes]
            for method in of_methods
        }
    return {"batch_sizes": list(batch_sizes), "points_per_second": found}


# ------------------------------------------------------------------------------------------------------- whole runs


class _PointAndNeighbours(torch.utils.data.Dataset):
    """One point and two of its neighbours at a time, as the released code reads its data."""

    def __init__(self, data: Tensor, n_neighbors: int, seed: int):
        self.data, self.graph, self.random = data, knn_graph(data, n_neighbors), np.random.RandomState(seed)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        chosen = self.random.choice(range(self.graph.shape[1]), 2, replace=True)
        return self.data[index], self.data[self.graph[index, chosen]]


def released_loss(model: nn.Module, x: Tensor, near: Tensor, weight: float) -> Tensor:
    """Loss of :data:`RELEASED_TOY` by :func:`nrae_lib.timing.released_expansion`; ``near`` is (B, n, D), weight λ."""
    return weight * nn.functional.mse_loss(timing.released_expansion(model, x, near, 2), near)


def released_loop(model: nn.Module, data: Tensor, epochs: int, seed: int) -> Callable[[int], None]:
    """A function that trains ``model`` for a number of epochs, each call going on where the last one ended.

    As the authors' code trains its toy: a DataLoader collates single points, PyTorch's default Adam, and for the last fifth
    of the epochs a StepLR; the loss is read once per step, for the log. What the code draws and prints meanwhile is left out.
    """
    term = RELEASED_TOY.reconstruction
    points = _PointAndNeighbours(data.cpu(), term.n_neighbors, seed)
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(points, batch_size=RELEASED_BATCH, shuffle=True, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.9)
    done, log = 0, []

    def train(count: int) -> None:
        nonlocal done
        for _ in range(count):
            for batch in loader:
                x, near = (part.to(data.device) for part in batch)
                optimizer.zero_grad()
                loss = released_loss(model, x, near, term.neighbor_weight)
                loss.backward()
                optimizer.step()
                log.append(loss.item())
            done += 1
            if done > 0.8 * epochs:
                schedule.step()

    return train


def whole_run(device: str, epochs: int = RELEASED_EPOCHS, chunk: int = 100, network: Network | None = None) -> dict:
    """The released toy example, trained by :func:`nrae_lib.training.fit` and by :func:`released_loop`, in turn.

    After every ``chunk`` epochs of ``fit`` the other one does as many, so that both meet the same disturbances. What each
    prepares counts for it.

    Returns:
        epochs (of each chunk), fit and loop (seconds of each chunk), steps, and gigaflops: of the matrix products of a step
        of average size, by both.
    """
    where = torch.device(device)
    network = network or NETWORKS[TOY][0]
    data = datasets.make("sine", 0, **RELEASED_DATA).train.to(where)
    ends = [*range(chunk, epochs, chunk), epochs]
    counts = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
    ours, theirs = [], []
    with timing.threads(1):
        small = Network((8,), 1)  # what is imported on first use counts for nobody
        released_loop(RELEASED_TOY.build(small, (2,), seed=0).to(where), data, 1, seed=0)(1)
        fit(RELEASED_TOY.build(small, (2,), seed=0).to(where), RELEASED_TOY, data, Optimization(1, RELEASED_BATCH), 0)
        fitted, looped = (RELEASED_TOY.build(network, (2,), seed=0).to(where) for _ in range(2))
        begin = timing.clock(where)
        train = released_loop(looped, data, epochs, seed=0)
        prepared = timing.clock(where) - begin

        def other(_: nn.Module) -> Tensor:
            nonlocal begin
            middle = timing.clock(where)
            ours.append(middle - begin)
            train(counts[len(theirs)])
            begin = timing.clock(where)
            theirs.append(begin - middle)
            return data.new_empty(0)

        begin = timing.clock(where)
        optimization = Optimization(epochs, RELEASED_BATCH, 1e-3, decay_start=0.8)
        trained = fit(fitted, RELEASED_TOY, data, optimization, 0, tuple(ends), other)
        ours[-1] += timing.clock(where) - begin
        theirs[0] += prepared
    return {
        "epochs": counts, "fit": [round(t, 5) for t in ours], "loop": [round(t, 5) for t in theirs],
        "steps": trained.steps, "gigaflops": _gigaflops(network, data, len(data) * epochs / trained.steps),
    }  # fmt: skip


def _gigaflops(network: Network, data: Tensor, batch_size: float) -> dict[str, float]:
    """1e9 floating point operations of the products of one step; they are proportional to the size of the batch."""
    model = RELEASED_TOY.build(network, (2,), seed=0).to(data.device)
    x = data[:RELEASED_BATCH]
    near = x[:, None].expand(-1, 2, -1)  # any neighbours will do
    prepared = RELEASED_TOY.prepare(methods.Preparation(data, network.latent_dim, 0))
    batch = Batch(model, data, torch.arange(len(x), device=data.device), torch.Generator(data.device))
    losses = {"fit": lambda: RELEASED_TOY.loss(batch, prepared), "loop": lambda: released_loss(model, x, near, 1.0)}
    scale = 1e-9 * batch_size / len(x)
    return {name: scale * flops(recorded(lambda loss=loss: loss().backward())) for name, loss in losses.items()}


def grid_scaling(workers: tuple[int, ...], count: int = 8, epochs: int = 500, network: Network | None = None) -> dict:
    """Wall time of ``count`` equal short runs by :func:`nrae_lib.grid.run_all` with several numbers of workers.

    Each worker has one thread, also where it is the only one, so that the gain is that of the workers alone. They are started,
    and perform one short run each, before the clock starts; that time is given apart. Runs go to a temporary store.

    Arguments:
        workers: 1 is the plain loop in this process.
        epochs: of each run, on 50 points in batches of 32.

    Returns:
        workers, seconds, start_seconds (one number each), cores, runs.
    """
    network = network or NETWORKS[TOY][0]

    def planned(seeds: range, epochs: int) -> list[Run]:
        optimization = Optimization(epochs, RELEASED_BATCH)
        return [Run("sine", "nrae_q", network, optimization, seed, RELEASED_DATA, keep="metrics") for seed in seeds]

    seconds, starts = [], []
    for number in workers:
        with tempfile.TemporaryDirectory() as folder, timing.threads(1), ExitStack() as cleanup:
            begin = time.perf_counter()
            run = partial(grid.run_all, store=Store(folder), device="cpu", progress=False)
            if number > 1:
                import distributed

                from nrae_lib.cluster import local_cluster

                own = cleanup.enter_context(local_cluster(number))
                client = cleanup.enter_context(distributed.Client(own, set_as_default=False))
                client.wait_for_workers(number)
                run = partial(run, cluster=client)
            run(planned(range(1000, 1000 + number), 1))
            started = time.perf_counter()
            run(planned(range(count), epochs))
            starts.append(round(started - begin, 2))
            seconds.append(round(time.perf_counter() - started, 2))
    return {
        "workers": list(workers), "seconds": seconds, "start_seconds": starts, "cores": os.cpu_count(), "runs": count,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ numbers to reach


def benchmark(name: str) -> ModuleType:
    """The module ``benchmarks/NAME.py`` of this checkout, for its functions.

    Raises:
        FileNotFoundError: if there is none.
    """
    path = runs.project_root() / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Goal:
    """A number to reach.

    Arguments:
        what, target: in words.
        measured: in words; empty if it was not measured.
        reached: None if it was not measured.
        bound: what keeps it from being better, or where it is measured.
    """

    what: str
    target: str
    measured: str = ""
    reached: bool | None = None
    bound: str = ""


def part_of(rows: list[dict], network: str, method: str, precision: str) -> dict | None:
    """Medians of a row of :func:`step_parts`, or None where it was not measured.

    Returns:
        milliseconds, products and adam (shares of the step, within rounds), gflops (of the step), product_gflops (of its
        products run alone).
    """
    for row in rows:
        if (row["network"], row["method"], row["precision"]) == (network, method, precision):
            step_time, products, adam = (np.array(row[part]) for part in ("step", "products", "adam"))
            return {
                "milliseconds": float(np.median(step_time)),
                "products": float(np.median(products / step_time)),
                "adam": float(np.median(adam / step_time)),
                "gflops": float(1000 * row["gigaflops"] / np.median(step_time)),
                "product_gflops": float(1000 * row["gigaflops"] / np.median(products)),
            }
    return None


def goals(measured: dict) -> list[Goal]:
    """The numbers to reach, against a measurement.

    Arguments:
        measured: what :func:`measure` returns; parts may be missing.
    """
    found = [*_of_steps(measured), _of_whole_run(measured), _of_neighbors(measured)]
    found += [_of_graph(measured), *_of_gpu(measured)]
    return found


def _of_steps(measured: dict) -> list[Goal]:
    network, parts = timing.MNIST, measured.get("parts", [])
    steps = measured.get("steps", {}).get(network, {})
    times = timing.times_of(steps) if steps else timing.Times({})
    precision = "tf32" if measured.get("clock") == "wall" else "float32"
    own = part_of(parts, network, "ae", precision)
    peak = measured.get("matmul", {}).get("peak", {}).get(precision)

    def made_of(method: str) -> str:
        part = part_of(parts, network, method, precision)
        if not part or not own or not peak:
            return ""
        more = part["products"] * part["milliseconds"] / (own["products"] * own["milliseconds"])
        return (
            f"its products alone take {part['products']:.0%} of the step, at {part['product_gflops'] / peak:.0%} of the "
            f"machine's best rate, and {more:.2f} times as long as AE's; Adam {part['adam']:.0%}"
        )

    found = []
    for method, title, limit in (("nrae_l", "NRAE-L", 1.5), ("nrae_q", "NRAE-Q", 1.6)):
        goal = Goal(f"a step of {title} / AE, supplement's network", f"≤ {limit}")
        if {method, "ae"} <= times.seconds.keys():
            ratio = times.ratio(method, "ae")
            text = f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
            if timing.PLAIN in times.seconds:
                text += f"; {times.ratio(method, timing.PLAIN).median:.2f} of AE as PyTorch runs it"
            goal = replace(goal, measured=text, reached=ratio.median <= limit, bound=made_of(method))
        found.append(goal)
    for method, title, limit in (("nrae_q", "NRAE-Q", 4), ("nrae_l", "NRAE-L", 3)):
        goal, released = Goal(f"released formulation / {title}, a step", f"≥ {limit}"), f"{method}, {timing.RELEASED}"
        if {method, released} <= times.seconds.keys():
            ratio = times.ratio(released, method)
            text = f"{ratio.median:.1f} ({ratio.low:.1f} to {ratio.high:.1f})"
            goal = replace(goal, measured=text, reached=ratio.median >= limit, bound=made_of(method))
        found.append(goal)
    return found


def _of_whole_run(measured: dict) -> Goal:
    whole = measured.get("whole_run")
    goal = Goal("released toy: per-sample loop / this library, whole run", "≥ 5")
    if not whole:
        return goal
    ratio = sum(whole["loop"]) / sum(whole["fit"])
    ours, theirs = (whole["gigaflops"][name] for name in ("fit", "loop"))
    bound = f"the loop's products are only {theirs / ours:.2f} times as many operations; the rest comes from faster kernels and "
    bound += f"from doing without a DataLoader. A step takes {1000 * sum(whole['fit']) / whole['steps']:.1f} ms"
    peak = measured.get("matmul", {}).get("peak", {}).get("float32")
    if peak:
        bound += f", and its products alone {1000 * ours / peak:.1f} ms at the machine's best float32 rate"
    return replace(goal, measured=f"{ratio:.1f} ({sum(whole['epochs']):,} epochs)", reached=ratio >= 5, bound=bound)


def _of_neighbors(measured: dict) -> Goal:
    goal = Goal("time of a step, k = 100 / k = 2", "flat", bound="measured on the page of supplement, Figure 1")
    part = measured.get("scaling", {}).get("neighbors")
    if not part:
        return goal
    growth = {
        name: float(np.median(np.array(lists[-1]) / np.array(lists[0])))
        for name, lists in part["milliseconds"].items()
        if name in ("ae", "nrae_l", "nrae_q")
    }
    text = ", ".join(f"{value:.2f} ({methods.get(name).title})" for name, value in growth.items())
    flat = all(value <= 1.1 for name, value in growth.items() if name != "ae")
    return replace(goal, what=f"time of a step, k = {part['values'][-1]} / k = {part['values'][0]}", measured=text,
                   reached=flat)  # fmt: skip


def _of_graph(measured: dict) -> Goal:
    goal = Goal("exact graph of 60,000 × 784, time / fastest library tried", "≤ 1.2")
    found = measured.get("neighbors", {})
    for size, libraries in found.items():
        exact = {name: row["ratio"] for name, row in libraries.items() if row["recall"] > 0.9999 and name != "nrae_lib"}
        if exact and (size == "MNIST" or size.endswith("784")):
            worst = max(exact, key=exact.get)
            reached = exact[worst] <= 1.2 if size == "MNIST" else None
            return replace(
                goal, measured=f"{exact[worst]:.2f} of {worst} ({size})", reached=reached,
                bound="" if reached is not None else "measured on fewer points here, at full size by preset paper",
            )  # fmt: skip
    return replace(goal, bound="not measured by this preset")


def _of_gpu(measured: dict) -> list[Goal]:
    parts = measured.get("parts", [])
    on_gpu = measured.get("clock") == "wall"
    kinds = ("tf32", "bf16") if on_gpu else ("float32", "bf16")
    peak = measured.get("matmul", {}).get("peak", {})
    toy = [part for kind in kinds for method in METHODS if (part := part_of(parts, TOY, method, kind))]
    network = MNIST_CNN
    own = {kind: part for kind in kinds if (part := part_of(parts, network, "ae", kind)) and kind in peak}
    near = {kind: part for kind in kinds if (part := part_of(parts, network, "nrae_l", kind))}

    def judged(what: str, target: str, number: float, text: str, reached: bool) -> Goal:
        if on_gpu:
            return Goal(what, target, text, reached)
        return Goal(what, target, bound=f"needs a GPU; on this CPU {text}")

    goals = {
        "steps": Goal("toy network on an H200, steps per second", "≥ 5,000", bound="needs a GPU"),
        "share": Goal("MNIST CNN of Table 3 on an H200, AE's share of the matmul rate", "≥ 40 %", bound="needs a GPU"),
        "ratio": Goal("MNIST CNN of Table 3 on an H200, a step of NRAE-L / AE", "≤ 1.9", bound="needs a GPU"),
    }
    if toy:
        slowest = 1000 / max(part["milliseconds"] for part in toy)
        goals["steps"] = judged(
            goals["steps"].what, "≥ 5,000", slowest, f"{slowest:,.0f} by the slowest method", slowest >= 5000
        )
    if own:
        shares = {kind: part["gflops"] / peak[kind] for kind, part in own.items()}
        text = ", ".join(f"{share:.0%} ({kind})" for kind, share in shares.items())
        goals["share"] = judged(goals["share"].what, "≥ 40 %", max(shares.values()), text, max(shares.values()) >= 0.4)
    if own.keys() & near.keys():
        ratios = {kind: near[kind]["milliseconds"] / own[kind]["milliseconds"] for kind in own if kind in near}
        text = ", ".join(f"{ratio:.2f} ({kind})" for kind, ratio in ratios.items())
        goals["ratio"] = judged(goals["ratio"].what, "≤ 1.9", max(ratios.values()), text, max(ratios.values()) <= 1.9)
    return list(goals.values())


def measure(
    rounds: int, device: str = "cpu", names: tuple[str, ...] = tuple(NETWORKS), of_methods: tuple[str, ...] = METHODS,
    formulations: tuple[str, ...] = ("ae", timing.PLAIN, timing.ONE_PASS, *(
        f"{method}{form}" for method in ("nrae_l", "nrae_q") for form in ("", f", {timing.RELEASED}", ", nested jvp")
    )),
    batch_sizes: tuple[int, ...] = (1, 4, 16, 64, 256, 1024), convolution_batch: int | None = None, square: int = 2048,
    megabytes: int = 256, whole_epochs: int = RELEASED_EPOCHS, chunk: int = 100, graphs: dict[str, tuple[int, int]] | None = None, ensembles: tuple[str, ...] = (),
    members: tuple[int, ...] = (2, 10), workers: tuple[int, ...] = (),
) -> dict:  # fmt: skip
    """Everything of this module in one measurement.

    Arguments:
        formulations: names from :func:`nrae_lib.timing.formulations` to be compared; none leaves them out.
        whole_epochs: 0 leaves the whole run out.
        graphs: name -> points and features, measured by ``benchmarks/neighbors.py``.
        ensembles, members: cases of ``benchmarks/ensembles.py``, and numbers of members.
        workers: see :func:`grid_scaling`; none leaves it out.

    Returns:
        Plain data: provenance, and matmul, bandwidth, parts, steps, throughput, whole_run, neighbors, ensembles and grid.
    """
    known = timing.formulations()
    measured = {"matmul": matmul_rates(device, rounds, square), "bandwidth": bandwidths(device, rounds, megabytes)}
    measured["parts"] = step_parts(device, rounds, names, of_methods, convolution_batch)
    if formulations:
        contenders = {name: known[name] for name in formulations}
        networks = {name: contenders for name in timing.NETWORKS if name in names}
        steps = timing.measure_methods(rounds, device, networks, preparation_points=0)["networks"]
        measured["steps"] = {name: part["steps"] for name, part in steps.items()}
    if batch_sizes:
        fully_connected = tuple(name for name in names if name != MNIST_CNN)
        measured["throughput"] = throughput(device, rounds, batch_sizes, fully_connected, of_methods)
    if whole_epochs:
        measured["whole_run"] = whole_run(device, whole_epochs, chunk)
    if graphs:
        measured["neighbors"] = benchmark("neighbors").measure(graphs, device, rounds=min(rounds, 3))
    if ensembles:
        one = benchmark("ensembles")
        with timing.threads(1):
            measured["ensembles"] = {
                case: {
                    method: one.measure(method, case, list(members), min(rounds, 9), torch.device(device))
                    for method in of_methods
                    if method != "nrae_l"  # between the two others
                }
                for case in ensembles
            }
    if workers:
        measured["grid"] = grid_scaling(workers)
    with timing.threads(1):
        return {**timing.provenance(device, rounds), **measured}

"""What a training step and the neighbour graph gain over what they replace, as ratios of one run.

    python benchmarks/steps.py [--rounds 7] [--points 5000] [--threads 1] [--device cpu]

A step of AE, NRAE-L and NRAE-Q on the supplement's network and on a small one, beside the authors' formulation (double backward
passes, PyTorch's default Adam) and nested ``torch.func.jvp``; AE also as PyTorch runs it. All of them are first checked to give
the same loss and gradients. The neighbour graph of MNIST's images, or of normal numbers where they are not installed, beside
scikit-learn's brute force.

All take turns in every round, ratios are taken within a round, and the tables show medians and quartiles over rounds, so that
other work on the machine disturbs all of them alike. With one thread on the CPU the clock counts the processor's time.
"""

import argparse
import time
from collections.abc import Callable

import pandas
import torch
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.utils.benchmark import Timer

from nrae_lib import runs
from nrae_lib.core.graph import knn_graph
from nrae_lib.core.methods import Batch, Neighborhood, Objective
from nrae_lib.core.models import Network
from nrae_lib.core.training import Optimization
from nrae_lib.data import images
from nrae_lib.pages import timing

SIZES = {
    timing.MNIST: timing.SIZES[timing.MNIST],
    "toy 2-512-512-1, batches of 32": (Network((512, 512), 1, "elu"), 2, 32),
}
K = 15


def nested_jvp(objective: Objective, batch: Batch, prepared: dict) -> Tensor:
    """NRAE's loss by ``torch.func.jvp``, at order 2 within another."""
    term, x = objective.reconstruction, batch.x
    near = batch.rows(batch.near(prepared["reconstruction"], 1)[0])
    code, near_code = batch.model.encoder(torch.cat([x, near])).chunk(2)
    direction = near_code - code

    def along(z: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.jvp(batch.model.decoder, (z,), (direction,))

    if term.order == 1:
        value, first = along(code)
        expansion = value + first
    else:
        (value, first), (_, second) = torch.func.jvp(along, (code,), (direction,))
        expansion = value + first + second / 2
    return (mse_loss(value, x) + term.neighbor_weight * mse_loss(expansion, near)) / 2


def contenders(neighbor_weight: float = 1.0) -> dict[str, Objective]:
    """Name, or "name, way" of another formulation -> objective."""
    found = timing.formulations(neighbor_weight)
    for order, name in ((1, "nrae_l"), (2, "nrae_q")):
        term = Neighborhood(order=order, neighbor_weight=neighbor_weight)
        found[f"{name}, nested jvp"] = timing.Formulation(term, formula=nested_jvp)
    return found


def seconds(calls: dict[str, Callable], rounds: int, number: int, threads: int, device: str) -> pandas.DataFrame:
    """(rounds, calls): seconds of one call, the mean of ``number``; all take turns in every round."""
    clock = {"timer": time.process_time} if device == "cpu" and threads == 1 else {}
    timers = {
        name: Timer("call()", globals={"call": call}, num_threads=threads, **clock) for name, call in calls.items()
    }
    with threadpool_limits(threads), Optimization(epochs=1, batch_size=1).numerics(torch.device(device)):
        return pandas.DataFrame(
            [{name: timer.timeit(number).mean for name, timer in timers.items()} for _ in range(rounds)]
        )


def show(title: str, times: pandas.DataFrame, ratios: dict[str, dict[str, str]]) -> None:
    """Print medians, and ratios with quartiles: title -> {name: name of what its time is divided by}."""
    table = pandas.DataFrame({"ms": (1000 * times.median()).map("{:.2f}".format)})
    for ratio, pairs in ratios.items():
        for name, below in pairs.items():
            low, middle, high = (times[name] / times[below]).quantile([0.25, 0.5, 0.75])
            table.loc[name, ratio] = f"{middle:.2f} ({low:.2f} to {high:.2f})"
    print(f"\n{title}\n{table.to_string()}", flush=True)


def points(count: int) -> tuple[str, Tensor]:
    """What they are, and (N, 784) of them."""
    if images.available("mnist"):
        return "MNIST", images.load("mnist").train_images[:count].flatten(1).float() / 255
    return "normal numbers", torch.randn(count, 784, generator=torch.Generator().manual_seed(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="of all steps; the graph takes a third (default: 7)")
    parser.add_argument("--points", type=int, default=5000, help="of the graph, 0 for none (default: 5000)")
    parser.add_argument("--threads", type=int, default=1, help="more than 1 needs an idle machine (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, of the steps and the graph (default: cpu)")
    given = parser.parse_args()
    device = runs.find_device(given.device)
    print(", ".join([runs.device_name(device), *(f"{name} {value}" for name, value in runs.environment().items())]))
    timing.check_formulations(contenders(neighbor_weight=0.1))
    for title, size in SIZES.items():
        steps = timing.turns(size, contenders(), device)
        times = seconds(steps, given.rounds, 4, given.threads, device)
        own = {name: name.split(",")[0] for name in times}
        ratios = {"/ AE": dict.fromkeys(times, "ae"), "/ AE, plain": dict.fromkeys(times, "ae, plain"), "/ ours": own}
        show(f"{title}: a step", times, ratios)
    if given.points:
        name, found = points(given.points)
        array, on_device = found.numpy(), found.to(device)
        brute = NearestNeighbors(n_neighbors=K, algorithm="brute", n_jobs=given.threads).fit(array)
        calls = {
            "knn_graph": lambda: knn_graph(on_device, K).cpu(),
            "scikit-learn": lambda: brute.kneighbors(return_distance=False),
        }
        times = seconds(calls, max(1, given.rounds // 3), 1, given.threads, device)
        title = f"neighbour graph of {len(found)} x {found.shape[1]} {name}, k = {K}"
        show(title, times, {"/ ours": dict.fromkeys(times, "knn_graph")})


if __name__ == "__main__":
    main()

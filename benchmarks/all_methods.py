"""Time of one training step of every method in the catalogue, relative to the plain autoencoder.

    python benchmarks/all_methods.py [--device cpu] [--rounds N] [--json PATH]

All take a step in turn, round after round; ratios are taken within a round, and the table shows medians over rounds,
so that other work on the machine disturbs all of them alike. Beside the catalogue stand the reconstruction terms that no
method has alone and the penalties that none adds alone to AE. What is prepared once before training is timed
by itself. One CPU thread and its processor time, or a GPU and the wall's clock.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from step_time import NETWORKS, OnePassAutoencoder

from nrae_lib import methods, runs
from nrae_lib.methods import Batch, Objective, Preparation
from nrae_lib.models import Network
from nrae_lib.training import step

POINTS = 500  # the step's time does not depend on it; PHATE's grows with its square
# As many features and latent dimensions as CelebA: m · D is far above the limit of exact Jacobians.
WIDE = ("CelebA-sized 12288-512-128", Network((512,), 128, "relu", "sigmoid"), 12_288, 100)


ONE_PASS = "ae, one pass"


class OnePass(Objective):
    """AE through the kernels of ``nrae_lib.taylor``, which some methods use and the plain autoencoder does not.

    Where these are faster, as on AMD processors, a ratio to AE shows what a method costs less what its kernels gain.
    """

    def loss(self, batch: Batch, prepared: dict) -> torch.Tensor:
        return OnePassAutoencoder().loss(batch, prepared)


def objectives() -> dict[str, Objective]:
    """Name -> objective, all with their default options."""
    found = {name: method.objective for name, method in methods.CATALOGUE.items()} | {ONE_PASS: OnePass()}
    alone = {name: Objective(term) for name, term in methods.RECONSTRUCTIONS.items()}
    alone |= {f"ae+{name}": methods.get(f"ae+{name}").objective for name in methods.PENALTIES}
    return found | {name: objective for name, objective in alone.items() if objective not in found.values()}


class Bench:
    """One network on random data; objectives that need the same form of it share one model.

    The learning rate is zero: it decides no time, and every loss goes on seeing the initial weights.
    """

    def __init__(self, network: Network, features: int, batch_size: int, points: int, device: torch.device):
        self.network, self.features, self.batch_size, self.device = network, features, batch_size, device
        self.generator = torch.Generator(device).manual_seed(0)
        self.data = torch.rand(points, features, generator=self.generator, device=device)
        self.preparation = Preparation(self.data, network.latent_dim, seed=0)
        self.prepared, self.seconds, self.models = {}, {}, {}

    def clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def prepare(self, objective: Objective) -> dict:
        """What the terms prepare, each computed and timed once; a graph counts for itself."""
        for term in objective.terms.values():
            if term in self.prepared:
                continue
            neighbors = getattr(term, "n_neighbors", 0)
            if neighbors and "graph" not in self.seconds:
                begin = self.clock()
                self.preparation.graph(neighbors)
                self.seconds["graph"] = self.clock() - begin
            begin = self.clock()
            self.prepared[term] = term.prepare(self.preparation)
            if term.prepares and term.name != "neighborhood":
                self.seconds.setdefault(term.name, self.clock() - begin)
        return {name: self.prepared[term] for name, term in objective.terms.items()}

    def stepper(self, objective: Objective) -> Callable[[], float]:
        """A function that takes one step and returns its seconds."""
        prepared = self.prepare(objective)
        learned = tuple(name for term in objective.terms.values() for name in term.parameters())
        form = (objective.latent, objective.weights, objective.posterior, learned)
        if form not in self.models:
            model = objective.build(self.network, (self.features,), seed=0).to(self.device)
            self.models[form] = model, torch.optim.Adam(model.parameters(), lr=0.0, fused=True)
        model, optimizer = self.models[form]

        def one() -> float:
            index = torch.randint(len(self.data), (self.batch_size,), generator=self.generator, device=self.device)
            begin = self.clock()
            step(objective, Batch(model, self.data, index, self.generator), prepared, optimizer)
            seconds = self.clock() - begin
            optimizer.zero_grad(set_to_none=True)
            return seconds

        return one


def compare(bench: Bench, contenders: dict[str, Objective], rounds: int) -> dict[str, dict[str, float]]:
    """Name -> median milliseconds, and median ratios to AE, plain and in one pass, in the same round."""
    steppers = {}
    for name, objective in contenders.items():
        try:
            steppers[name] = bench.stepper(objective)
        except ImportError as error:
            print(f"{name} is left out: {error}")
    times = [{name: one() for name, one in steppers.items()} for _ in range(rounds + 1)][1:]  # the first warms up
    return {
        name: {
            "milliseconds": round(1000 * median(seconds[name] for seconds in times), 3),
            "ratio": round(median(seconds[name] / seconds["ae"] for seconds in times), 3),
            "ratio_to_one_pass": round(median(seconds[name] / seconds[ONE_PASS] for seconds in times), 3),
        }
        for name in steppers
    }


def peak_megabytes(bench: Bench, one: Callable[[], float]) -> tuple[float, float]:
    """(MB, seconds) of one step: the most that its tensors take beyond what was there before it.

    On the CPU by the profiler's record of every allocation, because the process keeps freed memory.
    """
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds = one()
        return (torch.cuda.max_memory_allocated() - before) / 1e6, seconds
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        seconds = one()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 1e6, seconds


def jacobians(device: torch.device, rounds: int) -> dict:
    """CAE on an input of CelebA's size: its estimate, and the exact Jacobian that "auto" refuses there, in one step."""
    name, network, features, batch_size = WIDE
    bench = Bench(network, features, batch_size, 2 * batch_size, device)
    cae = methods.get("cae")
    contenders = {
        "ae": methods.get("ae").objective,
        ONE_PASS: OnePass(),
        "cae, estimate": cae.configure(jacobian="estimate"),
    }
    rows = compare(bench, contenders, rounds)
    for label, objective in contenders.items():
        rows[label]["peak_megabytes"] = round(peak_megabytes(bench, bench.stepper(objective))[0], 1)
    megabytes, seconds = peak_megabytes(bench, bench.stepper(cae.configure(jacobian="exact")))
    rows["cae, exact"] = {
        "milliseconds": round(1000 * seconds, 3),
        "ratio": round(1000 * seconds / rows["ae"]["milliseconds"], 3),
        "ratio_to_one_pass": round(1000 * seconds / rows[ONE_PASS]["milliseconds"], 3),
        "peak_megabytes": round(megabytes, 1),
    }
    return {"network": name, "batch_size": batch_size, "features": features, "latent_dim": 128, "steps": rows}


def table(title: str, rows: dict[str, dict[str, float]]) -> str:
    columns = list(next(iter(rows.values())))
    heading = f"{title:30}" + "".join(f"{name.replace('_', ' '):>19}" for name in columns)
    lines = [
        f"{name:30}" + "".join(f"{row[column]:19.{2 if 'ratio' in column else 1}f}" for column in columns)
        for name, row in rows.items()
    ]
    return "\n".join([heading, "-" * len(heading), *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=8, help="timed steps of every method (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    arguments = parser.parse_args()
    runs.check_device(arguments.device)
    device, rounds = torch.device(arguments.device), max(1, arguments.rounds)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    provenance = {
        "device": runs.device_name(arguments.device),
        **runs.environment(),
        "clock": "wall" if device.type == "cuda" else "processor",
        "rounds": rounds,
    }
    print(", ".join(f"{key} {value}" for key, value in provenance.items()))
    results = {}
    for name, (network, features, batch_size) in NETWORKS.items():
        bench = Bench(network, features, batch_size, POINTS, device)
        rows = compare(bench, objectives(), rounds)
        prepared = {term: round(seconds, 3) for term, seconds in bench.seconds.items()}
        results[name] = {
            "features": features, "latent_dim": network.latent_dim, "batch_size": batch_size, "points": POINTS,
            "steps": rows, "preparation_seconds": prepared,
        }  # fmt: skip
        print("\n" + table(name, rows))
        print("prepared once, seconds: " + ", ".join(f"{term} {value}" for term, value in prepared.items()), flush=True)
    wide = jacobians(device, rounds)
    print("\n" + table(wide["network"], wide["steps"]))
    print("the exact Jacobian: one step, without warming up")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        content = {**provenance, "networks": results, "jacobians": wide}
        arguments.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

"""What an ensemble gains over the plain loop: time of one step of E members, one after the other and together.

    python benchmarks/ensembles.py [--rounds N] [--members 2 5 10 20] [--methods ae nrae_l] [--json PATH]

Per round one plain training takes some steps, and every ensemble takes as many; E plain trainings cost E times the one.
The gain is the ratio of the two within a round, and the table shows medians over rounds, so that other work on
the machine disturbs both alike. One CPU thread and its processor time, or a GPU and the wall's clock.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median

import torch

from nrae_lib import ensemble, methods, runs
from nrae_lib.feed import feed_of
from nrae_lib.models import Network
from nrae_lib.training import Optimization

# Network, features, points, batch size.
CASES = {
    "2-32-1, B 50": (Network((32,), 1), 2, 50, 50),
    "2-128-128-1, B 50": (Network((128, 128), 1), 2, 50, 50),
    "2-128-128-1, B 500": (Network((128, 128), 1), 2, 500, 500),
    "2-256-256-1, B 50": (Network((256, 256), 1), 2, 50, 50),
    "784-32-32-1, B 100": (Network((32, 32), 1), 784, 1000, 100),
    "swiss roll 2-512-512-1, B 30": (Network((512, 512), 1), 2, 30, 30),
    "toy 2-512-512-512-1, B 32": (Network((512, 512, 512), 1), 2, 200, 32),
    "sine 2-1024-1024-1, B 50": (Network((1024, 1024), 1), 2, 50, 50),
    "MNIST 784-1000-500-250-2, B 100": (Network((1000, 500, 250), 2, "relu", "sigmoid"), 784, 1000, 100),
}


class Together:
    """An ensemble of E members (one: the plain loop), all with the same data, that takes steps on demand."""

    def __init__(self, method: str, case: str, members: int, device: torch.device):
        network, features, points, batch_size = CASES[case]
        data = torch.rand(points, features, generator=torch.Generator().manual_seed(0))
        objective = methods.get(method).configure()
        made = {
            seed: ensemble.Training(
                objective.build(network, (features,), seed).to(device), objective, feed_of(data + 0.01 * seed, device),
                Optimization(1000, batch_size, 1e-4), seed, None, True, None,
            )
            for seed in range(members)
        }  # fmt: skip
        self.one = made[0]
        self.ensemble = ensemble.Ensemble(made) if members > 1 else None
        if self.ensemble:
            if not self.ensemble.maps():
                raise RuntimeError(f"{method} cannot be vectorised")
            self.ensemble.clock = time.perf_counter()  # as its own loop does
            self.ensemble.join()
            self.ensemble.set_rates()
        self.device = device

    def steps(self, count: int) -> float:
        """Seconds per step."""
        members = list(self.ensemble.members.values()) if self.ensemble else [self.one]
        begin = self.clock()
        for _ in range(count):
            if self.one.position == len(self.one.bounds):
                for member in members:
                    member.position = 0
            if self.ensemble:
                if self.one.position == 0:
                    self.ensemble.begin_epoch()
                self.ensemble.step()
            else:
                if self.one.position == 0:
                    self.one._begin_epoch()
                self.one._step()
                self.one.position += 1
        return (self.clock() - begin) / count

    def clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()


def measure(method: str, case: str, members: list[int], rounds: int, device: torch.device) -> dict[str, float]:
    """Milliseconds of a plain step, and by the number of members the gain: E plain steps over one of the ensemble."""
    contenders = {count: Together(method, case, count, device) for count in (1, *members)}
    steps = max(2, round(0.1 / contenders[1].steps(5)))
    found = []
    for index in range(-1, rounds):
        times = {count: each.steps(max(1, round(steps / count))) for count, each in contenders.items()}
        if index >= 0:  # the first round warms up
            found.append(times)
    parameters = sum(parameter.numel() for parameter in contenders[1].one.model.parameters())
    return {
        "parameters": parameters, "milliseconds": 1000 * median(times[1] for times in found),
        **{str(count): median(count * times[1] / times[count] for times in found) for count in members},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds (default: %(default)s)")
    parser.add_argument("--members", type=int, nargs="+", default=[2, 5, 10, 20])
    parser.add_argument("--methods", nargs="+", default=["ae", "nrae_l", "nrae_q"])
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)  # as in a training
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    provenance = {"device": runs.device_name(str(device)), "torch": torch.__version__}
    print(", ".join(f"{key} {value}" for key, value in provenance.items()))
    heading = f"{'':34}{'method':8}{'params':>9}{'ms/step':>9}" + "".join(f"{f'E = {n}':>9}" for n in arguments.members)
    print(f"{heading}\n{'-' * len(heading)}")
    results = {}
    for case in CASES:
        for method in arguments.methods:
            row = measure(method, case, arguments.members, arguments.rounds, device)
            results.setdefault(case, {})[method] = row
            gains = "".join(f"{row[str(n)]:8.2f}x" for n in arguments.members)
            print(f"{case:34}{method:8}{row['parameters']:9}{row['milliseconds']:9.3f}{gains}", flush=True)
    print("\nE = n: time of n plain steps over that of one step of an ensemble of n members")
    if arguments.json:
        arguments.json.write_text(json.dumps({**provenance, "cases": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What the machine can do, and how much of it training reaches: rates, parts of steps, throughput, graphs, ensembles.

    python benchmarks/machine.py [--device cpu] [--rounds N] [--workers 1 2 4 8] [--compile] [--json PATH]

See ``nrae_lib.machine``; the page on performance shows the same, and its numbers to reach. ``--compile`` measures whether
``torch.compile`` gains anything, and nothing else; on a CPU that needs a C++ compiler.
"""

from __future__ import annotations

import json

import torch
from step_time import finish, parser, table
from torch import nn

from nrae_lib import machine, runs, timing
from nrae_lib.files import write_atomically
from nrae_lib.methods import Point


def compiled(device: str, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a step of AE: by the library, as PyTorch runs it, and the latter by ``torch.compile``."""
    rows = {}
    for name, (network, features, batch_size) in timing.NETWORKS.items():
        loss = torch.compile(lambda model, x: nn.functional.mse_loss(model(x), x))

        def formula(objective, batch, prepared, loss=loss):
            return loss(batch.model, batch.x)

        bench = timing.Bench(network, features, batch_size, device, steps=4 if features < 100 else None)
        contenders = {key: timing.formulations()[key] for key in ("ae", timing.PLAIN)}
        contenders["ae, torch.compile"] = timing.Contender(timing.Formulation(Point(), formula=formula))
        with timing.threads(1):
            times = timing.take_turns(bench.steppers(contenders), rounds)
        for key in contenders:
            rows[f"{name}: {key}"] = {
                "ms per step": times.milliseconds(key),
                "/ AE": times.ratio(key, "ae").median,
                "/ AE plain": times.ratio(key, timing.PLAIN).median,
            }
    return rows


def main() -> None:
    arguments = parser(__doc__, rounds=9)
    arguments.add_argument("--workers", type=int, nargs="*", default=[], help="of the grid (default: not measured)")
    arguments.add_argument("--convolution-batch", type=int, default=16, help="(default: %(default)s)")
    arguments.add_argument("--compile", action="store_true", help="measure torch.compile only")
    given = arguments.parse_args()
    device = runs.find_device(given.device)
    if given.compile:
        print(table("AE", compiled(device, given.rounds)))
        return
    measured = machine.measure(
        given.rounds, device, convolution_batch=given.convolution_batch, whole_epochs=0, workers=tuple(given.workers)
    )
    peak = measured["matmul"]["peak"]
    print(table("matrix products", {
        f"{row['product']:.34}, {row['kernel']}, {row['precision']}": {"GFLOP/s": row["gflops"]}
        for row in measured["matmul"]["rates"]
    }))  # fmt: skip
    print("\n" + table("bandwidth, GB/s", {"arrays beyond the caches": measured["bandwidth"]}))
    rows = {}
    for row in measured["parts"]:
        part = machine.part_of(measured["parts"], row["network"], row["method"], row["precision"])
        rows[f"{row['network'][:12]}, {row['method']}, {row['precision']}"] = part | {
            "share of the rate": part["gflops"] / peak[row["precision"]], "run, MB": row["run_megabytes"]
        }  # fmt: skip
    print("\n" + table("parts of a step", rows))
    for goal in machine.goals(measured):
        print(f"\n{goal.what}: {goal.target}; measured: {goal.measured or '-'}; {goal.bound}")
    finish({name: measured[name] for name in timing.provenance(device, given.rounds)}, None)
    if given.json:
        write_atomically(given.json, (json.dumps(measured, indent=1, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    main()

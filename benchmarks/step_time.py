"""Time of one training step of AE, NRAE-L and NRAE-Q, and what the one-pass jets of nrae_lib gain.

    python benchmarks/step_time.py [--steps N] [--json PATH] [--processor-time]

Every formulation of the same loss is first checked to give the same loss and gradients in double precision. Then all
are timed in turn, round after round within one run; ratios are taken within a round, and the table shows medians over
rounds, so that other work on the machine disturbs all of them alike. The paper's ratios come from supplement, Table 1.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from nrae_lib import methods
from nrae_lib.graph import sample_neighbors
from nrae_lib.methods import Batch, Objective
from nrae_lib.models import Autoencoder, Network
from nrae_lib.taylor import taylor
from nrae_lib.training import step

STEPS_PER_ROUND = 4
NEIGHBOUR_WEIGHT = 0.1  # λ; it does not decide the time
PAPER_SECONDS_PER_EPOCH = {"AE": 1.74, "NRAE-L": 3.13, "NRAE-Q": 4.15}
METHODS = {1: "NRAE-L", 2: "NRAE-Q"}


# Network, shape of the data, batch size. Random data and a random graph will do: neither decides the time.
NETWORKS = {
    # the supplement's running-time experiment
    "MNIST 784-1000-500-250-2": (Network((1000, 500, 250), 2, "relu", "sigmoid"), 784, 100),
    # the released code's two-dimensional examples
    "toy 2-512-512-512-1": (Network((512, 512, 512), 1, "elu"), 2, 32),
}
POINTS, NEIGHBOURS = 10_000, 10


# Losses. `both` holds the points x of a batch, then one neighbour x' of each; the autoencoder reads the points alone.


def squared(target: Tensor, output: Tensor) -> Tensor:
    return nn.functional.mse_loss(output, target)


def plain_encoder_loss(model: Autoencoder, both: Tensor, order: int) -> Tensor:
    """NRAE with the encoder as PyTorch runs it, to tell what the expansion alone costs."""
    points, neighbours = both.chunk(2)
    code, neighbour_code = model.encoder(both).chunk(2)
    jet = taylor(model.decoder, code, neighbour_code - code, order)
    return (squared(points, jet.value) + NEIGHBOUR_WEIGHT * squared(neighbours, jet.expansion())) / 2


def double_backward_loss(model: Autoencoder, both: Tensor, order: int) -> Tensor:
    """As in the authors' released code: each code twice, with the directions 0 (to itself) and z' - z."""
    jvp = partial(torch.autograd.functional.jvp, create_graph=True)
    code, neighbour_code = model.encoder(both).chunk(2)
    repeated = torch.cat([code, code])
    direction = torch.cat([code, neighbour_code]) - repeated
    value, first = jvp(model.decoder, repeated, direction)
    expansion = value + first
    if order == 2:
        expansion = expansion + jvp(lambda z: jvp(model.decoder, z, direction)[1], repeated, direction)[1] / 2
    points, neighbours = both.chunk(2)
    centre, neighbourhood = expansion.chunk(2)
    return (squared(points, centre) + NEIGHBOUR_WEIGHT * squared(neighbours, neighbourhood)) / 2


def functional_loss(model: Autoencoder, both: Tensor, order: int) -> Tensor:
    """torch.func.jvp, nested for the second order."""
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
    return (squared(points, value) + NEIGHBOUR_WEIGHT * squared(neighbours, expansion)) / 2


class OnePassAutoencoder:
    """The autoencoder through the kernels of taylor.py, to tell what those gain from what NRAE costs."""

    def loss(self, batch: Batch, prepared: dict[str, Tensor]) -> Tensor:
        code = taylor(batch.model.encoder, batch.x, batch.x, 0).value
        return squared(batch.x, taylor(batch.model.decoder, code, code, 0).value)


class WrittenOut:
    """A loss of (model, both) in the place of the library's objective: same batches, same neighbours."""

    def __init__(self, loss: Callable[[Autoencoder, Tensor], Tensor]):
        self.written_out = loss

    def loss(self, batch: Batch, prepared: dict[str, Tensor]) -> Tensor:
        near = sample_neighbors(prepared["reconstruction"], batch.index, 1, batch.generator)[0]
        return self.written_out(batch.model, torch.cat([batch.x, batch.data[near]]))


AUTOENCODER, LIBRARY = ("AE", "library"), "library"


def contenders() -> dict[tuple[str, str], tuple[Objective | OnePassAutoencoder | WrittenOut, bool]]:
    """(method, formulation) -> (objective, whether Adam is the fused one); the library's step runs all."""
    everything = {
        AUTOENCODER: (methods.get("ae").configure(), True),
        ("AE", "one pass"): (OnePassAutoencoder(), True),
    }
    for order, method in METHODS.items():
        name = method.lower().replace("-", "_")
        double_backward = WrittenOut(partial(double_backward_loss, order=order))
        everything |= {
            (method, LIBRARY): (methods.get(name).configure(neighbor_weight=NEIGHBOUR_WEIGHT), True),
            (method, "plain encoder"): (WrittenOut(partial(plain_encoder_loss, order=order)), True),
            (method, "double backward*"): (double_backward, False),
            (method, "double backward"): (double_backward, True),
            (method, "nested torch.func.jvp"): (WrittenOut(partial(functional_loss, order=order)), True),
        }
    return everything


def prepare(network: Network, size: int, device: torch.device, fused: bool, dtype=torch.float32):
    """A function that draws batches of a new model, what was prepared, the optimizer; the same for equal arguments."""
    generator = torch.Generator(device).manual_seed(0)
    model = network.build((size,), seed=0).to(device, dtype)
    data = torch.rand(POINTS, size, generator=generator, device=device, dtype=dtype)
    graph = torch.randint(POINTS, (POINTS, NEIGHBOURS), generator=generator, device=device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True if fused else None)

    def draw(size: int) -> Batch:
        return Batch(model, data, torch.randint(POINTS, (size,), generator=generator, device=device), generator)

    return draw, {"reconstruction": graph}, optimizer


def verify(network: Network, size: int, batch_size: int) -> None:
    """All formulations of a method have the same loss and the same gradients, in double precision."""
    results: dict[str, tuple] = {}
    for (method, formulation), (objective, _) in contenders().items():
        draw, prepared, _ = prepare(network, size, torch.device("cpu"), True, torch.float64)
        batch = draw(batch_size)
        parameters = list(batch.model.parameters())
        loss = step(objective, batch, prepared, torch.optim.SGD(parameters, lr=0.0))
        result = (loss, [parameter.grad for parameter in parameters])
        expected = results.setdefault(method, result)
        torch.testing.assert_close(result, expected, rtol=1e-7, atol=1e-12, msg=lambda m, f=formulation: f"{f}: {m}")


def measure(
    network: Network, size: int, batch_size: int, device: torch.device, steps: int, clock: Callable[[], float]
) -> list[dict]:
    """Median milliseconds per step of every contender, and median ratio to the autoencoder of the same round."""
    runs, rounds = {}, []
    for name, (objective, fused) in contenders().items():
        draw, prepared, optimizer = prepare(network, size, device, fused)
        runs[name] = partial(step, objective, prepared=prepared, optimizer=optimizer), draw

    def milliseconds(run, draw):
        begin = clock()
        for _ in range(STEPS_PER_ROUND):
            run(batch=draw(batch_size))
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (clock() - begin) * 1000 / STEPS_PER_ROUND

    for index in range(-1, max(1, round(steps / STEPS_PER_ROUND))):
        times = {name: milliseconds(*run) for name, run in runs.items()}
        if index >= 0:  # the first round warms up
            rounds.append(times)

    def ratio(above, below):
        return median(times[above] / times[below] for times in rounds)

    return [
        {
            "method": method,
            "formulation": formulation,
            "milliseconds": median(times[method, formulation] for times in rounds),
            "ratio_to_autoencoder": ratio((method, formulation), AUTOENCODER),
            "ratio_to_one_pass_autoencoder": ratio((method, formulation), ("AE", "one pass")),
            "speedup_of_library": ratio((method, formulation), (method, LIBRARY)),
            "paper_ratio": PAPER_SECONDS_PER_EPOCH[method] / PAPER_SECONDS_PER_EPOCH["AE"],
        }
        for method, formulation in runs
    ]


def table(name: str, rows: list[dict]) -> str:
    heading = f"{name:32}{'ms/step':>9}{'/ AE':>8}{'/ AE one pass':>15}{'library gains':>15}{'paper / AE':>12}"
    lines = [heading, "-" * len(heading)]
    for row in rows:
        gain = f"{row['speedup_of_library']:.2f}x"
        lines.append(
            f"{row['method']:8}{row['formulation']:24.24}{row['milliseconds']:9.2f}{row['ratio_to_autoencoder']:8.2f}"
            f"{row['ratio_to_one_pass_autoencoder']:15.2f}{gain:>15}{row['paper_ratio']:12.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=80, help="timed steps of every contender (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    parser.add_argument(
        "--processor-time", action="store_true", help="for a busy machine, with OMP_NUM_THREADS=1: count processor time"
    )
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)  # Adam's moments of dead units decay into slow denormal numbers
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    provenance = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU ({platform.machine()})",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "clock": "processor" if arguments.processor_time else "wall",
    }
    clock = time.process_time if arguments.processor_time else time.perf_counter
    print(", ".join(f"{key} {value}" for key, value in provenance.items()))
    results = {}
    for name, network in NETWORKS.items():
        verify(*network)
        results[name] = measure(*network, device, arguments.steps, clock)
        print("\n" + table(name, results[name]), flush=True)
    print("\nAll formulations gave the same loss and gradients. Adam is fused, except * (PyTorch's default).")
    print("paper: supplement, Table 1 (MNIST network only)")
    if arguments.json:
        arguments.json.write_text(json.dumps({**provenance, "networks": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

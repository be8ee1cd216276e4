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

from nrae_lib.taylor import taylor

STEPS_PER_ROUND = 4
NEIGHBOUR_WEIGHT = 0.1  # λ of the paper
PAPER_SECONDS_PER_EPOCH = {"AE": 1.74, "NRAE-L": 3.13, "NRAE-Q": 4.15}
METHODS = {1: "NRAE-L", 2: "NRAE-Q"}


def mlp(widths: list[int], activation: type[nn.Module], output: type[nn.Module] = nn.Identity) -> nn.Sequential:
    layers = []
    for columns, rows in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(columns, rows), activation()]
    return nn.Sequential(*layers[:-1], output())


def mnist_network() -> tuple[nn.Module, nn.Module, Tensor, int]:
    """Encoder, decoder, data and batch size of the supplement's running-time experiment; random images will do."""
    widths = [784, 1000, 500, 250, 2]
    return mlp(widths, nn.ReLU), mlp(widths[::-1], nn.ReLU, nn.Sigmoid), torch.rand(10_000, 784), 100


def toy_network() -> tuple[nn.Module, nn.Module, Tensor, int]:
    """The ELU network of the released code's two-dimensional examples."""
    widths = [2, 512, 512, 512, 1]
    return mlp(widths, nn.ELU), mlp(widths[::-1], nn.ELU), torch.randn(300, 2), 32


NETWORKS = {"MNIST 784-1000-500-250-2": mnist_network, "toy 2-512-512-512-1": toy_network}


# Losses. `both` holds the points x of a batch, then one neighbour x' of each; the autoencoder reads the points alone.


def squared(target: Tensor, output: Tensor) -> Tensor:
    return nn.functional.mse_loss(output, target)


def autoencoder_loss(encoder: nn.Module, decoder: nn.Module, points: Tensor) -> Tensor:
    return squared(points, decoder(encoder(points)))


def one_pass_loss(encoder, decoder, both: Tensor, order: int, encode: Callable | None = None) -> Tensor:
    points, neighbours = both.chunk(2)
    code, neighbour_code = (encode(both) if encode else taylor(encoder, both, both, 0).value).chunk(2)
    jet = taylor(decoder, code, neighbour_code - code, order)
    return (squared(points, jet.value) + NEIGHBOUR_WEIGHT * squared(neighbours, jet.expansion())) / 2


def plain_encoder_loss(encoder, decoder, both: Tensor, order: int) -> Tensor:
    return one_pass_loss(encoder, decoder, both, order, encode=encoder)


def one_pass_autoencoder_loss(encoder, decoder, points: Tensor) -> Tensor:
    code = taylor(encoder, points, points, 0).value
    return squared(points, taylor(decoder, code, code, 0).value)


def double_backward_loss(encoder, decoder, both: Tensor, order: int) -> Tensor:
    """As in the authors' released code: each code twice, with the directions 0 (to itself) and z' - z."""
    jvp = partial(torch.autograd.functional.jvp, create_graph=True)
    code, neighbour_code = encoder(both).chunk(2)
    repeated = torch.cat([code, code])
    direction = torch.cat([code, neighbour_code]) - repeated
    value, first = jvp(decoder, repeated, direction)
    expansion = value + first
    if order == 2:
        expansion = expansion + jvp(lambda z: jvp(decoder, z, direction)[1], repeated, direction)[1] / 2
    points, neighbours = both.chunk(2)
    centre, neighbourhood = expansion.chunk(2)
    return (squared(points, centre) + NEIGHBOUR_WEIGHT * squared(neighbours, neighbourhood)) / 2


def functional_loss(encoder, decoder, both: Tensor, order: int) -> Tensor:
    """torch.func.jvp, nested for the second order."""
    points, neighbours = both.chunk(2)
    code, neighbour_code = encoder(both).chunk(2)
    direction = neighbour_code - code

    def along(z):
        return torch.func.jvp(decoder, (z,), (direction,))

    if order == 1:
        value, first = along(code)
        expansion = value + first
    else:
        (value, first), (_, second) = torch.func.jvp(along, (code,), (direction,))
        expansion = value + first + second / 2
    return (squared(points, value) + NEIGHBOUR_WEIGHT * squared(neighbours, expansion)) / 2


def step(loss_function: Callable[..., Tensor], encoder, decoder, optimizer, batch: Tensor) -> Tensor:
    loss = loss_function(encoder, decoder, batch)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def library_step(encoder, decoder, optimizer, both: Tensor, order: int) -> Tensor:
    """The training step of the library."""
    return step(partial(one_pass_loss, order=order), encoder, decoder, optimizer, both)


def contenders() -> dict[tuple[str, str], tuple[Callable, bool]]:
    """(method, formulation) -> (step of encoder, decoder, optimizer and batch; whether Adam is the fused one)."""
    table = {
        ("AE", "plain PyTorch"): (partial(step, autoencoder_loss), True),
        ("AE", "one pass"): (partial(step, one_pass_autoencoder_loss), True),
    }
    for order, method in METHODS.items():
        double_backward = partial(step, partial(double_backward_loss, order=order))
        table |= {
            (method, "one pass (library)"): (partial(library_step, order=order), True),
            (method, "one pass, plain encoder"): (partial(step, partial(plain_encoder_loss, order=order)), True),
            (method, "double backward*"): (double_backward, False),
            (method, "double backward"): (double_backward, True),
            (method, "nested torch.func.jvp"): (partial(step, partial(functional_loss, order=order)), True),
        }
    return table


def prepare(network: Callable, device: torch.device, fused: bool):
    torch.manual_seed(0)
    encoder, decoder, data, batch = network()
    parameters = [*encoder.to(device).parameters(), *decoder.to(device).parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-4, fused=True if fused else None)
    return encoder, decoder, data.to(device), batch, optimizer


def verify(network: Callable) -> None:
    """All formulations of a method have the same loss and the same gradients."""
    results: dict[str, tuple] = {}
    for (method, formulation), (make_step, _) in contenders().items():
        encoder, decoder, data, batch, _ = prepare(network, torch.device("cpu"), fused=True)
        encoder, decoder = encoder.double(), decoder.double()
        parameters = [*encoder.parameters(), *decoder.parameters()]
        loss = make_step(encoder, decoder, torch.optim.SGD(parameters, lr=0.0), data[: 2 * batch].double())
        result = (loss.detach(), [parameter.grad for parameter in parameters])
        expected = results.setdefault(method, result)
        torch.testing.assert_close(result, expected, rtol=1e-7, atol=1e-12, msg=lambda m, f=formulation: f"{f}: {m}")


def measure(network: Callable, device: torch.device, steps: int, clock: Callable[[], float]) -> list[dict]:
    """Median milliseconds per step of every contender, and median ratio to the autoencoder of the same round."""
    runs, rounds = {}, []
    for name, (make_step, fused) in contenders().items():
        encoder, decoder, data, batch, optimizer = prepare(network, device, fused)
        drawn = batch if name[0] == "AE" else 2 * batch
        runs[name] = partial(make_step, encoder, decoder, optimizer), data, drawn

    def milliseconds(run, data, drawn, count):
        begin = clock()
        for _ in range(count):
            run(data[torch.randint(len(data), (drawn,), device=device)])
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (clock() - begin) * 1000 / count

    for index in range(-1, max(1, round(steps / STEPS_PER_ROUND))):
        times = {name: milliseconds(*run, STEPS_PER_ROUND) for name, run in runs.items()}
        if index >= 0:  # the first round warms up
            rounds.append(times)

    def ratio(above, below):
        return median(times[above] / times[below] for times in rounds)

    rows = []
    for method, formulation in runs:
        name, library = (method, formulation), (method, "one pass (library)")
        rows.append(
            {
                "method": method,
                "formulation": formulation,
                "milliseconds": median(times[name] for times in rounds),
                "ratio_to_autoencoder": ratio(name, ("AE", "plain PyTorch")),
                "ratio_to_one_pass_autoencoder": ratio(name, ("AE", "one pass")),
                "speedup_of_library": ratio(name, library) if library in runs else None,
                "paper_ratio": PAPER_SECONDS_PER_EPOCH[method] / PAPER_SECONDS_PER_EPOCH["AE"],
            }
        )
    return rows


def table(name: str, rows: list[dict]) -> str:
    heading = f"{name:32}{'ms/step':>9}{'/ AE':>8}{'/ AE one pass':>15}{'library gains':>15}{'paper / AE':>12}"
    lines = [heading, "-" * len(heading)]
    for row in rows:
        gain = "" if row["speedup_of_library"] is None else f"{row['speedup_of_library']:.2f}x"
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
        verify(network)
        results[name] = measure(network, device, arguments.steps, clock)
        print("\n" + table(name, results[name]), flush=True)
    print("\nAll formulations gave the same loss and gradients. Adam is fused, except * (PyTorch's default).")
    print("paper: supplement, Table 1 (MNIST network only)")
    if arguments.json:
        arguments.json.write_text(json.dumps({**provenance, "networks": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Time of one training step of AE, NRAE-L and NRAE-Q, and what the one-pass jets of nrae_lib gain.

    python benchmarks/step_time.py [--device cpu] [--rounds N] [--threads N] [--json PATH]

Every formulation of the same loss, the released one among them, is first checked to give the same loss and gradients in
double precision. Then all take turns, see ``nrae_lib.pages.timing``. The paper's ratios come from supplement, Table 1.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from nrae_lib import paper, runs
from nrae_lib.pages import timing

PAPER = {value.method: value.value for value in paper.values("nrae", "supp_table1", "mnist")}


def table(title: str, rows: dict[str, dict[str, float]], digits: int = 2) -> str:
    """Numbers in columns of plain text."""
    columns = list(next(iter(rows.values())))
    heading = f"{title:30}" + "".join(f"{column.replace('_', ' '):>19}" for column in columns)
    lines = [f"{name:30}" + "".join(f"{row[column]:19.{digits}f}" for column in columns) for name, row in rows.items()]
    return "\n".join([heading, "-" * len(heading), *lines])


def compared(steps: dict[str, dict]) -> dict[str, dict[str, float]]:
    """Rows of the table: ratios to AE, to AE as PyTorch runs it, to the library's own formulation, and the paper's to AE."""
    times = timing.times_of(steps)
    return {
        name: {
            "ms per step": times.milliseconds(name),
            "/ AE": times.ratio(name, "ae").median,
            "/ AE plain": times.ratio(name, timing.PLAIN).median,
            "library gains": times.ratio(name, name.split(",")[0]).median,
            "paper / AE": PAPER[name.split(",")[0]] / PAPER["ae"],
        }
        for name in steps
    }


def parser(description: str, rounds: int) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    made.add_argument("--rounds", type=int, default=rounds, help="turns of every contender (default: %(default)s)")
    made.add_argument("--json", type=Path, help="write the numbers here, too")
    return made


def finish(measured: dict, path: Path | None) -> None:
    print(", ".join(f"{name} {value}" for name, value in measured.items() if not isinstance(value, dict)))
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(measured, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    arguments = parser(__doc__, rounds=20)
    arguments.add_argument(
        "--threads", type=int, default=1, help="more than 1 counts time by the wall: the machine must be idle"
    )
    given = arguments.parse_args()
    device = runs.find_device(given.device)
    for network, features, batch_size in timing.NETWORKS.values():
        timing.check_formulations(network, features, batch_size)
    measured = timing.measure_methods(
        given.rounds, device, dict.fromkeys(timing.NETWORKS, timing.formulations()), 0, given.threads
    )
    for name, part in measured["networks"].items():
        print("\n" + table(name, compared(part["steps"])))
    print("\nAll formulations gave the same loss and gradients. Adam is fused, except in those called released.")
    print("paper: supplement, Table 1 (MNIST network only)")
    finish(measured, given.json)


if __name__ == "__main__":
    main()

"""Time of one training step of every method in the catalogue, relative to the plain autoencoder.

    python benchmarks/all_methods.py [--device cpu] [--rounds N] [--json PATH]

All take turns, see ``nrae_lib.pages.timing``; the table shows medians over rounds of ratios taken within a round. Beside the
catalogue stand the reconstruction terms that no method has alone, the penalties that none adds alone to AE, and the other
formulations of NRAE. What is prepared once before training is timed by itself.
"""

from __future__ import annotations

from step_time import finish, parser, table

from nrae_lib import runs
from nrae_lib.pages import timing


def main() -> None:
    arguments = parser(__doc__, rounds=8)
    arguments.add_argument("--points", type=int, default=500, help="of the preparation (default: %(default)s)")
    given = arguments.parse_args()
    device = runs.find_device(given.device)
    measured = timing.measure_methods(given.rounds, device, preparation_points=given.points)
    measured["jacobians"] = timing.measure_jacobians(given.rounds, device)
    parts = {**measured["networks"], measured["jacobians"]["network"]: measured["jacobians"]}
    for name, part in parts.items():
        rows = {
            contender: {column: value for column, value in row.items() if column != "rounds"}
            for contender, row in part["steps"].items()
        }
        print("\n" + table(name, rows))
        if part.get("preparation_seconds"):
            seconds = ", ".join(f"{term} {value}" for term, value in part["preparation_seconds"].items())
            print(f"prepared once for {given.points} points, seconds: {seconds}", flush=True)
    finish(measured, given.json)


if __name__ == "__main__":
    main()

"""The released toy example, trained by nrae_lib and by a per-sample DataLoader loop in the released formulation.

    python benchmarks/whole_run.py [--device cpu] [--epochs 2001] [--chunk 100] [--json PATH]

NRAE-Q on 50 points in batches of 32, see ``nrae_lib.machine.whole_run``: both train in turn, some epochs each.
"""

from __future__ import annotations

from step_time import finish, parser, table

from nrae_lib import machine, runs, timing


def main() -> None:
    arguments = parser(__doc__, rounds=1)
    arguments.add_argument("--epochs", type=int, default=machine.RELEASED_EPOCHS, help="(default: %(default)s)")
    arguments.add_argument("--chunk", type=int, default=100, help="epochs of a turn (default: %(default)s)")
    given = arguments.parse_args()
    device = runs.find_device(given.device)
    whole = machine.whole_run(device, given.epochs, given.chunk)
    rows = {
        f"{sum(whole['epochs'][: place + 1])} epochs": {"fit, s": ours, "loop, s": theirs, "loop / fit": theirs / ours}
        for place, (ours, theirs) in enumerate(zip(whole["fit"], whole["loop"], strict=True))
    }
    ours, theirs = sum(whole["fit"]), sum(whole["loop"])
    rows["all"] = {"fit, s": ours, "loop, s": theirs, "loop / fit": theirs / ours}
    print(table("whole run", rows))
    finish({**timing.provenance(device, 1), "whole_run": whole}, given.json)


if __name__ == "__main__":
    main()

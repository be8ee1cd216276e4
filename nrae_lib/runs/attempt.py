"""One attempt at a run, by whoever makes it: this process, or a worker of :mod:`nrae_lib.runs.cluster`."""

import traceback
from collections.abc import Callable

from nrae_lib.runs.performing import perform
from nrae_lib.runs.run import Result, Run
from nrae_lib.runs.store import Store

POLL_SECONDS = 1.0  # between two looks at what other processes do


def attempt(
    run: Run, store: Store, device: str, report: Callable[[int, int], None], keep: bool = True
) -> Result | str | None:
    """Perform ``run`` unless it is stored, and store it at once; with the checkpoint of an attempt that was killed.

    Arguments:
        report: called now and then with the epochs done, and of how many.
        keep: store the result.

    Returns:
        the result; the traceback, if the run failed; None, if another process has it in hand.
    """
    with store.claim(run, False) as free:
        if not free:
            return None
        try:
            result = store.get(run)  # another process may have ended it just now
            if result is None:
                result = perform(run, device, store.checkpoint(run), progress=report)
                if keep:
                    store.put(result)
                store.checkpoint(run).unlink(missing_ok=True)
            return result
        except Exception:
            return traceback.format_exc()

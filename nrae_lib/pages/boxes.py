"""Boxes and links of a page: where numbers come from, verdicts, banners, downloads, the command that repeats it."""

import base64
import re
import resource
import shlex
import sys
from pathlib import Path

from nrae_lib.pages.plots.style import MANIFOLD_COLOUR, method_label
from nrae_lib.pages.tables import display_html, display_markdown, escaped, text_table

_RECORDED = {
    "device": "devices", "threads": "settings", "nrae_lib": "versions", "torch": "versions", "python": "versions",
    "commit": "commits", "date": "dates",
}  # fmt: skip
_BOX = "border-left:4px solid {colour};background:rgba(128,128,128,.1);padding:.55em .9em;margin:.6em 0;color:inherit"


def provenance(results, already_stored=None):
    """Display where a page's numbers come from: devices, time, seeds, versions, commits, data fingerprints. ValueError
    if there are no results.

    Arguments:
        results: objects with run, seconds, steps_per_second and provenance (`nrae_lib.runs.Result`).
        already_stored: how many of them were read rather than computed for this page; left out when None.
    """
    results = list(results)
    if not results:
        raise ValueError("there are no results: give at least one")
    # JSON keeps one number per run; the median hides the slow first run of a fresh process.
    speeds = sorted(result.steps_per_second for result in results)
    rows = {
        "runs": f"{len(results)}"
        + ("" if already_stored is None else f", of which {already_stored} were stored already"),
        "methods": ", ".join(method_label(name) for name in dict.fromkeys(result.run.method for result in results)),
        "seeds": _ranges({result.run.seed for result in results}),
        "training time": f"{_duration(sum(result.seconds for result in results))}, over all runs",
        "speed": f"{speeds[len(speeds) // 2]:,.0f} steps per second (median of the runs)",
    }
    for name in dict.fromkeys(result.run.data for result in results):
        # Every draw of noise has its own fingerprint: ten of them say less than three and a count.
        drawn = [result for result in results if result.run.data == name]
        rows[f"data: {name}"] = _recorded(drawn, "fingerprint", "fingerprints", most=3)
    rows |= {name: _recorded(results, name, many) for name, many in _RECORDED.items()}
    text_table({name: {"": value} for name, value in rows.items()}, "Where these numbers come from")


def _recorded(results, name, many, most=1000):
    values = sorted({str(result.provenance.get(name) or "not recorded") for result in results})
    shown = ", ".join(values[:most]) + (", …" if len(values) > most else "")
    return shown if len(values) == 1 else f"{len(values)} different {many}: {shown}"


def _ranges(numbers):
    """ "0–4, 7" for {0, 1, 2, 3, 4, 7}."""
    starts = [number for number in sorted(numbers) if number - 1 not in numbers]
    ends = [number for number in sorted(numbers) if number + 1 not in numbers]
    return ", ".join(f"{start}–{end}" if start < end else str(start) for start, end in zip(starts, ends, strict=True))


def _duration(seconds):
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


# A symbol and a word besides the colour: the verdict reads in print and to the colour-blind.
_VERDICTS = {
    "reproduced": ("✓", "#2f9150"), "not reproduced": ("✗", "#d8432b"), "inconclusive": ("?", "#b07a10"),
    "not run": ("○", "#7d7d7d"),
}  # fmt: skip


def verdicts(items):
    """Display one box per claim of the paper: the claim, what was found, and by which preset. ``items`` have claim
    (identifier, paper, section, text), condition, status, statistics and preset; ValueError for an unknown status."""
    boxes = []
    for item in items:
        if item.status not in _VERDICTS:
            raise ValueError(f"unknown status {item.status!r}; it must be one of: {', '.join(_VERDICTS)}")
        (symbol, colour), claim = _VERDICTS[item.status], item.claim
        place = re.sub(r"[^\w.]+", "-", f"claim-{claim.identifier}-{item.condition}").strip("-")
        boxes.append(
            f'<div class="nrae-verdict" id="{place}" style="{_BOX.format(colour=colour)}">'
            f'<div><span aria-hidden="true" style="color:{colour};font-weight:700">{symbol}</span>'
            f" <strong>{escaped(item.status.capitalize())}</strong>"
            f' <span style="opacity:.8">({escaped(item.condition)}, preset {escaped(item.preset)};'
            f" {escaped(claim.paper)}, {escaped(claim.section)})</span></div>"
            f'<div style="margin:.25em 0">Claim: {escaped(claim.text)}</div>'
            f"<div>{escaped(item.statistics)}</div></div>"
        )
    display_html("".join(boxes))


def banner(text):
    """Display a box that says what this page cut, e.g. "quick preset: 3 of 10 noise draws"."""
    style = _BOX.format(colour=MANIFOLD_COLOUR)
    display_html(f'<div class="nrae-banner" role="note" style="{style}">{escaped(text)}</div>')


def download(frame, filename):
    """Display a link that saves a DataFrame as CSV; the data are in the link, nothing is written to disk. ValueError
    for any other file name.

    Arguments:
        frame: DataFrame; its index is saved only if it has a name or is not just 0, 1, 2, ...
        filename: a plain name ending in .csv.
    """
    if not filename.endswith(".csv") or any(sign in filename for sign in '/\\:*?"<>|'):
        raise ValueError(f"{filename!r} is not a plain file name ending in .csv")
    numbered = frame.index.name is None and list(frame.index) == list(range(len(frame)))
    # pandas writes the shortest digits that give back the same float.
    text = frame.to_csv(index=not numbered)
    data = base64.b64encode(text.encode()).decode()
    size = f"{len(text) / 1000:.0f} kB" if len(text) >= 1000 else f"{len(text)} bytes"
    display_html(
        f'<a class="nrae-download" download="{escaped(filename)}" href="data:text/csv;charset=utf-8;base64,{data}">'
        f"Download {escaped(filename)}</a> ({len(frame)} rows, {size})"
    )


def papermill_command(notebook, **parameters):
    """Display the exact command that reproduces the page, and the most memory that the page took so far.

    Arguments:
        notebook: its path from the top of the repository, e.g. "notebooks/fig7_swissroll.ipynb".
        parameters: name -> text, number, True, False or None.
    """
    words = ["papermill", notebook, "out.ipynb"]
    for name, value in parameters.items():
        # -p reads "3" as a number and "None" as nothing; -r keeps a text a text.
        misread = isinstance(value, str) and re.match(r"[-+.\d]|true|false|none|nan|inf", value, re.IGNORECASE)
        words += ["-r" if misread else "-p", name, str(value)]
    display_markdown(f"```bash\n{shlex.join(words)}\n```\n\n{memory_text()}")


def memory_text():
    """One sentence: the most memory that this process has had, Python and its libraries included."""
    status = Path("/proc/self/status")
    known = re.search(r"VmHWM:\s*(\d+) kB", status.read_text() if status.exists() else "")
    unit = 1024 if sys.platform == "darwin" else 1  # macOS counts bytes
    kibibytes = int(known[1]) if known else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    text = f"Peak memory of this page: {kibibytes / 1024:,.0f} MiB, of its Python process with all libraries"
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        text += f", and {torch.cuda.max_memory_allocated() / 2**20:,.0f} MiB on the GPU since its last training began"
    return text + "."

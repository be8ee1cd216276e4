"""Boxes and links of a page: where numbers come from, verdicts, banners, downloads, the command that repeats it."""

import base64
import re
import resource
import shlex
import sys
from pathlib import Path

from nrae_lib.pages.plots import MANIFOLD_COLOUR, PAGE_STYLE, method_label
from nrae_lib.pages.tables import display_html, escaped, text_table_html

_BOX = "border-left:4px solid {colour};background:rgba(128,128,128,.1);padding:.55em .9em;margin:.6em 0;color:inherit"


def provenance(results, already_stored=None):
    """Display where a page's numbers come from: devices, time, seeds, versions, commits, data fingerprints.

    Arguments:
        results: objects with run, seconds, steps_per_second and provenance (`nrae_lib.runs.Result`).
        already_stored: how many of them were read rather than computed for this page; left out when None.

    Raises:
        ValueError: there are no results.
    """
    display_html(provenance_html(results, already_stored))


def provenance_html(results, already_stored=None):
    """The HTML of `provenance`."""
    results = list(results)
    if not results:
        raise ValueError("there are no results: give at least one")

    def recorded(name, many):
        values = sorted({str(result.provenance.get(name) or "not recorded") for result in results})
        return values[0] if len(values) == 1 else f"{len(values)} different {many}: {', '.join(values)}"

    runs = f"{len(results)}"
    if already_stored is not None:
        runs += f", of which {already_stored} were stored already"
    # JSON keeps one number per run; the median hides the slow first run of a fresh process.
    speeds = sorted(result.steps_per_second for result in results)
    fingerprints = {}
    for result in results:
        fingerprints.setdefault(result.run.data, set()).add(str(result.provenance.get("fingerprint") or "not recorded"))
    rows = [
        ("runs", runs),
        ("methods", ", ".join(method_label(name) for name in dict.fromkeys(result.run.method for result in results))),
        ("seeds", _ranges({result.run.seed for result in results})),
        ("device", recorded("device", "devices")),
        ("threads", recorded("threads", "settings")),
        ("training time", f"{_duration(sum(result.seconds for result in results))}, over all runs"),
        ("speed", f"{speeds[len(speeds) // 2]:,.0f} steps per second (median of the runs)"),
        ("nrae_lib", recorded("nrae_lib", "versions")),
        ("torch", recorded("torch", "versions")),
        ("python", recorded("python", "versions")),
        ("git commit", recorded("commit", "commits")),
        *([("trained", _alone(results))] if any(result.provenance.get("ensemble") for result in results) else []),
        *((f"data: {name}", _fingerprints(values)) for name, values in fingerprints.items()),
        ("date", recorded("date", "dates")),
    ]
    return text_table_html({name: {"": value} for name, value in rows}, "Where these numbers come from")


def _alone(results):
    together = sum("ensemble" in result.provenance for result in results)
    return f"{together} of {len(results)} in vectorized ensembles, which a run alone does not repeat bit for bit; to be trained anew"


def _fingerprints(values):
    # Every draw of noise has its own fingerprint: ten of them say less than one and a count.
    values = sorted(values)
    shown = ", ".join(values[:3]) + (", …" if len(values) > 3 else "")
    return shown if len(values) == 1 else f"{len(values)} different fingerprints: {shown}"


def _ranges(numbers):
    """ "0–4, 7" for {0, 1, 2, 3, 4, 7}."""
    groups = []
    for number in sorted(numbers):
        if groups and number == groups[-1][1] + 1:
            groups[-1][1] = number
        else:
            groups.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in groups)


def _duration(seconds):
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


# A symbol and a word besides the colour: the verdict reads in print and to the colour-blind.
_VERDICTS = {
    "reproduced": ("✓", "#2f9150"),
    "not reproduced": ("✗", "#d8432b"),
    "inconclusive": ("?", "#b07a10"),
    "not run": ("○", "#7d7d7d"),
}


def verdicts(items):
    """Display one box per claim of the paper: the claim, what was found, and by which preset.

    Arguments:
        items: objects with claim (identifier, paper, section, text), condition, status, statistics and preset.

    Raises:
        ValueError: an unknown status.
    """
    display_html(verdicts_html(items))


def verdicts_html(items):
    """The HTML of `verdicts`."""
    boxes = []
    for item in items:
        if item.status not in _VERDICTS:
            raise ValueError(f"unknown status {item.status!r}; it must be one of: {', '.join(_VERDICTS)}")
        symbol, colour = _VERDICTS[item.status]
        claim = item.claim
        boxes.append(
            f'<div class="nrae-verdict" id="{_slug(claim.identifier, item.condition)}" style="{_BOX.format(colour=colour)}">'
            f'<div><span aria-hidden="true" style="color:{colour};font-weight:700">{symbol}</span>'
            f" <strong>{escaped(item.status.capitalize())}</strong>"
            f' <span style="opacity:.8">({escaped(item.condition)}, preset {escaped(item.preset)};'
            f" {escaped(claim.paper)}, {escaped(claim.section)})</span></div>"
            f'<div style="margin:.25em 0">Claim: {escaped(claim.text)}</div>'
            f"<div>{escaped(item.statistics)}</div></div>"
        )
    return f"<style>{PAGE_STYLE}</style>" + "".join(boxes)


def _slug(identifier, condition):
    return "claim-" + re.sub(r"[^\w.]+", "-", f"{identifier}-{condition}").strip("-")


def banner(text):
    """Display a box that says what this page cut, e.g. "quick preset: 3 of 10 noise draws"."""
    display_html(banner_html(text))


def banner_html(text):
    """The HTML of `banner`."""
    style = _BOX.format(colour=MANIFOLD_COLOUR)
    return f'<style>{PAGE_STYLE}</style><div class="nrae-banner" role="note" style="{style}">{escaped(text)}</div>'


def download(frame, filename):
    """Display a link that saves a DataFrame as CSV; the data are in the link, nothing is written to disk.

    Arguments:
        frame: DataFrame; its index is saved only if it has a name or is not just 0, 1, 2, ...
        filename: a plain name ending in .csv.

    Raises:
        ValueError: any other file name.
    """
    display_html(download_html(frame, filename))


def download_html(frame, filename):
    """The HTML of `download`."""
    if not filename.endswith(".csv") or any(sign in filename for sign in '/\\:*?"<>|'):
        raise ValueError(f"{filename!r} is not a plain file name ending in .csv")
    numbered = frame.index.name is None and list(frame.index) == list(range(len(frame)))
    # pandas writes the shortest digits that give back the same float.
    text = frame.to_csv(index=not numbered)
    data = base64.b64encode(text.encode()).decode()
    size = f"{len(text) / 1000:.0f} kB" if len(text) >= 1000 else f"{len(text)} bytes"
    return (
        f'<style>{PAGE_STYLE}</style><a class="nrae-download" download="{escaped(filename)}"'
        f' href="data:text/csv;charset=utf-8;base64,{data}">'
        f"Download {escaped(filename)}</a> ({len(frame)} rows, {size})"
    )


def papermill_command(notebook, **parameters):
    """Display the exact command that reproduces the page, and the most memory that the page took so far.

    Arguments:
        notebook: its path from the top of the repository, e.g. "notebooks/fig7_swissroll.ipynb".
        parameters: name -> text, number, True, False or None.
    """
    from IPython.display import Markdown, display

    display(Markdown(f"```bash\n{papermill_command_text(notebook, **parameters)}\n```\n\n{memory_text()}"))


def papermill_command_text(notebook, **parameters):
    """The command of `papermill_command`, quoted for a shell."""
    words = ["papermill", notebook, "out.ipynb"]
    for name, value in parameters.items():
        # -p reads "3" as a number and "None" as nothing; -r keeps a text a text.
        words += ["-r" if isinstance(value, str) and _reads_as_value(value) else "-p", name, str(value)]
    return shlex.join(words)


def memory_text():
    """One sentence: the most memory that this process has had, Python and its libraries included."""
    try:
        status = Path("/proc/self/status").read_text()
        kibibytes = int(re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)[1])
    except (OSError, TypeError):  # not Linux; there the same number is in bytes on macOS and in KiB elsewhere
        kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    text = f"Peak memory of this page: {kibibytes / 1024:,.0f} MiB, of its Python process with all libraries"
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        text += f", and {torch.cuda.max_memory_allocated() / 2**20:,.0f} MiB on the GPU since its last training began"
    return text + "."


def _reads_as_value(text):
    try:
        float(text)
    except ValueError:
        return text in ("True", "False", "None")
    return True

"""What every notebook page shares: checking its parameters, and the tables and boxes it shows.

Each display function has a pure half, `..._html` or `..._text`, which makes the text and is what the tests read.
All text from outside is escaped. Importing this file needs nothing but the standard library.
"""

import ast
import base64
import difflib
import html
import math
import re
import resource
import shlex
import sys
from pathlib import Path

from nrae_lib.pages.plots import MANIFOLD_COLOUR, PAGE_STYLE, method_label

# --------------------------------------------------------------------------------------------------- parameters


def check_parameters(namespace, **choices):
    """Stop with one sentence if a notebook was started with an unknown parameter or a wrong value.

    Call it with `globals()` after the parameters cell: papermill itself only warns about a name it does not find
    there, and the page would then quietly show something else than was asked for. What papermill was given stands in
    the cell it injects, which begins with "# Parameters" and is found among IPython's executed inputs (`In`).

    Arguments:
        namespace: name -> value, the notebook's `globals()`.
        choices: parameter -> what it may be: a tuple of allowed values, a type, or a function of the value that
            returns an error sentence (or raises ValueError) if it is wrong.

    Raises:
        ValueError: unknown parameter, missing parameter, or a wrong value, naming the valid choices.

    Example:
        >>> method, preset, seeds = "nrae_q", "quick", 3
        >>> check_parameters({"method": method, "preset": preset, "seeds": seeds},
        ...                  method=lambda value: choose_methods(value, ("ae", "nrae_q")),
        ...                  preset=("smoke", "quick", "paper"), seeds=int)
    """
    known = f"The parameters are: {', '.join(choices)}"
    for name in (name for name in _injected(namespace.get("In", ())) if name not in choices):
        close = difflib.get_close_matches(name, choices, n=1)
        hint = f": did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"unknown parameter {name!r}{hint} {known}")
    for name, choice in choices.items():
        if name not in namespace:
            raise ValueError(f"parameter {name!r} is missing from the parameters cell. {known}")
        problem = _problem(name, namespace[name], choice)
        if problem:
            raise ValueError(problem)


def _injected(inputs):
    """The names that papermill set."""
    for source in inputs:
        if source.startswith("# Parameters"):
            for node in ast.parse(source).body:
                yield from (target.id for target in getattr(node, "targets", ()) if isinstance(target, ast.Name))


def _problem(name, value, choice):
    """The error sentence, or None."""
    if isinstance(choice, type):
        # To Python True is an int, and 1 a good float; to a reader only the second is.
        allowed = (int, float) if choice is float else choice
        if isinstance(value, allowed) and (choice is bool or not isinstance(value, bool)):
            return None
        return f"parameter {name!r} must be {choice.__name__}, got {value!r} ({type(value).__name__})"
    if callable(choice):
        try:
            answer = choice(value)
        except ValueError as error:
            return f"parameter {name!r}: {error}"
        return f"parameter {name!r}: {answer}" if isinstance(answer, str) else None
    if any(value == allowed and isinstance(value, bool) == isinstance(allowed, bool) for allowed in choice):
        return None
    return f"parameter {name!r} is {value!r}; it must be one of: {', '.join(map(repr, choice))}"


def choose_methods(value, available):
    """The methods that a page is asked for, in the order of `available`.

    Arguments:
        value: "all", one name, or several separated by commas ("ae,nrae_q").
        available: all names, in the order in which the page shows them.

    Raises:
        ValueError: an unknown name, or none at all.
    """
    available = list(available)
    valid = f"the methods are: {', '.join(available)}, or 'all'"
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text; {valid}")
    names = [name.strip() for name in value.split(",") if name.strip()]
    if "all" in names:
        return available
    for name in names:
        if name not in available:
            close = difflib.get_close_matches(name, available, n=1)
            raise ValueError(
                f"unknown method {name!r}" + (f", did you mean {close[0]!r}?" if close else "") + f"; {valid}"
            )
    if not names:
        raise ValueError(f"no method is named; {valid}")
    return [name for name in available if name in names]


# ------------------------------------------------------------------------------------------------------- tables

# A heading that stays in place while the table scrolls below it must hide what passes, so it takes the page's colour
# under the names that the book, JupyterLab, Colab and VS Code give it.
_STYLE = (
    PAGE_STYLE
    + ".nrae-table-box{overflow-x:auto;margin:.3em 0}"
    + ".nrae-table-box table.nrae-table{border-collapse:collapse;margin:0;width:auto;color:inherit;font-size:.92em}"
    + ".nrae-table-box .nrae-table :is(th,td){padding:.35em .6em;border:0;border-bottom:1px solid rgba(128,128,128,.35);"
    "color:inherit;background:transparent;white-space:nowrap;text-align:right;font-variant-numeric:tabular-nums}"
    + ".nrae-table-box .nrae-table th{font-weight:600}"
    + ".nrae-table-box .nrae-table tbody th{text-align:left;white-space:normal;min-width:min(8em,30vw);max-width:16em;"
    "position:sticky;left:0;background:var(--pst-color-background,var(--jp-layout-color0,"
    "var(--colab-primary-surface-color,var(--vscode-editor-background,transparent))))}"
    + ".nrae-table-caption{opacity:.85;margin-top:.6em}"
    + ".nrae-table-box .nrae-spread{display:block;font-size:.85em;font-weight:400;opacity:.85}"
    + ".nrae-table-box .nrae-table-text :is(td,th){text-align:left;white-space:normal;overflow-wrap:break-word;min-width:6em}"
    + ".nrae-table-box .nrae-table td.best{font-weight:700;background:rgba(224,105,10,.24)}"
    + ".nrae-table-box .nrae-table td.second{text-decoration:underline;background:rgba(47,128,216,.2)}"
    + ".nrae-table-notes{font-size:.85em;opacity:.85;margin:.3em 0 .8em}"
    + ".nrae-table-notes b{font-weight:700;background:rgba(224,105,10,.24);padding:0 .3em}"
    + ".nrae-table-notes u{background:rgba(47,128,216,.2);padding:0 .3em}"
)
_BOX = "border-left:4px solid {colour};background:rgba(128,128,128,.1);padding:.55em .9em;margin:.6em 0;color:inherit"


def comparison_table(rows, columns, caption, lower_is_better=True, digits=2, missing="not run"):
    """Display numbers of several methods, one row per source ("paper", "ours, recipe paper", ...).

    The best and the second-best number of each row are marked; numbers that print alike share the mark. A row with a
    single number has no mark.

    Arguments:
        rows: label -> {column: number, (mean, standard deviation), None, or a text that says why there is none}.
        columns: names of methods, in order; shown as the paper prints them.
        caption: what the numbers are, with their unit.
        lower_is_better: whether a small number is the good one.
        digits: decimals shown.
        missing: the footnote for None, for NaN and for a column that a row lacks.

    Raises:
        ValueError: a row names a column that the table does not have.
    """
    _display(comparison_table_html(rows, columns, caption, lower_is_better, digits, missing))


def comparison_table_html(rows, columns, caption, lower_is_better=True, digits=2, missing="not run"):
    """The HTML of `comparison_table`."""
    columns, footnotes, ranked = list(columns), [], False
    body = []
    for label, row in rows.items():
        unknown = [name for name in row if name not in columns]
        if unknown:
            raise ValueError(f"row {label!r} names {unknown[0]!r}; the columns are: {', '.join(columns)}")
        printed = {name: _printed(row.get(name), digits, missing) for name in columns}
        marks = _ranks({name: value for name, (value, _, _) in printed.items() if value is not None}, lower_is_better)
        ranked = ranked or bool(marks)
        cells = []
        for name in columns:
            _, text, reason = printed[name]
            if reason:
                if reason not in footnotes:
                    footnotes.append(reason)
                text = f"–<sup>{footnotes.index(reason) + 1}</sup>"
            kind = f' class="{marks[name]}"' if name in marks else ""
            cells.append(f"<td{kind}>{text}</td>")
        body.append(f'<tr><th scope="row">{_text(label)}</th>{"".join(cells)}</tr>')
    heads = "".join(f'<th scope="col">{_text(method_label(name))}</th>' for name in columns)
    # Ten methods fit the book's text column only in a smaller type.
    size = ' style="font-size:.8em"' if len(columns) > 7 else ""
    table = (
        f'<table class="nrae-table"{size} aria-label="{_text(caption)}">'
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    )
    notes = [f"<sup>{place}</sup> {_text(reason)}" for place, reason in enumerate(footnotes, 1)]
    if ranked:
        direction = "lower" if lower_is_better else "higher"
        notes.insert(0, f"<b>best</b> and <u>second best</u> of each row ({direction} is better)")
    return _table_box(table, caption) + (f'<div class="nrae-table-notes">{"; ".join(notes)}</div>' if notes else "")


def _printed(cell, digits, missing):
    """(number as printed, HTML text, reason why there is none) of one cell."""
    if isinstance(cell, str):
        return None, "", cell
    mean, deviation = cell if isinstance(cell, (tuple, list)) else (cell, None)
    if mean is None or not math.isfinite(mean):
        return None, "", missing
    text = f"{mean:.{digits}f}"
    spread = (
        ""
        if deviation is None or not math.isfinite(deviation)
        else (f' <span class="nrae-spread">± {deviation:.{digits}f}</span>')
    )
    return float(text), text.replace("-", "−") + spread, None


def _ranks(numbers, lower_is_better):
    """Column -> "best" or "second"; empty if there is nothing to compare."""
    order = sorted(set(numbers.values()), reverse=not lower_is_better)
    if len(order) < 2:
        return {}
    places = dict(zip(order, ("best", "second"), strict=False))
    if len(order) == 2 and len(numbers) > 2:  # best and the rest: no one is second
        del places[order[1]]
    return {name: places[number] for name, number in numbers.items() if number in places}


def table_frame(rows):
    """The numbers of a `comparison_table` as a DataFrame with columns row, column, value, deviation, for download."""
    import pandas

    records = []
    for label, row in rows.items():
        for name, cell in row.items():
            value, deviation = cell if isinstance(cell, (tuple, list)) else (cell, None)
            if value is not None and not isinstance(value, str):
                records.append({"row": label, "column": name, "value": value, "deviation": deviation})
    return pandas.DataFrame(records, columns=["row", "column", "value", "deviation"])


def text_table(rows, caption):
    """Display texts in rows and columns.

    Arguments:
        rows: label -> {column: text}; a column that a row lacks stays empty.
        caption: what the table shows.
    """
    _display(text_table_html(rows, caption))


def text_table_html(rows, caption):
    """The HTML of `text_table`."""
    return _rows_and_columns(rows, caption, _text, lambda text: f"<td>{_text(text)}</td>")


def _rows_and_columns(rows, caption, head, cell):
    """A table of texts; ``head`` makes the HTML of a heading, ``cell`` a whole cell."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    heads = "".join(f'<th scope="col">{head(name)}</th>' for name in columns)
    body = "".join(
        f'<tr><th scope="row">{head(label)}</th>' + "".join(cell(row.get(name, "")) for name in columns) + "</tr>"
        for label, row in rows.items()
    )
    return _table_box(
        f'<table class="nrae-table nrae-table-text" aria-label="{_text(caption)}">'
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{body}</tbody></table>",
        caption,
    )


def _two_columns(rows, caption):
    body = "".join(f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>' for name, value in rows)
    table = f'<table class="nrae-table nrae-table-text" aria-label="{_text(caption)}"><tbody>{body}</tbody></table>'
    return _table_box(table, caption)


def _table_box(table, caption):
    # The caption stays outside the box, or a phone would cut it with the table. The keyboard can scroll a box only if
    # it can stop there.
    return (
        f'<style>{_STYLE}</style><div class="nrae-table-caption">{_text(caption)}</div>'
        f'<div class="nrae-table-box" role="region" aria-label="{_text(caption)}" tabindex="0">{table}</div>'
    )


# --------------------------------------------------------------------------------------------------- provenance


def provenance(results, already_stored=None):
    """Display where a page's numbers come from: devices, time, seeds, versions, commits, data fingerprints.

    Arguments:
        results: objects with run, seconds, steps_per_second and provenance (`nrae_lib.runs.Result`).
        already_stored: how many of them were read rather than computed for this page; left out when None.

    Raises:
        ValueError: there are no results.
    """
    _display(provenance_html(results, already_stored))


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
        *((f"data: {name}", _fingerprints(values)) for name, values in fingerprints.items()),
        ("date", recorded("date", "dates")),
    ]
    return _two_columns(rows, "Where these numbers come from")


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


# ------------------------------------------------------------------------------------------------ boxes and links

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
    _display(verdicts_html(items))


def verdicts_html(items):
    """The HTML of `verdicts`."""
    boxes = []
    for item in items:
        if item.status not in _VERDICTS:
            raise ValueError(f"unknown status {item.status!r}; it must be one of: {', '.join(_VERDICTS)}")
        symbol, colour = _VERDICTS[item.status]
        claim = item.claim
        boxes.append(
            f'<div class="nrae-verdict" id="claim-{_text(claim.identifier)}-{_text(item.condition)}" style="{_BOX.format(colour=colour)}">'
            f'<div><span aria-hidden="true" style="color:{colour};font-weight:700">{symbol}</span>'
            f" <strong>{_text(item.status.capitalize())}</strong>"
            f' <span style="opacity:.8">({_text(item.condition)}, preset {_text(item.preset)};'
            f" {_text(claim.paper)}, {_text(claim.section)})</span></div>"
            f'<div style="margin:.25em 0">Claim: {_text(claim.text)}</div>'
            f"<div>{_text(item.statistics)}</div></div>"
        )
    return f"<style>{PAGE_STYLE}</style>" + "".join(boxes)


def banner(text):
    """Display a box that says what this page cut, e.g. "quick preset: 3 of 10 noise draws"."""
    _display(banner_html(text))


def banner_html(text):
    """The HTML of `banner`."""
    style = _BOX.format(colour=MANIFOLD_COLOUR)
    return f'<style>{PAGE_STYLE}</style><div class="nrae-banner" role="note" style="{style}">{_text(text)}</div>'


def download(frame, filename):
    """Display a link that saves a DataFrame as CSV; the data are in the link, nothing is written to disk.

    Arguments:
        frame: DataFrame; its index is saved only if it has a name or is not just 0, 1, 2, ...
        filename: a plain name ending in .csv.

    Raises:
        ValueError: any other file name.
    """
    _display(download_html(frame, filename))


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
        f'<style>{PAGE_STYLE}</style><a class="nrae-download" download="{_text(filename)}"'
        f' href="data:text/csv;charset=utf-8;base64,{data}">'
        f"Download {_text(filename)}</a> ({len(frame)} rows, {size})"
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


def _text(value):
    return html.escape(str(value), quote=True)


def _display(text):
    from IPython.display import HTML, display

    display(HTML(text))

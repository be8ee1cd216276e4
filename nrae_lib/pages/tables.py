"""Tables of a page, by pandas' Styler: numbers of several methods with their ranks, and texts. All text is escaped."""

import html
import math
import re
from pathlib import Path

from nrae_lib.pages.plots.style import PAGE_STYLE, method_label

_STYLE = Path(__file__).with_name("tables.css").read_text(encoding="utf-8")


def escaped(value):
    """Text from outside, as it may stand in HTML."""
    return html.escape(str(value), quote=True)


def display_html(text, style=""):
    """Display HTML under `style`, CSS."""
    from IPython.display import HTML, display

    display(HTML(f"<style>{PAGE_STYLE}{style}</style>{text}"))


def display_markdown(text):
    """Display Markdown."""
    from IPython.display import Markdown, display

    display(Markdown(text))


def comparison_table(rows, columns, caption, lower_is_better=True, digits=2, missing="not run"):
    """Display numbers of several methods, one row per source ("paper", "MNIST S, full scale (5 seeds)", ...).

    The best and the second-best number of each row are marked; numbers that print alike share the mark. A row with a
    single number has no mark. ValueError if a row names a column that the table does not have.

    Arguments:
        rows: label -> {column: number, (mean, standard deviation), None, or a text that says why there is none}.
        columns: names of methods, in order; shown as the paper prints them.
        caption: what the numbers are, with their unit.
        lower_is_better: whether a small number is the good one.
        digits: decimals shown.
        missing: the footnote for None, for NaN and for a column that a row lacks.
    """
    columns, footnotes, cells, marks = list(columns), {}, {}, {}
    for label, row in rows.items():
        for name in row:
            if name not in columns:
                raise ValueError(f"row {label!r} names {name!r}; the columns are: {', '.join(columns)}")
        cells[label], numbers = {}, {}
        for name in columns:
            number, text = _printed(row.get(name), digits, missing)
            if number is None:
                text = f"–<sup>{footnotes.setdefault(text, len(footnotes) + 1)}</sup>"
            else:
                numbers[name] = number
            cells[label][name] = text
        marks[label] = _ranks(numbers, lower_is_better)
    notes = [f"<sup>{place}</sup> {escaped(reason)}" for reason, place in footnotes.items()]
    if any(marks.values()):
        direction = "lower" if lower_is_better else "higher"
        notes.insert(0, f"<b>best</b> and <u>second best</u> of each row ({direction} is better)")
    # Ten methods fit the book's text column only in a smaller type.
    size = "font-size:.8em" if len(columns) > 7 else ""
    table = _table(cells, columns, caption, "nrae-table", size, marks=marks)
    display_html(table + (f'<div class="nrae-table-notes">{"; ".join(notes)}</div>' if notes else ""), _STYLE)


def _printed(cell, digits, missing):
    """(number as printed, its HTML), or (None, the reason why there is none), of one cell."""
    if isinstance(cell, str):
        return None, cell
    mean, deviation = cell if isinstance(cell, (tuple, list)) else (cell, None)
    if mean is None or not math.isfinite(mean):
        return None, missing
    text = f"{mean:.{digits}f}"
    known = deviation is not None and math.isfinite(deviation)
    spread = f' <span class="nrae-spread">± {deviation:.{digits}f}</span>' if known else ""
    return float(text), text.replace("-", "−") + spread


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
                records.append((label, name, value, deviation))
    return pandas.DataFrame(records, columns=["row", "column", "value", "deviation"])


def text_table(rows, caption, shown=escaped):
    """Display texts in rows and columns.

    Arguments:
        rows: label -> {column: text}; a column that a row lacks stays empty.
        caption: what the table shows.
        shown: makes the HTML of a text.
    """
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    cells = {label: {name: shown(row.get(name, "")) for name in columns} for label, row in rows.items()}
    display_html(_table(cells, columns, caption, "nrae-table nrae-table-text", head=shown), _STYLE)


def _table(cells, columns, caption, classes, size="", head=None, marks=None):
    """A table whose cells are HTML already, in a box that scrolls.

    Arguments:
        cells: label -> {column: HTML}.
        head: makes the HTML of a heading; by default rows are texts and columns are methods.
        marks: label -> {column: class of a cell}.
    """
    import pandas

    def framed(content):
        return pandas.DataFrame.from_dict(content, orient="index", columns=columns, dtype=object)

    styler = framed(cells).style.format_index(head or escaped)
    styler = styler.format_index(head or (lambda name: escaped(method_label(name))), axis=1)
    if marks:
        styler = styler.set_td_classes(framed(marks).fillna(""))
    styler.uuid, styler.cell_ids = "", False
    table = styler.to_html(table_attributes=f'class="{classes}" aria-label="{escaped(caption)}" style="{size}"')
    # Several tables stand on a page, so none may have an id; and headings say what they head.
    table = table.replace(' id="T_"', "").replace('<style type="text/css">\n</style>\n', "")
    table = re.sub(r'<th class="(row|col)', r'<th scope="\1" class="\1', table)
    # The caption stays outside the box, or a phone would cut it with the table. The keyboard can scroll a box only if
    # it can stop there.
    return (
        f'<div class="nrae-table-caption">{escaped(caption)}</div>'
        f'<div class="nrae-table-box" role="region" aria-label="{escaped(caption)}" tabindex="0">{table}</div>'
    )

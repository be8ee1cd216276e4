"""Tables of a page, by pandas' Styler: numbers of several methods with their ranks, and texts.

Each display function has a pure half, `..._html`, which makes the text and is what the tests read. All text from
outside is escaped.
"""

import html
import math

from nrae_lib.pages.plots import PAGE_STYLE, method_label

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


def comparison_table(rows, columns, caption, lower_is_better=True, digits=2, missing="not run"):
    """Display numbers of several methods, one row per source ("paper", "MNIST S, full scale (5 seeds)", ...).

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
    display_html(comparison_table_html(rows, columns, caption, lower_is_better, digits, missing))


def comparison_table_html(rows, columns, caption, lower_is_better=True, digits=2, missing="not run"):
    """The HTML of `comparison_table`."""
    columns, footnotes, cells, marks = list(columns), [], {}, {}
    for label, row in rows.items():
        for name in row:
            if name not in columns:
                raise ValueError(f"row {label!r} names {name!r}; the columns are: {', '.join(columns)}")
        printed = {name: _printed(row.get(name), digits, missing) for name in columns}
        marks[label] = _ranks(
            {name: value for name, (value, _, _) in printed.items() if value is not None}, lower_is_better
        )
        footnotes += [reason for _, _, reason in printed.values() if reason]
        footnotes = list(dict.fromkeys(footnotes))
        cells[label] = {
            name: f"–<sup>{footnotes.index(reason) + 1}</sup>" if reason else text
            for name, (_, text, reason) in printed.items()
        }
    notes = [f"<sup>{place}</sup> {escaped(reason)}" for place, reason in enumerate(footnotes, 1)]
    if any(marks.values()):
        direction = "lower" if lower_is_better else "higher"
        notes.insert(0, f"<b>best</b> and <u>second best</u> of each row ({direction} is better)")
    # Ten methods fit the book's text column only in a smaller type.
    size = "font-size:.8em" if len(columns) > 7 else ""
    table = _table(cells, columns, caption, "nrae-table", size, marks=marks)
    return table + (f'<div class="nrae-table-notes">{"; ".join(notes)}</div>' if notes else "")


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
    display_html(text_table_html(rows, caption))


def text_table_html(rows, caption, shown=None):
    """The HTML of `text_table`; ``shown`` makes the HTML of a text, by default escaped."""
    shown = shown or escaped
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    cells = {label: {name: shown(row.get(name, "")) for name in columns} for label, row in rows.items()}
    return _table(cells, columns, caption, "nrae-table nrae-table-text", head=shown)


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

    styler = (
        framed(cells)
        .style.format_index(head or escaped)
        .format_index(head or (lambda name: escaped(method_label(name))), axis=1)
    )
    if marks:
        styler = styler.set_td_classes(framed(marks).fillna(""))
    styler.uuid, styler.cell_ids = "", False
    attributes = f'class="{classes}" aria-label="{escaped(caption)}"' + (f' style="{size}"' if size else "")
    table = styler.to_html(table_attributes=attributes)
    # Several tables stand on a page, so none may have an id; and headings say what they head.
    for before, after in (('<style type="text/css">\n</style>\n', ""), (' id="T_"', ""), ("<th class=\"row", '<th scope="row" class="row'),
                          ("<th class=\"col", '<th scope="col" class="col')):  # fmt: skip
        table = table.replace(before, after)
    # The caption stays outside the box, or a phone would cut it with the table. The keyboard can scroll a box only if
    # it can stop there.
    return (
        f'<style>{_STYLE}</style><div class="nrae-table-caption">{escaped(caption)}</div>'
        f'<div class="nrae-table-box" role="region" aria-label="{escaped(caption)}" tabindex="0">'
        f"{table}</div>"
    )


def escaped(value):
    """Text from outside, as it may stand in HTML."""
    return html.escape(str(value), quote=True)


def display_html(text):
    """Display HTML."""
    from IPython.display import HTML, display

    display(HTML(text))

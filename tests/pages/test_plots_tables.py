"""Pictures of tables: every number stands where it belongs."""

import pytest

from nrae_lib.pages import plots

pytest.importorskip("matplotlib")

ROWS = {
    "A, paper": {"ae": 2.0, "nrae_l": 1.0},
    "A": {"ae": (4.0, 0.4), "nrae_l": (2.0, 0.2), "vae": "not run", "nrae_q": None},
    "B": {"vae": (1.0, 0.1)},
    "C": {},
}


def drawn(figure):
    """Row -> its marks' (value, colour, whether it is hollow)."""
    axis = figure.axes[0]
    labels = [text.get_text() for text in axis.get_yticklabels()]
    found = {label: [] for label in labels}
    for container in axis.containers:
        line = container.lines[0]
        (value,), (height,) = line.get_data()
        found[labels[round(height)]].append((value, line.get_color(), line.get_markerfacecolor() == "none"))
    return found


def test_every_number_lies_on_the_line_of_its_row_relative_to_one_method():
    figure = plots.dot_rows(
        ROWS, ("ae", "vae", "nrae_l", "nrae_q"), "error / AE's", relative_to="ae", printed=["A, paper"]
    )
    grey, blue = plots.method_colour("ae"), plots.method_colour("nrae_l")
    assert drawn(figure) == {
        "A, paper": [(1, grey, True), (0.5, blue, True)],
        "A": [(1, grey, False), (0.5, blue, False)],
    }
    ends = [c.lines[2][0].get_segments()[0][:, 0] for c in figure.axes[0].containers if c.lines[2]]
    widths = [end[1] - end[0] for end in ends]
    assert widths == pytest.approx([0.2, 0.1]), "spreads are divided, too"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["AE", "NRAE-L", "hollow: printed"]


def test_rows_without_a_number_are_left_out():
    figure = plots.dot_rows(ROWS, ("ae", "vae", "nrae_l", "nrae_q"), "error")
    assert list(drawn(figure)) == ["A, paper", "A", "B"]
    with pytest.raises(ValueError, match="no row has a number to draw relative to nrae_q"):
        plots.dot_rows(ROWS, ("ae", "vae", "nrae_l", "nrae_q"), "error", relative_to="nrae_q")

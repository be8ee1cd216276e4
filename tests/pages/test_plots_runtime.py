"""Pictures of running time: what they show is read back from the axes and from the SVG."""

import re

import numpy as np
import pytest

from nrae_lib.pages import plots

pytest.importorskip("matplotlib")

COSTS = {
    "this page": {"nrae_q": (1.6, 1.5, 1.7), "ae": (1.0, 1.0, 1.0), "cae": (3.9, 3.8, 4.1)},
    "stored": {"ae": (1.0, 1.0, 1.0), "nrae_q": (1.5, 1.4, 1.6), "spae": (2.9, 2.8, 3.0)},
}


def panel(scale=1.0):
    x = np.array([2, 10, 100])
    return {
        "x": "neighbours k",
        "y": "ms per step",
        "lines": {
            "AE": {"x": x, "y": scale * np.ones(3), "method": "ae"},
            "CAE, estimate": {
                "x": x, "y": scale * np.full(3, 2.0), "low": np.full(3, 1.9), "high": np.full(3, 2.2), "method": "cae",
                "form": 1,
            },
            "SPAE": {"x": x[:2], "y": scale * x[:2], "method": "spae"},
        },
    }  # fmt: skip


EVERY_PICTURE = {
    "cost_chart": lambda: plots.cost_chart(COSTS, {"ae": 1.0, "nrae_q": 2.39, "wae": 7.0}),
    "scaling": lambda: plots.scaling({"time": panel(), "memory": panel(3)}),
}


@pytest.mark.parametrize("name", EVERY_PICTURE)
def test_every_picture_follows_the_page_and_is_the_same_each_time(name):
    html, again = (plots.figure_html(EVERY_PICTURE[name](), f"about <{name}>") for _ in range(2))
    assert html == again and "about &lt;" in html and "currentColor" in html
    assert "NRAE-Q" in html or "CAE, estimate" in html


def test_costs_are_ordered_by_the_first_series_and_the_paper_stands_beside_them():
    (axis,) = plots.cost_chart(COSTS, {"nrae_q": 2.39, "wae": 7.0}).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["AE", "NRAE-Q", "CAE", "SPAE"]
    assert axis.get_ylim()[0] > axis.get_ylim()[1] and axis.get_xscale() == "log"
    drawn = [
        (round(float(x), 2), round(float(y)))
        for line in axis.lines
        for x, y in line.get_xydata()
        if line.get_marker() == "D"
    ]
    assert drawn == [(2.39, 1)], "a method that was not measured has no row"


def test_costs_must_be_numbers():
    with pytest.raises(ValueError, match="there is nothing to draw"):
        plots.cost_chart({})
    for wrong in ({}, {"ae": (0.0, 0.0, 0.0)}, {"ae": (float("nan"),) * 3}):
        with pytest.raises(ValueError, match="every ratio must be a positive number"):
            plots.cost_chart({"this page": wrong})


def test_a_label_looks_the_same_in_every_panel():
    panels = {"one": panel(), "two": panel(2)}
    panels["two"]["lines"] = dict(reversed(panels["two"]["lines"].items()))
    figure = plots.scaling(panels)
    looks = [
        {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axis.lines} for axis in figure.axes
    ]
    assert looks[0] == looks[1] and len(looks[0]) == 3
    assert {line.get_color() for line in figure.axes[0].lines} == {
        plots.method_colour(m) for m in ("ae", "cae", "spae")
    }
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["AE", "CAE, estimate", "SPAE"]
    assert figure.axes[0].get_xlabel() == "neighbours k" and figure.axes[0].get_xscale() == "log"


def test_panels_stand_below_one_another_on_a_phone():
    figure = plots.scaling({"one": panel(), "two": panel()})
    wide, narrow = (re.findall(r'viewBox="0 0 ([\d.]+)', plots.figure_html(f, "x"))[0] for f in (figure, figure.narrow))
    assert float(narrow) < float(wide)
    assert plots.scaling({"one": panel()}).narrow is None

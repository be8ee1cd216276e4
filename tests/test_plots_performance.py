"""The pictures of the page on performance, by the text of the SVG and by what is drawn where."""

import re

import pytest

from nrae_lib import plots

pytest.importorskip("matplotlib")

RATES = {"square": {"MKL": (100.0, 90.0, 105.0), "oneDNN": (200.0, 190.0, 210.0)}, "small": {"MKL": (50.0, 50.0, 50.0)}}
PARTS = {"MNIST, AE": {"products": 0.6, "adam": 0.1, "note": "40% of the rate"}, "toy": {"products": 0.9, "adam": 0.2}}
FIGURES = {
    "rates": lambda: plots.rates(RATES, "GFLOP/s"),
    "step_parts": lambda: plots.step_parts(PARTS),
    "speedup": lambda: plots.speedup({"this page": ((1, 2, 4), (8.0, 4.0, 4.0))}, cores=2),
}


@pytest.mark.parametrize("name", FIGURES)
def test_the_page_shows_its_texts_on_no_background(name):
    text = plots.figure_html(FIGURES[name](), "alt text")
    words = {
        "rates": ("square", "small", "MKL", "oneDNN", "GFLOP/s"),
        "step_parts": ("MNIST, AE", "40% of the rate", "everything else", "% of the step"),
        "speedup": ("this page", "perfect", "2 cores", "workers", "speed-up"),
    }[name]
    assert all(word in text for word in words)
    assert "#000000" not in text and "#ffffff" not in text
    assert text == plots.figure_html(FIGURES[name](), "alt text"), "the same picture gives the same text"


def test_bars_add_up_to_the_step():
    axis = FIGURES["step_parts"]().axes[0]
    bars = sorted((round(bar.get_y()), bar.get_x(), bar.get_width()) for bar in axis.patches if bar.get_width())
    first, second = ([(x, width) for row, x, width in bars if row == place] for place in (0, 1))
    assert first == [(0, 60), (pytest.approx(60), pytest.approx(10)), (pytest.approx(70), pytest.approx(30))]
    assert sum(width for _, width in second) == pytest.approx(110), "parts that exceed the step are shown as they are"
    assert axis.get_xlim()[1] > 110


def test_every_series_has_one_look_and_the_axis_begins_at_zero():
    figure = FIGURES["rates"]()
    axis = figure.axes[0]
    assert axis.get_xlim()[0] == 0 and axis.get_xlim()[1] >= 210
    colours = {}
    for container, name in zip(axis.containers, ("MKL", "oneDNN", "MKL"), strict=True):
        colours.setdefault(name, set()).add(container.lines[0].get_color())
    assert all(len(found) == 1 for found in colours.values()) and colours["MKL"] != colours["oneDNN"]


def test_speedup_is_relative_to_the_first():
    axis = FIGURES["speedup"]().axes[0]
    gain, perfect = axis.lines[:2]
    assert gain.get_ydata().tolist() == [1, 2, 2] and perfect.get_ydata().tolist() == [1, 2, 4]
    assert axis.lines[2].get_xdata()[0] == 2
    assert "cores" not in plots.figure_html(plots.speedup({"a": ((1, 2), (2.0, 1.0))}), "alt")


def test_nothing_and_nonsense_are_refused():
    for draw in (lambda: plots.rates({}, "x"), lambda: plots.step_parts({}), lambda: plots.speedup({})):
        with pytest.raises(ValueError, match="nothing to draw"):
            draw()
    for value in (0.0, float("nan")):
        with pytest.raises(ValueError, match="every rate must be a positive number"):
            plots.rates({"a": {"b": (value, value, value)}}, "x")


def test_colours_read_on_white_and_on_dark():
    text = plots.figure_html(FIGURES["step_parts"](), "alt")
    used = set(re.findall(r"fill: (#[0-9a-f]{6})", text))
    assert len(used) >= 3
    for colour in used:
        assert 0.1 < plots.relative_luminance(colour) < 0.35, colour

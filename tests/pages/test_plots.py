"""Pictures are checked by what the reader gets: the text of the SVG, what is drawn where, in which colour."""

import base64
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from nrae_lib.pages import plots
from nrae_lib.pages.plots.latent import CYCLIC_COLOURS
from nrae_lib.pages.plots.style import MANIFOLD_COLOUR, METHOD_COLOURS, ORDER_COLOURS, relative_luminance

pd = pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
X = np.linspace(-np.pi, np.pi, 200)
CURVE = np.stack([X, np.sin(X)], axis=1)
SINE = {"train": CURVE[::5] + 0.1, "curve": CURVE, "note": "MSE 0.3"}
ANGLE = np.arange(36) * 10.0
CIRCLE = {"code": np.stack([np.cos(np.deg2rad(ANGLE)), np.sin(np.deg2rad(ANGLE))], 1), "angle": ANGLE}
ROLL_ANGLE, TEST_ANGLE = np.linspace(0, 2 * np.pi, 30), np.linspace(0, 2 * np.pi, 1000)
TRAIN, TEST = (np.stack([a * np.cos(a), a * np.sin(a)], axis=1) for a in (ROLL_ANGLE, TEST_ANGLE))
ROLL = {"train": TRAIN, "code": 7 * ROLL_ANGLE, "angle": ROLL_ANGLE}
ROLL |= {"reconstruction": TEST, "test_angle": TEST_ANGLE, "curve": TEST}
SEEDS = pd.DataFrame(
    {"method": method, "seed": seed, "condition": condition, "mse": 1.0 + 0.1 * seed}
    for condition in ("paper", "released") for method in ("ae", "nrae_q") for seed in range(3)
)  # fmt: skip
SWEEP = pd.DataFrame(
    {"method": method, "n": n, "seed": seed, "set": name, "mse": factor / n + 0.001 * seed}
    for name in ("A", "B") for method, factor in (("ae", 2.0), ("nrae_q", 1.0)) for n in (10, 100) for seed in (0, 1, 2)
)  # fmt: skip
SEARCH = pd.DataFrame(
    [
        {"method": "nrae_l", "neighbor_weight": weight, "n_neighbors": k, "validation_mse": 0.003 * k / weight}
        for weight in (0.1, 1.0, 10.0) for k in (2, 4)
    ] + [{"method": "vae", "kl_weight": weight, "validation_mse": 0.01 + weight} for weight in (0.01, 0.1)]
)  # fmt: skip
CHOSEN = {"vae": {"kl_weight": 0.01}, "nrae_l": {"neighbor_weight": 1.0, "n_neighbors": 2}}
ROWS = {
    "A, paper": {"ae": 2.0, "nrae_l": 1.0},
    "A": {"ae": (4.0, 0.4), "nrae_l": (2.0, 0.2), "vae": "not run", "nrae_q": None},
    "B": {"vae": (1.0, 0.1)},
    "C": {},
}
METHODS = ("ae", "vae", "nrae_l", "nrae_q")
COSTS = {
    "this page": {"nrae_q": (1.6, 1.5, 1.7), "ae": (1.0, 1.0, 1.0), "cae": (3.9, 3.8, 4.1)},
    "stored": {"ae": (1.0, 1.0, 1.0), "nrae_q": (1.5, 1.4, 1.6), "spae": (2.9, 2.8, 3.0)},
}
K = np.array([2, 10, 100])
ESTIMATE = {"x": K, "y": np.full(3, 2.0), "low": np.full(3, 1.9), "high": np.full(3, 2.2), "method": "cae", "form": 1}
LINES = {"AE": {"x": K, "y": np.ones(3), "method": "ae"}, "CAE, estimate": ESTIMATE}
LINES |= {"SPAE": {"x": K[:2], "y": K[:2], "method": "spae"}}
TIMES = {"x": "neighbours k", "y": "ms per step", "lines": LINES}


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 1, 6, 6), dtype=np.uint8)


EVERY_PICTURE = {
    "learned_curves": lambda: plots.learned_curves({"ae": SINE | {"curve": [CURVE, -CURVE]}, "dae": SINE, "cae": SINE}),
    "latent_order": lambda: plots.latent_order({"nrae_q": ROLL}),
    "per_seed": lambda: plots.per_seed(SEEDS, "mse", ["ae", "nrae_q"], {"ae": (1.9, 0.2)}),
    "search_grid": lambda: plots.search_grid(SEARCH, CHOSEN),
    "code_circles": lambda: plots.code_circles({"ae": CIRCLE}),
    "image_rows": lambda: plots.image_rows({"ae": images(4)}, {"ae": [1]}, {"ae": "a note"}),
    "sweep": lambda: plots.sweep(SWEEP, "n", "mse", METHODS, panel="set"),
    "dot_rows": lambda: plots.dot_rows(ROWS, METHODS, "error", printed=["A, paper"]),
    "cost_chart": lambda: plots.cost_chart(COSTS, {"ae": 1.0, "nrae_q": 2.39, "wae": 7.0}),
    "scaling": lambda: plots.scaling({"time": TIMES, "memory": TIMES}),
}


def texts(artists):
    return [artist.get_text() for artist in artists]


def ids_of(html):
    return re.findall(r' id="([^"]*)"', html)


@pytest.mark.parametrize("name", EVERY_PICTURE)
def test_every_picture_follows_the_page_and_is_the_same_each_time(name):
    html, again, other = (plots.figure_html(EVERY_PICTURE[name](), f"{alt} <{name}>") for alt in ("a", "a", "b"))
    assert html == again
    assert f"a &lt;{name}&gt;" in html and "currentColor" in html
    assert ids_of(html) and not set(ids_of(html)) & set(ids_of(other)), "two pictures on one page do not clash"
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        root = ElementTree.fromstring(svg)
        assert root.attrib["role"] == "img" and root.attrib["aria-label"] == f"a <{name}>"
        assert len(ids_of(svg)) == len(set(ids_of(svg)))
        assert set(re.findall(r"url\(#([^)]*)\)", svg)) <= set(ids_of(svg))
        # Neither a black nor a white that belongs to the page; the ink of numbers on coloured cells is not black.
        assert not re.search(r"#000000|<(path|rect)[^>]*fill: #ffffff", svg)


def test_show_displays_one_bundle_and_marks_the_thumbnail(monkeypatch):
    import IPython.display

    displayed = []
    monkeypatch.setattr(IPython.display, "display", lambda *values, **options: displayed.append((values, options)))
    assert plots.show(EVERY_PICTURE["per_seed"](), "losses", thumbnail=True) is None
    (((bundle,), options),) = displayed
    assert set(bundle) == {"text/html", "image/png", "text/plain"} and bundle["text/plain"] == "losses"
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert options["metadata"] == {"nrae": {"thumbnail": True}}


def test_colours_read_on_white_and_on_dark_pages_and_differ():
    assert list(map(relative_luminance, ("#ffffff", "#000000", "#808080"))) == pytest.approx([1, 0, 0.2159], abs=1e-4)
    dark = relative_luminance("#121212")
    made = map(plots.method_colour, ("nrwae_l", "irvae", "something new", ""))
    for colour in (MANIFOLD_COLOUR, *CYCLIC_COLOURS, *METHOD_COLOURS.values(), *made):
        luminance = relative_luminance(colour)
        assert 1.05 / (luminance + 0.05) >= 3 and (luminance + 0.05) / (dark + 0.05) >= 3, colour
    assert len(set(METHOD_COLOURS.values())) == len(METHOD_COLOURS)
    assert CYCLIC_COLOURS[0] == CYCLIC_COLOURS[-1], "an angle has no end"
    assert len(set(CYCLIC_COLOURS)) == len(CYCLIC_COLOURS) - 1
    assert set(ORDER_COLOURS) < set(CYCLIC_COLOURS)
    assert plots.method_colour("new") == plots.method_colour("new") != plots.method_colour("newer")
    assert plots.method_label("nrae_l") == "NRAE-L" and plots.method_label("my method") == "my method"


def test_learned_curves_share_limits_set_by_the_data_not_by_the_curves():
    astray = SINE | {"curve": np.array([[0.0, 0.0], [1e6, 1e6]])}
    figure = plots.learned_curves({"ae": SINE, "nrae_q": astray}, truth=CURVE)
    limits = {(axis.get_xlim(), axis.get_ylim()) for axis in figure.axes}
    assert len(limits) == 1 and limits.pop()[0][1] < 4
    assert all(axis.get_aspect() == 1 for axis in figure.axes)
    assert figure.narrow is None
    assert plots.learned_curves(dict.fromkeys("abc", SINE)).narrow is not None


def test_latent_codes_grow_with_the_angle_whatever_their_sign():
    for sign in (1, -1):
        (line,) = plots.latent_order({"nrae_q": ROLL | {"code": sign * ROLL_ANGLE}}).axes[0].child_axes
        np.testing.assert_allclose(line.collections[0].get_offsets()[:, 0], np.linspace(0, 1, 30), atol=1e-12)


def test_per_seed_draws_every_run_and_names_what_was_not_run():
    figure = plots.per_seed(SEEDS, "mse", ["ae", "vae", "nrae_q"], {"vae": (1.45, None)}, ylabel="MSE")
    assert [axis.get_title() for axis in figure.axes] == ["paper", "released"]
    dots = [line for line in figure.axes[0].lines if line.get_alpha() == 0.75]
    np.testing.assert_allclose([line.get_ydata() for line in dots], [[1.0, 1.1, 1.2]] * 2)
    assert texts(figure.axes[0].texts) == ["not run"]
    assert figure.axes[0].get_ylim()[1] > 1.45
    wide = SEEDS[SEEDS.condition == "paper"].assign(mse=[1, 2, 3, 100, 200, 300])
    assert plots.per_seed(wide, "mse", ["ae", "nrae_q"]).axes[0].get_yscale() == "log"
    assert plots.mean_and_deviation([1.0, 2.0, 3.0]) == (2.0, 1.0) and plots.mean_and_deviation([5.0]) == (5.0, 0.0)


def test_search_grid_marks_the_choice_and_prints_the_numbers():
    figure = plots.search_grid(SEARCH, CHOSEN)
    heat_map, line = figure.axes
    assert (heat_map.get_title(), line.get_title()) == ("NRAE-L", "VAE")
    assert {patch.get_xy() for patch in heat_map.patches} == {(1, 0)}
    assert set(texts(heat_map.texts)) == {"600", "1200", "60.0", "120", "6.00", "12.0"}
    assert figure.get_supxlabel() == "in the cells: validation MSE × 10000"
    values, ring = line.lines
    assert list(values.get_ydata()) == [0.02, 0.11] and ring.get_xydata().tolist() == [[0, 0.02]]
    assert texts(line.get_xticklabels()) == ["0.01", "0.1"]


def test_a_sweep_draws_means_deviations_levels_and_the_papers_numbers():
    levels, printed = {"dae": [0.2, 0.4]}, {"nrae_q": {10: 0.3, 100: 0.02}}
    names = ("ae", "vae", "dae", "nrae_q")
    figure = plots.sweep(SWEEP, "n", "mse", names, levels, printed, panel="set")
    assert [axis.get_title() for axis in figure.axes] == ["A", "B"]
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    assert [list(one.get_ydata()) for one in lines if one.get_linestyle() == "--"] == [[pytest.approx(0.3)] * 2]
    assert [one.get_xydata().tolist() for one in lines if one.get_marker() == "D"] == [[[10, 0.3], [100, 0.02]]]
    line, _, [bars] = figure.axes[0].containers[0].lines  # AE
    assert np.allclose(line.get_ydata(), [0.201, 0.021]) and np.allclose(line.get_xdata(), [10, 100], rtol=0.03)
    assert np.allclose([np.ptp(part[:, 1]) for part in bars.get_segments()], 0.002)
    # VAE was not run and has no level.
    assert texts(figure.legends[0].get_texts()) == ["AE", "DAE", "NRAE-Q", "paper"]


def drawn_dots(figure):
    """Row -> its marks' (value, colour, whether it is hollow)."""
    labels, lines = texts(figure.axes[0].get_yticklabels()), [one.lines[0] for one in figure.axes[0].containers]
    found = {label: [] for label in labels}
    for line in lines:
        [[value, height]] = line.get_xydata()
        found[labels[round(height)]].append((value, line.get_color(), line.get_markerfacecolor() == "none"))
    return found


def test_every_number_of_a_table_lies_on_the_line_of_its_row_relative_to_one_method():
    figure = plots.dot_rows(ROWS, METHODS, "error / AE's", relative_to="ae", printed=["A, paper"])
    grey, blue = plots.method_colour("ae"), plots.method_colour("nrae_l")
    assert drawn_dots(figure) == {
        "A, paper": [(1, grey, True), (0.5, blue, True)],
        "A": [(1, grey, False), (0.5, blue, False)],
    }
    ends = [c.lines[2][0].get_segments()[0][:, 0] for c in figure.axes[0].containers if c.lines[2]]
    assert [end[1] - end[0] for end in ends] == pytest.approx([0.2, 0.1]), "spreads are divided, too"
    assert texts(figure.legends[0].get_texts()) == ["AE", "NRAE-L", "hollow: printed"]
    assert list(drawn_dots(plots.dot_rows(ROWS, METHODS, "error"))) == ["A, paper", "A", "B"], "C has no number"


def test_costs_are_ordered_by_the_first_series_and_the_paper_stands_beside_them():
    (axis,) = plots.cost_chart(COSTS, {"nrae_q": 2.39, "wae": 7.0}).axes
    assert texts(axis.get_yticklabels()) == ["AE", "NRAE-Q", "CAE", "SPAE"]
    assert axis.get_ylim()[0] > axis.get_ylim()[1] and axis.get_xscale() == "log"
    printed = [line.get_xydata().tolist() for line in axis.lines if line.get_marker() == "D"]
    assert printed == [[[2.39, 1]]], "a method that was not measured has no row"


def test_a_label_looks_the_same_in_every_panel_and_panels_stand_below_one_another_on_a_phone():
    turned = TIMES | {"lines": dict(reversed(LINES.items()))}
    figure = plots.scaling({"one": TIMES, "two": turned})
    looks, again = (
        {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axis.lines} for axis in figure.axes
    )
    assert looks == again and len(looks) == 3
    assert {colour for colour, *_ in looks} == set(map(plots.method_colour, ("ae", "cae", "spae")))
    assert texts(figure.legends[0].get_texts()) == ["AE", "CAE, estimate", "SPAE"]
    assert figure.axes[0].get_xlabel() == "neighbours k" and figure.axes[0].get_xscale() == "log"
    assert figure.narrow.get_figwidth() < figure.get_figwidth()
    assert plots.scaling({"one": TIMES}).narrow is None


def test_best_and_worst_stand_above_their_reconstructions():
    best, worst = (images(4), images(4, 1)), (images(4, 2), images(4, 3))
    figure = plots.best_and_worst(
        {"ae": {"best": best, "worst": worst}, "nrae_q": {"best": worst, "worst": best}},
        {name: {"best": f"{name} low", "worst": "high"} for name in ("ae", "nrae_q")},
    )
    assert [axis.get_title() for axis in figure.axes] == ["smallest errors", "largest errors", "", ""]
    picture = np.asarray(figure.axes[1].images[0].get_array())
    assert np.array_equal(picture[:6, :6, 0], worst[0][0, 0])
    assert np.array_equal(picture[7:13, 21:27, 0], worst[1][3, 0])
    assert figure.axes[2].get_ylabel() == "NRAE-Q" and figure.axes[2].get_xlabel() == "nrae_q low"


def test_codes_lie_on_the_circle_and_on_a_spiral_outside_it():
    axis = plots.code_circles({"ae": CIRCLE}).axes[0]
    ring, spiral = (collection.get_offsets().data for collection in axis.collections)
    assert np.allclose(ring, CIRCLE["code"])
    assert np.allclose(np.linalg.norm(spiral, axis=1), np.linspace(1.3, 2.0, 36))
    assert np.allclose(spiral / np.linalg.norm(spiral, axis=1, keepdims=True), CIRCLE["code"])
    assert axis.collections[0].get_array().tolist() == ANGLE.tolist() and axis.get_title() == "AE"
    (frame,) = plots.code_planes({"ae": CIRCLE}).axes[0].patches
    assert frame.get_bbox().bounds == (-2, -2, 4, 4)


def test_latent_grids_place_images_and_make_those_away_from_data_pale():
    grid = np.arange(6, dtype=np.uint8).repeat(4).reshape(2, 3, 1, 2, 2) * 40
    near = np.array([[True, True, False], [True, False, True]])
    picture = plots.latent_grids({"nrae_q": {"grid": grid, "near": near}}).axes[0].images[0].get_array()
    assert picture.shape == (5, 8, 4)
    assert picture[0, 3].tolist() == [40, 40, 40, 255] and picture[4, 7].tolist() == [200, 200, 200, 255]
    assert picture[1, 7].tolist() == [80, 80, 80, 85] and picture[3, 4].tolist() == [160, 160, 160, 85]
    assert picture[2].sum() == 0  # the line between the rows


def test_curvature_fields_share_one_symmetric_scale_with_flat_in_the_middle():
    low, high = np.full((4, 4), 0.02), np.full((4, 4), -3.0)
    low[0, 0] = np.nan
    code = np.zeros((5, 2))
    figure = plots.curvature_fields({"ae": {"field": low, "code": code}, "nrae_l": {"field": high, "code": code}})
    fields = [axis.images[0] for axis in figure.axes[:2]]
    assert {field.norm.vmax for field in fields} == {10.0} and {field.norm.vmin for field in fields} == {-10.0}
    assert fields[0].norm(0.0) == pytest.approx(0.5)
    assert fields[0].norm(0.02) > 0.5 > fields[1].norm(-3.0)
    assert np.ma.getmaskarray(fields[0].get_array())[0, 0]
    left, right, bottom, top = fields[0].get_extent()
    assert (left, right) == (bottom, top) == pytest.approx((-2 - 2 / 3, 2 + 2 / 3))  # pixels are centred on the grid


@pytest.mark.parametrize(("call", "message"), [
    (lambda: plots.learned_curves({}), "panels is empty"),
    (lambda: plots.code_circles({}), "nothing to draw"),
    (lambda: plots.cost_chart({}), "nothing to draw"),
    (lambda: plots.cost_chart({"x": {"ae": (np.nan, 1, 1)}}), "every ratio must be a positive number"),
    (lambda: plots.cost_chart({"x": {}}), "was anything measured"),
    (lambda: plots.learned_curves({"ae": SINE | {"train": np.zeros((3, 3))}}), r"must have shape \(points, 2\), not \(3, 3\)"),
    (lambda: plots.learned_curves({"ae": SINE | {"train": np.full((3, 2), np.nan)}}), "did training diverge"),
    (lambda: plots.per_seed(SEEDS, "mse", ["vae"]), "there is nothing to draw"),
    (lambda: plots.search_grid(SEARCH, {}), "nothing to draw"),
    (lambda: plots.search_grid(SEARCH, {"ae": {"nope": 1}}), "the frame has no column 'nope'; its columns are: "),
    (lambda: plots.per_seed(SEEDS, "nope", METHODS), "the frame has no column 'nope'"),
    (lambda: plots.sweep(SWEEP, "n", "mse", ("cae",)), "there is nothing to draw"),
    (lambda: plots.dot_rows(ROWS, METHODS, "error", relative_to="nrae_q"), "no row has a number to draw relative to nrae_q"),
    (lambda: plots.show(EVERY_PICTURE["per_seed"](), " "), "alt is empty"),
    (lambda: plots.latent_grids({"ae": {"grid": np.zeros((2, 3, 1, 2, 2), np.uint8), "near": np.ones((3, 2), bool)}}), r"near has shape \(3, 2\), but its grid \(2, 3\)"),
    (lambda: plots.latent_order({"ae": ROLL | {"code": np.zeros(3)}}), "code of 'ae' has 3 entries, but train "),
    (lambda: plots.code_circles({"ae": CIRCLE | {"angle": np.zeros(4)}}), "angle of 'ae' has 4 entries, but code "),
    (lambda: plots.code_planes({"ae": CIRCLE | {"angle": np.zeros(5)}}), "angle of 'ae' has 5 entries, but code "),
])  # fmt: skip
def test_wrong_input_gets_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""Pictures are checked by what the reader gets: the text of the SVG, what is drawn where, in which colour."""

import base64
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from nrae_lib.pages import plots

pd = pytest.importorskip("pandas")
pytest.importorskip("matplotlib")


def sine_panel(seeds=1):
    x = np.linspace(-np.pi, np.pi, 200)
    curve = np.stack([x, np.sin(x)], axis=1)
    return {"train": curve[::5] + 0.1, "curve": [curve + 0.1 * seed for seed in range(seeds)], "note": "MSE 0.3"}


def roll_panel(sign=1):
    angle, test_angle = np.linspace(0, 2 * np.pi, 30), np.linspace(0, 2 * np.pi, 1000)
    train, test = (np.stack([a * np.cos(a), a * np.sin(a)], axis=1) for a in (angle, test_angle))
    return {
        "train": train, "reconstruction": test, "curve": test, "code": sign * 7 * angle, "angle": angle,
        "test_angle": test_angle,
    }  # fmt: skip


def circle(count=36):
    angle = np.arange(count) * 360 / count
    return {"code": np.stack([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))], 1), "angle": angle}


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 1, 6, 6), dtype=np.uint8)


def seeds_frame(conditions=("paper", "released")):
    return pd.DataFrame(
        {"method": method, "seed": seed, "condition": condition, "mse": 1.0 + 0.1 * seed}
        for condition in conditions for method in ("ae", "nrae_q") for seed in range(3)
    )  # fmt: skip


def sweep_frame():
    return pd.DataFrame(
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
EVERY_PICTURE = {
    "learned_curves": lambda: plots.learned_curves({"ae": sine_panel(3), "nrae_q": sine_panel(), "dae": sine_panel()}),
    "latent_order": lambda: plots.latent_order({"nrae_q": roll_panel()}),
    "per_seed": lambda: plots.per_seed(seeds_frame(), "mse", ["ae", "nrae_q"], {"ae": (1.9, 0.2)}),
    "search_grid": lambda: plots.search_grid(SEARCH, CHOSEN),
    "code_circles": lambda: plots.code_circles({"ae": circle()}),
    "image_rows": lambda: plots.image_rows({"ae": images(4)}, {"ae": [1]}, {"ae": "a note"}),
    "sweep": lambda: plots.sweep(sweep_frame(), "n", "mse", METHODS, panel="set"),
    "dot_rows": lambda: plots.dot_rows(ROWS, METHODS, "error", printed=["A, paper"]),
}


@pytest.mark.parametrize("name", EVERY_PICTURE)
def test_every_picture_follows_the_page_and_is_the_same_each_time(name):
    html, again = (plots.figure_html(EVERY_PICTURE[name](), f"about <{name}>") for _ in range(2))
    assert html == again
    assert "about &lt;" in html and "currentColor" in html
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        root = ElementTree.fromstring(svg)
        assert root.attrib["role"] == "img" and root.attrib["aria-label"] == f"about <{name}>"
        ids = re.findall(r' id="([^"]*)"', svg)
        assert len(ids) == len(set(ids))
        assert set(re.findall(r"url\(#([^)]*)\)", svg)) <= set(ids)
        # Neither a black nor a white that belongs to the page; the ink of numbers on coloured cells is not black.
        assert not re.search(r"#000000|<(path|rect)[^>]*fill: #ffffff", svg)


def test_ids_of_two_pictures_on_one_page_do_not_clash():
    first, second = (
        set(re.findall(r' id="([^"]*)"', plots.figure_html(EVERY_PICTURE["per_seed"](), alt))) for alt in "ab"
    )
    assert first and not first & second


def test_show_displays_one_bundle_and_marks_the_thumbnail(monkeypatch):
    import IPython.display

    displayed = []
    monkeypatch.setattr(IPython.display, "display", lambda *values, **options: displayed.append((values, options)))
    assert plots.show(EVERY_PICTURE["per_seed"](), "losses", thumbnail=True) is None
    (((bundle,), options),) = displayed
    assert set(bundle) == {"text/html", "image/png", "text/plain"} and bundle["text/plain"] == "losses"
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert options["metadata"] == {"nrae": {"thumbnail": True}}
    with pytest.raises(ValueError, match="alt is empty"):
        plots.show(EVERY_PICTURE["per_seed"](), " ")


def test_colours_read_on_white_and_on_dark_pages_and_differ():
    assert [plots.relative_luminance(colour) for colour in ("#ffffff", "#000000", "#808080")] == pytest.approx(
        [1, 0, 0.2159], abs=1e-4
    )
    dark = plots.relative_luminance("#121212")
    made = map(plots.method_colour, ("nrwae_l", "irvae", "something new", ""))
    named = (plots.SAMPLE_COLOUR, plots.MANIFOLD_COLOUR, *plots.CYCLIC_COLOURS, *plots.METHOD_COLOURS.values())
    for colour in (*named, *made):
        luminance = plots.relative_luminance(colour)
        assert 1.05 / (luminance + 0.05) >= 3 and (luminance + 0.05) / (dark + 0.05) >= 3, colour
    assert len(set(plots.METHOD_COLOURS.values())) == len(plots.METHOD_COLOURS)
    assert plots.CYCLIC_COLOURS[0] == plots.CYCLIC_COLOURS[-1], "an angle has no end"
    assert len(set(plots.CYCLIC_COLOURS)) == len(plots.CYCLIC_COLOURS) - 1
    assert set(plots.ORDER_COLOURS) < set(plots.CYCLIC_COLOURS)
    assert plots.method_colour("new") == plots.method_colour("new") != plots.method_colour("newer")
    assert plots.method_label("nrae_l") == "NRAE-L" and plots.method_label("my method") == "my method"


def test_modules_import_without_the_drawing_libraries():
    code = (
        "import sys\nfor name in ('matplotlib', 'pandas', 'IPython', 'torch'): sys.modules[name] = None\n"
        "import nrae_lib.pages.plots, nrae_lib.pages"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_learned_curves_share_limits_set_by_the_data_not_by_the_curves():
    astray = sine_panel() | {"curve": np.array([[0.0, 0.0], [1e6, 1e6]])}
    figure = plots.learned_curves({"ae": sine_panel(), "nrae_q": astray}, truth=sine_panel()["curve"][0])
    limits = {(axis.get_xlim(), axis.get_ylim()) for axis in figure.axes}
    assert len(limits) == 1 and limits.pop()[0][1] < 4
    assert all(axis.get_aspect() == 1 for axis in figure.axes)
    assert figure.narrow is None
    assert plots.learned_curves(dict.fromkeys("abc", sine_panel())).narrow is not None


def test_latent_codes_grow_with_the_angle_whatever_their_sign():
    for sign in (1, -1):
        (line,) = plots.latent_order({"nrae_q": roll_panel(sign)}).axes[0].child_axes
        np.testing.assert_allclose(line.collections[0].get_offsets()[:, 0], np.linspace(0, 1, 30), atol=1e-12)


def test_per_seed_draws_every_run_and_names_what_was_not_run():
    figure = plots.per_seed(seeds_frame(), "mse", ["ae", "vae", "nrae_q"], {"vae": (1.45, None)}, ylabel="MSE")
    assert [axis.get_title() for axis in figure.axes] == ["paper", "released"]
    dots = [line for line in figure.axes[0].lines if line.get_alpha() == 0.75]
    np.testing.assert_allclose([line.get_ydata() for line in dots], [[1.0, 1.1, 1.2]] * 2)
    assert [text.get_text() for text in figure.axes[0].texts] == ["not run"]
    assert figure.axes[0].get_ylim()[1] > 1.45
    wide = seeds_frame(["paper"]).assign(mse=[1, 2, 3, 100, 200, 300])
    assert plots.per_seed(wide, "mse", ["ae", "nrae_q"]).axes[0].get_yscale() == "log"
    assert plots.mean_and_deviation([1.0, 2.0, 3.0]) == (2.0, 1.0) and plots.mean_and_deviation([5.0]) == (5.0, 0.0)


def test_search_grid_marks_the_choice_and_prints_the_numbers():
    figure = plots.search_grid(SEARCH, CHOSEN)
    heat_map, line = figure.axes
    assert (heat_map.get_title(), line.get_title()) == ("NRAE-L", "VAE")
    assert {patch.get_xy() for patch in heat_map.patches} == {(1, 0)}
    assert {text.get_text() for text in heat_map.texts} == {"600", "1200", "60.0", "120", "6.00", "12.0"}
    assert figure.get_supxlabel() == "in the cells: validation MSE × 10000"
    values, ring = line.lines
    assert list(values.get_ydata()) == [0.02, 0.11] and ring.get_xydata().tolist() == [[0, 0.02]]
    assert [label.get_text() for label in line.get_xticklabels()] == ["0.01", "0.1"]


def test_a_sweep_draws_means_deviations_levels_and_the_papers_numbers():
    figure = plots.sweep(
        sweep_frame(), "n", "mse", ("ae", "vae", "dae", "nrae_q"), {"dae": [0.2, 0.4]}, {"nrae_q": {10: 0.3, 100: 0.02}},
        panel="set",
    )  # fmt: skip
    assert [axis.get_title() for axis in figure.axes] == ["A", "B"]
    axis = figure.axes[0]
    level, printed = (
        [line for line in axis.lines if len(line.get_xdata()) and look(line)]
        for look in (lambda line: line.get_linestyle() == "--", lambda line: line.get_marker() == "D")
    )
    assert [list(line.get_ydata()) for line in level] == [[pytest.approx(0.3)] * 2]
    assert [line.get_xydata().tolist() for line in printed] == [[[10, 0.3], [100, 0.02]]]
    container = axis.containers[0]  # AE
    assert np.allclose(container.lines[0].get_ydata(), [0.201, 0.021])
    assert np.allclose(container.lines[0].get_xdata(), [10, 100], rtol=0.03)
    [bars] = container.lines[2]
    assert np.allclose([np.ptp(part[:, 1]) for part in bars.get_segments()], 0.002)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["AE", "DAE", "NRAE-Q", "paper"], "VAE was not run and has no level"


def drawn_dots(figure):
    """Row -> its marks' (value, colour, whether it is hollow)."""
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    found = {label: [] for label in labels}
    for container in figure.axes[0].containers:
        line = container.lines[0]
        (value,), (height,) = line.get_data()
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
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["AE", "NRAE-L", "hollow: printed"]
    assert list(drawn_dots(plots.dot_rows(ROWS, METHODS, "error"))) == ["A, paper", "A", "B"], "C has no number"


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
    panel = circle()
    axis = plots.code_circles({"ae": panel}).axes[0]
    ring, spiral = (collection.get_offsets().data for collection in axis.collections)
    assert np.allclose(ring, panel["code"])
    assert np.allclose(np.linalg.norm(spiral, axis=1), np.linspace(1.3, 2.0, 36))
    assert np.allclose(spiral / np.linalg.norm(spiral, axis=1, keepdims=True), panel["code"])
    assert axis.collections[0].get_array().tolist() == panel["angle"].tolist()
    assert axis.get_title() == "AE"
    (frame,) = plots.code_planes({"ae": panel}).axes[0].patches
    assert frame.get_bbox().bounds == (-2, -2, 4, 4)


def test_latent_grids_place_images_and_make_those_away_from_data_pale():
    grid = np.arange(6, dtype=np.uint8).repeat(4).reshape(2, 3, 1, 2, 2) * 40
    near = np.array([[True, True, False], [True, False, True]])
    picture = plots.latent_grids({"nrae_q": {"grid": grid, "near": near}}).axes[0].images[0].get_array()
    assert picture.shape == (5, 8, 4)
    assert picture[0, 3].tolist() == [40, 40, 40, 255] and picture[4, 7].tolist() == [200, 200, 200, 255]
    assert picture[1, 7].tolist() == [80, 80, 80, 85] and picture[3, 4].tolist() == [160, 160, 160, 85]
    assert picture[2].sum() == 0  # the line between the rows
    with pytest.raises(ValueError, match="near has shape"):
        plots.latent_grids({"nrae_q": {"grid": grid, "near": near.T}})


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
    (lambda: plots.learned_curves({"ae": sine_panel() | {"train": np.zeros((3, 3))}}), r"must have shape \(points, 2\), not \(3, 3\)"),
    (lambda: plots.learned_curves({"ae": sine_panel() | {"train": np.full((3, 2), np.nan)}}), "did training diverge"),
    (lambda: plots.latent_order({"ae": roll_panel() | {"code": np.zeros(3)}}), "code has 3 values, but train 30 points"),
    (lambda: plots.per_seed(seeds_frame(), "psnr", ["ae"]), "no column 'psnr'; its columns are: method, seed"),
    (lambda: plots.per_seed(seeds_frame(), "mse", ["vae"]), "there is nothing to draw"),
    (lambda: plots.search_grid(SEARCH, {"vae": {"beta": 1}}), "no column 'beta'"),
    (lambda: plots.search_grid(SEARCH, {}), "nothing to draw"),
    (lambda: plots.sweep(sweep_frame(), "n", "mse", ("cae",)), "there is nothing to draw"),
    (lambda: plots.sweep(sweep_frame(), "k", "mse", ("ae",)), "no column 'k'"),
    (lambda: plots.dot_rows(ROWS, METHODS, "error", relative_to="nrae_q"), "no row has a number to draw relative to nrae_q"),
    (lambda: plots.code_circles({}), "nothing to draw"),
    (lambda: plots.code_circles({"ae": circle() | {"angle": np.zeros(3)}}), "angle has 3 values, but code has 36 points"),
    (lambda: plots.code_planes({"ae": circle() | {"angle": np.zeros(3)}}), "angle has 3 values, but code has 36 points"),
])  # fmt: skip
def test_wrong_input_gets_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()

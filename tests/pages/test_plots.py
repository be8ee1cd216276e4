"""Pictures are checked by what the reader gets: the text of the SVG, the limits, and the animation in a real browser."""

import base64
import re
import shutil
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
    angle = np.linspace(0, 2 * np.pi, 30)
    test_angle = np.linspace(0, 2 * np.pi, 1000)
    train, test = (np.stack([a * np.cos(a), a * np.sin(a)], axis=1) for a in (angle, test_angle))
    return {
        "train": train, "reconstruction": test, "curve": test, "code": sign * 7 * angle, "angle": angle,
        "test_angle": test_angle,
    }  # fmt: skip


def seeds_frame(conditions=("paper", "released")):
    return pd.DataFrame(
        {"method": method, "seed": seed, "condition": condition, "mse": 1.0 + 0.1 * seed}
        for condition in conditions for method in ("ae", "nrae_q") for seed in range(3)
    )  # fmt: skip


def search_frame():
    rows = [
        {"method": "nrae_l", "neighbor_weight": weight, "n_neighbors": k, "validation_mse": 0.003 * k / weight}
        for weight in (0.1, 1.0, 10.0) for k in (2, 4)
    ]  # fmt: skip
    rows += [{"method": "vae", "kl_weight": weight, "validation_mse": 0.01 + weight} for weight in (0.01, 0.1)]
    return pd.DataFrame(rows)


CHOSEN = {"nrae_l": {"neighbor_weight": 1.0, "n_neighbors": 2}, "vae": {"kl_weight": 0.01}}


def scrubber_panels(frames=4):
    panel = sine_panel()
    return {
        "ae": {"train": panel["train"], "frames": np.stack([panel["curve"][0] * s for s in range(frames)])},
        "nrae_q": {"train": panel["train"], "frames": np.stack([panel["curve"][0]] * frames)},
    }


EVERY_PICTURE = {
    "learned_curves": lambda: plots.learned_curves({"ae": sine_panel(3), "nrae_q": sine_panel(), "dae": sine_panel()}),
    "latent_order": lambda: plots.latent_order({"nrae_q": roll_panel()}),
    "per_seed": lambda: plots.per_seed(seeds_frame(), "mse", ["ae", "nrae_q"], {"ae": (1.9, 0.2)}),
    "search_grid": lambda: plots.search_grid(search_frame(), CHOSEN),
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
    shown = []
    import IPython.display

    monkeypatch.setattr(IPython.display, "display", lambda *values, **options: shown.append((values, options)))
    assert plots.show(EVERY_PICTURE["per_seed"](), "losses", thumbnail=True) is None
    (((bundle,), options),) = shown
    assert set(bundle) == {"text/html", "image/png", "text/plain"} and bundle["text/plain"] == "losses"
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert options["metadata"] == {"nrae": {"thumbnail": True}}
    with pytest.raises(ValueError, match="alt is empty"):
        plots.show(EVERY_PICTURE["per_seed"](), " ")


@pytest.mark.parametrize("colour", [
    plots.SAMPLE_COLOUR, plots.MANIFOLD_COLOUR, *plots.ORDER_COLOURS, *plots.METHOD_COLOURS.values(),
    *map(plots.method_colour, ("nrwae_l", "irvae", "something new", "")),
])  # fmt: skip
def test_colours_read_on_white_and_on_dark_pages(colour):
    luminance = plots.relative_luminance(colour)
    dark = plots.relative_luminance("#121212")
    assert 1.05 / (luminance + 0.05) >= 3
    assert (luminance + 0.05) / (dark + 0.05) >= 3


def test_relative_luminance_of_known_colours():
    assert plots.relative_luminance("#ffffff") == pytest.approx(1)
    assert plots.relative_luminance("#000000") == 0
    assert plots.relative_luminance("#808080") == pytest.approx(0.2159, abs=1e-4)


def test_methods_have_distinct_fixed_colours():
    assert len(set(plots.METHOD_COLOURS.values())) == len(plots.METHOD_COLOURS)
    assert plots.method_colour("new") == plots.method_colour("new") != plots.method_colour("newer")
    assert plots.method_label("nrae_l") == "NRAE-L" and plots.method_label("my method") == "my method"


def test_learned_curves_share_limits_set_by_the_data_not_by_the_curves():
    astray = sine_panel() | {"curve": np.array([[0.0, 0.0], [1e6, 1e6]])}
    figure = plots.learned_curves({"ae": sine_panel(), "nrae_q": astray}, truth=sine_panel()["curve"][0])
    limits = {(axis.get_xlim(), axis.get_ylim()) for axis in figure.axes}
    assert len(limits) == 1 and limits.pop()[0][1] < 4
    assert all(axis.get_aspect() == 1 for axis in figure.axes)
    assert figure.narrow is None
    assert plots.learned_curves(dict.fromkeys("abc", sine_panel())).narrow is not None


def test_latent_codes_grow_with_the_angle_whatever_their_sign():
    lines = []
    for sign in (1, -1):
        figure = plots.latent_order({"nrae_q": roll_panel(sign)})
        lines.append(figure.axes[1].collections[0].get_offsets()[:, 0])
    np.testing.assert_allclose(lines[0], np.linspace(0, 1, 30), atol=1e-12)
    np.testing.assert_allclose(lines[0], lines[1], atol=1e-12)


def test_per_seed_draws_every_run_and_names_what_was_not_run():
    figure = plots.per_seed(seeds_frame(), "mse", ["ae", "vae", "nrae_q"], {"vae": (1.45, None)}, ylabel="MSE")
    assert len(figure.axes) == 2
    dots = [line for line in figure.axes[0].lines if line.get_alpha() == 0.75]
    np.testing.assert_allclose([line.get_ydata() for line in dots], [[1.0, 1.1, 1.2]] * 2)
    assert [text.get_text() for text in figure.axes[0].texts] == ["not run"]
    assert figure.axes[0].get_ylim()[1] > 1.45
    wide = seeds_frame(["paper"]).assign(mse=[1, 2, 3, 100, 200, 300])
    assert plots.per_seed(wide, "mse", ["ae", "nrae_q"]).axes[0].get_yscale() == "log"


def test_mean_and_deviation():
    assert plots.mean_and_deviation([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert plots.mean_and_deviation([5.0]) == (5.0, 0.0)


def test_search_grid_outlines_the_chosen_cell_and_prints_the_numbers():
    figure = plots.search_grid(search_frame(), CHOSEN)
    heat_map = next(axis for axis in figure.axes if axis.get_title() == "NRAE-L")
    assert {patch.get_xy() for patch in heat_map.patches} == {(1, 0)}
    assert {text.get_text() for text in heat_map.texts} == {"600", "1200", "60.0", "120", "6.00", "12.0"}
    assert any("numbers × 10000" in axis.get_xlabel() for axis in figure.axes)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: plots.learned_curves({}), "panels is empty"),
    (lambda: plots.learned_curves({"ae": sine_panel() | {"train": np.zeros((3, 3))}}), r"must have shape \(points, 2\), not \(3, 3\)"),
    (lambda: plots.learned_curves({"ae": sine_panel() | {"train": np.full((3, 2), np.nan)}}), "did training diverge"),
    (lambda: plots.latent_order({"ae": roll_panel() | {"code": np.zeros(3)}}), "code has 3 values, but train 30 points"),
    (lambda: plots.per_seed(seeds_frame(), "psnr", ["ae"]), "no column 'psnr'; its columns are: method, seed"),
    (lambda: plots.per_seed(seeds_frame(), "mse", ["vae"]), "there is nothing to draw"),
    (lambda: plots.search_grid(search_frame(), {"vae": {"beta": 1}}), "no column 'beta'"),
    (lambda: plots.search_grid(search_frame(), {}), "nothing to draw"),
    (lambda: plots.scrubber_html(scrubber_panels(), [1, 2]), r"must have shape \(2 frame_steps, points, 2\)"),
])  # fmt: skip
def test_wrong_input_gets_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_scrubber_is_small_safe_and_alone():
    panels = {"</script><b>": scrubber_panels()["ae"], "nrae_q": scrubber_panels()["nrae_q"]}
    html = plots.scrubber_html(panels, range(4), alt='a "quoted" <alt>')
    assert html.count("</script>") == 1 and "</script><b>" not in html
    assert "a &quot;quoted&quot; &lt;alt&gt;" in html and "http" not in html
    assert len(html) < 25_000
    assert html == plots.scrubber_html(panels, range(4), alt='a "quoted" <alt>')


def test_modules_import_without_the_drawing_libraries():
    code = (
        "import sys\nfor name in ('matplotlib', 'pandas', 'IPython', 'torch'): sys.modules[name] = None\n"
        "import nrae_lib.pages.plots, nrae_lib.pages"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_scrubber_plays_in_a_browser(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    html = plots.scrubber_html(scrubber_panels(), [0, 10, 20, 30], alt="training")
    file = tmp_path / "page.html"
    # The same animation twice: both must come alive, each on its own.
    file.write_text(f"<!doctype html><meta charset=utf-8><body style='color:#111'>{html}{html}", encoding="utf-8")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        problems = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        (tmp_path / "empty.html").write_text("<!doctype html>")
        page.goto((tmp_path / "empty.html").as_uri())
        names_before = page.evaluate("Object.keys(window)")
        page.goto(file.as_uri())
        first, second = page.locator(".nrae-scrubber").all()
        picture = "canvas => canvas.toDataURL()"
        page.wait_for_function("document.querySelectorAll('canvas[style*=height]').length === 2")
        assert first.locator(".nrae-scrubber-step").inner_text() == "epoch 30"
        assert first.locator("input").get_attribute("aria-label") == "epoch: training"
        last = first.locator("canvas").evaluate(picture)

        first.locator("input").focus()
        page.keyboard.press("Home")
        assert first.locator(".nrae-scrubber-step").inner_text() == "epoch 0"
        assert first.locator("input").get_attribute("aria-valuetext") == "epoch 0"
        assert second.locator(".nrae-scrubber-step").inner_text() == "epoch 30"
        changed = "old => document.querySelector('.nrae-scrubber canvas').toDataURL() !== old"
        page.wait_for_function(changed, arg=last)
        start = first.locator("canvas").evaluate(picture)

        page.evaluate("document.body.style.color = '#eee'; document.documentElement.dataset.theme = 'dark'")
        page.wait_for_function(changed, arg=start)

        button = first.locator("button")
        button.press("Enter")
        assert button.get_attribute("aria-label") == "pause"
        page.wait_for_function("document.querySelector('.nrae-scrubber-step').textContent === 'epoch 30'", timeout=9000)
        assert button.get_attribute("aria-label") == "play"
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert set(page.evaluate("Object.keys(window)")) <= set(names_before)
        assert problems == []
        browser.close()

"""Sweeps, best and worst reconstructions, and the slider: checked by what the reader gets."""

import base64
import io
import json
import os
import re
import shutil

import numpy as np
import pytest

from nrae_lib.pages import plots

pd = pytest.importorskip("pandas")
pytest.importorskip("matplotlib")


def sweep_frame():
    return pd.DataFrame(
        {"method": method, "n": n, "seed": seed, "set": name, "mse": factor / n + 0.001 * seed}
        for name in ("A", "B") for method, factor in (("ae", 2.0), ("nrae_q", 1.0)) for n in (10, 100) for seed in (0, 1, 2)
    )  # fmt: skip


def test_a_sweep_draws_means_deviations_levels_and_the_papers_numbers():
    figure = plots.sweep(
        sweep_frame(), "n", "mse", ("ae", "vae", "dae", "nrae_q"), {"dae": [0.2, 0.4]}, {"nrae_q": {10: 0.3, 100: 0.02}},
        panel="set",
    )  # fmt: skip
    assert [axis.get_title() for axis in figure.axes] == ["A", "B"]
    axis = figure.axes[0]
    [level] = [line for line in axis.lines if line.get_linestyle() == "--"]
    assert list(level.get_ydata()) == [pytest.approx(0.3)] * 2
    [printed] = [line for line in axis.lines if line.get_marker() == "D"]
    assert list(printed.get_xdata()) == [10, 100] and list(printed.get_ydata()) == [0.3, 0.02]
    container = axis.containers[0]  # AE
    assert np.allclose(container.lines[0].get_ydata(), [0.201, 0.021])
    assert np.allclose(container.lines[0].get_xdata(), [10, 100], rtol=0.03)
    [bars] = container.lines[2]
    assert np.allclose([np.ptp(part[:, 1]) for part in bars.get_segments()], 0.002)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["AE", "DAE", "NRAE-Q", "paper"], "VAE was not run and has no level"


def test_a_sweep_without_numbers_says_so():
    with pytest.raises(ValueError, match="there is nothing to draw"):
        plots.sweep(sweep_frame(), "n", "mse", ("cae",))
    with pytest.raises(ValueError, match="no column 'k'"):
        plots.sweep(sweep_frame(), "k", "mse", ("ae",))


def some_images(count=5, channels=1, side=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, channels, side, side), dtype=np.uint8)


def test_best_and_worst_stand_above_their_reconstructions():
    best, worst = (some_images(4, seed=0), some_images(4, seed=1)), (some_images(4, seed=2), some_images(4, seed=3))
    figure = plots.best_and_worst(
        {"ae": {"best": best, "worst": worst}, "nrae_q": {"best": worst, "worst": best}},
        {name: {"best": f"{name} low", "worst": "high"} for name in ("ae", "nrae_q")},
    )
    assert len(figure.axes) == 4
    assert [axis.get_title() for axis in figure.axes] == ["smallest errors", "largest errors", "", ""]
    picture = np.asarray(figure.axes[1].images[0].get_array())
    assert np.array_equal(picture[:6, :6, 0], worst[0][0, 0]) and np.array_equal(
        picture[7:13, 21:27, 0], worst[1][3, 0]
    )
    assert figure.axes[2].get_ylabel() == "NRAE-Q" and figure.axes[2].get_xlabel() == "nrae_q low"


@pytest.mark.parametrize(("channels", "kind"), [(1, "png"), (3, "jpeg")])
def test_the_slider_holds_every_image_and_note(channels, kind):
    from PIL import Image

    rows = {"originals": some_images(channels=channels), "nrae_q": some_images(channels=channels, seed=1) // 8 + 96}
    text = plots.image_slider_html(rows, {"nrae_q": ["0.1", "<b>", "0.3", "0.4", "0.5"]}, alt="Digits")
    strips = re.findall(rf"data:image/{kind};base64,([^)]+)\)", text)
    assert len(strips) == 2 and "http" not in re.sub(r"data:[^)]+", "", text)
    for strip, images in zip(strips, rows.values(), strict=True):
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(strip))))
        expected = images.transpose(0, 2, 3, 1).reshape(30, 6, channels).squeeze()
        if channels == 1:
            assert np.array_equal(shown, expected)
        else:
            assert shown.shape == expected.shape
    assert "NRAE-Q" in text and 'type="range" min="0" max="4"' in text
    setup = json.loads(re.search(r"const setup = (.*?);\n", text)[1])
    assert setup == {"count": 5, "notes": [None, ["0.1", "<b>", "0.3", "0.4", "0.5"]]}
    assert "<b>" not in text, "what looks like markup is spelled out"


def test_rows_of_different_images_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        plots.image_slider_html({"a": some_images(4), "b": some_images(5)})


def test_the_slider_answers_to_the_keyboard_in_a_browser(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    flat = np.stack([np.full((1, 6, 6), value, np.uint8) for value in (0, 64, 128, 192, 255)])
    html = plots.image_slider_html({"ae": flat}, {"ae": list("abcde")}, alt="Flat images")
    page_file = tmp_path / "page.html"
    page_file.write_text(f"<!doctype html><meta charset=utf-8><body>{html}{html}", encoding="utf-8")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.goto(page_file.as_uri())
        first, second = page.locator(".nrae-scrubber").all()
        first.locator("input").focus()
        for _ in range(2):
            page.keyboard.press("ArrowRight")
        assert first.locator(".nrae-scrubber-step").inner_text() == "image 3 of 5"
        assert first.locator("small").inner_text() == "c" and second.locator("small").inner_text() == "a"
        from PIL import Image

        picture = Image.open(io.BytesIO(first.locator("figure > div").screenshot())).convert("L")
        middle = picture.getpixel((picture.width // 2, picture.height // 2))
        assert middle == 128, "the third image is shown, and nothing of its neighbours"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        browser.close()

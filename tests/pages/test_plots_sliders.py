"""What moves with a slider: the text is small, safe and alone, and in a real browser it answers to the keyboard."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from nrae_lib.pages import plots

pytest.importorskip("IPython")
X = np.linspace(-np.pi, np.pi, 200)
CURVE = np.stack([X, np.sin(X)], axis=1)
SAMPLES = CURVE[::5] + 0.1
FRAMES = np.stack([CURVE * size for size in (0, 1, 2, 0.5)])
TRAINING, LEARNED = {"train": SAMPLES, "frames": FRAMES}, {"train": SAMPLES, "curve": CURVE}


def setup_of(html):
    return json.loads(re.search(r"const setup = (\{.*\});\n", html)[1])


def places_of(line):
    """The points of a path of relative steps."""
    return np.array(line.removeprefix("m").split(), dtype=int).reshape(-1, 2).cumsum(0)


def test_the_scrubber_is_small_safe_and_alone(shown):
    panels = {"</script><b>": TRAINING, "nrae_q": TRAINING}
    html, again = (shown(plots.scrubber, panels, range(4), CURVE, alt='a "quoted" <alt>') for _ in range(2))
    assert html == again and html.count("</script>") == 1 and "</script><b>" not in html
    assert "a &quot;quoted&quot; &lt;alt&gt;" in html and "http" not in html and len(html) < 25_000
    assert ">NRAE-Q<" in html and 'value="3"' in html and html.count("noisy samples") == 1


def test_curves_are_drawn_where_they_are_to_a_fifth_of_a_pixel(shown):
    html = shown(plots.scrubber, {"ae": TRAINING}, range(4))
    (attribute, lines), width = setup_of(html)["places"][0], 2000
    unit = (np.ptp(SAMPLES[:, 0]) + np.ptp(SAMPLES[:, 0]) / 8) / width
    drawn = places_of(lines[1])
    assert attribute == "d" and len(drawn) == 160
    kept = CURVE[np.linspace(0, 199, 160).round().astype(int)]
    assert np.abs(np.diff(drawn, axis=0) * (unit, -unit) - np.diff(kept, axis=0)).max() <= unit * 1.01
    assert f'd="{lines[3]}"' in html, "the last frame stands there before any script runs"
    far = shown(plots.scrubber, {"ae": TRAINING | {"frames": FRAMES * 1e9}}, range(4))
    assert np.abs(places_of(setup_of(far)["places"][0][1][1])).max() == 4 * width


def test_the_walk_holds_one_place_for_every_point(shown):
    html = shown(plots.latent_walk, {"ae": LEARNED, "nrae_q": LEARNED}, truth=SAMPLES, alt="a <walk>")
    assert 'max="199" value="0"' in html and "a &lt;walk&gt;" in html and "http" not in html and len(html) < 60_000
    setup = setup_of(html)
    assert (setup["labels"][0], setup["labels"][-1]) == ("code at 0%", "code at 100%")
    assert [len(lines) for _, lines in setup["places"]] == [200, 200] and ">AE<" in html and ">NRAE-Q<" in html
    learned = places_of(re.search(r'stroke-width:2.4" d="([^"]*)"', html)[1])
    dots = [tuple(map(int, re.fullmatch(r"M(-?\d+) (-?\d+)h0", line).groups())) for line in setup["places"][0][1]]
    assert np.array_equal(dots, learned), "the dot is always on the curve"


def some_images(channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (5, channels, 6, 6), dtype=np.uint8)


@pytest.mark.parametrize(("call", "numbers"), [
    (lambda: plots.scrubber({"ae": TRAINING}, [1, 2, 3, 4, 5]), "5 places, but what it moves 4"),
    (lambda: plots.latent_walk({"ae": LEARNED, "nrae_q": LEARNED | {"curve": CURVE[::2]}}), "200 places, but what it moves 100"),
    (lambda: plots.image_slider({"a": some_images(1)[:3], "b": some_images(1)}), "5 places, but what it moves 3"),
])  # fmt: skip
def test_everything_moves_through_all_places(call, numbers):
    with pytest.raises(ValueError, match=numbers):
        call()


@pytest.mark.parametrize(("channels", "kind"), [(1, "png"), (3, "jpeg")])
def test_the_slider_holds_every_image_and_note(shown, channels, kind):
    rows = {"originals": some_images(channels), "nrae_q": some_images(channels, 1) // 8 + 96}
    html = shown(plots.image_slider, rows, {"nrae_q": ["0.1", "<b>", "0.3", "0.4", "0.5"]}, alt="Digits")
    strips = re.findall(rf'data:image/{kind};base64,([^"]+)"', html)
    assert len(strips) == 2 and "http" not in re.sub(r'data:[^"]+', "", html)
    for strip, images in zip(strips, rows.values(), strict=True):
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(strip)))).reshape(5, 8, 6, channels)
        assert channels > 1 or np.array_equal(picture[:, 1:-1], images.transpose(0, 2, 3, 1))
    assert "NRAE-Q" in html and 'type="range" min="0" max="4"' in html
    moves = ["y", [-1, -9, -17, -25, -33]]
    assert setup_of(html)["places"] == [moves, moves, [None, ["0.1", "<b>", "0.3", "0.4", "0.5"]]]
    assert "<b>" not in html, "what looks like markup is spelled out"


def test_sliders_play_and_answer_to_the_keyboard_in_a_browser(browser, shown, tmp_path):
    flat = np.stack([np.full((1, 6, 6), value, np.uint8) for value in (0, 64, 128, 192, 255)])
    scrubber = shown(plots.scrubber, {"ae": TRAINING}, [0, 10, 20, 30], CURVE, alt="training")
    walk = shown(plots.latent_walk, {"ae": LEARNED})
    images = shown(plots.image_slider, {"ae": flat}, {"ae": list("abcde")}, alt="Flat images")
    # The same animation twice: both must come alive, each on its own.
    body = f"<!doctype html><meta charset=utf-8><body style='color:#111'>{scrubber}{scrubber}{walk}{images}"
    (tmp_path / "page.html").write_text(body, encoding="utf-8")
    (tmp_path / "empty.html").write_text("<!doctype html>")
    page, problems = browser.new_page(viewport={"width": 390, "height": 800}), []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto((tmp_path / "empty.html").as_uri())
    names_before = page.evaluate("Object.keys(window)")
    page.goto((tmp_path / "page.html").as_uri())
    first, second, third, fourth = page.locator(".nrae-slider").all()
    label, moving = ".nrae-slider-label", "[data-moves]"

    assert first.locator(label).inner_text() == "epoch 30"
    assert first.locator("input").get_attribute("aria-label") == "epoch: training"
    last = first.locator(moving).bounding_box()
    first.locator("input").press("Home")
    assert first.locator(label).inner_text() == first.locator("input").get_attribute("aria-valuetext") == "epoch 0"
    assert second.locator(label).inner_text() == "epoch 30" and second.locator(moving).bounding_box()["y"] > last["y"]
    assert first.locator(moving).bounding_box()["width"] < last["width"] / 2, "the first frame is a point"
    ink = "box => getComputedStyle(box.querySelector('path[style*=dasharray]')).stroke"
    assert first.evaluate(ink) == "rgb(17, 17, 17)"
    page.evaluate("document.body.style.color = '#eee'")
    assert first.evaluate(ink) == "rgb(238, 238, 238)", "black follows the page's text colour"
    button = first.locator("button")
    button.press("Enter")
    assert button.get_attribute("aria-label") == "pause"
    page.wait_for_function(f"document.querySelector('{label}').textContent === 'epoch 30'", timeout=9000)
    assert button.get_attribute("aria-label") == "play" and first.locator(moving).bounding_box() == last

    places = []
    for key, text in (("ArrowRight", "code at 1%"), ("End", "code at 100%")):
        third.locator("input").press(key)
        places.append(third.locator(moving).bounding_box()["x"])
        assert third.locator(label).inner_text() == text
    assert places[1] > places[0] + 100, "the dot walks from left to right"

    for _ in range(2):
        fourth.locator("input").press("ArrowRight")
    assert fourth.locator(label).inner_text() == "image 3 of 5" and fourth.locator("small").inner_text() == "c"
    picture = np.asarray(Image.open(io.BytesIO(fourth.locator("figure > svg").screenshot())).convert("L"))
    assert set(picture[1:-1, 1:-1].ravel()) == {128}, "the third image is shown, and nothing of its neighbours"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert set(page.evaluate("Object.keys(window)")) <= set(names_before) and problems == []
    page.close()

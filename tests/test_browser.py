"""The built site, read in a real browser that can reach nothing else."""

import functools
import http.server
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
TOC = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
EXPERIMENTS = [page for page in PAGES if page.startswith("notebooks/") and page != "notebooks/scoreboard"]


def source(page: str) -> str:
    return (ROOT / f"{page}.ipynb").read_text(encoding="utf-8")


SLIDERS = [page for page in EXPERIMENTS if "plots.scrubber" in source(page)]
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="session")
def address(built_book):
    handler = functools.partial(QuietHandler, directory=str(built_book.site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="session")
def browser():
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not executable:
        if "NRAE_BROWSER_REQUIRED" in os.environ:
            pytest.fail("there is no Chromium, and these tests must not be skipped here")
        pytest.skip("there is no Chromium: install it, or name it in $CHROMIUM")
    from playwright.sync_api import sync_playwright

    # --no-sandbox: Chromium's own sandbox refuses to start as root, as in most containers.
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-gpu", "--disable-quic", *quiet]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, address):
    """Open a page of the site; what goes wrong on it gathers in `.problems`."""
    contexts = []

    def open_page(name: str, viewport=DESKTOP, mode: str = "light") -> SimpleNamespace:
        context = browser.new_context(viewport=viewport, color_scheme=mode)
        contexts.append(context)
        # The theme remembers the reader's choice here.
        context.add_init_script(f"localStorage.setItem('mode', '{mode}'); localStorage.setItem('theme', '{mode}')")
        page, problems = context.new_page(), []
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("console", lambda line: problems.append(f"console: {line.text}") if line.type == "error" else None)
        page.on(
            "response",
            lambda answer: problems.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None,
        )

        def keep_inside(route):
            if not route.request.url.startswith(address):
                problems.append(f"from outside: {route.request.url}")
                route.abort()
            else:
                route.continue_()

        context.route(lambda url: url.startswith("http"), keep_inside)
        page.goto(f"{address}/{name}", wait_until="load")
        page.wait_for_function("!window.MathJax || (MathJax.startup && MathJax.startup.promise.then(() => true))")
        return SimpleNamespace(page=page, problems=problems)

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", PAGES)
def test_page_is_whole(visit, name):
    opened = visit(f"{name}.html")
    page = opened.page
    assert page.locator("h1").count() >= 1
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.wait_for_function("[...document.images].every(image => image.complete)")
    broken = page.evaluate("[...document.images].filter(image => !image.naturalWidth).map(image => image.src)")
    assert broken == []
    formulas, typeset = page.locator(".math").count(), page.locator("mjx-container").count()
    assert typeset >= formulas
    assert page.locator("mjx-merror, .MathJax_Error").count() == 0
    assert opened.problems == []


def test_the_method_and_the_figures_show_mathematics(visit):
    for name in ("method", *SLIDERS):
        assert visit(f"{name}.html").page.locator("mjx-container").count() > 0, name


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_figures_are_visible_and_no_output_is_an_error(visit, name, mode):
    page = visit(f"{name}.html", mode=mode).page
    drawn = page.evaluate("""() => [...document.querySelectorAll('.nrae-figure > svg')]
        .filter(svg => getComputedStyle(svg).display !== 'none')
        .map(svg => svg.getBoundingClientRect()).map(box => [box.width, box.height])""")
    if "plots.show" in source(name):
        assert drawn, "no figure"
    assert all(width > 100 and height > 20 for width, height in drawn), drawn
    text = page.locator("article").inner_text()
    # What Python or papermill would leave in an output: a traceback, a warning, an object without a picture.
    for sign in (
        "Traceback (most recent call last)",
        "Error:",
        "Warning:",
        "<Figure size",
        "PapermillExecution",
        "object at 0x",
    ):
        assert sign not in text, sign
    assert not page.locator(".output.stderr").count(), page.locator(".output.stderr").first.inner_text()[:300]


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_needs_no_sideways_scroll(visit, name):
    page = visit(f"{name}.html", viewport=PHONE).page
    widest = """() => [...document.querySelectorAll('.bd-article *')]
        .filter(element => element.getBoundingClientRect().right > innerWidth + 1)
        .map(element => element.tagName + '.' + element.getAttribute('class')).slice(0, 5)"""
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"], f"{width} px wide; beyond the edge: {page.evaluate(widest)}"


def test_index_has_a_card_with_a_picture_for_each_experiment(visit):
    page = visit("index.html").page
    pictured = [name for name in EXPERIMENTS if "thumbnail=" in source(name)]
    assert pictured
    for name in pictured:
        card = page.locator(f".sd-card:has(a[href='{name}.html'])")
        assert card.count() == 1, name
        assert card.locator("img").first.evaluate("image => image.naturalWidth") > 50, name


@pytest.mark.parametrize("name", SLIDERS)
def test_the_slider_changes_the_drawing(visit, name):
    opened = visit(f"{name}.html")
    drawing = """[...box.querySelectorAll('canvas')].map(canvas => canvas.toDataURL()).join()
        + [...box.querySelectorAll('svg')].map(svg => svg.outerHTML).join()"""
    box = opened.page.locator(".nrae-scrubber").first
    box.scroll_into_view_if_needed()
    box.locator("canvas[style*=height]").first.wait_for()  # drawn for the first time
    for key in ("Home", "End"):
        before = box.evaluate(f"box => {drawing}")
        box.locator("input[type=range]").press(key)
        changed = f"([box, before]) => {drawing} !== before"
        opened.page.wait_for_function(changed, arg=[box.element_handle(), before], polling=200)
    assert opened.problems == []


def test_search_finds_the_swiss_roll(visit):
    opened = visit("search.html?q=Swiss+roll")
    result = opened.page.locator("#search-results a[href*='fig7_swissroll']").first
    result.wait_for(timeout=20_000)
    result.click()
    opened.page.wait_for_url("**/fig7_swissroll.html*")
    assert opened.problems == []


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_numbers_can_be_downloaded_and_the_page_repeated(visit, name, tmp_path):
    page = visit(f"{name}.html").page
    with page.expect_download() as download:
        page.locator("a.nrae-download").first.click()
    download.value.save_as(tmp_path / "numbers.csv")
    header, *rows = (tmp_path / "numbers.csv").read_text().splitlines()
    assert "," in header
    assert rows
    assert f"papermill {name}.ipynb" in page.locator("article").inner_text()


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("name", ["index", "method", *EXPERIMENTS])
def test_text_can_be_read_in_both_modes(visit, name, mode):
    page = visit(f"{name}.html", mode=mode).page
    assert page.evaluate("document.documentElement.dataset.theme") == mode
    # Contrast as WCAG defines it, of each text against the nearest opaque background; 4.5 is its level AA.
    poor = page.evaluate("""() => {
        const parts = colour => colour.match(/[\\d.]+/g).map(Number);
        const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const behind = element => {
            const layers = [];
            for (; element; element = element.parentElement) {
                const [r, g, b, a = 1] = parts(getComputedStyle(element).backgroundColor);
                layers.push([r, g, b, a]);
                if (a === 1) break;
            }
            return layers.reverse().reduce((under, [r, g, b, a]) =>
                [r, g, b].map((v, i) => v * a + under[i] * (1 - a)), [255, 255, 255]);
        };
        // Faded text is that much nearer to what is behind it.
        const ink = (element, ground) => {
            let [r, g, b, a = 1] = parts(getComputedStyle(element).color);
            for (let e = element; e; e = e.parentElement) a *= getComputedStyle(e).opacity;
            return [r, g, b].map((v, i) => v * a + ground[i] * (1 - a));
        };
        const texts = 'p, td, th, h1, h2, h3, figcaption, caption, li, strong, a:not(.headerlink)';
        const ours = '[class^=nrae-]:is(.nrae-verdict, .nrae-table-caption, .nrae-table-notes, .nrae-banner)';
        return [...document.querySelectorAll(`article :is(${texts}, ${ours}), article .nrae-verdict :is(div, span)`)]
            .filter(element => element.innerText && element.innerText.trim() && element.offsetParent)
            .filter(element => !element.closest('[aria-hidden=true]'))
            .map(element => {
                const ground = behind(element), one = light(ink(element, ground)), two = light(ground);
                return [(Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05), element.innerText.slice(0, 40)];
            }).filter(([contrast]) => contrast < 4.5).slice(0, 5);
    }""")
    assert poor == []

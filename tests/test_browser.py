"""The built site, read in a real browser that can reach nothing else."""

import functools
import http.server
import os
import shutil
import threading
from types import SimpleNamespace

import pytest

from tests.conftest import PAGES, ROOT

EXPERIMENTS = [page for page in PAGES if page.startswith("notebooks/") and page != "notebooks/scoreboard"]


def source(page: str) -> str:
    return (ROOT / f"{page}.ipynb").read_text(encoding="utf-8")


OURS = ["index", "method", *EXPERIMENTS]  # pages with colours of our own
SLIDERS = [page for page in EXPERIMENTS if "plots.scrubber" in source(page)]
PICTURED = [page for page in EXPERIMENTS if "thumbnail=" in source(page)]
assert SLIDERS and PICTURED
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
# What Python or papermill would leave in an output: a traceback, a warning, an object without a picture.
SIGNS_OF_ERROR = (
    "Traceback (most recent call last)", "Error:", "Warning:", "<Figure size", "PapermillExecution", "object at 0x",
)  # fmt: skip
BEYOND_THE_EDGE = """() => [...document.querySelectorAll('.bd-article *')]
    .filter(element => element.getBoundingClientRect().right > innerWidth + 1)
    .map(element => element.tagName + '.' + element.getAttribute('class')).slice(0, 5)"""
# Contrast as WCAG defines it, of each text against the nearest opaque background; 4.5 is its level AA.
POOR_CONTRAST = r"""() => {
    const parts = colour => colour.match(/[\d.]+/g).map(Number);
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
}"""


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # one connection for the many files of a page

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

    # Chromium's own sandbox refuses to start as root, as in most containers. No name leads anywhere: a page that asks
    # for anything outside gets an error.
    arguments = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def contexts(browser):
    """One for each mode, so that what all pages load is loaded once; the theme remembers the reader's choice there."""
    contexts = {mode: browser.new_context(viewport=DESKTOP, color_scheme=mode) for mode in ("light", "dark")}
    for mode, context in contexts.items():
        context.add_init_script(f"localStorage.setItem('mode', '{mode}'); localStorage.setItem('theme', '{mode}')")
    return contexts


@pytest.fixture
def visit(contexts, address):
    """Open a page of the site; what goes wrong on it gathers in `.problems`."""
    pages = []

    def open_page(name: str, mode: str = "light") -> SimpleNamespace:
        page, problems = contexts[mode].new_page(), []
        pages.append(page)

        def note(bad: bool, what: object) -> None:
            problems.extend([what] if bad else [])

        page.on("pageerror", lambda error: note(True, error))
        # A file that does not come is noted by its address; Chromium also asks for an icon of the site, by itself.
        page.on("console", lambda line: note(line.type == "error" and "Failed to load" not in line.text, line.text))
        page.on("requestfailed", lambda lost: note(not lost.url.startswith((address, "data:")), lost.url))
        page.on("response", lambda got: note(got.status >= 400, f"{got.status}: {got.url}"))
        page.goto(f"{address}/{name}", wait_until="load")
        page.wait_for_function("!window.MathJax || (MathJax.startup && MathJax.startup.promise.then(() => true))")
        return SimpleNamespace(page=page, problems=problems)

    yield open_page
    for page in pages:
        page.close()


@pytest.mark.parametrize(("name", "mode"), [*((name, "light") for name in PAGES), *((name, "dark") for name in OURS)])
def test_page_is_whole_readable_and_fits_a_phone(visit, name, mode, tmp_path):
    opened = visit(f"{name}.html", mode)
    page = opened.page
    assert page.evaluate("document.documentElement.dataset.theme") == mode
    assert page.locator("h1").count() >= 1
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.wait_for_function("[...document.images].every(image => image.complete)")
    broken = page.evaluate("[...document.images].filter(image => !image.naturalWidth).map(image => image.src)")
    assert broken == []
    formulas, typeset = page.locator(".math").count(), page.locator("mjx-container").count()
    assert typeset >= formulas
    assert typeset or name not in ("method", *SLIDERS)
    assert page.locator("mjx-merror, .MathJax_Error").count() == 0
    if name in EXPERIMENTS:
        drawn = page.evaluate("""() => [...document.querySelectorAll('.nrae-figure > svg')]
            .filter(svg => getComputedStyle(svg).display !== 'none')
            .map(svg => svg.getBoundingClientRect()).map(box => [box.width, box.height])""")
        assert drawn or "plots.show" not in source(name), "no figure"
        assert all(width > 100 and height > 20 for width, height in drawn), drawn
        assert [sign for sign in SIGNS_OF_ERROR if sign in page.locator("article").inner_text()] == []
        assert not page.locator(".output.stderr").count(), page.locator(".output.stderr").first.inner_text()[:300]
        assert f"papermill {name}.ipynb" in page.locator("article").inner_text()
    if name in OURS:
        assert page.evaluate(POOR_CONTRAST) == []
    if name in EXPERIMENTS and mode == "light":
        with page.expect_download() as download:
            page.locator("a.nrae-download").first.click()
        download.value.save_as(tmp_path / "numbers.csv")
        header, *rows = (tmp_path / "numbers.csv").read_text().splitlines()
        assert "," in header and rows
    for pictured in PICTURED if name == "index" else ():
        card = page.locator(f".sd-card:has(a[href='{pictured}.html'])")
        assert card.count() == 1, pictured
        assert card.locator("img").first.evaluate("image => image.naturalWidth") > 50, pictured
    page.set_viewport_size(PHONE)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"], f"{width} px wide; beyond the edge: {page.evaluate(BEYOND_THE_EDGE)}"
    assert opened.problems == []


@pytest.mark.parametrize("name", SLIDERS)
def test_the_slider_changes_the_drawing(visit, name):
    opened = visit(f"{name}.html")
    drawing = "[...box.querySelectorAll('svg')].map(svg => svg.outerHTML).join()"
    box = opened.page.locator(".nrae-slider").first
    box.scroll_into_view_if_needed()
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

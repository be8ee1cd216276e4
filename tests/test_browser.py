"""The built site, read in a real browser that can reach nothing else."""

import pytest

from tests.conftest import PAGES, ROOT

EXPERIMENTS = [
    page
    for page in PAGES
    if page.startswith("notebooks/") and page not in ("notebooks/scoreboard", "notebooks/what_we_found")
]


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
# Contrast as WCAG defines it, of each text against what is painted behind it; 4.5 is its level AA.
POOR_CONTRAST = """() => {
    const options = {willReadFrequently: true};
    const pen = Object.assign(document.createElement('canvas'), {width: 1, height: 1}).getContext('2d', options);
    const paint = (colour, opacity) => {
        Object.assign(pen, {fillStyle: colour, globalAlpha: opacity});
        pen.fillRect(0, 0, 1, 1);
    };
    const luminance = () => [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const contrast = element => {
        const styles = [];
        for (let e = element; e; e = e.parentElement) styles.unshift(getComputedStyle(e));
        paint('white', 1);
        styles.forEach(style => paint(style.backgroundColor, 1));
        const ground = luminance();
        // Faded text is that much nearer to what is behind it.
        paint(styles.at(-1).color, styles.reduce((product, style) => product * style.opacity, 1));
        return (Math.max(ground, luminance()) + 0.05) / (Math.min(ground, luminance()) + 0.05);
    };
    const texts = 'p, td, th, h1, h2, h3, figcaption, caption, li, strong, a:not(.headerlink)';
    const ours = '[class^=nrae-]:is(.nrae-verdict, .nrae-table-caption, .nrae-table-notes, .nrae-banner)';
    return [...document.querySelectorAll(`article :is(${texts}, ${ours}), article .nrae-verdict :is(div, span)`)]
        .filter(element => element.innerText && element.innerText.trim() && element.offsetParent)
        .filter(element => !element.closest('[aria-hidden=true]') && contrast(element) < 4.5)
        .map(element => [contrast(element), element.innerText.slice(0, 40)]).slice(0, 5);
}"""


@pytest.fixture(scope="module")
def context(browser):
    """One for all pages, so that what they share is loaded once; its reader has chosen to follow the system's mode."""
    context = browser.new_context(viewport=DESKTOP, color_scheme="dark", reduced_motion="reduce")
    context.add_init_script("localStorage.setItem('mode', 'auto')")
    return context


@pytest.fixture
def visit(context, built_book):
    """Opens a page of the site; what goes wrong on it gathers in the list."""
    page, problems = context.new_page(), []

    def note(bad: bool, what: object) -> None:
        problems.extend([what] if bad else [])

    page.on("pageerror", lambda error: note(True, error))
    # A file that does not come is noted by its address; one that the reader did not wait for is no problem.
    page.on("console", lambda line: note(line.type == "error" and "Failed to load" not in line.text, line.text))
    page.on("requestfailed", lambda lost: note(lost.failure != "net::ERR_ABORTED", lost.url))

    def open_page(address: str):
        page.goto(f"{built_book.site.as_uri()}/{address}", wait_until="load")
        page.wait_for_function("!window.MathJax || (MathJax.startup && MathJax.startup.promise.then(() => true))")
        return page, problems

    yield open_page
    page.close()


@pytest.mark.parametrize("name", PAGES)
def test_page_is_whole_readable_in_both_modes_and_fits_a_phone(visit, name, tmp_path):
    page, problems = visit(f"{name}.html")
    assert page.locator("h1").count() >= 1
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.wait_for_function("[...document.images].every(image => image.complete)")
    assert page.evaluate("[...document.images].filter(image => !image.naturalWidth).map(image => image.src)") == []
    formulas, typeset = page.locator(".math").count(), page.locator("mjx-container").count()
    assert typeset >= formulas
    assert typeset or name not in ("method", *SLIDERS)
    assert page.locator("mjx-merror, .MathJax_Error").count() == 0
    for mode in ("dark", "light"):
        page.emulate_media(color_scheme=mode)
        page.wait_for_function(f"document.documentElement.dataset.theme === '{mode}'")
        assert name not in OURS or page.evaluate(POOR_CONTRAST) == []
    if name in EXPERIMENTS:
        check_experiment(page, name, tmp_path)
    for pictured in PICTURED if name == "index" else ():
        card = page.locator(f".sd-card:has(a[href='{pictured}.html'])")
        assert card.count() == 1, pictured
        assert card.locator("img").first.evaluate("image => image.naturalWidth") > 50, pictured
    if name in SLIDERS:
        check_slider(page)
    page.set_viewport_size(PHONE)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"], f"{width} px wide; beyond the edge: {page.evaluate(BEYOND_THE_EDGE)}"
    assert problems == []


def check_experiment(page, name, folder):
    drawn = page.evaluate("""() => [...document.querySelectorAll('.nrae-figure > svg')]
        .filter(svg => getComputedStyle(svg).display !== 'none')
        .map(svg => svg.getBoundingClientRect()).map(box => [box.width, box.height])""")
    assert drawn or "plots.show" not in source(name), "no figure"
    assert all(width > 100 and height > 20 for width, height in drawn), drawn
    text = page.locator("article").inner_text()
    assert [sign for sign in SIGNS_OF_ERROR if sign in text] == [] and f"papermill {name}.ipynb" in text
    assert not page.locator(".output.stderr").count(), page.locator(".output.stderr").first.inner_text()[:300]
    with page.expect_download() as download:
        page.locator("a.nrae-download").first.click()
    download.value.save_as(folder / "numbers.csv")
    header, *rows = (folder / "numbers.csv").read_text().splitlines()
    assert "," in header and rows


def check_slider(page):
    drawing = "[...box.querySelectorAll('svg')].map(svg => svg.outerHTML).join()"
    box = page.locator(".nrae-slider").first
    box.scroll_into_view_if_needed()
    for key in ("Home", "End"):
        before = box.evaluate(f"box => {drawing}")
        box.locator("input[type=range]").press(key)
        page.wait_for_function(
            f"([box, before]) => {drawing} !== before", arg=[box.element_handle(), before], polling=200
        )


def test_search_finds_the_swiss_roll(visit):
    page, problems = visit("search.html?q=Swiss+roll")
    result = page.locator("#search-results a[href*='fig7_swissroll']").first
    result.wait_for(timeout=20_000)
    result.click()
    page.wait_for_url("**/fig7_swissroll.html*")
    assert problems == []

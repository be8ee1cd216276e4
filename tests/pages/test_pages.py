"""What the pages share: parameters are checked, numbers are printed and marked rightly, outside text is escaped."""

import base64
import io
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pandas
import pytest

from nrae_lib import pages, paper, runs
from nrae_lib.core import methods
from nrae_lib.own_data import embeddings
from nrae_lib.pages import timing

AVAILABLE = ("ae", "dae", "nrae_l", "nrae_q")


def plain(html):
    return re.sub(r"\s+", " ", re.sub(r"(?s)<style>.*?</style>|<[^>]*>", "", html))


@pytest.mark.parametrize(("value", "choice", "message"), [
    (True, int, "parameter 'k' must be int, got True (bool)"),
    ("3", int, "parameter 'k' must be int, got '3' (str)"),
    (False, float, "parameter 'k' must be float, got False (bool)"),
    (1, bool, "parameter 'k' must be bool, got 1 (int)"),
    (True, (1, 2), "parameter 'k' is True; it must be one of: 1, 2"),
    (3, lambda k: None if k % 2 == 0 else "must be even", "parameter 'k': must be even"),
])  # fmt: skip
def test_wrong_parameters_are_named_with_the_valid_choices(value, choice, message):
    pages.check_parameters({"rate": 1}, rate=float)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        pages.check_parameters({"k": value}, k=choice)
    with pytest.raises(ValueError, match="parameter 'seeds' is missing"):
        pages.check_parameters({"k": value}, seeds=int)
    with pytest.raises(ValueError, match=r"unknown parameter 'zzz'\. The parameters are: k"):
        pages.check_parameters({"k": value, "In": ["k = 1", "# Parameters\nzzz = 1\n"]}, k=choice)


def test_methods_are_chosen_in_the_order_of_the_page_and_the_valid_ones_are_named():
    chosen = [pages.choose_methods(value, AVAILABLE) for value in ("nrae_q, ae,ae", "all, ae")]
    assert chosen == [["ae", "nrae_q"], list(AVAILABLE)]
    for wrong in ("", " , ", "ae,zae", None):
        with pytest.raises(ValueError, match="the methods are: ae, dae, nrae_l, nrae_q, or 'all'"):
            pages.choose_methods(wrong, AVAILABLE)


def cell_classes(html):
    body = html.split("<tbody>")[1]
    return [re.findall(r'<td class="data row\d+ col\d+ ?(\w*)"', row) for row in body.split("</tr>")[:-1]]


def test_comparison_table_marks_what_prints_alike_alike(shown):
    rows = {
        "paper": {"ae": (1.90, 0.23), "dae": 1.09, "nrae_l": (0.292, 0.06), "nrae_q": (0.288, 0.07)},
        "ours": {"ae": float("nan"), "dae": None, "nrae_l": "diverged <twice>"},
        "one": {"ae": 2.0},
    }
    html = shown(pages.comparison_table, rows, AVAILABLE, "MSE × 100")
    assert cell_classes(html) == [["", "second", "best", "best"], [""] * 4, [""] * 4]
    text = plain(html)
    assert "1.90 ± 0.23" in text and "NRAE-Q" in text and "lower is better" in text
    # Three reasons "not run" share one footnote, the fourth has its own.
    assert "–1 –1 –2 –1" in text and "1 not run; 2 diverged &lt;twice&gt;" in text
    numbers = {"psnr": {"ae": 20.19, "dae": 20.69, "nrae_l": -1}}
    html = shown(pages.comparison_table, numbers, AVAILABLE[:3], "PSNR", False, 1)
    assert cell_classes(html) == [["second", "best", ""]]
    assert "−1.0" in html and "higher is better" in html
    html = shown(pages.comparison_table, {"a": {"ae": 1.0}}, ["ae"], "x <y>")
    assert '<div class="nrae-table-notes">' not in html
    assert 'role="region" aria-label="x &lt;y&gt;" tabindex="0"' in html
    assert html.index("nrae-table-caption") < html.index('<div class="nrae-table-box"'), "a phone scrolls the box alone"
    with pytest.raises(ValueError, match="row 'a' names 'vae'; the columns are: ae"):
        pages.comparison_table({"a": {"vae": 1.0}}, ["ae"], "x")


def result(method="ae", seed=0, commit="abc", **changes):
    recorded = {"device": "CPU", "torch": "2.15", "python": "3.11", "nrae_lib": "0.1", "commit": commit, "threads": "1",
                "fingerprint": f"f{seed}", "date": "2025-01-01"}  # fmt: skip
    run = SimpleNamespace(seed=seed, data="sine", method=method)
    return SimpleNamespace(run=run, provenance=recorded | changes, seconds=60.0, steps_per_second=1500.0 + seed)


def test_provenance_groups_what_differs(shown):
    results = [result(seed=seed, commit="def + uncommitted changes" if seed else "abc") for seed in (0, 1, 2, 5)]
    text = plain(shown(pages.provenance, results, already_stored=3))
    for expected in (
        "runs 4, of which 3 were stored already", "seeds 0–2, 5", "device CPU", "training time 4 min, over all runs",
        "2 different commits: abc, def + uncommitted changes", "4 different fingerprints: f0, f1, f2, …",
        "1,502 steps per second",
    ):  # fmt: skip
        assert expected in text
    text = plain(shown(pages.provenance, [result(device=None)]))
    assert "stored already" not in text and "device not recorded" in text
    with pytest.raises(ValueError, match="no results"):
        pages.provenance([])


def verdict(status, text="Claim"):
    claim = paper.Claim("fig4_sine", "Section 4.1", "fig4", text, None)
    return paper.Verdict(claim, "released code", "quick", status, "0.29 < 1.90")


def test_verdicts_say_it_in_words_and_symbols(shown):
    items = [verdict("reproduced"), verdict("not reproduced", "<script>"), verdict("inconclusive"), verdict("not run")]
    html = shown(pages.verdicts, items)
    words = ("✓ Reproduced", "✗ Not reproduced", "? Inconclusive", "○ Not run")
    for expected in (*words, "0.29 &lt; 1.90", "(released code, preset quick"):
        assert expected in plain(html)
    assert "<script>" not in html and 'id="claim-fig4-released-code"' in html
    assert len(set(re.findall(r"border-left:4px solid (#\w+)", html))) == 4
    with pytest.raises(ValueError, match="unknown status 'maybe'; it must be one of: reproduced, not reproduced"):
        pages.verdicts([verdict("maybe")])


def test_text_tables_keep_columns_in_line_and_banners_and_tables_escape(shown):
    html = shown(pages.text_table, {"AE": {"paper": "–"}, "NRAE-L": {"released": "λ <b> 2", "paper": 1}}, "Options")
    assert " ".join(plain(html).split()) == "Options &nbsp; paper released AE – NRAE-L 1 λ &lt;b&gt; 2"
    assert 'scope="row"' in html and 'scope="col"' in html and " id=" not in html
    assert html.count("<td ") == 4  # one of them empty
    assert "a &lt;b&gt; &amp; c" in shown(pages.banner, "a <b> & c")


def test_download_gives_back_the_same_numbers(shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = pandas.DataFrame({"method": ["ae", 'ä, "b"'], "mse": [1 / 3, 1e-17]})

    def content(html):
        return base64.b64decode(re.search(r"base64,([^\"]*)", html)[1])

    html = shown(pages.download, frame, "table1.csv")
    pandas.testing.assert_frame_equal(pandas.read_csv(io.BytesIO(content(html))), frame, check_exact=True)
    assert 'class="nrae-download" download="table1.csv"' in html and "(2 rows, " in html
    assert list(tmp_path.iterdir()) == []
    assert content(shown(pages.download, frame.set_index("method"), "a.csv")).startswith(b"method,mse")
    for filename in ("../a.csv", "a.txt", 'a".csv'):
        with pytest.raises(ValueError, match=r"plain file name ending in \.csv"):
            pages.download(frame, filename)


def test_papermill_command_is_quoted_and_keeps_types(shown):
    given = {"method": "ae,nrae_q", "seeds": 3, "quick": True, "tag": "3", "none": "None", "note": "it's"}
    text = shown(pages.papermill_command, "notebooks/a b.ipynb", **given)
    command, rest = re.fullmatch(r"```bash\n(.*)\n```\n\n(.*)", text).groups()
    assert shlex.split(command) == [
        "papermill", "notebooks/a b.ipynb", "out.ipynb", "-p", "method", "ae,nrae_q", "-p", "seeds", "3",
        "-p", "quick", "True", "-r", "tag", "3", "-r", "none", "None", "-p", "note", "it's",
    ]  # fmt: skip
    assert rest.startswith("Peak memory")


def test_the_peak_memory_is_that_of_the_process():
    code = (
        "import re; from nrae_lib.pages.boxes import memory_text\n"
        "shown = lambda: float(re.search(r'Peak memory of this page: ([\\d,]+) MiB', memory_text())[1].replace(',', ''))\n"
        "before = shown(); block = b'x' * (300 * 2**20); during = shown(); del block; print(before, during, shown())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, during, after = map(float, run.stdout.split())
    assert before + 250 <= during <= before + 400 and after == pytest.approx(during, abs=2), "the peak stays"


# --------------------------------------------------------------------------------------------- the page of methods


def test_the_formula_follows_order_space_and_composition():
    assert pages.loss_formula(methods.get("vae").objective) == (
        r"\begin{aligned}\mathcal L={}&\tfrac12\log 2\pi+\log s+\tfrac{1}{2s^2}\,\tfrac1D\|x-f(g(x))\|^2"
        r"\\ &+\tfrac{\lambda_{\text{kl}}}{D}\,\mathrm{KL}\big(\mathcal N(\mu,\sigma^2)\,\|\,\mathcal N(0,I)\big)"
        r"\\ &\text{where }g(x)=\mu(x)+\sigma(x)\odot\varepsilon,\; \varepsilon\sim\mathcal N(0,I)\end{aligned}"
    )
    plain, linear, quadratic, extended = (
        pages.loss_formula(methods.get(f"{name}+mmd").objective) for name in ("ae", "nrae_l", "nrae_q", "enrae_q")
    )
    assert plain.startswith(
        r"\begin{aligned}\mathcal L={}&\tfrac1D\|x-f(g(x))\|^2\\ &+\lambda_{\text{mmd}}\,\mathrm{MMD}"
    )
    assert "H_f" not in linear and "J_f(z)(z'-z)" in linear
    assert r"\tfrac12(z'-z)^\top H_f(z)(z'-z)" in quadratic
    assert "H_F(x)" in extended and "H_f" not in extended
    assert all(r"&+\lambda_{\text{mmd}}\,\mathrm{MMD}" in formula for formula in (linear, quadratic, extended))
    isometric = pages.loss_formula(methods.get("iae").objective)
    assert isometric.count(r"\tfrac{\lambda_{\text{isometry}}}{D}") == 2  # the paper's one coefficient


def test_a_card_says_everything_the_catalogue_does_and_step_times_stand_in_rows(shown):
    networks = {"small": {"steps": {"dae": {"ratio": 1.5}}}, "large": {"steps": {"ae": {"ratio": 1.0}}}}
    times = [{"device": "CPU <x>", "networks": networks}]
    rows = pages.step_time_rows({"DAE": "dae", "WAE": "wae"}, times)
    assert rows["DAE"] == {"small, CPU <x>": "1.50", "large, CPU <x>": "–"} and set(rows["WAE"].values()) == {"–"}
    html = shown(pages.method_cards, [methods.get("grae"), methods.get("iae"), methods.get("dae")], times)
    text = plain(html)
    assert 'id="method-grae"' in html and html.count(r"\[\begin{aligned}") == 3
    assert "PHATE embedding of the training points" in text and "phate_knn = 5" in text
    for name, values in methods.get("grae").search.items():
        assert f"{name}: {', '.join(f'{value:g}' for value in values)}" in text
    assert "(16 candidates)" in text
    assert "isometry_weight 0.1 beside an error summed over the D features; here 0.1/D" in text
    assert "1.50 × AE (small, CPU &lt;x&gt;)" in text and "<dt>time of a step</dt><dd>–</dd>" in html
    assert '<a href="../api/methods.html#nrae_lib.core.methods.PhateTarget"><code>PhateTarget</code></a>' in html
    assert methods.get("grae").note in text.replace("&#x27;", "'")


def test_every_card_can_be_made_and_every_term_says_what_it_costs(shown):
    html = shown(pages.method_cards, methods.CATALOGUE.values())
    assert html.count('class="nrae-method"') == len(methods.CATALOGUE)
    for term in (*methods.RECONSTRUCTIONS.values(), *methods.PENALTIES.values()):
        assert term.formula and term.reference and term.cost, term
        assert bool(term.prepares) == (type(term).prepare is not methods.Term.prepare), term


def test_marks_become_html_and_all_else_is_escaped(shown):
    row = {
        "formula": "$x<y$ & :func:`nrae_lib.core.losses.isometry`, [AE](#method-ae)",
        "more": ":class:`Short`, :math:`y^2` <b>",
    }
    html = shown(pages.marked_table, {"``a<b``": row}, "caption")
    assert "<code>a&lt;b</code>" in html and r'nohighlight">\(x&lt;y\)</span> &amp; ' in html
    assert '<a href="../api/losses.html#nrae_lib.core.losses.isometry"><code>isometry</code></a>' in html
    assert '<a href="#method-ae">AE</a>' in html and "<code>Short</code>" in html
    assert r"\(y^2\)" in html and "&lt;b&gt;" in html


def test_documentation_is_read_from_docstrings():
    assert pages.documentation(methods.Point) == "Reconstruct every point from itself."
    arguments = pages.documented(methods.Neighborhood)
    assert arguments["order"].startswith("of the expansion: 0, 1") and "neighbor_weight" in arguments
    assert arguments["space"].endswith("without encoding the neighbours.")
    assert {"latent", "weights"} <= pages.documented(methods.Objective).keys()
    assert pages.documented(embeddings.embedding)["umap"].endswith("`n_components`` + 2 samples.")


def test_committed_step_times_cover_the_catalogue():
    measured = timing.stored("methods")
    assert measured or not (runs.project_root() / "results").is_dir()
    for one in measured:
        for network in one["networks"].values():
            assert set(methods.CATALOGUE) <= set(network["steps"])
            assert network["steps"]["ae"]["ratio"] == 1 and all(row["ratio"] > 0 for row in network["steps"].values())

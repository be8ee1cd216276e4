"""The page of methods: cards, formulas and step times, all from the catalogue."""

import inspect
import json
import math
import re
import statistics
from pathlib import Path

from nrae_lib.pages.plots import PAGE_STYLE
from nrae_lib.pages.tables import display_html, escaped, text_table_html

_METHOD_STYLE = (
    PAGE_STYLE
    + ".nrae-method{border-top:1px solid rgba(128,128,128,.35);padding:.9em 0 .5em;color:inherit}"
    + ".nrae-method h4{margin:0;font-size:1.1em;color:inherit}.nrae-method h4 code{font-weight:400;margin-left:.4em}"
    + ".nrae-method .math{overflow-x:auto;overflow-y:hidden}"
    + ".nrae-method dl{display:grid;grid-template-columns:9em minmax(0,1fr);gap:.15em .9em;margin:.2em 0;font-size:.92em}"
    + ".nrae-method dt{font-weight:600;margin:0}.nrae-method dd{margin:0;overflow-wrap:anywhere}"
    + "@media(max-width:600px){.nrae-method dl{grid-template-columns:minmax(0,1fr)}.nrae-method dd{margin:0 0 .3em}}"
)
_MARKS = re.compile(
    r"\$(?P<math>[^$]+)\$|:math:`(?P<rst>[^`]+)`|``(?P<code>.+?)``|:\w+:`~?(?P<role>[^`]+)`"
    r"|\[(?P<label>[^\]]+)\]\((?P<target>[^)\s]+)\)"
)


def loss_formula(objective):
    r"""The loss of an `nrae_lib.core.methods.Objective` in LaTeX, one term per line, with the coefficients used here.

    Reconstruction plus every penalty with its coefficient λ, divided by D where the penalty is ``summed``; below, what the
    symbols of the reconstruction mean.
    """
    term = objective.reconstruction
    lines = [r"\mathcal L={}&" + error_formula(term)]
    for penalty in objective.penalties:
        weight = _coefficient(penalty)
        lines.append("&+" + (rf"\tfrac{{{weight}}}{{D}}" if penalty.summed else weight) + r"\," + penalty.formula)
    symbols = [*term.where, *_posterior_formula(objective)]
    lines += [("&" if place else r"&\text{where }") + meaning for place, meaning in enumerate(symbols)]
    return r"\begin{aligned}" + r"\\ ".join(lines) + r"\end{aligned}"


def error_formula(term):
    """A reconstruction term in LaTeX, within the Gaussian likelihood if that is its error."""
    return (r"\tfrac12\log 2\pi+\log s+\tfrac{1}{2s^2}\," if term.error == "gaussian" else "") + term.formula


def _coefficient(penalty):
    return rf"\lambda_{{\text{{{penalty.weight_option.removesuffix('_weight').replace('_', ' ')}}}}}"


def _posterior_formula(objective):
    deviation = {"learned": r"\sigma(x)\odot\varepsilon", "constant": r"\sigma\,\varepsilon"}.get(objective.posterior)
    return (rf"g(x)=\mu(x)+{deviation},\; \varepsilon\sim\mathcal N(0,I)",) if deviation else ()


def formula(objective):
    """Display `loss_formula`."""
    display_html(
        f'<style>{_METHOD_STYLE}</style><div class="nrae-method">{_display_math(loss_formula(objective))}</div>'
    )


def _display_math(latex):
    return rf'<div class="math notranslate nohighlight">\[{escaped(latex)}\]</div>'


def method_cards(entries, times=()):
    """Display everything the catalogue says of some methods, see `method_cards_html`."""
    display_html(method_cards_html(entries, times))


def method_cards_html(entries, times=()):
    """One card per method: formula, source, options, coefficients, form, density, preparation, search, time, note.

    Arguments:
        entries: of `nrae_lib.core.methods.CATALOGUE`.
        times: measured step times, see `step_times`.
    """
    cards = []
    for entry in entries:
        facts = "".join(
            f"<dt>{escaped(name)}</dt><dd>{_marked(fact)}</dd>" for name, fact in _facts(entry, times) if fact
        )
        cards.append(
            f'<div class="nrae-method" id="method-{escaped(entry.name)}">'
            f"<h4>{escaped(entry.title)} <code>{escaped(entry.name)}</code></h4>"
            f"{_display_math(loss_formula(entry.objective))}<dl>{facts}</dl></div>"
        )
    return f'<style>{_METHOD_STYLE}</style><div class="nrae-methods">{"".join(cards)}</div>'


def _facts(entry, times):
    """(label, text with marks) of one method."""
    objective = entry.objective
    form = {"learned": "Gaussian posterior with learned σ", "constant": "Gaussian posterior with constant σ"}
    kinds = [type(term).__name__ for term in objective.terms.values()]
    options = ", ".join(f"``{name} = {value!r}``" for name, value in objective.options().items())
    coefficients = {penalty.weight_option: weight_convention(penalty) for penalty in objective.penalties}
    prepared = "; ".join(dict.fromkeys(term.prepares for term in objective.terms.values() if term.prepares))
    count = math.prod(map(len, entry.search.values()))
    search = "; ".join(
        f"``{name}``: {', '.join(f'{value:g}' for value in values)}" for name, values in entry.search.items()
    )
    measured = [
        f"{ratio:.2f} × AE ({network}; {one['device']})"
        for one in times
        for network, ratio in _ratios(one, entry.name).items()
    ]
    return (
        ("source", entry.reference),
        ("terms", " + ".join(f":class:`nrae_lib.core.methods.{kind}`" for kind in kinds)),
        ("options, defaults", options),
        ("coefficients", "; ".join(f"``{name}`` {text}" for name, text in coefficients.items())),
        ("code", ", ".join(filter(None, [objective.latent, form.get(objective.posterior)]))),
        ("weights", objective.weights),
        ("latent density", f"``{entry.density}``"),
        ("prepared once", prepared or "nothing"),
        ("search", f"{search} ({count} candidates)" if search else "nothing to choose"),
        ("time of a step", "; ".join(measured) or "–"),
        ("note", entry.note),
    )


def weight_convention(penalty):
    """The default weight in the paper's convention and in this library's."""
    if penalty.summed:
        return f"{penalty.weight:g} beside an error summed over the D features; here {penalty.weight:g}/D beside their mean"
    return f"{penalty.weight:g} beside the mean over features, the same here"


def marked_table(rows, caption):
    """Display a table of texts with marks: ``$formula$``, double backticks, ``[text](address)``, references to the library.

    Arguments:
        rows: label -> {column: text}; a column that a row lacks stays empty.
        caption: what the table shows.
    """
    display_html(marked_table_html(rows, caption))


def marked_table_html(rows, caption):
    """The HTML of `marked_table`."""
    return text_table_html(rows, caption, _marked_cell)


def _marked_cell(text):
    # The box scrolls: better a wide column than a tall one.
    wide = len(str(text)) > 60 and not str(text).startswith("$")
    return f'<div style="min-width:18em">{_marked(text)}</div>' if wide else _marked(text)


def _marked(text):
    """HTML of a text with marks, everything else escaped."""
    text, parts, end = str(text), [], 0
    for match in _MARKS.finditer(text):
        parts += [escaped(text[end : match.start()]), _mark(match)]
        end = match.end()
    return "".join([*parts, escaped(text[end:])])


def _mark(match):
    if latex := match["math"] or match["rst"]:
        return rf'<span class="math notranslate nohighlight">\({escaped(latex)}\)</span>'
    if match["code"]:
        return f"<code>{escaped(match['code'])}</code>"
    if match["label"]:
        return f'<a href="{escaped(match["target"])}">{escaped(match["label"])}</a>'
    name = match["role"]
    shown = f"<code>{escaped(name.rpartition('.')[2])}</code>"
    if not name.startswith("nrae_lib."):
        return shown
    # The floor core has a page for each of its rooms, the others one page.
    floor, room = name.split(".")[1:3]
    return f'<a href="../api/{escaped(room if floor == "core" else floor)}.html#{escaped(name)}">{shown}</a>'


def documentation(thing):
    """The first paragraph of a docstring, in one line; its references become links in a `marked_table`."""
    return " ".join(inspect.getdoc(thing).split("\n\n")[0].split())


def documented(thing):
    """What a docstring says of single arguments and of the items of its list: name -> text, in one line."""
    text = inspect.getdoc(thing)
    arguments = re.search(r"^Arguments:\n((?:    .*\n?|\n)+)", text, flags=re.MULTILINE)
    found = re.findall(r'^- "(\w+)": (.*(?:\n  .*)*)', text, flags=re.MULTILINE)
    if arguments:
        found += re.findall(r"^    (\w+(?:, \w+)*): (.*(?:\n     .*)*)", arguments[1], flags=re.MULTILINE)
    return {name: " ".join(words.split()) for names, words in found for name in names.split(", ")}


def step_times(folder):
    """What `benchmarks/all_methods.py` measured, one dictionary per file in ``folder``; none if there is no such folder."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).glob("*.json"))]


def _ratios(times, name):
    """Network -> time of a step relative to AE, where it was measured."""
    return {
        network: measured["steps"][name]["ratio"]
        for network, measured in times["networks"].items()
        if name in measured["steps"]
    }


def step_time_rows(names, times):
    """Rows of a table, name -> {network and device: "1.23"}, with a dash where nothing was measured.

    Arguments:
        names: label -> name of the method in the measurement.
        times: see `step_times`.
    """
    if not times:
        return {label: {"time of a step / AE": "–"} for label in names}
    return {
        label: {
            f"{network}, {one['device']}": f"{ratios[network]:.2f}" if network in ratios else "–"
            for one in times
            for ratios in [_ratios(one, name)]
            for network in one["networks"]
        }
        for label, name in names.items()
    }


def cost_sentences(catalogue, times):
    """What a step costs on each measured network and device, and why, computed from `step_times`."""
    sentences = []
    for one in times:
        for network in one["networks"]:
            found = {name: ratios[network] for name in catalogue if network in (ratios := _ratios(one, name))}
            if not found:
                continue
            most = max(found, key=found.get)
            reasons = [term.cost for term in catalogue[most].objective.terms.values() if term.cost]
            sentences.append(
                f"On {one['device']} and the network {network}, half of the methods take at most "
                f"{math.ceil(10 * statistics.median(found.values())) / 10:.1f} times AE's time for a step; {catalogue[most].title} takes the "
                f"most, {found[most]:.1f} times ({'; '.join(reasons)})."
            )
            steps = one["networks"][network]["steps"]
            if not {"nrae_l", "nrae_q"} <= steps.keys():
                continue
            linear, quadratic = (steps[name] for name in ("nrae_l", "nrae_q"))
            beginning = f"NRAE-L and NRAE-Q take about {linear['ratio']:.2f} and {quadratic['ratio']:.2f} times AE's time there."
            if "ae, plain" in steps:  # the library's AE runs on NRAE's kernels
                plain = steps["ae, plain"]["ratio"]
                sentences.append(
                    f"{beginning} As PyTorch itself runs it, AE takes {plain:.2f} times the time of this library's; against "
                    f"that they take {linear['ratio'] / plain:.2f} and {quadratic['ratio'] / plain:.2f}."
                )
    return (
        " ".join(sentences)
        or "No step times are stored: run ``python benchmarks/all_methods.py --json results/step_time/NAME.json``."
    )

"""The page of methods: cards, formulas and step times, all from the catalogue."""

import inspect
import math
import re
from pathlib import Path

from nrae_lib.pages.tables import display_html, escaped, text_table

_STYLE = Path(__file__).with_name("methods.css").read_text(encoding="utf-8")
_MARKS = re.compile(
    r"\$(?P<math>[^$]+)\$|:math:`(?P<rst>[^`]+)`|``(?P<code>.+?)``|:\w+:`~?(?P<role>[^`]+)`"
    r"|\[(?P<label>[^\]]+)\]\((?P<target>[^)\s]+)\)"
)


def loss_formula(objective):
    r"""The loss of an `nrae_lib.core.methods.Objective` in LaTeX, one term per line, with the coefficients used here.
    Reconstruction plus every penalty with its coefficient λ, divided by D where the penalty is ``summed``; below, what
    the symbols of the reconstruction mean."""
    lines = [r"\mathcal L={}&" + error_formula(objective.reconstruction)]
    for penalty in objective.penalties:
        weight = rf"\lambda_{{\text{{{penalty.weight_option.removesuffix('_weight').replace('_', ' ')}}}}}"
        lines.append("&+" + (rf"\tfrac{{{weight}}}{{D}}" if penalty.summed else weight) + r"\," + penalty.formula)
    deviation = {"learned": r"\sigma(x)\odot\varepsilon", "constant": r"\sigma\,\varepsilon"}.get(objective.posterior)
    posterior = [rf"g(x)=\mu(x)+{deviation},\; \varepsilon\sim\mathcal N(0,I)"] if deviation else []
    for place, meaning in enumerate([*objective.reconstruction.where, *posterior]):
        lines.append(("&" if place else r"&\text{where }") + meaning)
    return r"\begin{aligned}" + r"\\ ".join(lines) + r"\end{aligned}"


def error_formula(term):
    """A reconstruction term in LaTeX, within the Gaussian likelihood if that is its error."""
    return (r"\tfrac12\log 2\pi+\log s+\tfrac{1}{2s^2}\," if term.error == "gaussian" else "") + term.formula


def formula(objective):
    """Display `loss_formula`."""
    display_html(f'<div class="nrae-method">{_display_math(objective)}</div>', _STYLE)


def _display_math(objective):
    return rf'<div class="math notranslate nohighlight">\[{escaped(loss_formula(objective))}\]</div>'


def method_cards(entries, times=()):
    """Display a card per method: formula, source, options, coefficients, form, density, preparation, search, time, note.

    Arguments:
        entries: of `nrae_lib.core.methods.CATALOGUE`.
        times: stored measurements, see `step_time_rows`.
    """
    cards = []
    for entry in entries:
        facts = [f"<dt>{escaped(name)}</dt><dd>{_marked(fact)}</dd>" for name, fact in _facts(entry, times) if fact]
        cards.append(
            f'<div class="nrae-method" id="method-{escaped(entry.name)}">'
            f"<h4>{escaped(entry.title)} <code>{escaped(entry.name)}</code></h4>"
            f"{_display_math(entry.objective)}<dl>{''.join(facts)}</dl></div>"
        )
    display_html(f'<div class="nrae-methods">{"".join(cards)}</div>', _STYLE)


def _facts(entry, times):
    """(label, text with marks) of one method."""
    objective = entry.objective
    terms = objective.terms.values()
    posterior = f", Gaussian posterior with {objective.posterior} σ" if objective.posterior else ""
    count = math.prod(map(len, entry.search.values()))
    values = {name: ", ".join(f"{value:g}" for value in each) for name, each in entry.search.items()}
    search = "; ".join(f"``{name}``: {each}" for name, each in values.items())
    measured = [f"{row[entry.name]:.2f} × AE ({where})" for where, row in _ratios(times).items() if entry.name in row]
    return (
        ("source", entry.reference),
        ("terms", " + ".join(f":class:`nrae_lib.core.methods.{type(term).__name__}`" for term in terms)),
        ("options, defaults", ", ".join(f"``{name} = {value!r}``" for name, value in objective.options().items())),
        ("coefficients", "; ".join(f"``{one.weight_option}`` {weight_convention(one)}" for one in objective.penalties)),
        ("code", objective.latent + posterior),
        ("weights", objective.weights),
        ("latent density", f"``{entry.density}``"),
        ("prepared once", "; ".join(dict.fromkeys(term.prepares for term in terms if term.prepares)) or "nothing"),
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
    """Display a `text_table` with marks: ``$formula$``, double backticks, ``[text](address)``, references to the library."""
    text_table(rows, caption, _marked_cell)


def _marked_cell(text):
    # The box scrolls: better a wide column than a tall one.
    wide = len(str(text)) > 60 and not str(text).startswith("$")
    return f'<div style="min-width:18em">{_marked(text)}</div>' if wide else _marked(text)


def _marked(text):
    """HTML of a text with marks, everything else escaped."""
    return _MARKS.sub(_mark, escaped(text))


def _mark(match):
    if latex := match["math"] or match["rst"]:
        return rf'<span class="math notranslate nohighlight">\({latex}\)</span>'
    if match["code"]:
        return f"<code>{match['code']}</code>"
    if match["label"]:
        return f'<a href="{match["target"]}">{match["label"]}</a>'
    shown = f"<code>{match['role'].rpartition('.')[2]}</code>"
    if not match["role"].startswith("nrae_lib."):
        return shown
    # The floor core has a page for each of its rooms, the others one page.
    floor, room = match["role"].split(".")[1:3]
    return f'<a href="../api/{room if floor == "core" else floor}.html#{match["role"]}">{shown}</a>'


def documentation(thing):
    """The first paragraph of a docstring, in one line; its references become links in a `marked_table`."""
    return " ".join(inspect.getdoc(thing).split("\n\n")[0].split())


def documented(thing):
    """What a docstring says of single arguments and of the items of its list: name -> text, in one line."""
    text = inspect.getdoc(thing)
    found = re.findall(r'^- "(\w+)": (.*(?:\n  .*)*)', text, flags=re.MULTILINE)
    found += re.findall(r"^    (\w+(?:, \w+)*): (.*(?:\n     .*)*)", text, flags=re.MULTILINE)
    return {name: " ".join(words.split()) for names, words in found for name in names.split(", ")}


def _ratios(times):
    """Network and device -> {method: time of a step relative to AE}, of measurements as `timing.stored` gives them."""
    return {
        f"{network}, {one['device']}": {name: step["ratio"] for name, step in part["steps"].items()}
        for one in times
        for network, part in one["networks"].items()
    }


def step_time_rows(names, times):
    """Rows of a table, label -> {network and device: "1.23"}, with a dash where nothing was measured. ``names`` are
    label -> name of the method, ``times`` stored measurements, as `nrae_lib.pages.timing.stored` gives them."""
    found = _ratios(times).items()
    return {
        label: {at: f"{row[name]:.2f}" if name in row else "–" for at, row in found} for label, name in names.items()
    }

"""What the pages of a :class:`nrae_lib.runs.study.Study` share: options, search, banner, verdicts, numbers.

Importing this file needs no PyTorch: what does is imported where it is used.
"""

from nrae_lib.pages.common import banner, download, papermill_command, provenance, text_table, verdicts
from nrae_lib.pages.plots import method_label, search_grid, show


def show_options(study):
    """Display the options of each method under each condition, in the papers' symbols; after ``study.search()``."""
    from nrae_lib.core import methods

    plan = study.plan
    rows = {}
    for name in plan.methods:
        row = {
            condition: methods.get(name).describe(
                plan.run(condition, name, 0, study.options[condition][name]).method_options
            )
            for condition in plan.conditions
            if name in plan.methods_of(condition)
        }
        if row:
            rows[method_label(name)] = row
    text_table(rows, caption="Options of each method")


def show_search(study):
    """Display what the search found: one picture for each condition that searched, and which choices lie at an edge."""
    from IPython.display import Markdown, display

    frame = study.search_frame
    for condition in study.plan.conditions:
        chosen = study.chosen_by_search(condition)
        rows = frame[(frame.recipe == condition)] if len(frame) else frame
        chosen = {
            name: options
            for name, options in chosen.items()
            if any(rows[rows.method == name][option].nunique() > 1 for option in options)
        }
        if not chosen:
            continue
        display(Markdown(f"**{condition}**: validation error of every candidate; the choice is marked."))
        show(
            search_grid(rows, chosen),
            alt=f"Validation error for each candidate of the search, {condition}; the choice is marked.",
        )
        edges = "; ".join(
            f"{method_label(name)} ({', '.join(ends)})" for name, ends in study.at_edge(condition).items()
        )
        if edges:
            display(Markdown(f"At an edge of the candidates, where a wider search might find better: {edges}."))


def study_banner(study, cut, stand_ins=""):
    """Display what this preset cut, and which data sets are stand-ins; nothing at preset "paper".

    Arguments:
        cut: what is smaller than in the paper, a sentence without its full stop.
        stand_ins: ``datasets.banner_text`` of the page's data sets, or "".
    """
    if study.preset == "paper":
        if study.absent:
            banner(f"Not run, because the images are not on this machine: {', '.join(study.absent)}.")
        return
    whole = [condition for condition in study.plan.conditions if study.preset_of(condition) == "paper"]
    if not study.full:
        stored = "No full-scale runs of this page are committed."
    else:
        stored = f"{len(study.full)} committed full-scale runs stand beside it."
        if len(whole) < len(study.plan.conditions):
            stored += f" Complete at full scale, and shown so: {', '.join(whole) or 'none of these conditions'}."
    banner(f"Preset {study.preset}: {cut}. {stored}" + (f" {stand_ins}" if stand_ins else ""))


def study_verdicts(study, page, frame=None, recipes=None):
    """Display the verdicts on the claims of ``page``, on the full-scale runs where there are any.

    At preset "paper" they are also stored in ``results/verdicts``, where the scoreboard reads them.

    Arguments:
        frame: what is judged, one row per run with the condition in the column ``recipe``; by default ``study.shown_frame``.
        recipes: the values of that column that are judged, where they are not the plan's conditions.
    """
    from IPython.display import Markdown, display

    from nrae_lib import paper
    from nrae_lib.runs import project_root

    shown = study.shown_frame if frame is None else frame
    if recipes is None:
        conditions = dict.fromkeys((*study.plan.conditions, *(shown.recipe.unique() if len(shown) else ())))
        items = [
            item
            for condition in conditions
            for item in paper.judge(page, shown, study.preset_of(condition), (condition,))
        ]
    else:
        items = paper.judge(page, shown, study.shown_preset, tuple(recipes))
    verdicts(items)
    folder, full = project_root() / "results" / "verdicts", [item for item in items if item.preset == "paper"]
    if study.preset == "paper":
        paper.save(page, full, folder)
    elif full and not paper.agree(full, folder):
        display(Markdown("The scoreboard does not know these verdicts yet: run this page once with preset paper."))


def study_numbers(study, name, **tables):
    """Display the downloads behind a page, where its numbers come from, and the command that makes it.

    Arguments:
        name: of the notebook, without folder and ending.
        tables: further DataFrames to download, by the last part of their file names.
    """
    from IPython.display import Markdown, display

    from nrae_lib.runs import grid

    for part, frame in tables.items():
        download(frame, f"{name}_{part}.csv")
    download(study.frame, f"{name}_{study.preset}.csv")
    if study.full and study.preset != "paper":
        download(study.full_frame, f"{name}_full.csv")
    if study.searched:
        download(study.search_frame, f"{name}_search.csv")
    provenance(study.results, study.already_stored)
    if study.full and study.preset == "quick":
        display(Markdown(grid.agreement(study.results, study.full_store)))
    if study.full or study.searched:
        both = " and ".join(
            ["the committed full-scale runs"] * bool(study.full) + ["the search"] * bool(study.searched)
        )
        display(Markdown(f"{both.capitalize()}:"))
        provenance([*study.full, *study.searched])
    display(Markdown("From the top of the repository:"))
    asked = ",".join(study.names) if set(study.names) != set(study.plan.methods) else "all"
    papermill_command(f"notebooks/{name}.ipynb", preset=study.preset, method=asked)

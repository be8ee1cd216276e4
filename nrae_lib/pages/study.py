"""The two calls that open and close a page of a :class:`nrae_lib.runs.Study`; what stands between is the experiment.

Importing this file needs no PyTorch: what does is imported where it is used.
"""

import inspect

from nrae_lib.pages.boxes import banner, download, papermill_command, provenance, verdicts
from nrae_lib.pages.parameters import check_parameters, choose_methods
from nrae_lib.pages.plots import method_label, search_grid, show
from nrae_lib.pages.tables import table_frame, text_table


def open_study(parameters, experiment, plan, only="all", show_options=True, **choices):
    """Check a page's parameters, choose every method's options, train what is missing; show options, search and banner.

    Arguments:
        parameters: the notebook's `globals()`, with preset, method, device, workers and cluster.
        experiment: folder of its committed results under `results/`.
        plan: preset -> :class:`nrae_lib.runs.Plan`.
        only: the conditions to run, separated by commas, or "all".
        show_options: whether to show the table of options.
        choices: parameter -> what it may be, for parameters of this page alone, see `check_parameters`.

    Returns:
        A :class:`nrae_lib.runs.Study` that has run.

    Raises:
        ValueError: a wrong parameter, naming the valid choices.
        RuntimeError: the spot check did not repeat its committed twins on the same kind of machine.
    """
    from nrae_lib.runs import PRESETS, Study, check_device, grid

    check_parameters(
        parameters,
        preset=PRESETS,
        method=str,
        device=check_device,
        workers=grid.check_workers,
        cluster=grid.check_cluster,
        **choices,
    )
    preset, asked = parameters["preset"], parameters["method"]
    study = Study(
        experiment,
        plan,
        preset,
        choose_methods(asked, dict.fromkeys((*plan("paper").methods, *plan(preset).methods))),
        only=[] if only == "all" else [name.strip() for name in only.split(",")],
        **{name: parameters[name] for name in ("device", "workers", "cluster")},
    ).run()
    if show_options:
        _show_options(study)
    _show_search(study)
    banner(_banner_text(study))
    return study


def _show_options(study):
    """The options of each method under each condition, in the papers' symbols."""
    from nrae_lib.core import methods

    rows = {}
    for condition, options in study.options.items():
        plan = study.plan_of(condition)
        for name in options:
            chosen = plan.run(condition, name, 0, options[name]).method_options
            rows.setdefault(method_label(name), {})[condition] = methods.get(name).describe(chosen)
    text_table(rows, caption="Options of each method")


def _show_search(study):
    """One picture for each condition that searched, and which choices lie at an edge."""
    from IPython.display import Markdown, display

    frame = study.search_frame
    for condition in study.conditions:
        chosen = study.chosen_by_search(condition)
        rows = frame[(frame.condition == condition)] if len(frame) else frame
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


def _banner_text(study):
    """What is shown at which scale, what was cut, what the spot check found, and which images are not the real ones."""
    from nrae_lib.data import datasets

    committed = [name for name in study.conditions if study.preset_of(name) == "paper"]
    own = [name for name in study.conditions if name not in committed]
    sentences = [f"Preset {study.preset}."]
    if committed and study.preset != "paper":
        runs = sum(len(study.of(name)) for name in committed)
        alone = sum(result.trained_alone for name in committed for result in study.of(name))
        sentences.append(
            f"Shown at full scale, from {runs} committed runs: {', '.join(committed) if own else 'everything'}."
        )
        if alone < runs:
            sentences.append(
                f"{runs - alone} of them were trained in vectorized ensembles, whose numbers a run alone does not repeat bit for "
                "bit; they will be trained anew."
            )
        sentences.append(spot_check_text(study.checked))
    if own and study.preset != "paper":
        sentences.append(f"Cut here{' (' + ', '.join(own) + ')' if committed else ''}: {study.cut()}.")
        sentences.append("What a cut run finds neither confirms nor refutes a claim.")
        cut = [study.plan.conditions[name] for name in own]
        names = [datasets.image_set(one["data"]) for one in cut if "source" in one.get("data_options", {})]
        sentences.append(datasets.banner_text(list(dict.fromkeys(names))))
    if study.absent:
        what = "Not run" if study.preset == "paper" else "Not checked"
        sentences.append(f"{what}, because the images are not on this machine: {', '.join(study.absent)}.")
    return " ".join(filter(None, sentences))


def spot_check_text(checked):
    """What the runs of now say about their committed twins.

    Arguments:
        checked: pairs of a result and its committed twin.

    Raises:
        RuntimeError: a twin that was trained alone on the same kind of machine (processor or GPU, threads, version of
            torch) has other numbers.
    """
    if not checked:
        return ""
    same, apart, broken = 0, [], []
    for result, twin in checked:
        if result.metrics == twin.metrics:
            same += 1
            continue
        kinds = [tuple(one.provenance.get(name) for name in ("device", "threads", "torch")) for one in (result, twin)]
        if twin.trained_alone and kinds[0] == kinds[1]:
            broken.append(result.run.label)
        apart.append(abs(result.metrics["test_mse"] / twin.metrics["test_mse"] - 1))
    if broken:
        raise RuntimeError(
            f"the spot check failed: on the same kind of machine these runs differ from the committed ones: {'; '.join(broken)}"
        )
    text = f"Spot check: {len(checked)} of them were trained again now, {same} bit for bit the same"
    if apart:
        text += (
            f", {len(apart)} (of an ensemble, or of another kind of machine) with test errors that differ by up to "
            f"{max(apart):.1%}"
        )
    return text + "."


def close_study(study, page, frame=None, conditions=None, **tables):
    """Display the verdicts, the downloads behind a page, where its numbers come from, and the command that makes it.

    At preset "paper", if all methods ran, the verdicts are also stored in `results/verdicts`, where the scoreboard reads them.

    Arguments:
        study: what `open_study` returned.
        page: name of the notebook, without folder and ending.
        frame: what is judged, one row per run with its `condition`; by default the study's own.
        conditions: the values of that column that are judged, where they are not the study's conditions.
        tables: DataFrames or rows of a `comparison_table` to download, by the last part of their file names.

    Raises:
        TypeError: `study` is not what `open_study` returned.
    """
    from IPython.display import Markdown, display

    from nrae_lib import paper
    from nrae_lib.runs import Study

    if not isinstance(study, Study):
        raise TypeError(f"close_study takes what open_study returned, not {type(study).__name__}")
    judged = study.frame if frame is None else frame
    if conditions is None:
        extra = judged.condition.unique() if len(judged) else ()
        items = [
            item
            for name in dict.fromkeys((*study.conditions, *study.absent, *extra))
            for item in paper.judge(
                page, judged, study.preset_of(name) if name in study.conditions else study.preset, (name,)
            )
        ]
    else:
        shown = {study.preset_of(name) for name in study.conditions}
        items = paper.judge(page, judged, "paper" if shown == {"paper"} else study.preset, tuple(conditions))
    # A part of the methods or conditions, also for want of images, must not replace verdicts on all of them.
    whole = study.whole and not study.absent
    stored_verdicts(items, page, save=study.preset == "paper" and whole, known=whole)

    for part, table in tables.items():
        download(table_frame(table) if isinstance(table, dict) else table, f"{page}_{part}.csv")
    download(study.frame, f"{page}_runs.csv")
    if study.searched:
        download(study.search_frame, f"{page}_search.csv")
    provenance(study.results, study.already_stored if study.preset != "quick" or not study.checked else None)
    for results, title in (([now for now, _ in study.checked], "The spot check"), (study.searched, "The search")):
        if results:
            display(Markdown(f"{title}:"))
            provenance(results)
    display(Markdown("From the top of the repository:"))
    asked = "all" if set(study.full_plan.methods) <= set(study.names) else ",".join(study.names)
    papermill_command(f"notebooks/{page}.ipynb", preset=study.preset, method=asked)


def stored_verdicts(items, page, save, known=True):
    """Display verdicts, and keep those at full scale in `results/verdicts`, where the scoreboard reads them.

    Arguments:
        items: verdicts on the claims of `page`.
        save: store them; otherwise say so where the stored ones are others.
        known: whether they can be compared with the stored ones at all.
    """
    from IPython.display import Markdown, display

    from nrae_lib import paper
    from nrae_lib.runs import project_root

    verdicts(items)
    folder, full = project_root() / "results" / "verdicts", [item for item in items if item.preset == "paper"]
    if save:
        paper.save(page, full, folder)
    elif full and known and not paper.agree(full, folder):
        display(Markdown("The scoreboard does not know these verdicts yet: run this page once with preset paper."))


def show_source(module):
    """Display the code of a module of `nrae_lib.pages.plans`, so that the settings which pages share stand in plain sight."""
    from IPython.display import Markdown, display

    display(Markdown(f"```python\n{inspect.getsource(module).strip()}\n```"))

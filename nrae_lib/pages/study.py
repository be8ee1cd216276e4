"""The two calls that open and close a page of a :class:`nrae_lib.runs.Study`; what stands between is the experiment.

Importing this file needs no PyTorch: what does is imported where it is used.
"""

import inspect

from nrae_lib.pages.boxes import banner, download, papermill_command, provenance, verdicts
from nrae_lib.pages.parameters import check_parameters, choose_methods
from nrae_lib.pages.plots import method_label, search_grid, show
from nrae_lib.pages.tables import display_markdown, table_frame, text_table


def open_study(parameters, experiment, plan, only="all", show_options=True, scales=("paper",), **choices):
    """Check a page's parameters, choose every method's options, train what is missing; show options, search and banner.

    Returns a :class:`nrae_lib.runs.Study` that has run. ValueError for a wrong parameter, naming the valid choices;
    RuntimeError if the spot check did not repeat its committed twins on the same kind of machine.

    Arguments:
        parameters: the notebook's `globals()`, with preset, method, device, workers and cluster.
        experiment: folder of its committed results under `results/`.
        plan: preset -> :class:`nrae_lib.runs.Plan`.
        only: the conditions to run, separated by commas, or "all".
        show_options: whether to show the table of options.
        scales: the presets whose results are committed, the largest first, see :class:`nrae_lib.runs.Study`.
        choices: parameter -> what it may be, for parameters of this page alone, see `check_parameters`.
    """
    from nrae_lib import runs
    from nrae_lib.core import methods

    checks = {"device": runs.check_device, "workers": runs.grid.check_workers, "cluster": runs.grid.check_cluster}
    check_parameters(parameters, preset=runs.PRESETS, method=str, **checks, **choices)
    conditions = [] if only == "all" else [name.strip() for name in only.split(",")]
    how = {name: parameters[name] for name in checks}
    study = runs.Study(experiment, plan, parameters["preset"], only=conditions, scales=scales, **how)
    study.names = choose_methods(parameters["method"], dict.fromkeys((*study.full_plan.methods, *study.plan.methods)))
    study.parameters = {name: parameters[name] for name in ("preset", "method", *choices)}
    study.run()
    if show_options:
        rows = {}
        for condition, options in study.options.items():
            for name in options:
                chosen = study.plan_of(condition).run(condition, name, 0, options[name]).method_options
                rows.setdefault(method_label(name), {})[condition] = methods.get(name).describe(chosen)
        text_table(rows, caption="Options of each method")
    _show_search(study)
    banner(_banner_text(study))
    return study


def _show_search(study):
    """One picture for each condition that searched, and which choices lie at an edge."""
    for condition in study.conditions if len(study.search_frame) else ():
        rows = study.search_frame[study.search_frame.condition == condition]
        chosen = {
            name: options
            for name, options in study.chosen_by_search(condition).items()
            if rows.loc[rows.method == name, list(options)].nunique().gt(1).any()
        }
        if not chosen:
            continue
        display_markdown(f"**{condition}**: validation error of every candidate; the choice is marked.")
        alt = f"Validation error for each candidate of the search, {condition}; the choice is marked."
        show(search_grid(rows, chosen), alt)
        edges = [f"{method_label(name)} ({', '.join(ends)})" for name, ends in study.at_edge(condition).items()]
        if edges:
            where = "At an edge of the candidates, where a wider search might find better"
            display_markdown(f"{where}: {'; '.join(edges)}.")


def _banner_text(study):
    """What is shown at which scale, what was cut, what the spot check found, and which images are not the real ones."""
    from nrae_lib.data import datasets

    shown = {}
    for name in study.conditions:
        shown.setdefault(study.preset_of(name), []).append(name)
    sentences = [f"Preset {study.preset}."]
    for scale, what in (("paper", "at full scale"), ("reduced", "of the reduced experiment")):
        if scale in shown:
            names = ", ".join(shown[scale]) if len(shown) > 1 else "everything"
            count = sum(len(study.of(name)) for name in shown[scale])
            sentences.append(f"Shown {what}, from {count} committed runs: {names}." * (study.preset == "quick"))
            if cut := study.cut(scale):
                sentences.append(f"Reduced here: {cut}. A verdict on it is about this experiment and is counted apart.")
    sentences.append(spot_check_text(study.checked))
    own = [name for scale, names in shown.items() if scale not in study.scales for name in names]
    if own:
        where = f" ({', '.join(own)})" if len(shown) > 1 else ""
        sentences.append(f"Cut here{where}: {study.cut(study.preset)}.")
        sentences.append("What a cut run finds neither confirms nor refutes a claim.")
        cut = [study.plan.conditions[name] for name in own]
        names = [datasets.image_set(one["data"]) for one in cut if "source" in one.get("data_options", {})]
        sentences.append(datasets.banner_text(list(dict.fromkeys(names))))
    if study.waiting:
        sentences.append(f"Not run yet, and left out here: {', '.join(study.waiting)}.")
    if study.absent:
        what = "Not run" if study.preset in study.scales else "Not checked"
        sentences.append(f"{what}, because the images are not on this machine: {', '.join(study.absent)}.")
    return " ".join(filter(None, sentences))


def spot_check_text(checked):
    """What the runs of now say about their committed twins, from pairs of both. RuntimeError if a twin of the same kind
    of machine (device, threads, version of torch) has other numbers."""
    if not checked:
        return ""
    apart, broken = [], []
    for result, twin in checked:
        if result.metrics != twin.metrics:
            apart.append(abs(result.metrics["test_mse"] / twin.metrics["test_mse"] - 1))
            now, then = result.provenance, twin.provenance
            if all(now.get(name) == then.get(name) for name in ("device", "threads", "torch")):
                broken.append(result.run.label)
    if broken:
        found = f"on the same kind of machine these runs differ from the committed ones: {'; '.join(broken)}"
        raise RuntimeError(f"the spot check failed: {found}")
    same = len(checked) - len(apart)
    said = f"Spot check: {len(checked)} of them were trained again now, {same} bit for bit the same"
    if apart:
        said += f", {len(apart)} (of another kind of machine) with test errors that differ by up to {max(apart):.1%}"
    return said + "."


def close_study(study, page, frame=None, conditions=None, **tables):
    """Display the verdicts, the downloads behind a page, where its numbers come from, and the command that makes it.

    Preset "quick" stores the verdicts on committed results in `results/verdicts`, if all methods and conditions were asked for.

    Arguments:
        study: what `open_study` returned, or a TypeError.
        page: name of the notebook, without folder and ending; ValueError if no claim is about it.
        frame: what is judged, one row per run with its `condition`; by default the study's own.
        conditions: the values of that column that are judged, where they are not the study's conditions.
        tables: DataFrames or rows of a `comparison_table` to download, by the last part of their file names.
    """
    from nrae_lib import paper

    if not hasattr(study, "parameters"):
        raise TypeError(f"close_study takes what open_study returned, not {type(study).__name__}")
    judged = study.frame if frame is None else frame
    # What several conditions decide together is at the scale that all of them have, and none may wait.
    shown = {study.preset_of(name) for name in study.conditions}
    common = shown.pop() if len(shown) == 1 and not study.waiting else study.preset
    if conditions is None:
        presets = {name: study.preset_of(name) for name in (*study.conditions, *study.absent)} | study.waiting
        names = judged.condition.unique() if len(judged) else ()
        presets |= dict.fromkeys((name for name in names if name not in presets), common)
    else:
        presets = dict.fromkeys(conditions, common)
    items = [item for name, preset in presets.items() for item in paper.judge(page, judged, preset, (name,))]
    # "quick" shows the largest scale that is committed of every condition; a part of the methods or conditions must not replace
    # verdicts on all of them.
    stored_verdicts(items, page, save=study.whole and study.preset == "quick")
    two_ways(items)

    for part, table in tables.items():
        download(table_frame(table) if isinstance(table, dict) else table, f"{page}_{part}.csv")
    download(study.frame, f"{page}_runs.csv")
    if study.searched:
        download(study.search_frame, f"{page}_search.csv")
    provenance(study.results, study.already_stored if study.preset != "quick" or not study.checked else None)
    for results, title in (([now for now, _ in study.checked], "The spot check"), (study.searched, "The search")):
        if results:
            display_markdown(f"{title}:")
            provenance(results)
    display_markdown("From the top of the repository:")
    papermill_command(f"notebooks/{page}.ipynb", **study.parameters)


def stored_verdicts(items, page, save=True):
    """Display `items`, verdicts on the claims of `page`, and with `save` keep those on committed results in
    `results/verdicts`, where the scoreboard reads them, in place of any others."""
    from nrae_lib import paper, runs

    verdicts(items)
    folder, kept = runs.project_root() / "results" / "verdicts", [item for item in items if item.preset in runs.SCALES]
    if save and kept:
        paper.save(page, kept, folder)


def two_ways(items):
    """Display what a claim's verdicts say together where the options were chosen in two ways; nothing where they were not."""
    from nrae_lib.pages.plans import FAVOURABLE

    says = {
        ("reproduced", "reproduced"): "holds either way",
        ("not reproduced", "not reproduced"): "fails either way",
        ("not reproduced", "reproduced"): "fragile: it holds only with options chosen by the figure's criterion",
        ("reproduced", "not reproduced"): "fragile: it fails with options chosen by the figure's criterion",
    }
    found, rows = {(item.claim, item.condition, item.preset): item.status for item in items}, {}
    for (claim, condition, preset), status in found.items():
        if favourable := found.get((claim, condition + FAVOURABLE, preset)):
            both = {"by the error": status, "by the figure's criterion": favourable}
            rows[f"{claim.text} ({condition})"] = both | {"the claim": says.get((status, favourable), "undecided")}
    if rows:
        text_table(rows, caption="What the two ways to choose say together")


def all_verdicts():
    """The verdict on every claim and condition of the book, in the order of the claims: those that its page stored, of running
    time those on the last measurement, and "not run" where there is none."""
    from nrae_lib import paper, runs
    from nrae_lib.pages import timing

    found = timing.verdicts() + paper.load(paper.CLAIMS, runs.project_root() / "results" / "verdicts")
    known = {verdict.claim.identifier for verdict in found}
    none = ("all", "paper", "not run", "the runs that decide it are not all committed.")
    found += [paper.Verdict(claim, *none) for claim in paper.CLAIMS if claim.identifier not in known]
    return sorted(found, key=lambda verdict: paper.CLAIMS.index(verdict.claim))


def scale_of(verdict):
    """What a verdict is counted under: "full scale", "favourable" (options chosen by what the figure is judged by) or "reduced"."""
    from nrae_lib.pages.plans import FAVOURABLE

    if verdict.preset != "paper":
        return verdict.preset
    return "favourable" if verdict.condition.endswith(FAVOURABLE) else "full scale"


def show_source(module):
    """Display the code of a module of `nrae_lib.pages.plans`, so that the settings which pages share stand in plain sight."""
    display_markdown(f"```python\n{inspect.getsource(module).strip()}\n```")

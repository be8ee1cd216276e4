"""An experiment of the paper: conditions x methods x seeds, with the options of every method chosen on held-out data.

The same budget is open to every method: the candidates of its plan, on the same held-out seeds, judged by the same criterion,
the error on validation points that are used for nothing else or what a figure is judged by.
"""

from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from itertools import chain, product
from typing import TYPE_CHECKING, Any

from nrae_lib.core import methods
from nrae_lib.data import datasets
from nrae_lib.runs import grid
from nrae_lib.runs.run import Result, Run
from nrae_lib.runs.store import Store

if TYPE_CHECKING:
    import pandas

SPOT_CHECK_SECONDS = 10.0  # of training, by the clock of the committed runs
_RUN_FIELDS = ("data", "data_options", "network", "optimization", "recipe")
_CONDITION_FIELDS = (
    *_RUN_FIELDS, "methods", "seeds", "options", "keep", "search_data_options", "search_as", "same_choice", "criterion",
)  # fmt: skip


def _listed(what: str, names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ValueError(f"{what} must be a list of names such as {names.split(',')}, not the text {names!r}")
    return tuple(names)


@dataclass(frozen=True)
class Plan:
    """What one preset of a page trains; plain data.

    ValueError for an unknown field of a condition, choices that are none's or on reported seeds, names in one text.

    Arguments:
        conditions: name -> the fields of its runs: data, data_options, network, optimization and perhaps recipe (whose
            settings these are). Also ``methods`` (by default all of the plan), ``seeds`` (in place of the plan's; 0: it
            searches only), ``options`` (method -> options of this condition that are not searched, over ``fixed``),
            ``keep`` (in place of the plan's), ``search_data_options``: what differs in the data of the search,
            ``search_as``: the condition whose choices it takes instead of searching, ``same_choice``: method -> the method
            whose choice it takes, where the two are one function, and ``criterion``, in place of the plan's.
        methods: names from the catalogue, in the order of the page.
        seeds: of every condition, 0, 1, ...
        keep: what results hold, a name from ``views.VIEWS``; ``keep_first`` is for seed 0, by default the same.
        search: method -> {option: candidates}; all combinations are tried. Methods without an entry have nothing to choose.
        fixed: method -> options that are not searched, such as k where the paper states it.
        search_seeds: the held-out seeds of the search, none of ``seeds`` unless its data differ (``search_data_options``).
        search_share: epochs of a run of the search, as a share of those of all other runs.
        search_keep: what results of the search hold.
        criterion: what decides, see :func:`nrae_lib.runs.grid.choose`: "validation_mse", or "test_mse" where the search has
            data of its own (``search_data_options``, or held-out draws), or what a figure is judged by.
    """

    conditions: dict[str, dict[str, Any]]
    methods: tuple[str, ...]
    seeds: int
    keep: str = "metrics"
    keep_first: str = ""
    search: dict[str, dict[str, tuple]] = field(default_factory=dict)
    fixed: dict[str, dict[str, Any]] = field(default_factory=dict)
    search_seeds: tuple[int, ...] = (1000,)
    search_share: float = 1.0
    search_keep: str = "metrics"
    criterion: str | Callable = "validation_mse"

    def __post_init__(self):
        _listed("the methods", self.methods)
        reported = sorted({*self.search_seeds} & {*range(max(map(self.seeds_of, self.conditions), default=0))})
        for name, content in self.conditions.items():
            _listed(f"the methods of condition {name!r}", content.get("methods", ()))
            if unknown := sorted(content.keys() - set(_CONDITION_FIELDS)):
                valid = ", ".join(_CONDITION_FIELDS)
                raise ValueError(f"condition {name!r} has an unknown field {unknown[0]!r}: choose among {valid}")
            source = content.get("search_as", name)
            if source not in self.conditions or "search_as" in self.conditions[source]:
                wrong = "which is no condition that searches"
                raise ValueError(f"condition {name!r} takes the choices of {source!r}, {wrong}")
        for name in self.conditions if reported else ():
            sources = [self.source(name, method) for method in self.methods_of(name)]
            used = [source for source, method in sources if self.searches(source, method)]
            if any(not self.conditions[source].get("search_data_options") for source in used):
                wrong = f"has the seeds {reported}, which are among the {self.seeds_of(name)} that are reported"
                raise ValueError(f"choices must be made on held-out seeds: the search of condition {name!r} {wrong}")

    def methods_of(self, condition: str) -> tuple[str, ...]:
        """The methods that ``condition`` trains, in the plan's order."""
        named = self.conditions[condition].get("methods", self.methods)
        return tuple(name for name in self.methods if name in named)

    def seeds_of(self, condition: str) -> int:
        """How many seeds ``condition`` has."""
        return self.conditions[condition].get("seeds", self.seeds)

    def run(self, condition: str, method: str, seed: int, options: dict, searching: bool = False) -> Run:
        """One run; ``options`` are those that were chosen, to which the fixed ones come."""
        content = self.conditions[condition]
        fields = {name: content[name] for name in _RUN_FIELDS if name in content}
        keep = content.get("keep") or (self.keep_first if seed == 0 else "") or self.keep
        if searching:
            keep = self.search_keep
            fields["data_options"] = fields.get("data_options", {}) | content.get("search_data_options", {})
            epochs = max(1, round(self.search_share * fields["optimization"].epochs))
            fields["optimization"] = replace(fields["optimization"], epochs=epochs)
        options = self._fixed(condition, method) | options
        return Run(method=method, method_options=options, seed=seed, keep=keep, **fields)

    def _fixed(self, condition: str, method: str) -> dict[str, Any]:
        return self.fixed.get(method, {}) | self.conditions[condition].get("options", {}).get(method, {})

    def candidates(self, condition: str, method: str) -> list[dict[str, Any]]:
        """All combinations of the options that are searched for ``method``; empty if there is nothing to choose."""
        fixed = self._fixed(condition, method)
        options = {name: values for name, values in self.search.get(method, {}).items() if name not in fixed}
        return [dict(zip(options, values, strict=True)) for values in product(*options.values())] if options else []

    def source(self, condition: str, method: str) -> tuple[str, str]:
        """The condition and the method whose search decides for ``method`` under ``condition``."""
        content = self.conditions[condition]
        return content.get("search_as", condition), content.get("same_choice", {}).get(method, method)

    def searches(self, condition: str, method: str) -> list[Run]:
        """The runs of the search for ``method`` under ``condition``; empty if nothing is chosen, or it is chosen elsewhere."""
        if self.source(condition, method) != (condition, method):
            return []
        return [
            self.run(condition, method, seed, candidate, searching=True)
            for candidate in self.candidates(condition, method)
            for seed in self.search_seeds
        ]


class Study:
    """A page's experiment under one preset.

    Presets "paper" and "reduced" search and train at that scale what is not committed yet. Preset "quick" shows the committed
    results of every condition that has them all, at the largest scale there is, and trains a spot check of them: seed 0 of a
    few methods, which must repeat its committed twins bit for bit on the same kind of machine. Other conditions, and preset
    "smoke", train the plan of their own. ValueError for a condition that the plan does not have, naming those it has;
    for names in one text; RuntimeError for results that are asked for before :meth:`run`.

    Arguments:
        experiment: folder of its committed results under ``results/``.
        plan: preset -> :class:`Plan`. The study's ``plan`` is that of its preset, ``full_plan`` that of "paper".
        preset: "smoke", "quick", "reduced" or "paper".
        names: the methods that this page was asked for; all of the plan if empty.
        only: the conditions to run; all of the plan if empty.
        scales: the presets whose results are committed, the largest first. Without "reduced" that preset is "paper".
        how: device, workers and cluster, see :func:`nrae_lib.runs.run_all`.
    """

    # After `run`:
    conditions: list[str]  #: those with results, in the order of the page
    options: dict[str, dict[str, dict]]  #: condition -> method -> chosen options
    searched: list[Result]  #: of the search that decided
    search_frame: "pandas.DataFrame"  #: of ``searched``; its ``validation_mse`` is what decided
    results: list[Result]  #: what the page shows and judges
    frame: "pandas.DataFrame"  #: :func:`nrae_lib.runs.grid.frame` of the results with a column ``condition``
    checked: list[tuple[Result, Result]]  #: the spot check, pairs of a result of now and its committed twin
    waiting: dict[
        str, str
    ]  #: condition -> its scale, left out at "quick": others of it are committed, this one is not yet
    absent: list[str]  #: conditions that are left out, or not checked, because their images are not on this machine
    already_stored: int  #: how many of this preset's own results were there, and not trained

    def __init__(
        self, experiment: str, plan: Callable, preset: str, names: Iterable[str] = (), only: Iterable[str] = (),
        scales: tuple[str, ...] = ("paper",), **how,
    ):  # fmt: skip
        self.preset = "paper" if preset == "reduced" and "reduced" not in scales else preset
        self.scales, self._how = scales, how
        self._plans = {name: plan(name) for name in dict.fromkeys((*scales, self.preset))}
        self.plan, self.full_plan = self._plans[self.preset], self._plans["paper"]
        self.store, self.full_store = Store.of(self.preset, experiment), Store.of("paper", experiment)
        shown = [self.plan] if self.preset in scales else self._plans.values()
        self._known = tuple(dict.fromkeys(chain(*(plan.conditions for plan in shown))))
        self._wanted = _listed("only", only) or self._known
        for name in self._wanted:
            if name not in self._known:
                raise ValueError(f"unknown condition {name!r}: choose among {', '.join(self._known)}")
        self.names = _listed("the methods", names) or self.plan.methods
        self._own_search, self._to_do, self._there = _Search(self.plan, self.store), {}, set()

    def __getattr__(self, name: str):
        if name in Study.__annotations__:
            raise RuntimeError(f"this study has no {name} yet: call its run() first, or pages.open_study")
        raise AttributeError(f"a study has no attribute {name!r}")

    @property
    def whole(self) -> bool:
        """Whether all conditions and all methods were asked for."""
        return set(self._known) == set(self._wanted) and set(self.plan.methods) <= set(self.names)

    def run(self) -> "Study":
        """Choose the options, train what is missing, and check."""
        # Another preset's results are shown at "quick" only.
        others = self.scales if self.preset == "quick" else ()
        searches = {scale: _Search(self._plans[scale], self.full_store) for scale in others}
        committed = self._committed(searches)
        self._shown = {name: scale for name, (scale, _) in committed.items()}
        # Cut runs beside committed ones would pass for what they are not: where something is committed, the rest waits.
        self.waiting = {
            name: scale
            for scale in dict.fromkeys(self._shown.values())
            for name in self._plans[scale].conditions
            if name in self._wanted and name not in committed and self._plans[scale].seeds_of(name)
        }
        mine = [] if committed else [name for name in self.plan.conditions if name in self._wanted]
        # Without any images at all, the first run says best what is missing.
        here = [name for name in mine if self.preset not in self.scales or is_here(self.plan.conditions[name])] or mine
        self.absent, mine = [name for name in mine if name not in here], here
        deciding = {name: searches[scale] for name, scale in self._shown.items()} | self._search(mine, searches)
        self.conditions = [name for name in self._wanted if name in deciding]
        self.options = {
            name: {method: search.chosen(name, method) for method in self.plan_of(name).methods_of(name)}
            for name, search in deciding.items()
        }
        planned = {name: self._runs(self.plan, name, self.options[name]) for name in mine}
        flat = list(chain(*planned.values()))
        self.already_stored = sum(self.store.path(run).exists() for run in flat)
        results = dict(zip(flat, grid.run_all(flat, self.store, **self._how), strict=True))
        found = {name: results for name, (_, results) in committed.items()}
        found |= {name: [results[run] for run in runs] for name, runs in planned.items()}
        # Copies: one run may stand under two conditions, such as two ways to choose that agree.
        self._of = {name: [copy(result) for result in found[name]] for name in self.conditions}
        self.results = list(chain(*self._of.values()))
        if not self.results:
            where = ", ".join(self.conditions) or "no condition here"
            raise ValueError(f"nothing to show: {where} has no {' or '.join(self.names)}")
        searched = {}  # (condition, key of a run) -> result
        for name, search in deciding.items():
            for method in search.plan.methods_of(name):
                source, _ = search.plan.source(name, method)
                searched |= {(source, result.run.key): result for result in search.results(name, method) or []}
        self.searched = list({key: result for (_, key), result in searched.items()}.values())
        self.frame = self._frame(self.results, [name for name, results in self._of.items() for _ in results])
        self.search_frame = self._frame(searched.values(), [name for name, _ in searched])
        if len(self.search_frame) and not callable(self.plan.criterion):
            self.search_frame["validation_mse"] = self.search_frame[self.plan.criterion]
        self.checked = self._spot_check(committed)
        return self

    def committed(self) -> "pandas.DataFrame":
        """What is committed, a frame as that of :meth:`run` with the ``scale`` of every row; nothing is trained."""
        found = self._committed({scale: _Search(self._plans[scale], self.full_store) for scale in self.scales})
        rows = [(name, scale, result) for name, (scale, results) in found.items() for result in results]
        frame = self._frame([result for *_, result in rows], [name for name, *_ in rows])
        return frame.assign(scale=[scale for _, scale, _ in rows]) if rows else frame

    def _committed(self, searches: dict[str, "_Search"]) -> dict[str, tuple[str, list[Result]]]:
        """condition -> the largest scale at which all its methods are stored, and results of the methods asked for."""
        found = {}
        for scale, search in searches.items():
            for name in (name for name in search.plan.conditions if name in self._wanted and name not in found):
                if search.whole(name):
                    options = {method: search.chosen(name, method) for method in search.plan.methods_of(name)}
                    runs = self._runs(search.plan, name, options, options)
                    results = grid.stored(runs, self.full_store)
                    if runs and len(results) == len(runs):
                        found[name] = scale, [result for result in results if result.run.method in self.names]
        return found

    def _search(self, conditions: list[str], searches: dict[str, "_Search"]) -> dict[str, "_Search"]:
        """Where a committed search of a condition is stored for all its methods, its choices hold for "quick", too; other
        conditions search at this preset's own scale, all methods alike."""
        deciding, runs, own = {}, [], self._own_search
        for name in conditions:
            deciding[name] = next((search for search in searches.values() if search.whole(name)), own)
            for method in self.plan.methods_of(name):
                if deciding[name] is own and method in self.names:
                    runs += own.runs(*self.plan.source(name, method))
        grid.run_all(runs, self.store, **self._how)
        return deciding

    def _runs(self, plan: Plan, condition: str, options: dict[str, dict], names: Iterable[str] = ()) -> list[Run]:
        """The runs of ``condition`` with the chosen ``options``, of all ``names`` or of the methods asked for."""
        return [
            plan.run(condition, method, seed, chosen)
            for method, chosen in options.items()
            if method in (names or self.names)
            for seed in range(plan.seeds_of(condition))
        ]

    def _spot_check(self, committed: dict[str, tuple[str, list[Result]]]) -> list[tuple[Result, Result]]:
        """Seed 0 of the last methods (the paper's own), as many as the time allows."""
        twins = []
        for name, (scale, results) in committed.items():
            if is_here(self._plans[scale].conditions[name]):
                twins += [result for result in reversed(results) if result.run.seed == 0]
            else:
                self.absent.append(name)
        left, chosen = SPOT_CHECK_SECONDS, {}
        for twin in twins:
            if twin.seconds <= left and twin.run.key not in chosen:
                chosen[twin.run.key] = twin
                left -= twin.seconds
        again = grid.run_all([twin.run for twin in chosen.values()], self.store, **self._how)
        return list(zip(again, chosen.values(), strict=True))

    def remaining(self, condition: str) -> tuple[list[Run], list[Run]]:
        """Runs of this preset that are not stored: those that can begin, in the order in which they tell most, and those
        whose options are not chosen yet, with default options in their place. Needs no :meth:`run`."""
        searching, ready, later = [], [], []
        for method in self.plan.methods_of(condition):
            known = self._own_search.results(condition, method) is not None
            if not known:
                searching += self._own_search.runs(*self.plan.source(condition, method))
            place = condition, method, known
            if place not in self._to_do:
                chosen = {method: self._own_search.chosen(condition, method)}
                self._to_do[place] = self._runs(self.plan, condition, chosen)
            (ready if known else later).extend(self._to_do[place])
        first = [*{run.key: run for run in searching}.values(), *sorted(ready, key=lambda run: run.seed)]
        return self.missing(first), self.missing(later)

    def missing(self, runs: Iterable[Run]) -> list[Run]:
        """Those of ``runs`` that are not stored, or damaged."""
        for run in runs:
            if not self.store.path(run).exists():
                self._there.discard(run.key)
            elif run.key not in self._there and self.store.get(run) is not None:
                self._there.add(run.key)
        return [run for run in runs if run.key not in self._there]

    def preset_of(self, condition: str) -> str:
        """The preset whose results the page shows of ``condition``: "paper" where they are full scale."""
        return self._shown.get(condition, self.preset)

    def plan_of(self, condition: str) -> Plan:
        """The plan that made what the page shows of ``condition``."""
        return self._plans[self.preset_of(condition)]

    def label(self, condition: str) -> str:
        """A condition's row in a table: its name, the scale of what is shown, and its seeds."""
        if condition not in self.conditions:
            return f"{condition}, ours"
        scale = {"paper": "full scale", "reduced": "reduced"}.get(preset := self.preset_of(condition), f"{preset} run")
        return f"{condition}, {scale} ({self.plan_of(condition).seeds_of(condition)} seeds)"

    def condition_of(self, result: Result) -> str:
        """The condition that ``result``, one of ``results``, belongs to."""
        return self.row(result).condition

    def of(self, condition: str, method: str | None = None, seed: int | None = None) -> list[Result]:
        """Results under ``condition``, perhaps of one method or one seed."""
        found = self._of.get(condition, [])
        return [one for one in found if method in (None, one.run.method) and seed in (None, one.run.seed)]

    def row(self, result: Result) -> "pandas.Series":
        """The row of ``result`` in the frame."""
        return self.frame.iloc[next(i for i, other in enumerate(self.results) if other is result)]

    def right(self, condition: str, breaks: str) -> dict[str, int]:
        """method -> number of seeds without a break; ``breaks``: the column that counts them, perhaps of nothing."""
        if breaks not in self.frame:
            return {}
        rows = self.frame[(self.frame.condition == condition) & self.frame[breaks].notna()]
        return (rows[breaks] == 0).groupby(rows.method).sum().to_dict()

    def summary(self, condition: str, metric: str, scale: float = 1.0, frame: "pandas.DataFrame | None" = None) -> dict:
        """method -> (mean, standard deviation over seeds) of ``metric`` times ``scale``; of one seed the deviation is
        None. A ``frame`` with further metrics takes the place of the study's own."""
        rows = self.frame if frame is None else frame
        groups = rows[rows.condition == condition].groupby("method", sort=False)[metric]
        spread = {name: scale * values.std() if len(values) > 1 else None for name, values in groups}
        return {name: (scale * values.mean(skipna=False), spread[name]) for name, values in groups}

    def _frame(self, results: Iterable[Result], conditions: list[str]) -> "pandas.DataFrame":
        frame = grid.frame(results)
        return frame.assign(condition=conditions) if len(frame) else frame

    def chosen_by_search(self, condition: str) -> dict[str, dict]:
        """method -> its searched options and their chosen values, for conditions that search themselves."""
        frame = self.search_frame
        tried = set(frame.method[frame.condition == condition]) if len(frame) else ()
        return {name: options for name, options in self.options[condition].items() if name in tried and options}

    def at_edge(self, condition: str) -> dict[str, list[str]]:
        """method -> chosen options that are the smallest or largest candidate, where a wider search might find better."""
        found, frame = {}, self.search_frame
        for method, options in self.chosen_by_search(condition).items():
            rows = frame[(frame.condition == condition) & (frame.method == method)]
            for name, value in options.items():
                if rows[name].nunique() > 1 and value in (rows[name].min(), rows[name].max()):
                    found.setdefault(method, []).append(f"{methods.SYMBOLS.get(name, name)} = {value:g}")
        return found

    def cut(self, preset: str) -> str:
        """What the runs of ``preset`` have less of than full scale, such as "3 of 10 seeds; epochs 16 (1,000)"; or ""."""
        shown = [name for name in self.conditions if self.preset_of(name) == preset]
        if preset == "paper" or not shown:
            return ""
        plan = self._plans[preset]
        parts = [f"{plan.seeds} of {self.full_plan.seeds} seeds"] if plan.seeds != self.full_plan.seeds else []
        first, changed = next(iter(self.full_plan.conditions.values())), {}
        for name in shown:
            there = _numbers(self.full_plan.conditions.get(name, first))
            for key, value in _numbers(plan.conditions[name]).items():
                if there.get(key, value) != value:
                    changed.setdefault(key, []).append((value, there[key]))
        for key, pairs in changed.items():
            here, wanted = (", ".join(dict.fromkeys(values)) for values in zip(*pairs, strict=True))
            parts.append(f"{key} {here} (full scale: {wanted})")
        if len(self.conditions) < len(self.full_plan.conditions):
            parts.append(f"{len(self.conditions)} of {len(self.full_plan.conditions)} conditions")
        if self.full_plan.search and not plan.search and not all(map(self.chosen_by_search, shown)):
            parts.append("default options, no search")
        if plan.search and plan.search_share < self.full_plan.search_share:
            parts.append(f"the search with {plan.search_share:g} of the epochs")
        return "; ".join(parts)


def _numbers(content: dict[str, Any]) -> dict[str, str]:
    """The sizes of a condition as a banner writes them, by its words."""
    network, optimization = asdict(content["network"]), asdict(content["optimization"])
    found = {**content.get("data_options", {}), **network, **optimization}
    words = {
        "n_train": "training points", "n_validation": "validation points", "decay": "fall of the step size",
        "n_test": "test points", "count": "images", "digits": "digits", "rotations": "rotations",
        "hidden": "hidden layers", "width": "share of the channels", "epochs": "epochs",
    }  # fmt: skip

    def text(value: Any) -> str:
        if isinstance(value, (list, tuple)):
            return "-".join(map(str, value))
        return f"{value:,}" if isinstance(value, (int, float)) else str(value)

    return {word: text(found[name]) for name, word in words.items() if name in found}


def is_here(content: dict[str, Any]) -> bool:
    """Whether the images of a condition are on this machine; true for all data that needs none."""
    needed = content.get("data_options", {}).get("source") == "official"
    return not needed or datasets.available(datasets.image_set(content["data"]))


class _Search:
    """What the search of a plan says, as far as it is stored."""

    def __init__(self, plan: Plan, store: Store):
        self.plan, self.store = plan, store
        self.runs = cache(plan.searches)
        self._known: dict[tuple[str, str], list[Result]] = {}

    def whole(self, condition: str) -> bool:
        """Whether the search of every method of ``condition`` is stored."""
        return condition in self.plan.conditions and all(
            self.results(condition, method) is not None for method in self.plan.methods_of(condition)
        )

    def results(self, condition: str, method: str) -> list[Result] | None:
        """What decides for ``method``, [] if there is nothing to choose; None if it is not (completely) stored."""
        place = self.plan.source(condition, method)
        if place not in self._known:
            runs = self.runs(*place)
            # Asked again and again while the search goes on: nothing is read before everything is there.
            there = all(self.store.path(run).exists() for run in runs)
            found = grid.stored(runs, self.store) if there else []
            if len(found) < len(runs):
                return None
            self._known[place] = found
        return self._known[place]

    def chosen(self, condition: str, method: str) -> dict:
        """The chosen options, {} where :meth:`results` has none."""
        results = self.results(condition, method)
        if not results:
            return {}
        best = grid.choose(results, self.plan.conditions[condition].get("criterion", self.plan.criterion))
        source, method = self.plan.source(condition, method)
        return {name: best[method][name] for name in self.plan.candidates(source, method)[0]}

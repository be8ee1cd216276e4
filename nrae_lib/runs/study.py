"""An experiment of the paper: conditions x methods x seeds, with the options of every method chosen on validation data.

A page says what its experiment is (:class:`Plan`, one for each preset); a :class:`Study` searches, trains and reads what
is stored. The same budget is open to every method: the candidates of its plan, on the same held-out seeds, judged by the
error on validation points that are used for nothing else.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from nrae_lib.core import methods
from nrae_lib.data import datasets
from nrae_lib.runs import grid
from nrae_lib.runs.run import Result, Run
from nrae_lib.runs.store import Store

if TYPE_CHECKING:
    import pandas

SPOT_CHECK_SECONDS = 10.0  # of training, by the clock of the committed runs


@dataclass(frozen=True)
class Plan:
    """What one preset of a page trains; plain data.

    Arguments:
        conditions: name -> the fields of its runs: data, data_options, network, optimization and perhaps recipe (whose
            settings these are). Also ``methods`` (by default all of the plan), ``options`` (method -> options of this
            condition that are not searched, over ``fixed``), ``keep`` (in place of the plan's), ``search_data_options``:
            what differs in the data of the search, ``search_as``: the condition whose choices it takes instead of
            searching, and ``same_choice``: method -> the method whose choice it takes, where the two are one function.
        methods: names from the catalogue, in the order of the page.
        seeds: of every condition, 0, 1, ...
        keep: what results hold, a name from ``views.VIEWS``; ``keep_first`` is for seed 0, by default the same.
        search: method -> {option: candidates}; all combinations are tried. Methods without an entry have nothing to choose.
        fixed: method -> options that are not searched, such as k where the paper states it.
        search_seeds: the held-out seeds of the search.
        search_epochs: epochs of a run of the search; 0: as many as all runs have.
        criterion: the metric that decides, the lowest mean over the held-out seeds: "validation_mse", or "test_mse" where
            the search has data of its own (``search_data_options``, or held-out draws).
    """

    conditions: dict[str, dict[str, Any]]
    methods: tuple[str, ...]
    seeds: int
    keep: str = "metrics"
    keep_first: str = ""
    search: dict[str, dict[str, tuple]] = field(default_factory=dict)
    fixed: dict[str, dict[str, Any]] = field(default_factory=dict)
    search_seeds: tuple[int, ...] = (1000,)
    search_epochs: int = 0
    criterion: str = "validation_mse"

    def __post_init__(self):
        for name, condition in self.conditions.items():
            source = condition.get("search_as", name)
            if source not in self.conditions or "search_as" in self.conditions[source]:
                raise ValueError(
                    f"condition {name!r} takes the choices of {source!r}, which is no condition that searches"
                )

    def methods_of(self, condition: str) -> tuple[str, ...]:
        """The methods that ``condition`` trains, in the plan's order."""
        named = self.conditions[condition].get("methods", self.methods)
        return tuple(name for name in self.methods if name in named)

    def run(self, condition: str, method: str, seed: int, options: dict, searching: bool = False) -> Run:
        """One run; ``options`` are those that were chosen, to which the fixed ones come."""
        content = self.conditions[condition]
        fields = {
            name: content[name]
            for name in ("data", "data_options", "network", "optimization", "recipe")
            if name in content
        }
        kept = content.get("keep") or (self.keep_first if seed == 0 else "") or self.keep
        if searching and self.search_epochs:
            fields["optimization"] = replace(fields["optimization"], epochs=self.search_epochs)
        if searching and "search_data_options" in content:
            fields["data_options"] = fields.get("data_options", {}) | content["search_data_options"]
        return Run(
            method=method,
            method_options=self._fixed(condition, method) | options,
            seed=seed,
            keep="metrics" if searching else kept,
            **fields,
        )

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

    Preset "paper" searches and trains at full scale what is not committed yet. Preset "quick" shows the committed
    full-scale results of every condition that has them all, and trains a spot check of them: seed 0 of a few methods, which
    must repeat its committed twins bit for bit on the same kind of machine. Other conditions, and preset "smoke", train the
    plan of their own.

    Arguments:
        experiment: folder of its committed results under ``results/``.
        plan: preset -> :class:`Plan`.
        preset: "smoke", "quick" or "paper".
        names: the methods that this page was asked for; all of the plan if empty.
        device, workers, cluster: see :func:`nrae_lib.runs.run_all`.
        only: the conditions to run; all of the plan if empty.

    Raises:
        ValueError: for a condition that the plan does not have, naming those it has.
        RuntimeError: for results that are asked for before :meth:`run`.

    Attributes, after :meth:`run`:
        plan, full_plan: of this preset, and of "paper".
        conditions: those with results, in the order of the page.
        options: condition -> method -> chosen options.
        searched, search_frame: results of the search that decided; of the frame, ``validation_mse`` is what decided.
        results, frame: what the page shows and judges; the frame is :func:`nrae_lib.runs.grid.frame` with a column ``condition``.
        checked: the spot check, pairs of a result of now and its committed twin.
        absent: conditions that are left out, or not checked, because their images are not on this machine.
        already_stored: how many of this preset's own results were read, not trained.
        whole: whether all conditions and all methods were asked for.
    """

    def __init__(
        self,
        experiment: str,
        plan: Callable[[str], Plan],
        preset: str,
        names: Iterable[str] = (),
        device: str = "auto",
        workers: int = 1,
        cluster: str = "",
        only: Iterable[str] = (),
    ):
        self.experiment, self.preset = experiment, preset
        self.plan, self.full_plan = plan(preset), plan("paper")
        self.store, self.full_store = Store.of(preset, experiment), Store.of("paper", experiment)
        known = {**self.full_plan.conditions, **self.plan.conditions}
        self._known, self._wanted = tuple(known), tuple(only) or tuple(known)
        for name in self._wanted:
            if name not in known:
                raise ValueError(f"unknown condition {name!r}: choose among {', '.join(known)}")
        self.names = tuple(names) or self.plan.methods
        self._how = {"device": device, "workers": workers, "cluster": cluster}
        self._condition: dict[str, str] = {}  # key of a run -> its condition

    def __getattr__(self, name: str):
        if name in (
            "conditions",
            "options",
            "searched",
            "search_frame",
            "results",
            "frame",
            "checked",
            "absent",
            "already_stored",
            "whole",
        ):
            raise RuntimeError(f"this study has no {name} yet: call its run() first, or pages.open_study")
        raise AttributeError(f"a study has no attribute {name!r}")

    def run(self) -> "Study":
        """Choose the options, train what is missing, and check."""
        full, own = _Choices(self.full_plan, self.full_store), _Choices(self.plan, self.store)
        committed = self._committed(full) if self.preset == "quick" else {}
        mine = [name for name in self.plan.conditions if name in self._wanted and name not in committed]
        self.absent = []
        if self.preset == "paper":
            here = [name for name in mine if _is_here(self.plan.conditions[name])]
            if here:  # without any images at all, the first run says best what is missing
                self.absent, mine = [name for name in mine if name not in here], here
        choices = self._search(mine, full, own)
        self.options = {
            name: {
                method: found.chosen(name, method) or {}
                for method in (self.full_plan if name in committed else self.plan).methods_of(name)
            }
            for name, found in {**dict.fromkeys(committed, full), **choices}.items()
        }
        planned = [run for name in mine for method in self._asked(self.plan, name) for run in self._runs(name, method)]
        self.already_stored = len(grid.stored(planned, self.store))
        trained = grid.run_all(planned, self.store, **self._how)
        order = [name for name in self._wanted if name in committed or name in mine]
        found = [result for results in committed.values() for result in results] + trained
        self.results = sorted(found, key=lambda result: order.index(self._condition[result.run.key]))
        if not self.results:
            raise ValueError(
                f"nothing to show: {', '.join(order) or 'no condition here'} has no {' or '.join(self.names)}"
            )
        self.conditions, self._own = order, set(mine)
        self.whole = set(self._known) == set(self._wanted) and set(self.full_plan.methods) <= set(self.names)
        self.searched = _deciding({**dict.fromkeys(committed, full), **choices})
        self._condition |= full.condition | own.condition
        self.frame, self.search_frame = self._frame(self.results), self._frame(self.searched)
        if len(self.search_frame):
            self.search_frame["validation_mse"] = self.search_frame[self.plan.criterion]
        self.checked = self._spot_check(committed)
        return self

    def _committed(self, full: "_Choices") -> dict[str, list[Result]]:
        """condition -> its full-scale results of the methods asked for, where all methods are there: whole or not at all."""
        found = {}
        for name in self.full_plan.conditions:
            if name not in self._wanted or not full.whole(name):
                continue
            runs = {
                method: self._runs(name, method, self.full_plan, full.chosen(name, method))
                for method in self.full_plan.methods_of(name)
            }
            if all(self.full_store.path(run).exists() for group in runs.values() for run in group):
                results = {method: grid.stored(group, self.full_store) for method, group in runs.items()}
                if all(len(results[method]) == len(group) for method, group in runs.items()):
                    found[name] = [one for method, group in results.items() if method in self.names for one in group]
        return found

    def _search(self, conditions: list[str], full: "_Choices", own: "_Choices") -> dict[str, "_Choices"]:
        """Where the full-scale search of a condition is stored for all its methods, its choices hold for "quick", too; other
        conditions search at this preset's own scale, all methods alike."""
        decided = {name: full if self.preset != "smoke" and full.whole(name) else own for name in conditions}
        needed = [
            self.plan.source(name, method)
            for name, choices in decided.items()
            if choices is own
            for method in self._asked(self.plan, name)
        ]
        grid.run_all(
            [run for pair in dict.fromkeys(needed) for run in self.plan.searches(*pair)], self.store, **self._how
        )
        return decided

    def _asked(self, plan: Plan, condition: str) -> list[str]:
        return [method for method in plan.methods_of(condition) if method in self.names]

    def _runs(self, condition: str, method: str, plan: Plan | None = None, options: dict | None = None) -> list[Run]:
        """The runs of one method under one condition, a run per seed."""
        plan = plan or self.plan
        options = self.options[condition][method] if options is None else options
        runs = [plan.run(condition, method, seed, options) for seed in range(plan.seeds)]
        for run in runs:
            if self._condition.setdefault(run.key, condition) != condition:
                raise ValueError(f"conditions {self._condition[run.key]!r} and {condition!r} are the same runs")
        return runs

    def _spot_check(self, committed: dict[str, list[Result]]) -> list[tuple[Result, Result]]:
        """Seed 0 of the last methods (the paper's own), those first that were trained alone, as many as the time allows."""
        twins = []
        for name, results in committed.items():
            if _is_here(self.full_plan.conditions[name]):
                twins += [result for result in reversed(results) if result.run.seed == 0]
            else:
                self.absent.append(name)
        left, chosen = SPOT_CHECK_SECONDS, []
        for twin in sorted(twins, key=lambda twin: not twin.trained_alone):
            if twin.seconds <= left:
                chosen.append(twin)
                left -= twin.seconds
        chosen = chosen or sorted(twins, key=lambda twin: twin.seconds)[:1]
        again = grid.run_all([twin.run for twin in chosen], self.store, **self._how)
        return list(zip(again, chosen, strict=True))

    # ------------------------------------------------------------------------------------------ what a page reads

    def preset_of(self, condition: str) -> str:
        """The preset whose results the page shows of ``condition``: "paper" where they are full scale."""
        return self.preset if condition in self._own else "paper"

    def plan_of(self, condition: str) -> Plan:
        """The plan that made what the page shows of ``condition``."""
        return self.plan if condition in self._own else self.full_plan

    def label(self, condition: str) -> str:
        """A condition's row in a table: its name, the scale of what is shown, and its seeds."""
        if condition not in self.conditions:
            return f"{condition}, ours"
        scale = "full scale" if self.preset_of(condition) == "paper" else f"{self.preset} run"
        return f"{condition}, {scale} ({self.plan_of(condition).seeds} seeds)"

    def condition_of(self, result: Result) -> str:
        """The condition that ``result`` belongs to."""
        return self._condition[result.run.key]

    def of(self, condition: str, method: str | None = None, seed: int | None = None) -> list[Result]:
        """Results under ``condition``, perhaps of one method or one seed."""
        return [
            result
            for result in self.results
            if self.condition_of(result) == condition
            and method in (None, result.run.method)
            and seed in (None, result.run.seed)
        ]

    @staticmethod
    def data(result: Result) -> datasets.Dataset:
        """The data that ``result`` was trained on."""
        return result.run.dataset()

    def row(self, result: Result) -> "pandas.Series":
        """The row of ``result`` in the frame."""
        return self.frame.iloc[next(i for i, other in enumerate(self.results) if other is result)]

    def right(self, condition: str, breaks: str) -> dict[str, int]:
        """method -> number of seeds without a break; ``breaks``: the column that counts them."""
        rows = self.frame[self.frame.condition == condition] if len(self.frame) else self.frame
        return {
            name: int((values == 0).sum()) for name, values in (rows.groupby("method")[breaks] if len(rows) else ())
        }

    def summary(self, condition: str, metric: str, scale: float = 1.0, frame: "pandas.DataFrame | None" = None) -> dict:
        """method -> (mean, standard deviation over seeds) of ``metric`` times ``scale``; of one seed the deviation is None.

        Arguments:
            frame: instead of the study's own, one with further metrics.
        """
        rows = self.frame if frame is None else frame
        rows = rows[rows.condition == condition] if len(rows) else rows
        groups = rows.groupby("method", sort=False)[metric] if len(rows) else ()
        return {
            name: (scale * values.mean(skipna=False), scale * values.std() if len(values) > 1 else None)
            for name, values in groups
        }

    def _frame(self, results: list[Result]) -> "pandas.DataFrame":
        frame = grid.frame(results)
        return frame.assign(condition=[self.condition_of(result) for result in results]) if len(frame) else frame

    def chosen_by_search(self, condition: str) -> dict[str, dict]:
        """method -> its searched options and their chosen values, for conditions that search themselves."""
        tried = {result.run.method for result in self.searched if self.condition_of(result) == condition}
        return {name: options for name, options in self.options[condition].items() if name in tried and options}

    def at_edge(self, condition: str) -> dict[str, list[str]]:
        """method -> chosen options that are the smallest or largest candidate, where a wider search might find better."""
        found, frame = {}, self.search_frame
        for method, options in self.chosen_by_search(condition).items():
            rows = frame[(frame.condition == condition) & (frame.method == method)]
            ends = [
                f"{methods.SYMBOLS.get(name, name)} = {value:g}" for name, value in options.items()
                if rows[name].nunique() > 1 and value in (rows[name].min(), rows[name].max())
            ]  # fmt: skip
            if ends:
                found[method] = ends
        return found

    def cut(self) -> str:
        """What this preset's own runs have less of than full scale, such as "3 of 10 seeds; epochs 16 (1,000)"; or ""."""
        if self.preset == "paper" or not self._own:
            return ""
        parts = [f"{self.plan.seeds} of {self.full_plan.seeds} seeds"]
        first, changed = next(iter(self.full_plan.conditions.values())), {}
        for name in self.conditions:
            if name in self._own:
                there = _numbers(self.full_plan.conditions.get(name, first))
                for key, value in _numbers(self.plan.conditions[name]).items():
                    if there.get(key, value) != value:
                        changed.setdefault(key, []).append((value, there[key]))
        for key, pairs in changed.items():
            here, wanted = (", ".join(dict.fromkeys(map(_text, values))) for values in zip(*pairs, strict=True))
            parts.append(f"{key} {here} (full scale: {wanted})")
        if len(self.conditions) < len(self.full_plan.conditions):
            parts.append(f"{len(self.conditions)} of {len(self.full_plan.conditions)} conditions")
        unsearched = [name for name in self._own if self.full_plan.search and not self.chosen_by_search(name)]
        if unsearched and not self.plan.search:
            parts.append("default options, no search")
        return "; ".join(parts)


def _deciding(choices: dict[str, "_Choices"]) -> list[Result]:
    """Results of the searches whose choices were taken, each once."""
    found = {}
    for name, taken in choices.items():
        sources = {taken.plan.source(name, method)[0] for method in taken.plan.methods_of(name)}
        found |= {result.run.key: result for source, result in taken.used if source in sources}
    return list(found.values())


def _numbers(content: dict[str, Any]) -> dict[str, Any]:
    """The sizes of a condition, by the words of a banner."""
    network, optimization = asdict(content["network"]), asdict(content["optimization"])
    found = {**content.get("data_options", {}), **network, **optimization}
    words = {
        "n_train": "training points", "n_test": "test points", "count": "images", "digits": "digits", "rotations": "rotations",
        "hidden": "hidden layers", "width": "share of the channels", "epochs": "epochs",
    }  # fmt: skip
    return {word: found[name] for name, word in words.items() if name in found}


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "-".join(map(str, value))
    return f"{value:,}"


def _is_here(content: dict[str, Any]) -> bool:
    """Whether the images of a condition are on this machine; true for all data that needs none."""
    if content.get("data_options", {}).get("source") != "official":
        return True
    return datasets.available(datasets.image_set(content["data"]))


class _Choices:
    """What a stored search says.

    Attributes:
        used: condition and result of every run that decided.
        condition: key of such a run -> its condition.
    """

    def __init__(self, plan: Plan, store: Store):
        self.plan, self.store, self.used, self.condition = plan, store, [], {}
        self._known: dict[tuple[str, str], dict | None] = {}

    def whole(self, condition: str) -> bool:
        """Whether the search of every method of ``condition`` is stored."""
        return condition in self.plan.conditions and all(
            self.chosen(condition, method) is not None for method in self.plan.methods_of(condition)
        )

    def chosen(self, condition: str, method: str) -> dict | None:
        """The chosen options, {} if there is nothing to choose, None if the search is not (completely) stored."""
        if condition not in self.plan.conditions or method not in self.plan.methods_of(condition):
            return None
        place = condition, method = self.plan.source(condition, method)
        if place not in self._known:
            runs = self.plan.searches(condition, method)
            found = grid.stored(runs, self.store)
            if len(found) < len(runs):
                return None  # asked again after the search
            self._known[place] = {}
            if runs:
                best = grid.choose(found, self.plan.criterion)[method]
                self._known[place] = {name: best[name] for name in self.plan.candidates(condition, method)[0]}
                self.used += [(condition, result) for result in found]
                self.condition |= {run.key: condition for run in runs}
        return self._known[place]

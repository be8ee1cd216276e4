"""An experiment of the paper: conditions x methods x seeds, with the options of every method chosen on validation data.

A page says what its experiment is (:class:`Plan`, one for each preset); a :class:`Study` searches, trains and reads what
is stored. The same budget is open to every method: the candidates of its plan, on the same held-out seeds, judged by the
error on validation points that are used for nothing else.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from nrae_lib.core import methods
from nrae_lib.data import datasets
from nrae_lib.runs import Result, Run, Store, grid

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Plan:
    """What one preset of a page trains; plain data.

    Arguments:
        conditions: name -> the fields of its runs: data, data_options, network, optimization and perhaps recipe. Also
            ``methods`` (by default all of the plan), ``options`` (method -> options of this condition that are not
            searched, over ``fixed``), ``keep`` (in place of the plan's), ``search_data_options``: what differs in the data
            of the search, and ``search_as``: the condition whose choices it takes instead of searching.
        methods: names from the catalogue, in the order of the page.
        seeds: of every condition, 0, 1, ...
        keep: what results hold, a name from ``views.VIEWS``; ``keep_first`` is for seed 0, by default the same.
        search: method -> {option: candidates}; all combinations are tried. Methods without an entry have nothing to choose.
        fixed: method -> options that are not searched, such as k where the paper states it.
        search_seeds: the held-out seeds of the search.
        search_epochs: epochs of a run of the search; 0: as many as all runs have.
        criterion: the metric that decides, the lowest mean over the held-out seeds: "validation_mse", or "test_mse" where
            the search has data of its own (``search_data_options``).
        same_choice: method -> the method whose choice it takes, where the two are one function.
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
    same_choice: dict[str, str] = field(default_factory=dict)

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
        fixed = self.fixed.get(method, {}) | content.get("options", {}).get(method, {})
        kept = content.get("keep") or (self.keep_first if seed == 0 else "") or self.keep
        keep = "metrics" if searching else kept
        if searching and self.search_epochs:
            fields["optimization"] = replace(fields["optimization"], epochs=self.search_epochs)
        if searching and "search_data_options" in content:
            fields["data_options"] = fields.get("data_options", {}) | content["search_data_options"]
        return Run(method=method, method_options=fixed | options, seed=seed, keep=keep, **fields)

    def candidates(self, method: str) -> list[dict[str, Any]]:
        """All combinations of the options that are searched for ``method``; empty if there are none."""
        options = self.search.get(method, {})
        return [dict(zip(options, values, strict=True)) for values in product(*options.values())] if options else []

    def searches(self, condition: str, method: str) -> list[Run]:
        """The runs of the search for ``method`` under ``condition``; empty if there is nothing to choose, or it is chosen elsewhere."""
        if "search_as" in self.conditions[condition] or method in self.same_choice:
            return []
        return [
            self.run(condition, method, seed, candidate, searching=True)
            for candidate in self.candidates(method)
            for seed in self.search_seeds
        ]  # fmt: skip


class Study:
    """A page's experiment under one preset, beside the committed full-scale one.

    Arguments:
        experiment: folder of its committed results under ``results/``.
        plan: preset -> :class:`Plan`.
        preset: "smoke", "quick" or "paper".
        names: the methods that this page was asked for; all of the plan if empty.
        device, workers, cluster: see :func:`nrae_lib.runs.grid.run_all`.
        only: the conditions to run; all of the plan if empty.

    Raises:
        ValueError: for a condition that the plan does not have, naming those it has.

    Attributes:
        plan, full_plan: of this preset, and of "paper".
        options: condition -> method -> options chosen for this preset, after :meth:`search`.
        searched: results of the search that decided, after :meth:`search`.
        results, frame: of this preset, after :meth:`train`; the frame is :func:`nrae_lib.runs.grid.frame` whose column
            ``recipe`` holds the condition.
        full, full_frame: the committed full-scale results, as far as all seeds of a method are there.
        absent: conditions of preset "paper" that are left out because their images are not on this machine.
        already_stored: how many of ``results`` were read, not trained.
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
        conditions, only = self.plan.conditions, tuple(only)
        for name in only:
            if name not in conditions:
                raise ValueError(f"unknown condition {name!r}: choose among {', '.join(conditions)}")
        wanted = {name: content for name, content in conditions.items() if not only or name in only}
        here = {name: content for name, content in wanted.items() if preset != "paper" or _is_here(content)}
        self.absent = [name for name in wanted if name not in here]
        # Without any images at all, the first run says best what is missing.
        self.plan = replace(self.plan, conditions=here or wanted)
        self.store, self.full_store = Store.of(preset, experiment), Store.of("paper", experiment)
        self.names = tuple(names) or self.plan.methods
        self._how = {"device": device, "workers": workers, "cluster": cluster}
        self.options: dict[str, dict[str, dict]] = {}
        self.searched: list[Result] = []
        self.results: list[Result] = []
        self.full: list[Result] = []
        self._condition: dict[str, str] = {}  # key of a run -> its condition
        self._complete: set[str] = set()  # conditions whose full-scale results are all there

    def search(self) -> None:
        """Choose every method's options.

        Where the full-scale search of a condition is stored for all its methods, its choices hold for every preset; other
        conditions search at this preset's own scale, all methods alike.
        """
        needed = {*self.names, *(self.plan.same_choice.get(name, name) for name in self.names)}
        full = _Choices(self.full_plan, self.full_store)
        own = {}
        for condition in self.plan.conditions:
            for method in self.plan.methods_of(condition):
                if method in needed and not full.whole(condition):
                    for run in self.plan.searches(condition, method):
                        own[run.key] = run
        grid.run_all(own.values(), self.store, **self._how)
        mine = _Choices(self.plan, self.store)
        for condition in self.plan.conditions:
            self.options[condition] = {}
            for method in self.plan.methods_of(condition):
                choices = full if full.whole(condition) else mine
                self.options[condition][method] = choices.chosen(condition, method) or {}
        used = [
            result
            for choices in (full, mine)
            for result in choices.used
            if full.whole(choices.condition[result.run.key]) == (choices is full)
        ]
        self.searched = list({result.run.key: result for result in used}.values())
        self._condition |= full.condition | mine.condition
        self._full_choices = full

    def train(self) -> None:
        """Train what is not stored, and read the committed full-scale results."""
        planned = [
            run
            for condition in self.plan.conditions
            for method in self.plan.methods_of(condition)
            if method in self.names
            for run in self._runs(self.plan, condition, method, self.options[condition][method])
        ]
        self.already_stored = len(grid.stored(planned, self.store))
        self.results = grid.run_all(planned, self.store, **self._how)
        self.full, self._complete = [], set(self.full_plan.conditions)
        for condition in self.full_plan.conditions:
            for method in self.full_plan.methods_of(condition):
                options = self._full_choices.chosen(condition, method)
                runs = [] if options is None else self._runs(self.full_plan, condition, method, options)
                found = grid.stored(runs, self.full_store)
                if runs and len(found) == len(runs):
                    self.full += found
                else:
                    self._complete.discard(condition)
        self.frame, self.full_frame = self._frame(self.results), self._frame(self.full)

    def _runs(self, plan: Plan, condition: str, method: str, options: dict) -> list[Run]:
        """The runs of one method under one condition, a run per seed."""
        runs = [plan.run(condition, method, seed, options) for seed in range(plan.seeds)]
        for run in runs:
            if self._condition.setdefault(run.key, condition) != condition:
                raise ValueError(f"conditions {self._condition[run.key]!r} and {condition!r} are the same runs")
        return runs

    def condition_of(self, result: Result) -> str:
        """The condition that ``result`` belongs to."""
        return self._condition[result.run.key]

    def of(self, condition: str, method: str | None = None, shown: bool = False) -> list[Result]:
        """Results of this preset (``shown``: those that the page's verdicts use) under ``condition``, perhaps of one method."""
        return [
            result for result in (self.shown if shown else self.results)
            if self.condition_of(result) == condition and method in (None, result.run.method)
        ]  # fmt: skip

    def _frame(self, results: list[Result]) -> "pandas.DataFrame":
        frame = grid.frame(results)
        if len(frame):
            frame["recipe"] = [self.condition_of(result) for result in results]
        return frame

    def preset_of(self, condition: str) -> str:
        """The preset whose results :attr:`shown` has: "paper" if every method of the condition is there at full scale."""
        return "paper" if condition in self._complete else self.preset

    @property
    def shown(self) -> list[Result]:
        """For each condition the full-scale results if all are there, else this preset's: never a part of one for the other."""
        own = [result for result in self.results if self.condition_of(result) not in self._complete]
        return [result for result in self.full if self.condition_of(result) in self._complete] + own

    @property
    def shown_frame(self) -> "pandas.DataFrame":
        """The frame of :attr:`shown`."""
        return self._frame(self.shown)

    @property
    def shown_preset(self) -> str:
        """ "paper" if all of :attr:`shown` is full scale, else this preset."""
        presets = {self.preset_of(self.condition_of(result)) for result in self.shown}
        return "paper" if presets == {"paper"} else self.preset

    @property
    def search_frame(self) -> "pandas.DataFrame":
        """One row per run of the search, column ``recipe`` holding the condition, ``validation_mse`` what decided."""
        frame = self._frame(self.searched)
        return frame.assign(validation_mse=frame[self.plan.criterion]) if len(frame) else frame

    def chosen_by_search(self, condition: str) -> dict[str, dict]:
        """method -> its searched options and their chosen values, for conditions that search themselves."""
        tried = {result.run.method for result in self.searched if self.condition_of(result) == condition}
        return {name: options for name, options in self.options[condition].items() if name in tried and options}

    def at_edge(self, condition: str) -> dict[str, list[str]]:
        """method -> chosen options that are the smallest or largest candidate, where a wider search might find better."""
        found, frame = {}, self.search_frame
        for method, options in self.chosen_by_search(condition).items():
            rows = frame[(frame.recipe == condition) & (frame.method == method)]
            ends = [
                f"{methods.SYMBOLS.get(name, name)} = {value:g}" for name, value in options.items()
                if rows[name].nunique() > 1 and value in (rows[name].min(), rows[name].max())
            ]  # fmt: skip
            if ends:
                found[method] = ends
        return found


def _is_here(content: dict[str, Any]) -> bool:
    """Whether the images of a condition are on this machine; true for all data that needs none."""
    if content.get("data_options", {}).get("source") != "official":
        return True
    name = content["data"]
    return datasets.available(name if name in datasets.IMAGE_SETS else "mnist")  # the turning digits are MNIST's


class _Choices:
    """What a stored search says."""

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
        condition = self.plan.conditions[condition].get("search_as", condition)
        method = self.plan.same_choice.get(method, method)
        if (condition, method) not in self._known:
            runs = self.plan.searches(condition, method)
            found = grid.stored(runs, self.store)
            if len(found) < len(runs):
                self._known[condition, method] = None
            elif not runs:
                self._known[condition, method] = {}
            else:
                best = grid.choose(found, self.plan.criterion)[method]
                searched = self.plan.search[method]
                self._known[condition, method] = {name: best[name] for name in searched}
                self.used += found
                self.condition |= {run.key: condition for run in runs}
        return self._known[condition, method]

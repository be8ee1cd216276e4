"""An experiment of the paper: conditions x methods x seeds, with the options of every method chosen on validation data.

The same budget is open to every method: the candidates of its plan, on the same held-out seeds, judged by the error on
validation points that are used for nothing else.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
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
_CONDITION_FIELDS = (*_RUN_FIELDS, "methods", "options", "keep", "search_data_options", "search_as", "same_choice")


def _listed(what: str, names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ValueError(f"{what} must be a list of names such as {names.split(',')}, not the text {names!r}")
    return tuple(names)


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
        search_seeds: the held-out seeds of the search, none of ``seeds`` unless its data differ (``search_data_options``).
        search_epochs: epochs of a run of the search; 0: as many as all runs have.
        criterion: the metric that decides, the lowest mean over the held-out seeds: "validation_mse", or "test_mse" where
            the search has data of its own (``search_data_options``, or held-out draws).

    Raises:
        ValueError: for an unknown field of a condition, choices that are none's or made on reported seeds, names in one text.
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
        _listed("the methods", self.methods)
        reported = sorted({*self.search_seeds} & {*range(self.seeds)})
        for name, content in self.conditions.items():
            _listed(f"the methods of condition {name!r}", content.get("methods", ()))
            if unknown := sorted(content.keys() - set(_CONDITION_FIELDS)):
                valid = ", ".join(_CONDITION_FIELDS)
                raise ValueError(f"condition {name!r} has an unknown field {unknown[0]!r}: choose among {valid}")
            source = content.get("search_as", name)
            if source not in self.conditions or "search_as" in self.conditions[source]:
                raise ValueError(
                    f"condition {name!r} takes the choices of {source!r}, which is no condition that searches"
                )
        for name in self.conditions if reported else ():
            sources = [self.source(name, method) for method in self.methods_of(name)]
            used = [source for source, method in sources if self.searches(source, method)]
            if any(not self.conditions[source].get("search_data_options") for source in used):
                raise ValueError(
                    f"choices must be made on held-out seeds: the search of condition {name!r} has the seeds {reported}, "
                    f"which are among the {self.seeds} that are reported"
                )

    def methods_of(self, condition: str) -> tuple[str, ...]:
        """The methods that ``condition`` trains, in the plan's order."""
        named = self.conditions[condition].get("methods", self.methods)
        return tuple(name for name in self.methods if name in named)

    def run(self, condition: str, method: str, seed: int, options: dict, searching: bool = False) -> Run:
        """One run; ``options`` are those that were chosen, to which the fixed ones come."""
        content = self.conditions[condition]
        fields = {name: content[name] for name in _RUN_FIELDS if name in content}
        keep = content.get("keep") or (self.keep_first if seed == 0 else "") or self.keep
        if searching:
            keep = "metrics"
            fields["data_options"] = fields.get("data_options", {}) | content.get("search_data_options", {})
            if self.search_epochs:
                fields["optimization"] = replace(fields["optimization"], epochs=self.search_epochs)
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

    Preset "paper" searches and trains at full scale what is not committed yet. Preset "quick" shows the committed
    full-scale results of every condition that has them all, and trains a spot check of them: seed 0 of a few methods, which
    must repeat its committed twins bit for bit on the same kind of machine. Other conditions, and preset "smoke", train the
    plan of their own.

    Arguments:
        experiment: folder of its committed results under ``results/``.
        plan: preset -> :class:`Plan`. The study's ``plan`` is that of its preset, ``full_plan`` that of "paper".
        preset: "smoke", "quick" or "paper".
        names: the methods that this page was asked for; all of the plan if empty.
        only: the conditions to run; all of the plan if empty.
        how: device, workers and cluster, see :func:`nrae_lib.runs.run_all`.

    Raises:
        ValueError: for a condition that the plan does not have, naming those it has; for names in one text.
        RuntimeError: for results that are asked for before :meth:`run`.
    """

    # After `run`:
    conditions: list[str]  #: those with results, in the order of the page
    options: dict[str, dict[str, dict]]  #: condition -> method -> chosen options
    searched: list[Result]  #: of the search that decided
    search_frame: "pandas.DataFrame"  #: of ``searched``; its ``validation_mse`` is what decided
    results: list[Result]  #: what the page shows and judges
    frame: "pandas.DataFrame"  #: :func:`nrae_lib.runs.grid.frame` of the results with a column ``condition``
    checked: list[tuple[Result, Result]]  #: the spot check, pairs of a result of now and its committed twin
    absent: list[str]  #: conditions that are left out, or not checked, because their images are not on this machine
    already_stored: int  #: how many of this preset's own results were there, and not trained

    def __init__(
        self, experiment: str, plan: Callable, preset: str, names: Iterable[str] = (), only: Iterable[str] = (), **how
    ):
        self.preset, self.plan, self.full_plan, self._how = preset, plan(preset), plan("paper"), how
        self.store, self.full_store = Store.of(preset, experiment), Store.of("paper", experiment)
        self._known = tuple({**self.full_plan.conditions, **self.plan.conditions})
        self._wanted = _listed("only", only) or self._known
        for name in self._wanted:
            if name not in self._known:
                raise ValueError(f"unknown condition {name!r}: choose among {', '.join(self._known)}")
        self.names = _listed("the methods", names) or self.plan.methods
        self._condition: dict[str, str] = {}  # key of a run -> its condition

    def __getattr__(self, name: str):
        if name in Study.__annotations__:
            raise RuntimeError(f"this study has no {name} yet: call its run() first, or pages.open_study")
        raise AttributeError(f"a study has no attribute {name!r}")

    @property
    def whole(self) -> bool:
        """Whether all conditions and all methods were asked for."""
        return set(self._known) == set(self._wanted) and set(self.full_plan.methods) <= set(self.names)

    def run(self) -> "Study":
        """Choose the options, train what is missing, and check."""
        full, own = _Search(self.full_plan, self.full_store), _Search(self.plan, self.store)
        committed = self._committed(full) if self.preset == "quick" else {}
        mine = [name for name in self.plan.conditions if name in self._wanted and name not in committed]
        # Without any images at all, the first run says best what is missing.
        here = [name for name in mine if self.preset != "paper" or _is_here(self.plan.conditions[name])] or mine
        self.absent, mine = [name for name in mine if name not in here], here
        deciding = dict.fromkeys(committed, full) | self._search(mine, full, own)
        self.conditions, self._own = [name for name in self._wanted if name in deciding], set(mine)
        self.options = {
            name: {method: search.chosen(name, method) for method in self.plan_of(name).methods_of(name)}
            for name, search in deciding.items()
        }
        planned = []
        for name in mine:
            for method, options in self.options[name].items():
                if method in self.names:
                    planned += self._runs(self.plan, name, method, options)
        self.already_stored = sum(self.store.path(run).exists() for run in planned)
        found = [*chain(*committed.values()), *grid.run_all(planned, self.store, **self._how)]
        self.results = sorted(found, key=lambda result: self.conditions.index(self.condition_of(result)))
        if not self.results:
            where = ", ".join(self.conditions) or "no condition here"
            raise ValueError(f"nothing to show: {where} has no {' or '.join(self.names)}")
        searched = {}
        for name, search in deciding.items():
            for method in search.plan.methods_of(name):
                results = search.results(name, method) or []
                self._of_condition(search.plan.source(name, method)[0], [result.run for result in results])
                searched |= {result.run.key: result for result in results}
        self.searched = list(searched.values())
        self.frame, self.search_frame = self._frame(self.results), self._frame(self.searched)
        if len(self.search_frame):
            self.search_frame["validation_mse"] = self.search_frame[self.plan.criterion]
        self.checked = self._spot_check(committed)
        return self

    def _committed(self, full: "_Search") -> dict[str, list[Result]]:
        """condition -> its full-scale results of the methods asked for, where all methods are there: whole or not at all."""
        found = {}
        for name in self.full_plan.conditions:
            if name in self._wanted and full.whole(name):
                runs = []
                for method in self.full_plan.methods_of(name):
                    runs += self._runs(self.full_plan, name, method, full.chosen(name, method))
                results = grid.stored(runs, self.full_store)
                if len(results) == len(runs):
                    found[name] = [result for result in results if result.run.method in self.names]
        return found

    def _search(self, conditions: list[str], full: "_Search", own: "_Search") -> dict[str, "_Search"]:
        """Where the full-scale search of a condition is stored for all its methods, its choices hold for "quick", too; other
        conditions search at this preset's own scale, all methods alike."""
        deciding, runs = {}, []
        for name in conditions:
            deciding[name] = full if self.preset != "smoke" and full.whole(name) else own
            for method in self.plan.methods_of(name):
                if deciding[name] is own and method in self.names:
                    source, its_method = self.plan.source(name, method)
                    runs += self._of_condition(source, self.plan.searches(source, its_method))
        grid.run_all(runs, self.store, **self._how)
        return deciding

    def _runs(self, plan: Plan, condition: str, method: str, options: dict) -> list[Run]:
        return self._of_condition(condition, [plan.run(condition, method, seed, options) for seed in range(plan.seeds)])

    def _of_condition(self, condition: str, runs: list[Run]) -> list[Run]:
        """``runs``, from now on known as those of ``condition``."""
        for run in runs:
            other = self._condition.setdefault(run.key, condition)
            if other != condition:
                raise ValueError(
                    f"conditions {other!r} and {condition!r} are the same runs, or search by them: let one search_as another"
                )
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
        chosen = chosen or sorted(twins, key=lambda twin: (not twin.trained_alone, twin.seconds))[:1]
        again = grid.run_all([twin.run for twin in chosen], self.store, **self._how)
        return list(zip(again, chosen, strict=True))

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
        found = [result for result in self.results if self.condition_of(result) == condition]
        return [one for one in found if method in (None, one.run.method) and seed in (None, one.run.seed)]

    def row(self, result: Result) -> "pandas.Series":
        """The row of ``result`` in the frame."""
        return self.frame.iloc[next(i for i, other in enumerate(self.results) if other is result)]

    def right(self, condition: str, breaks: str) -> dict[str, int]:
        """method -> number of seeds without a break; ``breaks``: the column that counts them."""
        rows = self.frame[self.frame.condition == condition]
        return (rows[breaks] == 0).groupby(rows.method).sum().to_dict()

    def summary(self, condition: str, metric: str, scale: float = 1.0, frame: "pandas.DataFrame | None" = None) -> dict:
        """method -> (mean, standard deviation over seeds) of ``metric`` times ``scale``; of one seed the deviation is None.

        A ``frame`` with further metrics takes the place of the study's own.
        """
        rows = self.frame if frame is None else frame
        groups = rows[rows.condition == condition].groupby("method", sort=False)[metric]
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
            for name, value in options.items():
                if rows[name].nunique() > 1 and value in (rows[name].min(), rows[name].max()):
                    found.setdefault(method, []).append(f"{methods.SYMBOLS.get(name, name)} = {value:g}")
        return found

    def cut(self) -> str:
        """What this preset's own runs have less of than full scale, such as "3 of 10 seeds; epochs 16 (1,000)"; or ""."""
        if self.preset == "paper" or not self._own:
            return ""
        parts = [f"{self.plan.seeds} of {self.full_plan.seeds} seeds"]
        first, changed = next(iter(self.full_plan.conditions.values())), {}
        for name in (name for name in self.conditions if name in self._own):
            there = _numbers(self.full_plan.conditions.get(name, first))
            for key, value in _numbers(self.plan.conditions[name]).items():
                if there.get(key, value) != value:
                    changed.setdefault(key, []).append((value, there[key]))
        for key, pairs in changed.items():
            here, wanted = (", ".join(dict.fromkeys(values)) for values in zip(*pairs, strict=True))
            parts.append(f"{key} {here} (full scale: {wanted})")
        if len(self.conditions) < len(self.full_plan.conditions):
            parts.append(f"{len(self.conditions)} of {len(self.full_plan.conditions)} conditions")
        if self.full_plan.search and not self.plan.search and not all(map(self.chosen_by_search, self._own)):
            parts.append("default options, no search")
        return "; ".join(parts)


def _numbers(content: dict[str, Any]) -> dict[str, str]:
    """The sizes of a condition as a banner writes them, by its words."""
    network, optimization = asdict(content["network"]), asdict(content["optimization"])
    found = {**content.get("data_options", {}), **network, **optimization}
    words = {
        "n_train": "training points", "n_test": "test points", "count": "images", "digits": "digits", "rotations": "rotations",
        "hidden": "hidden layers", "width": "share of the channels", "epochs": "epochs",
    }  # fmt: skip

    def text(value: Any) -> str:
        if isinstance(value, (list, tuple)):
            return "-".join(map(str, value))
        return f"{value:,}" if isinstance(value, (int, float)) else str(value)

    return {word: text(found[name]) for name, word in words.items() if name in found}


def _is_here(content: dict[str, Any]) -> bool:
    """Whether the images of a condition are on this machine; true for all data that needs none."""
    needed = content.get("data_options", {}).get("source") == "official"
    return not needed or datasets.available(datasets.image_set(content["data"]))


class _Search:
    """What the search of a plan says, as far as it is stored."""

    def __init__(self, plan: Plan, store: Store):
        self.plan, self.store = plan, store
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
            runs = self.plan.searches(*place)
            found = grid.stored(runs, self.store)
            if len(found) < len(runs):
                return None  # asked again after the search
            self._known[place] = found
        return self._known[place]

    def chosen(self, condition: str, method: str) -> dict:
        """The chosen options, {} where :meth:`results` has none."""
        results = self.results(condition, method)
        if not results:
            return {}
        condition, method = self.plan.source(condition, method)
        best = grid.choose(results, self.plan.criterion)[method]
        return {name: best[name] for name in self.plan.candidates(condition, method)[0]}

"""Plans and studies: the same budget for every method, choices by validation, full-scale results beside."""

from dataclasses import replace

import pytest

from nrae_lib import pages, paper, runs
from nrae_lib.core.models import Network
from nrae_lib.core.training import Optimization
from nrae_lib.paper import Claim
from nrae_lib.runs import Plan, Store, Study, grid
from tests.runs.small import small_result

NETWORK = Network(hidden=(8,), latent_dim=1)
DATA = dict(n_train=12, n_test=20, noise=0.1)


def condition(**changes):
    return dict(data="sine", data_options=DATA, network=NETWORK, optimization=Optimization(3, 12)) | changes


WIDE = condition(network=Network(hidden=(16,), latent_dim=1), search_as="thin")


def plan_of(preset, **changes):
    fields = dict(
        conditions={"thin": condition(), "wide": WIDE},
        methods=("ae", "dae", "nrae_l"),
        seeds=3 if preset == "paper" else 2,
        search={"dae": {"corruption": (0.01, 0.5)}, "nrae_l": {"neighbor_weight": (0.1, 1.0), "n_neighbors": (2, 4)}},
        criterion="test_mse",
    )
    return Plan(**fields | changes)


@pytest.fixture
def stores(tmp_path, monkeypatch):
    """Both stores of an experiment, away from the checkout."""
    folders = dict(paper=tmp_path / "full", reduced=tmp_path / "full", quick=tmp_path / "scratch")
    monkeypatch.setattr(Store, "of", staticmethod(lambda preset, experiment: Store(folders[preset])))
    return {preset: Store(folder) for preset, folder in folders.items()}


def studied(plan, preset="quick", names=(), **how):
    return Study("toy", plan, preset, names, **how).run()


def test_the_choice_is_the_candidate_with_the_lowest_error_and_holds_for_conditions_that_take_it(stores):
    study = studied(plan_of)
    for method in ("dae", "nrae_l"):
        tried = [stores["quick"].get(run) for run in study.plan.searches("thin", method)]
        best = min(tried, key=lambda result: result.metrics["test_mse"]).run.method_options
        assert study.options["thin"][method] == study.options["wide"][method] == best
    assert study.options["thin"]["ae"] == {}
    assert {result.run.seed for result in study.searched} == {1000} and len(study.searched) == 2 + 4
    assert set(study.frame.condition) == {"thin", "wide"} and len(study.frame) == 2 * 3 * 2
    assert (study.search_frame.validation_mse == study.search_frame.test_mse).all()
    assert study.preset_of("thin") == "quick" and study.checked == []


def test_quick_shows_what_is_committed_whole_or_not_at_all_and_repeats_a_part_of_it(stores):
    full = studied(plan_of, "paper")
    assert full.preset_of("thin") == "paper" and full.cut("paper") == "" and full.checked == []
    study = studied(plan_of)
    assert study.options == full.options and len(study.results) == 2 * 3 * 3
    assert [result.run.key for result in study.results] == [result.run.key for result in full.results]
    assert study.preset_of("thin") == "paper"
    assert (study.label("thin"), study.label("other")) == ("thin, full scale (3 seeds)", "other, ours")
    again = {result.run.key for result, _ in study.checked}
    assert again == {path.stem for path in stores["quick"].folder.glob("*.npz")}  # nothing else was trained
    assert all(now.metrics == then.metrics and now is not then for now, then in study.checked)
    assert {then.run.seed for _, then in study.checked} == {0}
    text = pages.spot_check_text(study.checked)
    assert text == "Spot check: 6 of them were trained again now, 6 bit for bit the same."

    stores["paper"].path(full.of("thin", "dae")[0].run).unlink()
    study = studied(plan_of)  # cut runs beside committed ones would pass for them
    assert (study.conditions, study.waiting, study.preset_of("wide")) == (["wide"], {"thin": "paper"}, "paper")
    study = studied(plan_of, only=["thin"])
    assert study.options["thin"] == full.options["thin"]  # the full-scale search decides all the same
    assert set(study.frame.seed) == {0, 1} and set(study.frame.method) == {"ae", "dae", "nrae_l"}
    assert study.label("thin") == "thin, quick run (2 seeds)" and not study.waiting

    stores["paper"].path(full.plan.searches("thin", "nrae_l")[0]).unlink()
    study = studied(plan_of, only=["thin"])  # a full search of some methods decides for none
    own = {run.key for run in study.plan.searches("thin", "dae")}
    assert own <= {path.stem for path in stores["quick"].folder.glob("*.npz")}
    assert {result.run.key for result in study.searched} >= own


def test_the_spot_check_takes_what_the_time_allows(stores, monkeypatch):
    for result in studied(plan_of, "paper").results:
        result.seconds = 7.0
        stores["paper"].put(result)
    assert [then.run.method for _, then in studied(plan_of).checked] == ["nrae_l"]
    monkeypatch.setattr("nrae_lib.runs.study.SPOT_CHECK_SECONDS", 5.0)
    assert studied(plan_of).checked == []


def test_the_largest_scale_that_is_whole_is_shown_and_reduced_is_full_scale_where_that_is_in_reach(stores):
    def plan(preset):
        return plan_of(preset, seeds={"paper": 3, "reduced": 2}.get(preset, 1))

    studied(plan, "reduced", scales=("paper", "reduced"))
    study = studied(plan, scales=("paper", "reduced"))
    assert study.preset_of("thin") == "reduced" and study.label("thin") == "thin, reduced (2 seeds)"
    assert study.cut("reduced") == "2 of 3 seeds"
    studied(plan, "paper", scales=("paper", "reduced"), only=["thin"])
    study = studied(plan, scales=("paper", "reduced"))
    assert (study.preset_of("thin"), study.preset_of("wide")) == ("paper", "reduced")
    assert len(study.of("thin", "ae")) == 3 and len(study.of("wide", "ae")) == 2
    assert studied(plan, "reduced").preset_of("wide") == "paper"  # no scales: full scale


def test_what_remains_begins_with_the_search_and_then_goes_seed_by_seed(stores):
    study = Study("toy", plan_of, "paper")
    ready, later = study.remaining("wide")  # which takes the choices of another condition
    assert [run.seed for run in ready] == [1000] * 6 + [0, 1, 2] and {run.method for run in ready[6:]} == {"ae"}
    assert [run.method for run in later] == ["dae"] * 3 + ["nrae_l"] * 3
    grid.run_all(ready, stores["paper"], progress=False)
    ready, later = study.remaining("wide")
    assert [run.seed for run in ready] == [0, 0, 1, 1, 2, 2] and later == []
    grid.run_all(ready, stores["paper"], progress=False)
    assert study.remaining("wide") == ([], []) and len(study.remaining("thin")[0]) == 9


def test_two_ways_to_choose_from_one_search_may_agree_on_a_run(stores):
    conditions = {
        "thin": condition(),
        "again": condition(search_as="thin"),
        "worst": condition(search_as="thin", criterion=lambda metrics: (0.0, -metrics["test_mse"])),
    }
    study = studied(lambda preset: plan_of(preset, conditions=conditions))
    assert study.options["again"] == study.options["thin"] and len(study.searched) == 6
    for method in ("dae", "nrae_l"):
        tried = [stores["quick"].get(run) for run in study.plan.searches("thin", method)]
        worst = max(tried, key=lambda result: result.metrics["test_mse"]).run.method_options
        assert study.options["worst"][method] == worst != study.options["thin"][method]
    assert set(study.frame.condition) == set(conditions) and len(study.frame) == 3 * 3 * 2
    assert {study.condition_of(one) for one in study.results if one.run.method == "dae"} == set(conditions)


def test_a_twin_that_is_not_repeated_stops_the_page_unless_it_is_of_another_kind():
    now, then = small_result(error=0.4), small_result(error=0.5)
    with pytest.raises(RuntimeError, match=r"spot check failed.* differ from the committed ones: sine paper nrae_l"):
        pages.spot_check_text([(now, then)])
    for other in (dict(device="another"), dict(threads="64"), dict(torch="0.1")):
        text = pages.spot_check_text([(now, replace(then, provenance=then.provenance | other))])
        assert "1 (of another kind of machine) with test errors that differ by up to 20.0%" in text
    then.metrics = now.metrics | {"order_breaks": 1.0}  # any number counts
    with pytest.raises(RuntimeError, match=r"spot check failed"):
        pages.spot_check_text([(now, then)])


def test_one_method_trains_alone_and_a_method_can_take_anothers_choice(stores):
    same = {"thin": condition(same_choice={"nrae_q": "nrae_l"})}
    study = studied(lambda preset: plan_of(preset, methods=("nrae_l", "nrae_q"), conditions=same), names=["nrae_q"])
    assert {result.run.method for result in study.results} == {"nrae_q"}
    assert {result.run.method for result in study.searched} == {"nrae_l"}
    assert study.options["thin"]["nrae_q"] == study.options["thin"]["nrae_l"] != {}


def test_fixed_options_reach_every_run_and_are_not_searched_and_a_conditions_own_come_first():
    plan = plan_of(
        "quick",
        fixed={"nrae_l": {"n_neighbors": 3, "neighbor_weight": 9.0}},
        conditions={"one": condition(options={"nrae_l": {"n_neighbors": 5}}, search_data_options={"noise": 0.3})},
    )
    given = plan.run("one", "nrae_l", 0, {"neighbor_weight": 0.5}).method_options
    assert given == {"n_neighbors": 5, "neighbor_weight": 0.5}
    assert plan.searches("one", "nrae_l") == [] and len(plan.searches("one", "dae")) == 2
    half = replace(plan, fixed={})
    assert {run.method_options["n_neighbors"] for run in half.searches("one", "nrae_l")} == {5}
    assert plan.run("one", "dae", 0, {}).method_options == {}
    assert plan.searches("one", "dae")[0].data_options == DATA | {"noise": 0.3}
    assert plan.run("one", "dae", 0, {}).data_options == DATA


def test_the_first_seed_and_a_condition_may_keep_what_they_want_and_the_search_may_be_shorter_or_on_other_data():
    conditions = plan_of("quick").conditions | {"kept": condition(keep="neighborhood")}
    plan = plan_of("quick", keep_first="animation", keep="figure", search_share=0.3, conditions=conditions)
    assert [plan.run("thin", "ae", seed, {}).keep for seed in (0, 1)] == ["animation", "figure"]
    assert [plan.run("kept", "ae", seed, {}).keep for seed in (0, 1)] == ["neighborhood", "neighborhood"]
    for name in ("thin", "kept"):
        assert {(run.keep, run.optimization.epochs) for run in plan.searches(name, "dae")} == {("metrics", 1)}
    plan_of("quick", search_seeds=(0,), conditions={"a": condition(search_data_options={"noise": 0.3})})
    plan_of("quick", search_seeds=(0,), search={})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"conditions": {"wide": condition(search_as="narrow")}}, "'narrow', which is no condition that searches"),
        (
            {"conditions": {"a": condition(optimisation=1)}},
            "unknown field 'optimisation': choose among .* optimization,",
        ),
        ({"methods": "ae,dae"}, r"the methods must be a list of names such as \['ae', 'dae'\], not the text 'ae,dae'"),
        ({"conditions": {"a": condition(methods="ae")}}, "the methods of condition 'a' must be a list of names"),
        ({"search_seeds": (1, 5)}, r"choices must be made on held-out seeds: .* condition 'thin' has the seeds \[1\]"),
        ({"search_seeds": (0,), "criterion": "validation_mse"}, "choices must be made on held-out seeds"),
        # The search of a method or a condition that is itself not shown.
        (
            {"search_seeds": (0,), "conditions": {"a": condition(same_choice={"ae": "dae"}, methods=("ae",))}},
            "choices must be made on held-out seeds",
        ),
    ],
)
def test_a_plan_that_cannot_be_is_one_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        plan_of("quick", **changes)


def test_what_cannot_be_is_said(stores):
    study = Study("toy", plan_of, "quick")
    for name in ("results", "frame", "options", "searched", "checked", "conditions"):
        with pytest.raises(RuntimeError, match=f"this study has no {name} yet: call its run\\(\\) first"):
            getattr(study, name)
    with pytest.raises(TypeError, match="close_study takes what open_study returned, not dict"):
        pages.close_study({}, "toy_page")
    with pytest.raises(ValueError, match="unknown condition 'narrow': choose among thin, wide"):
        studied(plan_of, only=["narrow"])
    for given in ({"only": "thin,wide"}, {"names": "ae,dae"}):
        with pytest.raises(ValueError, match=r"must be a list of names such as \['\w+', '\w+'\], not the text"):
            studied(plan_of, **given)


def test_what_a_page_reads_of_its_results_and_which_choices_lie_at_the_end_of_the_candidates(stores):
    study = studied(plan_of)
    assert study.at_edge("thin")["dae"] == [f"σ = {study.options['thin']['dae']['corruption']:g}"]
    assert len(study.at_edge("thin")["nrae_l"]) == 2  # two candidates: both are ends
    assert study.at_edge("wide") == {}
    rows = study.frame[(study.frame.condition == "wide") & (study.frame.method == "dae")]
    mean, deviation = study.summary("wide", "test_mse", 100)["dae"]
    assert mean == pytest.approx(100 * rows.test_mse.mean()) and deviation == pytest.approx(100 * rows.test_mse.std())
    broken = study.frame.assign(order_breaks=0).astype({"test_mse": float})
    broken.loc[rows.index[0], ["order_breaks", "test_mse"]] = 3, float("nan")
    assert study.summary("wide", "test_mse", frame=broken)["dae"][0] != study.summary("wide", "test_mse")["dae"][0]
    study.frame = broken
    assert study.right("wide", "order_breaks") == {"ae": 2, "dae": 1, "nrae_l": 2}
    assert study.right("other", "order_breaks") == {}
    (one,) = study.of("wide", "dae", seed=1)
    assert study.row(one).seed == 1 and study.row(one).method == "dae" and study.condition_of(one) == "wide"
    assert one.run.dataset().fingerprint == one.provenance["fingerprint"]


def test_two_calls_show_all_that_surrounds_an_experiment_and_store_verdicts_at_full_scale(
    stores, tmp_path, monkeypatch
):
    claim = Claim(
        "toy_page", "1", "toy", "NRAE-L beats AE.", paper.rules.lower("test_mse", ("nrae_l",), ("ae",)), fewest=2
    )
    folder, said = tmp_path / "results" / "verdicts", []
    monkeypatch.setattr(paper, "CLAIMS", (claim,))
    monkeypatch.setattr(runs, "project_root", lambda: tmp_path)
    monkeypatch.setattr("IPython.display.display", lambda item, **_: said.append(str(getattr(item, "data", item))))

    def show(preset, method="all"):
        said.clear()
        given = dict(preset=preset, method=method, device="cpu", workers=1, cluster="")
        pages.close_study(pages.open_study(given, "toy", plan_of), "toy_page", table={"row": {"ae": 1.0}})
        return "".join(said)

    text = show("quick")
    for part in (
        "Options of each method", "Validation error for each candidate", "Preset quick. Cut here: 2 of 3 seeds.",
        'class="nrae-verdict"', "NRAE-L beats AE.", "toy_page_table.csv", "toy_page_runs.csv", "toy_page_search.csv",
        "Where these numbers come from", "papermill notebooks/toy_page.ipynb out.ipynb -p preset quick -p method all",
    ):  # fmt: skip
        assert part in text, part
    show("paper", method="ae")
    assert not folder.exists()  # quick runs and a part of the methods decide nothing
    assert "Preset paper." in show("paper")
    show("quick")
    stored = paper.load([claim], folder)
    assert [(verdict.condition, verdict.preset) for verdict in stored] == [("thin", "paper"), ("wide", "paper")]
    paper.save("toy_page", stored[:1], folder)
    show("quick", method="ae")
    assert paper.load([claim], folder) == stored[:1]  # a part of the methods still decides nothing
    assert "Shown at full scale, from 18 committed runs: everything. Spot check: 6 of them" in show("quick")
    assert paper.load([claim], folder) == stored  # every build judges what is committed


def test_two_ways_to_choose_say_together_whether_a_claim_is_false_or_fragile(monkeypatch):
    claim, shown = paper.CLAIMS[0], []
    monkeypatch.setattr(pages.study, "text_table", lambda rows, caption: shown.append(rows))
    for first, second, says in (
        ("reproduced", "reproduced", "holds either way"),
        ("not reproduced", "reproduced", "fragile: it holds only with options chosen by the figure's criterion"),
        ("reproduced", "not reproduced", "fragile: it fails with options chosen by the figure's criterion"),
        ("inconclusive", "reproduced", "undecided"),
        ("not reproduced", "not reproduced", "fails either way"),
        ("reproduced", "inconclusive", "undecided"),
        ("not reproduced", "not run", "undecided"),
    ):
        pages.study.two_ways(
            [
                paper.Verdict(claim, "text", "paper", first, ""),
                paper.Verdict(claim, "text, favourable", "paper", second, ""),
                paper.Verdict(claim, "other", "paper", first, ""),
            ]
        )
        ((label, row),) = shown.pop().items()
        assert label.endswith("(text)") and row["the claim"] == says
    cut = paper.Verdict(claim, "text", "quick", "not reproduced", "")
    pages.study.two_ways([cut, paper.Verdict(claim, "text, favourable", "paper", "reproduced", "")])
    assert not shown


def test_full_scale_leaves_out_the_sets_that_are_not_here_and_names_them(stores, tmp_path, monkeypatch):
    monkeypatch.setenv("NRAE_DATA", str(tmp_path))
    images = condition(data="mnist", data_options=dict(source="official"))
    plan = Plan({"curve": condition(), "images": images}, ("ae",), 1)
    study = studied(lambda preset: plan, "paper")
    assert study.absent == ["images"] and set(study.frame.condition) == {"curve"}
    with pytest.raises(grid.RunsFailed, match="MNIST is not there"):
        studied(lambda preset: plan, "paper", only=["images"])


def test_the_search_looks_at_validation_images_and_never_at_the_test(stores):
    images = condition(data="mnist", data_options=dict(source="stand_in", n_train=30, n_validation=20, n_test=20))
    plan = Plan({"images": images}, ("dae",), 1, search={"dae": {"corruption": (0.1, 0.2, 0.3)}})
    for place, result in enumerate(studied(lambda preset: plan).searched):  # results whose two errors disagree
        result.metrics |= {"test_mse": float(place), "validation_mse": float(-place)}
        stores["quick"].put(result)
    assert studied(lambda preset: plan).options["images"]["dae"] == {"corruption": 0.3}


def test_a_banner_names_every_size_that_was_cut(stores):
    def sized(n_test, hidden, epochs):
        network, options = Network(hidden, latent_dim=1), DATA | {"n_test": n_test}
        return condition(data_options=options, network=network, optimization=Optimization(epochs, 12))

    full = {"a": sized(5000, (64,), 1000), "b": sized(20, (64,), 1000)}
    plans = {"quick": Plan({"a": sized(20, (4, 4), 2)}, ("ae",), 1), "paper": Plan(full, ("ae",), 10)}
    assert studied(plans.get).cut("quick") == (
        "1 of 10 seeds; test points 20 (full scale: 5,000); hidden layers 4-4 (full scale: 64); epochs 2 (full scale: 1,000); "
        "1 of 2 conditions"
    )

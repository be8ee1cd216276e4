"""Plans and studies: the same budget for every method, choices by validation, full-scale results beside."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from nrae_lib import pages, paper, runs
from nrae_lib.core.models import Network
from nrae_lib.core.training import Optimization
from nrae_lib.paper import Claim
from nrae_lib.runs import Plan, Store, Study, grid

NETWORK = Network(hidden=(8,), latent_dim=1)
DATA = dict(n_train=12, n_test=20, noise=0.1)


def condition(**changes):
    return dict(data="sine", data_options=DATA, network=NETWORK, optimization=Optimization(3, 12), **changes)


def plan_of(preset, **changes):
    plan = Plan(
        {
            "thin": condition(),
            "wide": condition() | dict(network=Network(hidden=(16,), latent_dim=1), search_as="thin"),
        },
        methods=("ae", "dae", "nrae_l"),
        seeds=3 if preset == "paper" else 2,
        search={"dae": {"corruption": (0.01, 0.5)}, "nrae_l": {"neighbor_weight": (0.1, 1.0), "n_neighbors": (2, 4)}},
        criterion="test_mse",
    )
    return replace(plan, **changes)


@pytest.fixture
def stores(tmp_path, monkeypatch):
    """Both stores of an experiment, away from the checkout."""
    folders = {"paper": tmp_path / "full", "quick": tmp_path / "scratch"}
    monkeypatch.setattr(Store, "of", staticmethod(lambda preset, experiment: Store(folders[preset])))
    return {preset: Store(folder) for preset, folder in folders.items()}


def studied(plan, preset="quick", names=(), **how):
    return Study("toy", plan, preset, names, **how).run()


def test_the_choice_is_the_candidate_with_the_lowest_error_and_holds_for_conditions_that_take_it(stores):
    study = studied(plan_of)
    for method, option in (("dae", ["corruption"]), ("nrae_l", ["neighbor_weight", "n_neighbors"])):
        tried = {
            tuple(run.method_options[name] for name in option): stores["quick"].get(run).metrics["test_mse"]
            for run in study.plan.searches("thin", method)
        }
        best = min(tried, key=tried.get)
        for name in ("thin", "wide"):
            assert tuple(study.options[name][method][one] for one in option) == best
    assert study.options["thin"]["ae"] == {}
    assert {result.run.seed for result in study.searched} == {1000} and len(study.searched) == 2 + 4
    assert set(study.frame.condition) == {"thin", "wide"} and len(study.frame) == 2 * 3 * 2
    assert (study.search_frame.validation_mse == study.search_frame.test_mse).all()
    assert study.preset_of("thin") == "quick" and study.checked == []


def test_quick_shows_what_is_committed_whole_or_not_at_all_and_repeats_a_part_of_it(stores):
    full = studied(plan_of, "paper")
    assert full.preset_of("thin") == "paper" and full.cut() == "" and full.checked == []
    study = studied(plan_of)
    assert study.options == full.options and len(study.results) == 2 * 3 * 3
    assert [result.run.key for result in study.results] == [result.run.key for result in full.results]
    assert (study.preset_of("thin"), study.label("thin"), study.label("other")) == (
        "paper", "thin, full scale (3 seeds)", "other, ours",
    )  # fmt: skip
    again = {result.run.key for result, _ in study.checked}
    assert again == {path.stem for path in stores["quick"].folder.glob("*.npz")}  # nothing else was trained
    assert all(now.metrics == then.metrics and now is not then for now, then in study.checked)
    assert {then.run.seed for _, then in study.checked} == {0}
    assert (
        pages.spot_check_text(study.checked) == "Spot check: 6 of them were trained again now, 6 bit for bit the same."
    )

    stores["paper"].path(full.of("thin", "dae")[0].run).unlink()
    study = studied(plan_of)
    assert (study.preset_of("thin"), study.preset_of("wide")) == ("quick", "paper")
    assert study.options["thin"] == full.options["thin"]  # the full-scale search decides all the same
    seeds = study.frame.groupby("condition").seed.nunique().to_dict()
    assert seeds == {"thin": 2, "wide": 3} and set(study.frame.method) == {"ae", "dae", "nrae_l"}
    assert study.label("thin") == "thin, quick run (2 seeds)"


def test_the_spot_check_takes_what_the_time_allows_and_first_what_was_trained_alone(stores, monkeypatch):
    for result in studied(plan_of, "paper").results:
        if result.run.method == "nrae_l":
            result.provenance["ensemble"] = "3"
        result.seconds = 15.0
        stores["paper"].put(result)
    assert [then.run.method for _, then in studied(plan_of).checked] == ["dae"]
    monkeypatch.setattr("nrae_lib.runs.study.SPOT_CHECK_SECONDS", 10.0)
    assert len(studied(plan_of).checked) == 1  # one at least
    assert [then.run.method for _, then in studied(plan_of, names=["nrae_l"]).checked] == ["nrae_l"]


def test_a_twin_that_is_not_repeated_stops_the_page_unless_it_is_of_another_kind(stores):
    studied(plan_of, "paper", names=["ae"], only=["thin"])
    run = plan_of("paper").run("thin", "ae", 0, {})
    now, then = stores["paper"].get(run), stores["paper"].get(run)
    then.metrics["test_mse"] *= 1.25
    with pytest.raises(
        RuntimeError, match=r"spot check failed.*these runs differ from the committed ones: sine paper ae"
    ):
        pages.spot_check_text([(now, then)])
    for other in (dict(device="another"), dict(threads="64"), dict(torch="0.1"), dict(ensemble="5")):
        changed = replace(then, provenance=then.provenance | other)
        assert "1 (of an ensemble, or of another kind of machine) with test errors that differ by up to 20.0%" in (
            pages.spot_check_text([(now, changed)])
        )
    then.metrics["test_mse"] = now.metrics["test_mse"]
    then.metrics["train_mse"] *= 2  # any number counts
    with pytest.raises(RuntimeError, match="spot check failed"):
        pages.spot_check_text([(now, then)])


def test_one_method_trains_alone_and_a_method_can_take_anothers_choice(stores):
    def plan(preset):
        plan = plan_of(preset, methods=("nrae_l", "nrae_q"))
        return replace(plan, conditions={"thin": condition(same_choice={"nrae_q": "nrae_l"})})

    study = studied(plan, names=["nrae_q"])
    assert {result.run.method for result in study.results} == {"nrae_q"}
    assert {result.run.method for result in study.searched} == {"nrae_l"}
    assert study.options["thin"]["nrae_q"] == study.options["thin"]["nrae_l"] != {}


def test_fixed_options_reach_every_run_and_are_not_searched_and_a_conditions_own_come_first():
    plan = plan_of(
        "quick",
        fixed={"nrae_l": {"n_neighbors": 3, "neighbor_weight": 9.0}},
        conditions={"one": condition(options={"nrae_l": {"n_neighbors": 5}}, search_data_options={"noise": 0.3})},
    )
    assert plan.run("one", "nrae_l", 0, {"neighbor_weight": 0.5}).method_options == {
        "n_neighbors": 5,
        "neighbor_weight": 0.5,
    }
    assert plan.searches("one", "nrae_l") == [] and len(plan.searches("one", "dae")) == 2
    half = replace(plan, fixed={})
    assert {run.method_options["n_neighbors"] for run in half.searches("one", "nrae_l")} == {5}
    assert plan.run("one", "dae", 0, {}).method_options == {}
    assert plan.searches("one", "dae")[0].data_options == DATA | {"noise": 0.3}
    assert plan.run("one", "dae", 0, {}).data_options == DATA


def test_the_first_seed_may_keep_more_and_the_search_may_be_shorter():
    plan = plan_of("quick", keep_first="animation", keep="figure", search_epochs=1)
    assert [plan.run("thin", "ae", seed, {}).keep for seed in (0, 1)] == ["animation", "figure"]
    assert {(run.keep, run.optimization.epochs) for run in plan.searches("thin", "dae")} == {("metrics", 1)}


def test_what_cannot_be_is_said(stores):
    with pytest.raises(ValueError, match="'wide' takes the choices of 'narrow', which is no condition that searches"):
        Plan({"wide": condition(search_as="narrow")}, ("ae",), 1)
    study = Study("toy", lambda preset: Plan({"a": condition(), "b": condition()}, ("ae",), 1), "quick")
    for name in ("results", "frame", "options", "searched", "checked", "conditions"):
        with pytest.raises(RuntimeError, match=f"this study has no {name} yet: call its run\\(\\) first"):
            getattr(study, name)
    with pytest.raises(RuntimeError, match="has no results yet"):
        study.of("a")
    with pytest.raises(TypeError, match="close_study takes what open_study returned, not dict"):
        pages.close_study({}, "toy_page")
    with pytest.raises(ValueError, match="conditions 'a' and 'b' are the same runs"):
        study.run()
    with pytest.raises(ValueError, match="unknown condition 'narrow': choose among thin, wide"):
        studied(plan_of, only=["narrow"])


def test_a_choice_at_the_end_of_the_candidates_is_named(stores):
    study = studied(plan_of)
    chosen = study.options["thin"]
    assert study.at_edge("thin")["dae"] == [f"σ = {chosen['dae']['corruption']:g}"]
    assert len(study.at_edge("thin")["nrae_l"]) == 2  # two candidates: both are ends
    assert study.at_edge("wide") == {}


def test_what_a_page_reads_of_its_results(stores):
    study = studied(plan_of)
    rows = study.frame[(study.frame.condition == "wide") & (study.frame.method == "dae")]
    mean, deviation = study.summary("wide", "test_mse", 100)["dae"]
    assert mean == pytest.approx(100 * rows.test_mse.mean()) and deviation == pytest.approx(100 * rows.test_mse.std())
    broken = study.frame.assign(order_breaks=0).astype({"test_mse": float})
    broken.loc[rows.index[0], ["order_breaks", "test_mse"]] = 3, float("nan")
    assert study.summary("wide", "test_mse", frame=broken)["dae"][0] != study.summary("wide", "test_mse")["dae"][0]
    study.frame = broken
    assert (
        study.right("wide", "order_breaks") == {"ae": 2, "dae": 1, "nrae_l": 2}
        and study.right("other", "order_breaks") == {}
    )
    (one,) = study.of("wide", "dae", seed=1)
    assert study.row(one).seed == 1 and study.row(one).method == "dae" and study.condition_of(one) == "wide"
    assert study.data(one).fingerprint == one.provenance["fingerprint"]


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Parameters of a notebook, what it displays, and a claim that it tests."""
    claim = Claim(
        "toy_page", "1", "toy", "NRAE-L beats AE.", paper.rules.lower("test_mse", ("nrae_l",), ("ae",)), fewest=2,
    )  # fmt: skip
    said = []
    monkeypatch.setattr(paper, "CLAIMS", (claim,))
    monkeypatch.setattr(runs, "project_root", lambda: tmp_path)
    monkeypatch.setattr("IPython.display.display", lambda item, **_: said.append(str(getattr(item, "data", item))))

    def shown(preset, **parameters):
        said.clear()
        given = dict(preset=preset, method="all", device="cpu", workers=1, cluster="") | parameters
        pages.close_study(pages.open_study(given, "toy", plan_of), "toy_page", table={"row": {"ae": 1.0}})
        return "".join(said)

    return SimpleNamespace(show=shown, claim=claim, folder=tmp_path / "results" / "verdicts")


def test_two_calls_show_all_that_surrounds_an_experiment(stores, page):
    text = page.show("quick")
    for part in (
        "Options of each method", "Validation error for each candidate", "Preset quick. Cut here: 2 of 3 seeds.",
        'class="nrae-verdict"', "NRAE-L beats AE.", "toy_page_table.csv", "toy_page_runs.csv", "toy_page_search.csv",
        "Where these numbers come from", "papermill notebooks/toy_page.ipynb out.ipynb -p preset quick -p method all",
    ):  # fmt: skip
        assert part in text, part
    assert not page.folder.exists()  # quick runs decide nothing elsewhere
    with pytest.raises(ValueError, match="unknown method 'nrae_x'"):
        page.show("quick", method="nrae_x")
    with pytest.raises(ValueError, match="parameter 'preset' is 'fast'; it must be one of"):
        page.show("fast")


def test_verdicts_are_stored_at_full_scale_and_a_page_says_when_the_stored_ones_are_old(stores, page):
    page.show("paper", method="ae")
    assert not page.folder.exists()  # a part of the methods decides nothing
    assert "Preset paper." in page.show("paper")
    stored = paper.load([page.claim], page.folder)
    assert [(verdict.condition, verdict.preset) for verdict in stored] == [("thin", "paper"), ("wide", "paper")]
    for known, sentences in ((stored, 0), (stored[:1], 1)):
        paper.save("toy_page", known, page.folder)
        text = page.show("quick")
        assert "Shown at full scale, from 18 committed runs: everything. Spot check: 6 of them" in text
        assert text.count("does not know these verdicts") == sentences
        assert paper.load([page.claim], page.folder) == known  # only full scale writes


def test_full_scale_leaves_out_the_sets_that_are_not_here_and_names_them(stores, tmp_path, monkeypatch):
    monkeypatch.setenv("NRAE_DATA", str(tmp_path))

    def plan(preset):
        images = dict(
            data="mnist", data_options=dict(source="official"), network=NETWORK, optimization=Optimization(1, 5)
        )
        return Plan({"curve": condition(), "images": images}, ("ae",), 1)

    study = studied(plan, "paper")
    assert study.absent == ["images"] and set(study.frame.condition) == {"curve"}
    with pytest.raises(grid.RunsFailed, match="MNIST is not there"):
        studied(plan, "paper", only=["images"])


def test_the_search_looks_at_validation_images_and_never_at_the_test(stores):
    def plan(preset):
        images = dict(source="stand_in", n_train=30, n_validation=20, n_test=20)
        network = Network(hidden=(4,), latent_dim=1, output="sigmoid")
        fields = dict(data="mnist", data_options=images, network=network, optimization=Optimization(1, 30))
        return Plan({"images": fields}, ("dae",), 1, search={"dae": {"corruption": (0.1, 0.2, 0.3)}})

    studied(plan)
    tried = plan("quick").searches("images", "dae")
    for place, run in enumerate(tried):  # results whose two errors disagree
        result = stores["quick"].get(run)
        result.metrics |= {"test_mse": float(place), "validation_mse": float(-place)}
        stores["quick"].put(result)
    assert studied(plan).options["images"]["dae"] == {"corruption": 0.3}


def test_a_full_search_of_some_methods_decides_for_none(stores):
    studied(plan_of, "paper", names=["ae", "dae"])
    study = studied(plan_of)
    own = {run.key for run in study.plan.searches("thin", "dae")}
    assert own <= {path.stem for path in stores["quick"].folder.glob("*.npz")}
    assert {result.run.key for result in study.searched} >= own


def test_a_banner_names_every_size_that_was_cut():
    def plan(preset):
        small = preset != "paper"
        fields = condition() | dict(network=Network(hidden=(4, 4) if small else (64,), latent_dim=1))
        fields["optimization"] = Optimization(2 if small else 1000, 12)
        fields["data_options"] = DATA | dict(n_test=20 if small else 5000)
        both = {"a": fields, "b": fields | dict(data_options=fields["data_options"] | dict(noise=0.5))}
        return Plan({"a": fields} if small else both, ("ae",), 1 if small else 10)

    study = Study("toy", plan, "smoke")
    study.conditions, study._own = ["a"], {"a"}
    assert study.cut() == (
        "1 of 10 seeds; test points 20 (full scale: 5,000); hidden layers 4-4 (full scale: 64); epochs 2 (full scale: 1,000); "
        "1 of 2 conditions"
    )

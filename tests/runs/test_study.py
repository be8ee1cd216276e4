"""Plans and studies: the same budget for every method, choices by validation, full-scale results beside."""

from dataclasses import replace

import pytest

from nrae_lib import pages, paper, runs
from nrae_lib.core.models import Network
from nrae_lib.core.training import Optimization
from nrae_lib.paper import Claim
from nrae_lib.runs import Store, grid
from nrae_lib.runs.study import Plan, Study

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


def studied(plan, preset="quick", names=()):
    study = Study("toy", plan, preset, names)
    study.search()
    study.train()
    return study


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
    assert set(study.frame.recipe) == {"thin", "wide"} and len(study.frame) == 2 * 3 * 2
    assert study.full == [] and study.shown_preset == "quick"
    assert (study.search_frame.validation_mse == study.search_frame.test_mse).all()


def test_the_full_search_decides_for_every_preset_and_half_of_the_full_runs_count_for_none(stores):
    full = studied(plan_of, "paper")
    chosen = full.options["thin"]
    study = studied(plan_of)
    assert study.options["thin"] == chosen and len(study.full) == 2 * 3 * 3
    own = {path.stem for path in stores["quick"].folder.glob("*.npz")}
    assert own == {run.run.key for run in study.results}  # nothing was searched again
    stores["paper"].path(full.of("thin", "dae")[0].run).unlink()
    study = studied(plan_of)
    left = study.full_frame
    assert set(left[left.recipe == "thin"].method) == {"ae", "nrae_l"}
    assert set(left[left.recipe == "wide"].method) == {"ae", "dae", "nrae_l"}
    # What is shown is never a part of the full-scale results: of a condition all of them, or this preset's.
    assert (study.preset_of("thin"), study.preset_of("wide"), study.shown_preset) == ("quick", "paper", "quick")
    seeds = study.shown_frame.groupby("recipe").seed.nunique().to_dict()
    assert seeds == {"thin": 2, "wide": 3} and set(study.shown_frame.method) == {"ae", "dae", "nrae_l"}


def test_one_method_trains_alone_and_a_method_can_take_anothers_choice(stores):
    def plan(preset):
        return plan_of(preset, methods=("nrae_l", "nrae_q"), same_choice={"nrae_q": "nrae_l"})

    study = studied(plan, names=["nrae_q"])
    assert {result.run.method for result in study.results} == {"nrae_q"}
    assert {result.run.method for result in study.searched} == {"nrae_l"}
    assert study.options["thin"]["nrae_q"] == study.options["thin"]["nrae_l"] != {}


def test_fixed_options_reach_every_run_and_a_conditions_own_come_first():
    plan = plan_of(
        "quick",
        fixed={"nrae_l": {"n_neighbors": 3, "neighbor_weight": 9.0}},
        conditions={"one": condition(options={"nrae_l": {"n_neighbors": 5}}, search_data_options={"noise": 0.3})},
    )
    assert plan.run("one", "nrae_l", 0, {"neighbor_weight": 0.5}).method_options == {
        "n_neighbors": 5,
        "neighbor_weight": 0.5,
    }
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
    study.search()
    with pytest.raises(ValueError, match="conditions 'a' and 'b' are the same runs"):
        study.train()


def test_a_choice_at_the_end_of_the_candidates_is_named(stores):
    study = studied(plan_of)
    chosen = study.options["thin"]
    assert study.at_edge("thin")["dae"] == [f"σ = {chosen['dae']['corruption']:g}"]
    assert len(study.at_edge("thin")["nrae_l"]) == 2  # two candidates: both are ends
    assert study.at_edge("wide") == {}


def test_verdicts_are_stored_at_full_scale_and_a_page_says_when_the_stored_ones_are_old(stores, tmp_path, monkeypatch):
    claim = Claim(
        "toy", "toy_page", "NRAE", "1", "NRAE-L beats AE.", paper.lower("test_mse", ("nrae_l",), ("ae",)),
        ("ae", "nrae_l"), fewest=2,
    )  # fmt: skip
    monkeypatch.setattr(paper, "CLAIMS", (claim,))
    monkeypatch.setattr(runs, "project_root", lambda: tmp_path)
    file = tmp_path / "results" / "verdicts" / "toy_page.json"
    pages.study_verdicts(studied(plan_of), "toy_page")
    assert not file.exists()  # quick runs decide nothing elsewhere
    pages.study_verdicts(studied(plan_of, "paper"), "toy_page")
    stored = paper.load([claim], file.parent)
    assert [(verdict.recipe, verdict.preset) for verdict in stored] == [("thin", "paper"), ("wide", "paper")]
    said = []
    monkeypatch.setattr("IPython.display.display", lambda item: said.append(str(getattr(item, "data", item))))
    for known, sentences in ((stored, 0), (stored[:1], 1)):
        paper.save("toy_page", known, file.parent)
        said.clear()
        pages.study_verdicts(studied(plan_of), "toy_page")
        assert sum("does not know these verdicts" in text for text in said) == sentences
        assert paper.load([claim], file.parent) == known  # only full scale writes


def test_full_scale_leaves_out_the_sets_that_are_not_here_and_names_them(stores, tmp_path, monkeypatch):
    monkeypatch.setenv("NRAE_DATA", str(tmp_path))

    def plan(preset):
        images = dict(
            data="mnist", data_options=dict(source="official"), network=NETWORK, optimization=Optimization(1, 5)
        )
        return Plan({"curve": condition(), "images": images}, ("ae",), 1)

    study = studied(plan, "paper")
    assert study.absent == ["images"] and set(study.frame.recipe) == {"curve"}
    shown = []
    monkeypatch.setattr("nrae_lib.pages.study.banner", shown.append)
    pages.study_banner(study, "nothing")
    assert shown == ["Not run, because the images are not on this machine: images."]
    only = Study(
        "toy", lambda preset: replace(plan(preset), conditions={"images": plan(preset).conditions["images"]}), "paper"
    )
    only.search()
    with pytest.raises(grid.RunsFailed, match="MNIST is not there"):
        only.train()


def test_a_banner_says_what_was_cut_and_nothing_at_full_scale(stores, monkeypatch):
    shown = []
    monkeypatch.setattr("nrae_lib.pages.study.banner", shown.append)
    pages.study_banner(studied(plan_of), "two seeds", "Digits stand in.")
    assert shown == ["Preset quick: two seeds. No full-scale runs of this page are committed. Digits stand in."]
    pages.study_banner(studied(plan_of, "paper"), "nothing")
    assert len(shown) == 1
    pages.study_banner(studied(plan_of), "two seeds")
    assert shown[1] == "Preset quick: two seeds. 18 committed full-scale runs stand beside it."


def test_the_search_looks_at_validation_images_and_never_at_the_test(stores):
    def plan(preset):
        images = dict(source="stand_in", n_train=30, n_validation=20, n_test=20)
        network = Network(hidden=(4,), latent_dim=1, output="sigmoid")
        fields = dict(data="mnist", data_options=images, network=network, optimization=Optimization(1, 30))
        return Plan({"images": fields}, ("dae",), 1, search={"dae": {"corruption": (0.1, 0.2, 0.3)}})

    Study("toy", plan, "quick").search()
    tried = plan("quick").searches("images", "dae")
    for place, run in enumerate(tried):  # results whose two errors disagree
        result = stores["quick"].get(run)
        result.metrics |= {"test_mse": float(place), "validation_mse": float(-place)}
        stores["quick"].put(result)
    study = Study("toy", plan, "quick")
    study.search()
    assert study.options["images"]["dae"] == {"corruption": 0.3}


def test_a_full_search_of_some_methods_decides_for_none(stores):
    studied(plan_of, "paper", names=["ae", "dae"])
    study = studied(plan_of)
    own = {run.key for run in study.plan.searches("thin", "dae")}
    assert own <= {path.stem for path in stores["quick"].folder.glob("*.npz")}
    assert {result.run.key for result in study.searched} >= own


def test_only_some_conditions_run_and_the_full_scale_results_of_the_others_stay(stores):
    studied(plan_of, "paper")
    study = Study("toy", plan_of, "quick", only=["thin"])
    study.search()
    study.train()
    assert set(study.frame.recipe) == {"thin"} and set(study.shown_frame.recipe) == {"thin", "wide"}
    with pytest.raises(ValueError, match="unknown condition 'narrow': choose among thin, wide"):
        Study("toy", plan_of, "quick", only=["narrow"])

"""Plans and studies: the same budget for every method, choices by validation, full-scale results beside."""

from dataclasses import replace

import pytest

from nrae_lib.models import Network
from nrae_lib.runs import Store
from nrae_lib.study import Plan, Study
from nrae_lib.training import Optimization

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
    left = studied(plan_of).full_frame
    assert set(left[left.recipe == "thin"].method) == {"ae", "nrae_l"}
    assert set(left[left.recipe == "wide"].method) == {"ae", "dae", "nrae_l"}


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

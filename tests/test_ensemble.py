"""Members of an ensemble against the plain loop, in double precision: the same draws, the same steps."""

import warnings
from dataclasses import replace

import pytest
import torch

from nrae_lib import ensemble, methods
from nrae_lib.ensemble import fit_ensemble, groups
from nrae_lib.models import ConvNetwork, Network
from nrae_lib.runs import Run
from nrae_lib.taylor import taylor
from nrae_lib.training import Diverged, Interrupted, Optimization, Trained, fit, stop_event

NETWORK, POINTS, MEMBERS = Network((16, 16), 2, "elu"), 23, 3
# Batch normalization follows a bias in EAE: the bias's gradient is zero but for rounding, and Adam divides by its size.
close = {"rtol": 1e-6, "atol": 1e-7}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def data_of(seed, count=POINTS, shape=(3,), dtype=torch.float64):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def coefficient(objective):
    """An option that is a positive number, or None."""
    names = (name for name, value in objective.options().items() if isinstance(value, float) and value > 0)
    return next((name for name in names if name not in ("deviation", "initial_sigma")), None)


def members_of(method, optimization, network=NETWORK, options=(), count=MEMBERS, shape=(3,), dtype=torch.float64):
    """Arguments of fit_ensemble for members that differ in seed, data, learning rate and one coefficient."""
    base = methods.get(method).configure(**dict(options))
    name = coefficient(base)
    objectives = [
        base.configure(**{name: base.options()[name] * (1 + i)}) if name and not options else base for i in range(count)
    ]
    return {
        "models": [objective.build(network, shape, i).to(dtype) for i, objective in enumerate(objectives)],
        "objectives": objectives,
        "data": [data_of(i, shape=shape, dtype=dtype) for i in range(count)],
        "optimizations": [
            replace(optimization, learning_rate=(i + 1) * optimization.learning_rate) for i in range(count)
        ],
        "seeds": list(range(10, 10 + count)),
    }


def plain(members, **options):
    """The same by the plain loop: trained copies of the models, and what fit returns."""
    models, results = [], []
    for i, model in enumerate(members["models"]):
        objective = members["objectives"][i]
        network = options.get("network", NETWORK)
        copied = objective.build(network, tuple(members["data"][i].shape[1:]), i).to(next(model.parameters()).dtype)
        assert_same(copied, model)
        own = {name: value[i] for name, value in options.items() if name in ("validation", "draw")}
        own |= {"frame_epochs": options["frame_epochs"]} if "frame_epochs" in options else {}
        results.append(
            fit(copied, objective, members["data"][i], members["optimizations"][i], members["seeds"][i], **own)
        )
        models.append(copied)
    return models, results


def assert_same(expected, model, **tolerance):
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), **(tolerance or {"rtol": 0, "atol": 0}))


def count_of_joined(monkeypatch):
    """Sizes of the ensembles that took a step."""
    sizes, step = [], ensemble.Ensemble.step
    monkeypatch.setattr(ensemble.Ensemble, "step", lambda self: sizes.append(len(self.members)) or step(self))
    return sizes


# ------------------------------------------------------------------------------------------------- every method


@pytest.mark.parametrize("method", methods.CATALOGUE)
@pytest.mark.parametrize(("batch_size", "activation"), [(POINTS, "elu"), (8, "relu")])
def test_members_equal_the_plain_loop(method, batch_size, activation, monkeypatch):
    network, joined = replace(NETWORK, activation=activation), count_of_joined(monkeypatch)
    members = members_of(method, Optimization(3, batch_size, decay_start=0.3, decay_every=1), network)
    models, expected = plain(members, network=network)
    found = fit_ensemble(**members)
    for model, trained, ours, result in zip(models, expected, members["models"], found, strict=True):
        assert_same(model, ours, **close)
        torch.testing.assert_close(result.loss, trained.loss)
        assert result.steps == trained.steps and not ours.training
        assert result.loss.std() > 0
    assert not torch.allclose(found[0].loss, found[1].loss)
    # Spectral normalization writes into the module in a way that vmap has no rule for: such members train one by one.
    assert set(joined) == (set() if method == "rae_sn" else {MEMBERS})


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("gae", {"refresh_epochs": 1}),
        ("iae", {"latents": "box"}),
        ("nrae_l", {"neighbors_per_point": 3, "n_neighbors": 5}),
        ("nrae_q", {"latent": "circular"}),
        ("nrae_l+mmd", {"replace": True, "neighbors_per_point": 2}),
        ("cae", {"jacobian": "estimate"}),
        ("rae_gp", {"jacobian": "estimate"}),
    ],
)
def test_options_that_draw_or_change_what_is_prepared(method, options, monkeypatch):
    joined = count_of_joined(monkeypatch)
    members = members_of(method, Optimization(3, 8), options=options)
    models, _ = plain(members)
    fit_ensemble(**members)
    assert set(joined) == {MEMBERS}
    for model, ours in zip(models, members["models"], strict=True):
        assert_same(model, ours, **close)


@pytest.mark.parametrize("method", ["ae", "nrae_q"])
def test_single_precision(method):
    members = members_of(method, Optimization(20, 8), dtype=torch.float32)
    models, _ = plain(members)
    fit_ensemble(**members)
    for model, ours in zip(models, members["models"], strict=True):
        assert_same(model, ours, rtol=1e-3, atol=1e-3)


def test_convolutions():
    network, shape = ConvNetwork(2, width=0.01), (1, 28, 28)
    members = members_of("nrae_q", Optimization(2, 12), network, count=2, shape=shape)
    models, _ = plain(members, network=network)
    fit_ensemble(**members)
    for model, ours in zip(models, members["models"], strict=True):
        assert_same(model, ours, **close)


@pytest.mark.parametrize("activation", ["relu", "elu", "softplus", "sigmoid", "tanh"])
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("directions", [(), (4,)])
def test_taylor_of_many_networks_at_once(activation, order, directions):
    """Values and gradients of the mapped fast path against one network after the other."""
    networks = [Network((5, 6), 3, activation).build((2, 2), seed).decoder.double() for seed in range(3)]
    names = [name for name, _ in networks[0].named_parameters()]
    stacked = {name: torch.stack([n.get_parameter(name).detach() for n in networks]).requires_grad_() for name in names}
    z, v = data_of(0, 3, (7, 3)).requires_grad_(), data_of(1, 3, (*directions, 7, 3)).requires_grad_()

    def jet(parameters, z, v):
        found = torch.func.functional_call(_Expanded(networks[0], order), parameters, (z, v))
        return torch.cat([part.flatten() for part in found if part is not None])

    together = torch.func.vmap(jet)({f"network.{name}": stacked[name] for name in names}, z, v)
    weights = data_of(2, *together.shape[:1], together.shape[1:])
    found = torch.autograd.grad((weights * together).sum(), [*stacked.values(), z, v], allow_unused=True)
    alone = [taylor(network, *point, order) for network, *point in zip(networks, z, v, strict=True)]
    alone = torch.stack([torch.cat([part.flatten() for part in jet if part is not None]) for jet in alone])
    leaves = [network.get_parameter(name) for name in names for network in networks]
    expected = torch.autograd.grad((weights * alone).sum(), [*leaves, z, v], allow_unused=True)
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(found[-2:], expected[-2:])
    for i in range(len(names)):
        torch.testing.assert_close(found[i], torch.stack(expected[3 * i : 3 * i + 3]))


class _Expanded(torch.nn.Module):
    def __init__(self, network, order):
        super().__init__()
        self.network, self.order = network, order

    def forward(self, z, v):
        return taylor(self.network, z, v, self.order)


# ------------------------------------------------------------------------------------------------- members that leave


def test_a_member_that_explodes_leaves_the_others_alone():
    members = members_of("nrae_l", Optimization(30, POINTS))
    members["optimizations"][1] = replace(members["optimizations"][1], learning_rate=1e200)
    good = {name: [value[0], value[2]] for name, value in members.items()}
    models = [
        objective.build(NETWORK, (3,), i).double() for i, objective in zip((0, 2), good["objectives"], strict=True)
    ]
    for i, model in enumerate(models):
        fit(model, *(good[name][i] for name in ("objectives", "data", "optimizations", "seeds")))
    found = fit_ensemble(**members)
    assert isinstance(found[1], Diverged) and found[1].term == "reconstruction"
    for model, i in zip(models, (0, 2), strict=True):
        assert isinstance(found[i], Trained)
        assert_same(model, members["models"][i], **close)


def test_members_stop_one_by_one_when_their_validation_error_has_risen(monkeypatch):
    joined = count_of_joined(monkeypatch)
    members = members_of("ae", Optimization(60, 8, 3e-3, patience=1))
    validation = [data_of(100 + i) for i in range(MEMBERS)]
    models, expected = plain(members, validation=validation)
    assert len({len(trained.loss) for trained in expected}) > 1, "the test wants members that stop at different epochs"
    found = fit_ensemble(**members, validation=validation)
    for model, trained, ours, result in zip(models, expected, members["models"], found, strict=True):
        assert len(result.loss) == len(trained.loss) and result.best_epoch == trained.best_epoch
        assert_same(model, ours, **close)
    assert joined[0] == MEMBERS > joined[-1]


def test_preparation_that_fails_for_one_member_is_its_own_result():
    members = members_of("ae", Optimization(2, 8))
    members["data"][2][0, 0] = torch.nan
    found = fit_ensemble(**members)
    assert isinstance(found[2], ValueError) and "NaN" in str(found[2])
    assert all(isinstance(result, Trained) for result in found[:2])


# ------------------------------------------------------------------------------------------------- along the way


def test_frames_and_progress(monkeypatch):
    monkeypatch.setattr("nrae_lib.training.loop.PROGRESS_SECONDS", 0)
    members, seen = members_of("nrae_q", Optimization(4, 8)), []
    draw = [lambda model, x=x: model.encoder(x).detach() for x in members["data"]]
    _, expected = plain(members, frame_epochs=(0, 2, 4), draw=draw)
    found = fit_ensemble(**members, frame_epochs=(0, 2, 4), draws=draw, progress=lambda *seen_: seen.append(seen_))
    for trained, result in zip(expected, found, strict=True):
        torch.testing.assert_close(result.frames, trained.frames, **close)
        assert result.seconds > 0
    assert [epochs for epochs, _ in seen] == [1, 2, 3]
    assert all(len(loss) == MEMBERS and loss.shape[1] == epochs for epochs, loss in seen)


def test_models_own_their_weights_afterwards():
    members = members_of("vae", Optimization(2, POINTS))
    fit_ensemble(**members)
    for model in members["models"]:
        for parameter in model.parameters():
            assert parameter.untyped_storage().nbytes() == parameter.nbytes
            assert parameter.requires_grad


def test_what_all_members_share_is_kept_once():
    members = members_of("nrae_l", Optimization(1, 8))
    members["data"] = [data_of(0) for _ in range(MEMBERS)]
    kept = []
    original = ensemble.Ensemble._share
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensemble.Ensemble, "_share", lambda self: (original(self), kept.append(self.dims)))
        fit_ensemble(**members)
    # Data and graph are one; the weight of the neighbours is each member's own.
    assert all(dims.count(0) == 1 for dims in kept) and kept


class Killed(BaseException):
    pass


@pytest.mark.parametrize("method", ["nrae_l", "gae", "eae"])
@pytest.mark.parametrize("lost", [False, True])
def test_a_killed_ensemble_goes_on(method, lost, tmp_path, monkeypatch):
    """Bit for bit, if all members were saved at one step; if not, in several ensembles, to the same result but for rounding."""
    optimization, options = Optimization(6, 8), {"refresh_epochs": 2} if method == "gae" else {}
    whole = members_of(method, optimization, options=options)
    expected = fit_ensemble(**whole)
    paths = [tmp_path / f"{i}" for i in range(MEMBERS)]

    def killed(model):
        raise Killed

    arguments = {"checkpoints": paths, "checkpoint_seconds": 0.0}
    members = members_of(method, optimization, options=options)
    with pytest.raises(Killed):
        fit_ensemble(**members, frame_epochs=(4,), draws=[killed] * MEMBERS, **arguments)
    if lost:
        paths[1].write_bytes(b"damaged")
    again = members_of(method, optimization, options=options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = fit_ensemble(**again, **arguments)
    assert any("is not used" in str(warning.message) for warning in caught) == lost
    for ours, result, model, trained in zip(again["models"], found, whole["models"], expected, strict=True):
        torch.testing.assert_close(result.loss, trained.loss, **({} if lost else {"rtol": 0, "atol": 0}))
        assert result.steps == trained.steps
        assert_same(model, ours, **(close if lost else {}))


def test_the_plain_loop_goes_on_from_a_member(tmp_path):
    members, optimization = members_of("nrae_q", Optimization(4, 8)), Optimization(4, 8)
    paths = [tmp_path / f"{i}" for i in range(MEMBERS)]

    def ask_to_stop(model):
        stop_event.set()

    try:
        with pytest.raises(Interrupted):
            fit_ensemble(**members, checkpoints=paths, frame_epochs=(2,), draws=[ask_to_stop] * MEMBERS)
    finally:
        stop_event.clear()
    # Nothing of the other members is in a member's file.
    assert paths[0].stat().st_size < 1.2 * min(path.stat().st_size for path in paths)
    fresh = members_of("nrae_q", optimization)
    models, _ = plain(fresh)
    for i in range(MEMBERS):
        fit(*(fresh[name][i] for name in fresh), checkpoint=paths[i])
        assert_same(models[i], fresh["models"][i], **close)


# ------------------------------------------------------------------------------------------------- who trains together


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("architecture", {"models": lambda: methods.get("ae").objective.build(Network((16, 17), 2), (3,), 0).double()}),
        ("objective", {"objectives": lambda: methods.get("ae+mmd").objective}),
        ("objective", {"objectives": lambda: methods.get("cae").configure(contraction_weight=0.0)}),
        ("shape of the data", {"data": lambda: data_of(0, POINTS + 1)}),
        ("optimization", {"optimizations": lambda: Optimization(3, 8)}),
    ],
)
def test_members_that_do_not_fit_together_are_refused(what, change):
    members = members_of("cae", Optimization(2, 8))
    ((name, value),) = change.items()
    members[name][1] = value()
    with pytest.raises(ValueError, match=f"agree in their {what}"):
        fit_ensemble(**members)


def run(method="nrae_l", seed=0, hidden=(16,), epochs=5, noise=0.1, lr=1e-3, **options):
    return Run(
        "sine",
        method,
        Network(hidden, 1),
        Optimization(epochs, 50, lr),
        seed,
        {"noise": noise},
        options,
        keep="metrics",
    )


def test_groups_hold_what_differs_in_numbers_only():
    runs = [
        run(seed=seed, noise=noise, neighbor_weight=w) for seed in range(2) for noise in (0.1, 0.2) for w in (1.0, 2.0)
    ]
    others = [run("ae", seed=1), run(seed=1, epochs=6), run(seed=1, n_neighbors=3), run(seed=1, hidden=(8,))]
    assert groups([*runs, *others]) == [tuple(runs), *((other,) for other in others)]


def test_groups_are_even_and_no_larger_than_asked_for():
    runs = [run(seed=seed) for seed in range(21)]
    assert [len(group) for group in groups(runs)] == [11, 10]
    assert [len(group) for group in groups(runs, largest=8)] == [7, 7, 7]
    assert [run for group in groups(runs, largest=8) for run in group] == runs
    assert groups(runs[:2]) == [(runs[0],), (runs[1],)], "two are no gain"
    assert {len(group) for group in groups(runs, largest=1)} == {1}


def test_large_networks_train_alone_on_a_cpu():
    runs = [run(seed=seed, hidden=(1024, 1024)) for seed in range(10)]
    assert {len(group) for group in groups(runs)} == {1}


def test_a_weight_of_zero_is_another_structure():
    runs = [run("cae", seed=seed, contraction_weight=weight) for weight in (0.0, 1.0) for seed in range(5)]
    assert [len(group) for group in groups(runs)] == [5, 5]


def test_members_with_and_without_patience_are_what_they_are_alone():
    members = members_of("ae", Optimization(6, POINTS))
    members["optimizations"] = [replace(each, patience=2 * (i > 0)) for i, each in enumerate(members["optimizations"])]
    validation = [None, *(points[:5] for points in members["data"][1:])]
    through = []
    found = fit_ensemble(**members, validation=validation, done=lambda i, result: through.append((i, result)))
    assert found[0].validation == [] and all(len(result.validation) == len(result.loss) for result in found[1:])
    assert dict(through) == dict(enumerate(found))

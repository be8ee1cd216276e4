"""The catalogue: every entry trains, refuses what it does not know, and keeps its promises."""

import pytest
import torch

from nrae_lib import methods
from nrae_lib.losses import point_reconstruction
from nrae_lib.methods import Batch, Neighborhood
from nrae_lib.models import Network
from nrae_lib.training import Optimization, fit

ALL = list(methods.CATALOGUE)
SHAPES = {"vectors": (3,), "images": (1, 6, 6)}


def data_of(shape, count=24, dtype=torch.float32):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def model_of(shape, activation="elu", dtype=torch.float32):
    return Network((16, 12), 2, activation, "sigmoid").build(shape, seed=0).to(dtype)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALL)
def test_three_steps_train_every_parameter(name, kind, dtype):
    model, data = model_of(SHAPES[kind], dtype=dtype), data_of(SHAPES[kind], dtype=dtype)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trained = fit(model, methods.get(name).configure(), data, Optimization(3, 24), seed=0)
    assert torch.isfinite(trained.loss).all()
    assert trained.steps == 3
    for key, value in model.state_dict().items():
        assert torch.isfinite(value).all() and value.dtype == dtype
        assert not torch.equal(value, before[key]), f"{key} did not move"


@pytest.mark.parametrize("name", ALL)
def test_saved_weights_reproduce_outputs_bit_for_bit(name, tmp_path):
    model, data = model_of((3,)), data_of((3,))
    fit(model, methods.get(name).configure(), data, Optimization(2, 8), seed=0)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    loaded = model_of((3,))
    loaded.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(loaded(data), model(data))


@pytest.mark.parametrize("name", ALL)
def test_unknown_option_is_refused_with_the_valid_ones(name):
    method = methods.get(name)
    with pytest.raises(ValueError, match=f"method '{name}' has no option 'lamda'") as refusal:
        method.configure(lamda=1)
    assert all(option in str(refusal.value) for option in method.options)


def test_unknown_method_is_refused_with_the_valid_ones():
    with pytest.raises(ValueError, match="unknown method 'nrae_x'") as refusal:
        methods.get("nrae_x")
    assert all(name in str(refusal.value) for name in ALL)


@pytest.mark.parametrize("name", ALL)
def test_search_candidates_are_valid_and_within_one_budget(name):
    method = methods.get(name)
    candidates = method.candidates()
    assert len(candidates) in (1, 16)  # nothing to search, or as many as every other method
    for options in candidates:
        method.configure(**options)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("dae", {"corruption": -0.1}, "corruption"),
        ("dae", {"corruption": float("nan")}, "corruption"),
        ("nrae_l", {"neighbor_weight": -1.0}, "neighbor_weight"),
        ("nrae_l", {"n_neighbors": -1}, "n_neighbors"),
        ("nrae_q", {"neighbors_per_point": 9}, "at most n_neighbors"),
        ("nrae_q", {"neighbors_per_point": 0}, "at least 1"),
        ("nrae_q", {"weighting": "mean"}, "choose one of sample, equation"),
        ("nrae_l", {"n_neighbors": "3"}, "must be of type int, not '3'"),
        ("nrae_l", {"n_neighbors": 2.5}, "must be of type int"),
        ("nrae_l", {"neighbor_weight": "1"}, "must be of type float"),
        ("nrae_l", {"replace": "yes"}, "must be of type bool"),
        ("dae", {"corruption": True}, "must be of type float"),
    ],
)
def test_values_out_of_range_are_refused(name, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        methods.get(name).configure(**options)


def loss_and_gradients(reconstruction, model, data, index=None, seed=0):
    batch = Batch(data, index, reconstruction.prepare(data), torch.Generator().manual_seed(seed))
    loss = reconstruction.loss(model, batch)
    return loss, torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_whole_batch_shortcut_equals_the_plain_path(order):
    """With all points in the batch the neighbours' codes are looked up instead of computed again."""
    model, data = model_of((3,), dtype=torch.float64), data_of((3,), dtype=torch.float64)
    reconstruction = Neighborhood(order, neighbors_per_point=2)
    fast, fast_gradients = loss_and_gradients(reconstruction, model, data)
    plain, plain_gradients = loss_and_gradients(reconstruction, model, data, torch.arange(len(data)))
    torch.testing.assert_close(fast, plain)
    for ours, theirs in zip(fast_gradients, plain_gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", [name for name in ALL if name.startswith("nrae")])
def test_without_neighbours_nrae_is_the_autoencoder(name):
    """k = 0 leaves N(x) = {x} (paper, section 2.1, condition i)."""
    model, data = model_of((3,)), data_of((3,))
    ours, ours_gradients = loss_and_gradients(methods.get(name).configure(n_neighbors=0), model, data)
    plain, plain_gradients = loss_and_gradients(methods.get("ae").configure(), model, data)
    assert torch.equal(ours, plain)
    assert all(map(torch.equal, ours_gradients, plain_gradients))


@pytest.mark.parametrize("name", [name for name in ALL if name.startswith("nrae")])
def test_with_lambda_zero_nrae_trains_the_autoencoder(name):
    """K = δ (condition ii) leaves a constant factor 1/2, which Adam ignores up to its ε (steps here are 1e-3)."""
    data = data_of((3,)).double()
    models = [model_of((3,)).double() for _ in range(2)]
    fit(models[0], methods.get(name).configure(neighbor_weight=0.0), data, Optimization(3, 24), seed=0)
    fit(models[1], methods.get("ae").configure(), data, Optimization(3, 24), seed=0)
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_relu_with_linear_output_trains_q_and_l_to_the_same_weights():
    weights = []
    for name in ("nrae_l", "nrae_q"):
        model = Network((16, 12), 1, "relu", "linear").build((2,), seed=0)
        fit(model, methods.get(name).configure(), data_of((2,)), Optimization(5, 8), seed=0)
        weights.append(list(model.parameters()))
    assert all(map(torch.equal, *weights))


def test_dae_reconstructs_the_uncorrupted_point_from_a_corrupted_one():
    model, data = model_of((3,)), data_of((3,))
    reconstruction = methods.get("dae").configure(corruption=0.3)
    ours, _ = loss_and_gradients(reconstruction, model, data, seed=5)
    noise = torch.empty_like(data).normal_(generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(ours, point_reconstruction(data, model(data + 0.3 * noise)))
    none, _ = loss_and_gradients(methods.get("dae").configure(corruption=0.0), model, data)
    assert torch.equal(none, loss_and_gradients(methods.get("ae").configure(), model, data)[0])


def test_training_sees_every_neighbour_and_only_neighbours():
    data = data_of((3,))
    reconstruction = methods.get("nrae_l").configure(n_neighbors=2)
    graph = reconstruction.prepare(data)
    seen = set()

    class Spy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = torch.nn.Linear(3, 2)
            self.decoder = torch.nn.Linear(2, 3)

    model, generator = Spy(), torch.Generator().manual_seed(0)
    model.encoder.register_forward_hook(lambda _, inputs, __: seen.update(map(tuple, inputs[0][1:].tolist())))
    for _ in range(40):
        reconstruction.loss(model, Batch(data, torch.tensor([3]), graph, generator))
    assert seen == {tuple(data[j].tolist()) for j in graph[3]}

"""The training loop: reproducible, resumable bit for bit, and clear about what went wrong."""

import io
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from tests.test_runs import ROOT
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from nrae_lib import ensemble
from nrae_lib.core import files, methods
from nrae_lib.core.feed import Streamed
from nrae_lib.core.methods import Batch, Preparation
from nrae_lib.core.models import Network
from nrae_lib.core.training import Diverged, Optimization, checkpoints, fit, loop, steps

DATA = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))


def train(name="nrae_q", epochs=12, batch_size=8, seed=0, data=DATA, learning_rate=1e-3, settings=None, **arguments):
    # PHATE's default of five neighbours is more than the graph of 20 points can do without; gae is to refresh here.
    objective = methods.get(name).configure(**({"refresh_epochs": 3} if name == "gae" else {}))
    model = objective.build(Network((16,), 1, "elu"), (2,), seed=0)
    optimization = Optimization(
        epochs, batch_size, learning_rate, **{"decay_start": 0.5, "decay_every": 2} | (settings or {})
    )
    return model, fit(model, objective, data, optimization, seed, **arguments)


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("name", methods.CATALOGUE)
@pytest.mark.parametrize("batch_size", [8, 20])
def test_same_seed_bitwise_same_result(name, batch_size):
    (first, trained), (again, retrained) = train(name, batch_size=batch_size), train(name, batch_size=batch_size)
    assert torch.equal(weights(first), weights(again))
    assert torch.equal(trained.loss, retrained.loss)


def test_other_seed_other_result():
    assert not torch.equal(weights(train(seed=0)[0]), weights(train(seed=1)[0]))


def test_the_global_random_state_is_neither_used_nor_changed():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = weights(train()[0])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(weights(train()[0]), first)


def test_loss_falls_and_is_the_mean_over_all_points():
    _, trained = train("ae", epochs=300)
    assert trained.loss[-1] < 0.5 * trained.loss[0]
    model = Network((16,), 1, "elu").build((2,), seed=0)
    _, first = train("ae", epochs=1, batch_size=20)
    torch.testing.assert_close(first.loss[0], (model(DATA) - DATA).square().mean())
    # batches of 8, 8 and 4 points, with a step too small to matter: still the mean over points
    _, uneven = train("ae", epochs=1, batch_size=8, learning_rate=1e-12)
    torch.testing.assert_close(uneven.loss[0], first.loss[0])


@pytest.mark.parametrize(("count", "sizes"), [(20, [8, 8, 4]), (17, [8, 9]), (16, [8, 8]), (9, [9])])
def test_no_batch_is_left_with_a_single_point(count, sizes):
    bounds = loop.batch_bounds(count, 8)
    assert [end - start for start, end in bounds] == sizes
    assert [index for start, end in bounds for index in range(start, end)] == list(range(count))
    assert loop.batch_bounds(3, 1) == [(0, 1), (1, 2), (2, 3)]


def test_learning_rate_schedule_of_the_released_code():
    schedule = Optimization(2000, 32, 1e-3, decay_start=0.8, decay_every=10, decay_factor=0.9)
    assert schedule.rate(0) == schedule.rate(1609) == 1e-3
    assert schedule.rate(1610) == pytest.approx(9e-4)
    assert schedule.rate(1999) == pytest.approx(1e-3 * 0.9**39)
    assert Optimization(10, 4, 0.5).rate(9) == 0.5


def test_cosine_schedule_starts_at_the_full_rate_and_ends_at_zero():
    schedule = Optimization(100, 32, 2e-3, decay="cosine", decay_start=0.2)
    assert schedule.rate(0) == schedule.rate(20) == 2e-3
    assert schedule.rate(60) == pytest.approx(1e-3)
    assert 0 < schedule.rate(99) < 1e-5
    # the same as PyTorch's own
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], 2e-3)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 80)
    for epoch in range(20, 100):
        assert schedule.rate(epoch) == pytest.approx(torchs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        torchs.step()


def draw(model):
    with torch.no_grad():
        return model(DATA[:2])


class Killed(BaseException):
    """Stands for a signal: not an Exception, so nothing may swallow it."""


# gae changes its graph during training, eae has running statistics, topoae learns a scalar beside the network.
@pytest.mark.parametrize("name", ["nrae_q", "gae", "eae", "topoae"])
@pytest.mark.parametrize("batch_size", [8, 20])
@pytest.mark.parametrize("die_at", [2, 5, 9])
def test_resumed_equals_uninterrupted_bit_for_bit(die_at, batch_size, name, tmp_path):
    frames = (0, 3, 6, 12)
    whole, uninterrupted = train(name, batch_size=batch_size, frame_epochs=frames, draw=draw)

    checkpoint, calls = tmp_path / "state", []

    def dying(model):
        calls.append(None)
        if len(calls) > die_at:
            raise Killed
        return draw(model)

    every = tuple(range(13))  # recorded each epoch only so that the callback can die in the middle
    with pytest.raises(Killed):
        train(name, batch_size=batch_size, frame_epochs=every, draw=dying, checkpoint=checkpoint, checkpoint_seconds=0)
    drawn = []
    resumed, rest = train(
        name, batch_size=batch_size, frame_epochs=every,
        draw=lambda model: drawn.append(None) or draw(model),
        checkpoint=checkpoint,
    )  # fmt: skip
    assert len(drawn) == 13 - die_at, "it started from the beginning"
    assert torch.equal(weights(resumed), weights(whole))
    assert torch.equal(rest.loss, uninterrupted.loss)
    assert rest.steps == uninterrupted.steps
    assert len(rest.frames) == 13
    for epoch, frame in zip(frames, uninterrupted.frames, strict=True):
        assert torch.equal(rest.frames[epoch], frame)


def interrupted(checkpoint):
    """A checkpoint after some of the epochs of ``train()``."""

    def dying(model):
        if checkpoint.exists():
            raise Killed
        return draw(model)

    with pytest.raises(Killed):
        train(frame_epochs=tuple(range(13)), draw=dying, checkpoint=checkpoint, checkpoint_seconds=0)


@pytest.mark.parametrize("damage", ["half", "flipped", "empty", "other device", "other network"])
def test_unusable_checkpoint_starts_from_the_beginning_with_one_warning(damage, tmp_path):
    whole, _ = train()
    checkpoint = tmp_path / "state"
    interrupted(checkpoint)
    content = checkpoint.read_bytes()
    middle = len(content) // 2
    if damage.startswith("other"):
        state = torch.load(io.BytesIO(files.unseal(content)), weights_only=True)
        if damage == "other device":
            state["device"] = "cuda"
        else:
            state["model"]["decoder.2.bias"] = torch.zeros(7)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = files.seal(buffer.getvalue())
    else:
        content = {"half": content[:middle], "empty": b"",
                   "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]}[damage]  # fmt: skip
    checkpoint.write_bytes(content)
    with pytest.warns(UserWarning, match="is not used") as warned:
        again, _ = train(checkpoint=checkpoint)
    assert len(warned) == 1
    assert torch.equal(weights(again), weights(whole))


def test_a_full_disk_does_not_end_the_training(tmp_path, monkeypatch):
    whole, _ = train()

    def full_disk(path, content):
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoints, "write_atomically", full_disk)
    with pytest.warns(UserWarning, match="could not be written: no space left"):
        again, _ = train(checkpoint=tmp_path / "state", checkpoint_seconds=0)
    assert torch.equal(weights(again), weights(whole))


def test_every_epoch_trains_at_its_rate(monkeypatch):
    rates = []
    original = steps.step

    def recording(objective, batch, prepared, optimizer, *rest):
        rates.append(optimizer.param_groups[0]["lr"])
        return original(objective, batch, prepared, optimizer, *rest)

    monkeypatch.setattr(loop, "step", recording)
    train("ae", batch_size=20)
    schedule = Optimization(12, 20, 1e-3, decay_start=0.5, decay_every=2)
    assert rates == [schedule.rate(epoch) for epoch in range(12)] and len(set(rates)) == 3


def test_an_explosion_in_the_very_last_step_is_noticed():
    with pytest.raises(FloatingPointError, match="no longer finite"):
        train("ae", epochs=1, batch_size=20, learning_rate=1e38)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (torch.zeros(0, 2), "training data is empty"),
        (torch.tensor([[0.0, 1.0], [float("nan"), 1.0], [2.0, 2.0]]), "NaN or infinite values in 1 of 3"),
        (torch.zeros(4, 2), "between 1 and 3 for 4 points, not 5"),
        (torch.zeros(1, 2), "only one"),
    ],
)
def test_impossible_data_stop_with_one_sentence(data, sentence):
    with pytest.raises(ValueError, match=sentence):
        train("nrae_l", data=data)


def test_exploding_loss_names_the_epoch_and_the_term():
    with pytest.raises(FloatingPointError, match=r"no longer finite from epoch .* 'reconstruction' broke first"):
        train("ae", epochs=50, learning_rate=1e30)


class Fuse:
    """A generator-free way to break one term in one step: its loss becomes ``value`` at the given call."""

    def __init__(self, monkeypatch, term, at, value):
        self.calls, original = 0, type(term).loss

        def loss(this, batch, prepared):
            self.calls += 1
            return original(this, batch, prepared) * (value if self.calls == at else 1.0)

        monkeypatch.setattr(type(term), "loss", loss)


@pytest.mark.parametrize(("value", "sentence"), [(float("nan"), "is no longer finite"), (1e25, "exploded")])
def test_a_term_that_breaks_is_named_with_step_and_last_good_checkpoint(value, sentence, monkeypatch, tmp_path):
    Fuse(monkeypatch, methods.MMD(), 8, value)  # epochs of three steps: the second step of the third epoch
    checkpoint = tmp_path / "state"
    with pytest.raises(Diverged, match=sentence) as caught:
        train("wae", checkpoint=checkpoint, checkpoint_seconds=0)
    error = caught.value
    assert (error.epoch, error.step, error.term, error.checkpoint) == (3, 8, "mmd", checkpoint)
    assert str(checkpoint) in str(error) and "'mmd'" in str(error)
    state = checkpoints.load(checkpoint, torch.device("cpu"))
    assert (state["epoch"], state["position"]) == (2, 1), "it is the last one before the explosion"
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_without_a_checkpoint_none_is_named(monkeypatch):
    Fuse(monkeypatch, methods.MMD(), 8, float("nan"))
    with pytest.raises(Diverged) as caught:
        train("wae")
    assert (caught.value.epoch, caught.value.step, caught.value.term, caught.value.checkpoint) == (3, 8, "mmd", None)
    assert "checkpoint" not in str(caught.value)


def errors_as(monkeypatch, errors):
    """Let the validation errors of the epochs be ``errors``."""
    given = iter(errors)
    monkeypatch.setattr(loop.Training, "_error", lambda self: next(given))


@pytest.mark.parametrize(
    ("errors", "stops_after"),
    [
        ([5, 4, 5, 6, 7], 5),  # three rises in a row
        ([5, 6, 7, 6, 7, 8, 9], 7),  # a fall in between starts the count again
        ([5, 6, 7, 7, 8, 9, 9, 8], 8),  # standing still is no rise
        ([8, 7, 6, 5, 4, 3, 2, 1], 8),
    ],
)
def test_training_stops_after_rises_in_a_row_and_has_the_best_weights(errors, stops_after, monkeypatch):
    errors_as(monkeypatch, errors)
    seen = []
    model, trained = train(
        "ae", epochs=8, settings={"patience": 3}, validation=DATA,
        frame_epochs=tuple(range(1, 9)), draw=lambda model: weights(model).clone(),
    )  # fmt: skip
    seen = trained.frames
    assert len(trained.loss) == len(seen) == len(trained.validation) == stops_after
    assert trained.best_epoch == errors.index(min(errors)) + 1
    assert torch.equal(weights(model), seen[trained.best_epoch - 1])


def test_the_validation_error_is_the_mean_squared_error_and_changes_no_training():
    held_out = torch.randn(7, 2, generator=torch.Generator().manual_seed(1))
    frames = []

    def draw(model):
        with torch.no_grad():
            frames.append(float((model(held_out) - held_out).square().mean()))
        return weights(model).clone()

    every = tuple(range(1, 13))
    _, watched = train("wae", validation=held_out, frame_epochs=every, draw=draw)
    assert watched.validation == pytest.approx(frames, rel=1e-6)
    _, alone = train("wae", frame_epochs=every, draw=draw)
    assert torch.equal(watched.loss, alone.loss)
    assert torch.equal(torch.stack(watched.frames), torch.stack(alone.frames))


def test_patience_needs_validation_data():
    with pytest.raises(ValueError, match="needs validation data"):
        train(settings={"patience": 3})


@pytest.mark.parametrize("die_at", [3, 7])
def test_early_stopping_resumes_exactly(die_at, monkeypatch, tmp_path):
    errors = [9, 8, 9, 7, 6, 7, 8, 9, 10, 11]
    errors_as(monkeypatch, errors)
    whole, uninterrupted = train("ae", settings={"patience": 3}, validation=DATA)
    given = iter(errors)

    def dying(self):
        value = next(given)
        if len(self.trained.validation) == die_at:
            raise Killed
        return value

    monkeypatch.setattr(loop.Training, "_error", dying)
    arguments = dict(checkpoint=tmp_path / "state", checkpoint_seconds=0)
    with pytest.raises(Killed):
        train("ae", settings={"patience": 3}, validation=DATA, **arguments)
    errors_as(monkeypatch, errors[die_at:])
    resumed, rest = train("ae", settings={"patience": 3}, validation=DATA, **arguments)
    assert rest.validation == uninterrupted.validation == errors[:8] and rest.best_epoch == 5
    assert torch.equal(weights(resumed), weights(whole))


def test_images_of_bytes_train_as_their_fractions():
    images = torch.randint(0, 256, (20, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (bytes_, trained), (floats, expected) = train("wae", data=images), train("wae", data=images / 255)
    assert torch.equal(weights(bytes_), weights(floats))
    assert torch.equal(trained.loss, expected.loss)


@pytest.mark.parametrize("name", methods.CATALOGUE)
def test_streamed_equals_resident_bit_for_bit(name, tmp_path):
    if name in ("grae", "nrgrae_l", "nrgrae_q"):
        pytest.skip("PHATE needs all points at once")
    np.save(tmp_path / "points.npy", DATA.numpy())
    resident, expected = train(name)
    fetched = []

    class Watched(Streamed):
        def ahead(self, *indices):
            fetched.append(indices)
            super().ahead(*indices)

    feed = Watched(np.load(tmp_path / "points.npy", mmap_mode="r"), "cpu")
    assert not feed.resident
    streamed, trained = train(name, data=feed)
    feed.close()
    assert torch.equal(weights(streamed), weights(resident))
    assert torch.equal(trained.loss, expected.loss)
    assert len(fetched) == 12 * 2, "two of three batches of an epoch can be fetched ahead"


def test_a_streamed_training_resumes_exactly_inside_an_epoch(tmp_path):
    """What the next batch has drawn already must not be drawn twice."""
    points, calls = DATA.numpy(), []
    whole, _ = train("nrwae_l")

    class Dying(Streamed):
        def ahead(self, *indices):
            calls.append(None)
            if len(calls) == 8:  # the step before looked ahead, too, and was saved afterwards
                raise Killed
            super().ahead(*indices)

    checkpoint = tmp_path / "state"
    feed = Dying(points, "cpu")
    with pytest.raises(Killed):
        train("nrwae_l", data=feed, checkpoint=checkpoint, checkpoint_seconds=0)
    assert checkpoints.load(checkpoint, torch.device("cpu"))["position"] == 1
    resumed, _ = train("nrwae_l", data=feed, checkpoint=checkpoint)
    feed.close()
    assert len(calls) == 8 + 24 - 7
    assert torch.equal(weights(resumed), weights(whole))


@pytest.mark.parametrize("name", methods.CATALOGUE)
def test_a_step_never_waits_for_the_host(name):
    """On tensors without values whatever reads a value raises; on a GPU it would wait, and could not be captured."""
    objective = methods.get(name).objective
    prepared = objective.prepare(Preparation(DATA, 2, seed=0))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        model = objective.build(Network((8,), 2, "elu"), (2,), seed=0)
        known = tree_map(lambda value: mode.from_tensor(value) if isinstance(value, torch.Tensor) else value, prepared)
        batch = Batch(model, mode.from_tensor(DATA), torch.arange(8), torch.Generator().manual_seed(0))
        optimizer = steps.adam(model, 1e-3)
        record = torch.zeros(len(objective.computed))
        loss = steps.step(objective, batch, known, optimizer, record)
        with pytest.raises(DataDependentOutputException):
            float(loss)


def test_an_approximate_graph_comes_with_its_recall():
    data = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    _, exact = train("nrae_l", data=data, epochs=2)
    done = []
    _, near = train("nrae_l", data=data, epochs=2, approximate_graph=True)
    train("nrae_l", data=data, epochs=1, graph_progress=lambda *counts: done.append(counts))
    assert exact.recalls == {} and done[-1] == (300, 300)
    assert list(near.recalls) == [5] and 0.9 < near.recalls[5] <= 1


def test_large_data_do_not_count_as_an_explosion():
    _, trained = train("ae", data=DATA * 3e6)
    assert trained.loss[0] > 1e12


def test_a_divergence_is_noticed_before_new_neighbours_are_taken_from_it():
    with pytest.raises(Diverged, match="no longer finite from epoch"):
        train("gae", learning_rate=1e30)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(validation=torch.full((3, 2), float("nan"))), "the validation data holds NaN"),
        (dict(validation=torch.zeros(0, 2)), "the validation data is empty"),
        (dict(validation=torch.zeros(3, 5)), r"like the training points, \(2,\) of torch.float32, not \(5,\)"),
        (dict(data=DATA.double()), "the model computes in torch.float32, the data is torch.float64"),
    ],
)
def test_data_that_do_not_fit_stop_with_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        train("ae", **arguments)


@pytest.mark.parametrize("other", [dict(seed=1), dict(batch_size=5), dict(name="nrae_l"), dict(epochs=24)])
def test_a_checkpoint_of_another_training_is_not_used(other, tmp_path):
    interrupted(tmp_path / "state")
    with pytest.warns(UserWarning, match="belongs to another training"):
        again, _ = train(**other, checkpoint=str(tmp_path / "state"))
    assert torch.equal(weights(again), weights(train(**other)[0]))


def test_progress_ends_with_all_epochs(monkeypatch):
    seen = []
    train("ae", progress=lambda done, loss: seen.append((done, len(loss))))
    assert seen[-1] == (12, 12)
    errors_as(monkeypatch, [1, 2, 3, 4])
    train("ae", settings={"patience": 2}, validation=DATA, progress=lambda done, loss: seen.append((done, len(loss))))
    assert seen[-1] == (3, 3)


class Watch(TorchDispatchMode):
    """Notes copies between devices."""

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        if function.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            source = arguments[function.overloadpacket is torch.ops.aten.copy_]
            assert source.device == result.device, f"{function} copies from {source.device} to {result.device}"
        return result


@pytest.mark.parametrize("name", methods.CATALOGUE)
def test_a_step_copies_nothing_from_the_host(name):
    """On the device "meta", of which nothing is computed: what is made on the CPU must not be sent after."""
    objective = methods.get(name).objective
    prepared = objective.prepare(Preparation(torch.randn(70, 3), 2, seed=0))
    model = objective.build(Network((8,), 2, "elu"), (3,), seed=0)
    for module in model.modules():
        for kept in (module._parameters, module._buffers):
            for key, value in kept.items():
                if value is not None:
                    far = torch.empty_like(value, device="meta")
                    kept[key] = nn.Parameter(far) if isinstance(value, nn.Parameter) else far
    far = tree_map(lambda value: value.to("meta") if isinstance(value, torch.Tensor) else value, prepared)
    batch = Batch(model, torch.empty(70, 3, device="meta"), torch.arange(64).to("meta"), None)
    with Watch():
        objective.loss(batch, far).backward()


class FakeGraph:
    """A CUDA graph that runs what was captured again, to test on a CPU what surrounds it."""

    def register_generator_state(self, generator):
        pass

    def replay(self):
        self.run()


@pytest.fixture
def faked_capture(monkeypatch):
    from contextlib import nullcontext
    from types import SimpleNamespace

    stream = SimpleNamespace(wait_stream=lambda other: None)
    cuda = SimpleNamespace(
        Stream=lambda device: stream, current_stream=lambda device: stream, stream=lambda s: nullcontext(),
        device=lambda d: nullcontext(), graph=lambda graph, **rest: nullcontext(), CUDAGraph=FakeGraph,
    )  # fmt: skip
    real, replays = steps.torch, []

    class Torch:
        def __getattr__(self, name):
            return cuda if name == "cuda" else getattr(real, name)

    class Captured(steps.Captured):
        def __init__(self, run, *rest):
            monkeypatch.setattr(FakeGraph, "run", lambda graph: replays.append(None) or run(self.index), raising=False)
            super().__init__(run, *rest)

    monkeypatch.setattr(steps, "torch", Torch())
    original = loop.Training.__init__

    def init(self, *arguments):
        original(self, *arguments)
        self.capture = self.feed.resident

    monkeypatch.setattr(loop.Training, "__init__", init)
    for module in (loop, ensemble):
        monkeypatch.setattr(module, "captured", Captured)
    return replays


@pytest.mark.parametrize("batch_size", [8, 11, 20])
@pytest.mark.parametrize("name", ["nrae_q", "gae", "eae", "nrwae_l"])
def test_what_surrounds_a_captured_step_is_the_plain_loop(name, batch_size, faked_capture, tmp_path, monkeypatch):
    captured_model, trained = train(name, batch_size=batch_size, checkpoint=tmp_path / "state", checkpoint_seconds=0)
    assert len(faked_capture) > 12
    state = checkpoints.load(tmp_path / "state", torch.device("cpu"))
    resumed, rest = train(name, batch_size=batch_size, checkpoint=tmp_path / "state")
    monkeypatch.undo()
    plain, expected = train(name, batch_size=batch_size)
    assert state["epoch"] > 0
    assert torch.equal(weights(captured_model), weights(plain)) and torch.equal(trained.loss, expected.loss)
    assert torch.equal(weights(resumed), weights(plain)) and torch.equal(rest.loss, expected.loss)


def test_bf16_stays_close_to_float32_and_keeps_weights_and_settings():
    flushed = float(torch.tensor(1e-310, dtype=torch.float64) * 1)
    (exact, expected), (rough, trained) = (
        train("nrae_q", epochs=60, settings={"precision": precision}) for precision in ("float32", "bf16")
    )
    assert not torch.equal(weights(rough), weights(exact))
    assert weights(rough).dtype == torch.float32
    torch.testing.assert_close(trained.loss, expected.loss, rtol=0.1, atol=0.01)
    assert float(torch.tensor(1e-310, dtype=torch.float64) * 1) == flushed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(decay="linear"), "unknown decay 'linear': choose one of step, cosine"),
        (dict(precision="fp8"), "unknown precision 'fp8': choose one of tf32, float32, bf16"),
        (dict(patience=-1), "patience must be at least 0"),
    ],
)
def test_unknown_settings_name_the_valid_ones(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Optimization(1, 1, **arguments)


@pytest.mark.parametrize(
    "arguments",
    [dict(epochs=0, batch_size=1), dict(epochs=1, batch_size=0), dict(epochs=1, batch_size=1, learning_rate=0)],
)
def test_impossible_settings_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        Optimization(**arguments)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomically(path, b"old")

    def full_disk(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


IN_BOUNDED_MEMORY = """
import resource, sys
import torch
from nrae_lib.core import feed, methods
from nrae_lib.core.models import Network
from nrae_lib.core.training import Optimization, fit

torch.set_num_threads(1)
objective = methods.get("wae").objective
model = objective.build(Network((4,), 2), (2**15,), seed=0)
optimization = Optimization(2, 64)
fit(model, objective, torch.zeros(64, 2**15), optimization, 0)  # what libraries take once
taken = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (taken + 200 * 2**20, taken + 200 * 2**20))
streamed = feed.feed_of(sys.argv[1], "cpu", budget_bytes=200 * 2**20)
print(fit(model, objective, streamed, optimization, 0).steps)
try:
    feed.Resident(streamed.raw, "cpu")
except RuntimeError as error:
    print("too large to be resident:", error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits on data are Linux's")
def test_training_on_a_file_larger_than_the_memory_allowed(tmp_path):
    count = 2**14
    np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.uint8, (count, 2**15))  # 512 MB, all of it a hole
    done = subprocess.run(
        [sys.executable, "-c", IN_BOUNDED_MEMORY, str(tmp_path / "images.npy")],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    steps_taken, refused = done.stdout.splitlines()
    assert int(steps_taken) == 2 * count // 64
    assert "too large to be resident" in refused, "the limit does not bite"


# ---------------------------------------------------------------- on a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("batch_size", [8, 20])
@pytest.mark.parametrize("name", methods.CATALOGUE)
def test_a_captured_step_is_the_plain_step(name, batch_size):
    """Same draws, same losses; neither a warning that a step could not be captured."""
    results = []
    for capture in (False, True):
        objective = methods.get(name).configure(**({"refresh_epochs": 3} if name == "gae" else {}))
        model = objective.build(Network((16,), 1, "elu"), (2,), seed=0).cuda()
        optimization = Optimization(12, batch_size, decay_start=0.5, decay_every=2, precision="float32")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            results.append((model, fit(model, objective, DATA, optimization, 0, capture=capture)))
    (plain, expected), (model, trained) = results
    torch.testing.assert_close(trained.loss, expected.loss, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(weights(model), weights(plain), rtol=1e-2, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["tf32", "float32", "bf16"])
def test_precision_on_a_gpu_is_put_back_and_close(precision):
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    objective = methods.get("nrae_q").objective
    losses = []
    for device in ("cpu", "cuda"):
        model = objective.build(Network((64, 64), 1, "elu"), (2,), seed=0).to(device)
        trained = fit(model, objective, DATA, Optimization(1, 20, precision=precision), 0)
        losses.append(float(trained.loss[0]))
    assert losses[1] == pytest.approx(losses[0], rel={"float32": 0.2, "tf32": 0.2, "bf16": 0.25}[precision])
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_interrupted_on_a_gpu_goes_on_close_to_uninterrupted(tmp_path):
    def run(checkpoint, epochs):
        objective = methods.get("nrae_q").objective
        model = objective.build(Network((16,), 1, "elu"), (2,), seed=0).cuda()
        return model, fit(
            model, objective, DATA, Optimization(12, 8, precision="float32"), 0, checkpoint=checkpoint,
            checkpoint_seconds=0, frame_epochs=(epochs,) if epochs else (), draw=stop,
        )  # fmt: skip

    def stop(model):
        raise Killed

    whole, _ = run(None, 0)
    with pytest.raises(Killed):
        run(tmp_path / "state", 6)
    resumed, _ = run(tmp_path / "state", 0)
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=1e-2, atol=1e-3)

"""The training loop: reproducible, resumable bit for bit, and clear about what went wrong."""

import io

import pytest
import torch

from nrae_lib import methods, training
from nrae_lib.models import Network
from nrae_lib.training import Optimization, fit

DATA = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))


def train(name="nrae_q", epochs=12, batch_size=8, seed=0, data=DATA, learning_rate=1e-3, **arguments):
    # PHATE's default of five neighbours is more than the graph of 20 points can do without; gae is to refresh here.
    objective = methods.get(name).configure(**({"refresh_epochs": 3} if name == "gae" else {}))
    model = objective.build(Network((16,), 1, "elu"), (2,), seed=0)
    optimization = Optimization(epochs, batch_size, learning_rate, decay_start=0.5, decay_every=2)
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
    batches = training._split(torch.randperm(count), 8)
    assert [len(batch) for batch in batches] == sizes
    assert sorted(torch.cat(batches).tolist()) == list(range(count))
    assert [len(batch) for batch in training._split(torch.arange(3), 1)] == [1, 1, 1]


def test_learning_rate_schedule_of_the_released_code():
    schedule = Optimization(2000, 32, 1e-3, decay_start=0.8, decay_every=10, decay_factor=0.9)
    assert schedule.rate(0) == schedule.rate(1609) == 1e-3
    assert schedule.rate(1610) == pytest.approx(9e-4)
    assert schedule.rate(1999) == pytest.approx(1e-3 * 0.9**39)
    assert Optimization(10, 4, 0.5).rate(9) == 0.5


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
        state = torch.load(io.BytesIO(training.unseal(content)), weights_only=True)
        if damage == "other device":
            state["device"] = "cuda"
        else:
            state["model"]["decoder.2.bias"] = torch.zeros(7)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = training.seal(buffer.getvalue())
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

    monkeypatch.setattr(training, "write_atomically", full_disk)
    with pytest.warns(UserWarning, match="could not be written: no space left"):
        again, _ = train(checkpoint=tmp_path / "state", checkpoint_seconds=0)
    assert torch.equal(weights(again), weights(whole))


def test_every_epoch_trains_at_its_rate(monkeypatch):
    rates = []
    original = training.step

    def recording(objective, batch, prepared, optimizer):
        rates.append(optimizer.param_groups[0]["lr"])
        return original(objective, batch, prepared, optimizer)

    monkeypatch.setattr(training, "step", recording)
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


def test_exploding_loss_names_the_epoch():
    with pytest.raises(FloatingPointError, match="no longer finite from epoch"):
        train("ae", epochs=50, learning_rate=1e30)


@pytest.mark.parametrize(
    "arguments",
    [dict(epochs=0, batch_size=1), dict(epochs=1, batch_size=0), dict(epochs=1, batch_size=1, learning_rate=0)],
)
def test_impossible_settings_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        Optimization(**arguments)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "file"
    training.write_atomically(path, b"old")

    def full_disk(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(training.os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        training.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]

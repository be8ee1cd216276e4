"""The training loop: reproducible, resumable bit for bit, and clear about what went wrong."""

import warnings
from contextlib import suppress
from functools import partial
from itertools import chain, repeat
from types import SimpleNamespace
from unittest.mock import MagicMock, Mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from nrae_lib.core import methods
from nrae_lib.core.methods import Batch, Preparation
from nrae_lib.core.models import Network
from nrae_lib.core.training import Diverged, Optimization, checkpoints, fit, loop, steps

DATA = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
EVERY = tuple(range(13))  # epochs, to look at a training after each
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
each_method = pytest.mark.parametrize("name", methods.CATALOGUE)


def train(name="nrae_q", epochs=12, batch_size=8, seed=0, data=DATA, rate=1e-3, width=16, device="cpu", **more):
    # PHATE's default of five neighbours is more than the graph of 20 points can do without; gae is to refresh here.
    objective = methods.get(name).configure(**({"refresh_epochs": 3} if name == "gae" else {}))
    model = objective.build(Network((width,), 1, "elu"), (2,), seed=0).to(device)
    settings = {"decay_start": 0.5, "decay_every": 2} | more.pop("settings", {})
    return model, fit(model, objective, data, Optimization(epochs, batch_size, rate, **settings), seed, **more)


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def same(one, other):
    return torch.equal(weights(one[0]), weights(other[0])) and torch.equal(one[1].loss, other[1].loss)


@torch.no_grad()
def draw(model):
    return model(DATA[:2].to(next(model.parameters()).device))


class Killed(BaseException):
    """Stands for a signal: not an Exception, so nothing may swallow it."""


def interrupted(checkpoint, after=3, **more):
    """A checkpoint of a training that is killed when it is looked at once more than so often: before it, and each epoch."""
    looks, settings = iter([draw] * after), dict(frame_epochs=EVERY, checkpoint=checkpoint, checkpoint_seconds=0) | more
    with pytest.raises(Killed):
        train(draw=lambda model: next(looks, Mock(side_effect=Killed))(model), **settings)


def test_the_seed_decides_and_the_global_random_state_is_neither_used_nor_changed():
    torch.manual_seed(1)
    state, first = torch.get_rng_state(), train()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert same(train(), first) and not same(train(seed=1), first)


def test_loss_falls_and_is_the_mean_over_all_points():
    _, trained = train("ae", epochs=200, batch_size=20)
    assert trained.loss[-1] < 0.5 * trained.loss[0]
    model = Network((16,), 1, "elu").build((2,), seed=0)
    torch.testing.assert_close(trained.loss[0], (model(DATA) - DATA).square().mean())
    # batches of 8, 8 and 4 points, with a step too small to matter: still the mean over points
    _, uneven = train("ae", epochs=1, batch_size=8, rate=1e-12)
    torch.testing.assert_close(uneven.loss[0], trained.loss[0])


def test_learning_rate_schedules_are_those_of_the_released_code_and_of_pytorch(monkeypatch):
    schedule = Optimization(2000, 32, 1e-3, decay_start=0.8, decay_every=10, decay_factor=0.9)
    assert schedule.rate(0) == schedule.rate(1609) == 1e-3
    assert schedule.rate(1610) == pytest.approx(9e-4) and schedule.rate(1999) == pytest.approx(1e-3 * 0.9**39)
    cosine = Optimization(100, 32, 2e-3, decay="cosine", decay_start=0.2)
    optimizer = torch.optim.SGD([torch.zeros(1)], 2e-3)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 80)
    for epoch in range(20, 100):
        assert cosine.rate(epoch) == pytest.approx(torchs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        torchs.step()
    assert cosine.rate(0) == 2e-3 and Optimization(10, 4, 0.5).rate(9) == 0.5
    rates = []
    monkeypatch.setattr(loop, "step", lambda *a: rates.append(a[3].param_groups[0]["lr"]) or steps.step(*a))
    train("ae", batch_size=20)
    schedule = Optimization(12, 20, 1e-3, decay_start=0.5, decay_every=2)
    assert rates == [schedule.rate(epoch) for epoch in range(12)] and len(set(rates)) == 3


# gae changes its graph during training, eae has running statistics, topoae learns a scalar beside the network.
@pytest.mark.parametrize("name", ["nrae_q", "gae", "eae", "topoae"])
@pytest.mark.parametrize("batch_size", [8, 20])
@pytest.mark.parametrize("die_at", [2, 5, 9])
def test_resumed_equals_uninterrupted_bit_for_bit(die_at, batch_size, name, tmp_path):
    frames, looks, settings = (0, 3, 6, 12), Mock(side_effect=draw), dict(name=name, batch_size=batch_size)
    whole = train(frame_epochs=frames, draw=draw, **settings)
    interrupted(tmp_path / "state", die_at, **settings)
    resumed = train(frame_epochs=EVERY, draw=looks, checkpoint=str(tmp_path / "state"), **settings)
    assert looks.call_count == 13 - die_at, "it started from the beginning"
    assert same(resumed, whole) and resumed[1].steps == whole[1].steps and len(resumed[1].frames) == 13
    assert all(torch.equal(resumed[1].frames[at], frame) for at, frame in zip(frames, whole[1].frames, strict=True))


OTHERS = [
    dict(seed=1),
    dict(batch_size=5),
    dict(name="nrae_l"),
    dict(epochs=24),
    dict(width=8),
    dict(data=DATA[1:]),
    dict(data=DATA.flip(0)),
]


@pytest.mark.parametrize("damage", ["cut off", "other device", *OTHERS])
def test_an_unusable_checkpoint_starts_from_the_beginning_with_one_warning(damage, tmp_path):
    checkpoint, other = tmp_path / "state", damage if isinstance(damage, dict) else {}
    interrupted(checkpoint)
    if damage == "cut off":  # tests/core/test_files.py tells every other damage
        checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    elif damage == "other device":
        state = checkpoints.load(checkpoint, torch.device("cpu"))
        checkpoints.save(checkpoint, state | {"what": state["what"].replace("'cpu'", "'cuda'")})
    why = "checksum" if damage == "cut off" else "belongs to another training"
    with pytest.warns(UserWarning, match=rf"is not used \(.*{why}") as warned:
        again = train(**other, checkpoint=checkpoint)
    assert len(warned) == 1 and same(again, train(**other))


def test_a_full_disk_does_not_end_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "write_atomically", lambda *_: (tmp_path / "no folder" / "file").touch())
    with pytest.warns(UserWarning, match="could not be written: .* No such file"):
        again = train(checkpoint=tmp_path / "state", checkpoint_seconds=0)
    assert same(again, train())


@pytest.mark.parametrize(("value", "sentence"), [(float("nan"), "is no longer finite"), (1e25, "exploded")])
@pytest.mark.parametrize("saves", [True, False])
def test_a_term_that_breaks_is_named_with_step_and_last_good_checkpoint(saves, value, sentence, monkeypatch, tmp_path):
    factors, original = chain([1.0] * 7, [value], repeat(1.0)), methods.MMD.loss  # in the third epoch of three steps
    monkeypatch.setattr(methods.MMD, "loss", lambda *given: original(*given) * next(factors))
    checkpoint = tmp_path / "state" if saves else None
    with pytest.raises(Diverged, match=sentence) as caught:
        train("wae", checkpoint=checkpoint, checkpoint_seconds=0)
    error = caught.value
    assert (error.epoch, error.step, error.term, error.checkpoint) == (3, 8, "mmd", checkpoint)
    assert "'mmd'" in str(error) and (f"checkpoint is {checkpoint}" in str(error)) == saves
    if saves:
        state = checkpoints.load(checkpoint, torch.device("cpu"))
        assert (state["epoch"], state["position"]) == (2, 1), "it is the last one before the explosion"
        assert all(torch.isfinite(value).all() for value in state["model"].values())


WRONG = {
    "training data is empty": dict(data=DATA[:0]),
    "the validation data holds NaN or infinite values in 20 of 20 points": dict(validation=DATA / 0),
    r"like the training points, \(2,\) of torch.float32, not \(5,\)": dict(validation=torch.zeros(3, 5)),
    r"like the training points, .* of torch.float32, not .* of torch.float64": dict(validation=DATA.double()),
    "the model computes in torch.float32, the data is torch.float64": dict(data=DATA.double()),
    "patience .* needs validation data": dict(settings=dict(patience=3)),
    "unknown decay 'linear': choose one of step, cosine": dict(settings=dict(decay="linear")),
    "unknown precision 'fp8': choose one of tf32, float32, bf16": dict(settings=dict(precision="fp8")),
    "epochs must be a finite number >= 1, not 0": dict(epochs=0),
    "learning_rate must be a finite number > 0, not inf": dict(rate=float("inf")),
    "decay_start must be a finite number >= 0 and <= 1, not 1.5": dict(settings=dict(decay_start=1.5)),
    "decay_factor must be a finite number > 0 and <= 1, not 0": dict(settings=dict(decay_factor=0)),
    r"no longer finite from epoch .* 'reconstruction' broke first": dict(name="ae", epochs=50, rate=1e30),
    "the weights are no longer finite": dict(name="ae", epochs=1, batch_size=20, rate=1e38),  # in the last step
    "no longer finite from epoch": dict(name="gae", rate=1e30),  # before new neighbours are taken from it
}


@pytest.mark.parametrize("sentence", WRONG)
def test_what_is_wrong_is_said_in_one_sentence(sentence):
    with pytest.raises(FloatingPointError if "longer finite" in sentence else ValueError, match=sentence):
        train(**WRONG[sentence])


# Three rises in a row; a fall in between starts the count again; standing still is no rise; no rise at all.
@pytest.mark.parametrize(("stops_after", "errors"), [(5, "54567"), (7, "5676789"), (8, "56778998"), (8, "87654321")])
def test_training_stops_after_rises_in_a_row_with_the_best_weights_and_resumes(
    stops_after, errors, monkeypatch, tmp_path
):
    seen, watched = [], dict(validation=DATA, frame_epochs=EVERY, draw=lambda model: weights(model).clone())

    def stopped(part, **more):
        monkeypatch.setattr(loop.Training, "_error", Mock(side_effect=[*map(int, part), Killed]))
        return train("ae", epochs=8, settings={"patience": 3}, **watched, **more)

    whole = model, trained = stopped(errors, progress=lambda done, loss: seen.append((done, len(loss))))
    assert seen[-1] == (stops_after, stops_after)
    assert len(trained.loss) == len(trained.frames) - 1 == len(trained.validation) == stops_after
    assert trained.best_epoch == errors.index(min(errors)) + 1
    assert torch.equal(weights(model), trained.frames[trained.best_epoch])
    saves = dict(checkpoint=tmp_path / "state", checkpoint_seconds=0)
    with pytest.raises(Killed):
        stopped(errors[:3], **saves)
    resumed = stopped(errors[3:], **saves)
    assert same(resumed, whole) and resumed[1].validation == trained.validation
    assert resumed[1].best_epoch == trained.best_epoch


def test_the_validation_error_is_the_mean_squared_error_and_changes_no_training():
    held_out = torch.randn(7, 2, generator=torch.Generator().manual_seed(1))

    def look(model):
        return torch.cat([(model(held_out) - held_out).square().mean().detach()[None], weights(model)])

    _, watched = train("wae", validation=held_out, frame_epochs=EVERY[1:], draw=look)
    assert watched.validation == pytest.approx([float(frame[0]) for frame in watched.frames], rel=1e-6)
    _, alone = train("wae", frame_epochs=EVERY[1:], draw=look)
    assert torch.equal(watched.loss, alone.loss) and all(map(torch.equal, watched.frames, alone.frames))


def test_images_of_bytes_train_as_their_fractions_and_large_data_is_no_explosion():
    images = torch.randint(0, 256, (20, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert same(train("wae", data=images), train("wae", data=(images / 255).numpy()))
    assert train("ae", data=DATA * 3e6)[1].loss[0] > 1e12


class RefuseCopiesBetweenDevices(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        if function.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            source = arguments[function.overloadpacket is torch.ops.aten.copy_]
            assert source.device == result.device, f"{function} copies from {source.device} to {result.device}"
        return result


@each_method
@pytest.mark.parametrize("size", [8, 64])
def test_a_step_neither_waits_for_the_host_nor_copies_from_it(size, name):
    """On the device "meta", which has no values, whatever reads one raises, and what comes from the CPU shows."""
    objective = methods.get(name).objective
    prepared = objective.prepare(Preparation(points := torch.randn(70, 3), 2, seed=0))
    model = objective.build(Network((8,), 2, "elu"), (3,), seed=0).to("meta")
    parts = (prepared, points, torch.arange(size), torch.zeros(len(objective.computed)))
    prepared, points, index, record = tree_map_only(torch.Tensor, lambda value: value.to("meta"), parts)
    optimizer = torch.optim.SGD(model.parameters())
    with RefuseCopiesBetweenDevices():
        loss = steps.step(objective, Batch(model, points, index, None), prepared, optimizer, record)
    with pytest.raises(RuntimeError, match="meta tensors"):
        float(loss)


@pytest.fixture
def faked_capture(monkeypatch):
    """CUDA graphs that run what was captured again, to test on a CPU what surrounds them; gives the list of replays."""
    cuda, replays, original = MagicMock(), [], loop.Training.__init__

    class Captured(steps.Captured):
        def __init__(self, run, *rest):
            cuda.CUDAGraph.return_value.replay = lambda: replays.append(None) or run(self.index)
            super().__init__(run, *rest)

    def init(self, *arguments):
        original(self, *arguments)
        self.capture = True

    monkeypatch.setattr(steps, "torch", SimpleNamespace(**vars(torch) | {"cuda": cuda}))
    monkeypatch.setattr(loop.Training, "__init__", init)
    monkeypatch.setattr(loop, "Captured", Captured)
    return replays


@pytest.mark.parametrize("batch_size", [8, 11, 20])
@pytest.mark.parametrize("name", ["nrae_q", "gae", "eae", "nrwae_l"])
def test_what_surrounds_a_captured_step_is_the_plain_loop(name, batch_size, faked_capture, tmp_path, monkeypatch):
    captured = train(name, batch_size=batch_size, checkpoint=tmp_path / "state", checkpoint_seconds=0)
    assert len(faked_capture) > 12
    assert checkpoints.load(tmp_path / "state", torch.device("cpu"))["epoch"] > 0
    resumed = train(name, batch_size=batch_size, checkpoint=tmp_path / "state")
    monkeypatch.setattr(loop, "Captured", Mock(side_effect=RuntimeError("no")))
    with pytest.warns(UserWarning, match="is not captured as a CUDA graph and runs slower: no"):
        plain = train(name, batch_size=batch_size)
    monkeypatch.undo()
    assert all(same(other, train(name, batch_size=batch_size)) for other in (captured, resumed, plain))


def test_bf16_stays_close_to_float32_and_keeps_its_weights():
    exact, rough = (train("nrae_q", epochs=40, settings={"precision": precision}) for precision in ("float32", "bf16"))
    assert not torch.equal(weights(rough[0]), weights(exact[0])) and weights(rough[0]).dtype == torch.float32
    torch.testing.assert_close(rough[1].loss, exact[1].loss, rtol=0.1, atol=0.01)


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="this PyTorch has one interface only")
@pytest.mark.parametrize("interface", ["none", "older", "newer", "older and newer"])
def test_settings_are_put_back_whichever_interface_set_them(interface, request):
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    for part in (matmul, cudnn.conv, cudnn.rnn, torch.backends.mkldnn.matmul):
        request.addfinalizer(partial(setattr, part, "fp32_precision", part.fp32_precision))
    request.addfinalizer(partial(setattr, cudnn, "allow_tf32", cudnn.allow_tf32))
    request.addfinalizer(partial(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()))

    def state():
        """What the process may do in TF32, as both interfaces of PyTorch tell, and subnormal numbers."""
        flushes = float(torch.tensor(1e-310, dtype=torch.float64) * 1) == 0
        found = [matmul.fp32_precision, cudnn.conv.fp32_precision, flushes]
        for older in (torch.get_float32_matmul_precision, lambda: cudnn.allow_tf32):
            with suppress(RuntimeError):  # where the newer interface was used
                found.append(older())
        return found

    if "older" in interface:
        torch.set_float32_matmul_precision("medium")
        cudnn.allow_tf32 = False
    if "newer" in interface:
        matmul.fp32_precision, cudnn.conv.fp32_precision = (
            ("ieee", "tf32") if "older" in interface else ("tf32", "ieee")
        )
    before = state()
    assert (len(before) < 5) == ("newer" in interface)
    for device, precision in (("cpu", "tf32"), ("cuda", "tf32"), ("cuda", "float32")):
        with pytest.raises(KeyboardInterrupt), Optimization(1, 1, precision=precision).numerics(torch.device(device)):
            expected = ["tf32" if precision == "tf32" else "ieee"] * 2 if device == "cuda" else before[:2]
            assert state()[:3] == [*expected, True]
            raise KeyboardInterrupt
        assert state() == before


@needs_cuda
@each_method
@pytest.mark.parametrize("batch_size", [8, 20])
def test_a_captured_step_is_the_plain_step(batch_size, name, monkeypatch):
    """Same draws, same losses; neither a warning that a step could not be captured."""
    settings = dict(batch_size=batch_size, device="cuda", settings={"precision": "float32"})
    with warnings.catch_warnings(action="error"):
        model, trained = train(name, **settings)
    monkeypatch.setattr(loop, "Captured", Mock(side_effect=RuntimeError("no")))
    with pytest.warns(UserWarning, match="is not captured"):
        plain, expected = train(name, **settings)
    torch.testing.assert_close(trained.loss, expected.loss, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(weights(model), weights(plain), rtol=1e-2, atol=1e-3)


@needs_cuda
@pytest.mark.parametrize(("precision", "tolerance"), [("tf32", 0.2), ("float32", 0.2), ("bf16", 0.25)])
def test_a_gpu_is_close_to_the_cpu_and_resumes_close_to_uninterrupted(precision, tolerance, tmp_path):
    settings = dict(batch_size=20, width=64, settings={"precision": precision})
    whole, on_cpu = train(device="cuda", **settings), train(**settings)
    assert float(whole[1].loss[0]) == pytest.approx(float(on_cpu[1].loss[0]), rel=tolerance)
    interrupted(tmp_path / "state", device="cuda", **settings)
    resumed = train(device="cuda", checkpoint=tmp_path / "state", **settings)
    torch.testing.assert_close(weights(resumed[0]), weights(whole[0]), rtol=1e-2, atol=1e-3)

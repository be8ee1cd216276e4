"""Views: what a result holds beside its errors; and trained weights beside the results."""

from math import pi

import numpy as np
import pytest
import torch
from torch import nn

from nrae_lib import runs
from nrae_lib.core.models import Autoencoder, Network
from nrae_lib.core.training import Optimization
from nrae_lib.data.datasets import Dataset
from nrae_lib.runs import Run, Store, perform, trained_model, views


class Picture(nn.Module):
    """A decoder that paints a 4 x 4 image whose rows hold a + i b for the code (a, b)."""

    def forward(self, z):
        first, second = (z[:, :1], z[:, 1:2]) if z.shape[1] == 2 else (z, 0 * z)
        return (first + second * torch.arange(16.0)).reshape(-1, 1, 4, 4) / 100


class Reads(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return self.function(x.flatten(1))


def family(count, positions):
    """Images whose first pixel is their position."""
    position = torch.linspace(*positions, count)
    return torch.zeros(count, 1, 4, 4).index_fill(3, torch.tensor([0]), 0) + position[:, None, None, None] * torch.eye(
        16
    )[0].reshape(1, 1, 4, 4), position


def test_order_on_a_line_finds_the_fold_and_the_jump():
    train, position = family(20, (0, 10))
    test, test_position = family(101, (0, 10))
    data = Dataset(train, test, position, test_position)
    right = Autoencoder(Reads(lambda x: x[:, :1]), Picture())
    metrics, arrays = views.VIEWS["order"](right, data)
    assert metrics["order_breaks"] == metrics["train_order_breaks"] == metrics["neighbor_breaks"] == 0
    assert metrics["rank_correlation"] == pytest.approx(1)
    assert arrays["sequence"].tolist() == list(range(20)) and arrays["decoded"].shape == (20, 1, 4, 4)
    assert arrays["path"].shape == (61, 1, 4, 4) and arrays["path_code"][[0, -1], 0].tolist() == [0, 10]

    torn = Autoencoder(Reads(lambda x: torch.where(x[:, :1] > 5, x[:, :1] - 20, x[:, :1])), Picture())
    metrics, arrays = views.VIEWS["order"](torn, data)
    assert metrics["order_breaks"] == metrics["train_order_breaks"] == 1
    assert arrays["sequence"].tolist() == [*range(10, 20), *range(10)]
    assert arrays["breaks"].tolist() == [9] and metrics["neighbor_breaks"] == 1


def test_order_on_a_circle_counts_the_winding():
    train, position = family(30, (0, 348))
    test, test_position = family(120, (0, 357))
    data = Dataset(train, test, position, test_position)

    def around(times):
        return Autoencoder(
            Reads(lambda x: torch.stack([(times * x[:, 0] * pi / 180).cos(), (times * x[:, 0] * pi / 180).sin()], 1)),
            Picture(),
        )

    metrics, arrays = views.VIEWS["order"](around(-1), data)
    assert (metrics["winding_number"], metrics["circular_breaks"], metrics["train_circular_breaks"]) == (-1, 0, 0)
    assert metrics["circular_correlation"] == pytest.approx(1, abs=1e-3)
    assert np.hypot(*arrays["path_code"].T) == pytest.approx(np.ones(61), abs=1e-6)
    metrics, _ = views.VIEWS["order"](around(2), data)
    assert metrics["winding_number"] == 2 and metrics["circular_breaks"] >= 1
    with pytest.raises(ValueError, match="needs data with positions"):
        views.VIEWS["order"](around(1), Dataset(train, test))


def test_images_keeps_the_best_and_the_worst_and_bytes_are_read_as_training_reads_them():
    images = torch.randint(0, 256, (60, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model = Autoencoder(Reads(lambda x: x), nn.Unflatten(1, (1, 4, 4)))
    model.decoder = nn.Sequential(nn.Threshold(0.5, 0.0), nn.Unflatten(1, (1, 4, 4)))  # loses what is darker than 1/2
    _, arrays = views.VIEWS["images"](model, Dataset(images, images))
    pixels = images.float() / 255
    lost = (pixels * (pixels <= 0.5)).square().flatten(1).mean(1)
    assert arrays["error"] == pytest.approx(lost.numpy(), rel=1e-3)
    assert arrays["best_index"].tolist() == lost.argsort()[:8].tolist()
    assert arrays["worst_index"].tolist() == lost.argsort(descending=True)[:8].tolist()
    kept = torch.where(pixels > 0.5, images, 0)
    assert np.array_equal(arrays["worst"], kept[arrays["worst_index"]].numpy())
    assert np.array_equal(arrays["shown"], kept[:40].numpy())


def a_run(**changes):
    fields = dict(
        data="sine", method="nrae_l", network=Network(hidden=(8,), latent_dim=1), optimization=Optimization(2, 10), seed=3,
        data_options=dict(n_train=10, n_test=20),
    )  # fmt: skip
    return Run(**fields | changes)


def test_weights_are_stored_beside_the_result_and_trained_again_where_they_are_missing(tmp_path, monkeypatch):
    store, run = Store(tmp_path), a_run(keep="images")
    result = perform(run, "cpu")
    store.put(result)
    points = torch.randn(5, 2)
    model = trained_model(run, store, "cpu")
    expected = model(points)
    assert all(torch.equal(value, result.weights[name]) for name, value in model.state_dict().items())
    assert store.get(run).metrics == result.metrics and store.get(run).weights is None
    [path] = (tmp_path / ".weights").glob("*.npz")
    path.write_bytes(path.read_bytes()[:-40])  # a torn file is no file
    with pytest.warns(UserWarning, match="cannot be used"):
        assert torch.equal(trained_model(run, store, "cpu")(points), expected)
    monkeypatch.setattr(runs, "perform", lambda *a, **k: pytest.fail("trained again although the weights are there"))
    assert torch.equal(trained_model(run, store, "cpu")(points), expected)
    path.unlink()  # as in a fresh clone: committed results have no weights
    monkeypatch.undo()
    committed = store.path(run).read_bytes()
    assert torch.equal(trained_model(run, store, "cpu")(points), expected)
    assert store.path(run).read_bytes() == committed  # with where and when it was trained
    path.unlink()
    other = store.get(run)
    other.metrics["test_mse"] += 1
    store.put(other)
    with pytest.raises(ValueError, match="on this machine it gives other numbers"):
        trained_model(run, store, "cpu")
    assert store.get(run).metrics == other.metrics
    with pytest.raises(ValueError, match="weights are kept for keep='images'"):
        trained_model(a_run(keep="metrics"), store)


def test_a_run_on_validation_points_knows_their_error():
    assert "validation_mse" not in perform(a_run(keep="metrics"), "cpu").metrics


def test_images_along_a_line_have_the_measures_of_a_curve_whatever_is_kept():
    train, position = family(20, (0, 10))
    data = Dataset(train, train, position, position)
    metrics, arrays = views.VIEWS["metrics"](Autoencoder(Reads(lambda x: x[:, :1]), Picture()), data)
    assert metrics["order_breaks"] == 0 and metrics["total_turning"] == pytest.approx(0, abs=1e-4) and arrays == {}

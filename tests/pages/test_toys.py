"""Neighbourhoods of a learned curve, and their pictures (Figures 1 to 3)."""

import numpy as np
import pytest
import torch
from torch import nn

from nrae_lib.core.models import Autoencoder, Network
from nrae_lib.data import datasets
from nrae_lib.data.datasets import Dataset
from nrae_lib.pages import plots
from nrae_lib.runs import views


class Parabola(nn.Module):
    """f(z) = (z, z²): its quadratic expansion is exact, the linear one is off by (z' - z)²."""

    def forward(self, z):
        return torch.cat([z, z.square()], 1)


def parabola():
    """A model with g(x) = x_1 and the parabola as decoder, and 21 points on it."""
    position = torch.linspace(-1, 1, 21, dtype=torch.float64)
    points = torch.stack([position, position.square()], 1)
    first = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    nn.init.eye_(first.weight)
    return Autoencoder(first, Parabola()), Dataset(points, points, position, position)


def test_neighbourhood_of_a_parabola_has_the_losses_and_the_reach_that_calculus_gives():
    model, data = parabola()
    metrics, arrays = views.neighborhood(model, data)
    position, train, graph = data.train_position.numpy(), data.train.numpy(), arrays["graph"]
    assert {*graph[0]} == {1, 2, 3, 4} and {*graph[10]} == {8, 9, 11, 12}
    step = position[graph] - position[:, None]
    missed = {
        0: (step**2 + (position[graph] ** 2 - position[:, None] ** 2) ** 2) / 2,
        1: step**4 / 2,  # only the second coordinate, by (z' - z)²
        2: 0 * step,
    }
    for order, error in missed.items():
        assert metrics[f"neighbor_error_{order}"] == pytest.approx(error.mean(), abs=1e-12)
        assert metrics[f"neighborhood_{order}"] == pytest.approx(error.mean() * 4 / 5, abs=1e-12)  # the centre is exact
    assert arrays["near_2"] == pytest.approx(train[graph])
    assert arrays["near_1"][..., 1] == pytest.approx(train[graph][..., 1] - step**2)
    # The local line of order 1 is straight, and goes through the centre's reconstruction.
    assert np.abs(np.diff(arrays["local_1"], n=2, axis=1)).max() < 1e-12
    assert arrays["point"] == pytest.approx(train)

    def arc(z):
        """Length of the parabola from 0 to z."""
        return (2 * z * np.sqrt(1 + 4 * z**2) + np.arcsinh(2 * z)) / 4

    tolerance = 0.1 * np.sqrt(((train - train.mean(0)) ** 2).sum(1).mean())
    low, high = arc(np.clip(position + np.sqrt(tolerance) * np.array([[-1], [1]]), -1, 1))
    assert arrays["reach_1"] == pytest.approx(high - low, abs=0.06)  # a step of the grid at either end
    assert arrays["reach_2"] == pytest.approx(np.full(21, 2 * arc(1)), abs=1e-3)
    assert metrics["reach_1"] == pytest.approx(arrays["reach_1"].mean())


def test_what_has_no_line_of_codes_is_refused():
    for latent_dim, n_train, sentence in ((2, 10, "codes on a line"), (1, 4, "more than 4 training points")):
        model = Network(hidden=(4,), latent_dim=latent_dim).build((2,), 0)
        with pytest.raises(ValueError, match=sentence):
            views.neighborhood(model, datasets.make("sine", 0, n_train=n_train, n_test=20))


def test_dotted_lines_join_neighbours_and_their_reconstructions():
    model, data = parabola()
    _, arrays = views.neighborhood(model, data)
    one = arrays | {"train": data.train.numpy(), "chosen": (2, 10), "note": "a note"}
    one |= {name: arrays[f"{name}_1"] for name in ("near", "local")}
    figure = plots.neighborhood_reconstructions({"ae": one, "right": one})
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("AE", "right")
    lines = [line for line in first.lines if line.get_linestyle() == "--"]  # the name of dotted ones, too
    dotted = [line.get_xydata() for line in lines if len(line.get_xdata())]
    expected = [pair for c in (2, 10) for pair in zip(one["train"][one["graph"][c]], one["near"][c], strict=True)]
    assert len(dotted) == len(expected) and np.allclose(dotted, expected)
    assert figure.narrow is None and first.get_xlabel() == "a note"
    with pytest.raises(ValueError, match=r"must have shapes \(n, k\) and \(n, k, 2\), not"):
        plots.neighborhood_reconstructions({"ae": one | {"near": one["near"][:, :2]}})

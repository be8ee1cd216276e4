"""Neighbourhoods of a learned curve, their pictures, and the claims about them (Figures 1 to 3)."""

import numpy as np
import pandas
import pytest
import torch
from torch import nn

from nrae_lib import paper
from nrae_lib.core.models import Autoencoder, Network
from nrae_lib.data import datasets
from nrae_lib.data.datasets import Dataset
from nrae_lib.pages import plots
from nrae_lib.runs import views


class Parabola(nn.Module):
    """f(z) = (z, z²): its quadratic expansion is exact, the linear one is off by (z' - z)²."""

    def forward(self, z):
        return torch.cat([z, z.square()], 1)


class First(nn.Module):
    """g(x) = x_1; the parameter only says where the model is."""

    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x):
        return x[:, :1]


def parabola(count=21):
    position = torch.linspace(-1, 1, count, dtype=torch.float64)
    points = torch.stack([position, position.square()], 1)
    return Autoencoder(First(), Parabola()), Dataset(points, points, position, position)


def test_neighbourhood_of_a_parabola_has_the_losses_that_calculus_gives():
    model, data = parabola()
    metrics, arrays = views.neighborhood(model, data)
    position = data.train_position.numpy()
    # By hand: sort the distances in the plane, and square what each expansion misses.
    distance = np.linalg.norm(data.train.numpy()[:, None] - data.train.numpy()[None], axis=2)
    near = distance.argsort(axis=1, kind="stable")[:, 1:5]
    assert {frozenset(row) for row in arrays["graph"].tolist()} == {frozenset(row) for row in near.tolist()}
    step = position[arrays["graph"]] - position[:, None]
    missed = {
        0: (step**2 + (position[arrays["graph"]] ** 2 - position[:, None] ** 2) ** 2) / 2,
        1: step**4 / 2,  # only the second coordinate, by (z' - z)²
        2: 0 * step,
    }
    for order, error in missed.items():
        assert metrics[f"neighbor_error_{order}"] == pytest.approx(error.mean(), abs=1e-12)
        assert metrics[f"neighborhood_{order}"] == pytest.approx(error.mean() * 4 / 5, abs=1e-12)  # the centre is exact
    assert arrays["near_2"] == pytest.approx(data.train.numpy()[arrays["graph"]])
    assert arrays["near_1"][..., 1] == pytest.approx(data.train.numpy()[arrays["graph"]][..., 1] - step**2)
    # The local line of order 1 is straight, and goes through the centre's reconstruction.
    assert np.abs(np.diff(arrays["local_1"], n=2, axis=1)).max() < 1e-12
    assert arrays["point"] == pytest.approx(data.train.numpy())


def test_reach_is_the_length_of_curve_near_the_expansion():
    model, data = parabola()
    metrics, arrays = views.neighborhood(model, data)
    train = data.train.numpy()
    tolerance = 0.1 * np.sqrt(((train - train.mean(0)) ** 2).sum(1).mean())
    fine = np.linspace(-1, 1, 200_001)
    for place in (0, 10, 17):
        inside = np.abs(fine - train[place, 0]) <= np.sqrt(tolerance)
        arc = np.sum(np.sqrt(1 + 4 * fine[inside] ** 2)) * (fine[1] - fine[0])
        assert arrays["reach_1"][place] == pytest.approx(arc, abs=0.06)  # a step of the grid at either end
    whole = np.sum(np.sqrt(1 + 4 * fine**2)) * (fine[1] - fine[0])
    assert arrays["reach_2"] == pytest.approx(np.full(21, whole), abs=1e-3)
    assert metrics["reach_1"] == pytest.approx(arrays["reach_1"].mean())


def test_what_has_no_line_of_codes_is_refused():
    data = datasets.make("sine", 0, n_train=10, n_test=20)
    with pytest.raises(ValueError, match="codes on a line"):
        views.neighborhood(Network(hidden=(4,), latent_dim=2).build((2,), 0), data)
    with pytest.raises(ValueError, match="more than 4 training points"):
        few = datasets.make("sine", 0, n_train=4, n_test=20)
        views.neighborhood(Network(hidden=(4,), latent_dim=1).build((2,), 0), few)


def panel(order=1):
    model, data = parabola()
    _, arrays = views.neighborhood(model, data)
    return dict(
        train=data.train.numpy(), curve=arrays["curve"], graph=arrays["graph"], near=arrays[f"near_{order}"],
        local=arrays[f"local_{order}"], chosen=(2, 10), note="a note",
    )  # fmt: skip


def test_dotted_lines_join_neighbours_and_their_reconstructions():
    one = panel()
    figure = plots.neighborhood_reconstructions({"ae": one, "right": one})
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("AE", "right")
    drawn = [
        line for line in first.lines if line.get_linestyle() == "--" and len(line.get_xdata())
    ]  # "--" also if dotted
    dotted = [np.stack(line.get_data(), 1) for line in drawn]
    expected = [
        np.stack([one["train"][neighbour], one["near"][centre, number]])
        for centre in one["chosen"]
        for number, neighbour in enumerate(one["graph"][centre])
    ]
    assert len(dotted) == len(expected) and np.allclose(dotted, expected)
    assert figure.narrow is None and first.get_xlabel() == "a note"
    with pytest.raises(ValueError, match="arrays must have the same shape"):
        plots.neighborhood_reconstructions({"ae": one | {"near": one["near"][:, :2]}})


def test_claims_of_the_drawings_judge_numbers_that_are_clear():
    values = {"right": 1.0, "overfitting": 3.0, "wrong order": 50.0}
    frame = pandas.DataFrame(
        [
            dict(condition="sine", method=case, seed=seed, neighborhood_1=value * (1 + 0.05 * seed),
                 neighborhood_2=value * (1.2 - 0.05 * seed))
            for case, value in values.items() for seed in range(6)
        ]
    )  # fmt: skip
    verdicts = paper.judge("fig3_loss_cases", frame, "quick", ("sine",))
    assert [verdict.status for verdict in verdicts] == ["reproduced"] * 2
    frame.loc[frame.method == "right", "neighborhood_1"] = 100.0 + frame.seed
    changed = {v.claim.identifier: v.status for v in paper.judge("fig3_loss_cases", frame, "quick", ("sine",))}
    assert changed["fig3-ranks-linear"] == "not reproduced" and changed["fig3-ranks-quadratic"] == "reproduced"

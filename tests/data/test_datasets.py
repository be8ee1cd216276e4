"""The synthetic curves and the checks on data."""

import hashlib
from dataclasses import replace
from math import pi

import pytest
import torch

from nrae_lib.data import datasets
from nrae_lib.data.datasets import Dataset


def test_sine_is_the_papers():
    data = datasets.sine(0)
    assert data.train.shape == (50, 2) and data.test.shape == (10_000, 2)
    assert data.train.dtype == data.test.dtype == torch.float32
    torch.testing.assert_close(data.test[:, 1], data.test[:, 0].sin(), atol=1e-6, rtol=0)
    assert data.test[0, 0] == pytest.approx(-pi) and data.test[-1, 0] == pytest.approx(pi)
    clean = torch.stack([data.train_position, data.train_position.sin()], 1)
    many = datasets.sine(1, n_train=20_000)
    noise = many.train - torch.stack([many.train_position, many.train_position.sin()], 1)
    assert noise.std().item() == pytest.approx(0.2, rel=0.02)
    assert (data.train - clean).abs().max() < 1.2
    assert many.train_position.min() >= -pi and many.train_position.max() <= pi


def test_sine_without_noise_on_a_grid_lies_on_the_curve():
    data = datasets.sine(0, noise=0.0, sampling="grid")
    torch.testing.assert_close(data.train[:, 1], data.train[:, 0].sin(), atol=1e-6, rtol=0)
    torch.testing.assert_close(data.train[:, 0].diff(), torch.full((49,), 2 * pi / 49), atol=1e-5, rtol=0)


def test_swiss_roll_of_the_text():
    data = datasets.swiss_roll(0)
    assert data.train.shape == (30, 2) and data.test.shape == (1000, 2)
    torch.testing.assert_close(data.test.norm(dim=1), 0.1 + 0.9 * data.test_position / (2 * pi), atol=1e-6, rtol=0)
    assert (data.train - data.test[:0].new_zeros(1)).norm(dim=1).max() < 1.1


def test_swiss_roll_as_released_has_the_released_mismatch_of_its_two_curves():
    data = datasets.swiss_roll(0, shape="released", noise=0.0)
    assert data.test[:, 0].abs().max() == pytest.approx(3.0, rel=0.01)
    distance = torch.cdist(data.train, data.test).min(1).values.max()
    assert distance.item() == pytest.approx(0.084, abs=0.01)  # the mismatch of the released formulas


@pytest.mark.parametrize("name", ["sine", "swiss_roll"])
def test_same_seed_same_data_other_seed_other_data(name):
    first, again, other = (datasets.make(name, seed) for seed in (3, 3, 4))
    assert torch.equal(first.train, again.train) and first.fingerprint == again.fingerprint
    assert not torch.equal(first.train, other.train) and first.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: datasets.make("sinus", 0), "unknown data set 'sinus': choose one of sine, swiss_roll"),
        (lambda: datasets.make("sine", 0, nosie=1), "no option 'nosie': choose among n_train, n_test, noise, sampling"),
        (lambda: datasets.sine(0, sampling="halton"), "unknown sampling 'halton': choose one of random, grid"),
        (lambda: datasets.swiss_roll(0, shape="double"), "shape 'double': choose one of text, released"),
        (lambda: datasets.sine(0, noise=-1), "cannot be negative"),
        (lambda: datasets.sine(0, n_train=1), "at least 2"),
        (lambda: Dataset(torch.zeros(0, 2), torch.zeros(3, 2)), "training data is empty"),
        (lambda: Dataset(torch.tensor([[1.0], [float("nan")]]), torch.zeros(3, 1)), "NaN or infinite values in 1 of 2"),
    ],
)
def test_bad_input_is_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_fingerprint_is_the_hash_of_shapes_and_bytes_and_what_is_absent_leaves_no_trace():
    """Committed results hold fingerprints: the oldest form must stay as it is."""
    train, test = torch.arange(6.0).view(3, 2), torch.arange(4, dtype=torch.uint8).view(2, 2)
    content = b"(3, 2)" + train.numpy().tobytes() + b"(2, 2)" + test.numpy().tobytes()
    data = Dataset(train, test, train_labels=torch.arange(3))
    assert data.fingerprint == hashlib.sha256(content).hexdigest()[:16]
    noisy = replace(data, train_clean=train + 1)
    assert noisy.fingerprint == hashlib.sha256(content + b"(3, 2)" + (train + 1).numpy().tobytes()).hexdigest()[:16]

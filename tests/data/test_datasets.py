"""The synthetic curves and the checks on data."""

import hashlib
from dataclasses import replace
from functools import partial
from math import nan, pi

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


def made(name, **options):
    return partial(datasets.make, name, 0, **options)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (made("sinus"), "unknown data set 'sinus': choose one of sine, swiss_roll"),
        (made("sine", nosie=1), "no option 'nosie': choose among n_train, n_test, noise, sampling"),
        (made("sine", sampling="halton"), "unknown sampling 'halton': choose one of random, grid"),
        (made("swiss_roll", shape="double"), "shape 'double': choose one of text, released"),
        (made("sine", noise=-1), "cannot be negative"),
        (made("sine", n_train=1), "at least 2"),
        (
            made("rotated_digit", source="stand_in", index=500),
            r"has 13\d training images of .* 3: images 500 to 500 are",
        ),
        (made("rotated_digit", source="stand_in", index=-1), "are not among them"),
        (made("rotated_digit", source="stand_in", digit=11), "has 0 training images"),
        (made("rotated_digit", count=1), "count must be at least 2"),
        (made("rotated_digit", n_test=1), "n_test must be at least 2, not 1"),
        (made("shifted_digit", scale=0.0), "scale must be a positive number"),
        (made("rotated_digits", source="stand_in", digits=200), "are not among them"),
        (made("rotated_digits", first_test=-1), "first_test must be at least 0"),
        (made("mnist", source="real"), "unknown source 'real': choose one of official, stand_in"),
        (made("mnist", source="stand_in"), "has 1,797 images here and 62,000 were asked for"),
        (made("mnist", source="stand_in", n_train=1), "n_train must be at least 2"),
        (made("mnist", source="stand_in", noise=-1), "cannot be negative"),
        (partial(datasets.load, "minst"), "unknown image set 'minst': choose one of mnist, fmnist"),
        (partial(datasets.sizes, "mnist", "M", "stand_in"), "unknown size 'M': choose one of S, L"),
        (
            partial(datasets.sizes, "mnist", "S", "stand_in", {"train": 3}),
            "unknown number 'train': choose one of n_train",
        ),
        (partial(Dataset, torch.zeros(0, 2), torch.zeros(3, 2)), "training data is empty"),
        (partial(Dataset, torch.tensor([[1.0], [nan]]), torch.zeros(3, 1)), "NaN or infinite values in 1 of 2"),
    ],
)
def test_bad_requests_are_one_sentence(call, sentence):
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

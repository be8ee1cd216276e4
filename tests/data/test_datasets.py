"""Synthetic curves, rotated and shifted digits against computations that share no code with torchvision's, and checks."""

import hashlib
from dataclasses import replace
from functools import partial
from math import nan, pi

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform

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
    grid = datasets.sine(0, noise=0.0, sampling="grid").train
    torch.testing.assert_close(grid[:, 1], grid[:, 0].sin(), atol=1e-6, rtol=0)
    torch.testing.assert_close(grid[:, 0].diff(), torch.full((49,), 2 * pi / 49), atol=1e-5, rtol=0)


def test_swiss_roll_of_the_text_and_as_released():
    data = datasets.swiss_roll(0)
    assert data.train.shape == (30, 2) and len(data.test) + len(data.beyond) == 1000
    low, high = data.train_position.min(), data.train_position.max()
    assert ((data.test_position >= low) & (data.test_position <= high)).all()
    assert ((data.beyond_position < low) | (data.beyond_position > high)).all()
    torch.testing.assert_close(data.test.norm(dim=1), 0.1 + 0.9 * data.test_position / (2 * pi), atol=1e-6, rtol=0)
    assert data.train.norm(dim=1).max() < 1.1
    released = datasets.swiss_roll(0, shape="released", noise=0.0)
    assert (len(released.test), len(released.beyond)) == (967, 33)
    assert released.beyond[:, 0].abs().max() == pytest.approx(3.0, rel=0.01)
    distance = torch.cdist(released.train, torch.cat([released.test, released.beyond])).min(1).values.max()
    assert distance.item() == pytest.approx(0.084, abs=0.01)  # the mismatch of the released formulas


@pytest.mark.parametrize("name", ["sine", "swiss_roll", "rotated_digit", "shifted_digit"])
def test_same_seed_same_data_and_another_seed_changes_all_but_digits(name):
    options = {"source": "stand_in", "n_test": 5} if "digit" in name else {}
    first, again, other = (datasets.make(name, seed, **options) for seed in (3, 3, 4))
    assert torch.equal(first.train, again.train) and first.fingerprint == again.fingerprint
    assert torch.equal(first.train, other.train) == (first.fingerprint == other.fingerprint) == ("digit" in name)


def digits_of(label: int) -> torch.Tensor:
    images = datasets.stand_in("mnist")
    return images.train_images[images.train_labels == label] / 255


def moved(image: torch.Tensor, matrix: np.ndarray, shift: float = 0.0, order: int = 1) -> torch.Tensor:
    """The image where output pixel p shows input pixel matrix (p - centre - shift) + centre, black outside."""
    centre = np.array([13.5, 13.5])
    offset = centre - matrix @ (centre + np.array([0.0, shift]))
    return torch.from_numpy(affine_transform(image[0].numpy(), matrix, offset, order=order, mode="grid-constant"))[None]


def test_rotations_agree_with_scipy_and_no_angle_of_a_full_turn_is_tested_twice():
    nearest, smooth = (
        datasets.make("rotated_digit", 0, source="stand_in", digit=6, index=2, interpolation=interpolation)
        for interpolation in ("nearest", "bilinear")
    )
    assert nearest.fingerprint == datasets.make("rotated_digit", 0, source="stand_in", digit=6, index=2).fingerprint
    for data in (nearest, smooth):
        assert data.train.shape == (20, 1, 28, 28) and (len(data.test), len(data.beyond)) == (190, 10)
        assert data.train.dtype == torch.float32 and data.train.min() >= 0 and data.train.max() <= 1 + 1e-6
        assert data.test_position[0] == 0 and data.test_position[-1] <= 171 < data.beyond_position[0]
        assert data.beyond_position[-1] == 180
    for index in (0, 1, 7, 19):
        angle = np.deg2rad(9.0 * index)  # clockwise on the screen, where rows go down
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        torch.testing.assert_close(smooth.train[index], moved(digits_of(6)[2], matrix), atol=1e-3, rtol=0)
        apart = (nearest.train[index] - moved(digits_of(6)[2], matrix, order=0)).abs() > 1e-6
        assert apart.float().mean() < 0.01  # rounding decides between two pixels equally near
    turn = datasets.make("rotated_digit", 0, source="stand_in", count=4, step=90.0, n_test=8)
    assert turn.train_position.tolist() == [0, 90, 180, 270]
    assert turn.test_position.tolist() == [45.0 * i for i in range(8)]
    torch.testing.assert_close(turn.train[0], digits_of(3)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [0.8, 1.0])
def test_scaled_shifts_agree_with_scipy(scale):
    data = datasets.make("shifted_digit", 0, source="stand_in", scale=scale, interpolation="bilinear")
    assert data.train.shape == (20, 1, 28, 28) and data.test.shape == (200, 1, 28, 28)
    for index in (0, 6, 13, 19):
        shift = -10 + 20 * index / 19
        assert data.train_position[index].item() == pytest.approx(shift, abs=1e-5)
        expected = moved(digits_of(7)[0], np.eye(2) / scale, shift)
        torch.testing.assert_close(data.train[index], expected, atol=1e-3, rtol=0)


def test_rotated_digits_are_rotations_of_the_first_images_in_turn():
    options = {"source": "stand_in", "digits": 3, "rotations": 4, "step": 90.0, "n_test_digits": 2}
    data = datasets.make("rotated_digits", 0, **options)
    turned = torch.stack([torch.rot90(digits_of(8)[:5], -turns, (2, 3)) for turns in range(4)], 1).flatten(0, 1)
    torch.testing.assert_close(torch.cat([data.train, data.test]), turned, atol=1e-4, rtol=0)
    assert data.train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 and data.test_labels.tolist() == [3] * 4 + [4] * 4
    assert data.train_position.tolist() == [0, 90, 180, 270] * 3 and len(data.test_position) == 8
    other = datasets.make("rotated_digits", 0, **options | {"n_test_digits": 1, "first_test": 1})
    assert torch.equal(other.train, data.train) and torch.equal(other.test, data.test[4:])
    assert other.test_labels.tolist() == [4] * 4 and other.test_position.tolist() == [0, 90, 180, 270]


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
        (
            made("rotated_digit", interpolation="cubic"),
            "unknown interpolation 'cubic': choose one of nearest, bilinear",
        ),
        (made("swiss_roll", n_test=2), "lie 0 of 2 test points"),
        (made("rotated_digits", first_test=-1), "first_test must be at least 0"),
        (made("mnist", source="real"), "unknown source 'real': choose one of official, stand_in"),
        (made("mnist", source="stand_in"), "has 1,797 images here and 62,000 were asked for"),
        (made("mnist", source="stand_in", n_train=1), "n_train must be at least 2"),
        (made("mnist", source="stand_in", noise=-1), "cannot be negative"),
        (partial(datasets.load, "minst"), "unknown image set 'minst': choose one of mnist, fmnist"),
        (partial(datasets.sizes, "mnist", "M", "stand_in"), "unknown size 'M': choose one of S, L"),
        (
            partial(datasets.sizes, "mnist", "S", "stand_in", {"train": 3}),
            "unknown number 'train' in most: choose among n_train",
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

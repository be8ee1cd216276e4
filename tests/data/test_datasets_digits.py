"""Rotated and shifted digits against computations that share no code with torchvision's."""

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform

from nrae_lib.data import datasets


def moved(image: torch.Tensor, matrix: np.ndarray, shift: float = 0.0) -> torch.Tensor:
    """The image where output pixel p shows input pixel matrix (p - centre - shift) + centre, bilinear, black outside."""
    centre = np.array([13.5, 13.5])
    offset = centre - matrix @ (centre + np.array([0.0, shift]))
    return torch.from_numpy(affine_transform(image[0].numpy(), matrix, offset, order=1, mode="grid-constant"))[None]


def test_quarter_turns_are_rot90():
    data = datasets.make("rotated_digit", 0, source="stand_in", count=4, step=90.0, n_test=8)
    first = data.train[0]
    for turns in range(4):
        torch.testing.assert_close(data.train[turns], torch.rot90(first, turns, (1, 2)), atol=1e-4, rtol=0)
    assert data.train_position.tolist() == [0, 90, 180, 270]
    assert data.test_position.tolist() == [45.0 * i for i in range(8)]  # a full turn: 360 would repeat 0
    digit = datasets.stand_in("mnist")
    chosen = digit.train_images[digit.train_labels == 3][0] / 255
    torch.testing.assert_close(first, chosen, atol=1e-5, rtol=0)


def test_rotations_by_any_angle_agree_with_scipy():
    data = datasets.make("rotated_digit", 0, source="stand_in", digit=6, index=2)
    assert data.train.shape == (20, 1, 28, 28) and data.test.shape == (200, 1, 28, 28)
    assert data.train.dtype == torch.float32 and data.train.min() >= 0 and data.train.max() <= 1 + 1e-6
    assert data.test_position[0] == 0 and data.test_position[-1] == 180
    for index in (1, 7, 19):
        angle = np.deg2rad(9.0 * index)  # counterclockwise on the screen, where rows go down
        matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        torch.testing.assert_close(data.train[index], moved(data.train[0], matrix), atol=1e-3, rtol=0)


def test_whole_shifts_move_pixels_to_the_right_and_fill_with_black():
    data = datasets.make("shifted_digit", 0, source="stand_in", count=21, scale=1.0)
    assert data.train_position.tolist() == list(range(-10, 11))
    middle = data.train[10]
    for shift in (-10, -1, 3, 10):
        expected = torch.zeros_like(middle)
        if shift > 0:
            expected[..., shift:] = middle[..., :-shift]
        else:
            expected[..., :shift] = middle[..., -shift:]
        torch.testing.assert_close(data.train[10 + shift], expected, atol=1e-4, rtol=0)


def test_scaled_fractional_shifts_agree_with_scipy():
    data = datasets.make("shifted_digit", 0, source="stand_in")
    assert data.train.shape == (20, 1, 28, 28) and data.test.shape == (200, 1, 28, 28)
    digit = datasets.stand_in("mnist")
    image = digit.train_images[digit.train_labels == 7][0] / 255
    for index in (0, 6, 13):
        shift = -10 + 20 * index / 19
        assert data.train_position[index].item() == pytest.approx(shift, abs=1e-5)
        torch.testing.assert_close(data.train[index], moved(image, np.eye(2) / 0.8, shift), atol=1e-3, rtol=0)


def test_rotated_digits_are_rotations_of_the_first_images_in_turn():
    options = {"source": "stand_in", "digits": 3, "rotations": 4, "step": 90.0, "n_test_digits": 2}
    data = datasets.make("rotated_digits", 0, **options)
    digit = datasets.stand_in("mnist")
    eights = digit.train_images[digit.train_labels == 8][:5] / 255
    turned = torch.stack([torch.rot90(eights, turns, (2, 3)) for turns in range(4)], 1).flatten(0, 1)
    torch.testing.assert_close(torch.cat([data.train, data.test]), turned, atol=1e-4, rtol=0)
    assert data.train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 and data.test_labels.tolist() == [3] * 4 + [4] * 4
    assert data.train_position.tolist() == [0, 90, 180, 270] * 3 and len(data.test_position) == 8
    other = datasets.make("rotated_digits", 0, **options | {"n_test_digits": 1, "first_test": 1})
    assert torch.equal(other.train, data.train) and torch.equal(other.test, data.test[4:])
    assert other.test_labels.tolist() == [4] * 4 and other.test_position.tolist() == [0, 90, 180, 270]


@pytest.mark.parametrize("name", ["rotated_digit", "shifted_digit"])
def test_the_seed_changes_nothing(name):
    first, other = (datasets.make(name, seed, source="stand_in", n_test=5) for seed in (0, 1))
    assert first.fingerprint == other.fingerprint

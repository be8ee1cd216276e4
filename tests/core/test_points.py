"""Points and seeds: what is taken, what is refused in one sentence, and rows that are the data bit for bit."""

from itertools import combinations

import numpy as np
import pytest
import torch

from nrae_lib.core.models import Network
from nrae_lib.core.points import as_floats, batch_bounds, check_points, on_device, picked, stream
from nrae_lib.data import datasets

CPU = torch.device("cpu")
NUMBERS = np.random.default_rng(0).random((200, 3, 5)) * 255


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
def test_rows_are_the_data_bit_for_bit(dtype):
    array = NUMBERS.astype(dtype)
    points, floats = on_device(array, CPU, "data"), array / np.float32(255) if dtype == "uint8" else array
    for shape in [(), (0,), (1,), (50,), (2, 3, 40), (0, 4), (30, 2), (300,)]:  # 300 of 200: duplicates for certain
        index = torch.randint(200, shape, generator=torch.Generator().manual_seed(1))
        index = index.T if len(shape) == 2 else index
        assert torch.equal(picked(points, index), torch.from_numpy(np.asarray(floats[index.numpy()])))
    assert torch.equal(as_floats(points), torch.from_numpy(floats))
    with pytest.raises(IndexError):
        picked(points, torch.tensor([200]))


def test_what_is_in_memory_is_not_copied_and_what_is_read_only_makes_no_warning(recwarn):
    array = NUMBERS.astype("uint8")
    for points in (array, torch.from_numpy(array)):
        taken = on_device(points, CPU, "data")
        assert taken.data_ptr() == array.ctypes.data and taken.dtype == torch.uint8
    array.flags.writeable = False
    assert all(np.array_equal(on_device(odd, CPU, "data").numpy(), odd) for odd in (array, array[::-1], array.T))
    assert not on_device(torch.ones(4, 2, requires_grad=True), CPU, "data").requires_grad
    assert not recwarn.list


def test_other_types_are_refused_with_those_that_are_taken():
    for data in (np.ones((4, 2), int), torch.ones(4, 2).half(), np.ones((4, 2), ">f4"), [[1.0]], "a.npy"):
        with pytest.raises(TypeError, match=r"^the training data must be .* float32, float64 or uint8 numbers, not "):
            on_device(data, CPU, "training data")


def test_data_without_points_or_features_and_points_that_are_not_finite_are_refused():
    points = torch.zeros(5, 3, 2)
    points[3, 1], points[4, 0, 1] = torch.nan, -torch.inf
    with pytest.raises(ValueError, match="the test data holds NaN or infinite values in 2 of 5 points"):
        check_points(points, "test data")
    for shape in ((0, 3), (4, 0), (4,), ()):
        with pytest.raises(ValueError, match=r"the test data is empty or has no features: .* got \("):
            check_points(torch.zeros(shape), "test data")


@pytest.mark.parametrize(("count", "sizes"), [(20, [8, 8, 4]), (17, [8, 9]), (16, [8, 8]), (9, [9])])
def test_no_batch_is_left_with_a_single_point(count, sizes):
    bounds = batch_bounds(count, 8)
    assert [end - start for start, end in bounds] == sizes
    assert [index for start, end in bounds for index in range(start, end)] == list(range(count))
    assert batch_bounds(3, 1) == [(0, 1), (1, 2), (2, 3)]


def test_data_weights_and_training_of_one_seed_are_independent():
    """Generators that start from the same number would correlate perfectly."""
    data, weights, training = [], [], []
    for seed in range(200):
        points = datasets.make("sine", seed, n_train=8)
        noisy = datasets.make("mnist", seed, source="stand_in", n_train=2, n_validation=0, n_test=2, noise=0.1)
        noise = (noisy.train - noisy.train_clean).flatten()[:16]
        data.append(torch.cat([points.train_position, points.train.flatten(), noise]))
        model = Network((16,), 1).build((2,), seed)
        weights.append(torch.cat([value.flatten() for value in model.encoder.state_dict().values()]))
        generator = torch.Generator().manual_seed(stream(seed, "training"))
        order = torch.randperm(16, generator=generator)
        training.append(torch.cat([order.float(), torch.randn(16, generator=generator)]))
    drawn = [torch.stack(each).double() for each in (data, weights, training)]
    # Over 200 seeds a correlation of independent numbers has a deviation of 0.07; the largest of some 5,000 is about 0.28.
    for first, second in combinations([(each - each.mean(0)) / each.std(0) for each in drawn], 2):
        assert (first.T @ second / 200).abs().max() < 0.35


@pytest.mark.parametrize("seed", [-1, 0.5, "three"])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(ValueError, match="a seed is a whole number of at least 0, not "):
        stream(seed, "data")

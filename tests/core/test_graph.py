"""The k-NN graph against brute force, with ties, duplicates and hard scales; neighbour sampling."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from nrae_lib.core import graph
from nrae_lib.core.graph import knn_graph, sample_neighbors


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def all_differences(points, n_neighbors):
    """Neighbours by the stable order of all distances at once."""
    flat = torch.as_tensor(points).reshape(len(points), -1).double()
    distance = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    return distance.sort(dim=1, stable=True).indices[:, :n_neighbors]


@pytest.fixture(params=["product", "differences"])
def way(request, monkeypatch):
    """Candidates from the product, or all differences; in small blocks, however small the data is."""
    monkeypatch.setattr(graph, "_SMALL", 0 if request.param == "product" else float("inf"))
    monkeypatch.setattr(graph, "_BLOCK_BYTES", 20_000)


KINDS = {
    "normal": lambda points, index: points,
    "clusters": lambda points, index: points + 1e4 * index(3)[:, None],
    "few values": lambda points, index: (2 * points).round(),
    "repeats": lambda points, index: points[index(4) % len(points)],
    "scales": lambda points, index: points * 10.0 ** (index(13)[:, None] - 6),
}


def drawn_points(kind, count, features, seed):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, features, generator=generator, dtype=torch.float64)
    return KINDS[kind](points, lambda high: torch.randint(high, (count,), generator=generator))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_way_gives_the_graph_of_brute_force(way, kind, data):
    count, features = data.draw(st.integers(2, 120)), data.draw(st.integers(1, 12))
    n_neighbors = data.draw(st.integers(1, min(count - 1, 20)))
    scale, offset = data.draw(st.sampled_from([1.0, 1e-12, 1e12])), data.draw(st.sampled_from([0.0, 1e4]))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    points = (scale * (drawn_points(kind, count, features, data.draw(st.integers(0, 99))) + offset)).to(dtype)
    assert torch.equal(knn_graph(points, n_neighbors), all_differences(points, n_neighbors))


def test_scales_at_which_squares_overflow_or_vanish_and_other_types_are_used_as_they_are(way):
    points = [scale * normal(90, 2, 3, dtype=torch.float64) for scale in (1e-300, 1e-170, 1e-40, 1e35, 1e140)]
    integers = torch.randint(256, (80, 2, 3), generator=torch.Generator().manual_seed(1))
    types = torch.uint8, torch.int64, torch.bool, torch.float16, torch.bfloat16
    for one in (*points, *(part.float() for part in points[:-1]), *map(integers.to, types)):
        assert torch.equal(knn_graph(one, 6), all_differences(one, 6))


@pytest.mark.parametrize("features", [3, 40])
def test_brute_force_is_left_for_few_points(features, monkeypatch):
    """Otherwise large data with repeated points, or far from the origin, would take hours."""
    monkeypatch.setattr(graph, "_SMALL", 0)
    rows, original = [], graph._by_all_differences
    monkeypatch.setattr(graph, "_by_all_differences", lambda *given: rows.append(len(given[1])) or original(*given))
    points = normal(600, features, seed=3, dtype=torch.float64)
    blank = torch.cat([points, torch.zeros(300, features, dtype=torch.float64)])
    for one in (points.float(), points + 1e4, blank, blank + 1e4, torch.ones(500, features)):
        assert torch.equal(knn_graph(one, 9), all_differences(one, 9))
    assert len(rows) == 5 and max(rows) <= 10


def test_the_process_keeps_its_precision_of_products(way):
    """One that asks for faster products, by either of PyTorch's settings, gets the same graph and keeps its setting."""
    points = normal(300, 20, seed=5) + 5
    for name in ("high", "medium", torch.get_float32_matmul_precision()):  # the last one is as it was
        torch.set_float32_matmul_precision(name)
        for enabled in (True, False):
            with torch.autocast("cpu", torch.bfloat16, enabled):
                assert torch.equal(knn_graph(points, 5), all_differences(points, 5))
        assert torch.get_float32_matmul_precision() == name
    if hasattr(torch.backends.mkldnn, "matmul"):  # since torch 2.9
        for name in ("bf16", "ieee"):
            torch.backends.mkldnn.matmul.fp32_precision = name
            assert torch.equal(knn_graph(points, 5), all_differences(points, 5))
            assert torch.backends.mkldnn.matmul.fp32_precision == name


def test_arrays(way):
    points = normal(300, 4, 5, seed=6)
    fixed = np.frombuffer(points.numpy().tobytes(), np.float32).reshape(points.shape)  # cannot be written
    with warnings.catch_warnings(action="error"):
        for array in (points.numpy(), fixed, points.numpy()[:, ::-1, ::2]):
            assert torch.equal(knn_graph(array, 5, device="cpu"), all_differences(array.copy(), 5))
        assert torch.equal(knn_graph(points.transpose(1, 2), 5), all_differences(points, 5))


class LargestTensor(TorchFunctionMode):
    """Records the bytes of the largest tensor any function returns."""

    largest = 0

    def __torch_function__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        self.largest = max(self.largest, *(part.nbytes for part in tree_leaves(result) if torch.is_tensor(part)), 0)
        return result


@pytest.mark.parametrize("features", [2, 40])
def test_memory_stays_bounded(features, monkeypatch):
    """No temporary larger than the stated bound or the data: never an N x N matrix."""
    monkeypatch.setattr(graph, "_BLOCK_BYTES", 2**20)
    points = torch.cat([normal(3000, features, seed=2), torch.zeros(100, features)])
    with LargestTensor() as watch:
        knn_graph(points, 3)
    assert 0 < watch.largest <= max(2**20, points.numel() * 8) < 3000 * 3000 * 8


@pytest.mark.parametrize(
    ("points", "n_neighbors", "sentence"),
    [
        (torch.zeros(5, 2), 5, "between 1 and 4 for 5 points, not 5"),
        (torch.zeros(5, 2), 2.0, "between 1 and 4 for 5 points, not 2.0"),
        (torch.zeros(0, 2), 1, "no points"),
        (np.zeros((1, 2)), 1, "only one"),
        (torch.tensor([[1e200], [-1e200], [3e200]], dtype=torch.float64), 1, "distances overflow"),
        (torch.tensor([[0.0], [float("nan")], [1.0]]), 1, "NaN or infinite"),
    ],
)
def test_bad_input_is_one_sentence(points, n_neighbors, sentence):
    with pytest.raises(ValueError, match=sentence):
        knn_graph(points, n_neighbors)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_gpu_and_cpu_agree(kind, way):
    points = drawn_points(kind, 700, 30, seed=8).float()
    for given_points in (points.cuda(), points, points.numpy()):
        for name in ("high", torch.get_float32_matmul_precision()):
            torch.set_float32_matmul_precision(name)
            found = knn_graph(given_points, 6, device="cuda")
            assert found.is_cuda and torch.equal(found.cpu(), all_differences(points, 6))


def test_samples_come_from_the_neighbours_uniformly_and_without_replacement_none_twice():
    neighbors = knn_graph(normal(20, 2, seed=3), 4)

    def draw(count, repeats=1, **options):
        index = torch.arange(20).repeat(repeats)
        return sample_neighbors(neighbors, index, count, torch.Generator().manual_seed(4), **options)

    hits = (neighbors.repeat(500, 1) == draw(1, 500).T).double()
    assert hits.sum(1).eq(1).all() and (hits.mean(0) - 0.25).abs().max() < 0.02
    assert draw(4).shape == (4, 20) and torch.equal(draw(4), draw(4))
    assert torch.equal(draw(4).T.sort(1).values, neighbors.sort(1).values)
    with pytest.raises(ValueError, match="must be 1 to k = 4"):
        draw(5)
    assert draw(9, replace=True).shape == (9, 20)

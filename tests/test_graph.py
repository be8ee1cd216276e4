"""The k-NN graph against a brute-force oracle, with ties and duplicates; neighbour sampling."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from nrae_lib import graph
from nrae_lib.graph import knn_graph, sample_neighbors


def brute_force(points, n_neighbors):
    """Neighbours by (distance, index), one pair at a time."""
    rows = points.reshape(len(points), -1).double().tolist()
    result = []
    for i, here in enumerate(rows):
        others = [(sum((a - b) ** 2 for a, b in zip(here, there, strict=True)), j)
                  for j, there in enumerate(rows) if j != i]  # fmt: skip
        result.append([j for _, j in sorted(others)[:n_neighbors]])
    return result


@settings(max_examples=60, deadline=None)
@given(
    points=st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=10),
    data=st.data(),
)
def test_small_integer_sets_have_ties_and_duplicates(points, data):
    """All distances of at most 10 points are exact, so the answer is unique: ties go to the smaller index."""
    n_neighbors = data.draw(st.integers(1, len(points) - 1))
    assert knn_graph(torch.tensor(points).float(), n_neighbors).tolist() == brute_force(
        torch.tensor(points), n_neighbors
    )


@pytest.mark.parametrize("shape", [(300, 2), (200, 3, 4, 4)])
def test_random_points_agree_with_brute_force(shape):
    points = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert knn_graph(points, 7).tolist() == brute_force(points, 7)


def test_duplicates_are_neighbours_and_a_point_is_not_its_own():
    points = torch.zeros(5, 2)
    neighbors = knn_graph(points, 4)
    for i, row in enumerate(neighbors.tolist()):
        assert sorted(row) == [j for j in range(5) if j != i]


def test_many_ties_give_valid_distances():
    """More ties at the boundary than spare candidates: which are taken is free, their distances are not."""
    points = torch.cat([torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]).repeat(40, 1)])
    neighbors = knn_graph(points, 5)
    assert 0 not in neighbors[0].tolist()
    assert len(set(neighbors[0].tolist())) == 5
    assert 0 not in neighbors[1:].flatten().tolist()


def test_blocks_do_not_change_the_result(monkeypatch):
    points = torch.randn(101, 3, generator=torch.Generator().manual_seed(1))
    whole = knn_graph(points, 4)
    monkeypatch.setattr(graph, "_BLOCK_BYTES", 8 * 101 * 7)  # seven queries per block, the last one shorter
    assert torch.equal(knn_graph(points, 4), whole)


class LargestTensor(TorchDispatchMode):
    """Records the bytes of the largest tensor any operation returns."""

    largest = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel() * tensor.element_size())
        return result


@pytest.mark.parametrize("features", [2, 40])
def test_memory_stays_bounded(features, monkeypatch):
    """No temporary larger than the stated bound or the data: never an N x N matrix."""
    monkeypatch.setattr(graph, "_BLOCK_BYTES", 2**20)
    points = torch.randn(3000, features, generator=torch.Generator().manual_seed(2))
    with LargestTensor() as watch:
        knn_graph(points, 3)
    assert 0 < watch.largest <= max(2**20, 3000 * features * 8) < 3000 * 3000 * 8


def test_clusters_far_apart_are_still_exact():
    """The usual expansion of the squared distance gets most of these rows wrong."""
    cluster = torch.rand(60, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    points = torch.cat([cluster - 1e8, cluster + 1e8])
    assert knn_graph(points, 4).tolist() == brute_force(points, 4)


def test_far_from_the_origin_distances_do_not_cancel():
    points = torch.tensor([[0.0], [1e-3], [3e-3], [1e4]], dtype=torch.float64) + 1e8
    assert knn_graph(points, 1).flatten().tolist()[:3] == [1, 0, 1]


@pytest.mark.parametrize(
    ("points", "n_neighbors", "sentence"),
    [
        (torch.zeros(5, 2), 5, "between 1 and 4 for 5 points, not 5"),
        (torch.zeros(5, 2), 0, "between 1 and 4"),
        (torch.zeros(5, 2), 2.0, "between 1 and 4 for 5 points, not 2.0"),
        (torch.zeros(0, 2), 1, "no points"),
        (torch.zeros(1, 2), 1, "only one"),
        (torch.tensor([[1e200], [-1e200], [3e200]], dtype=torch.float64), 1, "distances overflow"),
        (torch.tensor([[0.0], [float("nan")], [1.0]]), 1, "NaN or infinite"),
    ],
)
def test_bad_input_is_one_sentence(points, n_neighbors, sentence):
    with pytest.raises(ValueError, match=sentence):
        knn_graph(points, n_neighbors)


def test_samples_come_from_the_neighbours_uniformly():
    neighbors = knn_graph(torch.randn(20, 2, generator=torch.Generator().manual_seed(3)), 4)
    indices = torch.arange(20).repeat(500)
    drawn = sample_neighbors(neighbors, indices, 1, torch.Generator().manual_seed(4))[0]
    assert (drawn[:, None] == neighbors[indices]).any(1).all()
    counts = torch.stack([(drawn[:, None] == neighbors[indices]).double().mean(0)])
    assert torch.allclose(counts, torch.full((1, 4), 0.25, dtype=torch.float64), atol=0.02)


def test_without_replacement_no_neighbour_twice():
    neighbors = knn_graph(torch.randn(20, 2, generator=torch.Generator().manual_seed(5)), 4)
    drawn = sample_neighbors(neighbors, torch.arange(20), 4, torch.Generator().manual_seed(6))
    assert drawn.shape == (4, 20)
    assert torch.equal(drawn.T.sort(1).values, neighbors.sort(1).values)
    with pytest.raises(ValueError, match="between 1 and k = 4"):
        sample_neighbors(neighbors, torch.arange(20), 5, torch.Generator())
    assert sample_neighbors(neighbors, torch.arange(20), 9, torch.Generator(), replace=True).shape == (9, 20)


def test_same_generator_same_sample():
    neighbors = knn_graph(torch.randn(20, 2, generator=torch.Generator().manual_seed(7)), 4)
    first, second = (
        sample_neighbors(neighbors, torch.arange(20), 2, torch.Generator().manual_seed(8)) for _ in range(2)
    )
    assert torch.equal(first, second)

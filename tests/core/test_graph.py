"""The k-NN graph against brute force, with ties, duplicates and hard scales; its cache; neighbour sampling."""

import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from nrae_lib.core import graph
from nrae_lib.core.graph import approximate_knn_graph, cached_knn_graph, knn_graph, sample_neighbors


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


def test_many_ties_are_taken_in_order_of_index():
    points = torch.cat([torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]).repeat(40, 1)])
    neighbors = knn_graph(points, 5).tolist()
    assert neighbors[0] == [1, 2, 3, 4, 5]
    assert neighbors[1] == [2, 3, 4, 5, 6]
    assert neighbors[40] == [1, 2, 3, 4, 5]


def all_differences(points, n_neighbors):
    """Neighbours by the stable order of all distances at once."""
    flat = torch.as_tensor(points).reshape(len(points), -1).double()
    distance = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    return distance.sort(dim=1, stable=True).indices[:, :n_neighbors]


WAYS = {
    "bfloat16": [graph._BFLOAT16],
    "tf32": [graph._TF32],
    "float32": [graph._FLOAT32],
    "float64": [graph._FLOAT64],
    "tree": ["tree"],
    "tree, float64": ["tree", graph._FLOAT64],
    "all products": [graph._BFLOAT16, graph._FLOAT32, graph._FLOAT64],
}


@pytest.fixture(params=WAYS)
def ways(request, monkeypatch):
    """Candidates from one source after the other, in small blocks, however small the data is."""
    monkeypatch.setattr(graph, "_ways", lambda data: WAYS[request.param])
    monkeypatch.setattr(graph, "_SMALL", 0)
    monkeypatch.setattr(graph, "_BLOCK_BYTES", 20_000)
    return WAYS[request.param]


def drawn_points(kind, count, features, generator):
    normal = torch.randn(count, features, generator=generator, dtype=torch.float64)
    if kind == "clusters":
        return normal + 1e4 * torch.randint(3, (count, 1), generator=generator)
    if kind == "few values":
        return (2 * normal).round()
    if kind == "repeats":
        return normal[torch.randint(4, (count,), generator=generator) % count]
    if kind == "scales":
        return normal * 10.0 ** torch.randint(-6, 7, (count, 1), generator=generator)
    return normal


@pytest.mark.parametrize("kind", ["normal", "clusters", "few values", "repeats", "scales"])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_way_to_find_candidates_gives_the_graph_of_brute_force(ways, kind, data):
    count, features = data.draw(st.integers(2, 120)), data.draw(st.integers(1, 12))
    n_neighbors = data.draw(st.integers(1, min(count - 1, 20)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    scale = data.draw(st.sampled_from([1.0, 1e-12, 1e12]))
    offset = data.draw(st.sampled_from([0.0, 1e4]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    points = (scale * (drawn_points(kind, count, features, generator) + offset)).to(dtype)
    assert torch.equal(knn_graph(points, n_neighbors), all_differences(points, n_neighbors))


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e-40, 1e35, 1e140])
def test_scales_at_which_squares_overflow_or_vanish(ways, scale):
    points = scale * torch.randn(90, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(knn_graph(points, 4), all_differences(points, 4))
    assert torch.equal(knn_graph(points.float().nan_to_num(), 4), all_differences(points.float().nan_to_num(), 4)) or (
        scale == 1e140
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.float16, torch.bfloat16])
def test_other_types_are_used_as_they_are(ways, dtype):
    points = torch.randint(256, (80, 2, 3), generator=torch.Generator().manual_seed(1)).to(dtype)
    assert torch.equal(knn_graph(points, 6), all_differences(points, 6))


@pytest.mark.parametrize("arithmetic", [graph._BFLOAT16, graph._TF32, graph._FLOAT32, graph._FLOAT64])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_whatever_is_no_candidate_is_farther_than_the_bound(arithmetic, offset):
    points = (
        torch.randn(400, 50, generator=torch.Generator().manual_seed(2)) + offset * torch.arange(400)[:, None] / 400
    )
    data = graph._Points(points, None)
    rows = torch.arange(400)
    exact = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")
    exact.fill_diagonal_(torch.inf)
    proposals = list(graph._from_product(data, graph._mean(data), rows, None, 12, arithmetic))
    assert torch.equal(torch.cat([part for part, _, _ in proposals]), rows)
    for part, candidates, bound in proposals:
        others = exact[part].scatter(1, candidates, torch.inf).amin(1)
        assert (others > bound).all()
        slack = {graph._BFLOAT16: 0.03, graph._TF32: 0.01}.get(arithmetic, 1e-4) * (1 + offset)
        assert (bound > (1 - slack) * exact[part].gather(1, candidates).sort(1).values[:, -2]).all()  # and not by far


def count_rows_of_brute_force(monkeypatch):
    rows, original = [], graph._from_all_differences
    monkeypatch.setattr(
        graph, "_from_all_differences", lambda data, left, *rest: rows.append(len(left)) or original(data, left, *rest)
    )
    return rows


@pytest.mark.parametrize("features", [3, 40])
def test_brute_force_is_left_for_few_points(features, monkeypatch):
    """Otherwise large data with repeated points or far clusters would take hours."""
    monkeypatch.setattr(graph, "_SMALL", 0)
    rows = count_rows_of_brute_force(monkeypatch)
    generator = torch.Generator().manual_seed(3)
    normal = torch.randn(600, features, generator=generator, dtype=torch.float64)
    blank = torch.cat([normal, torch.zeros(300, features, dtype=torch.float64)])
    far = torch.cat([normal, normal.flip(0).float() * 1.5 + 1e4])
    same = torch.ones(500, features)
    for points in (normal.float(), normal + 1e4, blank, far, same):
        assert torch.equal(knn_graph(points, 9), all_differences(points, 9))
    assert len(rows) == 5
    assert max(rows) <= 10


def test_largest_scores_by_groups():
    scores = torch.randn(7, 1003, generator=torch.Generator().manual_seed(4))
    for count in (1, 5, 30, 31, 32, 500, 1003):
        values, index = graph._largest(scores, count)
        assert torch.equal(values.sort(1).values, scores.topk(count).values.sort(1).values)
        assert torch.equal(scores.gather(1, index), values)


def test_the_process_keeps_its_precision_of_products(monkeypatch):
    """One that asks for faster products gets the same graph and keeps its setting."""
    monkeypatch.setattr(graph, "_SMALL", 0)
    points = torch.randn(300, 20, generator=torch.Generator().manual_seed(5)) + 5
    matmul, before = torch.backends.mkldnn.matmul, torch.backends.mkldnn.matmul.fp32_precision
    try:
        for precision in ("bf16", "ieee"):
            matmul.fp32_precision = precision
            assert torch.equal(knn_graph(points, 5), all_differences(points, 5))
            with torch.autocast("cpu", torch.bfloat16):
                assert torch.equal(knn_graph(points, 5), all_differences(points, 5))
            assert matmul.fp32_precision == precision
    finally:
        matmul.fp32_precision = before


def test_arrays_and_mapped_files(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "_SMALL", 0)
    points = torch.randn(300, 4, 5, generator=torch.Generator().manual_seed(6))
    expected = all_differences(points, 5)
    np.save(tmp_path / "points.npy", points.numpy())
    mapped = np.load(tmp_path / "points.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for array in (points.numpy(), mapped, points.numpy()[:, ::-1, ::2]):
            assert torch.equal(knn_graph(array, 5, device="cpu"), all_differences(array.copy(), 5))
        assert torch.equal(knn_graph(points.transpose(1, 2), 5), expected)


def test_progress_reaches_the_end(ways):
    seen = []
    knn_graph(
        torch.randn(200, 3, generator=torch.Generator().manual_seed(7)), 5, progress=lambda *now: seen.append(now)
    )
    done = [rows for rows, _ in seen]
    assert len(done) > 1
    assert done == sorted(set(done))
    assert seen[-1] == (200, 200)


def test_blocks_do_not_change_the_result(ways, monkeypatch):
    points = torch.randn(101, 3, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(graph, "_BLOCK_BYTES", 8 * 101 * 7)  # few queries per block, the last one shorter
    few = knn_graph(points, 4)
    monkeypatch.setattr(graph, "_BLOCK_BYTES", 2**26)
    assert torch.equal(knn_graph(points, 4), few)


LIMITED = """
import resource, sys
import numpy as np
import torch
from nrae_lib.core import graph
torch.set_num_threads(1)
graph._BLOCK_BYTES, room = 8 * 2**20, 72 * 2**20
graph._ways = lambda data: [graph._FLOAT32]
points = np.load(sys.argv[1], mmap_mode="r")
assert points.nbytes > 1.2 * room
graph.knn_graph(torch.rand(900, 30), 1)
used = 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1])
resource.setrlimit(resource.RLIMIT_DATA, (used + room,) * 2)
if sys.argv[2] == "copy":
    points = np.array(points)
np.save(sys.argv[3], graph.knn_graph(points, 1).numpy())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on a process's own memory is Linux's")
def test_data_larger_than_the_memory(tmp_path):
    """The process may have less memory of its own than the mapped file holds; a copy of the file ends it."""
    points = np.random.default_rng(0).random((200, 120_000), dtype=np.float32)
    points[1::2] = points[::2]
    points[1::2, 0] += 1  # every row's neighbour is its twin
    np.save(tmp_path / "points.npy", points)
    program = [sys.executable, "-c", LIMITED, tmp_path / "points.npy"]
    # Blocks return to the system at once, so that the limit is on what is in use, not on what malloc keeps.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**20)}
    subprocess.run([*program, "map", tmp_path / "graph.npy"], check=True, env=environment)
    assert np.array_equal(np.load(tmp_path / "graph.npy")[:, 0], np.arange(200) ^ 1)
    copied = subprocess.run([*program, "copy", tmp_path / "none.npy"], capture_output=True, text=True, env=environment)
    assert "MemoryError" in copied.stderr


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


class FirstNeighboursMissed:
    """In place of pynndescent, whose compilation takes a minute: the point itself, then all but its nearest."""

    def __init__(self, points, n_neighbors, random_state, n_jobs):
        near = all_differences(points, n_neighbors).numpy().astype(np.int32)
        own = np.arange(len(points), dtype=np.int32)[:, None]
        self.neighbor_graph = np.concatenate([near[:, 1:2], own, near[:, 2:]], 1), None


def test_the_recall_of_an_approximate_graph_is_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynndescent", SimpleNamespace(NNDescent=FirstNeighboursMissed))
    points = torch.rand(400, 5, generator=torch.Generator().manual_seed(9))
    for sample in (400, 7):
        found, recall = approximate_knn_graph(points, 6, sample=sample)
        assert torch.equal(found, all_differences(points, 7)[:, 1:])
        assert recall == pytest.approx(5 / 6)
    with pytest.raises(ValueError, match="between 1 and 399"):
        approximate_knn_graph(points, 400)
    monkeypatch.setitem(sys.modules, "pynndescent", None)
    with pytest.raises(ImportError, match="needs the package pynndescent"):
        approximate_knn_graph(points, 6)


@pytest.fixture
def computed(monkeypatch):
    """The calls of knn_graph; every graph is large enough to be stored."""
    calls, original = [], graph.knn_graph
    monkeypatch.setattr(graph, "_CACHE_FROM", 0)
    monkeypatch.setattr(graph, "knn_graph", lambda points, k, *rest: calls.append(k) or original(points, k, *rest))
    return calls


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_stored_graph_is_read_also_for_fewer_neighbours(computed, tmp_path):
    points = normal(60, 3)
    for n_neighbors in (7, 7, 4, 9, 8):
        assert torch.equal(cached_knn_graph(points, n_neighbors, tmp_path), all_differences(points, n_neighbors))
    assert computed == [7, 9]
    assert torch.equal(cached_knn_graph(points.numpy(), 3, tmp_path), all_differences(points, 3))
    assert computed == [7, 9]
    assert cached_knn_graph(points, 4, tmp_path).dtype == torch.int64


def test_other_data_is_not_taken_for_the_stored(computed, tmp_path):
    points = normal(60, 4)
    changed = points.clone()
    changed[-1, -1] += 1
    for other in (points, changed, points.double(), points[:, :2].repeat(1, 2), points.view(120, 2), points.flip(0)):
        assert torch.equal(cached_knn_graph(other, 5, tmp_path), all_differences(other, 5))
    assert len(computed) == 6
    cached_knn_graph(points.view(60, 2, 2), 5, tmp_path)  # another shape, the same bytes
    assert len(computed) == 7


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:90] + b"x" + content[91:], lambda _: b""])  # fmt: skip
def test_a_damaged_file_is_computed_anew_once(damage, computed, tmp_path):
    points = normal(60, 3)
    cached_knn_graph(points, 5, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="computed anew: its checksum") as caught:
        assert torch.equal(cached_knn_graph(points, 3, tmp_path), all_differences(points, 3))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(cached_knn_graph(points, 3, tmp_path), all_differences(points, 3))
    assert computed == [5, 3]


def test_a_folder_that_cannot_be_written_is_a_warning(computed, tmp_path):
    (tmp_path / "file").write_text("")
    points = normal(60, 3)
    with pytest.warns(UserWarning, match="could not be stored"):
        assert torch.equal(cached_knn_graph(points, 5, tmp_path / "file"), all_differences(points, 5))


def test_the_folder_comes_from_the_environment(computed, tmp_path, monkeypatch):
    monkeypatch.setenv("NRAE_CACHE", str(tmp_path / "here"))
    cached_knn_graph(normal(60, 3), 5)
    assert len(list((tmp_path / "here").iterdir())) == 1
    monkeypatch.delenv("NRAE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    cached_knn_graph(normal(60, 3), 5)
    assert len(list((tmp_path / ".cache/nrae_lib").iterdir())) == 1


def test_small_graphs_are_not_stored_and_errors_stay(tmp_path):
    cached_knn_graph(normal(60, 3), 5, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="between 1 and 59"):
        cached_knn_graph(normal(60, 3), 60, tmp_path)


def test_errors_of_large_data_stay(computed, tmp_path):
    cached_knn_graph(normal(60, 3), 5, tmp_path)
    for wrong in (0, -1, 60, 2.0):
        with pytest.raises(ValueError, match="between 1 and 59"):
            cached_knn_graph(normal(60, 3), wrong, tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["normal", "clusters", "few values", "repeats", "scales"])
def test_gpu_and_cpu_agree(kind, monkeypatch):
    monkeypatch.setattr(graph, "_SMALL", 0)
    points = drawn_points(kind, 700, 30, torch.Generator().manual_seed(8)).float()
    before = torch.backends.cuda.matmul.fp32_precision
    expected = all_differences(points, 6)
    for given_points in (points.cuda(), points, points.numpy()):
        found = knn_graph(given_points, 6, device="cuda")
        assert found.device.type == "cuda"
        assert torch.equal(found.cpu(), expected)
    assert torch.backends.cuda.matmul.fp32_precision == before


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

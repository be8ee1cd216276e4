"""Exact k-nearest-neighbour graph and neighbour sampling.

Most of the work is one matrix product, ‖a‖² + ‖b‖² - 2 a·b for blocks of points, in the fastest arithmetic of the
device. Its rounding can reorder neighbours, so it only proposes candidates: these are ranked by exact differences in
float64, and a bound of the rounding error certifies that no other point can be among the k nearest. Rows without that
certificate are done again, in float32, in float64 and at last by exact differences to all points.

References:
    Lee, Kwon and Park, *Neighborhood Reconstructing Autoencoders*, NeurIPS 2021, section 2.2.
    Higham, *Accuracy and Stability of Numerical Algorithms*, section 3.1, for the bound of an inner product.
"""

import hashlib
import io
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from nrae_lib.core.files import seal, unseal, write_atomically

# The largest temporary, of which there are a few at a time beside the data; a GPU needs larger ones to be busy.
_BLOCK_BYTES = 64 * 2**20
_CUDA_BLOCKS = 8
# Candidates kept beyond k: few are certified without.
_SPARE = 8
# Below this N · N · D all differences are computed at once: faster than anything that has to be prepared.
_SMALL = 2**24
# From this many points on a product in bfloat16 pays where the processor has instructions for it.
_MANY = 8192
# Up to this many dimensions a k-d tree on the CPU is faster than the product (benchmarks/neighbors.py).
_TREE_DIMENSIONS = 8
# Largest maxima are looked for among groups of so many scores first.
_GROUP = 16
# From this N · N · D on, computing a graph costs more than reading the data for its fingerprint and the graph.
_CACHE_FROM = 2**34

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Arithmetic:
    """How a product is computed, and what its rounding can do.

    Attributes:
        dtype: of the factors and the sums.
        precision: of the factors, in the words of ``fp32_precision``; None where it is that of ``dtype``.
        rounding: largest relative error of a factor.
        summing: largest relative error of one addition.
        proposed: candidates, of k neighbours.
    """

    dtype: torch.dtype
    precision: str | None
    rounding: float
    summing: float
    proposed: Callable[[int], int]

    def round(self, x: Tensor) -> Tensor:
        """``x`` as the product takes it, so that the norms are those of the very factors."""
        if self.precision == "bf16":
            return x.bfloat16().to(self.dtype)
        if self.precision == "tf32":
            return (x.view(torch.int32) & -(2**13)).view(self.dtype)  # ten bits of the mantissa stay
        return x


_BFLOAT16 = _Arithmetic(torch.float32, "bf16", 2**-8 + 2**-22, 2**-23, lambda k: 2 * k + 2 * _SPARE)
_TF32 = _Arithmetic(torch.float32, "tf32", 2**-10 + 2**-22, 2**-22, lambda k: k + 2 * _SPARE)
_FLOAT32 = _Arithmetic(torch.float32, "ieee", 2**-22, 2**-24, lambda k: k + _SPARE)
_FLOAT64 = _Arithmetic(torch.float64, None, 2**-51, 2**-53, lambda k: 4 * (k + _SPARE))


class _Points:
    """Points of a tensor or array, flattened, by slice or index, on the device that computes.

    A mapped file is read by these blocks alone, so it may be larger than the memory.
    """

    def __init__(self, points: Tensor | np.ndarray, device: torch.device | str | None):
        # A tensor on a file or on read-only memory would warn; one with negative strides cannot be.
        if type(points) is np.ndarray and points.flags.writeable and points.flags.c_contiguous:
            points = torch.from_numpy(points)
        self.points = points.detach() if isinstance(points, Tensor) else points
        home = points.device if isinstance(points, Tensor) else torch.device("cpu")
        self.home, self.device = home, torch.device(device or home)
        self.count = points.shape[0] if points.ndim else 0
        self.features = math.prod(points.shape[1:])
        self.block_bytes = _BLOCK_BYTES * (_CUDA_BLOCKS if self.device.type == "cuda" else 1)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        index = index.to(self.home) if isinstance(index, Tensor) else index
        if isinstance(self.points, np.ndarray):
            rows = torch.from_numpy(np.array(self.points[index.numpy() if isinstance(index, Tensor) else index]))
        else:
            rows = self.points.index_select(0, index) if isinstance(index, Tensor) else self.points[index]
        return rows.reshape(len(rows), self.features).to(self.device)

    def fitting(self, *row_bytes: float) -> int:
        """Rows that keep every one of some temporaries, of so many bytes per row, within a block."""
        return max(1, int(self.block_bytes // max(1, *row_bytes)))

    def slices(self) -> Iterator[slice]:
        size = self.fitting(8 * self.features)
        return (slice(start, start + size) for start in range(0, self.count, size))


@torch.no_grad()
def knn_graph(
    points: Tensor | np.ndarray,
    n_neighbors: int,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Indices of the k nearest other points of every point, nearest first (Euclidean, exact).

    A point is excluded from its own neighbours by its index, not by its distance, so duplicates of a point are
    its neighbours. Distances are those of differences in float64, and equal distances are ordered by index. How the
    neighbours are found changes nothing in the result.

    Arguments:
        points: (N, ...), any shape after the first dimension and any real type: a tensor, or an array, which may map a
            file larger than the memory or the device. Images of type uint8 are used as they are.
        n_neighbors: k, the number of neighbours, 1 <= k <= N - 1.
        device: where to compute (default: where the points are); points of the host travel there in blocks.
        progress: called with the rows done and N after every block of rows.

    Returns:
        (N, k) int64 indices on the device that computed. Memory beside the result: a few blocks of 64 MiB (512 MiB on
        a GPU), never a copy of the data or all N x N distances; in up to eight dimensions on the CPU, a k-d tree.

    Raises:
        ValueError: if there are no points, a value is not finite or so large that distances overflow, or k is not a
            whole number in 1..N-1.

    Example:
        >>> knn_graph(torch.tensor([[0.0], [1.0], [1.0], [5.0]]), 2).tolist()
        [[1, 2], [2, 0], [1, 0], [1, 2]]
    """
    data = _Points(points, device)
    count = data.count
    if count == 0:
        raise ValueError("the neighbour graph needs data, but there are no points")
    if count == 1:
        raise ValueError("the neighbour graph needs at least two points, but there is only one")
    _check_neighbors(n_neighbors, count)
    return _exact(data, torch.arange(count, device=data.device), n_neighbors, progress)


def _check_neighbors(n_neighbors: int, count: int) -> None:
    if not isinstance(n_neighbors, Integral) or not 1 <= n_neighbors <= count - 1:
        raise ValueError(f"n_neighbors (k) must be between 1 and {count - 1} for {count} points, not {n_neighbors}")


def _exact(data: _Points, rows: Tensor, n_neighbors: int, progress: Progress | None = None) -> Tensor:
    """(B, k) neighbours of some points among all."""
    count, mean = data.count, _mean(data)
    graph = torch.empty(count, n_neighbors, dtype=torch.int64, device=data.device)
    missing = torch.zeros(count, dtype=torch.bool, device=data.device)
    missing[rows] = True
    keys, done = None, 0

    def store(part: Tensor, neighbors: Tensor) -> None:
        nonlocal done
        graph[part] = neighbors
        missing[part] = False
        done += len(part)
        if progress and len(part):
            progress(done, len(rows))

    for way in _ways(data) if len(rows) * count * data.features > _SMALL else []:
        left = missing.nonzero()[:, 0]
        if not len(left):
            break
        if way is _FLOAT64:  # what is left may well be duplicates, of which the first few are enough
            keys = _without_repeats(data, n_neighbors + 1)
        if way == "tree":
            proposals = _from_tree(data, left, n_neighbors, store)
        else:
            proposals = _from_product(data, mean, left, keys, way.proposed(n_neighbors) + 1, way)
        _certify(data, proposals, n_neighbors, store, give_up=way is _BFLOAT16)
    for part, neighbors in _from_all_differences(data, missing.nonzero()[:, 0], keys, n_neighbors):
        store(part, neighbors)
    return graph[rows]


def _mean(data: _Points) -> Tensor:
    """(D,) mean of the points in float64; ValueError if a value is not finite."""
    total = torch.zeros(data.features, dtype=torch.float64, device=data.device)
    finite = torch.ones((), dtype=torch.bool, device=data.device)
    for part in data.slices():
        block = data[part]
        finite &= torch.isfinite(block).all()
        total += block.sum(0, dtype=torch.float64)
    if not finite:
        raise ValueError("the data holds NaN or infinite values: remove or replace them before building the graph")
    return (total / data.count).nan_to_num(0.0, 0.0, 0.0)  # the sum of large values overflows


def _ways(data: _Points) -> list:
    """What proposes candidates, fastest first."""
    if data.device.type == "cuda":
        return [_TF32, _FLOAT32, _FLOAT64]
    if data.features <= _TREE_DIMENSIONS:
        return ["tree", _FLOAT64]
    # Without instructions for it, bfloat16 is slow; with few points, ranking its many candidates costs more than it saves.
    fast = _BY_NAME and torch.cpu.get_capabilities().get("avx512_bf16", False) and data.count >= _MANY
    return [_BFLOAT16, _FLOAT32, _FLOAT64] if fast else [_FLOAT32, _FLOAT64]


def _certify(data: _Points, proposals: Iterator, n_neighbors: int, store: Callable, give_up: bool) -> None:
    """Rank the proposals exactly, and store the rows that are certain.

    Arguments:
        proposals: (b,) rows, (b, w) candidates (the row itself may be among them) and (b,) bounds: every point that is
            no candidate is farther than that.
        give_up: whether to stop where less than half of the rows are certain.
    """
    seen = stored = 0
    for part, candidates, bound in proposals:
        candidates = candidates.sort(1).values  # the stable sort by distance then leaves ties in order of index
        distance = _distances(data, part, candidates).masked_fill_(candidates == part[:, None], torch.inf)
        distance, order = distance.sort(dim=1, stable=True)
        certain = distance[:, n_neighbors - 1] * (1 + _rounding(data)) < bound
        store(part[certain], candidates.gather(1, order[:, :n_neighbors])[certain])
        seen, stored = seen + len(part), stored + int(certain.sum())
        if give_up and 2 * stored < seen:
            return


def _rounding(data: _Points) -> float:
    """Largest relative error of a distance in float64: of D squares, their sum and its root."""
    return (data.features + 8) * 2**-52


def _distances(data: _Points, rows: Tensor, candidates: Tensor) -> Tensor:
    """(b, w) distances of some points to their candidates, from differences in float64."""
    wide = min(candidates.shape[1], data.fitting(8 * data.features))
    # An eighth of a block stays in the cache of a processor.
    size = max(1, data.fitting(8 * wide * data.features) // 8)
    return torch.cat([
        torch.cat([_differences(data[part].double()[:, None], data[some.flatten()].double().view(*some.shape, -1))[:, 0]
                   for some in near.split(wide, dim=1)], dim=1)
        for part, near in zip(rows.split(size), candidates.split(size), strict=True)
    ])  # fmt: skip


def _differences(a: Tensor, b: Tensor) -> Tensor:
    """The one function for distances, so that a pair has the same one wherever it is computed."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _from_tree(
    data: _Points, rows: Tensor, n_neighbors: int, store: Callable
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Proposals of a k-d tree (see :func:`_certify`); rows without near ties are certain, and stored at once.

    None where squares overflow; where they vanish, no bound is given.
    """
    from scipy.spatial import cKDTree

    points = data[slice(None)].double()
    if points.abs().max() > 1e150:
        return
    tree, threads, rounding = cKDTree(points.numpy()), torch.get_num_threads(), _rounding(data)

    def nearest(part: Tensor, count: int) -> tuple[Tensor, Tensor]:
        found = tree.query(points[part].numpy(), min(count, data.count), workers=threads)
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])

    for part in rows.split(data.fitting(16 * (n_neighbors + _SPARE), 8 * data.features)):
        distance, index = nearest(part, n_neighbors + 2)
        apart = distance[:, 1:] * (1 - rounding) > distance[:, :-1] * (1 + rounding)
        certain = (index[:, 0] == part) & (distance[:, 1] > 1e-140) & apart.all(1)
        store(part[certain], index[certain, 1 : n_neighbors + 1])
        part = part[~certain]
        if len(part):
            distance, index = nearest(part, n_neighbors + 1 + _SPARE)
            bound = distance[:, -1] * (1 - rounding)
            yield part, index, bound.where(bound > 1e-140, -torch.inf)


def _from_product(
    data: _Points, mean: Tensor, rows: Tensor, keys: Tensor | None, proposed: int, arithmetic: _Arithmetic
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Proposals by the largest scores a·b - ‖b‖²/2 (see :func:`_certify`); none where no bound can be given.

    With a, b the centred points as the product takes them, D features, u the error of an addition and γ = (D + 8) u,
    the score of a pair is computed with an error of at most γ (‖a‖ ‖b‖ + ‖b‖²/2). Let S = ‖a‖² - 2 (the smallest score
    taken). For every b not taken r = ‖a - b‖ then has r² + γ (2 ‖a‖ ‖b‖ + ‖b‖²) >= S, and with ‖b‖ <= ‖a‖ + r,
    r² (1 + 3 γ) >= S - 5 γ ‖a‖². Rounding the factors by v moved each by v times its norm, so that the
    points themselves are at least r - v (2 ‖a‖ + r) apart.
    """
    features, dtype = data.features, arithmetic.dtype
    gamma = 1.01 * (features + 8) * arithmetic.summing
    norms = torch.empty(data.count, dtype=torch.float64, device=data.device)
    for part in data.slices():
        norms[part] = _factor(data, part, mean, arithmetic).double().square().sum(1)
    largest = norms.max()
    if gamma > 0.1 or not largest < torch.finfo(dtype).max / 1e6:
        return
    # Some processors take subnormal factors and products for zero.
    lost = 8 * features * torch.finfo(dtype).tiny * (1 + largest.sqrt())

    keys = torch.arange(data.count, device=data.device) if keys is None else keys
    size = dtype.itemsize
    columns = min(data.fitting(size * features, 1024 * size), len(keys))
    proposed = min(proposed, len(keys))
    for part in rows.split(data.fitting(columns * size, 8 * features, 24 * proposed)):
        a = _factor(data, part, mean, arithmetic)
        best = a.new_empty(len(part), 0)
        found = torch.empty(len(part), 0, dtype=torch.int64, device=data.device)
        scores = a.new_empty(len(part), columns)
        for some in keys.split(columns):
            whole = len(keys) == data.count
            b = _factor(data, slice(int(some[0]), int(some[-1]) + 1) if whole else some, mean, arithmetic)
            block = scores[:, : len(some)] if len(some) == columns else a.new_empty(len(part), len(some))
            with _precision(data.device, arithmetic.precision):
                torch.mm(a, b.T, out=block)
            block -= norms[some].to(dtype) / 2
            values, index = _largest(block, min(proposed, len(some)))
            best, found = torch.cat([best, values], 1), torch.cat([found, some[index]], 1)
            if best.shape[1] > proposed:
                best, order = best.topk(proposed, sorted=False)
                found = found.gather(1, order)
        square = norms[part]
        bound = (square - 2 * best.double().amin(1) - 5 * gamma * square - lost) / (1 + 3 * gamma)
        bound = bound.clamp_min(0).sqrt() * (1 - arithmetic.rounding) - 2 * arithmetic.rounding * square.sqrt()
        if proposed == len(keys):
            bound = torch.full_like(bound, torch.inf)  # nothing was left out
        yield part, found, bound * (1 - 2**-48)


def _factor(data: _Points, index: slice | Tensor, mean: Tensor, arithmetic: _Arithmetic) -> Tensor:
    """Some points, centred, as the product takes them."""
    rows = data[index]
    wide = rows.dtype in (torch.float64, torch.int64, torch.int32)  # centred before they are rounded
    rows = rows.to(torch.float64 if wide else arithmetic.dtype)
    return arithmetic.round((rows - mean.to(rows.dtype)).to(arithmetic.dtype))


def _largest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``scores.topk(count)``, unsorted, several times as fast: by the largest of every group first.

    The groups with the ``count`` largest maxima hold the ``count`` largest scores.
    """
    width = -(-scores.shape[1] // _GROUP)
    if width < 2 * count:
        return scores.topk(count, sorted=False)
    if width * _GROUP > scores.shape[1]:
        scores = pad(scores, (0, width * _GROUP - scores.shape[1]), value=-torch.inf)
    grouped = scores.view(-1, _GROUP, width)  # a group is every width-th column: its maximum takes whole vectors
    groups = grouped.amax(1).topk(count, sorted=False).indices
    values, index = grouped.gather(2, groups[:, None].expand(-1, _GROUP, -1)).flatten(1).topk(count, sorted=False)
    return values, index.div(count, rounding_mode="floor") * width + groups.gather(1, index % count)


@contextmanager
def _precision(device: torch.device, precision: str | None) -> Iterator[None]:
    """Products of float32 on ``device`` in this precision, whatever the process asks for."""
    if precision is None:
        yield
        return
    backend = torch.backends.cuda.matmul if device.type == "cuda" else torch.backends.mkldnn.matmul
    name, value = "fp32_precision", precision
    if not _BY_NAME:
        backend, name, value = torch.backends.cuda.matmul, "allow_tf32", precision == "tf32"
    before = getattr(backend, name)
    setattr(backend, name, value)
    try:
        yield
    finally:
        setattr(backend, name, before)


_BY_NAME = hasattr(torch.backends.cuda.matmul, "fp32_precision")  # since torch 2.9


def _without_repeats(data: _Points, kept: int) -> Tensor:
    """Indices of the points, of every set of equal ones only the first few: ties go to the smaller index."""
    seen, indices = {}, []
    for part in data.slices():
        for index, row in enumerate(data[part].cpu().contiguous().view(torch.uint8).numpy(), part.start):
            digest = hashlib.sha256(row).digest()
            seen[digest] = seen.get(digest, 0) + 1
            if seen[digest] <= kept:
                indices.append(index)
    return torch.tensor(indices, device=data.device)


def _from_all_differences(
    data: _Points, rows: Tensor, keys: Tensor | None, n_neighbors: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(b,) rows and their (b, k) neighbours by the distances to all points."""
    keys = torch.arange(data.count, device=data.device) if keys is None else keys
    columns = min(len(keys), data.fitting(8 * data.features, 4096 * 8))
    for part in rows.split(data.fitting(8 * columns, 8 * data.features, 32 * n_neighbors)):
        query = data[part].double()
        distance, neighbors = query.new_empty(len(part), 0), part.new_empty(len(part), 0)
        for some in keys.split(columns):
            block = _differences(query, data[some].double())
            block.masked_fill_(part[:, None] == some, torch.inf)
            count = min(n_neighbors, len(some))
            last = block.topk(count, largest=False).values[:, -1:]
            below, tied = block < last, block == last
            # Of those as far as the last one the first; each row holds ``count`` in order of index.
            taken = below | (tied & (tied.cumsum(1) <= count - below.sum(1, keepdim=True)))
            index = taken.nonzero()[:, 1].view(-1, count)
            distance = torch.cat([distance, block.gather(1, index)], 1)
            neighbors = torch.cat([neighbors, some[index]], 1)
            distance, order = distance.sort(dim=1, stable=True)
            distance, neighbors = distance[:, :n_neighbors], neighbors.gather(1, order[:, :n_neighbors])
        if not torch.isfinite(distance[:, -1]).all():
            raise ValueError("the data holds values so large that distances overflow: rescale it first")
        yield part, neighbors


@torch.no_grad()
def approximate_knn_graph(
    points: Tensor | np.ndarray, n_neighbors: int, seed: int = 0, sample: int = 500
) -> tuple[Tensor, float]:
    """An approximate neighbour graph by nearest neighbour descent, with its recall measured.

    Many times as fast as :func:`knn_graph` for MNIST's 60,000 images, at a recall of 0.99 (benchmarks/neighbors.py measures
    both); the recall falls with the intrinsic dimension of the data.

    Arguments:
        points: (N, ...) on the host; copied to float32.
        n_neighbors: k.
        seed: of the descent, and of the points that measure the recall.
        sample: how many of these points.

    Returns:
        (N, k) int64 indices, and the share of the exact neighbours of the sampled points among those found.

    Raises:
        ImportError: the package pynndescent is absent.
        ValueError: k is not a whole number in 1..N-1, or a value is not finite.

    Source: Dong, Moses and Li, *Efficient K-Nearest Neighbor Graph Construction for Generic Similarity Measures*, 2011.
    """
    try:
        from pynndescent import NNDescent
    except ImportError as error:
        raise ImportError("the approximate graph needs the package pynndescent: pip install pynndescent") from error
    data = _Points(points, None)
    _check_neighbors(n_neighbors, data.count)
    rows = torch.randperm(data.count, generator=torch.Generator().manual_seed(seed))[:sample]
    exact = _exact(data, rows, n_neighbors)
    descent = NNDescent(
        data[slice(None)].float().numpy(),
        n_neighbors=n_neighbors + 1,
        random_state=seed,
        n_jobs=1,  # with more, the graph depends on their number
    )
    found = torch.from_numpy(descent.neighbor_graph[0].astype(np.int64))
    own = found == torch.arange(data.count)[:, None]
    graph = found.gather(1, own.int().argsort(dim=1, stable=True))[:, :n_neighbors]  # the point itself goes last
    # By distance, because of equally near points one is as right as another.
    reach = _distances(data, rows, exact[:, -1:])
    return graph, float((_distances(data, rows, graph[rows]) <= reach).float().mean())


def cached_knn_graph(
    points: Tensor | np.ndarray,
    n_neighbors: int,
    folder: Path | str | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """:func:`knn_graph`, read from the disk if it was computed there before for these points.

    A file holds a graph of a data set, found by the SHA-256 of the points' shape, type and bytes; one with more
    neighbours serves, too. Small graphs, which are computed faster than the points are read, are not stored.

    Arguments:
        points: as for :func:`knn_graph`.
        n_neighbors: k.
        folder: where the files are (default: ``$NRAE_CACHE``, else ``~/.cache/nrae_lib``).
        device: as for :func:`knn_graph`.
        progress: as for :func:`knn_graph`; not called where the graph is read.

    Returns:
        (N, k) int64 indices, those of :func:`knn_graph`. A damaged file is computed anew, with a warning; a folder that
        cannot be written costs a warning, too.

    Raises:
        ValueError: as for :func:`knn_graph`.
    """
    data = _Points(points, device)
    if data.count**2 * data.features < _CACHE_FROM or not isinstance(n_neighbors, Integral):
        return knn_graph(points, n_neighbors, device, progress)
    folder = Path(folder or os.environ.get("NRAE_CACHE") or "~/.cache/nrae_lib").expanduser()
    name = f"knn-{_fingerprint(data)[:32]}"
    stored = {int(k): path for path in folder.glob(f"{name}-*.npy") if (k := path.stem.rpartition("-")[2]).isdigit()}
    enough = min((k for k in stored if k >= n_neighbors), default=None) if n_neighbors > 0 else None
    if enough is not None:
        try:
            graph = np.load(io.BytesIO(unseal(stored[enough].read_bytes())))
            return torch.from_numpy(graph[:, :n_neighbors].astype(np.int64)).to(data.device)
        except (OSError, ValueError) as error:
            warnings.warn(f"the neighbour graph {stored[enough]} is computed anew: {error}", stacklevel=2)
    graph = knn_graph(points, n_neighbors, device, progress)
    content = io.BytesIO()
    np.save(content, graph.cpu().numpy().astype(np.int32 if data.count < 2**31 else np.int64))
    try:
        write_atomically(folder / f"{name}-{n_neighbors}.npy", seal(content.getvalue()))
        if enough not in (None, n_neighbors):
            stored[enough].unlink(missing_ok=True)  # the damaged one, which would be tried again
    except OSError as error:
        warnings.warn(f"the neighbour graph could not be stored in {folder}: {error}", stacklevel=2)
    return graph


def _fingerprint(data: _Points) -> str:
    """SHA-256 of the points' shape, type and bytes, and of the kind of device, whose sums may round differently."""
    kind = str(data.points.dtype).removeprefix("torch.")
    digest = hashlib.sha256(f"1 {tuple(data.points.shape)} {kind} {data.device.type} ".encode())
    for part in data.slices():
        digest.update(data[part].cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def rows_per_block(points: Tensor, n_neighbors: int) -> int:
    """How many points at a time keep their gathered neighbours, (rows, k, ...), within 64 MiB."""
    return max(1, _BLOCK_BYTES // (points[0].numel() * n_neighbors * points.element_size()))


def sample_neighbors(
    graph: Tensor, indices: Tensor, count: int, generator: torch.Generator, replace: bool = False
) -> Tensor:
    """Uniformly drawn neighbours of some points (the batch B_x of section 2.2), on the graph's device.

    Arguments:
        graph: (N, k) neighbour indices, as from :func:`knn_graph`.
        indices: (B,) the points whose neighbours are drawn.
        count: n, the neighbours drawn per point.
        generator: the source of randomness, on the device of ``graph``.
        replace: whether one neighbour may be drawn twice for the same point.

    Returns:
        (n, B) indices into the data.

    Raises:
        ValueError: if n is below 1, or above k without replacement.
    """
    n_neighbors = graph.shape[1]
    if count < 1 or (count > n_neighbors and not replace):
        raise ValueError(
            f"neighbors_per_point must be between 1 and k = {n_neighbors} without replacement, not {count}"
        )
    if count == 1 or replace:
        columns = torch.randint(n_neighbors, (len(indices), count), generator=generator, device=graph.device)
    else:
        scores = torch.rand((len(indices), n_neighbors), generator=generator, device=graph.device)
        columns = scores.topk(count, dim=1).indices
    return graph[indices[:, None], columns].T

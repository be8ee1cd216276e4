"""Exact k-nearest-neighbour graph and neighbour sampling.

Most of the work is one matrix product in float32, ‖a‖² + ‖b‖² - 2 a·b for blocks of points. Its rounding can reorder
neighbours, so it only proposes candidates: these are ranked by differences in float64, and a bound of the rounding
error certifies that no other point can be among the k nearest. Other rows are done again by differences to all points.

References:
    Lee, Kwon and Park, *Neighborhood Reconstructing Autoencoders*, NeurIPS 2021, section 2.2.
    Higham, *Accuracy and Stability of Numerical Algorithms*, section 3.1, for the bound of an inner product.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from numbers import Integral

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from nrae_lib.core import private

# The largest temporary, of which there are a few at a time beside the data; a GPU needs larger ones to be busy.
_BLOCK_BYTES = 64 * 2**20
_CUDA_BLOCKS = 8
_SPARE = 8  # candidates kept beyond k: few are certified without
_SMALL = 2**24  # N · N · D below which all differences at once are faster than anything that has to be prepared
_GROUP = 16  # scores, the maxima of whose groups are looked at first
# Largest relative error of a factor of the product, and of one addition in it.
_ROUNDING, _SUMMING = 2**-22, 2**-24


@torch.no_grad()
def knn_graph(points: Tensor | np.ndarray, n_neighbors: int, device: torch.device | str | None = None) -> Tensor:
    """Indices of the k nearest other points of every point, nearest first (Euclidean, exact).

    A point is excluded from its own neighbours by its index, not by its distance, so duplicates of a point are its
    neighbours. Distances are those of differences in float64, and equal distances are ordered by index. Where float32
    cannot tell the neighbours from the others (clusters very far apart, many ties), a graph takes many times as long.
    ValueError if there are no points or no such k, a value is not finite, or distances overflow.

    Arguments:
        points: (N, ...) of any real type, images of type uint8 as they are; an array is copied.
        n_neighbors: k, a whole number in 1..N-1.
        device: where to compute (default: where the points are).

    Returns:
        (N, k) int64 indices on the device that computed. Memory beside: a few blocks of 64 MiB (512 on a GPU).

    Example:
        >>> knn_graph(torch.tensor([[0.0], [1.0], [1.0], [5.0]]), 2).tolist()
        [[1, 2], [2, 0], [1, 0], [1, 2]]
    """
    # A copy, because a tensor on read-only memory would warn, and one with negative strides cannot be.
    points = points if isinstance(points, Tensor) else torch.from_numpy(np.array(points))
    count = points.shape[0] if points.ndim else 0
    if count < 2:
        found = "there is only one" if count else "there are no points"
        raise ValueError(f"the neighbour graph needs at least two points, but {found}")
    if not isinstance(n_neighbors, Integral) or not 1 <= n_neighbors <= count - 1:
        raise ValueError(f"n_neighbors (k) must be between 1 and {count - 1} for {count} points, not {n_neighbors}")
    data = points.detach().reshape(count, -1).to(device)
    mean = _mean(data)
    rows = keys = torch.arange(count, device=data.device)
    graph = torch.empty(count, n_neighbors, dtype=torch.int64, device=data.device)
    if count**2 * data.shape[1] > _SMALL:
        keys, missing = _without_repeats(data, n_neighbors + 1), []
        for part, candidates, bound in _proposals(data, mean, keys, n_neighbors + 1 + _SPARE):
            candidates = candidates.sort(1).values  # the stable sort by distance then leaves ties in order of index
            distance = _distances(data, part, candidates).masked_fill_(candidates == part[:, None], torch.inf)
            distance, order = distance.sort(dim=1, stable=True)
            certain = distance[:, n_neighbors - 1] < bound
            graph[part] = candidates.gather(1, order[:, :n_neighbors])
            missing.append(part[~certain])
        rows = torch.cat(missing) if missing else rows
    for part, neighbors in _by_all_differences(data, rows, keys, n_neighbors):
        graph[part] = neighbors
    return graph


def _fitting(data: Tensor, *row_bytes: float) -> int:
    """Rows that keep every one of some temporaries, of so many bytes per row, within a block."""
    block = _BLOCK_BYTES * (_CUDA_BLOCKS if data.is_cuda else 1)
    return max(1, int(block // max(1, *row_bytes)))


def _mean(data: Tensor) -> Tensor:
    """(D,) mean of the points in float64; ValueError if a value is not finite."""
    total = torch.zeros(data.shape[1], dtype=torch.float64, device=data.device)
    finite = torch.ones((), dtype=torch.bool, device=data.device)
    for block in data.split(_fitting(data, 8 * data.shape[1])):
        finite &= torch.isfinite(block).all()
        total += block.sum(0, dtype=torch.float64)
    if not finite:
        raise ValueError("the data holds NaN or infinite values: remove or replace them before building the graph")
    return (total / len(data)).nan_to_num(0.0, 0.0, 0.0)  # the sum of large values overflows


def _without_repeats(data: Tensor, kept: int) -> Tensor:
    """Indices of the points, of every set of equal ones only the first few: ties go to the smaller index. Among
    thousands of equal points no bound could tell the nearest from the others."""
    seen, early = Counter(), []
    for block in data.split(_fitting(data, data.shape[1] * data.element_size())):
        for row in block.cpu().contiguous().view(torch.uint8).numpy():
            digest = hashlib.sha256(row).digest()
            early.append(seen[digest] < kept)
            seen[digest] += 1
    return torch.tensor(early, device=data.device).nonzero()[:, 0]


def _proposals(data: Tensor, mean: Tensor, keys: Tensor, proposed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(b,) rows, (b, w) candidates, the row itself among them, and (b,) bounds: every other point is farther than that.

    Candidates are those of the largest scores a·b - ‖b‖²/2, with a, b the centred points as the product takes them.
    With D features, u the error of an addition and γ = (D + 8) u, a score is computed with an error of at most γ (‖a‖
    ‖b‖ + ‖b‖²/2). Let S = ‖a‖² - 2 (the smallest score taken). For every b not taken r = ‖a - b‖ then has r² + γ (2 ‖a‖
    ‖b‖ + ‖b‖²) >= S, and with ‖b‖ <= ‖a‖ + r, r² (1 + 3 γ) >= S - 5 γ ‖a‖². Rounding the factors by v moved each by v
    times its norm, so that the points themselves are at least r - v (2 ‖a‖ + r) apart.
    """
    features = data.shape[1]
    gamma = 1.01 * (features + 8) * _SUMMING
    parts = data.split(_fitting(data, 8 * features))
    norms = torch.cat([_factor(part, mean).double().square().sum(1) for part in parts])
    largest = norms.max()
    if gamma > 0.1 or not largest < torch.finfo(torch.float32).max / 1e6:
        return
    # Some processors take subnormal factors and products for zero.
    lost = 8 * features * torch.finfo(torch.float32).tiny * (1 + largest.sqrt())
    proposed = min(proposed, len(keys))
    columns = min(_fitting(data, 8 * features, 2048 * 4), len(keys))
    size = _fitting(data, 4 * columns * 4, 8 * features, 24 * proposed)  # scores stay in a processor's cache
    for rows in torch.arange(len(data), device=data.device).split(size):
        a = _factor(data[rows], mean)
        best = a.new_empty(len(rows), 0)
        found = torch.empty(len(rows), 0, dtype=torch.int64, device=data.device)
        for some in keys.split(columns):
            b = _factor(data[some], mean)
            with private.float32_products(data.device, exact=True), torch.autocast(data.device.type, enabled=False):
                block = private.product(a, b)
            block -= norms[some].float() / 2
            values, index = _largest(block, min(proposed, len(some)))
            best, found = torch.cat([best, values], 1), torch.cat([found, some[index]], 1)
            if best.shape[1] > proposed:
                best, order = best.topk(proposed, sorted=False)
                found = found.gather(1, order)
        square = norms[rows]
        bound = (square - 2 * best.double().amin(1) - 5 * gamma * square - lost) / (1 + 3 * gamma)
        bound = bound.clamp_min(0).sqrt() * (1 - _ROUNDING) - 2 * _ROUNDING * square.sqrt()
        if proposed == len(keys):
            bound = torch.full_like(bound, torch.inf)  # nothing was left out
        # Float64 rounds, too: D squares of a distance, their sum and its root, and what stands above.
        yield rows, found, bound * (1 - (features + 32) * 2**-52)


def _factor(rows: Tensor, mean: Tensor) -> Tensor:
    """Some points, centred, as the product takes them."""
    wide = rows.dtype in (torch.float64, torch.int64, torch.int32)  # centred before they are rounded
    rows = rows.to(torch.float64 if wide else torch.float32)
    return (rows - mean.to(rows.dtype)).float()


def _largest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``scores.topk(count)``, unsorted, with less to sort: by the largest of every group first. The groups with the
    ``count`` largest maxima hold the ``count`` largest scores."""
    width = -(-scores.shape[1] // _GROUP)
    if width < 2 * count:
        return scores.topk(count, sorted=False)
    if width * _GROUP > scores.shape[1]:
        scores = pad(scores, (0, width * _GROUP - scores.shape[1]), value=-torch.inf)
    grouped = scores.view(-1, _GROUP, width)  # a group is every width-th column: its maximum takes whole vectors
    groups = grouped.amax(1).topk(count, sorted=False).indices
    values, index = grouped.gather(2, groups[:, None].expand(-1, _GROUP, -1)).flatten(1).topk(count, sorted=False)
    return values, index.div(count, rounding_mode="floor") * width + groups.gather(1, index % count)


def _distances(data: Tensor, rows: Tensor, candidates: Tensor) -> Tensor:
    """(b, w) distances of some points to their candidates, from differences in float64."""
    # An eighth of a block stays in the cache of a processor.
    size = max(1, _fitting(data, 8 * candidates.shape[1] * data.shape[1]) // 8)
    return torch.cat([
        _differences(data[part].double()[:, None], data[near.flatten()].double().view(*near.shape, -1))[:, 0]
        for part, near in zip(rows.split(size), candidates.split(size), strict=True)
    ])  # fmt: skip


def _differences(a: Tensor, b: Tensor) -> Tensor:
    """The one function for distances, so that a pair has the same one wherever it is computed."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _by_all_differences(data: Tensor, rows: Tensor, keys: Tensor, n_neighbors: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(b,) rows and their (b, k) neighbours by the distances to all points."""
    size = 8 * data.shape[1]
    for part in rows.split(_fitting(data, 8 * len(keys), size)):
        query = data[part].double()
        blocks = [_differences(query, data[some].double()) for some in keys.split(_fitting(data, size))]
        distance = torch.cat(blocks, 1).masked_fill_(part[:, None] == keys, torch.inf)
        last = distance.topk(n_neighbors, largest=False).values[:, -1:]
        if not torch.isfinite(last).all():
            raise ValueError("the data holds values so large that distances overflow: rescale it first")
        below, tied = distance < last, distance == last
        # Of those as far as the last one the first; each row holds k in order of index, which a stable sort keeps.
        taken = below | (tied & (tied.cumsum(1) <= n_neighbors - below.sum(1, keepdim=True)))
        index = taken.nonzero()[:, 1].view(-1, n_neighbors)
        order = distance.gather(1, index).sort(dim=1, stable=True).indices
        yield part, keys[index.gather(1, order)]


def rows_per_block(points: Tensor, n_neighbors: int) -> int:
    """How many points at a time keep their gathered neighbours, (rows, k, ...), within 64 MiB."""
    return max(1, _BLOCK_BYTES // (points[0].numel() * n_neighbors * points.element_size()))


def sample_neighbors(
    graph: Tensor, indices: Tensor, count: int, generator: torch.Generator, replace: bool = False
) -> Tensor:
    """Uniformly drawn neighbours of some points (the batch B_x of section 2.2), (n, B) indices into the data.

    Arguments:
        graph: (N, k) neighbour indices, as from :func:`knn_graph`.
        indices: (B,) the points whose neighbours are drawn.
        count: n per point; a ValueError if it is below 1, or above k without replacement.
        generator: the source of randomness, on the device of ``graph``.
        replace: whether one neighbour may be drawn twice for the same point.
    """
    n_neighbors = graph.shape[1]
    if count < 1 or (count > n_neighbors and not replace):
        raise ValueError(f"neighbors_per_point must be 1 to k = {n_neighbors} without replacement, not {count}")
    if count == 1 or replace:
        columns = torch.randint(n_neighbors, (len(indices), count), generator=generator, device=graph.device)
    else:
        scores = torch.rand((len(indices), n_neighbors), generator=generator, device=graph.device)
        columns = scores.topk(count, dim=1).indices
    return graph[indices[:, None], columns].T

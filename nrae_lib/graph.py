"""Exact k-nearest-neighbour graph and neighbour sampling.

References:
    Lee, Kwon and Park, *Neighborhood Reconstructing Autoencoders*, NeurIPS 2021, section 2.2.
"""

import torch
from torch import Tensor

# Float64 distances of one block of queries to all points; the graph never needs more than this beside the data.
_BLOCK_BYTES = 64 * 2**20
# Candidates kept beyond k, so that ties at the k-th place can be ordered by index.
_SPARE = 8


def knn_graph(points: Tensor, n_neighbors: int) -> Tensor:
    """Indices of the k nearest other points of every point, nearest first (Euclidean, exact).

    A point is excluded from its own neighbours by its index, not by its distance, so duplicates of a point are
    its neighbours. Distances are sums of squared differences in float64, without the faster expansion
    ‖a‖² + ‖b‖² - 2ab, whose cancellation can reorder neighbours far from the origin. Equal distances are ordered by
    index; when more than eight others tie with the k-th, which of them are taken is not specified.

    Arguments:
        points: (N, ...), any shape after the first dimension.
        n_neighbors: k, the number of neighbours, 1 <= k <= N - 1.

    Returns:
        (N, k) int64 indices on the device of ``points``. Memory beside the result: a copy of the points in float64 and
        a few blocks of 64 MiB, never all N x N distances.

    Raises:
        ValueError: if there are no points, a value is not finite or so large that distances overflow, or k is not a
            whole number in 1..N-1.

    Example:
        >>> knn_graph(torch.tensor([[0.0], [1.0], [1.0], [5.0]]), 2).tolist()
        [[1, 2], [2, 0], [1, 0], [1, 2]]
    """
    count = points.shape[0] if points.dim() else 0
    if count == 0:
        raise ValueError("the neighbour graph needs data, but there are no points")
    if count == 1:
        raise ValueError("the neighbour graph needs at least two points, but there is only one")
    if not isinstance(n_neighbors, int) or not 1 <= n_neighbors <= count - 1:
        raise ValueError(f"n_neighbors (k) must be between 1 and {count - 1} for {count} points, not {n_neighbors}")
    flat = points.detach().reshape(count, -1).double()
    if not torch.isfinite(flat).all():
        raise ValueError("the data holds NaN or infinite values: remove or replace them before building the graph")

    candidates_kept = min(n_neighbors + _SPARE, count - 1)
    rows = max(1, _BLOCK_BYTES // (8 * count))
    neighbors = torch.empty(count, n_neighbors, dtype=torch.int64, device=points.device)
    for start in range(0, count, rows):
        query = flat[start : start + rows]
        distance = torch.cdist(query, flat, compute_mode="donot_use_mm_for_euclid_dist")
        own = torch.arange(len(query), device=points.device)
        distance[own, own + start] = torch.inf
        # Sorted by index first: the stable sort by distance then leaves equal distances in that order.
        candidates = distance.topk(candidates_kept, dim=1, largest=False).indices.sort(dim=1).values
        nearest = distance.gather(1, candidates).sort(dim=1, stable=True)
        if not torch.isfinite(nearest.values[:, n_neighbors - 1]).all():
            raise ValueError("the data holds values so large that distances overflow: rescale it first")
        neighbors[start : start + rows] = candidates.gather(1, nearest.indices[:, :n_neighbors])
    return neighbors


def neighbor_distances(points: Tensor, graph: Tensor) -> Tensor:
    """Squared Euclidean distances between every point and its neighbours.

    Arguments:
        points: (N, ...).
        graph: (N, k) neighbour indices, as from :func:`knn_graph`.

    Returns:
        (N, k) ‖x_j - x_i‖², summed over features. Memory beside it: a block of 64 MiB.
    """
    flat = points.flatten(1)
    rows = rows_per_block(flat, graph.shape[1])
    blocks = zip(flat.split(rows), graph.split(rows), strict=True)
    return torch.cat([(flat[near] - part[:, None]).square().sum(2) for part, near in blocks])


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

"""Exact k-nearest-neighbour graph and neighbour sampling.

References:
    Lee, Kwon and Park, *Neighborhood Reconstructing Autoencoders*, NeurIPS 2021, section 2.2.
"""

import torch
from torch import Tensor

# Float64 distances of one block of queries to all points; the graph never needs more than this beside the data.
_BLOCK_BYTES = 64 * 2**20
# Candidates kept beyond k, so that rounding in the fast distances cannot push out a true neighbour.
_SPARE = 8


def knn_graph(points: Tensor, n_neighbors: int) -> Tensor:
    """Indices of the k nearest other points of every point, nearest first (Euclidean, exact).

    A point is excluded from its own neighbours by its index, not by its distance, so duplicates of a point are
    its neighbours. Equal distances are ordered by index; when more than eight others tie with the k-th, which of
    them are taken is not specified. Distances come in blocks of queries from the expansion ‖a‖² + ‖b‖² - 2ab in
    float64; the best candidates are measured again from their differences, so that cancellation does not decide.

    Arguments:
        points: (N, ...), any shape after the first dimension.
        n_neighbors: k, the number of neighbours, 1 <= k <= N - 1.

    Returns:
        (N, k) int64 indices on the device of ``points``. Memory beside the result: two copies of the points in
        float64 and a few blocks of 64 MiB.

    Raises:
        ValueError: if there are no points, a value is not finite, or k is outside 1..N-1.

    Example:
        >>> knn_graph(torch.tensor([[0.0], [1.0], [1.0], [5.0]]), 2).tolist()
        [[1, 2], [2, 0], [1, 0], [1, 2]]
    """
    count = points.shape[0]
    if points.dim() == 0 or count == 0:
        raise ValueError("the neighbour graph needs data, but there are no points")
    if not 1 <= n_neighbors <= count - 1:
        raise ValueError(f"n_neighbors (k) must be between 1 and {count - 1} for {count} points, not {n_neighbors}")
    flat = points.detach().reshape(count, -1).double()
    if not torch.isfinite(flat).all():
        raise ValueError("the data holds NaN or infinite values: remove or replace them before building the graph")

    centred = flat - flat.mean(0)  # a smaller norm means less cancellation; distances do not change
    squared_norm = centred.square().sum(1)
    candidates_kept = min(n_neighbors + _SPARE, count - 1)
    # The differences of the candidates are a second temporary of the same bound.
    rows = max(1, _BLOCK_BYTES // (8 * max(count, candidates_kept * flat.shape[1])))
    neighbors = torch.empty(count, n_neighbors, dtype=torch.int64, device=points.device)
    for start in range(0, count, rows):
        query = flat[start : start + rows]
        # Without the query's own norm, which orders nothing.
        block = torch.addmm(squared_norm.expand(len(query), -1), centred[start : start + rows], centred.T, alpha=-2)
        own = torch.arange(len(query), device=points.device)
        block[own, own + start] = torch.inf
        candidates = block.topk(candidates_kept, dim=1, largest=False).indices.sort(dim=1).values
        distance = (flat[candidates] - query[:, None]).square().sum(2)
        nearest = distance.sort(dim=1, stable=True).indices[:, :n_neighbors]
        neighbors[start : start + rows] = candidates.gather(1, nearest)
    return neighbors


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

"""Topological loss of Moor et al., and the minimum spanning tree it needs."""

import torch
from torch import Tensor

from nrae_lib.core.losses.latent import distances


def minimum_spanning_tree(distance: Tensor) -> Tensor:
    """Edges of a minimum spanning tree of the complete graph, by Prim's algorithm from node 0.

    Their lengths are the death times of the 0-dimensional persistent homology of the Vietoris-Rips complex. Without
    a data-dependent branch, so it never waits for an accelerator; deterministic, ties go to the lowest index.

    Arguments:
        distance: (n, n) symmetric, finite; zero distances are edges like any other.

    Returns:
        (n - 1, 2) int64 pairs of node indices, in the order in which the tree grows. No gradient.

    Example:
        >>> minimum_spanning_tree(torch.tensor([[0.0, 1.0, 4.0], [1.0, 0.0, 2.0], [4.0, 2.0, 0.0]])).tolist()
        [[0, 1], [1, 2]]
    """
    distance = distance.detach()
    in_tree = torch.zeros(len(distance), dtype=torch.bool, device=distance.device)
    parent = torch.zeros(len(distance), dtype=torch.int64, device=distance.device)
    reach = torch.full_like(distance[0], torch.inf)
    # Indices stay tensors of one element: a tensor in square brackets would wait for the device.
    node, edges = parent[:1], []
    for _ in range(len(distance) - 1):
        in_tree = in_tree.index_fill(0, node, True)
        row = distance.index_select(0, node).squeeze(0)
        parent = torch.where(row < reach, node, parent)
        reach = torch.minimum(reach, row)
        node = reach.masked_fill(in_tree, torch.inf).argmin(0, keepdim=True)
        edges.append(torch.cat([parent.index_select(0, node), node]))
    return torch.stack(edges) if edges else parent.new_empty(0, 2)


def topological_loss(x: Tensor, z: Tensor, latent_scale: Tensor | float = 1.0) -> Tensor:
    """Agreement of the distances that matter for the connected components of data and codes.

    With A^X the distances of the data divided by the largest of the batch, A^Z the distances of the codes divided by a
    trainable scale, and π_X, π_Z the edges of their minimum spanning trees,

        L = (1/B) [ Σ (A^X[π_X] - A^Z[π_X])² + Σ (A^Z[π_Z] - A^X[π_Z])² ].

    Moor, Horn, Rieck and Borgwardt, *Topological Autoencoders*, ICML 2020; no ½, division by B and both scales as in the
    released code. The edges are constants, the distances carry the gradient, which is zero between duplicates.

    Arguments:
        x, z: (B, ...) data and (B, m) codes.
        latent_scale: positive scalar, a parameter initialized at 1 in the released code.
    """
    data, codes = (distances(points, points) for points in (x.flatten(1), z.flatten(1)))
    data = data / data.max().clamp_min(torch.finfo(data.dtype).tiny)  # a batch of one point, repeated, has no scale
    edges = torch.cat([minimum_spanning_tree(data), minimum_spanning_tree(codes)])
    codes = codes / latent_scale
    return (data[edges[:, 0], edges[:, 1]] - codes[edges[:, 0], edges[:, 1]]).square().sum() / len(x)

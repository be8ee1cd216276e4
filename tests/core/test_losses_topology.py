"""Minimum spanning tree against scipy, topological loss against an example worked out by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.sparse.csgraph import minimum_spanning_tree as scipy_tree

from nrae_lib.core.losses import minimum_spanning_tree, topological_loss


def assert_minimum_spanning(distance):
    """Every minimum spanning tree has the same sorted lengths; scipy takes a zero for a missing edge, hence the + 1."""
    count = len(distance)
    edges = minimum_spanning_tree(torch.from_numpy(distance))
    assert edges.shape == (count - 1, 2) and edges.dtype == torch.int64
    a, b = edges.numpy().T
    tree = coo_matrix((np.ones(count - 1), (a, b)), shape=(count, count))
    assert connected_components(tree, directed=False)[0] == 1
    expected = np.sort(scipy_tree(distance + 1).data) - 1
    np.testing.assert_allclose(np.sort(distance[a, b]), expected, atol=1e-12)


@given(np_st.arrays(float, st.tuples(st.integers(1, 12), st.just(2)), elements=st.floats(-10, 10, width=16)))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_tree_of_points(points):
    assert_minimum_spanning(np.linalg.norm(points[:, None] - points[None], axis=2))


@given(st.integers(1, 10).flatmap(lambda n: np_st.arrays(int, (n, n), elements=st.integers(0, 3))))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_tree_with_equal_and_zero_distances(matrix):
    """Not even a metric: any symmetric matrix of small integers is full of ties."""
    distance = np.triu(matrix, 1).astype(float)
    assert_minimum_spanning(distance + distance.T)


def test_tree_of_a_larger_batch():
    points = np.random.default_rng(0).normal(size=(128, 16))
    assert_minimum_spanning(np.linalg.norm(points[:, None] - points[None], axis=2))


def test_ties_go_to_the_lowest_index_and_one_point_has_no_edges():
    assert minimum_spanning_tree(1 - torch.eye(4)).tolist() == [[0, 1], [0, 2], [0, 3]]
    assert minimum_spanning_tree(torch.zeros(1, 1)).shape == (0, 2)


X = torch.tensor([[0.0], [1.0], [3.0], [6.0], [10.0]], dtype=torch.float64)
Z = torch.tensor([[0.0], [4.0], [1.0], [3.0], [6.0]], dtype=torch.float64)


def test_loss_of_five_points_by_hand():
    """Points on two lines, so that the trees connect neighbours in the order of each line; latent scale 2.

    Data 0 1 3 6 10, divided by the largest distance 10; codes 0 4 1 3 6, divided by 2.

        edges of the data   0-1  1-2  2-3  3-4      edges of the codes   0-2  2-3  3-1  1-4
        data                 .1   .2   .3   .4      codes                 .5    1   .5    1
        codes                 2  1.5    1  1.5      data                  .3   .3   .5   .9
        difference          1.9  1.3   .7  1.1      difference            .2   .7    0   .1
        squared            3.61 1.69  .49 1.21      squared              .04  .49    0  .01

    Sum 7.00 + 0.54, divided by five points: 1.508.
    """
    scale = torch.tensor(2.0, dtype=torch.float64)
    torch.testing.assert_close(topological_loss(X, Z, scale), torch.tensor(1.508, dtype=torch.float64))


def test_loss_is_zero_if_the_distances_agree_up_to_the_scales():
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    largest = torch.cdist(points, points).max()
    assert topological_loss(7 * points, points, largest) < 1e-20
    assert topological_loss(7 * points, points, 2 * largest) > 1e-3


def test_gradients_for_codes_and_scale():
    z, scale = Z.clone().requires_grad_(), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z, scale: topological_loss(X, z, scale), (z, scale))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_with_duplicates(dtype):
    x = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0], [1.0, 2.0]], dtype=dtype, requires_grad=True)
    z = torch.tensor([[1.0], [1.0], [1.0], [2.0]], dtype=dtype, requires_grad=True)
    loss = topological_loss(x, z, 1.0)
    assert loss.isfinite() and all(g.isfinite().all() for g in torch.autograd.grad(loss, [x, z]))
    assert topological_loss(torch.zeros(3, 2), torch.zeros(3, 1), 1.0).item() == 0.0


def test_images_are_flattened_and_points_far_from_the_origin_keep_their_distances():
    x, z = X.float(), Z.float()
    assert topological_loss(x + 4096, z + 4096, 2.0) == topological_loss(x, z, 2.0)
    torch.testing.assert_close(topological_loss(X.view(5, 1, 1, 1), Z, 2.0), topological_loss(X, Z, 2.0))

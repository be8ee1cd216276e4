"""Every loss against its definition, its limiting cases, and code that no one here wrote."""

from math import e, inf, log, pi

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.sparse.csgraph import minimum_spanning_tree as scipy_tree
from torch import nn
from torch.autograd import gradcheck
from torch.autograd.functional import hessian, jacobian
from torch.distributions import Normal
from torch.testing import assert_close

from nrae_lib.core import losses
from nrae_lib.core.losses import neighborhood_reconstruction, point_reconstruction
from nrae_lib.core.models import mlp


def gaussian(seed=0):
    """Standard normal numbers of the shape of the argument, from ``seed`` on."""
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.empty_like(like).normal_(generator=generator)


def normal(*shape, seed=0):
    return gaussian(seed)(torch.empty(*shape, dtype=torch.float64))


def double(*values):
    return torch.tensor(values, dtype=torch.float64).squeeze()


# Neighbourhood reconstruction


def sample(sampled=2):
    """Codes of five centres and of their neighbours, and the data of both."""
    return normal(5, 2), normal(sampled, 5, 2, seed=1), normal(5, 3, seed=2), normal(sampled, 5, 3, seed=3)


def network(activation):
    torch.manual_seed(0)
    return mlp((2, 16, 16, 3), activation).double()


def by_definition(decoder, z, z_near, x, x_near, order, weight):
    """Equations 2 to 4 on the sampled set {x, x_1..x_n}, point by point, with full Jacobians and Hessians."""
    total = 0.0
    for i in range(len(z)):
        terms = [(x[i] - decoder(z[i])).square().mean()]
        for z_prime, x_prime in zip(z_near[:, i], x_near[:, i], strict=True):
            dz, expansion = z_prime - z[i], decoder(z[i])
            if order >= 1:
                expansion = expansion + jacobian(decoder, z[i], create_graph=True) @ dz
            if order == 2:
                outputs = [lambda point, d=d: decoder(point)[d] for d in range(x.shape[1])]
                bends = [hessian(output, z[i], create_graph=True) for output in outputs]
                expansion = expansion + 0.5 * torch.stack([dz @ bend @ dz for bend in bends])
            terms.append(weight * (x_prime - expansion).square().mean())
        total = total + sum(terms) / len(terms)
    return total / len(z)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("activation", ["relu", "elu", "softplus"])
def test_neighborhood_reconstruction_against_the_definition(order, activation):
    decoder, data = network(activation), sample()
    inputs = [data[0].requires_grad_(), data[1].requires_grad_(), *decoder.parameters()]
    both = [loss(decoder, *data, order, 0.3) for loss in (neighborhood_reconstruction, by_definition)]
    assert_close(*both)
    assert_close(*(torch.autograd.grad(loss, inputs, materialize_grads=True) for loss in both))


def test_equation_weighting_estimates_equation_3_without_bias():
    """Over all single-neighbour samples its mean is the loss with all k neighbours; "sample" weighs them 1/k of it."""
    decoder, (z, z_near, x, x_near) = network("elu"), sample(4)
    options = dict(order=1, neighbor_weight=0.6, weighting="equation", n_neighbors=4)
    singles = [neighborhood_reconstruction(decoder, z, z_near[[j]], x, x_near[[j]], **options) for j in range(4)]
    assert_close(torch.stack(singles).mean(), by_definition(decoder, z, z_near, x, x_near, 1, 0.6))


def test_without_the_centre_lambda_is_a_common_factor():
    decoder, data = network("elu"), sample()
    one, hundred = (neighborhood_reconstruction(decoder, *data, 1, w, include_center=False) for w in (1.0, 100.0))
    assert_close(hundred, 100 * one)


# Likelihood and relational reconstruction


def test_gaussian_likelihood_is_the_density_of_torch():
    x, reconstruction, log_sigma = normal(5, 3, 4), normal(5, 3, 4, seed=1), double(-0.7)
    error = point_reconstruction(x, reconstruction)
    expected = -Normal(reconstruction, log_sigma.exp()).log_prob(x).mean()
    assert_close(losses.gaussian_likelihood(error, log_sigma), expected)


def test_relational_reconstruction_against_a_double_loop_and_with_the_point_alone():
    x_near, reconstruction, weights = normal(3, 4, 2, 2), normal(4, 2, 2, seed=1), normal(3, 4, seed=2).square()
    total = sum(weights[j, i] * ((x_near[j, i] - reconstruction[i]) ** 2).sum() / 4 for i in range(4) for j in range(3))
    assert_close(losses.relational_reconstruction(x_near, reconstruction, weights), total / 4)
    alone = losses.relational_reconstruction(x_near[:1], reconstruction, torch.ones_like(weights[:1]))
    assert_close(alone, point_reconstruction(x_near[0], reconstruction))
    assert_close(losses.heat_weights(double(0.0, 2.0, inf), 2.0), double(1.0, 1 / e, 0.0))


def test_vae_of_pythae():
    """Its objective is D times ours at s = 1, without the constant D/2 log 2π; its encoder gives the log variance."""
    models = pytest.importorskip("pythae.models")
    x, reconstruction, mean, log_variance = (normal(8, 1, 2, 3), normal(8, 1, 2, 3, seed=1), *normal(2, 8, 4, seed=2))
    theirs = models.VAE(models.VAEConfig(input_dim=(1, 2, 3), latent_dim=4))
    likelihood = losses.gaussian_likelihood(point_reconstruction(x, reconstruction), torch.tensor(0.0))
    ours, kl = 6 * (likelihood - 0.5 * log(2 * pi)), losses.kl_to_standard_normal(mean, 0.5 * log_variance)
    assert_close(theirs.loss_function(reconstruction, x, mean, log_variance, None), (ours + kl, ours, kl))


# Maximum mean discrepancy


def test_imq_discrepancy_of_pythae():
    """Its WAE adds 0.03 times our term to D times our reconstruction error."""
    models = pytest.importorskip("pythae.models")
    x, reconstruction, z, prior = normal(8, 6), normal(8, 6, seed=1), 2 * normal(8, 4, seed=2), normal(8, 4, seed=3)
    theirs = models.WAE_MMD(models.WAE_MMD_Config(input_dim=(6,), latent_dim=4))
    total, _, discrepancy = theirs.loss_function(reconstruction, x, z, prior)
    ours = losses.maximum_mean_discrepancy(z, prior, "imq")
    assert_close((discrepancy, total), (ours, 6 * point_reconstruction(x, reconstruction) + 0.03 * ours))


def gaussian_kernel(z, prior):
    """The widths are the lower medians of the squared distances of all pairs."""
    squared = [sorted(((a - b) ** 2).sum().item() for i, a in enumerate(s) for b in s[:i]) for s in (z, prior)]
    width = sum(pairs[(len(pairs) - 1) // 2] for pairs in squared)
    return lambda a, b: torch.exp(-((a - b) ** 2).sum() / width)


def test_discrepancy_against_a_double_loop_whose_bandwidth_has_no_gradient():
    """The codes move, not the ruler: the gradient is that of the kernel with the median as a constant."""
    z, prior = (0.5 * normal(6, 3) + 0.3).requires_grad_(), normal(9, 3, seed=1)
    k = gaussian_kernel(z, prior)
    expected = (
        sum(k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j) / (6 * 5)
        + sum(k(a, b) for i, a in enumerate(prior) for j, b in enumerate(prior) if i != j) / (9 * 8)
        - 2 * sum(k(a, b) for a in z for b in prior) / (6 * 9)
    )
    ours = losses.maximum_mean_discrepancy(z, prior)
    assert_close(ours, expected)
    assert_close(*(torch.autograd.grad(loss, z) for loss in (ours, expected)))


# Norm, targets, entropy, barycentres


def test_norms_and_distances_by_hand():
    z, target = double([1.0, 2.0], [3.0, 4.0]), double([1.0, 0.0], [0.0, 4.0])
    assert losses.code_norm(z) == 30 / 4 and losses.distance_to_target(z, target) == (4 + 9) / 4
    z, z_near, weights = torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.0, 0.0]], [[4.0, 2.0]]]), torch.full((2, 1), 0.5)
    assert losses.barycenter_error(z, z_near, weights) == 2  # ‖(1, 0) - (2, 1)‖²
    assert losses.barycenter_error(torch.ones(1, 2), torch.ones(2, 1, 2), weights) == 0  # the trivial minimum


def normal_entropy(dimension):
    return 0.5 * dimension * log(2 * pi * e)


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_entropy_of_normal_and_uniform_codes_in_low_dimension(d):
    assert abs(losses.nearest_neighbor_entropy(normal(4000, d, seed=d)) - normal_entropy(d)) < 0.08
    assert abs(losses.nearest_neighbor_entropy(3 * uniform(4000, d, seed=d)) - d * log(3)) < 0.1


def test_entropy_by_hand_and_stretching_adds_its_logarithm():
    """Distances 1, 1 and 2 to the nearest other of 0, 1, 3: H = (log 2)/3 + log 2 + log 2 + γ on the line."""
    ours = losses.nearest_neighbor_entropy(double(0, 1, 3)[:, None], eps=0.0)
    assert_close(ours, double(log(2) / 3 + 2 * log(2) + 0.57721566490153286))
    z = normal(50, 4)
    stretched, plain = (losses.nearest_neighbor_entropy(factor * z, eps=0.0) for factor in (10, 1))
    assert_close(stretched - plain, double(4 * log(10)))


@pytest.mark.parametrize("ridge", [1e-3, 0.1])
@pytest.mark.parametrize("k", [3, 9])
def test_weights_of_locally_linear_embedding_in_sklearn(k, ridge):
    locally_linear = pytest.importorskip("sklearn.manifold._locally_linear")
    points = normal(30, 5)
    graph = torch.cdist(points, points).argsort(1)[:, 1 : k + 1]
    points[3] = points[graph[3]][:, None].mean(0)  # one point in the middle of its neighbours
    points[graph[7]] = points[7].clone()  # and one whose neighbours all coincide with it
    theirs = locally_linear.barycenter_weights(points.numpy(), points.numpy(), graph.numpy(), reg=ridge)
    ours = losses.barycenter_weights(points, points[graph.T], ridge)
    assert_close(ours.T, torch.from_numpy(theirs), rtol=1e-6, atol=1e-9)
    assert_close(ours.sum(0), torch.ones(30).double())
    assert torch.equal(losses.barycenter_weights(points.view(30, 1, 5), points[graph.T].view(k, 30, 1, 5), ridge), ours)


# Topology

COORDINATES = np_st.arrays(float, st.tuples(st.integers(1, 12), st.just(2)), elements=st.floats(-10, 10, width=16))
# Not even a metric: any symmetric matrix of small integers is full of ties.
TIES = st.integers(1, 10).flatmap(lambda n: np_st.arrays(int, (n, n), elements=st.integers(0, 3)))


@given(
    COORDINATES.map(lambda points: np.linalg.norm(points[:, None] - points, axis=2))
    | TIES.map(lambda matrix: np.triu(matrix, 1) + np.triu(matrix, 1).T * 1.0)
)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_tree_against_scipy(distance):
    """Every minimum spanning tree has the same sorted lengths; scipy takes a zero for a missing edge, hence the + 1."""
    count = len(distance)
    edges = losses.minimum_spanning_tree(torch.from_numpy(distance))
    assert edges.shape == (count - 1, 2) and edges.dtype == torch.int64
    a, b = edges.numpy().T
    tree = coo_matrix((np.ones(count - 1), (a, b)), shape=(count, count))
    assert connected_components(tree, directed=False)[0] == 1
    expected = np.sort(scipy_tree(distance + 1).data) - 1
    np.testing.assert_allclose(np.sort(distance[a, b]), expected, atol=1e-12)


def test_persistence_of_torch_topological():
    """Components of the Vietoris-Rips complex die at the lengths of the tree's edges."""
    topology = pytest.importorskip("torch_topological.nn")
    points = normal(128, 16)
    (components, *_) = topology.VietorisRipsComplex(dim=0)(points)
    edges = losses.minimum_spanning_tree(torch.cdist(points, points))
    lengths = (points[edges[:, 0]] - points[edges[:, 1]]).norm(dim=1).sort().values
    assert_close(components.diagram[:, 1].double().sort().values, lengths, rtol=1e-5, atol=1e-6)
    theirs, ours = ({frozenset(pair) for pair in pairs.tolist()} for pairs in (components.pairing[:, 1:], edges))
    assert theirs == ours


def test_ties_go_to_the_lowest_index_and_one_point_has_no_edges():
    assert losses.minimum_spanning_tree(1 - torch.eye(4)).tolist() == [[0, 1], [0, 2], [0, 3]]
    assert losses.minimum_spanning_tree(torch.zeros(1, 1)).shape == (0, 2)


X, Z = double(0, 1, 3, 6, 10)[:, None], double(0, 4, 1, 3, 6)[:, None]


def test_topological_loss_of_five_points_by_hand_and_its_gradients():
    """Points on two lines, so that the trees connect neighbours in the order of each line; latent scale 2.

    Data 0 1 3 6 10, divided by the largest distance 10; codes 0 4 1 3 6, divided by 2.

        edges of the data   0-1  1-2  2-3  3-4      edges of the codes   0-2  2-3  3-1  1-4
        data                 .1   .2   .3   .4      codes                 .5    1   .5    1
        codes                 2  1.5    1  1.5      data                  .3   .3   .5   .9
        difference          1.9  1.3   .7  1.1      difference            .2   .7    0   .1
        squared            3.61 1.69  .49 1.21      squared              .04  .49    0  .01

    Sum 7.00 + 0.54, divided by five points: 1.508.
    """
    assert_close(losses.topological_loss(X, Z, double(2)), double(1.508))
    assert_close(losses.topological_loss(X.view(5, 1, 1, 1), Z, double(2)), double(1.508))  # images are flattened
    assert losses.topological_loss(torch.zeros(3, 2), torch.zeros(3, 1)) == 0
    inputs = Z.clone().requires_grad_(), double(2).requires_grad_()
    assert gradcheck(lambda z, scale: losses.topological_loss(X, z, scale), inputs)


# All of them


def test_points_far_from_the_origin_keep_their_distances():
    """In single precision the expansion ‖a‖² + ‖b‖² - 2ab would lose them; these points shift without rounding."""
    z, prior = ((64 * points).round().float() / 64 for points in normal(2, 20, 2))
    far, far_prior = z + 4096, prior + 4096
    assert losses.nearest_neighbor_entropy(far) == losses.nearest_neighbor_entropy(z)
    assert losses.maximum_mean_discrepancy(far, far_prior) == losses.maximum_mean_discrepancy(z, prior)
    assert losses.topological_loss(far, far_prior, 2.0) == losses.topological_loss(z, prior, 2.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_collapsed_points_duplicates_and_constant_networks_have_finite_losses_and_gradients(dtype):
    zero = torch.zeros(4, 2, dtype=dtype, requires_grad=True)
    twice = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0], [1.0, 2.0]], dtype=dtype, requires_grad=True)
    constant = nn.Linear(2, 2).to(dtype)
    nn.init.zeros_(constant.weight)
    found = [
        losses.maximum_mean_discrepancy(zero, prior, kernel)
        for prior in (normal(5, 2).to(dtype), zero.detach())
        for kernel in losses.KERNELS
    ]
    found.append(losses.nearest_neighbor_entropy(twice[:3]))
    found.append(losses.topological_loss(twice, twice[[0, 0, 0, 2]]))
    found.append(losses.isometry(constant, twice, gaussian()))
    found.append(losses.pseudo_isometry(constant, twice, gaussian()))
    for loss in found:
        gradients = torch.autograd.grad(loss, [zero, twice, constant.weight], allow_unused=True)
        assert loss.isfinite() and all(part is None or part.isfinite().all() for part in gradients)


def discrepancy(codes, samples, kernel="gaussian"):
    return lambda: losses.maximum_mean_discrepancy(normal(codes, 2), normal(samples, 2), kernel)


REFUSED = {
    "unknown kernel 'rbf': choose one of gaussian, imq": discrepancy(3, 3, "rbf"),
    "at least two codes and two samples, not 1 and 5": discrepancy(1, 5),
    "at least two codes and two samples, not 5 and 1": discrepancy(5, 1),
    "at least two codes, not 1": lambda: losses.nearest_neighbor_entropy(normal(1, 2)),
    "no linear or convolution layer": lambda: losses.weight_norm(nn.Tanh()),
    "unknown weighting 'equaton': choose one of sample, equation": lambda: neighborhood_reconstruction(
        network("elu"), *sample(), 1, 1.0, weighting="equaton"
    ),
    "needs n_neighbors": lambda: neighborhood_reconstruction(network("elu"), *sample(), 1, 1.0, weighting="equation"),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_has_no_loss_is_refused(sentence):
    with pytest.raises(ValueError, match=sentence):
        REFUSED[sentence]()

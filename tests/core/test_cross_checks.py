"""The terms against libraries of other authors, each under its documented conversion."""

from math import log, pi

import pytest
import torch

from nrae_lib.core import losses


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_vae_of_pythae():
    """Its objective is D times ours at s = 1, without the constant D/2 log 2π; its encoder gives the log variance."""
    models = pytest.importorskip("pythae.models")
    x, reconstruction, mean, log_variance = (normal(8, 1, 2, 3), normal(8, 1, 2, 3, seed=1), *normal(2, 8, 4, seed=2))
    theirs = models.VAE(models.VAEConfig(input_dim=(1, 2, 3), latent_dim=4))
    total, error, divergence = theirs.loss_function(reconstruction, x, mean, log_variance, None)
    likelihood = losses.gaussian_likelihood(losses.point_reconstruction(x, reconstruction), torch.tensor(0.0))
    ours = 6 * (likelihood - 0.5 * log(2 * pi))
    kl = losses.kl_to_standard_normal(mean, 0.5 * log_variance)
    torch.testing.assert_close(error, ours)
    torch.testing.assert_close(divergence, kl)
    torch.testing.assert_close(total, ours + kl)


def test_imq_discrepancy_of_pythae():
    """Its WAE adds 0.03 times our term to D times our reconstruction error."""
    models = pytest.importorskip("pythae.models")
    x, reconstruction, z, prior = normal(8, 6), normal(8, 6, seed=1), 2 * normal(8, 4, seed=2), normal(8, 4, seed=3)
    theirs = models.WAE_MMD(models.WAE_MMD_Config(input_dim=(6,), latent_dim=4))
    total, _, discrepancy = theirs.loss_function(reconstruction, x, z, prior)
    ours = losses.maximum_mean_discrepancy(z, prior, "imq")
    torch.testing.assert_close(discrepancy, ours)
    torch.testing.assert_close(total, 6 * losses.point_reconstruction(x, reconstruction) + 0.03 * ours)


def test_persistence_of_torch_topological():
    """Components of the Vietoris-Rips complex die at the lengths of the tree's edges."""
    topology = pytest.importorskip("torch_topological.nn")
    points = normal(40, 3)
    (components, *_) = topology.VietorisRipsComplex(dim=0)(points)
    edges = losses.minimum_spanning_tree(torch.cdist(points, points))
    lengths = (points[edges[:, 0]] - points[edges[:, 1]]).norm(dim=1).sort().values
    torch.testing.assert_close(components.diagram[:, 1].double().sort().values, lengths, rtol=1e-5, atol=1e-6)
    theirs, ours = ({frozenset(pair) for pair in pairs.tolist()} for pairs in (components.pairing[:, 1:], edges))
    assert theirs == ours


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
    torch.testing.assert_close(ours.T, torch.from_numpy(theirs), rtol=1e-6, atol=1e-9)

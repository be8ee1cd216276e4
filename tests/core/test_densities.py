"""Densities of latent codes against independent implementations, integrals and moments."""

import sys

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from nrae_lib.core import densities

QUICK = {"gmm": dict(components=3), "realnvp": dict(steps=20), "second_stage": dict(width=16, epochs=2)}
every_density = pytest.mark.parametrize("name", densities.DENSITIES)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def banana(count, seed=0):
    """A curved set: p(a, b) = N(a; 0, 1) N(b; a², 0.3²)."""
    a, noise = torch.randn(2, count, generator=generator(seed))
    return torch.stack([a, a.square() + 0.3 * noise], 1)


def correlated(count=500, dtype=torch.float64):
    mixing = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [-1.0, 0.2, 3.0]], dtype=dtype)
    return torch.randn(count, 3, generator=generator(), dtype=dtype) @ mixing.T + torch.tensor([5.0, -2.0, 1.0])


def assert_same_moments(samples, mean, covariance):
    """Within five standard errors of the mean; variances within 10 %."""
    error = 5 * (covariance.diagonal() / len(samples)).sqrt()
    assert ((samples.mean(0) - mean).abs() < error).all()
    scale = covariance.diagonal().sqrt()
    assert ((samples.T.cov() - covariance) / scale / scale[:, None]).abs().max() < 0.1


@pytest.mark.parametrize("name", ["isotropic", "gaussian"])
def test_gaussians_against_torch_with_the_samples_own_moments_and_wrong_use_is_refused(name):
    codes = correlated()
    density = densities.fit(name, codes, seed=0)
    moments = (codes.mean(0), codes.T.cov()) if name == "gaussian" else (torch.zeros(3).double(), torch.eye(3).double())
    # Not the triangular factor that the density works with.
    expected = MultivariateNormal(moments[0], precision_matrix=torch.linalg.inv(moments[1]))
    torch.testing.assert_close(density.log_prob(codes), expected.log_prob(codes))
    assert_same_moments(density.sample(10_000, generator()), *moments)
    with pytest.raises(ValueError, match=r"must have shape \(B, 3\), not \(4, 2\)"):
        density.log_prob(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="count must be >= 1"):
        density.sample(0, generator())


def test_gaussian_of_codes_with_an_unused_dimension():
    codes = torch.cat([correlated(), torch.full((500, 1), 0.1, dtype=torch.float64)], 1)
    with pytest.warns(UserWarning, match="the covariance of the codes is singular"):
        density = densities.fit("gaussian", codes, seed=0)
    covariance = codes.T.cov() + 1e-5 * codes.T.cov().trace() / 4 * torch.eye(4)
    torch.testing.assert_close(density.log_prob(codes), MultivariateNormal(codes.mean(0), covariance).log_prob(codes))
    torch.testing.assert_close(density.sample(5, generator())[:, 3], codes[:5, 3], atol=0.1, rtol=0)


def test_mixture_against_scikit_learn():
    """Its log density is that of scikit-learn's fit from the same start, and as good as the best of three others."""
    codes = banana(600).double()
    ours = densities.fit("gmm", codes, seed=0, components=4).log_prob(codes)
    same, best = (
        GaussianMixture(4, max_iter=2000, tol=1e-3, random_state=seed, n_init=starts).fit(codes.numpy())
        for seed, starts in ((densities._seed(generator()), 1), (0, 3))
    )
    torch.testing.assert_close(ours.numpy(), same.score_samples(codes.numpy()))
    assert ours.mean() == pytest.approx(best.score(codes.numpy()), abs=0.05)


@pytest.mark.parametrize(("options", "codes"), [({}, banana(600).double()), (dict(components=2), correlated())])
def test_mixture_samples_have_its_moments(options, codes):
    """At convergence, expectation maximisation reproduces the mean and covariance of the data exactly."""
    density = densities.fit("gmm", codes, 0, **options)
    assert len(density.weights) == options.get("components", 10)
    assert_same_moments(density.sample(20_000, generator()), codes.mean(0), codes.T.cov(correction=0))
    with pytest.warns(UserWarning, match="few codes: the mixture has 4 components, not 10"):
        assert len(densities.fit("gmm", codes[:4], seed=0).weights) == 4


def test_realnvp_integrates_to_one_and_follows_the_curve_that_a_gaussian_misses():
    """On fresh points: nearly the true entropy, more than one nat better than the Gaussian."""
    # Off centre and not of unit scale: the standardisation takes part in the density.
    flow = densities.fit("realnvp", 2 * banana(2000) + 1, seed=0, steps=200, learning_rate=4e-3)
    width = 0.1
    grid = torch.cartesian_prod(torch.arange(-12, 14, width), torch.arange(-6, 50, width))
    assert flow.log_prob(grid).double().exp().sum() * width**2 == pytest.approx(1, abs=5e-3)
    fresh = 2 * banana(5000, seed=1) + 1
    gaussian = densities.fit("gaussian", 2 * banana(2000) + 1, seed=0)
    truth = -np.log(2 * np.pi * np.e * 0.3) - 2 * np.log(2)
    assert flow.log_prob(fresh).mean() > gaussian.log_prob(fresh).mean() + 1
    assert truth - 0.3 < flow.log_prob(fresh).mean() < truth + 0.05
    a, b = ((flow.sample(5000, generator()) - 1) / 2).T
    residual = b - a.square()
    assert residual.mean().abs() < 0.1
    assert residual.square().mean().sqrt() < 0.6  # the marginal's is 1.4, and a Gaussian's residual 2.1


def test_realnvp_without_zuko_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(ImportError, match=r"needs the package zuko: pip install 'nrae-lib\[methods\]'"):
        densities.fit("realnvp", banana(10), seed=0)


def test_second_stage_loss_against_torch_distributions():
    z = torch.randn(30, 3, generator=generator(), dtype=torch.float64)
    density = densities.fit("second_stage", z, seed=0, width=16, epochs=50, learning_rate=1e-2)
    mean, log_deviation = density._network.encoder(z).chunk(2, 1)
    posterior, prior = Normal(mean, log_deviation.exp()), Normal(0.0, torch.ones((), dtype=z.dtype))
    gamma = density._network.learned["log_gamma"].exp()
    assert not 0.99 < gamma < 1.01  # it has left its start, so that the comparison sees it
    noise = torch.empty_like(z).normal_(generator=generator(1))
    likelihood = Normal(density._network.decoder(mean + posterior.stddev * noise), gamma)
    bound = likelihood.log_prob(z) - kl_divergence(posterior, prior)
    torch.testing.assert_close(density._loss(z, generator(1)), -bound.sum(1).mean())


def test_second_stage_finds_both_modes():
    """Two clusters at ±(3, -3) with noise 0.5: the standard normal has its mass between them."""
    sign = torch.randint(2, (600, 1), generator=generator()) * 2.0 - 1
    codes = 3 * sign * torch.tensor([1.0, -1.0]) + 0.5 * torch.randn(600, 2, generator=generator(1))
    density = densities.fit("second_stage", codes, seed=0, width=64, epochs=60, learning_rate=5e-3, halve_every=20)
    samples = density.sample(4000, generator())
    isotropic = densities.fit("isotropic", codes, seed=0).sample(4000, generator())

    def near(drawn):  # three standard deviations around the modes
        return ((drawn * torch.tensor([1.0, -1.0])).abs() - 3).norm(dim=1).lt(1.5) & drawn.prod(1).lt(0)

    assert (samples.T.cov() - codes.T.cov()).norm() < 0.2 * codes.T.cov().norm()
    assert (samples.mean(0) - codes.mean(0)).norm() < 0.5
    assert near(samples).float().mean() > 0.8 > 0.1 > near(isotropic).float().mean()
    with pytest.raises(NotImplementedError, match="can be sampled, but its log density has no closed form"):
        density.log_prob(samples)


def test_second_stage_networks_are_those_released_and_samples_carry_its_noise():
    """With γ alone, unit noise in standardised codes: nothing is learned in no epochs but the scale of the codes."""
    codes = 4 * torch.randn(500, 2, generator=generator()) + 7
    density = densities.fit("second_stage", codes, seed=0, epochs=0)
    for part, outputs in ((density._network.encoder, 4), (density._network.decoder, 2)):
        shapes = [tuple(weight.shape) for weight in part.parameters() if weight.dim() == 2]
        # The last layer sees the input beside the last hidden layer.
        assert shapes == [(1024, 2), (1024, 1024), (1024, 1024), (outputs, 1026)]
    for weight in density._network.decoder.last.parameters():
        weight.zero_()
    assert_same_moments(density.sample(10_000, generator()), codes.mean(0), codes.var(0).diag())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_density
def test_same_seed_same_density_and_the_global_state_is_left_alone(name, dtype):
    codes, found = correlated(100).to(dtype), []
    kept = codes.clone()
    for seed, state in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(state)
        np.random.seed(state)
        density = densities.fit(name, codes, seed, **QUICK.get(name, {}))
        samples = density.sample(50, generator())
        found.append([samples] if name == "second_stage" else [samples, density.log_prob(samples)])
        assert torch.equal(torch.rand(3), torch.rand(3, generator=generator(state)))
        assert np.array_equal(np.random.rand(3), np.random.RandomState(state).rand(3))
    assert all(map(torch.equal, *found[:2])) and torch.equal(codes, kept)
    assert all(result.dtype == dtype and result.isfinite().all() for result in found[0])
    assert samples.shape == (50, 3)
    if name in ("realnvp", "second_stage"):  # whose first weights are random
        assert not torch.equal(samples, found[0][0])


@pytest.mark.parametrize("name", ["gaussian", "gmm", "realnvp"])
def test_log_prob_can_be_differentiated_in_the_code(name):
    with torch.no_grad():  # of the caller: flows are trained all the same
        density = densities.fit(name, correlated(100), seed=0, **QUICK.get(name, {}))
    assert torch.autograd.gradcheck(density.log_prob, correlated(4).requires_grad_())


@every_density
@pytest.mark.filterwarnings("ignore:the covariance of the codes is singular")
def test_a_dimension_that_never_moves_gives_finite_samples(name):
    codes = torch.cat([banana(60), torch.full((60, 1), 0.1)], 1)
    assert densities.fit(name, codes, 0, **QUICK.get(name, {})).sample(20, generator()).isfinite().all()


@pytest.mark.filterwarnings("ignore:few codes")
@pytest.mark.parametrize(
    ("name", "codes", "options", "sentence"),
    [
        ("gmm", torch.empty(0, 2), {}, r"must be a real matrix \(N, m\), not torch.float32 of shape \(0, 2\)"),
        ("gmm", torch.tensor([[0.0, torch.nan]]), {}, "the codes hold NaN or infinite values"),
        ("gmm", torch.zeros(3), {}, r"must be a real matrix \(N, m\), not torch.float32 of shape \(3,\)"),
        ("gmm", torch.zeros(3, 2, dtype=torch.int64), {}, "must be a real matrix .*, not torch.int64"),
        ("mvg", banana(10), {}, "unknown density 'mvg': choose one of isotropic, gaussian, gmm, realnvp, second"),
        ("gmm", banana(10), dict(depth=3), "'gmm' has no option 'depth': choose from components, max_iter, tol"),
        ("isotropic", banana(10), dict(depth=3), r"'isotropic' has no option 'depth': choose from \(none\)"),
        ("gaussian", torch.zeros(1, 2), {}, "at least two codes"),
        ("realnvp", torch.randn(10, 1, generator=generator()), {}, "needs m >= 2, not m = 1"),
        ("second_stage", banana(50), dict(width=16, epochs=20, learning_rate=1e6), "has diverged: lower its learning_rate"),
    ],
)  # fmt: skip
def test_a_fit_that_is_impossible_is_refused(name, codes, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        densities.fit(name, codes, seed=0, **options)

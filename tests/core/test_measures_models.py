"""Frechet distance, curvature and likelihood against closed forms and independent computations."""

import math

import numpy as np
import pytest
import torch
from pytorch_fid import fid_score, inception
from torch import nn
from torchvision.utils import save_image

from nrae_lib.core import measures
from nrae_lib.core.models import Autoencoder, Network

TURN = 2 * math.pi


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Curvature


def sphere(z, radius=3.0):
    theta, phi = z.unbind(1)
    return radius * torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], 1)


Z, FRAME = 0.5 + uniform(9, 2), torch.linalg.qr(normal(12, 3))[0]
SADDLE = -8 / (1 + 4 * Z.square().sum(1)) ** 2  # 2K with K = -4 / (1 + 4x² + 4y²)²
COMPLEX = -16 / (1 + 4 * Z.square().sum(1)) ** 3
SURFACES = {
    "sphere": (sphere, 2 / 9),
    "rolled plane": (lambda z: torch.stack([z[:, 0].cos(), z[:, 0].sin(), z[:, 1]], 1), 0.0),
    "saddle": (lambda z: torch.cat([z, z[:, :1] ** 2 - z[:, 1:] ** 2], 1), SADDLE),
    "saddle in images": (lambda z: (SURFACES["saddle"][0](z) @ FRAME.T).view(-1, 3, 2, 2), SADDLE),
    # The graph of z² over the complex plane, with two normals: K = -8 / (1 + 4 |z|²)³.
    "complex": (lambda z: torch.cat([z, z[:, :1] ** 2 - z[:, 1:] ** 2, 2 * z[:, :1] * z[:, 1:]], 1), COMPLEX),
    # m = 3, where R is no longer 2K: m (m - 1) / r² = 6 / r².
    "three-sphere": (lambda z: 2 * torch.cat([z[:, :1].cos(), z[:, :1].sin() * sphere(z[:, 1:], 1.0)], 1), 1.5),
    "tiny": (lambda z: 1e-90 * sphere(z, 1.0), 2e180),
    "ReLU": (Network((16, 16), 2).build((5,), seed=0).decoder.double(), 0.0),
}


@pytest.mark.parametrize("name", SURFACES)
def test_curvature_of_known_surfaces(name):
    decoder, expected = SURFACES[name]
    found = measures.scalar_curvature(decoder, 0.5 + uniform(9, 3) if name == "three-sphere" else Z, block=4)
    assert torch.allclose(found, torch.as_tensor(expected, dtype=Z.dtype).expand(9), rtol=1e-6, atol=1e-12)


def test_curvature_is_nan_where_the_decoder_is_no_immersion():
    poles = torch.tensor([[0.0, 1.0], [1.0, 1.0]]).double()
    assert measures.scalar_curvature(sphere, poles).isnan().tolist() == [True, False]
    assert measures.scalar_curvature(lambda z: 0 * z, poles).isnan().all()


# Frechet distance


def moments(count, features, seed):
    samples = np.random.default_rng(seed).normal(size=(count, features)) * np.arange(1, features + 1) + seed
    return samples.mean(0), np.cov(samples.T)


@pytest.mark.filterwarnings("ignore")  # of pytorch-fid's use of scipy
@pytest.mark.parametrize(("count", "tolerance"), [(200, 1e-10), (4, 1e-6)], ids=["regular", "singular"])
def test_frechet_distance_agrees_with_pytorch_fid(count, tolerance):
    """Fewer samples than features leave singular covariances, where pytorch-fid's matrix root loses half the digits."""
    a, b = moments(count, 6, 0), moments(count, 6, 1)
    expected = fid_score.calculate_frechet_distance(*a, *b)
    assert measures.frechet_distance(*a, *b) == pytest.approx(expected, rel=tolerance)
    assert measures.frechet_distance(*map(torch.from_numpy, a), *b) == measures.frechet_distance(*a, *b)


def test_frechet_distance_to_itself_is_zero_also_with_singular_covariances():
    """To rounding, where roots of eigenvalues would leave 1e-7 of the trace."""
    for count in (3, 100):
        mean, covariance = moments(count, 40, 2)
        assert measures.frechet_distance(mean, covariance, mean, covariance) <= 1e-12 * covariance.trace()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A torch home with random weights where pytorch-fid looks for its own."""
    path = tmp_path / "hub" / "checkpoints" / measures.FID_WEIGHTS
    path.parent.mkdir(parents=True)
    assert inception.FID_WEIGHTS_URL.endswith("/" + measures.FID_WEIGHTS)
    with monkeypatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: None)
        patch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
        torch.manual_seed(0)
        torch.save(inception.fid_inception_v3().state_dict(), path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("NRAE_FID_WEIGHTS", raising=False)
    return path


def test_fid_and_features_are_those_of_pytorch_fid_on_png_files(hub, tmp_path):
    grey = uniform(5, 1, 28, 28).float()
    colour = uniform(6, 3, 32, 32, seed=1).float() * 1.3 - 0.2  # also values that a PNG cannot hold
    folders = [tmp_path / "grey", tmp_path / "colour"]
    for folder, images in zip(folders, (grey, colour), strict=True):
        folder.mkdir()
        for number, pixels in enumerate(images):
            save_image(pixels, folder / f"{number}.png")
    expected = fid_score.calculate_fid_given_paths([str(folder) for folder in folders], 50, "cpu", 64, num_workers=0)
    assert expected > 0.01
    assert measures.fid(grey[:, 0], colour, weights=hub, block=4, dims=64) == pytest.approx(expected, rel=1e-3)
    files = sorted(folders[1].iterdir())[:2]
    expected = torch.from_numpy(fid_score.get_activations(files, fid_score.InceptionV3([3]), num_workers=0))
    found = measures.inception_features(colour[:2])
    assert found.shape == (2, 2048) and found.dtype == torch.float32
    assert (found - expected).norm() <= 1e-5 * expected.norm() and expected.norm() > 0
    as_bytes = (colour[:1] * 255 + 0.5).clamp(0, 255).to(torch.uint8)
    assert torch.equal(*(measures.inception_features(images, dims=64) for images in (as_bytes, colour[:1])))
    with pytest.raises(ValueError, match="64, 192, 768, 2048"):
        measures.inception_features(colour, dims=100)
    with pytest.raises(ValueError, match="at least two images"):
        measures.fid(grey[:1], colour, dims=64)


def test_fid_never_downloads(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for named, sentence in (("", rf"{tmp_path}.*NRAE_FID_WEIGHTS"), (str(tmp_path / "mine.pth"), r"mine\.pth")):
        monkeypatch.setenv("NRAE_FID_WEIGHTS", named)
        with pytest.raises(measures.FidWeightsMissing, match=sentence):
            measures.fid(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8))


# Likelihood


class StandardNormal(nn.Module):
    def log_prob(self, z):
        return -0.5 * (z.square() + math.log(TURN)).sum(1)


def linear(matrix, encoding):
    encoder, decoder = (nn.Linear(*part.shape[::-1], bias=False, dtype=part.dtype) for part in (encoding, matrix))
    encoder.weight.data, decoder.weight.data = encoding.clone(), matrix.clone()
    return Autoencoder(encoder, decoder)


def test_elbo_of_a_linear_model_in_closed_form():
    matrix, x, sigma, epsilon = normal(6, 2), normal(3, 6, seed=1), torch.linspace(0.5, 2, 6, dtype=torch.float64), 0.3
    encoding = torch.linalg.pinv(matrix)
    found = measures.Likelihood(linear(matrix, encoding), StandardNormal(), sigma, epsilon).elbo(x, samples=20_000)
    code = x @ encoding.T
    spread = epsilon**2 * matrix.square().sum(1)
    fit = -0.5 * (((x - code @ matrix.T).square() + spread) / sigma**2 + (TURN * sigma**2).log()).sum(1)
    divergence = 0.5 * (code.square() + epsilon**2 - 1 - 2 * math.log(epsilon)).sum(1)
    assert torch.allclose(found, fit - divergence, rtol=0, atol=0.03)


def exact_model(noise=0.5):
    """f(z) = A z with AᵀA = a I, where N(g(x), ε² I) can be the posterior; draws of x; the log evidence of each."""
    a = 4.0
    matrix = a**0.5 * torch.linalg.qr(normal(5, 2))[0]
    x = normal(500, 2, seed=1) @ matrix.T + noise * normal(500, 5, seed=2)
    covariance = matrix @ matrix.T + noise**2 * torch.eye(5, dtype=x.dtype)
    evidence = torch.distributions.MultivariateNormal(torch.zeros(5, dtype=x.dtype), covariance).log_prob(x)
    return linear(matrix, matrix.T / (a + noise**2)), x, evidence, (noise**2 / (a + noise**2)) ** 0.5


def test_the_fit_finds_the_posterior_whose_elbo_is_the_log_evidence():
    model, x, evidence, epsilon = exact_model()
    fitted = measures.fit_elbo(model, x, density=StandardNormal(), epochs=40, batch_size=100, learning_rate=0.03)
    assert float(fitted.log_epsilon.exp()) == pytest.approx(epsilon, rel=0.1)
    assert fitted.log_sigma.exp().tolist() == pytest.approx([0.5] * 5, rel=0.1)
    # σ is fitted to these points, so that the ELBO may lie a little above their true evidence.
    assert float(fitted.elbo(x, samples=200).mean()) == pytest.approx(float(evidence.mean()), abs=0.03)
    assert not any(parameter.requires_grad for parameter in fitted.parameters())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_the_flow_beats_the_standard_normal_and_the_seed_repeats_the_fit(monkeypatch):
    ring, matrix = uniform(400) * TURN, exact_model()[0].decoder.weight.data.float()
    z = 2 * torch.stack([ring.cos(), ring.sin()], 1).float()
    images = (z @ matrix.T)[:, None] + 0.05 * normal(400, 1, 5).float()
    flat = linear(matrix, torch.linalg.pinv(matrix))
    model = Autoencoder(nn.Sequential(nn.Flatten(), flat.encoder), nn.Sequential(flat.decoder, nn.Unflatten(1, (1, 5))))
    train, new = images[:300], images[300:]
    settings = dict(epochs=6, batch_size=50, learning_rate=1e-2)
    plain = measures.fit_elbo(model, train, new, density=StandardNormal(), **settings)
    values, elbo = [], measures.Likelihood.elbo
    with monkeypatch.context() as patch:
        patch.setattr(measures.Likelihood, "elbo", lambda *a, **k: values.append(elbo(*a, **k)) or values[-1])
        first = measures.fit_elbo(model, train, new, **settings)
    second = measures.fit_elbo(model, train, new, **settings)
    found = first.elbo(new)
    assert found.shape == (100,) and found.mean() > plain.elbo(new).mean() + 0.3
    assert torch.equal(found, second.elbo(new))
    # The epoch that is best on the validation points is the one that is kept.
    assert len(values) == 6
    assert max(float(value.mean()) for value in values) == pytest.approx(float(first.elbo(new, samples=1).mean()))


def test_the_fit_refuses_what_it_cannot_do():
    thin, (model, x, *_) = linear(torch.ones(5, 1).double(), torch.ones(1, 5).double()), exact_model()
    for sentence, one, points, options in [
        ("the floor of the decoder's noise must be positive, not 0.0", model, x, dict(floor=0.0)),
        ("the data is empty", model, x[:0], {}),
        ("the data holds NaN or infinite values in 500 of 500 points", model, x / 0, {}),
        ("m >= 2", thin, x, {}),
        ("has diverged: lower its", model, x, dict(density=StandardNormal(), epochs=1, learning_rate=1e200)),
    ]:
        with pytest.raises(ValueError, match=sentence):
            measures.fit_elbo(one, points, **options)

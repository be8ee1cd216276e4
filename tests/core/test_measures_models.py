"""Measures of images, circular codes, curvature and likelihood against closed forms and independent computations."""

import math
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from nrae_lib.core import measures
from nrae_lib.core.models import Autoencoder, mlp

TURN = 2 * math.pi


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Errors


def test_errors_of_bytes_are_those_of_fractions_in_small_blocks_too():
    images = torch.randint(256, (7, 1, 6, 6), generator=generator(), dtype=torch.uint8)
    halve = nn.Module()
    halve.forward = lambda x: 0.5 * x
    rows = images / 255
    each = measures.per_point_error(halve, images, block=2)
    assert each.dtype == torch.float32 and each.shape == (7,)
    assert torch.allclose(each, (0.5 * rows).square().mean((1, 2, 3)))
    assert measures.mean_squared_error(halve, images) == measures.mean_squared_error(halve, rows)
    assert measures.mean_squared_error(halve, images, block=3) == pytest.approx(float(each.mean()))


def test_large_images_come_in_blocks_of_bounded_size():
    seen = []
    model = nn.Module()
    model.forward = lambda x: seen.append(len(x)) or x
    measures.mean_squared_error(model, torch.zeros(5, 2**23).to(torch.uint8))
    assert seen == [2, 2, 1]


def test_psnr_of_known_errors_and_both_means():
    clean = torch.zeros(2, 1, 4, 4)
    noisy = clean.clone()
    noisy[0], noisy[1] = 0.1, 0.01  # 20 and 40 dB
    assert measures.psnr(noisy, clean) == pytest.approx(30, abs=1e-4)
    assert measures.psnr_of_mean(noisy, clean) == pytest.approx(-10 * math.log10((1e-2 + 1e-4) / 2), abs=1e-4)
    bytes_ = torch.full((1, 4), 51, dtype=torch.uint8)
    assert measures.psnr(bytes_, torch.zeros(1, 4)) == pytest.approx(-20 * math.log10(0.2), abs=1e-4)
    assert measures.psnr(clean, clean) == math.inf
    with pytest.raises(ValueError, match="same shape"):
        measures.psnr(clean, clean[:1])


# Circular codes


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("direction", [1, -1])
def test_a_perfect_winding_is_perfect_in_every_measure(even, direction):
    true = torch.arange(100.0) / 100 * TURN if even else torch.rand(100, generator=generator()) * 4 + 0.3
    code = direction * true + 5
    points = 3 * torch.stack([code.cos(), code.sin()], 1)
    assert measures.circular_correlation(points, true) == pytest.approx(1, abs=1e-6)
    if even:
        shuffled = torch.randperm(100, generator=generator())
        assert measures.winding_number(code) == direction == measures.winding_number(points)
        assert measures.circular_breaks(points[shuffled], true[shuffled]) == 0


def test_circular_correlation_of_full_circles_is_that_of_jammalamadaka_and_sengupta():
    alpha = torch.arange(60, dtype=torch.float64) / 60 * TURN
    # Noise of which the second moments stay those of a full circle: a permutation of the same angles.
    order = (torch.arange(60) + 8 * torch.randn(60, generator=generator())).argsort()
    beta = alpha[order]
    expected = abs(torch.exp(1j * (alpha - beta)).mean().abs() - torch.exp(1j * (alpha + beta)).mean().abs())
    assert 0.3 < expected < 0.95
    assert measures.circular_correlation(alpha, beta) == pytest.approx(float(expected), rel=1e-9)
    assert measures.circular_correlation(1 - alpha, 2 + beta) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(
    ("code", "winding", "breaks"),
    [
        (lambda t: 2 * t, 2, 1),  # wound twice
        (lambda t: (t - math.pi).abs(), 0, 1),  # folded: forward, then back
        (lambda t: 0 * t, 0, 1),  # constant
        (lambda t: t + 0.5 * torch.sin(4 * t), 1, 4),  # four retreats
        (lambda t: t + 0.02 * torch.sin(100 * t), 1, 0),  # ripples below the tolerance
    ],
    ids=["double", "fold", "constant", "retreats", "ripple"],
)
def test_circular_breaks(code, winding, breaks):
    true = torch.arange(1000, dtype=torch.float64) / 1000 * TURN
    for offset in (0.0, 1.3):  # the stretches must not depend on where the circle is cut
        position = (true + offset).remainder(TURN)
        assert measures.circular_breaks(code(true), position) == breaks
        assert measures.circular_breaks(-code(true), position) == breaks
    assert measures.winding_number(code(true)) == winding
    if winding != 1:
        assert measures.circular_correlation(code(true), true) < 0.01


def test_a_stretch_across_the_cut_is_one_break():
    code = torch.tensor([0.8, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 1.5, 1.0])
    assert measures.circular_breaks(code, torch.arange(9.0)) == 1


def test_circular_codes_that_are_none():
    with pytest.raises(ValueError, match="diverged"):
        measures.winding_number(torch.tensor([0.0, math.nan]))
    with pytest.raises(ValueError, match=r"angles \(N,\) or points \(N, 2\)"):
        measures.circular_correlation(torch.zeros(4, 3), torch.zeros(4))


# Decoded images


def test_neighbor_breaks_finds_leaps_and_no_local_swap():
    position = torch.linspace(-10, 10, 20)
    swapped = position.clone()
    swapped[[4, 5]] = swapped[[5, 4]]
    assert measures.neighbor_breaks(position, position) == measures.neighbor_breaks(-swapped, position) == []
    moved = position.clone()
    moved[8:11] += 100  # three points from the middle go to the end: one leap where they were, one where they are now
    assert measures.neighbor_breaks(moved, position) == [7, 16]
    angle = torch.arange(0, 360, 12.0)
    turned = (angle + 100) % 360
    assert measures.neighbor_breaks(turned, angle) == [int((turned < 100).sum()) - 1]
    assert measures.neighbor_breaks(turned, angle, period=360.0) == []


def test_grid_smoothness_of_affine_and_quadratic_grids():
    r, c = torch.meshgrid(torch.arange(6.0), torch.arange(5.0), indexing="ij")
    affine = torch.stack([2 * r - c + 1, 3 * c], 2)
    assert measures.grid_smoothness(affine) == pytest.approx(0, abs=1e-12)
    # r²: second difference 2 along r, first differences 1, 3, 5, 7, 9 along r; c: first difference 1 along c.
    expected = 4 / ((1 + 9 + 25 + 49 + 81) / 5 + 1)
    assert measures.grid_smoothness(r**2 + c) == pytest.approx(expected)
    assert measures.grid_smoothness(-7 * (r**2 + c)) == pytest.approx(expected)
    assert measures.grid_smoothness(torch.randn(80, 80, 20, generator=generator())) == pytest.approx(3, rel=0.02)
    # What lies outside of the marked images does not count.
    marked = torch.ones(6, 8, dtype=torch.bool)
    marked[:, 5:] = False
    wider = torch.cat([r**2 + c, torch.randn(6, 3, generator=generator())], 1)
    assert measures.grid_smoothness(wider, where=marked) == pytest.approx(expected)
    with pytest.raises(ValueError, match="3 rows"):
        measures.grid_smoothness(torch.zeros(2, 5))


# Curvature


def sphere(z, radius=3.0):
    theta, phi = z.unbind(1)
    return radius * torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], 1)


def test_curvature_of_known_surfaces():
    z = 0.5 + torch.rand(9, 2, generator=generator(), dtype=torch.float64)
    assert torch.allclose(measures.scalar_curvature(sphere, z, block=4), torch.full((9,), 2 / 9, dtype=z.dtype))
    rolled = measures.scalar_curvature(lambda z: torch.stack([z[:, 0].cos(), z[:, 0].sin(), z[:, 1]], 1), z)
    assert torch.allclose(rolled, torch.zeros_like(rolled), atol=1e-12)

    def saddle(z):
        return torch.cat([z, z[:, :1] ** 2 - z[:, 1:] ** 2], 1)

    origin = torch.zeros(1, 2, dtype=z.dtype)
    assert measures.scalar_curvature(saddle, origin).tolist() == [-8.0]
    # K = -4 / (1 + 4x² + 4y²)², in R³ and after an isometry into images.
    expected = -8 / (1 + 4 * z.square().sum(1)) ** 2
    frame = torch.linalg.qr(torch.randn(12, 3, generator=generator(), dtype=z.dtype))[0]
    assert torch.allclose(measures.scalar_curvature(lambda z: (saddle(z) @ frame.T).view(-1, 3, 2, 2), z), expected)


def test_curvature_of_a_three_sphere():
    """m = 3, where R is no longer 2K: m (m - 1) / r² = 6 / r²."""

    def decoder(z):
        return 2 * torch.cat([z[:, :1].cos(), z[:, :1].sin() * sphere(z[:, 1:], 1.0)], 1)

    z = 0.5 + torch.rand(4, 3, generator=generator(), dtype=torch.float64)
    assert torch.allclose(measures.scalar_curvature(decoder, z), torch.full((4,), 1.5, dtype=z.dtype))


def test_curvature_of_a_network_is_that_of_its_autograd_hessian():
    torch.manual_seed(0)
    decoder = mlp((2, 16, 16, 5), "softplus").double()
    z = torch.randn(6, 2, generator=generator(), dtype=torch.float64)
    found = measures.scalar_curvature(decoder, z)
    for point, value in zip(z, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(decoder, point)  # (5, 2)
        hessian = torch.stack(
            [torch.autograd.functional.hessian(lambda p, k=k: decoder(p)[k], point) for k in range(5)]
        )
        projector = torch.eye(5, dtype=z.dtype) - jacobian @ torch.linalg.pinv(jacobian)
        second = torch.einsum("de,eab->dab", projector, hessian)
        product = second[:, 0, 0] @ second[:, 1, 1] - second[:, 0, 1].square().sum()
        assert float(value) == pytest.approx(float(2 * product / torch.linalg.det(jacobian.T @ jacobian)), rel=1e-6)
    assert found.abs().max() > 1e-3


def test_curvature_is_nan_where_the_decoder_is_no_immersion_and_zero_for_relu():
    poles = torch.tensor([[0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    assert measures.scalar_curvature(sphere, poles).isnan().tolist() == [True, False]
    assert measures.scalar_curvature(lambda z: torch.zeros(len(z), 4, dtype=z.dtype) * z[:, :1], poles).isnan().all()
    assert measures.scalar_curvature(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.ones(1, 2)).shape == (1,)
    tiny = measures.scalar_curvature(lambda z: 1e-90 * sphere(z, 1.0), poles[1:])
    assert float(tiny) == pytest.approx(2e180, rel=1e-6)


# FID


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A torch home with random weights where pytorch-fid looks for its own."""
    inception = pytest.importorskip("pytorch_fid.inception")
    home = tmp_path_factory.mktemp("home")
    path = home / "hub" / "checkpoints" / measures.FID_WEIGHTS
    path.parent.mkdir(parents=True)
    assert inception.FID_WEIGHTS_URL.endswith("/" + measures.FID_WEIGHTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: None)
        patch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            torch.save(inception.fid_inception_v3().state_dict(), path)
    return home


def png_folder(folder, images):
    image = pytest.importorskip("PIL.Image")
    folder.mkdir()
    for number, pixels in enumerate(images):
        array = (pixels * 255 + 0.5).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).squeeze(2).numpy()
        image.fromarray(array).save(folder / f"{number:03}.png")
    return folder


def test_fid_is_that_of_pytorch_fid_on_png_files(hub, tmp_path):
    grey = torch.rand(5, 1, 28, 28, generator=generator())
    colour = torch.rand(6, 3, 32, 32, generator=generator(1)) * 1.3 - 0.2  # also values that a PNG cannot hold
    folders = [png_folder(tmp_path / name, images) for name, images in (("grey", grey), ("colour", colour))]
    result = subprocess.run(
        [sys.executable, "-m", "pytorch_fid", *map(str, folders), "--dims=64", "--num-workers=0", "--device=cpu"],
        env={**os.environ, "TORCH_HOME": str(hub), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    expected = float(result.stdout.split("FID:")[1])
    weights = hub / "hub" / "checkpoints" / measures.FID_WEIGHTS
    assert expected > 0.01
    assert measures.fid(grey[:, 0], colour, weights=weights, block=4, dims=64) == pytest.approx(expected, rel=1e-3)


def test_inception_features_are_those_of_pytorch_fid_at_2048(hub, tmp_path, monkeypatch):
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    monkeypatch.setenv("TORCH_HOME", str(hub))
    monkeypatch.delenv("NRAE_FID_WEIGHTS", raising=False)
    images = torch.rand(2, 3, 32, 32, generator=generator())
    files = sorted(png_folder(tmp_path / "images", images).iterdir())
    expected = torch.from_numpy(fid_score.get_activations(files, fid_score.InceptionV3([3]), num_workers=0))
    found = measures.inception_features(images)
    assert found.shape == (2, 2048) and found.dtype == torch.float32
    assert (found - expected).norm() <= 1e-5 * expected.norm() and expected.norm() > 0
    as_bytes = (images * 255 + 0.5).to(torch.uint8)
    assert torch.equal(
        measures.inception_features(as_bytes[:1], dims=64), measures.inception_features(images[:1], dims=64)
    )
    with pytest.raises(ValueError, match="64, 192, 768, 2048"):
        measures.inception_features(images, dims=100)
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\)"):
        measures.inception_features(images.flatten(1), dims=64)


def test_fid_never_downloads(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("NRAE_FID_WEIGHTS", raising=False)
    images = torch.zeros(2, 1, 8, 8)
    with pytest.raises(measures.FidWeightsMissing, match=rf"{tmp_path}.*NRAE_FID_WEIGHTS"):
        measures.fid(images, images)
    monkeypatch.setenv("NRAE_FID_WEIGHTS", str(tmp_path / "mine.pth"))
    with pytest.raises(measures.FidWeightsMissing, match=r"mine\.pth"):
        measures.inception_features(images)


# Likelihood


class StandardNormal(nn.Module):
    def log_prob(self, z):
        return -0.5 * (z.square() + math.log(TURN)).sum(1)


def linear(matrix, encoding):
    encoder, decoder = (nn.Linear(*part.shape[::-1], bias=False, dtype=part.dtype) for part in (encoding, matrix))
    encoder.weight.data, decoder.weight.data = encoding.clone(), matrix.clone()
    return Autoencoder(encoder, decoder)


def test_elbo_of_a_linear_model_in_closed_form():
    matrix = torch.randn(6, 2, generator=generator(), dtype=torch.float64)
    x = torch.randn(3, 6, generator=generator(1), dtype=torch.float64)
    sigma, epsilon = torch.linspace(0.5, 2, 6, dtype=torch.float64), 0.3
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
    matrix = a**0.5 * torch.linalg.qr(torch.randn(5, 2, generator=generator(), dtype=torch.float64))[0]
    model = linear(matrix, matrix.T / (a + noise**2))
    z, e = (torch.randn(500, size, generator=generator(1), dtype=torch.float64) for size in (2, 5))
    x = z @ matrix.T + noise * e
    covariance = matrix @ matrix.T + noise**2 * torch.eye(5, dtype=x.dtype)
    evidence = torch.distributions.MultivariateNormal(torch.zeros(5, dtype=x.dtype), covariance).log_prob(x)
    return model, x, evidence, (noise**2 / (a + noise**2)) ** 0.5


def test_the_best_elbo_is_the_log_evidence():
    model, x, evidence, epsilon = exact_model()
    sigma = torch.full((5,), 0.5, dtype=x.dtype)
    best = measures.Likelihood(model, StandardNormal(), sigma, epsilon).elbo(x[:50], samples=4000)
    assert torch.allclose(best, evidence[:50], rtol=0, atol=0.1)
    assert float((best - evidence[:50]).mean()) == pytest.approx(0, abs=0.02)
    worse = measures.Likelihood(model, StandardNormal(), sigma, 3 * epsilon).elbo(x[:50], samples=100)
    assert worse.mean() < evidence[:50].mean() - 1


def test_the_fit_finds_the_posterior():
    model, x, evidence, epsilon = exact_model()
    fitted = measures.fit_elbo(model, x, density=StandardNormal(), epochs=60, batch_size=100, learning_rate=0.02)
    assert float(fitted.log_epsilon.exp()) == pytest.approx(epsilon, rel=0.1)
    assert fitted.log_sigma.exp().tolist() == pytest.approx([0.5] * 5, rel=0.1)
    # σ is fitted to these points, so that the ELBO may lie a little above their true evidence.
    assert float(fitted.elbo(x, samples=200).mean()) == pytest.approx(float(evidence.mean()), abs=0.03)
    assert not any(parameter.requires_grad for parameter in fitted.parameters())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_a_constant_pixel_adds_what_the_floor_says():
    model, x, _, _ = exact_model()
    values, sigma = [], []
    matrix, encoding = model.decoder.weight.data, model.encoder.weight.data
    padded = linear(torch.cat([matrix, 0 * matrix[:1]]), torch.cat([encoding, 0 * encoding[:, :1]], 1))
    for one, points in ((model, x), (padded, torch.cat([x, 0 * x[:, :1]], 1))):
        fitted = measures.fit_elbo(one, points, density=StandardNormal(), epochs=3, floor=0.01)
        values.append(fitted.elbo(points, samples=2))
        sigma.append(fitted.log_sigma.exp())
    assert float(sigma[1][5]) == pytest.approx(0.01, rel=1e-12)
    added = -math.log(0.01) - 0.5 * math.log(TURN)
    assert torch.allclose(values[1] - values[0], torch.full_like(values[0], added), rtol=0, atol=1e-6)


def test_the_flow_beats_the_standard_normal_and_the_seed_repeats_the_fit():
    pytest.importorskip("zuko")
    model = exact_model()[0]
    ring = torch.rand(400, generator=generator()) * TURN
    z = 2 * torch.stack([ring.cos(), ring.sin()], 1)
    matrix = model.decoder.weight.data.float()
    images = (z @ matrix.T)[:, None] + 0.05 * torch.randn(400, 1, 5, generator=generator())
    flat = linear(matrix, torch.linalg.pinv(matrix))
    model = Autoencoder(nn.Sequential(nn.Flatten(), flat.encoder), nn.Sequential(flat.decoder, nn.Unflatten(1, (1, 5))))
    settings = dict(epochs=15, batch_size=50, learning_rate=5e-3)
    plain = measures.fit_elbo(model, images[:300], images[300:], density=StandardNormal(), **settings)
    first, second = (measures.fit_elbo(model, images[:300], images[300:], **settings) for _ in range(2))
    found = first.elbo(images[300:])
    assert found.shape == (100,) and found.mean() > plain.elbo(images[300:]).mean() + 0.3
    assert torch.equal(found, second.elbo(images[300:]))
    # The epoch that is best on the validation points is the one that is kept.
    assert max(first.history["validation"]) == pytest.approx(float(first.elbo(images[300:], samples=1).mean()))


def test_the_fit_refuses_what_it_cannot_do():
    model, x, _, _ = exact_model()
    with pytest.raises(ValueError, match="floor"):
        measures.fit_elbo(model, x, floor=0.0)
    with pytest.raises(ValueError, match="no"):
        measures.fit_elbo(model, x[:0])
    thin = linear(torch.ones(5, 1).double(), torch.ones(1, 5).double())
    with pytest.raises(ValueError, match="m >= 2"):
        measures.fit_elbo(thin, x)

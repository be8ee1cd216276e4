"""Views, what a result holds beside its errors, against closed forms and numbers known in advance."""

from math import log10

import numpy as np
import pytest
import torch
from torch import nn

from nrae_lib.core import measures
from nrae_lib.data.datasets import Dataset
from nrae_lib.runs import views
from nrae_lib.runs.views.plane import Whitened, grid_near
from tests.runs.small import model


def picture(z):
    """A 4 x 4 image that holds the sum of the code."""
    return z.sum(1)[:, None, None, None].expand(-1, 1, 4, 4) / 100


def family(count, positions):
    """Images whose first pixel is their position."""
    position = torch.linspace(*positions, count)
    return position[:, None, None, None] * torch.eye(16)[0].reshape(1, 1, 4, 4), position


def first_pixel(x):
    return x.flatten(1)[:, :1]


def on_circle(angle_of):
    """An encoder that maps a point of angle x degrees to the angle ``angle_of(x)`` radians on the unit circle."""

    def encode(x):
        angle = angle_of(first_pixel(x)[:, 0])
        return torch.stack([angle.cos(), angle.sin()], 1)

    return model(encode, picture)


def circle_data(train, test):
    """Points whose only feature is their angle in degrees."""
    return Dataset(train[:, None], test[:, None], train, test)


def test_order_on_a_line_finds_the_fold_and_the_jump():
    (train, position), (test, test_position) = family(20, (0, 10)), family(101, (0, 10))
    data = Dataset(train, test, position, test_position)
    metrics, arrays = views.VIEWS["metrics"](model(first_pixel, picture), data)
    assert metrics["order_breaks"] == 0 and metrics["total_turning"] == pytest.approx(0, abs=1e-4) and arrays == {}
    metrics, arrays = views.order(model(first_pixel, picture), data)
    assert metrics["order_breaks"] == metrics["train_order_breaks"] == metrics["neighbor_breaks"] == 0
    assert metrics["rank_correlation"] == pytest.approx(1)
    assert arrays["sequence"].tolist() == list(range(20)) and arrays["decoded"].shape == (20, 1, 4, 4)
    assert arrays["path"].shape == (61, 1, 4, 4) and arrays["path_code"][[0, -1], 0].tolist() == [0, 10]

    torn = model(lambda x: torch.where(first_pixel(x) > 5, first_pixel(x) - 20, first_pixel(x)), picture)
    metrics, arrays = views.order(torn, data)
    assert metrics["order_breaks"] == metrics["train_order_breaks"] == 1
    assert arrays["sequence"].tolist() == [*range(10, 20), *range(10)]
    assert arrays["breaks"].tolist() == [9] and metrics["neighbor_breaks"] == 1


FULL = circle_data(torch.arange(0.0, 360, 1.2), torch.arange(0.0, 360, 0.36))
HALF = circle_data(torch.arange(0.0, 180, 9.0), torch.linspace(0, 180, 1000))


@pytest.mark.parametrize(
    ("data", "angle_of", "turns", "right"),
    [
        (FULL, lambda x: 1.0 - torch.deg2rad(x), -1, True),
        (FULL, lambda x: 2 * torch.deg2rad(x), 2, False),
        (HALF, lambda x: 3.0 + 1.9 * torch.deg2rad(x), 0.95, True),  # across the cut at π
        (HALF, lambda x: 3.0 + 2.2 * torch.deg2rad(x), 1.1, False),  # two angles share a code
        (HALF, lambda x: torch.deg2rad((x - 60).abs()), 1 / 6, False),
    ],
)
def test_codes_on_a_circle_are_right_for_a_closed_and_for_an_open_family(data, angle_of, turns, right):
    shuffled = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    data = Dataset(data.train[shuffled], data.test, data.train_position[shuffled], data.test_position)
    metrics, arrays = views.order(on_circle(angle_of), data)
    assert metrics["winding_number"] == pytest.approx(turns, abs=1e-4)
    # The twenty training angles of the half turn end at 171 degrees.
    assert metrics["train_winding_number"] == pytest.approx(turns * (171 / 180 if len(shuffled) == 20 else 1), abs=0.02)
    assert (metrics["circular_breaks"] == 0) is right
    if turns != 1.1:  # only the last of the twenty would overlap
        assert (metrics["train_circular_breaks"] == 0) is right
    assert arrays["path_code"].shape == (61, 2) and arrays["test_code"].shape == (len(data.test), 2)
    assert np.hypot(*arrays["path_code"].T) == pytest.approx(np.ones(61), abs=1e-6)
    if turns == -1:
        assert metrics["circular_correlation"] == pytest.approx(1, abs=1e-3)
    with pytest.raises(ValueError, match="needs data with positions"):
        views.order(on_circle(angle_of), Dataset(data.train, data.test))


def test_images_keeps_the_best_and_the_worst_and_bytes_are_read_as_training_reads_them():
    images = torch.randint(0, 256, (60, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    # What is darker than 1/2 is lost.
    dark = model(lambda x: x.flatten(1), nn.Sequential(nn.Threshold(0.5, 0.0), nn.Unflatten(1, (1, 4, 4))))
    _, arrays = views.images(dark, Dataset(images, images))
    pixels = images.float() / 255
    lost = (pixels * (pixels <= 0.5)).square().flatten(1).mean(1)
    assert arrays["error"] == pytest.approx(lost.numpy(), rel=1e-3)
    assert arrays["best_index"].tolist() == lost.argsort()[:8].tolist()
    assert arrays["worst_index"].tolist() == lost.argsort(descending=True)[:8].tolist()
    kept = torch.where(pixels > 0.5, images, 0)
    assert np.array_equal(arrays["worst"], kept[arrays["worst_index"]].numpy())
    assert np.array_equal(arrays["shown"], kept[:40].numpy())


def test_psnr_is_between_the_reconstructed_noisy_and_the_clean_images(monkeypatch):
    halve = model(nn.Flatten(), lambda z: (0.5 * z).reshape(-1, 1, 2, 2))
    # Reconstructions of the noisy training images are 0.5 and 0.1 above the clean ones, of the test images 0.2.
    clean, test = torch.full((2, 1, 2, 2), 0.3), torch.full((3, 1, 2, 2), 0.4)
    noisy = 2 * (clean + torch.tensor([0.5, 0.1]).reshape(2, 1, 1, 1))
    data = Dataset(noisy, test, train_clean=clean, test_noisy=3 * test)
    for block in (2048, 1):
        monkeypatch.setitem(views.denoising.__globals__, "_NOISY_BLOCK", block)
        metrics, arrays = views.denoising(halve, data)
        assert metrics["psnr_train"] == pytest.approx((10 * log10(4) + 20) / 2, abs=1e-4)
        assert metrics["psnr_of_mean_train"] == pytest.approx(-10 * log10((0.25 + 0.01) / 2), abs=1e-4)
        assert metrics["psnr_test"] == metrics["psnr_of_mean_test"] == pytest.approx(-20 * log10(0.2), abs=1e-4)
    for name, value in {"denoised": 153, "noisy": 255, "clean": 102}.items():
        assert arrays[name].dtype == "uint8" and np.array_equal(arrays[name], np.full((3, 1, 2, 2), value))
    with pytest.raises(ValueError, match="needs images with noise"):
        views.denoising(halve, Dataset(test, test))


def plane_data(count=4000):
    points = torch.randn(count, 2, generator=torch.Generator().manual_seed(1)) @ torch.tensor([[3.0, 1.0], [0.0, 0.5]])
    return Dataset(points + torch.tensor([5.0, -2.0]), points[:10], torch.arange(count).float(), torch.arange(10.0))


def test_whitened_codes_have_mean_0_and_covariance_1_and_come_back_and_a_grid_knows_where_they_are():
    codes = plane_data().train
    plane = Whitened(codes)
    white = plane.of(codes)
    assert torch.allclose(white.T @ white / len(white), torch.eye(2, dtype=torch.float64), atol=1e-6)
    assert white.mean(0).abs().max() < 1e-6
    assert torch.allclose(plane.codes(white), codes.double())
    line = torch.linspace(0, 1, 50)[:, None].expand(-1, 2)
    assert torch.isfinite(Whitened(line).of(line)).all()
    # A place of the grid is near the data within one step of a code.
    grid, near = grid_near(torch.tensor([[2.0, 2.0]], dtype=torch.float64), 5)
    assert grid[0, -1].tolist() == [2, 2] and grid[-1, 0].tolist() == [-2, -2]
    assert near.nonzero().tolist() == [[0, 3], [0, 4], [1, 4]]


def test_a_latent_grid_shows_the_decoder_over_the_whitened_codes():
    data = plane_data()
    plane = Whitened(data.train)
    x, y = 0.5 + 0.2 * torch.linspace(-2, 2, 10), 0.5 + 0.2 * torch.linspace(2, -2, 10)
    # The decoder paints one image of two pixels: the whitened coordinates.
    whitening = model(lambda points: points, lambda z: (0.5 + 0.2 * plane.of(z)).float())
    metrics, arrays = views.latent_grid(whitening, data)
    expected = torch.stack(torch.meshgrid(y, x, indexing="ij"), 2).flip(2)
    assert np.abs(arrays["grid"] / 255 - expected.numpy()).max() < 0.003
    assert metrics["grid_roughness"] < 1e-8 and metrics["data_roughness"] < 1e-8
    assert arrays["code"].shape == (1000, 2) and arrays["position"][-1] == 3999
    assert 0.4 < views.latent_grid(whitening, plane_data(300))[1]["near"].mean() < 1
    assert views.VIEWS["latent_scores"](whitening, data) == (metrics, {})
    assert measures.grid_smoothness(torch.randn(6, 6, 1), torch.zeros(6, 6, dtype=torch.bool)) == 0


def test_the_curvature_view_finds_the_closed_form_on_a_paraboloid():
    points = torch.randn(3000, 2, generator=torch.Generator().manual_seed(2))
    paraboloid = model(lambda x: x, lambda z: torch.cat([z, z.square().sum(1, keepdim=True)], 1))
    metrics, arrays = views.curvature(paraboloid, Dataset(points, points[:5]))

    def closed_form(z):  # of (u, v, u² + v²): 2 K = 8 / (1 + 4 r²)²
        return 8 / (1 + 4 * np.square(z).sum(-1)) ** 2

    plane = Whitened(points)
    codes = plane.codes(torch.from_numpy(arrays["code"])).numpy()
    assert np.allclose(arrays["code_curvature"], closed_form(codes), rtol=1e-4)
    assert metrics["curvature"] == pytest.approx(float(np.median(closed_form(codes))), rel=1e-4)
    assert metrics["log10_curvature"] == pytest.approx(log10(metrics["curvature"]))
    side = torch.linspace(-2, 2, 32, dtype=torch.float64)
    place = plane.codes(torch.stack([side[15], side[31 - 15]])[None]).numpy()
    assert np.allclose(arrays["field"][15, 15], closed_form(place), rtol=1e-4)
    assert np.isnan(arrays["field"]).any() and np.isfinite(arrays["field"]).mean() > 0.5
    assert paraboloid.decoder.unused.dtype == torch.float32  # a copy was made precise


@pytest.mark.parametrize("view", ["latent_grid", "curvature"])
def test_views_of_the_plane_need_a_plane_and_finite_codes(view):
    data = Dataset(torch.ones(4, 3), torch.ones(2, 3))
    for encoder, sentence in ((lambda x: x, f"{view}' needs codes in the plane"), (lambda x: x[:, :2] / 0, "diverged")):
        with pytest.raises(ValueError, match=sentence):
            views.VIEWS[view](model(encoder, lambda z: z), data)

"""The view of denoised images against numbers known in advance."""

from math import log10

import pytest
import torch
from torch import nn

from nrae_lib.core.models import Autoencoder, Network
from nrae_lib.core.training import Optimization
from nrae_lib.data.datasets import Dataset
from nrae_lib.runs import views
from nrae_lib.runs.study import Plan


class Halve(nn.Module):
    """A decoder whose weight tells it the device; g and f together halve the image."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, z):
        return (self.weight * z).reshape(-1, 1, 2, 2)


def test_psnr_is_between_the_reconstructed_noisy_and_the_clean_images(monkeypatch):
    model = Autoencoder(nn.Flatten(), Halve())
    # Reconstructions of the noisy training images are 0.5 and 0.1 above the clean ones, of the test images 0.2.
    clean = torch.full((2, 1, 2, 2), 0.3)
    noisy = 2 * (clean + torch.tensor([0.5, 0.1]).reshape(2, 1, 1, 1))
    test = torch.full((3, 1, 2, 2), 0.4)
    data = Dataset(noisy, test, train_clean=clean, test_noisy=torch.full((3, 1, 2, 2), 1.2))
    for block in (2048, 1):
        monkeypatch.setitem(views.denoising.__globals__, "_BLOCK", block)
        metrics, arrays = views.VIEWS["denoising"](model, data)
        assert metrics["psnr_train"] == pytest.approx((10 * log10(4) + 20) / 2, abs=1e-4)
        assert metrics["psnr_of_mean_train"] == pytest.approx(-10 * log10((0.25 + 0.01) / 2), abs=1e-4)
        assert metrics["psnr_test"] == metrics["psnr_of_mean_test"] == pytest.approx(-20 * log10(0.2), abs=1e-4)
    assert arrays["denoised"].shape == (3, 1, 2, 2) and arrays["denoised"].dtype == "uint8"
    assert set(arrays["denoised"].ravel()) == {153} and set(arrays["noisy"].ravel()) == {255}
    assert set(arrays["clean"].ravel()) == {102}


def test_data_without_noise_is_refused():
    images = torch.zeros(4, 1, 2, 2)
    with pytest.raises(ValueError, match="needs images with noise"):
        views.VIEWS["denoising"](Autoencoder(nn.Flatten(), Halve()), Dataset(images, images))


def test_one_condition_of_a_plan_can_keep_what_only_its_data_allows():
    fields = dict(data="mnist", network=Network((4,), 2), optimization=Optimization(1, 10))
    noisy = fields | dict(data_options=dict(noise=0.1), keep="denoising", search_as="clean")
    plan = Plan({"clean": fields, "noisy": noisy}, ("ae",), seeds=1, keep="images")
    assert plan.run("clean", "ae", 0, {}).keep == "images" and plan.run("noisy", "ae", 0, {}).keep == "denoising"
    assert plan.run("noisy", "ae", 0, {}, searching=True).keep == "metrics"

"""Image sets once they are read: splits, noise, stand-ins, the real sets, and the state of their files."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_sample_images

from nrae_lib.data import datasets, images
from nrae_lib.data.datasets import IMAGE_SETS, Images

REAL = Path(os.environ.get("NRAE_DATA") or Path(__file__).resolve().parents[2].parent / "shared" / "data")

TOTALS = {
    "mnist": (60_000, 10_000), "fmnist": (60_000, 10_000), "kmnist": (60_000, 10_000), "omniglot": (19_280, 13_180),
    "svhn": (73_257, 26_032), "cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000), "celeba": (182_637, 19_962),
}  # fmt: skip


def numbered(n_train: int, n_test: int) -> Images:
    """A set whose images are their numbers."""
    rows = torch.arange(n_train + n_test)
    pictures = rows.to(torch.int32).view(-1, 1, 1, 1)
    return Images(pictures[:n_train], rows[:n_train], pictures[n_train:], rows[n_train:], "npz")


@pytest.mark.parametrize("size", ["S", "L"])
@pytest.mark.parametrize("name", IMAGE_SETS)
def test_the_papers_splits_add_up_and_are_disjoint(name, size, monkeypatch):
    whole = numbered(*TOTALS[name])
    monkeypatch.setattr(images, "load", lambda _: whole)
    chosen = datasets.sizes(name, size, "official")
    assert tuple(chosen.values()) == IMAGE_SETS[name].sizes[size]
    data = datasets.make(name, 0, **chosen)
    parts = [part.flatten().tolist() for part in (data.train, data.validation, data.test)]
    assert [len(part) for part in parts] == list(chosen.values())
    assert len(set().union(*parts)) == sum(chosen.values())
    assert data.train_labels.tolist() == parts[0] and data.test_labels.tolist() == parts[2]
    official_test = list(range(TOTALS[name][0], sum(TOTALS[name])))
    if size == "L":
        assert parts[2] == official_test and sum(chosen.values()) == sum(TOTALS[name])
    elif name != "omniglot":
        assert parts[2][-len(official_test) :] == official_test
    fewer = datasets.make(name, 3, **datasets.sizes(name, size, "official", {"n_train": 1000}))
    assert torch.equal(fewer.test, data.test) and torch.equal(fewer.train, data.train[:1000])


@pytest.mark.parametrize(
    ("name", "size", "there", "most", "expected"),
    [
        ("cifar10", "S", (16_000, 1_000), None, (10_000, 2_000, 5_000)),
        ("cifar10", "L", (16_000, 1_000), None, (11_475, 1_275, 4_250)),
        ("omniglot", "S", (4_840, 0), None, (3_226, 403, 1_210)),
        ("mnist", "S", (60_000, 10_000), 3_000, (3_000, 2_000, 3_000)),
        ("mnist", "S", (60_000, 10_000), {"n_test": 7, "n_validation": 0}, (10_000, 0, 7)),
    ],
)
def test_sizes_are_cut_to_what_is_there_and_to_most(name, size, there, most, expected, monkeypatch):
    whole = numbered(*there)
    monkeypatch.setattr(images, "load", lambda _: whole)
    assert tuple(datasets.sizes(name, size, "official", most).values()) == expected


def test_noise_is_drawn_once_from_the_seed_and_clips_nothing():
    options = {"source": "stand_in", "n_train": 300, "n_validation": 20, "n_test": 40, "noise": 0.2}
    data, again, other = (datasets.make("mnist", seed, **options) for seed in (1, 1, 2))
    clean = datasets.make("mnist", 1, **options | {"noise": 0.0})
    assert clean.train.dtype == torch.uint8 and clean.validation is not None and clean.train_clean is None
    assert data.validation is None
    assert torch.equal(data.train_clean, clean.train / 255) and torch.equal(data.test, clean.test / 255)
    for noisy, base in ((data.train, data.train_clean), (data.test_noisy, data.test)):
        noise = noisy - base
        assert noise.mean().abs() < 0.005 and noise.std().item() == pytest.approx(0.2, rel=0.02)
    assert data.train.min() < -0.1 and data.train.max() > 1.1
    assert data.fingerprint == again.fingerprint != other.fingerprint
    assert torch.equal(other.train_clean, data.train_clean) and not torch.equal(other.train, data.train)


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_stand_ins_have_the_shape_of_what_they_stand_for(name):
    found = datasets.stand_in(name)
    assert found.train_images.shape[1:] == found.test_images.shape[1:] == IMAGE_SETS[name].shape
    assert found.train_images.dtype == torch.uint8 and len(found.train_labels) == len(found.train_images)
    data = datasets.make(name, 0, source="stand_in", **datasets.sizes(name, "S", "stand_in", most=100))
    assert len(data.train) == len(data.validation) == len(data.test) == 100


def test_stand_in_digits_are_scikit_learns_enlarged_bilinearly():
    found, original = datasets.stand_in("kmnist"), load_digits()
    at = (np.arange(28) + 0.5) * 8 / 28 - 0.5
    rows = np.stack([np.interp(at, range(8), column) for column in original.images[3].T], 1)
    expected = np.stack([np.interp(at, range(8), row) for row in rows]) * 255 / 16
    assert np.abs(found.train_images[3, 0].numpy() - expected).max() <= 0.51
    assert torch.cat([found.train_labels, found.test_labels]).tolist() == original.target.tolist()


def test_stand_in_patches_for_the_test_come_from_elsewhere():
    photographs, found = load_sample_images().images, datasets.stand_in("svhn")
    assert len(found) == 6000

    def columns(patch, label):
        patch, photograph = patch.permute(1, 2, 0).numpy(), photographs[label]
        corners = np.argwhere((photograph[:-31, :-31] == patch[0, 0]).all(-1))
        return [x for y, x in corners if np.array_equal(photograph[y : y + 32, x : x + 32], patch)]

    for index in range(0, 1500, 250):
        assert min(columns(found.test_images[index], found.test_labels[index])) >= 480
        assert max(columns(found.train_images[index], found.train_labels[index])) <= 480 - 32


def test_banner_names_the_stand_ins_and_the_way_out(folder):
    text = datasets.banner_text(["mnist", "cifar10"])
    for part in (
        "digits stand in for MNIST",
        "photographs stand in for CIFAR10",
        "python -m nrae_lib.data mnist cifar10",
    ):
        assert part in text
    (folder / "cifar10.npz").write_bytes(b"one file is enough to be there")
    assert "CIFAR10" not in datasets.banner_text(["mnist", "cifar10"]) and datasets.banner_text(["cifar10"]) == ""


def test_root_is_the_environments_or_the_checkouts(monkeypatch):
    monkeypatch.delenv("NRAE_DATA", raising=False)
    assert datasets.root() == Path(__file__).resolve().parents[2] / "data"


@pytest.mark.parametrize(
    ("name", "first", "first_test", "means", "tolerance"),
    [
        ("mnist", [5, 0, 4, 1, 9, 2], [7], [0.1307], 1e-4),
        ("cifar10", [6, 9, 9, 4], [3], [0.4914, 0.4822, 0.4465], 0.01),
        ("omniglot", [0, 0, 0, 0], [], [0.08], 0.01),  # bright ink on dark paper
    ],
)
def test_real_images_are_what_is_known_of_them(name, first, first_test, means, tolerance, monkeypatch):
    monkeypatch.setenv("NRAE_DATA", str(REAL))
    if not datasets.available(name):
        pytest.skip(f"no real {name} at hand")
    real = datasets.load(name)
    assert real.train_labels[: len(first)].tolist() == first
    assert real.test_labels[: len(first_test)].tolist() == first_test
    pixels = real.train_images.float() / 255
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx(means, abs=tolerance)
    assert pixels.amax((1, 2, 3)).min() > 0.2
    data = datasets.make(name, 0, **datasets.sizes(name, "S", "official", most=500))
    assert data.train.shape == (500, *IMAGE_SETS[name].shape)


def test_the_state_changes_with_the_files_that_the_data_reads_and_with_nothing_else(folder):
    def states():
        return [datasets.state(name, {"source": "official"}) for name in ("mnist", "rotated_digit", "fmnist")]

    nothing = states()
    (folder / "notes.txt").write_text("mine")
    assert states() == nothing
    (folder / "mnist.npz").write_bytes(b"one")
    one = states()
    os.utime(folder / "mnist.npz", ns=(1, 1))
    two = states()
    assert nothing[2] == one[2] == two[2], "of another set"
    for mnist in (0, 1):
        assert len({nothing[mnist], one[mnist], two[mnist]}) == 3
    assert datasets.state("mnist", {"source": "stand_in"}) == datasets.state("sine", {}) == ""

"""The image sets in memory: loading, splitting, noise, and what stands in where they are not at hand."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nrae_lib.core.methods.terms import check_choice
from nrae_lib.core.points import stream
from nrae_lib.data import layouts
from nrae_lib.data.catalogue import IMAGE_SETS, ImageSet
from nrae_lib.data.points import Dataset, check_options

SOURCES = ("official", "stand_in")

_TEST_COLUMN = 480  # of 640: left of it patches train, right of it they test


@dataclass(frozen=True)
class Images:
    """An image set in memory, cut nowhere yet.

    Arguments:
        train_images, test_images: (N, C, H, W), (M, C, H, W) uint8; M may be 0.
        train_labels, test_labels: (N,), (M,) int64.
        origin: "torchvision", "npz" or "stand_in".
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    origin: str

    def __len__(self) -> int:
        return len(self.train_images) + len(self.test_images)

    def part(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Copies of images and labels ``start`` to ``stop`` - 1 of the row: training images, then test images."""
        end = len(self.train_images)
        first, second = slice(start, min(stop, end)), slice(max(start - end, 0), max(stop - end, 0))
        both = ((self.train_images, self.test_images), (self.train_labels, self.test_labels))
        return tuple(torch.cat([train[first], test[second]]) for train, test in both)


def root() -> Path:
    """The folder of the image sets: ``$NRAE_DATA``, or ``data`` in the checkout (in the current folder if installed)."""
    checkout = Path(__file__).resolve().parents[2]
    here = checkout if (checkout / "pyproject.toml").exists() else Path.cwd()
    return Path(os.environ.get("NRAE_DATA") or here / "data")


def _set(name: str) -> ImageSet:
    check_choice("image set", name, IMAGE_SETS)
    return IMAGE_SETS[name]


def available(name: str) -> bool:
    """Whether the files of the set are there, complete or packed; nothing is decoded or fetched."""
    spec, folder = _set(name), root()
    loose = [file for file in spec.files if file.endswith(".txt")]  # what no archive holds
    ways = (spec.files, (*spec.archives, *loose) if spec.archives else (f"{name}.npz",), (f"{name}.npz",))
    return any(all((folder / file).exists() for file in files) for files in ways)


def load(name: str, download: bool = False) -> Images:
    """The whole image set ``name``.

    First torchvision's own class and layout under :func:`root` (archives that lie there are unpacked), then the file
    ``<name>.npz`` with ``train_images``, ``train_labels``, ``test_images`` and ``test_labels`` (uint8, N x H x W or
    N x H x W x C; the test part may be missing). The last two sets are kept in memory.

    Omniglot's 105 x 105 drawings are inverted, so that ink is bright, and reduced to 28 x 28 with antialiasing, in the order of
    alphabet, character and file. Of CelebA, whose labels are the persons, the central 140 x 140 pixels are reduced to 64 x 64,
    as in the papers of WAE and EAE; the NRAE paper states no crop. They are kept beside the originals in a file that is mapped.

    With ``download`` torchvision, which checks md5 sums, fetches a set of which nothing is there, or ConnectionError;
    else FileNotFoundError. ValueError for an unknown name, and for files that are incomplete, truncated, corrupt or
    mislabelled; ImportError if torchvision is needed and missing.
    """
    spec, folder = _set(name), root()
    if download and not available(name):
        layouts.fetch(spec, folder)
    return _load(name, folder)


@lru_cache(maxsize=2)
def _load(name: str, folder: Path) -> Images:
    spec, npz = _set(name), folder / f"{name}.npz"
    complete = all((folder / file).exists() for file in spec.files)
    begun = any((folder / file).exists() for file in (*spec.files, *spec.archives))
    if complete or (begun and not npz.exists()):
        return Images(*layouts.from_torchvision(spec, folder), "torchvision")
    if npz.exists():
        return Images(*layouts.from_npz(spec, npz), "npz")
    raise FileNotFoundError(f"{spec.title} is not there: neither torchvision's files nor {npz}; {spec.hint}")


@lru_cache(maxsize=2)
def stand_in(name: str) -> Images:
    """Real images that come with scikit-learn, in the shape of the set ``name``; the last quarter tests. For the grey
    sets 1,797 handwritten digits of 8 x 8 pixels, enlarged to 28 x 28; labels are the digits. For the colour sets 6,000
    random patches of two photographs, whose right quarter only the test patches show; labels are the photographs."""
    from sklearn.datasets import load_digits, load_sample_images

    channels, height, width = _set(name).shape
    if channels == 1:
        digits = load_digits()
        small = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
        images = torch.nn.functional.interpolate(small, (height, width), mode="bilinear").round().to(torch.uint8)
        labels = torch.from_numpy(digits.target).long()
        end = len(images) - len(images) // 4
        return Images(images[:end], labels[:end], images[end:], labels[end:], "stand_in")
    photographs = torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2)
    generator = torch.Generator().manual_seed(0)
    parts: list[Tensor] = []
    for count, left, right in ((4500, 0, _TEST_COLUMN), (1500, _TEST_COLUMN, photographs.shape[-1])):
        labels = torch.arange(count) % len(photographs)
        tops = torch.randint(0, photographs.shape[-2] - height + 1, (count,), generator=generator)
        lefts = torch.randint(left, right - width + 1, (count,), generator=generator)
        rows, columns = tops[:, None] + torch.arange(height), lefts[:, None] + torch.arange(width)
        patches = photographs[labels[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        parts += [patches.permute(0, 3, 1, 2).contiguous(), labels]
    return Images(*parts, "stand_in")


def images_of(name: str, source: str) -> Images:
    """:func:`load` for the source "official", :func:`stand_in` for "stand_in"."""
    check_choice("source", source, SOURCES)
    return load(name) if source == "official" else stand_in(name)


def resolve(name: str) -> str:
    """The source to use here: "official" if the set is :func:`available`, else "stand_in"."""
    return "official" if available(name) else "stand_in"


def banner_text(names: str | Sequence[str]) -> str:
    """One sentence on which of the sets are stand-ins here, and how to get the real ones; empty if none is."""
    names = [name for name in ([names] if isinstance(names, str) else names) if resolve(name) == "stand_in"]
    if not names:
        return ""
    clauses = []
    for channels, pictures in ((1, "1,797 handwritten digits"), (3, "two photographs")):
        if titles := [IMAGE_SETS[name].title for name in names if IMAGE_SETS[name].shape[0] == channels]:
            what = f"scikit-learn's {pictures} stand in for {', '.join(titles)}"
            clauses.append(what if channels == 1 else f"patches of {what}")
    return (
        f"Here {', and '.join(clauses)}, so the numbers of this page cannot be compared with the paper's: to get the "
        f"real images, run python -m nrae_lib.data {' '.join(names)}, or see the page on image sets."
    )


def sizes(name: str, size: str, source: str, most: int | dict[str, int] | None = None) -> dict[str, int]:
    """The paper's split of the set, cut to the images that are there, as options of the data set ``name``.

    If there are fewer images than the paper used, the test images are cut first. They keep at least a quarter of all;
    beyond that, training and validation images are cut in proportion. ValueError, FileNotFoundError for an unknown
    name, size, source or key of ``most``; if the official set is not there.

    Arguments:
        size, source: "S" or "L"; "official" or "stand_in".
        most: upper bound on every number, or on those named ``n_train``, ``n_validation``, ``n_test``.

    Example:
        >>> sizes("mnist", "S", "stand_in", most={"n_train": 1000})
        {'n_train': 1000, 'n_validation': 224, 'n_test': 449}
    """
    spec = _set(name)
    check_choice("size", size, spec.sizes)
    total = len(images_of(name, source))
    *seen, n_test = spec.sizes[size]
    n_test = min(n_test, max(total - sum(seen), total // 4))
    rest = min(total - n_test, sum(seen))
    n_train, n_validation = (rest * part // sum(seen) for part in seen)
    chosen = {"n_train": n_train, "n_validation": n_validation, "n_test": n_test}
    bounds = dict.fromkeys(chosen, most) if isinstance(most, int) else most or {}
    for key in bounds:
        if key not in chosen:
            raise ValueError(f"unknown number {key!r} in most: choose among {', '.join(chosen)}")
    return {key: min(value, bounds.get(key, value)) for key, value in chosen.items()}


def image_data(
    name: str, seed: int, source: str = "official", n_train: int = 10_000, n_validation: int = 2_000,
    n_test: int = 50_000, noise: float = 0.0,
) -> Dataset:  # fmt: skip
    """The image set ``name``, split as the page on image sets says.

    Without noise the images are uint8 and do not depend on the seed. With noise they are float32 in [0, 1] plus normal
    noise of standard deviation ``noise``, drawn once from the seed and clipped nowhere (paper, Table 2); ``train_clean``
    and ``test`` are without it, ``test_noisy`` has it, and there is no validation part, since this setting has no clean
    images to stop by. ``n_validation`` images are left out all the same. ValueError if the set has fewer images than
    asked for; :func:`sizes` gives numbers that fit.
    """
    images = images_of(name, source)
    check_options(2, noise, n_train=n_train)
    check_options(1, n_test=n_test)
    check_options(0, n_validation=n_validation)
    if (asked := n_train + n_validation + n_test) > len(images):
        found = f"{IMAGE_SETS[name].title} ({source}) has {len(images):,} images here and {asked:,} were asked for"
        raise ValueError(f"{found}: choose smaller n_train, n_validation, n_test, for example those of datasets.sizes")
    (train, train_labels), (test, test_labels) = images.part(0, n_train), images.part(len(images) - n_test, len(images))
    labels = {"train_labels": train_labels, "test_labels": test_labels}
    if noise == 0:
        validation = images.part(n_train, n_train + n_validation)[0] if n_validation else None
        return Dataset(train, test, validation=validation, **labels)
    generator = torch.Generator().manual_seed(stream(seed, "data"))
    train, test = (part.float() / 255 for part in (train, test))
    noisy = [part + noise * torch.randn(part.shape, generator=generator) for part in (train, test)]
    return Dataset(noisy[0], test, train_clean=train, test_noisy=noisy[1], **labels)

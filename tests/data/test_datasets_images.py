"""The image sets: every format on disc through torchvision's own classes, bad files, splits, stand-ins."""

import gzip
import hashlib
import io
import pickle
import shutil
import socket
import struct
import sys
import tarfile
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torch.nn.functional import interpolate
from torchvision import datasets as tv

from nrae_lib.data import datasets, images
from nrae_lib.data.__main__ import main
from nrae_lib.data.datasets import IMAGE_SETS, Images

IDX = {"mnist": "MNIST", "fmnist": "FashionMNIST", "kmnist": "KMNIST"}
CIFAR = {"cifar10": ("CIFAR10", "labels", 10), "cifar100": ("CIFAR100", "fine_labels", 100)}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def random_images(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


# Each writer fills a root with a tiny set in its true layout and returns [(images, labels)] of training and test, as
# they must be read: images NCHW. torchvision's md5 sums are replaced by those of the tiny files.


def write_idx(name, folder, patch, packed=False):
    known, parts, sums = getattr(tv, IDX[name]), [], []
    raw = folder / IDX[name] / "raw"
    raw.mkdir(parents=True)
    for seed, (part, count) in enumerate({"train": 7, "t10k": 5}.items()):
        parts.append((random_images(seed, count, 1, 28, 28), np.arange(count, dtype=np.uint8)))
        for kind, array in (("images-idx3", parts[-1][0][:, 0]), ("labels-idx1", parts[-1][1])):
            path = raw / f"{part}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(idx(array)))
            sums.append((path.name, md5(path)))
            if not packed:
                path.unlink()
                path.with_suffix("").write_bytes(idx(array))
    patch.setattr(known, "resources", sums)
    return parts


def write_svhn(name, folder, patch):
    parts, sums = [], {}
    for part, count in (("train", 6), ("test", 4)):
        pictures, labels = random_images(count, count, 3, 32, 32), np.arange(count)
        written = np.where(labels == 0, 10, labels)  # the file has 10 for the digit 0
        path = folder / f"{part}_32x32.mat"
        savemat(path, {"X": pictures.transpose(2, 3, 1, 0), "y": written[:, None].astype(np.uint8)})
        sums[part] = ["", path.name, md5(path)]
        parts.append((pictures, labels))
    patch.setattr(tv.SVHN, "split_list", sums)
    return parts


def write_cifar(name, folder, patch, packed=False):
    title, key, classes = CIFAR[name]
    known = getattr(tv, title)
    base = folder / known.base_folder
    base.mkdir()
    batches = []
    for seed, (file, _) in enumerate([*known.train_list, *known.test_list]):
        pictures, labels = random_images(seed, 3, 3, 32, 32), np.arange(3) + seed
        (base / file).write_bytes(pickle.dumps({"data": pictures.reshape(3, -1), key: labels.tolist()}))
        batches.append((pictures, labels))
    meta = base / known.meta["filename"]
    meta.write_bytes(pickle.dumps({known.meta["key"]: [str(label) for label in range(classes)]}))
    patch.setattr(known, "meta", known.meta | {"md5": md5(meta)})
    for part in ("train_list", "test_list"):
        patch.setattr(known, part, [[file, md5(base / file)] for file, _ in getattr(known, part)])
    if packed:
        with tarfile.open(folder / known.filename, "w:gz") as archive:
            archive.add(base, known.base_folder)
        patch.setattr(known, "tgz_md5", md5(folder / known.filename))
        shutil.rmtree(base)
    train = tuple(np.concatenate(arrays) for arrays in zip(*batches[:-1], strict=True))
    return [train, batches[-1]]


def write_omniglot(name, folder, patch, packed=False):
    base, parts, sums, label = folder / "omniglot-py", [], {}, 0
    for part in ("images_background", "images_evaluation"):
        drawings, labels = [], []
        for character in ("Anglo/character01", "Anglo/character02", "Balinese/character01", "Balinese/character02"):
            (base / part / character).mkdir(parents=True)
            for drawer in (1, 2):
                ink = random_images(10 * label + drawer, 105, 105) < 40
                path = base / part / character / f"0001_{drawer:02}.png"
                Image.fromarray(~ink).save(path)  # one bit deep, as the originals
                drawings.append(np.where(ink, 255, 0).astype(np.float32))
                labels.append(label)
            label += 1
        shutil.make_archive(str(base / part), "zip", base, part)
        sums[part] = md5(base / f"{part}.zip")
        if packed:
            shutil.rmtree(base / part)
        small = interpolate(torch.tensor(np.stack(drawings))[:, None], (28, 28), mode="bilinear", antialias=True)
        parts.append((small.numpy(), np.array(labels)))
    patch.setattr(tv.Omniglot, "zips_md5", sums)
    return parts


def write_celeba(name, folder, patch, packed=False):
    base, count = folder / "celeba", 7
    (base / "img_align_celeba").mkdir(parents=True)
    files = [f"{index:06}.jpg" for index in range(1, count + 1)]
    partition, persons = np.array([2, 0, 1, 0, 2, 1, 0]), np.arange(count) + 11
    for index, file in enumerate(files):
        picture = np.full((218, 178, 3), 255, np.uint8)
        picture[39:179, 19:159] = 20 * index  # the part that must remain
        Image.fromarray(picture).save(base / "img_align_celeba" / file, quality=95, subsampling=0)
    headed = {
        f"list_{part}.txt": (f"{count}\nx\n", persons)
        for part in ("attr_celeba", "bbox_celeba", "landmarks_align_celeba")
    }
    rows = {"list_eval_partition.txt": ("", partition), "identity_CelebA.txt": ("", persons), **headed}
    for file, (header, values) in rows.items():
        lines = [f"{image}  {value}\n" for image, value in zip(files, values, strict=True)]
        (base / file).write_text(header + "".join(lines))
    shutil.make_archive(str(base / "img_align_celeba"), "zip", base, "img_align_celeba")
    sums = [("", md5(base / file), file) for file in ("img_align_celeba.zip", *rows)]
    patch.setattr(tv.CelebA, "file_list", sums)
    shutil.rmtree(base / "img_align_celeba") if packed else (base / "img_align_celeba.zip").unlink()
    order = [1, 3, 6, 2, 5], [0, 4]  # training, then validation; test
    return [(np.stack([np.full((3, 64, 64), 20.0 * index) for index in part]), persons[list(part)]) for part in order]


WRITERS = dict.fromkeys(IDX, write_idx) | dict.fromkeys(CIFAR, write_cifar)
WRITERS |= {"omniglot": write_omniglot, "svhn": write_svhn, "celeba": write_celeba}


def check(found: Images, parts, name: str) -> None:
    read = (found.train_images, found.train_labels), (found.test_images, found.test_labels)
    for (pictures, labels), (expected, expected_labels) in zip(read, parts, strict=True):
        assert pictures.dtype == torch.uint8 and labels.dtype == torch.int64
        assert pictures.shape == expected.shape and pictures.shape[1:] == IMAGE_SETS[name].shape
        assert labels.tolist() == expected_labels.tolist()
        difference = np.abs(pictures.numpy().astype(float) - expected)
        if name == "celeba":
            assert difference.mean() < 3  # JPEG's ringing at the edge of what was cropped
        else:
            assert difference.max() <= (1 if name == "omniglot" else 0)  # the rounding of the resize


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_every_set_is_read_by_torchvisions_class_from_its_true_format(name, folder, monkeypatch):
    assert not datasets.available(name) and datasets.resolve(name) == "stand_in"
    with pytest.raises(FileNotFoundError, match=f"{name}.npz; the book's page 'Image sets' .*{IMAGE_SETS[name].home}"):
        datasets.load(name)
    parts = WRITERS[name](name, folder, monkeypatch)
    assert datasets.available(name) and datasets.resolve(name) == "official"
    found = datasets.load(name)
    assert found.origin == "torchvision"
    check(found, parts, name)
    if name == "celeba":  # once decoded, faces are read from a file
        images._load.cache_clear()
        for file in (folder / "celeba" / "img_align_celeba").iterdir():
            file.write_bytes(b"")
        check(datasets.load(name), parts, name)
        assert [path.name for path in (folder / "celeba").glob("faces*")] == ["faces_64.npy"]
    data = datasets.make(name, 0, n_train=2, n_validation=1, n_test=2)
    assert torch.equal(data.train, found.train_images[:2]) and torch.equal(data.validation, found.train_images[2:3])
    assert torch.equal(data.test, found.test_images[-2:]) and torch.equal(data.test_labels, found.test_labels[-2:])


@pytest.mark.parametrize("name", ["fmnist", "cifar10", "omniglot", "celeba"])
def test_archives_are_unpacked_without_a_network_and_only_if_they_are_whole(name, folder, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("asked the network"))
    parts = WRITERS[name](name, folder, monkeypatch, packed=True)
    assert datasets.available(name)
    first = folder / IMAGE_SETS[name].archives[0]
    content = first.read_bytes()
    first.write_bytes(content[:-3])
    with pytest.raises(ValueError, match=f"cannot be unpacked: .*{first.name} is truncated or corrupt"):
        datasets.load(name)
    first.write_bytes(content)
    check(datasets.load(name), parts, name)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte"),
        ("kmnist", "KMNIST/raw/t10k-labels-idx1-ubyte"),
        ("svhn", "test_32x32.mat"),
        ("cifar10", "cifar-10-batches-py/data_batch_3"),
        ("cifar100", "cifar-100-python/meta"),
        ("omniglot", "omniglot-py/images_evaluation.zip"),
        ("omniglot", "omniglot-py/images_background/Anglo/character02/0001_02.png"),
        ("celeba", "celeba/list_eval_partition.txt"),
        ("celeba", "celeba/img_align_celeba/000004.jpg"),
    ],
)
@pytest.mark.parametrize("damage", ["truncated", "emptied", "garbage"])
def test_a_damaged_file_is_named_in_one_sentence(name, file, damage, folder, monkeypatch):
    WRITERS[name](name, folder, monkeypatch)
    path = folder / file
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "emptied": b"", "garbage": b"\x7f" * 50}[damage])
    with pytest.raises(ValueError) as caught:
        datasets.load(name)
    sentence = str(caught.value)
    assert path.name in sentence and IMAGE_SETS[name].title in sentence and IMAGE_SETS[name].home in sentence
    assert "\n" not in sentence
    assert datasets.resolve(name) == "official", "a stand-in must not hide a damaged file"


def test_a_missing_file_and_labels_of_other_images_are_named(folder, monkeypatch):
    write_idx("mnist", folder, monkeypatch)
    (folder / "MNIST/raw/train-labels-idx1-ubyte").write_bytes(idx(np.zeros(6, np.uint8)))
    with pytest.raises(ValueError, match=r"MNIST in .*raw cannot be used: it has 7 images but labels of shape \(6,\)"):
        datasets.load("mnist")
    (folder / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match=r"MNIST is incomplete: .*t10k-labels-idx1-ubyte is missing; .*Image sets"):
        datasets.load("mnist")


def arrays(name: str = "mnist") -> dict[str, np.ndarray]:
    shape = IMAGE_SETS[name].raw_shape
    return {
        "train_images": random_images(0, 5, *shape), "train_labels": np.arange(5, dtype=np.uint8),
        "test_images": random_images(1, 3, *shape), "test_labels": np.arange(3, dtype=np.int16),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["kmnist", "svhn"])
def test_npz_is_the_second_way_in(name, folder, monkeypatch):
    content = arrays(name)
    np.savez(folder / f"{name}.npz", characters=np.array(["unused"]), **content)
    assert datasets.available(name)
    found = datasets.load(name)
    assert found.origin == "npz"
    pictures = [content[f"{part}_images"] for part in ("train", "test")]
    nchw = [each[:, None] if name == "kmnist" else np.moveaxis(each, 3, 1) for each in pictures]
    check(found, list(zip(nchw, (content["train_labels"], content["test_labels"]), strict=True)), name)
    WRITERS[name](name, folder, monkeypatch)
    images._load.cache_clear()
    assert datasets.load(name).origin == "torchvision"


def test_npz_without_a_test_part_is_cut_like_any_other(folder):
    content = {key: value for key, value in arrays("omniglot").items() if "train" in key}
    np.savez(folder / "omniglot.npz", **content)
    found = datasets.load("omniglot")
    assert len(found) == 5 and found.test_images.shape == (0, 1, 28, 28)
    ink = torch.from_numpy(255 - content["train_images"])[:, None].float()
    expected = interpolate(ink, (28, 28), mode="bilinear", antialias=True)
    assert (found.train_images - expected).abs().max() <= 1
    data = datasets.make("omniglot", 0, n_train=2, n_validation=1, n_test=2)
    assert data.test_labels.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"train_labels": np.arange(4)}, r"5 images but labels of shape \(4,\)"),
        ({"train_labels": np.arange(10).reshape(5, 2)}, r"5 images but labels of shape \(5, 2\)"),
        ({"test_labels": np.array([0, 1, 10])}, "labels reach from 0 to 10, not within 0 to 9"),
        ({"test_labels": np.array([0, 1, -1])}, "labels reach from -1 to 1"),
        ({"train_labels": np.arange(5.0)}, "labels are of type float64, not whole numbers"),
        ({"train_images": np.zeros((5, 28, 28))}, "images are of type float64, not uint8"),
        ({"train_images": np.zeros((5, 32, 32, 3), np.uint8)}, "shape 5 x 32 x 32 x 3, not N x 28 x 28"),
        ({"train_images": None}, "has no array 'train_images'"),
        ({"test_labels": None}, "has no array 'test_labels'"),
        ({"train_labels": np.array([1, "a", None, 2, 3], dtype=object)}, "truncated or corrupt"),
    ],
)
def test_mislabelled_npz_is_one_sentence(change, sentence, folder):
    np.savez(folder / "mnist.npz", **{key: value for key, value in (arrays() | change).items() if value is not None})
    with pytest.raises(ValueError, match=f"mnist.npz .*{sentence}.*Image sets"):
        datasets.load("mnist")


@pytest.mark.parametrize("keep", [0, 60, 2000])
def test_truncated_npz_is_one_sentence(keep, folder):
    path = folder / "mnist.npz"
    np.savez_compressed(path, **arrays())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"mnist\.npz is truncated or corrupt"):
        datasets.load("mnist")


def test_without_torchvision_one_sentence_says_how_to_get_it(folder, monkeypatch):
    write_idx("mnist", folder, monkeypatch)
    for module in ("datasets", "datasets.mnist", "transforms.v2.functional"):
        monkeypatch.setitem(sys.modules, f"torchvision.{module}", None)
    turned = partial(datasets.make, "rotated_digit", 0, source="stand_in")
    for call in (partial(datasets.load, "mnist"), partial(datasets.load, "cifar10", download=True), turned):
        with pytest.raises(ImportError, match=r"images need the package torchvision: pip install 'nrae-lib\[images\]'"):
            call()


class Response(io.BytesIO):
    length = url = None


def test_download_fetches_checks_reports_and_waits_only_so_long(folder, monkeypatch, capsys, tmp_path_factory):
    served = tmp_path_factory.mktemp("served")
    parts = write_idx("mnist", served, monkeypatch, packed=True)
    files = {path.name: path.read_bytes() for path in (served / "MNIST" / "raw").iterdir()}
    waits, answers = [], {}

    def urlopen(asked, **_):
        waits.append(socket.getdefaulttimeout())
        if not answers:
            raise urllib.error.URLError("no route")
        return Response(answers[Path(asked.full_url).name])

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with pytest.raises(ConnectionError, match=r"CIFAR10 could not be downloaded to .*no route.*Image sets"):
        datasets.load("cifar10", download=True)
    assert waits and all(wait is not None and wait <= 30 for wait in waits) and socket.getdefaulttimeout() is None
    answers = files | {"t10k-images-idx3-ubyte.gz": gzip.compress(b"another file")}
    assert main(["mnist"]) == 1
    assert "could not be downloaded" in capsys.readouterr().out
    answers = files
    assert main(["mnist"]) == 0
    assert "7 training and 5 test images (torchvision)" in capsys.readouterr().out
    check(datasets.load("mnist"), parts, "mnist")
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in IMAGE_SETS) and shown.count("missing") == 7
    assert main(["minst"]) == 2

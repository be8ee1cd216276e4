"""Image sets on disc: torchvision's layouts and ``<name>.npz``; every bad file gives one sentence.

A pickle (of CIFAR) is opened only after its md5 sum was found right, by torchvision.
"""

import contextlib
import os
import socket
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nrae_lib.core.extras import library
from nrae_lib.data.catalogue import ImageSet

_BLOCK = 1024  # images decoded or resized at a time
_TIMEOUT = 10.0  # seconds without an answer after which a download fails; torchvision sets none


def torchvision(module: str):
    """The module ``torchvision.<module>``, or one sentence on how to get it."""
    return library(f"torchvision.{module}", "torchvision", "images need", "images")


def _parts(spec: ImageSet, folder: Path, download: bool = False) -> list:
    """torchvision's own data sets of training and test images; it checks the md5 sums."""
    known = getattr(torchvision("datasets"), spec.torchvision_class)
    return [known(folder, download=download, **part) for part in spec.parts]


def fetch(spec: ImageSet, folder: Path) -> None:
    torchvision("datasets")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        _parts(spec, folder, download=True)
    except Exception as error:  # URLError, RuntimeError, timeouts, full or read-only discs
        cause = " ".join(str(error).split())[:200]
        raise ConnectionError(f"{spec.title} could not be downloaded to {folder} ({cause}); {spec.hint}") from error
    finally:
        socket.setdefaulttimeout(before)


def _checksums(spec: ImageSet) -> dict[str, str]:
    """The md5 sums that torchvision knows, by file relative to the root."""
    known = getattr(torchvision("datasets"), spec.torchvision_class)
    if spec.name == "svhn":
        return {known.split_list[part][1]: known.split_list[part][2] for part in ("train", "test")}
    if spec.name == "omniglot":
        return {f"omniglot-py/{part}.zip": md5 for part, md5 in known.zips_md5.items()}
    if spec.name == "celeba":
        return {f"celeba/{file}": md5 for _, md5, file in known.file_list}
    if spec.name.startswith("cifar"):
        batches = [*known.train_list, *known.test_list, (known.meta["filename"], known.meta["md5"])]
        return {known.filename: known.tgz_md5, **{f"{known.base_folder}/{file}": md5 for file, md5 in batches}}
    return {f"{spec.torchvision_class}/raw/{file}": md5 for file, md5 in known.resources}


def _damaged(spec: ImageSet, folder: Path, files: Sequence[str]) -> str:
    """Which of ``files`` is there with a wrong md5 sum, in words; empty if none is."""
    check = torchvision("datasets.utils").check_integrity
    for file, md5 in _checksums(spec).items():
        if file in files and (folder / file).is_file() and not check(folder / file, md5):
            return f"{folder / file} is truncated or corrupt (its md5 sum is not {md5})"
    return ""


def from_torchvision(spec: ImageSet, folder: Path) -> tuple[Tensor, ...]:
    def missing() -> list[Path]:
        return [folder / file for file in spec.files if not (folder / file).exists()]

    if missing():  # torchvision unpacks only where it may also fetch
        if damage := _damaged(spec, folder, spec.archives):
            raise ValueError(f"{spec.title} cannot be unpacked: {damage}; {spec.hint}")
        for archive in (folder / file for file in spec.archives if (folder / file).exists()):
            torchvision("datasets.utils").extract_archive(str(archive), str(archive.parent))
    if left := missing():
        raise ValueError(f"{spec.title} is incomplete: {left[0]} is missing; {spec.hint}")
    read = {"omniglot": _omniglot, "celeba": _celeba}.get(spec.name, _idx if spec.shape[0] == 1 else _arrays)
    try:
        parts = read(spec, folder)
    except Exception as error:  # whatever pickle, zip, scipy or Pillow make of a damaged file
        damage = _damaged(spec, folder, spec.files) or f"{folder} ({' '.join(str(error).split())[:200]})"
        raise ValueError(f"{spec.title} cannot be read: {damage}; {spec.hint}") from error
    where = folder / Path(spec.files[0]).parent
    return tuple(part for images, labels in parts for part in _checked(spec, images, labels, spec.shape, where))


Parts = list[tuple[Tensor, Tensor]]  # images and labels of training and test


def _readable(path: Path, read: Callable):
    try:
        return read(path)
    except Exception as error:
        raise ValueError(f"{path} is truncated or corrupt: {error}") from error


def _idx(spec: ImageSet, folder: Path) -> Parts:
    mnist = torchvision("datasets.mnist")
    readers = (mnist.read_image_file, mnist.read_label_file) * 2
    found = [_readable(folder / file, read) for file, read in zip(spec.files, readers, strict=True)]
    return [(found[0][:, None], found[1]), (found[2][:, None], found[3])]


def _arrays(spec: ImageSet, folder: Path) -> Parts:
    if spec.name == "svhn":
        rows = [(part.data, part.labels) for part in _parts(spec, folder)]
    else:
        rows = [(part.data.transpose(0, 3, 1, 2), np.array(part.targets)) for part in _parts(spec, folder)]
    return [(torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels)) for images, labels in rows]


def _omniglot(spec: ImageSet, folder: Path) -> Parts:
    parts, first = [], 0
    for drawings in _parts(spec, folder):
        # torchvision keeps the order of the file system, which differs between machines.
        paths = sorted(Path(drawings.target_folder).glob("*/*/*.png"), key=lambda path: (str(path.parent), path.name))
        images = torch.from_numpy(np.stack([_picture(path, "L") for path in paths]))
        characters, ranks = np.unique([str(path.parent) for path in paths], return_inverse=True)
        parts.append((_drawn(images), torch.from_numpy(ranks) + first))
        first += len(characters)
    return parts


def _drawn(images: Tensor) -> Tensor:
    """(N, 105, 105), paper 255, to (N, 1, 28, 28), paper 0."""
    resize = torchvision("transforms.v2.functional").resize
    small = torch.empty(len(images), 1, 28, 28, dtype=torch.uint8)
    for rows in torch.arange(len(images)).split(_BLOCK):
        small[rows] = resize(255 - images[rows, None], [28, 28], antialias=True)
    return small


def _celeba(spec: ImageSet, folder: Path) -> Parts:
    (faces,) = _parts(spec, folder)
    partition = faces._load_csv("list_eval_partition.txt").data[:, 0]
    order = torch.argsort(partition, stable=True)  # training, validation, test; file order within each
    images = torch.from_numpy(_faces(folder / "celeba", [faces.filename[index] for index in order]))
    labels, end = faces.identity[order, 0], int((partition < 2).sum())
    return [(images[:end], labels[:end]), (images[end:], labels[end:])]


def _faces(folder: Path, names: Sequence[str]) -> np.ndarray:
    """(N, 3, 64, 64) uint8, mapped from a file that the first call writes; in memory where it cannot be written."""
    shape = (len(names), 3, 64, 64)
    kept, new = folder / "faces_64.npy", folder / f"faces_64.{os.getpid()}.part"
    crop, resize = (getattr(torchvision("transforms.v2.functional"), name) for name in ("center_crop", "resize"))

    def faces() -> Iterator[np.ndarray]:
        for path in (folder / "img_align_celeba" / name for name in names):
            face = _picture(path, "RGB", lambda image: resize(crop(image, [140, 140]), [64, 64]))
            yield np.ascontiguousarray(face.transpose(2, 0, 1))

    with contextlib.suppress(OSError, ValueError):
        if (images := np.load(kept, mmap_mode="c")).shape == shape:
            return images
    try:
        with new.open("wb") as file:  # not a mapped file: a full disc would kill the process
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            file.writelines(faces())
        new.replace(kept)
        return np.load(kept, mmap_mode="c")
    except OSError:
        images = np.empty(shape, np.uint8)
        for row, face in zip(images, faces(), strict=True):
            row[:] = face
        return images
    finally:
        new.unlink(missing_ok=True)


def _picture(path: Path, mode: str, change: Callable = lambda image: image) -> np.ndarray:
    from PIL import Image

    return _readable(path, lambda path: np.array(change(Image.open(path).convert(mode))))


def from_npz(spec: ImageSet, path: Path) -> tuple[Tensor, ...]:
    names = [f"{part}_{kind}" for part in ("train", "test") for kind in ("images", "labels")]
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in names if name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{spec.title} cannot be read: {path} is truncated or corrupt; {spec.hint}") from error
    if not arrays.keys() & set(names[2:]):
        arrays |= {"test_images": np.empty((0, *spec.raw_shape), np.uint8), "test_labels": np.empty(0, np.int64)}
    if absent := [name for name in names if name not in arrays]:
        raise ValueError(f"{spec.title} cannot be read: {path} has no array {absent[0]!r}; {spec.hint}")
    checked = []
    for part in ("train", "test"):
        images, labels = _checked(spec, arrays[f"{part}_images"], arrays[f"{part}_labels"], spec.raw_shape, path)
        channels_first = images[:, None] if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
        checked += [_drawn(images) if spec.name == "omniglot" else channels_first, labels]
    return tuple(checked)


def _checked(spec: ImageSet, images, labels, shape: Sequence[int], where: Path) -> tuple[Tensor, Tensor]:
    """Images and int64 labels as tensors, if they belong to ``spec`` and to each other; else one sentence."""

    def wrong(what: str) -> ValueError:
        return ValueError(f"{spec.title} in {where} cannot be used: {what}; {spec.hint}")

    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8:
        raise wrong(f"its images are of type {images.dtype}, not uint8")
    if images.shape[1:] != tuple(shape):
        found, expected = (" x ".join(map(str, sides)) for sides in (images.shape, ("N", *shape)))
        raise wrong(f"its images have the shape {found}, not {expected}")
    if labels.dtype.kind not in "iu":
        raise wrong(f"its labels are of type {labels.dtype}, not whole numbers")
    if labels.shape != (len(images),):
        raise wrong(f"it has {len(images)} images but labels of shape {labels.shape}")
    if len(labels) and (labels.min() < 0 or labels.max() >= spec.classes):
        raise wrong(f"its labels reach from {labels.min()} to {labels.max()}, not within 0 to {spec.classes - 1}")
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))

"""Image sets on disc: torchvision's layouts and ``<name>.npz``; every bad file gives one sentence.

A pickle (of CIFAR) is opened only after its md5 sum was found right, by torchvision.
"""

import contextlib
import math
import os
import socket
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nrae_lib.data.catalogue import ImageSet

_BLOCK = 1024  # images decoded or resized at a time
_TIMEOUT = 10.0  # seconds without an answer after which a download fails


def _datasets():
    try:
        from torchvision import datasets
    except ImportError as error:
        raise ImportError("the image sets need the package torchvision: pip install 'nrae-lib[images]'") from error
    return datasets


@contextlib.contextmanager
def _short_timeout() -> Iterator[None]:
    """torchvision sets none, and a silent server would hang a page forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def fetch(spec: ImageSet, folder: Path) -> None:
    make = getattr(_datasets(), spec.torchvision_class)
    parts = {
        "SVHN": ({"split": "train"}, {"split": "test"}),
        "Omniglot": ({"background": True}, {"background": False}),
        "CelebA": ({"split": "test"},),
    }.get(spec.torchvision_class, ({"train": True},))
    try:
        with _short_timeout():
            for part in parts:
                make(folder, download=True, **part)
    except Exception as error:  # URLError, RuntimeError, timeouts, full or read-only discs
        cause = " ".join(str(error).split())[:200]
        raise ConnectionError(f"{spec.title} could not be downloaded to {folder} ({cause}); {spec.hint}") from error


def _checksums(spec: ImageSet) -> dict[str, str]:
    """The md5 sums torchvision knows, by file relative to the root."""
    known = getattr(_datasets(), spec.torchvision_class)
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


def _damage(path: Path, md5: str | None) -> str | None:
    """What is wrong with a file: its md5 sum, or the length that the header of an idx file promises."""
    from torchvision.datasets.utils import check_integrity

    if not path.is_file():
        return None
    if md5 is not None:
        return None if check_integrity(path, md5) else f"{path} is truncated or corrupt (its md5 sum is not {md5})"
    if path.name.endswith("-ubyte"):
        with path.open("rb") as file:
            head = file.read(16)
        dims = head[3] if len(head) > 3 else 0
        header = 4 + 4 * dims
        whole = head[:3] == b"\0\0\x08" and 1 <= dims <= 3 and len(head) >= header
        if not whole or path.stat().st_size != header + math.prod(np.frombuffer(head[4:header], ">u4").tolist()):
            return f"{path} is truncated or corrupt (its length is not what its header says)"
    return None


def _unpack(spec: ImageSet, folder: Path) -> None:
    """What torchvision does only where it may also fetch: unpack archives that lie there already."""
    from torchvision.datasets.utils import extract_archive

    for archive, md5 in _checksums(spec).items():
        path = folder / archive
        if archive in spec.archives and path.exists():
            if (damage := _damage(path, md5)) is not None:
                raise ValueError(f"{spec.title} cannot be unpacked: {damage}; {spec.hint}")
            extract_archive(str(path), str(path.parent))


def from_torchvision(spec: ImageSet, folder: Path) -> tuple[Tensor, ...]:
    known = getattr(_datasets(), spec.torchvision_class)

    def missing() -> list[Path]:
        return [folder / file for file in spec.files if not (folder / file).exists()]

    if missing():
        _unpack(spec, folder)
    if left := missing():
        raise ValueError(f"{spec.title} is incomplete: {left[0]} is missing; {spec.hint}")
    readers = {
        "omniglot": _omniglot,
        "celeba": _celeba,
        "svhn": _svhn,
        "cifar10": _cifar_parts,
        "cifar100": _cifar_parts,
    }
    try:
        parts = readers.get(spec.name, _idx_parts)(known, folder)
    except Exception as error:  # whatever pickle, zip, scipy or Pillow make of a damaged file
        sums = _checksums(spec)
        damages = (_damage(folder / file, sums.get(file)) for file in (*spec.files, *sums))
        damage = next(filter(None, damages), f"{folder} ({' '.join(str(error).split())[:200]})")
        raise ValueError(f"{spec.title} cannot be read: {damage}; {spec.hint}") from error
    where = folder / Path(spec.files[0]).parent
    return tuple(part for images, labels in parts for part in _checked(spec, images, labels, spec.shape, where))


def _idx_parts(known, folder: Path) -> list[tuple[Tensor, Tensor]]:
    parts = [known(folder, train=train) for train in (True, False)]
    return [(part.data[:, None], part.targets) for part in parts]


def _svhn(known, folder: Path) -> list[tuple[Tensor, Tensor]]:
    parts = [known(folder, split=split) for split in ("train", "test")]
    return [(torch.from_numpy(np.ascontiguousarray(part.data)), torch.from_numpy(part.labels)) for part in parts]


def _cifar_parts(known, folder: Path) -> list[tuple[Tensor, Tensor]]:
    parts = [known(folder, train=train) for train in (True, False)]
    return [
        (torch.from_numpy(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2))), torch.tensor(part.targets))
        for part in parts
    ]


def _omniglot(known, folder: Path) -> list[tuple[Tensor, Tensor]]:
    parts, first = [], 0
    for background in (True, False):
        drawings = known(folder, background=background)
        # torchvision keeps the order of the file system, which differs between machines
        characters = sorted(drawings._characters)
        ranks = {character: rank for rank, character in enumerate(characters, first)}
        entries = sorted(
            (drawings._characters[character], file, index)
            for index, (file, character) in enumerate(drawings._flat_character_images)
        )
        images = torch.empty(len(entries), 105, 105, dtype=torch.uint8)
        for row, (character, file, index) in enumerate(entries):
            try:
                images[row] = torch.from_numpy(np.array(drawings[index][0]))
            except Exception as error:
                raise ValueError(f"{file} of {character} is damaged: {error}") from error
        labels = torch.tensor([ranks[character] for character, _, _ in entries], dtype=torch.int64)
        parts.append((_drawn(images), labels))
        first += len(characters)
    return parts


def _drawn(images: Tensor) -> Tensor:
    """(N, 105, 105), paper 255, to (N, 1, 28, 28), paper 0."""
    try:
        from torchvision.transforms.v2.functional import resize
    except ImportError as error:
        raise ImportError("Omniglot needs the package torchvision: pip install 'nrae-lib[images]'") from error
    small = torch.empty(len(images), 1, 28, 28, dtype=torch.uint8)
    for rows in torch.arange(len(images)).split(_BLOCK):
        small[rows] = resize(255 - images[rows, None], [28, 28], antialias=True)
    return small


def _celeba(known, folder: Path) -> list[tuple[Tensor, Tensor]]:
    faces = known(folder, split="all", target_type="identity")
    partition = faces._load_csv("list_eval_partition.txt").data[:, 0]
    order = torch.argsort(partition, stable=True)  # training, validation, test; file order within each
    names = [faces.filename[index] for index in order]
    images = torch.from_numpy(_faces(folder / "celeba", names))
    labels, end = faces.identity[order, 0], int((partition < 2).sum())
    return [(images[:end], labels[:end]), (images[end:], labels[end:])]


def _faces(folder: Path, names: Sequence[str]) -> np.ndarray:
    """(N, 3, 64, 64) uint8, mapped from a file that the first call writes; in memory where it cannot be written."""
    shape = (len(names), 3, 64, 64)
    kept, new = folder / "faces_64.npy", folder / f"faces_64.{os.getpid()}.part"

    def blocks() -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, len(names), _BLOCK):
            faces = [_face(folder / "img_align_celeba" / name) for name in names[start : start + _BLOCK]]
            yield start, np.ascontiguousarray(faces)

    with contextlib.suppress(OSError, ValueError):
        images = np.load(kept, mmap_mode="c")
        if images.shape == shape and images.dtype == np.uint8:
            return images
    try:
        with new.open("wb") as file:  # not a mapped file: a full disc would kill the process
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for _, block in blocks():
                file.write(block)
        new.replace(kept)
        return np.load(kept, mmap_mode="c")
    except OSError:
        images = np.empty(shape, np.uint8)
        for start, block in blocks():
            images[start : start + len(block)] = block
        return images
    finally:
        new.unlink(missing_ok=True)


def _face(path: Path) -> np.ndarray:
    from PIL import Image
    from torchvision.transforms.v2.functional import center_crop, resize

    try:
        with Image.open(path) as image:
            return np.array(resize(center_crop(image.convert("RGB"), [140, 140]), [64, 64])).transpose(2, 0, 1)
    except Exception as error:
        raise ValueError(f"{path} is missing, truncated or corrupt: {error}") from error


def from_npz(spec: ImageSet, path: Path) -> tuple[Tensor, ...]:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [f"{part}_{kind}" for part in ("train", "test") for kind in ("images", "labels")]
            arrays = [file[name] if name in file.files else None for name in names]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{spec.title} cannot be read: {path} is truncated or corrupt; {spec.hint}") from error
    for name, array, partner in zip(names, arrays, (1, 0, 3, 2), strict=True):
        if array is None and (name.startswith("train") or arrays[partner] is not None):
            raise ValueError(f"{spec.title} cannot be read: {path} has no array {name!r}; {spec.hint}")
    if arrays[2] is None:
        arrays[2:] = np.empty((0, *spec.raw_shape), np.uint8), np.empty(0, np.int64)
    checked = []
    for images, labels in (arrays[:2], arrays[2:]):
        images, labels = _checked(spec, images, labels, spec.raw_shape, path)
        if spec.name == "omniglot":
            images = _drawn(images)
        else:
            images = images[:, None] if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
        checked += [images, labels]
    return tuple(checked)


def _checked(
    spec: ImageSet, images: np.ndarray | Tensor, labels: np.ndarray | Tensor, shape: Sequence[int], where: Path
) -> tuple[Tensor, Tensor]:
    """Images and int64 labels as tensors, if they belong to ``spec`` and to each other; else one sentence."""

    def wrong(what: str) -> ValueError:
        return ValueError(f"{spec.title} in {where} cannot be used: {what}; {spec.hint}")

    if str(images.dtype) not in ("uint8", "torch.uint8"):
        raise wrong(f"its images are of type {images.dtype}, not uint8")
    if tuple(images.shape[1:]) != tuple(shape):
        expected = " x ".join(map(str, ("N", *shape)))
        raise wrong(f"its images have the shape {' x '.join(map(str, images.shape))}, not {expected}")
    if isinstance(labels, np.ndarray) and labels.dtype.kind not in "iu":
        raise wrong(f"its labels are of type {labels.dtype}, not whole numbers")
    if tuple(labels.shape) != (len(images),):
        raise wrong(f"it has {len(images)} images but labels of shape {tuple(labels.shape)}")
    images = images if isinstance(images, Tensor) else torch.from_numpy(images)
    labels = labels if isinstance(labels, Tensor) else torch.from_numpy(labels.astype(np.int64))
    if len(labels) and (labels.min() < 0 or labels.max() >= spec.classes):
        low, high = int(labels.min()), int(labels.max())
        raise wrong(f"its labels reach from {low} to {high}, not within 0 to {spec.classes - 1}")
    return images, labels

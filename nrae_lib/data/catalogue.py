"""What is known about the image sets of the paper, and how they are split.

Every set is one row of images: the official training images in their official order, then the official test images. The first
``n_train`` of the row train, the next ``n_validation`` decide when to stop, and the last ``n_test`` test. So the test images
are the same for every ``n_train``, and nothing of this depends on the seed. The supplement (section 1.1) states four splits
that no data can have or that leave something open; the book's page 'Image sets' says how they are settled here, once.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ImageSet:
    """What is known about an image set.

    Arguments:
        name, title: in code, and as the paper writes it.
        torchvision_class, parts: of ``torchvision.datasets``, and its arguments for training and for test images.
        shape, raw_shape: (C, H, W) of the images as they are trained on; (H, W) or (H, W, C) of those in ``<name>.npz``.
        classes: labels are 0 to classes - 1.
        latent_dim, n_neighbors: of the paper's convolutional networks (supplement, section 1.1); of NRAE, for "S" and "L".
        sizes: numbers of training, validation and test images, for "S" and "L".
        home: address of the set's own page.
        files, archives: what torchvision reads, and what it can be unpacked from, relative to the root.
    """

    name: str
    title: str
    torchvision_class: str
    shape: tuple[int, int, int]
    classes: int
    latent_dim: int
    n_neighbors: dict[str, int]
    sizes: dict[str, tuple[int, int, int]]
    home: str
    files: tuple[str, ...]
    archives: tuple[str, ...]
    raw_shape: tuple[int, ...]
    parts: tuple[dict, ...] = ({"train": True}, {"train": False})

    @property
    def hint(self) -> str:
        """Where the instructions are, to end a sentence on missing or damaged files."""
        return f"the book's page 'Image sets' says how to get it, as does {self.home}"


def _idx_set(name: str, folder: str, latent_dim: int, home: str) -> ImageSet:
    kinds = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    files = tuple(f"{folder}/raw/{kind}-ubyte" for kind in kinds)
    return ImageSet(
        name, name.upper(), folder, (1, 28, 28), 10, latent_dim, {"S": 15, "L": 15},
        {"S": (10_000, 2_000, 50_000), "L": (50_000, 10_000, 10_000)}, home,
        files, tuple(f"{file}.gz" for file in files), (28, 28),
    )  # fmt: skip


def _cifar(name: str, classes: int, folder: str, batches: Sequence[str], archive: str) -> ImageSet:
    return ImageSet(
        name, name.upper(), name.upper(), (3, 32, 32), classes, 128, {"S": 30, "L": 30},
        {"S": (10_000, 2_000, 48_000), "L": (45_000, 5_000, 10_000)}, "https://www.cs.toronto.edu/~kriz/cifar.html",
        tuple(f"{folder}/{batch}" for batch in batches), (archive,), (32, 32, 3),
    )  # fmt: skip


_OMNIGLOT = ("omniglot-py/images_background", "omniglot-py/images_evaluation")
_CELEBA = ("attr_celeba", "bbox_celeba", "landmarks_align_celeba", "eval_partition")

IMAGE_SETS: dict[str, ImageSet] = {
    images.name: images
    for images in (
        _idx_set("mnist", "MNIST", 16, "http://yann.lecun.com/exdb/mnist/"),
        _idx_set("fmnist", "FashionMNIST", 32, "https://github.com/zalandoresearch/fashion-mnist"),
        _idx_set("kmnist", "KMNIST", 32, "https://github.com/rois-codh/kmnist"),
        ImageSet(
            "omniglot", "Omniglot", "Omniglot", (1, 28, 28), 1623, 32, {"S": 15, "L": 15},
            {"S": (8_000, 1_000, 4_180), "L": (15_000, 4_280, 13_180)}, "https://github.com/brendenlake/omniglot",
            (*_OMNIGLOT, *(f"{folder}.zip" for folder in _OMNIGLOT)), tuple(f"{folder}.zip" for folder in _OMNIGLOT),
            (105, 105), ({"background": True}, {"background": False})),
        ImageSet(
            "svhn", "SVHN", "SVHN", (3, 32, 32), 10, 64, {"S": 15, "L": 15},
            {"S": (10_000, 2_000, 50_000), "L": (60_000, 13_257, 26_032)}, "http://ufldl.stanford.edu/housenumbers/",
            ("train_32x32.mat", "test_32x32.mat"), (), (32, 32, 3), ({"split": "train"}, {"split": "test"})),
        _cifar(
            "cifar10", 10, "cifar-10-batches-py",
            (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"), "cifar-10-python.tar.gz"),
        _cifar("cifar100", 100, "cifar-100-python", ("train", "test", "meta"), "cifar-100-python.tar.gz"),
        ImageSet(
            "celeba", "CELEBA", "CelebA", (3, 64, 64), 10_178, 128, {"S": 15, "L": 30},
            {"S": (50_000, 10_000, 19_962), "L": (162_770, 19_867, 19_962)},
            "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
            ("celeba/img_align_celeba", *(f"celeba/list_{part}.txt" for part in _CELEBA), "celeba/identity_CelebA.txt"),
            ("celeba/img_align_celeba.zip",), (64, 64, 3), ({"split": "all", "target_type": "identity"},)),
    )
}  # fmt: skip

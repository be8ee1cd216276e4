"""Data sets: synthetic curves, the image sets of the paper, and rotated or shifted digits made from them.

A data set is a function of (seed, options); every option is part of what identifies a run.
"""

import hashlib
import inspect
from collections.abc import Callable
from functools import partial

from nrae_lib.core.methods.terms import check_choice
from nrae_lib.data.catalogue import IMAGE_SETS, ImageSet
from nrae_lib.data.digits import rotated_digit, rotated_digits, shifted_digit
from nrae_lib.data.images import Images, available, banner_text, image_data, load, resolve, root, sizes, stand_in
from nrae_lib.data.points import Dataset, sine, swiss_roll

__all__ = [
    "DATASETS", "IMAGE_SETS", "Dataset", "ImageSet", "Images", "available", "banner_text", "bound_options", "image_data", "image_set", "load",
    "make", "resolve", "root", "rotated_digit", "rotated_digits", "shifted_digit", "sine", "sizes", "stand_in", "state", "swiss_roll",
]  # fmt: skip

DATASETS: dict[str, Callable[..., Dataset]] = {
    **{made.__name__: made for made in (sine, swiss_roll, rotated_digit, shifted_digit, rotated_digits)},
    **{name: partial(image_data, name) for name in IMAGE_SETS},
}


def make(name: str, seed: int, **options) -> Dataset:
    """The data set ``name`` for ``seed``; ValueError for an unknown name or option, naming the valid ones."""
    bound = bound_options(name, options)
    return DATASETS[name](seed, **bound)


def bound_options(name: str, options: dict) -> dict:
    """All options of the data set ``name``: ``options``, and the defaults of the others; errors as of :func:`make`."""
    check_choice("data set", name, DATASETS)
    parameters = inspect.signature(DATASETS[name]).parameters
    defaults = {option: parameter.default for option, parameter in parameters.items() if option != "seed"}
    for option in options:
        if option not in defaults:
            raise ValueError(f"data set {name!r} has no option {option!r}: choose among {', '.join(defaults)}")
    return {option: type(default)(options.get(option, default)) for option, default in defaults.items()}


def image_set(name: str) -> str:
    """The image set whose images the data set ``name`` is made of; the turning and shifted digits are MNIST's."""
    return name if name in IMAGE_SETS else "mnist"


def state(name: str, options: dict) -> str:
    """Changes with the names, sizes and times of the files that the data is read from; empty if it is read from none."""
    if bound_options(name, options).get("source") != "official":
        return ""
    spec = IMAGE_SETS[image_set(name)]
    files = {root() / file for file in (*spec.files, *spec.archives, f"{spec.name}.npz")}
    there = sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file())
    return hashlib.sha256(repr(there).encode()).hexdigest()[:8]

"""Several methods on one's own data: what is compared, and k-fold cross-validation."""

import time
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from math import sqrt

import numpy as np
from scipy.stats import t
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from nrae_lib import pages, runs
from nrae_lib.core import methods
from nrae_lib.core.extras import library
from nrae_lib.own_data.embeddings import EMBEDDINGS
from nrae_lib.own_data.estimator import ManifoldAutoencoder
from nrae_lib.own_data.files import Points, read_points


def choose_methods(value: str, default: Sequence[str]) -> list[str]:
    """The methods that a text names, each once, in its order, separated by commas; "all" stands for ``default``. Names
    are those of ``methods.CATALOGUE``, also with penalties added, and ``EMBEDDINGS``. ValueError for another or none,
    ImportError without a package that a method needs."""
    names = [name.strip() for name in str(value).split(",") if name.strip()]
    pages.choose_methods(",".join(name.split("+")[0] for name in names), [*methods.CATALOGUE, *EMBEDDINGS])
    names = list(dict.fromkeys(one for name in names for one in (default if name == "all" else (name,))))
    for name in names:  # a missing package is found out now, not after other methods have been trained
        if name == "umap":
            library("umap", "umap-learn", "method 'umap' needs", "methods")
        elif name not in EMBEDDINGS and "phate" in methods.get(name).objective.terms:
            library("phate", "phate", f"method {name!r} needs", "phate")
    return names


def parse_widths(value: str | int) -> tuple[int, ...]:
    """Widths of layers from a text: (256, 64) of "256, 64"; ValueError for all else."""
    parts = [part.strip() for part in str(value).split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"{value!r} is no list of whole numbers >= 1, such as '256,256'")
    return tuple(map(int, parts))


def check_parameters(namespace: dict, default: Sequence[str]) -> dict:
    """Check the parameters of the page on one's own data (``pages.check_parameters``); those that were given, by name."""

    def whole(low):
        wrong = f"is no whole number from {low} on"
        return lambda value: None if type(value) is int and low <= value < 2**31 else f"{value!r} {wrong}"

    def text(value):  # papermill reads -p columns 0 as a number
        return None if isinstance(value, str | int) else f"{value!r} is no text"

    checks = dict(
        preset=runs.PRESETS, data=text, key=text, columns=text, labels=text,
        method=lambda value: choose_methods(value, default), n_components=whole(1), n_neighbors=whole(1),
        hidden=lambda value: value != "" and parse_widths(value), epochs=whole(0), folds=whole(2), seed=whole(0),
        device=runs.check_device, codes=text,
    )  # fmt: skip
    pages.check_parameters(namespace, **checks)
    return {name: namespace[name] for name in checks if namespace[name] not in ("", 0)}


def read_data(data: str, key: str, columns: str, labels: str, digits: int) -> Points:
    """``files.read_points`` of a page's texts, or without ``data`` so many of scikit-learn's digits, under a banner."""
    key, labels, columns = str(key), str(labels), [name for name in map(str.strip, str(columns).split(",")) if name]
    if data:
        return read_points(str(data), key or None, columns or None, labels)
    for name, value in (("key", key), ("columns", columns), ("labels", labels)):
        if value:
            raise ValueError(f"{name} describes your file: give it as data, or leave {name} empty")
    what = f"{digits:,} of scikit-learn's handwritten digits, images of 8 x 8 pixels with values from 0 to 16"
    pages.banner(f"A stand-in, because data is empty: {what}. Give your own with -p data FILE.")
    found = load_digits()
    return Points(found.images[:digits].astype(np.float32), (), found.target[:digits])


def check_data(X: np.ndarray, chosen: Sequence[str], n_components: int, folds: int, seed: int) -> np.ndarray:
    """(N,) the fold of each row of X, (N, D); one sentence if the chosen methods cannot learn from X."""
    if np.array_equal(X.min(0), X.max(0)):
        raise ValueError(f"the data are {len(X)} equal points: there is nothing to learn")
    if n_components > (most := X.shape[1]):
        raise ValueError(f"n_components is {n_components}: choose 1 to {most}, as many as points have features")
    if "tsne" in chosen and n_components > 3:
        raise ValueError(f"method 'tsne' has at most 3 components, not {n_components}: leave it out")
    fold = assign_folds(X, folds, seed)
    fewest = len(X) - int(np.bincount(fold).max())
    if fewest < max(n_components + 1, 2):
        few = f"{fewest} to train on, which is too few for n_components={n_components}"
        raise ValueError(f"{folds} folds of {len(X)} points leave {few}")
    return fold


def attempt(models: Mapping[str, BaseEstimator], work: Callable) -> tuple[dict, dict[str, float], dict[str, str]]:
    """``work(model)`` of every model by name, its seconds, and why it failed where it did: the others go on."""
    results, seconds, failed = {}, {}, {}
    for name, model in models.items():
        started = time.perf_counter()
        try:
            results[name] = work(model)
            seconds[name] = time.perf_counter() - started
        except (FloatingPointError, ValueError) as error:
            failed[name] = str(error)
    return results, seconds, failed


def summary(model: BaseEstimator) -> dict[str, str]:
    """A fitted autoencoder's options, and how its loss changed from one tenth of the epochs to the last."""
    if not isinstance(model, ManifoldAutoencoder):
        return {}
    entry, tenth, change = methods.get(model.method), len(model.loss_) // 10, "too few epochs to tell"
    if tenth:
        change = f"{100 * (model.loss_[-tenth:].mean() / model.loss_[-2 * tenth : -tenth].mean() - 1):+.1f} %"
    options = entry.configure().options() | {"n_neighbors": model.n_neighbors_}
    used = {name: options[name] for name in entry.options if name in entry.search or name.endswith("_weight")}
    return {"options": entry.describe(used) if used else "none", "change of the loss": change}


def fit_codes(model: BaseEstimator, X: np.ndarray, limit: int, seed: int = 0) -> np.ndarray:
    """(N, m) codes of X by ``model``, fitted to X; UMAP, t-SNE, LLE to ``limit`` random rows (others NaN for t-SNE)."""
    if len(X) <= limit or isinstance(model, ManifoldAutoencoder | PCA):
        return model.fit_transform(X)
    some = np.sort(np.random.default_rng(seed).choice(len(X), limit, replace=False))
    codes = np.full((len(X), model.n_components), np.nan, np.float32)
    codes[some] = model.fit_transform(X[some])
    return model.transform(X) if hasattr(model, "transform") else codes


def assign_folds(X: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """(N,) the fold of each row of X, at random, in folds of equally many different rows up to one. Equal rows share a
    fold: a copy among those trained on would make a held-out error too small. ValueError for less than two folds or
    more than different rows."""
    number: dict[bytes, int] = {}
    # Adding zero turns -0 into 0, which equals it but has other bytes.
    group = np.array([number.setdefault(row.tobytes(), len(number)) for row in X + 0.0])
    if not 2 <= folds <= len(number):
        raise ValueError(f"folds is {folds}: choose 2 to {len(number)}, the number of different points")
    return (np.random.default_rng(seed).permutation(len(number)) % folds)[group]


# Mean-D errors (N,) of each row, (D,) of each feature and (folds,) of each fold; reconstructions of rows that are kept.
HeldOut = namedtuple("HeldOut", "row_error feature_error fold_error reconstruction")


def held_out(model: BaseEstimator, X: np.ndarray, fold: np.ndarray, kept: Sequence[int] = ()) -> HeldOut:
    """Held-out errors (1/D) ‖x - x̂‖²: every row of X, (N, D), is reconstructed by a model fitted without its ``fold``.
    ``model`` is a scikit-learn transformer with ``inverse_transform``; it is cloned, never fitted itself."""
    decoded = np.empty_like(X)
    for number in range(fold.max() + 1):
        fitted = clone(model).fit(X[fold != number])
        decoded[fold == number] = fitted.inverse_transform(fitted.transform(X[fold == number]))
    squares = np.square(decoded.astype(np.float64) - X)
    fold_error = np.bincount(fold, squares.mean(1)) / np.bincount(fold)
    return HeldOut(squares.mean(1), squares.mean(0), fold_error, decoded[np.asarray(kept, dtype=int)])


def paired_difference(errors: np.ndarray, baseline: np.ndarray, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean difference of two methods' errors on the same K folds, (K,) each, and the ends of its confidence interval.
    mean ± t_{K-1} √((1/K + 1/(K-1)) s²), s² the sample variance of the K differences. Training parts overlap: to add
    n_test/n_train = 1/(K-1) is a heuristic of Nadeau and Bengio (*Inference for the Generalization Error*, 2003)."""
    difference, folds = np.asarray(errors) - np.asarray(baseline), len(errors)
    half = t.ppf((1 + confidence) / 2, folds - 1) * sqrt((1 / folds + 1 / (folds - 1)) * difference.var(ddof=1))
    mean = float(difference.mean())
    return mean, mean - float(half), mean + float(half)

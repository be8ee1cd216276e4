"""Several methods on one's own data: what is compared, k-fold cross-validation, and the file of the codes."""

import difflib
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from math import sqrt
from typing import NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, clone

from nrae_lib.core import methods
from nrae_lib.own_data.embeddings import EMBEDDINGS

# --------------------------------------------------------------------------------------------------- what is compared


def choose_methods(value: str, default: Sequence[str]) -> list[str]:
    """The methods that a text names, each once, in its order.

    Arguments:
        value: names from ``methods.CATALOGUE``, also with penalties added, and from ``embeddings.EMBEDDINGS``,
            separated by commas: "ae,nrae_q+mmd,umap"; "all" stands for ``default``.

    Raises:
        ValueError: for an unknown method or penalty, naming the valid ones, or no method at all.
        ImportError: for a method whose package is missing.

    Example:
        >>> choose_methods("all, nrae_q+mmd, pca", default=("ae", "nrae_l"))
        ['ae', 'nrae_l', 'nrae_q+mmd', 'pca']
    """
    names = [name.strip() for name in str(value).split(",") if name.strip()]
    if not names:
        raise ValueError(f"no method is named: choose 'all' or some of {', '.join([*methods.CATALOGUE, *EMBEDDINGS])}")
    names = list(dict.fromkeys(one for name in names for one in (default if name == "all" else (name,))))
    for name in names:
        base = name.split("+")[0].strip()
        if name not in EMBEDDINGS and base not in methods.CATALOGUE:
            valid = [*methods.CATALOGUE, *EMBEDDINGS]
            close = difflib.get_close_matches(base, valid, n=1)
            raise ValueError(
                f"unknown method {base!r}{f', did you mean {close[0]!r}?' if close else ''}; the methods are: all, "
                f"{', '.join(methods.CATALOGUE)}, with penalties as in 'nrae_q+mmd', and without a decoder: "
                f"{', '.join(EMBEDDINGS)}"
            )
        terms = () if name in EMBEDDINGS else methods.get(name).objective.terms
        # Found out now, not after the methods before it have been trained.
        if name == "umap" and find_spec("umap") is None:
            raise ImportError("method 'umap' needs the package umap-learn: pip install 'nrae-lib[methods]'")
        if "phate" in terms and find_spec("phate") is None:
            raise ImportError(f"method {name!r} needs the package phate: pip install 'nrae-lib[phate]'")
    return names


def parse_widths(value: str | int) -> tuple[int, ...]:
    """Widths of layers from a text such as "256,256".

    Raises:
        ValueError: if it is no list of whole numbers from 1 on.

    Example:
        >>> parse_widths("256, 64")
        (256, 64)
    """
    parts = [part.strip() for part in str(value).split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"{value!r} is no list of whole numbers >= 1, such as '256,256'")
    return tuple(map(int, parts))


def as_images(points: np.ndarray) -> np.ndarray | None:
    """(N, H, W) grey or (N, H, W, 3) colour images, in the points' own values, or None if they are no images.

    Accepted are (N, H, W), and channels of 1 or 3 either first or last.
    """
    if points.ndim == 3:
        return points
    if points.ndim != 4:
        return None
    if points.shape[1] in (1, 3):
        points = np.moveaxis(points, 1, -1)
    if points.shape[-1] not in (1, 3):
        return None
    return points[..., 0] if points.shape[-1] == 1 else points


def copies(X: np.ndarray) -> np.ndarray:
    """(N,) for each row of X the first row that equals it; its own number if there is none before it."""
    first: dict[bytes, int] = {}
    # Adding zero turns -0 into 0, which equals it but has other bytes.
    return np.array([first.setdefault(hashlib.sha256((row + 0.0).tobytes()).digest(), i) for i, row in enumerate(X)])


def fit_codes(model: BaseEstimator, X: np.ndarray, limit: int | None = None, seed: int = 0) -> np.ndarray:
    """(N, m) codes of all rows of X, by ``model``, which is fitted to them, or to ``limit`` random ones if there are more.

    Rows that a model without ``transform`` (t-SNE) has not seen get NaN.
    """
    if limit is None or len(X) <= limit:
        return model.fit(X).embedding_
    some = np.sort(np.random.default_rng(seed).choice(len(X), limit, replace=False))
    model.fit(X[some])
    try:
        return model.transform(X)
    except NotImplementedError:
        codes = np.full((len(X), model.embedding_.shape[1]), np.nan, np.float32)
        codes[some] = model.embedding_
        return codes


# --------------------------------------------------------------------------------------------------- cross-validation


@dataclass
class CrossValidation:
    """What :func:`cross_validate` gives; errors are mean-D, in the squared units of the data.

    Arguments:
        fold: (N,) the fold in which each row was held out.
        row_error: method -> (N,) error of each row, (1/D) ‖x - x̂‖², when it was held out.
        feature_error: method -> (D,) mean over the rows of the squared held-out error of each feature.
        kept: numbers of the rows whose held-out reconstruction was kept.
        reconstruction: method -> (len(kept), D).
        failed: method -> why its training failed; such a method is in none of the others.
        seconds: method -> time of training, all folds together.
    """

    fold: np.ndarray
    kept: np.ndarray
    row_error: dict[str, np.ndarray] = field(default_factory=dict)
    feature_error: dict[str, np.ndarray] = field(default_factory=dict)
    reconstruction: dict[str, np.ndarray] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def fold_errors(self, method: str) -> np.ndarray:
        """(folds,) mean error of the rows of each fold."""
        return np.bincount(self.fold, self.row_error[method]) / np.bincount(self.fold)


def assign_folds(X: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """(N,) the fold of each row of X, at random, in folds of equal size up to one; equal rows share a fold.

    Without the last, a held-out row could have a copy among those trained on, and its error would be too small.
    Sizes are counted in different rows.

    Raises:
        ValueError: if there are fewer different rows than folds, or fewer than two folds.
    """
    different, group = np.unique(copies(X), return_inverse=True)
    if not 2 <= folds <= len(different):
        raise ValueError(f"folds is {folds}: choose 2 to {len(different)}, the number of different points")
    place = np.random.default_rng(seed).permutation(len(different))
    return (place % folds)[group]


def cross_validate(
    models: Mapping[str, BaseEstimator], X: np.ndarray, fold: np.ndarray, kept: Sequence[int] = ()
) -> CrossValidation:
    """Held-out reconstruction errors: every row is reconstructed by a model that was fitted without its fold.

    All that is learned is learned from the training part, also what standardizes. All methods share the folds.

    Arguments:
        models: name -> unfitted scikit-learn transformer with ``inverse_transform``; it is cloned, never fitted itself.
        X: (N, D).
        fold: (N,), from :func:`assign_folds`.
        kept: rows whose reconstruction is wanted.
    """
    kept = np.asarray(kept, dtype=int)
    result = CrossValidation(fold, kept)
    for name, model in models.items():
        row_error, feature_error = np.empty(len(X)), np.zeros(X.shape[1])
        reconstruction = np.empty((len(kept), X.shape[1]), X.dtype)
        started = time.perf_counter()
        try:
            for number in range(fold.max() + 1):
                held_out = fold == number
                fitted = clone(model).fit(X[~held_out])
                decoded = fitted.inverse_transform(fitted.transform(X[held_out]))
                squares = np.square(decoded.astype(np.float64) - X[held_out])
                row_error[held_out] = squares.mean(1)
                feature_error += squares.sum(0) / len(X)
                inside = held_out[kept]
                reconstruction[inside] = decoded[np.cumsum(held_out)[kept[inside]] - 1]
        except (FloatingPointError, ValueError) as error:  # one method that cannot must not take the others with it
            result.failed[name] = str(error)
            continue
        result.seconds[name] = time.perf_counter() - started
        result.row_error[name], result.feature_error[name] = row_error, feature_error
        result.reconstruction[name] = reconstruction
    return result


class Difference(NamedTuple):
    """A paired difference of fold errors: its mean, its corrected confidence interval, in how many folds it is negative."""

    mean: float
    low: float
    high: float
    lower_in: int


def paired_difference(errors: np.ndarray, baseline: np.ndarray, confidence: float = 0.95) -> Difference:
    """Confidence interval of a difference between two methods' errors on the same K folds.

    mean ± t_{K-1} √((1/K + n_test/n_train) s²), s² the sample variance of the K differences and n_test/n_train =
    1/(K-1): the correction of Nadeau and Bengio (*Inference for the Generalization Error*, 2003), because the training
    parts of the folds overlap and 1/K alone makes the interval too narrow. It is a heuristic, not a guarantee.

    Arguments:
        errors, baseline: (K,), K >= 2.

    Example:
        >>> paired_difference(np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.0, 4.5])).lower_in
        3
    """
    from scipy.stats import t

    difference = np.asarray(errors) - np.asarray(baseline)
    folds = len(difference)
    half = t.ppf((1 + confidence) / 2, folds - 1) * sqrt((1 / folds + 1 / (folds - 1)) * difference.var(ddof=1))
    mean = float(difference.mean())
    return Difference(mean, mean - float(half), mean + float(half), int((difference < 0).sum()))

"""Embeddings without a decoder, for comparison: library implementations behind one scikit-learn transformer.

References:
    McInnes, Healy and Melville, *UMAP*, 2018.
    Van der Maaten and Hinton, *Visualizing Data using t-SNE*, JMLR 2008.
    Roweis and Saul, *Nonlinear Dimensionality Reduction by Locally Linear Embedding*, Science 2000.
"""

from collections.abc import Callable
from numbers import Integral

import numpy as np
from sklearn import decomposition, manifold
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data


class Embedding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """PCA, UMAP, t-SNE or LLE of the rows of a matrix, by scikit-learn's conventions.

    Every setting that is not an argument is the library's default. Where the papers' settings differ or are unknown:

    - "umap": umap-learn. Isometric Autoencoders uses ``n_neighbors=30`` in Figure 3, and the defaults (15) with
      ``random_state=42`` in Figure 4. Needs the package umap-learn and at least ``n_components`` + 2 samples.
    - "tsne": scikit-learn's Barnes-Hut t-SNE, at most 3 components. Isometric Autoencoders uses ``perplexity=50`` in
      Figure 3, and Multicore-TSNE with its own defaults in Figure 4: a random start and a fixed learning rate, where
      scikit-learn starts from PCA and adapts the rate, so the pictures can differ.
    - "lle": scikit-learn's standard LLE. The papers do not state its settings.

    Arguments:
        method: one of ``EMBEDDINGS``: "pca", "umap", "tsne" or "lle".
        n_components: dimension of the embedding, at most that of the data.
        n_neighbors: k of the neighbour graph of "umap" and "lle"; at most N - 1 are used for N samples.
        perplexity: of "tsne"; at most (N - 1) / 3 is used for N samples, because it looks at three times as many
            neighbours.
        random_state: seed or numpy random state; None draws from numpy's global state, as everywhere in scikit-learn.

    Attributes:
        embedding_: (N, n_components) embedding of the training data.
        embedder_: the fitted estimator of the library.

    Raises:
        ValueError: from ``fit``, for an unknown method, too many components or too few samples.
        ImportError: from ``fit``, for "umap" without umap-learn.

    Example:
        >>> points = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
        >>> Embedding("pca", n_components=1).fit_transform(points).round(3).ravel().tolist()
        [-1.414, 0.0, 1.414]
    """

    def __init__(self, method="pca", n_components=2, n_neighbors=15, perplexity=30.0, random_state=None):
        self.method = method
        self.n_components = n_components
        self.n_neighbors = n_neighbors
        self.perplexity = perplexity
        self.random_state = random_state

    def fit(self, X, y=None):
        """Embed the (N, D) rows of ``X``; ``y`` is ignored."""
        if self.method not in EMBEDDINGS:
            raise ValueError(f"unknown method {self.method!r}: choose one of {', '.join(EMBEDDINGS)}")
        if not isinstance(self.n_components, Integral) or self.n_components < 1:
            raise ValueError(f"n_components must be a whole number >= 1, not {self.n_components!r}")
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        count, features = X.shape
        if self.n_components > features:
            raise ValueError(f"n_components={self.n_components} is more than the data has: n_features = {features}")
        if self.n_components >= count:
            raise ValueError(f"n_components={self.n_components} needs more samples than n_samples = {count}")
        self.embedder_ = EMBEDDINGS[self.method](self, count)
        self.embedding_ = self.embedder_.fit_transform(X)
        return self

    def fit_transform(self, X, y=None):
        """The (N, n_components) embedding of the training data, for every method."""
        return self.fit(X).embedding_

    def transform(self, X):
        """The (B, n_components) embedding of new rows; not for "tsne", which has no map to apply."""
        check_is_fitted(self)
        if not hasattr(self.embedder_, "transform"):
            raise NotImplementedError(
                f"method {self.method!r} has no transform: it embeds its training data only, see fit_transform or "
                "embedding_"
            )
        return self.embedder_.transform(validate_data(self, X, dtype=[np.float64, np.float32], reset=False))

    def inverse_transform(self, X):
        """The (B, D) points of the PCA plane with codes ``X``; the other methods have no decoder."""
        check_is_fitted(self)
        if self.method != "pca":
            raise NotImplementedError(f"method {self.method!r} has no decoder: only 'pca' has an inverse_transform")
        return self.embedder_.inverse_transform(X)

    @property
    def _n_features_out(self):
        return self.embedding_.shape[1]


def _pca(embedding: Embedding, count: int):
    return decomposition.PCA(embedding.n_components, random_state=embedding.random_state)


def _umap(embedding: Embedding, count: int):
    try:
        import umap
    except ImportError as error:
        message = "method 'umap' needs the package umap-learn: pip install 'nrae-lib[methods]'"
        raise ImportError(message) from error
    if count < embedding.n_components + 2:
        raise ValueError(f"method 'umap' needs at least n_components + 2 samples, but n_samples = {count}")
    return umap.UMAP(
        n_components=embedding.n_components,
        n_neighbors=min(embedding.n_neighbors, count - 1),
        random_state=embedding.random_state,
        # With a seed it runs on one core anyway, and warns unless told so.
        n_jobs=-1 if embedding.random_state is None else 1,
    )


def _tsne(embedding: Embedding, count: int):
    return manifold.TSNE(
        embedding.n_components,
        perplexity=min(embedding.perplexity, (count - 1) / 3),
        random_state=embedding.random_state,
    )


def _lle(embedding: Embedding, count: int):
    return manifold.LocallyLinearEmbedding(
        n_components=embedding.n_components,
        n_neighbors=min(embedding.n_neighbors, count - 1),
        random_state=embedding.random_state,
    )


EMBEDDINGS: dict[str, Callable] = {"pca": _pca, "umap": _umap, "tsne": _tsne, "lle": _lle}

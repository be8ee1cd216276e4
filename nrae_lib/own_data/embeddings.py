"""Embeddings without a decoder, for comparison, as their libraries have them."""

from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, LocallyLinearEmbedding

from nrae_lib.core.extras import library
from nrae_lib.core.methods.terms import check_choice

EMBEDDINGS = ("pca", "umap", "tsne", "lle")


def embedding(method: str, n_components: int = 2, n_neighbors: int = 15, *, points: int, seed: int) -> BaseEstimator:
    """PCA (which has a decoder), UMAP, t-SNE or LLE: the library's own estimator, not yet fitted.

    Every setting that is not an argument is the library's default. Where the papers' settings differ or are unknown:

    - "umap": umap-learn (McInnes, Healy and Melville, *UMAP*, 2018). Isometric Autoencoders uses ``n_neighbors=30`` in
      Figure 3, and the defaults (15) with seed 42 in Figure 4. Needs umap-learn and ``n_components`` + 2 samples.
    - "tsne": scikit-learn's Barnes-Hut t-SNE (van der Maaten and Hinton, *Visualizing Data using t-SNE*, JMLR 2008), at
      most 3 components. Isometric Autoencoders uses ``perplexity=50`` in Figure 3, and Multicore-TSNE with its own
      defaults in Figure 4: a random start and a fixed learning rate, where scikit-learn starts from PCA and adapts the
      rate, so the pictures can differ.
    - "lle": scikit-learn's standard LLE (Roweis and Saul, *Nonlinear Dimensionality Reduction by Locally Linear
      Embedding*, Science 2000). The papers do not state its settings.

    ValueError for another method, or for "umap" with too few points; ImportError for "umap" without umap-learn.

    Arguments:
        n_neighbors: k of the neighbour graph of "umap" and "lle"; at most ``points`` - 1 are used.
        points: N, of how many it will be fitted to; t-SNE's perplexity is at most (N - 1) / 3.

    Example:
        >>> embedding("pca", 1, points=3, seed=0).fit_transform([[0, 0], [1, 1], [2, 2]]).round(3).ravel().tolist()
        [-1.414, 0.0, 1.414]
    """
    check_choice("method", method, EMBEDDINGS)
    shared, k = {"n_components": n_components, "random_state": seed}, min(n_neighbors, points - 1)
    if method == "pca":
        return PCA(**shared)
    if method == "tsne":
        return TSNE(perplexity=min(30.0, (points - 1) / 3), **shared)
    if method == "lle":
        return LocallyLinearEmbedding(n_neighbors=k, **shared)
    umap = library("umap", "umap-learn", "method 'umap' needs", "methods")
    if points < n_components + 2:
        raise ValueError(f"method 'umap' needs at least n_components + 2 samples, but n_samples = {points}")
    return umap.UMAP(n_neighbors=k, n_jobs=1, **shared)  # seeded, it runs on one core anyway, and warns unless told so

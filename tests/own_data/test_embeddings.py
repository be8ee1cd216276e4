"""Embeddings without a decoder: the libraries' own results, by scikit-learn's conventions."""

import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, LocallyLinearEmbedding
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from nrae_lib.own_data.embeddings import EMBEDDINGS, Embedding

POINTS = np.random.default_rng(0).normal(size=(40, 5))
NEW = np.random.default_rng(1).normal(size=(7, 5))
ALL = ["pca", "lle", "tsne", pytest.param("umap", marks=pytest.mark.slow)]  # UMAP compiles itself first

# scikit-learn's check -> why UMAP cannot pass it, whatever wraps it.
UMAP_FAILS = {
    "check_transformer_preserve_dtypes": "umap-learn computes in float32",
    "check_methods_sample_order_invariance": "UMAP places new points jointly, by stochastic optimisation",
    "check_methods_subset_invariance": "UMAP places new points jointly, by stochastic optimisation",
}


def directly(method, n_neighbors, perplexity):
    """The library's estimator, without our wrapper."""
    if method == "pca":
        return PCA(2)
    if method == "tsne":
        return TSNE(2, perplexity=perplexity, random_state=3)
    if method == "lle":
        return LocallyLinearEmbedding(n_components=2, n_neighbors=n_neighbors, random_state=3)
    umap = pytest.importorskip("umap")
    return umap.UMAP(n_components=2, n_neighbors=n_neighbors, random_state=3, n_jobs=1)


def test_the_table_of_methods_is_what_is_tested():
    assert set(EMBEDDINGS) == {"pca", "lle", "tsne", "umap"}


@pytest.mark.parametrize("method", ALL)
def test_the_library_itself_gives_the_same_and_the_seed_repeats_it(method):
    embedding = Embedding(method, n_neighbors=8, perplexity=9.0, random_state=3)
    global_state = np.random.get_state()[1].copy()
    ours = embedding.fit_transform(POINTS)
    assert np.array_equal(np.random.get_state()[1], global_state)
    library = directly(method, 8, 9.0)
    assert np.array_equal(ours, library.fit_transform(POINTS))
    assert np.array_equal(ours, clone(embedding).fit(POINTS).embedding_)
    assert embedding.embedder_.random_state == 3  # also where it decides nothing on so few points
    assert ours.shape == (40, 2)
    assert embedding.n_features_in_ == 5
    assert embedding.get_feature_names_out().tolist() == ["embedding0", "embedding1"]
    if method != "tsne":
        assert np.array_equal(embedding.transform(NEW), library.transform(NEW))


@pytest.mark.parametrize("method", ["pca", "lle"])
def test_scikit_learns_conventions(method):
    check_estimator(Embedding(method), on_skip=None)


@pytest.mark.slow
def test_scikit_learns_conventions_with_umap():
    pytest.importorskip("umap")
    check_estimator(Embedding("umap"), on_skip=None, expected_failed_checks=UMAP_FAILS)


def test_few_samples_reduce_perplexity_and_neighbours():
    few = POINTS[:10]
    assert Embedding("tsne").fit(few).embedder_.perplexity == 3.0
    assert Embedding("tsne", perplexity=2.0).fit(few).embedder_.perplexity == 2.0
    assert Embedding("lle").fit(few).embedder_.n_neighbors == 9
    assert Embedding("lle", n_neighbors=4).fit(few).embedder_.n_neighbors == 4


def test_pca_goes_back_and_the_others_say_that_they_cannot():
    pca = Embedding("pca").fit(POINTS)
    expected = PCA(2).fit(POINTS)
    assert np.array_equal(
        pca.inverse_transform(pca.transform(NEW)), expected.inverse_transform(expected.transform(NEW))
    )
    for method in ("lle", "tsne"):
        embedding = Embedding(method).fit(POINTS)
        with pytest.raises(NotImplementedError, match=f"method '{method}' has no decoder: only 'pca'"):
            embedding.inverse_transform(embedding.embedding_)


def test_tsne_has_no_map_for_points_old_or_new():
    embedding = Embedding("tsne").fit(POINTS)
    for points in (POINTS, NEW):
        with pytest.raises(
            NotImplementedError, match=r"method 'tsne' has no transform: .* fit_transform or embedding_"
        ):
            embedding.transform(points)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_in_a_pipeline(method):
    ours = make_pipeline(StandardScaler(), Embedding(method, random_state=0)).fit_transform(POINTS)
    assert np.array_equal(ours, Embedding(method, random_state=0).fit_transform(StandardScaler().fit_transform(POINTS)))


@pytest.mark.parametrize(
    ("parameters", "points", "message"),
    [
        (dict(method="mds"), POINTS, "unknown method 'mds': choose one of pca, umap, tsne, lle"),
        (dict(n_components=6), POINTS, "n_components=6 is more than the data has: n_features = 5"),
        (dict(n_components=3), POINTS[:3], "n_components=3 needs more samples than n_samples = 3"),
        (dict(n_components=None), POINTS, "n_components must be a whole number >= 1, not None"),
        (dict(method="umap"), POINTS[:3], r"at least n_components \+ 2 samples"),
    ],
)
def test_what_cannot_be_embedded_is_refused(parameters, points, message):
    if parameters.get("method") == "umap":
        pytest.importorskip("umap")
    with pytest.raises(ValueError, match=message):
        Embedding(**parameters).fit(points)


def test_without_umap_learn_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(
        ImportError, match=r"method 'umap' needs the package umap-learn: pip install 'nrae-lib\[methods\]'"
    ):
        Embedding("umap").fit(POINTS)

"""The estimator: scikit-learn's conventions, the library's own training, files without pickle, samples, sentences."""

import copy
import json
import pickle
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_swiss_roll
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from nrae_lib import ManifoldAutoencoder
from nrae_lib.core import methods
from nrae_lib.core.models import Network
from nrae_lib.core.training import Optimization, fit

safetensors_torch = pytest.importorskip("safetensors.torch")

X = make_swiss_roll(60, random_state=0)[0]


def small(method="nrae_l", **changes):
    settings = dict(hidden=(16, 16), epochs=3, n_neighbors=4, batch_size=20, random_state=0, device="cpu")
    return ManifoldAutoencoder(method, **(settings | changes))


def refused(sentence, call, *arguments, error=ValueError):
    with pytest.raises(error, match=sentence):
        call(*arguments)


@parametrize_with_checks([small(method, hidden=(8,), epochs=2) for method in ("nrae_l", "vae")])
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


# The estimator treats all methods alike; these differ in what a model holds.
@pytest.mark.parametrize("method", ["ae", "vae", "cv_vae", "eae", "topoae", "tcae", "rae_sn", "nrae_q+mmd"])
def test_every_method_fits_pickles_saves_and_loads(method, tmp_path):
    model = small(method, epochs=1).fit(X)
    assert model.transform(X).shape == (60, 2) and model.loss_.shape == (1,)
    model.save(tmp_path / "model")
    joblib.dump(model, tmp_path / "joblib")
    copies = [ManifoldAutoencoder.load(tmp_path / "model"), joblib.load(tmp_path / "joblib")]
    for other in [*copies, pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]:
        np.testing.assert_array_equal(other.transform(X), model.transform(X))
        np.testing.assert_array_equal(other.reconstruct(X), model.reconstruct(X))
        assert other.get_params() == model.get_params()


@pytest.mark.parametrize("method", ["ae", "nrae_l", "vae"])
def test_the_network_is_the_one_that_training_gives(method):
    """Against the library's own loop on data standardized here by hand."""
    options = {"neighbor_weight": 0.5} if method == "nrae_l" else {}
    model = small(method, method_options=options).fit(X)
    mean = X.mean(0)
    scale = np.sqrt(((X - mean) ** 2).mean())
    objective = methods.get(method).configure(**options, **({"n_neighbors": 4} if options else {}))
    network = objective.build(Network((16, 16), 2, "elu"), (3,), 0)
    data = torch.from_numpy(((X - mean) / scale).astype(np.float32))
    trained = fit(network, objective, data, Optimization(3, 20, 1e-3), 0)
    np.testing.assert_array_equal(model.loss_, trained.loss)
    with torch.no_grad():
        codes = network.eval().encoder(data)
        reconstruction = network.decoder(codes).numpy() * scale + mean
    np.testing.assert_allclose(model.transform(X), codes, atol=1e-5)
    np.testing.assert_allclose(model.embedding_, codes, atol=1e-5)
    np.testing.assert_allclose(model.reconstruct(X), reconstruction, atol=1e-4)
    np.testing.assert_array_equal(model.reconstruct(X), model.inverse_transform(model.transform(X)))
    assert model.score(X) == pytest.approx(-((X - reconstruction) ** 2).mean(), rel=1e-5)


def test_standardization_keeps_neighborhoods_in_extreme_units():
    stretched = X * np.array([1, 100, 0.01])
    model = small().fit(stretched)
    np.testing.assert_allclose(model.mean_, stretched.mean(0))
    assert model.scale_ == pytest.approx(np.sqrt(((stretched - stretched.mean(0)) ** 2).mean()))
    raw = small(standardize=False).fit(X)
    assert raw.scale_ == 1 and not raw.mean_.any()
    codes = small("ae").fit_transform(X)
    for unit in (1e-200, 1e200):
        np.testing.assert_allclose(small("ae").fit_transform(X * unit), codes, rtol=1e-3, atol=1e-4)
    constant = small("ae").fit(np.full((10, 3), 7.0))
    assert np.isfinite(constant.transform(np.full((2, 3), 7.0))).all() and constant.scale_ == 1
    refused("so large that their mean overflows", small("ae").fit, np.full((10, 3), 1.7e308))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_types_in_and_out_and_rows_in_any_portions(dtype, monkeypatch):
    rows = X.astype(dtype)
    model = small().fit(rows)
    outcomes = model.embedding_, model.reconstruct(rows), model.inverse_transform(model.embedding_), model.sample(3)
    assert {outcome.dtype for outcome in outcomes} == {np.dtype(dtype)}  # of transform: scikit-learn's own check
    assert model.transform(np.ones((2, 3), int)).dtype == np.float64
    np.testing.assert_allclose(model.transform(X.astype(np.float32)), model.transform(X), atol=1e-4)
    whole = model.reconstruct(X)
    monkeypatch.setattr("nrae_lib.own_data.estimator._CHUNK", 7)
    np.testing.assert_allclose(model.reconstruct(X), whole, rtol=1e-12)


def test_random_states_decide_alone_and_global_ones_are_neither_used_nor_changed():
    first = small(random_state=3).fit(X)
    np.testing.assert_array_equal(first.fit_transform(X), small(random_state=3).fit(X).transform(X))
    assert first.seed_ == 3
    assert not np.array_equal(first.embedding_, small(random_state=4).fit(X).embedding_)
    drawn = [small(random_state=np.random.RandomState(5)).fit(X) for _ in range(2)]
    np.testing.assert_array_equal(drawn[0].embedding_, drawn[1].embedding_)
    for shared in (np.random.RandomState(5), None):
        assert small(random_state=shared).fit(X).seed_ != small(random_state=shared).fit(X).seed_
    results = []
    for seed in (0, 1):
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = np.random.get_state()[1].copy(), torch.get_rng_state()
        model = small("vae", random_state=np.int64(2)).fit(X)
        results.append((model.transform(X), model.sample(5, "gmm")))
        small("ae", random_state=None).fit(X)
        np.testing.assert_array_equal(before[0], np.random.get_state()[1])
        assert torch.equal(before[1], torch.get_rng_state())
    for left, right in zip(*results, strict=True):
        np.testing.assert_array_equal(left, right)


def test_pipeline_and_grid_search():
    pipeline = make_pipeline(StandardScaler(), small())
    codes = pipeline.fit_transform(X)
    by_hand = pipeline[0].inverse_transform(pipeline[1].inverse_transform(codes))
    np.testing.assert_allclose(pipeline.inverse_transform(codes), by_hand)
    grid = {"n_neighbors": np.array([3, 5]), "learning_rate": np.array([1e-3, 1e-2])}
    grid |= {"method_options": [{"neighbor_weight": np.float64(0.5)}, {"neighbors_per_point": np.int64(2)}]}
    search = GridSearchCV(small(), grid, cv=2, error_score="raise").fit(X)
    assert search.best_score_ == search.cv_results_["mean_test_score"].max() < 0
    assert search.best_estimator_.transform(X).shape == (60, 2)


def test_only_methods_with_a_graph_get_neighbors():
    assert small("nrae_l").fit(X).n_neighbors_ == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert small("ae", n_neighbors=100).fit(X).n_neighbors_ is None
    sentence = "n_neighbors is 100, but 60 points have only 59 neighbours: 59 are used"
    with pytest.warns(UserWarning, match=sentence) as found:
        capped = small("nrae_l", n_neighbors=100).fit(X)
    assert found[0].filename == __file__  # it points at the caller
    assert capped.n_neighbors_ == 59 and capped.n_neighbors == 100
    np.testing.assert_array_equal(capped.embedding_, small("nrae_l", n_neighbors=59).fit(X).embedding_)


def test_images():
    images = np.random.default_rng(0).random((12, 1, 4, 6))
    refused(r"X has the shape \(12, 1, 4, 6\).*reshape\(len\(X\), -1\).*image_shape=\(1, 4, 6\)", small().fit, images)
    rows = images.reshape(12, -1)
    model = small(image_shape=(1, 4, 6)).fit(rows)
    assert model.model_.decoder(torch.zeros(2, 2)).shape == (2, 1, 4, 6)
    assert model.reconstruct(rows).shape == (12, 24)
    np.testing.assert_array_equal(model.transform(rows), small().fit(rows).transform(rows))
    refused(r"image_shape \(1, 5, 5\) has 25 values, but X has 24 features", small(image_shape=(1, 5, 5)).fit, rows)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("method", "nope", "unknown method 'nope': choose one of ae, "),
        *(("n_components", value, f"n_components must be a whole number >= 1, not {value}") for value in (0, 2.0)),
        ("epochs", True, "epochs must be a whole number"),
        ("batch_size", "all", "batch_size must be a whole number >= 1, not 'all'"),
        *(("learning_rate", value, "learning_rate must be a finite number > 0") for value in (0, np.nan)),
        *(("hidden", value, "hidden must be a tuple of whole numbers >= 1, not") for value in (64, (), (8, -1))),
        ("activation", "swish", "unknown activation 'swish': choose one of relu"),
        ("method_options", ["neighbor_weight"], "method_options must be a dict"),
        ("method_options", {"weight": 1}, "no option 'weight': choose among .*neighbor_weight"),
        ("method_options", {"n_neighbors": 3}, "n_neighbors is a parameter of the estimator"),
        ("method_options", {"latent": "plain"}, "latent is a parameter of the estimator"),
        ("method_options", {"neighbor_weight": -1.0}, "neighbor_weight.* must be a finite number >= 0"),
        ("latent", "round", "unknown latent 'round': choose one of plain"),
        ("image_shape", 3.5, "image_shape must be a tuple"),
        ("device", "abacus", "device 'abacus' cannot be used: choose auto"),
        ("random_state", -1, "between 0 and"),
    ],
)
def test_parameters_are_checked_in_fit(name, value, message):
    refused(message, clone(small(**{name: value})).fit, X)


def test_wrong_data_and_a_failed_fit():
    model = small("ae")
    for call in (model.transform, model.inverse_transform, model.score, model.reconstruct, model.save, model.sample):
        refused("is not fitted yet", call, X, error=NotFittedError)
    codes = model.fit(X).transform(X)
    refused("X has 3 columns, but the codes have 2", model.inverse_transform, X)
    refused("Input X contains NaN", model.inverse_transform, [[0.0, np.nan]])
    refused("minimum of 2 is required", small().fit, X[:1])
    assert model.transform(X[:1]).shape == (1, 2)
    refused("lower the learning rate", model.set_params(learning_rate=1e30).fit, X, error=FloatingPointError)
    np.testing.assert_array_equal(model.transform(X), codes)


def test_samples():
    model = small("ae", epochs=30).fit(X)
    rows = model.sample(4)
    assert rows.shape == (4, 3)
    np.testing.assert_array_equal(rows, model.sample(4))
    assert not np.array_equal(rows, model.sample(4, random_state=9))
    # Codes without a prior are sampled from a mixture, codes with one from N(0, I).
    np.testing.assert_array_equal(rows, model.sample(4, "gmm"))
    noise = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    normal = small("wae").fit(X)
    np.testing.assert_allclose(normal.sample(4), normal.inverse_transform(noise))
    assert model.sample(2000, "gaussian").shape == (2000, 3)
    drawn = model._densities["gaussian"].sample(4000, torch.Generator().manual_seed(1)).numpy()
    np.testing.assert_allclose(drawn.mean(0), model.embedding_.mean(0), atol=0.1 * model.embedding_.std())
    assert small("rae").fit(X).sample(2).shape == (2, 3)  # a mixture, like its authors
    again = model.set_params(epochs=1).fit(X).sample(2, "gaussian")  # no density of an earlier fit is left
    np.testing.assert_array_equal(again, small("ae", epochs=1).fit(X).sample(2, "gaussian"))
    refused("unknown density 'nope'", model.sample, 1, "nope")
    for count in (0, 1.5):
        refused("whole number >= 1", model.sample, count)


def test_a_density_sees_draws_where_codes_have_a_posterior(tmp_path):
    """The second stage of the two-stage VAE is fitted to μ + σ ε, not to μ; also after saving and loading."""
    model = small("vae").fit(X)
    data = torch.from_numpy(((X - model.mean_) / model.scale_).astype(np.float32))
    mean, log_deviation = model.model_.encoder.posterior(data)
    standard = (torch.from_numpy(model._draws) - mean) / log_deviation.exp()
    assert standard.std() == pytest.approx(1, abs=0.2) and abs(standard.mean()) < 0.3
    model.save(tmp_path / "model")
    again = ManifoldAutoencoder.load(tmp_path / "model").sample(3, "gaussian")
    np.testing.assert_array_equal(again, model.sample(3, "gaussian"))
    assert small("ae").fit(X)._draws is None


def test_latent_forms_and_circular_codes_and_samples_on_the_circle():
    for latent, whitened in ((None, True), ("plain", False)):  # eae's own is "batchnorm"
        state = small("eae", latent=latent).fit(X).model_.state_dict()
        assert any("running_mean" in name for name in state) == whitened
    model = small("ae", latent="circular").fit(X)
    codes = model.transform(model.sample(20))
    model._decode = lambda codes: codes
    for found in (model.embedding_, codes, model.sample(5)):
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:n_neighbors is 100")
def test_saved_file_keeps_everything(tmp_path):
    frame = pd.DataFrame(X, columns=["x", "y", "z"])
    settings = dict(n_neighbors=np.int64(100), random_state=np.random.RandomState(0))
    model = small(**settings, method_options={"neighbor_weight": 0.25}).fit(frame)
    model.set_params(epochs=7)  # a parameter of the next fit
    model.save(tmp_path / "new" / "model.safetensors")
    other = ManifoldAutoencoder.load(str(tmp_path / "new" / "model.safetensors"))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.safetensors"]
    np.testing.assert_array_equal(other.transform(frame), model.transform(frame))
    np.testing.assert_array_equal(other.sample(5, "gmm"), model.sample(5, "gmm"))
    assert other.score(frame) == model.score(frame)
    for name in ("embedding_", "loss_", "mean_", "feature_names_in_"):
        np.testing.assert_array_equal(getattr(other, name), getattr(model, name))
        assert getattr(other, name).dtype == getattr(model, name).dtype
    for name in ("scale_", "seed_", "n_neighbors_", "n_features_in_"):
        assert getattr(other, name) == getattr(model, name)
    assert list(other.get_feature_names_out()) == ["manifoldautoencoder0", "manifoldautoencoder1"]
    assert other.get_params() == {**model.get_params(), "random_state": model.seed_}
    with pytest.warns(UserWarning, match="feature names"):
        other.transform(X)
    # The stored seed is the one that was drawn: the same training again.
    again = other.set_params(epochs=3).fit(frame)
    np.testing.assert_array_equal(again.embedding_, model.embedding_)
    again.save(tmp_path / "again")  # a loaded estimator can be saved


def test_damaged_foreign_newer_and_other_files(tmp_path, monkeypatch):
    model, path = small("dae", hidden=(2,)).fit(X[:5]), tmp_path / "model"
    model.save(path)
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(ValueError, match=r"^\S+ (is damaged|was not written by|was written by nrae_lib)"):
            ManifoldAutoencoder.load(path)
    parts = [content[:5], content[: len(content) // 2], content[:-1], content + b"x"]
    for part in [*parts, b"", b"hello", pickle.dumps(model)]:
        path.write_bytes(part)
        with pytest.raises(ValueError, match="is damaged or was not written by"):
            ManifoldAutoencoder.load(path)
    newer = json.dumps({"format": 2, "nrae_lib": "9.9", "future": True})
    sentence = r"written by nrae_lib 9\.9, whose format 2 is newer than this version's \(1\)"
    foreign = {r"was not written by ManifoldAutoencoder\.save": None, sentence: {"manifold_autoencoder": newer}}
    for sentence, metadata in foreign.items():
        safetensors_torch.save_file({"weight": torch.zeros(2)}, path, metadata)
        with pytest.raises(ValueError, match=sentence):
            ManifoldAutoencoder.load(path)
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(FileNotFoundError, match="does not exist or is no file"):
            ManifoldAutoencoder.load(missing)
    path.write_bytes(content)
    monkeypatch.delitem(methods.CATALOGUE, "dae")
    with pytest.raises(ValueError, match="does not fit this version of nrae_lib: unknown method 'dae'"):
        ManifoldAutoencoder.load(path)


def test_progress_bar_only_when_asked(capsys):
    small().fit(X)
    assert capsys.readouterr() == ("", "")
    small(verbose=True, epochs=5).fit(X)
    shown = capsys.readouterr().err
    assert "nrae_l" in shown and "5/5" in shown and "loss=" in shown


def test_a_missing_library_is_named(monkeypatch, tmp_path):
    model = small().fit(X)
    for name in ("tqdm", "tqdm.auto", "safetensors", "safetensors.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    calls = {"tqdm": lambda: small(verbose=True).fit(X)}
    calls |= {"safetensors": lambda: model.save(tmp_path / "model"), "safetensors:": lambda: model.load(tmp_path)}
    for library, call in calls.items():
        with pytest.raises(ImportError, match=rf"needs the package {library}.* pip install 'nrae-lib\[methods\]'"):
            call()


def test_the_package_itself_imports_nothing_heavy():
    code = (
        "import sys, nrae_lib\n"
        "sys.modules.update(dict.fromkeys(['pandas', 'safetensors', 'tqdm', 'PIL', 'zuko', 'umap', 'phate']))\n"
        "assert not {'torch', 'sklearn', 'numpy'} & set(sys.modules)\n"
        "import nrae_lib.pages.plots\n"
        "assert not {'torch', 'matplotlib', 'IPython'} & set(sys.modules)\n"
        "from nrae_lib import ManifoldAutoencoder\n"
        "assert nrae_lib.ManifoldAutoencoder is ManifoldAutoencoder\n"
        "import nrae_lib.own_data.files\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

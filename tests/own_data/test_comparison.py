"""One's own data: what is compared, the cross-validation, the pictures, and the notebook that shows them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import ttest_1samp
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, LocallyLinearEmbedding

from nrae_lib import ManifoldAutoencoder
from nrae_lib.own_data import comparison
from nrae_lib.own_data.embeddings import EMBEDDINGS, embedding
from nrae_lib.pages import plots
from nrae_lib.pages.plots.own_data import CATEGORY_COLOURS
from nrae_lib.pages.plots.style import relative_luminance

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = nbformat.read(ROOT / "notebooks" / "your_data.ipynb", as_version=4)
POINTS = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)


def saved(path: Path, array: np.ndarray = POINTS) -> str:
    np.save(path, array)
    return str(path)


# ---------------------------------------------------------------------------------------------- methods and embeddings


def test_methods_of_every_kind_are_chosen_once_and_in_order(monkeypatch):
    assert comparison.choose_methods("tsne,nrae_q+mmd,ae,tsne", ()) == ["tsne", "nrae_q+mmd", "ae"]
    assert comparison.choose_methods("lle,all", ("ae", "lle")) == ["lle", "ae"]
    assert [plots.method_label(name) for name in ("tsne", "pca", "nrae_q")] == ["t-SNE", "PCA", "NRAE-Q"]
    assert comparison.parse_widths("256, 64") == (256, 64) and comparison.parse_widths(5) == (5,)
    for module in ("umap", "phate"):
        monkeypatch.setitem(sys.modules, module, None)
    for name, package in (("umap", "umap-learn"), ("grae", "phate"), ("ae+phate", "phate")):
        with pytest.raises(ImportError, match=rf"^method '[\w+]+' needs the package {package}: pip install 'nrae-lib"):
            comparison.choose_methods(name, ())  # before anything is trained


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("nrae_x", "unknown method 'nrae_x', did you mean 'nrae_"),
        ("foo", "the methods are: ae, vae.* pca, umap.* or 'all'"),
        ("all,foo", "unknown method 'foo'"),
        ("ae+foo", "unknown penalty 'foo'"),
        ("umap+mmd", "unknown method 'umap'"),
        (" , ", "no method is named"),
    ],
)
def test_a_method_that_does_not_exist_is_named(value, sentence):
    with pytest.raises(ValueError, match=sentence):
        comparison.choose_methods(value, ("ae",))


@pytest.mark.parametrize("value", ["0", "64,", "a", "-3", "1.5"])
def test_widths_are_whole_numbers(value):
    with pytest.raises(ValueError, match="no list of whole numbers"):
        comparison.parse_widths(value)


def test_embeddings_are_the_libraries_own_with_the_settings_that_few_points_allow():
    assert set(EMBEDDINGS) == {"pca", "lle", "tsne", "umap"}
    expected = {
        "pca": PCA(2, random_state=3),
        "tsne": TSNE(2, perplexity=23 / 3, random_state=3),
        "lle": LocallyLinearEmbedding(n_components=2, n_neighbors=8, random_state=3),
    }
    global_state = np.random.get_state()[1].copy()
    for name, library in expected.items():
        ours = embedding(name, 2, 8, points=24, seed=3).fit_transform(POINTS)
        assert ours.shape == (24, 2) and np.array_equal(ours, library.fit_transform(POINTS))
    assert np.array_equal(np.random.get_state()[1], global_state)
    assert embedding("tsne", points=200, seed=0).perplexity == 30
    assert embedding("lle", points=10, seed=0).n_neighbors == 9
    with pytest.raises(ValueError, match="unknown method 'mds': choose one of pca, umap, tsne, lle"):
        embedding("mds", points=9, seed=0)


@pytest.mark.slow
def test_umap_is_the_library_itself():
    umap = pytest.importorskip("umap")
    ours = embedding("umap", 2, 8, points=24, seed=3).fit_transform(POINTS)
    assert np.array_equal(ours, umap.UMAP(n_neighbors=8, random_state=3, n_jobs=1).fit_transform(POINTS))
    with pytest.raises(ValueError, match=r"at least n_components \+ 2 samples"):
        embedding("umap", 2, points=3, seed=0)


def test_a_large_set_is_embedded_by_a_part_of_it():
    models = {name: embedding(name, points=10, seed=0) for name in ("pca", "lle", "tsne")}
    codes = {name: comparison.fit_codes(model, POINTS, limit=10) for name, model in models.items()}
    assert np.isfinite(codes["lle"]).all() and len(models["lle"].embedding_) == 10
    assert np.array_equal(codes["pca"], PCA(2, random_state=0).fit_transform(POINTS)), "PCA is never too slow"
    seen = np.isfinite(codes["tsne"]).all(1)
    assert seen.sum() == 10 and np.array_equal(codes["tsne"][seen], models["tsne"].embedding_)


# --------------------------------------------------------------------------------------------------- cross-validation


def test_folds_are_a_partition_of_the_seed_that_keeps_copies_together():
    X = np.concatenate([POINTS, POINTS[:6], -0.0 * POINTS[:1], 0.0 * POINTS[:1]])
    assert comparison.copies(X).tolist() == [*range(24), *range(6), 30, 30]
    fold = comparison.assign_folds(X, 5, seed=0)
    assert fold[24:30].tolist() == fold[:6].tolist() and fold[30] == fold[31]
    assert np.bincount(comparison.assign_folds(POINTS, 5, seed=0)).tolist() == [5, 5, 5, 5, 4]
    assert np.array_equal(fold, comparison.assign_folds(X, 5, seed=0))
    assert not np.array_equal(fold, comparison.assign_folds(X, 5, seed=1))
    with pytest.raises(ValueError, match="folds is 26: choose 2 to 25"):
        comparison.assign_folds(X, 26, seed=0)


class Spy(TransformerMixin, BaseEstimator):
    """Knows the rows it was fitted to: those come back as NaN, all others as zero."""

    seen = []  # noqa: RUF012 - shared by the clones on purpose

    def fit(self, X):
        self.rows_ = {row.tobytes() for row in X}
        Spy.seen.append(len(X))
        return self

    def transform(self, X):
        return np.array([[row.tobytes() in self.rows_] for row in X], dtype=float)

    def inverse_transform(self, Z):
        return np.repeat(np.where(Z, np.nan, 0.0), POINTS.shape[1], axis=1).astype(np.float32)


def test_no_held_out_row_is_ever_trained_on():
    Spy.seen.clear()
    original = Spy()
    found = comparison.held_out(original, POINTS, comparison.assign_folds(POINTS, 5, seed=3), kept=[7, 2])
    np.testing.assert_allclose(found.row_error, np.square(POINTS, dtype=np.float64).mean(1))
    np.testing.assert_allclose(found.feature_error, np.square(POINTS, dtype=np.float64).mean(0))
    assert sorted(Spy.seen) == [19, 19, 19, 19, 20] and not hasattr(original, "rows_")


def test_errors_and_reconstructions_agree_with_a_plain_loop():
    fold, kept = comparison.assign_folds(POINTS, 4, seed=0), np.array([20, 3, 11])
    found = comparison.held_out(PCA(2), POINTS, fold, kept)
    expected = np.empty_like(POINTS)
    for number in range(4):
        pca = PCA(2).fit(POINTS[fold != number])
        expected[fold == number] = pca.inverse_transform(pca.transform(POINTS[fold == number]))
    np.testing.assert_allclose(found.reconstruction, expected[kept], rtol=1e-4, atol=1e-5)
    errors = [np.square(expected - POINTS)[fold == number].mean() for number in range(4)]
    np.testing.assert_allclose(found.fold_error, errors, rtol=1e-4)


def test_standardization_knows_the_training_part_only():
    """One row far away: the model of its own fold must have a scale as if the row did not exist."""
    X = POINTS.copy()
    X[5] = 1e4
    scales = []

    class Model(ManifoldAutoencoder):
        def fit(self, X):
            super().fit(X)
            scales.append((float(self.scale_), float(X.max())))
            return self

    fold = comparison.assign_folds(X, 4, seed=0)
    comparison.held_out(Model("ae", 1, hidden=(2,), epochs=1, random_state=0), X, fold)
    assert scales[fold[5]][0] < 2 and scales[fold[5]][1] < 10
    assert all(scale > 100 for number, (scale, _) in enumerate(scales) if number != fold[5])


def test_a_method_that_diverges_leaves_the_others():
    class Diverging(Spy):
        def fit(self, X):
            raise FloatingPointError("not finite")

    fold, models = comparison.assign_folds(POINTS, 3, seed=0), {"bad": Diverging(), "spy": Spy()}
    found, seconds, failed = comparison.attempt(models, lambda model: comparison.held_out(model, POINTS, fold))
    assert failed == {"bad": "not finite"} and list(found) == list(seconds) == ["spy"]


def test_the_interval_is_the_t_interval_widened():
    errors, baseline = np.array([1.0, 1.2, 0.9, 1.4, 1.1]), np.array([1.3, 1.1, 1.2, 1.5, 1.6])
    mean, low, high = comparison.paired_difference(errors, baseline)
    plain = ttest_1samp(errors - baseline, 0).confidence_interval(0.95)
    widening = np.sqrt((1 / 5 + 1 / 4) / (1 / 5))  # n_test / n_train = 1/4
    assert mean == pytest.approx(-0.22)
    assert high - mean == pytest.approx(widening * (plain.high - mean))
    assert mean - low == pytest.approx(high - mean)


# ----------------------------------------------------------------------------------------------------------- pictures


def test_classes_have_a_legend_and_numbers_a_bar():
    def drawn(panels, colour, name):
        return plots.figure_html(plots.codes_of_points(panels, colour, name), "alt")

    panels, numbers = {"ae": POINTS[:, :2], "pca": POINTS}, np.where(np.arange(24) == 3, np.nan, np.arange(24.0))
    classes = drawn(panels, np.array(list("ab$d") * 6, dtype=object), "kind")
    assert all(f">{name}<" in classes for name in ("AE", "PCA", "a", "d", "kind"))
    bar = drawn(panels, numbers / 7, "time")
    assert ">time<" in bar and ">a<" not in bar
    assert ">other (9)<" in drawn(panels, np.array([f"class {place % 20}" for place in range(24)]), "kind")
    assert ">time<" in drawn({"ae": POINTS[:, :1]}, numbers, "time")
    with pytest.raises(ValueError, match="the colour has"):
        plots.codes_of_points(panels, np.arange(3), "kind")
    assert all(0.12 <= relative_luminance(colour) <= 0.3 for colour in CATEGORY_COLOURS)


def test_every_code_fills_its_own_picture():
    code = np.where(np.arange(24)[:, None] == 5, np.nan, POINTS[:, :2] * (1000, 1) + 7)  # a point that t-SNE left out
    figure = plots.codes_of_points({"tsne": code, "pca": POINTS[:, :2]}, np.arange(24.0), "time")
    points = np.ma.filled(figure.axes[0].collections[0].get_offsets(), np.nan)
    low, high = np.nanmin(points, axis=0), np.nanmax(points, axis=0)
    np.testing.assert_allclose((low[0], high[0]), (-1, 1))
    assert 0 < high[1] - low[1] < 0.01 and high[1] + low[1] == pytest.approx(0, abs=1e-9)


def test_held_out_points_and_images():
    for features in (2, 3):
        points = POINTS[:, :features]
        # Three panels: the form for phones then has an empty place.
        found = {"AE": points / 2, "b": points, "c": points}
        html = plots.figure_html(plots.held_out_reconstructions(points, found, list("xyz")[:features]), "alt")
        assert html.count(">AE<") == 2 and ">x<" in html
    with pytest.raises(ValueError, match="2 or 3 dimensions"):
        plots.held_out_reconstructions(POINTS, {"AE": POINTS})
    images = np.random.default_rng(0).random((4, 6, 5, 3))
    html = plots.figure_html(plots.held_out_reconstructions(images, {"AE": images}), "alt")
    assert html.count("<image") == 2 and ">original<" in html
    with pytest.raises(ValueError, match="the originals"):
        plots.held_out_reconstructions(images, {"AE": images[:2]})
    images = {
        (5, 4, 6): (5, 1, 4, 6),
        (5, 3, 4, 6): (5, 3, 4, 6),
        (5, 4, 6, 3): (5, 3, 4, 6),
        (5, 4, 6, 1): (5, 1, 4, 6),
    }
    assert {shape: plots.as_images(np.zeros(shape)).shape for shape in images} == images
    assert plots.as_images(np.zeros((5, 1, 4, 6))).shape == (5, 1, 4, 6)
    assert plots.as_images(np.zeros((5, 4, 6, 2))) is plots.as_images(np.zeros((5, 4))) is None


def test_the_worst_features_are_drawn():
    errors = {"ae": np.array([0.1, 0.9, np.nan, 0.5]), "pca": np.array([0.2, 0.8, np.nan, 0.4])}
    figure = plots.feature_errors(errors, ["a", "b", "c", "$d"], most=2)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["b", r"\$d"]


# ------------------------------------------------------------------------------------------------------- the notebook


def run_page(folder: Path, monkeypatch, **parameters) -> tuple[dict, str]:
    """The notebook's cells here, which spares a kernel for each case: what they leave, and all that they show."""
    shown = []

    def display(item, raw=False, metadata=None):
        shown.append(item["text/html"] if raw else item.data)

    monkeypatch.chdir(folder)
    monkeypatch.setattr("IPython.display.display", display)
    namespace = {"In": ["", "# Parameters\n" + "\n".join(f"{name} = {value!r}" for name, value in parameters.items())]}
    for cell in NOTEBOOK.cells:
        if cell.cell_type == "code":
            exec(cell.source, namespace)
            if "parameters" in cell.metadata.get("tags", []):
                namespace.update({"preset": "smoke"} | parameters)
    return namespace, "\n".join(shown)


@pytest.fixture
def data(tmp_path):
    """A folder with every kind of data."""
    frame = pd.DataFrame(POINTS, columns=list("wxyz")).assign(kind=list("ab") * 12)
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    np.savez(tmp_path / "a.npz", X=POINTS[:, :2], other=POINTS)
    bad = np.where(np.arange(24)[:, None] == 3, np.nan, POINTS)
    for name, array in (("points", POINTS), ("nan", bad), ("equal", np.ones_like(POINTS)), ("five", POINTS[:5])):
        saved(tmp_path / f"{name}.npy", array)
    (tmp_path / "faces").mkdir()
    for place in range(12):
        pixels = np.random.default_rng(place).integers(0, 255, (5, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "faces" / f"{place:02d}.png")
    return tmp_path


CASES = {
    "points.npy": {"method": "nrae_q", "hidden": 5, "folds": 2},
    "a.npz": {"key": "X", "method": "pca,ae+mmd", "codes": "out.npy"},
    "t.csv": {"labels": "kind", "method": "vae", "n_components": 1},
    "t.parquet": {"columns": "x, z,y", "method": "ae", "n_components": 3, "codes": "out.parquet", "epochs": 20},
    "faces": {"method": "ae,lle", "folds": 3, "n_neighbors": 50},
}


@pytest.mark.parametrize("name", CASES)
def test_the_page_takes_every_kind_of_data(name, data, monkeypatch):
    page, shown = run_page(data, monkeypatch, data=name, **CASES[name])
    path = data / page["codes_path"]
    assert path.name == CASES[name].get("codes", "codes.csv")
    written = {".csv": pd.read_csv, ".npy": np.load, ".parquet": pd.read_parquet}[path.suffix](path)
    names, m = page["chosen"], page["n_components"]
    columns = [f"{name}_z{place}" for name in names for place in range(1, m + 1)]
    if path.suffix == ".npy":
        assert written.shape == (page["N"], len(columns))
    else:
        assert list(written) == ["row", *(["file"] if name == "faces" else []), *columns]
        assert written["row"].tolist() == list(range(page["N"]))
        np.testing.assert_allclose(written[columns[-m:]], page["found"][names[-1]], rtol=1e-5)
    assert "<svg" in shown and "Preset smoke" in shown and "AE" in shown and "Written to" in shown
    assert f"data {name}" in shown, "the command that repeats the page"
    assert "A stand-in" not in shown
    assert list(page["cv"]) == list(dict.fromkeys(["pca", "ae", *page["trained"]]))
    if name == "faces":
        assert written["file"].tolist() == [f"{place:02d}.png" for place in range(12)]
        assert "k is 7 here instead of 50" in shown
    if name == "t.csv":
        assert "label: kind" in shown and page["D"] == 4 and "too few epochs to tell" in shown
    if name == "t.parquet":
        change = page["models"]["ae"].loss_[-2:].mean() / page["models"]["ae"].loss_[-4:-2].mean() - 1
        assert f"{100 * change:+.1f} %" in shown


def test_the_page_without_data_shows_the_stand_in_and_leaves_no_file(tmp_path, monkeypatch):
    _, shown = run_page(tmp_path, monkeypatch, method="pca")
    assert "A stand-in" in shown and "nrae-download" in shown and not list(tmp_path.iterdir())


WRONG = {
    "unknown method 'nrae_x'": {"method": "nrae_x"},
    "unknown parameter 'metod': did you mean 'method'": {"metod": "ae"},
    "must be one of: 'smoke', 'quick', 'paper'": {"preset": "fast"},
    "none.npy does not exist": {"data": "none.npy"},
    r"NaN, infinite or missing values.*points 3 ": {"data": "nan.npy"},
    "24 equal points": {"data": "equal.npy"},
    "n_components is 5: choose 1 to 4": {"data": "points.npy", "n_components": 5},
    "parameter 'n_components': 0 is no whole number from 1 on": {"n_components": 0},
    "parameter 'data': 1.5 is no text": {"data": 1.5},
    "parameter 'hidden': 'a' is no list of whole numbers": {"hidden": "a"},
    "choose 2 to 24": {"data": "points.npy", "folds": 25},
    "leave 4 to train on": {"data": "five.npy", "n_components": 4},
    "device 'tpu' cannot be used": {"device": "tpu"},
    "choose another name": {"data": "points.npy", "codes": "points.npy"},
    "labels 'kind' is neither": {"data": "points.npy", "labels": "kind"},
    "labels describes your file": {"labels": "kind"},
    "at most 3 components": {"data": "points.npy", "method": "tsne", "n_components": 4},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_what_cannot_be_stops_the_page_before_training(sentence, data, monkeypatch):
    def trained(*args, **kwargs):
        raise AssertionError("training has begun")

    for kind in (ManifoldAutoencoder, PCA, TSNE):
        monkeypatch.setattr(kind, "fit", trained)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        run_page(data, monkeypatch, **WRONG[sentence])


def test_python_on_the_page_runs(data, monkeypatch):
    (source,) = [cell.source for cell in NOTEBOOK.cells if "```python" in cell.source]
    code = source.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(data)
    names = {}
    exec(code.replace("random_state=0", "random_state=0, epochs=1, hidden=(4,)"), names)
    assert np.array_equal(names["again"], names["codes"]) and names["decoded"].shape == POINTS.shape


@pytest.mark.slow
def test_the_sentence_about_a_bad_file_is_papermills_error(tmp_path):
    (tmp_path / "points.npy").write_text("no array")
    command = [sys.executable, "-m", "papermill", "notebooks/your_data.ipynb", str(tmp_path / "out.ipynb")]
    command += ["-p", "data", str(tmp_path / "points.npy"), "-p", "method", "nrae_q", "--no-progress-bar"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode != 0
    assert "points.npy is damaged or no .npy file" in done.stderr.strip().splitlines()[-1]
    outputs = [cell.get("outputs", []) for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells]
    assert "Training" not in json.dumps(outputs)

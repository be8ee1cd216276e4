"""One's own data: what is compared, the cross-validation, the pictures, and the notebook that shows them."""

import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import ttest_1samp
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.manifold import TSNE, LocallyLinearEmbedding

from nrae_lib import ManifoldAutoencoder
from nrae_lib.own_data import comparison, files
from nrae_lib.own_data.embeddings import embedding
from nrae_lib.pages import plots
from nrae_lib.pages.plots.own_data import CATEGORY_COLOURS
from nrae_lib.pages.plots.style import relative_luminance

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = nbformat.read(ROOT / "notebooks" / "your_data.ipynb", as_version=4)
POINTS = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)


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
        *((widths, "no list of whole numbers") for widths in ("0", "64,", "-3")),
    ],
)
def test_a_method_that_does_not_exist_or_a_width_that_is_no_number_is_named(value, sentence):
    with pytest.raises(ValueError, match=sentence):
        comparison.parse_widths(value) if "numbers" in sentence else comparison.choose_methods(value, ("ae",))


def test_embeddings_are_the_libraries_own_with_the_settings_that_few_points_allow():
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
    """The same class with the same settings, so that a fit, which compiles for a minute, would show no more."""
    umap = pytest.importorskip("umap")
    ours, theirs = embedding("umap", 2, 8, points=24, seed=3), umap.UMAP(n_neighbors=8, random_state=3, n_jobs=1)
    assert type(ours) is umap.UMAP and ours.get_params() == theirs.get_params()
    with pytest.raises(ValueError, match=r"at least n_components \+ 2 samples"):
        embedding("umap", 2, points=3, seed=0)


def test_a_large_set_is_embedded_by_a_part_of_it():
    models = {name: embedding(name, points=10, seed=0) for name in ("pca", "lle", "tsne")}
    codes = {name: comparison.fit_codes(model, POINTS, limit=10) for name, model in models.items()}
    assert np.isfinite(codes["lle"]).all() and len(models["lle"].embedding_) == 10
    assert np.array_equal(codes["pca"], PCA(2, random_state=0).fit_transform(POINTS)), "PCA is never too slow"
    seen = np.isfinite(codes["tsne"]).all(1)
    assert seen.sum() == 10 and np.array_equal(codes["tsne"][seen], models["tsne"].embedding_)


def test_folds_are_a_partition_of_the_seed_that_keeps_copies_together():
    X = np.concatenate([POINTS, POINTS[:6], -0.0 * POINTS[:1], 0.0 * POINTS[:1]])
    fold = comparison.assign_folds(X, 5, seed=0)
    assert fold[24:30].tolist() == fold[:6].tolist() and fold[30] == fold[31]
    assert np.bincount(comparison.assign_folds(POINTS, 5, seed=0)).tolist() == [5, 5, 5, 5, 4]
    assert np.array_equal(fold, comparison.assign_folds(X, 5, seed=0))
    assert not np.array_equal(fold, comparison.assign_folds(X, 5, seed=1))
    with pytest.raises(ValueError, match="folds is 26: choose 2 to 25"):
        comparison.assign_folds(X, 26, seed=0)


@pytest.mark.parametrize("model", [PCA(2), ManifoldAutoencoder("ae", 1, hidden=(2,), epochs=1, random_state=0)])
def test_every_row_is_reconstructed_by_a_model_that_never_saw_it(model):
    """Against a plain loop; of a row far away, not even the scale of its own fold's model may know."""
    X = np.concatenate([POINTS, np.full((1, 4), 1e4, np.float32)])
    fold, kept = comparison.assign_folds(X, 4, seed=0), [20, 3, 11]
    found = comparison.held_out(model, X, fold, kept)
    expected = np.empty_like(X)
    for number in range(4):
        fitted = clone(model).fit(X[fold != number])
        expected[fold == number] = fitted.inverse_transform(fitted.transform(X[fold == number]))
    np.testing.assert_array_equal(found.reconstruction, expected[kept])
    squares = np.square(expected.astype(np.float64) - X)
    np.testing.assert_allclose(found.row_error, squares.mean(1))
    np.testing.assert_allclose(found.feature_error, squares.mean(0))
    np.testing.assert_allclose(found.fold_error, [squares[fold == number].mean() for number in range(4)])
    with pytest.raises(NotFittedError):
        model.transform(X)


def test_a_method_that_diverges_leaves_the_others():
    models = {"ae": ManifoldAutoencoder("ae", epochs=3, learning_rate=1e30, random_state=0), "pca": PCA()}
    found, seconds, failed = comparison.attempt(models, lambda model: model.fit(POINTS))
    assert "lower the learning rate" in failed.pop("ae") and not failed and list(found) == list(seconds) == ["pca"]


def test_the_interval_is_the_t_interval_widened():
    errors, baseline = np.array([1.0, 1.2, 0.9, 1.4, 1.1]), np.array([1.3, 1.1, 1.2, 1.5, 1.6])
    mean, low, high = comparison.paired_difference(errors, baseline)
    plain = ttest_1samp(errors - baseline, 0).confidence_interval(0.95)
    widening = np.sqrt((1 / 5 + 1 / 4) / (1 / 5))  # n_test / n_train = 1/4
    assert mean == pytest.approx(-0.22)
    assert high - mean == pytest.approx(widening * (plain.high - mean))
    assert mean - low == pytest.approx(high - mean)


def test_classes_have_a_legend_numbers_a_bar_and_codes_the_whole_picture():
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
    # Every code fills its own picture.
    code = np.where(np.arange(24)[:, None] == 5, np.nan, POINTS[:, :2] * (1000, 1) + 7)  # a point that t-SNE left out
    figure = plots.codes_of_points({"tsne": code, "pca": POINTS[:, :2]}, np.arange(24.0), "time")
    points = np.ma.filled(figure.axes[0].collections[0].get_offsets(), np.nan)
    low, high = np.nanmin(points, axis=0), np.nanmax(points, axis=0)
    np.testing.assert_allclose((low[0], high[0]), (-1, 1))
    assert 0 < high[1] - low[1] < 0.01 and high[1] + low[1] == pytest.approx(0, abs=1e-9)


def test_held_out_points_images_and_worst_features_are_drawn():
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
    grey, colour = (5, 1, 4, 6), (5, 3, 4, 6)
    shapes = {(5, 4, 6): grey, (5, 4, 6, 1): grey, grey: grey, (5, 4, 6, 3): colour, colour: colour}
    assert {shape: plots.as_images(np.zeros(shape)).shape for shape in shapes} == shapes
    assert plots.as_images(np.zeros((5, 4, 6, 2))) is plots.as_images(np.zeros((5, 4))) is None
    errors = {"ae": np.array([0.1, 0.9, np.nan, 0.5]), "pca": np.array([0.2, 0.8, np.nan, 0.4])}
    figure = plots.feature_errors(errors, ["a", "b", "c", "$d"], most=2)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["b", r"\$d"]


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
    for name, array in (("points", POINTS), ("equal", np.ones_like(POINTS)), ("five", POINTS[:5])):
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "bad.npy").write_text("no array")
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
    expected = files.codes_frame(page["found"], [f"{place:02d}.png" for place in range(12)] if name == "faces" else ())
    if path.suffix == ".npy":
        np.testing.assert_array_equal(np.load(path), expected.drop(columns="row"))
    else:
        pd.testing.assert_frame_equal(files.read_table(path), expected, check_dtype=False)
    assert "<svg" in shown and "Preset smoke" in shown and "AE" in shown and "Written to" in shown
    assert f"data {name}" in shown, "the command that repeats the page"
    assert "A stand-in" not in shown
    assert list(page["cv"]) == list(dict.fromkeys(["pca", "ae", *page["trained"]]))
    if name == "faces":
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
    "bad.npy is damaged or no .npy file": {"data": "bad.npy"},
    "must be one of: 'smoke', 'quick', 'reduced', 'paper'": {"preset": "fast"},
    "24 equal points": {"data": "equal.npy"},
    "n_components is 5: choose 1 to 4": {"data": "points.npy", "n_components": 5},
    "parameter 'n_components': 0 is no whole number from 1 on": {"n_components": 0},
    "parameter 'data': 1.5 is no text": {"data": 1.5},
    "parameter 'hidden': 'a' is no list of whole numbers": {"hidden": "a"},
    "choose 2 to 24": {"data": "points.npy", "folds": 25},
    "leave 4 to train on": {"data": "five.npy", "n_components": 4},
    "device 'tpu' cannot be used": {"device": "tpu"},
    "choose another name": {"data": "points.npy", "codes": "points.npy"},
    "labels describes your file": {"labels": "kind"},
    "at most 3 components": {"data": "points.npy", "method": "tsne", "n_components": 4},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_what_cannot_be_stops_the_page_before_training(sentence, data, monkeypatch):
    def trained(*args, **kwargs):
        raise AssertionError("training has begun")

    for kind in (ManifoldAutoencoder, PCA, TSNE):
        monkeypatch.setattr(kind, "fit", trained)
    with pytest.raises(ValueError, match=sentence):
        run_page(data, monkeypatch, **WRONG[sentence])


def test_python_on_the_page_runs(data, monkeypatch):
    (source,) = [cell.source for cell in NOTEBOOK.cells if "```python" in cell.source]
    code = source.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(data)
    names = {}
    exec(code.replace("random_state=0", "random_state=0, epochs=1, hidden=(4,)"), names)
    assert np.array_equal(names["again"], names["codes"]) and names["decoded"].shape == POINTS.shape

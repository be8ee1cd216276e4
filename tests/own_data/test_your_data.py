"""One's own data: what is compared, the cross-validation, the file of codes, and the notebook that shows them."""

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

from nrae_lib import ManifoldAutoencoder
from nrae_lib.own_data import codes as codes_file
from nrae_lib.own_data import comparison, files
from nrae_lib.own_data.embeddings import Embedding
from nrae_lib.pages import plots

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = nbformat.read(ROOT / "notebooks" / "your_data.ipynb", as_version=4)
POINTS = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)


def saved(path: Path, array: np.ndarray = POINTS) -> str:
    np.save(path, array)
    return str(path)


# ------------------------------------------------------------------------------------------------------------- methods


def test_methods_of_every_kind_are_chosen_once_and_in_order():
    assert comparison.choose_methods("umap,nrae_q+mmd,ae,umap", ()) == ["umap", "nrae_q+mmd", "ae"]
    assert comparison.choose_methods("lle,all", ("ae", "lle")) == ["lle", "ae"]
    assert [plots.method_label(name) for name in ("tsne", "pca", "nrae_q")] == ["t-SNE", "PCA", "NRAE-Q"]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("nrae_x", "unknown method 'nrae_x', did you mean 'nrae_"),
        ("foo", "the methods are: all, ae, vae.*without a decoder: pca, umap"),
        ("ae+foo", "unknown penalty 'foo'"),
        ("umap+mmd", "unknown method 'umap'"),
        (" , ", "no method is named"),
    ],
)
def test_a_method_that_does_not_exist_is_named(value, sentence):
    with pytest.raises(ValueError, match=sentence):
        comparison.choose_methods(value, ("ae",))


def test_a_missing_package_is_told_before_training(monkeypatch):
    monkeypatch.setattr(comparison, "find_spec", lambda name: None)
    for name, package in (("umap", "umap-learn"), ("grae", "phate"), ("ae+phate", "phate")):
        with pytest.raises(ImportError, match=f"needs the package {package}"):
            comparison.choose_methods(name, ())


@pytest.mark.parametrize("value", ["0", "64,", "a", "-3", "1.5"])
def test_widths_are_whole_numbers(value):
    with pytest.raises(ValueError, match="no list of whole numbers"):
        comparison.parse_widths(value)


# ---------------------------------------------------------------------------------------------------------- the data


def test_labels_come_from_every_place(tmp_path):
    classes = np.array(list("ab") * 12, dtype=object)
    frame = pd.DataFrame(POINTS, columns=list("wxyz")).assign(kind=classes)
    frame.to_csv(tmp_path / "table.csv", index=False)
    frame.to_parquet(tmp_path / "table.parquet")
    for table in ("table.csv", "table.parquet"):
        loaded = files.load(tmp_path / table, labels="kind")
        np.testing.assert_allclose(loaded.points, POINTS, rtol=1e-6)
        assert loaded.labels.tolist() == classes.tolist() and loaded.names == ("w", "x", "y", "z")
    assert files.load(tmp_path / "table.csv", columns=["w", "x"], labels="x").points.shape == (24, 2)

    np.savez(tmp_path / "a.npz", X=POINTS, y=np.arange(24))
    assert files.load(tmp_path / "a.npz", key="X", labels="y").labels.tolist() == list(range(24))
    data = saved(tmp_path / "points.npy")
    assert files.load(data).labels is None
    assert files.load(data, labels=saved(tmp_path / "y.npy", np.arange(24)[:, None])).labels.shape == (24,)
    with_header, without = tmp_path / "with.csv", tmp_path / "without.csv"
    with_header.write_text("kind\n" + "\n".join(classes))
    without.write_text("\n".join(classes))
    for file in (with_header, without):
        assert files.load(data, labels=str(file)).labels.tolist() == classes.tolist()


def test_a_blank_line_is_a_missing_label_and_shifts_nothing(tmp_path):
    data, file = saved(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(6, 2))), tmp_path / "labels.csv"
    file.write_text("kind\na\na\n\nb\nb\nb\n\n")
    assert files.load(data, labels=str(file)).labels.tolist() == ["a", "a", "missing", "b", "b", "b"]


def test_labels_that_cannot_be_used_are_one_sentence(tmp_path):
    data = saved(tmp_path / "points.npy")
    with pytest.raises(ValueError, match=r"neither a column or an array of .* nor a .npy or .csv file"):
        files.load(data, labels="kind")
    with pytest.raises(ValueError, match=r"shape \(5,\), but there are 24 points"):
        files.load(data, labels=saved(tmp_path / "y.npy", np.arange(5)))
    (tmp_path / "two.csv").write_text("1,2\n" * 24)
    with pytest.raises(ValueError, match="more than one column"):
        files.load(data, labels=str(tmp_path / "two.csv"))


def test_row_numbers_saved_by_mistake_stay_an_error_with_labels(tmp_path):
    pd.DataFrame(POINTS, columns=list("wxyz")).assign(kind="a").to_csv(tmp_path / "table.csv")
    with pytest.raises(ValueError, match="column without a name"):
        files.load(tmp_path / "table.csv", labels="kind")


def test_missing_labels_are_a_class_of_their_own(tmp_path):
    kinds = [None, *"ab" * 11, "a"]
    pd.DataFrame(POINTS, columns=list("wxyz")).assign(kind=kinds).to_parquet(tmp_path / "table.parquet")
    assert files.load(tmp_path / "table.parquet", labels="kind").labels.tolist() == ["missing", *kinds[1:]]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 4, 6), (5, 4, 6)),
        ((5, 1, 4, 6), (5, 4, 6)),
        ((5, 3, 4, 6), (5, 4, 6, 3)),
        ((5, 4, 6, 3), (5, 4, 6, 3)),
        ((5, 4, 6, 1), (5, 4, 6)),
        ((5, 4, 6, 2), None),
        ((5, 4), None),
    ],
)
def test_what_an_image_is(shape, expected):
    images = comparison.as_images(np.zeros(shape))
    assert (None if images is None else images.shape) == expected


# --------------------------------------------------------------------------------------------------- cross-validation


def test_folds_are_a_partition_of_the_seed_that_keeps_copies_together():
    X = np.concatenate([POINTS, POINTS[:6], -0.0 * POINTS[:1], 0.0 * POINTS[:1]])
    assert comparison.copies(X).tolist() == [*range(24), *range(6), 30, 30]
    fold = comparison.assign_folds(X, 5, seed=0)
    assert fold[24:30].tolist() == fold[:6].tolist() and fold[30] == fold[31]
    sizes = np.bincount(comparison.assign_folds(POINTS, 5, seed=0))
    assert sizes.tolist() == [5, 5, 5, 5, 4]
    assert np.array_equal(fold, comparison.assign_folds(X, 5, seed=0))
    assert not np.array_equal(fold, comparison.assign_folds(X, 5, seed=1))
    with pytest.raises(ValueError, match="folds is 26: choose 2 to 25"):
        comparison.assign_folds(X, 26, seed=0)


class Spy(TransformerMixin, BaseEstimator):
    """Knows the rows it was fitted to: those come back whole, all others as zero."""

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
    fold = comparison.assign_folds(POINTS, 5, seed=3)
    original = Spy()
    cv = comparison.cross_validate({"spy": original}, POINTS, fold, kept=[7, 2])
    # A row that had been trained on would be NaN.
    np.testing.assert_allclose(cv.row_error["spy"], np.square(POINTS, dtype=np.float64).mean(1))
    np.testing.assert_allclose(cv.feature_error["spy"], np.square(POINTS, dtype=np.float64).mean(0))
    assert sorted(Spy.seen) == [19, 19, 19, 19, 20] and not hasattr(original, "rows_")


def test_errors_and_reconstructions_agree_with_a_plain_loop():
    fold = comparison.assign_folds(POINTS, 4, seed=0)
    kept = np.array([20, 3, 11])
    cv = comparison.cross_validate({"pca": Embedding("pca", 2, random_state=0)}, POINTS, fold, kept)
    expected = np.empty_like(POINTS)
    for number in range(4):
        pca = PCA(2).fit(POINTS[fold != number])
        expected[fold == number] = pca.inverse_transform(pca.transform(POINTS[fold == number]))
    np.testing.assert_allclose(cv.reconstruction["pca"], expected[kept], rtol=1e-4, atol=1e-5)
    errors = [np.square(expected - POINTS)[fold == number].mean() for number in range(4)]
    np.testing.assert_allclose(cv.fold_errors("pca"), errors, rtol=1e-4)


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
    comparison.cross_validate({"ae": Model("ae", 1, hidden=(2,), epochs=1, random_state=0)}, X, fold)
    assert scales[fold[5]][0] < 2 and scales[fold[5]][1] < 10
    assert all(scale > 100 for number, (scale, _) in enumerate(scales) if number != fold[5])


def test_a_method_that_diverges_leaves_the_others(monkeypatch):
    class Diverging(Spy):
        def fit(self, X):
            raise FloatingPointError("not finite")

    fold = comparison.assign_folds(POINTS, 3, seed=0)
    cv = comparison.cross_validate({"bad": Diverging(), "spy": Spy()}, POINTS, fold)
    assert cv.failed == {"bad": "not finite"} and list(cv.row_error) == ["spy"]


def test_the_interval_is_the_t_interval_widened():
    errors, baseline = np.array([1.0, 1.2, 0.9, 1.4, 1.1]), np.array([1.3, 1.1, 1.2, 1.5, 1.6])
    one = comparison.paired_difference(errors, baseline)
    plain = ttest_1samp(errors - baseline, 0).confidence_interval(0.95)
    widening = np.sqrt((1 / 5 + 1 / 4) / (1 / 5))  # n_test / n_train = 1/4
    assert one.mean == pytest.approx(-0.22) and one.lower_in == 4
    assert one.high - one.mean == pytest.approx(widening * (plain.high - one.mean))
    assert one.mean - one.low == pytest.approx(one.high - one.mean)


# ---------------------------------------------------------------------------------------------------------- the codes


def test_codes_are_written_for_every_ending_and_recognized_again(tmp_path):
    codes = {"ae": POINTS[:, :2], "nrae_q+mmd": POINTS[:, 2:]}
    frame = codes_file.frame(codes, files=[f"{place}.png" for place in range(24)])
    assert list(frame) == ["row", "file", "ae_z1", "ae_z2", "nrae_q+mmd_z1", "nrae_q+mmd_z2"]
    for ending, read in ((".csv", pd.read_csv), (".parquet", pd.read_parquet), (".npy", np.load)):
        path = tmp_path / f"codes{ending}"
        assert not codes_file.check_path(path, [], (24, 4))
        codes_file.write(path, frame)
        table = read(path)
        table = table if ending == ".npy" else table.iloc[:, 2:].to_numpy(np.float32)
        assert table.dtype == np.float32 and np.array_equal(table, POINTS)
        assert codes_file.check_path(path, [], (24, 4))
        with pytest.raises(ValueError, match="does not hold earlier codes"):
            codes_file.check_path(path, [path], (24, 4))
    assert not list(tmp_path.glob(".*")), "nothing half-written is left"


def test_no_other_file_is_replaced(tmp_path):
    data = Path(saved(tmp_path / "points.npy"))
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    (tmp_path / "notes.parquet").write_text("no table")
    for path in (data, tmp_path / "table.csv", tmp_path / "notes.parquet"):
        with pytest.raises(ValueError, match="exists and does not hold earlier codes"):
            codes_file.check_path(path, [], (24, 2))
    with pytest.raises(ValueError, match=r"ending '.txt': choose one of .csv, .npy, .parquet"):
        codes_file.check_path("codes.txt", [], (24, 2))
    with pytest.raises(ValueError, match="does not exist"):
        codes_file.check_path(tmp_path / "nowhere" / "codes.csv", [], (24, 2))


def test_a_large_set_is_embedded_by_a_part_of_it():
    model = Embedding("pca", 2, random_state=0)
    codes = comparison.fit_codes(model, POINTS, limit=10)
    assert codes.shape == (24, 2) and np.isfinite(codes).all() and len(model.embedding_) == 10
    codes = comparison.fit_codes(Embedding("tsne", 2, random_state=0), POINTS, limit=10)
    assert np.isfinite(codes).all(1).sum() == 10


# ----------------------------------------------------------------------------------------------------------- pictures


def test_classes_have_a_legend_and_numbers_a_bar():
    panels = {"AE": POINTS[:, :2], "PCA": POINTS}
    classes = plots.figure_html(plots.codes_of_points(panels, np.array(list("ab$d") * 6, dtype=object), "kind"), "alt")
    assert all(f">{name}<" in classes for name in ("AE", "PCA", "a", "d", "kind"))
    numbers = np.arange(24.0)
    numbers[3] = np.nan
    bar = plots.figure_html(plots.codes_of_points(panels, numbers / 7, "time"), "alt")
    assert ">time<" in bar and ">a<" not in bar
    many = np.array([f"class {place % 20}" for place in range(24)], dtype=object)
    assert ">other (9)<" in plots.figure_html(plots.codes_of_points(panels, many, "kind"), "alt")
    plots.figure_html(plots.codes_of_points({"AE": POINTS[:, :1]}, numbers, "time"), "alt")
    with pytest.raises(ValueError, match="the colour has"):
        plots.codes_of_points(panels, np.arange(3), "kind")


def test_colours_read_on_white_and_on_dark():
    assert all(0.12 <= plots.relative_luminance(colour) <= 0.3 for colour in plots.CATEGORY_COLOURS)


@pytest.mark.parametrize("features", [1, 2, 3])
def test_points_and_their_reconstructions(features):
    points = POINTS[:, :features]
    # Three panels: the form for phones then has an empty place.
    figure = plots.point_reconstructions(points, {"AE": points / 2, "b": points, "c": points}, list("xyz")[:features])
    html = plots.figure_html(figure, "alt")
    assert html.count(">AE<") == 2 and ">x<" in html
    with pytest.raises(ValueError, match="at most 3"):
        plots.point_reconstructions(POINTS, {"AE": POINTS})


def test_image_rows_must_fit():
    images = np.random.default_rng(0).random((4, 6, 5, 3))
    html = plots.figure_html(plots.image_reconstructions(images, {"AE": images}), "alt")
    assert html.count("<image") == 2 and ">original<" in html
    with pytest.raises(ValueError, match="the originals"):
        plots.image_reconstructions(images, {"AE": images[:2]})


def test_the_worst_features_are_drawn():
    errors = {"ae": np.array([0.1, 0.9, np.nan, 0.5]), "pca": np.array([0.2, 0.8, np.nan, 0.4])}
    figure = plots.feature_errors(errors, {"ae": "AE"}, ["a", "b", "c", "d"], most=2)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["d", "b"]
    figure = plots.fold_errors({"ae": [1.0, 2.0], "pca": [2.0, 3.0]}, {"ae": "AE"}, "error")
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["AE", "pca"]


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


def image_folder(folder: Path) -> str:
    folder.mkdir()
    for place in range(12):
        pixels = np.random.default_rng(place).integers(0, 255, (5, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{place:02d}.png")
    return str(folder)


def npz(path: Path) -> str:
    np.savez(path, X=POINTS[:, :2], other=POINTS)
    return str(path)


def table(path: Path) -> str:
    frame = pd.DataFrame(POINTS, columns=list("wxyz")).assign(kind=list("ab") * 12)
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)
    return str(path)


CASES = {
    "npy": (lambda folder: saved(folder / "points.npy"), {"method": "nrae_q", "hidden": 5, "folds": 2}),
    "npz": (lambda folder: npz(folder / "a.npz"), {"key": "X", "method": "pca,ae+mmd", "codes": "out.npy"}),
    "csv": (lambda folder: table(folder / "t.csv"), {"labels": "kind", "method": "vae", "n_components": 1}),
    "parquet": (
        lambda folder: table(folder / "t.parquet"),
        {"columns": "x, z,y", "method": "ae", "n_components": 3, "codes": "out.parquet", "epochs": 2},
    ),
    "images": (lambda folder: image_folder(folder / "faces"), {"method": "ae,lle", "folds": 3, "n_neighbors": 50}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_page_takes_every_kind_of_data(case, tmp_path, monkeypatch):
    make, parameters = CASES[case]
    page, shown = run_page(tmp_path, monkeypatch, data=make(tmp_path), **parameters)
    path = tmp_path / page["codes_path"]
    assert path.name == parameters.get("codes", "codes.csv")
    read = {".csv": pd.read_csv, ".npy": np.load, ".parquet": pd.read_parquet}[path.suffix]
    written, names, m = read(path), page["chosen"], page["n_components"]
    columns = [f"{name}_z{place}" for name in names for place in range(1, m + 1)]
    if path.suffix == ".npy":
        assert written.shape == (page["N"], len(columns))
    else:
        assert list(written) == ["row", *(["file"] if case == "images" else []), *columns]
        assert written["row"].tolist() == list(range(page["N"]))
        np.testing.assert_allclose(written[columns[-m:]], page["found"][names[-1]], rtol=1e-5)
    assert "<svg" in shown and "Preset smoke" in shown and "AE" in shown
    assert f"data {page['data']}" in shown, "the command that repeats the page"
    assert "A stand-in" not in shown and "replaces" not in shown.split("Written to")[1].split("\n")[0]
    assert list(page["cv"].row_error) == list(dict.fromkeys(["pca", "ae", *page["trained"]]))
    if case == "images":
        assert written["file"].tolist() == [f"{place:02d}.png" for place in range(12)]
        assert "k is 7 here instead of 50" in shown
    if case == "csv":
        assert "label: kind" in shown and page["D"] == 4


def test_the_page_without_data_shows_the_stand_in_and_leaves_no_file(tmp_path, monkeypatch):
    _, shown = run_page(tmp_path, monkeypatch, method="pca")
    assert "A stand-in" in shown and "nrae-download" in shown and not list(tmp_path.iterdir())


WRONG = {
    "unknown method": ({"method": "nrae_x"}, "unknown method 'nrae_x'"),
    "unknown parameter": ({"metod": "ae"}, "unknown parameter 'metod': did you mean 'method'"),
    "unknown preset": ({"preset": "fast"}, "must be one of: 'smoke', 'quick', 'paper'"),
    "no file": ({"data": "none.npy"}, "none.npy does not exist"),
    "nan": ({"data": "nan.npy"}, r"NaN, infinite or missing values.*points 3 "),
    "equal points": ({"data": "equal.npy"}, "24 equal points"),
    "many components": ({"data": "points.npy", "n_components": 5}, "only 4 features: choose 1 to 4"),
    "no components": ({"n_components": 0}, "parameter 'n_components': 0 is no whole number from 1 on"),
    "widths": ({"hidden": "a"}, "parameter 'hidden': 'a' is no list of whole numbers"),
    "folds": ({"data": "points.npy", "folds": 25}, "choose 2 to 24"),
    "few left": ({"data": "five.npy", "n_components": 4}, "leave 4 to train on"),
    "device": ({"device": "tpu"}, "device 'tpu' cannot be used"),
    "codes": ({"data": "points.npy", "codes": "points.npy"}, "choose another name"),
    "labels": ({"data": "points.npy", "labels": "kind"}, "labels 'kind' is neither"),
    "labels alone": ({"labels": "kind"}, "labels describes your file"),
    "tsne": ({"data": "points.npy", "method": "tsne", "n_components": 4}, "at most 3 components"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_stops_the_page_before_training(case, tmp_path, monkeypatch):
    parameters, sentence = WRONG[case]
    bad = POINTS.copy()
    bad[3, 0] = np.nan
    for name, array in (("points", POINTS), ("nan", bad), ("equal", np.ones_like(POINTS)), ("five", POINTS[:5])):
        saved(tmp_path / f"{name}.npy", array)

    def trained(*args, **kwargs):
        raise AssertionError("training has begun")

    monkeypatch.setattr(ManifoldAutoencoder, "fit", trained)
    monkeypatch.setattr(Embedding, "fit", trained)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        run_page(tmp_path, monkeypatch, **parameters)


def test_python_on_the_page_runs(tmp_path, monkeypatch):
    (source,) = [cell.source for cell in NOTEBOOK.cells if "```python" in cell.source]
    code = source.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "points.npy")
    names = {}
    exec(code.replace("random_state=0", "random_state=0, epochs=1, hidden=(4,)"), names)
    assert np.array_equal(names["again"], names["codes"]) and names["decoded"].shape == POINTS.shape


@pytest.mark.slow
def test_the_sentence_about_a_bad_file_is_papermills_error(tmp_path):
    (tmp_path / "points.npy").write_text("no array")
    command = [sys.executable, "-m", "papermill", "notebooks/your_data.ipynb", str(tmp_path / "out.ipynb")]
    command += ["-p", "data", str(tmp_path / "points.npy"), "-p", "method", "nrae_q", "--no-progress-bar"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode != 0
    assert "points.npy is damaged or no .npy file" in done.stderr.strip().splitlines()[-1]
    assert "Training" not in json.dumps(
        [cell.get("outputs", []) for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells]
    )

"""Files: points and labels of every kind come back, every bad file gives one sentence, and codes replace only codes."""

import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nrae_lib.own_data import files
from nrae_lib.own_data.files import read_points

POINTS = np.arange(12.0).reshape(4, 3) - 5.25
CODES = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def saved(path: Path, array: np.ndarray | pd.DataFrame) -> Path:
    """An array in a .npy or .npz file, a table in any."""
    {
        ".npy": lambda: np.save(path, array),
        ".npz": lambda: np.savez_compressed(path, array),
        ".csv": lambda: array.to_csv(path, index=False),
        ".parquet": lambda: array.to_parquet(path),
    }[path.suffix]()
    return path


def folder_of(path: Path, **images: Image.Image) -> Path:
    path.mkdir()
    for name, image in images.items():
        image.save(path / f"{name}.png")
    return path


def refused(sentence: str, path: Path, error: type[Exception] = ValueError, **options) -> None:
    with pytest.raises(error, match=sentence):
        read_points(path, **options)


def grey(*shape: int) -> Image.Image:
    return Image.fromarray(np.arange(np.prod(shape), dtype=np.uint8).reshape(shape))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble", "int8", "uint64", ">f8", ">i4"])
def test_npy_of_any_real_type_becomes_float32_and_leaves_its_file_free(tmp_path, dtype):
    array = np.asfortranarray(np.abs(POINTS).astype(dtype))
    points, names, labels = read_points(saved(tmp_path / "a.npy", array))
    np.testing.assert_array_equal(points, array.astype(np.float32))
    assert points.dtype == np.float32 and points.flags.c_contiguous and points.flags.writeable
    assert names == () and labels is None
    points += 1
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)


def test_images_as_arrays_keep_their_shape_and_large_and_far_numbers_their_digits(tmp_path):
    images = np.random.default_rng(0).random((5, 3, 4, 6))
    assert read_points(saved(tmp_path / "a.NPY.npy", images)).points.shape == (5, 3, 4, 6)
    array = np.array([[2**63, 2**64 - 1], [0, 1]], dtype=np.uint64)
    assert read_points(saved(tmp_path / "a.npy", array)).points[0].tolist() == [2.0**63, 2.0**64]
    assert read_points(write(tmp_path / "a.csv", f"x,y\n{10**30},1\n2,3\n")).points[0, 0] == np.float32(1e30)
    # Coordinates in metres, where float32 has steps of half a metre.
    far = np.random.default_rng(0).normal(size=(50, 2)) * 0.5 + (4.5e5, 5.4e6)
    np.testing.assert_array_equal(read_points(saved(tmp_path / "a.npy", far)).points, far)
    assert read_points(saved(tmp_path / "b.npy", far - far.mean(0))).points.dtype == np.float32


def test_npz_takes_its_only_array_or_the_named_one(tmp_path):
    np.savez_compressed(tmp_path / "one.npz", whatever=POINTS)
    np.testing.assert_array_equal(read_points(tmp_path / "one.npz").points, POINTS)
    np.savez(tmp_path / "two.npz", x=POINTS, labels=np.array(["a", "b"]))
    np.testing.assert_array_equal(read_points(str(tmp_path / "two.npz"), key="x").points, POINTS)
    refused("several arrays: choose the points by key, one of x, labels", tmp_path / "two.npz")
    refused("no array 'y': choose one of x, labels", tmp_path / "two.npz", key="y")
    refused("holds values of type <U1", tmp_path / "two.npz", key="labels")


@pytest.mark.parametrize(
    ("text", "names", "first"),
    [
        ("x,y\n1,2\n3,4\n", ("x", "y"), [1, 2]),
        ("\ufeffx;y\n1.5;2\n3;4\n", ("x", "y"), [1.5, 2]),
        ("x\ty\r\n1\t2\r\n3\t4\r\n", ("x", "y"), [1, 2]),
        ("1,2\n3,4\n", ("0", "1"), [1, 2]),
        ("\ufeff1,2\n3,4\n", ("0", "1"), [1, 2]),
        ("0,1\n5,6\n7,8\n", ("0", "1"), [5, 6]),  # the header that pandas writes for columns without names
        ("0.0,1.0\n5,6\n", ("0", "1"), [0, 1]),
        ("1e-3\n-2\n", ("0",), [1e-3]),
        ("height\n1\n2", ("height",), [1]),
        ("\n\nx,y\n1,2\n\n3,4\n", ("x", "y"), [1, 2]),
    ],
)
def test_csv_with_and_without_a_header(tmp_path, text, names, first):
    points, found, _ = read_points(write(tmp_path / "a.csv", text))
    assert found == names and len(points) == 2
    np.testing.assert_array_equal(points[0], np.float32(first))


def test_the_index_that_pandas_writes_is_no_feature(tmp_path):
    pd.DataFrame(POINTS).to_csv(tmp_path / "index.csv")
    np.testing.assert_array_equal(read_points(tmp_path / "index.csv", columns=["0", "1", "2"]).points, POINTS)
    for labels in ("", "0"):
        refused("column without a name", tmp_path / "index.csv", labels=labels)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_columns_are_chosen_in_order(tmp_path, ending):
    frame = pd.DataFrame({"x": [1, 2], "kind": ["cat", "dog"], "y": [0.5, 0.25], "seen": [True, False]})
    path = saved(tmp_path / f"a.{ending}", frame)
    points, names, _ = read_points(path, columns=["y", "x"])
    assert names == ("y", "x") and points.tolist() == [[0.5, 1], [0.25, 2]]
    refused(r"not numbers: 'kind', 'seen' \(first value 'cat'\).*choose the columns", path)
    refused("no column 'z': choose among x, kind, y, seen", path, columns=["x", "z"])
    refused("no column chosen", path, columns=[])


def test_parquet_types(tmp_path):
    frame = pd.DataFrame({"a": pd.array([1, 2, 3], dtype="Int64"), "b": np.float32([1, 2, 3])}, index=["p", "q", "r"])
    points, names, _ = read_points(saved(tmp_path / "a.parquet", frame))
    assert names == ("a", "b") and points.tolist() == [[1, 1], [2, 2], [3, 3]]
    frame.loc["q", "a"] = pd.NA
    path = saved(tmp_path / "a.parquet", frame)
    refused(r"missing values.* in the points 1 \(", path)
    assert read_points(path, columns=["b"], labels="a").labels.tolist()[0] in (1, "1")


def test_folder_of_images(tmp_path):
    refused(r"holds no images: the endings .png, .jpg", tmp_path)
    grey(4, 6).save(tmp_path / "a.tif", save_all=True, append_images=[grey(4, 6)])
    refused(r"a\.tif holds 2 images", tmp_path)
    folder = folder_of(tmp_path / "grey", b=grey(4, 6), a=Image.new("L", (6, 4), 255))
    write(folder / "notes.txt", "not an image")
    write(folder / ".hidden.png", "not an image")
    (folder / "more").mkdir()
    points, names, _ = read_points(folder)
    assert names == ("a.png", "b.png") and points.shape == (2, 1, 4, 6) and points.dtype == np.float32
    assert (points[0] == 1).all()
    np.testing.assert_array_equal(points[1, 0], np.arange(24, dtype=np.float32).reshape(4, 6) / 255)
    red = Image.new("RGB", (6, 4), (255, 0, 51))
    points = read_points(folder_of(tmp_path / "colour", a=red, b=red)).points
    assert points.shape == (2, 3, 4, 6)
    np.testing.assert_allclose(points[0, :, 0, 0], [1, 0, 0.2])
    deep = Image.fromarray(np.array([[0, 65535]], dtype=np.uint16))
    bits = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
    for name, image in (("deep", deep), ("bits", bits)):
        assert read_points(folder_of(tmp_path / name, a=image, b=image)).points[0].tolist() == [[[0, 1]]]
    exif = Image.Exif()
    exif[0x0112] = 6
    grey(6, 4).save(folder / "a.png", exif=exif)
    assert read_points(folder).points.shape == (2, 1, 4, 6), "photographs are turned upright"


BROKEN_PNG = struct.pack(">I", 5).join([b"\x89PNG\r\n\x1a\n", b"IHDRxx"])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (grey(5, 6), "differs from a.png .6 x 4 pixels, mode L.: all images must be alike"),
        (Image.new("RGB", (6, 4)), "mode RGB. differs from a.png"),
        (Image.new("RGBA", (6, 4)), "has the mode RGBA: save it as a grey"),
        (b"", "is damaged or no image"),
        (BROKEN_PNG, "is damaged or no image"),
        ("half", "is damaged or no image"),
    ],
)
def test_first_odd_image_is_named(tmp_path, bad, message):
    folder = folder_of(tmp_path / "images", a=grey(4, 6), c=grey(3, 3))
    if isinstance(bad, Image.Image):
        bad.save(folder / "b.png")
    else:
        content = (folder / "a.png").read_bytes()
        write(folder / "b.png", content[: len(content) - 30] if bad == "half" else bad)
    refused(f"b.png.*{message}", folder)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a file was unpickled",))


def test_nothing_is_unpickled(tmp_path):
    objects = np.array([[Bomb()], [Bomb()]], dtype=object)
    np.save(tmp_path / "a.npy", objects)
    np.savez(tmp_path / "a.npz", x=objects)
    for name in ("a.npy", "a.npz"):
        refused("Python objects, which are not read because that could run code", tmp_path / name)
    kinds = {"b.npy": "magic string", "b.npz": "it is no zip archive", "b.csv": "codec", "b.parquet": "[Pp]arquet"}
    for name, cause in kinds.items():
        refused(rf"is damaged or no .*{cause}", write(tmp_path / name, pickle.dumps([Bomb()])))


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.csv", "a.parquet"])
def test_empty_truncated_changed_and_foreign_files(tmp_path, name):
    path = tmp_path / name
    refused("is empty", write(path, b""))
    refused(r"is damaged or no|not numbers", write(path, bytes(range(128, 256)) * 4))
    saved(path, pd.DataFrame(np.random.default_rng(0).random((50, 3)), columns=list("abc")))
    content, damage = path.read_bytes(), "is damaged or no"
    assert read_points(path).points.shape == (50, 3)
    half = len(content) // 2
    parts = [content[:length] for length in (3, 40, half, len(content) - 1)]
    if name == "a.npz":
        parts.append(content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :])
    if name == "a.csv":  # a text cut in the middle of a line
        parts, damage = [content.rsplit(b",", 1)[0]], "in the points 49"
    for part in parts:
        refused(damage, write(path, part))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x,y\n1,2,3\n4,5,6\n", "damaged or no table of equally long rows"),
        ("x,y\n1,2\n4,5,6\n", "damaged or no table of equally long rows"),
        ("x,y\n1,2\n4\n", r"in the points 1 \("),
        ("x,y\n", "is empty: it has no rows"),
        ("x,y\n1,two\n3,4\n", "not numbers: 'y'"),
        ("1,,3\n4,5,6\n", r"in the points 0 \("),
        ("NA,1\n2,3\n4,5\n", r"missing values.* in the points 0 "),
        ("-,1\n2,3\n4,5\n", r"missing values.* in the points 0 "),
        ("x\n1e400\n2\n", r"in the points 0 \("),
        ("x\n1e39\n2\n", "too large for float32"),
        ("\n\n", "damaged or no table|is empty"),
        ("1,5;2,5\n3,5;4,5\n5,5;6,5\n", "write numbers with a decimal point"),
        (np.array(3.0), r"has the shape \(\): one point per row"),
        (np.zeros((1, 3)), "holds 1 points: at least 2"),
        (np.zeros((3, 0)), "no features"),
        (np.zeros((3, 2), bool), "type bool, not real numbers"),
        (np.zeros((3, 2), [("x", float)]), "not real numbers"),
        (np.array([[0, 1], [np.nan, 1], [1, -np.inf]]), r"in the points 1, 2 \("),
        (np.full((8, 2), np.nan), "in the points 0, 1, 2, 3, 4 and 3 more"),
    ],
)
def test_bad_tables_and_arrays(tmp_path, content, message):
    text = isinstance(content, str)
    path = write(tmp_path / "a.csv", content) if text else saved(tmp_path / "a.npy", content)
    refused(message, path)


def test_missing_path_unknown_ending_and_misplaced_options(tmp_path):
    refused(r"none\.npy does not exist", tmp_path / "none.npy", error=FileNotFoundError)
    for name in ("a.xlsx", "a.pkl", "a"):
        refused("not read: choose a .npy, .npz, .csv, .parquet file or a folder", write(tmp_path / name, "x"))
    refused("give the folder that holds the images", write(tmp_path / "a.png", "x"))
    refused("key names an array", saved(tmp_path / "a.npy", POINTS), key="x")
    refused("columns chooses from", tmp_path / "a.npy", columns=["x"])


@pytest.mark.parametrize(("name", "library"), [("a.csv", "pandas"), ("a.parquet", "pyarrow"), ("images", "PIL")])
def test_a_missing_library_is_named(tmp_path, monkeypatch, name, library):
    path = folder_of(tmp_path / name, a=grey(2, 2)) if name == "images" else write(tmp_path / name, "x\n1\n2\n")
    monkeypatch.setitem(sys.modules, library, None)
    package = library.replace("PIL", "pillow")
    refused(rf"needs the package {package}: pip install 'nrae-lib\[methods\]'", path, error=ImportError)


def test_labels_come_from_every_place(tmp_path):
    classes, frame = list("ab") * 12, pd.DataFrame(CODES, columns=list("wxyz"))
    for ending, first, found in (("csv", "a", "a"), ("parquet", None, "missing")):
        path = saved(tmp_path / f"table.{ending}", frame.assign(kind=[first, *classes[1:]]))
        points, names, labels = read_points(path, labels="kind")
        np.testing.assert_allclose(points, CODES, rtol=1e-6)
        assert labels.tolist() == [found, *classes[1:]] and names == ("w", "x", "y", "z")
        assert read_points(path, columns=["w", "x"], labels="x").points.shape == (24, 2)

    np.savez(tmp_path / "a.npz", X=CODES, y=np.arange(24))
    assert read_points(tmp_path / "a.npz", key="X", labels="y").labels.tolist() == list(range(24))
    data, column = saved(tmp_path / "points.npy", CODES), saved(tmp_path / "y.npy", np.arange(24)[:, None])
    assert read_points(data, labels=str(column)).labels.shape == (24,)
    lines = "\n".join(classes)
    texts = dict.fromkeys((f"kind\n{lines}", lines, f"{lines}\n\n"), classes)
    # A blank line shifts nothing.
    texts["kind\n" + "1\n" * 5 + "\n" + "2.5\n" * 18] = [1.0] * 5 + [np.nan] + [2.5] * 18
    texts["kind\n" + "a\n" * 5 + "\n" + "b\n" * 18] = ["a"] * 5 + ["missing"] + ["b"] * 18
    for text, expected in texts.items():
        found = read_points(data, labels=str(write(tmp_path / "labels.csv", text))).labels
        np.testing.assert_array_equal(found, np.array(expected, dtype=found.dtype))


def test_labels_that_cannot_be_used_are_one_sentence(tmp_path):
    data = saved(tmp_path / "points.npy", CODES)
    two, few = write(tmp_path / "two.csv", "1,2\n" * 24), saved(tmp_path / "y.npy", np.arange(5))
    refused(r"neither a column or an array of .* nor a .npy or .csv file", data, labels="kind")
    refused(r"shape \(5,\), but there are 24 points", data, labels=str(few))
    refused("more than one column", data, labels=str(two))
    refused("is damaged or no .csv file", data, labels=str(write(tmp_path / "bad.csv", b"\xff\xfe")))


def test_codes_are_written_for_every_ending_and_replace_only_codes(tmp_path):
    frame = files.codes_frame({"ae": CODES[:, :2], "nrae_q+mmd": CODES[:, 2:]}, [f"{place}.png" for place in range(24)])
    assert list(frame) == ["row", "file", "ae_z1", "ae_z2", "nrae_q+mmd_z1", "nrae_q+mmd_z2"]
    for ending in (".csv", ".parquet", ".npy"):
        path = tmp_path / f"codes{ending}"
        for _ in range(2):  # a new file, and one of earlier codes
            files.check_codes_path(path, [], (24, 4))
            files.write_codes(path, frame)
        table = np.load(path) if ending == ".npy" else files.read_table(path).iloc[:, 2:].to_numpy(np.float32)
        assert table.dtype == np.float32 and np.array_equal(table, CODES)
        with pytest.raises(ValueError, match="does not hold earlier codes"):
            files.check_codes_path(path, [path], (24, 4))
    assert not list(tmp_path.rglob(".*")), "nothing half-written is left"
    table, notes = write(tmp_path / "table.csv", "a,b\n1,2\n"), write(tmp_path / "notes.parquet", "no table")
    for path in (saved(tmp_path / "points.npy", CODES), table, notes):
        with pytest.raises(ValueError, match="exists and does not hold earlier codes"):
            files.check_codes_path(path, [], (24, 2))
    with pytest.raises(ValueError, match=r"ending '.txt': choose one of .csv, .npy, .parquet"):
        files.check_codes_path("codes.txt", [], (24, 2))
    with pytest.raises(ValueError, match="does not exist"):
        files.check_codes_path(tmp_path / "nowhere" / "codes.csv", [], (24, 2))

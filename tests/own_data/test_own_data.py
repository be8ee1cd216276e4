import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nrae_lib.own_data.files import read_points

POINTS = np.arange(12.0).reshape(4, 3) - 5.25


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def folder_of(path: Path, **images: Image.Image) -> Path:
    path.mkdir()
    for name, image in images.items():
        image.save(path / f"{name}.png")
    return path


def grey(*shape: int) -> Image.Image:
    return Image.fromarray(np.arange(np.prod(shape), dtype=np.uint8).reshape(shape))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble", "int8", "uint64", ">f8", ">i4"])
def test_npy_of_any_real_type_becomes_float32(tmp_path, dtype):
    array = np.asfortranarray(np.abs(POINTS).astype(dtype))
    points, names = read_points(saved(tmp_path / "a.npy", array))
    np.testing.assert_array_equal(points, array.astype(np.float32))
    assert points.dtype == np.float32 and points.flags.c_contiguous and points.flags.writeable
    assert names == ()


def test_huge_whole_numbers_are_read(tmp_path):
    array = np.array([[2**63, 2**64 - 1], [0, 1]], dtype=np.uint64)
    assert read_points(saved(tmp_path / "a.npy", array)).points[0].tolist() == [2.0**63, 2.0**64]
    table = write(tmp_path / "a.csv", f"x,y\n{10**30},1\n2,3\n")
    assert read_points(table).points[0, 0] == np.float32(1e30)


def test_the_file_stays_free_to_change_after_reading(tmp_path):
    path = saved(tmp_path / "a.npy", POINTS.astype(np.float32))
    points = read_points(path).points
    points += 1
    np.testing.assert_array_equal(np.load(path), POINTS.astype(np.float32))


def test_images_as_arrays_keep_their_shape(tmp_path):
    images = np.random.default_rng(0).random((5, 3, 4, 6))
    assert read_points(saved(tmp_path / "a.NPY.npy", images)).points.shape == (5, 3, 4, 6)


def test_npz_takes_its_only_array_or_the_named_one(tmp_path):
    np.savez_compressed(tmp_path / "one.npz", whatever=POINTS)
    np.testing.assert_array_equal(read_points(tmp_path / "one.npz").points, POINTS)
    np.savez(tmp_path / "two.npz", x=POINTS, labels=np.array(["a", "b"]))
    np.testing.assert_array_equal(read_points(str(tmp_path / "two.npz"), key="x").points, POINTS)
    with pytest.raises(ValueError, match="several arrays: choose the points by key, one of x, labels"):
        read_points(tmp_path / "two.npz")
    with pytest.raises(ValueError, match="no array 'y': choose one of x, labels"):
        read_points(tmp_path / "two.npz", key="y")
    with pytest.raises(ValueError, match="holds values of type <U1"):
        read_points(tmp_path / "two.npz", key="labels")


@pytest.mark.parametrize(
    ("text", "names", "first"),
    [
        ("x,y\n1,2\n3,4\n", ("x", "y"), [1, 2]),
        ("\ufeffx;y\n1.5;2\n3;4\n", ("x", "y"), [1.5, 2]),
        ("x\ty\r\n1\t2\r\n3\t4\r\n", ("x", "y"), [1, 2]),
        ("1,2\n3,4\n", ("0", "1"), [1, 2]),
        ('"1","2"\n"3","4"\n', ("0", "1"), [1, 2]),
        ("\ufeff1,2\n3,4\n", ("0", "1"), [1, 2]),
        ("0,1\n5,6\n7,8\n", ("0", "1"), [5, 6]),  # the header that pandas writes for columns without names
        ("0.0,1.0\n5,6\n", ("0", "1"), [0, 1]),
        ("1e-3\n-2\n", ("0",), [1e-3]),
        ("height\n1\n2", ("height",), [1]),
        ("\n\nx,y\n1,2\n\n3,4\n", ("x", "y"), [1, 2]),
    ],
)
def test_csv_with_and_without_a_header(tmp_path, text, names, first):
    points, found = read_points(write(tmp_path / "a.csv", text))
    assert found == names
    np.testing.assert_array_equal(points[0], np.float32(first))
    assert len(points) == 2


def test_numpy_and_pandas_files_come_back(tmp_path):
    np.savetxt(tmp_path / "numpy.csv", POINTS, delimiter=",")
    np.testing.assert_array_equal(read_points(tmp_path / "numpy.csv").points, POINTS)
    frame = pd.DataFrame(POINTS)
    frame.to_csv(tmp_path / "pandas.csv", index=False)
    np.testing.assert_array_equal(read_points(tmp_path / "pandas.csv").points, POINTS)
    frame.to_csv(tmp_path / "index.csv")
    with pytest.raises(ValueError, match="column without a name"):
        read_points(tmp_path / "index.csv")
    np.testing.assert_array_equal(read_points(tmp_path / "index.csv", columns=["0", "1", "2"]).points, POINTS)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_columns_are_chosen_in_order(tmp_path, ending):
    frame = pd.DataFrame({"x": [1, 2], "kind": ["cat", "dog"], "y": [0.5, 0.25], "seen": [True, False]})
    path = tmp_path / f"a.{ending}"
    frame.to_csv(path, index=False) if ending == "csv" else frame.to_parquet(path)
    points, names = read_points(path, columns=["y", "x"])
    assert names == ("y", "x")
    assert points.tolist() == [[0.5, 1], [0.25, 2]]
    with pytest.raises(ValueError, match=r"not numbers: 'kind', 'seen' \(first value 'cat'\).*choose the columns"):
        read_points(path)
    with pytest.raises(ValueError, match="no column 'z': choose among x, kind, y, seen"):
        read_points(path, columns=["x", "z"])
    with pytest.raises(ValueError, match="no column chosen"):
        read_points(path, columns=[])


def test_parquet_types(tmp_path):
    frame = pd.DataFrame({"a": pd.array([1, 2, 3], dtype="Int64"), "b": np.float32([1, 2, 3])}, index=["p", "q", "r"])
    frame.to_parquet(tmp_path / "a.parquet")
    points, names = read_points(tmp_path / "a.parquet")
    assert names == ("a", "b") and points.tolist() == [[1, 1], [2, 2], [3, 3]]
    frame.loc["q", "a"] = pd.NA
    frame.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"missing values.* in the points 1 \("):
        read_points(tmp_path / "a.parquet")


def test_folder_of_images_grey_and_colour(tmp_path):
    folder = folder_of(tmp_path / "grey", b=grey(4, 6), a=Image.new("L", (6, 4), 255))
    write(folder / "notes.txt", "not an image")
    write(folder / ".hidden.png", "not an image")
    (folder / "more").mkdir()
    points, names = read_points(folder)
    assert names == ("a.png", "b.png")
    assert points.shape == (2, 1, 4, 6) and points.dtype == np.float32
    assert (points[0] == 1).all()
    np.testing.assert_array_equal(points[1, 0], np.arange(24, dtype=np.float32).reshape(4, 6) / 255)

    red = Image.new("RGB", (6, 4), (255, 0, 51))
    points = read_points(folder_of(tmp_path / "colour", a=red, b=red)).points
    assert points.shape == (2, 3, 4, 6)
    np.testing.assert_allclose(points[0, :, 0, 0], [1, 0, 0.2])


def test_deep_and_black_and_white_images(tmp_path):
    deep = Image.fromarray(np.array([[0, 65535]], dtype=np.uint16))
    assert read_points(folder_of(tmp_path / "deep", a=deep, b=deep)).points[0].tolist() == [[[0, 1]]]
    bits = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
    assert read_points(folder_of(tmp_path / "bits", a=bits, b=bits)).points[0].tolist() == [[[0, 1]]]


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    folder = folder_of(tmp_path / "photos", a=grey(4, 6))
    grey(6, 4).save(folder / "b.png", exif=exif)
    assert read_points(folder).points.shape == (2, 1, 4, 6)


BROKEN_PNG = struct.pack(">I", 5).join([b"\x89PNG\r\n\x1a\n", b"IHDRxx"])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (grey(5, 6), "differs from a.png .6 x 4 pixels, mode L.: all images must be alike"),
        (Image.new("RGB", (6, 4)), "mode RGB. differs from a.png"),
        (Image.new("RGBA", (6, 4)), "has the mode RGBA: save it as a grey"),
        (Image.new("P", (6, 4)), "has the mode P"),
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
    with pytest.raises(ValueError, match=f"b.png.*{message}"):
        read_points(folder)


def test_animation_and_folder_without_images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"holds no images: the endings .png, .jpg"):
        read_points(folder)
    grey(4, 6).save(folder / "a.tif", save_all=True, append_images=[grey(4, 6)])
    with pytest.raises(ValueError, match=r"a\.tif holds 2 images"):
        read_points(folder)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a file was unpickled",))


def test_nothing_is_unpickled(tmp_path):
    objects = np.array([[Bomb()], [Bomb()]], dtype=object)
    np.save(tmp_path / "a.npy", objects)
    np.savez(tmp_path / "a.npz", x=objects)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ValueError, match="Python objects, which are not read because that could run code"):
            read_points(tmp_path / name)
    kinds = {"b.npy": "magic string", "b.npz": "it is no zip archive", "b.csv": "codec", "b.parquet": "[Pp]arquet"}
    for name, cause in kinds.items():
        with pytest.raises(ValueError, match=rf"is damaged or no .*{cause}"):
            read_points(write(tmp_path / name, pickle.dumps([Bomb()])))


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.csv", "a.parquet"])
def test_empty_truncated_and_foreign_files(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(ValueError, match="is empty"):
        read_points(write(path, b""))
    with pytest.raises(ValueError, match=r"is damaged or no|not numbers"):
        read_points(write(path, bytes(range(128, 256)) * 4))
    frame = pd.DataFrame(np.random.default_rng(0).random((50, 3)), columns=list("abc"))
    {
        ".npy": lambda: np.save(path, frame.to_numpy()),
        ".npz": lambda: np.savez_compressed(path, frame.to_numpy()),
        ".csv": lambda: frame.to_csv(path, index=False),
        ".parquet": lambda: frame.to_parquet(path),
    }[path.suffix]()
    content = path.read_bytes()
    assert read_points(path).points.shape == (50, 3)
    if name == "a.csv":  # a text cut in the middle of a line
        with pytest.raises(ValueError, match="in the points 49"):
            read_points(write(path, content.rsplit(b",", 1)[0]))
        return
    for length in (3, 40, len(content) // 2, len(content) - 1):
        with pytest.raises(ValueError, match="is damaged or no"):
            read_points(write(path, content[:length]))


def test_flipped_byte_of_npz_is_found(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", np.random.default_rng(0).random((50, 3)))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[len(content) // 2] ^= 1
    with pytest.raises(ValueError, match="is damaged or no"):
        read_points(write(tmp_path / "a.npz", bytes(content)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,2,3\n4,5,6\n", "damaged or no table of equally long rows"),
        ("x,y\n1,2\n4,5,6\n", "damaged or no table of equally long rows"),
        ("x,y\n1,2\n4\n", r"in the points 1 \("),
        ("x,y\n", "is empty: it has no rows"),
        ("x,y\n1,two\n3,4\n", "not numbers: 'y'"),
        ("x,y\n1,2+3j\n3,4\n", "not numbers: 'y'"),
        ("1,,3\n4,5,6\n", r"in the points 0 \("),
        ("x\n1e400\n2\n", r"in the points 0 \("),
        ("x\n1e39\n2\n", "too large for float32"),
        ("\n\n", "damaged or no table|is empty"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_points(write(tmp_path / "a.csv", text))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(3.0), r"has the shape \(\): one point per row"),
        (np.arange(5.0), r"has the shape \(5,\): one point per row"),
        (np.zeros((0, 3)), "holds 0 points: at least 2"),
        (np.zeros((1, 3)), "holds 1 points: at least 2"),
        (np.zeros((3, 0)), "no features"),
        (np.zeros((3, 2), bool), "type bool, not real numbers"),
        (np.zeros((3, 2), complex), "type complex128, not real numbers"),
        (np.array([["a", "b"]] * 2), "type <U1, not real numbers"),
        (np.zeros((3, 2), "datetime64[s]"), "type datetime64"),
        (np.zeros((3, 2), [("x", float)]), "not real numbers"),
        (np.array([[0, 1], [np.nan, 1], [1, -np.inf]]), r"in the points 1, 2 \("),
        (np.full((8, 2), np.nan), "in the points 0, 1, 2, 3, 4 and 3 more"),
    ],
)
def test_bad_arrays(tmp_path, array, message):
    with pytest.raises(ValueError, match=message):
        read_points(saved(tmp_path / "a.npy", array))


def test_min_points(tmp_path):
    path = saved(tmp_path / "a.npy", POINTS)
    assert len(read_points(path, min_points=4).points) == 4
    with pytest.raises(ValueError, match="holds 4 points: at least 5 are needed"):
        read_points(path, min_points=5)


def test_missing_path_unknown_ending_and_misplaced_options(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npy does not exist"):
        read_points(tmp_path / "none.npy")
    for name in ("a.xlsx", "a.pkl", "a"):
        with pytest.raises(
            ValueError, match=r"which is not read: choose a .npy, .npz, .csv, .parquet file or a folder"
        ):
            read_points(write(tmp_path / name, "x"))
    with pytest.raises(ValueError, match="give the folder that holds the images"):
        read_points(write(tmp_path / "a.png", "x"))
    path = saved(tmp_path / "a.npy", POINTS)
    with pytest.raises(ValueError, match="key names an array"):
        read_points(path, key="x")
    with pytest.raises(ValueError, match="columns chooses from"):
        read_points(path, columns=["x"])


@pytest.mark.parametrize(("name", "library"), [("a.csv", "pandas"), ("a.parquet", "pyarrow"), ("images", "PIL")])
def test_a_missing_library_is_named(tmp_path, monkeypatch, name, library):
    path = tmp_path / name
    if name == "images":
        folder_of(path, a=grey(2, 2))
    else:
        write(path, "x\n1\n2\n")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        ImportError, match=r"needs the package (pandas|pyarrow|pillow): pip install 'nrae-lib\[methods\]'"
    ):
        read_points(path)


def test_points_far_from_the_origin_keep_their_digits(tmp_path):
    """Coordinates in metres: float32 has steps of half a metre there."""
    far = np.random.default_rng(0).normal(size=(50, 2)) * 0.5 + (4.5e5, 5.4e6)
    points, _ = read_points(saved(tmp_path / "a.npy", far))
    np.testing.assert_array_equal(points, far)
    assert read_points(saved(tmp_path / "b.npy", far - far.mean(0)))[0].dtype == np.float32


def test_missing_numbers_in_the_first_row_are_no_header(tmp_path):
    with pytest.raises(ValueError, match=r"missing values.* in the points 0 "):
        read_points(write(tmp_path / "a.csv", "NA,1\n2,3\n4,5\n"))


def test_decimal_commas_are_named(tmp_path):
    with pytest.raises(ValueError, match="write numbers with a decimal point"):
        read_points(write(tmp_path / "a.csv", "1,5;2,5\n3,5;4,5\n5,5;6,5\n"))

"""One's own points from a file or a folder of images; every bad file gives one sentence.

Nothing is ever unpickled, so a file from elsewhere cannot run code.
"""

import csv
import importlib
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

ENDINGS = (".npy", ".npz", ".csv", ".parquet")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
_WHITE = {"1": 1, "L": 255, "I;16": 65535, "RGB": 255}  # value of white in each accepted mode


class OwnPoints(NamedTuple):
    """What :func:`read_points` gives; unpacks as ``points, names``."""

    points: np.ndarray
    names: tuple[str, ...]


def read_points(
    path: str | Path, key: str | None = None, columns: Sequence[str] | None = None, min_points: int = 2
) -> OwnPoints:
    """Points to train on, one per row (or per image), and their names.

    In float32, or in float64 if float32 would round away more than a thousandth of a feature's standard deviation, as it
    does for coordinates far from the origin.

    - ``.npy``: an array of shape (N, ...), at least two-dimensional.
    - ``.npz``: its only array, or the array ``key``.
    - ``.csv`` (separated by comma, semicolon or tab) and ``.parquet``: one point per row, every column a number. The
      first line of a .csv is a header unless all its entries are numbers other than 0, 1, 2, ... (the names that pandas
      gives); columns without a header are named 0, 1, 2, ...
    - a folder: all its images, ordered by file name; other files and subfolders are left out. Grey images give (N, 1,
      H, W), colour images (N, 3, H, W), both from 0 (black) to 1 (white). Photographs are turned upright as their EXIF
      tag says.

    Whole numbers and any floating point are accepted; values keep their units, nothing is scaled except images.

    Arguments:
        key: the array of an .npz file that holds the points.
        columns: the columns of a table to use, in this order; None: all.
        min_points: the fewest points accepted.

    Returns:
        points: (N, ...), finite.
        names: of the columns of a table, or of the files of a folder of images; empty for .npy and .npz.

    Raises:
        FileNotFoundError: if there is nothing at ``path``.
        ImportError: if the library that reads this kind of file is missing.
        ValueError: for an unknown ending, a damaged or empty file, values that are not real numbers, NaN or infinity,
            too few points, or images that differ in size or mode; the sentence names the file and the cause.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "line.csv"
        >>> _ = path.write_text("x,y\\n0,1\\n2,3\\n")
        >>> points, names = read_points(path)
        >>> points.tolist(), names
        ([[0.0, 1.0], [2.0, 3.0]], ('x', 'y'))
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    ending = path.suffix.lower()
    if not path.is_dir() and ending not in ENDINGS:
        hint = ": give the folder that holds the images" if ending in IMAGE_ENDINGS else ""
        choices = f"choose a {', '.join(ENDINGS)} file or a folder of images"
        raise ValueError(f"{path} has the ending {ending!r}, which is not read{hint or f': {choices}'}")
    if key is not None and (path.is_dir() or ending != ".npz"):
        raise ValueError(f"key names an array of an .npz file, but {path} is none")
    if columns is not None and (path.is_dir() or ending not in (".csv", ".parquet")):
        raise ValueError(f"columns chooses from a .csv or .parquet table, but {path} is none")

    if path.is_dir():
        array, names = _images(path)
    elif path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    elif ending in (".npy", ".npz"):
        array, names = _npy(path) if ending == ".npy" else _npz(path, key), ()
    else:
        array, names = _table(path, read_table(path), columns)
    return OwnPoints(_checked(path, array, min_points), names)


def library(name: str, package: str, purpose: str) -> ModuleType:
    """A module of the extra ``methods``, or one sentence that names it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs the package {package}: pip install 'nrae-lib[methods]'", name=package
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _unreadable(path: Path, kind: str, error: Exception) -> ValueError:
    if str(error).startswith(("Object arrays", "Array can't be memory-mapped: Python objects")):  # numpy's words
        return ValueError(f"{path} holds Python objects, which are not read because that could run code: save numbers")
    return ValueError(f"{path} is damaged or no {kind} ({_one_line(error)})")


def _npy(path: Path) -> np.ndarray:
    try:  # mapped: only the float32 copy is ever in memory
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # whatever numpy makes of a file that is not its own
        raise _unreadable(path, ".npy file", error) from error


def _npz(path: Path, key: str | None) -> np.ndarray:
    try:
        if not zipfile.is_zipfile(path):  # numpy takes any other file for a pickle
            raise zipfile.BadZipFile("it is no zip archive")
        file = np.load(path, allow_pickle=False)
        names = file.files
    except Exception as error:
        raise _unreadable(path, ".npz file", error) from error
    with file:
        if not names:
            raise ValueError(f"{path} holds no array")
        if key is None and len(names) > 1:
            raise ValueError(f"{path} holds several arrays: choose the points by key, one of {', '.join(names)}")
        if key is not None and key not in names:
            raise ValueError(f"{path} holds no array {key!r}: choose one of {', '.join(names)}")
        try:
            return file[key if key is not None else names[0]]
        except Exception as error:
            raise _unreadable(path, ".npz file", error) from error


_MISSING = {"", "NA", "N/A", "n/a", "NULL", "null", "None", "-"}  # what tables write where a number is missing


def _is_number(text: str) -> bool:
    try:
        float("nan" if text.strip() in _MISSING else text)
    except ValueError:
        return False
    return True


def _is_header(fields: list[str]) -> bool:
    counted = [str(place) for place in range(len(fields))]  # what pandas writes for columns without names
    return not all(map(_is_number, fields)) or (len(fields) > 1 and fields in (counted, ["", *counted[:-1]]))


def _csv(path: Path):
    pandas = library("pandas", "pandas", f"reading {path}")
    try:
        with open(path, encoding="utf-8-sig") as file:
            first = next((line for line in file if line.strip()), "")
        separator = max(",;\t", key=first.count)  # the comma when there is none: a single column
        header = 0 if _is_header(next(csv.reader([first], delimiter=separator))) else None
        with warnings.catch_warnings():  # rows longer than the header would be cut with no more than a warning
            warnings.simplefilter("error", pandas.errors.ParserWarning)
            return pandas.read_csv(path, sep=separator, header=header, index_col=False, encoding="utf-8-sig")
    except Exception as error:
        raise _unreadable(path, "table of equally long rows", error) from error


def _parquet(path: Path):
    pandas = library("pandas", "pandas", f"reading {path}")
    library("pyarrow", "pyarrow", f"reading {path}")
    try:
        return pandas.read_parquet(path, engine="pyarrow")
    except Exception as error:
        raise _unreadable(path, ".parquet file", error) from error


def _table(path: Path, frame, columns: Sequence[str] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """The numbers of a table and the names of their columns."""
    frame.columns = [str(name) for name in frame.columns]
    if columns is None:
        # What pandas calls a column without a header, most often row numbers that were saved by mistake.
        unnamed = [name for name in frame.columns if name.startswith("Unnamed: ")]
        if unnamed:
            raise ValueError(
                f"{path} has a column without a name (row numbers?): name it, or choose the columns to use"
            )
    else:
        columns = [columns] if isinstance(columns, str) else [str(name) for name in columns]
        missing = [name for name in columns if name not in frame.columns]
        if missing or not columns:
            raise ValueError(
                f"{path} has no column {', '.join(map(repr, missing)) or 'chosen'}: choose among "
                f"{', '.join(map(str, frame.columns))}"
            )
        frame = frame[columns]
    if len(frame) == 0:
        raise ValueError(f"{path} is empty: it has no rows")
    bad = []
    for name, values in frame.items():
        whole = values.dtype == object and all(type(value) is int for value in values)  # beyond 64 bits
        if not whole and getattr(values.dtype, "kind", "O") not in "iuf":
            bad.append(name)
    if bad:
        example = frame.iloc[0, list(frame.columns).index(bad[0])]
        remedy = "remove them, or choose the columns to use"
        if ";" in f"{bad[0]}{example}":
            remedy = "both ; and , separate here: write numbers with a decimal point"
        raise ValueError(
            f"{path} has columns that are not numbers: {', '.join(map(repr, bad))} (first value {example!r}); {remedy}"
        )
    return frame.to_numpy(np.float64, na_value=np.nan), tuple(frame.columns)


def _images(folder: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    paths = sorted(
        path for path in folder.iterdir()
        if path.is_file() and path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith(".")
    )  # fmt: skip
    if not paths:
        raise ValueError(f"the folder {folder} holds no images: the endings {', '.join(IMAGE_ENDINGS)} are read")
    library("PIL", "pillow", f"reading {folder}")
    images, first_kind = None, None
    for place, path in enumerate(paths):
        pixels, mode = _image(path)
        kind = f"{pixels.shape[2]} x {pixels.shape[1]} pixels, mode {mode}"
        if images is None:
            images, first_kind = np.empty((len(paths), *pixels.shape), np.float32), kind
        elif kind != first_kind:
            raise ValueError(f"{path} ({kind}) differs from {paths[0].name} ({first_kind}): all images must be alike")
        images[place] = pixels
    return images, tuple(path.name for path in paths)


def _image(path: Path) -> tuple[np.ndarray, str]:
    """The image (C, H, W) from 0 to 1, and its mode."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            frames = getattr(file, "n_frames", 1)
            mode = file.mode
            array = np.asarray(ImageOps.exif_transpose(file))
    except Exception as error:  # Pillow raises many kinds
        raise _unreadable(path, "image", error) from error
    if frames > 1:
        raise ValueError(f"{path} holds {frames} images: save each to a file of its own")
    if mode not in _WHITE:
        raise ValueError(f"{path} has the mode {mode}: save it as a grey (L) or colour (RGB) image")
    pixels = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return pixels.astype(np.float32) / _WHITE[mode], mode


def _checked(path: Path, array: np.ndarray, min_points: int) -> np.ndarray:
    """``array`` checked and converted."""
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{path} holds values of type {array.dtype}, not real numbers: convert them first")
    if array.ndim < 2:
        raise ValueError(f"{path} has the shape {array.shape}: one point per row is needed, shape (points, features)")
    if len(array) < min_points:
        raise ValueError(f"{path} holds {len(array)} points: at least {min_points} are needed")
    if array.size == 0:
        raise ValueError(f"{path} has the shape {array.shape}: its points have no features")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite and is named below
        points = np.array(array, dtype=np.float32, order="C")
    finite = np.isfinite(points).reshape(len(points), -1).all(1)
    if not finite.all():
        rows = np.flatnonzero(~finite)
        shown = ", ".join(map(str, rows[:5])) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
        raise ValueError(
            f"{path} holds NaN, infinite or missing values, or values too large for float32, in the points {shown} "
            f"(counted from 0): remove or replace them"
        )
    # Far from the origin (coordinates in metres, time stamps) float32 would round neighbours together.
    reach, spread = np.abs(points).max(0), np.asarray(array).std(0, dtype=np.float64)
    lost = np.finfo(np.float32).eps * reach > 1e-3 * spread
    return np.array(array, np.float64, order="C") if (lost & (spread > 0)).any() else points


def read_table(path: Path):
    """The DataFrame of a .csv or .parquet file; None for other endings.

    Raises:
        ImportError, ValueError: see :func:`read_points`.
    """
    reader = {".csv": _csv, ".parquet": _parquet}.get(path.suffix.lower())
    return reader and reader(path)


class Loaded(NamedTuple):
    """Points, and the values that colour them.

    Arguments:
        points: (N, ...) float32, or float64 where needed (:func:`nrae_lib.own_data.files.read_points`).
        names: of the columns, or of the files of a folder of images; may be empty.
        labels: (N,) numbers or texts, or None.
    """

    points: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray | None


def load(path: str | Path, key: str = "", columns: Sequence[str] = (), labels: str = "", min_points: int = 2) -> Loaded:
    """Points from a file, as :func:`nrae_lib.own_data.files.read_points` reads them, and the labels that colour them.

    Arguments:
        key, columns, min_points: as for ``read_points``; empty for none.
        labels: a column of the table ``path`` (then it is no feature, unless ``columns`` names it), an array of the .npz
            file ``path``, or a .npy or .csv file with one label per point; "" for none. A .csv file may have a header.

    Raises:
        FileNotFoundError: as ``read_points``.
        ImportError: as ``read_points``.
        ValueError: as ``read_points``, and for labels that do not exist, are not one per point or cannot be read.
    """
    path, columns = Path(path), list(columns) or None
    ending, found = path.suffix.lower(), None
    if labels and path.is_file() and ending in (".csv", ".parquet") and path.stat().st_size:
        frame = read_table(path)
        frame.columns = names = [str(name) for name in frame.columns]
        if labels in names:
            found = frame[labels].to_numpy()
            if columns is None and not any(name.startswith("Unnamed: ") for name in names):  # else it says so itself
                columns = [name for name in names if name != labels]
    elif labels and key and path.is_file() and ending == ".npz":
        try:
            found = _npz(path, labels)
        except ValueError:
            if not Path(labels).exists():
                raise
    points, names = read_points(path, key or None, columns, min_points)
    if labels and found is None:
        found = _labels_file(Path(labels), path, len(points))
    return Loaded(points, names, None if found is None else _checked_labels(labels, found, len(points)))


def _labels_file(file: Path, data: Path, count: int) -> np.ndarray:
    if not file.is_file() or file.suffix.lower() not in (".npy", ".csv"):
        raise ValueError(f"labels {str(file)!r} is neither a column or an array of {data} nor a .npy or .csv file")
    if file.suffix.lower() == ".npy":
        return np.array(_npy(file))
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            rows = [row or [""] for row in csv.reader(lines)]  # a blank line is a point without a label
        while len(rows) > count and rows[-1] == [""]:  # the end of the file may be followed by blank lines
            rows.pop()
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"labels {file} is damaged or no .csv file ({error})") from error
    if any(len(row) > 1 for row in rows):
        raise ValueError(f"labels {file} has more than one column: give a file with one label per line")
    values = [row[0].strip() for row in rows[len(rows) == count + 1 :]]  # one line more than points: a header
    try:
        return np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        return np.array(values, dtype=object)


def _checked_labels(name: str, labels: np.ndarray, count: int) -> np.ndarray:
    if labels.ndim == 2 and 1 in labels.shape:
        labels = labels.reshape(-1)
    if labels.shape != (count,):
        raise ValueError(
            f"labels {name!r} has the shape {labels.shape}, but there are {count} points: give one for each"
        )
    if labels.dtype.kind in "iuf":
        return labels
    missing = [value is None or value == "" or value != value for value in labels.tolist()]  # NaN differs from itself
    texts = ["missing" if gone else str(value) for value, gone in zip(labels.tolist(), missing, strict=True)]
    return np.array(texts, dtype=object)

"""One's own points from a file or a folder of images, and the file of their codes; every bad file gives one sentence.

Nothing is ever unpickled, so a file from elsewhere cannot run code.
"""

import csv
import io
import warnings
import zipfile
from collections import namedtuple
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nrae_lib.core.extras import library
from nrae_lib.core.files import write_atomically

ENDINGS = (".npy", ".npz", ".csv", ".parquet")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
_WHITE = {"1": 1, "L": 255, "I;16": 65535, "RGB": 255}  # value of white in each accepted mode


# Points (N, ...), finite; names of columns or image files, () for .npy and .npz; labels (N,), or None.
Points = namedtuple("Points", "points names labels")


def read_points(path: str | Path, key: str | None = None, columns: Sequence[str] | None = None, labels="") -> Points:
    """Points to train on, one per row (or per image), their names, and labels that colour them.

    In float32, or in float64 if float32 would round away more than a thousandth of a feature's standard deviation, as it
    does for coordinates far from the origin. Values keep their units, nothing is scaled except images.

    - ``.npy``: an array of shape (N, ...), at least two-dimensional.
    - ``.npz``: its only array, or the array ``key``.
    - ``.csv`` (separated by comma, semicolon or tab) and ``.parquet``: one point per row, every column a number. The
      first line of a .csv is a header unless all its entries are numbers other than 0, 1, 2, ... (the names that pandas
      gives); columns without a header are named 0, 1, 2, ...
    - a folder: all its images, ordered by file name; other files and subfolders are left out. Grey images give (N, 1,
      H, W), colour images (N, 3, H, W), from 0 (black) to 1 (white), turned upright as their EXIF tag says.

    Arguments:
        key: the array of an .npz file that holds the points.
        columns: the columns of a table to use, in this order; None: all but ``labels``.
        labels: a column of the table, an array of the .npz file, or a .npy or .csv file, one per point; "" for none.

    FileNotFoundError, ImportError if there is nothing at ``path``, or no library that reads it; ValueError for an
    unknown ending, a damaged or empty file, values that are not real numbers, NaN or infinity, less than two points,
    images that differ in size or mode, labels that are not there or not one per point.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    folder, ending = path.is_dir(), path.suffix.lower()
    if not folder and ending not in ENDINGS:
        hint = f"choose a {', '.join(ENDINGS)} file or a folder of images"
        hint = "give the folder that holds the images" if ending in IMAGE_ENDINGS else hint
        raise ValueError(f"{path} has the ending {ending!r}, which is not read: {hint}")
    if key is not None and (folder or ending != ".npz"):
        raise ValueError(f"key names an array of an .npz file, but {path} is none")
    if columns is not None and (folder or ending not in (".csv", ".parquet")):
        raise ValueError(f"columns chooses from a .csv or .parquet table, but {path} is none")
    if not folder and path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    names, found = (), None
    if folder:
        array, names = _images(path)
    elif ending == ".npy":
        array = _npy(path)
    elif ending == ".npz":
        array, found = _npz(path, key, labels)
    else:
        array, names, found = _columns(path, columns, labels)
    points = _checked(path, array)
    return Points(points, tuple(names), _labels(labels, found, path, len(points)) if labels else None)


def _unreadable(path: Path, kind: str, error: Exception) -> ValueError:
    if str(error).startswith(("Object arrays", "Array can't be memory-mapped: Python objects")):  # numpy's words
        return ValueError(f"{path} holds Python objects, which are not read because that could run code: save numbers")
    return ValueError(f"{path} is damaged or no {kind} ({' '.join(str(error).split()) or type(error).__name__})")


def _npy(path: Path) -> np.ndarray:
    try:  # mapped: only the float32 copy is ever in memory
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # whatever numpy makes of a file that is not its own
        raise _unreadable(path, ".npy file", error) from error


def _npz(path: Path, key: str | None, labels: str) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        if not zipfile.is_zipfile(path):  # numpy takes any other file for a pickle
            raise zipfile.BadZipFile("it is no zip archive")
        with np.load(path, allow_pickle=False) as file:
            names = file.files
            key = names[0] if key is None and len(names) == 1 else key
            arrays = {name: file[name] for name in (key, labels) if name in names}
    except Exception as error:
        raise _unreadable(path, ".npz file", error) from error
    if key not in names:
        wrong = f"no array {key!r}: choose" if key or not names else "several arrays: choose the points by key,"
        raise ValueError(f"{path} holds {wrong} one of {', '.join(names)}")
    return arrays[key], arrays.get(labels)


def read_table(path: Path):
    """The DataFrame of a .csv or .parquet file, the names of its columns as texts; errors as of :func:`read_points`."""
    pandas, parquet = library("pandas", "pandas", f"reading {path} needs", "methods"), path.suffix.lower() == ".parquet"
    if parquet:
        library("pyarrow", "pyarrow", f"reading {path} needs", "methods")
    try:
        frame = pandas.read_parquet(path) if parquet else _csv(path, pandas)
    except Exception as error:
        raise _unreadable(path, ".parquet file" if parquet else "table of equally long rows", error) from error
    return frame.set_axis([str(name) for name in frame.columns], axis=1)


def _csv(path: Path, pandas):
    with open(path, encoding="utf-8-sig") as file:
        first = next((line for line in file if line.strip()), "")
    separator = max(",;\t", key=first.count)  # the comma when there is none: a single column
    settings = dict(sep=separator, index_col=False, encoding="utf-8-sig", na_values=["-"])
    top = pandas.read_csv(path, header=None, nrows=1, **settings)
    named = not all(kind.kind in "iuf" for kind in top.dtypes)
    if top.shape[1] > 1:  # what pandas writes for columns without names, with or without its numbers of rows
        counted = [str(place) for place in range(top.shape[1])]
        named |= [str(top[place][0]) for place in top] in (counted, ["nan", *counted[:-1]])
    with warnings.catch_warnings():  # rows longer than the header would be cut with no more than a warning
        warnings.simplefilter("error", pandas.errors.ParserWarning)
        return pandas.read_csv(path, header=0 if named else None, **settings)


def _columns(path: Path, columns: Sequence[str] | None, labels: str):
    """The numbers of a table, the names of their columns, and the column of labels if there is one."""
    frame = read_table(path)
    names = list(frame)
    if columns is None:
        if any(name.startswith("Unnamed: ") for name in names):  # what pandas calls a column without a header
            hint = "name it, or choose the columns to use"
            raise ValueError(f"{path} has a column without a name (row numbers?): {hint}")
        columns = [name for name in names if name != labels]
    missing = ", ".join(repr(name) for name in columns if name not in names)
    if missing or not columns:
        raise ValueError(f"{path} has no column {missing or 'chosen'}: choose among {', '.join(names)}")
    if len(frame) == 0:
        raise ValueError(f"{path} is empty: it has no rows")
    kind = library("pandas", "pandas", f"reading {path} needs", "methods").api.types.infer_dtype
    bad = [name for name in columns if kind(frame[name]) not in ("integer", "floating", "mixed-integer-float")]
    if bad:
        example, remedy = frame[bad[0]].iloc[0], "remove them, or choose the columns to use"
        if ";" in f"{bad[0]}{example}":
            remedy = "both ; and , separate here: write numbers with a decimal point"
        shown = f"{', '.join(map(repr, bad))} (first value {example!r})"
        raise ValueError(f"{path} has columns that are not numbers: {shown}; {remedy}")
    found = frame[labels].to_numpy(na_value=np.nan) if labels in names else None
    return frame[list(columns)].to_numpy(np.float64, na_value=np.nan), columns, found


def _images(folder: Path) -> tuple[np.ndarray, list[str]]:
    """Images (N, C, H, W) from 0 to 1, and the names of their files."""
    paths = sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() in IMAGE_ENDINGS and path.is_file())
    if not paths:
        raise ValueError(f"the folder {folder} holds no images: the endings {', '.join(IMAGE_ENDINGS)} are read")
    library("PIL", "pillow", f"reading {folder} needs", "methods")
    from PIL import Image, ImageOps

    images, kinds = [], []
    for path in paths:
        try:
            with Image.open(path) as file:
                frames, mode = getattr(file, "n_frames", 1), file.mode
                pixels = np.atleast_3d(ImageOps.exif_transpose(file)).transpose(2, 0, 1)
        except Exception as error:  # Pillow raises many kinds
            raise _unreadable(path, "image", error) from error
        if frames > 1:
            raise ValueError(f"{path} holds {frames} images: save each to a file of its own")
        if mode not in _WHITE:
            raise ValueError(f"{path} has the mode {mode}: save it as a grey (L) or colour (RGB) image")
        kinds.append(f"{pixels.shape[2]} x {pixels.shape[1]} pixels, mode {mode}")
        if kinds[-1] != kinds[0]:
            other = f"{paths[0].name} ({kinds[0]})"
            raise ValueError(f"{path} ({kinds[-1]}) differs from {other}: all images must be alike")
        images.append(pixels.astype(np.float32) / _WHITE[mode])
    return np.stack(images), [path.name for path in paths]


def _checked(path: Path, array: np.ndarray) -> np.ndarray:
    """``array`` checked and converted."""
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{path} holds values of type {array.dtype}, not real numbers: convert them first")
    if array.ndim < 2:
        raise ValueError(f"{path} has the shape {array.shape}: one point per row is needed, shape (points, features)")
    if len(array) < 2:
        raise ValueError(f"{path} holds {len(array)} points: at least 2 are needed")
    if array.size == 0:
        raise ValueError(f"{path} has the shape {array.shape}: its points have no features")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite and is named below
        points = np.array(array, dtype=np.float32, order="C")
    rows = np.flatnonzero(~np.isfinite(points).reshape(len(points), -1).all(1))
    if len(rows):
        shown = ", ".join(map(str, rows[:5])) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")
        what = f"missing values, or values too large for float32, in the points {shown} (counted from 0)"
        raise ValueError(f"{path} holds NaN, infinite or {what}: remove or replace them")
    # Far from the origin (coordinates in metres, time stamps) float32 would round neighbours together.
    reach, spread = np.abs(points).max(0), np.asarray(array).std(0, dtype=np.float64)
    lost = (spread > 0) & (np.finfo(np.float32).eps * reach > 1e-3 * spread)
    return np.array(array, np.float64, order="C") if lost.any() else points


def _labels(name: str, labels: np.ndarray | None, data: Path, count: int) -> np.ndarray:
    """(count,) numbers, or texts with "missing" where there is none; read from the file ``name`` unless found already."""
    file, ending = Path(name), Path(name).suffix.lower()
    if labels is None and not (file.is_file() and ending in (".npy", ".csv")):
        raise ValueError(f"labels {name!r} is neither a column or an array of {data} nor a .npy or .csv file")
    if labels is None:
        labels = np.array(_npy(file)) if ending == ".npy" else _label_lines(file, count)
    labels = labels.reshape(-1) if labels.ndim == 2 and 1 in labels.shape else labels
    if labels.shape != (count,):
        raise ValueError(f"labels {name!r} has the shape {labels.shape}, but there are {count} points: give one each")
    if labels.dtype.kind in "iuf":
        return labels
    gone = (None, "")  # NaN differs from itself
    return np.array(["missing" if one in gone or one != one else str(one) for one in labels.tolist()], dtype=object)


def _label_lines(file: Path, count: int) -> np.ndarray:
    """A label per line; a blank line is a point without one, unless it follows the last point."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            rows = [row or [""] for row in csv.reader(lines)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(file, ".csv file", error) from error
    while len(rows) > count and rows[-1] == [""]:
        rows.pop()
    if any(len(row) > 1 for row in rows):
        raise ValueError(f"labels {file} has more than one column: give a file with one label per line")
    values = [row[0].strip() for row in rows[len(rows) == count + 1 :]]  # one line more than points: a header
    try:
        return np.array([float(value or "nan") for value in values])
    except ValueError:
        return np.array(values, dtype=object)


def check_codes_path(path: str | Path, sources: Sequence[str | Path], shape: tuple[int, int]) -> None:
    """Stop with one sentence unless codes of ``shape`` can be written: to a new file, or earlier codes, no source."""
    path = Path(path)
    if path.suffix.lower() not in (".csv", ".npy", ".parquet"):
        raise ValueError(f"codes {str(path)!r} has the ending {path.suffix!r}: choose one of .csv, .npy, .parquet")
    if not path.parent.is_dir():
        raise ValueError(f"codes {str(path)!r}: the folder {path.parent} does not exist")
    if path.exists() and (path.resolve() in {Path(one).resolve() for one in sources} or not _holds_codes(path, shape)):
        raise ValueError(f"codes {str(path)!r} exists and does not hold earlier codes: choose another name")


def _holds_codes(path: Path, shape: tuple[int, int]) -> bool:
    try:
        if path.suffix.lower() == ".npy":  # it has no names: only its shape tells
            array = _npy(path)
            return array.shape == shape and array.dtype == np.float32
        first, *others = read_table(path)
    except (OSError, ValueError):
        return False
    return first == "row" and bool(others) and all(name == "file" or "_z" in name for name in others)


def codes_frame(codes: Mapping[str, np.ndarray], files: Sequence[str] = ()):
    """DataFrame of (N, m) codes by method: ``row`` from 0, the ``file`` of an image, "ae_z1", "ae_z2", ..."""
    import pandas

    columns = {f"{name}_z{place}": column for name in codes for place, column in enumerate(codes[name].T, 1)}
    table = pandas.DataFrame(columns, dtype=np.float32)
    named = {"file": list(files)} if len(files) else {}
    return pandas.concat([pandas.DataFrame({"row": range(len(table)), **named}), table], axis=1)


def write_codes(path: str | Path, table) -> None:
    """Write what :func:`codes_frame` gave, atomically; a .npy file holds the codes alone, (N, columns) float32."""
    path, buffer = Path(path), io.BytesIO()
    if path.suffix.lower() == ".csv":
        table.to_csv(buffer, index=False)
    elif path.suffix.lower() == ".npy":
        np.save(buffer, table.drop(columns=["row", "file"], errors="ignore").to_numpy(np.float32))
    else:
        library("pyarrow", "pyarrow", f"writing {path} needs", "methods")
        table.to_parquet(buffer, index=False)
    write_atomically(path, buffer.getvalue())

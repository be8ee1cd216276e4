"""The file of codes that a comparison writes."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nrae_lib.core.files import write_atomically
from nrae_lib.own_data.files import library, read_table

ENDINGS = (".csv", ".npy", ".parquet")


def check_path(path: str | Path, sources: Sequence[str | Path], shape: tuple[int, int]) -> bool:
    """Whether ``path`` holds codes already, which :func:`write` would replace.

    Arguments:
        sources: files that must not be replaced: the data and the labels.
        shape: (N, columns) of the codes. A .npy file has no names, so that only its shape tells that it holds codes.

    Raises:
        ValueError: for another ending, a folder that does not exist, or a file that holds something else than codes.
    """
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"codes {str(path)!r} has the ending {path.suffix!r}: choose one of {', '.join(ENDINGS)}")
    if not path.parent.is_dir():
        raise ValueError(f"codes {str(path)!r}: the folder {path.parent} does not exist")
    if not path.exists():
        return False
    if not any(Path(source).exists() and path.samefile(source) for source in sources) and _holds_codes(path, shape):
        return True
    raise ValueError(f"codes {str(path)!r} exists and does not hold earlier codes: choose another name")


def _holds_codes(path: Path, shape: tuple[int, int]) -> bool:
    try:
        if path.suffix.lower() == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return array.shape == shape and array.dtype == np.float32
        names = [str(name) for name in read_table(path).columns]
    except (OSError, ValueError):
        return False
    return names[:1] == ["row"] and len(names) > 1 and all(name == "file" or "_z" in name for name in names[1:])


def frame(codes: Mapping[str, np.ndarray], files: Sequence[str] = ()):
    """A pandas DataFrame: the row's number ``row`` (from 0), its ``file`` if it has one, and "ae_z1", "ae_z2", ...

    Arguments:
        codes: method -> (N, m).
        files: names of the N files of a folder of images.
    """
    import pandas

    count, components = next(iter(codes.values())).shape
    columns = [f"{name}_z{place}" for name in codes for place in range(1, components + 1)]
    table = pandas.DataFrame(np.concatenate(list(codes.values()), axis=1).astype(np.float32), columns=columns)
    if len(files):
        table.insert(0, "file", list(files))
    table.insert(0, "row", range(count))
    return table


def write(path: str | Path, table) -> None:
    """Write what :func:`frame` gave, atomically; a .npy file holds the codes alone, (N, columns) float32.

    Raises:
        ImportError: for .parquet without the package pyarrow.
    """
    path, buffer = Path(path), io.BytesIO()
    ending = path.suffix.lower()
    if ending == ".csv":
        buffer.write(table.to_csv(index=False).encode())
    elif ending == ".npy":
        np.save(buffer, table.drop(columns=["row", "file"], errors="ignore").to_numpy(np.float32))
    else:
        library("pyarrow", "pyarrow", f"writing {path}")
        table.to_parquet(buffer, index=False)
    write_atomically(path, buffer.getvalue())

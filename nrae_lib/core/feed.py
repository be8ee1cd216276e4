"""Where the training data lives: on the device, or in a file or array that is read a batch ahead.

Both kinds answer ``feed.rows(index)`` with the same values, bit for bit, so that training code does not know which one
it has. Rows of uint8 images stay bytes wherever they wait, a quarter of the memory and of the traffic, and become
float32 in [0, 1] on the device, per batch.

A :class:`Streamed` feed reads in a thread of its own, while the step before computes. Rows are read in the order of
the file, each once however often it was asked for, and the kernel is told all of them before the first is read, so
that the disk serves many at a time. What was read does not stay in memory: a file larger than the memory works.
"""

from __future__ import annotations

import math
import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nrae_lib.core.points import as_floats, check_points

# The most that is read at once where all points are gone through.
_BLOCK_BYTES = 16 * 2**20
# Batches kept on the device by a streamed feed: the one in use and the next.
_KEPT = 2
_TYPES = {
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
    np.dtype(np.uint8): torch.uint8,
}


class Feed:
    """Training points by their index, wherever they are stored; made by :func:`feed_of`.

    Attributes:
        raw: the points as they are stored, for the neighbour graph: a tensor on the device (:class:`Resident`) or an
            array of the host, perhaps a mapped file (:class:`Streamed`). Images of type uint8 hold 0 to 255 here.
        shape: shape of one row.
        dtype: type of the rows: that of the data, or float32 for uint8.
        device: where the rows arrive.
        resident: whether all the data is on the device.
    """

    resident: bool

    def __init__(self, raw: Tensor | np.ndarray, dtype: torch.dtype, device: torch.device):
        self.raw, self.device = raw, device
        self.shape = torch.Size(raw.shape[1:])
        self.dtype = torch.float32 if dtype == torch.uint8 else dtype

    def __len__(self) -> int:
        return len(self.raw)

    def rows(self, index: Tensor | None = None) -> Tensor:
        """The points at ``index``, bit for bit ``data[index]``; uint8 becomes float32, divided by 255.

        Arguments:
            index: int64 indices in 0..N-1 on the device, of any shape; None for all points in order.

        Returns:
            A tensor on the device, of the shape of ``index`` and then that of a point. For None it may be the stored data
            itself, which is not to be changed.

        Raises:
            IndexError: an index is outside 0..N-1 (on CUDA a resident feed ends with a device assertion instead).
            ValueError: all points were asked for, and a streamed feed has no room for them.
            Exception: whatever went wrong while the rows were read ahead.
        """
        raise NotImplementedError

    def ahead(self, *indices: Tensor) -> None:
        """Begin to read these points in the background; :meth:`rows` of any part of them is then served.

        The last two calls count: one for the batch in use, one for the next. On CUDA, ask for one of ``indices``
        itself or a contiguous part of it, as in ``rows(index[:n])``: the values of another tensor would have to be
        compared on the host, which waits for the device. Does nothing where all the data is on the device.
        """

    def check(self, name: str = "training data") -> None:
        """:func:`nrae_lib.data.datasets.check_points` in blocks of 16 MiB, with the same sentences.

        Raises:
            ValueError: the data is empty, has no features, or holds NaN or infinity.
        """
        if self.raw.ndim < 2 or 0 in self.raw.shape:
            check_points(torch.empty(tuple(self.raw.shape)), name)
        if self.raw.dtype in (torch.uint8, np.uint8):
            return
        # Both ends are NaN where anything is; unlike isfinite of all, this takes no memory beside the block.
        ends = [torch.stack(block.flatten(1).aminmax(dim=1)) for block in self._blocks()]
        finite = torch.isfinite(torch.cat(ends, 1)).all(0)
        # One number per point in place of the point: the sentence counts the points.
        check_points(torch.where(finite, 0.0, torch.nan)[:, None], name)

    def _blocks(self) -> Iterator[Tensor]:
        """All points as they are stored, in tensors of at most 16 MiB, each valid until the next is asked for."""
        raise NotImplementedError

    def _bounds(self) -> Iterator[tuple[int, int]]:
        size = max(1, _BLOCK_BYTES // max(1, self.raw.nbytes // len(self)))
        return ((start, min(start + size, len(self))) for start in range(0, len(self), size))

    def nbytes_on_device(self) -> int:
        """Bytes of data that the feed holds on the device; streamed: at most, given the largest batch read so far."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop the background thread, if there is one, and let go of what it read. Rows can still be read."""


class Resident(Feed):
    """All the data on the device, once; a tensor or array already there is not copied.

    Arguments:
        data: (N, ...) float32, float64 or uint8.
        device: where the data goes.
    """

    resident = True

    def __init__(self, data: Tensor | np.ndarray, device: torch.device | str):
        device = _exact(device)
        if isinstance(data, Tensor):
            data = data.detach().to(device)
        elif isinstance(data, np.memmap) or not data.flags.writeable:
            data = torch.tensor(data, device=device)  # a tensor on a mapped file would be read anew for every batch
        else:
            data = torch.from_numpy(data).to(device)
        super().__init__(data, data.dtype, device)

    def rows(self, index: Tensor | None = None) -> Tensor:
        return as_floats(self.raw if index is None else _picked(self.raw, index))

    def _blocks(self) -> Iterator[Tensor]:
        return (self.raw[start:stop] for start, stop in self._bounds())

    def nbytes_on_device(self) -> int:
        return self.raw.nbytes


class Streamed(Feed):
    """Data that stays in a file or in the memory of the host; two batches of it are on the device.

    Reading is no part of a CUDA graph: copy the rows into the graph's inputs. The thread allocates memory while it reads,
    so a graph that is captured meanwhile needs ``capture_error_mode="thread_local"``.

    Arguments:
        data: (N, ...) float32, float64 or uint8, an array (of a mapped file) or a tensor of the host.
        device: where the rows go.
        budget_bytes: how much ``rows(None)`` may take; None: half of the device's free memory.
    """

    resident = False

    def __init__(self, data: Tensor | np.ndarray, device: torch.device | str, budget_bytes: int | None = None):
        raw = data.detach().contiguous().numpy() if isinstance(data, Tensor) else data
        super().__init__(raw, _torch_type(raw), _exact(device))
        self._source, self._budget = _Source(raw, pinned=self.device.type == "cuda"), budget_bytes
        self._fetches: deque[_Fetch] = deque()
        self._jobs: queue.SimpleQueue | None = None
        self._largest = 0

    def rows(self, index: Tensor | None = None) -> Tensor:
        if index is None:
            needed = len(self) * math.prod(self.shape) * self.dtype.itemsize
            budget = _budget(self.device) if self._budget is None else self._budget
            if needed > budget:
                raise ValueError(
                    f"all {len(self)} points at once take {needed:,} bytes, but only {budget:,} are free for them: "
                    "choose a batch_size below the number of points"
                )
            rows, filled = torch.empty(self.raw.shape, dtype=self.dtype, device=self.device), 0
            for block in self._blocks():
                rows[filled : filled + len(block)] = as_floats(block.to(self.device))
                filled += len(block)
            return rows
        for fetch in self._fetches:
            if fetch.is_of(index):
                return self._served(fetch, index)
        wanted = _distinct(index.cpu())
        for fetch in tuple(self._fetches):
            if np.isin(wanted, self._made(fetch, fetch.keys), assume_unique=True).all():
                return self._served(fetch, index)
        return self._found(torch.from_numpy(wanted).to(self.device), self._source.take(wanted).to(self.device), index)

    def ahead(self, *indices: Tensor) -> None:
        if self._jobs is None:
            self._jobs = queue.SimpleQueue()
            stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
            # The thread must not hold the feed, or a feed that nobody closes would live for ever.
            arguments = (self._jobs, self._source, self.device, stream)
            self._thread = threading.Thread(target=_work, args=arguments, daemon=True, name="nrae feed")
            self._thread.start()
            self._finalizer = weakref.finalize(self, self._jobs.put, None)
        while len(self._fetches) >= _KEPT:
            self._fetches.popleft().keys.cancel()
        self._fetches.append(_Fetch(indices))
        self._jobs.put(self._fetches[-1])

    def _served(self, fetch: _Fetch, index: Tensor) -> Tensor:
        keys, rows, copied = self._made(fetch, fetch.rows)
        if copied is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(copied)
            # Both were allocated on the copying stream, which must not reuse them before this one is done with them.
            keys.record_stream(stream)
            rows.record_stream(stream)
        return self._found(keys, rows, index)

    def _made(self, fetch: _Fetch, future: Future):
        """What the thread made; its errors surface here, once."""
        try:
            return future.result()
        except BaseException:
            self._fetches.remove(fetch)
            raise

    def _found(self, keys: Tensor, rows: Tensor, index: Tensor) -> Tensor:
        self._largest = max(self._largest, rows.nbytes)
        return as_floats(_picked(rows, torch.searchsorted(keys, index.contiguous())))

    def _blocks(self) -> Iterator[Tensor]:
        memory = None  # one for all: malloc would scatter small things between the blocks, and grow
        for start, stop in self._bounds():
            block = self._source.take(np.arange(start, stop), memory)
            memory = block if memory is None else memory
            yield block

    def nbytes_on_device(self) -> int:
        return _KEPT * self._largest

    def close(self) -> None:
        for fetch in self._fetches:
            fetch.keys.cancel()
        self._fetches.clear()
        if self._jobs is not None:
            self._finalizer()
            self._thread.join()
            self._jobs = None


def feed_of(
    data: Tensor | np.ndarray | str | Path, device: torch.device | str, budget_bytes: int | None = None
) -> Feed:
    """All of the data on the device if there is room, else streamed from where it is.

    Arguments:
        data: (N, ...) float32, float64 or uint8: a tensor, an array, a mapped file (``np.memmap``), or the path of a
            ``.npy`` file, which is mapped.
        device: where the rows are wanted.
        budget_bytes: the most that the data may take on the device; None: half of its free memory. On the CPU that is
            what the machine, or the process's control group, has left, and data already in memory takes nothing.

    Returns:
        A :class:`Resident` or a :class:`Streamed` feed.

    Raises:
        TypeError: the data is none of these, or of another type of number.
        ValueError: a mapped file is not in C order.

    Example:
        >>> feed = feed_of(np.array([[0], [51], [255]], dtype=np.uint8), "cpu")
        >>> feed.rows(torch.tensor([2, 1, 1])).flatten().tolist()
        [1.0, 0.20000000298023224, 0.20000000298023224]
        >>> feed.resident, feed.nbytes_on_device()
        (True, 3)
    """
    if isinstance(data, str | Path):
        data = np.load(data, mmap_mode="r")
    found = data.dtype if isinstance(data, Tensor) else _torch_type(data)
    if found not in _TYPES.values():
        raise TypeError(
            "data must be a tensor, an array or a .npy file of float32, float64 or uint8 numbers, "
            f"not {getattr(data, 'dtype', type(data).__name__)}"
        )
    device = _exact(device)
    if isinstance(data, np.ndarray) and not data.flags.c_contiguous:
        if isinstance(data, np.memmap):
            raise ValueError("a mapped file must be in C order, row after row: store np.ascontiguousarray(data)")
        data = np.ascontiguousarray(data)
    if isinstance(data, Tensor) and data.device.type != "cpu":
        return Resident(data, device)
    if budget_bytes is None:
        there = device.type == "cpu" and not isinstance(data, np.memmap)
        budget = math.inf if there else _budget(device)
    else:
        budget = budget_bytes
    return Streamed(data, device, budget_bytes) if data.nbytes > budget else Resident(data, device)


class _Source:
    """Rows of an array of the host; those of a mapped file are read from the file itself.

    Touching the mapping instead would leave the pages in the process's memory until the kernel needs them, would read
    them one page fault after the other, and would end the process where a disk or a share fails.
    """

    def __init__(self, array: np.ndarray, pinned: bool):
        self.array, self.pinned, self.type = array, pinned, _torch_type(array)
        self.file = None
        # A private mapping ("c") may hold what the file does not.
        if isinstance(array, np.memmap) and array.filename and array.mode != "c" and hasattr(os, "posix_fadvise"):
            whole = array
            while isinstance(whole.base, np.memmap):
                whole = whole.base
            self.start = whole.offset + array.ctypes.data - whole.ctypes.data  # a slice has the offset of the whole
            self.file = os.open(array.filename, os.O_RDONLY)
            weakref.finalize(self, os.close, self.file)

    def take(self, keys: np.ndarray, memory: Tensor | None = None) -> Tensor:
        """The rows at ``keys``, sorted and distinct, in ``memory`` or a new tensor of the host (pinned for CUDA)."""
        if len(keys) and not 0 <= keys[0] <= keys[-1] < len(self.array):
            wrong = keys[0] if keys[0] < 0 else keys[-1]
            raise IndexError(f"index {wrong} is out of range: there are {len(self.array)} points, counted from 0")
        if memory is None:
            memory = torch.empty((len(keys), *self.array.shape[1:]), dtype=self.type, pin_memory=self.pinned)
        rows = memory[: len(keys)]
        if self.file is None:
            # The keys are known to be in range, and numpy's own check would copy through a second buffer.
            np.take(self.array, keys, axis=0, out=rows.numpy(), mode="clip")
        elif rows.numel():
            self._read(keys, rows.numpy().reshape(-1).view(np.uint8))
        return rows

    def _read(self, keys: np.ndarray, memory: np.ndarray) -> None:
        row_bytes = len(memory) // len(keys)
        bounds = np.r_[0, np.flatnonzero(np.diff(keys) != 1) + 1, len(keys)]  # of unbroken stretches
        places = (self.start + keys[bounds[:-1]] * row_bytes).tolist()
        bounds = (bounds * row_bytes).tolist()
        stretches = list(zip(places, bounds[:-1], bounds[1:], strict=True))
        for place, begin, end in stretches:
            os.posix_fadvise(self.file, place, end - begin, os.POSIX_FADV_WILLNEED)
        for place, begin, end in stretches:
            while begin < end:
                got = os.preadv(self.file, [memory[begin:end]], place)
                if not got:
                    raise OSError(f"{self.array.filename} has become shorter since it was opened")
                begin, place = begin + got, place + got


class _Fetch:
    """Rows asked for ahead. ``keys``: the sorted distinct indices; ``rows``: (keys, rows, event), on the device."""

    def __init__(self, indices: tuple[Tensor, ...]):
        self.parts = [(index, _version(index)) for index in indices]
        self.keys, self.rows, self.ready = Future(), Future(), None
        self.wanted = torch.cat([index.detach().flatten() for index in indices])  # also on the CPU a copy
        if self.wanted.is_cuda:
            # Into pinned memory, behind what the stream has to do; the thread waits for it, the caller does not.
            self.wanted = self.wanted.to("cpu", non_blocking=True)
            self.ready = torch.cuda.Event(blocking=True)
            self.ready.record(torch.cuda.current_stream(indices[0].device))

    def is_of(self, index: Tensor) -> bool:
        """Whether ``index`` lies within the memory of what was asked for, unchanged: then no value is looked at."""
        return any(
            version is not None and version == _version(index) and (index is whole or _is_part(index, whole))
            for whole, version in self.parts
        )

    def run(self, source: _Source, device: torch.device, stream: torch.cuda.Stream | None) -> None:
        """Read the rows and send them to the device, in the background thread."""
        if not self.keys.set_running_or_notify_cancel():
            return
        try:
            if self.ready is not None:
                self.ready.synchronize()
            keys = _distinct(self.wanted)
            self.keys.set_result(keys)
            rows = source.take(keys)
            # The pinned memory is free again when this function returns; torch lends it anew only after the copy.
            with nullcontext() if stream is None else torch.cuda.stream(stream):
                sent = [part.to(device, non_blocking=stream is not None) for part in (torch.from_numpy(keys), rows)]
                self.rows.set_result((*sent, None if stream is None else stream.record_event()))
        except BaseException as error:
            for future in (self.keys, self.rows):
                if not future.done():
                    future.set_exception(error)


def _work(jobs: queue.SimpleQueue, source: _Source, device: torch.device, stream: torch.cuda.Stream | None) -> None:
    if stream is not None:
        torch.cuda.set_device(device)  # of this thread: pinned memory would else open the first device too
    while (fetch := jobs.get()) is not None:
        fetch.run(source, device, stream)
        del fetch  # it holds a batch, perhaps for long after the feed has let go of it


def _is_part(index: Tensor, whole: Tensor) -> bool:
    begin, limit = index.data_ptr(), whole.data_ptr() + whole.nbytes
    return (
        (index.dtype, index.device) == (whole.dtype, whole.device)
        and index.is_contiguous()
        and whole.is_contiguous()
        and whole.data_ptr() <= begin
        and begin + index.nbytes <= limit
    )


def _version(index: Tensor) -> int | None:
    """Counts the changes in place of a tensor and all its views; None where torch does not count."""
    return None if index.is_inference() else index._version


def _distinct(index: Tensor) -> np.ndarray:
    if index.dtype != torch.int64:
        raise TypeError(f"index must be an int64 tensor, not {index.dtype}")
    return np.unique(index.numpy())


def _picked(rows: Tensor, index: Tensor) -> Tensor:
    # Copies whole rows; rows[index] copies number by number, four times slower on the CPU.
    return rows.index_select(0, index.flatten()).reshape(*index.shape, *rows.shape[1:])


def _torch_type(array: np.ndarray) -> torch.dtype | None:
    return _TYPES.get(getattr(array, "dtype", None))


def _exact(device: torch.device | str) -> torch.device:
    """The device with its number: "cuda" is the current one."""
    return torch.empty(0, device=device).device


def _budget(device: torch.device) -> int:
    """Half of the memory that is free on the device, what torch holds without using it included."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (torch.cuda.mem_get_info(device)[0] + unused) // 2
    return _free_host() // 2


def _free_host(root: Path = Path("/")) -> int:
    """Bytes of the host's memory that this process may still take: what the machine or its control group has left."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, StopIteration):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for group in groups:
        _, controllers, name = group.split(":", 2)
        if controllers == "":
            base, limit, used = root / "sys/fs/cgroup", "memory.max", "anon"
        elif "memory" in controllers.split(","):
            base, limit, used = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "total_rss"
        else:
            continue
        folder = base / name.lstrip("/")
        for place in (folder, *folder.parents):  # a limit holds for all groups below; the cached files in it give way
            if place.is_relative_to(base) and (place / limit).exists():
                most, statistics = (place / limit).read_text().strip(), (place / "memory.stat").read_text()
                if most != "max":
                    taken = dict(line.split() for line in statistics.splitlines()).get(used, 0)
                    free = min(free, int(most) - int(taken))
    return max(0, free)

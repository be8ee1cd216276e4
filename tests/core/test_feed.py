"""Rows by index from the device, from memory and from mapped files: the same values, read ahead, in bounded memory."""

import gc
import json
import os
import resource
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from nrae_lib.core import feed as module
from nrae_lib.core.feed import Resident, Streamed, feed_of
from nrae_lib.data.datasets import check_points

ROOT = Path(__file__).resolve().parents[2]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
COUNT, FEATURES = 200, (3, 5)


def numbers(dtype, count=COUNT):
    random = np.random.default_rng(0)
    if dtype == "uint8":
        return random.integers(0, 256, (count, *FEATURES), dtype=np.uint8)
    return random.standard_normal((count, *FEATURES)).astype(dtype)


def expected(array, index):
    rows = array[index.cpu().numpy()]
    return torch.from_numpy(rows / np.float32(255) if rows.dtype == np.uint8 else rows)


def stored(array, path, mode="r"):
    np.save(path, array)
    return np.load(path, mmap_mode=mode)


@pytest.fixture(params=["resident", "array", "tensor", "file", "slice"])
def make(request, tmp_path):
    """Makes a feed of one kind from an array."""

    def make(array, device="cpu"):
        whole = np.concatenate([array[:3], array])
        made = {
            "resident": lambda: Resident(array.copy(), device),
            "array": lambda: Streamed(array, device),
            "tensor": lambda: Streamed(torch.from_numpy(array), device),
            "file": lambda: Streamed(stored(array, tmp_path / "rows.npy"), device),
            "slice": lambda: Streamed(stored(whole, tmp_path / "rows.npy")[3:], device),
        }[request.param]()
        opened.append(made)
        return made

    opened = []
    yield make
    for made in opened:
        made.close()


class Reads:
    """What a streamed feed reads, in order; ``hold`` keeps the next reads waiting."""

    def __init__(self, feed, monkeypatch):
        self.keys, self.may_go = [], threading.Event()
        self.may_go.set()
        take = feed._source.take

        def recorded(keys, *memory):
            self.keys.append(keys.tolist())
            if not self.may_go.wait(20):
                raise TimeoutError("the caller waited for the read that it was to let go")
            return take(keys, *memory)

        monkeypatch.setattr(feed._source, "take", recorded)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
def test_rows_are_the_data_bit_for_bit(make, dtype, device):
    array = numbers(dtype)
    feed = make(array, device)
    assert (len(feed), tuple(feed.shape), feed.device.type) == (COUNT, FEATURES, device)
    generator = torch.Generator().manual_seed(1)
    for shape in [(), (0,), (1,), (50,), (2, 3, 40), (0, 4), (300,)]:  # 300 of 200: duplicates for certain
        index = torch.randint(COUNT, shape, generator=generator).to(device)
        direct = feed.rows(index)
        feed.ahead(index)
        for rows in (direct, feed.rows(index)):
            assert rows.shape == (*shape, *FEATURES) and rows.device == feed.device
            assert rows.dtype == feed.dtype == (torch.float64 if dtype == "float64" else torch.float32)
            assert torch.equal(rows.cpu(), expected(array, index))
    assert torch.equal(feed.rows().cpu(), expected(array, torch.arange(COUNT)))


def test_a_batch_in_pieces_and_of_every_order(make):
    """Neighbours as a transposed view, a reversed batch, every second index."""
    array = numbers("float32")
    feed = make(array)
    together = torch.randint(COUNT, (60,), generator=torch.Generator().manual_seed(2))
    feed.ahead(together)
    for part in (together[:20], together[20:].view(20, 2).T, together.flip(0), together[::2], together[:0]):
        assert torch.equal(feed.rows(part), expected(array, part))


def test_what_was_asked_for_is_known_without_a_look_at_its_values(monkeypatch):
    """The values of an index on a GPU could only be had by waiting for it."""
    array = numbers("float32")
    feed = Streamed(array, "cpu")
    batch, near = torch.arange(10, 20), torch.randint(COUNT, (10, 3)).T
    feed.ahead(batch, near)
    feed.rows(near.clone())
    with monkeypatch.context() as patch:
        patch.setattr(module, "_distinct", None)  # the one look at values
        for index in (batch, batch[3:7], near):
            assert torch.equal(feed.rows(index), expected(array, index))
        with pytest.raises(TypeError):
            feed.rows(near.clone())
    feed.close()


@pytest.mark.parametrize("kind", [torch.from_numpy, np.asarray])
def test_what_is_in_memory_is_not_copied(kind):
    array = numbers("uint8")
    feed = feed_of(kind(array), "cpu")
    assert feed.resident and feed.raw.data_ptr() == array.ctypes.data
    assert feed.raw.dtype == torch.uint8 and feed.nbytes_on_device() == array.nbytes
    whole = feed_of(torch.ones(4, 2), "cpu")
    assert whole.rows() is whole.raw


def test_read_only_arrays_make_no_warning(tmp_path, recwarn):
    array = numbers("float32")
    array.flags.writeable = False
    assert torch.equal(Resident(array, "cpu").rows(), torch.tensor(array))
    assert torch.equal(feed_of(stored(array, tmp_path / "a.npy"), "cpu").rows(), torch.tensor(array))
    assert not [str(warning.message) for warning in recwarn]


def test_streamed_rows_are_read_once_in_order_and_served_from_what_was_read(monkeypatch):
    feed = Streamed(numbers("float32"), "cpu")
    reads = Reads(feed, monkeypatch)
    feed.ahead(torch.tensor([[7, 3], [7, 150]]))
    for served in ([3], [150, 150, 7], [[7], [3]]):
        feed.rows(torch.tensor(served))
    assert reads.keys == [[3, 7, 150]]
    more = torch.tensor([3, 7, 150, 9, 3])
    assert torch.equal(feed.rows(more), feed.rows(more))
    assert reads.keys[1:] == [[3, 7, 9, 150]] * 2
    assert feed.nbytes_on_device() == 2 * 4 * 15 * 4
    feed.close()


def test_the_last_two_batches_are_kept_and_one_displaced_before_it_began_is_not_read(monkeypatch):
    feed = Streamed(numbers("float32"), "cpu")
    reads = Reads(feed, monkeypatch)
    batches = torch.arange(12).split(3)
    reads.may_go.clear()
    for batch in batches:
        feed.ahead(batch)
    reads.may_go.set()
    for batch in batches[2:]:
        feed.rows(batch)
    assert [keys for keys in reads.keys if keys != [0, 1, 2]] == [[6, 7, 8], [9, 10, 11]]
    feed.rows(batches[1])
    assert reads.keys[-1] == [3, 4, 5]
    feed.close()


def test_other_parts_of_the_same_memory_are_told_apart(monkeypatch):
    """Batches are slices of one permutation: one that was not asked for must not pass for one that was."""
    array = numbers("float32")
    feed = Streamed(array, "cpu")
    order = torch.arange(COUNT).flip(0)
    feed.ahead(order[10:20])
    for part in (order[9:20], order[10:21], order[:10], order[20:30], order[12:15]):
        assert torch.equal(feed.rows(part), expected(array, part))
    feed.ahead(order[:120])
    assert torch.equal(feed.rows(order[::2]), expected(array, order[::2]))  # begins inside, and ends outside
    feed.close()
    feed.ahead(order[::2])
    assert torch.equal(feed.rows(order[:50]), expected(array, order[:50]))  # the same memory, with gaps
    feed.close()


def test_what_is_read_is_what_was_asked_for_at_that_moment(monkeypatch):
    """A loop may reuse the memory of its index as soon as ``ahead`` has returned."""
    feed = Streamed(numbers("float32"), "cpu")
    reads, index = Reads(feed, monkeypatch), torch.arange(3)
    reads.may_go.clear()
    for _ in range(2):  # the second waits behind the first
        feed.ahead(index)
        index += 10
    reads.may_go.set()
    feed.rows(torch.tensor([10, 11, 12]))
    assert reads.keys == [[0, 1, 2], [10, 11, 12]]
    feed.close()


@pytest.mark.parametrize("inference", [False, True])
def test_an_index_changed_in_place_gives_its_new_rows(inference):
    array = numbers("float32")
    feed = Streamed(array, "cpu")
    with torch.inference_mode(inference):
        index = torch.arange(10)
        feed.ahead(index)
        index += 100
        assert torch.equal(feed.rows(index), expected(array, index))
        index -= 100
        assert torch.equal(feed.rows(index), expected(array, index))
    feed.close()


@pytest.mark.parametrize("device", DEVICES)
def test_the_next_batch_is_read_while_this_one_is_used(monkeypatch, device):
    """Neither the call that begins a read nor the rows of another batch wait for a read that is held up."""
    array = numbers("float32")
    feed = Streamed(array, device)
    reads = Reads(feed, monkeypatch)
    first, second = torch.arange(40, device=device).split(20)
    feed.ahead(first)
    assert torch.equal(feed.rows(first).cpu(), expected(array, first))
    reads.may_go.clear()
    feed.ahead(second)
    for index in (first, first[3:9], first.clone()):
        assert torch.equal(feed.rows(index).cpu(), expected(array, index))
    reads.may_go.set()
    assert torch.equal(feed.rows(second).cpu(), expected(array, second))
    assert len(reads.keys) == 2
    feed.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_copy_to_the_device_overlaps_with_what_the_device_computes():
    array = numbers("float32")
    feed = Streamed(array, "cuda")
    index = torch.arange(20, device="cuda")
    feed.ahead(index)
    torch.cuda._sleep(2 * 10**9)
    busy = torch.cuda.Event()
    busy.record()
    feed._fetches[0].rows.result(20)[2].synchronize()
    assert not busy.query(), "the batch arrived only after the computation"
    assert torch.equal(feed.rows(index).cpu(), expected(array, index))
    feed.close()


def test_errors_of_the_thread_surface_once(monkeypatch):
    array = numbers("float32")
    feed = Streamed(array, "cpu")
    for wrong in (-1, COUNT):
        index = torch.tensor([4, wrong])
        with pytest.raises(IndexError, match=f"index {wrong} is out of range: there are 200 points"):
            feed.rows(index)
        feed.ahead(index)
        with pytest.raises(IndexError, match=f"index {wrong} is out of range"):
            feed.rows(index)

    def broken(keys, *memory):
        raise OSError("the disk is gone")

    good = torch.tensor([5, 6])
    with monkeypatch.context() as patch:
        patch.setattr(feed._source, "take", broken)
        feed.ahead(good)
        with pytest.raises(OSError, match="the disk is gone"):
            feed.rows(good.clone())
    assert torch.equal(feed.rows(good), expected(array, good)), "told twice"
    feed.ahead(good > 5)
    with pytest.raises(TypeError, match="int64"):
        feed.rows(good)
    feed.close()


def workers():
    return [thread for thread in threading.enumerate() if thread.name == "nrae feed"]


def test_the_thread_ends_with_the_feed():
    array, index, before = numbers("float32"), torch.arange(5), workers()
    feed = Streamed(array, "cpu")
    assert workers() == before
    for _ in range(2):  # a closed feed can be used again
        feed.ahead(index)
        (worker,) = set(workers()) - set(before)
        assert worker.daemon
        feed.close()
        assert not worker.is_alive()
        assert torch.equal(feed.rows(index), expected(array, index))
    feed.close()
    feed.ahead(index)
    (worker,) = set(workers()) - set(before)
    del feed
    gc.collect()
    worker.join(20)
    assert not worker.is_alive(), "a feed that nobody closed lives for ever"


def test_all_rows_at_once_only_where_they_fit(monkeypatch):
    array = numbers("uint8")
    needed = array.size * 4
    assert torch.equal(Streamed(array, "cpu", needed).rows(), expected(array, torch.arange(COUNT)))
    with pytest.raises(ValueError, match="all 200 points at once take 12,000 bytes, but only 11,999 are free"):
        Streamed(array, "cpu", needed - 1).rows()
    monkeypatch.setattr(module, "_budget", lambda device: 5)
    with pytest.raises(ValueError, match="only 5 are free"):
        Streamed(array, "cpu").rows()


def test_where_the_data_goes(monkeypatch, tmp_path):
    array = numbers("float32")
    file = stored(array, tmp_path / "a.npy")
    monkeypatch.setattr(module, "_budget", lambda device: array.nbytes)
    assert all(feed_of(data, "cpu").resident for data in (array, file, tmp_path / "a.npy", torch.from_numpy(array)))
    monkeypatch.setattr(module, "_budget", lambda device: array.nbytes - 1)
    assert [feed_of(data, "cpu").resident for data in (array, file, str(tmp_path / "a.npy"))] == [True, False, False]
    assert isinstance(feed_of(tmp_path / "a.npy", "cpu").raw, np.memmap)
    assert feed_of(file, "cpu").raw is file
    assert feed_of(file, "cpu", budget_bytes=array.nbytes).resident
    for data in (array, torch.from_numpy(array)):
        feed = feed_of(data, "cpu", budget_bytes=0)
        assert not feed.resident and np.shares_memory(feed.raw, array)
    every_second = feed_of(array[::2], "cpu", budget_bytes=0)
    assert torch.equal(every_second.rows(torch.tensor([1, 4])), expected(array, torch.tensor([2, 8])))


def test_what_cannot_be_fed_is_refused_with_one_sentence(tmp_path):
    np.savez(tmp_path / "several.npz", a=np.ones(3))
    for data in (np.ones((4, 2), int), torch.ones(4, 2).half(), np.ones((4, 2), ">f4"), [[1.0]],
                 tmp_path / "several.npz"):  # fmt: skip
        with pytest.raises(TypeError, match="float32, float64 or uint8"):
            feed_of(data, "cpu")
    with pytest.raises(ValueError, match="must be in C order"):
        feed_of(stored(np.asfortranarray(numbers("float32")), tmp_path / "f.npy"), "cpu")


def told(check):
    try:
        check()
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("bad", [[], [0], [3, 4, 199]])
def test_check_tells_what_the_check_of_a_whole_tensor_tells(make, bad, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_BYTES", 7 * 60)  # 7 points: blocks that do not divide 200
    array = numbers("float32")
    array[bad, 1, 2] = np.nan
    array[bad[:1], 0, 0] = -np.inf
    sentence = told(lambda: check_points(torch.from_numpy(array), "test data"))
    assert (sentence is None) == (not bad)
    assert told(lambda: make(array).check("test data")) == sentence


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (4,), ()])
def test_check_refuses_data_without_points_or_features(shape):
    data = np.zeros(shape, np.float32)
    sentence = told(lambda: check_points(torch.from_numpy(data), "training data"))
    assert sentence
    assert told(Resident(data, "cpu").check) == told(Streamed(data, "cpu").check) == sentence


def test_bytes_need_no_look_at_their_values(make):
    make(numbers("uint8")).check()


def test_a_mapped_file_is_read_from_its_disk_early_and_in_stretches(tmp_path, monkeypatch):
    """All reads are announced before the first one; neighbouring rows are one read, also in a slice of the file."""
    array = np.arange(400 * 10, dtype=np.float32).reshape(400, 10)
    feed = Streamed(stored(array, tmp_path / "a.npy")[50:][17:], "cpu")
    begin, calls = (tmp_path / "a.npy").stat().st_size - array.nbytes, []
    advise, read = os.posix_fadvise, os.preadv

    def announced(file, place, length, advice):
        assert advice == os.POSIX_FADV_WILLNEED
        calls.append(("announce", place, length))
        return advise(file, place, length, advice)

    def short(file, buffers, place):
        """The kernel may deliver less than was asked for."""
        calls.append(("read", place, len(buffers[0])))
        return read(file, [buffers[0][: max(1, len(buffers[0]) - 8)]], place)

    monkeypatch.setattr(os, "posix_fadvise", announced)
    monkeypatch.setattr(os, "preadv", short)
    index = torch.tensor([200, 100, 102, 101, 9, 9, 332])
    assert torch.equal(feed.rows(index), torch.from_numpy(array)[67:][index])
    wanted = [(begin + (67 + row) * 40, count * 40) for row, count in ((9, 1), (100, 3), (200, 1), (332, 1))]
    assert calls[:4] == [("announce", *stretch) for stretch in wanted]
    assert {("read", *stretch) for stretch in wanted} < set(calls[4:])


def test_a_file_that_has_become_shorter_is_an_error_and_not_the_end_of_the_process(tmp_path):
    feed = Streamed(stored(numbers("float32"), tmp_path / "a.npy"), "cpu")
    os.truncate(tmp_path / "a.npy", 2000)
    feed.ahead(torch.tensor([100]))
    with pytest.raises(OSError, match=r"a\.npy has become shorter"):
        feed.rows(torch.tensor([100]))
    feed.close()


@pytest.mark.parametrize("mode", ["r+", "c"])
def test_what_was_written_to_the_mapping_is_what_is_read(tmp_path, mode):
    file = stored(numbers("float32"), tmp_path / "a.npy", mode)
    file[5] = -1
    assert torch.equal(Streamed(file, "cpu").rows(torch.tensor([5])), torch.full((1, *FEATURES), -1.0))


def test_an_unused_feed_leaves_no_open_file(tmp_path):
    feed = Streamed(stored(numbers("float32"), tmp_path / "a.npy"), "cpu")
    descriptor = feed._source.file
    os.fstat(descriptor)
    del feed
    gc.collect()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(descriptor)


MEMINFO = "MemTotal:       2000 kB\nMemAvailable:    1000 kB\n"


@pytest.mark.parametrize(
    ("groups", "files", "free_kb"),
    [
        ("0::/\n", {}, 1000),
        ("0::/job/step\n", {"job/memory.max": 700, "job/step/memory.max": "max"}, 700 - 30),
        ("0::/job/step\n", {"job/memory.max": 700, "job/step/memory.max": 600}, 600 - 30),
        ("0::/job\n", {"job/memory.max": 20}, 0),
        ("0::/elsewhere\n", {"memory.max": 500}, 500 - 30),  # a container sees its own group as the root
        ("5:cpu,memory:/job\n3:cpuset:/\n", {"memory/job/memory.limit_in_bytes": 800}, 800 - 40),
        ("5:memory:/docker/abc\n", {"memory/memory.limit_in_bytes": 800}, 800 - 40),
        ("5:memory:/\n", {"memory/memory.limit_in_bytes": 2**53}, 1000),
    ],
)
def test_free_memory_of_the_host_heeds_control_groups(tmp_path, groups, files, free_kb):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(MEMINFO)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, limit in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{limit if limit == 'max' else limit * 1024}\n")
        (path.parent / "memory.stat").write_text(f"file 999999\nanon {30 * 1024}\ntotal_rss {40 * 1024}\n")
    assert module._free_host(tmp_path) == free_kb * 1024


def test_free_memory_of_this_machine_is_believable():
    assert 2**20 < module._free_host() < resource.getpagesize() * 2**30


IN_BOUNDED_MEMORY = """
    import json, resource, sys
    import numpy as np, torch
    from nrae_lib.core import feed as module

    def status(field):
        return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))

    path, allowed = sys.argv[1], int(sys.argv[2])
    file = np.load(path, mmap_mode="r")
    feed = module.feed_of(file, "cpu", budget_bytes=allowed)
    feed.ahead(torch.arange(2))
    feed.rows(torch.arange(2))
    before = status("VmHWM")
    data = status("VmData") + allowed
    resource.setrlimit(resource.RLIMIT_DATA, (data, data))
    feed.check()
    totals, generator = [], torch.Generator().manual_seed(0)
    for epoch in range(2):
        batches = torch.randperm(len(feed), generator=generator).split(16)
        total = 0.0
        for batch, following in zip(batches, (*batches[1:], None)):
            if following is not None:
                feed.ahead(following)
            total += feed.rows(batch)[:, 0].double().sum().item()
        totals.append(total)
    grown = status("VmHWM") - before
    feed.close()
    try:
        module.Resident(file, "cpu")
        refused = None
    except RuntimeError as error:
        refused = str(error)
    print(json.dumps(dict(resident=feed.resident, totals=totals, grown=grown, refused=refused)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits on data and /proc are Linux's")
def test_a_file_far_larger_than_the_memory_allowed(tmp_path):
    """512 MB with 100 MB of memory allowed: two epochs of streaming work, all the data at once does not."""
    allowed, count = 100 * 10**6, 8192
    file = np.lib.format.open_memmap(tmp_path / "big.npy", "w+", np.float32, (count, 2**14))
    file[:, 0] = np.arange(count)  # the rest is a hole in the file
    del file
    code = textwrap.dedent(IN_BOUNDED_MEMORY)
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path / "big.npy"), str(allowed)], env=environment,
                            capture_output=True, text=True)  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout)
    assert not found["resident"]
    assert found["totals"] == [count * (count - 1) / 2] * 2
    assert "can't allocate memory" in (found["refused"] or ""), "the limit does not bite"
    assert found["grown"] < allowed, "the pages of the file stay"

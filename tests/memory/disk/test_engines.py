"""The engines: io_uring with each of its set-ups, AIO and threads."""

import ctypes
import errno
import mmap
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from meshfs.disk.base import Engine
from meshfs.disk.engines import uring
from meshfs.disk.engines.uring import UringEngine
from meshfs.disk.file.zero import PUNCH
from meshlab.fakes.file_disks import SMALL_ENGINES, running

DEFERRED = uring._SETUP_SINGLE_ISSUER | uring._SETUP_DEFER_TASKRUN
SETUPS = {"io_uring": None, "io_uring-deferred": DEFERRED, "io_uring-plain": 0, "aio": None, "threads": None}
PAGE = 4096


class Memory:
    """Pages for the kernel in one mapping. Page i is filled with the byte i."""

    def __init__(self, pages: int) -> None:
        self.map = mmap.mmap(-1, pages * PAGE)
        for page in range(pages):
            self.map[page * PAGE : (page + 1) * PAGE] = bytes([page % 251]) * PAGE
        self._anchor = ctypes.c_char.from_buffer(self.map)

    def address(self, page: int) -> int:
        return ctypes.addressof(self._anchor) + page * PAGE


@pytest.fixture(params=SETUPS)
async def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engine]:
    setup = SETUPS[request.param]
    if setup is not None:
        monkeypatch.setattr(uring, "_SETUPS", (setup,))
    async with running(SMALL_ENGINES[request.param.split("-")[0]]()) as engine:
        yield engine


@pytest.fixture(params=[0, os.O_DIRECT], ids=["cached", "direct"])
def fd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT | request.param)
    os.ftruncate(fd, 1 << 20)
    yield fd
    os.close(fd)


class Results:
    """Collects results by key. ``wait`` returns when as many have come as the test expects."""

    def __init__(self) -> None:
        self.of: dict[object, int] = {}
        self._changed = trio.Event()

    def note(self, key: object, result: int) -> None:
        assert key not in self.of
        self.of[key] = result
        self._changed.set()

    async def wait(self, count: int) -> None:
        with trio.fail_after(20):
            while len(self.of) < count:
                self._changed = trio.Event()
                await self._changed.wait()


async def test_a_callback_that_raises_costs_no_other_its_result(engine: Engine, fd: int) -> None:
    memory, results = Memory(16), Results()

    def fail(result: int) -> None:
        results.note("failed", result)
        raise RuntimeError("a fault of ours")

    engine.queue_read(fd, memory.address(0), PAGE, 0, fail)
    for page in range(1, 16):
        engine.queue_read(
            fd, memory.address(page), PAGE, page * PAGE, lambda result, page=page: results.note(page, result)
        )
    engine.flush()
    await results.wait(16)
    engine.queue_fdatasync(fd, lambda result: results.note("sync", result))
    engine.flush()
    await results.wait(17)
    assert results.of == {"failed": PAGE, "sync": 0} | dict.fromkeys(range(1, 16), PAGE)


async def test_reads_writes_and_syncs(engine: Engine, fd: int) -> None:
    memory, results = Memory(128), Results()
    for page in range(64):
        done = lambda result, page=page: results.note(page, result)  # noqa: E731
        engine.queue_write(fd, memory.address(page), PAGE, page * PAGE, done, dsync=page % 2 == 0)
    engine.flush()
    await results.wait(64)
    engine.queue_fdatasync(fd, lambda result: results.note("sync", result))
    for page in range(64):
        done = lambda result, page=page: results.note(64 + page, result)  # noqa: E731
        engine.queue_read(fd, memory.address(64 + page), PAGE, page * PAGE, done)
    engine.flush()
    await results.wait(129)
    assert results.of.pop("sync") == 0
    assert set(results.of.values()) == {PAGE}
    assert memory.map[64 * PAGE :] == memory.map[: 64 * PAGE]


async def test_a_range_is_zeroed_by_fallocate(engine: Engine, fd: int) -> None:
    memory, results = Memory(4), Results()
    for page in range(4):
        done = lambda result, page=page: results.note(page, result)  # noqa: E731
        engine.queue_write(fd, memory.address(3), PAGE, page * PAGE, done, dsync=False)
    engine.flush()
    await results.wait(4)
    engine.queue_fallocate(fd, PUNCH, PAGE, 2 * PAGE, lambda result: results.note("punched", result))
    engine.queue_fallocate(1 << 20, PUNCH, 0, PAGE, lambda result: results.note("closed", result))
    engine.flush()
    await results.wait(6)
    assert (results.of["punched"], results.of["closed"]) == (0, -errno.EBADF)
    for page in range(4):
        done = lambda result, page=page: results.note(4 + page, result)  # noqa: E731
        engine.queue_read(fd, memory.address(page), PAGE, page * PAGE, done)
    engine.flush()
    await results.wait(10)
    kept = bytes([3]) * PAGE
    assert memory.map[:] == kept + bytes(2 * PAGE) + kept


async def test_nothing_starts_before_the_flush(engine: Engine, fd: int) -> None:
    memory, results = Memory(1), Results()
    engine.queue_write(fd, memory.address(0), PAGE, 0, lambda result: results.note(0, result), dsync=False)
    await trio.sleep(0.01)
    assert not results.of
    engine.flush()
    await results.wait(1)


async def test_an_error_is_its_own_requests(engine: Engine, fd: int) -> None:
    memory, results = Memory(3), Results()
    # No process may have so many open files, so no other open takes the number.
    closed = 1 << 20
    for index, target in enumerate((fd, closed, fd)):
        done = lambda result, index=index: results.note(index, result)  # noqa: E731
        engine.queue_read(target, memory.address(index), PAGE, 0, done)
    engine.queue_fdatasync(closed, lambda result: results.note("sync", result))
    engine.queue_read(fd, 4096, PAGE, 0, lambda result: results.note("memory", result))
    engine.flush()
    await results.wait(5)
    assert results.of == {0: PAGE, 1: -errno.EBADF, 2: PAGE, "sync": -errno.EBADF, "memory": -errno.EFAULT}


async def test_a_completion_may_queue_and_flush(engine: Engine, fd: int) -> None:
    memory, results = Memory(1), Results()
    left = 500

    def again(result: int) -> None:
        nonlocal left
        left -= 1
        if left:
            engine.queue_read(fd, memory.address(0), PAGE, 0, again)
            engine.flush()
        else:
            results.note("end", result)

    again(PAGE)
    await results.wait(1)
    assert (left, results.of) == (0, {"end": PAGE})


async def test_a_read_at_the_end_is_short(engine: Engine, fd: int) -> None:
    memory, results = Memory(1), Results()
    os.ftruncate(fd, 10 * PAGE + 100)
    engine.queue_read(fd, memory.address(0), PAGE, 10 * PAGE, lambda result: results.note("short", result))
    engine.queue_read(fd, memory.address(0), PAGE, 20 * PAGE, lambda result: results.note("end", result))
    engine.flush()
    await results.wait(2)
    assert results.of == {"short": 100, "end": 0}


async def test_file_descriptors_and_memory_are_given_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for make in SMALL_ENGINES.values():
        make().close()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_cached_reads_complete_within_the_flush(tmp_path: Path) -> None:
    """With cache = writeback, the latency of a lone read depends on it."""
    path = tmp_path / "file"
    path.write_bytes(b"c" * PAGE)
    path.read_bytes()
    memory, results = Memory(1), Results()
    engine = UringEngine(entries=8, in_flight_max=16)
    with path.open("rb") as file:
        engine.queue_read(file.fileno(), memory.address(0), PAGE, 0, lambda result: results.note("read", result))
        engine.flush()
        assert results.of == {"read": PAGE}
    with pytest.raises(BlockingIOError):
        os.eventfd_read(engine._eventfd)
    engine.close()


def test_a_kernel_out_of_memory_refuses_what_it_never_took(monkeypatch: pytest.MonkeyPatch) -> None:
    results: list[int] = []
    engine = UringEngine(entries=8, in_flight_max=16)
    with monkeypatch.context() as patch:
        patch.setattr(uring, "_syscall", lambda *arguments: -1)
        patch.setattr(ctypes, "get_errno", lambda: errno.EAGAIN)
        for _ in range(20):
            engine.queue_fdatasync(-1, results.append)
        engine.flush()
    assert results == [-errno.ENOMEM] * 20
    engine.queue_read(-1, 0, 0, 0, results.append)
    engine.flush()
    assert results[20:] == [-errno.EBADF]
    engine.close()


def test_no_io_uring_is_an_os_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(uring, "_syscall", lambda *arguments: -1)
        patch.setattr(ctypes, "get_errno", lambda: errno.EPERM)
        with pytest.raises(OSError, match="not permitted"):
            UringEngine()
    monkeypatch.setattr(uring, "_SETUPS", ())
    with pytest.raises(OSError, match="too old"):
        UringEngine()


async def test_a_discard_of_something_that_is_no_block_device_is_an_error(engine: Engine, fd: int) -> None:
    results = Results()
    engine.queue_discard(fd, 0, PAGE, lambda result: results.note("file", result))
    engine.queue_discard(1 << 20, 0, PAGE, lambda result: results.note("closed", result))
    engine.flush()
    await results.wait(2)
    assert results.of == {"file": -errno.ENOTTY, "closed": -errno.EBADF}

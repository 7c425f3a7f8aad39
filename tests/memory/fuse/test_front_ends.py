"""Two front ends on the same operations: the adapter of pyfuse3 without a kernel, and one in memory."""

import errno
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from types import SimpleNamespace
from typing import NamedTuple, cast

import pyfuse3
import pytest
import trio

from meshfs.fuse.front import FrontEnd
from meshfs.fuse.gone_pages import GonePages
from meshfs.fuse.handles import OpenFiles
from meshfs.fuse.operations import UNSERVED, Operations
from meshfs.fuse.pyfuse3_front.adapter import Adapter
from meshfs.fuse.pyfuse3_front.session import serve
from meshfs.fuse.transfers import Transfers
from meshfs.fuse.types import AttributeChange
from meshfs.namespace.catalog import Catalog
from meshfs.namespace.tree import ROOT_INODE, MeshTree
from meshlab.fakes.enclosure_port import FakeEnclosurePort
from meshlab.fakes.port import FakePort, fake_disk

SIZE = 64 * 1024


class Caller(NamedTuple):
    uid: int = 0
    gid: int = 0
    pid: int = 0


class Bench:
    """Holds the operations of a mount with one disk."""

    def __init__(self) -> None:
        self.info = fake_disk("n1", "a", SIZE)
        self.port = FakePort(self.info)
        self.catalog = Catalog(["n1"])
        self.catalog.announce("n1", [self.info])
        self.tree = MeshTree(["n1"], 1)
        self.tree.update(self.catalog.disks, 2)
        self.gone = GonePages()
        self.operations = Operations(
            self.tree, lambda info: self.port, FakeEnclosurePort, lambda whole: b"{}", OpenFiles(), self.gone
        )
        self.path = f"/disk/by-id/{self.info.id}"


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- pyfuse3's adapter --------------------------------------------------------------------

CTX = cast(pyfuse3.RequestContext, Caller())


async def refused(awaitable: Awaitable[object]) -> int:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await awaitable
    return caught.value.errno


async def opened(adapter: Adapter, path: str) -> tuple[int, int]:
    """Open a path for reading and writing. Return its inode and the number of the open."""
    inode: int = ROOT_INODE
    for name in path.strip("/").split("/"):
        inode = (await adapter.lookup(inode, name.encode(), CTX)).st_ino
    return inode, (await adapter.open(inode, os.O_RDWR, CTX)).fh


def fields(*changed: str) -> pyfuse3.SetattrFields:
    every = ("size", "mode", "uid", "gid", "atime", "mtime", "ctime")
    return cast(pyfuse3.SetattrFields, SimpleNamespace(**{f"update_{name}": name in changed for name in every}))


async def test_pyfuse3_calls_the_methods_of_the_hot_path_themselves(bench: Bench) -> None:
    adapter = Adapter(bench.operations)
    assert Adapter.read is Transfers.read
    assert Adapter.write is Transfers.write
    _, fh = await opened(adapter, bench.path)
    assert await adapter.write(fh, 100, b"hello") == 5
    assert bytes(await adapter.read(fh, 99, 7)) == b"\0hello\0"


async def test_pyfuse3_gets_its_own_error_for_each_that_operations_raise(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = Adapter(bench.operations)
    inode, fh = await opened(adapter, bench.path)
    assert await refused(adapter.write(fh, SIZE, b"x")) == errno.ENOSPC
    assert await refused(adapter.lookup(inode, b"x", CTX)) == errno.ENOTDIR
    assert await refused(adapter.getxattr(inode, b"security.capability", CTX)) == errno.ENODATA
    for error, number in (
        (OSError(errno.EROFS, ""), errno.EROFS),
        (TimeoutError("late"), errno.ETIMEDOUT),
        (ConnectionError("gone"), errno.EIO),
        (ZeroDivisionError("bug"), errno.EIO),
    ):
        bench.port.bug = error
        with caplog.at_level(logging.ERROR):
            caplog.clear()
            assert await refused(adapter.read(fh, 0, 1)) == number
            assert await refused(adapter.write(fh, 0, b"x")) == number
            assert await refused(adapter.fsync(fh, False)) == number
        assert len(caplog.records) == (0 if isinstance(error, OSError) else 3)


@pytest.mark.parametrize(("name", "number"), UNSERVED.items())
async def test_requests_that_no_operation_serves_are_refused(bench: Bench, name: str, number: int) -> None:
    refusal: Callable[..., Awaitable[object]] = getattr(Adapter(bench.operations), name)
    assert await refused(refusal(ROOT_INODE, b"disk", CTX)) == number


def test_every_request_of_pyfuse3_has_an_answer(bench: Bench) -> None:
    requests = {name for name, of in vars(pyfuse3.Operations).items() if callable(of) and not name.startswith("_")}
    adapter = Adapter(bench.operations)
    assert {name for name in requests if not hasattr(adapter, name)} == {"stacktrace"}


async def test_pyfuse3_gets_the_attributes(bench: Bench) -> None:
    adapter = Adapter(bench.operations)
    inode, _ = await opened(adapter, bench.path)
    entry = await adapter.getattr(inode, CTX)
    of = await bench.operations.getattr(inode)
    assert (entry.st_ino, entry.st_mode, entry.st_nlink) == (inode, of.mode, 1)
    assert (entry.st_uid, entry.st_gid) == (0, of.gid)
    assert (entry.st_size, entry.st_blocks, entry.st_blksize) == (SIZE, SIZE // 512, 4096)
    assert entry.st_mtime_ns == entry.st_ctime_ns == entry.st_atime_ns == of.changed_ns
    assert (entry.entry_timeout, entry.attr_timeout) == (of.name_valid_s, 0)
    statistics = await adapter.statfs(CTX)
    assert (statistics.f_bsize, statistics.f_blocks, statistics.f_namemax) == (4096, 0, 255)


async def test_modes_and_owners_stay_and_times_are_taken_in_silence(bench: Bench) -> None:
    adapter = Adapter(bench.operations)
    inode, fh = await opened(adapter, bench.path)
    before = await adapter.getattr(inode, CTX)
    wanted = pyfuse3.EntryAttributes()
    wanted.st_size = SIZE // 2
    after = await adapter.setattr(inode, wanted, fields("mtime", "atime"), None, CTX)
    assert after.st_mtime_ns == before.st_mtime_ns
    for name in ("mode", "uid", "gid"):
        assert await refused(adapter.setattr(inode, wanted, fields(name), None, CTX)) == errno.EPERM
    assert (await adapter.setattr(inode, wanted, fields("size"), fh, CTX)).st_size == SIZE
    await adapter.write(fh, SIZE - 1, b"x")
    assert bench.port.calls[0] == ("zero", SIZE // 2, SIZE // 2 - 1, False)


async def test_the_page_cache_is_dropped_at_every_open(bench: Bench) -> None:
    adapter = Adapter(bench.operations)
    inode, _ = await opened(adapter, bench.path)
    for page_cache in (True, False):
        bench.operations.page_cache = page_cache
        info = await adapter.open(inode, os.O_RDONLY, CTX)
        assert (bool(info.direct_io), info.keep_cache) == (not page_cache, False)


# --- a front end in memory ----------------------------------------------------------------


class MemoryPages:
    """Stands in for the pages of a kernel that caches nothing, and notes which pages it is asked to drop."""

    def __init__(self) -> None:
        self.dropped: list[int] = []

    async def drop(self, inode: int, start: int, stop: int, timeout_s: float) -> None:
        self.dropped.append(inode)

    async def drop_file(self, inode: int) -> None:
        self.dropped.append(inode)


class MemoryFront:
    """A front end whose kernel is the test. ``program`` uses the mount, and the mount ends with it."""

    def __init__(self, program: Callable[[Operations, Transfers], Awaitable[None]]) -> None:
        self._program = program
        self.pages = MemoryPages()
        self.mounted: tuple[str, set[str]] | None = None

    async def __call__(
        self, operations: Operations, mountpoint: str, options: Iterable[str], *, on_ready: Callable[[], None]
    ) -> None:
        self.mounted = (mountpoint, set(options))
        async with trio.open_nursery() as nursery:
            await nursery.start(operations.run, self.pages)
            on_ready()
            await self._program(operations, Transfers(operations.files.by_number))
            nursery.cancel_scope.cancel()


def inode_of(operations: Operations, path: str) -> int:
    inode = ROOT_INODE
    for name in path.strip("/").split("/"):
        inode = operations.lookup(inode, name.encode()).inode
    return inode


async def test_another_front_end_serves_the_same_operations(bench: Bench) -> None:
    async def program(operations: Operations, transfers: Transfers) -> None:
        inode = inode_of(operations, bench.path)
        file = await operations.open(inode, os.O_RDWR, Caller())
        assert await transfers.write(file.number, 100, b"hello") == 5
        assert bytes(await transfers.read(file.number, 99, 7)) == b"\0hello\0"
        await operations.fsync(file.number)
        changed = await operations.setattr(inode, AttributeChange(size_bytes=10), file.number, Caller())
        assert changed.size_bytes == SIZE
        await transfers.write(file.number, 20, b"x")
        assert bytes(bench.port.data[10:21]) == bytes(10) + b"x"
        assert inode in memory.pages.dropped
        folder = operations.opendir(inode_of(operations, "/disk/by-node/n1"))
        assert [name for name, _, _ in operations.readdir(folder, 0)] == [b".", b"..", b"a"]
        with pytest.raises(OSError, match="No space left"):
            await transfers.write(file.number, SIZE, b"x")
        await operations.release(file.number)
        memory.pages.dropped.clear()
        bench.gone.add(bench.tree.update({}, 3))
        with trio.fail_after(10):
            while memory.pages.dropped != [inode]:
                await trio.lowlevel.checkpoint()

    ready: list[bool] = []
    memory = MemoryFront(program)
    fronts: list[FrontEnd] = [serve, memory]
    await fronts[1](bench.operations, "/mesh", ["subtype=meshfs"], on_ready=lambda: ready.append(True))
    assert ready
    assert memory.mounted == ("/mesh", {"subtype=meshfs"})
    assert bench.operations.files.of_disk.total() == 0

"""FUSE operations on a tree whose ports are in memory. The tests call them as a front end does."""

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import trio
import trio.testing

from meshfs import bugs, limits
from meshfs.fuse.errors import FuseError
from meshfs.fuse.gone_pages import GonePages
from meshfs.fuse.handles import OpenFiles
from meshfs.fuse.operations import UNSERVED, Operations
from meshfs.fuse.transfers import Transfers
from meshfs.fuse.types import AttributeChange
from meshfs.linux import ioprio
from meshfs.model import Access, DiskInfo, IoClass
from meshfs.namespace.catalog import Catalog
from meshfs.namespace.tree import ROOT_INODE, MeshTree
from meshlab.fakes.enclosure_port import FakeEnclosurePort
from meshlab.fakes.port import FakeHandle, FakePort, fake_disk

SIZE = 64 * 1024


class Caller(NamedTuple):
    """Identifies the caller of an operation. ``pid`` is the id of a thread."""

    pid: int = 0
    uid: int = 0
    gid: int = 0


ROOT = Caller()


class Bench:
    """Holds the operations of a mount with two disks, and short calls of them."""

    def __init__(self, **options: Any) -> None:
        self.info = fake_disk("n1", "a", SIZE)
        self.read_only = fake_disk("n1", "b", SIZE, access=Access.READ_ONLY)
        self.ports = {info.id: FakePort(info) for info in (self.info, self.read_only)}
        self.port = self.ports[self.info.id]
        self.catalog = Catalog(["n1"])
        self.catalog.announce("n1", [self.info, self.read_only])
        self.tree = MeshTree(["n1"], 1)
        self.tree.update(self.catalog.disks, 2)
        self.operations = Operations(
            self.tree,
            lambda info: self.ports[info.id],
            FakeEnclosurePort,
            lambda whole: b"{}",
            OpenFiles(),
            GonePages(),
            **options,
        )
        self.transfers = Transfers(self.operations.files.by_number)

    def inode(self, path: str) -> int:
        inode = ROOT_INODE
        for name in filter(None, path.split("/")):
            inode = self.operations.lookup(inode, name.encode()).inode
        return inode

    async def open(self, flags: int = os.O_RDWR, info: DiskInfo | None = None) -> int:
        inode = self.inode(f"/disk/by-id/{(info or self.info).id}")
        return (await self.operations.open(inode, flags, ROOT)).number


async def refused(awaitable: Awaitable[object]) -> int | None:
    with pytest.raises(OSError) as caught:  # noqa: PT011
        await awaitable
    return caught.value.errno


def refused_at_once(call: Callable[..., object], *args: object) -> int | None:
    with pytest.raises(FuseError) as caught:
        call(*args)
    return caught.value.errno


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_read_returns_the_bytes_of_the_last_write(bench: Bench) -> None:
    fh = await bench.open()
    assert await bench.transfers.write(fh, 100, b"hello") == 5
    assert bytes(await bench.transfers.read(fh, 99, 7)) == b"\0hello\0"
    await bench.operations.fsync(fh)
    assert bench.port.calls == [("write", 100, 5, False), ("read", 99, 7, None), ("flush", 0, 0, None)]
    assert bench.operations.files.of_disk[bench.info.id] == 1
    await bench.operations.release(fh)
    assert bench.operations.files.of_disk[bench.info.id] == 0
    assert bench.port.handles == 0


async def test_io_at_the_end_of_the_disk_is_cut_or_refused(bench: Bench) -> None:
    fh = await bench.open()
    assert bytes(await bench.transfers.read(fh, SIZE, 10)) == b""
    assert await bench.transfers.write(fh, SIZE - 3, b"abcdef") == 3
    assert bytes(bench.port.data[-3:]) == b"abc"
    assert await refused(bench.transfers.write(fh, SIZE, b"x")) == errno.ENOSPC
    assert await refused(bench.transfers.write(fh, SIZE + 5, b"x")) == errno.ENOSPC
    assert len(bench.port.calls) == 2


async def test_an_open_that_finds_its_disk_grown_writes_up_to_the_new_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_port, grown = bench.port.open, replace(bench.info, size_bytes=2 * SIZE)

    async def open_and_learn(io_class: IoClass, *, writable: bool) -> FakeHandle:
        bench.port.data += bytes(SIZE)
        bench.catalog.announce("n1", [grown, bench.read_only])
        bench.tree.update(bench.catalog.disks, 3)
        return await open_port(io_class, writable=writable)

    monkeypatch.setattr(bench.port, "open", open_and_learn)
    fh = await bench.open()
    assert await bench.transfers.write(fh, 2 * SIZE - 3, b"end") == 3
    assert bytes(bench.port.data[-3:]) == b"end"
    assert await refused(bench.transfers.write(fh, 2 * SIZE, b"x")) == errno.ENOSPC


@pytest.mark.parametrize(
    ("flags", "write_through"), [(0, False), (os.O_DSYNC, True), (os.O_SYNC, True), (os.O_DIRECT, False)]
)
async def test_synchronous_opens_write_through(bench: Bench, flags: int, write_through: bool) -> None:
    fh = await bench.open(os.O_WRONLY | flags)
    await bench.transfers.write(fh, 0, b"x")
    assert bench.port.calls == [("write", 0, 1, write_through)]


async def resize(bench: Bench, size: int, fh: int | None, pid: int = 0) -> int:
    """Set a size with SETATTR, and return the size in the answer."""
    inode = bench.inode(f"/disk/by-id/{bench.info.id}")
    return (await bench.operations.setattr(inode, AttributeChange(size), fh, Caller(pid))).size_bytes


async def open_by(bench: Bench, pid: int) -> int:
    inode = bench.inode(f"/disk/by-id/{bench.info.id}")
    return (await bench.operations.open(inode, os.O_RDWR, Caller(pid))).number


def changes(bench: Bench) -> list[tuple[str, int, int]]:
    return [(kind, offset, size) for kind, offset, size, _ in bench.port.calls]


async def test_bytes_that_an_opener_skips_after_o_trunc_are_zeroed_before_its_write(bench: Bench) -> None:
    """The kernel sends O_TRUNC as a SETATTR without a handle, from the thread that opened the file."""
    fh, other = await open_by(bench, 71), await open_by(bench, 72)
    assert await resize(bench, 0, None, pid=71) == SIZE
    assert bench.port.calls == []
    for offset in (100, 103, 300):
        await bench.transfers.write(fh, offset, b"abc")
        await bench.transfers.write(other, offset + 2000, b"abc")
    theirs = [("write", offset, 3) for offset in (2100, 2103, 2300)]
    assert [each for each in changes(bench) if each not in theirs] == [
        ("zero", 0, 100),
        ("write", 100, 3),
        ("write", 103, 3),
        ("zero", 106, 194),
        ("write", 300, 3),
    ]


async def test_o_trunc_in_the_flags_of_the_open_counts_as_well(bench: Bench) -> None:
    """A kernel sends O_TRUNC in the flags if the front end did not ask for a SETATTR of its own."""
    fh = await bench.open(os.O_RDWR | os.O_TRUNC)
    await bench.transfers.write(fh, 5, b"x")
    assert changes(bench) == [("zero", 0, 5), ("write", 5, 1)]


async def test_ftruncate_keeps_the_size_and_zeroes_up_to_the_new_end(bench: Bench) -> None:
    fh = await bench.open()
    assert await resize(bench, 1000, fh) == SIZE
    assert await resize(bench, 500, fh) == SIZE
    assert changes(bench) == []
    assert await resize(bench, 2000, fh) == SIZE
    assert changes(bench) == [("zero", 500, 1500)]
    assert await refused(resize(bench, SIZE + 1, fh)) == errno.EFBIG
    assert await resize(bench, SIZE, fh) == SIZE
    assert changes(bench)[1:] == [("zero", 2000, SIZE - 2000)]


async def test_truncate_by_path_needs_an_opener_of_the_same_thread(bench: Bench) -> None:
    fh = await open_by(bench, 71)
    assert await refused(resize(bench, 0, None, pid=72)) == errno.EPERM
    assert await resize(bench, SIZE, None, pid=72) == SIZE
    await bench.transfers.write(fh, 5, b"x")
    assert changes(bench) == [("write", 5, 1)]
    assert await resize(bench, 2, None, pid=71) == SIZE
    await bench.transfers.write(fh, 5, b"x")
    assert changes(bench)[1:] == [("zero", 2, 3), ("write", 5, 1)]
    await bench.operations.release(fh)
    assert await refused(resize(bench, 0, None, pid=71)) == errno.EPERM


async def test_openers_of_foreign_pid_namespaces_are_not_taken_for_each_other(bench: Bench) -> None:
    await open_by(bench, 0)
    await open_by(bench, 0)
    assert await refused(resize(bench, 0, None)) == errno.EBUSY


async def test_a_read_only_disk_is_not_truncated(bench: Bench) -> None:
    fh = await bench.open(os.O_RDONLY, bench.read_only)
    assert await refused(resize(bench, 0, fh)) == errno.EROFS


async def test_a_long_gap_is_zeroed_in_several_calls_and_finished_parts_are_kept(bench: Bench) -> None:
    fh = await bench.open(os.O_RDWR | os.O_TRUNC)
    bench.port.zero_max_bytes = 400
    bench.port.error_after = 2
    assert await refused(bench.transfers.write(fh, 1000, b"x")) == errno.EIO
    assert changes(bench) == [("zero", 0, 400), ("zero", 400, 400), ("zero", 800, 200)]
    bench.port.error_after = None
    bench.port.calls.clear()
    await bench.transfers.write(fh, 1000, b"x")
    assert changes(bench) == [("zero", 800, 200), ("write", 1000, 1)]


async def test_a_synchronous_opener_zeroes_through(bench: Bench) -> None:
    fh = await bench.open(os.O_RDWR | os.O_TRUNC | os.O_DSYNC)
    await bench.transfers.write(fh, 10, b"x")
    assert bench.port.calls == [("zero", 0, 10, True), ("write", 10, 1, True)]


async def test_a_write_in_a_gap_waits_until_it_is_zeroed(bench: Bench) -> None:
    fh = await bench.open(os.O_RDWR | os.O_TRUNC)
    bench.port.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        for offset in (1000, 500, 2000):
            nursery.start_soon(bench.transfers.write, fh, offset, b"data")
            await trio.testing.wait_all_tasks_blocked()
        # One gap is being zeroed. The two other writes wait, the third because bytes below it are still old.
        assert changes(bench) == [("zero", 0, 1000)]
        bench.port.gate.set()
    assert bytes(bench.port.data[:2004]) == bytes(500) + b"data" + bytes(496) + b"data" + bytes(996) + b"data"


async def test_modes_and_owners_stay(bench: Bench) -> None:
    inode = bench.inode(f"/disk/by-id/{bench.info.id}")
    before = await bench.operations.getattr(inode)
    assert await bench.operations.setattr(inode, AttributeChange(), None, ROOT) == before
    change = AttributeChange(protection=True)
    assert await refused(bench.operations.setattr(inode, change, None, ROOT)) == errno.EPERM
    assert await bench.operations.getattr(inode) == before


async def test_a_read_only_disk(bench: Bench) -> None:
    for flags in (os.O_RDWR, os.O_WRONLY):
        assert await refused(bench.open(flags, bench.read_only)) == errno.EROFS
    await bench.open(os.O_RDONLY, bench.read_only)
    fh = await bench.open(os.O_RDONLY, bench.read_only)
    await bench.operations.fsync(fh)
    assert bench.ports[bench.read_only.id].opened == [(IoClass.APP, False)] * 2
    assert bench.ports[bench.read_only.id].calls == []


@pytest.mark.parametrize(
    ("idle", "mount", "expected"),
    [
        (False, IoClass.APP, IoClass.APP),
        (True, IoClass.APP, IoClass.SYSTEM),
        (False, IoClass.SYSTEM, IoClass.SYSTEM),
    ],
)
async def test_the_class_is_chosen_at_open(
    monkeypatch: pytest.MonkeyPatch, idle: bool, mount: IoClass, expected: IoClass
) -> None:
    monkeypatch.setattr(ioprio, "is_idle", lambda pid: idle)
    bench = Bench(io_class=mount)
    await bench.open(os.O_RDONLY)
    assert bench.port.opened == [(expected, False)]


async def test_the_page_cache_is_dropped_at_open_or_never_used() -> None:
    for page_cache in (True, False):
        bench = Bench(page_cache=page_cache)
        opened = await bench.operations.open(bench.inode(f"/disk/by-id/{bench.info.id}"), os.O_RDONLY, ROOT)
        assert opened.direct is not page_cache


@pytest.mark.parametrize("number", [errno.EIO, errno.ETIMEDOUT, errno.ENOSPC, errno.EROFS])
async def test_errors_of_the_port_reach_the_caller(bench: Bench, number: int) -> None:
    fh = await bench.open()
    bench.port.error = bench.port.open_error = number
    assert await refused(bench.transfers.read(fh, 0, 1)) == number
    assert await refused(bench.transfers.write(fh, 0, b"x")) == number
    assert await refused(bench.operations.fsync(fh)) == number
    assert await refused(bench.open()) == number


@pytest.mark.parametrize(
    ("error", "number"), [(TimeoutError("late"), errno.ETIMEDOUT), (ConnectionError("gone"), errno.EIO)]
)
async def test_an_error_without_a_number(bench: Bench, error: OSError, number: int) -> None:
    fh = await bench.open()
    bench.port.bug = error
    assert await refused(bench.transfers.read(fh, 0, 1)) == number


async def test_a_bug_is_eio_with_one_traceback(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another test in this process may have reported the same bug already.
    monkeypatch.setattr(bugs, "_seen", {})
    fh = await bench.open()
    bench.port.bug = ZeroDivisionError("bug")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert await refused(bench.transfers.read(fh, 0, 1)) == errno.EIO
    assert len(caplog.records) == 3
    assert [record.exc_info is not None for record in caplog.records] == [True, False, False]


async def test_attributes_of_a_disk(bench: Bench) -> None:
    attributes = await bench.operations.getattr(bench.inode(f"/disk/by-id/{bench.info.id}"))
    assert (attributes.size_bytes, attributes.blocks, attributes.preferred_io_bytes) == (SIZE, SIZE // 512, 4096)
    assert attributes.links == 1
    assert (attributes.name_valid_s, attributes.attributes_valid_s) == (limits.FUSE_ATTRIBUTES_VALID_S, 0)
    link = bench.operations.lookup(bench.inode("/disk/by-node/n1"), b"a")
    assert (link.size_bytes, link.blocks) == (len("../../by-id/meshfs-n1-a"), 0)
    root = await bench.operations.getattr(ROOT_INODE)
    assert (
        root.links == 5
    )  # The links are the root itself, its name, and the folders disk, enclosure and the hidden one.


def test_extended_attributes(bench: Bench) -> None:
    inode = bench.inode(f"/disk/by-id/{bench.info.id}")
    names = bench.operations.listxattr(inode, ROOT)
    assert b"user.meshfs.id" in names
    for name in names:
        assert bench.operations.getxattr(inode, name)
    assert bench.operations.getxattr(inode, b"user.meshfs.state") == b"ok"
    assert bench.operations.getxattr(inode, b"user.other") is None
    assert bench.operations.getxattr(inode, b"security.capability") is None
    assert bench.operations.listxattr(ROOT_INODE, ROOT) == []
    assert UNSERVED["setxattr"] == UNSERVED["removexattr"] == errno.EPERM


async def test_missing_names_and_removed_files_have_their_errno(bench: Bench) -> None:
    inode = bench.inode(f"/disk/by-id/{bench.info.id}")
    link = bench.inode("/disk/by-node/n1/a")
    assert bench.operations.readlink(link) == b"../../by-id/meshfs-n1-a"
    assert refused_at_once(bench.operations.readlink, inode) == errno.EINVAL
    assert refused_at_once(bench.operations.lookup, inode, b"x") == errno.ENOTDIR
    assert refused_at_once(bench.inode, "/disk/nothing") == errno.ENOENT
    fh = await bench.open()
    bench.tree.update({}, 3)
    assert await refused(bench.operations.open(inode, os.O_RDONLY, ROOT)) == errno.ESTALE
    assert await bench.transfers.write(fh, 0, b"still open") == 10
    await bench.operations.release(fh)
    assert await refused(bench.operations.getattr(inode)) == errno.ESTALE


async def test_the_attributes_of_an_open_disk_that_was_removed_are_no_such_device(bench: Bench) -> None:
    """The kernel asks for attributes before it reads. ESTALE would say that another disk has the name now."""
    inode = bench.inode(f"/disk/by-id/{bench.info.id}")
    await bench.open()
    bench.tree.update({}, 3)
    assert await refused(bench.operations.getattr(inode)) == errno.ENODEV
    bench.catalog.announce("n1", [replace(bench.info, instance="another")])
    bench.tree.update(bench.catalog.disks, 4)
    assert await refused(bench.operations.getattr(inode)) == errno.ESTALE


async def test_an_open_that_finds_another_disk_is_tried_again_by_the_kernel(bench: Bench) -> None:
    """The port finds the other disk first. Its open must not share an inode with opens of the old disk."""
    inode = bench.inode(f"/disk/by-id/{bench.info.id}")

    async def open_and_learn(io_class: IoClass, *, writable: bool) -> FakeHandle:
        bench.catalog.announce("n1", [replace(bench.info, instance="another"), bench.read_only])
        bench.tree.update(bench.catalog.disks, 3)
        return await FakePort.open(bench.port, io_class, writable=writable)

    bench.catalog.announce("n1", [replace(bench.info, instance="one"), bench.read_only])
    bench.tree.update(bench.catalog.disks, 3)
    bench.port.open = open_and_learn  # type: ignore[method-assign]
    assert await refused(bench.operations.open(inode, os.O_RDWR, ROOT)) == errno.ESTALE
    assert bench.port.handles == 0
    again = bench.inode(f"/disk/by-id/{bench.info.id}")
    assert again != inode
    await bench.operations.open(again, os.O_RDWR, ROOT)


async def test_the_status_is_one_document_per_open(bench: Bench) -> None:
    opened = await bench.operations.open(bench.inode("/.meshfs/status"), os.O_RDONLY, ROOT)
    assert opened.direct
    assert await bench.transfers.read(opened.number, 0, 1) == b"{"
    assert await bench.transfers.read(opened.number, 1, 100) == b"}"
    assert await refused(bench.transfers.write(opened.number, 0, b"x")) == errno.ENOSPC
    await bench.operations.release(opened.number)
    assert bench.operations.files.of_disk.total() == 0


def test_a_listing_in_pieces_shows_no_name_twice_while_the_tree_changes(bench: Bench) -> None:
    fh = bench.operations.opendir(bench.inode("/disk/by-id"))
    first, *_ = bench.operations.readdir(fh, 0)
    bench.tree.update({}, 3)
    rest = [name for name, _, _ in bench.operations.readdir(fh, first[2])]
    assert [first[0], *rest] == [b".", b"..", b"meshfs-n1-a", b"meshfs-n1-b"]
    assert [name for name, _, _ in bench.operations.readdir(fh, 0)] == [b".", b".."]
    bench.operations.releasedir(fh)


def test_the_tree_cannot_be_changed() -> None:
    changes = {"mknod", "mkdir", "unlink", "rmdir", "symlink", "rename", "link", "create"}
    assert {name for name, number in UNSERVED.items() if number == errno.EPERM} >= changes
    assert not any(hasattr(Operations, name) for name in UNSERVED)


def test_the_operations_and_the_mount_stand_without_pyfuse3() -> None:
    """A process that cannot import pyfuse3 has everything but the front end."""
    program = (
        "import sys; sys.modules['pyfuse3'] = None\n"
        "import meshfs.fuse.operations, meshfs.fuse.transfers, meshfs.fuse.front, meshfs.mount.process\n"
        "try: import meshfs.fuse.pyfuse3_front.session\n"
        "except ImportError: print('only the front end needs it')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "only the front end needs it\n"

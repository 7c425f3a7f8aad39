"""FUSE operations on the files of enclosures, with a port in memory."""

import errno
import os
import stat
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from meshfs.enclosure_info import EnclosureInfo, SlotInfo
from meshfs.fuse.errors import FuseError
from meshfs.fuse.gone_pages import GonePages
from meshfs.fuse.handles import OpenFiles
from meshfs.fuse.operations import Operations
from meshfs.fuse.transfers import Transfers
from meshfs.fuse.types import AttributeChange
from meshfs.model import Access
from meshfs.namespace.catalog import Catalog
from meshfs.namespace.enclosures import EnclosureCatalog
from meshfs.namespace.tree import ROOT_INODE, MeshTree
from meshlab.fakes.enclosure_port import FakeEnclosurePort, fake_enclosure
from meshlab.fakes.port import FakePort, fake_disk

PAGE = bytes((2, 0, 0, 8)) + bytes(8)


class Caller(NamedTuple):
    uid: int = 0
    gid: int = 0
    pid: int = 0


class Bench:
    """Holds the operations of a mount with an enclosure that may be controlled, and one that may only be read."""

    def __init__(self) -> None:
        slots = (SlotInfo("07", status="ok", locate=True, disk="meshfs-n1-a"),)
        self.shelf = fake_enclosure("n1", "shelf", slots=slots, size_bytes=100)
        self.read_only = fake_enclosure("n1", "other", access=Access.READ_ONLY, size_bytes=50)
        self.disk = replace(fake_disk("n1", "a", 4096), enclosure=self.shelf.id, slot="07")
        self.ports = {info.id: FakeEnclosurePort(info) for info in (self.shelf, self.read_only)}
        self.port = self.ports[self.shelf.id]
        self.tree = MeshTree(["n1"], 1)
        self.show(self.shelf, self.read_only)
        self.operations = Operations(
            self.tree,
            lambda info: FakePort(info),
            lambda info: self.ports[info.id],
            lambda whole: b"{}",
            OpenFiles(),
            GonePages(),
            disk_gid=6,
        )
        self.transfers = Transfers(self.operations.files.by_number)

    def show(self, *infos: EnclosureInfo) -> None:
        disks, enclosures = Catalog(["n1"]), EnclosureCatalog(["n1"])
        disks.announce("n1", [self.disk])
        enclosures.announce("n1", infos)
        self.tree.update(disks.disks, 2, enclosures.enclosures)

    def inode(self, path: str) -> int:
        inode = ROOT_INODE
        for name in filter(None, path.split("/")):
            inode = self.operations.lookup(inode, name.encode()).inode
        return inode

    def file(self, name: str = "shelf") -> int:
        return self.inode(f"/enclosure/by-id/enc-n1-{name}")

    async def open(self, flags: int = os.O_RDONLY, name: str = "shelf") -> int:
        opened = await self.operations.open(self.file(name), flags, Caller())
        assert opened.direct
        return opened.number


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def refused(awaitable: Awaitable[Any]) -> int | None:
    with pytest.raises(OSError) as caught:  # noqa: PT011
        await awaitable
    return caught.value.errno


async def test_an_open_reads_one_content(bench: Bench) -> None:
    bench.port.content = bytes(range(100))
    fh = await bench.open()
    bench.port.content = b"changed"
    assert bytes(await bench.transfers.read(fh, 90, 50)) == bytes(range(90, 100))
    assert bytes(await bench.transfers.read(fh, 100, 50)) == b""
    assert bytes(await bench.transfers.read(await bench.open(), 0, 50)) == b"changed"
    assert bench.port.reads == 2
    await bench.operations.fsync(fh)
    await bench.operations.release(fh)
    assert bench.operations.files.of_disk.total() == 0


async def test_a_write_is_one_control_page_and_the_next_read_is_new(bench: Bench) -> None:
    fh = await bench.open(os.O_RDWR)
    before = bytes(await bench.transfers.read(fh, 0, 1 << 20))
    assert await bench.transfers.write(fh, 0, memoryview(PAGE)) == len(PAGE)
    assert bench.port.pages == [PAGE]
    assert bytes(await bench.transfers.read(fh, 0, 1 << 20)) == before + PAGE
    assert bench.port.reads == 2
    # A page is longer than the file here, and is not cut at its end.
    assert await bench.transfers.write(fh, 0, bytes(5000)) == 5000
    assert await refused(bench.transfers.write(fh, len(PAGE), PAGE)) == errno.EINVAL
    assert len(bench.port.pages) == 2


async def test_an_open_to_write_only_reads_nothing(bench: Bench) -> None:
    fh = await bench.open(os.O_WRONLY | os.O_TRUNC | os.O_SYNC)
    await bench.operations.setattr(bench.file(), AttributeChange(size_bytes=0), None, Caller())
    assert await bench.transfers.write(fh, 0, PAGE) == len(PAGE)
    assert (bench.port.reads, bench.port.pages) == (0, [PAGE])


async def test_truncations_change_nothing(bench: Bench) -> None:
    fh = await bench.open(os.O_RDWR)
    for size in (0, 5, 1 << 40):
        shown = await bench.operations.setattr(bench.file(), AttributeChange(size_bytes=size), fh, Caller())
        assert shown.size_bytes == 100
    change = AttributeChange(size_bytes=0)
    assert await refused(bench.operations.setattr(bench.file("other"), change, None, Caller())) == errno.EROFS
    assert await refused(bench.operations.setattr(bench.file(), AttributeChange(protection=True), None, Caller()))


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR])
async def test_without_the_right_to_control_an_open_for_writing_is_refused(bench: Bench, flags: int) -> None:
    assert await refused(bench.open(flags, "other")) == errno.EROFS
    assert bytes(await bench.transfers.read(await bench.open(os.O_RDONLY, "other"), 0, 10)) == bytes(10)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ESTALE, errno.EACCES, errno.ETIMEDOUT, errno.EIO])
async def test_the_errno_of_the_owner_reaches_the_caller(bench: Bench, number: int) -> None:
    fh = await bench.open(os.O_RDWR)
    bench.port.error = number
    assert await refused(bench.transfers.write(fh, 0, PAGE)) == number
    # The page may have been carried out, so the content is not what it was.
    assert await refused(bench.transfers.read(fh, 0, 10)) == number
    assert await refused(bench.open()) == number
    bench.port.error = None
    assert len(bytes(await bench.transfers.read(fh, 0, 1000))) == 100


async def test_io_of_an_enclosure_that_is_gone_fails_at_once(bench: Bench) -> None:
    fh = await bench.open(os.O_RDWR)
    inode = bench.file()
    bench.port.gone = True
    assert await refused(bench.transfers.read(fh, 0, 10)) == errno.ENODEV
    assert await refused(bench.transfers.write(fh, 0, PAGE)) == errno.ENODEV
    bench.show(bench.read_only)
    assert await refused(bench.operations.open(inode, os.O_RDONLY, Caller())) == errno.ESTALE
    with pytest.raises(FuseError):
        bench.file()


async def test_attributes_are_those_of_the_announcement(bench: Bench) -> None:
    shown = await bench.operations.getattr(bench.file())
    assert (shown.mode, shown.gid, shown.size_bytes, shown.changed_ns) == (
        stat.S_IFREG | 0o660,
        6,
        100,
        bench.shelf.changed_ns,
    )
    assert (await bench.operations.getattr(bench.file("other"))).mode == stat.S_IFREG | 0o440
    bench.show(replace(bench.shelf, size_bytes=7, changed_ns=bench.shelf.changed_ns + 1))
    later = await bench.operations.getattr(bench.file())
    assert (later.size_bytes, later.changed_ns, later.attributes_valid_s) == (7, bench.shelf.changed_ns + 1, 0)


async def test_extended_attributes_depend_on_the_right_to_read(bench: Bench) -> None:
    inode = bench.file()
    assert bench.operations.getxattr(inode, b"user.meshfs.slot.07") == b"ok locate disk=meshfs-n1-a"
    assert bench.operations.getxattr(inode, b"system.meshfs.state") == b"ok"
    assert bench.operations.getxattr(inode, b"security.capability") is None
    assert b"user.meshfs.slot.07" in bench.operations.listxattr(inode, Caller(uid=0))
    others = bench.operations.listxattr(inode, Caller(uid=1000, gid=1000))
    assert b"system.meshfs.slot.07" in others
    assert not [name for name in others if name.startswith(b"user.")]


async def test_the_kernel_asks_for_a_symlink_at_each_use(bench: Bench) -> None:
    """A disk that moved to another slot must not be found in the old one."""
    folder = bench.inode(f"/disk/by-enclosure/{bench.shelf.id}")
    link = bench.operations.lookup(folder, b"07")
    assert (link.name_valid_s, link.attributes_valid_s) == (0, 0)
    assert bench.operations.readlink(link.inode) == b"../../by-id/meshfs-n1-a"

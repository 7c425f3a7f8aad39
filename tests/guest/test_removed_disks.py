"""Disks are removed under a mount and come back. The mount shows their state, fails with the right errors, and goes on.

The config names each disk by a symlink, as /dev/disk/by-id does. The test points the symlink at the device as udev
would.
"""

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster, LocalDisk, tracebacks
from support.commands import run, until
from support.guest_disks import Removal, await_disk, await_disks

pytestmark = pytest.mark.guest

#: The kinds of disks, each with the beginning of its serial number or model.
KINDS = {"virtio-blk": "virtio-blk-", "virtio-scsi": "virtio-scsi-", "nvme": "nvme-", "scsi-debug": "scsi_debug"}
BLOCK_BYTES = 4096
#: The exporter looks at its disks every few seconds, and the emulated machine needs time for it.
SHOWN_WITHIN_S = 60.0
REMOVED = (errno.EIO, errno.ENODEV)


@dataclass
class Mesh:
    """n1 has a disk of each kind, and n2 mounts them."""

    cluster: LocalCluster
    links: Path
    mountpoint: Path
    #: Says whether a removed disk comes back under another name. The kernel does not reuse the name while somebody has
    #: the removed device open. Otherwise the disk may have either name, because the exporter closes the device at some
    #: time.
    renames: bool

    def path(self, kind: str) -> Path:
        return self.mountpoint / "disk/by-node/n1" / kind

    def point(self, kind: str, device: Path) -> None:
        """Let the disk's symlink lead to the device."""
        new = self.links / "new"
        new.symlink_to(device)
        new.rename(self.links / kind)

    def row(self, kind: str) -> str:
        """Return the disk's row of `meshctl disks`."""
        rows = self.cluster.meshctl("disks", str(self.mountpoint), check=False).stdout.splitlines()
        return next(row for row in rows if f" {kind} " in row)

    def log_lines(self, kind: str, start: int) -> list[str]:
        """Return what the exporter's log says of the disk behind an offset."""
        log = self.cluster.exporters["n1"].log.read_text()[start:] if "n1" in self.cluster.exporters else ""
        return [line for line in log.splitlines() if f"disk {kind} is " in line]

    def log_size(self) -> int:
        return len(self.cluster.exporters["n1"].log.read_text())


@pytest.fixture(scope="module")
def scsi_debug() -> Iterator[None]:
    run("modprobe", "scsi_debug", "dev_size_mb=64")
    yield
    run("modprobe", "-r", "scsi_debug")


@pytest.fixture(scope="module", params=[("none", False), ("writeback", True)], ids=["none", "writeback-renamed"])
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, scsi_debug: None) -> Iterator[Mesh]:
    cache, renames = request.param
    folder = tmp_path_factory.mktemp(f"removed-{cache}")
    links = folder / "by-id"
    links.mkdir()
    with LocalCluster(folder) as cluster:
        mesh = Mesh(cluster, links, cluster.mountpoint("n2"), renames)
        for kind, serial in KINDS.items():
            mesh.point(kind, await_disk(serial))
        cluster.add_node("n1", [LocalDisk(kind, links / kind, {"cache": cache}) for kind in KINDS])
        cluster.add_node("n2")
        cluster.write()
        cluster.keygen()
        cluster.start_exporter("n1")
        cluster.mount("n2")
        await_disks(*map(mesh.path, KINDS))
        yield mesh
    assert list(tracebacks(cluster.logs)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_removed_disk_is_shown_and_served_again(mesh: Mesh, kind: str) -> None:
    path, device = mesh.path(kind), await_disk(KINDS[kind])
    before, after = os.urandom(MIB), os.urandom(MIB)
    assert write(path, MIB, before) == 0
    log = mesh.log_size()
    removal = Removal(device)
    with ExitStack() as stack:
        kept = stack.enter_context(opened(path))
        if mesh.renames:
            stack.enter_context(opened(device, os.O_RDONLY))
        stack.enter_context(removal)
        # Before the exporter has looked at the disk, errors come from the device.
        assert errno_of(kept, MIB) in REMOVED
        assert read(path, MIB) in REMOVED
        assert write(path, MIB, bytes(BLOCK_BYTES)) in REMOVED
        assert write(path, MIB, bytes(BLOCK_BYTES), direct=False) in REMOVED
        until(lambda: " gone " in mesh.row(kind), "the disk is shown as gone", SHOWN_WITHIN_S)
        shown = mesh.cluster.meshctl("disks", str(mesh.mountpoint), check=False)
        status = mesh.cluster.meshctl("status", str(mesh.mountpoint), check=False)
        assert (shown.returncode, status.returncode) == (1, 1), status.stdout
        assert kind in status.stderr
        assert "gone" in status.stderr
        assert len(mesh.log_lines(kind, log)) == 1, mesh.log_lines(kind, log)
        # Once the exporter knows that the disk was removed, every request gets this error.
        assert read(path, 2 * MIB) in REMOVED
        assert write(path, 2 * MIB, bytes(BLOCK_BYTES)) in REMOVED
        removal.rescan()
        back = await_disk(KINDS[kind])
        assert back != device or not mesh.renames
        mesh.point(kind, back)
        until(lambda: " ok " in mesh.row(kind), "the disk is shown as ok again", SHOWN_WITHIN_S)
        # An open from before the removal goes on, because the disk is the same.
        assert errno_of(kept, MIB) == 0
    assert content(path, MIB, MIB) == before
    assert write(path, 2 * MIB, after) == 0
    assert content(path, 2 * MIB, MIB) == after
    with back.open("rb", buffering=0) as raw:
        # Read past the page cache, because the exporter may have written past it.
        os.posix_fadvise(raw.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(raw.fileno(), MIB, 2 * MIB) == after
    assert [other for other in KINDS if " ok " not in mesh.row(other)] == []


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY | os.O_DIRECT) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def read(path: Path, offset: int) -> int:
    """Return the errno of opening the disk and reading a block, or 0."""
    try:
        with opened(path) as fd:
            return errno_of(fd, offset)
    except OSError as error:
        return error.errno or -1


def errno_of(fd: int, offset: int) -> int:
    """Return the errno of a read of a block, or 0."""
    try:
        return 0 if os.preadv(fd, [mmap.mmap(-1, BLOCK_BYTES)], offset) == BLOCK_BYTES else -1
    except OSError as error:
        return error.errno or -1


def write(path: Path, offset: int, data: bytes, *, direct: bool = True) -> int:
    """Return the errno of the first of open, write, fsync and close that failed, or 0."""
    try:
        with opened(path, os.O_WRONLY | (os.O_DIRECT if direct else 0)) as fd:
            buffer = mmap.mmap(-1, len(data))
            buffer[:] = data
            if os.pwritev(fd, [buffer], offset) != len(data):
                return -1
            os.fsync(fd)
    except OSError as error:
        return error.errno or -1
    return 0


def content(path: Path, offset: int, size: int) -> bytes:
    """Return what the disk has there, read past the page cache."""
    with opened(path) as fd:
        buffer = mmap.mmap(-1, size)
        assert os.preadv(fd, [buffer], offset) == size
        return buffer[:]

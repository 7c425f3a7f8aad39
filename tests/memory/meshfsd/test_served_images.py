"""Images of folders as disks: only the file that was found is claimed, and it is flushed before it leaves."""

import errno
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.cluster.config import load
from meshfs.cluster.config_nodes import DiskConfig
from meshfs.enclosure.directory import ATTRIBUTE, scan_folder
from meshfs.exporter.state.exporter import Exporter
from meshfs.model import Cache, DiskState
from meshfs.smb.auth import Accounts
from meshfsd.calibration import Calibration
from meshfsd.disks import Disks
from meshfsd.folders import Folders
from meshlab.fakes.scripted_engine import ScriptedEngine
from support.waiting import until

CONFIG = '[cluster]\nname = "c"\n[[node]]\nname = "n1"\naddresses = ["10.0.0.1"]\n'
FOLDER = '[[node.enclosure]]\nname = "shelf"\nkind = "directory"\npath = "images"\nslots = 4\n'


class Bench:
    """Serves the images of a folder as the exporter of n1 does."""

    def __init__(self, folder: Path) -> None:
        self.images = folder / "images"
        (folder / "cluster.toml").write_text(CONFIG + FOLDER)
        self.config = load(folder / "cluster.toml")
        self.engine = ScriptedEngine()
        self.disks = Disks(Exporter("n1", Accounts({})), self.engine, BufferPool(), Calibration(folder / "state"))
        self.folders = Folders(lambda: None)

    def drop(self, name: str, disk_id: str = "") -> Path:
        path = self.images.parent / name
        path.write_bytes(bytes(1 << 16))
        if disk_id:
            os.setxattr(path, ATTRIBUTE, disk_id.encode())
        return path.rename(self.images / name)

    async def look(self) -> None:
        await self.folders.configure(self.config.node("n1").directories, {}, ())

    @property
    def wanted(self) -> list[DiskConfig]:
        return [replace(disk.config, cache=Cache.WRITEBACK) for disk in self.folders.disks]

    async def apply(self) -> None:
        again = self.folders.replaced(self.disks.identities())
        found, mistakes = await self.disks.scan(self.wanted, again)
        assert not mistakes
        await self.disks.apply(self.wanted, self.config, found)

    def opened(self, name: str) -> tuple[int, int]:
        disk = self.disks.served[name].disk
        assert disk is not None
        status = os.fstat(disk.fd)
        return status.st_dev, status.st_ino


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    (tmp_path / "images").mkdir()
    bench = Bench(tmp_path)
    bench.drop("01-a")
    if not all(image.id for image in scan_folder(bench.images, {}).images):
        pytest.skip("this file system has no extended attributes")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.disks.run)
        await trio.testing.wait_all_tasks_blocked()
        yield bench
        nursery.cancel_scope.cancel()
    await bench.disks.close()


async def test_a_file_that_takes_the_name_of_an_image_is_not_served_as_that_image(bench: Bench) -> None:
    await bench.look()
    (name,) = [disk.config.name for disk in bench.folders.disks]
    bench.drop("01-a")
    await bench.apply()
    served = bench.disks.served[name]
    assert served.disk is None
    assert (served.offered.info.state, served.health.why) == (
        DiskState.MISSING,
        f"{bench.images}/01-a: another file has taken the name of the image",
    )
    assert not [fd for fd in os.listdir("/proc/self/fd") if _leads_to(fd, bench.images / "01-a")]


async def test_a_link_that_takes_the_name_of_an_image_is_not_followed(bench: Bench, tmp_path: Path) -> None:
    await bench.look()
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (bench.images / "01-a").unlink()
    (bench.images / "01-a").symlink_to(secret)
    await bench.apply()
    assert [served.disk for served in bench.disks.served.values()] == [None]


def _leads_to(fd: str, path: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == str(path)
    except OSError:
        return False


async def test_another_file_with_the_same_id_is_served_although_the_image_was_absent_at_a_look(bench: Bench) -> None:
    await bench.look()
    await bench.apply()
    (name,) = bench.disks.served
    first = bench.opened(name)
    # The exporter is busy, so it takes over nothing between the two looks.
    (bench.images / "01-a").rename(bench.images / ".01-a")
    await bench.look()
    assert not bench.folders.disks
    bench.drop("01-a", name)
    await bench.look()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.apply)
        await until(lambda: bench.engine.unanswered)
        bench.engine.answer(0)
    status = (bench.images / "01-a").stat()
    assert bench.opened(name) == (status.st_dev, status.st_ino) != first


@pytest.mark.parametrize("result", [0, -errno.EIO])
async def test_an_image_that_leaves_is_flushed_first_and_a_failure_is_remembered(bench: Bench, result: int) -> None:
    await bench.look()
    await bench.apply()
    (name,) = bench.disks.served
    disk = bench.disks.served[name].disk
    assert disk is not None
    verifier = disk.verifier
    hidden = (bench.images / "01-a").rename(bench.images / ".01-a")
    await bench.look()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.apply)
        await until(lambda: bench.engine.unanswered)
        assert [call[0] for call in bench.engine.unanswered] == ["sync"]
        os.fstat(disk.fd)
        bench.engine.answer(result)
    hidden.rename(bench.images / "01-a")
    await bench.look()
    await bench.apply()
    again = bench.disks.served[name].disk
    assert again is not None
    assert (again.verifier == verifier) is (result == 0)


async def test_an_image_that_leaves_during_a_flush_is_closed_after_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DISK_WITHDRAW_TIMEOUT_S", 0.1)
    await bench.look()
    await bench.apply()
    (served,) = bench.disks.served.values()
    async with trio.open_nursery() as nursery:
        # An administrator suspends the disk, which flushes it.
        nursery.start_soon(served.settle)
        await until(lambda: bench.engine.unanswered)
        (bench.images / "01-a").rename(bench.images / ".01-a")
        await bench.look()
        await bench.apply()
        assert served.disk is not None, "its claim lasts until the flush has ended"
        bench.engine.answer(0)
        await until(lambda: bench.engine.unanswered)
        bench.engine.answer(0)
    await until(lambda: served.disk is None)


def test_a_new_file_with_the_inode_of_an_image_is_not_offered_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "01-a"
    with path.open("wb") as file:
        file.write(b"half")
        file.flush()
        status = path.stat()
        offered = {(status.st_dev, status.st_ino): "image-of-the-file-before"}
        (image,) = scan_folder(tmp_path, offered).images
        assert image.why == "a program has it open for writing"
        assert ATTRIBUTE not in os.listxattr(path)


async def test_a_change_of_an_image_in_the_moment_in_which_it_is_closed_ends_nothing_else(bench: Bench) -> None:
    await bench.look()
    await bench.apply()
    (name,) = bench.disks.served
    served = bench.disks.served[name]
    await trio.testing.wait_all_tasks_blocked()
    # The keeper will run next, and finds the disk closed.
    bench.disks.poke({name})
    served.release(clean=True)()
    await trio.testing.wait_all_tasks_blocked()
    assert served.disk is None

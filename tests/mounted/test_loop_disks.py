"""Block devices (loop devices) and file systems that tests make, as disks of an exporter."""

import errno
import os
import shutil
import struct
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshfs.disk.base import Op
from meshfs.disk.discovery.scan import scan_disk
from meshfs.disk.engines.threads import ThreadEngine
from meshfs.disk.file.claim import Cache, open_disk
from meshfs.errors import DiskUnavailable
from meshlab.fakes.file_disks import CACHES, SMALL_ENGINES, case_of, opened, running
from meshlab.suites.disk import MIB, Batch, DiskCase, DiskSuite, discard, flush, read, write

pytestmark = pytest.mark.mounted

SIZE_BYTES = 3 * MIB + 1536


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def loop_device(image: Path, *options: str) -> Iterator[Path]:
    """Make a loop device on ``image``, and remove it at the end of the block."""
    device = run("losetup", "--find", "--show", *options, image)
    try:
        yield Path(device)
    finally:
        run("losetup", "--detach", device)


@contextmanager
def mounted(*arguments: str | Path, at: Path) -> Iterator[Path]:
    at.mkdir()
    run("mount", *arguments, at)
    try:
        yield at
    finally:
        run("umount", at)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(SIZE_BYTES)
    return path


@pytest.fixture
def device(image: Path) -> Iterator[Path]:
    with loop_device(image) as device:
        yield device


@pytest.mark.parametrize("block_bytes", [512, 4096])
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("engine_name", SMALL_ENGINES)
class TestBlockDevice(DiskSuite):
    @pytest.fixture
    async def case(self, image: Path, engine_name: str, cache: Cache, block_bytes: int) -> AsyncIterator[DiskCase]:
        with loop_device(image, "--sector-size", str(block_bytes)) as device:
            async with opened(device, engine_name, cache) as disk:
                assert disk.logical_block_size_bytes == block_bytes
                assert disk.size_bytes == SIZE_BYTES // block_bytes * block_bytes
                yield case_of(disk, device)


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("engine_name", SMALL_ENGINES)
async def test_a_discard_reaches_the_device_which_frees_its_blocks(image: Path, engine_name: str, cache: Cache) -> None:
    """A loop device punches its image. Its granule is the block of the image's file system."""
    with loop_device(image) as device:
        async with opened(device, engine_name, cache) as disk:
            assert disk.granules.size_bytes >= 4096
            assert await write(disk, 0, b"x" * disk.size_bytes) == disk.size_bytes
            assert await flush(disk) == 0
            full = os.stat(image).st_blocks
            assert await discard(disk, 512, 2 * MIB) == 2 * MIB
            assert await read(disk, 0, 4096) == b"x" * 4096
            assert await read(disk, 512 + 2 * MIB, 4096) == b"x" * 4096
            assert await flush(disk) == 0
        assert full * 512 - os.stat(image).st_blocks * 512 >= 2 * MIB - 2 * disk.granules.size_bytes


def test_the_facts_of_a_block_device(device: Path) -> None:
    facts = scan_disk(device)
    assert facts.is_block_device
    assert facts.size_bytes == SIZE_BYTES
    assert facts.logical_block_size_bytes == 512
    assert facts.identity == f"dev {device.stat().st_rdev}"


async def test_a_block_device_has_one_owner(device: Path) -> None:
    async with opened(device, "io_uring", "none"), running(ThreadEngine()) as engine:
        with pytest.raises(DiskUnavailable, match="is claimed by another exporter or file system"):
            await open_disk(device, engine=engine, claim_timeout_s=0.1)


@pytest.mark.parametrize("cache", CACHES)
async def test_a_read_only_device_is_served_read_only(image: Path, cache: Cache) -> None:
    with loop_device(image, "--read-only") as device:
        async with opened(device, "io_uring", cache) as disk:
            assert disk.read_only
            assert await read(disk, 0, 512) == bytes(512)
            assert await write(disk, 0, b"x" * 512) == -errno.EROFS


async def test_an_image_on_a_read_only_file_system_is_served_read_only(image: Path, tmp_path: Path) -> None:
    with mounted("--bind", "-o", "ro", image.parent, at=tmp_path.parent / f"{tmp_path.name}-ro") as folder:
        async with opened(folder / image.name, "io_uring", "none") as disk:
            assert disk.read_only
            assert await read(disk, 0, 512) == bytes(512)
            assert await write(disk, 0, b"x" * 512) == -errno.EROFS


@pytest.mark.parametrize("engine_name", SMALL_ENGINES)
async def test_a_device_set_read_only_under_us_says_so(device: Path, engine_name: str) -> None:
    async with opened(device, engine_name, "none") as disk:
        run("blockdev", "--setro", device)
        try:
            assert await write(disk, 0, b"x" * 512) == -errno.EROFS
            assert await write(disk, 1, b"x" * 512) == -errno.EROFS
            assert await read(disk, 0, 512) == bytes(512)
        finally:
            # A loop device keeps the setting for its next image.
            run("blockdev", "--setrw", device)


@pytest.mark.parametrize("engine_name", SMALL_ENGINES)
async def test_an_io_error_reaches_its_request_alone(device: Path, image: Path, engine_name: str) -> None:
    """A loop device whose backing file was cut answers EIO past the cut."""
    async with opened(device, engine_name, "none") as disk:
        os.truncate(image, MIB)
        batch = Batch(disk)
        requests = [batch.make(Op.READ, offset, 4096) for offset in (0, 2 * MIB, MIB - 4096)]
        requests.append(batch.write(2 * MIB + 100, b"x" * 100))
        assert await batch.do(requests) == [4096, -errno.EIO, 4096, -errno.EIO]


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("engine_name", SMALL_ENGINES)
async def test_a_full_file_system_gives_enospc(tmp_path: Path, engine_name: str, cache: Cache) -> None:
    with mounted("-t", "tmpfs", "-o", "size=1M", "meshfs-test", at=tmp_path / "small") as folder:
        with (folder / "disk.img").open("wb") as file:
            file.truncate(4 * MIB)
        async with opened(folder / "disk.img", engine_name, cache) as disk:
            batch = Batch(disk)
            results = await batch.do([batch.write(index * 65536, b"x" * 65536) for index in range(64)])
            assert -errno.ENOSPC in results
            assert set(results) <= {65536, -errno.ENOSPC}
            written = results.index(65536) * 65536
            assert await read(disk, written, 65536) == b"x" * 65536
            assert await flush(disk) == 0


# --- used by this machine -------------------------------------------------------------


def test_a_mounted_device_and_its_image_are_in_use(device: Path, image: Path, tmp_path: Path) -> None:
    run("mkfs.ext4", "-q", device)
    with mounted(device, at=tmp_path / "ext4") as folder:
        with pytest.raises(DiskUnavailable, match=f"{device} is used on this machine: mounted on {folder}"):
            scan_disk(device)
        with pytest.raises(DiskUnavailable, match=f"is used on this machine: the backing file of {device}"):
            scan_disk(image)


def test_swap_is_in_use(device: Path, image: Path) -> None:
    run("mkswap", device)
    run("swapon", device)
    try:
        with pytest.raises(DiskUnavailable, match="swap space"):
            scan_disk(device)
    finally:
        run("swapoff", device)


def test_a_device_with_a_mounted_partition_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "parted.img"
    with path.open("wb") as file:
        # An MBR has one Linux partition, whose start and size are in sectors.
        file.write(struct.pack("<446s BBHBBHII 48s 2s", b"", 0, 0, 0, 0x83, 0, 0, 2048, 28672, b"", b"\x55\xaa"))
        file.truncate(16 * MIB)
    with loop_device(path) as device:
        partition = Path(f"{device}p1")
        # partx reads the table itself, because some kernels cannot.
        run("partx", "--add", device)
        try:
            run("mkfs.ext4", "-q", partition)
            with mounted(partition, at=tmp_path / "part"):
                with pytest.raises(DiskUnavailable, match=f"its partition {partition.name} is mounted on"):
                    scan_disk(device)
                with pytest.raises(DiskUnavailable, match="used on this machine: mounted on"):
                    scan_disk(partition)
            assert scan_disk(partition).rotational == scan_disk(device).rotational
        finally:
            run("partx", "--delete", device)


def test_a_loop_device_is_known_by_its_image(image: Path) -> None:
    with loop_device(image) as device:
        assert scan_disk(device).device.place == ""
        before = scan_disk(device).instance
        with loop_device(image, "--offset", "4096") as beside:
            assert scan_disk(beside).instance != before
    with loop_device(image) as device:
        assert scan_disk(device).instance == before
    os.replace(shutil.copy(image, image.with_name("copy")), image)
    with loop_device(image) as device:
        assert scan_disk(device).instance != before


def test_a_device_without_a_name_of_its_own_is_another_one_each_time(image: Path) -> None:
    """A loop device whose image was removed has only a diskseq, which counts devices."""
    seen = []
    for _ in range(2):
        with loop_device(image) as device:
            image.unlink()
            first, again = scan_disk(device).device, scan_disk(device).device
            assert first == again
            seen.append(first)
        image.write_bytes(bytes(SIZE_BYTES))
    assert seen[0].place
    assert seen[0].instance != seen[1].instance

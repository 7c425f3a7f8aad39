"""Bytes through the mesh come back right: dd, cp, cmp and fio's verification, on local and remote disks."""

import os
import random
from pathlib import Path

import pytest

from meshfs.limits import KIB, MIB
from meshlab.cluster.cluster import LocalCluster
from support.commands import FIO_VERIFY, fio, run

pytestmark = pytest.mark.mounted

# Each is the node whose mount is used, the owner, and the disk. The owner uses its Unix socket, and others use TCP.
PATHS = [
    pytest.param("n1", "n1", "direct", id="local-direct"),
    pytest.param("n2", "n1", "direct", id="remote-direct"),
    pytest.param("n3", "n1", "cached", id="remote-cached"),
    pytest.param("n3", "n1", "device", id="remote-loop"),
    pytest.param("n1", "n2", "direct", id="other-way"),
]
DIRECT = "--direct=1"
BUFFERED = "--direct=0"


def disk(mesh: LocalCluster, seen_from: str, owner: str, name: str) -> Path:
    return mesh.mountpoint(seen_from) / "disk/by-node" / owner / name


@pytest.mark.parametrize(("node", "owner", "name"), PATHS)
def test_dd_cp_and_cmp(mesh: LocalCluster, tmp_path: Path, node: str, owner: str, name: str) -> None:
    target = disk(mesh, node, owner, name)
    size = target.stat().st_size
    source = tmp_path / "source"
    source.write_bytes(random.Random(1).randbytes(size))
    run("dd", f"if={source}", f"of={target}", "bs=1M", "oflag=direct", "conv=notrunc,fsync")
    run("cmp", source, target)
    source.write_bytes(random.Random(2).randbytes(size))
    run("cp", "--no-preserve=all", source, target)
    run("cmp", source, target)
    copy = tmp_path / "copy"
    run("dd", f"if={target}", f"of={copy}", "bs=1M", "iflag=direct")
    run("cmp", source, copy)


@pytest.mark.parametrize("seen_from", ["n1", "n2", "n3"])
def test_every_node_reads_what_one_wrote(mesh: LocalCluster, tmp_path: Path, seen_from: str) -> None:
    data = random.Random(seen_from).randbytes(3 * MIB + 4096)
    source = tmp_path / "source"
    source.write_bytes(data)
    run("dd", f"if={source}", f"of={disk(mesh, 'n2', 'n1', 'direct')}", "bs=64K", "conv=notrunc,fsync")
    run("cmp", f"--bytes={len(data)}", source, disk(mesh, seen_from, "n1", "direct"))


@pytest.mark.parametrize("block", ["512", "4k", "64k", "1m", "8m"])
@pytest.mark.parametrize("pattern", ["randwrite", "write"])
@pytest.mark.parametrize("cache", [DIRECT, BUFFERED], ids=["direct", "buffered"])
def test_fio_verifies_every_block(mesh: LocalCluster, tmp_path: Path, block: str, pattern: str, cache: str) -> None:
    size = {"512": "4m", "4k": "16m", "8m": "128m"}.get(block, "64m")
    options = [f"--rw={pattern}", f"--bs={block}", f"--size={size}", cache, "--ioengine=libaio", "--iodepth=16"]
    fio(disk(mesh, "n2", "n1", "direct"), *options, *FIO_VERIFY, folder=tmp_path)


@pytest.mark.parametrize(("node", "owner", "name"), PATHS)
def test_fio_verifies_on_every_kind_of_disk(
    mesh: LocalCluster, tmp_path: Path, node: str, owner: str, name: str
) -> None:
    options = ["--rw=randwrite", "--bsrange=512-256k", "--size=32m", DIRECT, "--ioengine=libaio", "--iodepth=32"]
    fio(disk(mesh, node, owner, name), *options, *FIO_VERIFY, folder=tmp_path)


@pytest.mark.parametrize("name", ["direct", "cached", "device"])
def test_fio_verifies_unaligned_buffered_blocks(mesh: LocalCluster, tmp_path: Path, name: str) -> None:
    options = ["--rw=randwrite", "--bsrange=601-99991", "--bs_unaligned", "--size=24m", BUFFERED, "--fsync=64"]
    fio(disk(mesh, "n3", "n1", name), *options, *FIO_VERIFY, folder=tmp_path)


def test_two_nodes_verify_on_one_disk_at_once(mesh: LocalCluster, tmp_path: Path) -> None:
    """Each of two jobs of one fio writes half of the disk, from a mount of its own."""
    half = f"{64 * MIB}"
    common = ["--rw=randwrite", "--bsrange=4k-64k", f"--size={half}", DIRECT, "--ioengine=libaio", "--iodepth=16"]
    second = ["--name=second", f"--filename={disk(mesh, 'n3', 'n1', 'direct')}", f"--offset={half}"]
    fio(disk(mesh, "n2", "n1", "direct"), *common, *FIO_VERIFY, *second, *common, *FIO_VERIFY, folder=tmp_path)


@pytest.mark.parametrize("offset", [0, 1, 511, 4095, 70_001])
@pytest.mark.parametrize("size", [1, 7, 513, 4097, 1 * MIB + 3])
@pytest.mark.parametrize("name", ["direct", "device"])
def test_unaligned_writes_change_nothing_around_them(mesh: LocalCluster, name: str, offset: int, size: int) -> None:
    """With `-o cache=none`, unaligned pieces reach the exporter unchanged. A node that caches reads them."""
    chosen = random.Random(f"{offset} {size}")
    before = chosen.randbytes(2 * MIB)
    data = chosen.randbytes(size)
    base = 16 * MIB
    fd = os.open(disk(mesh, "n2", "n1", name), os.O_RDWR)
    try:
        assert os.pwrite(fd, before, base) == len(before)
        assert os.pwrite(fd, data, base + offset) == size
        os.fsync(fd)
    finally:
        os.close(fd)
    expected = before[:offset] + data + before[offset + size :]
    with disk(mesh, "n3", "n1", name).open("rb") as file:
        file.seek(base)
        assert file.read(len(expected)) == expected


def test_reading_ends_and_writing_stops_at_the_end_of_the_disk(mesh: LocalCluster) -> None:
    target = disk(mesh, "n2", "n1", "direct")
    size = target.stat().st_size
    for flags in (0, os.O_DIRECT):
        fd = os.open(target, os.O_RDWR | flags)
        try:
            assert os.pread(fd, 4096, size) == b""
            with pytest.raises(OSError, match="No space left on device"):
                os.pwrite(fd, bytes(4096), size)
        finally:
            os.close(fd)
    assert target.stat().st_size == size


def test_synchronous_and_flushed_writes_lie_in_the_image(mesh: LocalCluster) -> None:
    image = next(each for each in mesh.nodes["n1"].disks if each.name == "direct").path
    for flags, flush in ((os.O_DSYNC, False), (os.O_SYNC, False), (os.O_DIRECT, False), (0, True)):
        data = os.urandom(8 * KIB)
        fd = os.open(disk(mesh, "n3", "n1", "direct"), os.O_WRONLY | (flags & ~os.O_DIRECT))
        try:
            os.pwrite(fd, data, 32 * MIB)
            if flush or flags == os.O_DIRECT:
                os.fdatasync(fd)
        finally:
            os.close(fd)
        with image.open("rb") as file:
            file.seek(32 * MIB)
            assert file.read(len(data)) == data


def test_the_page_cache_is_coherent_from_close_to_open(mesh: LocalCluster) -> None:
    writer, reader = disk(mesh, "n2", "n1", "cached"), disk(mesh, "n3", "n1", "cached")
    for number in range(5):
        data = bytes([number]) * (64 * KIB)
        with writer.open("r+b") as file:
            file.seek(8 * MIB)
            file.write(data)
        with reader.open("rb") as file:
            file.seek(8 * MIB)
            assert file.read(len(data)) == data

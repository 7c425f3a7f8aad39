"""Programs skip holes: every tool that leaves holes on a disk full of old bytes still gives the image's bytes.

A disk is a regular file that keeps its size. Tools therefore seek over the holes of an image, and rely on O_TRUNC or
ftruncate(2) for the zeros there. The bytes past the end of the image stay as they were.
"""

import ctypes
import errno
import mmap
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from meshfs.limits import KIB, MIB
from meshlab.cluster.cluster import LocalCluster
from meshlab.fakes.file_disks import SMALL_ENGINES, running
from support.commands import run
from support.direct import errno_of

pytestmark = pytest.mark.mounted

NewCluster = Callable[..., LocalCluster]

OLD = b"\xaa"
#: The size is not a multiple of a page, so that two openers write to the last page.
IMAGE_BYTES = 6 * MIB + 3 * 512
#: The tests look at the image and at a part behind it.
SEEN_BYTES = 8 * MIB
DATA: dict[str, list[tuple[int, int]]] = {
    "hole-first": [(2 * MIB, 1 * MIB), (4 * MIB, 64 * KIB), (IMAGE_BYTES - 4 * KIB - 1536, 4 * KIB + 1536)],
    "hole-inside": [(0, 8 * KIB), (3 * MIB + 4 * KIB, 4 * KIB), (5 * MIB, IMAGE_BYTES - 5 * MIB)],
    "hole-last": [(0, 128 * KIB), (2 * MIB, 512 * KIB)],
    "nothing": [],
}

# A tool is the commands that bring an image to a disk. It gets a folder of its own.
Tool = Callable[[Path, Path, Path], list[str]]


def shell(text: str) -> Tool:
    """Run a line of sh in which $image, $disk and $folder are set."""

    def command(image: Path, disk: Path, folder: Path) -> list[str]:
        return ["env", f"image={image}", f"disk={disk}", f"folder={folder}", "sh", "-ec", text]

    return command


TOOLS: dict[str, Tool] = {
    "cp": shell('cp "$image" "$disk"'),
    "cp-always": shell('cp --sparse=always "$image" "$disk"'),
    "tar": shell(
        'tar -C "${image%/*}" --sparse -cf "$folder/a.tar" "${image##*/}"; tar -xOf "$folder/a.tar" > "$disk"'
    ),
    "dd": shell('dd if="$image" of="$disk" bs=4k conv=sparse'),
    "dd-direct": shell('dd if="$image" of="$disk" bs=4k conv=sparse oflag=direct'),
    "zstd": shell('zstd -q "$image" -o "$folder/z.zst"; zstd -q -d -f "$folder/z.zst" -o "$disk"'),
    "lz4": shell('lz4 -q "$image" "$folder/z.lz4"; lz4 -q -d -f "$folder/z.lz4" "$disk"'),
    "ddrescue": shell('ddrescue -q -S -t -f "$image" "$disk"'),
    "ddrescue-direct": shell('ddrescue -q -S -t -f -D "$image" "$disk"'),
    "qemu-img": shell('qemu-img convert -q -f raw -O raw "$image" "$disk"'),
    "qemu-img-direct": shell('qemu-img convert -q -t none -f raw -O raw "$image" "$disk"'),
    "qemu-img-dd": shell('qemu-img dd -f raw -O raw bs=64k if="$image" of="$disk"'),
    "nbdcopy": shell('nbdcopy "$image" "$disk"'),
}


@pytest.fixture(params=["n1-direct", "n1-cached", "n1-device"])
def disk(mesh: LocalCluster, request: pytest.FixtureRequest) -> Path:
    return mesh.mountpoint("n2") / "disk/by-node" / str(request.param).replace("-", "/")


@pytest.fixture
def remote(mesh: LocalCluster) -> Path:
    return mesh.mountpoint("n2") / "disk/by-node/n1/direct"


def fill(disk: Path, size: int = SEEN_BYTES) -> None:
    fd = os.open(disk, os.O_WRONLY)
    try:
        assert os.pwrite(fd, OLD * size, 0) == size
        os.fsync(fd)
    finally:
        os.close(fd)


def seen(disk: Path, size: int = SEEN_BYTES) -> bytes:
    with disk.open("rb", buffering=0) as file:
        data = b""
        while len(data) < size:
            data += file.read(size - len(data))
        return data


def make_image(path: Path, data: list[tuple[int, int]]) -> bytes:
    """Make a sparse image, and return its bytes."""
    dice = random.Random(7)
    with path.open("wb") as file:
        file.truncate(IMAGE_BYTES)
        for offset, length in data:
            file.seek(offset)
            file.write(dice.randbytes(length))
    assert path.stat().st_blocks * 512 < IMAGE_BYTES - MIB
    return path.read_bytes()


#: These tools ask for the size of the file that they wrote to, and leave a hole at the end alone if the file is large
#: enough. Nothing of that can be seen from outside. The bytes there stay old, as on a block device.
LOOK_AT_THE_SIZE = ("dd", "dd-direct", "ddrescue", "ddrescue-direct")


@pytest.mark.parametrize("shape", DATA)
@pytest.mark.parametrize("tool", TOOLS)
def test_a_sparse_image_arrives_whole(remote: Path, tmp_path: Path, tool: str, shape: str) -> None:
    image = tmp_path / "image"
    content = make_image(image, DATA[shape])
    fill(remote)
    size = remote.stat().st_size
    run(*TOOLS[tool](image, remote, tmp_path))
    if tool in LOOK_AT_THE_SIZE:
        end = max((offset + length for offset, length in DATA[shape]), default=0)
        content = content[:end] + OLD * (IMAGE_BYTES - end)
    assert seen(remote) == content + OLD * (SEEN_BYTES - IMAGE_BYTES)
    assert remote.stat().st_size == size


@pytest.mark.parametrize("tool", ["cp", "qemu-img", "nbdcopy"])
def test_on_every_kind_of_disk(disk: Path, tmp_path: Path, tool: str) -> None:
    image = tmp_path / "image"
    content = make_image(image, DATA["hole-inside"])
    fill(disk)
    run(*TOOLS[tool](image, disk, tmp_path))
    assert seen(disk) == content + OLD * (SEEN_BYTES - IMAGE_BYTES)


def test_at_a_mount_without_a_page_cache(new_cluster: NewCluster, tmp_path: Path) -> None:
    cluster = new_cluster()
    cluster.add_node("n1", [cluster.image("disk0", 16 * MIB)])
    cluster.write()
    cluster.keygen()
    cluster.start_exporters()
    disk = cluster.mount("n1", "cache=none") / "disk/by-node/n1/disk0"
    image = tmp_path / "image"
    for number, tool in enumerate(("cp", "tar", "qemu-img", "zstd")):
        folder = tmp_path / str(number)
        folder.mkdir()
        content = make_image(image, DATA["hole-first"])
        fill(disk)
        run(*TOOLS[tool](image, disk, folder))
        assert seen(disk) == content + OLD * (SEEN_BYTES - IMAGE_BYTES), tool


def test_dd_that_seeks_truncates_there_and_exits_with_0(remote: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"s" * 64 * KIB)
    fill(remote)
    said = run("dd", f"if={source}", f"of={remote}", "bs=64k", "seek=5")
    assert "failed" not in said
    where = 5 * 64 * KIB
    assert seen(remote) == OLD * where + b"s" * 64 * KIB + OLD * (SEEN_BYTES - where - 64 * KIB)


def test_two_programs_write_their_halves_at_once(remote: Path, tmp_path: Path) -> None:
    """Each program truncates where it begins, and skips holes. Neither touches the other's half."""
    half = 3 * MIB
    sources = [tmp_path / name for name in ("first", "second")]
    for source, byte in zip(sources, (b"1", b"2"), strict=True):
        with source.open("wb") as file:
            for offset in range(0, half, 64 * KIB):
                file.seek(offset)
                file.write(byte * 4 * KIB)
            file.seek(half - 1)
            file.write(byte)
    fill(remote)
    command = "dd if={} of={} bs=4k conv=sparse seek={}"
    writers = [
        subprocess.Popen(command.format(source, remote, index * half // (4 * KIB)).split(), stderr=subprocess.DEVNULL)
        for index, source in enumerate(sources)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    expected = b"".join(source.read_bytes() for source in sources)
    assert seen(remote) == expected + OLD * (SEEN_BYTES - len(expected))


def test_install_is_refused_and_changes_nothing(remote: Path, tmp_path: Path) -> None:
    """install removes its target first, and a disk cannot be removed."""
    source = tmp_path / "source"
    source.write_bytes(b"s" * 4 * KIB)
    fill(remote)
    assert "Operation not permitted" in run("install", source, remote, status=1)
    assert seen(remote) == OLD * SEEN_BYTES


# --- system calls ------------------------------------------------------------------------


@pytest.fixture
def opener(remote: Path) -> Iterator[int]:
    """Open a disk full of old bytes with O_TRUNC."""
    fill(remote)
    fd = os.open(remote, os.O_RDWR | os.O_TRUNC)
    yield fd
    os.close(fd)


def test_the_writer_and_others_read_zeros_at_once(remote: Path, opener: int) -> None:
    """They read zeros also where the page cache has old bytes, and where a gap ends inside a page."""
    reader = os.open(remote, os.O_RDONLY)
    with mmap.mmap(reader, SEEN_BYTES, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
        assert mapped[:] == OLD * SEEN_BYTES
        end = 0
        for offset, length in ((100, 10), (5000, 1), (3 * MIB + 7, 20), (4 * MIB, 4 * KIB), (4 * MIB + 8 * KIB, 100)):
            os.pwrite(opener, b"d" * length, offset)
            expected = bytes(offset - end) + b"d" * length + OLD * 100
            assert os.pread(opener, len(expected), end) == expected
            assert mapped[end : end + len(expected)] == expected
            assert os.pread(reader, len(expected), end) == expected
            end = offset + length
        assert mapped[end:] == OLD * (SEEN_BYTES - end)
    os.close(reader)


def test_ftruncate_zeroes_up_to_where_it_moves_the_end_and_no_further(remote: Path, opener: int) -> None:
    size = os.fstat(opener).st_size
    os.pwrite(opener, b"d" * 10, 0)
    os.ftruncate(opener, MIB + 5)
    assert seen(remote) == b"d" * 10 + bytes(MIB - 5) + OLD * (SEEN_BYTES - MIB - 5)
    os.ftruncate(opener, 4)
    assert seen(remote, 10) == b"d" * 10
    os.pwrite(opener, b"e", 8)
    assert seen(remote, 10) == b"d" * 4 + bytes(4) + b"ed"
    assert errno_of(lambda: os.ftruncate(opener, size + 1)) == errno.EFBIG
    os.ftruncate(opener, size)
    assert os.fstat(opener).st_size == size


def test_an_opener_that_does_not_truncate_is_on_a_block_device(remote: Path) -> None:
    fill(remote)
    fd = os.open(remote, os.O_RDWR)
    os.pwrite(fd, b"d", 2 * MIB)
    os.pwrite(fd, b"d", 6 * MIB)
    os.close(fd)
    assert seen(remote).count(OLD) == SEEN_BYTES - 2


def test_truncate_by_path(remote: Path, opener: int) -> None:
    """truncate(2) acts on the opener of its thread. Without an opener it is refused, unless it changes nothing."""
    os.pwrite(opener, b"d" * 100, 0)
    os.truncate(remote, 50)
    os.pwrite(opener, b"e", 60)
    assert seen(remote, 100) == b"d" * 50 + bytes(10) + b"e" + b"d" * 39
    code = "import os, sys; os.truncate(sys.argv[1], int(sys.argv[2]))"
    size = remote.stat().st_size
    assert "Operation not permitted" in run(sys.executable, "-c", code, remote, "0", status=1)
    run(sys.executable, "-c", code, remote, str(size))
    assert seen(remote, 200)[100:] == OLD * 100


def test_threads_that_write_on_one_descriptor_lose_nothing(remote: Path, opener: int) -> None:
    """They write at random places with gaps between them, some with O_DIRECT.

    Gaps read as zeros, and no zero lands over data.
    """
    dice = random.Random(11)
    block = 4 * KIB
    blocks = dice.sample(range(SEEN_BYTES // block), 300)
    direct = os.open(remote, os.O_RDWR | os.O_DIRECT)
    os.ftruncate(direct, 0)

    def write(fd: int, mine: list[int]) -> None:
        with mmap.mmap(-1, block) as memory:
            for number in mine:
                memory[:] = bytes([number % 250 + 1]) * block
                assert os.pwritev(fd, [memory], number * block) == block

    for fd in (opener, direct):
        fill_again = os.open(remote, os.O_WRONLY)
        os.pwrite(fill_again, OLD * SEEN_BYTES, 0)
        os.close(fill_again)
        os.ftruncate(fd, 0)
        threads = [threading.Thread(target=write, args=(fd, blocks[index::8])) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        end = (max(blocks) + 1) * block
        expected = bytearray(end)
        for number in blocks:
            expected[number * block : (number + 1) * block] = bytes([number % 250 + 1]) * block
        assert seen(remote) == bytes(expected) + OLD * (SEEN_BYTES - end)
    os.close(direct)


@pytest.mark.parametrize("name", ["io_uring", "aio"])
def test_asynchronous_writes_leave_zeros_in_their_gaps(remote: Path, opener: int, name: str) -> None:
    """There are many writes at a time on one direct descriptor. Gaps are claimed while others are being zeroed."""
    dice = random.Random(12)
    block = 4 * KIB
    blocks = dice.sample(range(SEEN_BYTES // block), 400)
    direct = os.open(remote, os.O_RDWR | os.O_DIRECT)
    os.ftruncate(direct, 0)
    results: list[int] = []

    async def write_all() -> None:
        with mmap.mmap(-1, 251 * block) as memory:
            for value in range(251):
                memory[value * block : (value + 1) * block] = bytes([value]) * block
            anchor = ctypes.c_char.from_buffer(memory)
            address = ctypes.addressof(anchor)
            async with running(SMALL_ENGINES[name]()) as engine:
                for number in blocks:
                    where = address + (number % 250 + 1) * block
                    engine.queue_write(direct, where, block, number * block, results.append, dsync=False)
                engine.flush()
                with trio.fail_after(60):
                    while len(results) < len(blocks):  # noqa: ASYNC110 - the engine tells nobody else
                        await trio.sleep(0.01)
            del anchor

    trio.run(write_all)
    os.close(direct)
    assert set(results) == {block}
    end = (max(blocks) + 1) * block
    expected = bytearray(end)
    for number in blocks:
        expected[number * block : (number + 1) * block] = bytes([number % 250 + 1]) * block
    assert seen(remote) == bytes(expected) + OLD * (SEEN_BYTES - end)


# --- others ------------------------------------------------------------------------------


def test_o_trunc_takes_no_page_from_anybody(remote: Path) -> None:
    """A reader's mapping stays readable, and a dirty page of another program reaches the disk."""
    fill(remote)
    other = os.open(remote, os.O_RDWR)
    with mmap.mmap(other, SEEN_BYTES) as mapped:
        assert mapped[5 * MIB] == OLD[0]
        mapped[2 * MIB : 2 * MIB + 5] = b"dirty"
        truncating = os.open(remote, os.O_WRONLY | os.O_TRUNC)
        # This runs in a process of its own, because SIGBUS would end the test's process.
        code = "import mmap, os, sys; m = mmap.mmap(os.open(sys.argv[1], 0), 0, prot=1); time = __import__('time')\n"
        code += "m[0]; print(flush=True); sys.stdin.readline(); print(m[0] + m[5 << 20])"
        reader = subprocess.Popen(
            [sys.executable, "-c", code, remote], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert reader.stdout is not None
        assert reader.stdout.readline() == "\n"
        again = os.open(remote, os.O_WRONLY | os.O_TRUNC)
        out, _ = reader.communicate("\n", timeout=60)
        assert (reader.returncode, out) == (0, f"{2 * OLD[0]}\n")
        assert mapped[2 * MIB : 2 * MIB + 5] == b"dirty"
        mapped.flush()
        os.fsync(other)
        with mmap.mmap(-1, 4 * KIB) as memory:
            direct = os.open(remote, os.O_RDONLY | os.O_DIRECT)
            assert os.preadv(direct, [memory], 2 * MIB) == 4 * KIB
            assert memory[:5] == b"dirty"
            os.close(direct)
        os.close(truncating)
        os.close(again)
    os.close(other)


def test_a_page_dirtied_before_a_gap_does_not_come_over_its_zeros(remote: Path, opener: int) -> None:
    """The page is first written back with all its old bytes, and its gap is zeroed afterwards."""
    other = os.open(remote, os.O_RDWR)
    with mmap.mmap(other, SEEN_BYTES) as mapped:
        mapped[MIB : MIB + 5] = b"dirty"
        os.pwrite(opener, b"data", 2 * MIB)
        mapped.flush()
        assert mapped[: 2 * MIB + 4] == bytes(2 * MIB) + b"data"
    os.close(other)
    assert seen(remote, 2 * MIB + 4) == bytes(2 * MIB) + b"data"

"""Discards of a FileDisk: what reaches the kernel, and in which order; devices that cannot discard; images."""

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from meshfs.disk.base import Op
from meshfs.disk.discovery.identity import Identity
from meshfs.disk.discovery.scan import DiskFacts
from meshfs.disk.errnos import Sign
from meshfs.disk.file import claim
from meshfs.disk.file.directio import Alignment
from meshfs.disk.file.disk import FileDisk
from meshfs.disk.file.zero import PUNCH
from meshfs.granules import NO_GRANULES, Granules
from meshfs.limits import DISK_AGAIN_MAX, MIB
from meshlab.fakes.file_disks import CACHES, opened
from meshlab.fakes.scripted_engine import ScriptedEngine
from meshlab.suites.disk import Batch, discard, flush, read, write

SIZE_BYTES = 1 << 20
GRANULE = 65536
FACTS = DiskFacts(
    *(Path("/dev/x"), True, SIZE_BYTES, 512, 4096, False, False, "", "", "dev 1", Identity("a"), Granules(GRANULE))
)


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def disk(engine: ScriptedEngine) -> Iterator[FileDisk]:
    # It is no block device, so it has no size. The scripted engine never uses it.
    with open(os.devnull, "rb") as null:
        yield FileDisk(FACTS, null.fileno(), engine, Alignment(512, 512), read_only=False)


def kinds(engine: ScriptedEngine) -> list[tuple[str, int, int]]:
    return [(kind, offset, length) for kind, offset, length, _ in engine.unanswered]


def test_only_whole_granules_are_discarded(engine: ScriptedEngine, disk: FileDisk) -> None:
    batch = Batch(disk)
    few = batch.make(Op.DISCARD, 100, 2 * GRANULE - 101)
    disk.submit([few])
    assert (few.result, engine.calls) == (few.length, [])
    some = batch.make(Op.DISCARD, 100, 3 * GRANULE)
    disk.submit([some])
    assert kinds(engine) == [("discard", GRANULE, 2 * GRANULE)]
    engine.answer(0)
    assert some.result == some.length


def test_a_disk_has_one_discard_at_its_device(engine: ScriptedEngine, disk: FileDisk) -> None:
    batch = Batch(disk)
    requests = [batch.make(Op.DISCARD, index * GRANULE, GRANULE) for index in range(3)]
    disk.submit(requests)
    for index, request in enumerate(requests):
        assert kinds(engine) == [("discard", index * GRANULE, GRANULE)]
        assert disk.busy
        engine.answer(0)
        assert request.result == GRANULE
    assert not engine.unanswered
    assert not disk.busy


def test_a_write_of_part_of_a_block_waits_for_the_discard_of_it(engine: ScriptedEngine, disk: FileDisk) -> None:
    batch = Batch(disk)
    disk.submit([batch.make(Op.DISCARD, 0, GRANULE), batch.write(5000, b"x")])
    assert kinds(engine) == [("discard", 0, GRANULE)]
    engine.answer(0)
    assert [kind for kind, _, _ in kinds(engine)] == ["read"]


def test_a_discard_waits_for_the_write_of_part_of_a_block(engine: ScriptedEngine, disk: FileDisk) -> None:
    batch = Batch(disk)
    disk.submit([batch.write(5000, b"x"), batch.make(Op.DISCARD, 0, GRANULE)])
    assert [kind for kind, _, _ in kinds(engine)] == ["read"]
    engine.answer()
    assert [kind for kind, _, _ in kinds(engine)] == ["write"]
    engine.answer()
    assert kinds(engine) == [("discard", 0, GRANULE)]


@pytest.mark.parametrize("refusal", [errno.EOPNOTSUPP, errno.ENOTTY, errno.EREMOTEIO, errno.ENOSYS])
def test_a_device_that_cannot_discard_is_not_asked_again_and_is_well(
    engine: ScriptedEngine, disk: FileDisk, refusal: int
) -> None:
    found: list[object] = []
    disk.on_error = lambda *what: found.append(what)
    batch = Batch(disk)
    requests = [batch.make(Op.DISCARD, index * GRANULE, GRANULE) for index in range(3)]
    disk.submit(requests[:2])
    engine.answer(-refusal)
    disk.submit(requests[2:])
    assert [request.result for request in requests] == [-errno.EOPNOTSUPP] * 3
    assert len(engine.calls) == 1
    assert (disk.granules, found) == (NO_GRANULES, [])
    assert not disk.busy


def test_a_discard_finds_out_that_the_device_is_gone(engine: ScriptedEngine, disk: FileDisk) -> None:
    found: list[object] = []
    disk.on_error = lambda *what: found.append(what)
    request = Batch(disk).make(Op.DISCARD, 0, GRANULE)
    disk.submit([request])
    engine.answer(-errno.ENODEV)
    assert request.result == -errno.EIO
    assert found == [(Op.DISCARD, errno.ENODEV, Sign.GONE)]


def test_an_error_of_the_device_is_the_answer(engine: ScriptedEngine, disk: FileDisk) -> None:
    found: list[object] = []
    disk.on_error = lambda *what: found.append(what)
    request = Batch(disk).make(Op.DISCARD, 0, GRANULE)
    disk.submit([request])
    engine.answer(-errno.EIO)
    assert request.result == -errno.EIO
    assert len(found) == 1
    assert disk.granules


def test_an_interrupted_discard_goes_again_and_not_for_ever(engine: ScriptedEngine, disk: FileDisk) -> None:
    request = Batch(disk).make(Op.DISCARD, 0, GRANULE)
    disk.submit([request])
    while engine.unanswered:
        engine.answer(-errno.EINTR)
    assert len(engine.calls) == DISK_AGAIN_MAX + 1
    assert request.result == -errno.EAGAIN


def test_an_image_is_punched(engine: ScriptedEngine) -> None:
    with open(os.devnull, "rb") as null:
        facts = replace(FACTS, is_block_device=False)
        disk = FileDisk(facts, null.fileno(), engine, Alignment(512, 512), read_only=False)
        disk.submit([Batch(disk).make(Op.DISCARD, 1, 2 * GRANULE)])
        assert kinds(engine) == [(f"fallocate {PUNCH}", GRANULE, GRANULE)]
        engine.answer(0)


# --- real images -------------------------------------------------------------------------


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 4 * MIB)
    return path


@pytest.mark.parametrize("cache", CACHES)
async def test_a_discard_frees_the_blocks_of_an_image_also_of_a_full_one(image: Path, cache) -> None:
    async with opened(image, "io_uring", cache) as disk:
        assert await write(disk, 0, b"x" * 2 * MIB) == 2 * MIB
        assert await discard(disk, 100, 3 * MIB) == 3 * MIB
        assert await read(disk, 0, 100) == b"x" * 100
        assert await flush(disk) == 0
    status = os.stat(image)
    assert status.st_size == 4 * MIB
    assert status.st_blocks * 512 <= MIB + 2 * 4096


async def test_read_only_refuses_to_discard(image: Path) -> None:
    async with opened(image, "io_uring", "none", read_only=True) as disk:
        assert not disk.granules
        assert await discard(disk, 0, 4096) == -errno.EROFS


async def test_an_image_whose_file_system_frees_nothing_cannot_be_discarded(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "can_punch", lambda fd, size: False)
    async with opened(image, "io_uring", "none") as disk:
        assert not disk.granules
        assert await discard(disk, 0, 4096) == -errno.EOPNOTSUPP


async def test_the_look_whether_an_image_can_be_punched_changes_nothing(image: Path) -> None:
    os.truncate(image, 5000)
    async with opened(image, "io_uring", "none") as disk:
        assert disk.granules == Granules(4096)
        assert await read(disk, 0, 6000) == bytes(5000)
    assert os.stat(image).st_size == 5000

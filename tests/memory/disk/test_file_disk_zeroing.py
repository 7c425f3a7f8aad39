"""Zeroing of a FileDisk whose engine is scripted: modes that the kernel has or lacks, and errors."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshfs.disk.base import Op
from meshfs.disk.discovery.identity import Identity
from meshfs.disk.discovery.scan import DiskFacts
from meshfs.disk.file.directio import Alignment
from meshfs.disk.file.disk import FileDisk
from meshfs.disk.file.zero import PUNCH, ZERO
from meshfs.limits import DISK_AGAIN_MAX, ZERO_WRITE_BYTES
from meshlab.fakes.scripted_engine import ScriptedEngine
from meshlab.suites.disk import Batch

SIZE_BYTES = 1 << 20
FACTS = DiskFacts(Path("/dev/x"), True, SIZE_BYTES, 512, 4096, False, False, "", "", "dev 1", Identity("a"))


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def disk(engine: ScriptedEngine) -> Iterator[FileDisk]:
    # It is no block device, so it has no size. The scripted engine never uses it.
    with open(os.devnull, "rb") as null:
        yield FileDisk(FACTS, null.fileno(), engine, Alignment(512, 512), read_only=False)


@pytest.mark.parametrize("refusal", [errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV, errno.EINVAL, errno.ENOSPC])
def test_a_refused_mode_gives_way_to_the_next_and_then_to_writes(
    engine: ScriptedEngine, disk: FileDisk, refusal: int
) -> None:
    disk.zero_modes[:] = [PUNCH, ZERO]
    for time in range(2):
        request = Batch(disk).make(Op.ZERO, 4096, 2 * ZERO_WRITE_BYTES // 4)
        engine.calls.clear()
        disk.submit([request])
        while engine.unanswered:
            kind, _, length, _ = engine.unanswered[0]
            engine.answer(-refusal if kind.startswith("fallocate") else length)
        kinds = [call[0] for call in engine.calls]
        # The disk does not try a mode again that the kernel does not have.
        known = time and refusal in (errno.EOPNOTSUPP, errno.ENOSYS)
        assert kinds == (["write"] if known else [f"fallocate {PUNCH}", f"fallocate {ZERO}", "write"])
        assert request.result == request.length


@pytest.mark.parametrize(
    ("code", "answer"), [(errno.EIO, errno.EIO), (errno.EPERM, errno.EROFS), (errno.ENXIO, errno.EIO)]
)
def test_a_failed_zeroing_is_an_error_and_not_tried_by_other_means(
    engine: ScriptedEngine, disk: FileDisk, code: int, answer: int
) -> None:
    disk.zero_modes[:] = [PUNCH, ZERO]
    request = Batch(disk).make(Op.ZERO, 0, 8192)
    disk.submit([request])
    engine.answer(-code)
    assert not engine.unanswered
    assert request.result == -answer


def test_a_write_through_zeroing_is_stable_before_it_is_done(engine: ScriptedEngine, disk: FileDisk) -> None:
    disk.zero_modes[:] = [PUNCH]
    request = Batch(disk).make(Op.ZERO, 0, 8192)
    request.write_through = True
    verifier = disk.verifier
    disk.submit([request])
    engine.answer(0)
    assert engine.unanswered == [("sync", 0, 0, False)]
    engine.answer(-errno.EIO)
    assert request.result == -errno.EIO
    assert disk.verifier != verifier


def test_a_write_of_part_of_a_block_waits_for_the_zeroing_of_it(engine: ScriptedEngine, disk: FileDisk) -> None:
    disk.zero_modes[:] = [PUNCH]
    batch = Batch(disk)
    disk.submit([batch.make(Op.ZERO, 4096, 8192), batch.write(5000, b"x")])
    assert [call[0] for call in engine.unanswered] == [f"fallocate {PUNCH}"]
    engine.answer(0)
    assert [call[0] for call in engine.unanswered] == ["read"]


def test_an_interrupted_zeroing_goes_again_and_not_for_ever(engine: ScriptedEngine, disk: FileDisk) -> None:
    disk.zero_modes[:] = [PUNCH]
    request = Batch(disk).make(Op.ZERO, 4096, 4096)
    disk.submit([request])
    while engine.unanswered:
        engine.answer(-errno.EINTR)
    assert len(engine.calls) == DISK_AGAIN_MAX + 1
    assert request.result == -errno.EAGAIN

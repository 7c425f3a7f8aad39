"""The results of a FileDisk, whose engine is scripted."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshfs.buffers import HEADROOM_BYTES, Buffer
from meshfs.disk.base import Op
from meshfs.disk.discovery.identity import Identity
from meshfs.disk.discovery.scan import DiskFacts
from meshfs.disk.errnos import Sign
from meshfs.disk.file.directio import ANY, Alignment
from meshfs.disk.file.disk import FileDisk
from meshfs.granules import Granules
from meshfs.limits import DISK_AGAIN_MAX
from meshlab.fakes.scripted_engine import ScriptedEngine
from meshlab.suites.disk import Batch

SIZE_BYTES = 1 << 20
FACTS = DiskFacts(
    Path("/dev/x"), True, SIZE_BYTES, 512, 4096, False, False, "", "", "dev 1", Identity("a"), Granules(512)
)


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def disk(engine: ScriptedEngine) -> Iterator[FileDisk]:
    # It is no block device, so it has no size. The scripted engine never uses it.
    with open(os.devnull, "rb") as null:
        yield FileDisk(FACTS, null.fileno(), engine, Alignment(512, 512), read_only=False)


@pytest.mark.parametrize("op", [Op.READ, Op.WRITE])
def test_a_short_result_goes_on_at_a_whole_block(disk: FileDisk, engine: ScriptedEngine, op: Op) -> None:
    batch = Batch(disk)
    request = batch.make(op, 4096, 4096)
    request.write_through = op == Op.WRITE
    disk.submit([request])
    engine.answer(1300)
    engine.answer(512)
    engine.answer()
    kind, through = op.name.lower(), request.write_through
    assert engine.calls == [
        (kind, 4096, 4096, through),
        (kind, 4096 + 1024, 3072, through),
        (kind, 4096 + 1536, 2560, through),
    ]
    assert request.result == 4096


@pytest.mark.parametrize("op", [Op.READ, Op.WRITE])
def test_a_request_that_gets_nowhere_is_an_error(disk: FileDisk, engine: ScriptedEngine, op: Op) -> None:
    request = Batch(disk).make(op, 0, 4096)
    disk.submit([request])
    engine.answer(2048)
    engine.answer(100)
    assert request.result == -errno.EIO
    assert not engine.unanswered


@pytest.mark.parametrize("op", list(Op))
def test_eagain_and_eintr_go_again(disk: FileDisk, engine: ScriptedEngine, op: Op) -> None:
    request = Batch(disk).make(op, 0, 0 if op == Op.FLUSH else 512)
    disk.submit([request])
    engine.answer(-errno.EAGAIN)
    engine.answer(-errno.EINTR)
    engine.answer()
    assert len(engine.calls) == 3
    assert request.result == request.length


@pytest.mark.parametrize(
    ("op", "offset", "length", "start"),
    [
        pytest.param(Op.READ, 100, 100, 0, id="read of a part of a block"),
        pytest.param(Op.WRITE, 100, 100, 0, id="write of a part of a block"),
        pytest.param(Op.WRITE, 0, 512, 1, id="write from unaligned memory"),
        pytest.param(Op.ZERO, 100, 100, 0, id="zeroing of a part of a block"),
    ],
)
def test_without_memory_a_request_is_answered_and_keeps_no_other_from_its_turn(
    disk: FileDisk,
    engine: ScriptedEngine,
    monkeypatch: pytest.MonkeyPatch,
    op: Op,
    offset: int,
    length: int,
    start: int,
) -> None:
    request = Batch(disk).make(op, offset, length, start=start)
    other = Batch(disk).make(Op.WRITE, 0, 512)

    def no_memory(payload_bytes: int) -> Buffer:
        raise MemoryError

    monkeypatch.setattr(disk.pool, "acquire", no_memory)
    disk.submit([request, other])
    assert request.result == -errno.EAGAIN
    assert engine.unanswered == [("write", 0, 512, False)]
    engine.answer()
    assert other.result == 512
    assert not disk.busy


def test_eagain_without_end_becomes_the_result(disk: FileDisk, engine: ScriptedEngine) -> None:
    request = Batch(disk).make(Op.READ, 0, 512)
    disk.submit([request])
    while engine.unanswered:
        engine.answer(-errno.EAGAIN)
    assert request.result == -errno.EAGAIN
    assert len(engine.calls) == DISK_AGAIN_MAX + 1


def test_a_partial_block_is_read_merged_and_written(disk: FileDisk, engine: ScriptedEngine) -> None:
    request = Batch(disk).write(1000, b"x" * 1000, through=True)
    disk.submit([request])
    assert engine.calls == [("read", 512, 512, False), ("read", 1536, 512, False)]
    engine.answer()
    engine.answer()
    assert engine.unanswered == [("write", 512, 1536, True)]
    engine.answer()
    assert request.result == 1000


def test_other_writes_to_its_blocks_wait_for_the_merge(disk: FileDisk, engine: ScriptedEngine) -> None:
    batch = Batch(disk)
    merge, over, beside = batch.write(600, b"x"), batch.write(512, b"y" * 512), batch.write(1024, b"z" * 512)
    disk.submit([merge, over, beside])
    assert engine.unanswered == [("read", 512, 512, False), ("write", 1024, 512, False)]
    engine.answer()
    assert engine.unanswered == [("write", 1024, 512, False), ("write", 512, 512, False)]
    engine.answer()
    engine.answer()
    assert engine.unanswered == [("write", 512, 512, False)]
    engine.answer()
    assert [merge.result, over.result, beside.result] == [1, 512, 512]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_within_a_merge_is_its_requests(disk: FileDisk, engine: ScriptedEngine, failing: int) -> None:
    batch = Batch(disk)
    merge, waiting = batch.write(1000, b"x" * 1000), batch.write(512, b"y" * 512)
    disk.submit([merge, waiting])
    for index in range(2 if failing < 2 else 3):
        engine.answer(-errno.EIO if index == failing else None)
    assert merge.result == -errno.EIO
    assert engine.unanswered == [("write", 512, 512, False)]
    engine.answer()
    assert waiting.result == 512
    assert disk.pool.used_bytes == 0


def test_unaligned_memory_takes_a_bounce_but_no_merge(disk: FileDisk, engine: ScriptedEngine) -> None:
    batch = Batch(disk)
    requests = [batch.write(512, b"x" * 512, start=HEADROOM_BYTES + 4), batch.make(Op.READ, 0, 512, start=100)]
    disk.submit(requests)
    assert engine.calls == [("write", 512, 512, False), ("read", 0, 512, False)]
    assert disk.pool.used_bytes == 2 * 4096
    engine.answer()
    engine.answer(-errno.EIO)
    assert [request.result for request in requests] == [512, -errno.EIO]
    assert disk.pool.used_bytes == 0


def test_eperm_of_a_write_means_read_only(disk: FileDisk, engine: ScriptedEngine) -> None:
    request = Batch(disk).write(0, b"x" * 512)
    disk.submit([request])
    engine.answer(-errno.EPERM)
    assert request.result == -errno.EROFS


@pytest.mark.parametrize("op", [Op.FLUSH, Op.WRITE])
def test_a_failed_flush_tells_everybody_by_the_verifier(disk: FileDisk, engine: ScriptedEngine, op: Op) -> None:
    before = disk.verifier
    request = Batch(disk).make(op, 0, 512 if op == Op.WRITE else 0)
    request.write_through = True
    disk.submit([request])
    engine.answer(-errno.EIO)
    assert request.result == -errno.EIO
    assert disk.verifier != before


@pytest.mark.parametrize("number", [errno.ENODATA, errno.EREMOTEIO, errno.ENOLINK, errno.ENODEV, errno.ETIMEDOUT])
def test_any_error_of_a_write_through_may_be_the_report_of_other_writes(
    disk: FileDisk, engine: ScriptedEngine, number: int
) -> None:
    before = disk.verifier
    request = Batch(disk).write(0, b"x" * 512, through=True)
    disk.submit([request])
    engine.answer(-number)
    assert request.result == -errno.EIO
    assert disk.verifier != before


@pytest.mark.parametrize(("alignment", "lost"), [(Alignment(512, 512), False), (ANY, True)])
def test_no_room_for_a_write_through_is_a_loss_in_the_page_cache_only(
    engine: ScriptedEngine, alignment: Alignment, *, lost: bool
) -> None:
    with open(os.devnull, "rb") as null:
        disk = FileDisk(FACTS, null.fileno(), engine, alignment, read_only=False)
        before = disk.verifier
        disk.submit([request := Batch(disk).write(0, b"x" * 512, through=True)])
        engine.answer(-errno.ENOSPC)
        assert request.result == -errno.ENOSPC
        assert (disk.verifier != before) is lost


def test_flushes_go_one_at_a_time_each_for_all_that_waited(disk: FileDisk, engine: ScriptedEngine) -> None:
    """If two ran at once, the kernel could give the error to one, and before that success to the other."""
    batch = Batch(disk)
    first, second, third = (batch.make(Op.FLUSH, 0, 0) for _ in range(3))
    for request in (first, second, third):
        disk.submit([request])
    assert len(engine.unanswered) == 1
    assert disk.flush_age_s() > 0
    engine.answer(0)
    assert batch.done == [first]
    assert len(engine.unanswered) == 1
    before = disk.verifier
    engine.answer(-errno.EIO)
    assert batch.done == [first, second, third]
    assert disk.flush_age_s() == 0
    assert (second.result, third.result) == (-errno.EIO, -errno.EIO)
    assert disk.verifier != before
    assert not engine.unanswered


def test_no_flush_is_answered_until_a_loss_is_kept(disk: FileDisk, engine: ScriptedEngine) -> None:
    kept: list[tuple[str, Callable[[], object]]] = []
    disk.recall("", lambda seed, then: kept.append((seed, then)))
    batch = Batch(disk)
    before = disk.verifier
    failing, later = batch.make(Op.FLUSH, 0, 0), batch.make(Op.FLUSH, 0, 0)
    reading, through = batch.make(Op.READ, 0, 512), batch.write(512, b"x" * 512, through=True)
    disk.submit([failing])
    engine.answer(-errno.EIO)
    disk.submit([later, reading, through])
    engine.answer()
    engine.answer()
    engine.answer(-errno.EIO)
    # Reads do not wait for the flush.
    assert batch.done == [reading]
    assert len(kept) == 2
    kept[0][1]()
    assert batch.done == [reading]
    kept[1][1]()
    assert batch.done == [reading, failing, later, through]
    assert [request.result for request in (failing, later, through)] == [-errno.EIO, 0, -errno.EIO]
    # Another process that reads the seed that was kept last has the same verifier, and not the one before.
    with open(os.devnull, "rb") as null:
        restarted = FileDisk(FACTS, null.fileno(), engine, Alignment(512, 512), read_only=False)
        restarted.recall(kept[1][0], lambda seed, then: None)
    assert restarted.verifier == disk.verifier != before


def test_a_failed_plain_write_is_its_callers_alone(disk: FileDisk, engine: ScriptedEngine) -> None:
    before = disk.verifier
    request = Batch(disk).write(0, b"x" * 512)
    disk.submit([request])
    engine.answer(-errno.EIO)
    assert disk.verifier == before


@pytest.mark.parametrize(
    ("op", "number", "answer", "sign"),
    [
        (Op.READ, errno.ENODATA, errno.EIO, Sign.FAILED),
        (Op.WRITE, errno.EREMOTEIO, errno.EIO, Sign.FAILED),
        (Op.WRITE, errno.ENOSPC, errno.ENOSPC, Sign.FAILED),
        (Op.WRITE, errno.EPERM, errno.EROFS, Sign.FAILED),
        (Op.READ, errno.ENODEV, errno.EIO, Sign.GONE),
        (Op.FLUSH, errno.ETIMEDOUT, errno.EIO, Sign.FAILED),
    ],
)
def test_an_error_becomes_the_callers_and_is_reported(
    disk: FileDisk, engine: ScriptedEngine, op: Op, number: int, answer: int, sign: Sign
) -> None:
    reported: list[tuple[Op, int, Sign]] = []
    disk.on_error = lambda *error: reported.append(error)
    before = disk.verifier
    request = Batch(disk).make(op, 0, 0 if op == Op.FLUSH else 512)
    disk.submit([request])
    engine.answer(-number)
    assert request.result == -answer
    assert reported == [(op, number, sign)]
    assert (disk.verifier != before) is (op == Op.FLUSH)


def test_a_shortage_of_memory_says_nothing_of_the_disk(disk: FileDisk, engine: ScriptedEngine) -> None:
    reported: list[tuple[Op, int, Sign]] = []
    disk.on_error = lambda *error: reported.append(error)
    request = Batch(disk).make(Op.WRITE, 0, 512)
    disk.submit([request])
    engine.answer(-errno.ENOMEM)
    assert request.result == -errno.EAGAIN
    assert reported == []


@pytest.mark.parametrize(
    ("number", "device_bytes", "answer", "sign"),
    [
        (errno.ENOSPC, 0, errno.EIO, Sign.GONE),
        (errno.EIO, 0, errno.EIO, Sign.GONE),
        (errno.ENOSPC, 4096, errno.EIO, Sign.FAILED),
        (errno.ENOSPC, SIZE_BYTES, errno.ENOSPC, Sign.FAILED),
    ],
)
def test_the_devices_size_tells_removed_shrunk_and_full_apart(
    disk: FileDisk,
    engine: ScriptedEngine,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    device_bytes: int,
    answer: int,
    sign: Sign,
) -> None:
    monkeypatch.setattr("meshfs.disk.file.errors.device_size", lambda fd: device_bytes)
    reported: list[tuple[Op, int, Sign]] = []
    disk.on_error = lambda *error: reported.append(error)
    request = Batch(disk).make(Op.WRITE, 8192, 4096)
    disk.submit([request])
    engine.answer(-number)
    assert request.result == -answer
    assert reported == [(Op.WRITE, number, sign)]


def test_behind_the_new_end_of_a_disk_that_shrank_is_eio_and_nothing_is_written(
    disk: FileDisk, engine: ScriptedEngine
) -> None:
    disk.resize(8192)
    assert disk.size_bytes == SIZE_BYTES
    batch = Batch(disk)
    behind, across, before = (batch.make(Op.WRITE, offset, 4096) for offset in (8192, 6144, 4096))
    disk.submit([behind, across, before])
    assert [request.result for request in (behind, across)] == [-errno.EIO, -errno.EIO]
    assert engine.calls == [("write", 4096, 4096, False)]
    engine.answer()
    assert before.result == 4096


def test_a_disk_that_grew_is_written_to_its_new_end(disk: FileDisk, engine: ScriptedEngine) -> None:
    disk.resize(2 * SIZE_BYTES)
    batch = Batch(disk)
    inside, outside = batch.make(Op.WRITE, 2 * SIZE_BYTES - 512, 512), batch.make(Op.WRITE, 2 * SIZE_BYTES, 512)
    disk.submit([inside, outside])
    engine.answer()
    assert (inside.result, outside.result) == (512, -errno.ENOSPC)

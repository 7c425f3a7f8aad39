"""The record of a disk in real files: a loss is noted before any answer, and outlives the process."""

import errno
import json
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from meshfs import limits
from meshfs.disk.base import DiskRequest, Op
from meshfs.disk.discovery.scan import scan_disk
from meshfs.disk.file.directio import ANY
from meshfs.disk.file.disk import FileDisk
from meshfsd import remembered
from meshfsd.remembered import Remembered, recall
from meshlab.fakes.scripted_engine import ScriptedEngine


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return path


class Process:
    """What one meshfsd holds of a disk: the disk with a scripted engine, and its record."""

    def __init__(self, image: Path, state: Path) -> None:
        self.engine = ScriptedEngine()
        self.disk = FileDisk(scan_disk(image), os.open(image, os.O_RDWR), self.engine, ANY, read_only=False)
        self.remembered: Remembered = recall(state, "disk0", self.disk)
        self.remembered.attach(self.disk)
        self.results: list[int] = []

    def flush(self, result: int) -> None:
        """Submit a FLUSH that the kernel answers with ``result``. The reply is appended to ``results``."""
        self.disk.submit([DiskRequest(Op.FLUSH, 0, 0, None, 0, lambda request: self.results.append(request.result))])
        self.engine.answer(result)

    async def answered(self) -> None:
        with trio.fail_after(5):
            while not self.results:  # noqa: ASYNC110 - replies are plain calls
                await trio.sleep(0.01)


@contextmanager
def process(image: Path, state: Path) -> Iterator[Process]:
    """Run a process that ends as with kill -9, and writes nothing at its end."""
    started = Process(image, state)
    try:
        yield started
    finally:
        os.close(started.disk.fd)


@asynccontextmanager
async def serving(image: Path, state: Path) -> AsyncIterator[Process]:
    with process(image, state) as started:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(started.remembered.run)
            yield started
            nursery.cancel_scope.cancel()


async def test_a_restart_without_a_loss_keeps_the_verifier(image: Path, tmp_path: Path) -> None:
    verifiers = set()
    for _ in range(3):
        async with serving(image, tmp_path / "state") as meshfsd:
            meshfsd.flush(0)
            await meshfsd.answered()
            verifiers.add(meshfsd.disk.verifier)
    assert len(verifiers) == 1


async def test_a_failed_flush_is_remembered_by_the_next_process(image: Path, tmp_path: Path) -> None:
    async with serving(image, tmp_path / "state") as meshfsd:
        before = meshfsd.disk.verifier
        meshfsd.flush(-errno.EIO)
        await meshfsd.answered()
    with process(image, tmp_path / "state") as again:
        assert again.disk.verifier not in ("", before)
        assert again.disk.verifier == meshfsd.disk.verifier


async def test_a_failed_flush_is_answered_only_after_the_loss_is_noted(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, write = threading.Event(), remembered._write

    def slow(fd: int, record: remembered.RememberedDisk) -> None:
        go_on.wait(5)
        write(fd, record)

    async with serving(image, tmp_path / "state") as meshfsd:
        before = meshfsd.disk.verifier
        monkeypatch.setattr(remembered, "_write", slow)
        meshfsd.flush(-errno.EIO)
        meshfsd.flush(0)
        await trio.sleep(0.1)
        assert meshfsd.results == []
        # If the process is killed now, the loss is not noted, and no flush has succeeded.
        with process(image, tmp_path / "other-state"):
            go_on.set()
        await meshfsd.answered()
        assert meshfsd.results == [-errno.EIO, 0]
    with process(image, tmp_path / "state") as again:
        assert again.disk.verifier != before


async def stored(meshfsd: Process, state: Path) -> None:
    """Wait until the file holds the latest seed."""
    with trio.fail_after(5):
        while json.loads((state / "disk0.disk.json").read_text())["seed"] != meshfsd.remembered._latest_seed:  # noqa: ASYNC110
            await trio.sleep(0.01)


@pytest.mark.parametrize("end", ["killed", "succeeds", "fails"])
async def test_a_flush_that_takes_long_counts_as_a_loss_until_it_succeeds(
    image: Path, tmp_path: Path, end: str
) -> None:
    """The process may be killed while the flush fails. Then nobody gets the error."""
    async with serving(image, tmp_path / "state") as meshfsd:
        before = meshfsd.disk.verifier
        meshfsd.remembered.doubt(limits.FLUSH_DOUBT_S / 2)
        assert meshfsd.remembered.record.seed == meshfsd.remembered._latest_seed
        meshfsd.remembered.doubt(limits.FLUSH_DOUBT_S + 1)
        meshfsd.remembered.doubt(limits.FLUSH_DOUBT_S + 2)
        await stored(meshfsd, tmp_path / "state")
        assert meshfsd.disk.verifier == before
        if end == "fails":
            meshfsd.flush(-errno.EIO)
            await meshfsd.answered()
        if end != "killed":
            meshfsd.remembered.doubt(0.0)
            await stored(meshfsd, tmp_path / "state")
    with process(image, tmp_path / "state") as again:
        assert (again.disk.verifier == before) is (end == "succeeds")
        if end == "fails":
            assert again.disk.verifier == meshfsd.disk.verifier


async def test_a_state_folder_that_hangs_delays_a_failed_flush_no_longer_than_its_bound(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "LOSS_KEEP_TIMEOUT_S", 0.05)
    go_on = threading.Event()
    async with serving(image, tmp_path / "state") as meshfsd:
        monkeypatch.setattr(remembered, "_write", lambda fd, record: go_on.wait(5))
        meshfsd.flush(-errno.EIO)
        await meshfsd.answered()
        assert meshfsd.results == [-errno.EIO]
        assert "are not noted in the state folder (not written within 0.05 s)" in caplog.text
        # At the end, the descriptor stays open, because a thread hangs in a call on it.
        meshfsd.remembered.end(1, clean=True)
        go_on.set()


async def test_a_write_that_begins_after_the_end_touches_no_other_file(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[Callable[[], object]] = []

    async def start_late(function: Callable[..., object], *arguments: object, abandon_on_cancel: bool) -> None:
        late.append(partial(function, *arguments))
        await trio.sleep_forever()

    async with serving(image, tmp_path / "state") as meshfsd:
        number = meshfsd.remembered._fd
        assert number is not None
        monkeypatch.setattr(trio.to_thread, "run_sync", start_late)
        meshfsd.flush(-errno.EIO)
        await trio.testing.wait_all_tasks_blocked()
        with (tmp_path / "other").open("w+b") as other:
            meshfsd.remembered.end(1, clean=True)
            os.dup2(other.fileno(), number)
            try:
                late[0]()
                assert os.fstat(number).st_size == 0
            finally:
                os.close(number)
    with process(image, tmp_path / "state") as again:
        assert again.disk.verifier == meshfsd.disk.verifier


async def test_where_nothing_can_be_kept_every_start_has_another_verifier(
    image: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    with process(image, state) as meshfsd:
        verifiers = {meshfsd.disk.verifier}
    state.rename(tmp_path / "kept")
    state.write_text("no folder")
    for _ in range(2):
        async with serving(image, state) as meshfsd:
            verifiers.add(meshfsd.disk.verifier)
            meshfsd.flush(-errno.EIO)
            verifiers.add(meshfsd.disk.verifier)
            assert meshfsd.results == [-errno.EIO]
    state.unlink()
    (tmp_path / "kept").rename(state)
    with process(image, state) as meshfsd:
        # The seed is known from before, and the initiators have seen others since.
        assert meshfsd.disk.verifier in verifiers
    assert len(verifiers) == 5
    assert "at a restart of meshfsd every writer with unflushed writes gets EIO" in caplog.text


@pytest.mark.parametrize("content", [b"{", b"[]", b"null", b'{"device": 1}', b"\xff" * 600, b"{}" + b" " * 510])
async def test_a_record_that_makes_no_sense_is_made_new(
    image: Path, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    with process(image, state) as meshfsd:
        before = meshfsd.disk.verifier
    (state / "disk0.disk.json").write_bytes(content)
    with process(image, state) as meshfsd:
        assert meshfsd.disk.verifier != before
    assert "has invalid contents and is replaced" in caplog.text
    with process(image, state) as again:
        assert again.disk.verifier == meshfsd.disk.verifier


async def test_the_time_of_the_last_write_survives_an_orderly_end(image: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    os.utime(image, ns=(1000, 1000))
    with process(image, state) as meshfsd:
        assert meshfsd.remembered.record.written_ns == 1000
        meshfsd.remembered.end(5000, clean=True)
    with process(image, state) as meshfsd:
        assert meshfsd.remembered.record.written_ns == 5000
        assert json.loads((state / "disk0.disk.json").read_text())["clean"] is False


async def test_another_image_under_the_name_is_no_loss_of_the_old_one(image: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with process(image, state) as meshfsd:
        first = meshfsd
    other = tmp_path / "other.img"
    other.write_bytes(bytes(1 << 20))
    os.utime(other, ns=(1000, 1000))
    with process(other, state) as meshfsd:
        assert meshfsd.remembered.record.instance != first.remembered.record.instance
        assert meshfsd.disk.verifier != first.disk.verifier
        # The file is older than that of the other image, so a backup that compares times would miss the change.
        assert meshfsd.remembered.record.written_ns > first.remembered.record.written_ns

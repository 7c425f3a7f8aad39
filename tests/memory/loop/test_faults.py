"""Faults of ours: an exception in a callback of the event loop ends its connection or request, and nothing else."""

import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from meshfs import bugs, limits
from meshfs.disk.base import DiskRequest
from meshfs.exporter.kinds.disk import io as disk_io
from meshfs.exporter.serving.engine import ConnectionEngine
from meshfs.exporter.serving.outlet import Outlet
from meshfs.initiator.channel.outstanding import OutstandingRequests
from meshfs.limits import KIB, MIB
from meshfs.loop import reactor
from meshfs.loop.alarm import Alarm
from meshfs.model import IoClass
from meshfs.transport.base import Memory
from meshlab.fakes.mesh_pair import mesh_pair

SIZE = 4 * MIB


class Fault(RuntimeError):
    """An exception that no code of the product catches by name."""


@pytest.fixture
def event() -> int:
    """Return a descriptor that is always readable."""
    return os.eventfd(1, os.EFD_NONBLOCK)


async def rounds(count: int = 3) -> None:
    """Wait for some rounds of the reactor."""
    for _ in range(count):
        await trio.sleep(0.01)


async def test_a_callback_that_raises_leaves_the_reactor_and_all_others_at_work(
    event: int, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = socket.socketpair()
    hot, seen, before = reactor.current(), [], bugs.count()

    def fail() -> None:
        os.eventfd_read(event)
        raise Fault

    def read() -> None:
        seen.append(theirs.recv(100))

    with ours, theirs, hot.watching(event, fail), hot.watching(theirs.fileno(), read):
        for _ in range(3):
            ours.send(b"x")
            await rounds()
            os.eventfd_write(event, 1)
            await rounds()
    os.close(event)
    assert len(seen) == 3
    assert bugs.count() - before >= 3
    faults = [record for record in caplog.records if "internal error" in record.message]
    assert sum(record.exc_info is not None for record in faults) == 1, "one traceback of a kind"


async def test_one_that_always_raises_is_not_called_for_ever(event: int, caplog: pytest.LogCaptureFixture) -> None:
    calls = 0

    def fail() -> None:
        nonlocal calls
        calls += 1
        raise Fault

    reactor.current().add(event, fail)
    await rounds(30)
    assert calls == limits.CALLBACK_FAILURES_MAX_PER_S
    assert [record.levelno for record in caplog.records].count(logging.CRITICAL) == 1
    os.close(event)


async def test_a_fault_in_a_deferred_call_or_a_writer_ends_nothing_else(event: int) -> None:
    ours, theirs = socket.socketpair()
    hot, done, failures = reactor.current(), trio.Event(), []

    def fail() -> None:
        raise Fault

    def go_on() -> None:
        os.eventfd_read(event)
        hot.defer(fail)
        hot.defer(done.set)
        hot.give_turn()

    with ours, theirs, hot.watching(event, go_on):
        hot.add(ours.fileno(), fail, on_failure=failures.append)
        hot.when_writable(ours.fileno(), fail)
        with trio.fail_after(5):
            await done.wait()
        await rounds()
        hot.forget(ours.fileno())
    os.close(event)
    assert [type(error) for error in failures] == [Fault]


async def test_an_alarm_whose_callback_raised_fires_again() -> None:
    rang = trio.Event()

    def ring() -> None:
        if not failed:
            failed.append(True)
            raise Fault
        rang.set()
        reactor.current().give_turn()

    failed: list[bool] = []
    with Alarm(ring) as alarm:
        alarm.set(0.001)
        await rounds()
        assert failed
        alarm.set(0.001)
        with trio.fail_after(5):
            await rang.wait()


async def test_a_fault_behind_a_disks_answer_ends_the_connection_and_the_request_goes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the request may be left, or its open could never be closed."""
    good, faults = disk_io._read_done, 0

    def fail(done: DiskRequest) -> None:
        nonlocal faults
        if not faults:
            faults += 1
            raise Fault
        good(done)

    monkeypatch.setattr(disk_io, "_read_done", fail)
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=10.0) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        other = pair.exporter.exporter
        assert await handle.read(0, 512) == bytes(512)
        assert faults == 1
        assert pair.exporter.exporter is other
        await handle.close()
        assert other is not None
        assert not other.sessions._ending
        opens = [opened.name for session in other.sessions.values() for opened in session.opens.values()]
        assert set(opens) == {""}, "the roots only"


@pytest.mark.parametrize("side", ["initiator", "exporter", "exporter sends"])
async def test_a_fault_with_a_connection_ends_that_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    where: tuple[type, str] = {
        "initiator": (OutstandingRequests, "handle"),
        "exporter": (ConnectionEngine, "handle"),
        "exporter sends": (Outlet, "_send_some"),
    }[side]  # type: ignore[assignment]
    good, faults = getattr(*where), 0

    def fail(*args: object) -> object:
        nonlocal faults
        if armed and not faults:
            faults += 1
            raise Fault
        return good(*args)

    armed = False
    monkeypatch.setattr(*where, fail)
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=10.0) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        armed = True
        for size in (512, MIB, MIB):
            assert await handle.write(0, bytes(size)) == size
            assert len(await handle.read(0, size)) == size
        armed = False
        assert faults == 1
        assert await handle.write(4 * KIB, b"goes on") == 7


async def test_a_fault_in_sending_ends_the_channel_and_loses_no_request(tmp_path: Path) -> None:
    def fail(parts: Sequence[Memory]) -> int:
        raise Fault

    async with mesh_pair(tmp_path, SIZE, io_timeout_s=10.0) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        (channel,) = pair.session.channels
        channel.transport.send = fail  # type: ignore[method-assign]
        with trio.fail_after(5):
            assert await handle.write(0, b"goes again") == 10
        assert "internal error" in channel.why

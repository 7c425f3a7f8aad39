"""Blocking calls that the caller gives up after a bound."""

import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest
import trio
import trio.testing

from meshfs.errors import TookTooLong
from meshfs.loop.bounded import Bounded, bounded


class Gate:
    """A blocking call that ends when the test opens the gate."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.late: list[str] = []
        self.freed = threading.Event()

    def wait(self, result: str = "done") -> str:
        self._open.wait(30)
        return result

    def open(self) -> None:
        self._open.set()

    def free(self, result: str) -> None:
        self.late.append(result)
        self.freed.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


async def test_a_call_gives_its_result_or_its_error() -> None:
    assert await bounded("it", divmod, 7, 2, timeout_s=10) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await bounded("it", divmod, 7, 0, timeout_s=10)


async def test_a_call_is_given_up_and_its_late_result_is_freed(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(TookTooLong, match=r"within 0\.01 s"):
        await bounded("disk x", gate.wait, timeout_s=0.01, late=gate.free)
    assert "disk x did not answer within 0.01 s" in caplog.text
    assert gate.late == []
    gate.open()
    await trio.to_thread.run_sync(gate.freed.wait, 10)
    assert gate.late == ["done"]


async def test_one_thread_at_most_is_stuck_for_a_thing(gate: Gate) -> None:
    disk = Bounded("disk x")
    with pytest.raises(TookTooLong):
        await disk.call(gate.wait, timeout_s=0.01)
    threads = threading.active_count()
    for _ in range(10):
        with pytest.raises(TookTooLong, match="an earlier call"):
            await disk.call(gate.wait, timeout_s=30)
    assert threading.active_count() == threads
    gate.open()
    with trio.fail_after(10):
        while disk.stuck:  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.01)
    assert await disk.call(gate.wait, "again", timeout_s=10) == "again"


async def test_a_cancelled_call_is_abandoned(gate: Gate) -> None:
    disk = Bounded("disk x")
    with trio.move_on_after(0.01) as scope:
        await disk.call(gate.wait, timeout_s=30, late=gate.free)
    assert scope.cancelled_caught
    assert disk.stuck
    gate.open()
    await trio.to_thread.run_sync(gate.freed.wait, 10)
    assert gate.late == ["done"]


async def test_a_call_that_ends_just_when_it_is_cancelled_is_freed_as_well(gate: Gate) -> None:
    """The thread has a result, and the task that waits for it is cancelled before the task gets it."""
    disk = Bounded("disk x")
    ended = threading.Event()

    def claim() -> str:
        gate.wait()
        ended.set()
        return "claimed"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(disk.call, claim, timeout_s=30, late=gate.free))
        await trio.testing.wait_all_tasks_blocked()
        gate.open()
        # The event loop stands still for this time.
        ended.wait(10)
        time.sleep(0.1)  # noqa: ASYNC251
        nursery.cancel_scope.cancel()
    await trio.to_thread.run_sync(gate.freed.wait, 10)
    assert gate.late == ["claimed"]
    assert not disk.stuck

"""The reactor beside trio, and workers that run outside of trio."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import trio
import trio.lowlevel
import trio.testing

from meshfs.loop import reactor, worker
from meshfs.loop.worker import Worker
from support.waiting import until


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


async def test_callbacks_and_what_is_deferred_behind_them(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    hot = reactor.current()
    assert hot is reactor.current()
    seen: list[bytes | str] = []
    done = trio.Event()

    def readable() -> None:
        assert hot.in_round
        hot.defer(lambda: seen.append("round ends"))
        seen.append(theirs.recv(100))
        if seen[-1] == b"last":
            hot.defer(done.set)
            hot.give_turn()

    with hot.watching(theirs.fileno(), readable):
        ours.send(b"first")
        await trio.testing.wait_all_tasks_blocked(0.01)
        ours.send(b"last")
        with trio.fail_after(5):
            await done.wait()
    assert seen == [b"first", "round ends", b"last", "round ends"]
    ours.send(b"nobody watches")
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert len(seen) == 4
    assert not hot.in_round


async def test_an_edge_triggered_event_is_reported_once() -> None:
    event = os.eventfd(0, os.EFD_NONBLOCK)
    told: list[None] = []
    hot = reactor.current()
    try:
        with hot.watching(event, lambda: told.append(None), edge=True):
            for expected in (1, 2, 3):
                os.eventfd_write(event, 1)
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert len(told) == expected
    finally:
        os.close(event)


async def test_a_busy_descriptor_leaves_trio_its_turns(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.send(b"never read")
    rounds: list[None] = []
    with reactor.current().watching(theirs.fileno(), lambda: rounds.append(None)), trio.fail_after(10):
        for _ in range(5):
            await trio.sleep(0.001)
    assert len(rounds) > 10


async def test_removal_by_another_callback_of_the_same_round() -> None:
    hot = reactor.current()
    first, second = os.eventfd(1, os.EFD_NONBLOCK), os.eventfd(1, os.EFD_NONBLOCK)
    told: list[int] = []

    def only_one(mine: int, other: int) -> None:
        told.append(mine)
        hot.remove(other)
        hot.remove(mine)
        hot.remove(mine)

    try:
        hot.add(first, lambda: only_one(first, second))
        hot.add(second, lambda: only_one(second, first))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(told) == 1
    finally:
        os.close(first)
        os.close(second)


def test_a_run_without_hot_descriptors_has_no_reactor_task() -> None:
    async def main() -> int:
        root = trio.lowlevel.current_root_task()
        assert root is not None
        return sum("Reactor" in task.name for nursery in root.child_nurseries for task in nursery.child_tasks)

    assert trio.run(main) == 0


def until_refused(call: Callable[[], object]) -> None:
    """Repeat a call until it would block, to fill or to empty a socket."""
    with suppress(BlockingIOError):
        while True:
            call()


async def test_writable_is_reported_once_and_beside_readable(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    hot = reactor.current()
    told: list[str] = []
    until_refused(lambda: ours.send(bytes(65536)))
    with hot.watching(ours.fileno(), lambda: told.append(ours.recv(100).decode())):
        hot.when_writable(ours.fileno(), lambda: told.append("writable"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert told == []
        theirs.send(b"readable")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert told == ["readable"]
        until_refused(lambda: theirs.recv(1 << 20))
        await trio.testing.wait_all_tasks_blocked(0.01)
        theirs.send(b"still readable")
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert told == ["readable", "writable", "still readable"]


async def test_writable_without_a_reader_and_on_a_broken_socket(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    hot = reactor.current()
    told: list[str] = []
    until_refused(lambda: ours.send(bytes(65536)))
    hot.when_writable(ours.fileno(), lambda: told.append("writable"))
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert told == []
    theirs.close()
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert told == ["writable"]
    hot.when_writable(ours.fileno(), lambda: told.append("never"))
    hot.forget(ours.fileno())
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert told == ["writable"]


class Recorder:
    """An owner that notes the events of its workers."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def idle(self, worker: Worker) -> None:
        self.told.append("idle")

    def wants_trio(self, worker: Worker) -> None:
        self.told.append("trio")

    def ended(self, worker: Worker, error: BaseException | None) -> None:
        self.told.append(error)


def test_a_worker_parks_idles_and_ends() -> None:
    owner = Recorder()
    got: list[object] = []

    async def work() -> None:
        assert worker.running is serving
        got.append(await worker.park())
        await worker.idle()
        try:
            await worker.park()
        except OSError as error:
            got.append(error)

    serving = Worker(work(), owner)
    serving.resume()
    assert owner.told == []
    serving.resume(7)
    assert got == [7]
    assert owner.told == ["idle"]
    serving.resume()
    failure = OSError(5, "no")
    serving.throw(failure)
    assert got == [7, failure]
    assert owner.told == ["idle", None]
    assert worker.running is None


def test_a_workers_error_goes_to_its_owner_and_nobody_else() -> None:
    owner = Recorder()
    bug = ZeroDivisionError()

    async def work() -> None:
        raise bug

    Worker(work(), owner).resume()
    assert owner.told == [bug]
    assert worker.running is None


async def test_a_worker_that_needs_trio_goes_on_in_a_task() -> None:
    owner = Recorder()
    order: list[str] = []

    async def work() -> None:
        order.append("direct")
        await worker.enter_trio()
        assert worker.running is None
        await trio.lowlevel.checkpoint()
        await worker.enter_trio()
        with pytest.raises(trio.TooSlowError):
            with trio.fail_after(0.001):
                await trio.sleep_forever()
        order.append("in trio")
        await worker.idle()
        order.append("direct again")

    serving = Worker(work(), owner)
    serving.resume()
    assert owner.told == ["trio"]
    await serving.run_in_trio()
    assert owner.told == ["trio", "idle"]
    serving.resume()
    assert order == ["direct", "in trio", "direct again"]
    assert owner.told == ["trio", "idle", None]


async def test_cancelling_the_task_ends_the_worker_within() -> None:
    owner = Recorder()

    async def work() -> None:
        await worker.enter_trio()
        await trio.sleep_forever()

    serving = Worker(work(), owner)
    serving.resume()
    with trio.CancelScope() as scope:
        scope.cancel()
        await serving.run_in_trio()
    assert scope.cancelled_caught
    assert owner.told == ["trio"]


async def test_soon_ends_the_wait_for_descriptors_and_the_round_under_way(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    hot = reactor.current()
    seen: list[str] = []
    await trio.testing.wait_all_tasks_blocked(0.01)
    # No descriptor is watched and nothing arrives, so only the call itself can end the wait.
    hot.soon(lambda: seen.append("from a task"))
    await until(lambda: bool(seen))

    def readable() -> None:
        theirs.recv(100)
        hot.soon(lambda: seen.append("soon"))
        hot.defer(lambda: seen.append("deferred"))
        seen.append("readable")

    with hot.watching(theirs.fileno(), readable):
        ours.send(b"x")
        await until(lambda: len(seen) == 4)
    assert seen == ["from a task", "readable", "soon", "deferred"]


async def test_work_in_parts_lets_descriptors_and_tasks_in_between(pair: tuple[socket.socket, socket.socket]) -> None:
    """Before each part of endless work, the reactor checks its descriptors, and tasks of trio run."""
    ours, theirs = pair
    hot = reactor.current()
    parts, received, turns = 0, 0, 0
    over = False

    def part() -> None:
        nonlocal parts
        parts += 1
        ours.send(b"x")
        if not over:
            hot.soon(part)

    def readable() -> None:
        nonlocal received
        received += len(theirs.recv(100))
        # Bytes that one part sends are received before the next part runs.
        assert received == parts

    with hot.watching(theirs.fileno(), readable):
        hot.soon(part)
        with trio.fail_after(10):
            while parts < 200 or turns < 3:
                turns += 1
                await trio.lowlevel.checkpoint()
        over = True
        await until(lambda: received == parts)


async def test_a_part_that_fails_keeps_no_other_from_being_called(caplog: pytest.LogCaptureFixture) -> None:
    hot = reactor.current()
    seen: list[str] = []

    def fails() -> None:
        raise RuntimeError("a fault of ours")

    hot.soon(fails)
    hot.soon(lambda: seen.append("called"))
    await until(lambda: bool(seen))
    assert "a fault of ours" in caplog.text

import errno
from collections.abc import Callable, Sequence

import pytest
import trio
import trio.testing

from meshfs import limits
from meshfs.buffers import HEADROOM_BYTES, BufferPool
from meshfs.disk.absent import AbsentDisk
from meshfs.disk.base import DiskRequest, Op
from meshfs.model import FlowKey, IoClass
from meshfs.scheduler.decide.fair import FairQueue
from meshfs.scheduler.decide.policy import DiskPolicy
from meshfs.scheduler.decide.queue import FifoQueue
from meshfs.scheduler.runner import Runner, RunnerStatus
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.suites.disk import MIB

POOL = BufferPool()


def make(done: list[DiskRequest], op: Op = Op.READ, offset: int = 0) -> DiskRequest:
    length = 0 if op == Op.FLUSH else 512
    buffer = None if op == Op.FLUSH else POOL.acquire(length)
    return DiskRequest(op, offset, length, buffer, HEADROOM_BYTES, done.append)


def make_runner(depth: int) -> tuple[Runner, MemoryDisk]:
    disk = MemoryDisk(MIB)
    return Runner(FifoQueue(depth), disk), disk


async def test_nothing_reaches_the_disk_before_the_pump() -> None:
    runner, _ = make_runner(4)
    done: list[DiskRequest] = []
    requests = [make(done, offset=index * 512) for index in range(10)]
    for request in requests:
        runner.add(request)
    assert not done
    assert runner.status().queued == 10
    runner.pump()
    assert done == requests
    assert all(request.on_done == done.append for request in requests)


async def test_the_depth_at_the_disk_is_bounded() -> None:
    runner, disk = make_runner(4)
    disk.stall()
    done: list[DiskRequest] = []
    for _ in range(10):
        runner.submit(make(done))
    assert disk.stalled == 4
    assert runner.status().queued == 6
    assert runner.status().in_flight == 4
    disk.release()
    assert len(done) == 10


async def test_while_the_runner_refuses_queued_and_new_requests_end_at_once() -> None:
    runner, disk = make_runner(2)
    disk.stall()
    done: list[DiskRequest] = []
    requests = [make(done) for _ in range(5)]
    for request in requests:
        runner.submit(request)
    runner.refuse(errno.EIO)
    assert done == requests[2:]
    late = make(done, Op.WRITE)
    runner.add(late)
    assert late not in done, "no request is answered before the pump"
    runner.pump()
    assert {request.result for request in done} == {-errno.EIO}
    assert all(request.on_done == done.append for request in done)
    assert (runner.status().queued, runner.status().in_flight, runner.status().errors) == (0, 2, 4)
    disk.release()
    assert [request.result for request in done[4:]] == [512, 512]
    again = MemoryDisk(MIB)
    runner.serve(again)
    runner.submit(make(done))
    assert (done[-1].result, again.completed) == (512, 1)


async def test_a_disk_that_is_there_again_may_bring_another_queue() -> None:
    """An empty queue is false in Python. The runner must not keep the old one for that."""
    runner, disk = make_runner(2)
    runner.refuse(errno.EIO)
    queue = FifoQueue(3)
    runner.serve(disk, queue)
    assert runner.queue is queue


async def test_a_request_added_by_an_answer_while_the_runner_refuses_is_refused_in_the_same_pump() -> None:
    runner, disk = make_runner(1)
    disk.stall()
    done: list[DiskRequest] = []
    at_disk, queued, behind, behind_that = (make(done) for _ in range(4))
    at_disk.on_done = lambda _: runner.add(behind)
    queued.on_done = lambda _: runner.add(behind_that)
    runner.submit(at_disk)
    runner.submit(queued)
    runner.refuse(errno.EIO)
    assert done == [behind_that]
    disk.release()
    assert done == [behind_that, behind]
    assert [each.result for each in (at_disk, queued, *done)] == [512, -errno.EIO, -errno.EIO, -errno.EIO]


async def test_a_refusal_whose_answer_raises_keeps_no_other_from_its_answer() -> None:
    runner, _ = make_runner(1)
    runner.refuse(errno.EIO)
    faults: list[DiskRequest] = []
    runner.on_fault = lambda request, error: faults.append(request)
    done: list[DiskRequest] = []
    broken, other = make(done), make(done)

    def fail(_: DiskRequest) -> None:
        raise ValueError("a fault of the exporter")

    broken.on_done = fail
    runner.add(broken)
    runner.add(other)
    runner.pump()
    assert (faults, done) == ([broken], [other])


async def test_counters() -> None:
    runner, disk = make_runner(4)
    disk.fail(512, 1024, errno.EIO, {Op.READ})
    done: list[DiskRequest] = []
    for request in (make(done), make(done, offset=512), make(done, Op.WRITE), make(done, Op.FLUSH)):
        runner.add(request)
    runner.pump()
    assert [request.result for request in done] == [512, -errno.EIO, 512, 0]
    assert runner.status() == RunnerStatus(
        queued=0, in_flight=0, reads=2, writes=1, flushes=1, read_bytes=512, written_bytes=512, errors=1
    )


async def test_completions_that_submit_do_not_recurse() -> None:
    runner, _ = make_runner(1)
    left = 5000

    def again(request: DiskRequest) -> None:
        nonlocal left
        left -= 1
        if left:
            runner.submit(request)

    runner.submit(DiskRequest(Op.READ, 0, 512, POOL.acquire(512), HEADROOM_BYTES, again))
    assert left == 0


async def test_cancel_takes_back_requests_that_are_not_at_the_disk() -> None:
    runner, disk = make_runner(1)
    disk.stall()
    done: list[DiskRequest] = []
    first, second, stranger = make(done), make(done), make(done)
    runner.submit(first)
    runner.submit(second)
    assert not runner.cancel(first)
    assert not runner.cancel(stranger)
    assert runner.cancel(second)
    assert not runner.cancel(second)
    assert second.on_done == done.append
    disk.release()
    assert done == [first]


async def test_waiting_for_idle_ignores_later_requests_and_may_be_cancelled() -> None:
    runner, disk = make_runner(4)
    done: list[DiskRequest] = []
    stalled = make(done)
    disk.stall(lambda request: request is stalled)
    runner.submit(stalled)
    with trio.move_on_after(0) as scope:
        await runner.wait_idle()
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.wait_idle)
        await trio.testing.wait_all_tasks_blocked()
        disk.release()
        disk.stall()
        runner.submit(make(done))
    assert len(done) == 1
    disk.release()
    assert len(done) == 2


async def test_a_paused_runner_sends_nothing_and_sends_all_when_it_is_resumed() -> None:
    runner, disk = make_runner(2)
    disk.stall()
    done: list[DiskRequest] = []
    requests = [make(done, offset=index * 512) for index in range(6)]
    for request in requests[:4]:
        runner.submit(request)
    runner.pause()
    runner.pause()
    for request in requests[4:]:
        runner.submit(request)
    async with trio.open_nursery() as nursery:
        # Only the requests at the disk count.
        nursery.start_soon(runner.wait_idle)
        await trio.testing.wait_all_tasks_blocked()
        disk.release()
    assert done == requests[:2]
    assert (runner.status().queued, runner.status().in_flight, disk.completed) == (4, 0, 2)
    assert runner.cancel(requests[2])
    assert runner.oldest_s() is None, "what waits is not at the device, so the device does not hang"
    runner.resume()
    assert done == [*requests[:2], *requests[3:]]
    assert {request.result for request in done} == {512}
    runner.resume()


async def test_a_disk_that_goes_and_comes_while_its_runner_is_paused_costs_no_request() -> None:
    runner, _ = make_runner(2)
    done: list[DiskRequest] = []
    runner.pause()
    runner.submit(make(done))
    runner.refuse(errno.EIO)
    runner.submit(make(done))
    assert not done
    again = MemoryDisk(MIB)
    runner.serve(again, runner.queue)
    assert not done
    runner.resume()
    assert ([request.result for request in done], again.completed) == ([512, 512], 2)


async def test_a_disk_that_is_away_when_its_runner_is_resumed_refuses_what_waited() -> None:
    runner, _ = make_runner(2)
    done: list[DiskRequest] = []
    runner.refuse(errno.EIO)
    runner.pause()
    runner.submit(make(done))
    assert not done, "a disk that was away before waits too"
    runner.resume()
    runner.submit(make(done))
    assert [request.result for request in done] == [-errno.EIO, -errno.EIO]


class PacedQueue(FifoQueue):
    """Lets one request go each second."""

    next_time = 0.0

    def pop(self, now: float) -> DiskRequest | float | None:
        if not len(self):
            return None
        if now < self.next_time:
            return self.next_time
        self.next_time = now + 1.0
        return super().pop(now)


async def test_a_queue_is_asked_again_at_the_time_it_names(autojump_clock: trio.testing.MockClock) -> None:
    times: list[float] = []
    runner = Runner(PacedQueue(8), MemoryDisk(MIB))
    finished = trio.Event()

    def note(request: DiskRequest) -> None:
        times.append(trio.current_time())
        if len(times) == 4:
            finished.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.run)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(4):
            runner.add(DiskRequest(Op.READ, 0, 512, POOL.acquire(512), HEADROOM_BYTES, note))
        runner.pump()
        assert len(times) == 1
        await finished.wait()
        nursery.cancel_scope.cancel()
    assert times == pytest.approx([times[0] + index for index in range(4)])


class CachedDisk(AbsentDisk):
    """Answers within ``submit``, as a disk does whose data is in the page cache. A request takes 0.1 ms."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.batches: list[int] = []

    def submit(self, requests: Sequence[DiskRequest]) -> None:
        self.batches.append(len(requests))
        for request in requests:
            self.now_s += 1e-4
            request.result = request.length
            request.on_done(request)


def cached_runner(later: list[Callable[[], None]]) -> tuple[Runner, CachedDisk]:
    disk = CachedDisk()
    runner = Runner(FifoQueue(64), disk, now=lambda: disk.now_s)
    runner._later = later.append
    return runner, disk


@pytest.mark.parametrize("length", [4096, MIB])
def test_a_pump_that_takes_long_goes_on_in_a_later_round(length: int) -> None:
    later: list[Callable[[], None]] = []
    runner, disk = cached_runner(later)
    done: list[DiskRequest] = []
    for _ in range(200):
        runner.add(DiskRequest(Op.READ, 0, length, None, 0, done.append))
    rounds, longest_s = 1, 0.0
    started_s = disk.now_s
    runner.pump()
    while later:
        longest_s = max(longest_s, disk.now_s - started_s)
        started_s = disk.now_s
        (go_on,) = later
        later.clear()
        go_on()
        rounds += 1
    assert len(done) == 200
    # One batch ended within the time, and another had begun before the time was over.
    batch = limits.PUMP_BATCH_BYTES // (length + limits.PUMP_REQUEST_BYTES) + 1
    assert max(disk.batches) <= batch
    assert longest_s <= limits.PUMP_S + batch * 1e-4 + 1e-9
    assert rounds > 3


def test_a_newcomer_is_served_between_the_rounds_of_a_pump() -> None:
    later: list[Callable[[], None]] = []
    disk = CachedDisk()
    runner = Runner(FairQueue(DiskPolicy()), disk, now=lambda: disk.now_s)
    runner._later = later.append
    done: list[DiskRequest] = []
    for _ in range(64):
        runner.add(DiskRequest(Op.READ, 0, MIB, None, 0, done.append, flow=FlowKey("n3", IoClass.APP)))
    runner.pump()
    newcomer = DiskRequest(Op.READ, 0, 4096, None, 0, done.append, flow=FlowKey("n2", IoClass.APP))
    runner.submit(newcomer)
    assert newcomer in done
    assert len(done) < 20
    assert len(later) == 1

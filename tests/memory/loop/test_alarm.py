import os
import time

import trio
import trio.testing

from meshfs.buffers import HEADROOM_BYTES, BufferPool
from meshfs.disk.base import DiskRequest, Op
from meshfs.loop import reactor
from meshfs.loop.alarm import Alarm
from meshfs.model import FlowKey, IoClass
from meshfs.scheduler.decide.fair import FairQueue
from meshfs.scheduler.decide.policy import DiskPolicy
from meshfs.scheduler.runner import Runner
from meshlab.fakes.memory_disk import MemoryDisk


async def test_an_alarm_fires_once_for_each_time_and_never_early() -> None:
    fired: list[float] = []
    rang = trio.Event()

    def note() -> None:
        fired.append(time.monotonic())
        rang.set()
        reactor.current().give_turn()

    with Alarm(note) as alarm:
        start = time.monotonic()
        alarm.set(60.0)
        alarm.set(0.01)
        with trio.fail_after(10):
            await rang.wait()
        assert fired[0] - start >= 0.01
        await trio.sleep(0.02)
        assert len(fired) == 1
        # A time that has passed already counts as now.
        rang = trio.Event()
        alarm.set(-5.0)
        with trio.fail_after(10):
            await rang.wait()
        assert len(fired) == 2


async def test_an_alarm_that_is_closed_is_silent_and_leaves_no_descriptor() -> None:
    fired: list[float] = []
    # The reactor keeps its own descriptors for the whole run.
    reactor.current()
    before = len(os.listdir("/proc/self/fd"))
    with Alarm(lambda: fired.append(0.0)) as alarm:
        alarm.set(0.005)
    assert len(os.listdir("/proc/self/fd")) <= before
    await trio.sleep(0.02)
    assert not fired


async def test_a_runner_of_the_kernels_clock_pumps_at_the_time_the_queue_named() -> None:
    disk = MemoryDisk(1 << 20)
    pool = BufferPool()
    runner = Runner(FairQueue(DiskPolicy(limit_iops=200.0)), disk, now=time.monotonic)
    done: list[DiskRequest] = []
    all_done = trio.Event()

    def note(request: DiskRequest) -> None:
        done.append(request)
        if len(done) == 12:
            all_done.set()
            reactor.current().give_turn()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.run)
        await trio.testing.wait_all_tasks_blocked()
        start = time.monotonic()
        for _ in range(12):
            buffer = pool.acquire(512)
            flow = FlowKey("n1", IoClass.APP)
            runner.add(DiskRequest(Op.READ, 0, 512, buffer, HEADROOM_BYTES, note, flow=flow))
        runner.pump()
        assert 0 < len(done) < 12
        with trio.fail_after(10):
            await all_done.wait()
        # 12 at 200 a second take 55 ms, of which the burst allowed is taken off.
        assert time.monotonic() - start >= 0.04
        nursery.cancel_scope.cancel()

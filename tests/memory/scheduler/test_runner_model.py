"""Calls of a runner in random order: each request ends once, and none is left behind."""

import errno
import math
import random
from collections.abc import Callable, Sequence

import pytest

from meshfs.disk.absent import AbsentDisk
from meshfs.disk.base import DiskRequest, Op
from meshfs.model import FlowKey, IoClass
from meshfs.scheduler.decide.fair import FairQueue
from meshfs.scheduler.decide.policy import DiskPolicy
from meshfs.scheduler.decide.queue import FifoQueue
from meshfs.scheduler.runner import Runner

REQUESTS_MAX = 400


class SomeDisk(AbsentDisk):
    """Answers some requests within ``submit``, which takes time, and the others when the script says so."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now_s = 100.0
        self.at_disk: list[DiskRequest] = []
        self.cached = rng.random()
        self._submitting = False

    def submit(self, requests: Sequence[DiskRequest]) -> None:
        assert not self._submitting
        self._submitting = True
        for request in requests:
            self.now_s += 1e-4 * self.rng.random()
            if self.rng.random() < self.cached:
                self.end(request)
            else:
                self.at_disk.append(request)
        self._submitting = False

    def end(self, request: DiskRequest) -> None:
        request.result = request.length
        request.on_done(request)

    def end_one(self) -> None:
        self.end(self.at_disk.pop(self.rng.randrange(len(self.at_disk))))


class Script:
    """Drives a runner with such a disk. Callers add, cancel and refuse also from within an answer."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.disk = SomeDisk(rng)
        policy = DiskPolicy(limit_iops=rng.choice((None, None, 1000.0)))
        queue = rng.choice((FairQueue(policy), FifoQueue(8)))
        self.runner = Runner(queue, self.disk, now=lambda: self.disk.now_s)
        #: The callbacks of the reactor's next round.
        self.later: list[Callable[[], None]] = []
        if rng.random() < 0.8:
            self.runner._later = self.later.append
        self.refusing = False
        self.waits: dict[DiskRequest, None] = {}
        self.count = 0

    def add(self) -> None:
        rng = self.rng
        flow = FlowKey(rng.choice(("n1", "n2")), rng.choice(list(IoClass)))
        request = DiskRequest(rng.choice(list(Op)), 0, rng.choice((4096, 1 << 18)), None, 0, self.done, flow=flow)
        self.waits[request] = None
        self.count += 1
        self.runner.add(request)

    def done(self, request: DiskRequest) -> None:
        del self.waits[request]
        if self.rng.random() < 0.3 and self.count < REQUESTS_MAX:
            self.add()
        if self.rng.random() < 0.02:
            self.refuse()
        if self.rng.random() < 0.05:
            self.cancel()
        if self.rng.random() < 0.1:
            self.runner.pump()

    def cancel(self) -> None:
        for request in self.rng.sample(list(self.waits), min(3, len(self.waits))):
            if request in self.waits and self.runner.cancel(request):
                del self.waits[request]

    def refuse(self) -> None:
        if not self.refusing:
            self.refusing = True
            self.runner.refuse(errno.ENODEV)

    def serve(self) -> None:
        if self.refusing and not self.runner._callers:
            self.refusing = False
            self.runner.serve(self.disk)

    def step(self) -> None:
        match self.rng.choices(["add", "end", "cancel", "round", "refuse", "time"], [40, 20, 10, 10, 3, 7])[0]:
            case "add":
                for _ in range(self.rng.randrange(1, 30)):
                    self.add()
                self.runner.pump()
            case "end" if self.disk.at_disk:
                self.disk.end_one()
            case "cancel":
                self.cancel()
            case "round" if self.later:
                self.later.pop()()
            case "refuse":
                self.refuse()
            case "time":
                self.disk.now_s += self.rng.random() * 0.01
        if self.disk.now_s >= self.runner._wake_time:
            self.runner._due()
        if self.rng.random() < 0.3:
            self.serve()
        assert len(self.later) <= 1

    def finish(self) -> None:
        """Let only those events happen that come by themselves: rounds, answers of the disk, and the alarm."""
        while self.waits:
            if self.later:
                self.later.pop()()
            elif self.disk.at_disk:
                self.disk.end_one()
            else:
                assert self.runner._wake_time < math.inf, "no event would ever come"
                self.disk.now_s = max(self.disk.now_s, self.runner._wake_time)
                self.runner._due()


@pytest.mark.parametrize("seed", range(60))
def test_each_request_ends_once_and_none_is_left_behind(seed: int) -> None:
    script = Script(random.Random(seed))
    for _ in range(60):
        script.step()
    script.finish()
    assert not script.disk.at_disk
    status = script.runner.status()
    assert (status.queued, status.in_flight) == (0, 0)

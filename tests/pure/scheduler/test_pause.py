"""A paused queue does not learn the pause as the time of its device."""

from collections import deque

import pytest

from meshfs.disk.base import DiskRequest, Op
from meshfs.model import FlowKey, IoClass
from meshfs.scheduler.decide.fair import FairQueue
from meshfs.scheduler.decide.policy import DiskPolicy

FLOW = FlowKey("n2", IoClass.APP)
REQUEST_S = 0.001
SIZE = 4096


class Server:
    """Serves one request after the other, each in REQUEST_S, from a queue that always has 64 waiting requests."""

    def __init__(self) -> None:
        self.queue = FairQueue(DiskPolicy())
        self.now = 0.0
        self.at_disk: deque[DiskRequest] = deque()

    def serve(self, duration_s: float, *, paused: bool = False) -> None:
        end_s = self.now + duration_s
        while self.now < end_s:
            while len(self.queue) < 64:
                self.queue.add(DiskRequest(Op.READ, 0, SIZE, None, 0, lambda _: None, flow=FLOW), self.now)
            while not paused and isinstance(popped := self.queue.pop(self.now), DiskRequest):
                self.at_disk.append(popped)
            if not self.at_disk:
                assert paused
                self.now = end_s
                return
            self.now += REQUEST_S
            self.queue.done(self.at_disk.popleft(), self.now)

    @property
    def cost_s(self) -> float:
        return self.queue.costs.cost(Op.READ, SIZE)


@pytest.mark.parametrize("pause_s", [0.5, 5.0, 300.0])
def test_a_pause_is_not_learnt_as_the_devices_time(pause_s: float) -> None:
    server = Server()
    server.serve(5.0)
    before, depth = server.cost_s, server.queue.depth
    assert before == pytest.approx(REQUEST_S, rel=0.05)
    for _ in range(10):
        server.queue.paused()
        server.serve(pause_s, paused=True)
        server.queue.resumed(server.now)
        server.serve(0.3)
    assert server.cost_s == pytest.approx(before, rel=0.02)
    server.serve(2.0)
    assert server.queue.depth == pytest.approx(depth, rel=0.5)

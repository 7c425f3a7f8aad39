"""The fair queue against a plain model of its promises, at random: order, flushes, cancelling, counts."""

import random

import pytest

from meshfs.disk.base import DiskRequest, Op
from meshfs.model import FlowKey, IoClass
from meshfs.scheduler.decide.fair import FairQueue
from meshfs.scheduler.decide.policy import DiskPolicy, FlowPolicy

FLOWS = [FlowKey(node, io_class) for node in ("n1", "n2", "n3") for io_class in IoClass]
WAITS, SENT, DONE = "waits", "sent", "done"
WRITES = (Op.WRITE, Op.ZERO, Op.DISCARD)


def any_policy(rng: random.Random) -> DiskPolicy:
    """Draw a policy, with limits and reservations or without."""
    flows = {
        flow: FlowPolicy(
            weight=rng.choice((0.5, 1.0, 4.0)),
            limit_iops=rng.choice((None, 50.0, 500.0)),
            reservation=rng.choice((0.0, 0.1)),
        )
        for flow in FLOWS
        if rng.random() < 0.4
    }
    iops, bytes_per_s = rng.choice((None, None, 1000.0)), rng.choice((None, None, 1e6, 1e8))
    return DiskPolicy(limit_iops=iops, limit_bytes_per_s=bytes_per_s, flows=flows)


class Model:
    """Every request that was not cancelled, in the order of arrival, and where the request is."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now = 0.0
        self.queue = FairQueue(any_policy(rng) if rng.random() < 0.7 else DiskPolicy())
        self.came: dict[DiskRequest, str] = {}

    def add(self) -> None:
        rng = self.rng
        for _ in range(rng.randrange(1, 6)):
            op = rng.choices(list(Op), [3, 4, 2, 1, 1])[0]
            length = 0 if op is Op.FLUSH else rng.choice((512, 4096, 1 << 20))
            request = DiskRequest(op, 0, length, None, 0, _ignored, flow=rng.choice(FLOWS))
            self.queue.add(request, self.now)
            self.came[request] = WAITS

    def of_flow_before(self, request: DiskRequest) -> list[DiskRequest]:
        requests = list(self.came)
        return [each for each in requests[: requests.index(request)] if each.flow == request.flow]

    def pump(self) -> float | None:
        """Send what may be sent. Return when to ask again."""
        while isinstance(popped := self.queue.pop(self.now), DiskRequest):
            assert self.came[popped] == WAITS
            for before in self.of_flow_before(popped):
                if popped.op is not Op.FLUSH:
                    assert before.op is Op.FLUSH or self.came[before] != WAITS
                elif before.op in WRITES:
                    assert self.came[before] == DONE
            self.came[popped] = SENT
        return popped

    def at_disk(self) -> list[DiskRequest]:
        return [request for request, state in self.came.items() if state == SENT]

    def end_some(self) -> None:
        for request in self.rng.sample(at_disk := self.at_disk(), min(len(at_disk), self.rng.randrange(1, 5))):
            self.came[request] = DONE
            self.queue.done(request, self.now)

    def cancel_some(self) -> None:
        for request in self.rng.sample(list(self.came), min(len(self.came), self.rng.randrange(1, 20))):
            waits = self.came[request] == WAITS
            assert self.queue.cancel(request) == waits
            if waits:
                del self.came[request]

    def check(self) -> None:
        waiting = [request for request, state in self.came.items() if state == WAITS]
        assert len(self.queue) == len(waiting)
        counts = {state.flow: (state.queued, state.in_flight) for state in self.queue.flows(self.now)}
        for flow in FLOWS:
            queued = sum(request.flow == flow for request in waiting)
            in_flight = sum(request.flow == flow for request in self.at_disk())
            assert counts.get(flow, (0, 0)) == (queued, in_flight)
        for flow_state in self.queue._flows.values():
            for flush in flow_state.barriers:
                assert any(
                    before.op in WRITES and self.came[before] == SENT for before in self.of_flow_before(flush)
                ), "a flush waits for nothing"

    def drain(self) -> None:
        """Send all that waits, and check that nothing is left."""
        while True:
            wake_time = self.pump()
            if self.at_disk():
                self.end_some()
            elif len(self.queue):
                assert wake_time is not None
                assert wake_time > self.now
                self.now = wake_time
            else:
                break
        self.check()
        for flow in self.queue._flows.values():
            assert flow.idle
            assert not flow.queue
            assert not flow.cancelled
            assert not flow.writes
            assert not flow.lifted


def _ignored(_: DiskRequest) -> None:
    """Ignore the completion, because nobody waits for it."""


@pytest.mark.parametrize("seed", range(40))
def test_whatever_comes_in_whatever_order(seed: int) -> None:
    rng = random.Random(seed)
    model = Model(rng)
    for _ in range(80):
        match rng.choices(["add", "pump", "end", "cancel", "configure", "wait"], [45, 20, 15, 12, 3, 5])[0]:
            case "add":
                model.add()
            case "pump":
                model.pump()
            case "end":
                model.end_some()
            case "cancel":
                model.cancel_some()
            case "configure":
                model.queue.configure(any_policy(rng), model.now)
            case _:
                model.now += rng.choice((1e-4, 0.01, 0.5))
        model.check()
    model.drain()

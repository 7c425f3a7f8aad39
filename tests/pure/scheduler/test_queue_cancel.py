"""Cancelling and flushing beside thousands of requests of one flow: each costs as little as the first."""

from collections.abc import Callable
from typing import Any

import pytest

from meshfs.disk.base import DiskRequest, Op
from meshfs.model import FlowKey, IoClass
from meshfs.scheduler.decide.fair import FairQueue
from meshfs.scheduler.decide.policy import DiskPolicy
from meshfs.scheduler.decide.queue import FifoQueue, Queue

FLOW = FlowKey("n2", IoClass.APP)
MAKERS: dict[str, Callable[[], Queue]] = {
    "fair": lambda: FairQueue(DiskPolicy()),
    "fifo": lambda: FifoQueue(64),
}


@pytest.fixture(params=list(MAKERS))
def queue(request: pytest.FixtureRequest) -> Queue:
    return MAKERS[request.param]()


class CountedRequest(DiskRequest):
    """Counts how often a request is compared or looked up. A search through a list, or many sets, would do that."""

    compared = 0
    looked_up = 0

    def __eq__(self, other: object) -> bool:
        CountedRequest.compared += 1
        return self is other

    def __hash__(self) -> int:
        CountedRequest.looked_up += 1
        return object.__hash__(self)


def add(queue: Queue, count: int, op: Op = Op.READ) -> list[DiskRequest]:
    requests: list[DiskRequest] = [CountedRequest(op, 0, 4096, None, 0, _ignored, flow=FLOW) for _ in range(count)]
    for request in requests:
        queue.add(request, 0.0)
    return requests


def _ignored(_: DiskRequest) -> None:
    """Ignore the completion, because nobody waits for it."""


def pop_all(queue: Queue) -> list[DiskRequest]:
    popped = []
    while isinstance(request := queue.pop(0.0), DiskRequest):
        popped.append(request)
    return popped


ORDERS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "oldest first": lambda requests: requests,
    "newest first": lambda requests: requests[::-1],
    "every other, then the rest": lambda requests: requests[1::2] + requests[::2],
}


@pytest.mark.parametrize("order", list(ORDERS))
def test_to_cancel_thousands_one_by_one_searches_for_none(queue, order):
    requests = add(queue, 4000)
    CountedRequest.compared = 0
    for index, request in enumerate(ORDERS[order](requests)):
        assert queue.cancel(request)
        assert not queue.cancel(request)
        assert len(queue) == len(requests) - index - 1
    assert CountedRequest.compared < len(requests)
    assert pop_all(queue) == []


def test_what_is_not_cancelled_leaves_in_its_order(queue):
    requests = add(queue, 300)
    for request in requests[::3]:
        assert queue.cancel(request)
    left = [request for index, request in enumerate(requests) if index % 3]
    assert [state.queued for state in queue.flows(0.0)] == [200]
    popped = []
    while len(popped) < len(left):
        batch = pop_all(queue)
        assert batch
        for request in batch:
            assert not queue.cancel(request)
            queue.done(request, 0.0)
        popped += batch
    assert all(got is wanted for got, wanted in zip(popped, left, strict=True))


def test_a_queue_keeps_no_more_than_waits_however_much_is_cancelled(queue):
    """The disk hangs, and a peer asks and cancels again and again."""
    add(queue, 100)
    for _ in range(5000):
        (request,) = add(queue, 1)
        assert queue.cancel(request)
    waiting = queue._waiting if isinstance(queue, FifoQueue) else queue._flows[FLOW].queue
    assert len(queue) == 100
    assert len(waiting) <= 201


def test_a_flush_waits_for_the_writes_sent_before_it_and_for_no_later_one():
    queue = FairQueue(DiskPolicy())
    (first,) = add(queue, 1, Op.WRITE)
    assert pop_all(queue) == [first]
    early = add(queue, 100, Op.FLUSH)
    (second,) = add(queue, 1, Op.WRITE)
    assert pop_all(queue) == [second]
    late = add(queue, 100, Op.FLUSH)
    assert pop_all(queue) == []
    assert queue.cancel(early[0])
    assert not queue.cancel(early[0])
    assert queue.cancel(late[50])
    queue.done(second, 0.0)
    assert pop_all(queue) == [], "the first write may land later still"
    queue.done(first, 0.0)
    left = [*early[1:], *late[:50], *late[51:]]
    assert len(queue) == len(left)
    sent = []
    while batch := pop_all(queue):
        for request in batch:
            queue.done(request, 0.0)
        sent += batch
    assert sent == left


def test_a_write_that_is_done_looks_at_no_flush_that_still_waits():
    """Flushes of one flow, each behind a write of its own, wait for the oldest write. The other writes come and go."""
    queue = FairQueue(DiskPolicy())
    (oldest,) = add(queue, 1, Op.WRITE)
    pop_all(queue)
    flushes = []
    CountedRequest.looked_up = 0
    for _ in range(1000):
        (write,) = add(queue, 1, Op.WRITE)
        assert pop_all(queue) == [write]
        flushes += add(queue, 1, Op.FLUSH)
        queue.done(write, 0.0)
    assert CountedRequest.looked_up < 20 * len(flushes)
    flow = queue._flows[FLOW]
    assert len(flow.barriers) == len(flushes)
    assert len(flow.writes) == 1
    queue.done(oldest, 0.0)
    assert len(queue) == len(flushes)
    assert not flow.barriers

"""One test suite that every scheduling discipline has to pass, whatever its order.

    class TestFifoQueue(QueueSuite):
        def make(self, depth): return FifoQueue(depth)

Time is simulated: if a queue answers with a time, the suite asks it again at that time.
"""

import random
from abc import ABC, abstractmethod

from meshfs.disk.base import DiskRequest, Op
from meshfs.model import FlowKey, IoClass
from meshfs.scheduler.decide.queue import Queue


def make_request(
    node: str, *, io_class: IoClass = IoClass.APP, op: Op = Op.READ, offset: int = 0, length: int = 4096
) -> DiskRequest:
    """Return a request without memory, for tests that only make decisions."""
    return DiskRequest(op, offset, length, None, 0, lambda request: None, flow=FlowKey(node, io_class))


def pop_all(queue: Queue, now: float) -> tuple[list[DiskRequest], float | None]:
    """Return all requests that the queue releases at ``now``, and the time at which it wants to be asked again."""
    popped: list[DiskRequest] = []
    while isinstance(answer := queue.pop(now), DiskRequest):
        popped.append(answer)
    return popped, answer


class QueueSuite(ABC):
    """Tests of one queue. A subclass makes the queue, for at most ``depth`` requests at the disk at once."""

    @abstractmethod
    def make(self, depth: int) -> Queue: ...

    def test_an_empty_queue_has_nothing(self) -> None:
        queue = self.make(4)
        assert len(queue) == 0
        assert queue.pop(0.0) is None

    def test_the_depth_is_bounded(self) -> None:
        queue = self.make(3)
        for _ in range(10):
            queue.add(make_request("a"), 0.0)
        popped = self._pop_some(queue, 0.0)
        assert 1 <= len(popped) <= 3
        queue.done(popped[0], 1.0)
        assert len(popped) - 1 + len(self._pop_some(queue, 1.0)) <= 3

    def test_every_request_is_popped_once(self) -> None:
        """After random adds, pops, completions and cancels, no request is lost, doubled or starved."""
        for seed in range(30):
            self._shake(random.Random(seed))

    def test_a_cancelled_request_never_comes(self) -> None:
        queue = self.make(8)
        requests = [make_request("a", offset=index * 4096) for index in range(5)]
        for request in requests:
            queue.add(request, 0.0)
        assert queue.cancel(requests[2])
        assert not queue.cancel(requests[2])
        assert len(queue) == 4
        assert requests[2] not in self._finish_all(queue, 0.0)

    def test_a_popped_request_cannot_be_cancelled(self) -> None:
        queue = self.make(8)
        request = make_request("a")
        queue.add(request, 0.0)
        assert self._pop_some(queue, 0.0) == [request]
        assert not queue.cancel(request)

    def test_a_flow_keeps_its_order(self) -> None:
        queue = self.make(2)
        requests = [make_request("a", offset=index * 4096) for index in range(20)]
        for request in requests:
            queue.add(request, 0.0)
        assert self._finish_all(queue, 0.0) == requests

    def _pop_some(self, queue: Queue, now: float) -> list[DiskRequest]:
        """Pop what the queue releases at ``now``. If it releases nothing and names a time, pop at that time."""
        popped, wake_time = pop_all(queue, now)
        while not popped and wake_time is not None:
            assert wake_time > now, "a queue must name a time that is later than now"
            now = wake_time
            popped, wake_time = pop_all(queue, now)
        return popped

    def _finish_all(self, queue: Queue, now: float) -> list[DiskRequest]:
        """Pop and complete until the queue is empty. Return the requests in the order of popping."""
        order: list[DiskRequest] = []
        while len(queue):
            popped = self._pop_some(queue, now)
            assert popped, "requests wait and none is at the disk, but the queue releases none"
            for request in popped:
                order.append(request)
                queue.done(request, now)
        return order

    def _shake(self, generator: random.Random) -> None:
        depth = generator.randrange(1, 9)
        queue = self.make(depth)
        now = 0.0
        waiting: set[DiskRequest] = set()
        at_disk: list[DiskRequest] = []
        for _ in range(300):
            now += generator.random() / 100
            action = generator.randrange(4)
            if action == 0:
                request = make_request(generator.choice("abc"), op=generator.choice(list(Op)))
                waiting.add(request)
                queue.add(request, now)
            elif action == 1 and at_disk:
                queue.done(at_disk.pop(generator.randrange(len(at_disk))), now)
            elif action == 2 and waiting and generator.random() < 0.3:
                request = generator.choice(sorted(waiting, key=id))
                assert queue.cancel(request)
                waiting.remove(request)
            else:
                for request in pop_all(queue, now)[0]:
                    waiting.remove(request)
                    at_disk.append(request)
            assert len(queue) == len(waiting)
            assert len(at_disk) <= depth
        for request in at_disk:
            queue.done(request, now)
        assert set(self._finish_all(queue, now)) == waiting

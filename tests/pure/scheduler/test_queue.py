from meshfs.scheduler.decide.fair import FairQueue
from meshfs.scheduler.decide.policy import DiskPolicy
from meshfs.scheduler.decide.queue import FifoQueue, Queue
from meshfs.scheduler.learn.depth import DepthControl
from meshlab.suites.queue import QueueSuite, make_request, pop_all


class TestFifoQueue(QueueSuite):
    def make(self, depth: int) -> Queue:
        return FifoQueue(depth)


class TestFifoQueueWithLimits(QueueSuite):
    def make(self, depth: int) -> Queue:
        return FifoQueue(depth, policy=DiskPolicy(limit_iops=50.0, limit_bytes_per_s=200_000.0))


class TestFairQueue(QueueSuite):
    def make(self, depth: int) -> Queue:
        return FairQueue(DiskPolicy(), depths=DepthControl(depth))


class TestFairQueueWithLimits(QueueSuite):
    def make(self, depth: int) -> Queue:
        policy = DiskPolicy(limit_iops=50.0, limit_bytes_per_s=200_000.0)
        return FairQueue(policy, depths=DepthControl(depth))


def test_first_in_first_out_across_flows() -> None:
    queue = FifoQueue(10)
    requests = [make_request(flow) for flow in "abacb"]
    for request in requests:
        queue.add(request, 0.0)
    assert pop_all(queue, 0.0) == (requests, None)


def test_a_fifo_keeps_the_disks_limit_and_the_order() -> None:
    queue = FifoQueue(1000, policy=DiskPolicy(limit_iops=50.0))
    requests = [make_request(flow) for flow in "ab" * 100]
    for request in requests:
        queue.add(request, 0.0)
    now, sent = 0.0, []
    while now < 2.0:
        batch, wake = pop_all(queue, now)
        sent += batch
        assert isinstance(wake, float)
        assert wake > now
        now = wake
    assert sent == requests[: len(sent)]
    assert 100 <= len(sent) <= 101

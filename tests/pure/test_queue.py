from meshfs.scheduler.depth import DepthControl
from meshfs.scheduler.fair import FairQueue
from meshfs.scheduler.policy import DiskPolicy
from meshfs.scheduler.queue import FifoQueue, Queue
from meshfs.testing.queue_suite import QueueSuite, make_request, pop_all


class TestFifoQueue(QueueSuite):
    def make(self, depth: int) -> Queue:
        return FifoQueue(depth)


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

from meshfs.scheduler.queue import FifoQueue, Queue
from meshfs.testing.queue_suite import QueueSuite, make_request, pop_all


class TestFifoQueue(QueueSuite):
    def make(self, depth: int) -> Queue:
        return FifoQueue(depth)


def test_first_in_first_out_across_flows() -> None:
    queue = FifoQueue(10)
    requests = [make_request(flow) for flow in "abacb"]
    for request in requests:
        queue.add(request, 0.0)
    assert pop_all(queue, 0.0) == (requests, None)

"""Keep a simulated device busy at a chosen depth, and observe it in windows of time. Pure, seeded."""

import random
from collections.abc import Callable, Sequence

from meshfs.disk.base import DiskRequest, Op
from meshfs.scheduler.learn.observation import Observation
from meshlab.models.devices import Device

#: Returns the next request's operation and length in bytes.
Choose = Callable[[random.Random], tuple[Op, int]]


def mix(lengths: Sequence[int], writes: float = 0.0, flushes: float = 0.0) -> Choose:
    """Return a chooser of requests with these lengths, each equally likely. ``writes`` and ``flushes`` are shares."""

    def choose(dice: random.Random) -> tuple[Op, int]:
        if flushes and dice.random() < flushes:
            return Op.FLUSH, 0
        return (Op.WRITE if dice.random() < writes else Op.READ), dice.choice(lengths)

    return choose


class DeviceLoad:
    """Keeps ``device`` at the requested depth. ``now`` is the end of the last window."""

    def __init__(self, device: Device, choose: Choose, seed: int = 0) -> None:
        self.device = device
        self.choose = choose
        self.now = 0.0
        self._random = random.Random(seed)
        self._started: dict[DiskRequest, float] = {}

    def window(self, depth: int, length_s: float) -> Observation:
        """Run for ``length_s`` with ``depth`` requests at the device."""
        begin, end = self.now, self.now + length_s
        counts, sizes, latency_sum_s, longest_s = [0, 0, 0], [0, 0, 0], 0.0, 0.0
        self._fill(depth, begin)
        while (now := self.device.next_time()) <= end:
            for request in self.device.finish(now):
                latency_s = now - self._started.pop(request)
                latency_sum_s += latency_s
                longest_s = max(longest_s, latency_s)
                counts[request.op] += 1
                sizes[request.op] += request.length
            self._fill(depth, now)
        self.now = end
        mean_s = latency_sum_s / max(sum(counts), 1)
        return Observation(length_s, length_s, True, counts, sizes, mean_s, depth, longest_s)

    def _fill(self, depth: int, now: float) -> None:
        while len(self._started) < depth:
            op, length = self.choose(self._random)
            request = DiskRequest(op, 0, length, None, 0, _nobody)
            self._started[request] = now
            self.device.start(request, now)


def _nobody(request: DiskRequest) -> None:
    """Do nothing: nobody waits for the request."""

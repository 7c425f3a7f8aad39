"""Disks in simulated time: how long each request takes, and nothing else. Pure, seeded.

A simulation moves the clock from event to event:

    device.start(request, now)            the request is at the device
    device.next_time()                    when something completes next (inf: nothing is there)
    device.finish(now)                    what has completed by ``now``, in order of completion

The models, and what each stands for:

    ServerDevice   p servers, one queue: an SSD (p channels), or a disk of one server
    PipeDevice     a fixed latency and one pipe of limited bandwidth: a network volume, a throttled disk
    HddDevice      one arm, whose seeks get shorter the more requests it may choose from

``Times`` are the seconds one server (or the pipe) is busy with a request. ``capacity_cost_s`` is
what a cost model should learn: the share of the whole device's time that the request takes when
the device is saturated at a sufficient depth.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from meshfs.disk.base import DiskRequest, Op


class Device(Protocol):
    """A disk in simulated time; ``now`` never goes back."""

    def start(self, request: DiskRequest, now: float) -> None: ...

    def next_time(self) -> float:
        """When the next request completes; ``math.inf`` when idle."""

    def finish(self, now: float) -> list[DiskRequest]:
        """Those that completed by ``now``, each exactly once; results are set (the full length)."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds one request takes: fixed plus per byte; a flush has no bytes, a zeroing is a write without any."""

    read_fixed_s: float
    read_byte_s: float
    write_fixed_s: float
    write_byte_s: float
    flush_fixed_s: float
    zero_byte_s: float = 0.0

    def of(self, op: int, length: int) -> float:
        if op == Op.READ:
            return self.read_fixed_s + self.read_byte_s * length
        if op == Op.WRITE:
            return self.write_fixed_s + self.write_byte_s * length
        if op == Op.ZERO:
            return self.write_fixed_s + self.zero_byte_s * length
        return self.flush_fixed_s


class _EventDevice:
    """Completions by time; what the models share.

    speed    a factor on everything that starts from now on: 0.2 is a disk become 5 times slower
    spread   the standard deviation of a service time as a part of its mean (gamma distributed,
             so it is never negative; 0: exact times)
    """

    def __init__(self, times: Times, *, spread: float, seed: int) -> None:
        self.times = times
        self.speed = 1.0
        self._spread = spread
        self._random = random.Random(seed)
        self._stalled_until = -math.inf
        # (time, order of start, request); the order makes equal times first come, first served.
        self._completions: list[tuple[float, int, DiskRequest]] = []
        self._started = 0

    def stall(self, until: float) -> None:
        """Nothing completes before ``until``; what is there then completes at once."""
        self._stalled_until = until
        self._completions = [(max(time, until), order, request) for time, order, request in self._completions]
        heapq.heapify(self._completions)

    def next_time(self) -> float:
        return self._completions[0][0] if self._completions else math.inf

    def finish(self, now: float) -> list[DiskRequest]:
        done = []
        while self._completions and self._completions[0][0] <= now:
            time, _, request = heapq.heappop(self._completions)
            request.result = request.length
            done.append(request)
            self._freed(time)
        return done

    def _freed(self, now: float) -> None:
        """A request completed at ``now``; the next may begin."""

    def _complete_at(self, time: float, request: DiskRequest) -> None:
        self._started += 1
        heapq.heappush(self._completions, (max(time, self._stalled_until), self._started, request))

    def _sampled(self, mean_s: float) -> float:
        mean_s /= self.speed
        if not self._spread:
            return mean_s
        shape = 1.0 / self._spread**2
        return self._random.gammavariate(shape, mean_s / shape)


class ServerDevice(_EventDevice):
    """``servers`` requests at a time, the rest waits inside the device, first come, first served."""

    def __init__(self, times: Times, servers: int, *, spread: float = 0.0, seed: int = 0) -> None:
        super().__init__(times, spread=spread, seed=seed)
        self.servers = servers
        self._busy = 0
        self._waiting: deque[DiskRequest] = deque()

    def capacity_cost_s(self, op: int, length: int) -> float:
        return self.times.of(op, length) / self.servers / self.speed

    def start(self, request: DiskRequest, now: float) -> None:
        self._waiting.append(request)
        self._begin(now)

    def _begin(self, now: float) -> None:
        while self._waiting and self._busy < self.servers:
            request = self._waiting.popleft()
            self._busy += 1
            self._complete_at(now + self._sampled(self.times.of(request.op, request.length)), request)

    def _freed(self, now: float) -> None:
        self._busy -= 1
        self._begin(now)


class PipeDevice(_EventDevice):
    """Requests pass a pipe one after the other (``times``), and each takes ``latency_s`` besides."""

    def __init__(self, times: Times, latency_s: float, *, spread: float = 0.0, seed: int = 0) -> None:
        super().__init__(times, spread=spread, seed=seed)
        self.latency_s = latency_s
        self._free_at = -math.inf

    def capacity_cost_s(self, op: int, length: int) -> float:
        return self.times.of(op, length) / self.speed

    def start(self, request: DiskRequest, now: float) -> None:
        begin = max(self._free_at, now, self._stalled_until)
        self._free_at = begin + self._sampled(self.times.of(request.op, request.length))
        self._complete_at(self._free_at + self.latency_s / self.speed, request)


class HddDevice(ServerDevice):
    """One arm. ``times`` hold the transfers; every read and write seeks besides.

    With n requests to choose from, a seek takes ``seek_s / (1 + log2 n)``, not less than
    ``seek_s * seek_floor``: the shape of native command queueing, whose drives gain about half
    at a depth of 4 and little beyond 16. Which request is chosen does not matter to throughput,
    so it is the oldest.
    """

    def __init__(
        self, times: Times, seek_s: float, *, seek_floor: float = 0.25, spread: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__(times, 1, spread=spread, seed=seed)
        self.seek_s = seek_s
        self.seek_floor = seek_floor

    def seek_at(self, depth: int) -> float:
        """Mean seek with ``depth`` requests at the device."""
        return self.seek_s * max(1.0 / (1.0 + math.log2(depth)), self.seek_floor)

    def capacity_cost_s(self, op: int, length: int) -> float:
        seek_s = 0.0 if op == Op.FLUSH else self.seek_s * self.seek_floor
        return (seek_s + self.times.of(op, length)) / self.speed

    def _begin(self, now: float) -> None:
        if self._busy or not self._waiting:
            return
        seek_s = self.seek_at(len(self._waiting))
        request = self._waiting.popleft()
        if request.op == Op.FLUSH:
            seek_s = 0.0
        self._busy = 1
        self._complete_at(now + self._sampled(seek_s + self.times.of(request.op, request.length)), request)


def fast_ssd(seed: int = 0) -> ServerDevice:
    """NVMe: 80 us a small request, 64 of them at a time, 3.2 GB/s reading and 1.6 GB/s writing."""
    return ServerDevice(Times(80e-6, 20e-9, 100e-6, 40e-9, 500e-6), 64, spread=0.3, seed=seed)


def sata_ssd(seed: int = 0) -> ServerDevice:
    """8 channels of about 100 us: 53,000 reads of 4 KiB a second, 530 MB/s."""
    return ServerDevice(Times(90e-6, 15e-9, 110e-6, 18e-9, 2e-3), 8, spread=0.3, seed=seed)


def slow_array(servers: int = 8, seed: int = 0) -> ServerDevice:
    """Some spindles behind one name: 5 ms a request on each, in parallel."""
    return ServerDevice(Times(5e-3, 8e-9, 6e-3, 9e-9, 10e-3), servers, spread=0.5, seed=seed)


def network_volume(seed: int = 0) -> PipeDevice:
    """1,000 requests a second and 125 MB/s at 4 ms of latency; a flush passes like a request."""
    return PipeDevice(Times(1e-3, 8e-9, 1e-3, 8e-9, 1e-3), 4e-3, spread=0.1, seed=seed)


def hdd(seed: int = 0) -> HddDevice:
    """7,200 rpm: 12 ms a seek and turn at depth 1, 200 MB/s, a flush of 15 ms."""
    return HddDevice(Times(0.2e-3, 5e-9, 0.3e-3, 5.5e-9, 15e-3), 12e-3, spread=0.3, seed=seed)


#: Every kind of device under a name: for parametrised tests.
DEVICES: dict[str, Callable[[int], ServerDevice | PipeDevice]] = {
    "fast_ssd": fast_ssd,
    "sata_ssd": sata_ssd,
    "slow_array": lambda seed: slow_array(8, seed),
    "network_volume": network_volume,
    "hdd": hdd,
}

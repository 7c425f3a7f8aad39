"""Disks in simulated time, which only decide how long each request takes. Pure, seeded.

A simulation moves the clock from event to event:

    device.start(request, now)            give the device a request
    device.next_time()                    get the time of the next completion (inf: the device is idle)
    device.finish(now)                    take the requests that completed by ``now``, in order of completion

The models, and the devices they stand for:

    ServerDevice   p servers with one queue: an SSD with p channels, or a disk that serves one request at a time
    PipeDevice     a fixed latency and one pipe of limited bandwidth: a network volume, a throttled disk
    HddDevice      one arm, whose seeks get shorter if it can choose from more requests

``Times`` are the seconds for which one server, or the pipe, is busy with a request. A cost model should learn
``capacity_cost_s``. It is the part of the whole device's time that a request takes while the device is saturated at a
sufficient depth. Example: a read that takes 100 us on one of 8 servers costs 12.5 us.
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
    """Declares a disk in simulated time. ``now`` must never decrease from call to call."""

    def start(self, request: DiskRequest, now: float) -> None: ...

    def next_time(self) -> float:
        """Return the time at which the next request completes; ``math.inf`` when idle."""

    def finish(self, now: float) -> list[DiskRequest]:
        """Return the requests that completed by ``now``, each exactly once, with the full length as their result."""


@dataclass(frozen=True, slots=True)
class Times:
    """Holds the seconds that one request takes: a fixed time and a time per byte.

    A flush takes only its fixed time. A zeroing takes a write's fixed time, and ``zero_byte_s`` per byte. A discard
    takes ``discard_fixed_s``, and ``discard_byte_s`` per byte.
    """

    read_fixed_s: float
    read_byte_s: float
    write_fixed_s: float
    write_byte_s: float
    flush_fixed_s: float
    zero_byte_s: float = 0.0
    discard_fixed_s: float = 0.0
    discard_byte_s: float = 0.0

    def of(self, op: int, length: int) -> float:
        if op == Op.READ:
            return self.read_fixed_s + self.read_byte_s * length
        if op == Op.WRITE:
            return self.write_fixed_s + self.write_byte_s * length
        if op == Op.ZERO:
            return self.write_fixed_s + self.zero_byte_s * length
        if op == Op.DISCARD:
            return self.discard_fixed_s + self.discard_byte_s * length
        return self.flush_fixed_s


class _EventDevice:
    """Keeps the completions of a model, ordered by time. It is the base class of all models.

    speed    a factor on the speed of all requests that start from now on: with 0.2 they take 5 times as long
    spread   the standard deviation of a service time, as a part of its mean; 0: exact times. The times have a gamma
             distribution, so they are never negative.
    """

    def __init__(self, times: Times, *, spread: float, seed: int) -> None:
        self.times = times
        self.speed = 1.0
        self._spread = spread
        self._random = random.Random(seed)
        self._stalled_until = -math.inf
        # (time, order of start, request). Requests with equal times complete in the order of their start.
        self._completions: list[tuple[float, int, DiskRequest]] = []
        self._started = 0

    def stall(self, until: float) -> None:
        """Let no request complete before ``until``. Requests that were due earlier complete at that time."""
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
        """Let the next request begin, because another one completed at ``now``."""

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
    """Serves ``servers`` requests at a time. The others wait inside the device, first come, first served."""

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
    """Passes requests through a pipe one after the other (``times``). Each takes ``latency_s`` in addition."""

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
    """Models a disk with one arm. ``times`` are the transfer times; every read and write seeks in addition.

    With n requests to choose from, a seek takes ``seek_s / (1 + log2 n)``, but at least ``seek_s * seek_floor``. This
    imitates native command queueing, where a depth of 4 saves about half of the seek time and a depth beyond 16 saves
    little more. The choice of the request does not change the throughput, so the model takes the oldest.
    """

    def __init__(
        self, times: Times, seek_s: float, *, seek_floor: float = 0.25, spread: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__(times, 1, spread=spread, seed=seed)
        self.seek_s = seek_s
        self.seek_floor = seek_floor

    def seek_at(self, depth: int) -> float:
        """Return the mean seek time with ``depth`` requests at the device."""
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
    """Return an NVMe drive: 80 us for a small request, 64 at a time, 3.2 GB/s reading and 1.6 GB/s writing."""
    return ServerDevice(Times(80e-6, 20e-9, 100e-6, 40e-9, 500e-6), 64, spread=0.3, seed=seed)


def sata_ssd(seed: int = 0) -> ServerDevice:
    """Return a drive with 8 channels of about 100 us: 53,000 reads of 4 KiB per second, 530 MB/s."""
    return ServerDevice(Times(90e-6, 15e-9, 110e-6, 18e-9, 2e-3), 8, spread=0.3, seed=seed)


def slow_array(servers: int = 8, seed: int = 0) -> ServerDevice:
    """Return several spindles behind one name, which work in parallel with 5 ms per request."""
    return ServerDevice(Times(5e-3, 8e-9, 6e-3, 9e-9, 10e-3), servers, spread=0.5, seed=seed)


def network_volume(seed: int = 0) -> PipeDevice:
    """Return a volume with 1,000 requests per second, 125 MB/s and 4 ms of latency. A flush counts as a request."""
    return PipeDevice(Times(1e-3, 8e-9, 1e-3, 8e-9, 1e-3), 4e-3, spread=0.1, seed=seed)


def hdd(seed: int = 0) -> HddDevice:
    """Return a disk of 7,200 rpm: 12 ms for seek and rotation at depth 1, 200 MB/s, and 15 ms for a flush."""
    return HddDevice(Times(0.2e-3, 5e-9, 0.3e-3, 5.5e-9, 15e-3), 12e-3, spread=0.3, seed=seed)


#: Every kind of device by name, for parametrised tests.
DEVICES: dict[str, Callable[[int], ServerDevice | PipeDevice]] = {
    "fast_ssd": fast_ssd,
    "sata_ssd": sata_ssd,
    "slow_array": lambda seed: slow_array(8, seed),
    "network_volume": network_volume,
    "hdd": hdd,
}

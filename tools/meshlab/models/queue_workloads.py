"""The sources of requests in queue_simulation.py. Seeded.

    ClosedLoop   keeps ``depth`` requests outstanding: each completion is followed by a request, after a think time
    OpenLoop     sends requests at random times (Poisson arrivals), however fast the disk is
    OnOff        a closed loop with random phases of activity and of silence

The sizes and kinds of requests come from a ``Mix``. It draws a sample once and then repeats it, because drawing costs
a simulation more time than a scheduling decision.
"""

import heapq
import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import Protocol

from meshfs.disk.base import DiskRequest, Op
from meshfs.model import FlowKey

#: (operation, bytes)
Kind = tuple[Op, int]

#: Powers of two from 512 B to 1 MiB: all sizes that initiators send.
SIZES_BYTES = tuple(512 << shift for shift in range(12))
_ROUND = 256


class SimulatedRequest(DiskRequest):
    """Stands for a request, without memory for its data.

    workload   the workload that is informed of its completion
    work       its cost in seconds of the disk, according to the simulation
    number     its number among the simulation's requests, from 0; traces use it
    """

    __slots__ = ("number", "work", "workload")

    def __init__(self, workload: "Workload", op: Op, length: int) -> None:
        super().__init__(op, 0, length, None, 0, _unused, flow=workload.flow)
        self.workload = workload
        self.work = 0.0
        self.number = -1


def _unused(request: DiskRequest) -> None:
    raise AssertionError("a simulation completes requests itself")


Add = Callable[[SimulatedRequest], None]


class Workload(Protocol):
    """Declares a source of requests. Each method returns the time of the next call of ``due`` (inf: never)."""

    flow: FlowKey

    def begin(self, now: float, add: Add) -> float: ...

    def due(self, now: float, add: Add) -> float:
        """Send requests at the returned time. A call at any other time must do no harm."""

    def done(self, request: SimulatedRequest, now: float, add: Add) -> float:
        """Note that ``request`` was completed or cancelled."""


class Mix:
    """Kinds of requests with their relative frequencies. ``one_size`` and ``anything`` make the usual mixes."""

    def __init__(self, kinds: Sequence[Kind], frequencies: Sequence[float] | None = None) -> None:
        self._kinds = list(kinds)
        self._frequencies = frequencies

    @classmethod
    def one_size(cls, length: int, op: Op = Op.READ) -> "Mix":
        return cls([(op, length)])

    @classmethod
    def anything(cls, *, flushes: float = 0.0) -> "Mix":
        """Return a mix of reads and writes of every size. ``flushes`` is the share of flushes among all requests."""
        kinds: list[Kind] = [(op, size) for op in (Op.READ, Op.WRITE) for size in SIZES_BYTES]
        each = (1.0 - flushes) / len(kinds)
        return cls([*kinds, (Op.FLUSH, 0)], [each] * len(kinds) + [flushes])

    def draw(self, rng: random.Random) -> "itertools.cycle[Kind]":
        if len(self._kinds) == 1:
            return itertools.cycle(self._kinds)
        return itertools.cycle(rng.choices(self._kinds, self._frequencies, k=_ROUND))


class ClosedLoop:
    """Keeps ``depth`` requests outstanding from ``start_s`` to ``stop_s``.

    ``think_s`` is the mean of the exponentially distributed think time.
    """

    def __init__(
        self,
        flow: FlowKey,
        depth: int,
        mix: Mix,
        *,
        think_s: float = 0.0,
        start_s: float = 0.0,
        stop_s: float = math.inf,
        seed: int = 0,
    ) -> None:
        self.flow = flow
        self.depth = depth
        self._rng = random.Random(f"{flow} {seed}")
        self._kinds = mix.draw(self._rng)
        self._think_s = think_s
        self._start_s, self._stop_s = start_s, stop_s
        self._started = False
        self._thoughts: list[float] = []

    def begin(self, now: float, add: Add) -> float:
        return max(self._start_s, now)

    def due(self, now: float, add: Add) -> float:
        if now >= self._stop_s:
            return math.inf
        if not self._started and now >= self._start_s:
            self._started = True
            for _ in range(self.depth):
                self._issue(add)
        while self._thoughts and self._thoughts[0] <= now:
            heapq.heappop(self._thoughts)
            self._issue(add)
        return self._thoughts[0] if self._thoughts else math.inf

    def done(self, request: SimulatedRequest, now: float, add: Add) -> float:
        if not self._think_s:
            if now < self._stop_s:
                self._issue(add)
            return math.inf
        heapq.heappush(self._thoughts, now + self._rng.expovariate(1.0 / self._think_s))
        return self._thoughts[0]

    def _issue(self, add: Add) -> None:
        op, length = next(self._kinds)
        add(SimulatedRequest(self, op, length))


class OpenLoop:
    """Sends requests as Poisson arrivals at ``rate_per_s``, from ``start_s`` to ``stop_s``."""

    def __init__(
        self,
        flow: FlowKey,
        rate_per_s: float,
        mix: Mix,
        *,
        start_s: float = 0.0,
        stop_s: float = math.inf,
        seed: int = 0,
    ) -> None:
        self.flow = flow
        self._rng = random.Random(f"{flow} {seed}")
        self._kinds = mix.draw(self._rng)
        self._rate_per_s = rate_per_s
        self._next, self._stop_s = start_s, stop_s

    def begin(self, now: float, add: Add) -> float:
        self._next = max(self._next, now) + self._gap_s()
        return self._next

    def due(self, now: float, add: Add) -> float:
        while self._next <= now:
            if self._next >= self._stop_s:
                return math.inf
            op, length = next(self._kinds)
            add(SimulatedRequest(self, op, length))
            self._next += self._gap_s()
        return self._next

    def done(self, request: SimulatedRequest, now: float, add: Add) -> float:
        return math.inf

    def _gap_s(self) -> float:
        return self._rng.expovariate(self._rate_per_s)


class OnOff:
    """Runs a closed loop of ``depth`` in phases of activity and silence.

    Their lengths are exponentially distributed with the means ``on_s`` and ``off_s``.
    """

    def __init__(self, flow: FlowKey, depth: int, mix: Mix, *, on_s: float, off_s: float, seed: int = 0) -> None:
        self.flow = flow
        self.depth = depth
        self._rng = random.Random(f"{flow} {seed}")
        self._kinds = mix.draw(self._rng)
        self._on_s, self._off_s = on_s, off_s
        self._on = False
        self._turn = 0.0
        self._outstanding = 0

    def begin(self, now: float, add: Add) -> float:
        self._turn = now + self._rng.expovariate(1.0 / self._off_s)
        return self._turn

    def due(self, now: float, add: Add) -> float:
        while self._turn <= now:
            self._on = not self._on
            self._turn += self._rng.expovariate(1.0 / (self._on_s if self._on else self._off_s))
        while self._on and self._outstanding < self.depth:
            self._issue(add)
        return self._turn

    def done(self, request: SimulatedRequest, now: float, add: Add) -> float:
        self._outstanding -= 1
        if self._on and now < self._turn:
            self._issue(add)
        return self._turn

    def _issue(self, add: Add) -> None:
        self._outstanding += 1
        op, length = next(self._kinds)
        add(SimulatedRequest(self, op, length))

"""One disk's queue in simulated time: workloads -> queue -> device, and who is told of it. Pure.

    simulation = Simulation(FifoQueue(8), hdd(seed), [ClosedLoop(flow, 4, Mix.anything())], cost, recorders=[trace])
    simulation.at(10.0, lambda: device.stall(70.0))
    simulation.run(3600.0)

Events are completions, arrivals, the queue's own wake times and what ``at`` was told, in order of
time; at one time completions come first, then arrivals and actions, then the queue is asked until
it has nothing to send: the runner's order. Nothing but seeds decides, so the same call is the same
run. 250,000 requests a second of real time were measured with FifoQueue and no recorder, 75,000
to 110,000 with the fair queue and sums.

The queue's clock is the simulation's plus ``clock_offset_s``, which an action may change: a clock
that jumps, while devices and workloads know nothing of it. The queue is never asked to be wrong
about what is at the disk: like the runner, the simulation tells of every add, completion and cancel.

Checked always: the queue names no time that is past, gives each request once and only if it was
added and not cancelled, counts right, holds to the depth, and never stops for ever while requests
wait and nothing is at the disk. Recorders see everything and may check more (queue_checks.py).
"""

import heapq
import math
from collections.abc import Callable, Sequence
from typing import Protocol

from meshfs.disk.base import DiskRequest
from meshfs.scheduler.decide.queue import Queue
from meshlab.models.devices import Device
from meshlab.models.queue_workloads import SimulatedRequest, Workload

#: Seconds of the disk's time a request takes.
Cost = Callable[[int, int], float]
#: The queue asked again this often without time passing has gone round in a circle.
ASKED_MAX = 1000


class Recorder(Protocol):
    """Sees what happens, in order; ``now`` is the simulation's time, whatever the queue's clock says."""

    def added(self, request: SimulatedRequest, now: float) -> None: ...

    def sent(self, request: SimulatedRequest, now: float) -> None: ...

    def done(self, request: SimulatedRequest, now: float) -> None: ...

    def cancelled(self, request: SimulatedRequest, now: float) -> None: ...

    def asked(self, now: float, in_flight: int) -> None:
        """The queue has nothing to send now; ``in_flight`` are at the device."""


class SilentRecorder:
    """A recorder of nothing, to derive others from."""

    def added(self, request: SimulatedRequest, now: float) -> None:
        """Ignored."""

    def sent(self, request: SimulatedRequest, now: float) -> None:
        """Ignored."""

    def done(self, request: SimulatedRequest, now: float) -> None:
        """Ignored."""

    def cancelled(self, request: SimulatedRequest, now: float) -> None:
        """Ignored."""

    def asked(self, now: float, in_flight: int) -> None:
        """Ignored."""


class Simulation:
    """``depth_max``: more at the device is an error (None: unchecked, for depths that change)."""

    def __init__(
        self,
        queue: Queue,
        device: Device,
        workloads: Sequence[Workload],
        cost: Cost,
        *,
        depth_max: int | None = None,
        recorders: Sequence[Recorder] = (),
        clock_offset_s: float = 0.0,
    ) -> None:
        self.queue = queue
        self.device = device
        self.now = 0.0
        self.clock_offset_s = clock_offset_s
        self.in_flight = 0
        self.requests = 0
        #: Added and not yet sent, in order of arrival (a dict for its order).
        self.waiting: dict[SimulatedRequest, None] = {}
        self._cost = cost
        self._depth_max = depth_max if depth_max is not None else math.inf
        self._recorders = recorders
        self._wake = math.inf
        self._asked = 0
        # Whether something was cancelled since the queue was asked. Asking it again for nothing
        # would make a run in turns another run: clocks of limits round differently.
        self._changed = False
        # (time, order, what): workloads by reference, actions as functions.
        self._events: list[tuple[float, int, Workload | Callable[[], None]]] = []
        self._order = 0
        self._next: dict[Workload, float] = {}
        for workload in workloads:
            self.enter(workload)

    def enter(self, workload: Workload) -> None:
        """One more workload, from now on."""
        self._next[workload] = math.inf
        self._schedule(workload, workload.begin(self.now, self._add))

    def workloads(self) -> list[Workload]:
        return list(self._next)

    def stop(self, workload: Workload) -> None:
        """It wants nothing more; what it has queued still goes."""
        del self._next[workload]

    def leave(self, workload: Workload) -> None:
        """It ends: what it has queued is cancelled, what is at the device completes unheard."""
        self.stop(workload)
        for request in [request for request in self.waiting if request.workload is workload]:
            self.cancel(request)

    def at(self, time: float, action: Callable[[], None]) -> None:
        self._push(time, action)

    def clock(self) -> float:
        """What the queue is told the time is."""
        return self.now + self.clock_offset_s

    def cancel(self, request: SimulatedRequest) -> None:
        """Take back one that waits; its workload goes on as if it were done."""
        assert self.queue.cancel(request), f"request {request.number} waits and cannot be cancelled"
        assert not self.queue.cancel(request), f"request {request.number} was cancelled twice"
        del self.waiting[request]
        self._changed = True
        for recorder in self._recorders:
            recorder.cancelled(request, self.now)
        if request.workload in self._next:
            self._schedule(request.workload, request.workload.done(request, self.now, self._add))

    def run(self, until_s: float) -> None:
        """Go on until ``until_s`` (inf: until nothing happens any more); may be called again."""
        if self._changed:
            self._ask()
        while True:
            device_time = self.device.next_time()
            time = min(device_time, self._wake, self._events[0][0] if self._events else math.inf)
            if time > until_s or time == math.inf:
                break
            self.now = max(self.now, time)
            if device_time <= self.now:
                self._complete()
            while self._events and self._events[0][0] <= self.now:
                self._happen(*heapq.heappop(self._events))
            self._ask()
        self.now = max(self.now, until_s) if until_s < math.inf else self.now

    def _complete(self) -> None:
        now, clock = self.now, self.clock()
        for request in self.device.finish(now):
            assert isinstance(request, SimulatedRequest)
            self.in_flight -= 1
            self.queue.done(request, clock)
            for recorder in self._recorders:
                recorder.done(request, now)
            workload = request.workload
            if workload in self._next:
                self._schedule(workload, workload.done(request, now, self._add))

    def _happen(self, time: float, order: int, what: Workload | Callable[[], None]) -> None:
        if callable(what):
            what()
        elif self._next.get(what) == time:
            self._next[what] = math.inf
            self._schedule(what, what.due(self.now, self._add))

    def _schedule(self, workload: Workload, time: float) -> None:
        if time < self._next[workload]:
            self._next[workload] = time
            self._push(time, workload)

    def _push(self, time: float, what: Workload | Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (time, self._order, what))

    def _add(self, request: SimulatedRequest) -> None:
        request.number = self.requests
        self.requests += 1
        request.work = self._cost(request.op, request.length)
        self.waiting[request] = None
        self.queue.add(request, self.now + self.clock_offset_s)
        for recorder in self._recorders:
            recorder.added(request, self.now)

    def _ask(self) -> None:
        """Pop until the queue has nothing now, as the runner does."""
        now, queue = self.now, self.queue
        clock = self.clock()
        self._changed = False
        self._asked = self._asked + 1 if self._wake <= now else 0
        assert self._asked < ASKED_MAX, f"asked {ASKED_MAX} times at {now}, the queue has nothing and does not wait"
        while (answer := queue.pop(clock)).__class__ is SimulatedRequest:
            self._send(answer)
        self._wake = math.inf
        if answer is not None:
            assert not isinstance(answer, DiskRequest), f"a request that was never added: {answer}"
            assert clock < answer < math.inf, f"at {clock} the queue wants to be asked at {answer}"
            # A sum of floats may round to before the time named; asking again there would be once too early.
            self._wake = max(answer - self.clock_offset_s, math.nextafter(now, math.inf))
            while self._wake + self.clock_offset_s < answer:
                self._wake += max(math.ulp(answer), math.ulp(self._wake))
        assert len(queue) == len(self.waiting), f"{len(self.waiting)} wait, the queue says {len(queue)}"
        if answer is None and not self.in_flight:
            assert not self.waiting, f"{len(self.waiting)} wait, nothing is at the disk, and none will ever come"
        for recorder in self._recorders:
            recorder.asked(now, self.in_flight)

    def _send(self, request: SimulatedRequest) -> None:
        assert request in self.waiting, f"request {request.number} was sent twice, or after its cancellation"
        del self.waiting[request]
        self.in_flight += 1
        assert self.in_flight <= self._depth_max, f"{self.in_flight} at the device, {self._depth_max} allowed"
        for recorder in self._recorders:
            recorder.sent(request, self.now)
        self.device.start(request, self.now)

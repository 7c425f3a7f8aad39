"""Simulate one disk's queue: workloads -> queue -> device, with recorders that observe every event. Pure.

    simulation = Simulation(FifoQueue(8), hdd(seed), [ClosedLoop(flow, 4, Mix.anything())], cost, recorders=[trace])
    simulation.at(10.0, lambda: device.stall(70.0))
    simulation.run(3600.0)

The events are completions, arrivals, the queue's wake times, and the actions of ``at``, in order of time. At equal
times the order is the runner's: completions, then arrivals and actions, and then the queue is asked until it has no
request to send. Only the seeds decide, so the same call gives the same run. In a second of real time, the simulation
handled 250,000 requests with FifoQueue and no recorder, and 75,000 to 110,000 with the fair queue and sums.

The queue's clock is the simulation's clock plus ``clock_offset_s``. An action may change the offset, to simulate a
clock that jumps, without an effect on devices and workloads. Like the runner, the simulation reports every add,
completion and cancel to the queue, so the queue always knows which requests are at the disk.

The simulation always checks that the queue
- names no time in the past,
- returns each request once, and only if it was added and not cancelled,
- counts its requests correctly,
- keeps to the depth,
- does not stop for ever while requests wait and none is at the disk.
Recorders see every event and may check more (queue_checks.py).
"""

import heapq
import math
from collections.abc import Callable, Sequence
from typing import Protocol

from meshfs.disk.base import DiskRequest
from meshfs.scheduler.decide.queue import Queue
from meshlab.models.devices import Device
from meshlab.models.queue_workloads import SimulatedRequest, Workload

#: Returns the seconds of the disk's time that a request takes, from its operation and its length in bytes.
Cost = Callable[[int, int], float]
#: If the queue is asked this often at the same time, it asks to be asked again without end.
ASKED_MAX = 1000


class Recorder(Protocol):
    """Sees every event, in order. ``now`` is the simulation's time, which may differ from the queue's clock."""

    def added(self, request: SimulatedRequest, now: float) -> None: ...

    def sent(self, request: SimulatedRequest, now: float) -> None: ...

    def done(self, request: SimulatedRequest, now: float) -> None: ...

    def cancelled(self, request: SimulatedRequest, now: float) -> None: ...

    def asked(self, now: float, in_flight: int) -> None:
        """Note that the queue has no more request to send now. ``in_flight`` requests are at the device."""


class SilentRecorder:
    """Ignores all events. It is the base class of recorders that need only some events."""

    def added(self, request: SimulatedRequest, now: float) -> None:
        """Ignore the event."""

    def sent(self, request: SimulatedRequest, now: float) -> None:
        """Ignore the event."""

    def done(self, request: SimulatedRequest, now: float) -> None:
        """Ignore the event."""

    def cancelled(self, request: SimulatedRequest, now: float) -> None:
        """Ignore the event."""

    def asked(self, now: float, in_flight: int) -> None:
        """Ignore the event."""


class Simulation:
    """Runs one simulation. More than ``depth_max`` requests at the device are an error.

    If ``depth_max`` is None, the depth is not checked, because it may change during the simulation.
    """

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
        #: Requests that were added and not yet sent, in order of arrival. It is a dict used as an ordered set.
        self.waiting: dict[SimulatedRequest, None] = {}
        self._cost = cost
        self._depth_max = depth_max if depth_max is not None else math.inf
        self._recorders = recorders
        self._wake = math.inf
        self._asked = 0
        # True if a request was cancelled since the queue was last asked. Only then does `run` ask the queue at once: an
        # additional question changes the rounding of the limits' clocks, so a run in several parts would differ.
        self._changed = False
        # (time, order, what): ``what`` is a workload, or an action as a function.
        self._events: list[tuple[float, int, Workload | Callable[[], None]]] = []
        self._order = 0
        self._next: dict[Workload, float] = {}
        for workload in workloads:
            self.enter(workload)

    def enter(self, workload: Workload) -> None:
        """Add a workload, which begins now."""
        self._next[workload] = math.inf
        self._schedule(workload, workload.begin(self.now, self._add))

    def workloads(self) -> list[Workload]:
        return list(self._next)

    def stop(self, workload: Workload) -> None:
        """Let a workload send no more requests. Its queued requests are still executed."""
        del self._next[workload]

    def leave(self, workload: Workload) -> None:
        """End a workload, and cancel its queued requests. Its requests at the device complete without notice to it."""
        self.stop(workload)
        for request in [request for request in self.waiting if request.workload is workload]:
            self.cancel(request)

    def at(self, time: float, action: Callable[[], None]) -> None:
        self._push(time, action)

    def clock(self) -> float:
        """Return the time on the queue's clock."""
        return self.now + self.clock_offset_s

    def cancel(self, request: SimulatedRequest) -> None:
        """Cancel a waiting request. Its workload continues as if the request were done."""
        assert self.queue.cancel(request), f"request {request.number} waits and cannot be cancelled"
        assert not self.queue.cancel(request), f"request {request.number} was cancelled twice"
        del self.waiting[request]
        self._changed = True
        for recorder in self._recorders:
            recorder.cancelled(request, self.now)
        if request.workload in self._next:
            self._schedule(request.workload, request.workload.done(request, self.now, self._add))

    def run(self, until_s: float) -> None:
        """Run until ``until_s`` (inf: until no event is left). It may be called again, to continue."""
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
        """Pop requests until the queue has none to send now, as the runner does."""
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
            # The sum of floats may be rounded down to a time before the one that the queue named. The queue would then
            # be asked once too early.
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

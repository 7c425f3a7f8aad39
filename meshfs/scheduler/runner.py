"""The runner moves requests from the scheduler's queue to the disk, and their results back. It decides nothing itself.

    add(request), add(request), ..., pump()      once per batch of messages
      pump: queue.pop until it has nothing to send now  ->  disk.submit(batch)
      completion: queue.done, meter.done, the caller's on_done, then pump again

If the data of a disk is in the page cache, the disk answers inside ``submit``. One pump could then do all the work of a
deep queue, while the event loop and all later requests wait. Therefore a batch has a bounded size. A pump that has
taken ``limits.PUMP_S`` leaves the rest to a later round of the event loop.

A request needs no task and no Event of its own. ``run`` is the only task. It sets an `Alarm` for the time at which the
queue must be asked again. If ``now`` is trio's clock, ``run`` sleeps until that time instead. If the queue never names
a time, ``run`` never wakes.

While a disk is gone or missing, its requests are refused. `refuse` answers all queued requests with an errno. Every
request that comes before the next `serve` gets the same answer. A request at the disk ends when the disk answers it.

While a disk is suspended, its runner is paused. `pause` bars `pump` until `resume`, by the flag that also keeps a pump
out of another one, so that requests pay nothing for it. New requests wait in the queue, and can be cancelled there. If
the device goes away and comes back meanwhile, the waiting requests stay in the queue. If the device is still away at
`resume`, they are refused then.

Invariants:

  - The runner knows a request from ``add`` until its ``on_done`` has returned, or until ``cancel`` has taken it back.
  - The queue limits the number of requests at the disk.
  - ``disk.submit`` is never called from inside itself.
"""

import errno
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from meshfs import bugs, limits
from meshfs.disk.base import NEVER_S, Disk, DiskRequest, Op
from meshfs.loop import reactor
from meshfs.loop.alarm import Alarm
from meshfs.scheduler.decide.queue import Queue
from meshfs.scheduler.usage import DiskMeter

logger = logging.getLogger(__name__)

# These values are read at each completion, and a global is faster than an attribute of the enumeration.
_READ: Final = Op.READ
_WRITE: Final = Op.WRITE
_FLUSH: Final = Op.FLUSH

OnDone = Callable[[DiskRequest], None]


@dataclass(frozen=True, slots=True)
class RunnerStatus:
    """Holds counters since the start. Only ``queued`` and ``in_flight`` are the numbers of this moment."""

    queued: int
    in_flight: int
    reads: int
    writes: int
    flushes: int
    read_bytes: int
    written_bytes: int
    errors: int
    zeroes: int = 0
    zeroed_bytes: int = 0
    discards: int = 0
    discarded_bytes: int = 0


class Runner:
    """Moves requests between one disk and its queue. ``now`` is the clock that the queue gets, in seconds."""

    def __init__(self, queue: Queue, disk: Disk, now: Callable[[], float] = trio.current_time) -> None:
        self.queue = queue
        self.disk = disk
        self.meter = DiskMeter(now())
        #: The time at which the latest write, zeroing or discard ended, even with an error, by the queue's clock.
        self.written_s: float | None = None
        self._now = now
        # Every request that the runner knows, with the caller's on_done. The request itself has the runner's meanwhile.
        self._callers: dict[DiskRequest, OnDone] = {}
        # True while `pump` must return at once, because another pump is under way or the runner is paused.
        self._barred = False
        self._again = False
        #: Tells whether the runner is paused, so that nothing is sent to the disk.
        self.paused = False
        # The errno that `refuse` got while the runner was paused, or 0.
        self._refusal_at_resume = 0
        # Calls a function in a later round of the event loop. If ``_later`` is None, there is no event loop, and a pump
        # does all work at once.
        self._later: Callable[[Callable[[], None]], None] | None = None
        self._later_asked = False
        # The errno for every request while the disk is gone or missing, or 0 while it is served. `pump` answers the
        # requests in ``_refused`` with this errno.
        self._refusal = 0
        self._refused: list[DiskRequest] = []
        # The time at which the queue must be asked again, and the task that waits for it.
        self._wake_time = math.inf
        self._wake_scope: trio.CancelScope | None = None
        self._alarm: Alarm | None = None
        self._idle_waits: list[_IdleWait] = []
        self._completed = self._on_completed
        #: A function that gets a request whose ``on_done`` raised, and the exception.
        self.on_fault: Callable[[DiskRequest, Exception], None] = _report

    def age_s(self, then_s: float) -> float:
        """Return how long ago ``then_s`` was, by the queue's clock."""
        return self._now() - then_s

    def add(self, request: DiskRequest) -> None:
        """Queue a request. The request neither reaches the disk nor is answered before ``pump`` is called."""
        if self._refusal:
            self._refused.append(request)
            return
        self._callers[request] = request.on_done
        request.on_done = self._completed
        self.queue.add(request, self._now())

    def submit(self, request: DiskRequest) -> None:
        """Queue a single request, and pump."""
        self.add(request)
        self.pump()

    def pump(self) -> None:
        """Send the requests that may go now. A call within a completion leaves that to the outer call."""
        if self._barred:
            self._again = True
            return
        self._barred = True
        until_s = 0.0
        try:
            self._again = True
            while self._again:
                if until_s and self._later is not None and self._now() >= until_s:
                    self._go_on_later(self._later)
                    break
                self._again = False
                if self._refused:
                    self._answer_refused()
                    # The callback of an answer may have added a request, such as the next one of a compound.
                    self._again = bool(self._refused)
                batch = self._pop_all()
                if batch:
                    # Most pumps send one batch only, and need no look at the clock.
                    until_s = until_s or batch[0].sent_s + limits.PUMP_S
                    self.disk.submit(batch)
        finally:
            self._barred = False

    def _go_on_later(self, later: Callable[[Callable[[], None]], None]) -> None:
        if not self._later_asked:
            self._later_asked = True
            later(self._pump_again)

    def _pump_again(self) -> None:
        self._later_asked = False
        self.pump()

    def refuse(self, number: int) -> None:
        """Answer all queued requests, and every request that comes before ``serve``, with -``number``.

        While the runner is paused, its requests go on waiting, and are refused at `resume`.
        """
        if self.paused:
            self._refusal_at_resume = number
            return
        self._refusal = number
        self._refused += self._cancel_queued()
        self.pump()

    def serve(self, disk: Disk, queue: Queue | None = None) -> None:
        """Serve requests by ``disk``. No request may be in flight. ``queue``, if given, replaces the present queue.

        If requests wait because the runner is paused, their queue stays.
        """
        assert len(self._callers) == len(self.queue), "requests are at the disk before"
        assert queue is None or queue is self.queue or not self._callers, "another queue would lose what waits"
        self.disk = disk
        # A comparison with None is needed, because an empty queue has length 0 and counts as false.
        if queue is not None:
            self.queue = queue
        self._refusal = self._refusal_at_resume = 0

    def pause(self) -> None:
        """Send nothing to the disk until `resume`. Requests at the disk end when the disk answers them.

        A pump must not be under way.
        """
        if self.paused:
            return
        if self._refused:
            self.pump()
        assert not self._barred, "a pump is under way"
        self.paused = self._barred = True
        self._refusal_at_resume, self._refusal = self._refusal, 0
        self.queue.paused()

    def resume(self) -> None:
        """Send the requests that waited. If the disk is away, refuse them instead."""
        if not self.paused:
            return
        self.paused = self._barred = False
        self.queue.resumed(self._now())
        number, self._refusal_at_resume = self._refusal_at_resume, 0
        if number:
            self.refuse(number)
        else:
            self.pump()

    def _answer_refused(self) -> None:
        refused, self._refused = self._refused, []
        now = self._now()
        for request in refused:
            request.result = -(self._refusal or errno.EIO)
            if request.added_s == NEVER_S:
                request.added_s = now
            request.sent_s, request.cost_s = now, 0.0
            self.meter.done(request, now)
            try:
                request.on_done(request)
            except Exception as error:
                # The other refused requests must still be answered.
                self.on_fault(request, error)

    def _pop_all(self) -> list[DiskRequest]:
        """Return the requests that may go now, up to the size of one batch. `pump` sends the rest later."""
        batch: list[DiskRequest] = []
        now, pop = self._now(), self.queue.pop
        room = limits.PUMP_BATCH_BYTES
        while (popped := pop(now)) is not None:
            if isinstance(popped, DiskRequest):
                batch.append(popped)
                room -= popped.length + limits.PUMP_REQUEST_BYTES
                if room > 0:
                    continue
                self._again = True
                break
            self._wake_at(popped)
            break
        return batch

    def _on_completed(self, request: DiskRequest) -> None:
        on_done = request.on_done = self._callers.pop(request)
        now = self._now()
        op = request.op
        if op is _WRITE or (op is not _READ and op is not _FLUSH):
            self.written_s = now
        self.queue.done(request, now)
        self.meter.done(request, now)
        try:
            on_done(request)
        except Exception as error:
            # The engine must still deliver the completions of other requests and other disks.
            self.on_fault(request, error)
        if self._idle_waits:
            self._tell_idle_waits(request)
        if self._barred:
            self._again = True
        elif self._refused or len(self.queue):
            self.pump()

    def cancel(self, request: DiskRequest) -> bool:
        """Take back a request that is not at the disk yet.

        Return True if the request is the caller's again. Its ``on_done`` will not be called. Return False if the
        request is at the disk, done, or unknown here.
        """
        if request not in self._callers or not self.queue.cancel(request):
            return False
        request.on_done = self._callers.pop(request)
        if self._idle_waits:
            self._tell_idle_waits(request)
        return True

    def _cancel_queued(self) -> list[DiskRequest]:
        """Cancel every queued request. Return those that were taken back."""
        return [request for request in list(self._callers) if self.cancel(request)]

    async def wait_idle(self) -> None:
        """Wait until every request that is known here now is done.

        Later requests do not count, nor do those that a paused runner holds back. Cancelling the wait leaves the
        requests as they are.
        """
        pending = {request for request in self._callers if not self.paused or request.sent_s != NEVER_S}
        if not pending:
            await trio.lowlevel.checkpoint()
            return
        wait = _IdleWait(pending, trio.Event())
        self._idle_waits.append(wait)
        try:
            await wait.event.wait()
        finally:
            self._idle_waits.remove(wait)

    def _tell_idle_waits(self, request: DiskRequest) -> None:
        for wait in self._idle_waits:
            wait.pending.discard(request)
            if not wait.pending:
                wait.event.set()

    def _wake_at(self, time: float) -> None:
        """Let ``run`` pump at ``time``, unless it wakes earlier anyway.

        A later time does not replace an earlier one that is set: one useless wake-up costs less than each change.
        """
        if time >= self._wake_time:
            return
        self._wake_time = time
        if self._alarm is not None:
            self._alarm.set(time - self._now())
        elif self._wake_scope is not None:
            self._wake_scope.cancel()

    async def run(self) -> None:
        """Pump at the times that the queue names, until cancelled."""
        if self._now is trio.current_time:
            await self._run_by_trio()
            return
        self._later = reactor.current().soon
        with Alarm(self._due) as self._alarm:
            if self._wake_time < math.inf:
                self._alarm.set(self._wake_time - self._now())
            try:
                await trio.sleep_forever()
            finally:
                self._alarm = self._later = None

    async def _run_by_trio(self) -> None:
        while True:
            with trio.CancelScope() as scope:
                self._wake_scope = scope
                try:
                    delay_s = max(self._wake_time - self._now(), 0.0)
                    await trio.sleep(delay_s) if delay_s < math.inf else await trio.sleep_forever()
                finally:
                    self._wake_scope = None
            self._due()

    def _due(self) -> None:
        """Pump if the time that the queue named has come."""
        left_s = self._wake_time - self._now()
        if left_s <= 0:
            self._wake_time = math.inf
            self.pump()
        elif self._alarm is not None:
            self._alarm.set(left_s)

    def oldest_s(self) -> float | None:
        """Return how long the oldest request at the disk has been there, or None if there is none."""
        sent = [request.sent_s for request in self._callers if request.sent_s != NEVER_S]
        return self._now() - min(sent) if sent else None

    def status(self) -> RunnerStatus:
        queued = len(self.queue)
        completions, sizes, errors = self.meter.disk_counts()
        return RunnerStatus(
            queued=queued,
            in_flight=len(self._callers) - queued,
            reads=completions[Op.READ],
            writes=completions[Op.WRITE],
            flushes=completions[Op.FLUSH],
            read_bytes=sizes[Op.READ],
            written_bytes=sizes[Op.WRITE],
            errors=errors,
            zeroes=completions[Op.ZERO],
            zeroed_bytes=sizes[Op.ZERO],
            discards=completions[Op.DISCARD],
            discarded_bytes=sizes[Op.DISCARD],
        )


class _IdleWait:
    """Stands for a call of `wait_idle` that waits until ``pending`` is empty."""

    __slots__ = ("event", "pending")

    def __init__(self, pending: set[DiskRequest], event: trio.Event) -> None:
        self.pending = pending
        self.event = event


def _report(_: DiskRequest, error: Exception) -> None:
    bugs.report(logger, "what follows a disk's answer", error)

"""Serves the turns of the exporter's only thread. `turns.py` decides which flow is next; nothing is decided here.

    socket readable, or takes data again    -> ready(link, flow)      the link waits in its flow
    a disk has answered                     -> answered(flow, done)   the reply waits in its flow
    run, at the end of the reactor's round  -> turns of one flow after the other, until TURN_S is over; then the reactor
                                               looks for new work first

In its turn, a flow first sends its small replies. Then it alternates between one large reply and the work of one link,
so that nothing small waits for a megabyte. A turn is a batch (`batches.py`): at its end, I/O starts and replies leave.

The clock limits a turn, because other flows wait for its end. A flow is charged the time that the thread was on a
processor, because it must not pay for time that the machine gave to another process. If no flow waits, the clock
measures the charge as well, up to UNCONTENDED_CHARGE_MAX_S, because reading the clock costs only a tenth. The disks'
engine handles completions before the turns of the replies. This time is charged to the flows by their numbers of
completions. A flow that has been alone for a while gets its small replies without a turn.

If there is no reactor (``loop`` is None, as in a test that drives the exporter by hand), replies are sent at once.
"""

import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from meshfs import bugs, limits
from meshfs.exporter.rules.turns import Turns
from meshfs.exporter.state.batches import Batches
from meshfs.exporter.state.disk_request import PeerDiskRequest
from meshfs.exporter.state.processor_flow import ProcessorFlow, Work
from meshfs.scheduler.decide.policy import DiskPolicy

logger = logging.getLogger(__name__)

_TURN_S: Final = limits.TURN_S
_UNCONTENDED_MAX_S: Final = limits.UNCONTENDED_CHARGE_MAX_S
_SMALL_MAX_BYTES: Final = limits.REPLY_SMALL_MAX_BYTES


class Loop(Protocol):
    """Declares what the processor needs of the reactor."""

    def soon(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` at the end of the round, or of the next one."""


class Processor:
    """Serves one exporter. ``clock`` counts all time, ``spent`` only the time that the thread was on a processor."""

    def __init__(
        self,
        batches: Batches,
        clock: Callable[[], float] = time.perf_counter,
        spent: Callable[[], float] = time.thread_time,
    ) -> None:
        self.turns = Turns(ProcessorFlow)
        self.clock = clock
        self.spent = spent
        self.loop: Loop | None = None
        self._batches = batches
        #: Tells whether no flow waits for a turn. Then `run` does not run, and no call of `run` is planned.
        self.is_idle = True
        #: Tells whether disks have answered, and no flow was charged for these completions yet.
        self._unpaid = False
        #: The time at which the first work came for the planned call of `run`.
        self._since_s = 0.0
        #: The flow that the turn under way serves. `turned_out` changes this.
        self.serving = self.turns.strangers

    def configure(self, policy: DiskPolicy) -> None:
        """Use other weights and shares from now on."""
        self.turns.configure(policy)

    # --- work comes --------------------------------------------------------------------

    def ready(self, work: Work, flow: ProcessorFlow) -> None:
        """Have ``work.step`` called once, in a turn of ``flow``."""
        flow.links.append(work)
        if not flow.wants:
            self._want(flow)

    def answered(self, flow: ProcessorFlow, done: PeerDiskRequest) -> None:
        """Call ``done.on_done`` in a turn of ``flow``, to reply to the initiator, because a disk has answered."""
        if self.loop is None or done.request.peer.closed:
            done.on_done(done)
            return
        is_small = done.result <= _SMALL_MAX_BYTES or done.op
        if is_small and self.is_idle and self.turns.alone is flow:
            self._tell_at_once(flow, done)
            return
        (flow.small if is_small else flow.large).append(done)
        flow.unpaid += 1
        self._unpaid = True
        if not flow.wants:
            self._want(flow)

    def _tell_at_once(self, flow: ProcessorFlow, done: PeerDiskRequest) -> None:
        """Reply without a turn, because no other flow waits for a turn or had one for a while."""
        begun_s = self.clock()
        done.on_done(done)
        flow.used_s += self.clock() - begun_s

    def _want(self, flow: ProcessorFlow) -> None:
        self.turns.add(flow)
        if self.is_idle:
            assert self.loop is not None, "without a reactor nothing waits"
            self.is_idle = False
            self._since_s = self.clock()
            self.loop.soon(self.run)

    # --- work is done ------------------------------------------------------------------

    def serve(self, work: Work, flow: ProcessorFlow) -> None:
        """Serve ``work`` in a turn at once. The reactor's callbacks may call this while no flow waits (``is_idle``)."""
        self.turns.take(flow)
        flow.links.append(work)
        self.is_idle = False
        begun_s = self.clock()
        self._serve(flow, begun_s + self.turns.quantum_s(flow))
        self._charge(flow, min(self.clock() - begun_s, _UNCONTENDED_MAX_S))
        self._go_on()

    def run(self) -> None:
        """Serve turns until TURN_S is over. If more flows wait then, the reactor calls this function again."""
        turns, clock, spent = self.turns, self.clock, self.spent
        now = clock()
        try:
            if self._unpaid:
                self._charge_completions(now - self._since_s)
            until_s, used_s = now + _TURN_S, spent()
            while now < until_s and (flow := turns.next()) is not None:
                self._serve(flow, now + turns.quantum_s(flow))
                begun_s, used_s, now = used_s, spent(), clock()
                self._charge(flow, used_s - begun_s)
        finally:
            # Even after an exception, the other flows get their turns.
            self._go_on()

    def _go_on(self) -> None:
        self.is_idle = not self.turns.contended
        if not self.is_idle:
            self._since_s = self.clock()
            assert self.loop is not None
            self.loop.soon(self.run)

    def _serve(self, flow: ProcessorFlow, until_s: float) -> None:
        """Serve one turn of ``flow``."""
        batches = self._batches
        self.serving = flow
        batches.begin()
        try:
            self._turn(flow, until_s)
        except Exception as error:
            bugs.report(logger, "a turn of the processor", error)
        finally:
            batches.end()

    def _charge(self, flow: ProcessorFlow, used_s: float) -> None:
        """Charge the turn that is over to ``flow``, or to the flow that it turned out to serve."""
        turns = self.turns
        # Completions within the turn are paid for by the time of the turn.
        flow.unpaid = 0
        wants = bool(flow.small or flow.links or flow.large)
        if self.serving is flow:
            turns.charge(flow, used_s, wants=wants)
        else:
            turns.charge(flow, 0.0, wants=wants)
            turns.charge_beside(self.serving, used_s)

    def turned_out(self, flow: ProcessorFlow) -> bool:
        """Charge the turn under way to ``flow``. Return whether the turn should end, because other flows wait."""
        self.serving = flow
        return self.turns.contended

    def _turn(self, flow: ProcessorFlow, until_s: float) -> None:
        clock, small, large, links = self.clock, flow.small, flow.large, flow.links
        while True:
            while small:
                _reply(small.popleft())
                if clock() >= until_s:
                    return
            if large:
                _reply(large.popleft())
                if clock() >= until_s:
                    return
            if links:
                work = links.popleft()
                rest = work.step(until_s)
                if rest is flow:
                    links.append(work)
                elif rest is not None:
                    self.ready(work, rest)
                if clock() >= until_s:
                    return
            elif not large and not small:
                # Disks may answer the requests of this turn at once.
                self._batches.pump()
                if not large and not small:
                    return

    def _charge_completions(self, elapsed_s: float) -> None:
        """Charge the flows for the time that the completions of disks have taken since the first of them."""
        self._unpaid = False
        owing = [flow for flow in self.turns.wanting() if flow.unpaid]
        if not owing:
            return
        each_s = min(elapsed_s / sum(flow.unpaid for flow in owing), limits.COMPLETION_CHARGE_MAX_S)
        for flow in owing:
            self.turns.charge_beside(flow, flow.unpaid * each_s)
            flow.unpaid = 0


def _reply(done: PeerDiskRequest) -> None:
    try:
        done.on_done(done)
    except Exception as error:
        # The turn has replies for other connections as well.
        done.request.fault(done, error)

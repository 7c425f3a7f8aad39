"""Serves the turns of the exporter's only thread. `turns.py` decides whose turn it is; nothing is decided here.

    socket readable, or takes data again    -> ready(link, flow)      the link waits in its flow
    a disk has answered                     -> answered(flow, done)   the reply waits in its flow
    run, at the end of the reactor's round  -> a turn of the flow whose turn it is, and of the next one, until
                                               TURN_S is over; then the reactor looks for newcomers first

In its turn a flow first gives its small replies, then one large reply and one link's work in turn, so that nothing
small waits for a megabyte. A turn is a batch (`batches.py`): at its end its I/O starts and its replies leave.

The clock limits a turn, because others wait for its end. A flow is charged the time that the thread was on a processor:
it must not pay for time that the machine gave to another process. Where nobody waits, the clock is used for that, too,
which costs a tenth, up to UNCONTENDED_CHARGE_MAX_S. What the disks' engine did for completions, before the replies'
turns, is charged to the flows by their numbers of completions. A flow that has been alone for a while gets its small
replies without a turn.

Without a reactor (``loop`` is None; an exporter that a test drives by hand) replies are given at once.
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
    """The reactor, as far as the processor knows it."""

    def soon(self, callback: Callable[[], None]) -> None:
        """Call it at the end of the round, or of the next one."""


class Processor:
    """Serves one exporter. ``clock`` goes on all the time, ``spent`` only while the thread is on a processor."""

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
        #: Whether nobody waits for a turn, so that `run` neither runs nor is going to be called.
        self.is_idle = True
        #: Whether answers of disks were taken that no flow was charged for.
        self._unpaid = False
        #: When the first work came for the `run` that is going to be called.
        self._since_s = 0.0
        #: The flow whose turn is under way, or that the turn turned out to serve.
        self.serving = self.turns.strangers

    def configure(self, policy: DiskPolicy) -> None:
        """Share by other weights from now on."""
        self.turns.configure(policy)

    # --- work comes --------------------------------------------------------------------

    def ready(self, work: Work, flow: ProcessorFlow) -> None:
        """Have ``work.step`` called once, in a turn of ``flow``."""
        flow.links.append(work)
        if not flow.wants:
            self._want(flow)

    def answered(self, flow: ProcessorFlow, done: PeerDiskRequest) -> None:
        """Have ``done.on_done`` reply to the initiator in a turn of ``flow``, because a disk has answered."""
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
        """Reply without a turn, because nobody else has had a turn for a while or waits for one."""
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
        """Do `ready` and the turn at once. Allowed in callbacks of the reactor while nobody waits (``is_idle``)."""
        self.turns.take(flow)
        flow.links.append(work)
        self.is_idle = False
        begun_s = self.clock()
        self._serve(flow, begun_s + self.turns.quantum_s(flow))
        self._charge(flow, min(self.clock() - begun_s, _UNCONTENDED_MAX_S))
        self._go_on()

    def run(self) -> None:
        """Serve turns until TURN_S is over. Where more flows wait, the reactor calls it again."""
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
            # Whatever happened, the others get their turns.
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
        # The turn itself pays for what disks answered within it.
        flow.unpaid = 0
        wants = bool(flow.small or flow.links or flow.large)
        if self.serving is flow:
            turns.charge(flow, used_s, wants=wants)
        else:
            turns.charge(flow, 0.0, wants=wants)
            turns.charge_beside(self.serving, used_s)

    def turned_out(self, flow: ProcessorFlow) -> bool:
        """The turn under way serves ``flow`` and is charged to it. Returns whether it should end, as others wait."""
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
                # Disks may answer at once what the turn asked of them.
                self._batches.pump()
                if not large and not small:
                    return

    def _charge_completions(self, elapsed_s: float) -> None:
        """Charge what taking the answers from the disks has cost since the first of them came."""
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
        # The turn has replies for other connections, too.
        done.request.fault(done, error)

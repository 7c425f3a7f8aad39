"""One connection's socket: receives and sends in the turns of its node.

    readable -> ready        the link waits in its node's flow (`processor.py`)
    its turn -> step         what is held is handled, then recv_into until the socket is empty or the turn is over
                             -> Engine.received (handlers run, I/O is queued)
    the turn's end           disks are started once, all replies of the turn leave in one sendmsg

Before a request is seen its class is unknown: the link waits as an application then, and looks. When the request is of
the system and somebody waits, it is held, and the link waits in its node's system flow. Requests of one connection are
handled in the order they came.

Replies are sent by `outlet.py`. While the socket is full, no more than SEND_QUEUE_MAX_BYTES (of a stranger: far less)
pile up, because past that nothing is read. Nor is anything while a connection has more than CREDITS_MAX in work: what
was received already is held, and handled when there is room again. Nor while its node holds all the memory that it may
have (`memory_budget.py`). The connection's own tasks sleep until it is over.
"""

import logging
import socket

import trio

from meshfs import limits
from meshfs.buffers import Account
from meshfs.errors import RemoteProtocolError
from meshfs.exporter.rules.admission import Stage
from meshfs.exporter.rules.turns import ProcessorFlow
from meshfs.exporter.serving.engine import Engine
from meshfs.exporter.serving.outlet import Outlet
from meshfs.exporter.serving.progress import Progress
from meshfs.exporter.state.exporter import Exporter
from meshfs.exporter.state.peer import Peer
from meshfs.loop import reactor
from meshfs.model import FlowKey, IoClass
from meshfs.transport.stream import LowWater

logger = logging.getLogger(__name__)


class Link:
    """One connection's socket."""

    def __init__(
        self, exporter: Exporter, stream: socket.socket, remote: str, login_until_s: float, newcomers: ProcessorFlow
    ) -> None:
        """``newcomers``: in whose turns it is served until somebody is logged in."""
        self.peer = Peer(exporter, remote)
        self._engine = Engine(self.peer)
        self._engine.on_class_change = self._class_changed
        self.logged_in = False
        self._exporter = exporter
        self._socket = stream
        self._fd = stream.fileno()
        self._low_water = LowWater(stream)
        self._reactor = reactor.current()
        #: Cancelled when nothing more is to be read.
        self._reading = trio.CancelScope(deadline=login_until_s)
        self._stopped = False
        #: Nothing more is read. trio's scope knows it, too, and takes 0.5 us to tell.
        self._reads_no_more = False
        #: The peer is gone, or broke the protocol.
        self._over = False
        #: Not read from until what waits to be sent is sent, and what is held is handled.
        self._paused = False
        #: Whether the reactor tells when there is something to receive.
        self._watched = False
        #: Whether it waits for a turn to receive.
        self._waits = False
        self._processor = exporter.processor
        #: Where it waits for its turn before its next request is seen, and after.
        self._newcomers = newcomers
        self._app_flow = self._flow = newcomers
        #: Whether anything came since `_was_idle` was asked.
        self._received = False
        self._memory = exporter.memory
        self._waits_for_memory = False
        self._outlet = Outlet(self.peer, stream, self._reactor, newcomers, self._sent, self._broken)
        self._progress = Progress(self.peer, self._outlet, self._memory, self._fd, self._was_idle, self.end)

    async def run(self) -> None:
        """Until the peer goes, breaks the protocol, or is told to (`Peer.closing`)."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._progress.watch)
            self._reactor.add(self._fd, self._readable, on_failure=self.fault)
            self._watched = True
            with self._reading:
                await trio.sleep_forever()
            self._reads_no_more = True
            self._reactor.remove(self._fd)
            if self._stopped:
                await trio.sleep_forever()
            if not self._over and not self.peer.closing:
                self._exporter.count("login_timeouts")
                self.peer.log_warning("closed: no login within %g s", limits.UNAUTHENTICATED_TIMEOUT_S)
            with trio.move_on_after(limits.UNAUTHENTICATED_TIMEOUT_S):
                await self._outlet.sent_all()
            nursery.cancel_scope.cancel()

    def close(self) -> None:
        self._reactor.forget(self._fd)
        self._memory.forget(self)
        self._outlet.close()
        self._exporter.batches.begin()
        self.peer.lost()
        self._exporter.batches.end()
        self._socket.close()

    def fault(self, _: Exception) -> None:
        """A fault of ours with what this connection brings ends this connection, and no other."""
        self.end()

    def end(self) -> None:
        """Close it at once, and drop what was not sent."""
        self._over = True
        self._outlet.discard()

    def stop_reading(self) -> None:
        self._stopped = True
        self._end_reading()

    def _end_reading(self) -> None:
        self._reads_no_more = True
        self._reactor.remove(self._fd)
        self._reading.cancel()
        self._reactor.give_turn()

    async def sent_all(self) -> None:
        await self._outlet.sent_all()

    def _sent(self) -> None:
        """Nothing waits to be sent any more."""
        if self.peer.closing:
            self._end_reading()
        elif self._paused:
            self._resume()

    def _broken(self) -> None:
        """Nothing can be sent: it ends, and its reader is told."""
        self.peer.closing = True
        self._reactor.forget(self._fd)
        self._end_reading()

    def reached(self, stage: Stage) -> bool:
        """The connection has come that far towards a login, or its last session is gone. False: no news."""
        logged_in = stage is Stage.LOGGED_IN
        if self.logged_in and stage is Stage.LOGGING_IN:
            return False
        # A login that failed buys a stranger no time.
        if logged_in != self.logged_in:
            self.logged_in = logged_in
            self._app_flow = self._flow = self._outlet.own_flow = self._flow_of(IoClass.APP)
            now = trio.current_time()
            self._reading.deadline = float("inf") if logged_in else now + limits.UNAUTHENTICATED_TIMEOUT_S
        return True

    def _flow_of(self, io_class: IoClass) -> ProcessorFlow:
        user = next((session.user for session in self.peer.sessions.values() if session.user), "")
        turns = self._processor.turns
        return turns.flow(FlowKey(user, io_class)) if self.logged_in and user else self._newcomers

    def _class_changed(self, system: bool) -> bool:
        self._flow = self._flow_of(IoClass.SYSTEM) if system else self._app_flow
        return self._processor.turned_out(self._flow)

    # --- receiving ---------------------------------------------------------------------

    def _readable(self) -> None:
        """The reactor's callback."""
        if self._waits:
            # It has waited for a round: to be told once more costs less than to be told in each round.
            self._watch(False)
        elif self._reactor.is_only and self._processor.is_idle:
            # There is nobody to choose between.
            self._processor.serve(self, self._app_flow)
        else:
            self._wait(self._app_flow)

    def _wait(self, flow: ProcessorFlow) -> None:
        self._waits = True
        self._processor.ready(self, flow)

    def _watch(self, wanted: bool) -> None:
        if wanted is self._watched:
            return
        self._watched = wanted
        if wanted:
            self._reactor.add(self._fd, self._readable)
        else:
            self._reactor.remove(self._fd)

    def step(self, until_s: float) -> ProcessorFlow | None:
        """Its turn."""
        self._waits = False
        self._received = True
        if self._reads_no_more or self.peer.closed:
            return None
        try:
            more = self._work(until_s)
        except RemoteProtocolError as error:
            self._exporter.count(error.counter)
            self.peer.log_warning("closed: %s", error)
            self._lost()
            return None
        except Exception:
            # A fault of ours must not take the other connections down.
            self._exporter.count("internal_errors")
            logger.exception("%s: closed after an internal error", self.peer.remote)
            self._lost()
            return None
        return self._rest(more)

    def _lost(self) -> None:
        self._over = True
        self._end_reading()

    def _rest(self, more: bool) -> ProcessorFlow | None:
        """Where it waits after its turn, if it does; ``more``: the socket may have more."""
        peer = self.peer
        if self._over or peer.closing:
            # What comes now is nobody's: to be told of it would be to be told over and over, until it is closed.
            self._watch(False)
            return None
        outlet, engine = self._outlet, self._engine
        held = engine.held
        if not held:
            self._low_water.expect(peer.connection.missing_bytes)
            if engine.system:
                # Whatever comes next is an application's until it was seen.
                engine.system = False
                self._flow = self._app_flow
        full = outlet.waiting is not None and (outlet.unsent_bytes() > self._unsent_max_bytes() or outlet.has_many)
        if full or self._waits_for_memory or (held and engine.is_full):
            self._watch(False)
            self._paused = True
            self._resume()
            return None
        if held:
            self._waits = True
            return self._flow
        if more:
            self._waits = True
            return self._app_flow
        if not self._watched:
            self._watch(True)
        return None

    def _work(self, until_s: float) -> bool:
        """Handle what is held and take what the socket has; False when it is empty. Raises RemoteProtocolError."""
        peer, engine = self.peer, self._engine
        engine.until_s = until_s
        if engine.held:
            if self._lacks_memory():
                return True
            engine.go_on()
            if engine.held:
                return True
        receive, clock = self._socket.recv_into, self._processor.clock
        alone = self._processor.turns.is_alone
        while not peer.closing:
            if self._lacks_memory():
                return True
            memory = engine.get_buffer()
            if not alone and len(memory) > limits.TURN_STEP_BYTES:
                memory = memory[: limits.TURN_STEP_BYTES]
            try:
                count = receive(memory)
            except BlockingIOError:
                return False
            except OSError as error:
                logger.debug("%s: %s", peer.remote, error)
                count = 0
            if not count:
                self._lost()
                return False
            engine.received(count)
            if count < len(memory):
                return False
            if engine.held or clock() >= until_s:
                return True
        return False

    def _resume(self) -> None:
        """Go on with what is held, or read again, if that may be now."""
        if not self._paused or self._outlet.waiting is not None or self._reads_no_more or self.peer.closed:
            return
        if self._waits_for_memory:
            return
        if not self._engine.held:
            self._paused = False
            self._watch(True)
        elif self._engine.has_room:
            self._paused = False
            if not self._waits:
                self._wait(self._flow)

    def _unsent_max_bytes(self) -> int:
        return limits.SEND_QUEUE_MAX_BYTES if self.logged_in else limits.SEND_QUEUE_UNAUTHENTICATED_MAX_BYTES

    # --- memory ------------------------------------------------------------------------

    @property
    def account(self) -> Account:
        return self.peer.usage.memory

    def _lacks_memory(self) -> bool:
        """Whether its node holds all that it may; then `room_again` is called when that has changed.

        Large frames that have memory are received and handled all the same: that gives it back.
        """
        account, budget = self.peer.usage.memory, self._memory
        if account.used_bytes <= budget.per_node_min_bytes or budget.has_room(account):
            return False
        if self.peer.connection.holds_large:
            return False
        self._waits_for_memory = True
        self._memory.wait(self)
        return True

    def room_again(self) -> None:
        self._waits_for_memory = False
        if not self.peer.closed:
            self._resume()

    def _was_idle(self) -> bool:
        """Whether nothing came since this was last asked, and nothing waits for its turn."""
        received, self._received = self._received, False
        return not received and not self._waits and not self._engine.held

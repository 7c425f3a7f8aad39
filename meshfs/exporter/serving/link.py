"""The link of one connection receives from the transport, and has the requests handled, in the turns of its node.

    readable -> ready        The link waits in the flow of its node (`processor.py`).
    its turn -> step         Held requests are handled. Then the link receives until the transport is empty or the turn
                             is over. `ConnectionEngine.handle` runs the handlers, which queue I/O.
    the turn's end           The disks' I/O starts, and all replies of the turn are sent in one call.

The state of the link says whether it may receive (`link_states.py`). Four facts are independent of the state:

    Peer.closing    tells whether the connection has to be closed. The peer decides that, and the engine checks it
    stage           the stage of the login (`admission.py`)
    watched         tells whether the reactor watches the transport. A waiting link is watched until the reactor calls
                    it once more. That call is rare, so most turns save two system calls
    received        tells whether anything came since the last check for an idle connection

The class of a request is unknown until its header was read, so the link waits as an application. If the request is of
the class system and other flows wait, the engine holds the request, and the link waits in its node's system flow. The
requests of one connection are handled in the order in which they came.

The link stops reading while

    the transport is full and SEND_QUEUE_MAX_BYTES of replies wait (`outlet.py`; for a stranger far fewer),
    more than CREDITS_MAX credits are in progress, or
    its node holds all the memory that it may hold (`memory_budget.py`).

Requests that were received before are held, and handled when there is room again. The tasks of a connection sleep until
it ends.
"""

import logging
import math
from typing import Final

import trio

from meshfs import limits
from meshfs.buffers import Account
from meshfs.errors import RemoteProtocolError
from meshfs.exporter.rules.admission import AdmissionStage
from meshfs.exporter.rules.link_states import LINK, RECEIVING, LinkEvent, LinkState, after_turn, next_state, when_room
from meshfs.exporter.serving.engine import ConnectionEngine
from meshfs.exporter.serving.outlet import Outlet
from meshfs.exporter.serving.progress import Progress
from meshfs.exporter.state.exporter import Exporter
from meshfs.exporter.state.peer import Peer
from meshfs.exporter.state.processor_flow import ProcessorFlow
from meshfs.loop import reactor
from meshfs.model import FlowKey, IoClass
from meshfs.smb.connection import PAYLOAD_OFFSETS, Role
from meshfs.transport.base import Transport

logger = logging.getLogger(__name__)

# These are plain names, because a member of an enum costs a look-up per turn.
_READING: Final = LinkState.READING
_WAITING: Final = LinkState.WAITING
_PAUSED: Final = LinkState.PAUSED
_STARVED: Final = LinkState.STARVED
_TURN: Final = LinkEvent.TURN
_WAIT: Final = LinkEvent.WAIT


class Link:
    """Receives from the transport of one connection while that is allowed, and closes the transport."""

    def __init__(
        self, exporter: Exporter, transport: Transport, login_until_s: float, newcomers: ProcessorFlow
    ) -> None:
        """Serve the connection in the turns of ``newcomers`` until a node has logged in."""
        self._inlet = transport.inlet(
            exporter.pool, PAYLOAD_OFFSETS[Role.EXPORTER], limits.FRAME_MAX_UNAUTHENTICATED_BYTES
        )
        self.peer = Peer(exporter, transport.remote, self._inlet, transport.out_queue())
        self._engine = ConnectionEngine(self.peer)
        self._engine.on_class_change = self._class_changed
        #: The stage of the login.
        self._stage = AdmissionStage.SILENT
        self._exporter = exporter
        self._transport = transport
        self._reactor = reactor.current()
        self._state = _READING
        #: The scope that is cancelled when the link ends. Its deadline is the time by which a node has to log in.
        self._until_end = trio.CancelScope(deadline=login_until_s)
        #: Tells whether the reactor watches the transport for something to receive.
        self._watched = False
        self._processor = exporter.processor
        #: The flow before a login.
        self._newcomers = newcomers
        #: The flow in which the link waits for the next request, and the flow in which held requests wait.
        self._app_flow = self._flow = newcomers
        #: Tells whether anything came since `_was_idle` was called.
        self._received = False
        self._memory = exporter.memory
        self._outlet = Outlet(self.peer, self._reactor, newcomers, self._sent, self._broken)
        self._progress = Progress(self.peer, self._outlet, self._memory, transport.pending, self._was_idle, self.end)

    async def run(self) -> None:
        """Serve the connection until it is lost, the peer breaks the protocol, or `Peer.closing` is set."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._progress.watch)
            self._transport.watch(self._readable, self.fault)
            self._watched = True
            if self._state is not _READING:
                # The link was stopped before its task began.
                self._watch(False)
            with self._until_end:
                await trio.sleep_forever()
            self._too_late()
            with trio.move_on_after(limits.UNAUTHENTICATED_TIMEOUT_S):
                await self._outlet.sent_all()
            nursery.cancel_scope.cancel()

    def _too_late(self) -> None:
        """End the link if its deadline has passed, because no node has logged in."""
        if self._state is LinkState.ENDING:
            return
        if self._state in RECEIVING and not self.peer.closing:
            self._exporter.count("login_timeouts")
            self.peer.log_warning(
                "the connection is closed, because no node logged in within %g s", limits.UNAUTHENTICATED_TIMEOUT_S
            )
        self._receive_no_more(LinkEvent.END)

    def close(self) -> None:
        """Close the transport, and end everything that depends on the connection."""
        self._receive_no_more(LinkEvent.CLOSE)
        self._outlet.close()
        try:
            with self._exporter.batches.one():
                self.peer.lost()
        finally:
            self._transport.close()

    def fault(self, _: Exception) -> None:
        """End this connection, and no other, because an internal error prevented the handling of its requests."""
        self.end()

    def end(self) -> None:
        """Close the connection at once, and drop the replies that were not sent."""
        self._outlet.discard()

    def stop_reading(self) -> None:
        """Read nothing more, and keep the connection open for the replies that are still to come."""
        self._receive_no_more(LinkEvent.STOP)
        # No request is handled any more, so no node can log in.
        self._until_end.deadline = math.inf

    def _end(self) -> None:
        """Receive nothing more, and close the connection when the waiting replies were sent."""
        self._receive_no_more(LinkEvent.END)
        self._until_end.cancel()
        self._reactor.give_turn()

    def _receive_no_more(self, event: LinkEvent) -> None:
        self._state = next_state(self._state, event)
        self._watch(False)
        self._memory.forget(self)

    async def sent_all(self) -> None:
        """Return when no reply waits to be sent."""
        await self._outlet.sent_all()

    def _sent(self) -> None:
        """End the connection if it has to be closed, or go on reading, because the outlet has sent everything."""
        if self.peer.closing:
            self._end()
        elif self._state is _PAUSED:
            self._resume()

    def _broken(self) -> None:
        """End the connection, because the outlet cannot send any more."""
        self.peer.closing = True
        self._end()

    def reached(self, stage: AdmissionStage) -> bool:
        """Note the stage of the login. Return False for a login beside a valid session, which does not count."""
        before = self._stage
        if before is AdmissionStage.LOGGED_IN and stage is AdmissionStage.LOGGING_IN:
            return False
        self._stage = stage
        logged_in = stage is AdmissionStage.LOGGED_IN
        # Only a login that succeeds, and the end of the last session, move the deadline. A failed login does not.
        if logged_in != (before is AdmissionStage.LOGGED_IN):
            self._app_flow = self._flow = self._outlet.own_flow = self._flow_of(IoClass.APP)
            now = trio.current_time()
            self._until_end.deadline = math.inf if logged_in else now + limits.UNAUTHENTICATED_TIMEOUT_S
        return True

    def _flow_of(self, io_class: IoClass) -> ProcessorFlow:
        user = next((session.user for session in self.peer.sessions.values() if session.user), "")
        turns = self._processor.turns
        return (
            turns.flow(FlowKey(user, io_class)) if self._stage is AdmissionStage.LOGGED_IN and user else self._newcomers
        )

    def _class_changed(self, system: bool) -> bool:
        self._flow = self._flow_of(IoClass.SYSTEM) if system else self._app_flow
        return self._processor.turned_out(self._flow)

    # --- receiving ---------------------------------------------------------------------

    def _readable(self) -> None:
        """Receive now or in a turn, because the transport has something. The reactor calls this."""
        if self._state is _WAITING:
            # The link waits for its turn already. The reactor would call again in every round until then.
            self._watch(False)
        elif self._reactor.is_only and self._processor.is_idle:
            # No other connection has anything to do, so the turn may begin at once.
            self._processor.serve(self, self._app_flow)
        else:
            self._wait(self._app_flow)

    def _wait(self, flow: ProcessorFlow) -> None:
        self._state = LINK[self._state][_WAIT]
        self._processor.ready(self, flow)

    def _watch(self, wanted: bool) -> None:
        if wanted is self._watched:
            return
        self._watched = wanted
        if wanted:
            self._transport.watch(self._readable, self.fault)
        else:
            self._transport.unwatch()

    def step(self, until_s: float) -> ProcessorFlow | None:
        """Work in a turn. Return the flow in which the link waits for more work, or None if nothing is left."""
        if self._state is not _READING:
            self._state = LINK[self._state][_TURN]
            if self._state is not _READING:
                return None
        self._received = True
        try:
            more = self._work(until_s)
        except RemoteProtocolError as error:
            self._exporter.count(error.counter)
            self.peer.log_warning("the connection is closed: %s", error)
            self._end()
            return None
        except Exception:
            # An internal error must not end the other connections.
            self._exporter.count("internal_errors")
            logger.exception("%s: closed after an internal error", self.peer.remote)
            self._end()
            return None
        return self._rest(more)

    def _rest(self, more: bool) -> ProcessorFlow | None:
        """Return the flow in which the link waits for its next turn, or None. ``more`` is the result of `_work`."""
        state, peer, engine = self._state, self.peer, self._engine
        if peer.closing or (state is not _READING and state is not _STARVED):
            # Nothing more is read. The reactor would call in every round until the connection is closed.
            self._watch(False)
            return None
        held = engine.held
        if not held:
            self._transport.expect(self._inlet.missing_bytes)
            if engine.system:
                # The next request counts as a request of an application until its header was read.
                engine.system = False
                self._flow = self._app_flow
        full = False
        if (outlet := self._outlet).waiting is not None:
            full = outlet.unsent_bytes() > self._unsent_max_bytes() or outlet.has_many
        if full or held or more or state is _STARVED:
            return self._wait_or_pause(full or (bool(held) and engine.is_full))
        if not self._watched:
            self._watch(True)
        return None

    def _wait_or_pause(self, full: bool) -> ProcessorFlow | None:
        event = after_turn(self._state, full=full)
        self._state = next_state(self._state, event)
        if event is _WAIT:
            return self._flow if self._engine.held else self._app_flow
        self._watch(False)
        return None

    def _work(self, until_s: float) -> bool:
        """Handle held requests, then receive. Return whether there may be more to do. Raises RemoteProtocolError."""
        peer, engine = self.peer, self._engine
        engine.until_s = until_s
        if engine.held:
            if self._lacks_memory():
                return True
            engine.go_on()
            if engine.held:
                return True
        inlet, clock = self._inlet, self._processor.clock
        most_bytes = None if self._processor.turns.is_alone else limits.TURN_STEP_BYTES
        while not peer.closing:
            if self._lacks_memory():
                return True
            try:
                frames = inlet.receive(most_bytes)
            except BlockingIOError:
                return False
            except OSError as error:
                logger.debug("%s: %s", peer.remote, error)
                self._end()
                return False
            engine.handle(frames)
            if inlet.is_drained:
                return False
            if engine.held or clock() >= until_s:
                return True
        return False

    def _resume(self) -> None:
        """Go on with held requests, or read again, if the reasons for the pause have ended."""
        engine = self._engine
        sending, held = self._outlet.waiting is not None, bool(engine.held)
        event = when_room(self._state, sending=sending, held=held, has_room=engine.has_room)
        if event is LinkEvent.RESUME:
            self._state = next_state(self._state, event)
            self._watch(True)
        elif event is _WAIT:
            self._wait(self._flow)

    def _unsent_max_bytes(self) -> int:
        if self._stage is AdmissionStage.LOGGED_IN:
            return limits.SEND_QUEUE_MAX_BYTES
        return limits.SEND_QUEUE_UNAUTHENTICATED_MAX_BYTES

    # --- memory ------------------------------------------------------------------------

    @property
    def account(self) -> Account:
        """Return what the node holds of the exporter's memory."""
        return self.peer.usage.memory

    def _lacks_memory(self) -> bool:
        """Return whether the node holds all the memory that it may hold. Then `room_again` is called when it has less.

        A large frame that already has its memory is received and handled nevertheless, because that frees the memory.
        """
        account, budget = self.peer.usage.memory, self._memory
        if account.used_bytes <= budget.per_node_min_bytes or budget.has_room(account):
            return False
        if self._inlet.holds_large:
            return False
        self._state = next_state(self._state, LinkEvent.LACK)
        self._memory.wait(self)
        return True

    def room_again(self) -> None:
        """Go on reading, because the node may take more memory."""
        self._state = next_state(self._state, LinkEvent.ROOM)
        self._resume()

    def _was_idle(self) -> bool:
        """Return whether nothing came since the last call, and nothing waits for a turn."""
        received, self._received = self._received, False
        return not received and self._state is not _WAITING and not self._engine.held

"""Sends the replies of one connection: what the transport accepts at once, and the rest in turns of the node.

    flush            sends ``Peer.out``, but at most TURN_STEP_BYTES while several flows have turns
    transport full   the transport calls back when it accepts more; the rest then waits for a turn of the node
    step             sends more in that turn

Therefore a reply does not wait until a megabyte of another connection is sent.
"""

import logging
from collections.abc import Callable

import trio

from meshfs import bugs, limits
from meshfs.exporter.state.peer import Peer
from meshfs.exporter.state.processor_flow import ProcessorFlow
from meshfs.loop.reactor import Reactor
from meshfs.transport.base import Sent

logger = logging.getLogger(__name__)


class Outlet:
    """Sends the replies of one connection.

    ``on_sent`` is called when everything was sent, and ``on_broken`` when the connection is lost. Waiting replies are
    sent in turns of ``own_flow``, which is the connection's flow, or of the same node's flow of the other class.
    """

    def __init__(
        self,
        peer: Peer,
        reactor: Reactor,
        own_flow: ProcessorFlow,
        on_sent: Callable[[], None],
        on_broken: Callable[[], None],
    ) -> None:
        self._peer = peer
        self._reactor = reactor
        self._on_sent = on_sent
        self._on_broken = on_broken
        self._processor = peer.exporter.processor
        self.own_flow = own_flow
        #: The flow in whose turns the waiting replies are sent.
        self._flow = own_flow
        self._queue = peer.out
        self._memory = peer.exporter.memory
        #: The bytes that the node is charged for waiting replies, without those in the pool's memory.
        self._charged_bytes = 0
        self._charged_to = peer.usage.memory
        #: This event is set when all waiting replies were sent. It is None while no reply waits.
        self.waiting: trio.Event | None = None
        peer.flush = self.flush

    def flush(self) -> None:
        """Send as much as the transport and this turn allow, unless replies wait already. Never raise an exception."""
        if self.waiting is not None:
            return
        try:
            sent = self._send_some()
            if sent is Sent.ALL:
                self._on_sent()
                return
            self.waiting = trio.Event()
            self._flow = self._flow_of_turn()
            if sent is Sent.FULL:
                self._queue.when_room(self._has_room)
            else:
                self._processor.ready(self, self._flow)
        except Exception as error:
            # The exporter has more connections to flush in this batch.
            self._fault(error)

    def _flow_of_turn(self) -> ProcessorFlow:
        """Return the flow whose turn is under way if it belongs to this node, or the connection's own flow otherwise.

        Replies are also sent in turns of other nodes: if another node unlocks a range, a waiting LOCK of this node is
        answered in the turn of that other node.
        """
        serving, own = self._processor.serving, self.own_flow
        return serving if serving.key.node == own.key.node else own

    def step(self, _: float) -> ProcessorFlow | None:
        """Send more in a turn. If the turn does not allow everything, return the flow in which the rest waits.

        If the transport is full, return None, because the transport then calls back.
        """
        if self.waiting is None:
            return None
        try:
            sent = self._send_some()
            if sent is Sent.SOME:
                return self._flow
            if sent is Sent.ALL:
                self._all_sent()
            else:
                self._queue.when_room(self._has_room)
        except Exception as error:
            self._fault(error)
        return None

    async def sent_all(self) -> None:
        """Return when no reply waits to be sent."""
        while self.waiting is not None:
            await self.waiting.wait()

    @property
    def taken_bytes(self) -> int:
        """Return the number of bytes that the transport has accepted so far."""
        return self._queue.sent_bytes

    def unsent_bytes(self) -> int:
        """Return the number of bytes in waiting replies, and charge the node for them.

        The bytes in the pool's memory were charged when this memory was acquired, and are not charged again.
        """
        if self.waiting is None:
            return 0
        self._charge(self._queue.unpooled_bytes)
        return self._queue.unsent_bytes

    @property
    def has_many(self) -> bool:
        """Return whether the number of waiting replies has reached its limit, even if they are small."""
        return len(self._queue) >= limits.SEND_QUEUE_FRAMES_MAX

    def close(self) -> None:
        """End the node's charge for waiting replies, because the connection is closed."""
        self._charge(0)

    def _charge(self, own_bytes: int) -> None:
        """Make ``own_bytes`` the total that the node's account is charged for waiting replies of this connection."""
        if own_bytes != self._charged_bytes:
            if not self._charged_bytes:
                self._charged_to = self._peer.usage.memory
            self._memory.charge(self._charged_to, own_bytes - self._charged_bytes)
            self._charged_bytes = own_bytes

    def discard(self) -> None:
        """Drop the waiting replies, and send nothing from now on.

        A part of one reply may have been sent. The peer would take any later reply for the rest of that one.
        """
        self._peer.flush = self._queue.drop
        self._queue.drop()
        self._on_broken()
        if self.waiting is not None:
            self._all_sent()

    def _has_room(self) -> None:
        """Ask for a turn, because the transport, which was full, accepts more."""
        self._processor.ready(self, self._flow)

    def _send_some(self) -> Sent:
        """Send what this turn allows. If the connection is lost, drop everything and return ALL."""
        try:
            return self._queue.send(None if self._processor.turns.is_alone else limits.TURN_STEP_BYTES)
        except OSError as error:
            logger.debug("%s: %s", self._peer.remote, error)
            self.discard()
            return Sent.ALL

    def _all_sent(self) -> None:
        if self.waiting is not None:
            self.waiting.set()
            self.waiting = None
        self._charge(0)
        self._reactor.give_turn()
        self._on_sent()

    def _fault(self, error: Exception) -> None:
        bugs.report(logger, "sending replies", error)
        self.discard()

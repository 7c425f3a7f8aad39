"""Puts together the parts of one connection that carries requests of a session, and ends the connection.

    requests   starts and ends requests, and knows those without an answer        (outstanding.py)
    outbox     sends together what one round of the reactor starts                (outbox.py)
    inbox      receives a batch, parses it, and hands it to the requests          (inbox.py)
    probe      sends ECHOs, and measures the delay by them                        (probe.py, delay.py)
    liveness   judges whether the exporter still answers                          (liveness.py, silence.py)

The session (session/session.py) binds several channels together and chooses between them by their ``load``.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Final

import trio

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.errors import ChannelLost, StatusError
from meshfs.initiator.channel.credits import Lane
from meshfs.initiator.channel.inbox import Inbox
from meshfs.initiator.channel.lent import LentMemory
from meshfs.initiator.channel.liveness import Liveness, Sibling
from meshfs.initiator.channel.load import RATE_UNKNOWN_BYTES_S, Throughput
from meshfs.initiator.channel.outbox import Outbox
from meshfs.initiator.channel.outstanding import OutstandingRequests
from meshfs.initiator.channel.probe import Probe
from meshfs.initiator.channel.silence import Silence
from meshfs.initiator.channel.slots import Reply, Slot
from meshfs.loop import reactor
from meshfs.model import IoClass
from meshfs.smb.connection import PAYLOAD_OFFSETS, Connection, Role
from meshfs.smb.constants import Command, NtStatus
from meshfs.smb.credits import CreditAccount
from meshfs.smb.security import ChannelSecurity
from meshfs.smb.states import CONNECTION, SmbEvent, StateMachine
from meshfs.smb.status import status_text
from meshfs.transport.base import Transport

#: The reason of the end of a channel that this end closed.
CLOSED: Final = "closed"


class Channel:
    """Represents one channel. Call ``run`` in a nursery, then log in or bind (session/login.py, session/bind.py)."""

    def __init__(
        self,
        transport: Transport,
        pool: BufferPool,
        *,
        dead_after_s: float = limits.CHANNEL_DEAD_AFTER_S,
        silence_max_s: float = limits.CHANNEL_SILENCE_MAX_S,
    ) -> None:
        now = trio.current_time()
        self.transport = transport
        self._received = received = transport.inlet(pool, PAYLOAD_OFFSETS[Role.INITIATOR], limits.FRAME_MAX_BYTES)
        self.connection = Connection(Role.INITIATOR, pool, received)
        #: The state of the connection. Its events are the negotiation and the end.
        self.machine = StateMachine(CONNECTION, Role.INITIATOR)
        #: The reason of the end of the channel. It is empty while the channel is alive.
        self.why = ""
        #: The time when the exporter was last known to be there. It is set when the channel ends.
        self.gone_s = now
        self.throughput = Throughput()
        self._lent = LentMemory()
        self._outbox = Outbox(transport.out_queue(), self.fail)
        self.requests = requests = OutstandingRequests(self.connection, self._outbox.send, self._lent.lend, now)
        self.probe = Probe(requests, now)
        self._inbox = Inbox(
            transport,
            received,
            self.connection.parse,
            self._lent,
            handle=requests.handle,
            handled=self.probe.measure_if_due,
            fail=self.fail,
        )
        self.liveness = Liveness(
            transport,
            self._inbox,
            self._outbox,
            requests,
            self.probe,
            Silence(now, dead_after_s, silence_max_s),
            fail=self.fail,
            now=now,
        )
        # The hot path uses these methods of the parts directly, which saves a call.
        self.start_read = requests.start_read
        self.start_write = requests.start_write
        self.start_request = requests.start_request
        self.load = requests.load
        self._ended: Callable[[], None] = _nobody
        self._scope = trio.CancelScope()
        self._reactor = reactor.current()

    # --- life --------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until the channel ends, and set ``why``. Cancelling also ends the channel."""
        try:
            with self._scope:
                self.transport.watch(self._inbox.readable, self._inbox.fault)
                await self._tick()
        finally:
            self._close()
            with trio.CancelScope(shield=True):
                # The tasks that were just given lent memory run before the memory is returned.
                for _ in range(2):
                    await trio.lowlevel.checkpoint()
                    self._lent.recycle(self._reactor.turn)

    async def _tick(self) -> None:
        """Check deadlines and silence once a tick. A deadline is kept to within a tick, and no request has a timer."""
        while True:
            await trio.sleep(limits.CHANNEL_TICK_S)
            now = trio.current_time()
            overdue = self.requests.expire(now)
            self.throughput.look(now, self.sent_bytes, self.received_bytes)
            self.liveness.look(now, overdue=overdue)

    def fail(self, why: str, gone_s: float | None = None) -> None:
        """End the channel. ``run`` then gives every waiting call a ChannelLost.

        ``gone_s`` is when the exporter was last known to be there, by default now.
        """
        if not self.why:
            self._end(why, gone_s)
            self.transport.unwatch()
            self._reactor.give_turn()
            self._scope.cancel()

    def happened(self, event: SmbEvent) -> None:
        """Go on to the state of the connection that ``event`` leads to. Raises ChannelLost if the channel has ended.

        A login and a bind run in a task of their own. The channel may end before that task sends its first message, or
        after a reply has come and before the task runs.
        """
        if self.why:
            raise ChannelLost(self.why)
        self.machine.happened(event)

    def _end(self, why: str, gone_s: float | None = None) -> None:
        self.why = why
        self.machine.happened(SmbEvent.CLOSE)
        self.gone_s = trio.current_time() if gone_s is None else gone_s
        self._ended()

    def _close(self) -> None:
        if not self.why:
            self._end(CLOSED)
        self._outbox.close()
        self.transport.close()
        self.requests.close(self.why)
        self._received.close()

    @property
    def closed(self) -> bool:
        """Return whether nothing can be sent any more, and all callers have got a ChannelLost."""
        return bool(self.requests.lost)

    # --- as one of a session -----------------------------------------------------------

    def protect(self, security: ChannelSecurity, session_id: int, *, sign: bool, seal: bool) -> None:
        """Use the keys of a session from now on, to sign every message, to seal it, or for neither."""
        self.requests.frames.protect(security, session_id, sign=sign, seal=seal)

    def join(self, sequence: int, siblings: Callable[[], Iterable[Sibling]], ended: Callable[[], None]) -> None:
        """Become one of a session's channels, so that requests have the session's ChannelSequence.

        ``siblings`` returns the liveness of the session's other channels. ``ended`` is called once, when the channel
        ends and before any caller gets its ChannelLost.
        """
        self.sequence = sequence
        self.liveness.join(siblings)
        self._ended = ended

    @property
    def sequence(self) -> int:
        """Return the session's ChannelSequence, which all requests of the channel carry."""
        return self.requests.frames.sequence

    @sequence.setter
    def sequence(self, value: int) -> None:
        self.requests.frames.sequence = value

    def measure(self, on: bool, rate_bytes_s: float = RATE_UNKNOWN_BYTES_S) -> None:
        """Start or stop keeping ``load``. The interfaces promise ``rate_bytes_s``."""
        self.requests.measure(on, rate_bytes_s)

    def configure(self, dead_after_s: float, silence_max_s: float) -> None:
        """Set how long an exporter may be silent from now on."""
        self.liveness.configure(dead_after_s, silence_max_s)

    def lane(self, io_class: IoClass) -> Lane:
        """Return a new lane, for the requests of one disk in one class."""
        return self.requests.window.lane(io_class)

    # --- what others ask ---------------------------------------------------------------

    @property
    def credits(self) -> CreditAccount:
        return self.requests.credits

    @property
    def session_id(self) -> int:
        return self.requests.frames.session_id

    @property
    def logged_in(self) -> bool:
        """Return whether the channel is logged in or bound, so that its messages belong to a session."""
        return self.requests.frames.logged_in

    @property
    def sealed(self) -> bool:
        return self.requests.frames.sealed

    @property
    def signed(self) -> bool:
        return self.requests.frames.signed

    @property
    def measuring(self) -> bool:
        """Return whether ``load`` is kept."""
        return self.requests.measured

    @property
    def outstanding(self) -> int:
        """Return how many requests are in flight or wait for credits, without CHANGE_NOTIFYs, which wait for long."""
        return self.requests.owed

    def in_flight(self) -> Collection[Slot]:
        """Return the requests that were sent and have no answer yet."""
        return self.requests.slots.values()

    @property
    def heard_s(self) -> float:
        """Return the time of the last sign of life on this channel, by trio's clock and to a tick."""
        return self.liveness.heard_s

    @property
    def sent_bytes(self) -> int:
        return self._outbox.sent_bytes

    @property
    def received_bytes(self) -> int:
        return self._inbox.received_bytes

    @property
    def bad_signatures(self) -> int:
        """Return the number of messages with a wrong signature or seal. Each of them ends the channel."""
        return self._inbox.bad_signatures

    @property
    def nonces_repeated(self) -> int:
        """Return how many of ``bad_signatures`` were encrypted messages of another channel, or came a second time."""
        return self._inbox.nonces_repeated

    # --- the reply to a request ---------------------------------------------------------

    async def answer(self, slot: Slot, accept: tuple[int, ...] = (NtStatus.SUCCESS,)) -> Reply:
        """Return the reply to a request of `start_request`. Raises StatusError if the status is none of ``accept``."""
        reply: Reply = await slot
        if reply.status not in accept:
            raise StatusError(reply.status, f"{Command(slot.command).name} ({status_text(reply.status)})")
        return reply


def _nobody() -> None:
    """Do nothing, because the channel belongs to no session that has to know of its end."""

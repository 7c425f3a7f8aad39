"""One bound connection: requests out, replies back to the tasks that wait for them.

The hot path. A request costs its caller one park and one wake-up, nothing else:

    start_read, start_write   ask the window, pack, sign, enter the slot into the table of requests
                              in flight; the caller parks on the slot
    end of the round          all that was started in it leaves in one sendmsg
    reactor's callback        receive a batch, parse, check; every caller's result is handed to it
    full socket               what it does not take waits in the outbox until the reactor calls
    watch task                deadlines, probes, silence; there is no timer per request

Message ids go out in their order: ids are taken and frames are sent without a yield between.
A caller whose disk may have no more credits now (window.py) parks all the same, and its request
is sent by whoever brings the credits.

What the peer sends is checked here against what was asked: any reply that was never asked
for, is protected less than agreed, or has a length that cannot be, ends the channel. So does one
whose signature or seal is wrong, which is told apart (`forged.py`): it was changed on its way.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Collection, Iterable
from math import inf
from typing import Final

import trio

from meshfs import bugs, limits
from meshfs.buffers import Buffer, BufferPool
from meshfs.errors import ChannelLost, ForgedMessage, RemoteProtocolError, RepeatedNonce, StatusError
from meshfs.initiator.channel.credits import Lane, Window
from meshfs.initiator.channel.delay import DelayControl
from meshfs.initiator.channel.forged import what_is_wrong
from meshfs.initiator.channel.frames import ACCEPT_SIGNED, Frames, Parts
from meshfs.initiator.channel.liveness import Watch
from meshfs.initiator.channel.load import RATE_UNKNOWN_BYTES_S, Load, Throughput
from meshfs.initiator.channel.outbox import Outbox
from meshfs.initiator.channel.slots import ChangingSlot, LateSlot, Reply, Slot, finish, read_result, write_result
from meshfs.loop import reactor
from meshfs.model import IoClass
from meshfs.smb.connection import Connection, Message, Role
from meshfs.smb.constants import Command, Flags, NtStatus, WriteFlags
from meshfs.smb.credits import CreditAccount, charge_for
from meshfs.smb.messages import EchoRequest, FileId
from meshfs.smb.security import ChannelSecurity, PreauthHash
from meshfs.smb.status import status_text
from meshfs.transport.base import Transport

logger = logging.getLogger(__name__)

# Plain ints: comparing with enum members costs a call per message.
_READ: Final = int(Command.READ)
_WRITE: Final = int(Command.WRITE)
_CHANGE_NOTIFY: Final = int(Command.CHANGE_NOTIFY)
_PENDING: Final = int(NtStatus.PENDING)
_ASYNC: Final = int(Flags.ASYNC_COMMAND)
_WRITE_THROUGH: Final = int(WriteFlags.WRITE_THROUGH)
_PROGRESS_MIN_BYTES: Final = limits.CHANNEL_PROGRESS_MIN_BYTES


#: Why a channel ended that we closed ourselves.
CLOSED: Final = "closed"


class Channel:
    """``run`` it in a nursery, then log in (`login.py`), then use it until it ends."""

    def __init__(
        self,
        transport: Transport,
        pool: BufferPool,
        *,
        dead_after_s: float = limits.CHANNEL_DEAD_AFTER_S,
        silence_max_s: float = limits.CHANNEL_SILENCE_MAX_S,
    ) -> None:
        self.transport = transport
        self.connection = Connection(Role.INITIATOR, pool)
        self.credits = CreditAccount()
        #: Told once, before anybody else, that it ended.
        self.ended: Callable[[Channel], None] = _nobody
        #: The other channels of the session.
        self.siblings: Callable[[], Iterable[Channel]] = _none
        #: When it was last known to have heard something; trio's clock, to a tick.
        self.heard_s = trio.current_time()
        #: When the exporter was heard by other means than a channel of the session.
        self.exporter_heard_s: float | None = None
        #: How busy it is, and how fast; kept while ``measure`` says so.
        self.load = Load(self.heard_s)
        self.throughput = Throughput()
        #: Why the channel ended; empty while it is alive.
        self.why = ""
        #: When the exporter was last known to be there, once the channel has ended.
        self.gone_s = self.heard_s
        self.received_bytes = 0
        #: Nothing can be sent any more, and all callers have been told.
        self.closed = False
        #: Messages that came with a wrong signature or seal; each ends the channel.
        self.bad_signatures = 0
        #: Of them, encrypted messages that came a second time, or were another channel's.
        self.nonces_repeated = 0
        #: What is said now is the session's.
        self.logged_in = False
        self._slots: dict[int, Slot] = {}
        self._measured = False
        self._now = trio.current_time
        self._watch = Watch(self, dead_after_s, silence_max_s)
        self._window: Window[Slot] = Window(self.credits, self._left)
        self._control = self._window.control
        #: What its classes may have on the way.
        self.delay = DelayControl(self.heard_s)
        self._frames = Frames(self.connection, self.credits)
        self._outbox = Outbox(transport, self.fail)
        self._send = self._outbox.send
        self._scope = trio.CancelScope()
        self._reactor = reactor.current()
        # READ payloads handed out, by the reactor's turn; see _recycle.
        self._recycled_in = 0
        self._lent: list[Buffer] = []
        self._lent_before: list[Buffer] = []
        #: Whether a whole message came since that was looked at last.
        self._heard = False
        #: Bytes that had come, received or not, at the last sign of life.
        self._came_bytes = 0
        #: The last ECHO's message id, and when it was sent.
        self._probe_id = -1
        self._probed_s = self.heard_s

    # --- life --------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until the channel ends; ``why`` tells then. Cancelling ends it too."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._reactor.add(self.transport.fd, self._readable, on_failure=self._fault)
                    nursery.start_soon(self._watch.run)
        finally:
            self._close()
            with trio.CancelScope(shield=True):
                # Those who were just given lent memory run before it goes back.
                for _ in range(2):
                    await trio.lowlevel.checkpoint()
                    self._recycle_now()

    def fail(self, why: str, gone_s: float | None = None) -> None:
        """End the channel. ``run`` then gives every waiting call a ChannelLost.

        ``gone_s``: when the exporter was last known to be there; now, unless it is given.
        """
        if not self.why:
            self.why = why
            self.gone_s = self._now() if gone_s is None else gone_s
            self.ended(self)
            self._reactor.remove(self.transport.fd)
            self._reactor.give_turn()
            self._scope.cancel()

    def _close(self) -> None:
        if not self.why:
            self.why = CLOSED
            self.gone_s = self._now()
            self.ended(self)
        self.closed = True
        self._outbox.close()
        self.transport.close()
        slots = [*self._slots.values(), *self._window.waiters()]
        for slot in self._slots.values():
            slot.lane.held -= slot.charge
        self._slots.clear()
        self._window.clear()
        for slot in slots:
            finish(slot, ChannelLost(self.why))
        self.connection.close()

    def configure(self, dead_after_s: float, silence_max_s: float) -> None:
        """Give a silent exporter another time from now on."""
        self._watch.configure(dead_after_s, silence_max_s)

    def protect(self, security: ChannelSecurity, session_id: int, *, sign: bool, seal: bool) -> None:
        """From now on: the session's keys, and what every message has to be."""
        self._frames.protect(security, session_id, sign=sign, seal=seal)
        self.logged_in = True

    def measure(self, on: bool, rate_bytes_s: float = RATE_UNKNOWN_BYTES_S) -> None:
        """Keep ``load`` from now on, or no more; ``rate_bytes_s`` is what its interfaces promise."""
        if on and not self._measured:
            now = self._now()
            self.load = Load(now, rate_bytes_s)
            for slot in (*self._slots.values(), *self._window.waiters()):
                if slot.length:
                    self.load.begin(slot.length, now)
        self._measured = on

    @property
    def measuring(self) -> bool:
        return self._measured

    def lane(self, io_class: IoClass) -> Lane:
        """For the requests of one disk in one class."""
        return self._window.lane(io_class)

    @property
    def session_id(self) -> int:
        return self._frames.session_id

    @property
    def sequence(self) -> int:
        """The session's ChannelSequence, which all its requests carry."""
        return self._frames.sequence

    @sequence.setter
    def sequence(self, value: int) -> None:
        self._frames.sequence = value

    @property
    def sent_bytes(self) -> int:
        return self._outbox.sent_bytes

    @property
    def sealed(self) -> bool:
        return self._frames.sealed

    @property
    def signed(self) -> bool:
        return self._frames.signed

    @property
    def outstanding(self) -> int:
        """Requests in flight or waiting for credits; a CHANGE_NOTIFY waits by its nature."""
        return sum(slot.command != _CHANGE_NOTIFY for slot in self._slots.values()) + self._window.waiting

    # --- requests ----------------------------------------------------------------------

    def start_read(
        self, tree_id: int, file_id: FileId, offset: int, length: int, deadline: float, lane: Lane | None = None
    ) -> Slot:
        """Ask for ``length`` bytes; park on the slot for bytes (b"" at the end) or a memoryview.

        A memoryview is valid until the parked task yields again. The park raises StatusError,
        ChannelLost, or TimeoutError at the deadline; this raises ChannelLost. ``lane`` says
        whose credits it uses: a disk's in its class, or none's.
        """
        lane = lane or self._control
        slot = Slot(_READ, length, deadline, charge_for(length), lane)
        if self._measured:
            self.load.begin(length, self._now())
        message_id = None if self.closed else self._window.start(lane, slot.charge)
        if message_id is None:
            self._wait(slot, lambda waiter, mid: self._frames.read(waiter, mid, tree_id, file_id, offset))
        else:
            slot.message_id = message_id
            self._slots[message_id] = slot
            self._send(self._frames.read(slot, message_id, tree_id, file_id, offset))
        return slot

    def start_write(
        self,
        tree_id: int,
        file_id: FileId,
        offset: int,
        data: bytes | memoryview,
        deadline: float,
        lane: Lane | None = None,
        *,
        write_through: bool,
        replay: bool = False,
    ) -> Slot:
        """The same for a write; the park gives the count written. ``data`` stays the caller's.

        ``replay``: it may have been executed already, by a channel that was lost.
        """
        lane = lane or self._control
        length = len(data)
        slot = Slot(_WRITE, length, deadline, charge_for(length), lane)
        if self._measured:
            self.load.begin(length, self._now())
        flags = _WRITE_THROUGH if write_through else 0
        message_id = None if self.closed else self._window.start(lane, slot.charge)
        if message_id is None:
            self._wait(
                slot,
                lambda waiter, mid: self._frames.write(waiter, mid, tree_id, file_id, offset, data, flags, replay),
            )
        else:
            slot.message_id = message_id
            self._slots[message_id] = slot
            self._send(self._frames.write(slot, message_id, tree_id, file_id, offset, data, flags, replay))
        return slot

    def start_request(
        self,
        command: Command,
        body: bytes,
        *,
        tree_id: int = 0,
        session_id: int | None = None,
        deadline: float = inf,
        signed: bool = False,
        preauth: PreauthHash | None = None,
        signed_by: ChannelSecurity | None = None,
        charge: int = 1,
        lane: Lane | None = None,
        changes: bool = False,
        replay: bool = False,
        late: Callable[[Reply], None] | None = None,
    ) -> Slot:
        """Any other request; the park gives its `Reply`, whatever its status.

        ``changes``: it changes a disk as a write does; ``replay``: it may have been executed already, as in
        `start_write`. ``late`` is called with a reply that comes when the caller is gone.
        """
        kind = LateSlot if late else ChangingSlot if changes else Slot
        slot = kind(int(command), 0, deadline, charge, lane or self._control)
        if isinstance(slot, LateSlot) and late:
            slot.late = late
        slot.signed = signed
        # It may go at once all the same; this is no hot path.
        self._wait(
            slot,
            lambda waiter, mid: self._frames.other(waiter, mid, body, tree_id, session_id, preauth, signed_by, replay),
        )
        return slot

    async def request(
        self,
        command: Command,
        body: bytes,
        *,
        tree_id: int = 0,
        session_id: int | None = None,
        deadline: float = inf,
        signed: bool = False,
        preauth: PreauthHash | None = None,
        signed_by: ChannelSecurity | None = None,
        charge: int = 1,
        accept: tuple[int, ...] = (NtStatus.SUCCESS,),
    ) -> Reply:
        """A request and its reply. StatusError when its status is none of ``accept``."""
        slot = self.start_request(
            command, body, tree_id=tree_id, session_id=session_id, deadline=deadline, signed=signed,
            preauth=preauth, signed_by=signed_by, charge=charge,
        )  # fmt: skip
        return await self.answer(slot, accept)

    async def answer(self, slot: Slot, accept: tuple[int, ...] = (NtStatus.SUCCESS,)) -> Reply:
        """The reply to what `start_request` began. StatusError when its status is none of ``accept``."""
        reply: Reply = await slot
        if reply.status not in accept:
            raise StatusError(reply.status, f"{Command(slot.command).name} ({status_text(reply.status)})")
        return reply

    # --- sending -----------------------------------------------------------------------

    def _wait(self, slot: Slot, pack: Callable[[Slot, int], Parts]) -> None:
        """Send it as soon as its turn has come, which may be now."""
        if self.closed:
            raise ChannelLost(self.why)
        slot.pack = pack
        self._window.wait(slot.lane, slot)
        self._pump()

    def _pump(self) -> None:
        """Send what waits and may go now."""
        slots, window = self._slots, self._window
        # With nothing in flight no credits would ever come: then the last one goes too.
        while turn := window.next(idle=not slots):
            slot, message_id = turn
            slot.message_id = message_id
            slots[message_id] = slot
            self._send(slot.pack(slot, message_id))
            # It keeps a write's data alive.
            del slot.pack

    def _left(self, slot: Slot) -> None:
        """Its caller is gone before it was sent."""
        if self._measured and slot.length:
            self.load.drop(slot.length)

    # --- receiving ---------------------------------------------------------------------

    def _readable(self) -> None:
        """The socket has something: the reactor's callback."""
        self._recycle()
        try:
            self._receive()
            self.transport.expect(self.connection.missing_bytes)
            loaded = len(self._slots) >= self.delay.requests_min or self._window.waiting
            if loaded and self._now() >= self.delay.next_s:
                self._measure_delay()
        except (ForgedMessage, RepeatedNonce) as error:
            self.bad_signatures += 1
            self.nonces_repeated += isinstance(error, RepeatedNonce)
            logger.warning("%s: %s", self.transport.remote, error)
            self.fail(str(error))
        except RemoteProtocolError as error:
            logger.warning("%s broke the protocol: %s", self.transport.remote, error)
            self.fail(f"the exporter broke the protocol: {error}")
        except OSError as error:
            self.fail(f"connection lost: {error.strerror or error}")
        except Exception as error:
            bugs.report(logger, "receiving from an exporter", error)
            self._fault(error)

    def _fault(self, error: Exception) -> None:
        """A fault of ours with what this channel brings ends this channel, and no other."""
        self.fail(f"internal error: {error!r}")

    def _receive(self) -> None:
        """One batch: what the socket holds. ConnectionError at its end."""
        receive, connection, handle = self.transport.receive_into, self.connection, self._handle
        for _ in range(limits.CHANNEL_RECEIVES_MAX):
            memory = connection.get_buffer()
            try:
                count = receive(memory)
            except BlockingIOError:
                return
            if not count:
                raise ConnectionResetError(errno.ECONNRESET, "closed by the exporter")
            self.received_bytes += count
            messages = connection.received(count)
            if messages:
                self._heard = True
            for message in messages:
                handle(message)
                while message.next is not None:
                    message = message.next
                    handle(message)
            if count < len(memory):
                return

    def _recycle(self) -> None:
        """Give lent memory back in the reactor's turn after the next.

        A task woken in one turn runs before or after the reactor's next one, in any order. A turn
        may have many batches, so it is turns that count.
        """
        turn = self._reactor.turn
        if turn != self._recycled_in:
            self._recycled_in = turn
            self._recycle_now()

    def _recycle_now(self) -> None:
        for buffer in self._lent_before:
            buffer.release()
        self._lent_before = self._lent
        self._lent = []

    def _handle(self, message: Message) -> None:
        slots = self._slots
        slot = slots.get(message.message_id)
        if slot is None:
            raise what_is_wrong(message, f"reply to request {message.message_id}, which was never sent")
        if message.command != slot.command:
            raise what_is_wrong(message, f"reply of command {message.command} to a request of command {slot.command}")
        if message.status == _PENDING:
            self._take_interim(slot, message)
            return
        accepted = self._frames.accepted
        if message.protection not in accepted or (slot.signed and message.protection not in ACCEPT_SIGNED):
            raise what_is_wrong(message, f"reply protected less than agreed: {message.protection.name}")
        result: object
        if slot.command == _READ:
            result = read_result(slot, message, self._lent)
        elif slot.command == _WRITE:
            result = write_result(slot, message)
        else:
            result = Reply.of(message)
            if message.message_id == self._probe_id:
                self._take_delay()
        del slots[message.message_id]
        if self._measured and slot.length:
            self.load.end(slot.length, self._now())
        slot.lane.held -= slot.charge
        self.credits.grant(message.credits)
        if self._window.waiting:
            self._pump()
        finish(slot, result)

    def _take_interim(self, slot: Slot, message: Message) -> None:
        """STATUS_PENDING: the reply comes later, the credits now (MS-SMB2 3.2.5.1.5)."""
        if message.protection not in self._frames.accepted_interim or not message.flags & _ASYNC:
            raise what_is_wrong(message, f"interim reply that is {message.protection.name} or not asynchronous")
        if slot.async_id is not None:
            raise RemoteProtocolError(f"second interim reply to request {message.message_id}")
        slot.async_id = message.async_id
        slot.lane.held -= slot.charge
        slot.charge = 0
        self.credits.grant(message.credits)
        if self._window.waiting:
            self._pump()

    # --- delay -------------------------------------------------------------------------

    def _measure_delay(self) -> None:
        """Send an ECHO, unless one is on its way, or would take a credit that a request needs."""
        plenty = self.credits.available > limits.WINDOW_FIRST_CREDITS
        if self.logged_in and plenty and self._probe_id not in self._slots and self.probe():
            self.delay.sent(self._probed_s)

    def _take_delay(self) -> None:
        """The ECHO is answered: give the classes the room that follows from its delay."""
        now, delay, window = self._now(), self.delay, self._window
        delay.answered(now - self._probed_s, now, app_used=window.app_used())
        in_flight = sum(slot.charge for slot in self._slots.values())
        window.room(IoClass.APP, delay.app_credits, in_flight)
        window.room(IoClass.SYSTEM, delay.system_credits, in_flight)

    # --- what the watch asks for (watch.Watched) ---------------------------------------

    def in_flight(self) -> Collection[Slot]:
        return self._slots.values()

    def waiting(self) -> Iterable[Slot]:
        return self._window.waiters()

    def take_signs_of_life(self, now: float) -> bool:
        # Of a large message that comes slowly nothing is received until much is there (transport.expect). A few bytes
        # of a message are no sign: where its length was changed on its way, it takes in the answers to our probes,
        # and no message comes to its end any more.
        came_bytes = self.received_bytes + self.transport.pending()
        heard = self._heard or self._outbox.progress or came_bytes - self._came_bytes >= _PROGRESS_MIN_BYTES
        self._heard = self._outbox.progress = False
        if heard:
            self.heard_s = now
            self._came_bytes = came_bytes
        return heard

    def siblings_heard_s(self) -> float | None:
        """When the exporter was heard otherwise, by any other channel of the session; None where there is no other."""
        heard_s = [sibling.heard_s for sibling in self.siblings()]
        if self.exporter_heard_s is not None:
            heard_s.append(self.exporter_heard_s)
        return max(heard_s, default=None)

    def probe_siblings(self) -> None:
        """Ask them: is it the exporter that is silent, or only this channel? What they heard before does not tell.

        All of them: one that was just busy may have nothing more to hear. One that was asked and did not answer
        yet is asked enough.
        """
        for sibling in self.siblings():
            if sibling._probe_id not in sibling._slots:
                sibling.probe()

    def cancel(self, slot: Slot) -> None:
        self._send(self._frames.cancel(slot))

    def probe(self) -> bool:
        """ECHO on the credit kept for it, before all that wait; nobody waits for the reply."""
        message_id = self.credits.take(1)
        if message_id is None:
            return False
        slot = Slot(int(Command.ECHO), 0, inf, 1, self._control)
        slot.task = None
        slot.message_id = self._probe_id = message_id
        self._probed_s = self._now()
        self._control.held += 1
        self._slots[message_id] = slot
        self._send(self._frames.other(slot, message_id, EchoRequest().pack()))
        return True

    def tick(self, now: float) -> None:
        self.throughput.look(now, self.sent_bytes, self.received_bytes)
        self._window.tick()
        self._pump()


def _nobody(_: Channel) -> None:
    """It is no session's (yet)."""


def _none() -> Iterable[Channel]:
    return ()

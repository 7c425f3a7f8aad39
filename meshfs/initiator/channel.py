"""One bound connection: requests out, replies back to the tasks that wait for them.

The hot path. A request costs its caller one park and one wake-up, nothing else:

    start_read, start_write   pack, sign, enter the slot into the table of requests in flight;
                              the caller parks on the slot
    end of the round          all that was started in it leaves in one sendmsg
    reactor's callback        receive a batch, parse, check; every caller's result is handed to it
    full socket               what it does not take waits in the outbox until the reactor calls
    ticker task               deadlines, probes, silence; there is no timer per request

Message ids go out in their order: ids are taken and frames are sent without a yield between.
A caller that finds no credits parks all the same, and its request is sent by whoever brings
the credits, first come first served.

The last credit is kept for probing a peer whose every other credit is in use by slow I/O.

What the peer sends is checked here against what was asked: any reply that was never asked
for, is protected less than agreed, or has a length that cannot be, ends the channel.
"""

import errno
import logging
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final

import trio

from meshfs import limits, reactor
from meshfs.buffers import Buffer, BufferPool
from meshfs.errors import ChannelLost, LocalProtocolError, RemoteProtocolError, StatusError
from meshfs.initiator.outbox import Outbox
from meshfs.initiator.silence import Silence, Verdict
from meshfs.initiator.slots import Reply, Slot, finish, read_result, write_result
from meshfs.smb.connection import Connection, Message, Protection, Role
from meshfs.smb.constants import PREFIX_BYTES, Command, Flags, NtStatus, WriteFlags
from meshfs.smb.credits import CreditAccount, charge_for
from meshfs.smb.messages import CancelRequest, EchoRequest, FileId
from meshfs.smb.security import NONCE_INITIATOR, ChannelSecurity, PreauthHash
from meshfs.smb.status import status_text
from meshfs.smb.wire import (
    READ_REQUEST_FRAME_BYTES,
    WRITE_REQUEST_FRAME_BYTES,
    pack_read_request_frame,
    pack_write_request_frame,
)
from meshfs.transport.base import Transport

logger = logging.getLogger(__name__)

# Plain ints: comparing with enum members costs a call per message.
_READ: Final = int(Command.READ)
_WRITE: Final = int(Command.WRITE)
_CHANGE_NOTIFY: Final = int(Command.CHANGE_NOTIFY)
_PENDING: Final = int(NtStatus.PENDING)
_ASYNC: Final = int(Flags.ASYNC_COMMAND)
_SIGNED: Final = int(Flags.SIGNED)
_WRITE_THROUGH: Final = int(WriteFlags.WRITE_THROUGH)
NOT_SENT: Final = -1

_ACCEPT_HANDSHAKE: Final = (Protection.NONE, Protection.UNKNOWN)
_ACCEPT_ANY: Final = (Protection.NONE, Protection.SIGNED, Protection.SEALED)
_ACCEPT_SIGNED: Final = (Protection.SIGNED, Protection.SEALED)
_ACCEPT_SEALED: Final = (Protection.SEALED,)


class Channel:
    """``run`` it in a nursery, then log in (`login.py`), then use it until it ends."""

    def __init__(self, transport: Transport, pool: BufferPool) -> None:
        self.transport = transport
        self.connection = Connection(Role.INITIATOR, pool)
        self.credits = CreditAccount()
        self.session_id = 0
        #: Why the channel ended; empty while it is alive.
        self.why = ""
        self.received_bytes = 0
        #: Nothing can be sent any more, and all callers have been told.
        self.closed = False
        self._slots: dict[int, Slot] = {}
        self._waiting: deque[tuple[int, Slot, Callable[[int, int], None]]] = deque()
        self._outbox = Outbox(transport, self.fail)
        self._send = self._outbox.send
        self._scope = trio.CancelScope()
        self._reactor = reactor.current()
        # READ payloads handed out, by the reactor's turn; see _recycle.
        self._recycled_in = 0
        self._lent: list[Buffer] = []
        self._lent_before: list[Buffer] = []
        self._security: ChannelSecurity | None = None
        self._sign = False
        self._seal = False
        self._flags = 0
        self._accepted: tuple[Protection, ...] = _ACCEPT_HANDSHAKE
        self._accepted_interim: tuple[Protection, ...] = _ACCEPT_HANDSHAKE
        self._reserve = 0
        self._heard = False
        self._silence = Silence(0.0)

    # --- life --------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until the channel ends; ``why`` tells then. Cancelling ends it too."""
        self._silence = Silence(trio.current_time())
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._reactor.add(self.transport.fd, self._readable)
                    nursery.start_soon(self._tick_loop)
        finally:
            self._close()
            with trio.CancelScope(shield=True):
                # Those who were just given lent memory run before it goes back.
                for _ in range(2):
                    await trio.lowlevel.checkpoint()
                    self._recycle_now()

    def fail(self, why: str) -> None:
        """End the channel; who waits is told by ``run`` as it returns."""
        if not self.why:
            self.why = why
            self._reactor.remove(self.transport.fd)
            self._reactor.give_turn()
            self._scope.cancel()

    def _close(self) -> None:
        self.why = self.why or "closed"
        self.closed = True
        self._outbox.close()
        self.transport.close()
        slots = [*self._slots.values(), *(slot for _, slot, _ in self._waiting)]
        self._slots.clear()
        self._waiting.clear()
        for slot in slots:
            finish(slot, ChannelLost(self.why))
        self.connection.close()

    def protect(self, security: ChannelSecurity, session_id: int, *, sign: bool, seal: bool) -> None:
        """From now on: the session's keys, and what every message has to be."""
        if seal and security.sealer is None:
            raise LocalProtocolError("encryption without a negotiated cipher")
        self.session_id = session_id
        self.connection.security[session_id] = security
        self._security = security
        self._seal = seal
        self._sign = sign and not seal
        self._flags = _SIGNED if self._sign else 0
        self._accepted = _ACCEPT_SEALED if seal else _ACCEPT_SIGNED if sign else _ACCEPT_ANY
        # Interim replies are never checked for a signature (MS-SMB2 3.2.5.1.3).
        self._accepted_interim = _ACCEPT_SEALED if seal else _ACCEPT_ANY
        self._reserve = 1

    @property
    def sent_bytes(self) -> int:
        return self._outbox.sent_bytes

    @property
    def sealed(self) -> bool:
        return self._seal

    @property
    def signed(self) -> bool:
        return self._sign

    @property
    def outstanding(self) -> int:
        """Requests in flight or waiting for credits; a CHANGE_NOTIFY waits by its nature."""
        return sum(slot.command != _CHANGE_NOTIFY for slot in self._slots.values()) + len(self._waiting)

    # --- requests ----------------------------------------------------------------------

    def start_read(self, tree_id: int, file_id: FileId, offset: int, length: int, deadline: float) -> Slot:
        """Ask for ``length`` bytes; park on the slot for bytes (b"" at the end) or a memoryview.

        A memoryview is valid until the parked task yields again. The park raises StatusError,
        ChannelLost, or TimeoutError at the deadline; this raises ChannelLost.
        """
        slot = Slot(_READ, length, deadline)
        charge = charge_for(length)
        if self._waiting or self.credits.available - self._reserve < charge or self.closed:
            self._enqueue(slot, charge, lambda mid, cost: self._send_read(slot, mid, cost, tree_id, file_id, offset))
        else:
            self._send_read(slot, self.credits.take(charge), charge, tree_id, file_id, offset)
        return slot

    def start_write(
        self,
        tree_id: int,
        file_id: FileId,
        offset: int,
        data: bytes | memoryview,
        deadline: float,
        *,
        write_through: bool,
    ) -> Slot:
        """The same for a write; the park gives the count written. ``data`` stays the caller's."""
        slot = Slot(_WRITE, len(data), deadline)
        charge = charge_for(len(data))
        flags = _WRITE_THROUGH if write_through else 0
        if self._waiting or self.credits.available - self._reserve < charge or self.closed:
            self._enqueue(
                slot, charge, lambda mid, cost: self._send_write(slot, mid, cost, tree_id, file_id, offset, data, flags)
            )
        else:
            self._send_write(slot, self.credits.take(charge), charge, tree_id, file_id, offset, data, flags)
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
        charge: int = 1,
    ) -> Slot:
        """Any other request; the park gives its `Reply`, whatever its status."""
        slot = Slot(int(command), 0, deadline)
        slot.signed = signed

        def send(message_id: int, cost: int) -> None:
            self._send_request(slot, message_id, cost, body, tree_id, session_id, preauth)

        if self._waiting or self.credits.available - self._reserve < charge or self.closed:
            self._enqueue(slot, charge, send)
        else:
            send(self._take(charge), charge)
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
        charge: int = 1,
        accept: tuple[int, ...] = (NtStatus.SUCCESS,),
    ) -> Reply:
        """A request and its reply. StatusError when its status is none of ``accept``."""
        slot = self.start_request(
            command, body, tree_id=tree_id, session_id=session_id, deadline=deadline, signed=signed,
            preauth=preauth, charge=charge,
        )  # fmt: skip
        return await self.answer(slot, accept)

    async def answer(self, slot: Slot, accept: tuple[int, ...] = (NtStatus.SUCCESS,)) -> Reply:
        """The reply to what `start_request` began. StatusError when its status is none of ``accept``."""
        reply: Reply = await slot
        if reply.status not in accept:
            raise StatusError(reply.status, f"{Command(slot.command).name} ({status_text(reply.status)})")
        return reply

    # --- sending -----------------------------------------------------------------------

    def _take(self, charge: int) -> int:
        message_id = self.credits.take(charge)
        assert message_id is not None, "asked for without looking"
        return message_id

    def _enqueue(self, slot: Slot, charge: int, send: Callable[[int, int], None]) -> None:
        if self.closed:
            raise ChannelLost(self.why)
        self._waiting.append((charge, slot, send))
        self._pump()

    def _pump(self) -> None:
        """Send what waits, in its order, as far as the credits reach."""
        waiting = self._waiting
        while waiting:
            charge, slot, send = waiting[0]
            if slot.task is not None:
                # With nothing in flight no credits would ever come: then the last one goes too.
                reserve = self._reserve if self._slots else 0
                if self.credits.available - reserve < charge:
                    return
                send(self._take(charge), charge)
            waiting.popleft()

    def _send_read(
        self, slot: Slot, message_id: int | None, charge: int, tree_id: int, file_id: FileId, offset: int
    ) -> None:
        assert message_id is not None
        slot.message_id = message_id
        self._slots[message_id] = slot
        frame = bytearray(READ_REQUEST_FRAME_BYTES)
        pack_read_request_frame(
            frame, slot.length, offset, file_id[0], file_id[1], flags=self._flags, credits=self.credits.ask(charge),
            credit_charge=charge, channel_sequence=0, message_id=message_id, tree_id=tree_id,
            session_id=self.session_id,
        )  # fmt: skip
        security = self._security
        if self._sign:
            security.signer.sign(memoryview(frame)[PREFIX_BYTES:], message_id, NONCE_INITIATOR)  # type: ignore[union-attr]
        elif self._seal:
            self._send((security.sealer.seal(memoryview(frame)[PREFIX_BYTES:]),))  # type: ignore[union-attr]
            return
        self._send((frame,))

    def _send_write(
        self,
        slot: Slot,
        message_id: int | None,
        charge: int,
        tree_id: int,
        file_id: FileId,
        offset: int,
        data: bytes | memoryview,
        write_flags: int,
    ) -> None:
        assert message_id is not None
        slot.message_id = message_id
        self._slots[message_id] = slot
        head = bytearray(WRITE_REQUEST_FRAME_BYTES)
        pack_write_request_frame(
            head, slot.length, offset, file_id[0], file_id[1], flags=self._flags, credits=self.credits.ask(charge),
            credit_charge=charge, channel_sequence=0, message_id=message_id, tree_id=tree_id,
            session_id=self.session_id, write_flags=write_flags,
        )  # fmt: skip
        security = self._security
        if self._sign:
            security.signer.sign_parts(head, PREFIX_BYTES, data, message_id)  # type: ignore[union-attr]
        elif self._seal:
            message = b"".join((memoryview(head)[PREFIX_BYTES:], data))
            self._send((security.sealer.seal(message),))  # type: ignore[union-attr]
            return
        self._send((head, data))

    def _send_request(
        self,
        slot: Slot,
        message_id: int,
        charge: int,
        body: bytes,
        tree_id: int,
        session_id: int | None,
        preauth: PreauthHash | None,
    ) -> None:
        slot.message_id = message_id
        self._slots[message_id] = slot
        security = self._security
        sign = security if self._sign or (slot.signed and not self._seal) else None
        frame = self.connection.pack(
            slot.command, body, credits=self.credits.ask(charge), credit_charge=charge, message_id=message_id,
            tree_id=tree_id, session_id=self.session_id if session_id is None else session_id,
            sign=sign, seal=security if self._seal else None,
        )  # fmt: skip
        if preauth is not None:
            preauth.update(memoryview(frame)[PREFIX_BYTES:])
        self._send((frame,))

    # --- receiving ---------------------------------------------------------------------

    def _readable(self) -> None:
        """The socket has something: the reactor's callback."""
        self._recycle()
        try:
            self._receive()
            self.transport.expect(self.connection.missing_bytes)
        except RemoteProtocolError as error:
            logger.warning("%s broke the protocol: %s", self.transport.remote, error)
            self.fail(f"the exporter broke the protocol: {error}")
        except OSError as error:
            self.fail(f"connection lost: {error.strerror or error}")
        except Exception as error:
            logger.exception("%s: given up after an internal error", self.transport.remote)
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
            self._heard = True
            self.received_bytes += count
            for message in connection.received(count):
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
            raise RemoteProtocolError(f"reply to request {message.message_id}, which was never sent")
        if message.command != slot.command:
            raise RemoteProtocolError(f"reply of command {message.command} to a request of command {slot.command}")
        if message.status == _PENDING:
            self._take_interim(slot, message)
            return
        if message.protection not in self._accepted or (slot.signed and message.protection not in _ACCEPT_SIGNED):
            raise RemoteProtocolError(f"reply protected less than agreed: {message.protection.name}")
        result: object
        if slot.command == _READ:
            result = read_result(slot, message, self._lent)
        elif slot.command == _WRITE:
            result = write_result(slot, message)
        else:
            result = Reply.of(message)
        del slots[message.message_id]
        self.credits.grant(message.credits)
        if self._waiting:
            self._pump()
        finish(slot, result)

    def _take_interim(self, slot: Slot, message: Message) -> None:
        """STATUS_PENDING: the reply comes later, the credits now (MS-SMB2 3.2.5.1.5)."""
        if message.protection not in self._accepted_interim or not message.flags & _ASYNC:
            raise RemoteProtocolError(f"interim reply that is {message.protection.name} or not asynchronous")
        if slot.async_id is not None:
            raise RemoteProtocolError(f"second interim reply to request {message.message_id}")
        slot.async_id = message.async_id
        self.credits.grant(message.credits)
        if self._waiting:
            self._pump()

    # --- time --------------------------------------------------------------------------

    async def _tick_loop(self) -> None:
        while True:
            await trio.sleep(limits.CHANNEL_TICK_S)
            now = trio.current_time()
            self._expire(now)
            self._watch(now)

    def _expire(self, now: float) -> None:
        """End the wait of those whose deadline passed; requests already sent keep their slot."""
        for slot in list(self._slots.values()):
            if slot.deadline <= now and slot.task is not None:
                finish(slot, TimeoutError(errno.ETIMEDOUT, "the exporter did not answer in time"))
                self._silence.overdue = True
                self._cancel(slot)
        for _, slot, _ in self._waiting:
            if slot.deadline <= now:
                finish(slot, TimeoutError(errno.ETIMEDOUT, "the exporter granted no credits in time"))
        self._pump()

    def _watch(self, now: float) -> None:
        if self._outbox.progress:
            self._outbox.progress, self._heard = False, True
        heard, self._heard = self._heard, False
        verdict = self._silence.look(now, heard=heard, busy=self.outstanding > 0)
        if not self._reserve:
            # Logging in has a timeout of its own.
            return
        if verdict is Verdict.GIVE_UP:
            self.fail(f"silent for {self._silence.seconds(now):.1f} s")
        elif verdict is Verdict.PROBE and self.credits.available:
            # ECHO on the credit kept for it; nobody waits for the reply but the silence counter.
            self._silence.probed = True
            slot = Slot(int(Command.ECHO), 0, inf)
            slot.task = None
            self._send_request(slot, self._take(1), 1, EchoRequest().pack(), 0, None, None)

    def _cancel(self, slot: Slot) -> None:
        """Tell the exporter that nobody waits any more (MS-SMB2 3.2.4.24); uses no credit."""
        security = self._security
        frame = self.connection.pack(
            Command.CANCEL, CancelRequest().pack(), message_id=slot.message_id, session_id=self.session_id,
            flags=0 if slot.async_id is None else _ASYNC, async_id=slot.async_id,
            sign=security if self._sign else None, seal=security if self._seal else None,
        )  # fmt: skip
        self._send((frame,))

"""The requests of one channel that have no answer yet (MS-SMB2 calls the table Connection.OutstandingRequests).

The hot path. A request costs its caller one park and one wake-up, nothing else:

    start_read, start_write   ask the window for credits, pack, sign, enter the slot into the table, send;
                              the caller parks on the slot
    handle                    a reply is checked against its slot, and its result is handed to the caller
    expire                    ends the waits whose deadline passed, once a tick; no request has a timer of its own

Message ids go out in their order: between taking an id and sending its frame nothing yields. If the disk may have no
more credits now (credits.py), the caller parks all the same, and whoever brings the credits sends the request.

What the exporter sends is checked here against what was asked. A reply that was never asked for, that is protected
less than agreed, or whose lengths cannot be right, ends the channel. So does a reply with a wrong signature or seal,
which is told apart (forged.py): such a reply was changed on its way.
"""

import errno
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Final

import trio

from meshfs.buffers import Buffer
from meshfs.errors import ChannelLost, RemoteProtocolError
from meshfs.initiator.channel.credits import ChannelCredits, Lane
from meshfs.initiator.channel.forged import what_is_wrong
from meshfs.initiator.channel.frames import ACCEPT_SIGNED, Frames, Parts
from meshfs.initiator.channel.load import Load
from meshfs.initiator.channel.slots import (
    ChangingSlot,
    Collector,
    LateSlot,
    Reply,
    Slot,
    finish,
    read_result,
    write_result,
)
from meshfs.smb.connection import Connection, Message
from meshfs.smb.constants import Command, Flags, NtStatus, WriteFlags
from meshfs.smb.credits import CreditAccount, charge_for
from meshfs.smb.messages import EchoRequest, FileId
from meshfs.smb.security import ChannelSecurity, PreauthHash

# Plain ints: comparing with enum members costs a call per message.
_READ: Final = int(Command.READ)
_WRITE: Final = int(Command.WRITE)
_CHANGE_NOTIFY: Final = int(Command.CHANGE_NOTIFY)
_PENDING: Final = int(NtStatus.PENDING)
_ASYNC: Final = int(Flags.ASYNC_COMMAND)
_WRITE_THROUGH: Final = int(WriteFlags.WRITE_THROUGH)


class OutstandingRequests:
    """The table of requests in flight, the window of those that wait for credits, and what starts and ends both."""

    def __init__(
        self, connection: Connection, send: Callable[[Parts], None], lend: Callable[[Buffer], None], now: float
    ) -> None:
        self.credits = CreditAccount()
        self.frames = Frames(connection, self.credits)
        self.window: ChannelCredits[Slot] = ChannelCredits(self.credits, self._left)
        #: The requests in flight, by message id.
        self.slots: dict[int, Slot] = {}
        #: How busy the channel is, and how fast; kept while ``measured``.
        self.load = Load(now)
        self.measured = False
        #: Why nothing can be sent any more, when all callers have been told; empty until then.
        self.lost = ""
        self._control = self.window.control
        self._send = send
        self._lend = lend
        self._now = trio.current_time

    # --- starting ----------------------------------------------------------------------

    def start_read(
        self, tree_id: int, file_id: FileId, offset: int, length: int, deadline: float, lane: Lane | None = None
    ) -> Slot:
        """READ ``length`` bytes; park on the slot for bytes (b"" at the end) or a memoryview.

        A memoryview is valid until the parked task yields again. The park raises StatusError, ChannelLost, or
        TimeoutError at the deadline; this raises ChannelLost. The request uses the credits of ``lane``, a disk's in
        its class, or of none.
        """
        slot = Slot(_READ, length, deadline, charge_for(length), lane or self._control)
        return self._start(slot, tree_id, file_id, offset)

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
        """WRITE ``data``, which stays the caller's; like `start_read`, but the park gives the count written.

        A write that may have been executed already, by a channel that was lost, is a ``replay``.
        """
        length = len(data)
        slot = Slot(_WRITE, length, deadline, charge_for(length), lane or self._control)
        return self._start(slot, tree_id, file_id, offset, data, _WRITE_THROUGH if write_through else 0, replay)

    def _start(
        self,
        slot: Slot,
        tree_id: int,
        file_id: FileId,
        offset: int,
        data: bytes | memoryview | None = None,
        write_flags: int = 0,
        replay: bool = False,
    ) -> Slot:
        """Send a READ, or a WRITE of ``data``, at once or when its turn has come."""
        if self.measured:
            self.load.begin(slot.length, self._now())
        message_id = None if self.lost else self.window.start(slot.lane, slot.charge)
        frames = self.frames
        if message_id is not None:
            slot.message_id = message_id
            self.slots[message_id] = slot
            if data is None:
                self._send(frames.read(slot, message_id, tree_id, file_id, offset))
            else:
                self._send(frames.write(slot, message_id, tree_id, file_id, offset, data, write_flags, replay))
        elif data is None:
            self._wait(slot, partial(frames.read, slot, tree_id=tree_id, file_id=file_id, offset=offset))
        else:
            self._wait(
                slot,
                partial(
                    frames.write,
                    slot,
                    tree_id=tree_id,
                    file_id=file_id,
                    offset=offset,
                    data=data,
                    write_flags=write_flags,
                    replay=replay,
                ),
            )
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

        A request that ``changes`` a disk is treated as a write is; ``replay`` is as in `start_write`. ``late`` is
        called with a reply that comes when the caller is gone.
        """
        kind = LateSlot if late else ChangingSlot if changes else Slot
        slot = kind(int(command), 0, deadline, charge, lane or self._control)
        if isinstance(slot, LateSlot) and late:
            slot.late = late
        slot.signed = signed
        # It may go at once all the same; this is no hot path.
        self._wait(
            slot,
            partial(
                self.frames.other,
                slot,
                body=body,
                tree_id=tree_id,
                session_id=session_id,
                preauth=preauth,
                signed_by=signed_by,
                replay=replay,
            ),
        )
        return slot

    def start_echo(self, collector: Collector) -> int | None:
        """ECHO before all that wait, on the credit kept for it. Its message id; None when there is no credit."""
        message_id = self.credits.take(1)
        if message_id is None:
            return None
        slot = Slot(int(Command.ECHO), 0, inf, 1, self._control)
        slot.task = collector
        slot.message_id = message_id
        self._control.held += 1
        self.slots[message_id] = slot
        self._send(self.frames.other(slot, message_id, EchoRequest().pack()))
        return message_id

    def _wait(self, slot: Slot, pack: Callable[[int], Parts]) -> None:
        """Send it as soon as its turn has come, which may be now."""
        if self.lost:
            raise ChannelLost(self.lost)
        slot.pack = pack
        self.window.wait(slot.lane, slot)
        self.pump()

    def pump(self) -> None:
        """Send the requests that wait and may go now."""
        slots, window = self.slots, self.window
        # With nothing in flight no credits would ever come: then the last one goes too.
        while turn := window.next(idle=not slots):
            slot, message_id = turn
            slot.message_id = message_id
            slots[message_id] = slot
            self._send(slot.pack(message_id))
            # It keeps a write's data alive.
            del slot.pack

    def _left(self, slot: Slot) -> None:
        """The caller of a request is gone before it was sent."""
        _forget_frame(slot)
        if self.measured and slot.length:
            self.load.drop(slot.length)

    # --- ending ------------------------------------------------------------------------

    def handle(self, message: Message) -> None:
        """Give a reply to the caller that waits for it. RemoteProtocolError for one that cannot be."""
        slots = self.slots
        slot = slots.get(message.message_id)
        if slot is None:
            raise what_is_wrong(message, f"reply to request {message.message_id}, which was never sent")
        if message.command != slot.command:
            raise what_is_wrong(message, f"reply of command {message.command} to a request of command {slot.command}")
        if message.status == _PENDING:
            self._take_interim(slot, message)
            return
        accepted = self.frames.accepted
        if message.protection not in accepted or (slot.signed and message.protection not in ACCEPT_SIGNED):
            raise what_is_wrong(message, f"reply protected less than agreed: {message.protection.name}")
        result: object
        if slot.command == _READ:
            result = read_result(slot, message, self._lend)
        elif slot.command == _WRITE:
            result = write_result(slot, message)
        else:
            result = Reply.of(message)
        del slots[message.message_id]
        if self.measured and slot.length:
            self.load.end(slot.length, self._now())
        slot.lane.held -= slot.charge
        self.credits.grant(message.credits)
        if self.window.waiting:
            self.pump()
        finish(slot, result)

    def _take_interim(self, slot: Slot, message: Message) -> None:
        """STATUS_PENDING: the reply comes later, the credits come now (MS-SMB2 3.2.5.1.5)."""
        if message.protection not in self.frames.accepted_interim or not message.flags & _ASYNC:
            raise what_is_wrong(message, f"interim reply that is {message.protection.name} or not asynchronous")
        if slot.async_id is not None:
            raise RemoteProtocolError(f"second interim reply to request {message.message_id}")
        slot.async_id = message.async_id
        slot.lane.held -= slot.charge
        slot.charge = 0
        self.credits.grant(message.credits)
        if self.window.waiting:
            self.pump()

    def expire(self, now: float) -> bool:
        """End the waits whose deadline passed. Returns whether the exporter owed an answer to one of them.

        A request that was sent keeps its slot and its credits until its reply comes.
        """
        overdue = False
        for slot in list(self.slots.values()):
            if slot.deadline <= now and slot.wanted:
                finish(slot, TimeoutError(errno.ETIMEDOUT, "the exporter did not answer in time"))
                overdue = True
                self._send(self.frames.cancel(slot))
        for slot in self.window.waiters():
            if slot.deadline <= now:
                finish(slot, TimeoutError(errno.ETIMEDOUT, "the exporter granted no credits in time"))
        self.window.tick()
        self.pump()
        return overdue

    def close(self, why: str) -> None:
        """Nothing can be sent any more: every caller gets a ChannelLost."""
        self.lost = why
        slots = self._all()
        for slot in self.slots.values():
            slot.lane.held -= slot.charge
        for slot in self.window.waiters():
            _forget_frame(slot)
        self.slots.clear()
        self.window.clear()
        for slot in slots:
            finish(slot, ChannelLost(why))

    # --- what others ask ---------------------------------------------------------------

    @property
    def owed(self) -> int:
        """Requests in flight or waiting for credits, except for CHANGE_NOTIFYs, which wait by their nature."""
        return sum(slot.command != _CHANGE_NOTIFY for slot in self.slots.values()) + self.window.waiting

    @property
    def held_credits(self) -> int:
        """Credits of the requests in flight."""
        return sum(slot.charge for slot in self.slots.values())

    def measure(self, on: bool, rate_bytes_s: float) -> None:
        """Keep ``load`` from now on, or no more; the interfaces promise ``rate_bytes_s``."""
        if on and not self.measured:
            now = self._now()
            self.load.restart(now, rate_bytes_s)
            for slot in self._all():
                if slot.length:
                    self.load.begin(slot.length, now)
        self.measured = on

    def _all(self) -> Sequence[Slot]:
        return (*self.slots.values(), *self.window.waiters())


def _forget_frame(slot: Slot) -> None:
    """What makes the frame keeps a write's data alive, and the slot itself."""
    del slot.pack

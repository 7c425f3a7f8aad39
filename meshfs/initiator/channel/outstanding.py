"""Keeps the requests of one channel that have no answer yet (Connection.OutstandingRequests in MS-SMB2).

The hot path. A request costs its caller one park and one wake-up, and nothing else:

    start_read, start_write   ask for credits, pack and sign the frame, enter the slot into the table, and send;
                              the caller then awaits the slot, which parks it
    handle                    checks a reply against its slot, and gives the result to the caller
    expire                    ends the waits whose deadline has passed, once a tick; no request has a timer of its own

Frames leave in the order of their message ids, because nothing yields between taking an id and sending its frame. If
the disk may use no more credits now (credits.py), the caller parks as well. The reply that brings the credits back then
sends the request (`pump`).

Every reply is checked against its request. A reply that was never asked for, that is protected less than agreed, or
whose lengths cannot be right, ends the channel. A reply with a wrong signature or seal ends it too, with an error of
its own (forged.py), because such a reply was changed on its way.
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
from meshfs.initiator.channel.frames import ACCEPT_SIGNED, Frames
from meshfs.initiator.channel.load import Load
from meshfs.initiator.channel.slots import (
    ChangingSlot,
    Collector,
    LateSlot,
    Parts,
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

# These are plain ints, because comparing with enum members costs a call per message.
_READ: Final = int(Command.READ)
_WRITE: Final = int(Command.WRITE)
_CHANGE_NOTIFY: Final = int(Command.CHANGE_NOTIFY)
_PENDING: Final = int(NtStatus.PENDING)
_ASYNC: Final = int(Flags.ASYNC_COMMAND)
_WRITE_THROUGH: Final = int(WriteFlags.WRITE_THROUGH)


class OutstandingRequests:
    """Starts the requests of one channel and ends them.

    ``slots`` is the table of the requests in flight. ``window`` has those that wait for credits.
    """

    def __init__(
        self, connection: Connection, send: Callable[[Parts], None], lend: Callable[[Buffer], None], now: float
    ) -> None:
        self.credits = CreditAccount()
        self.frames = Frames(connection, self.credits)
        self.window: ChannelCredits[Slot] = ChannelCredits(self.credits, self._left)
        #: The requests in flight, by message id.
        self.slots: dict[int, Slot] = {}
        #: The load of the channel and its speed. They are measured only while ``measured`` is set.
        self.load = Load(now)
        self.measured = False
        #: The reason why nothing can be sent any more. It is empty until every caller has its ChannelLost.
        self.lost = ""
        self._control = self.window.control
        self._send = send
        self._lend = lend
        self._now = trio.current_time

    # --- starting ----------------------------------------------------------------------

    def start_read(
        self, tree_id: int, file_id: FileId, offset: int, length: int, deadline: float, lane: Lane | None = None
    ) -> Slot:
        """Start a READ of ``length`` bytes. Raises ChannelLost if the channel has ended.

        Awaiting the slot returns bytes (b"" at the end of the disk) or a memoryview, which is valid until the task
        yields again. It raises StatusError, ChannelLost, or TimeoutError at the deadline. ``lane`` has the credits of
        the disk and class. A request without a lane belongs to no disk.
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
        """Start a WRITE of ``data``, whose memory stays the caller's. Awaiting the slot returns the count written.

        ``replay`` marks a write that may have been executed already, because it was sent on a channel that was lost.
        Everything else is as in `start_read`.
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
        """Start any other request. Awaiting the slot returns its `Reply`, whatever the status.

        A request that ``changes`` a disk is treated like a write. ``replay`` is as in `start_write`. If the reply comes
        when the caller no longer waits, ``late`` is called with it.
        """
        kind = LateSlot if late else ChangingSlot if changes else Slot
        slot = kind(int(command), 0, deadline, charge, lane or self._control)
        if isinstance(slot, LateSlot) and late:
            slot.late = late
        slot.signed = signed
        # This is no hot path, so the request takes the way of waiting requests. It leaves at once if it may.
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
        """Send an ECHO before all requests that wait, on the credit that is kept for it.

        Returns its message id, or None if there is no credit. ``collector`` receives the reply.
        """
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
        """Queue the request, and send it if its turn is now. ``pack`` makes its frame. Raises ChannelLost."""
        if self.lost:
            raise ChannelLost(self.lost)
        slot.pack = pack
        self.window.wait(slot.lane, slot)
        self.pump()

    def pump(self) -> None:
        """Send the waiting requests that may be sent now."""
        slots, window = self.slots, self.window
        # If nothing is in flight, no reply would ever bring credits, so that the credit for probes is used as well.
        while turn := window.next(idle=not slots):
            slot, message_id = turn
            slot.message_id = message_id
            slots[message_id] = slot
            self._send(slot.pack(message_id))
            # The closure would keep the data of a write alive.
            del slot.pack

    def _left(self, slot: Slot) -> None:
        """Forget a request whose caller gave up before the request was sent."""
        _forget_frame(slot)
        if self.measured and slot.length:
            self.load.drop(slot.length)

    # --- ending ------------------------------------------------------------------------

    def handle(self, message: Message) -> None:
        """Give a reply to the caller that waits for it. Raises RemoteProtocolError if the reply cannot be right."""
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
        """Take an interim reply (STATUS_PENDING), which grants credits before the reply comes (MS-SMB2 3.2.5.1.5)."""
        if message.protection not in self.frames.accepted_interim or not message.flags & _ASYNC:
            raise what_is_wrong(message, f"interim reply that is {message.protection.name} or not asynchronous")
        if slot.async_id is not None:
            raise RemoteProtocolError(f"the exporter sent a second interim reply to request {message.message_id}")
        slot.async_id = message.async_id
        slot.lane.held -= slot.charge
        slot.charge = 0
        self.credits.grant(message.credits)
        if self.window.waiting:
            self.pump()

    def expire(self, now: float) -> bool:
        """End the waits whose deadline has passed. Return whether one of their requests had been sent.

        A request that was sent keeps its slot and its credits until its reply comes, and is cancelled at the exporter.
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
        """Give every caller a ChannelLost, because nothing can be sent or received any more."""
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
        """Return how many requests are in flight or wait for credits. CHANGE_NOTIFYs wait long, and do not count."""
        return sum(slot.command != _CHANGE_NOTIFY for slot in self.slots.values()) + self.window.waiting

    @property
    def held_credits(self) -> int:
        """Return the credits of the requests in flight."""
        return sum(slot.charge for slot in self.slots.values())

    def measure(self, on: bool, rate_bytes_s: float) -> None:
        """Start or stop keeping ``load``. Before the first sample, its rate is ``rate_bytes_s``."""
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
    """Drop the closure that makes the frame. It would keep the data of a write alive, and the slot itself."""
    del slot.pack

"""Slots: a request from its start to its reply, who waits for the reply, and what the reply may be.

A slot ends with its reply or with the channel, never earlier. A call that is cancelled, or whose deadline passes,
leaves its slot behind without a waiter, so that the late reply is recognised. If a late reply may bring something that
has to be given back, its slot takes it (`LateSlot`).
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

from outcome import Error, Value
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from meshfs.buffers import Buffer
from meshfs.errors import RemoteProtocolError, StatusError
from meshfs.initiator.channel.credits import Lane
from meshfs.loop import reactor, worker
from meshfs.loop.worker import PARKED, Worker
from meshfs.smb.connection import Message, Protection
from meshfs.smb.constants import HEADER_BYTES, Command, NtStatus
from meshfs.smb.status import status_text
from meshfs.smb.wire import READ_DATA_OFFSET, READ_RESPONSE, WRITE_RESPONSE
from meshfs.transport.base import Memory
from meshfs.transport.framing import SMALL_FRAME_MAX_BYTES

NOT_SENT: Final = -1
_WRITE: Final = int(Command.WRITE)
_END_OF_FILE: Final = int(NtStatus.END_OF_FILE)


class Slot:
    """One request from its start to its reply; the caller, a worker or a trio task, awaits it."""

    __slots__ = (
        "async_id",
        "charge",
        "command",
        "deadline",
        "lane",
        "length",
        "message_id",
        "pack",
        "signed",
        "task",
    )

    #: Makes the frame of a request that waits for credits, from its message id; unset for others.
    pack: Callable[[int], tuple[Memory, ...]]

    def __init__(self, command: int, length: int, deadline: float, charge: int, lane: Lane) -> None:
        self.command = command
        #: The bytes that a READ asks for or a WRITE sends; 0 for any other request.
        self.length = length
        self.deadline = deadline
        #: The credits that the request takes, held by its lane while it is in flight; 0 once they came back.
        self.charge = charge
        self.lane = lane
        #: Who waits for the result; None once that one has it, or is gone.
        self.task: Task | Worker | Collector | None = worker.running or current_task()
        self.message_id = NOT_SENT
        self.async_id: int | None = None
        #: Whether the reply has to be signed even if the channel's policy does not say so.
        self.signed = False

    @property
    def sent(self) -> bool:
        """Return whether the peer may act on it."""
        return self.message_id != NOT_SENT

    @property
    def changes(self) -> bool:
        """Return whether the request changes the disk: executed late, it must not land over something newer."""
        return self.command == _WRITE

    @property
    def wanted(self) -> bool:
        """Return whether its caller still waits for it."""
        return self.task is not None

    def __await__(self) -> Generator[Any, Any, Any]:
        if worker.running is not None:
            return (yield PARKED)
        return (yield from wait_task_rescheduled(self._abandon).__await__())  # noqa: ASYNC105  # it is, by this

    def came_late(self, result: object) -> None:
        """Take a result that came when nobody waited for it any more."""

    def _abandon(self, _: object) -> Abort:
        """The task that waits was cancelled."""
        self.task = None
        return Abort.SUCCEEDED


class ChangingSlot(Slot):
    """A request other than WRITE that changes the disk."""

    __slots__ = ()

    @property
    def changes(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply to anything but READ and WRITE, in memory of its own."""

    status: int
    session_id: int
    tree_id: int
    protection: Protection
    #: The whole message, header included.
    raw: bytearray

    @classmethod
    def of(cls, message: Message) -> Self:
        return cls(message.status, message.session_id, message.tree_id, message.protection, bytearray(message.view))

    @property
    def body(self) -> memoryview:
        return memoryview(self.raw)[HEADER_BYTES:]


class LateSlot(Slot):
    """A request whose reply matters also when its caller is gone; ``late`` is called with it then."""

    __slots__ = ("late",)

    late: Callable[[Reply], None]

    def came_late(self, result: object) -> None:
        """Hand on a reply; a result that is no reply says that there will be none."""
        if isinstance(result, Reply):
            self.late(result)
            reactor.current().give_turn()


class Collector(Protocol):
    """Receives the results of several requests; ``take`` is called once for each."""

    def take(self, slot: Slot, result: object) -> None:
        """Take the result of one request; memory in it may be used until this returns."""


def finish(slot: Slot, result: object) -> None:
    """Give the result to whoever waits for it, if anybody still does; an exception is raised there.

    A worker has used the result when this returns; a task will have used it when it yields next.
    """
    task = slot.task
    if task is None:
        slot.came_late(result)
        return
    slot.task = None
    if isinstance(task, Worker) or type(task) is Task:
        resume(task, result)
    else:
        task.take(slot, result)


def resume(task: Task | Worker, result: object) -> None:
    """Let a parked caller go on with the result; an exception is raised there."""
    if isinstance(task, Worker):
        if isinstance(result, BaseException):
            task.throw(result)
        else:
            task.resume(result)
    else:
        reschedule(task, Error(result) if isinstance(result, BaseException) else Value(result))
        reactor.current().give_turn()


def write_result(slot: Slot, message: Message) -> int | StatusError:
    """The count written, or the StatusError of the reply. RemoteProtocolError for a count that cannot be."""
    if message.status:
        return StatusError(message.status, f"WRITE ({status_text(message.status)})")
    view = message.view
    if len(view) < HEADER_BYTES + WRITE_RESPONSE.size:
        raise RemoteProtocolError(f"WRITE response of {len(view)} bytes")
    size, _, count, _, _, _ = WRITE_RESPONSE.unpack_from(view, HEADER_BYTES)
    if size != 17 or not 0 < count <= slot.length:
        raise RemoteProtocolError(f"WRITE response: {count} bytes written, {slot.length} sent")
    written: int = count
    return written


def read_result(slot: Slot, message: Message, lend: Callable[[Buffer], None]) -> bytes | memoryview | StatusError:
    """The data, or the StatusError of the reply. RemoteProtocolError for data that cannot be what was asked for.

    A worker is done with the data before the next receive, and a collector has copied it, so that they get the receive
    memory itself. A task gets a copy of small data; large data stays in the memory that it came in, which ``lend``
    takes.
    """
    if message.status:
        if message.status == _END_OF_FILE:
            return b""
        return StatusError(message.status, f"READ ({status_text(message.status)})")
    view = message.view
    if len(view) < READ_DATA_OFFSET:
        raise RemoteProtocolError(f"READ response of {len(view)} bytes")
    size, offset, _, length, _, _ = READ_RESPONSE.unpack_from(view, HEADER_BYTES)
    end = offset + length
    if size != 17 or length > slot.length or (length and (offset < READ_DATA_OFFSET or end > len(view))):
        raise RemoteProtocolError(
            f"READ response: {length} bytes at {offset} in a message of {len(view)}, {slot.length} asked for"
        )
    task = slot.task
    if task is not None and type(task) is not Task:
        return view[offset:end]
    if length > SMALL_FRAME_MAX_BYTES and task is not None and message.frame is not None:
        buffer = message.frame.take()
        if buffer is not None:
            lend(buffer)
            return view[offset:end]
    return bytes(view[offset:end])

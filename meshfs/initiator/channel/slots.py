"""Requests: who waits for what, and what a reply to it may be.

A slot ends with its reply or with the channel, never earlier: a call that was cancelled or
whose deadline passed leaves its slot behind with no task, so that the late reply is known.
Where the late reply may bring something that has to be given back, its slot takes it (`LateSlot`).
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
from meshfs.smb.framing import SMALL_FRAME_MAX_BYTES
from meshfs.smb.status import status_text
from meshfs.smb.wire import READ_DATA_OFFSET, READ_RESPONSE, WRITE_RESPONSE
from meshfs.transport.base import Memory

NOT_SENT: Final = -1
_WRITE: Final = int(Command.WRITE)
_END_OF_FILE: Final = int(NtStatus.END_OF_FILE)


class Collector(Protocol):
    """Receives the results of several requests; ``take`` is called once for each."""

    def take(self, slot: "Slot", result: object) -> None:
        """The result of one of them; memory in it is the caller's again when this returns."""


class Slot:
    """One request from its start to its reply; the caller, a worker or a trio task, awaits it."""

    __slots__ = (
        "async_id", "charge", "command", "deadline", "lane", "length", "message_id", "pack", "signed", "task",
    )  # fmt: skip

    #: Makes the frame of a request that waits for credits, from it and its message id; unset for others.
    pack: Callable[["Slot", int], tuple[Memory, ...]]

    def __init__(self, command: int, length: int, deadline: float, charge: int, lane: Lane) -> None:
        self.command = command
        #: Bytes asked for or sent.
        self.length = length
        self.deadline = deadline
        #: The credits it takes, which are its lane's while it is in flight; 0 once they came back.
        self.charge = charge
        self.lane = lane
        #: Who waits; None once that one has its answer or is gone.
        self.task: Task | Worker | Collector | None = worker.running or current_task()
        self.message_id = NOT_SENT
        self.async_id: int | None = None
        #: The reply has to be signed even where the channel's policy does not say so.
        self.signed = False

    @property
    def sent(self) -> bool:
        """Whether the peer may act on it."""
        return self.message_id != NOT_SENT

    @property
    def changes(self) -> bool:
        """Whether it changes the disk: executed late, it must not land over something newer."""
        return self.command == _WRITE

    @property
    def wanted(self) -> bool:
        """Whether its caller still waits for it."""
        return self.task is not None

    def __await__(self) -> Generator[Any, Any, Any]:
        if worker.running is not None:
            return (yield PARKED)
        return (yield from wait_task_rescheduled(self._abandon).__await__())  # noqa: ASYNC105  # it is, by this

    def came_late(self, result: object) -> None:
        """The result came when nobody waited for it any more."""

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


class LateSlot(Slot):
    """A request whose reply matters also when its caller is gone; ``late`` is called with it then."""

    __slots__ = ("late",)

    late: "Callable[[Reply], None]"

    def came_late(self, result: object) -> None:
        """Hand on a reply; what is no reply says that there will be none."""
        if isinstance(result, Reply):
            self.late(result)
            reactor.current().give_turn()


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


def finish(slot: Slot, result: object) -> None:
    """Give the result, raised where it is an exception, to who waits, if anybody still does.

    A worker has used it when this returns; a task will have when it yields next.
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
    """Let a parked caller go on with the result, raised there where it is an exception."""
    if isinstance(task, Worker):
        if isinstance(result, BaseException):
            task.throw(result)
        else:
            task.resume(result)
    else:
        reschedule(task, Error(result) if isinstance(result, BaseException) else Value(result))
        reactor.current().give_turn()


def write_result(slot: Slot, message: Message) -> int | StatusError:
    """The count written. RemoteProtocolError for one that cannot be."""
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
    """The data, checked against what was asked (RemoteProtocolError), or the StatusError.

    A worker is done with the data before the next receive, and a collector has copied it, so they
    get the receive memory itself. For a task small data is copied; large data stays in the memory
    it came in, which ``lend`` takes.
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

"""A slot keeps one request from its start to its reply, with the caller that waits and the replies that are valid.

A slot ends with its reply or with the channel, and never earlier. A call that is cancelled, or whose deadline passes,
leaves its slot behind without a waiter, so that the late reply is recognised. If a late reply may bring something that
has to be given back, as a CREATE brings an open, the slot hands the reply on (`LateSlot`).
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

from outcome import Error, Value
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from meshfs.buffers import SMALL_FRAME_MAX_BYTES, Buffer
from meshfs.errors import RemoteProtocolError, StatusError
from meshfs.initiator.channel.credits import Lane
from meshfs.loop import reactor, worker
from meshfs.loop.worker import PARKED, Worker
from meshfs.smb.connection import Message, Protection
from meshfs.smb.constants import HEADER_BYTES, Command, NtStatus
from meshfs.smb.status import status_text
from meshfs.smb.wire import READ_DATA_OFFSET, READ_RESPONSE, WRITE_RESPONSE

NOT_SENT: Final = -1
#: A frame, or a frame and the data that follows it.
Parts = tuple[bytearray | memoryview] | tuple[bytearray, bytes | memoryview]
_WRITE: Final = int(Command.WRITE)
_END_OF_FILE: Final = int(NtStatus.END_OF_FILE)


class Slot:
    """Holds one request from its start to its reply. The caller, a worker or a trio task, awaits the slot."""

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

    #: Makes the frame of a request that waits for credits, from its message id. It is unset for other requests.
    pack: Callable[[int], Parts]

    def __init__(self, command: int, length: int, deadline: float, charge: int, lane: Lane) -> None:
        self.command = command
        #: The number of bytes that a READ asks for or a WRITE sends, or 0 for any other request.
        self.length = length
        self.deadline = deadline
        #: The credits that the request takes and its lane holds. It is 0 once an interim reply has returned them.
        self.charge = charge
        self.lane = lane
        #: The caller that waits for the result. None once the caller has the result, or no longer waits.
        self.task: Task | Worker | Collector | None = worker.running or current_task()
        self.message_id = NOT_SENT
        self.async_id: int | None = None
        #: Is set if the request is signed, and the reply has to be, even on a channel that signs nothing.
        self.signed = False

    @property
    def sent(self) -> bool:
        """Return whether the request was sent, so that the exporter may act on it."""
        return self.message_id != NOT_SENT

    @property
    def changes(self) -> bool:
        """Return whether the request changes the disk. If it is executed late, it must not land over a newer write."""
        return self.command == _WRITE

    @property
    def wanted(self) -> bool:
        """Return whether the caller still waits for the result."""
        return self.task is not None

    def __await__(self) -> Generator[Any, Any, Any]:
        if worker.running is not None:
            return (yield PARKED)
        return (yield from wait_task_rescheduled(self._abandon).__await__())  # noqa: ASYNC105  # it is, by this

    def came_late(self, result: object) -> None:
        """Take a result that comes when the caller no longer waits. Most requests drop it."""

    def _abandon(self, _: object) -> Abort:
        """Leave the slot behind, because the task that waits is cancelled."""
        self.task = None
        return Abort.SUCCEEDED


class ChangingSlot(Slot):
    """Holds a request other than WRITE that changes the disk."""

    __slots__ = ()

    @property
    def changes(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Reply:
    """Holds a reply to any request but READ and WRITE, in memory of its own."""

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
    """Holds a request whose reply matters even if its caller gave up. Then ``late`` is called with the reply."""

    __slots__ = ("late",)

    late: Callable[[Reply], None]

    def came_late(self, result: object) -> None:
        """Hand on a reply. A result of another kind says that no reply will come, and is dropped."""
        if isinstance(result, Reply):
            self.late(result)
            reactor.current().give_turn()


class Collector(Protocol):
    """Receives the results of several requests. ``take`` is called once for each."""

    def take(self, slot: Slot, result: object) -> None:
        """Take the result of one request. Memory in the result is valid until this call returns."""


def finish(slot: Slot, result: object) -> None:
    """Give the result to the caller, if it still waits. If the result is an exception, it is raised in the caller.

    A worker has used the result when this function returns. A task uses it before it yields the next time.
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
    """Let a parked caller continue with the result. If the result is an exception, it is raised in the caller."""
    if isinstance(task, Worker):
        if isinstance(result, BaseException):
            task.throw(result)
        else:
            task.resume(result)
    else:
        reschedule(task, Error(result) if isinstance(result, BaseException) else Value(result))
        reactor.current().give_turn()


def write_result(slot: Slot, message: Message) -> int | StatusError:
    """Return the count written, or a StatusError for an error status. Raises RemoteProtocolError for a wrong count."""
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
    """Return the data, or a StatusError for an error status. Raises RemoteProtocolError for a length that is wrong.

    A worker uses the data before the next receive, and a collector copies it at once, so both get the receive memory
    itself. A task runs later: it gets a copy of small data. Large data stays in the memory that it was received into,
    which ``lend`` keeps until the task has run.
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

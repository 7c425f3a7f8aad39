"""The SMB open that all handles of one disk and class share, and the task that keeps it.

`SharedOpen._keep` makes the open, makes it again after a lost session, and closes it. A call
that finds no open waits for it, inside its own deadline. ``_next_step`` is what the task does:

    open?   session up   fenced   used   step
    yes     no           any      any    FORGET  the exporter ended it with the session
    yes     yes          yes      any    CLOSE
    yes     yes          any      no     CLOSE
    yes     yes          no       yes    WAIT
    no      any          any      no     STOP
    no      no           any      yes    WAIT
    no      yes          any      yes    CREATE

Fence. A write whose caller gave up may still be executed. Its open is closed and made again
before anything newer goes out to the disk, through this open or the other class's: the
exporter answers CLOSE only when that open's I/O has ended.
"""

import enum
import errno
import logging
import os
from collections.abc import Callable
from typing import Any, Final, Protocol

import trio

from meshfs import limits
from meshfs.errors import ChannelLost, RemoteProtocolError, StatusError
from meshfs.initiator.channel import Channel
from meshfs.initiator.files import OpenFile, close_file, open_file, query_disk
from meshfs.initiator.session import ExporterSession, Waiting
from meshfs.initiator.slots import Reply, Slot
from meshfs.initiator.window import Lane
from meshfs.model import Access, DiskInfo, IoClass
from meshfs.smb.constants import Command, NtStatus
from meshfs.smb.messages import NO_FILE, FileId
from meshfs.smb.status import errno_from_status, status_text

logger = logging.getLogger(__name__)

# The session or a share of it is gone, whatever the connection looks like: all anew.
_SESSION_LOST: Final = (
    NtStatus.USER_SESSION_DELETED,
    NtStatus.NETWORK_SESSION_EXPIRED,
    NtStatus.NETWORK_NAME_DELETED,
)
# The open is gone: a new one, and the request again.
_OPEN_LOST: Final = (NtStatus.FILE_CLOSED, NtStatus.CANCELLED, NtStatus.INVALID_HANDLE, NtStatus.FILE_NOT_AVAILABLE)
# Not now: the same again a little later.
_BUSY: Final = (NtStatus.INSUFFICIENT_RESOURCES, NtStatus.REQUEST_NOT_ACCEPTED)
# Refusals of CREATE that pass: somebody's exclusive open, an exporter that is just starting.
_REFUSED_FOR_NOW: Final = (errno.EBUSY, errno.EAGAIN, errno.ENXIO)


class Disk(Protocol):
    """What an open has to know of its disk's port."""

    exporter: ExporterSession
    info: DiskInfo
    #: Opens of the disk that are fenced now: nothing may be sent to it.
    fences: int

    def latest(self) -> DiskInfo:
        """What the exporter announced last of it."""

    def fence(self, change: int) -> None:
        """One fenced open more or less; every open looks anew at whether it may be used."""

    def spawn(self, task: Callable[[], Any], /) -> None:
        """Run a task that outlives the call."""

    def opened(self, info: DiskInfo) -> None:
        """What the exporter says of the disk at a new open, before anything else is asked of it."""


class Step(enum.Enum):
    """What a shared open's task does next."""

    FORGET = enum.auto()
    CLOSE = enum.auto()
    CREATE = enum.auto()
    WAIT = enum.auto()
    STOP = enum.auto()


class SharedOpen:
    """The SMB open of one disk in one class, while at least one handle uses it."""

    def __init__(self, disk: Disk, io_class: IoClass) -> None:
        #: Where requests go now; None while there is no open.
        self.channel: Channel | None = None
        #: Whose credits requests use.
        self.lane = Lane(io_class)
        self.tree_id = 0
        self.file_id: FileId = NO_FILE
        self.read_max_bytes = 0
        self.write_max_bytes = 0
        self.handles: set[Any] = set()
        self._disk = disk
        self._io_class = io_class
        self._exporter = disk.exporter
        self._file: OpenFile | None = None
        self._made_on: Channel | None = None
        self._ready = False
        self._fenced = False
        self._refusal: OSError | None = None
        self._running = False
        self._poke = trio.Event()
        self._changed = trio.Event()

    # --- used by handles ---------------------------------------------------------------

    def add(self, handle: object) -> None:
        self.handles.add(handle)
        self._refusal = None
        if not self._running:
            self._running = True
            self._disk.spawn(self._keep)
        self._poke.set()

    def discard(self, handle: object) -> None:
        """The open is closed some time, if this was its last handle."""
        self.handles.discard(handle)
        self._poke.set()

    async def remove(self, handle: object) -> None:
        """Ends when the open is closed, if this was its last handle; at most CLOSE_TIMEOUT_S."""
        self.discard(handle)
        if self.handles or not self._running:
            return
        with trio.CancelScope(deadline=trio.current_time() + limits.CLOSE_TIMEOUT_S, shield=True):
            while self._running and not self.handles:
                await self._changed.wait()

    async def usable(self, op: str, deadline: float) -> Channel:
        """The channel to use, waiting for it. TimeoutError at the deadline, OSError when refused."""
        if self.channel is not None:
            return self.channel
        waiting = Waiting(self._disk.info.name, op, trio.current_time(), deadline)
        self._exporter.waiting.add(waiting)
        try:
            with trio.CancelScope(deadline=deadline):
                while self.channel is None:
                    self._raise_refusal(op)
                    await self._changed.wait()
                return self.channel
        finally:
            self._exporter.waiting.discard(waiting)
        raise self._timeout()

    def _raise_refusal(self, op: str) -> None:
        refusal = self._refusal
        if refusal is not None and (op == "open" or refusal.errno not in _REFUSED_FOR_NOW):
            raise OSError(refusal.errno, refusal.strerror)

    def _timeout(self) -> TimeoutError:
        exporter = self._exporter
        why = f"exporter {exporter.node} is {exporter.state} ({exporter.why})" if exporter.why else "no answer"
        return TimeoutError(errno.ETIMEDOUT, f"disk {self._disk.info.name}: {why}")

    async def again(self, op: str, deadline: float, start: Callable[[Channel], Slot]) -> Any:
        """Start a request until it is answered. OSError of its answer, or TimeoutError."""
        pause_s = 0.0
        while True:
            channel = await self.usable(op, deadline)
            slot = None
            try:
                slot = start(channel)
                result = await slot
                if type(result) is Reply and result.status:
                    raise StatusError(result.status, status_text(result.status))
                return result
            except BaseException as error:
                self.failed(error, channel, slot)
            pause_s = min(max(2 * pause_s, limits.RETRY_DELAY_MIN_S), limits.RETRY_DELAY_MAX_S)
            if trio.current_time() + pause_s >= deadline:
                raise self._timeout()
            await trio.sleep(pause_s)

    def failed(self, error: BaseException, channel: Channel, slot: Slot | None) -> None:
        """A request ended with ``error``: returns when it may go again, else raises what the caller gets."""
        if isinstance(error, ChannelLost):
            self._forget(channel)
        elif isinstance(error, StatusError):
            self._take_status(error, channel)
        else:
            # The deadline, or the caller was cancelled: what was sent may still happen.
            # An open that is not offered now (the other class is fenced) is meant as well.
            sent = slot is not None and slot.sent and slot.command == Command.WRITE
            if sent and self._file is not None and self._made_on is channel:
                logger.warning("disk %s: a write was given up; its open is fenced", self._disk.info.name)
                self._fence()
            raise error

    def _take_status(self, error: StatusError, channel: Channel) -> None:
        status = error.status
        if status in _SESSION_LOST:
            channel.fail(f"the exporter ended our session ({status_text(status)})")
            self._forget(channel)
        elif status in _OPEN_LOST:
            if self.channel is channel:
                self._fence()
        elif status not in _BUSY:
            number = errno_from_status(status)
            raise OSError(number, f"{os.strerror(number)} ({error})") from error

    # --- the task that keeps it --------------------------------------------------------

    def poke(self) -> None:
        """A channel came or went."""
        if self._made_on is not None and self._made_on.why:
            self._forget(self._made_on)
        self._poke.set()

    def _forget(self, channel: Channel) -> None:
        if self.channel is channel:
            self.channel = None
        self._poke.set()

    def update(self) -> None:
        """Offer the open to requests, or not."""
        made_on = self._made_on
        alive = made_on is not None and not made_on.why
        usable = alive and self._ready and not self._disk.fences
        self.channel = made_on if usable else None
        if usable:
            self._wake()

    def _fence(self) -> None:
        if not self._fenced:
            self._fenced = True
            self._disk.fence(+1)
        self._poke.set()

    def _gone(self) -> None:
        """The open is no more, and nothing of it is at the disk."""
        self._file, self._ready = None, False
        fenced, self._fenced = self._fenced, False
        self.update()
        if fenced:
            self._disk.fence(-1)

    def _next_step(self) -> Step:
        if self._file is not None:
            if self._made_on is None or self._made_on.why:
                return Step.FORGET
            return Step.CLOSE if self._fenced or not self.handles else Step.WAIT
        if not self.handles:
            return Step.STOP
        return Step.WAIT if self._exporter.pick() is None else Step.CREATE

    async def _keep(self) -> None:
        self._exporter.listeners.append(self.poke)
        try:
            while (step := self._next_step()) is not Step.STOP:
                self._poke = trio.Event()
                try:
                    await self._do(step)
                except ChannelLost:
                    # The session's own task says why, and pokes us when there is a new one.
                    await self._poke.wait()
                except RemoteProtocolError as error:
                    assert self._made_on is not None
                    self._made_on.fail(f"the exporter broke the protocol: {error}")
        finally:
            self._exporter.listeners.remove(self.poke)
            self._running = False
            self._gone()
            self._wake()

    async def _do(self, step: Step) -> None:
        if step is Step.FORGET:
            self._gone()
        elif step is Step.CLOSE:
            await self._close()
        elif step is Step.CREATE:
            await self._create()
        else:
            await self._poke.wait()

    async def _close(self) -> None:
        """CLOSE without a deadline: until it is answered or the session ends, old I/O may be alive."""
        assert self._file is not None
        assert self._made_on is not None
        self._ready = False
        self.update()
        try:
            await close_file(self._made_on, self._file)
        except StatusError as error:
            # An open that cannot be closed ends with its session only.
            self._made_on.fail(f"CLOSE was refused: {error}")
            raise ChannelLost(self._made_on.why) from error
        self._gone()

    async def _create(self) -> None:
        channel = self._exporter.pick()
        assert channel is not None
        if self._made_on is not channel:
            # An open made again on the same channel still answers for what is in flight.
            self.lane = Lane(self._io_class)
        self._made_on = channel
        try:
            tree = self._exporter.trees[self._io_class]
            latest = self._disk.latest()
            writable = latest.access is Access.READ_WRITE
            self._file = await open_file(channel, tree, latest.name, writable=writable)
            info = await query_disk(channel, self._file, self._disk.info.id)
        except StatusError as error:
            await self._refused(error, channel)
            return
        self._disk.opened(info)
        settled = channel.connection.negotiated
        self.tree_id, self.file_id = tree.tree_id, self._file.file_id
        self.read_max_bytes, self.write_max_bytes = settled.max_read_bytes, settled.max_write_bytes
        self._refusal = None
        self._ready = True
        self.update()

    async def _refused(self, error: StatusError, channel: Channel) -> None:
        if error.status in _SESSION_LOST:
            channel.fail(f"the exporter ended our session ({status_text(error.status)})")
            return
        number = errno_from_status(error.status)
        logger.warning("disk %s cannot be opened: %s", self._disk.info.name, error)
        self._refusal = OSError(number, f"{os.strerror(number)} ({error})")
        if self._file is not None:
            self._fence()
        self._wake()
        with trio.move_on_after(limits.REOPEN_DELAY_S):
            await self._poke.wait()

    def _wake(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

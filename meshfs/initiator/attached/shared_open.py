"""Keeps the SMB open that all handles of one disk and class share.

The task `SharedOpen._keep` makes the open, makes it again after a lost session, and closes it. A call that finds no
open waits for the open until its own deadline (attempts.py). ``_next_step`` says what the task does next:

    open?   session up   fenced   used   step
    yes     no           any      any    FORGET  the exporter has closed it with the session
    yes     yes          yes      any    CLOSE   also if the open is ended
    yes     yes          any      no     CLOSE
    yes     yes          no       yes    WAIT
    no      any          any      no     STOP    also if the open is ended
    no      no           any      yes    WAIT
    no      yes          any      yes    CREATE

Fence. A write (or a zeroing) whose caller gave up may still be executed. So its open is fenced: it is closed and made
again before anything newer is sent to the disk. The open of the other class waits as well. Closing is enough, because
the exporter answers CLOSE only when the I/O of the open has ended. A write that was lost with its channel is fenced in
the same way, if its caller gives up before another attempt is answered.

Channels. The open belongs to the session and not to a channel. Its requests use all channels of the session.

Lost CREATEs. If a channel is lost before the reply to a CREATE, a new CREATE is sent on another channel. The open that
the first one may have made then lasts as long as the session. A replay would find that open. But SMB 3 allows a replay
only of a CREATE that asks for a durable handle. Only such a CREATE has a CreateGuid, by which an exporter finds the
first open (MS-SMB2 2.2.13.2.11, 3.2.7.1, 3.3.5.9.10). Exporters of meshfs have no durable handles. Another exporter may
grant one, and an open that outlives its session would break the fence. The open that is left over does little harm:
it shares the disk with everybody, nothing was ever sent in it, and it only counts among the node's opens.

Replaced disks. If a new open turns out to be of another device or image than the one before, everything that was opened
before belongs to a disk that has been replaced. The port then ends this shared open (`end`) and gives later handles
another one, so that no handle reads or writes two disks.
"""

import enum
import errno
import functools
import logging
import os
from collections.abc import Callable
from typing import Any, Protocol

import trio

from meshfs import limits
from meshfs.errors import ChannelLost, RemoteProtocolError, StatusError
from meshfs.initiator.attached.outcomes import Meaning, meaning
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.channel.credits import Lane
from meshfs.initiator.remote.exporter import RemoteExporter
from meshfs.initiator.remote.failfast import Answers
from meshfs.initiator.session.commands import RemoteOpen, open_file, query_disk
from meshfs.initiator.session.session import InitiatorSession
from meshfs.model import Access, DiskInfo, IoClass
from meshfs.smb.messages import NO_FILE, FileId
from meshfs.smb.status import errno_from_status

logger = logging.getLogger(__name__)


class PortOfOpens(Protocol):
    """Declares what an open needs of the port of its disk."""

    exporter: RemoteExporter
    info: DiskInfo
    io_timeout_s: float
    answers: Answers
    #: The number of opens of the disk that are fenced now. Unless it is 0, nothing may be sent to the disk.
    fences: int

    @property
    def away_since_s(self) -> float | None:
        """Return since when the exporter is away, or the disk is drained, or None."""

    @property
    def silent_on_purpose(self) -> bool:
        """Return whether an administrator has suspended or drained the disk."""

    def latest(self) -> DiskInfo:
        """Return the last facts of the disk that the exporter advertised."""

    def fence(self, change: int) -> None:
        """Add ``change`` to the number of fenced opens, and let every open check again whether it may be used."""

    def update_opens(self) -> None:
        """Let every open check again whether it may be used."""

    def spawn(self, task: Callable[[], Any], /) -> None:
        """Run a task that outlives the call."""

    def opened(self, info: DiskInfo) -> None:
        """Take the facts of the disk that the exporter gives at a new open. The call comes before the open is used."""


class Step(enum.Enum):
    """Says what the task of a shared open does next."""

    FORGET = enum.auto()
    CLOSE = enum.auto()
    CREATE = enum.auto()
    WAIT = enum.auto()
    STOP = enum.auto()


class SharedOpen:
    """Keeps the SMB open of one disk in one class, while at least one handle uses it."""

    def __init__(self, disk: PortOfOpens, io_class: IoClass) -> None:
        #: The session that requests use now. It is None while no open may be used, and while calls are held.
        self.session: InitiatorSession | None = None
        #: The session of the open if the open may be used. It stays set while calls are held.
        self.reachable: InitiatorSession | None = None
        #: The lane of each channel whose credits the requests of this open use.
        self.lanes: dict[Channel, Lane] = {}
        self.tree_id = 0
        self.file_id: FileId = NO_FILE
        self.read_max_bytes = 0
        self.write_max_bytes = 0
        self.handles: set[Any] = set()
        #: Is set when another disk has taken the name, or when the disk's node has left. Later calls get `_end_errno`.
        self.ended = False
        self._end_errno = errno.ESTALE
        #: Is set if the present open may write.
        self.writable = False
        #: The refusal of the last CREATE. It is None if the exporter did not refuse, or if a handle was added since.
        self.refusal: OSError | None = None
        #: Is set when calls that wait have to check their condition again. A new event then takes its place.
        self.changed = trio.Event()
        self._kept = False
        self._disk = disk
        self._io_class = io_class
        self._exporter = disk.exporter
        self._file: RemoteOpen | None = None
        self._made_in: InitiatorSession | None = None
        self._ready = False
        self._fenced = False
        # The refusal that was logged last. While a missing disk is held open, the exporter is asked every second.
        self._reported = ""
        self._running = False
        self._away_since_s: float | None = None
        self._poke = trio.Event()

    # --- used by handles ---------------------------------------------------------------

    def add(self, handle: object) -> None:
        self.handles.add(handle)
        self.refusal = None
        self._use()

    def end(self, number: int) -> None:
        """Give every call the errno ``number`` from now on, and close the open.

        It is ESTALE if another disk has taken the name, and ENODEV if the disk's node has left the cluster.
        The open is fenced until it is closed. Otherwise, if both disks are the same device, as after a shrink, writes
        that are still under way could land on blocks of the new one.
        """
        self.ended, self._end_errno, self._ready = True, number, False
        self.update()
        if self._file is not None:
            self.fence()
        self._poke.set()
        self._wake()

    def remake(self) -> None:
        """Close the open and make it again, because the exporter may have another disk under the name."""
        if self._file is not None:
            self.fence()

    def discard(self, handle: object) -> None:
        """Remove a handle. If it was the last one, the open is closed soon."""
        self.handles.discard(handle)
        self._poke.set()

    def keep(self, on: bool) -> None:
        """Start or stop keeping the open even if no handle uses it."""
        self._kept = on
        self._use()

    def _use(self) -> None:
        """Start the task if the open is used and has none, and let the task look at the change."""
        if self._used and not self._running:
            self._running = True
            self._disk.spawn(self._keep)
        self._poke.set()

    @property
    def _used(self) -> bool:
        return self._kept or bool(self.handles)

    async def remove(self, handle: object) -> None:
        """Remove a handle. If it was the last one, wait until the open is closed, at most CLOSE_TIMEOUT_S."""
        self.discard(handle)
        if self._used or not self._running:
            return
        with trio.CancelScope(deadline=trio.current_time() + limits.CLOSE_TIMEOUT_S, shield=True):
            while self._running and not self._used:
                await self.changed.wait()

    def lane(self, channel: Channel) -> Lane:
        """Return the lane of this open on a channel.

        An open that is made again in the same session keeps its lanes, whose requests may still be in flight.
        """
        lane = self.lanes.get(channel)
        if lane is None:
            self._forget_lanes()
            lane = self.lanes[channel] = channel.lane(self._io_class)
        return lane

    def _forget_lanes(self) -> None:
        """Drop the lanes of channels that have ended."""
        self.lanes = {channel: lane for channel, lane in self.lanes.items() if not channel.why}

    def raise_ended(self) -> None:
        if self.ended:
            what = "was replaced by another one" if self._end_errno == errno.ESTALE else "has left the cluster"
            raise OSError(
                self._end_errno, f"disk {self._disk.info.name} {what} since it was opened; open it again if it is there"
            )

    # --- used by attempts --------------------------------------------------------------

    def is_now(self, file_id: FileId) -> bool:
        """Return whether ``file_id`` is the present open. A late answer about an earlier open does not concern it."""
        alive = self._made_in is not None and not self._made_in.why
        return alive and self._file is not None and self._file.file_id == file_id

    def fence(self) -> None:
        """Send nothing to the disk until this open is closed."""
        if not self._fenced:
            self._fenced = True
            self._disk.fence(+1)
        self._poke.set()

    def forget_if_ended(self) -> None:
        """Stop offering the open if its session has ended."""
        if self._made_in is not None and self._made_in.why:
            if self.reachable is self._made_in:
                self.session = self.reachable = None
            self._poke.set()

    def session_lost(self, channel: Channel, status: int) -> None:
        """End the session, because an answer on the channel says that the exporter no longer serves it.

        An answer that belongs to an earlier session changes nothing.
        """
        if self._made_in is not None and channel in self._made_in.channels:
            self._made_in.ended_by(status)

    # --- the task that keeps it --------------------------------------------------------

    def poke(self) -> None:
        """Adapt the open to a session that began or ended, or whose channels changed."""
        self._forget_lanes()
        self.forget_if_ended()
        if self._away_since_s != self._disk.away_since_s:
            # Calls that wait have another deadline now (failfast.py). A failed attempt to connect does not change it.
            self._away_since_s = self._disk.away_since_s
            self._wake()
        self._poke.set()

    def update(self) -> None:
        """Offer the open to requests if they may use the open now, or else withdraw it."""
        made_in = self._made_in
        alive = made_in is not None and not made_in.why
        usable = alive and self._ready and not self._disk.fences
        self.reachable = made_in if usable else None
        self.session = None if self._disk.answers.held else self.reachable
        if usable:
            self._wake()

    def _gone(self) -> None:
        """Forget the open, because it is closed and has no I/O at the disk any more."""
        self._file, self._ready = None, False
        fenced, self._fenced = self._fenced, False
        self.update()
        if fenced:
            self._disk.fence(-1)

    def _next_step(self) -> Step:
        if self._file is not None:
            if self._made_in is None or self._made_in.why:
                return Step.FORGET
            return Step.CLOSE if self._fenced or self.ended or not self._used else Step.WAIT
        if self.ended or not self._used:
            return Step.STOP
        return Step.WAIT if self._exporter.session is None else Step.CREATE

    async def _keep(self) -> None:
        self._exporter.listeners.append(self.poke)
        try:
            while (step := self._next_step()) is not Step.STOP:
                self._poke = trio.Event()
                try:
                    await self._do(step)
                except ChannelLost:
                    # The exporter's tasks log why, and call `poke` when there is a new session.
                    await self._poke.wait()
                except RemoteProtocolError as error:
                    assert self._made_in is not None
                    self._made_in.fail(f"the exporter broke the protocol: {error}")
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
        """Send CLOSE until it is answered or the session ends, because until then old I/O may be under way.

        No caller waits for this without a deadline. `remove` has a deadline, and so has a call that waits for an open.
        """
        file, session = self._file, self._made_in
        assert file is not None
        assert session is not None
        self._ready = False
        self.update()
        try:
            await session.close_surely(file, self._disk.io_timeout_s)
        except StatusError as error:
            # Only the end of its session ends an open that cannot be closed.
            session.fail(f"CLOSE was refused: {error}")
            raise ChannelLost(session.why) from error
        self._gone()

    async def _create(self) -> None:
        session = self._made_in = self._exporter.session
        assert session is not None
        tree, latest = session.trees[self._io_class], self._disk.latest()
        writable = latest.access is Access.READ_WRITE
        # A CREATE that is not answered in time is cancelled (outstanding.py), and another one is sent. If its reply
        # comes after all, the open that it made is closed.
        deadline = trio.current_time() + self._disk.io_timeout_s
        try:
            file = await session.ask(
                lambda channel: open_file(
                    channel,
                    tree,
                    latest.name,
                    writable=writable,
                    deadline=deadline,
                    late=functools.partial(self._close_late, session),
                )
            )
            self._file = file
            info = await session.ask(lambda channel: query_disk(channel, file, self._disk.info.id, deadline))
        except TimeoutError:
            if self._file is not None:
                self.fence()
            return
        except StatusError as error:
            await self._refused(error, session)
            return
        self._disk.opened(info)
        if self.ended:
            # The open is of the new disk, and the handles belong to the old one.
            return
        settled = session.credentials.settled
        self.tree_id, self.file_id = tree.tree_id, file.file_id
        self.writable = writable
        self.read_max_bytes, self.write_max_bytes = settled.max_read_bytes, settled.max_write_bytes
        self.refusal, self._reported = None, ""
        self._ready = True
        self.update()

    def _close_late(self, session: InitiatorSession, file: RemoteOpen) -> None:
        """Close an open whose CREATE was answered after its deadline. The CLOSE has the deadline of any other call."""
        deadline = trio.current_time() + self._disk.io_timeout_s
        self._disk.spawn(functools.partial(session.close_late, file, deadline))

    async def _refused(self, error: StatusError, session: InitiatorSession) -> None:
        if meaning(error.status) is Meaning.SESSION_LOST:
            session.ended_by(error.status)
            return
        number = errno_from_status(error.status)
        if str(error) != self._reported:
            self._reported = str(error)
            logger.warning("disk %s cannot be opened: %s", self._disk.info.name, error)
        self.refusal = OSError(number, f"{os.strerror(number)} ({error})")
        if self._file is not None:
            self.fence()
        self._wake()
        with trio.move_on_after(limits.REOPEN_DELAY_S):
            await self._poke.wait()

    def _wake(self) -> None:
        changed, self.changed = self.changed, trio.Event()
        changed.set()

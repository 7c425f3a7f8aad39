"""Keeps one disk as a mount sees it, with the opens of both classes and the known facts of the disk.

Lost writes. The port counts acknowledged writes (``write_seq``). A FLUSH that succeeds covers all writes that were
acknowledged before it was sent (``flushed_seq``). The exporter's write verifier changes when writes that were not
flushed may be lost. Then every handle with a write beyond ``flushed_seq`` gets EIO at its next flush, once. The port
asks for the verifier at every new open, because the owner may have been restarted. It also asks after every FLUSH that
covers something: the owner's kernel reports lost pages only once, perhaps to the FLUSH of another initiator.

If a program closes a file without fsync, it does not learn of writes that are lost later, as with a block device.
`settle` flushes such writes when the mount ends.

Replaced disks. The exporter identifies the device or image behind a name (``DiskInfo.instance``). If a new open finds
another one, or one that is smaller than before, every handle that was opened before gets ESTALE from then on. Later
handles share new opens. The list of disks (`announced`) may be older than what the exporter said at an open, so a
difference there is only a reason to make the opens again.
"""

import errno
import functools
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import trio

from meshfs.initiator.attached.attempts import Attempts
from meshfs.initiator.attached.handle import Handle
from meshfs.initiator.attached.hang import ask_disk
from meshfs.initiator.attached.port_meter import PortMeter
from meshfs.initiator.attached.shared_open import SharedOpen
from meshfs.initiator.attached.written import WrittenTime
from meshfs.initiator.remote.exporter import RemoteExporter
from meshfs.initiator.remote.failfast import Answers
from meshfs.loop.worker import enter_trio
from meshfs.model import Access, DiskInfo, DiskState, IoClass

logger = logging.getLogger(__name__)

Spawn = Callable[[Callable[[], Any]], None]


class Port:
    """Gives each opener of one disk a `Handle` of its own, and keeps what all of them share."""

    def __init__(self, info: DiskInfo, exporter: RemoteExporter, io_timeout_s: float, spawn: Spawn) -> None:
        self.info = info
        self.exporter = exporter
        self.io_timeout_s = io_timeout_s
        self.spawn = spawn
        #: Acknowledged writes so far, and how many of them are known to be on the disk.
        self.write_seq = 0
        self.flushed_seq = 0
        #: The number of opens that are fenced. Until they are closed, nothing is sent to the disk.
        self.fences = 0
        #: Is set if the owner's exporter does not know FSCTL_SET_ZERO_DATA, so that zeros are written instead.
        self.zeroes_by_writes = False
        self.written = WrittenTime(info.written_ns)
        self.meter = PortMeter(trio.current_time())
        self.answers = Answers(trio.current_time())
        self._verifier: str | None = None
        # The facts of the disk that the exporter gave at the latest open or flush. None stands for no open yet.
        self._opened: DiskInfo | None = None
        self._opens = self._new_opens()

    async def open(self, io_class: IoClass, *, writable: bool) -> Handle:
        """Return a new handle of the class. Raises OSError: EROFS, EACCES, EBUSY, ENOENT, ... or ETIMEDOUT."""
        await enter_trio()
        if writable and self.info.access is not Access.READ_WRITE:
            raise OSError(errno.EROFS, f"disk {self.info.name} is read-only")
        start_s = trio.current_time()
        while True:
            attempts = self._opens[io_class]
            shared = attempts.shared
            if self.latest().state is DiskState.DRAINED:
                # The exporter has closed the open that other handles share, or soon will, and decides about this one.
                shared.remake()
            handle = Handle(self, attempts, writable=writable)
            shared.add(handle)
            try:
                await attempts.usable("open", start_s + self.io_timeout_s)
                return handle
            except BaseException as error:
                shared.discard(handle)
                if not (isinstance(error, OSError) and shared.ended):
                    if isinstance(error, OSError):
                        self.failed(attempts, error, start_s)
                    raise
            # Another disk took the name meanwhile. This opener has not used the old one, so it gets the new one.
            await trio.lowlevel.checkpoint()

    def _new_opens(self) -> dict[IoClass, Attempts]:
        return {io_class: Attempts(self, SharedOpen(self, io_class)) for io_class in IoClass}

    def shared_opens(self) -> list[SharedOpen]:
        """Return the opens of both classes."""
        return [attempts.shared for attempts in self._opens.values()]

    def failed(self, attempts: Attempts, error: OSError, start_s: float) -> None:
        """Judge by a call that began at ``start_s`` and failed. After a time-out, probe the disk if it may hang."""
        now, exporter = trio.current_time(), self.exporter
        if attempts.shared.ended:
            # A call of the replaced disk says nothing about the present one.
            return
        if not isinstance(error, TimeoutError):
            self.answers.last_s = now
        elif (
            exporter.session is not None
            and not self.silent_on_purpose
            and self.answers.timed_out(start_s, self._silent_from_s(), now, fenced=self.fences > 0)
        ):
            self.update_opens()
            self.spawn(functools.partial(ask_disk, self, attempts, exporter.session))

    @property
    def away_since_s(self) -> float | None:
        """Return since when the exporter is away, or the disk is drained, or None."""
        exporter = self.exporter
        drained_s, away_s = exporter.on_purpose.drained_since_s.get(self.info.name), exporter.away_since_s
        return away_s if drained_s is None else drained_s if away_s is None else min(drained_s, away_s)

    @property
    def silent_on_purpose(self) -> bool:
        """Return whether an administrator has suspended or drained the disk."""
        return self.exporter.on_purpose.is_silent(self.info.name)

    def _silent_from_s(self) -> float:
        """Return the earliest time from which the disk's silence can be a hang."""
        exporter = self.exporter
        return max(exporter.since_s, exporter.on_purpose.resumed_s.get(self.info.name, exporter.since_s))

    def opened(self, info: DiskInfo) -> None:
        """Take the facts of the disk that the exporter gives at a flush, or at a new open before the open is used."""
        before, self._opened = self._opened, info
        if before is not None and is_another_disk(before, info):
            logger.warning("disk %s: replaced by another one; what was opened before gets ESTALE", info.name)
            self._end_opens(errno.ESTALE)
        elif self._verifier is not None and info.verifier != self._verifier:
            logger.warning(
                "disk %s: its owner was restarted, or a flush failed there; "
                "writes that were not flushed before may be lost",
                info.name,
            )
            self.lose_unflushed()
        self._verifier = info.verifier
        self.info = info
        self.exporter.learned(info)

    def _end_opens(self, number: int) -> None:
        """Give the handles of the disk that was opened before an errno from now on. Later handles get new opens."""
        before, self._opens = self._opens, self._new_opens()
        self.flushed_seq = self.write_seq
        for attempts in before.values():
            attempts.shared.end(number)

    def remove(self) -> None:
        """Give every handle ENODEV from now on, because the disk's node has left the cluster."""
        self._end_opens(errno.ENODEV)

    def latest(self) -> DiskInfo:
        """Return the last facts of the disk that the exporter advertised."""
        return next((info for info in self.exporter.disks if info.id == self.info.id), self.info)

    async def settle(self) -> None:
        """Flush what was acknowledged and not flushed yet, unless the owner is away. Raises OSError if that fails.

        The unmount calls it, because a program that closed its file without fsync cannot flush any more.
        """
        if self.write_seq <= self.flushed_seq:
            return
        if self.exporter.session is None:
            logger.warning(
                "disk %s: its owner is away, so what nobody flushed may not be on stable storage there", self.info.name
            )
            return
        handle = await self.open(IoClass.APP, writable=True)
        try:
            await handle.flush()
        finally:
            await handle.close()

    async def written_ns(self) -> int:
        """Return the time of the last write by any node. If the owner does not answer, return the last known time.

        Raises nothing, and takes at most ASK_DISK_TIMEOUT_S.
        """
        await enter_trio()
        latest = self.latest()
        self.written.announced(latest.written_ns)
        if (answer := await self.exporter.questions.ask(latest)) is not None:
            told, session = answer
            self.written.told(told.written_ns, session)
        return self.written.shown_ns

    def fence(self, change: int) -> None:
        """Add ``change`` to the number of fenced opens, and let every open check again whether it may be used."""
        self.fences += change
        self.update_opens()

    def update_opens(self) -> None:
        """Let every open check again whether it may be used."""
        for shared in self.shared_opens():
            shared.update()

    def announced(self, info: DiskInfo) -> None:
        """Take the facts of the disk from the exporter's list. Facts that it gave at an open count more."""
        if not any(shared.handles for shared in self.shared_opens()):
            self.info = info
        elif info.instance and self._opened is not None and info.instance != self._opened.instance:
            for shared in self.shared_opens():
                shared.remake()
        elif info.instance == self.info.instance and info.size_bytes > self.info.size_bytes:
            # The disk has grown. Openers use it to its new end from now on, beside those of its old size.
            self.info = replace(self.info, size_bytes=info.size_bytes)

    def lose_unflushed(self) -> None:
        """Give every handle with a write that is not known to be on the disk EIO at its next flush."""
        for shared in self.shared_opens():
            for handle in shared.handles:
                if handle.last_write_seq > self.flushed_seq:
                    handle.lost = True
        self.flushed_seq = self.write_seq


def is_another_disk(before: DiskInfo, now: DiskInfo) -> bool:
    """Return whether the disk was replaced, so that handles opened before must not use it.

    If an exporter gives no identity, only a smaller size shows that.
    """
    if before.instance and now.instance and before.instance != now.instance:
        return True
    return now.size_bytes < before.size_bytes

"""One disk as a mount has it: the opens of both classes, and what is known of the disk itself.

Lost writes. Acknowledged writes are counted (``write_seq``), and a FLUSH that succeeds covers all that were
acknowledged before it was sent (``flushed_seq``). The exporter's write verifier changes when writes that were not
flushed may be lost. Then every handle with a write beyond ``flushed_seq`` gets EIO at its next flush, once. The
verifier is asked for at every new open, since the owner may have been restarted. It is also asked for after every
FLUSH that covers something, since the owner's kernel reports lost pages only once, perhaps to the FLUSH of another
initiator.

A program that closes a file without fsync does not learn of writes that are lost later, as with a block device;
`settle` flushes such writes when the mount ends.

Replaced disks. The exporter identifies the device or image behind a name (``DiskInfo.instance``). When a new open
finds another one, or one that is smaller than before, every handle that was opened before gets ESTALE for good, and
handles opened from then on share new opens. The list of disks (`announced`) may be older than what an open was told,
so it is only a reason to make the opens again.
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
from meshfs.model import Access, DiskInfo, IoClass

logger = logging.getLogger(__name__)

Spawn = Callable[[Callable[[], Any]], None]


class Port:
    """The initiator's end of one disk."""

    def __init__(self, info: DiskInfo, exporter: RemoteExporter, io_timeout_s: float, spawn: Spawn) -> None:
        self.info = info
        self.exporter = exporter
        self.io_timeout_s = io_timeout_s
        self.spawn = spawn
        #: Acknowledged writes so far, and how many of them are known to be on the disk.
        self.write_seq = 0
        self.flushed_seq = 0
        #: How many opens are fenced. Until they are closed, nothing is sent to the disk.
        self.fences = 0
        #: The owner's exporter does not know FSCTL_SET_ZERO_DATA.
        self.zeroes_by_writes = False
        self.written = WrittenTime(info.written_ns)
        self.meter = PortMeter(trio.current_time())
        self.answers = Answers(trio.current_time())
        self._verifier: str | None = None
        # What the latest open said of the disk; None before the first.
        self._opened: DiskInfo | None = None
        self._opens = self._new_opens()

    async def open(self, io_class: IoClass, *, writable: bool) -> Handle:
        """A handle of the class. OSError: EROFS, EACCES, EBUSY, ENOENT, ... or ETIMEDOUT."""
        await enter_trio()
        if writable and self.info.access is not Access.READ_WRITE:
            raise OSError(errno.EROFS, f"disk {self.info.name} is read-only")
        start_s = trio.current_time()
        while True:
            attempts = self._opens[io_class]
            shared = attempts.shared
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
            # Another disk has taken the name meanwhile. This handle has not used the old one yet.
            await trio.lowlevel.checkpoint()

    def _new_opens(self) -> dict[IoClass, Attempts]:
        return {io_class: Attempts(self, SharedOpen(self, io_class)) for io_class in IoClass}

    def shared_opens(self) -> list[SharedOpen]:
        """The opens of both classes."""
        return [attempts.shared for attempts in self._opens.values()]

    def failed(self, attempts: Attempts, error: OSError, start_s: float) -> None:
        """A call that began at ``start_s`` failed. After a time-out the disk is asked whether it hangs."""
        now, exporter = trio.current_time(), self.exporter
        if attempts.shared.ended:
            # What was opened on another disk says nothing of the one that is there now.
            return
        if not isinstance(error, TimeoutError):
            self.answers.last_s = now
        elif exporter.session is not None and self.answers.timed_out(
            start_s, exporter.since_s, now, fenced=self.fences > 0
        ):
            self.update_opens()
            self.spawn(functools.partial(ask_disk, self, attempts, exporter.session))

    def opened(self, info: DiskInfo) -> None:
        """What the exporter says of the disk: at a new open before anything is asked of it, and at a flush."""
        before, self._opened = self._opened, info
        if before is not None and is_another_disk(before, info):
            logger.warning("disk %s: replaced by another one; what was opened before gets ESTALE", info.name)
            self._end_opens()
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

    def _end_opens(self) -> None:
        """End what belongs to the disk that was there before; later handles get new opens."""
        before, self._opens = self._opens, self._new_opens()
        self.flushed_seq = self.write_seq
        for attempts in before.values():
            attempts.shared.end()

    def remove(self) -> None:
        """The disk's node has left the cluster: every handle gets ESTALE from now on."""
        self._end_opens()

    def latest(self) -> DiskInfo:
        """Return what the exporter announced last of it."""
        return next((info for info in self.exporter.disks if info.id == self.info.id), self.info)

    async def settle(self) -> None:
        """Flush what was acknowledged and not flushed yet, unless the owner is away. OSError when it fails.

        The unmount does this, as a program that closed its file without fsync cannot do it any more.
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
        """When the disk was last written by anybody, as its owner says now or, where it does not answer, said before.

        Never raises, and takes at most ASK_DISK_TIMEOUT_S.
        """
        await enter_trio()
        latest = self.latest()
        self.written.announced(latest.written_ns)
        if (answer := await self.exporter.questions.ask(latest)) is not None:
            told, session = answer
            self.written.told(told.written_ns, session)
        return self.written.shown_ns

    def fence(self, change: int) -> None:
        """One fenced open more or less."""
        self.fences += change
        self.update_opens()

    def update_opens(self) -> None:
        """Every open looks again at whether it may be used."""
        for shared in self.shared_opens():
            shared.update()

    def announced(self, info: DiskInfo) -> None:
        """Take what the exporter's list says of the disk. What the open of a disk was told counts more."""
        if not any(shared.handles for shared in self.shared_opens()):
            self.info = info
        elif info.instance and self._opened is not None and info.instance != self._opened.instance:
            for shared in self.shared_opens():
                shared.remake()
        elif info.instance == self.info.instance and info.size_bytes > self.info.size_bytes:
            # The disk grew: who opens it now uses it to its new end, beside those that opened it before.
            self.info = replace(self.info, size_bytes=info.size_bytes)

    def lose_unflushed(self) -> None:
        """Every handle with a write that is not known to be on the disk gets EIO at its next flush."""
        for shared in self.shared_opens():
            for handle in shared.handles:
                if handle.last_write_seq > self.flushed_seq:
                    handle.lost = True
        self.flushed_seq = self.write_seq


def is_another_disk(before: DiskInfo, now: DiskInfo) -> bool:
    """Return whether what was opened before must not go on; an exporter that tells no identity is believed."""
    if before.instance and now.instance and before.instance != now.instance:
        return True
    return now.size_bytes < before.size_bytes

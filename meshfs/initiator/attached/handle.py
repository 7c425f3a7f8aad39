"""Reads, writes, zeroes, discards and flushes for one opener of a disk. Each call ends within the bound.

`Handle._transfer` is the hot path of reads and writes. It sends the first attempt of a request that fits into one
message, or into one message for each of several channels. Everything else takes the slow path: to wait for the
exporter, to clip at the disk's end, to divide a long request, to send again what was lost (attempts.py).

A zeroing or a discard is a write without data, and has the same rules. If it is lost with a channel, it is sent again.
If its caller gives up, the open is fenced. It is on stable storage after the next flush.
"""

import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import trio

from meshfs import limits
from meshfs.errors import RemoteProtocolError
from meshfs.granules import Granules
from meshfs.initiator.attached import shared_open
from meshfs.initiator.attached.attempts import Attempts
from meshfs.initiator.attached.clear_size import ClearSize
from meshfs.initiator.attached.outcomes import NOT_EXECUTED, Earlier, MayHaveBeenExecuted, Over
from meshfs.initiator.attached.port_meter import PortMeter
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.channel.slots import Reply, Slot
from meshfs.initiator.session.balance import SPLIT_MIN_BYTES
from meshfs.initiator.session.commands import only_disk, start_clearing, start_query_disks
from meshfs.initiator.session.split import Parts, SplitRequest, start_parts
from meshfs.loop.worker import enter_trio
from meshfs.smb.constants import Command
from meshfs.smb.messages import FlushRequest, TrimRanges, ZeroData

logger = logging.getLogger(__name__)

Data = bytes | bytearray | memoryview


class PortOfHandles(shared_open.PortOfOpens, Protocol):
    """Gives a handle what it has to know of its disk's port."""

    #: Acknowledged writes so far, and how many of them are known to be on the disk.
    write_seq: int
    flushed_seq: int
    zeroes_by_writes: bool
    meter: PortMeter

    def failed(self, attempts: Attempts, error: OSError, start_s: float) -> None:
        """Judge by a call that began at ``start_s`` and failed whether the disk hangs."""

    def lose_unflushed(self) -> None:
        """Give every handle with a write that is not known to be on the disk EIO at its next flush."""


class Handle:
    """Reads, writes, zeroes, discards and flushes for one opener of a disk."""

    __slots__ = (
        "_attempts",
        "_closed",
        "_discard_size",
        "_port",
        "_shared",
        "_writable",
        "_zero_size",
        "last_write_seq",
        "lost",
    )

    def __init__(self, port: PortOfHandles, attempts: Attempts, *, writable: bool) -> None:
        self._port = port
        self._attempts = attempts
        # The hot path reads the attributes of the open directly.
        self._shared = attempts.shared
        self._writable = writable
        self._closed = False
        self._zero_size = ClearSize()
        self._discard_size = ClearSize()
        #: The port's ``write_seq`` at this handle's latest write that was not write-through.
        self.last_write_seq = 0
        #: Is set if acknowledged writes of this handle were lost, and its user does not know yet.
        self.lost = False

    def read(self, offset: int, size: int) -> Coroutine[Any, Any, Data]:
        """Read at most ``size`` bytes, b"" at the end. The data is valid until the calling task yields to trio.

        Raises OSError, among them TimeoutError (ETIMEDOUT) when the bound has passed.
        """
        return self._transfer(offset, size, None, False)

    def write(self, offset: int, data: bytes | memoryview, *, write_through: bool = False) -> Coroutine[Any, Any, int]:
        """Write ``data``, and return the count written, which is smaller than asked only at the disk's end.

        Raises OSError ENOSPC past the disk's end, and ETIMEDOUT when the bound has passed.
        """
        return self._transfer(offset, len(data), data, write_through)

    async def _transfer(self, offset: int, size: int, data: bytes | memoryview | None, write_through: bool) -> Any:
        """Write ``data``, or read ``size`` bytes if ``data`` is None.

        If fewer bytes are read or written than asked for, the slow path repeats the request and finds out why.
        """
        shared, port, reads = self._shared, self._port, data is None
        start_s = trio.current_time()
        deadline = start_s + port.io_timeout_s
        session = shared.session
        channel = None if session is None else session.pick(size, start_s)
        earlier: Earlier = NOT_EXECUTED
        try:
            if (
                session is not None
                and channel is not None
                and 0 < size <= (shared.read_max_bytes if reads else shared.write_max_bytes)
                and offset + size <= port.info.size_bytes
                and (reads or self._writable)
            ):
                sent: Slot | SplitRequest | None = None
                file_id = shared.file_id
                try:
                    parts = session.split(size, start_s) if size >= SPLIT_MIN_BYTES else None
                    if parts:
                        sent = self._start_parts(parts, offset, size, data, deadline, write_through)
                    else:
                        lane = shared.lanes.get(channel) or shared.lane(channel)
                        if data is None:
                            sent = channel.start_read(shared.tree_id, file_id, offset, size, deadline, lane)
                        else:
                            sent = channel.start_write(
                                shared.tree_id, file_id, offset, data, deadline, lane, write_through=write_through
                            )
                    result: Any = await sent
                except BaseException as error:
                    outcome = self._attempts.failed(error, channel, file_id, sent)
                    if isinstance(outcome, Over):
                        outcome.end()
                    earlier = outcome
                else:
                    if not (reads or write_through):
                        self.last_write_seq = port.write_seq = port.write_seq + 1
                    if (len(result) if reads else result) == size:
                        port.answers.last_s = now = trio.current_time()
                        (port.meter.read if reads else port.meter.wrote)(size, start_s, now)
                        return result
            if data is None:
                result = await self._read_slowly(offset, size, deadline)
            else:
                result = await self._write_slowly(offset, memoryview(data), deadline, write_through, earlier)
        except OSError as error:
            self._failed(error, start_s, port.meter.failed_read if reads else port.meter.failed_write)
            raise
        port.answers.last_s = now = trio.current_time()
        (port.meter.read if reads else port.meter.wrote)(len(result) if reads else result, start_s, now)
        return result

    def _start_parts(
        self,
        parts: Parts,
        offset: int,
        size: int,
        data: bytes | memoryview | None,
        deadline: float,
        write_through: bool,
    ) -> SplitRequest:
        """Start a transfer in parts. ``parts`` says which channel takes how many bytes."""
        whole = None if data is None else memoryview(data)
        start = functools.partial(
            self._start, offset=offset, data=whole, deadline=deadline, write_through=write_through
        )
        return start_parts(parts, SplitRequest(size if data is None else 0), start)

    def _start(
        self,
        channel: Channel,
        begin: int,
        length: int,
        offset: int,
        data: memoryview | None,
        deadline: float,
        write_through: bool = False,
        replay: bool = False,
    ) -> Slot:
        """Start a part of the transfer at ``offset``, with at most ``length`` bytes from ``begin`` of the whole on."""
        shared, lane = self._shared, self._shared.lane(channel)
        if data is None:
            return channel.start_read(shared.tree_id, shared.file_id, offset + begin, length, deadline, lane)
        return channel.start_write(
            shared.tree_id,
            shared.file_id,
            offset + begin,
            data[begin : begin + length],
            deadline,
            lane,
            write_through=write_through,
            replay=replay,
        )

    async def _read_slowly(self, offset: int, size: int, deadline: float) -> Data:
        """Wait for the exporter, clip at the disk's end, and divide what is too large for one request."""
        await enter_trio()
        self._check_open()
        await self._attempts.usable("read", deadline)
        end = min(offset + size, self._port.info.size_bytes)
        if offset >= end:
            return b""
        parts = bytearray()
        while offset < end:
            data = await self._read_part(offset, end, deadline)
            if not parts and offset + len(data) == end:
                return data
            parts += data
            offset += len(data)
        return parts

    async def _read_part(self, offset: int, end: int, deadline: float) -> bytes | memoryview:
        shared, size = self._shared, 0

        def start(channel: Channel, _: bool) -> Slot:
            nonlocal size
            size = min(end - offset, shared.read_max_bytes)
            return self._start(channel, 0, size, offset, None, deadline)

        data: bytes | memoryview = await self._attempts.again("read", deadline, start, end - offset)
        if len(data) != size:
            raise _short(len(data), size, offset)
        return data

    async def _write_slowly(
        self, offset: int, data: memoryview, deadline: float, write_through: bool, earlier: Earlier
    ) -> int:
        """Wait, clip and divide as `_read_slowly` does. ``earlier`` says what became of the first attempt."""
        try:
            await enter_trio()
            self._check_writable()
            if not isinstance(earlier, MayHaveBeenExecuted):
                await self._attempts.usable("write", deadline)
            size = self._fitting(offset, len(data))
            return await self._write_all(offset, data[:size], deadline, write_through, earlier)
        except BaseException:
            self._attempts.give_up(earlier)
            raise

    async def _write_all(
        self, offset: int, data: memoryview, deadline: float, write_through: bool, earlier: Earlier
    ) -> int:
        shared, port, done = self._shared, self._port, 0

        def start(channel: Channel, replay: bool) -> Slot:
            return self._start(channel, done, shared.write_max_bytes, offset, data, deadline, write_through, replay)

        while done < len(data):
            done += await self._attempts.again("write", deadline, start, len(data) - done, earlier)
            if not write_through:
                self.last_write_seq = port.write_seq = port.write_seq + 1
        return done

    async def zero(self, offset: int, length: int, *, write_through: bool = False) -> int:
        """Let the owner zero the beginning of a range, and return how many bytes are done. Raises OSError as `write`.

        A long range takes several calls, so that the caller knows how much is done when one of them fails.
        """
        await enter_trio()
        port, deadline = self._port, trio.current_time() + self._port.io_timeout_s
        self._check_writable()
        size = min(self._fitting(offset, length), self._zero_size.bytes)
        if port.zeroes_by_writes:
            return await self.write(offset, bytes(min(size, limits.ZERO_WRITE_BYTES)), write_through=write_through)
        try:
            wanted = ZeroData(offset, offset + size)
            await self._clear("zero", wanted, self._zero_size, deadline, write_through=write_through)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            logger.info("disk %s: its owner cannot zero a range; it is written instead", port.info.name)
            port.zeroes_by_writes = True
            return await self.zero(offset, length, write_through=write_through)
        return size

    async def discard(self, offset: int, length: int) -> int:
        """Tell the owner that the beginning of a range is not needed, and return how many bytes are done, as `zero`.

        The owner discards whole granules of the disk. A discarded byte may read as anything until it is written again.
        Raises OSError as `write`, and EOPNOTSUPP if the disk cannot discard.
        """
        await enter_trio()
        info, deadline = self._port.info, trio.current_time() + self._port.io_timeout_s
        self._check_writable()
        granules = Granules(info.discard_granularity_bytes, info.discard_alignment_bytes)
        if not granules:
            raise OSError(errno.EOPNOTSUPP, f"disk {info.name} cannot discard")
        stop = offset + self._fitting(offset, length)
        end = granules.cut(offset, stop, self._discard_size.bytes)
        start, whole_end = granules.whole(offset, end)
        if start < whole_end:
            await self._clear("discard", TrimRanges(((start, whole_end - start),)), self._discard_size, deadline)
        return end - offset

    async def _clear(
        self, op: str, wanted: ZeroData | TrimRanges, size: ClearSize, deadline: float, *, write_through: bool = False
    ) -> None:
        """Send a zeroing or a discard until it is answered. ``size`` learns from it."""
        shared, port, start_s = self._shared, self._port, trio.current_time()

        def start(channel: Channel, replay: bool) -> Slot:
            lane = shared.lane(channel)
            return start_clearing(channel, shared.tree_id, shared.file_id, wanted, deadline, lane, replay=replay)

        try:
            await self._attempts.again(op, deadline, start)
            self.last_write_seq = port.write_seq = port.write_seq + 1
            if write_through:
                await self._flush(deadline)
        except OSError as error:
            self._failed(error, start_s, port.meter.failed_write)
            if isinstance(error, TimeoutError):
                size.timed_out()
            raise
        port.answers.last_s = now = trio.current_time()
        # Neither a zeroing nor a discard sends data.
        port.meter.wrote(0, start_s, now)
        size.took(now - start_s, port.io_timeout_s)

    async def flush(self) -> None:
        """Bring all writes acknowledged so far to stable storage. Raises OSError: EIO once if some were lost."""
        await enter_trio()
        meter, start_s = self._port.meter, trio.current_time()
        try:
            await self._flush(start_s + self._port.io_timeout_s)
        except OSError as error:
            self._failed(error, start_s, meter.failed_flush)
            raise
        self._port.answers.last_s = now = trio.current_time()
        meter.flushed(start_s, now)

    async def _flush(self, deadline: float) -> None:
        self._check_open()
        self._shared.raise_ended()
        self._raise_lost()
        shared, port = self._shared, self._port
        covered_seq = port.write_seq

        def start(channel: Channel, _: bool) -> Slot:
            body = FlushRequest(shared.file_id).pack()
            return channel.start_request(
                Command.FLUSH, body, tree_id=shared.tree_id, deadline=deadline, lane=shared.lane(channel)
            )

        try:
            await self._attempts.again("flush", deadline, start)
        except TimeoutError:
            raise
        except OSError:
            # If another disk has taken the name, the error says nothing about losses of the old one.
            shared.raise_ended()
            # The owner's kernel drops what it could not write, so unflushed writes of every handle may be lost.
            port.lose_unflushed()
            await self._check_verifier(deadline)
            # This error reports the loss to the opener, so the next flush must not report it again.
            self.lost = False
            raise
        if covered_seq > port.flushed_seq:
            await self._check_verifier(deadline)
        self._raise_lost()
        port.flushed_seq = max(port.flushed_seq, covered_seq)

    async def _check_verifier(self, deadline: float) -> None:
        shared = self._shared

        def start(channel: Channel, _: bool) -> Slot:
            return start_query_disks(channel, shared.tree_id, shared.file_id, deadline)

        reply: Reply = await self._attempts.again("flush", deadline, start)
        try:
            info = only_disk(reply, self._port.info.id)
        except RemoteProtocolError as error:
            why = f"the exporter's answer about disk {self._port.info.name} breaks the protocol: {error}"
            raise OSError(errno.EIO, why) from error
        self._port.opened(info)

    def _raise_lost(self) -> None:
        if self.lost:
            self.lost = False
            raise OSError(errno.EIO, f"disk {self._port.info.name}: acknowledged writes were lost with their owner")

    def _failed(self, error: OSError, start_s: float, count: Callable[[float, float], None]) -> None:
        """Count a call that failed, and let the port judge by it whether the disk hangs."""
        count(start_s, trio.current_time())
        self._port.failed(self._attempts, error, start_s)

    def _fitting(self, offset: int, size: int) -> int:
        """Return how many bytes of ``size`` fit before the disk's end. Raises ENOSPC if none of them fits."""
        room_bytes = self._port.info.size_bytes - offset
        if size and room_bytes <= 0:
            raise OSError(errno.ENOSPC, f"disk {self._port.info.name} ends before byte {offset}")
        return min(size, room_bytes)

    def _check_writable(self) -> None:
        self._check_open()
        if not self._writable:
            raise OSError(errno.EBADF, f"disk {self._port.info.name} is not open for writing")

    def _check_open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, f"the handle of disk {self._port.info.name} is closed")

    async def close(self) -> None:
        """Close the handle. Raises nothing but trio.Cancelled, and waits at most CLOSE_TIMEOUT_S."""
        await enter_trio()
        if not self._closed:
            self._closed = True
            await self._shared.remove(self)


def _short(count: int, size: int, offset: int) -> OSError:
    return OSError(
        errno.EIO, f"the exporter sent {count} of {size} bytes at {offset}, although the disk does not end there"
    )

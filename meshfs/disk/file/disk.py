"""Image files and block devices as disks, past the page cache (O_DIRECT) or through it.

    aligned, or cache = writeback   straight to the engine, from and to the request's buffer
    read that O_DIRECT can't take   whole blocks into a bounce buffer, the part copied out
    write of whole blocks from
    unaligned memory                copied to a bounce buffer, then written
    write of parts of blocks        read, merge, write (disk/merge.py), exclusive in WriteOrder
    write that touches the last,    through the page cache by a second descriptor, on stable
    incomplete block of an image    storage before it is done; exclusive in WriteOrder
    zeroing                         whole blocks by fallocate or writes of zeros (disk/zero.py), what is
                                    left at its ends by ordinary writes of zeros

Direct reads are coherent with the page cache (the kernel writes back dirty pages of their
range first), so they need no order; two writes through the two paths do.

Errors are results (-errno) of the one request they happened to, and `errnos.verdict` says which errno the caller gets.
A write beyond the end is -ENOSPC as a whole: it never extends an image. When the disk shrank, all I/O behind its new
end is -EIO, so that no write extends an image again, with zeros where its data was.
"""

import errno
import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from meshfs import bugs
from meshfs.buffers import HEADROOM_BYTES, PAGE_BYTES, Buffer, BufferPool
from meshfs.disk.base import DiskRequest, Engine, Op
from meshfs.disk.discovery.scan import DiskFacts, device_size
from meshfs.disk.errnos import Sign, verdict
from meshfs.disk.file.directio import Alignment
from meshfs.disk.file.losses import Flushes, Keep, Losses
from meshfs.disk.file.merge import BlockMerge
from meshfs.disk.file.transfer import Transfer
from meshfs.disk.file.write_order import WriteOrder
from meshfs.disk.file.zero import ZeroFill, split

logger = logging.getLogger(__name__)

#: Called with the operation, the kernel's errno (positive) and what it says of the disk.
OnError = Callable[[Op, int, Sign], None]


def _nobody(op: Op, number: int, sign: Sign) -> None:
    """Nobody keeps the disk's state."""


# With these the kernel refuses a write before it writes or flushes anything.
_WRITES_NOTHING: Final = (
    errno.EAGAIN, errno.EINTR, errno.ENOMEM, errno.EPERM, errno.EROFS, errno.EINVAL, errno.EBADF, errno.EFAULT,
)  # fmt: skip
# The page cache may hold the end of an image in one folio this large, and write it back as
# a whole: a direct write elsewhere in it has to wait for a cached one (PMD size).
_FOLIO_MAX_BYTES = 2 << 20


class FileDisk:
    """A disk.base.Disk on a file descriptor; made by disk.claim.open_disk.

    ``fd`` is open (with O_DIRECT where ``alignment`` says so) and claimed; ``tail_fd`` is
    the same file without O_DIRECT, where its size is no multiple of a block. ``close``
    closes both.
    """

    def __init__(
        self,
        facts: DiskFacts,
        fd: int,
        engine: Engine,
        alignment: Alignment,
        *,
        read_only: bool,
        tail_fd: int | None = None,
        pool: BufferPool | None = None,
        zero_modes: Sequence[int] = (),
    ) -> None:
        self.size_bytes = facts.size_bytes
        #: Where the disk ends now: less than ``size_bytes`` when it shrank.
        self.end_bytes = facts.size_bytes
        #: Must neither block nor raise.
        self.on_error: OnError = _nobody
        self.logical_block_size_bytes = facts.logical_block_size_bytes
        self.physical_block_size_bytes = facts.physical_block_size_bytes
        self.rotational = facts.rotational
        self.read_only = read_only
        self.facts = facts
        self._losses = Losses(facts.instance)
        self.verifier = self._losses.verifier
        self.engine = engine
        self.fd = fd
        self.pool = pool or BufferPool()
        #: The modes of fallocate(2) by which ranges may be zeroed; see disk/zero.py.
        self.zero_modes = list(zero_modes)
        self._tail_fd = tail_fd
        self._offset_mask = alignment.offset_bytes - 1
        self._memory_mask = alignment.memory_bytes - 1
        self._order: WriteOrder[DiskRequest] = WriteOrder()
        self._flushes = Flushes(engine, fd, self._flushed)

    def recall(self, seed: str, keep: Keep) -> None:
        """Go on from the verifier's seed that an earlier process kept; ``keep`` keeps a new one."""
        self._losses.recall(seed, keep)
        self.verifier = self._losses.verifier

    def submit(self, requests: Sequence[DiskRequest]) -> None:
        for request in requests:
            if request.op == Op.READ:
                self._read(request)
            elif request.op == Op.WRITE:
                self._write(request)
            elif request.op == Op.ZERO:
                self._zero(request)
            else:
                self._flushes.add(request)
        self.engine.flush()

    def flush_age_s(self) -> float:
        """For how long the flush at the disk has been there; 0 without one."""
        return self._flushes.age_s(time.monotonic())

    @property
    def busy(self) -> bool:
        """Whether a write or a flush is in flight."""
        return bool(len(self._order)) or self._flushes.running

    def close(self) -> None:
        if self.busy:
            raise RuntimeError("a disk was closed with writes or flushes in flight")
        os.close(self.fd)
        if self._tail_fd is not None:
            os.close(self._tail_fd)

    def resize(self, size_bytes: int) -> None:
        """Take over the size the disk has now. A smaller one only moves the end: ``size_bytes`` stays.

        Raises OSError when an image's new end needs a second descriptor and there is none.
        """
        self.end_bytes = size_bytes
        if size_bytes <= self.size_bytes:
            return
        if self._tail_fd is None and not self.read_only and size_bytes & self._offset_mask:
            self._tail_fd = os.open(f"/proc/self/fd/{self.fd}", os.O_RDWR | os.O_CLOEXEC)
        self.size_bytes = size_bytes

    def _finish(self, request: DiskRequest, result: int) -> None:
        """Hand on what the kernel answered."""
        request.result = result if result >= 0 else self._failed(request, result)
        request.on_done(request)

    def _refuse(self, request: DiskRequest, number: int) -> None:
        """Answer a request that never reaches the disk."""
        request.result = -number
        request.on_done(request)

    def _acquire(self, request: DiskRequest, length: int) -> Buffer | None:
        """A buffer for a part of the request. Where there is no memory, the request is answered, and None returned."""
        try:
            return self.pool.acquire(length)
        except MemoryError:
            self._finish(request, -errno.ENOMEM)
            return None

    def _failed(self, request: DiskRequest, result: int) -> int:
        """The caller's result for what the kernel answered with ``result`` (-errno)."""
        try:
            return self._judged(request, result)
        except Exception as error:
            bugs.report(logger, f"judging an error of disk {self.facts.path}", error)
            return -errno.EIO

    def _judged(self, request: DiskRequest, result: int) -> int:
        device_bytes = device_size(self.fd) if self.facts.is_block_device else None
        stop = request.offset + request.length
        answer, sign = verdict(-result, request.op, stop=stop, device_bytes=device_bytes)
        if sign is not Sign.NOTHING:
            self.on_error(request.op, -result, sign)
        return -answer

    def _flushed(self, requests: list[DiskRequest], result: int) -> None:
        if result < 0:
            self.lose(os.strerror(-result))
        for request in requests:
            self._losses.answer(partial(self._finish, request, result))

    def lose(self, why: str) -> None:
        """Writes of any initiator may be lost: the kernel tells only the first who asks.

        A new verifier tells the others. No flush is answered until it is kept.
        """
        logger.error("disk %s: acknowledged writes may be lost: %s", self.facts.path, why)
        self._losses.lose()
        self.verifier = self._losses.verifier

    # --- reads ------------------------------------------------------------------------

    def _read(self, request: DiskRequest) -> None:
        offset, length, buffer = request.offset, request.length, request.buffer
        if offset + length > self.size_bytes:
            length = max(self.size_bytes - offset, 0)
        if not length or buffer is None:
            self._finish(request, 0)
            return
        address = buffer.address + request.start
        if (offset | length) & self._offset_mask or address & self._memory_mask:
            self._read_bounced(request, length)
            return
        done = partial(self._read_done, request, length)
        self.engine.queue_read(self.fd, address, length, offset, done)

    def _read_done(self, request: DiskRequest, length: int, result: int) -> None:
        if result == length:
            request.result = result
            request.on_done(request)
        elif result >= 0 or result in (-errno.EAGAIN, -errno.EINTR):
            assert request.buffer is not None
            address = request.buffer.address + request.start
            transfer = Transfer(self.engine, self.fd, address, length, request.offset, self._offset_mask)
            transfer.go_on(partial(self._finish, request), result)
        else:
            self._finish(request, result)

    def _read_bounced(self, request: DiskRequest, length: int) -> None:
        first = request.offset & ~self._offset_mask
        stop = (request.offset + length + self._offset_mask) & ~self._offset_mask
        # Widened by at most two blocks, for which buffers have their tailroom.
        bounce = self._acquire(request, length)
        if bounce is None:
            return
        transfer = Transfer(
            self.engine, self.fd, bounce.address + HEADROOM_BYTES, stop - first, first, self._offset_mask,
            needed=min(stop, self.size_bytes) - first,
        )  # fmt: skip
        transfer.start(partial(self._bounced_read_done, request, length, bounce, request.offset - first))

    def _bounced_read_done(self, request: DiskRequest, length: int, bounce: Buffer, skip: int, result: int) -> None:
        if result >= 0:
            assert request.buffer is not None
            begin = HEADROOM_BYTES + skip
            request.buffer.view[request.start : request.start + length] = bounce.view[begin : begin + length]
            result = length
        bounce.release()
        self._finish(request, result)

    # --- writes -----------------------------------------------------------------------

    def _write(self, request: DiskRequest) -> None:
        offset, length = request.offset, request.length
        stop = offset + length
        if self.read_only:
            self._refuse(request, errno.EROFS)
        elif stop > self.end_bytes:
            self._refuse(request, errno.ENOSPC if stop > self.size_bytes else errno.EIO)
        elif not length or request.buffer is None:
            self._finish(request, 0)
        elif not (offset | length) & self._offset_mask:
            if self._order.begin(request, offset, stop):
                self._launch(request)
        else:
            first, stop = offset & ~self._offset_mask, (stop + self._offset_mask) & ~self._offset_mask
            if stop > self.size_bytes:
                first, stop = offset & ~(_FOLIO_MAX_BYTES - 1), stop + _FOLIO_MAX_BYTES
            if self._order.begin(request, first, stop, exclusive=True):
                self._launch(request)

    def _launch(self, request: DiskRequest) -> None:
        """Start a write whose turn it is."""
        try:
            self._start_write(request)
        except MemoryError:
            # Buffers are acquired before anything of the write reaches the engine.
            self._write_end(request, -errno.ENOMEM)

    def _start_write(self, request: DiskRequest) -> None:
        offset, length, buffer = request.offset, request.length, request.buffer
        if buffer is None:
            fill = ZeroFill(self, offset, length, dsync=request.write_through)
            fill.start(partial(self._write_end, request))
            return
        address = buffer.address + request.start
        mask = self._offset_mask
        if (offset | length) & mask:
            if (offset + length + mask) & ~mask > self.size_bytes:
                self._write_tail(request, address)
            else:
                BlockMerge(self, request, mask + 1).start(partial(self._write_end, request))
        elif address & self._memory_mask:
            self._write_bounced(request)
        else:
            done = partial(self._write_done, request)
            self.engine.queue_write(self.fd, address, length, offset, done, dsync=request.write_through)

    def _write_done(self, request: DiskRequest, result: int) -> None:
        length = request.length
        if result != length and (result >= 0 or result in (-errno.EAGAIN, -errno.EINTR)):
            assert request.buffer is not None
            address = request.buffer.address + request.start
            transfer = Transfer(
                self.engine, self.fd, address, length, request.offset, self._offset_mask,
                write=True, dsync=request.write_through,
            )  # fmt: skip
            transfer.go_on(partial(self._write_end, request), result)
            return
        self._write_end(request, result)

    def _write_end(self, request: DiskRequest, result: int) -> None:
        """The write is over: those that waited for it start, then its caller is told."""
        ready = self._order.end(request)
        if ready:
            for waiter in ready:
                self._launch(waiter)
            self.engine.flush()
        if result < 0:
            self._write_failed(request, result)
            return
        request.result = result
        request.on_done(request)

    def _write_failed(self, request: DiskRequest, result: int) -> None:
        if request.write_through and self._may_be_a_loss(result):
            self.lose(f"a write-through failed: {os.strerror(-result)}")
            self._losses.answer(partial(self._finish, request, result))
        else:
            self._finish(request, result)

    def _may_be_a_loss(self, result: int) -> bool:
        """Whether a failed write-through may have taken the report of a failed write-back of earlier writes.

        It flushes after it wrote. ENOSPC and EDQUOT are the write's own, unless it went through the page
        cache, where they may be the report of pages that found no room when they were written back.
        """
        if -result in (errno.ENOSPC, errno.EDQUOT):
            return not self._offset_mask
        return -result not in _WRITES_NOTHING

    def _write_bounced(self, request: DiskRequest) -> None:
        length = request.length
        assert request.buffer is not None
        bounce = self.pool.acquire(length)
        source = request.buffer.view[request.start : request.start + length]
        bounce.view[HEADROOM_BYTES : HEADROOM_BYTES + length] = source
        transfer = Transfer(
            self.engine, self.fd, bounce.address + HEADROOM_BYTES, length, request.offset, self._offset_mask,
            write=True, dsync=request.write_through,
        )  # fmt: skip
        transfer.start(partial(self._bounced_write_done, request, bounce))

    def _bounced_write_done(self, request: DiskRequest, bounce: Buffer, result: int) -> None:
        bounce.release()
        self._write_end(request, result)

    def _write_tail(self, request: DiskRequest, address: int) -> None:
        assert self._tail_fd is not None
        transfer = Transfer(
            self.engine.buffered, self._tail_fd, address, request.length, request.offset, 0,
            write=True, dsync=True,
        )  # fmt: skip
        transfer.start(partial(self._write_end, request))

    # --- zeroing ----------------------------------------------------------------------

    def _zero(self, request: DiskRequest) -> None:
        """Refuse it as a write would be, or do its parts one after the other."""
        stop = request.offset + request.length
        if self.read_only:
            self._refuse(request, errno.EROFS)
        elif stop > self.end_bytes:
            self._refuse(request, errno.ENOSPC if stop > self.size_bytes else errno.EIO)
        else:
            block_bytes = max(PAGE_BYTES, self._offset_mask + 1)
            self._zero_parts(request, split(request.offset, request.length, block_bytes), block_bytes)

    def _zero_parts(self, request: DiskRequest, parts: list[tuple[int, int]], block_bytes: int) -> None:
        """Zero the first of ``parts``; its completion zeroes the rest."""
        if not parts or not parts[0][1]:
            self._finish(request, request.length)
            return
        (offset, length), rest = parts[0], parts[1:]

        def done(part: DiskRequest) -> None:
            if part.buffer is not None:
                part.buffer.release()
            if part.result < 0:
                # The errno is one for the caller already, and the keeper of the disk knows of the error.
                self._refuse(request, -part.result)
            else:
                self._zero_parts(request, rest, block_bytes)

        part = DiskRequest(Op.ZERO, offset, length, None, HEADROOM_BYTES, done, write_through=request.write_through)
        if (offset | length) % block_bytes == 0:
            if self._order.begin(part, offset, offset + length):
                self._launch(part)
            return
        part.op, part.buffer = Op.WRITE, self._acquire(request, length)
        if part.buffer is None:
            return
        part.buffer.view[HEADROOM_BYTES : HEADROOM_BYTES + length] = bytes(length)
        self._write(part)
        self.engine.flush()

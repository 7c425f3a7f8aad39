"""Image files and block devices as disks, past the page cache (O_DIRECT) or through it.

Each request takes one of these paths:

    aligned, or cache = writeback   straight to the engine, from and to the request's buffer
    read that is not aligned        whole blocks are read into a bounce buffer, and the part is copied out
    write of whole blocks from
    unaligned memory                copied to a bounce buffer, then written
    write of parts of blocks        read, merge, write (merge.py); exclusive in WriteOrder
    write that touches the last,    through the page cache by a second descriptor, and on stable
    incomplete block of an image    storage before it is done; exclusive in WriteOrder
    discard                         whole granules by an ioctl or fallocate (discard.py)
    zeroing                         whole blocks by fallocate or writes of zeros (zero.py), and the
                                    parts of blocks at its ends by ordinary writes of zeros

Direct reads are coherent with the page cache, because the kernel first writes back the dirty pages of their range.
So reads need no order. A direct write and a write through the page cache do need an order.

An error is the result (-errno) of the one request that failed. `errnos.verdict` decides which errno the caller gets. A
write that reaches beyond the end fails as a whole with -ENOSPC, so a write never extends an image. If the disk shrank,
all I/O beyond its new end fails with -EIO. A write there would extend the image again, with zeros where its data was.
"""

import errno
import logging
import os
import time
from collections.abc import Sequence
from functools import partial

from meshfs.buffers import HEADROOM_BYTES, PAGE_BYTES, Buffer, BufferPool
from meshfs.disk.base import DiskRequest, Engine, Op
from meshfs.disk.discovery.scan import DiskFacts
from meshfs.disk.errnos import Sign
from meshfs.disk.file.directio import Alignment
from meshfs.disk.file.discard import Discards
from meshfs.disk.file.errors import OnError, answer_of
from meshfs.disk.file.losses import Flushes, Keep, Losses, may_report_loss
from meshfs.disk.file.merge import BlockMerge
from meshfs.disk.file.transfer import Transfer
from meshfs.disk.file.write_order import WriteOrder
from meshfs.disk.file.zero import ZeroFill, split

logger = logging.getLogger(__name__)


def _nobody(op: Op, number: int, sign: Sign) -> None:
    """Ignore the error. This is the default of ``on_error``, for a disk whose state is not tracked."""


# The page cache may hold the end of an image in one folio of up to this size (PMD size). A folio is written back as a
# whole. So a direct write to any part of that folio has to wait for a write through the page cache.
_FOLIO_MAX_BYTES = 2 << 20


class FileDisk:
    """Serves a file descriptor as a `meshfs.disk.base.Disk`. `open_disk` of claim.py creates it.

    ``fd`` is claimed and open, with O_DIRECT unless ``alignment`` is ANY. ``tail_fd`` is the same file without
    O_DIRECT. A writable disk needs ``tail_fd`` if its size is no multiple of a block. ``close`` closes both.
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
        #: The offset at which the disk ends now. It is less than ``size_bytes`` if the disk shrank.
        self.end_bytes = facts.size_bytes
        #: Gets each error that concerns the state of the disk. It must neither block nor raise.
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
        #: The modes of fallocate(2) by which ranges may be zeroed (zero.py).
        self.zero_modes = list(zero_modes)
        #: The units in which the disk can discard now (discard.py).
        self.granules = facts.granules
        self._tail_fd = tail_fd
        self._offset_mask = alignment.offset_bytes - 1
        self._memory_mask = alignment.memory_bytes - 1
        self._order: WriteOrder[DiskRequest] = WriteOrder()
        self._flushes = Flushes(engine, fd, self._flushed)
        self._discards = Discards(self, self._write_end, is_device=facts.is_block_device)

    def recall(self, seed: str, keep: Keep) -> None:
        """Continue with the verifier's seed that an earlier process stored. ``keep`` stores a new seed."""
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
            elif request.op == Op.DISCARD:
                self._discard(request)
            else:
                self._flushes.add(request)
        self.engine.flush()

    def flush_age_s(self) -> float:
        """Return for how many seconds the current flush has been at the disk, or 0 if there is none."""
        return self._flushes.age_s(time.monotonic())

    @property
    def busy(self) -> bool:
        """Return whether a write or a flush is in flight."""
        return bool(len(self._order)) or self._flushes.running

    def close(self) -> None:
        if self.busy:
            raise RuntimeError("a disk was closed with writes or flushes in flight")
        os.close(self.fd)
        if self._tail_fd is not None:
            os.close(self._tail_fd)

    def resize(self, size_bytes: int) -> None:
        """Set the size that the disk has now. A smaller size only moves ``end_bytes``, and ``size_bytes`` stays.

        Raises OSError if an image's new end needs a second descriptor and it cannot be opened.
        """
        self.end_bytes = size_bytes
        if size_bytes <= self.size_bytes:
            return
        if self._tail_fd is None and not self.read_only and size_bytes & self._offset_mask:
            self._tail_fd = os.open(f"/proc/self/fd/{self.fd}", os.O_RDWR | os.O_CLOEXEC)
        self.size_bytes = size_bytes

    def _finish(self, request: DiskRequest, result: int) -> None:
        """Finish the request with the kernel's result, translated for the caller if it is an error."""
        request.result = result if result >= 0 else answer_of(self, request, result)
        request.on_done(request)

    def _refuse(self, request: DiskRequest, number: int) -> None:
        """Finish a request with an errno that is already meant for the caller."""
        request.result = -number
        request.on_done(request)

    def _acquire(self, request: DiskRequest, length: int) -> Buffer | None:
        """Return a bounce buffer for the request. If memory is short, finish the request and return None."""
        try:
            return self.pool.acquire(length)
        except MemoryError:
            self._finish(request, -errno.ENOMEM)
            return None

    def _flushed(self, requests: list[DiskRequest], result: int) -> None:
        if result < 0:
            self.lose(os.strerror(-result))
        for request in requests:
            self._losses.answer(partial(self._finish, request, result))

    def lose(self, why: str) -> None:
        """Make a new write verifier, because acknowledged writes of any initiator may be lost.

        The kernel reports the loss only to the first flush. All other initiators learn of the loss from the new
        verifier. No flush is answered until the new verifier is stored.
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
        # The range is wider than the request by less than two blocks. Every buffer has tailroom for them.
        bounce = self._acquire(request, length)
        if bounce is None:
            return
        transfer = Transfer(
            self.engine,
            self.fd,
            bounce.address + HEADROOM_BYTES,
            stop - first,
            first,
            self._offset_mask,
            needed=min(stop, self.size_bytes) - first,
        )
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
        """Start a write to which WriteOrder gave its turn."""
        try:
            self._start_write(request)
        except MemoryError:
            # Buffers are acquired before any part of the write reaches the engine, so nothing is in flight.
            self._write_end(request, -errno.ENOMEM)

    def _start_write(self, request: DiskRequest) -> None:
        offset, length, buffer = request.offset, request.length, request.buffer
        if buffer is None:
            if request.op == Op.DISCARD:
                self._discards.add(request)
                return
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
            self._write_transfer(request, address).go_on(partial(self._write_end, request), result)
            return
        self._write_end(request, result)

    def _write_transfer(self, request: DiskRequest, address: int) -> Transfer:
        return Transfer(
            self.engine,
            self.fd,
            address,
            request.length,
            request.offset,
            self._offset_mask,
            write=True,
            dsync=request.write_through,
        )

    def _write_end(self, request: DiskRequest, result: int) -> None:
        """End the write: start the writes that waited for it, then call the request's ``on_done``."""
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
        if request.write_through and may_report_loss(-result, direct=bool(self._offset_mask)):
            self.lose(f"a write-through failed: {os.strerror(-result)}")
            self._losses.answer(partial(self._finish, request, result))
        else:
            self._finish(request, result)

    def _write_bounced(self, request: DiskRequest) -> None:
        length = request.length
        assert request.buffer is not None
        bounce = self.pool.acquire(length)
        source = request.buffer.view[request.start : request.start + length]
        bounce.view[HEADROOM_BYTES : HEADROOM_BYTES + length] = source
        transfer = self._write_transfer(request, bounce.address + HEADROOM_BYTES)
        transfer.start(partial(self._bounced_write_done, request, bounce))

    def _bounced_write_done(self, request: DiskRequest, bounce: Buffer, result: int) -> None:
        bounce.release()
        self._write_end(request, result)

    def _write_tail(self, request: DiskRequest, address: int) -> None:
        assert self._tail_fd is not None
        transfer = Transfer(
            self.engine.buffered,
            self._tail_fd,
            address,
            request.length,
            request.offset,
            0,
            write=True,
            dsync=True,
        )
        transfer.start(partial(self._write_end, request))

    # --- zeroing and discards ---------------------------------------------------------

    def _discard(self, request: DiskRequest) -> None:
        """Discard the granules inside the range. A discard is refused as a write is, or if the disk cannot discard."""
        if self._refuses_to_clear(request):
            return
        if not self.granules:
            self._refuse(request, errno.EOPNOTSUPP)
            return
        start, stop = self.granules.whole(request.offset, request.offset + request.length)
        if start == stop:
            self._finish(request, request.length)
        elif self._order.begin(request, start, stop):
            self._launch(request)

    def _refuses_to_clear(self, request: DiskRequest) -> bool:
        """Refuse a zeroing or a discard under the same conditions as a write. Return whether it was refused."""
        stop = request.offset + request.length
        if self.read_only:
            self._refuse(request, errno.EROFS)
        elif stop > self.end_bytes:
            self._refuse(request, errno.ENOSPC if stop > self.size_bytes else errno.EIO)
        else:
            return False
        return True

    def _zero(self, request: DiskRequest) -> None:
        """Zero the parts of the range one by one."""
        if not self._refuses_to_clear(request):
            block_bytes = max(PAGE_BYTES, self._offset_mask + 1)
            self._zero_parts(request, split(request.offset, request.length, block_bytes), block_bytes)

    def _zero_parts(self, request: DiskRequest, parts: list[tuple[int, int]], block_bytes: int) -> None:
        """Zero the first of ``parts``. Its completion zeroes the rest."""
        if not parts or not parts[0][1]:
            self._finish(request, request.length)
            return
        (offset, length), rest = parts[0], parts[1:]

        def done(part: DiskRequest) -> None:
            if part.buffer is not None:
                part.buffer.release()
            if part.result < 0:
                # The part's errno is translated for the caller already, and ``on_error`` has been called.
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

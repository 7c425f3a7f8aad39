"""Handles FSCTL_SET_ZERO_DATA of a disk. A range becomes zeros, piece by piece through the disk's queue.

A range may be as large as the disk. So it is zeroed in pieces, and only one piece at a time is queued or at the disk.
Between two pieces, other requests of the disk are served. If the open is closed, the connection is lost, or the request
is cancelled, no further piece begins.

    begin -> [queue -> disk] -> [queue -> disk] -> ... -> the reply
                      after a quick piece the next one is twice as large, and after a slow one half as large

A zeroing of more than one piece is asynchronous (MS-SMB2 3.3.4.2). Even if it was cancelled, it is answered only when
no piece is at the disk any more. Otherwise a piece could land over later writes.
"""

from typing import Final

from meshfs import limits
from meshfs.disk.base import Op
from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.exchange.waiting import AsyncCommand
from meshfs.exporter.kinds.disk.io import DiskIo, IoRequest
from meshfs.smb.constants import NtStatus
from meshfs.smb.status import status_from_errno

_PIECE_MIN_BYTES: Final = limits.ZERO_PIECE_MIN_BYTES
_PIECE_MAX_BYTES: Final = limits.ZERO_PIECE_MAX_BYTES


def begin(request: Request, opened: DiskIo, offset: int, stop: int, reply: bytes) -> None:
    """Zero the bytes from ``offset`` to ``stop``, which lie inside the disk, and then answer with ``reply``.

    Raises StatusError if a WRITE of the range would be refused.
    """
    if not opened.writable:
        raise StatusError(NtStatus.ACCESS_DENIED, "the open has no right to write")
    if offset >= stop:
        request.reply(reply)
        return
    locks = opened.disk.locks
    if locks and not locks.can_write(opened, offset, stop - offset):
        raise StatusError(NtStatus.FILE_LOCK_CONFLICT, "the range of the SET_ZERO_DATA is locked")
    _Zeroing(request, opened, offset, stop, reply).start()


def next_piece_bytes(piece_bytes: int, took_s: float) -> int:
    """Return the size of the next piece, if a piece of ``piece_bytes`` was done ``took_s`` after it was queued."""
    if took_s > limits.ZERO_PIECE_S:
        return max(piece_bytes // 2, _PIECE_MIN_BYTES)
    if took_s < limits.ZERO_PIECE_S / 4:
        return min(piece_bytes * 2, _PIECE_MAX_BYTES)
    return piece_bytes


class _Zeroing(AsyncCommand):
    """Carries out one request, from its first piece to its answer."""

    __slots__ = ("_offset", "_opened", "_piece", "_piece_bytes", "_queued_s", "_reply", "_status", "_stop")

    def __init__(self, request: Request, opened: DiskIo, offset: int, stop: int, reply: bytes) -> None:
        super().__init__(request, self._give_up)
        self._opened = opened
        self._offset = offset
        self._stop = stop
        self._reply = reply
        self._piece: IoRequest
        self._piece_bytes = limits.ZERO_PIECE_BYTES
        self._queued_s = 0.0
        #: The status of the answer if the zeroing ends early, or 0 while the zeroing goes on.
        self._status = 0

    def start(self) -> None:
        request = self.request
        self._queue_piece()
        request.peer.exporter.touch(self._opened.disk.runner)
        if self._stop - self._offset > self._piece_bytes and request.compound is None and request.may_wait:
            request.go_asynchronous(self)

    def end(self, status: int) -> None:
        """Begin no further piece, and answer with ``status``, because of a CANCEL or a lost connection."""
        self._status = status
        self._give_up()

    def _give_up(self) -> None:
        self._opened.cancel(self._piece)

    def _queue_piece(self) -> None:
        opened = self._opened
        self._queued_s = self.request.peer.exporter.clock()
        length = min(self._piece_bytes, self._stop - self._offset)
        piece = self._piece = IoRequest(
            Op.ZERO,
            self._offset,
            length,
            None,
            0,
            self._piece_done,
            flow=opened.flow,
            write_through=opened.write_through,
        )
        piece.request, piece.opened = self.request, opened
        opened.requests.add(piece)
        if not self.request.async_id:
            self.request.peer.cancellable[self.request.message.message_id] = piece
        opened.disk.runner.add(piece)

    def _piece_done(self, piece: IoRequest) -> None:
        """Queue the next piece, or answer. The runner calls this, and then looks at its queue again."""
        opened = self._opened
        opened.requests.discard(piece)
        if not self.request.async_id:
            self.request.peer.cancellable.pop(self.request.message.message_id, None)
        # If the zeroing is not asynchronous, `end` is not called when its connection is lost.
        ends = opened.closing or self.request.peer.closed
        status = self._status or (NtStatus.CANCELLED if ends else 0)
        if piece.result < 0:
            status = status or status_from_errno(-piece.result)
        else:
            self._offset += piece.length
            took_s = self.request.peer.exporter.clock() - self._queued_s
            self._piece_bytes = next_piece_bytes(self._piece_bytes, took_s)
        if not status and self._offset < self._stop:
            self._queue_piece()
            return
        if status and self._offset < self._stop:
            self.request.fail(status)
        else:
            self.request.reply(self._reply)
        if opened.closing and not opened.requests:
            opened.drained()

"""Carries out zeroings and discards of a disk, which may be as large as the disk, piece by piece.

Only one piece of a request at a time is queued or at the disk. Between two pieces, other requests of the disk are
served. If the open is closed, the connection is lost, the request is cancelled, or another open locks a part of the
rest, no further piece begins.

    start -> [queue -> disk] -> [queue -> disk] -> ... -> the reply
                      after a quick piece the next one is twice as large, and after a slow one half as large

A request of more than one piece is asynchronous (MS-SMB2 3.3.4.2). Even if it was cancelled, it is answered only when
no piece is at the disk any more. Otherwise a piece could land over later writes.
"""

from collections.abc import Callable, Sequence
from typing import Final

from meshfs import limits
from meshfs.disk.base import Op
from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.exchange.waiting import AsyncCommand
from meshfs.exporter.kinds.disk.io import DiskIo, IoRequest
from meshfs.granules import Granules
from meshfs.smb.constants import NtStatus
from meshfs.smb.status import status_from_errno

_PIECE_MIN_BYTES: Final = limits.ZERO_PIECE_MIN_BYTES
_PIECE_MAX_BYTES: Final = limits.ZERO_PIECE_MAX_BYTES


def check_may_clear(opened: DiskIo, ranges: Sequence[tuple[int, int]]) -> None:
    """Raise StatusError if a WRITE of one of the ranges [start, stop) would be refused."""
    if not opened.writable:
        raise StatusError(NtStatus.ACCESS_DENIED, "the open has no right to write")
    locks = opened.disk.locks
    if locks and not all(locks.can_write(opened, start, stop - start) for start, stop in ranges if start < stop):
        raise StatusError(NtStatus.FILE_LOCK_CONFLICT, "the range to be zeroed or discarded is locked")


def next_piece_bytes(piece_bytes: int, took_s: float) -> int:
    """Return the size of the next piece, if a piece of ``piece_bytes`` was done ``took_s`` after it was queued."""
    if took_s > limits.ZERO_PIECE_S:
        return max(piece_bytes // 2, _PIECE_MIN_BYTES)
    if took_s < limits.ZERO_PIECE_S / 4:
        return min(piece_bytes * 2, _PIECE_MAX_BYTES)
    return piece_bytes


class PiecewiseRequest(AsyncCommand):
    """Carries out one request, from its first piece to its answer.

    ``ranges`` lie inside the disk, and the first of them is not empty. Pieces end where a granule begins. ``answer``
    makes the reply, from the number of ranges that are done. If not all are done, the reply is an error, unless
    ``answer`` returns a reply for that number as well.
    """

    __slots__ = (
        "_answer",
        "_granules",
        "_index",
        "_offset",
        "_op",
        "_opened",
        "_piece",
        "_piece_bytes",
        "_queued_s",
        "_ranges",
        "_status",
    )

    def __init__(
        self,
        request: Request,
        opened: DiskIo,
        op: Op,
        ranges: Sequence[tuple[int, int]],
        granules: Granules,
        answer: Callable[[int], bytes | None],
    ) -> None:
        super().__init__(request, self._give_up)
        self._opened = opened
        self._op = op
        self._ranges = ranges
        self._granules = granules
        self._answer = answer
        # The range in progress, and where its next piece begins.
        self._index = 0
        self._offset = ranges[0][0]
        self._piece: IoRequest
        self._piece_bytes = limits.ZERO_PIECE_BYTES
        self._queued_s = 0.0
        #: The status of the answer if the request ends early, or 0 while it goes on.
        self._status = 0

    def start(self) -> None:
        request = self.request
        self._queue_piece()
        request.peer.exporter.touch(self._opened.disk.runner)
        is_long = len(self._ranges) > 1 or self._ranges[0][1] - self._offset > self._piece_bytes
        if is_long and request.compound is None and request.may_wait:
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
        length = self._granules.cut(self._offset, self._ranges[self._index][1], self._piece_bytes) - self._offset
        piece = self._piece = IoRequest(
            self._op,
            self._offset,
            length,
            None,
            0,
            self._piece_done,
            flow=opened.flow,
            write_through=opened.write_through and self._op is Op.ZERO,
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
        # If the request is not asynchronous, `end` is not called when its connection is lost.
        ends = opened.closing or self.request.peer.closed
        status = self._status or (NtStatus.CANCELLED if ends else 0)
        if piece.result < 0:
            status = status or status_from_errno(-piece.result)
        else:
            took_s = self.request.peer.exporter.clock() - self._queued_s
            self._piece_bytes = next_piece_bytes(self._piece_bytes, took_s)
            self._advance(piece.length)
        if not status and self._index < len(self._ranges):
            if self._may_go_on():
                self._queue_piece()
                return
            status = NtStatus.FILE_LOCK_CONFLICT
        reply = self._answer(self._index)
        if reply is None:
            self.request.fail(status)
        else:
            self.request.reply(reply)
        if opened.closing and not opened.requests:
            opened.drained()

    def _may_go_on(self) -> bool:
        """Return False if another open has locked a part of the present range since the request began.

        The owner of the lock may write there, and a later piece would change what was written.
        """
        opened, locks = self._opened, self._opened.disk.locks
        length = self._ranges[self._index][1] - self._offset
        return not locks or locks.can_write(opened, self._offset, length)

    def _advance(self, length: int) -> None:
        """Go on after a piece of ``length`` bytes. Empty ranges are done as soon as they are reached."""
        self._offset += length
        while self._offset >= self._ranges[self._index][1]:
            self._index += 1
            if self._index == len(self._ranges):
                return
            self._offset = self._ranges[self._index][0]

"""Handles FSCTL_SET_ZERO_DATA of a disk. A range becomes zeros, exactly, and piece by piece (`pieces.py`)."""

from meshfs.disk.base import Op
from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.disk.io import DiskIo
from meshfs.exporter.kinds.disk.pieces import PiecewiseRequest, check_may_clear
from meshfs.granules import BYTES
from meshfs.smb.constants import NtStatus
from meshfs.smb.messages import IoctlRequest, IoctlResponse, ZeroData


def set_zero_data(request: Request, opened: DiskIo, body: IoctlRequest) -> None:
    """Zero a range. A part of the range past the end of the disk is left out, because the disk does not grow."""
    wanted = ZeroData.unpack(body.input)
    if not 0 <= wanted.offset <= wanted.stop:
        raise StatusError(
            NtStatus.INVALID_PARAMETER, f"SET_ZERO_DATA cannot zero from {wanted.offset} to {wanted.stop}"
        )
    start, stop = wanted.offset, min(wanted.stop, opened.disk.size_bytes)
    check_may_clear(opened, [(start, stop)])
    reply = IoctlResponse(body.ctl_code, body.file_id, b"").pack()
    if start >= stop:
        request.reply(reply)
        return
    PiecewiseRequest(request, opened, Op.ZERO, [(start, stop)], BYTES, lambda done: reply if done else None).start()

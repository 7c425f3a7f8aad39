"""Checks READ, WRITE and FLUSH in the same way for all opens. The open answers (MS-SMB2 3.3.5.11 to 3.3.5.13).

READ and WRITE read their bodies themselves. A body as an object would cost as much as all the checks.
"""

from struct import Struct
from typing import Final

from meshfs import limits
from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.kind import find_open
from meshfs.smb.constants import HEADER_BYTES, NtStatus
from meshfs.smb.messages import FlushRequest
from meshfs.smb.wire import WRITE_DATA_OFFSET, WRITE_REQUEST

#: A READ_REQUEST without its last byte, which some clients leave out.
_READ_REQUEST: Final = Struct("<HBBIQQQIIIHH")
_READ_FIXED_BYTES: Final = HEADER_BYTES + _READ_REQUEST.size
_OFFSET_MAX: Final = (1 << 63) - 1
_CREDIT_BYTES: Final = limits.CREDIT_BYTES
_IO_SIZE_MAX_BYTES: Final = limits.IO_SIZE_MAX_BYTES


def read(request: Request) -> None:
    message = request.message
    if len(message.view) < _READ_FIXED_BYTES:
        raise StatusError(NtStatus.INVALID_PARAMETER, "the READ is too short")
    size, _, _, length, offset, persistent, volatile, minimum, channel, _, _, _ = _READ_REQUEST.unpack_from(
        message.view, HEADER_BYTES
    )
    opened = find_open(request, persistent, volatile)
    if size != 49 or channel or length > _IO_SIZE_MAX_BYTES or offset > _OFFSET_MAX:
        raise StatusError(
            NtStatus.INVALID_PARAMETER, f"a READ of {length} bytes at {offset}, channel {channel}, is not valid"
        )
    if length > (message.credit_charge or 1) * _CREDIT_BYTES:
        raise StatusError(NtStatus.INVALID_PARAMETER, f"the CreditCharge does not cover a READ of {length} bytes")
    opened.read(request, offset, length, minimum)


def write(request: Request) -> None:
    message = request.message
    view = message.view
    if len(view) < WRITE_DATA_OFFSET:
        raise StatusError(NtStatus.INVALID_PARAMETER, "the WRITE is too short")
    size, start, length, offset, persistent, volatile, channel, _, _, _, flags = WRITE_REQUEST.unpack_from(
        view, HEADER_BYTES
    )
    opened = find_open(request, persistent, volatile)
    if size != 49 or channel or length > _IO_SIZE_MAX_BYTES or offset > _OFFSET_MAX:
        raise StatusError(
            NtStatus.INVALID_PARAMETER, f"a WRITE of {length} bytes at {offset}, channel {channel}, is not valid"
        )
    if length and not WRITE_DATA_OFFSET <= start <= len(view) - length:
        raise StatusError(
            NtStatus.INVALID_PARAMETER,
            f"the data of the WRITE, {length} bytes from {start}, is not inside a message of {len(view)}",
        )
    if length > (message.credit_charge or 1) * _CREDIT_BYTES:
        raise StatusError(NtStatus.INVALID_PARAMETER, f"the CreditCharge does not cover a WRITE of {length} bytes")
    opened.write(request, offset, start, length, flags)


def flush(request: Request) -> None:
    body = FlushRequest.unpack(request.message.body)
    find_open(request, *body.file_id).flush(request)

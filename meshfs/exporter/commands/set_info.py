"""Handles SET_INFO, which changes a property of a file, or of the open itself (MS-SMB2 3.3.5.21)."""

from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.kind import Kind, find_open
from meshfs.smb.constants import InfoType, NtStatus
from meshfs.smb.info import SetMode, changed_mode, parse_change
from meshfs.smb.messages import SetInfoRequest, SetInfoResponse


def set_info(request: Request) -> None:
    body = SetInfoRequest.unpack(request.message.body)
    opened = find_open(request, *body.file_id)
    request.check_charge(len(body.buffer))
    if body.info_type != InfoType.FILE:
        raise StatusError(NtStatus.ACCESS_DENIED, f"SET_INFO of type {body.info_type} is not supported")
    change = parse_change(body.info_class, body.buffer)
    if isinstance(change, NtStatus):
        raise StatusError(change, f"SET_INFO class {body.info_class} is not supported")
    if isinstance(change, SetMode):
        _set_mode(opened, change.mode)
    else:
        opened.set_info(request, change)
    request.reply(SetInfoResponse().pack())


def _set_mode(opened: Kind, wanted: int) -> None:
    mode = changed_mode(opened.mode, wanted)
    if mode is None:
        raise StatusError(NtStatus.INVALID_PARAMETER, f"mode 0x{wanted:x} cannot be set")
    opened.set_mode(mode)

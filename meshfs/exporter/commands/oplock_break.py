"""Handles OPLOCK_BREAK, by which an initiator acknowledges a break (MS-SMB2 3.3.5.22)."""

from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.kind import find_open
from meshfs.smb.constants import NtStatus
from meshfs.smb.messages import OplockBreak, unpack_break_acknowledgment


def acknowledge(request: Request) -> None:
    """Let the open answer the acknowledgment. A lease cannot be acknowledged, because the exporter grants none."""
    body = unpack_break_acknowledgment(request.message.body)
    if not isinstance(body, OplockBreak):
        raise StatusError(NtStatus.INVALID_DEVICE_STATE, "there is no lease to acknowledge")
    find_open(request, *body.file_id).acknowledge_break(request, body)

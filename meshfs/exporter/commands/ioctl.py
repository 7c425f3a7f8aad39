"""Answers the FSCTLs of the connection. An open answers the FSCTLs that concern the open (IOCTL, MS-SMB2 3.3.5.15)."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from meshfs import limits
from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.kind import Kind, find_open, reply_to_ioctl
from meshfs.exporter.rules.negotiation import DIALECTS, capabilities_of, security_mode
from meshfs.model import encode_disks
from meshfs.smb.constants import IOCTL_IS_FSCTL, AccessMask, Capabilities, Fsctl, NtStatus
from meshfs.smb.messages import (
    IoctlRequest,
    ValidateNegotiateRequest,
    ValidateNegotiateResponse,
)
from meshfs.smb.messages.ioctl import NO_FILE, pack_interfaces

logger = logging.getLogger(__name__)


def ioctl(request: Request) -> None:
    """Answer an FSCTL of the connection, or let the open answer."""
    body = IoctlRequest.unpack(request.message.body)
    if body.flags != IOCTL_IS_FSCTL:
        raise StatusError(NtStatus.NOT_SUPPORTED, "the IOCTL is no FSCTL")
    if body.ctl_code in _NOT_SUPPORTED:
        raise StatusError(_NOT_SUPPORTED[body.ctl_code], f"FSCTL 0x{body.ctl_code:08x} is not supported")
    payload_bytes = max(len(body.input), body.output_bytes_max, body.input_bytes_max)
    of_connection = _OF_CONNECTION.get(body.ctl_code)
    if of_connection is not None:
        request.check_charge(payload_bytes)
        of_connection(request, body)
        return
    # If there is no such open, FILE_CLOSED comes before any other refusal.
    opened = find_open(request, *body.file_id)
    request.check_charge(payload_bytes)
    if body.ctl_code == Fsctl.MESHFS_QUERY_DISKS:
        _query_disks(request, opened, body)
    else:
        opened.ioctl(request, body)


def _validate_negotiate(request: Request, body: IoctlRequest) -> None:
    """Confirm the negotiation, or end the connection if NEGOTIATE was changed on its way (3.3.5.15.12)."""
    peer = request.peer
    negotiated = peer.connection.negotiated
    asked = ValidateNegotiateRequest.unpack(body.input)
    seen = (negotiated.peer_capabilities, negotiated.peer_guid, negotiated.peer_security_mode)
    dialect = next((dialect for dialect in DIALECTS if dialect in asked.dialects), None)
    if (asked.capabilities, asked.guid, asked.security_mode) != seen or dialect is not negotiated.dialect:
        peer.exporter.count("negotiations_changed")
        peer.log_warning("the connection is closed, because its NEGOTIATE was changed on its way")
        peer.abort()
        return
    assert dialect is not None
    mode = security_mode(peer.exporter.security)
    reply = ValidateNegotiateResponse(capabilities_of(negotiated), peer.exporter.guid, mode, dialect).pack()
    if len(reply) > body.output_bytes_max:
        raise StatusError(NtStatus.BUFFER_TOO_SMALL, "the output buffer is too small for the reply")
    reply_to_ioctl(request, body, reply)


def _query_interfaces(request: Request, body: IoctlRequest) -> None:
    """Answer with the addresses to which further channels can be made (3.3.5.15.11)."""
    peer = request.peer
    if body.file_id != NO_FILE:
        raise StatusError(NtStatus.INVALID_PARAMETER, "QUERY_NETWORK_INTERFACE_INFO must not name a file")
    if not peer.connection.negotiated.peer_capabilities & Capabilities.MULTI_CHANNEL:
        raise StatusError(NtStatus.NOT_SUPPORTED, "the peer does not ask for several channels")
    interfaces = peer.exporter.interfaces()
    if not interfaces:
        raise StatusError(NtStatus.NOT_SUPPORTED, "no network interface can be advertised")
    output = pack_interfaces(interfaces[: limits.NETWORK_INTERFACES_MAX])
    if len(output) > body.output_bytes_max:
        raise StatusError(
            NtStatus.BUFFER_TOO_SMALL, f"the output buffer is too small for {len(output)} bytes of network interfaces"
        )
    reply_to_ioctl(request, body, output)


def _query_disks(request: Request, opened: Kind, body: IoctlRequest) -> None:
    """Answer with the disks of an open, or only with the disk that the input names."""
    if not opened.access & AccessMask.READ_DATA:
        raise StatusError(NtStatus.ACCESS_DENIED, "the open has no right to read")
    user = request.session.user
    disks = opened.disks(request, body.input)
    digest = request.peer.exporter.config_digest
    output = encode_disks([replace(disk.info_for(user), config=digest) for disk in disks])
    if len(output) > body.output_bytes_max:
        raise StatusError(NtStatus.BUFFER_TOO_SMALL, f"the output buffer is too small for {len(output)} bytes of disks")
    reply_to_ioctl(request, body, output)


#: The FSCTLs that concern the connection, not an open.
_OF_CONNECTION: Final[dict[int, Callable[[Request, IoctlRequest], None]]] = {
    Fsctl.VALIDATE_NEGOTIATE_INFO: _validate_negotiate,
    Fsctl.QUERY_NETWORK_INTERFACE_INFO: _query_interfaces,
}
#: FSCTLs that are known, and are refused for all opens.
_NOT_SUPPORTED: Final[dict[int, NtStatus]] = {
    Fsctl.DFS_GET_REFERRALS: NtStatus.FS_DRIVER_REQUIRED,
    Fsctl.DFS_GET_REFERRALS_EX: NtStatus.FS_DRIVER_REQUIRED,
    Fsctl.PIPE_WAIT: NtStatus.NOT_SUPPORTED,
}

"""IOCTL (MS-SMB2 3.3.5.15)."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from meshfs import limits
from meshfs.errors import StatusError
from meshfs.exporter.commands.negotiate import DIALECTS, capabilities_of, security_mode
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds import scratch_files, zeroing
from meshfs.exporter.kinds.disk import DiskOpen
from meshfs.exporter.kinds.kind import find_open
from meshfs.exporter.kinds.pipe import PipeOpen
from meshfs.exporter.kinds.root import RootOpen
from meshfs.exporter.kinds.scratch_open import ScratchOpen
from meshfs.model import encode_disks
from meshfs.smb.constants import IOCTL_IS_FSCTL, AccessMask, Capabilities, Fsctl, NtStatus
from meshfs.smb.messages import (
    IoctlRequest,
    IoctlResponse,
    ValidateNegotiateRequest,
    ValidateNegotiateResponse,
    ZeroData,
)
from meshfs.smb.messages.ioctl import NO_FILE, pack_interfaces

logger = logging.getLogger(__name__)


def ioctl(request: Request) -> None:
    body = IoctlRequest.unpack(request.message.body)
    if body.flags != IOCTL_IS_FSCTL:
        raise StatusError(NtStatus.NOT_SUPPORTED, "IOCTL that is no FSCTL")
    if body.ctl_code in _NOT_SUPPORTED:
        raise StatusError(_NOT_SUPPORTED[body.ctl_code], f"FSCTL 0x{body.ctl_code:08x}")
    if body.ctl_code not in _WITHOUT_FILE:
        # An open that is not there is told before anything else is wrong.
        find_open(request, *body.file_id)
    request.check_charge(max(len(body.input), body.output_bytes_max, body.input_bytes_max))
    handler = _HANDLERS.get(body.ctl_code)
    if handler is None:
        raise StatusError(NtStatus.INVALID_DEVICE_REQUEST, f"FSCTL 0x{body.ctl_code:08x}")
    handler(request, body)


def _reply(request: Request, body: IoctlRequest, output: bytes, status: int = NtStatus.SUCCESS) -> None:
    request.reply(IoctlResponse(body.ctl_code, body.file_id, output).pack(), status)


def _validate_negotiate(request: Request, body: IoctlRequest) -> None:
    """3.3.5.15.12: a NEGOTIATE that was changed on its way ends the connection."""
    peer = request.peer
    negotiated = peer.connection.negotiated
    asked = ValidateNegotiateRequest.unpack(body.input)
    seen = (negotiated.peer_capabilities, negotiated.peer_guid, negotiated.peer_security_mode)
    dialect = next((dialect for dialect in DIALECTS if dialect in asked.dialects), None)
    if (asked.capabilities, asked.guid, asked.security_mode) != seen or dialect is not negotiated.dialect:
        peer.exporter.count("negotiations_changed")
        peer.log_warning("what NEGOTIATE asked for is not what arrived: closed")
        peer.abort()
        return
    assert dialect is not None
    mode = security_mode(peer.exporter.security)
    reply = ValidateNegotiateResponse(capabilities_of(negotiated), peer.exporter.guid, mode, dialect).pack()
    if len(reply) > body.output_bytes_max:
        raise StatusError(NtStatus.BUFFER_TOO_SMALL, "VALIDATE_NEGOTIATE_INFO")
    _reply(request, body, reply)


def _query_interfaces(request: Request, body: IoctlRequest) -> None:
    """3.3.5.15.11: the addresses to bind further channels to."""
    peer = request.peer
    if body.file_id != NO_FILE:
        raise StatusError(NtStatus.INVALID_PARAMETER, "QUERY_NETWORK_INTERFACE_INFO of a file")
    if not peer.connection.negotiated.peer_capabilities & Capabilities.MULTI_CHANNEL:
        raise StatusError(NtStatus.NOT_SUPPORTED, "the peer does not ask for several channels")
    interfaces = peer.exporter.interfaces()
    if not interfaces:
        raise StatusError(NtStatus.NOT_SUPPORTED, "no network interfaces to tell of")
    output = pack_interfaces(interfaces[: limits.NETWORK_INTERFACES_MAX])
    if len(output) > body.output_bytes_max:
        raise StatusError(NtStatus.BUFFER_TOO_SMALL, f"{len(output)} bytes of network interfaces")
    _reply(request, body, output)


def _query_disks(request: Request, body: IoctlRequest) -> None:
    """Tell of the open's disk, of all disks, or of the one disk that the input names."""
    opened = request.open
    if not opened.access & AccessMask.READ_DATA:
        raise StatusError(NtStatus.ACCESS_DENIED, "open has no right to read")
    user = request.session.user
    if isinstance(opened, DiskOpen):
        disks = [opened.disk]
    elif isinstance(opened, RootOpen) and body.input:
        named = request.peer.exporter.shares.find(body.input.decode(errors="replace"), user)
        disks = [] if named is None else [named]
    elif isinstance(opened, RootOpen):
        disks = request.peer.exporter.shares.visible(user)
    else:
        raise StatusError(NtStatus.INVALID_DEVICE_REQUEST, "neither a pipe nor a scratch file has disks")
    digest = request.peer.exporter.config_digest
    output = encode_disks([replace(disk.info_for(user), config=digest) for disk in disks])
    if len(output) > body.output_bytes_max:
        raise StatusError(NtStatus.BUFFER_TOO_SMALL, f"{len(output)} bytes of disks")
    _reply(request, body, output)


def _pipe_transceive(request: Request, body: IoctlRequest) -> None:
    opened = request.open
    if not isinstance(opened, PipeOpen):
        raise StatusError(NtStatus.INVALID_DEVICE_REQUEST, "not a pipe")
    opened.write(body.input)
    data, more = opened.read(body.output_bytes_max)
    _reply(request, body, data, NtStatus.BUFFER_OVERFLOW if more else NtStatus.SUCCESS)


def _object_id(request: Request, body: IoctlRequest) -> None:
    """Every scratch file has one from the beginning (MS-FSA 2.1.5.10.1)."""
    opened = request.open
    if not isinstance(opened, ScratchOpen):
        raise StatusError(NtStatus.INVALID_DEVICE_REQUEST, "only scratch files have object ids")
    output = scratch_files.object_id(opened.file, request.peer.exporter.guid)
    if len(output) > body.output_bytes_max:
        raise StatusError(NtStatus.INVALID_PARAMETER, f"{len(output)} bytes of an object id")
    _reply(request, body, output)


def _set_zero_data(request: Request, body: IoctlRequest) -> None:
    """A range that ends behind the disk ends at the disk's end: a zeroing extends nothing."""
    opened = request.open
    if not isinstance(opened, DiskOpen):
        raise StatusError(NtStatus.INVALID_DEVICE_REQUEST, f"{opened.name!r} is no disk")
    wanted = ZeroData.unpack(body.input)
    if not 0 <= wanted.offset <= wanted.stop:
        raise StatusError(NtStatus.INVALID_PARAMETER, f"SET_ZERO_DATA from {wanted.offset} to {wanted.stop}")
    stop = min(wanted.stop, opened.disk.size_bytes)
    zeroing.begin(request, opened, wanted.offset, stop, IoctlResponse(body.ctl_code, body.file_id, b"").pack())


_HANDLERS: Final[dict[int, Callable[[Request, IoctlRequest], None]]] = {
    Fsctl.VALIDATE_NEGOTIATE_INFO: _validate_negotiate,
    Fsctl.QUERY_NETWORK_INTERFACE_INFO: _query_interfaces,
    Fsctl.MESHFS_QUERY_DISKS: _query_disks,
    Fsctl.PIPE_TRANSCEIVE: _pipe_transceive,
    Fsctl.SET_ZERO_DATA: _set_zero_data,
    Fsctl.GET_OBJECT_ID: _object_id,
    Fsctl.CREATE_OR_GET_OBJECT_ID: _object_id,
}
#: Those that concern the connection, not an open.
_WITHOUT_FILE: Final = frozenset((Fsctl.VALIDATE_NEGOTIATE_INFO, Fsctl.QUERY_NETWORK_INTERFACE_INFO))
#: Known ones that are refused whatever the open.
_NOT_SUPPORTED: Final[dict[int, NtStatus]] = {
    Fsctl.DFS_GET_REFERRALS: NtStatus.FS_DRIVER_REQUIRED,
    Fsctl.DFS_GET_REFERRALS_EX: NtStatus.FS_DRIVER_REQUIRED,
    Fsctl.PIPE_WAIT: NtStatus.NOT_SUPPORTED,
}

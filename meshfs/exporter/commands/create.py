"""Handles CREATE, which opens something (MS-SMB2 3.3.5.9).

The share and the name decide what is opened (`kinds/registry.py`). This module has the checks that all kinds of opens
share.
"""

from typing import Final

from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.at_create import check_room
from meshfs.exporter.kinds.registry import creator
from meshfs.smb.constants import (
    AccessMask,
    CreateDisposition,
    CreateOptions,
    ImpersonationLevel,
    NtStatus,
    ShareAccess,
)
from meshfs.smb.messages import CreateRequest

_SHARE_ALL: Final = int(ShareAccess.READ | ShareAccess.WRITE | ShareAccess.DELETE)


def create(request: Request) -> None:
    """Let the kind of open that the share and the name decide on answer the CREATE."""
    body = CreateRequest.unpack(request.message.body)
    _check(body)
    check_room(request.session)
    creator(request.tree.share, body.name).create(request, body)


def _check(body: CreateRequest) -> None:
    """Raise StatusError if the fields contradict each other, or ask for something that no share has."""
    if body.impersonation > ImpersonationLevel.DELEGATE:
        raise StatusError(NtStatus.BAD_IMPERSONATION_LEVEL, f"there is no impersonation level {body.impersonation}")
    both = CreateOptions.DIRECTORY_FILE | CreateOptions.NON_DIRECTORY_FILE
    if (
        body.disposition > CreateDisposition.OVERWRITE_IF
        or body.share_access & ~_SHARE_ALL
        or body.options & both == both
    ):
        raise StatusError(NtStatus.INVALID_PARAMETER, "fields of the CREATE contradict each other")
    if body.name.startswith("\\"):
        raise StatusError(NtStatus.INVALID_PARAMETER, "the name begins with a separator")
    if body.options & CreateOptions.OPEN_BY_FILE_ID:
        raise StatusError(NtStatus.NOT_SUPPORTED, "a file cannot be opened by its id")
    if body.desired_access & AccessMask.ACCESS_SYSTEM_SECURITY:
        # After this status, a client that asks for the SACL goes on without it. After another one, it gives up.
        raise StatusError(NtStatus.PRIVILEGE_NOT_HELD, "nobody may see or change what is audited")
    if not body.desired_access:
        raise StatusError(NtStatus.ACCESS_DENIED, "the CREATE asks for no access")
    if body.context(b"TWrp") is not None:
        raise StatusError(NtStatus.OBJECT_NAME_NOT_FOUND, "no earlier versions are kept")

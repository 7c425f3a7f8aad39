"""CREATE and CLOSE (MS-SMB2 3.3.5.9, 3.3.5.10).

A share is one directory of disks. Disks exist or do not: none is made, removed or truncated,
and overwriting one keeps its size and content, as O_TRUNC on a block device does (`disk_create`).
The share `scratch` is another matter: `scratch_create`.
"""

from typing import Final

from meshfs.errors import StatusError
from meshfs.exporter.commands.query import facts_of
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds import disk_create, scratch_create
from meshfs.exporter.kinds import srvsvc as rpc
from meshfs.exporter.kinds.created import answer, check_room
from meshfs.exporter.kinds.kind import Kind, find_open
from meshfs.exporter.kinds.pipe import PipeOpen
from meshfs.exporter.kinds.root import RootOpen
from meshfs.exporter.state.shares import READ_RIGHTS, SHARE_SCRATCH, WRITE_RIGHTS, expand_access
from meshfs.model import SHARE_DISKS, SHARE_DISKS_SYSTEM
from meshfs.smb.constants import (
    AccessMask,
    CloseFlags,
    CreateAction,
    CreateDisposition,
    CreateOptions,
    ImpersonationLevel,
    NtStatus,
    ShareAccess,
)
from meshfs.smb.messages import (
    CloseRequest,
    CloseResponse,
    CreateRequest,
)

_D = CreateDisposition
_OVERWRITES: Final = (_D.SUPERSEDE, _D.OVERWRITE, _D.OVERWRITE_IF)
_SHARE_ALL: Final = int(ShareAccess.READ | ShareAccess.WRITE | ShareAccess.DELETE)
_SRVSVC: Final = "srvsvc"


def create(request: Request) -> None:
    body = CreateRequest.unpack(request.message.body)
    _check(body)
    check_room(request.session)
    if request.tree.share == SHARE_SCRATCH:
        scratch_create.create(request, body)
        return
    if body.options & CreateOptions.DELETE_ON_CLOSE:
        raise StatusError(NtStatus.ACCESS_DENIED, "disks are not deleted")
    if request.tree.io_class is None:
        opened: Kind = _open_pipe(request, body)
        allowed = opened.access
    elif not body.name:
        opened, allowed = _open_root(request, body)
    else:
        disk_create.create(request, body)
        return
    answer(request, body, opened, allowed=allowed, action=CreateAction.OPENED)


def _check(body: CreateRequest) -> None:
    """What can be wrong with any CREATE."""
    if body.impersonation > ImpersonationLevel.DELEGATE:
        raise StatusError(NtStatus.BAD_IMPERSONATION_LEVEL, f"impersonation level {body.impersonation}")
    both = CreateOptions.DIRECTORY_FILE | CreateOptions.NON_DIRECTORY_FILE
    if body.disposition > _D.OVERWRITE_IF or body.share_access & ~_SHARE_ALL or body.options & both == both:
        raise StatusError(NtStatus.INVALID_PARAMETER, "CREATE fields contradict each other")
    if body.name.startswith("\\"):
        raise StatusError(NtStatus.INVALID_PARAMETER, "name begins with a separator")
    if body.options & CreateOptions.OPEN_BY_FILE_ID:
        raise StatusError(NtStatus.NOT_SUPPORTED, "open by file id")
    if body.desired_access & AccessMask.ACCESS_SYSTEM_SECURITY:
        # A client that asks for the SACL goes on without it after this status, and gives up after another.
        raise StatusError(NtStatus.PRIVILEGE_NOT_HELD, "nobody may see or change what is audited")
    if not body.desired_access:
        raise StatusError(NtStatus.ACCESS_DENIED, "no access wanted")
    if body.context(b"TWrp") is not None:
        raise StatusError(NtStatus.OBJECT_NAME_NOT_FOUND, "no earlier versions are kept")


def _open_root(request: Request, body: CreateRequest) -> tuple[RootOpen, int]:
    if body.options & CreateOptions.NON_DIRECTORY_FILE:
        raise StatusError(NtStatus.FILE_IS_A_DIRECTORY, "the root is a directory")
    if body.disposition == _D.CREATE:
        raise StatusError(NtStatus.OBJECT_NAME_COLLISION, "the root exists")
    if body.disposition in _OVERWRITES:
        raise StatusError(NtStatus.INVALID_PARAMETER, "a directory is not overwritten")
    allowed = int(READ_RIGHTS)
    granted = expand_access(body.desired_access, allowed)
    # A program that opens with all generic rights does not mean to make files.
    if not body.desired_access & WRITE_RIGHTS:
        granted &= ~int(WRITE_RIGHTS)
    if granted & ~allowed:
        raise StatusError(NtStatus.ACCESS_DENIED, f"access 0x{granted:x} to the root")
    exporter = request.peer.exporter
    return RootOpen(request.session, request.tree, exporter.new_file_id(), granted, exporter.watched), allowed


def _open_pipe(request: Request, body: CreateRequest) -> PipeOpen:
    if body.name.lower() != _SRVSVC:
        raise StatusError(NtStatus.OBJECT_NAME_NOT_FOUND, f"no pipe {body.name!r}")
    exporter = request.peer.exporter
    shares: tuple[tuple[str, str], ...] = (
        (SHARE_DISKS, "disks, for applications"),
        (SHARE_DISKS_SYSTEM, "disks, for the system"),
    )
    if exporter.scratch is not None:
        shares += ((SHARE_SCRATCH, "files in memory"),)
    return PipeOpen(request.session, request.tree, exporter.new_file_id(), body.name, rpc.ShareList(shares).answer)


def close(request: Request) -> None:
    """Answered when nothing of the open is at its disk any more: an initiator's fence.

    Also where the open is closing already: an initiator asks again when it lost the channel it asked on.
    """
    body = CloseRequest.unpack(request.message.body)
    closing = request.session.find_closing(request.tree, body.file_id)
    if closing is not None:
        closing.close(lambda: request.fail(NtStatus.FILE_CLOSED))
        return
    opened = find_open(request, *body.file_id)
    reply = CloseResponse()
    if body.flags & CloseFlags.POSTQUERY_ATTRIB:
        facts = facts_of(request, opened)
        reply = CloseResponse(
            int(CloseFlags.POSTQUERY_ATTRIB), facts.times, facts.allocation_bytes, facts.size_bytes, facts.attributes
        )
    opened.close(lambda: request.reply(reply.pack()))

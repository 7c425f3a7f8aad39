"""CREATE and CLOSE (MS-SMB2 3.3.5.9, 3.3.5.10).

A share is one directory of disks. Disks exist or do not: none is made, removed or truncated,
and overwriting one keeps its size and content, as O_TRUNC on a block device does. The share
`scratch` is another matter: `scratch_create`.
"""

from typing import Final

from meshfs.errors import StatusError
from meshfs.exporter import rpc, scratch_create
from meshfs.exporter.created import answer, check_room
from meshfs.exporter.opens import AnyOpen, DiskOpen, PipeOpen, RootOpen
from meshfs.exporter.query import facts_of
from meshfs.exporter.request import Request
from meshfs.exporter.shares import (
    ATTRIBUTE_RIGHTS,
    DISK_RIGHTS,
    READ_RIGHTS,
    SHARE_SCRATCH,
    WRITE_RIGHTS,
    OfferedDisk,
    expand_access,
)
from meshfs.model import SHARE_DISKS, SHARE_DISKS_SYSTEM, Access
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
from meshfs.smb.info import has_wildcards
from meshfs.smb.messages import (
    CloseRequest,
    CloseResponse,
    CreateRequest,
)

_D = CreateDisposition
_OVERWRITES: Final = (_D.SUPERSEDE, _D.OVERWRITE, _D.OVERWRITE_IF)
_ACTIONS: Final = {_D.SUPERSEDE: CreateAction.SUPERSEDED, _D.OVERWRITE: CreateAction.OVERWRITTEN,
                   _D.OVERWRITE_IF: CreateAction.OVERWRITTEN}  # fmt: skip
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
        opened: AnyOpen = _open_pipe(request, body)
        allowed = opened.access
    elif not body.name:
        opened, allowed = _open_root(request, body)
    else:
        opened, allowed = _open_disk(request, body)
    action = _ACTIONS.get(_D(body.disposition), CreateAction.OPENED)
    answer(request, body, opened, allowed=allowed, action=action)


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
    return RootOpen(request.session, request.tree, request.peer.exporter.new_file_id(), granted), allowed


def _open_disk(request: Request, body: CreateRequest) -> tuple[DiskOpen, int]:
    disk = _find(request, body)
    allowed = DISK_RIGHTS[disk.access_of(request.session.user)]
    wanted = body.desired_access
    if body.disposition in _OVERWRITES:
        wanted |= AccessMask.WRITE_DATA
    granted = expand_access(wanted, allowed)
    if granted & ~allowed:
        if granted & ~allowed & ~int(WRITE_RIGHTS) == 0 and disk.info.access is Access.READ_ONLY:
            raise StatusError(NtStatus.MEDIA_WRITE_PROTECTED, f"disk {disk.name} is read-only")
        raise StatusError(NtStatus.ACCESS_DENIED, f"access 0x{granted:x} to disk {disk.name}")
    if disk.is_away and granted & ~int(ATTRIBUTE_RIGHTS):
        raise StatusError(NtStatus.NO_SUCH_DEVICE, f"disk {disk.name} is {disk.info.state}: {disk.info.why}")
    if not disk.shares_with(granted, body.share_access):
        raise StatusError(NtStatus.SHARING_VIOLATION, f"disk {disk.name} is open otherwise")
    opened = DiskOpen(
        request.session, request.tree, request.peer.exporter.new_file_id(), granted, body.share_access, disk,
        write_through=bool(body.options & CreateOptions.WRITE_THROUGH),
    )  # fmt: skip
    return opened, allowed


def _find(request: Request, body: CreateRequest) -> OfferedDisk:
    name = body.name.removesuffix("::$DATA")
    if has_wildcards(name) or ":" in name or "/" in name:
        raise StatusError(NtStatus.OBJECT_NAME_INVALID, f"name {name!r}")
    disk = request.peer.exporter.shares.find(name, request.session.user)
    if disk is None:
        if "\\" in name:
            raise StatusError(NtStatus.OBJECT_PATH_NOT_FOUND, f"no folder of {name!r}")
        if body.disposition in (_D.OPEN, _D.OVERWRITE):
            raise StatusError(NtStatus.OBJECT_NAME_NOT_FOUND, f"no disk {name!r}")
        raise StatusError(NtStatus.ACCESS_DENIED, f"no disk {name!r}, and none is made")
    if body.disposition == _D.CREATE:
        raise StatusError(NtStatus.OBJECT_NAME_COLLISION, f"disk {name!r} exists")
    if body.options & CreateOptions.DIRECTORY_FILE:
        raise StatusError(NtStatus.NOT_A_DIRECTORY, f"{name!r} is a disk")
    return disk


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
    closing = request.session.find_closing(request.tree, body.file_id.volatile)
    if closing is not None:
        closing.close(lambda: request.fail(NtStatus.FILE_CLOSED))
        return
    opened = request.find_open(body.file_id.volatile)
    reply = CloseResponse()
    if body.flags & CloseFlags.POSTQUERY_ATTRIB:
        facts = facts_of(request, opened)
        reply = CloseResponse(
            int(CloseFlags.POSTQUERY_ATTRIB), facts.times, facts.allocation_bytes, facts.size_bytes, facts.attributes
        )
    opened.close(lambda: request.reply(reply.pack()))

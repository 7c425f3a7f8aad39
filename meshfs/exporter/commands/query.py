"""CHANGE_NOTIFY, QUERY_INFO and SET_INFO (MS-SMB2 3.3.5.19 to 3.3.5.21)."""

import hashlib
from typing import Final

from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds import scratch_files
from meshfs.exporter.kinds.disk import DiskOpen
from meshfs.exporter.kinds.kind import Kind, find_open
from meshfs.exporter.kinds.root import RootOpen
from meshfs.exporter.kinds.scratch_open import ScratchOpen
from meshfs.exporter.rules.holdings import Resource
from meshfs.exporter.state.directory import Directory
from meshfs.exporter.state.open import Open
from meshfs.exporter.state.shares import OfferedDisk
from meshfs.model import Access
from meshfs.smb.constants import AccessMask, InfoType, NtStatus
from meshfs.smb.info import (
    Change,
    FileFacts,
    FilesystemFacts,
    Output,
    SetAllocation,
    SetBasic,
    SetDisposition,
    SetEndOfFile,
    SetMode,
    SetRename,
    changed_mode,
    parse_change,
    query_file,
    query_filesystem,
    query_security,
    short_name,
)
from meshfs.smb.messages import (
    ChangeNotifyRequest,
    ChangeNotifyResponse,
    ErrorResponse,
    FileTimes,
    QueryInfoRequest,
    QueryInfoResponse,
    SetInfoRequest,
    SetInfoResponse,
    filetime,
)

_ERROR: Final = 0xC0000000
#: SMB2_WATCH_TREE (MS-SMB2 2.2.35).
_WATCH_TREE: Final = 0x0001
_ROOT_INDEX: Final = 1


def index_number(text: str) -> int:
    """A stable file or volume number of 64 bits for a name; never 0 or all ones."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little") << 1 | 2


def volume_serial(request: Request) -> int:
    return index_number(request.peer.exporter.name) & 0xFFFFFFFF


def disk_facts(request: Request, disk: OfferedDisk) -> FileFacts:
    exporter = request.peer.exporter
    return FileFacts(
        name=disk.name,
        size_bytes=disk.size_bytes,
        allocation_bytes=disk.size_bytes,
        index_number=index_number(disk.info.id),
        short_name=short_name(disk.name),
        read_only=disk.access_of(request.session.user) is Access.READ_ONLY,
        times=_disk_times(exporter.started_filetime, disk.written_ns()),
        volume_serial=volume_serial(request),
    )


def _disk_times(started: int, written_ns: int) -> FileTimes:
    """All times of a disk are that of its last write, as reading it leaves no trace."""
    written = filetime(written_ns) if written_ns else started
    return FileTimes(min(started, written), written, written, written)


def root_facts(request: Request) -> FileFacts:
    exporter = request.peer.exporter
    return FileFacts(
        name="",
        size_bytes=0,
        allocation_bytes=0,
        index_number=_ROOT_INDEX,
        is_directory=True,
        times=FileTimes.same(exporter.started_filetime),
        volume_serial=volume_serial(request),
    )


def facts_of(request: Request, opened: Open) -> FileFacts:
    if isinstance(opened, DiskOpen):
        return disk_facts(request, opened.disk)
    if isinstance(opened, RootOpen):
        return root_facts(request)
    if isinstance(opened, ScratchOpen):
        return scratch_files.facts(opened.file, opened.file.path, volume_serial(request))
    return FileFacts(opened.name, 0, 4096, index_number(opened.name))


def change_notify(request: Request) -> None:
    """Answered when something in the directory changes, or below it where that is asked for."""
    body = ChangeNotifyRequest.unpack(request.message.body)
    opened = find_open(request, *body.file_id)
    request.check_charge(body.output_bytes_max)
    directory = opened.as_listable()
    opened.watch(
        body.completion_filter, whole_tree=bool(body.flags & _WATCH_TREE), output_bytes_max=body.output_bytes_max
    )
    if directory.has_changes:
        _tell_changes(request, directory, body.output_bytes_max)
        return

    def tell() -> None:
        abort()
        _tell_changes(request, directory, body.output_bytes_max)

    def abort() -> None:
        opened.waits.discard(waiting)
        del directory.watchers[tell]
        holdings.give_back(Resource.NOTIFIES)

    holdings = request.session.holdings
    waiting = holdings.take_for(lambda: request.wait(abort), Resource.NOTIFIES)
    opened.waits.add(waiting)
    directory.watchers[tell] = None


def _tell_changes(request: Request, directory: Directory, output_bytes_max: int) -> None:
    """Answer a CHANGE_NOTIFY with the changes, or with the demand to list the directory again."""
    changes = directory.take(output_bytes_max)
    if changes is None:
        request.reply(ChangeNotifyResponse(b"").pack(), NtStatus.NOTIFY_ENUM_DIR)
    else:
        request.reply(ChangeNotifyResponse(changes).pack())


def query_info(request: Request) -> None:
    body = QueryInfoRequest.unpack(request.message.body)
    opened = find_open(request, *body.file_id)
    request.check_charge(max(body.output_bytes_max, len(body.input)))
    output = _output(request, opened, body)
    if output.status & _ERROR == _ERROR:
        data = ErrorResponse.with_context(output.data) if output.data else ErrorResponse()
        request.reply(data.pack(), output.status)
    else:
        request.reply(QueryInfoResponse(output.data).pack(), output.status)


def _output(request: Request, opened: Kind, body: QueryInfoRequest) -> Output:
    if body.info_type == InfoType.FILE:
        return query_file(body.info_class, facts_of(request, opened), body.output_bytes_max, opened.facts())
    if body.info_type == InfoType.FILESYSTEM:
        return query_filesystem(body.info_class, _volume(request, opened), body.output_bytes_max)
    if body.info_type == InfoType.SECURITY:
        return query_security(body.additional, opened.access, opened.allowed, body.output_bytes_max)
    return Output(NtStatus.NOT_SUPPORTED if body.info_type == InfoType.QUOTA else NtStatus.INVALID_PARAMETER)


def _volume(request: Request, opened: Kind) -> FilesystemFacts:
    exporter = request.peer.exporter
    if isinstance(opened, ScratchOpen):
        total_bytes, available_bytes = opened.volume.size_bytes, opened.volume.available_bytes
    else:
        total_bytes = sum(each.size_bytes for each in exporter.shares.visible(request.session.user))
        available_bytes = 0
    disk = opened.disk if isinstance(opened, DiskOpen) else None
    return FilesystemFacts(
        label=exporter.name,
        serial=volume_serial(request),
        total_bytes=total_bytes,
        available_bytes=available_bytes,
        created_filetime=exporter.started_filetime,
        object_id=exporter.guid,
        logical_sector_bytes=disk.info.logical_block_size_bytes if disk else 512,
        physical_sector_bytes=disk.info.physical_block_size_bytes if disk else 4096,
        read_only=disk is not None and disk.access_of(request.session.user) is Access.READ_ONLY,
    )


def set_info(request: Request) -> None:
    body = SetInfoRequest.unpack(request.message.body)
    opened = find_open(request, *body.file_id)
    request.check_charge(len(body.buffer))
    if body.info_type != InfoType.FILE:
        raise StatusError(NtStatus.ACCESS_DENIED, f"SET_INFO of type {body.info_type}")
    change = parse_change(body.info_class, body.buffer)
    if isinstance(change, NtStatus):
        raise StatusError(change, f"SET_INFO class {body.info_class}")
    if isinstance(change, SetMode):
        _set_mode(opened, change.mode)
    elif isinstance(opened, ScratchOpen):
        scratch_files.set_info(opened, change)
    else:
        _check_change(opened, change)
    request.reply(SetInfoResponse().pack())


def _set_mode(opened: Kind, wanted: int) -> None:
    mode = changed_mode(opened.mode, wanted)
    if mode is None:
        raise StatusError(NtStatus.INVALID_PARAMETER, f"mode 0x{wanted:x}")
    opened.set_mode(mode)


def _check_change(opened: Kind, change: Change) -> None:
    """A disk has nothing to set; what copying tools set without need is taken and ignored."""
    match change:
        case SetRename() | SetDisposition(delete=True):
            raise StatusError(NtStatus.ACCESS_DENIED, "a disk is neither renamed nor deleted")
        case SetBasic() if not opened.access & AccessMask.WRITE_ATTRIBUTES:
            raise StatusError(NtStatus.ACCESS_DENIED, "open has no right to write attributes")
        case SetEndOfFile(size_bytes):
            _check_size(opened, size_bytes, exact=True)
        case SetAllocation(allocation_bytes):
            _check_size(opened, allocation_bytes, exact=False)


def _check_size(opened: Kind, size_bytes: int, *, exact: bool) -> None:
    """Truncating to nothing is accepted and does nothing, as on a block device."""
    if not isinstance(opened, DiskOpen):
        raise StatusError(NtStatus.INVALID_PARAMETER, "only a disk has a size")
    if not opened.writable:
        raise StatusError(NtStatus.ACCESS_DENIED, "open has no right to write")
    if size_bytes > opened.disk.size_bytes:
        raise StatusError(NtStatus.DISK_FULL, "a disk does not grow")
    if exact and size_bytes not in (0, opened.disk.size_bytes):
        raise StatusError(NtStatus.ACCESS_DENIED, "a disk does not shrink")

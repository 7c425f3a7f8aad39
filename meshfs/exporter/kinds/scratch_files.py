"""What is done with an open of the share `scratch`: READ, WRITE, FLUSH, SET_INFO and what it tells of itself.

Everything is in memory, so every request is answered at once. MS-SMB2 3.3.5.11 to 3.3.5.13,
3.3.5.21; MS-FSA 2.1.5.3, 2.1.5.4, 2.1.5.15.
"""

from dataclasses import replace
from typing import Final

from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.scratch_open import ScratchOpen
from meshfs.exporter.rules.scratch.rules import KEPT_ATTRIBUTES
from meshfs.exporter.rules.scratch.tree import ScratchFile
from meshfs.smb.constants import AccessMask, FileAttributes, NotifyFilter, NtStatus
from meshfs.smb.info import (
    Change,
    FileFacts,
    SetAllocation,
    SetBasic,
    SetDisposition,
    SetEndOfFile,
    SetPosition,
    SetRename,
)
from meshfs.smb.wire import READ_DATA_OFFSET, READ_RESPONSE, WRITE_RESPONSE

#: Files are counted in whole pages where an allocation is asked for.
ALLOCATION_UNIT_BYTES: Final = 4096
_OFFSET_MAX: Final = (1 << 63) - 1
#: FILE_BASIC_INFORMATION times that are no times (MS-FSCC 2.4.7).
_LEAVE, _STOP_UPDATES, _RESUME_UPDATES = 0, -1, -2


def read(request: Request, opened: ScratchOpen, offset: int, length: int, minimum: int) -> None:
    _check_range(opened, offset, length)
    if not opened.readable:
        raise StatusError(NtStatus.ACCESS_DENIED, "open has no right to read")
    file = opened.file
    available = max(0, min(length, len(file.data) - offset))
    if available < minimum or (length and not available):
        raise StatusError(NtStatus.END_OF_FILE, f"READ at {offset}")
    if available and file.locks and not file.locks.can_read(opened, offset, available):
        raise StatusError(NtStatus.FILE_LOCK_CONFLICT, "READ in another's lock")
    data = opened.volume.read(file, offset, available)
    opened.position = offset + available
    request.reply(READ_RESPONSE.pack(17, READ_DATA_OFFSET, 0, len(data), 0, 0) + data)


def write(request: Request, opened: ScratchOpen, offset: int, data: memoryview) -> None:
    _check_range(opened, offset, len(data))
    if not opened.writable:
        raise StatusError(NtStatus.ACCESS_DENIED, "open has no right to write")
    file = opened.file
    if data and file.locks and not file.locks.can_write(opened, offset, len(data)):
        raise StatusError(NtStatus.FILE_LOCK_CONFLICT, "WRITE in a lock")
    opened.volume.write(file, offset, data, opened.time_of_writing())
    opened.position = offset + len(data)
    request.reply(WRITE_RESPONSE.pack(17, 0, len(data), 0, 0, 0))


def _check_range(opened: ScratchOpen, offset: int, length: int) -> None:
    if opened.directory is not None:
        raise StatusError(NtStatus.INVALID_DEVICE_REQUEST, "a directory has no bytes")
    if offset + length > _OFFSET_MAX:
        raise StatusError(NtStatus.INVALID_PARAMETER, f"{length} bytes at {offset}")


def check_flush(opened: ScratchOpen) -> None:
    """There is nothing to flush; the right to is asked for all the same."""
    if not opened.writable:
        raise StatusError(NtStatus.ACCESS_DENIED, "open has no right to write")


def facts(file: ScratchFile, name: str, volume_serial: int) -> FileFacts:
    size_bytes = len(file.data)
    return FileFacts(
        name=name,
        size_bytes=size_bytes,
        allocation_bytes=size_bytes + -size_bytes % ALLOCATION_UNIT_BYTES,
        index_number=file.index_number,
        is_directory=file.is_directory,
        times=file.times,
        links=0 if file.delete_pending else 1,
        volume_serial=volume_serial,
        kept_attributes=file.attributes,
        short_name=file.short_name,
    )


def object_id(file: ScratchFile, volume_id: bytes) -> bytes:
    """FILE_OBJECTID_BUFFER, type 1 (MS-FSCC 2.1.3.1): ObjectId, BirthVolumeId, BirthObjectId, DomainId."""
    own = file.index_number.to_bytes(8, "little") + volume_id[8:]
    return own + volume_id + own + bytes(16)


# --- SET_INFO --------------------------------------------------------------------------


def set_info(opened: ScratchOpen, change: Change) -> None:
    volume, file = opened.volume, opened.file
    match change:
        case SetEndOfFile(size_bytes):
            _need(opened, AccessMask.WRITE_DATA)
            _need_file(opened)
            volume.set_size(file, size_bytes, opened.time_of_writing())
        case SetAllocation(allocation_bytes):
            _need(opened, AccessMask.WRITE_DATA)
            _need_file(opened)
            # More than the size is no promise: the share is bounded as a whole.
            if allocation_bytes < len(file.data):
                volume.set_size(file, allocation_bytes, opened.time_of_writing())
        case SetBasic():
            _need(opened, AccessMask.WRITE_ATTRIBUTES)
            _set_basic(opened, change)
        case SetDisposition(delete):
            _need(opened, AccessMask.DELETE)
            volume.set_disposition(file, delete=delete)
        case SetRename(name, overwrite):
            _need(opened, AccessMask.DELETE)
            volume.rename(file, name, overwrite=overwrite, now=opened.now())
        case SetPosition(offset):
            opened.position = offset
        case _:
            raise StatusError(NtStatus.NOT_SUPPORTED, f"{type(change).__name__} of a scratch file")


def _need(opened: ScratchOpen, right: AccessMask) -> None:
    if not opened.access & right:
        raise StatusError(NtStatus.ACCESS_DENIED, f"open has not the right {right.name}")


def _need_file(opened: ScratchOpen) -> None:
    if opened.directory is not None:
        raise StatusError(NtStatus.INVALID_PARAMETER, "a directory has no size")


def _set_basic(opened: ScratchOpen, change: SetBasic) -> None:
    """A LastWriteTime that is set stays as it is while this open writes on (MS-FSA 2.1.5.15.2)."""
    file, attributes = opened.file, change.attributes
    wanted = (change.creation_filetime, change.access_filetime, change.write_filetime, change.change_filetime)
    if min(wanted) < _RESUME_UPDATES:
        raise StatusError(NtStatus.INVALID_PARAMETER, "time before 1601")
    wrong = FileAttributes.TEMPORARY if file.is_directory else FileAttributes.DIRECTORY
    if attributes & wrong:
        raise StatusError(NtStatus.INVALID_PARAMETER, f"attributes 0x{attributes:x}")
    times = [new if new > _LEAVE else old for new, old in zip(wanted, file.times.numbers(), strict=True)]
    if change.write_filetime:
        opened.keeps_times = change.write_filetime != _RESUME_UPDATES
    file.times = type(file.times)(*times)
    if attributes:
        file.attributes = attributes & KEPT_ATTRIBUTES
    if not change.change_filetime and not opened.keeps_times:
        file.times = replace(file.times, change_filetime=opened.now())
    opened.volume.modified(file, _changed_by(change))


def _changed_by(change: SetBasic) -> int:
    """What a watcher is told that was set."""
    return int(
        (NotifyFilter.CREATION if change.creation_filetime else 0)
        | (NotifyFilter.LAST_ACCESS if change.access_filetime else 0)
        | (NotifyFilter.LAST_WRITE if change.write_filetime else 0)
        | (NotifyFilter.ATTRIBUTES if change.attributes else 0)
    )

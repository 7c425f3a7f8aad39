"""Gives the facts of a scratch file, and changes its times and attributes for SET_INFO (MS-FSA 2.1.5.15.2)."""

from typing import Final

from meshfs.errors import StatusError
from meshfs.exporter.rules.scratch.rules import KEPT_ATTRIBUTES
from meshfs.exporter.rules.scratch.tree import ScratchFile
from meshfs.smb.constants import FileAttributes, NotifyFilter, NtStatus
from meshfs.smb.info import FileFacts, SetBasic

#: The unit of the allocation sizes that are reported.
ALLOCATION_UNIT_BYTES: Final = 4096
#: Special values of a time in FILE_BASIC_INFORMATION. 0 leaves the time as it is. -2 lets writes set the time again
#: (MS-FSCC 2.4.7).
_LEAVE, RESUME_UPDATES = 0, -2


def facts(file: ScratchFile, name: str, volume_serial: int) -> FileFacts:
    """Return the facts of a file. ``name`` is its path for an open, and its own name in a listing."""
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
    """Return a FILE_OBJECTID_BUFFER, type 1: ObjectId, BirthVolumeId, BirthObjectId, DomainId (MS-FSCC 2.1.3.1)."""
    own = file.index_number.to_bytes(8, "little") + volume_id[8:]
    return own + volume_id + own + bytes(16)


def set_basic(file: ScratchFile, change: SetBasic) -> None:
    """Set the times and attributes that are given. If one is wrong, raise StatusError and change nothing."""
    attributes = change.attributes
    wanted = (change.creation_filetime, change.access_filetime, change.write_filetime, change.change_filetime)
    if min(wanted) < RESUME_UPDATES:
        raise StatusError(NtStatus.INVALID_PARAMETER, "a time lies before 1601")
    wrong = FileAttributes.TEMPORARY if file.is_directory else FileAttributes.DIRECTORY
    if attributes & wrong:
        raise StatusError(NtStatus.INVALID_PARAMETER, f"attributes 0x{attributes:x} do not fit the kind of the file")
    times = [new if new > _LEAVE else old for new, old in zip(wanted, file.times.numbers(), strict=True)]
    file.times = type(file.times)(*times)
    if attributes:
        file.attributes = attributes & KEPT_ATTRIBUTES


def changed_by(change: SetBasic) -> int:
    """Return the flags of NotifyFilter for the changes that SET_INFO has made."""
    return int(
        (NotifyFilter.CREATION if change.creation_filetime else 0)
        | (NotifyFilter.LAST_ACCESS if change.access_filetime else 0)
        | (NotifyFilter.LAST_WRITE if change.write_filetime else 0)
        | (NotifyFilter.ATTRIBUTES if change.attributes else 0)
    )

"""Answer a QUERY_INFO of a share as a volume (MS-FSCC 2.5)."""

import enum
from struct import Struct
from typing import Final

from meshfs.smb.constants import NtStatus
from meshfs.smb.info.facts import NAME_MAX_CHARS, FilesystemFacts, Output, fitted


class FsInfoClass(enum.IntEnum):
    """Lists the classes of QUERY_INFO of a volume (MS-FSCC 2.5)."""

    VOLUME = 1
    SIZE = 3
    DEVICE = 4
    ATTRIBUTE = 5
    CONTROL = 6
    FULL_SIZE = 7
    OBJECT_ID = 8
    SECTOR_SIZE = 11


# VolumeCreationTime, VolumeSerialNumber, VolumeLabelLength, SupportsObjects, reserved (2.5.9)
_VOLUME: Final = Struct("<QIIBB")
# TotalAllocationUnits, AvailableAllocationUnits, SectorsPerAllocationUnit, BytesPerSector (2.5.8)
_SIZE: Final = Struct("<QQII")
# TotalAllocationUnits, CallerAvailable, ActualAvailable, SectorsPerAllocationUnit, BytesPerSector (2.5.4)
_FULL_SIZE: Final = Struct("<QQQII")
# DeviceType, Characteristics (2.5.10)
_DEVICE: Final = Struct("<II")
# FileSystemAttributes, MaximumComponentNameLength, FileSystemNameLength (2.5.1)
_ATTRIBUTE: Final = Struct("<III")
# FreeSpaceStartFiltering, FreeSpaceThreshold, FreeSpaceStopFiltering (these three are for an indexing service);
# DefaultQuotaThreshold, DefaultQuotaLimit, FileSystemControlFlags (2.5.2)
_CONTROL: Final = Struct("<3QQQI4x")
# ObjectId, ExtendedInfo (2.5.6)
_OBJECT_ID: Final = Struct("<16s48x")
# LogicalBytesPerSector; PhysicalBytesPerSector for atomicity, for performance, and effective for atomicity; Flags;
# ByteOffset for sector alignment, and for partition alignment (2.5.7)
_SECTOR_SIZE: Final = Struct("<7I")

# The sizes of the C structures FILE_FS_VOLUME_INFORMATION and FILE_FS_ATTRIBUTE_INFORMATION, which include one
# character of the name and are aligned.
_MIN_BYTES: Final = {FsInfoClass.VOLUME: 24, FsInfoClass.ATTRIBUTE: 16}
#: The value of a quota without a limit.
_NO_QUOTA: Final = (1 << 64) - 1

_DEVICE_DISK: Final = 0x07
_DEVICE_READ_ONLY: Final = 0x02
_DEVICE_IS_MOUNTED: Final = 0x20
_CASE_PRESERVED_NAMES: Final = 0x02
_UNICODE_ON_DISK: Final = 0x04
_READ_ONLY_VOLUME: Final = 0x0008_0000
# Partition and device are aligned to the physical sector.
_ALIGNED: Final = 0x01 | 0x02
# FSCTL_FILE_LEVEL_TRIM works.
_TRIM_ENABLED: Final = 0x08


def query_filesystem(info_class: int, volume: FilesystemFacts, output_bytes_max: int) -> Output:
    """Return the information class of a volume, as the response to QUERY_INFO (InfoType FILESYSTEM) contains it.

    An allocation unit is one physical sector.

    Statuses: SUCCESS, BUFFER_OVERFLOW (the data is cut), INFO_LENGTH_MISMATCH, INVALID_INFO_CLASS.
    """
    fixed, variable = _pack(info_class, volume)
    if not fixed:
        return Output(NtStatus.INVALID_INFO_CLASS)
    return fitted(fixed, variable, output_bytes_max, min_bytes=_MIN_BYTES.get(FsInfoClass(info_class), 0))


def _pack(info_class: int, volume: FilesystemFacts) -> tuple[bytes, bytes]:
    unit, sector = volume.physical_sector_bytes, volume.logical_sector_bytes
    total, available = volume.total_bytes // unit, volume.available_bytes // unit
    match info_class:
        case FsInfoClass.VOLUME:
            label = volume.label.encode("utf-16-le")
            fixed = _VOLUME.pack(volume.created_filetime, volume.serial, len(label), 0, 0)
            # The C structure ends in padding. smbclient rejects a response that is shorter than the structure.
            return fixed, label.ljust(_MIN_BYTES[FsInfoClass.VOLUME] - len(fixed), b"\0")
        case FsInfoClass.SIZE:
            return _SIZE.pack(total, available, unit // sector, sector), b""
        case FsInfoClass.FULL_SIZE:
            return _FULL_SIZE.pack(total, available, available, unit // sector, sector), b""
        case FsInfoClass.DEVICE:
            read_only = _DEVICE_READ_ONLY if volume.read_only else 0
            return _DEVICE.pack(_DEVICE_DISK, _DEVICE_IS_MOUNTED | read_only), b""
        case FsInfoClass.ATTRIBUTE:
            name = volume.type_name.encode("utf-16-le")
            flags = _CASE_PRESERVED_NAMES | _UNICODE_ON_DISK
            flags |= _READ_ONLY_VOLUME if volume.read_only else 0
            return _ATTRIBUTE.pack(flags, NAME_MAX_CHARS, len(name)), name
        case FsInfoClass.CONTROL:
            # There are no quotas and there is no indexing service.
            return _CONTROL.pack(0, 0, 0, _NO_QUOTA, _NO_QUOTA, 0), b""
        case FsInfoClass.OBJECT_ID:
            return _OBJECT_ID.pack(volume.object_id), b""
        case FsInfoClass.SECTOR_SIZE:
            flags = _ALIGNED | (_TRIM_ENABLED if volume.can_trim else 0)
            return _SECTOR_SIZE.pack(sector, unit, unit, unit, flags, 0, 0), b""
    return b"", b""

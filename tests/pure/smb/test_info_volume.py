"""Information classes of the file system, by smbprotocol's structures, and how a small buffer cuts them."""

import struct
from dataclasses import replace

from smbprotocol import file_info

from meshfs.smb import info
from meshfs.smb.constants import NtStatus
from meshfs.smb.info import FilesystemFacts, FsInfoClass
from support.info_samples import TIMES, read, value

VOLUME = FilesystemFacts("disks", 0xABCD, 1 << 40, 1 << 30, TIMES.creation_filetime, bytes(range(16)))


def volume(info_class: int) -> bytes:
    status, data = info.query_filesystem(info_class, VOLUME, 4096)
    assert status is NtStatus.SUCCESS
    return data


def test_volume_classes_of_smbprotocol() -> None:
    label = read(file_info.FileFsVolumeInformation, volume(FsInfoClass.VOLUME))
    assert value(label, "volume_serial_number", "volume_label") == [0xABCD, "disks"]
    size = read(file_info.FileFsFullSizeInformation, volume(FsInfoClass.FULL_SIZE))
    names = ("total_allocation_units", "caller_available_units", "sectors_per_unit", "bytes_per_sector")
    assert value(size, *names) == [1 << 28, 1 << 18, 8, 512]
    object_id = read(file_info.FileFsObjectIdInformation, volume(FsInfoClass.OBJECT_ID))
    assert object_id["object_id"].pack() == VOLUME.object_id


def test_the_other_volume_classes() -> None:
    assert struct.unpack("<QQII", volume(FsInfoClass.SIZE)) == (1 << 28, 1 << 18, 8, 512)
    assert struct.unpack("<II", volume(FsInfoClass.DEVICE)) == (7, 0x20)
    flags, longest, length = struct.unpack_from("<III", volume(FsInfoClass.ATTRIBUTE))
    assert (flags, longest, length) == (6, 255, 12)
    # Three numbers of an indexing service, threshold and limit of a quota (none), no flags, and padding (2.5.2).
    assert volume(FsInfoClass.CONTROL) == bytes(24) + b"\xff" * 16 + bytes(8)
    assert struct.unpack("<7I", volume(FsInfoClass.SECTOR_SIZE)) == (512, 4096, 4096, 4096, 3, 0, 0)


def test_a_short_label_is_padded_for_smbclient() -> None:
    status, data = info.query_filesystem(FsInfoClass.VOLUME, replace(VOLUME, label="n1"), 4096)
    assert (status, len(data)) == (NtStatus.SUCCESS, 24)
    assert data[12:16] == (4).to_bytes(4, "little")
    assert data[18:] == "n1".encode("utf-16-le") + bytes(2)


def test_a_small_buffer_cuts_only_the_label() -> None:
    whole = volume(FsInfoClass.VOLUME)
    assert info.query_filesystem(FsInfoClass.VOLUME, VOLUME, 23).status is NtStatus.INFO_LENGTH_MISMATCH
    assert info.query_filesystem(FsInfoClass.VOLUME, VOLUME, 24) == (NtStatus.BUFFER_OVERFLOW, whole[:24])
    assert info.query_filesystem(FsInfoClass.ATTRIBUTE, VOLUME, 15).status is NtStatus.INFO_LENGTH_MISMATCH
    assert info.query_filesystem(FsInfoClass.ATTRIBUTE, VOLUME, 16).status is NtStatus.BUFFER_OVERFLOW
    assert info.query_filesystem(99, VOLUME, 4096).status is NtStatus.INVALID_INFO_CLASS

"""Information classes of files: layouts by smbprotocol's structures, truncation, modes, and what SET_INFO changes."""

import struct
from functools import partial
from typing import Any

import pytest
from smbprotocol import file_info

from meshfs.smb import info
from meshfs.smb.constants import AccessMask, FileAttributes, NtStatus
from meshfs.smb.info import FileFacts, FileInfoClass, OpenFacts
from support.info_samples import DISK, ROOT, TIMES, read, value

OPENED = OpenFacts(granted_access=0x12019F, position=512, mode=2, delete_pending=True)


def query(info_class: int, file: FileFacts = DISK, size: int = 4096) -> bytes:
    status, data = info.query_file(info_class, file, size, OPENED)
    assert status is NtStatus.SUCCESS
    return data


# --- file ------------------------------------------------------------------------------


def check_basic(basic: Any) -> None:
    times = ("creation_time", "last_access_time", "last_write_time", "change_time")
    assert value(basic, *times) == list(TIMES.numbers())
    assert basic["file_attributes"].get_value() == FileAttributes.READONLY


def check_standard(standard: Any) -> None:
    names = ("allocation_size", "end_of_file", "number_of_links", "delete_pending", "directory")
    assert value(standard, *names) == [4096, 4095, 1, True, False]


def test_basic_and_standard_have_times_sizes_and_links() -> None:
    check_basic(read(file_info.FileBasicInformation, query(FileInfoClass.BASIC)))
    check_standard(read(file_info.FileStandardInformation, query(FileInfoClass.STANDARD)))


def test_all_has_the_parts_of_the_other_classes() -> None:
    everything = read(file_info.FileAllInformation, query(FileInfoClass.ALL))
    part = {name: field.get_value() for name, field in everything.fields.items()}
    check_basic(part["basic_information"])
    check_standard(part["standard_information"])
    assert value(part["internal_information"], "index_number") == [0x77]
    assert value(part["ea_information"], "ea_size") == [0]
    assert value(part["access_information"], "access_flags") == [0x12019F]
    assert value(part["position_information"], "current_byte_offset") == [512]
    assert value(part["mode_information"], "mode") == [2]
    assert value(part["alignment_information"], "alignment_requirement") == [0]
    assert value(part["name_information"], "file_name") == ["\\disk0"]


@pytest.mark.parametrize(
    ("info_class", "kind", "field", "expected"),
    [
        (FileInfoClass.INTERNAL, file_info.FileInternalInformation, "index_number", 0x77),
        (FileInfoClass.EA, file_info.FileEaInformation, "ea_size", 0),
        (FileInfoClass.ACCESS, file_info.FileAccessInformation, "access_flags", 0x12019F),
        (FileInfoClass.POSITION, file_info.FilePositionInformation, "current_byte_offset", 512),
        (FileInfoClass.MODE, file_info.FileModeInformation, "mode", 2),
        (FileInfoClass.ALIGNMENT, file_info.FileAlignmentInformation, "alignment_requirement", 0),
        (FileInfoClass.ATTRIBUTE_TAG, file_info.FileAttributeTagInformation, "reparse_tag", 0),
        (FileInfoClass.NAME, file_info.FileNameInformation, "file_name", "\\disk0"),
        (FileInfoClass.NORMALIZED_NAME, file_info.FileNameInformation, "file_name", "disk0"),
        (FileInfoClass.STREAM, file_info.FileStreamInformation, "stream_name", "::$DATA"),
        (FileInfoClass.STREAM, file_info.FileStreamInformation, "stream_size", 4095),
    ],
)
def test_each_small_class_has_its_field(info_class: int, kind: type, field: str, expected: object) -> None:
    assert read(kind, query(info_class))[field].get_value() == expected


def test_classes_smbprotocol_does_not_know() -> None:
    *times, allocation, size, attributes, _ = struct.unpack("<4QQQII", query(FileInfoClass.NETWORK_OPEN))
    assert (tuple(times), allocation, size, attributes) == (TIMES.numbers(), 4096, 4095, FileAttributes.READONLY)
    assert struct.unpack("<QQQ", query(FileInfoClass.ID)) == (0xABCD, 0x77, 0)
    assert struct.unpack("<QHBBB3x", query(FileInfoClass.COMPRESSION))[0] == 4095


def test_the_root_is_a_directory_without_streams() -> None:
    standard = read(file_info.FileStandardInformation, query(FileInfoClass.STANDARD, ROOT))
    assert standard["directory"].get_value() is True
    assert query(FileInfoClass.STREAM, ROOT) == b""
    assert read(file_info.FileNameInformation, query(FileInfoClass.NAME, ROOT))["file_name"].get_value() == "\\"


@pytest.mark.parametrize(
    ("info_class", "status"),
    [
        (FileInfoClass.FULL_EA, NtStatus.NO_EAS_ON_FILE),
        (FileInfoClass.ALTERNATE_NAME, NtStatus.OBJECT_NAME_NOT_FOUND),  # where it has no short name
        (FileInfoClass.DIRECTORY, NtStatus.INVALID_INFO_CLASS),
        (0, NtStatus.INVALID_INFO_CLASS),
        (255, NtStatus.INVALID_INFO_CLASS),
    ],
)
def test_classes_without_an_answer_have_their_status(info_class: int, status: NtStatus) -> None:
    assert info.query_file(info_class, DISK, 4096, OPENED) == (status, b"")


def test_what_an_open_needs_a_right_for() -> None:
    """Attributes and times need the right to read attributes. Every open may read the rest (MS-FSA 2.1.5.12)."""
    of_attributes = {FileInfoClass.BASIC, FileInfoClass.ALL, FileInfoClass.NETWORK_OPEN, FileInfoClass.ATTRIBUTE_TAG}
    for info_class in FileInfoClass:
        for right in (0, int(AccessMask.READ_ATTRIBUTES), int(AccessMask.READ_EA)):
            status, _ = info.query_file(info_class, DISK, 4096, OpenFacts(right))
            needed = AccessMask.READ_ATTRIBUTES if info_class in of_attributes else 0
            needed |= AccessMask.READ_EA if info_class == FileInfoClass.FULL_EA else 0
            assert (status == NtStatus.ACCESS_DENIED) == bool(needed & ~right), info_class


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("disk0", "DISK0"),
        ("a-b_c.img", "A-B_C.IMG"),
        ("12345678.123", "12345678.123"),
        # The names are too long, have two dots, or have nothing after the dot.
        ("disk00000", "DIB445~1"),
        ("disk0.image", "DI949C~1"),
        ("a.b.c", "ABCF8E~1"),
        ("a.", "AE536~1"),
    ],
)
def test_a_long_name_has_a_short_one(name: str, short: str) -> None:
    assert info.short_name(name) == info.short_name(name.swapcase()) == short
    disk = FileFacts(name, 1, 1, 1, short_name=info.short_name(name))
    whole = query(FileInfoClass.ALTERNATE_NAME, disk)
    assert read(file_info.FileNameInformation, whole)["file_name"].get_value() == short
    ask = partial(info.query_file, FileInfoClass.ALTERNATE_NAME, disk, opened=OPENED)
    assert ask(7).status is NtStatus.INFO_LENGTH_MISMATCH
    assert ask(8) == (NtStatus.BUFFER_OVERFLOW, whole[:8])


#: What must fit are the C structures of Windows, with a character of the name at their end, and padding.
VARIABLE = {
    FileInfoClass.ALL: 104,
    FileInfoClass.NAME: 8,
    FileInfoClass.NORMALIZED_NAME: 8,
    FileInfoClass.STREAM: 32,
}


@pytest.mark.parametrize("info_class", [4, 5, 6, 7, 8, 9, 14, 16, 17, 18, 22, 28, 34, 35, 48, 59])
def test_a_small_buffer_cuts_only_the_variable_part(info_class: int) -> None:
    """The fixed part must fit, and the variable part is cut."""
    whole = query(info_class)
    fixed = VARIABLE.get(FileInfoClass(info_class), len(whole))
    for size in range(len(whole)):
        status, data = info.query_file(info_class, DISK, size, OPENED)
        if size < fixed:
            assert (status, data) == (NtStatus.INFO_LENGTH_MISMATCH, b"")
        else:
            assert (status, data) == (NtStatus.BUFFER_OVERFLOW, whole[:size])


# --- modes -----------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "mode"), [(0, 0), (0x2 | 0x40, 0x2), (0x7FFF_FFFF, 0x100E), (0x30, 0)])
def test_the_mode_of_an_open_is_of_its_options(options: int, mode: int) -> None:
    assert info.mode_of(options) == mode


@pytest.mark.parametrize(
    ("mode", "wanted", "changed"),
    [
        (0, 2, 2),
        (2, 4, 4),
        (6, 0, 0),
        (0x1000, 2, 0x1002),
        # Without buffering, everything is written through.
        (8 | 2, 0, 8 | 2),
        (8, 2 | 4, 8 | 4),
        # A client's own calls do not concern a server, and the rest is set at CREATE only.
        (0, 0x10, None),
        (0, 1, None),
        (8, 8, None),
        (0x1000, 0x1000, None),
    ],
)
def test_modes_that_may_be_set(mode: int, wanted: int, changed: int | None) -> None:
    assert info.changed_mode(mode, wanted) == changed


# --- SET_INFO --------------------------------------------------------------------------

RENAME = struct.pack("<B7xQI", 1, 0, 8) + "name".encode("utf-16-le")


@pytest.mark.parametrize(
    ("info_class", "buffer", "expected"),
    [
        (FileInfoClass.END_OF_FILE, struct.pack("<q", 1 << 40), info.SetEndOfFile(1 << 40)),
        (FileInfoClass.END_OF_FILE, struct.pack("<q", -1), NtStatus.INVALID_PARAMETER),
        (FileInfoClass.ALLOCATION, struct.pack("<q", 4096), info.SetAllocation(4096)),
        (FileInfoClass.POSITION, struct.pack("<q", 512), info.SetPosition(512)),
        (FileInfoClass.POSITION, struct.pack("<q", -512), NtStatus.INVALID_PARAMETER),
        (FileInfoClass.MODE, struct.pack("<I", 2), info.SetMode(2)),
        (FileInfoClass.BASIC, struct.pack("<4qII", 0, -1, -2, 5, 0x80, 0), info.SetBasic(0, -1, -2, 5, 0x80)),
        (FileInfoClass.DISPOSITION, b"\x01", info.SetDisposition(True)),
        (FileInfoClass.DISPOSITION, b"\x00", info.SetDisposition(False)),
        (FileInfoClass.DISPOSITION_EX, struct.pack("<I", 0x13), info.SetDisposition(True)),
        (FileInfoClass.DISPOSITION_EX, struct.pack("<I", 0x12), info.SetDisposition(False)),
        (FileInfoClass.RENAME, RENAME, info.SetRename("name", True)),
        (FileInfoClass.RENAME_EX, RENAME, info.SetRename("name", True)),
        (FileInfoClass.RENAME, RENAME[:-1], NtStatus.INVALID_PARAMETER),
        (FileInfoClass.RENAME, RENAME[:-1] + b"\xd8", NtStatus.OBJECT_NAME_INVALID),
        (FileInfoClass.RENAME, struct.pack("<B7xQI", 1, 5, 8) + RENAME[20:], NtStatus.INVALID_PARAMETER),
        (FileInfoClass.RENAME, struct.pack("<B7xQI", 1, 0, 0), NtStatus.INVALID_PARAMETER),
        (FileInfoClass.FULL_EA, b"", NtStatus.EAS_NOT_SUPPORTED),
        (FileInfoClass.LINK, RENAME, NtStatus.NOT_SUPPORTED),
        (FileInfoClass.STANDARD, bytes(24), NtStatus.INVALID_INFO_CLASS),
        (0, b"", NtStatus.INVALID_INFO_CLASS),
    ],
)
def test_a_set_info_buffer_is_read_as_its_change(info_class: int, buffer: bytes, expected: object) -> None:
    assert info.parse_change(info_class, buffer) == expected
    if not isinstance(expected, NtStatus):
        assert info.parse_change(info_class, buffer + b"more") == expected


@pytest.mark.parametrize(
    ("info_class", "size"), [(4, 36), (10, 20), (13, 1), (14, 8), (16, 4), (19, 8), (20, 8), (64, 4)]
)
def test_a_set_info_buffer_that_is_too_short_is_refused(info_class: int, size: int) -> None:
    for length in range(size):
        assert info.parse_change(info_class, bytes(length)) is NtStatus.INFO_LENGTH_MISMATCH

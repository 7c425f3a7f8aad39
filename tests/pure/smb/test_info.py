"""Information classes: their layouts by smbprotocol's structures, and the rules of truncation."""

import struct
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from smbprotocol import file_info, security_descriptor

from meshfs.smb import info
from meshfs.smb.constants import AccessMask, FileAttributes, NtStatus
from meshfs.smb.info import FileFacts, FileInfoClass, FilesystemFacts, FsInfoClass, NamePattern, OpenFacts
from meshfs.smb.messages import FileTimes

WHEN = [datetime(2021, 1, 2, 3, 4, second) for second in range(4)]
TIMES = FileTimes(*((when - datetime(1601, 1, 1)) // timedelta(microseconds=1) * 10 for when in WHEN))
DISK = FileFacts("disk0", 4095, 4096, 0x77, read_only=True, times=TIMES, links=1, volume_serial=0xABCD)
ROOT = FileFacts("", 0, 0, 1, is_directory=True, times=TIMES)
READ_CONTROL = int(AccessMask.READ_CONTROL)
OPENED = OpenFacts(granted_access=0x12019F, position=512, mode=2, delete_pending=True)
VOLUME = FilesystemFacts("disks", 0xABCD, 1 << 40, 1 << 30, TIMES.creation_filetime, bytes(range(16)))


def read(kind: type, data: bytes) -> Any:
    structure = kind()
    assert structure.unpack(data) == b""
    return structure


def value(structure: Any, *names: str) -> list[Any]:
    return [structure[name].get_value() for name in names]


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


def test_basic_and_standard() -> None:
    check_basic(read(file_info.FileBasicInformation, query(FileInfoClass.BASIC)))
    check_standard(read(file_info.FileStandardInformation, query(FileInfoClass.STANDARD)))


def test_all() -> None:
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
def test_small_classes(info_class: int, kind: type, field: str, expected: object) -> None:
    assert read(kind, query(info_class))[field].get_value() == expected


def test_classes_smbprotocol_does_not_know() -> None:
    *times, allocation, size, attributes, _ = struct.unpack("<4QQQII", query(FileInfoClass.NETWORK_OPEN))
    assert (tuple(times), allocation, size, attributes) == (TIMES.numbers(), 4096, 4095, FileAttributes.READONLY)
    assert struct.unpack("<QQQ", query(FileInfoClass.ID)) == (0xABCD, 0x77, 0)
    assert struct.unpack("<QHBBB3x", query(FileInfoClass.COMPRESSION))[0] == 4095


def test_the_root() -> None:
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
def test_classes_without_answer(info_class: int, status: NtStatus) -> None:
    assert info.query_file(info_class, DISK, 4096, OPENED) == (status, b"")


def test_what_an_open_needs_a_right_for() -> None:
    """MS-FSA 2.1.5.12: attributes and times need the right to read attributes, the rest is told to every open."""
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
        # Too long, two dots, or nothing behind the dot.
        ("disk00000", "DIB445~1"),
        ("disk0.image", "DI949C~1"),
        ("a.b.c", "ABCF8E~1"),
        ("a.", "AE536~1"),
    ],
)
def test_short_names(name: str, short: str) -> None:
    assert info.short_name(name) == info.short_name(name.swapcase()) == short
    disk = FileFacts(name, 1, 1, 1, short_name=info.short_name(name))
    whole = query(FileInfoClass.ALTERNATE_NAME, disk)
    assert read(file_info.FileNameInformation, whole)["file_name"].get_value() == short
    ask = partial(info.query_file, FileInfoClass.ALTERNATE_NAME, disk, opened=OPENED)
    assert ask(7).status is NtStatus.INFO_LENGTH_MISMATCH
    assert ask(8) == (NtStatus.BUFFER_OVERFLOW, whole[:8])


#: What has to fit: the C structures of Windows, which have a character of the name at their end, and padding.
VARIABLE = {
    FileInfoClass.ALL: 104,
    FileInfoClass.NAME: 8,
    FileInfoClass.NORMALIZED_NAME: 8,
    FileInfoClass.STREAM: 32,
}


@pytest.mark.parametrize("info_class", [4, 5, 6, 7, 8, 9, 14, 16, 17, 18, 22, 28, 34, 35, 48, 59])
def test_truncation(info_class: int) -> None:
    """The fixed part must fit; the variable one is cut."""
    whole = query(info_class)
    fixed = VARIABLE.get(FileInfoClass(info_class), len(whole))
    for size in range(len(whole)):
        status, data = info.query_file(info_class, DISK, size, OPENED)
        if size < fixed:
            assert (status, data) == (NtStatus.INFO_LENGTH_MISMATCH, b"")
        else:
            assert (status, data) == (NtStatus.BUFFER_OVERFLOW, whole[:size])


# --- directory -------------------------------------------------------------------------

ENTRIES = {
    FileInfoClass.DIRECTORY: file_info.FileDirectoryInformation,
    FileInfoClass.FULL_DIRECTORY: file_info.FileFullDirectoryInformation,
    FileInfoClass.BOTH_DIRECTORY: file_info.FileBothDirectoryInformation,
    FileInfoClass.NAMES: file_info.FileNamesInformation,
    FileInfoClass.ID_BOTH_DIRECTORY: file_info.FileIdBothDirectoryInformation,
    FileInfoClass.ID_FULL_DIRECTORY: file_info.FileIdFullDirectoryInformation,
}
FILES = [*info.dot_entries(ROOT), DISK, *(FileFacts(f"disk-{n:0{n}}", n, n, n, times=TIMES) for n in range(1, 12))]


def listed(info_class: FileInfoClass, data: bytes) -> list[Any]:
    entries, start = [], 0
    while True:
        entry = ENTRIES[info_class]()
        rest = entry.unpack(data[start:])
        entries.append(entry)
        following = entry["next_entry_offset"].get_value()
        if not following:
            assert rest == b""
            return entries
        assert following % 8 == 0
        start += following


def packed_as(info_class: int, files: Iterable[FileFacts], size: int) -> tuple[bytes, int]:
    """As many of the files as fit, and how many these are."""
    packer = info.DirectoryPacker(info_class, size)
    for file in files:
        if not packer.add(file):
            break
    return bytes(packer.data), packer.packed


@pytest.mark.parametrize("info_class", ENTRIES)
def test_directory(info_class: FileInfoClass) -> None:
    data, packed = packed_as(info_class, FILES, 65536)
    entries = listed(info_class, data)
    assert packed == len(entries) == len(FILES)
    names = [entry["file_name"].get_value().decode("utf-16-le") for entry in entries]
    assert names == [file.name for file in FILES]
    disk = entries[2]
    if info_class != FileInfoClass.NAMES:
        assert value(disk, "end_of_file", "allocation_size", "file_attributes") == [4095, 4096, 1]
        times = [disk[name].get_value() for name in ("creation_time", "last_access_time", "change_time")]
        assert [when.replace(tzinfo=None) for when in times] == [WHEN[0], WHEN[1], WHEN[3]]
        assert entries[0]["file_attributes"].get_value() == FileAttributes.DIRECTORY
    if "file_id" in disk.fields:
        assert disk["file_id"].get_value() == 0x77


@pytest.mark.parametrize("info_class", ENTRIES)
def test_directory_in_pieces_of_any_size(info_class: FileInfoClass) -> None:
    """The pieces together are the listing; a piece is never larger than asked for, nor padded at its end."""
    for size in range(0, 1000, 13):
        rest, found = FILES, 0
        while rest:
            data, packed = packed_as(info_class, rest, size)
            assert len(data) <= size
            if not packed:
                assert data == b""
                break
            assert len(listed(info_class, data)) == packed
            rest, found = rest[packed:], found + packed
        assert found == len(FILES) or size < 200


def test_classes_of_directories_are_told_from_others() -> None:
    assert all(info.is_directory_class(info_class) for info_class in ENTRIES)
    assert not info.is_directory_class(FileInfoClass.BASIC)


def test_short_names_in_listings() -> None:
    """Of names that are none of 8.3 themselves (MS-FSCC 2.4.8, 2.4.22)."""
    files = [FileFacts(name, 1, 1, 1, short_name=info.short_name(name)) for name in ("disk0", "a-long-name.img")]
    for info_class in (FileInfoClass.BOTH_DIRECTORY, FileInfoClass.ID_BOTH_DIRECTORY):
        data, _ = packed_as(info_class, [*files, FileFacts("a-long-name.none", 1, 1, 1)], 65536)
        lengths = [(entry["short_name_length"].get_value()) for entry in listed(info_class, data)]
        assert lengths == [0, 2 * len(files[1].short_name), 0]
        assert data.count(files[1].short_name.encode("utf-16-le").ljust(24, b"\0")) == 1


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
        # Without buffering everything is written through.
        (8 | 2, 0, 8 | 2),
        (8, 2 | 4, 8 | 4),
        # A client's own calls are no server's matter, and the rest is said at CREATE only.
        (0, 0x10, None),
        (0, 1, None),
        (8, 8, None),
        (0x1000, 0x1000, None),
    ],
)
def test_modes_that_may_be_set(mode: int, wanted: int, changed: int | None) -> None:
    assert info.changed_mode(mode, wanted) == changed


# --- patterns --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*", "disk0", True),
        ("*.*", "disk0", True),
        ("", "disk0", False),
        ("", "", True),
        ("*", "", False),
        ("disk0", "DISK0", True),
        ("DISK-Ä", "disk-ä", True),
        ("straße", "STRASSE", False),
        ("disk?", "disk0", True),
        ("disk?", "disk", False),
        ("disk?", "disk10", False),
        ("*0", "disk10", True),
        ("*0", "disk101", False),
        ("d*k*", "disk", True),
        ("*a*a*a*", "aa", False),
        ("*.img", "a.b.img", True),
        ("?.?", "a.b", True),
        ("a?b", "a.b", True),
        # DOS_STAR: everything but the last dot
        ("<", "name", True),
        ("<", "na.me", False),
        ("<.img", "a.b.img", True),
        ("<.b", "a.b.img", False),
        ("<.", "name.", True),
        ('<"', "name", True),
        ('<"<', "a.b.c", True),
        # DOS_QM: one character, or nothing before a dot and at the end
        (">>>>", "ab", True),
        (">>", "abc", False),
        (">>>.img", "a.img", True),
        (">>>.img", "abcd.img", False),
        ("a>b", "a.b", False),
        # DOS_DOT: a dot, or nothing at the end
        ('name"', "name", True),
        ('name"', "name.", True),
        ('name"img', "name.img", True),
        ('na"me', "name", False),
        ('"', "", True),
        ("[a]", "[A]", True),
        ("*" * 256, "disk0", False),
    ],
)
def test_patterns(pattern: str, name: str, expected: bool) -> None:
    assert info.name_matches(pattern, name) is expected


def test_patterns_against_a_plain_matcher() -> None:
    """All patterns of up to 4 characters over a small alphabet, against the definition written recursively."""
    from itertools import product

    names = ["".join(letters) for length in range(1, 5) for letters in product("a.", repeat=length)]
    for length in range(1, 5):
        for letters in product('a.*?<>"', repeat=length):
            pattern = "".join(letters)
            compiled = NamePattern(pattern)
            for name in names:
                assert compiled.matches(name) is (pattern == "*.*" or plain(pattern, name)), (pattern, name)


def plain(pattern: str, name: str) -> bool:
    """MS-FSA 2.1.4.4 word by word."""
    if not pattern:
        return not name
    first, rest = pattern[0], pattern[1:]
    match first:
        case "*":
            return plain(rest, name) or (bool(name) and plain(pattern, name[1:]))
        case "<":
            more = bool(name) and (name[0] != "." or "." in name[1:])
            return plain(rest, name) or (more and plain(pattern, name[1:]))
        case ">" if not name or name[0] == ".":
            return plain(rest, name)
        case '"' if not name:
            return plain(rest, name)
        case '"':
            return name[0] == "." and plain(rest, name[1:])
        case "?" | ">":
            return bool(name) and plain(rest, name[1:])
    return name[:1] == first and plain(rest, name[1:])


def test_has_wildcards() -> None:
    assert not info.has_wildcards("disk[0].img")
    assert all(info.has_wildcards(f"disk{wildcard}") for wildcard in '*?<>"')


# --- volume ----------------------------------------------------------------------------


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
    # Three numbers of an indexing service, then threshold and limit of a quota: none; no flags; padding (2.5.2).
    assert volume(FsInfoClass.CONTROL) == bytes(24) + b"\xff" * 16 + bytes(8)
    assert struct.unpack("<7I", volume(FsInfoClass.SECTOR_SIZE)) == (512, 4096, 4096, 4096, 3, 0, 0)


def test_a_short_label_is_padded_for_smbclient() -> None:
    status, data = info.query_filesystem(FsInfoClass.VOLUME, replace(VOLUME, label="n1"), 4096)
    assert (status, len(data)) == (NtStatus.SUCCESS, 24)
    assert data[12:16] == (4).to_bytes(4, "little")
    assert data[18:] == "n1".encode("utf-16-le") + bytes(2)


def test_volume_truncation() -> None:
    whole = volume(FsInfoClass.VOLUME)
    assert info.query_filesystem(FsInfoClass.VOLUME, VOLUME, 23).status is NtStatus.INFO_LENGTH_MISMATCH
    assert info.query_filesystem(FsInfoClass.VOLUME, VOLUME, 24) == (NtStatus.BUFFER_OVERFLOW, whole[:24])
    assert info.query_filesystem(FsInfoClass.ATTRIBUTE, VOLUME, 15).status is NtStatus.INFO_LENGTH_MISMATCH
    assert info.query_filesystem(FsInfoClass.ATTRIBUTE, VOLUME, 16).status is NtStatus.BUFFER_OVERFLOW
    assert info.query_filesystem(99, VOLUME, 4096).status is NtStatus.INVALID_INFO_CLASS


# --- security --------------------------------------------------------------------------


def test_descriptor() -> None:
    status, data = info.query_security(7, READ_CONTROL, 0x12019F, 4096)
    descriptor = security_descriptor.SMB2CreateSDBuffer()
    descriptor.unpack(data)
    assert status is NtStatus.SUCCESS
    assert str(descriptor.get_owner()) == str(descriptor.get_group()) == "S-1-5-18"
    aces = descriptor.get_dacl()["aces"].get_value()
    assert [(str(ace["sid"].get_value()), ace["mask"].get_value()) for ace in aces] == [
        ("S-1-5-18", 0x1F01FF),
        ("S-1-5-11", 0x12019F),
    ]


@pytest.mark.parametrize(
    ("additional", "opened", "status"),
    [
        (7, 0, NtStatus.ACCESS_DENIED),
        (7, 0x1F01FF & ~READ_CONTROL, NtStatus.ACCESS_DENIED),
        (0, READ_CONTROL, NtStatus.SUCCESS),
        (0, 0, NtStatus.SUCCESS),
        # The SACL, alone or with the rest, and all there is for a backup.
        (8, READ_CONTROL, NtStatus.ACCESS_DENIED),
        (15, READ_CONTROL, NtStatus.ACCESS_DENIED),
        (0x10000, READ_CONTROL, NtStatus.ACCESS_DENIED),
        # Label, attributes, scope and bits without a meaning: there is nothing of them.
        (0x70, READ_CONTROL, NtStatus.SUCCESS),
        (0x8000_0000, READ_CONTROL, NtStatus.SUCCESS),
    ],
)
def test_who_may_ask_for_which_part(additional: int, opened: int, status: NtStatus) -> None:
    assert info.query_security(additional, opened, 1, 4096).status is status


def test_descriptor_has_what_was_asked_for() -> None:
    for additional in range(8):
        head = struct.unpack_from("<BBHIIII", info.pack_descriptor(additional, 0))
        owner, group, sacl, dacl = head[3:]
        assert [bool(owner), bool(group), bool(dacl)] == [bool(additional & bit) for bit in (1, 2, 4)]
        assert not sacl


def test_a_descriptor_is_not_cut() -> None:
    whole = info.query_security(7, READ_CONTROL, 1, 4096).data
    short = info.query_security(7, READ_CONTROL, 1, len(whole) - 1)
    assert short == (NtStatus.BUFFER_TOO_SMALL, len(whole).to_bytes(4, "little"))


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
def test_changes(info_class: int, buffer: bytes, expected: object) -> None:
    assert info.parse_change(info_class, buffer) == expected
    if not isinstance(expected, NtStatus):
        assert info.parse_change(info_class, buffer + b"more") == expected


@pytest.mark.parametrize(
    ("info_class", "size"), [(4, 36), (10, 20), (13, 1), (14, 8), (16, 4), (19, 8), (20, 8), (64, 4)]
)
def test_short_buffers(info_class: int, size: int) -> None:
    for length in range(size):
        assert info.parse_change(info_class, bytes(length)) is NtStatus.INFO_LENGTH_MISMATCH

"""Information classes of directories: the layout of each entry, listings in pieces, and the patterns of names."""

from collections.abc import Iterable
from typing import Any

import pytest
from smbprotocol import file_info

from meshfs.smb import info
from meshfs.smb.constants import FileAttributes
from meshfs.smb.info import FileFacts, FileInfoClass, NamePattern
from support.info_samples import DISK, ROOT, TIMES, WHEN, value

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


def names_of(entries: Iterable[Any]) -> list[str]:
    return [entry["file_name"].get_value().decode("utf-16-le") for entry in entries]


def packed_as(info_class: int, files: Iterable[FileFacts], size: int) -> tuple[bytes, int]:
    """Pack as many of the files as fit, and return the bytes and the number of files."""
    packer = info.DirectoryPacker(info_class, size)
    for file in files:
        if not packer.add(file):
            break
    return bytes(packer.data), packer.packed


@pytest.mark.parametrize("info_class", ENTRIES)
def test_an_entry_has_every_field_of_its_class(info_class: FileInfoClass) -> None:
    data, packed = packed_as(info_class, FILES, 65536)
    entries = listed(info_class, data)
    assert packed == len(entries) == len(FILES)
    assert names_of(entries) == [file.name for file in FILES]
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
    """The pieces together are the listing. No piece is larger than requested or padded at its end."""
    for size in range(0, 1000, 13):
        rest, names = FILES, []
        while rest:
            data, packed = packed_as(info_class, rest, size)
            assert len(data) <= size
            if not packed:
                assert data == b""
                break
            names += names_of(listed(info_class, data))
            rest = rest[packed:]
        assert names == [file.name for file in FILES[: len(FILES) - len(rest)]]
        # A listing ends early only at a file that does not fit alone.
        assert not rest or len(packed_as(info_class, rest[:1], 4096)[0]) > size


def test_classes_of_directories_are_told_from_others() -> None:
    assert all(info.is_directory_class(info_class) for info_class in ENTRIES)
    assert not info.is_directory_class(FileInfoClass.BASIC)


def test_short_names_in_listings() -> None:
    """Names that are not 8.3 themselves have short names (MS-FSCC 2.4.8, 2.4.22)."""
    files = [FileFacts(name, 1, 1, 1, short_name=info.short_name(name)) for name in ("disk0", "a-long-name.img")]
    for info_class in (FileInfoClass.BOTH_DIRECTORY, FileInfoClass.ID_BOTH_DIRECTORY):
        data, _ = packed_as(info_class, [*files, FileFacts("a-long-name.none", 1, 1, 1)], 65536)
        lengths = [(entry["short_name_length"].get_value()) for entry in listed(info_class, data)]
        assert lengths == [0, 2 * len(files[1].short_name), 0]
        assert data.count(files[1].short_name.encode("utf-16-le").ljust(24, b"\0")) == 1


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
def test_patterns_match_as_ms_fsa_says(pattern: str, name: str, expected: bool) -> None:
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
    """Match as MS-FSA 2.1.4.4 says, word by word."""
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

"""Directories of the share `scratch`: listings, names, renames, and what a directory that is not empty refuses."""

import struct

import pytest

from meshfs.model import Security
from meshfs.smb.constants import (
    AccessMask,
    Command,
    CreateDisposition,
    CreateOptions,
    NtStatus,
)
from meshfs.smb.info import FileInfoClass
from meshfs.smb.messages import (
    FileId,
    QueryDirectoryRequest,
    QueryDirectoryResponse,
)
from support.scratch import (
    Clock,
    client_of,
    close,
    get_info,
    listing,
    make,
    mkdir,
    read,
    rename,
    set_info,
    write,
)

A, D = AccessMask, CreateDisposition


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def client(clock):
    return client_of(Security.SIGN, clock)


def test_a_directory_holds_files_and_refuses_file_io(client):
    folder = mkdir(client, "Folder")
    inner = make(client, "folder\\b")
    make(client, "FOLDER\\a")
    assert listing(client, folder) == [".", "..", "a", "b"]
    assert listing(client, folder, "B*") == ["b"]
    assert read(client, folder, 0, 1) == NtStatus.INVALID_DEVICE_REQUEST
    assert read(client, folder, 0, 0) == NtStatus.INVALID_DEVICE_REQUEST
    assert write(client, folder, 0, b"x") == NtStatus.INVALID_DEVICE_REQUEST
    assert set_info(client, folder, FileInfoClass.DISPOSITION, b"\x01") == NtStatus.DIRECTORY_NOT_EMPTY
    assert client.create("folder\\c\\d", disposition=D.OPEN_IF).status == NtStatus.OBJECT_PATH_NOT_FOUND
    assert rename(client, inner, "c") == 0
    assert listing(client, folder) == [".", "..", "a"]
    assert listing(client, client.open("", int(A.READ_DATA))) == [".", "..", "c", "Folder"]
    query = QueryDirectoryRequest(FileId(inner, inner), FileInfoClass.NAMES, 4096)
    assert client.call(Command.QUERY_DIRECTORY, query.pack()).status == NtStatus.INVALID_PARAMETER


def test_a_listing_under_way_leaves_out_removed_files(client):
    """Windows leaves them out as well (smbtorture's smb2.dir.fixed)."""
    folder = mkdir(client, "folder")
    files = {name: make(client, f"folder\\{name}") for name in ("a", "b", "c")}
    one = QueryDirectoryRequest(FileId(folder, folder), FileInfoClass.NAMES, 4096, flags=2).pack()
    for _ in range(2):
        assert client.call(Command.QUERY_DIRECTORY, one).status == 0
    assert set_info(client, files["a"], FileInfoClass.DISPOSITION, b"\x01") == 0
    close(client, files["a"])
    close(client, make(client, "folder\\a"))
    assert rename(client, files["b"], "b") == 0
    rest = QueryDirectoryRequest(FileId(folder, folder), FileInfoClass.NAMES, 4096).pack()
    output = QueryDirectoryResponse.unpack(client.call(Command.QUERY_DIRECTORY, rest).body).output
    assert output[12:].decode("utf-16-le") == "c"


def test_a_directory_about_to_be_deleted_takes_no_renamed_file(client):
    """Windows refuses it as well (smbtorture's smb2.rename.share_delete_and_delete_access)."""
    file = make(client, "file")
    folder = mkdir(client, "folder")
    assert rename(client, file, "folder\\file") == NtStatus.SHARING_VIOLATION
    close(client, folder)
    make(client, "folder", int(A.READ_DATA))
    assert rename(client, file, "folder\\file") == 0


def test_a_rename_replaces_a_file_only_if_asked_and_if_it_is_closed(client):
    one, two = make(client, "one"), make(client, "two")
    assert rename(client, one, "two") == NtStatus.OBJECT_NAME_COLLISION
    assert rename(client, one, "two", replace=True) == NtStatus.ACCESS_DENIED
    close(client, two)
    assert rename(client, one, "two", replace=True) == 0
    assert listing(client, client.open("", int(A.READ_DATA))) == [".", "..", "two"]
    assert get_info(client, one, FileInfoClass.NAME)[4:].decode("utf-16-le") == "\\two"


def test_a_file_is_found_by_its_short_name(client):
    mkdir(client, "a-long-directory")
    file = make(client, "a-long-directory\\a-long-file.name")
    write(client, file, 0, b"content")
    folder, inner = (
        get_info(client, each, FileInfoClass.ALTERNATE_NAME)[4:].decode("utf-16-le")
        for each in (make(client, "a-long-directory"), file)
    )
    assert read(client, make(client, f"{folder}\\{inner.lower()}", disposition=D.OPEN), 0, 7) == b"content"
    short = make(client, "file.txt")
    assert get_info(client, short, FileInfoClass.ALTERNATE_NAME)[4:].decode("utf-16-le") == "FILE.TXT"


def test_a_listing_keeps_its_place_and_nothing_else(client):
    """A page begins where the one before ended, whatever files are made and deleted meanwhile."""
    folder = mkdir(client, "folder")
    for number in range(50):
        close(client, make(client, f"folder\\f{number:02}"))
    found = []
    query = QueryDirectoryRequest(FileId(folder, folder), FileInfoClass.NAMES, 120, "f*").pack()
    while not (reply := client.call(Command.QUERY_DIRECTORY, query)).status:
        output, offset, step = QueryDirectoryResponse.unpack(reply.body).output, 0, 1
        assert len(output) <= 120
        while step:
            step, _, length = struct.unpack_from("<III", output, offset)
            found.append(output[offset + 12 : offset + 12 + length].decode("utf-16-le"))
            offset += step
        # Delete a file that was listed, and make one that is younger than the listing.
        close(client, make(client, f"folder\\{found[-1]}", options=CreateOptions.DELETE_ON_CLOSE))
        close(client, make(client, f"folder\\f99{found[-1]}"))
    assert reply.status == NtStatus.NO_MORE_FILES
    assert found == [f"f{number:02}" for number in range(50)]


def test_directories_nest(client):
    for path in ("a", "a\\b", "a\\b\\c"):
        close(client, mkdir(client, path))
    file = make(client, "a\\b\\c\\file")
    write(client, file, 0, b"content")
    assert get_info(client, file, FileInfoClass.NAME)[4:].decode("utf-16-le") == "\\a\\b\\c\\file"
    folder = make(client, "a\\b")
    assert rename(client, folder, "b") == NtStatus.ACCESS_DENIED
    close(client, file)
    assert rename(client, folder, "a\\b\\c\\b") == NtStatus.ACCESS_DENIED
    assert rename(client, folder, "b") == 0
    assert listing(client, make(client, "b\\c")) == [".", "..", "file"]
    assert read(client, make(client, "b\\c\\file"), 0, 7) == b"content"
    assert set_info(client, folder, FileInfoClass.DISPOSITION, b"\x01") == NtStatus.DIRECTORY_NOT_EMPTY
    assert client.create("a\\b").status == NtStatus.OBJECT_NAME_NOT_FOUND

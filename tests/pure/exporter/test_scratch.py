"""The scratch share's files: what CREATE, delete, rename and sizes do, and their bounds."""

from dataclasses import dataclass, field

import pytest

from meshfs import limits
from meshfs.errors import StatusError
from meshfs.exporter.rules.oplock import Oplock
from meshfs.exporter.rules.scratch.rules import SCRATCH_RIGHTS
from meshfs.exporter.rules.scratch.tree import ScratchFile
from meshfs.exporter.rules.scratch.volume import FILE_SIZE_MAX_BYTES, Created, ScratchVolume
from meshfs.smb.constants import (
    AccessMask,
    CreateAction,
    CreateDisposition,
    CreateOptions,
    FileAttributes,
    NtStatus,
    OplockLevel,
    ShareAccess,
)
from meshfs.smb.messages import CreateRequest
from support.scratch import files

D, F, A = CreateDisposition, FileAttributes, AccessMask
ALL = int(ShareAccess.READ | ShareAccess.WRITE | ShareAccess.DELETE)
RW = int(A.READ_DATA | A.WRITE_DATA)
SIZE = 1000


@dataclass(eq=False)
class FakeOpen:
    access: int
    share_access: int = ALL
    told: list[tuple[int, str]] = field(default_factory=list)
    broken: int = 0

    def changed(self, what: int, action: int, name: str, *, below: bool) -> None:
        self.told.append((action, name))

    def deleted(self) -> None:
        self.told.append((0, "deleted"))

    def oplock_broken(self) -> None:
        self.broken += 1


@pytest.fixture
def volume() -> ScratchVolume:
    return ScratchVolume(SIZE, 100)


def create(volume: ScratchVolume, name: str, access: int = RW, share: int = ALL, how: int = D.OPEN_IF,
           options: int = 0, attributes: int = 0, now: int = 200) -> Created:  # fmt: skip
    made = volume.create(CreateRequest(name, access, share, how, options, attributes), now)
    assert isinstance(made, Created)
    return made


def opened(made: Created, share: int = ALL) -> FakeOpen:
    fake = FakeOpen(made.access, share)
    made.file.add_open(fake)
    return fake


def make(volume: ScratchVolume, name: str, **more: int) -> ScratchFile:
    return create(volume, name, how=D.CREATE, **more).file


def mkdir(volume: ScratchVolume, name: str) -> ScratchFile:
    return make(volume, name, options=CreateOptions.DIRECTORY_FILE)


def status(call, *arguments, **named) -> int:
    with pytest.raises(StatusError) as caught:
        call(*arguments, **named)
    return caught.value.status


# --- CREATE ----------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "absent", "present"), [
    (D.OPEN, NtStatus.OBJECT_NAME_NOT_FOUND, CreateAction.OPENED),
    (D.OPEN_IF, CreateAction.CREATED, CreateAction.OPENED),
    (D.CREATE, CreateAction.CREATED, NtStatus.OBJECT_NAME_COLLISION),
    (D.OVERWRITE, NtStatus.OBJECT_NAME_NOT_FOUND, CreateAction.OVERWRITTEN),
    (D.OVERWRITE_IF, CreateAction.CREATED, CreateAction.OVERWRITTEN),
    (D.SUPERSEDE, CreateAction.CREATED, CreateAction.SUPERSEDED),
])  # fmt: skip
def test_dispositions(volume, how, absent, present):
    def outcome(name: str) -> int:
        try:
            return create(volume, name, how=how).action
        except StatusError as error:
            return error.status

    file = make(volume, "there")
    volume.write(file, 0, b"content", 300)
    assert outcome("new") == absent
    assert outcome("THERE") == present
    overwritten = present in (CreateAction.OVERWRITTEN, CreateAction.SUPERSEDED)
    assert bytes(file.data) == (b"" if overwritten else b"content")
    assert volume.used_bytes == len(file.data)


@pytest.mark.parametrize(("fields", "expected"), [
    ({"name": "a*"}, NtStatus.OBJECT_NAME_INVALID),
    ({"name": "a:stream"}, NtStatus.OBJECT_NAME_INVALID),
    ({"name": "a/b"}, NtStatus.OBJECT_NAME_INVALID),
    ({"name": "a\x01"}, NtStatus.OBJECT_NAME_INVALID),
    ({"name": ".."}, NtStatus.OBJECT_PATH_SYNTAX_BAD),
    ({"name": "folder\\..\\..\\file"}, NtStatus.OBJECT_PATH_SYNTAX_BAD),
    ({"name": "folder\\.\\a*"}, NtStatus.OBJECT_NAME_INVALID),
    ({"name": "folder\\"}, NtStatus.OBJECT_NAME_INVALID),
    ({"name": "folder\\\\a"}, NtStatus.OBJECT_NAME_INVALID),
    ({"name": "x" * 256}, NtStatus.OBJECT_NAME_INVALID),
    ({"name": "nowhere\\a"}, NtStatus.OBJECT_PATH_NOT_FOUND),
    ({"name": "file\\a"}, NtStatus.OBJECT_PATH_NOT_FOUND),
    ({"name": "folder", "how": D.CREATE}, NtStatus.OBJECT_NAME_COLLISION),
    ({"name": "folder", "how": D.OVERWRITE_IF}, NtStatus.OBJECT_NAME_COLLISION),
    ({"name": "folder", "how": D.SUPERSEDE, "options": CreateOptions.DIRECTORY_FILE}, NtStatus.INVALID_PARAMETER),
    ({"name": "folder", "options": CreateOptions.NON_DIRECTORY_FILE}, NtStatus.FILE_IS_A_DIRECTORY),
    ({"name": "", "options": CreateOptions.NON_DIRECTORY_FILE}, NtStatus.FILE_IS_A_DIRECTORY),
    ({"name": "", "options": CreateOptions.DELETE_ON_CLOSE, "access": SCRATCH_RIGHTS}, NtStatus.CANNOT_DELETE),
    ({"name": "file", "options": CreateOptions.DIRECTORY_FILE}, NtStatus.NOT_A_DIRECTORY),
    ({"name": "file", "options": CreateOptions.DELETE_ON_CLOSE}, NtStatus.INVALID_PARAMETER),
    ({"name": "new", "how": D.CREATE, "attributes": F.DIRECTORY}, NtStatus.INVALID_PARAMETER),
    ({"name": "new", "options": CreateOptions.DIRECTORY_FILE, "attributes": F.TEMPORARY}, NtStatus.INVALID_PARAMETER),
    ({"name": "new", "options": CreateOptions.DELETE_ON_CLOSE, "access": int(A.DELETE), "attributes": F.READONLY},
     NtStatus.CANNOT_DELETE),
    ({"name": "file", "access": int(A.ACCESS_SYSTEM_SECURITY)}, NtStatus.ACCESS_DENIED),
    ({"name": "constant"}, NtStatus.ACCESS_DENIED),
    ({"name": "constant", "access": int(A.READ_DATA), "how": D.OVERWRITE}, NtStatus.ACCESS_DENIED),
    ({"name": "constant", "access": int(A.DELETE), "options": CreateOptions.DELETE_ON_CLOSE}, NtStatus.CANNOT_DELETE),
    ({"name": "hidden", "how": D.OVERWRITE}, NtStatus.ACCESS_DENIED),
])  # fmt: skip
def test_what_create_refuses_changes_nothing(volume, fields, expected):
    mkdir(volume, "folder")
    make(volume, "file")
    make(volume, "constant", attributes=F.READONLY)
    make(volume, "hidden", attributes=F.HIDDEN)
    before = [file.path for file in files(volume)]
    assert status(create, volume, **fields) == expected
    assert [file.path for file in files(volume)] == before


def test_what_is_made_and_what_one_may_do_with_it(volume):
    assert create(volume, "file::$DATA", access=int(A.MAXIMUM_ALLOWED)).access == SCRATCH_RIGHTS
    assert create(volume, "file", access=int(A.GENERIC_ALL)).access == SCRATCH_RIGHTS
    assert create(volume, "file", access=int(A.GENERIC_READ)).access & int(A.WRITE_DATA | A.DELETE) == 0
    mkdir(volume, "Folder")
    inner = create(volume, "folder\\inner").file
    assert (inner.path, inner.is_directory) == ("Folder\\inner", False)
    assert inner.attributes == F.ARCHIVE
    assert create(volume, "hidden", attributes=F.HIDDEN | F.NORMAL).file.attributes == F.HIDDEN | F.ARCHIVE
    assert create(volume, "hidden", how=D.OVERWRITE, attributes=F.HIDDEN).action == CreateAction.OVERWRITTEN
    assert create(volume, "constant", attributes=F.READONLY).access == RW
    assert create(volume, "").file is volume.root
    assert [file.path for file in files(volume)] == ["constant", "file", "Folder", "Folder\\inner", "hidden"]
    numbers = {file.index_number for file in (volume.root, *files(volume))}
    assert len(numbers) == 6


def test_files_are_limited(volume, monkeypatch):
    monkeypatch.setattr(limits, "SCRATCH_FILES_MAX", 2)
    one, _ = make(volume, "one"), mkdir(volume, "two")
    assert status(create, volume, "three") == NtStatus.DISK_FULL
    assert create(volume, "one").file is one
    fake = opened(create(volume, "one"))
    volume.close(one, fake, delete=True, now=1)
    assert create(volume, "three").action == CreateAction.CREATED


# --- share access and delete -----------------------------------------------------------


@pytest.mark.parametrize(("held", "share", "access", "fields", "refused"), [
    (RW, ALL, RW, {}, False),
    (RW, int(ShareAccess.READ), int(A.READ_DATA), {"share": ALL}, False),
    (RW, int(ShareAccess.READ), int(A.WRITE_DATA), {}, True),
    (RW, int(ShareAccess.READ), int(A.READ_DATA), {"how": D.OVERWRITE}, True),
    (RW, int(ShareAccess.READ | ShareAccess.WRITE), int(A.READ_DATA), {"how": D.SUPERSEDE}, True),
    (RW, int(ShareAccess.READ | ShareAccess.WRITE), int(A.DELETE), {}, True),
    (RW, 0, int(A.READ_ATTRIBUTES), {"share": 0}, False),
    (int(A.DELETE), ALL, int(A.READ_DATA), {"share": int(ShareAccess.READ)}, True),
    (int(A.READ_ATTRIBUTES), 0, RW, {"share": 0}, False),
])  # fmt: skip
def test_share_access(volume, held, share, access, fields, refused):
    opened(create(volume, "file", access=held, share=share), share)
    if refused:
        assert status(create, volume, "file", access=access, **fields) == NtStatus.SHARING_VIOLATION
    else:
        assert create(volume, "file", access=access, **fields).access == access


def test_a_file_goes_with_its_last_open(volume):
    made = create(volume, "file")
    one, two = opened(made), opened(made)
    volume.write(made.file, 0, b"x" * 100, 1)
    volume.set_disposition(made.file, delete=True)
    assert status(create, volume, "file") == NtStatus.DELETE_PENDING
    assert status(create, volume, "file", how=D.CREATE) == NtStatus.OBJECT_NAME_COLLISION
    volume.close(made.file, one, delete=False, now=1)
    assert status(create, volume, "file") == NtStatus.DELETE_PENDING
    assert volume.read(made.file, 0, 3) == b"xxx"
    volume.close(made.file, two, delete=False, now=1)
    assert volume.used_bytes == 0
    assert create(volume, "file").file is not made.file


def test_delete_pending_can_be_taken_back(volume):
    made = create(volume, "file")
    fake = opened(made)
    volume.set_disposition(made.file, delete=True)
    volume.set_disposition(made.file, delete=False)
    volume.close(made.file, fake, delete=False, now=1)
    assert create(volume, "file", how=D.OPEN).file is made.file


def test_delete_on_close_counts_from_that_close(volume):
    made = create(volume, "file")
    deleting, other = opened(made), opened(made)
    assert create(volume, "file", how=D.OPEN).file is made.file
    volume.close(made.file, deleting, delete=True, now=1)
    assert status(create, volume, "file") == NtStatus.DELETE_PENDING
    volume.close(made.file, other, delete=False, now=1)
    assert status(create, volume, "file", how=D.OPEN) == NtStatus.OBJECT_NAME_NOT_FOUND


def test_directories_that_are_deleted(volume):
    folder, inner = mkdir(volume, "folder"), create(volume, "folder\\inner")
    assert status(volume.set_disposition, folder, delete=True) == NtStatus.DIRECTORY_NOT_EMPTY
    deleting = opened(create(volume, "folder", access=int(A.DELETE)))
    volume.close(folder, deleting, delete=True, now=1)
    assert create(volume, "folder", how=D.OPEN).file is folder
    inside = opened(inner)
    volume.close(inner.file, inside, delete=True, now=1)
    holding = opened(create(volume, "folder"))
    volume.set_disposition(folder, delete=True)
    assert status(create, volume, "folder\\new") == NtStatus.DELETE_PENDING
    volume.close(folder, holding, delete=False, now=1)
    assert list(files(volume)) == []
    assert status(volume.set_disposition, volume.root, delete=True) == NtStatus.CANNOT_DELETE


def test_a_read_only_file_is_not_deleted(volume):
    file = make(volume, "constant", attributes=F.READONLY)
    assert status(volume.set_disposition, file, delete=True) == NtStatus.CANNOT_DELETE


# --- rename ----------------------------------------------------------------------------


def test_a_rename_moves_the_file_and_tells_those_who_watch(volume):
    folder, file = mkdir(volume, "folder"), make(volume, "file")
    watch_root, watch_folder = opened(create(volume, "")), opened(create(volume, "folder"))
    volume.watch(volume.root, watch_root)
    volume.watch(folder, watch_folder)
    volume.rename(file, "FILE", overwrite=False, now=500)
    assert (file.path, file.times.change_filetime, file.times.write_filetime) == ("FILE", 500, 200)
    volume.rename(file, "folder\\moved", overwrite=False, now=501)
    assert (file.path, file.parent) == ("folder\\moved", folder)
    assert watch_root.told == [
        (4, "file"), (5, "FILE"), (3, "FILE"), (2, "FILE"), (1, "folder\\moved"), (3, "folder\\moved"),
    ]  # fmt: skip
    assert watch_folder.told == [(1, "moved"), (3, "moved")]
    volume.rename(folder, "other", overwrite=False, now=502)
    assert file.path == "other\\moved"
    assert create(volume, "other\\moved", how=D.OPEN).file is file
    assert status(create, volume, "folder\\moved") == NtStatus.OBJECT_PATH_NOT_FOUND


@pytest.mark.parametrize(("source", "target", "overwrite", "expected"), [
    ("file", "other", False, NtStatus.OBJECT_NAME_COLLISION),
    ("file", "folder", True, NtStatus.ACCESS_DENIED),
    ("file", "constant", True, NtStatus.ACCESS_DENIED),
    ("file", "open", True, NtStatus.ACCESS_DENIED),
    ("file", "a*", False, NtStatus.OBJECT_NAME_INVALID),
    ("file", "\\", False, NtStatus.OBJECT_NAME_INVALID),
    ("file", "nowhere\\file", False, NtStatus.OBJECT_PATH_NOT_FOUND),
    ("file", "going\\file", False, NtStatus.DELETE_PENDING),
    ("folder", "second", False, NtStatus.ACCESS_DENIED),
    ("folder", "folder\\below", False, NtStatus.ACCESS_DENIED),
    ("going", "going\\below", False, NtStatus.ACCESS_DENIED),
    ("", "root", False, NtStatus.INVALID_PARAMETER),
])  # fmt: skip
def test_renames_that_are_refused(volume, source, target, overwrite, expected):
    for name in ("file", "other", "open"):
        make(volume, name)
    make(volume, "constant", attributes=F.READONLY)
    mkdir(volume, "folder")
    going = mkdir(volume, "going")
    opened(create(volume, "open"))
    opened(create(volume, "folder\\inner"))
    opened(create(volume, "going"))
    going.delete_pending = True
    before = [file.path for file in files(volume)]
    file = volume.root if not source else next(each for each in files(volume) if each.path == source)
    assert status(volume.rename, file, target, overwrite=overwrite, now=1) == expected
    assert [each.path for each in files(volume)] == before


def test_a_rename_may_replace_a_file(volume):
    file, other = make(volume, "file"), make(volume, "other")
    volume.write(file, 0, b"new", 1)
    volume.write(other, 0, b"older", 1)
    volume.rename(file, "other", overwrite=True, now=2)
    assert [each.path for each in files(volume)] == ["other"]
    assert (create(volume, "other", how=D.OPEN).file, volume.used_bytes) == (file, 3)


# --- content ---------------------------------------------------------------------------


def test_content_and_its_bound(volume):
    file, other = make(volume, "file"), make(volume, "other")
    volume.write(file, 5, b"abc", 300)
    assert volume.read(file, 0, 100) == b"\0\0\0\0\0abc"
    assert (file.times.creation_filetime, file.times.write_filetime) == (200, 300)
    volume.write(other, 0, bytes(SIZE - 8), 300)
    assert volume.available_bytes == 0
    volume.write(file, 0, b"12345678", 300)
    assert status(volume.write, file, 8, b"9", 400) == NtStatus.DISK_FULL
    assert status(volume.set_size, file, 9, 400) == NtStatus.DISK_FULL
    assert (bytes(file.data), file.times.write_filetime) == (b"12345678", 300)
    volume.set_size(other, 10, 500)
    volume.set_size(file, 9, 500)
    assert (bytes(file.data), volume.used_bytes) == (b"12345678\0", 19)
    volume.write(file, FILE_SIZE_MAX_BYTES, b"", 600)
    assert file.times.write_filetime == 500
    assert status(volume.write, file, FILE_SIZE_MAX_BYTES, b"x", 600) == NtStatus.INVALID_PARAMETER
    assert status(volume.write, file, FILE_SIZE_MAX_BYTES - 1, b"x", 600) == NtStatus.DISK_FULL
    assert status(volume.set_size, file, FILE_SIZE_MAX_BYTES + 1, 600) == NtStatus.INVALID_PARAMETER


# --- oplocks ---------------------------------------------------------------------------


@pytest.mark.parametrize("level", [OplockLevel.EXCLUSIVE, OplockLevel.BATCH])
def test_an_oplock_is_in_the_way_of_those_who_see_data(volume, level):
    made = create(volume, "file")
    made.file.oplock = oplock = Oplock(opened(made), level)

    def outcome(access: int, how: int = D.OPEN, share: int = ALL) -> object:
        return volume.create(CreateRequest("file", access, share, how), 1)

    assert isinstance(outcome(int(A.READ_ATTRIBUTES | A.SYNCHRONIZE)), Created)
    assert outcome(int(A.READ_ATTRIBUTES), D.OVERWRITE) is oplock
    assert outcome(int(A.READ_DATA)) is oplock
    assert outcome(int(A.READ_EA)) is oplock
    if level == OplockLevel.BATCH:
        assert outcome(RW, share=0) is oplock
    else:
        assert status(outcome, RW, share=0) == NtStatus.SHARING_VIOLATION


def test_a_break_is_told_once_and_has_a_deadline(monkeypatch):
    holder, woken = FakeOpen(RW), []
    oplock = Oplock(holder, OplockLevel.BATCH)
    assert not oplock.is_late(1e9)
    oplock.add_waiter(lambda: woken.append("first"))
    forgotten = lambda: woken.append("forgotten")  # noqa: E731
    oplock.add_waiter(forgotten)
    oplock.add_waiter(lambda: woken.append("second"))
    oplock.start_break(100.0)
    oplock.start_break(101.0)
    assert holder.broken == 1
    late = 100.0 + limits.OPLOCK_BREAK_TIMEOUT_S
    assert (oplock.is_late(late - 0.1), oplock.is_late(late)) == (False, True)
    oplock.remove_waiter(forgotten)
    oplock.wake()
    oplock.wake()
    assert woken == ["first", "second"]

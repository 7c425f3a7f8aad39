"""The scratch share's files: in memory, one level of directories, bounded. Pure.

The rules are MS-FSA's: 2.1.5.1 (create), 2.1.5.5 (close), 2.1.5.15 (set information). A file lives
as long as the process; one that is deleted goes with its last open. Whatever is refused raises
StatusError and changes nothing. Times are FILETIMEs, given by the caller.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Protocol

from sortedcontainers import SortedDict

from meshfs import limits
from meshfs.errors import StatusError
from meshfs.exporter.locks import Lockable
from meshfs.exporter.oplock import Oplock, opens_data
from meshfs.exporter.share_access import ShareCounts
from meshfs.exporter.shares import NOTIFY_ADDED, NOTIFY_REMOVED, expand_access
from meshfs.smb.constants import (
    AccessMask,
    CreateAction,
    CreateDisposition,
    CreateOptions,
    FileAttributes,
    NtStatus,
    ShareAccess,
)
from meshfs.smb.info.facts import NAME_MAX_CHARS
from meshfs.smb.messages import CreateRequest, FileTimes

_A = AccessMask
_D = CreateDisposition
_F = FileAttributes
_O = CreateOptions
#: Everything one may do with a file: whoever is logged in may do it.
SCRATCH_RIGHTS: Final = 0x001F_01FF
#: FILE_NOTIFY_INFORMATION actions (MS-FSCC 2.7.1).
NOTIFY_RENAMED_OLD_NAME: Final = 4
NOTIFY_RENAMED_NEW_NAME: Final = 5
#: The largest file of NTFS with 4 KiB clusters (MS-FSA 2.1.5.4, MAXFILESIZE); beyond, a range makes no sense.
FILE_SIZE_MAX_BYTES: Final = 0xFFF_FFFF_0000
_OVERWRITES: Final = (_D.SUPERSEDE, _D.OVERWRITE, _D.OVERWRITE_IF)
_ACTIONS: Final = {_D.SUPERSEDE: CreateAction.SUPERSEDED, _D.OVERWRITE: CreateAction.OVERWRITTEN,
                   _D.OVERWRITE_IF: CreateAction.OVERWRITTEN}  # fmt: skip
KEPT_ATTRIBUTES: Final = int(_F.READONLY | _F.HIDDEN | _F.SYSTEM | _F.ARCHIVE)
#: A rename enters a name as if it opened the directory for that, and shares all but its deletion.
_RENAME_SHARES: Final = int(ShareAccess.READ | ShareAccess.WRITE)
_FORBIDDEN_IN_NAMES: Final = frozenset('"*/:<>?|\\') | {chr(code) for code in range(32)}
_DATA_STREAM: Final = "::$DATA"


class OpenOfFile(Protocol):
    """What the model looks at; `meshfs.exporter.opens.ScratchOpen` is one."""

    access: int
    share_access: int

    def changed(self, action: int, name: str) -> None:
        """A name in the directory it is of changed."""


class ScratchFile(Lockable):
    """A file, or a directory, whose ``children`` are by folded name."""

    __slots__ = (
        "attributes",
        "children",
        "data",
        "delete_pending",
        "index_number",
        "name",
        "opens",
        "oplock",
        "parent",
        "share_counts",
        "times",
    )  # fmt: skip

    def __init__(self, name: str, parent: "ScratchFile | None", index_number: int, now: int, *, folder: bool) -> None:
        super().__init__()
        self.name = name
        self.parent = parent
        self.index_number = index_number
        self.times = FileTimes.same(now)
        self.attributes = 0
        self.children: SortedDict[str, ScratchFile] | None = SortedDict() if folder else None
        self.data = bytearray()
        #: The oldest first.
        self.opens: dict[OpenOfFile, None] = {}
        self.share_counts = ShareCounts()
        self.oplock: Oplock | None = None
        self.delete_pending = False

    @property
    def is_directory(self) -> bool:
        return self.children is not None

    def holds(self, name: str, index_number: int) -> bool:
        """Whether it has that very file still."""
        child = self.children.get(name.casefold()) if self.children is not None else None
        return child is not None and child.index_number == index_number

    @property
    def path(self) -> str:
        """From the share's root, without a leading separator."""
        if self.parent is None:
            return ""
        return f"{self.parent.path}\\{self.name}".removeprefix("\\")

    def inside(self) -> "list[ScratchFile]":
        return list(self.children.values()) if self.children is not None else []

    def add_open(self, opened: OpenOfFile) -> None:
        self.opens[opened] = None
        self.share_counts.add(opened.access, opened.share_access)

    def remove_open(self, opened: OpenOfFile) -> None:
        del self.opens[opened]
        self.share_counts.remove(opened.access, opened.share_access)

    def tell(self, action: int, name: str) -> None:
        for opened in list(self.opens):
            opened.changed(action, name)


@dataclass(frozen=True, slots=True)
class Created:
    """A CREATE that may go ahead: its file, what was done, and the access its open has."""

    file: ScratchFile
    action: CreateAction
    access: int


class ScratchVolume:
    """All files of one scratch share, together at most ``size_bytes`` large."""

    def __init__(self, size_bytes: int, now: int) -> None:
        self.size_bytes = size_bytes
        self.used_bytes = 0
        self.root = ScratchFile("", None, 1, now, folder=True)
        self._count = 0
        self._last_index = 1

    @property
    def available_bytes(self) -> int:
        return self.size_bytes - self.used_bytes

    def files(self) -> Iterator[ScratchFile]:
        """All that have a name, the root not among them."""
        for file in self.root.inside():
            yield file
            yield from file.inside()

    # --- create ------------------------------------------------------------------------

    def create(self, body: CreateRequest, now: int) -> Created | Oplock:
        """Find or make the file. Where an oplock has to be broken first nothing is done, and it is returned."""
        _check_options(body)
        directory, name = self._locate(body.name.removesuffix(_DATA_STREAM))
        assert directory.children is not None
        file = directory.children.get(name.casefold()) if name else self.root
        if file is not None:
            return self._open(file, body, now)
        if body.disposition in (_D.OPEN, _D.OVERWRITE):
            raise StatusError(NtStatus.OBJECT_NAME_NOT_FOUND, f"no file {body.name!r}")
        return self._make(directory, name, body, now)

    def _locate(self, path: str) -> tuple[ScratchFile, str]:
        """The directory a path ends in, and the name there; the name is empty for the root."""
        *folders, name = path.split("\\")
        for part in (*folders, name) if path else ():
            _check_name(part)
        directory = self.root
        for folder in folders:
            assert directory.children is not None
            found = directory.children.get(folder.casefold())
            if found is None or not found.is_directory:
                raise StatusError(NtStatus.OBJECT_PATH_NOT_FOUND, f"no directory of {path!r}")
            directory = found
        return directory, name

    def _make(self, directory: ScratchFile, name: str, body: CreateRequest, now: int) -> Created:
        is_directory = bool(body.options & _O.DIRECTORY_FILE)
        if directory.delete_pending:
            raise StatusError(NtStatus.DELETE_PENDING, f"directory of {body.name!r} is being deleted")
        if is_directory and directory is not self.root:
            raise StatusError(NtStatus.ACCESS_DENIED, "directories are one level deep")
        if self._count >= limits.SCRATCH_FILES_MAX:
            raise StatusError(NtStatus.DISK_FULL, f"more than {limits.SCRATCH_FILES_MAX} files")
        access = _granted(body)
        attributes = body.file_attributes & KEPT_ATTRIBUTES | (0 if is_directory else _F.ARCHIVE)
        if attributes & _F.READONLY and body.options & _O.DELETE_ON_CLOSE:
            raise StatusError(NtStatus.CANNOT_DELETE, "a read-only file is not deleted")
        self._last_index += 1
        self._count += 1
        file = ScratchFile(name, directory, self._last_index, now, folder=is_directory)
        file.attributes = int(attributes)
        self._enter(file, directory, name, now)
        directory.tell(NOTIFY_ADDED, name)
        return Created(file, CreateAction.CREATED, access)

    def _open(self, file: ScratchFile, body: CreateRequest, now: int) -> Created | Oplock:
        _check_kind(file, body)
        if file.delete_pending:
            raise StatusError(NtStatus.DELETE_PENDING, f"{body.name!r} is being deleted")
        access = _granted(body)
        _check_attributes(file, body, access)
        # What overwriting does counts against share access, and is not of the open (MS-FSA 2.1.5.1.2).
        needed = access
        if body.disposition in _OVERWRITES:
            needed |= _A.DELETE if body.disposition == _D.SUPERSEDE else _A.WRITE_DATA
        oplock = file.oplock if opens_data(access, body.disposition) else None
        if oplock is not None and oplock.breaks_before_sharing():
            return oplock
        if file.share_counts.conflicts(needed, body.share_access):
            raise StatusError(NtStatus.SHARING_VIOLATION, f"{body.name!r} is open otherwise")
        if oplock is not None:
            return oplock
        if body.disposition in _OVERWRITES:
            self._resize(file, 0)
            file.attributes = int(body.file_attributes & KEPT_ATTRIBUTES | _F.ARCHIVE)
            self.written(file, now)
        return Created(file, _ACTIONS.get(_D(body.disposition), CreateAction.OPENED), access)

    # --- close and delete --------------------------------------------------------------

    def close(self, file: ScratchFile, opened: OpenOfFile, *, delete: bool, now: int) -> None:
        """An open ends, and with the last the file when it is to be deleted."""
        file.remove_open(opened)
        if delete and not file.children and file is not self.root:
            file.delete_pending = True
        if not file.opens and file.delete_pending:
            self._unlink(file, now)

    def set_disposition(self, file: ScratchFile, *, delete: bool) -> None:
        """2.1.5.15.3: delete it at its last close, or not after all."""
        if delete and (file.attributes & _F.READONLY or file is self.root):
            raise StatusError(NtStatus.CANNOT_DELETE, f"{file.path!r} is read-only")
        if delete and file.children:
            raise StatusError(NtStatus.DIRECTORY_NOT_EMPTY, f"{file.path!r} has files")
        file.delete_pending = delete

    def _unlink(self, file: ScratchFile, now: int) -> None:
        directory = file.parent
        assert directory is not None
        self._leave(file, now)
        self._resize(file, 0)
        self._count -= 1
        directory.tell(NOTIFY_REMOVED, file.name)

    def _enter(self, file: ScratchFile, directory: ScratchFile, name: str, now: int) -> None:
        assert directory.children is not None
        file.parent, file.name = directory, name
        directory.children[name.casefold()] = file
        self.written(directory, now)

    def _leave(self, file: ScratchFile, now: int) -> None:
        directory = file.parent
        assert directory is not None
        assert directory.children is not None
        del directory.children[file.name.casefold()]
        self.written(directory, now)

    # --- rename ------------------------------------------------------------------------

    def rename(self, file: ScratchFile, path: str, *, overwrite: bool, now: int) -> None:
        """2.1.5.15.12: give it another name, maybe in another directory."""
        if file is self.root:
            raise StatusError(NtStatus.INVALID_PARAMETER, "the root is not renamed")
        directory, name = self._locate(path.removeprefix("\\"))
        if not name:
            raise StatusError(NtStatus.OBJECT_NAME_INVALID, "rename to nothing")
        if file.is_directory and directory is not self.root:
            raise StatusError(NtStatus.ACCESS_DENIED, "directories are one level deep")
        if any(child.opens for child in file.inside()):
            raise StatusError(NtStatus.ACCESS_DENIED, f"files of {file.path!r} are open")
        if directory.delete_pending:
            raise StatusError(NtStatus.DELETE_PENDING, f"directory of {path!r} is being deleted")
        if directory.share_counts.conflicts(int(_A.WRITE_DATA), _RENAME_SHARES):
            raise StatusError(NtStatus.SHARING_VIOLATION, f"directory of {path!r} is open otherwise")
        assert directory.children is not None
        there = directory.children.get(name.casefold())
        if there is not None and there is not file:
            self._replace(there, overwrite=overwrite, now=now)
        old_directory, old_name = file.parent, file.name
        assert old_directory is not None
        self._leave(file, now)
        self._enter(file, directory, name, now)
        file.times = replace(file.times, change_filetime=now)
        if old_directory is directory:
            directory.tell(NOTIFY_RENAMED_OLD_NAME, old_name)
            directory.tell(NOTIFY_RENAMED_NEW_NAME, name)
        else:
            old_directory.tell(NOTIFY_REMOVED, old_name)
            directory.tell(NOTIFY_ADDED, name)

    def _replace(self, there: ScratchFile, *, overwrite: bool, now: int) -> None:
        if not overwrite:
            raise StatusError(NtStatus.OBJECT_NAME_COLLISION, f"{there.path!r} exists")
        if there.is_directory or there.opens or there.attributes & _F.READONLY:
            raise StatusError(NtStatus.ACCESS_DENIED, f"{there.path!r} cannot be replaced")
        self._unlink(there, now)

    # --- content -----------------------------------------------------------------------

    def read(self, file: ScratchFile, offset: int, length: int) -> bytes:
        with memoryview(file.data) as view:
            return bytes(view[offset : offset + length])

    def write(self, file: ScratchFile, offset: int, data: bytes | memoryview, now: int | None) -> None:
        """Raises StatusError DISK_FULL, or INVALID_PARAMETER past what a file may ever have."""
        end = offset + len(data)
        if not data:
            return
        if end > FILE_SIZE_MAX_BYTES:
            raise StatusError(NtStatus.INVALID_PARAMETER, f"WRITE up to {end}")
        if end > len(file.data):
            self._resize(file, end)
        file.data[offset:end] = data
        self.written(file, now)

    def set_size(self, file: ScratchFile, size_bytes: int, now: int | None) -> None:
        if size_bytes > FILE_SIZE_MAX_BYTES:
            raise StatusError(NtStatus.INVALID_PARAMETER, f"size of {size_bytes}")
        self._resize(file, size_bytes)
        self.written(file, now)

    def written(self, file: ScratchFile, now: int | None) -> None:
        """Its times are those of ``now``; of None, as they are."""
        if now is None:
            return
        file.times = replace(file.times, write_filetime=now, change_filetime=now)

    def _resize(self, file: ScratchFile, size_bytes: int) -> None:
        more = size_bytes - len(file.data)
        if more > self.available_bytes:
            raise StatusError(NtStatus.DISK_FULL, f"{more} bytes more in {self.available_bytes}")
        if more > 0:
            file.data.extend(bytes(more))
        else:
            del file.data[size_bytes:]
        self.used_bytes += more


def _check_options(body: CreateRequest) -> None:
    """What contradicts itself, whatever file is meant (2.1.5.1)."""
    directory = body.options & _O.DIRECTORY_FILE
    if directory and body.disposition in _OVERWRITES:
        raise StatusError(NtStatus.INVALID_PARAMETER, "a directory is not overwritten")
    if body.file_attributes & _F.DIRECTORY and not directory and body.disposition == _D.CREATE:
        raise StatusError(NtStatus.INVALID_PARAMETER, "attributes of a directory for a file")
    if directory and body.file_attributes & _F.TEMPORARY:
        raise StatusError(NtStatus.INVALID_PARAMETER, "a directory is not temporary")
    if body.options & _O.DELETE_ON_CLOSE and not _granted(body) & _A.DELETE:
        raise StatusError(NtStatus.INVALID_PARAMETER, "delete on close without the right to delete")


def _check_name(name: str) -> None:
    """One component; streams do not exist, so a colon is in none."""
    if not name or name in (".", "..") or len(name) > NAME_MAX_CHARS or not _FORBIDDEN_IN_NAMES.isdisjoint(name):
        raise StatusError(NtStatus.OBJECT_NAME_INVALID, f"name {name[:NAME_MAX_CHARS]!r}")


def _check_kind(file: ScratchFile, body: CreateRequest) -> None:
    if body.disposition == _D.CREATE:
        raise StatusError(NtStatus.OBJECT_NAME_COLLISION, f"{body.name!r} exists")
    if not file.is_directory:
        if body.options & _O.DIRECTORY_FILE:
            raise StatusError(NtStatus.NOT_A_DIRECTORY, f"{body.name!r} is a file")
        return
    if body.options & _O.NON_DIRECTORY_FILE:
        raise StatusError(NtStatus.FILE_IS_A_DIRECTORY, f"{body.name!r} is a directory")
    if body.disposition in _OVERWRITES:
        raise StatusError(NtStatus.OBJECT_NAME_COLLISION, f"{body.name!r} is a directory")
    if file.parent is None and body.options & _O.DELETE_ON_CLOSE:
        raise StatusError(NtStatus.CANNOT_DELETE, "the root is not deleted")


def _check_attributes(file: ScratchFile, body: CreateRequest, access: int) -> None:
    """2.1.5.1.2: what read-only, hidden and system files refuse."""
    overwrites = body.disposition in _OVERWRITES
    if file.attributes & _F.READONLY and not file.is_directory:
        if access & (_A.WRITE_DATA | _A.APPEND_DATA) or overwrites:
            raise StatusError(NtStatus.ACCESS_DENIED, f"{body.name!r} is read-only")
        if body.options & _O.DELETE_ON_CLOSE:
            raise StatusError(NtStatus.CANNOT_DELETE, f"{body.name!r} is read-only")
    guarded = file.attributes & (_F.HIDDEN | _F.SYSTEM)
    if overwrites and guarded & ~body.file_attributes:
        raise StatusError(NtStatus.ACCESS_DENIED, f"{body.name!r} is overwritten without its attributes")


def _granted(body: CreateRequest) -> int:
    """The access an open gets: all files give all rights to all."""
    wanted = body.desired_access
    if wanted & _A.GENERIC_ALL:
        wanted = wanted & ~_A.GENERIC_ALL | SCRATCH_RIGHTS
    granted = expand_access(wanted, SCRATCH_RIGHTS)
    if granted & ~SCRATCH_RIGHTS:
        raise StatusError(NtStatus.ACCESS_DENIED, f"access 0x{granted:x}")
    return granted

"""Keeps the files of the scratch share in memory, in directories. Their number and size are bounded. Pure.

The rules are those of MS-FSA: 2.1.5.1 (create), 2.1.5.5 (close), 2.1.5.11 (change notifications), 2.1.5.15 (set
information). Files exist as long as the process. A deleted file vanishes with its last open. If a method refuses, it
raises StatusError and changes nothing. Times are FILETIMEs, which the caller gives.
"""

from dataclasses import dataclass, replace
from typing import Final

from meshfs import limits
from meshfs.errors import StatusError
from meshfs.exporter.rules.changes import NotifyAction
from meshfs.exporter.rules.dispositions import OVERWRITES, action_on_existing
from meshfs.exporter.rules.oplock import Oplock, opens_data
from meshfs.exporter.rules.scratch.rules import (
    KEPT_ATTRIBUTES,
    check_attributes,
    check_kind,
    check_options,
    components,
    granted,
)
from meshfs.exporter.rules.scratch.tree import OpenOfFile, ScratchFile
from meshfs.smb.constants import (
    AccessMask,
    CreateAction,
    CreateDisposition,
    CreateOptions,
    FileAttributes,
    NotifyFilter,
    NtStatus,
    ShareAccess,
)
from meshfs.smb.messages import CreateRequest

_A = AccessMask
_D = CreateDisposition
_F = FileAttributes
_O = CreateOptions
#: The largest file of NTFS with 4 KiB clusters (MS-FSA 2.1.5.4, MAXFILESIZE). A range beyond this size is invalid.
FILE_SIZE_MAX_BYTES: Final = 0xFFF_FFFF_0000
#: A rename counts as an open of the directory that writes, and shares everything except deletion.
_RENAME_SHARES: Final = int(ShareAccess.READ | ShareAccess.WRITE)
_DATA_STREAM: Final = "::$DATA"
_WRITTEN: Final = int(NotifyFilter.LAST_WRITE)
_RESIZED: Final = int(NotifyFilter.LAST_WRITE | NotifyFilter.SIZE)
_OVERWRITTEN: Final = int(NotifyFilter.LAST_WRITE | NotifyFilter.SIZE | NotifyFilter.ATTRIBUTES)


@dataclass(frozen=True, slots=True)
class Created:
    """Tells the file that a CREATE has opened, what was done to the file, and the access of the open."""

    file: ScratchFile
    action: CreateAction
    access: int


class ScratchVolume:
    """Holds all files of one scratch share. Together they have at most ``size_bytes``.

    breaking   the oplocks that are being broken, the oldest first
    """

    def __init__(self, size_bytes: int, now: int) -> None:
        self.size_bytes = size_bytes
        self.used_bytes = 0
        self.root = ScratchFile("", None, 1, now, folder=True)
        self.breaking: dict[Oplock, None] = {}
        #: The index number of the newest file.
        self.last_index = 1
        self._count = 0
        self._watching = 0

    @property
    def available_bytes(self) -> int:
        return self.size_bytes - self.used_bytes

    # --- create ------------------------------------------------------------------------

    def create(self, body: CreateRequest, now: int) -> Created | Oplock:
        """Find or make the file. If an oplock has to be broken first, do nothing and return the oplock."""
        check_options(body)
        directory, name = self._locate(body.name.removesuffix(_DATA_STREAM))
        file = directory.find(name) if name else self.root
        if file is not None:
            return self._open(file, body, now)
        if body.disposition in (_D.OPEN, _D.OVERWRITE):
            raise StatusError(NtStatus.OBJECT_NAME_NOT_FOUND, f"there is no file {body.name!r}")
        return self._make(directory, name, body, now)

    def _locate(self, path: str) -> tuple[ScratchFile, str]:
        """Return the directory that a path ends in, and the name there. The name is empty for the root."""
        names = components(path)
        if not names:
            return self.root, ""
        directory = self.root
        for name in names[:-1]:
            found = directory.find(name)
            if found is None or not found.is_directory:
                raise StatusError(NtStatus.OBJECT_PATH_NOT_FOUND, f"there is no directory of {path!r}")
            directory = found
        return directory, names[-1]

    def _make(self, directory: ScratchFile, name: str, body: CreateRequest, now: int) -> Created:
        is_directory = bool(body.options & _O.DIRECTORY_FILE)
        if directory.delete_pending:
            raise StatusError(NtStatus.DELETE_PENDING, f"the directory of {body.name!r} is being deleted")
        if is_directory and directory.depth >= limits.SCRATCH_DEPTH_MAX:
            raise StatusError(
                NtStatus.NAME_TOO_LONG, f"the path is more than {limits.SCRATCH_DEPTH_MAX} directories deep"
            )
        if self._count >= limits.SCRATCH_FILES_MAX:
            raise StatusError(
                NtStatus.DISK_FULL, f"the share has {limits.SCRATCH_FILES_MAX} files, the most that are allowed"
            )
        access = granted(body)
        attributes = body.file_attributes & KEPT_ATTRIBUTES | (0 if is_directory else _F.ARCHIVE)
        if attributes & _F.READONLY and body.options & _O.DELETE_ON_CLOSE:
            raise StatusError(NtStatus.CANNOT_DELETE, "a read-only file cannot be deleted on close")
        self.last_index += 1
        self._count += 1
        file = ScratchFile(name, directory, self.last_index, now, folder=is_directory)
        file.attributes = int(attributes)
        self._enter(file, directory, name, now)
        self._tell(directory, _kind_of_name(file), NotifyAction.ADDED, name)
        return Created(file, CreateAction.CREATED, access)

    def _open(self, file: ScratchFile, body: CreateRequest, now: int) -> Created | Oplock:
        check_kind(file, body)
        if file.delete_pending:
            raise StatusError(NtStatus.DELETE_PENDING, f"{body.name!r} is being deleted")
        access = granted(body)
        check_attributes(file, body, access)
        # Share access has to allow the overwriting as well, although it is no right of the open (MS-FSA 2.1.5.1.2).
        needed = access
        if body.disposition in OVERWRITES:
            needed |= _A.DELETE if body.disposition == _D.SUPERSEDE else _A.WRITE_DATA
        oplock = file.oplock if opens_data(access, body.disposition) else None
        if oplock is not None and oplock.breaks_before_sharing():
            return oplock
        if file.share_counts.conflicts(needed, body.share_access):
            raise StatusError(NtStatus.SHARING_VIOLATION, f"another open of {body.name!r} does not share this access")
        if oplock is not None:
            return oplock
        if body.disposition in OVERWRITES:
            self._resize(file, 0)
            file.attributes = int(body.file_attributes & KEPT_ATTRIBUTES | _F.ARCHIVE)
            self.written(file, now)
            self.modified(file, _OVERWRITTEN)
        return Created(file, action_on_existing(body.disposition), access)

    # --- close and delete --------------------------------------------------------------

    def close(self, file: ScratchFile, opened: OpenOfFile, *, delete: bool, now: int) -> None:
        """End an open. If a file is to be deleted, its last open takes the file along."""
        file.remove_open(opened)
        if opened in file.watchers:
            del file.watchers[opened]
            self._watching -= 1
        if delete and not file.children and file is not self.root:
            self._set_pending(file, delete=True)
        if not file.opens and file.delete_pending:
            self._unlink(file, now)

    def set_disposition(self, file: ScratchFile, *, delete: bool) -> None:
        """Decide whether the file is deleted at its last close (2.1.5.15.3)."""
        if delete and (file.attributes & _F.READONLY or file is self.root):
            raise StatusError(NtStatus.CANNOT_DELETE, f"{file.path!r} is read-only")
        if delete and file.children:
            raise StatusError(NtStatus.DIRECTORY_NOT_EMPTY, f"the directory {file.path!r} is not empty")
        self._set_pending(file, delete=delete)

    def _set_pending(self, file: ScratchFile, *, delete: bool) -> None:
        file.delete_pending = delete
        if delete:
            for opened in list(file.watchers):
                opened.deleted()

    def _unlink(self, file: ScratchFile, now: int) -> None:
        directory = file.parent
        assert directory is not None
        self._leave(file, now)
        self._resize(file, 0)
        self._count -= 1
        self._tell(directory, _kind_of_name(file), NotifyAction.REMOVED, file.name)

    def _enter(self, file: ScratchFile, directory: ScratchFile, name: str, now: int) -> None:
        directory.attach(file, name)
        self.written(directory, now)

    def _leave(self, file: ScratchFile, now: int) -> None:
        directory = file.parent
        assert directory is not None
        directory.detach(file)
        self.written(directory, now)

    # --- rename ------------------------------------------------------------------------

    def rename(self, file: ScratchFile, path: str, *, overwrite: bool, now: int) -> None:
        """Give the file another name, maybe in another directory (2.1.5.15.12)."""
        if file is self.root:
            raise StatusError(NtStatus.INVALID_PARAMETER, "the root cannot be renamed")
        directory, name = self._locate(path.removeprefix("\\"))
        if not name:
            raise StatusError(NtStatus.OBJECT_NAME_INVALID, "the new name is empty")
        self._check_move(file, directory, path)
        there = directory.find(name)
        if there is not None and there is not file:
            self._replace(there, overwrite=overwrite, now=now)
        self._move(file, directory, name, now)

    def _check_move(self, file: ScratchFile, directory: ScratchFile, path: str) -> None:
        if file is directory or file in directory.above():
            raise StatusError(NtStatus.ACCESS_DENIED, f"{path!r} lies in the directory that is moved")
        if file.is_directory and directory.depth + 1 + file.height > limits.SCRATCH_DEPTH_MAX:
            raise StatusError(
                NtStatus.NAME_TOO_LONG, f"the path is more than {limits.SCRATCH_DEPTH_MAX} directories deep"
            )
        if file.opens_below:
            raise StatusError(NtStatus.ACCESS_DENIED, f"files below {file.path!r} are open")
        if directory.delete_pending:
            raise StatusError(NtStatus.DELETE_PENDING, f"the directory of {path!r} is being deleted")
        if directory.share_counts.conflicts(int(_A.WRITE_DATA), _RENAME_SHARES):
            raise StatusError(
                NtStatus.SHARING_VIOLATION, f"another open of the directory of {path!r} does not share this access"
            )

    def _replace(self, there: ScratchFile, *, overwrite: bool, now: int) -> None:
        if not overwrite:
            raise StatusError(NtStatus.OBJECT_NAME_COLLISION, f"{there.path!r} exists already")
        if there.is_directory or there.opens or there.attributes & _F.READONLY:
            raise StatusError(NtStatus.ACCESS_DENIED, f"{there.path!r} cannot be replaced")
        self._unlink(there, now)

    def _move(self, file: ScratchFile, directory: ScratchFile, name: str, now: int) -> None:
        old_directory, old_name = file.parent, file.name
        assert old_directory is not None
        self._leave(file, now)
        self._enter(file, directory, name, now)
        file.times = replace(file.times, change_filetime=now)
        what, same = _kind_of_name(file), old_directory is directory
        self._tell(old_directory, what, NotifyAction.RENAMED_OLD_NAME if same else NotifyAction.REMOVED, old_name)
        self._tell(directory, what, NotifyAction.RENAMED_NEW_NAME if same else NotifyAction.ADDED, name)
        if not file.is_directory:
            # As Windows does, notify of a renamed file, but not of a directory, as if its attributes had been set.
            self.modified(file, int(NotifyFilter.ATTRIBUTES | NotifyFilter.CREATION))

    # --- change notifications ----------------------------------------------------------

    def watch(self, directory: ScratchFile, opened: OpenOfFile) -> None:
        """Notify an open of the directory of changes until the open is closed. Raise StatusError if too many are."""
        if self._watching >= limits.SCRATCH_WATCHERS_MAX:
            raise StatusError(NtStatus.INSUFFICIENT_RESOURCES, "too many opens are notified of changes")
        directory.watchers[opened] = None
        self._watching += 1

    def modified(self, file: ScratchFile, what: int) -> None:
        """Notify the watching opens that something other than the name of a file changed."""
        if file.parent is not None:
            self._tell(file.parent, what, NotifyAction.MODIFIED, file.name)

    def _tell(self, directory: ScratchFile, what: int, action: int, name: str) -> None:
        """Notify the opens that watch the directory, or one above it, that a file in the directory changed."""
        if not self._watching:
            return
        names, below = [name], False
        for each in (directory, *directory.above()):
            if each.watchers:
                path = "\\".join(reversed(names))
                for opened in list(each.watchers):
                    opened.changed(what, action, path, below=below)
            names.append(each.name)
            below = True

    # --- content -----------------------------------------------------------------------

    def read(self, file: ScratchFile, offset: int, length: int) -> bytes:
        with memoryview(file.data) as view:
            return bytes(view[offset : offset + length])

    def write(self, file: ScratchFile, offset: int, data: bytes | memoryview, now: int | None) -> None:
        """Write into the file. Raise StatusError DISK_FULL, or INVALID_PARAMETER beyond FILE_SIZE_MAX_BYTES."""
        end = offset + len(data)
        if not data:
            return
        if end > FILE_SIZE_MAX_BYTES:
            raise StatusError(NtStatus.INVALID_PARAMETER, f"the WRITE ends at {end}, beyond the largest file")
        grows = end > len(file.data)
        if grows:
            self._resize(file, end)
        file.data[offset:end] = data
        self.written(file, now)
        self.modified(file, _RESIZED if grows else _WRITTEN)

    def set_size(self, file: ScratchFile, size_bytes: int, now: int | None) -> None:
        if size_bytes > FILE_SIZE_MAX_BYTES:
            raise StatusError(NtStatus.INVALID_PARAMETER, f"a size of {size_bytes} is above that of the largest file")
        self._resize(file, size_bytes)
        self.written(file, now)
        self.modified(file, _RESIZED)

    def written(self, file: ScratchFile, now: int | None) -> None:
        """Set the times of a file that was written. None leaves the times as they are."""
        if now is None:
            return
        file.times = replace(file.times, write_filetime=now, change_filetime=now)

    def _resize(self, file: ScratchFile, size_bytes: int) -> None:
        more = size_bytes - len(file.data)
        if more > self.available_bytes:
            raise StatusError(
                NtStatus.DISK_FULL, f"{more} more bytes are needed, and {self.available_bytes} are available"
            )
        if more > 0:
            file.data.extend(bytes(more))
        else:
            del file.data[size_bytes:]
        self.used_bytes += more


def _kind_of_name(file: ScratchFile) -> int:
    return int(NotifyFilter.DIR_NAME if file.is_directory else NotifyFilter.FILE_NAME)

"""Checks what a CREATE in the scratch share asks for (MS-FSA 2.1.5.1). Pure.

Every function here raises StatusError if it refuses the CREATE. No function changes anything.
"""

from typing import Final

from meshfs import limits
from meshfs.errors import StatusError
from meshfs.exporter.rules.access import expand_access
from meshfs.exporter.rules.dispositions import OVERWRITES
from meshfs.exporter.rules.scratch.tree import ScratchFile
from meshfs.smb.constants import AccessMask, CreateDisposition, CreateOptions, FileAttributes, NtStatus
from meshfs.smb.info.facts import NAME_MAX_CHARS
from meshfs.smb.messages import CreateRequest

_A = AccessMask
_D = CreateDisposition
_F = FileAttributes
_O = CreateOptions
#: All rights to a file. Every node that is logged in has them.
SCRATCH_RIGHTS: Final = 0x001F_01FF
KEPT_ATTRIBUTES: Final = int(_F.READONLY | _F.HIDDEN | _F.SYSTEM | _F.ARCHIVE)
_FORBIDDEN_IN_NAMES: Final = frozenset('"*/:<>?|\\') | {chr(code) for code in range(32)}
# The longest possible path may have a ".." beside each name. A path with more parts would only cost time.
_PARTS_MAX: Final = 2 * (limits.SCRATCH_DEPTH_MAX + 1)


def components(path: str) -> list[str]:
    """Return the names of a path from the root down. An empty list is the root itself.

    As in Windows, "." and ".." are resolved by the text alone (MS-FSCC 2.1.5.1).
    """
    parts = path.split("\\") if path else []
    if len(parts) > _PARTS_MAX:
        raise StatusError(NtStatus.NAME_TOO_LONG, f"the path has {len(parts)} names")
    names: list[str] = []
    for name in parts:
        if name == "..":
            if not names:
                raise StatusError(NtStatus.OBJECT_PATH_SYNTAX_BAD, "the path leads out of the share")
            names.pop()
        elif name != ".":
            _check_name(name)
            names.append(name)
        if len(names) > limits.SCRATCH_DEPTH_MAX + 1:
            raise StatusError(
                NtStatus.NAME_TOO_LONG, f"the path is more than {limits.SCRATCH_DEPTH_MAX} directories deep"
            )
    return names


def _check_name(name: str) -> None:
    """Check one name of a path. A name with a colon would mean a stream, and files have no streams."""
    if not name or len(name) > NAME_MAX_CHARS or not _FORBIDDEN_IN_NAMES.isdisjoint(name):
        raise StatusError(NtStatus.OBJECT_NAME_INVALID, f"{name[:NAME_MAX_CHARS]!r} is not a possible name of a file")


def check_options(body: CreateRequest) -> None:
    """Check for fields that contradict each other for every file (2.1.5.1)."""
    directory = body.options & _O.DIRECTORY_FILE
    if directory and body.disposition in OVERWRITES:
        raise StatusError(NtStatus.INVALID_PARAMETER, "a directory cannot be overwritten")
    if body.file_attributes & _F.DIRECTORY and not directory and body.disposition == _D.CREATE:
        raise StatusError(NtStatus.INVALID_PARAMETER, "a file cannot have the attribute of a directory")
    if directory and body.file_attributes & _F.TEMPORARY:
        raise StatusError(NtStatus.INVALID_PARAMETER, "a directory cannot be temporary")
    if body.options & _O.DELETE_ON_CLOSE and not granted(body) & _A.DELETE:
        raise StatusError(NtStatus.INVALID_PARAMETER, "the CREATE asks for delete on close without the right to delete")


def check_kind(file: ScratchFile, body: CreateRequest) -> None:
    """Check that the CREATE accepts an existing file, and that the file is of the kind that the CREATE asks for."""
    if body.disposition == _D.CREATE:
        raise StatusError(NtStatus.OBJECT_NAME_COLLISION, f"{body.name!r} exists already")
    if not file.is_directory:
        if body.options & _O.DIRECTORY_FILE:
            raise StatusError(NtStatus.NOT_A_DIRECTORY, f"{body.name!r} is a file")
        return
    if body.options & _O.NON_DIRECTORY_FILE:
        raise StatusError(NtStatus.FILE_IS_A_DIRECTORY, f"{body.name!r} is a directory")
    if body.disposition in OVERWRITES:
        raise StatusError(NtStatus.OBJECT_NAME_COLLISION, f"{body.name!r} is a directory")
    if file.parent is None and body.options & _O.DELETE_ON_CLOSE:
        raise StatusError(NtStatus.CANNOT_DELETE, "the root cannot be deleted")


def check_attributes(file: ScratchFile, body: CreateRequest, access: int) -> None:
    """Check that the attributes read-only, hidden and system of a file allow the CREATE (2.1.5.1.2)."""
    overwrites = body.disposition in OVERWRITES
    if file.attributes & _F.READONLY and not file.is_directory:
        if access & (_A.WRITE_DATA | _A.APPEND_DATA) or overwrites:
            raise StatusError(NtStatus.ACCESS_DENIED, f"{body.name!r} is read-only")
        if body.options & _O.DELETE_ON_CLOSE:
            raise StatusError(NtStatus.CANNOT_DELETE, f"{body.name!r} is read-only")
    guarded = file.attributes & (_F.HIDDEN | _F.SYSTEM)
    if overwrites and guarded & ~body.file_attributes:
        raise StatusError(NtStatus.ACCESS_DENIED, f"the CREATE overwrites {body.name!r} without naming its attributes")


def granted(body: CreateRequest) -> int:
    """Return the access that an open gets. Every file gives all rights to everybody."""
    wanted = body.desired_access
    if wanted & _A.GENERIC_ALL:
        wanted = wanted & ~_A.GENERIC_ALL | SCRATCH_RIGHTS
    access = expand_access(wanted, SCRATCH_RIGHTS)
    if access & ~SCRATCH_RIGHTS:
        raise StatusError(NtStatus.ACCESS_DENIED, f"access 0x{access:x} is more than a scratch file grants")
    return access

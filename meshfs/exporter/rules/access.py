"""Lists the access rights to a disk, and expands a client's desired access to single rights (MS-SMB2 2.2.13.1)."""

from collections.abc import Mapping
from typing import Final

from meshfs.model import Access
from meshfs.smb.constants import AccessMask

_M = AccessMask
ATTRIBUTE_RIGHTS: Final = _M.READ_ATTRIBUTES | _M.READ_EA | _M.READ_CONTROL | _M.SYNCHRONIZE
READ_RIGHTS: Final = ATTRIBUTE_RIGHTS | _M.READ_DATA | _M.EXECUTE
#: Copying tools "write" the attributes of a disk. They get the right to do so, but the write has no effect.
WRITE_RIGHTS: Final = _M.WRITE_DATA | _M.APPEND_DATA | _M.WRITE_ATTRIBUTES | _M.WRITE_EA
#: The rights that a node may have at a disk, by what the config allows the node.
DISK_RIGHTS: Final[Mapping[Access, int]] = {
    Access.NONE: 0,
    Access.READ_ONLY: int(READ_RIGHTS),
    Access.READ_WRITE: int(READ_RIGHTS | WRITE_RIGHTS),
}
_GENERIC: Final[tuple[tuple[int, int], ...]] = (
    (_M.GENERIC_READ, READ_RIGHTS & ~_M.EXECUTE),
    (_M.GENERIC_WRITE, WRITE_RIGHTS | _M.READ_CONTROL | _M.SYNCHRONIZE),
    (_M.GENERIC_EXECUTE, _M.EXECUTE | _M.READ_ATTRIBUTES | _M.READ_CONTROL | _M.SYNCHRONIZE),
    # GENERIC_ALL stands for all rights that a disk has. A disk cannot be deleted, and has no owner to change.
    (_M.GENERIC_ALL, READ_RIGHTS | WRITE_RIGHTS),
)


def expand_access(desired: int, allowed: int) -> int:
    """Return the desired access with specific rights in place of generic ones, and ``allowed`` for MAXIMUM_ALLOWED."""
    granted = desired
    for generic, rights in _GENERIC:
        if granted & generic:
            granted = granted & ~generic | rights
    if granted & _M.MAXIMUM_ALLOWED:
        granted = granted & ~_M.MAXIMUM_ALLOWED | allowed
    return int(granted)

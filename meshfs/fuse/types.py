"""What requests and their answers consist of, in the words of fuse(4) and without any library's types."""

import stat
from dataclasses import dataclass
from typing import Final, Protocol

_BLOCK_COUNT_BYTES: Final = 512


class Caller(Protocol):
    """The thread that made the system call. The ids are 0 where this process cannot see its namespace."""

    @property
    def uid(self) -> int: ...

    @property
    def gid(self) -> int: ...

    @property
    def pid(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Attributes:
    """What stat(2) shows of a file. The owner is root, and all three times are ``changed_ns`` (of the epoch)."""

    inode: int
    #: With the bits of the file's type.
    mode: int
    changed_ns: int
    #: How long the kernel may go by the name of the file, and by its attributes, without asking again.
    name_valid_s: float
    attributes_valid_s: float
    preferred_io_bytes: int
    size_bytes: int = 0
    links: int = 1
    gid: int = 0

    @property
    def blocks(self) -> int:
        """st_blocks, in units of 512 bytes whatever the sectors of the disk; a link has none."""
        return -(-self.size_bytes // _BLOCK_COUNT_BYTES) if stat.S_ISREG(self.mode) else 0


@dataclass(frozen=True, slots=True)
class AttributeChange:
    """What SETATTR asks to change. Times are not in it, because a change of them is accepted and has no effect."""

    #: The new size; None where it shall stay.
    size_bytes: int | None = None
    #: Whether the mode or the owner shall change.
    protection: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """The answer to OPEN. The kernel drops the cached pages of the file, so that a reader sees what was closed before.

    With ``direct`` it keeps no pages of this open at all.
    """

    number: int
    direct: bool


@dataclass(frozen=True, slots=True)
class Volume:
    """The answer to STATFS: all counts are 0, as of /proc, because nothing can be stored here.

    `df` then leaves the mount out instead of calling it full.
    """

    block_bytes: int
    name_max_bytes: int


class Pages(Protocol):
    """The kernel's cached pages of a mount, as far as a front end can have them dropped."""

    async def drop(self, inode: int, start: int, stop: int, timeout_s: float) -> None:
        """Write back the dirty ones of the whole pages from ``start`` to ``stop``, then drop all of them.

        In a trio task. After ``timeout_s`` this returns, and the rest is done later.
        """

    async def drop_file(self, inode: int) -> None:
        """Do the same for all pages of a file, and drop its attributes, without a bound on the time."""

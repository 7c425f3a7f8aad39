"""The contents of requests and answers, in the terms of fuse(4) and without any library's types."""

import stat
from dataclasses import dataclass
from typing import Final, Protocol

_BLOCK_COUNT_BYTES: Final = 512


class Caller(Protocol):
    """Describes the thread that made the system call. An id is 0 if this process cannot see the thread's namespace."""

    @property
    def uid(self) -> int: ...

    @property
    def gid(self) -> int: ...

    @property
    def pid(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Attributes:
    """Holds what stat(2) shows of a file. The owner is root. All three times are ``changed_ns``, since the epoch."""

    inode: int
    #: The permission bits and the bits of the file's type.
    mode: int
    changed_ns: int
    #: The times for which the kernel may use the name, and the attributes, before it asks again.
    name_valid_s: float
    attributes_valid_s: float
    preferred_io_bytes: int
    size_bytes: int = 0
    links: int = 1
    gid: int = 0

    @property
    def blocks(self) -> int:
        """Return st_blocks, in units of 512 bytes whatever the disk's sector size. Only regular files have blocks."""
        return -(-self.size_bytes // _BLOCK_COUNT_BYTES) if stat.S_ISREG(self.mode) else 0


@dataclass(frozen=True, slots=True)
class AttributeChange:
    """Holds what SETATTR asks to change. Times are left out, because a change of them is accepted without effect."""

    #: The new size, or None if the size shall stay.
    size_bytes: int | None = None
    #: True if the mode, the owner or the group shall change.
    protection: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """Answers OPEN. The kernel then drops the file's cached pages, so that a reader sees what was closed before.

    If ``direct`` is set, the kernel keeps no pages for this open.
    """

    number: int
    direct: bool


@dataclass(frozen=True, slots=True)
class Volume:
    """Answers STATFS. All counts are 0, as for /proc, because nothing can be stored here.

    `df` then leaves the mount out, instead of showing it as full.
    """

    block_bytes: int
    name_max_bytes: int


class Pages(Protocol):
    """Declares how a front end drops the kernel's cached pages of a mount."""

    async def drop(self, inode: int, start: int, stop: int, timeout_s: float) -> None:
        """Write back the dirty pages between the offsets ``start`` and ``stop``, then drop all pages between them.

        Both offsets must be page boundaries. This must be called in a trio task. After ``timeout_s`` it returns, and
        the rest is done later.
        """

    async def drop_file(self, inode: int) -> None:
        """Write back and drop all pages of a file, and drop its attributes, without a time limit."""

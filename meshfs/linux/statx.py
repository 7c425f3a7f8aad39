"""statx(2) and name_to_handle_at(2), which Python's os module does not have.

Layouts: struct statx in linux/stat.h, struct file_handle in fcntl.h.
"""

import ctypes
import struct
from typing import Final

from meshfs.linux import libc

_AT_EMPTY_PATH: Final = 0x1000
_STATX_BYTES: Final = 256
_BTIME: Final = 0x0800
_BTIME_OFFSET: Final = 80
# MAX_HANDLE_SZ
_HANDLE_MAX_BYTES: Final = 128

_statx: Final = libc.function("statx")
_name_to_handle_at: Final = libc.function("name_to_handle_at")


def statx(fd: int, mask: int) -> bytes | None:
    """The bytes of struct statx for an open file; None where the kernel cannot fill in all of ``mask``."""
    memory = ctypes.create_string_buffer(_STATX_BYTES)
    if _statx(fd, b"", _AT_EMPTY_PATH, mask, memory) != 0:
        return None
    (filled,) = struct.unpack_from("<I", memory)
    return memory.raw if filled & mask == mask else None


def birth_time(fd: int) -> tuple[int, int] | None:
    """Seconds and nanoseconds at which the file was made; None where its file system does not keep them."""
    filled = statx(fd, _BTIME)
    if filled is None:
        return None
    seconds, nanoseconds = struct.unpack_from("<qI", filled, _BTIME_OFFSET)
    return seconds, nanoseconds


def file_handle(fd: int) -> str:
    """The file's name inside its file system, with the generation of its inode; "" where there is none.

    A file that gets the inode number of a removed one has another generation.
    """
    memory = ctypes.create_string_buffer(8 + _HANDLE_MAX_BYTES)
    struct.pack_into("Ii", memory, 0, _HANDLE_MAX_BYTES, 0)
    mount_id = ctypes.c_int()
    if _name_to_handle_at(fd, b"", memory, ctypes.byref(mount_id), _AT_EMPTY_PATH) != 0:
        return ""
    length, kind = struct.unpack_from("Ii", memory)
    return f"{kind} {memory.raw[8 : 8 + length].hex()}"

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
    """Return the bytes of struct statx for an open file, or None if the kernel cannot fill all fields of ``mask``."""
    memory = ctypes.create_string_buffer(_STATX_BYTES)
    if _statx(fd, b"", _AT_EMPTY_PATH, mask, memory) != 0:
        return None
    (filled,) = struct.unpack_from("<I", memory)
    return memory.raw if filled & mask == mask else None


def birth_time(fd: int) -> tuple[int, int] | None:
    """Return when the file was created, in seconds and nanoseconds, or None if its file system does not record that."""
    filled = statx(fd, _BTIME)
    if filled is None:
        return None
    seconds, nanoseconds = struct.unpack_from("<qI", filled, _BTIME_OFFSET)
    return seconds, nanoseconds


def file_handle(fd: int) -> str:
    """Return the handle that names the file inside its file system, or "" if the file system has no handles.

    The handle contains the inode's generation. So a file that reuses the inode number of a removed file has another
    handle.
    """
    memory = ctypes.create_string_buffer(8 + _HANDLE_MAX_BYTES)
    struct.pack_into("Ii", memory, 0, _HANDLE_MAX_BYTES, 0)
    mount_id = ctypes.c_int()
    if _name_to_handle_at(fd, b"", memory, ctypes.byref(mount_id), _AT_EMPTY_PATH) != 0:
        return ""
    length, kind = struct.unpack_from("Ii", memory)
    return f"{kind} {memory.raw[8 : 8 + length].hex()}"

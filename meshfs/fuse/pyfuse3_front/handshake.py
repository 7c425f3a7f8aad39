"""Answer FUSE_INIT with settings for which libfuse 3.14 and pyfuse3 3.5 have no options.

The kernel sends INIT when it mounts, and the answer decides how the kernel behaves. libfuse makes the answer as usual.
But for this one message, a socket pair takes the place of the session's fd. So the answer can be amended before it is
sent to the kernel:

    kernel --INIT--> meshfs --> socket pair --> libfuse --answer--> meshfs --amended--> kernel

    HANDLE_KILLPRIV_V2 on   Otherwise the kernel asks for the xattr security.capability before every write(2), and
                            waits for the answer. The flag promises that the file system drops set-user-id bits
                            and capabilities at a write. The files of the tree never have any.
    AUTO_INVAL_DATA off     Otherwise a read after a write first asks for the attributes, to find out whether the
                            pages are outdated. They need not be checked: the kernel drops them at each open, and
                            the mount drops them if the disk grows.
    ATOMIC_O_TRUNC off      Otherwise the kernel assumes that the file is empty after an open with O_TRUNC. It then
                            drops the dirty pages of every other opener, whose mappings end in SIGBUS. Without the
                            flag it sends SETATTR with the size 0 after the open (fuse/openers.py), and the
                            answer contains the old size.
    max_background          The default is 12, which is far too few while some I/O waits for a lost exporter.

Layouts: struct fuse_in_header, fuse_init_in, fuse_out_header, fuse_init_out of linux/fuse.h.
"""

import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Final

from meshfs import limits

logger = logging.getLogger(__name__)

# FUSE_MIN_READ_BUFFER: the kernel refuses a read with a smaller buffer.
_READ_BYTES: Final = 8192
_OPCODE_INIT: Final = 26
_ATOMIC_O_TRUNC: Final = 1 << 3
_AUTO_INVAL_DATA: Final = 1 << 12
_HANDLE_KILLPRIV_V2: Final = 1 << 28

# len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding; major, minor, max_readahead, flags
_REQUEST: Final = struct.Struct("<IIQQIIIHH IIII")
# len, error, unique; major, minor, max_readahead, flags, max_background, congestion_threshold
_ANSWER: Final = struct.Struct("<IiQ IIIIHH")


async def handshake(fd: int, answer_one: Callable[[], Awaitable[None]]) -> None:
    """Answer INIT: let ``answer_one`` read one request from ``fd`` and answer it there, and amend its answer."""
    device = os.dup(fd)
    try:
        # The kernel queued INIT before mount(2) returned, so this read does not wait.
        request = os.read(device, _READ_BYTES)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            ours.send(request)
            os.dup2(theirs.fileno(), fd, inheritable=False)
            try:
                await answer_one()
            finally:
                os.dup2(device, fd, inheritable=False)
            ours.setblocking(False)
            answer = ours.recv(_READ_BYTES)
        os.write(device, amended(request, answer))
    finally:
        os.close(device)


def amended(request: bytes, answer: bytes) -> bytes:
    """Return the answer to INIT with the settings of this module. Leave errors and other answers unchanged."""
    if len(request) < _REQUEST.size or len(answer) < _ANSWER.size:
        return answer
    opcode, offered = _REQUEST.unpack_from(request)[1], _REQUEST.unpack_from(request)[-1]
    length, error, unique, major, minor, readahead, flags, _, _ = _ANSWER.unpack_from(answer)
    if opcode != _OPCODE_INIT or error != 0:
        return answer
    flags = (flags & ~(_AUTO_INVAL_DATA | _ATOMIC_O_TRUNC)) | (offered & _HANDLE_KILLPRIV_V2)
    background = limits.FUSE_BACKGROUND_MAX
    head = _ANSWER.pack(length, error, unique, major, minor, readahead, flags, background, background * 3 // 4)
    logger.debug("FUSE %d.%d is agreed: flags 0x%08x, the kernel offered 0x%08x", major, minor, flags, offered)
    return head + answer[_ANSWER.size :]

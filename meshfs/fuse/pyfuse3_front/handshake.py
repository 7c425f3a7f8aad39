"""FUSE_INIT with settings that neither libfuse 3.14 nor pyfuse3 3.5 has options for.

The kernel sends INIT while it mounts; whoever answers it decides what the kernel does. Here
libfuse answers as ever, but through a socket pair laid over the session's fd for that one
message, and its answer is amended before it goes to the kernel:

    kernel --INIT--> us --> socket pair --> libfuse --answer--> us --amended--> kernel

    HANDLE_KILLPRIV_V2 on   else the kernel asks for the xattr security.capability, and waits
                            for the answer, before every write(2). The flag promises that the
                            file system drops set-user-id bits and capabilities on a write; the
                            tree's files never have any
    AUTO_INVAL_DATA off     else a read after a write first asks for the attributes. The page
                            cache is dropped at open (close-to-open), sizes do not change
    ATOMIC_O_TRUNC off      else the kernel takes an open with O_TRUNC for an empty file: it drops the dirty
                            pages of every other opener, and their mappings end in SIGBUS. Without the
                            flag it asks for the size 0 after the open (fuse/truncating.py), and the answer
                            keeps the size
    max_background          12 by default, far too few where some I/O waits for a lost exporter

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

# FUSE_MIN_READ_BUFFER: reads of less are refused.
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
    """Have INIT answered by ``answer_one``, which reads one request from ``fd`` and answers it there."""
    device = os.dup(fd)
    try:
        # Queued before mount(2) returned, so this does not wait.
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
    """Return the answer to an INIT request with our settings. Answers to others, and refusals, stay as they are."""
    if len(request) < _REQUEST.size or len(answer) < _ANSWER.size:
        return answer
    opcode, offered = _REQUEST.unpack_from(request)[1], _REQUEST.unpack_from(request)[-1]
    length, error, unique, major, minor, readahead, flags, _, _ = _ANSWER.unpack_from(answer)
    if opcode != _OPCODE_INIT or error != 0:
        return answer
    flags = (flags & ~(_AUTO_INVAL_DATA | _ATOMIC_O_TRUNC)) | (offered & _HANDLE_KILLPRIV_V2)
    background = limits.FUSE_BACKGROUND_MAX
    head = _ANSWER.pack(length, error, unique, major, minor, readahead, flags, background, background * 3 // 4)
    logger.debug("FUSE %d.%d, flags 0x%08x of 0x%08x", major, minor, flags, offered)
    return head + answer[_ANSWER.size :]

"""Open a disk and claim it: no other exporter, and no file system, may have it at once.

An image is claimed by flock(LOCK_EX), a block device by open(O_EXCL), which mount, MD, LVM
and swapon respect as well. Both last until the last I/O of the claiming process has ended,
even after kill -9: a request in flight keeps its file open. So a restarted exporter waits
here until nothing of its predecessor can land over its own writes.
"""

import errno
import fcntl
import logging
import os
from pathlib import Path
from typing import Final, Literal

import trio

from meshfs import limits
from meshfs.buffers import PAGE_BYTES, BufferPool
from meshfs.disk.base import Engine
from meshfs.disk.directio import ANY, alignment_of
from meshfs.disk.file import FileDisk
from meshfs.disk.scan import DiskFacts, identity_of, scan_disk
from meshfs.disk.zero import modes_of
from meshfs.errors import ConfigError

logger = logging.getLogger(__name__)

Cache = Literal["none", "writeback"]

# What open(2) and flock(2) say while another has the claim.
_CLAIMED_ERRNOS: Final = (errno.EBUSY, errno.EWOULDBLOCK)


async def open_disk(
    path: Path,
    *,
    engine: Engine,
    cache: Cache = "none",
    read_only: bool = False,
    claim_timeout_s: float = limits.DISK_CLAIM_TIMEOUT_S,
    pool: BufferPool | None = None,
) -> FileDisk:
    """The disk at ``path``, claimed; waits up to ``claim_timeout_s`` for a predecessor's claim.

    A device or file system that only lets itself be read makes the disk read-only (logged).
    Raises ConfigError with the reason for anything else that is wrong. Cancellation leaves
    nothing open.
    """
    facts = await trio.to_thread.run_sync(scan_disk, path)
    direct = cache == "none"
    fd, writable = await _claim(facts, direct, read_only, claim_timeout_s)
    tail_fd = None
    try:
        status = os.fstat(fd)
        if identity_of(status) != facts.identity:
            raise ConfigError(f"disk {path}: was replaced while it was opened")
        alignment = alignment_of(fd, facts.logical_block_size_bytes) if direct else ANY
        if alignment.offset_bytes > PAGE_BYTES:
            raise ConfigError(
                f'disk {path}: direct I/O needs blocks of {alignment.offset_bytes} bytes; use cache = "writeback"'
            )
        if writable and facts.size_bytes % alignment.offset_bytes:
            tail_fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        os.close(fd)
        raise ConfigError(f"disk {path}: {error.strerror}") from error
    except BaseException:
        os.close(fd)
        raise
    return FileDisk(
        facts,
        fd,
        engine if direct else engine.buffered,
        alignment,
        read_only=not writable,
        tail_fd=tail_fd,
        pool=pool,
        zero_modes=modes_of(status),
    )


async def _claim(facts: DiskFacts, direct: bool, read_only: bool, timeout_s: float) -> tuple[int, bool]:
    """The claimed descriptor and whether it may be written."""
    deadline = trio.current_time() + timeout_s
    writable = not read_only and not facts.read_only
    while True:
        try:
            fd = _open_claimed(facts, direct, writable)
        except OSError as error:
            if writable and error.errno == errno.EROFS:
                writable = False
                continue
            if error.errno in _CLAIMED_ERRNOS and trio.current_time() < deadline:
                await trio.sleep(limits.DISK_CLAIM_RETRY_S)
                continue
            raise ConfigError(f"disk {facts.path}: {_reason(error, direct)}") from error
        if not writable and not read_only:
            logger.warning("disk %s can only be read: served read-only", facts.path)
        return fd, writable


def _open_claimed(facts: DiskFacts, direct: bool, writable: bool) -> int:
    flags = os.O_CLOEXEC | (os.O_RDWR if writable else os.O_RDONLY) | (os.O_DIRECT if direct else 0)
    fd = os.open(facts.path, flags | (os.O_EXCL if facts.is_block_device else 0))
    if not facts.is_block_device:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(fd)
            raise
    return fd


def _reason(error: OSError, direct: bool) -> str:
    if error.errno in _CLAIMED_ERRNOS:
        return "is claimed by another exporter or file system"
    if error.errno == errno.EINVAL and direct:
        return 'its file system has no direct I/O; use cache = "writeback"'
    return error.strerror or str(error)

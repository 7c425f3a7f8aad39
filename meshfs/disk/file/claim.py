"""Open a disk and claim it, so that no other exporter and no file system can use it at the same time.

An image is claimed by flock(LOCK_EX). A block device is claimed by open(O_EXCL), which mount, MD, LVM and swapon
respect as well. A claim lasts until the last I/O of the claiming process has ended, even after kill -9. A request in
flight keeps its file open. So a restarted exporter waits here until no late write of its predecessor can overwrite its
own writes.
"""

import errno
import fcntl
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import trio

from meshfs import limits
from meshfs.buffers import PAGE_BYTES, BufferPool
from meshfs.disk.base import Engine
from meshfs.disk.discovery.scan import DiskFacts, identity_of, scan_disk
from meshfs.disk.file.directio import ANY, Alignment, alignment_of
from meshfs.disk.file.disk import FileDisk
from meshfs.disk.file.zero import can_punch, modes_of
from meshfs.errors import ConfigError, DiskUnavailable, TookTooLong
from meshfs.granules import NO_GRANULES
from meshfs.loop.bounded import Bounded
from meshfs.model import Cache

logger = logging.getLogger(__name__)


# The errnos of open(2) and flock(2) while another process has the claim.
_CLAIMED_ERRNOS: Final = (errno.EBUSY, errno.EWOULDBLOCK)


@dataclass(frozen=True, slots=True)
class Claim:
    """Holds a claimed disk. The claim lasts as long as ``fd`` is open."""

    facts: DiskFacts
    fd: int
    writable: bool
    alignment: Alignment
    tail_fd: int | None
    zero_modes: Sequence[int]

    def close(self) -> None:
        os.close(self.fd)
        if self.tail_fd is not None:
            os.close(self.tail_fd)


class _Claimed(DiskUnavailable):
    """Another process has the claim. It may be about to end, so a retry makes sense."""


async def open_disk(
    path: Path,
    *,
    engine: Engine,
    cache: Cache = Cache.NONE,
    read_only: bool = False,
    instance: str = "",
    claim_timeout_s: float = limits.DISK_CLAIM_TIMEOUT_S,
    pool: BufferPool | None = None,
    calls: Bounded | None = None,
) -> FileDisk:
    """Open and claim the disk at ``path``. Wait up to ``claim_timeout_s`` for a predecessor to give up its claim.

    If the device or file system is read-only, the disk is served read-only, and a warning is logged. If ``instance``
    is given, only the device or image with that identity is accepted. ``calls`` limits the time of calls that may
    block. Cancellation leaves nothing open.

    Raises ConfigError if the path can never be a disk, and DiskUnavailable with the reason in every other case.
    """
    calls = calls or Bounded(f"disk {path}")
    deadline = trio.current_time() + claim_timeout_s
    while True:
        try:
            claim = await calls.call(
                claim_disk, path, cache, read_only, instance, timeout_s=limits.DISK_CALL_TIMEOUT_S, late=Claim.close
            )
            break
        except TookTooLong as error:
            raise DiskUnavailable(f"disk {path}: {error}") from error
        except _Claimed:
            if trio.current_time() >= deadline:
                raise
        await trio.sleep(limits.DISK_CLAIM_RETRY_S)
    return FileDisk(
        claim.facts,
        claim.fd,
        engine if cache == Cache.NONE else engine.buffered,
        claim.alignment,
        read_only=not claim.writable,
        tail_fd=claim.tail_fd,
        pool=pool,
        zero_modes=claim.zero_modes,
    )


def claim_disk(path: Path, cache: Cache = Cache.NONE, read_only: bool = False, instance: str = "") -> Claim:
    """Read the facts of the disk at ``path``, and claim it. Blocks as long as its file system or device blocks."""
    facts = scan_disk(path)
    if instance and facts.instance != instance:
        raise DiskUnavailable(f"disk {path} is another device or image than before; reload meshfsd to serve this one")
    direct = cache == Cache.NONE
    fd, writable = _claim(facts, direct, read_only)
    try:
        tail_fd = None
        status = os.fstat(fd)
        if identity_of(status) != facts.identity:
            raise DiskUnavailable(f"disk {path} was replaced while it was opened")
        alignment = alignment_of(fd, facts.logical_block_size_bytes) if direct else ANY
        if alignment.offset_bytes > PAGE_BYTES:
            raise ConfigError(
                f'disk {path}: direct I/O needs blocks of {alignment.offset_bytes} bytes; use cache = "writeback"'
            )
        if not writable or not (facts.is_block_device or can_punch(fd, facts.size_bytes)):
            facts = replace(facts, granules=NO_GRANULES)
        if writable and facts.size_bytes % alignment.offset_bytes:
            tail_fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        os.close(fd)
        raise DiskUnavailable(f"disk {path}: {error.strerror}") from error
    except BaseException:
        os.close(fd)
        raise
    return Claim(facts, fd, writable, alignment, tail_fd, modes_of(status))


def _claim(facts: DiskFacts, direct: bool, read_only: bool) -> tuple[int, bool]:
    """Open and claim the disk. Return the descriptor, and True if it may be written to."""
    writable = not read_only and not facts.read_only
    while True:
        try:
            fd = _open_claimed(facts, direct, writable)
        except OSError as error:
            if writable and error.errno == errno.EROFS:
                writable = False
                continue
            raise _refusal(facts.path, error, direct) from error
        if not writable and not read_only:
            logger.warning("disk %s can only be read, so it is served read-only", facts.path)
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


def _refusal(path: Path, error: OSError, direct: bool) -> ConfigError | DiskUnavailable:
    if error.errno in _CLAIMED_ERRNOS:
        return _Claimed(f"disk {path} is claimed by another exporter or file system")
    if error.errno == errno.EINVAL and direct:
        return ConfigError(f'disk {path}: its file system has no direct I/O; use cache = "writeback"')
    return DiskUnavailable(f"disk {path}: {error.strerror or error}")

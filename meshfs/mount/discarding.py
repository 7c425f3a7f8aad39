"""Answers the verb "discard" of a mount's control socket: a part of a disk is discarded or zeroed, as `meshctl` asks.

    {"verb": "discard", "disk": ID, "offset": N, "length": N, "zero": false, "force": false}   ->   {"done": N}

A disk may be so large that a discard takes hours. So one answer is due after DISCARD_STEP_S, and says how many bytes
of the range are done and flushed. The asker then asks for the rest. It can show progress, and can be interrupted.

The I/O belongs to class system, because applications go first. The mount's cached pages of the range are dropped before
and after. Otherwise a dirty page could be written over the zeros later, and a clean one would show old bytes.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from meshfs import limits
from meshfs.fuse.handles import DiscardableDisk, DiskPort
from meshfs.model import DiskInfo, IoClass
from meshfs.mount.mesh import Mesh
from meshfs.program.control import Answer, RefusedError, Request

logger = logging.getLogger(__name__)

_LOOK_S: Final = 0.01


class CachedDisks(Protocol):
    """Declares what a discard needs of the files of a mount."""

    def opens_of(self, disk_id: str) -> int:
        """Return the number of open files of the disk."""

    async def drop_pages(self, disk_id: str, start: int, stop: int) -> None:
        """Write back the dirty pages of a range of the disk, then drop all pages of the range. Has a time limit."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    disk_id: str
    offset: int
    length: int
    zero: bool
    force: bool


class Discarder:
    """Discards and zeroes parts of the disks of one mount."""

    def __init__(self, mesh: Mesh, port_of: Callable[[DiskInfo], DiskPort], cached: CachedDisks) -> None:
        self._mesh = mesh
        self._port_of = port_of
        self._cached = cached

    async def answer(self, request: Request) -> Answer:
        """Do a part of what is asked. Raises RefusedError, whose text says what was refused and why."""
        wanted = _parse(request)
        found = self._mesh.catalog.disks.get(wanted.disk_id)
        if found is None:
            raise RefusedError(f"there is no disk {wanted.disk_id}")
        size = found.info.size_bytes
        if wanted.offset + wanted.length > size:
            raise RefusedError(f"the range ends past the end of disk {wanted.disk_id}, which has {size} bytes")
        if not wanted.force and (opens := await self._opens_of(wanted.disk_id)):
            raise RefusedError(
                f"disk {wanted.disk_id} has {opens} open files in this mount; close them, or use --force"
            )
        try:
            return {"done": await self._step(found.info, wanted)}
        except OSError as error:
            raise RefusedError(f"disk {wanted.disk_id}: {error.strerror or error}") from error

    async def _opens_of(self, disk_id: str) -> int:
        """Return the number of open files of the disk. The kernel reports a close(2) a moment later."""
        until_s = trio.current_time() + limits.DISCARD_CLOSE_S
        while (opens := self._cached.opens_of(disk_id)) and trio.current_time() < until_s:  # noqa: ASYNC110 - no event
            await trio.sleep(_LOOK_S)
        return opens

    async def _step(self, info: DiskInfo, wanted: _Wanted) -> int:
        """Work for DISCARD_STEP_S, and return how many bytes of the range are done. Raises OSError if none are."""
        until_s = trio.current_time() + limits.DISCARD_STEP_S
        handle = await self._port_of(info).open(IoClass.SYSTEM, writable=True)
        done = 0
        try:
            await self._cached.drop_pages(info.id, wanted.offset, wanted.offset + wanted.length)
            while done < wanted.length and (not done or trio.current_time() < until_s):
                done += await _clear(handle, wanted, done)
        except OSError as error:
            if not done:
                raise
            # The next request will meet the error again, unless it was a passing one.
            logger.info("disk %s: a part of its range was cleared, and then: %s", info.id, error)
        finally:
            try:
                # A part of the range may be cleared even if the call failed.
                await self._cached.drop_pages(info.id, wanted.offset, wanted.offset + wanted.length)
                if done:
                    await handle.flush()
            finally:
                await handle.close()
        return done


async def _clear(handle: DiscardableDisk, wanted: _Wanted, done: int) -> int:
    offset, length = wanted.offset + done, wanted.length - done
    return await (handle.zero(offset, length) if wanted.zero else handle.discard(offset, length))


def _parse(request: Request) -> _Wanted:
    disk_id, offset, length = request.get("disk"), request.get("offset"), request.get("length")
    zero, force = request.get("zero", False), request.get("force", False)
    if not (isinstance(disk_id, str) and isinstance(zero, bool) and isinstance(force, bool)):
        raise RefusedError("discard needs a disk, and takes zero and force as true or false")
    if not (type(offset) is int and type(length) is int and offset >= 0 and length > 0):
        raise RefusedError("discard needs an offset and a length in bytes, and the length must be positive")
    return _Wanted(disk_id, offset, length, zero, force)

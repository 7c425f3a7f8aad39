"""A port with its disk in memory, so that the FUSE side can be tested without an initiator."""

import errno
import os
import random
from collections.abc import Iterable

import trio

from meshfs.loop.worker import enter_trio
from meshfs.model import Access, DiskInfo, IoClass


class FakePort:
    """Serves as the port of one disk. It records its calls, and a test sets its faults.

    error            errno of every later read, write and flush; None: they succeed
    open_error       errno of every later open; None: it succeeds
    gate             an Event that every later read and write waits for
    error_after      after this many more calls, calls fail with EIO
    zero_max_bytes   the most bytes that one call of zero or discard clears
    delay_s          reads, writes and flushes take a random time up to this long, so they complete in any order
    calls            (operation, offset, size, write_through or None) of every call, in order
    opened           (class, writable) of every open, in order
    """

    def __init__(self, info: DiskInfo) -> None:
        self.info = info
        self.data = bytearray(info.size_bytes)
        self.error: int | None = None
        self.open_error: int | None = None
        self.gate: trio.Event | None = None
        self.delay_s = 0.0
        self.zero_max_bytes = 1 << 40
        self.error_after: int | None = None
        self.calls: list[tuple[str, int, int, bool | None]] = []
        self.opened: list[tuple[IoClass, bool]] = []
        self.handles = 0
        self.bug: Exception | None = None
        self.last_written_ns = info.written_ns

    async def written_ns(self) -> int:
        return self.last_written_ns

    async def open(self, io_class: IoClass, *, writable: bool) -> "FakeHandle":
        if self.open_error is not None:
            raise OSError(self.open_error, os.strerror(self.open_error))
        self.opened.append((io_class, writable))
        self.handles += 1
        return FakeHandle(self)

    async def enter(self, operation: str, offset: int, size: int, write_through: bool | None = None) -> None:
        self.calls.append((operation, offset, size, write_through))
        if self.gate is not None or self.delay_s:
            await enter_trio()
        if self.gate is not None:
            await self.gate.wait()
        if self.delay_s:
            await trio.sleep(random.uniform(0, self.delay_s))
        if self.bug is not None:
            raise self.bug
        if self.error_after is not None:
            self.error_after -= 1
            if self.error_after < 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))


class FakeHandle:
    """Serves as a handle of a `FakePort`, and reads and writes the port's data."""

    def __init__(self, port: FakePort) -> None:
        self._port = port
        self._closed = False

    async def read(self, offset: int, size: int) -> memoryview:
        await self._port.enter("read", offset, size)
        return memoryview(self._port.data)[offset : offset + size]

    async def write(self, offset: int, data: bytes | memoryview, *, write_through: bool = False) -> int:
        await self._port.enter("write", offset, len(data), write_through)
        if offset + len(data) > len(self._port.data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._port.data[offset : offset + len(data)] = data
        return len(data)

    async def zero(self, offset: int, length: int, *, write_through: bool = False) -> int:
        count = min(length, self._port.zero_max_bytes)
        await self._port.enter("zero", offset, count, write_through)
        if offset + count > len(self._port.data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._port.data[offset : offset + count] = bytes(count)
        return count

    async def discard(self, offset: int, length: int) -> int:
        count = min(length, self._port.zero_max_bytes)
        await self._port.enter("discard", offset, count)
        return count

    async def flush(self) -> None:
        await self._port.enter("flush", 0, 0)

    async def close(self) -> None:
        if self._closed:
            raise AssertionError("closed twice")
        self._closed = True
        self._port.handles -= 1


def fake_disk(
    node: str, name: str, size_bytes: int, *, access: Access = Access.READ_WRITE, cache: str = "none"
) -> DiskInfo:
    return DiskInfo(
        id=f"meshfs-{node}-{name}",
        node=node,
        name=name,
        size_bytes=size_bytes,
        access=access,
        verifier="v1",
        cache=cache,
    )


def fake_ports(disks: Iterable[DiskInfo]) -> dict[str, FakePort]:
    """Return ports for these disks, by disk id."""
    return {info.id: FakePort(info) for info in disks}

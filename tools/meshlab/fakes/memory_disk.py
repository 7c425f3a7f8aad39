"""A disk in memory with faults on demand, for simulations and tests.

The disk completes requests within ``submit``, unless a test stalls or delays it. Like a device with a volatile cache,
it loses unflushed writes in a ``power_loss``, which changes its verifier.

Only the event loop's thread may use it. ``delay_s`` follows trio's clock (a MockClock too).
"""

import errno
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from meshfs.disk.base import DiskRequest, Op
from meshfs.disk.file.verifier import make_verifier
from meshfs.granules import Granules

Predicate = Callable[[DiskRequest], bool]

#: What a discarded byte reads as. It is neither the old byte nor zero, so that nobody relies on either.
DISCARDED: Final = b"\xdd"
PAGES: Final = Granules(4096)


@dataclass(frozen=True, slots=True)
class _Fault:
    start: int
    stop: int
    errno: int
    ops: Collection[Op]


class MemoryDisk:
    """Implements disk.base.Disk. Reads return ``data``. ``completed`` counts the results that were delivered."""

    def __init__(
        self,
        size_bytes: int,
        *,
        name: str = "memory",
        logical_block_size_bytes: int = 512,
        physical_block_size_bytes: int = 4096,
        read_only: bool = False,
        granules: Granules = PAGES,
    ) -> None:
        self.size_bytes = size_bytes
        self.logical_block_size_bytes = logical_block_size_bytes
        self.physical_block_size_bytes = physical_block_size_bytes
        self.rotational = False
        self.read_only = read_only
        self.granules = granules
        self.delay_s = 0.0
        self.data = bytearray(size_bytes)
        self.completed = 0
        #: The number of FLUSH requests that succeeded.
        self.flushes = 0
        self._name = name
        self._instance = 0
        self.verifier = self._make_verifier()
        # The contents that survive a power loss, and the ranges [start, stop) in which ``data`` may differ from them.
        self._stable = bytearray(size_bytes)
        self._unstable: list[tuple[int, int]] = []
        self._faults: list[_Fault] = []
        self._stalls: Predicate | None = None
        self._stalled: list[DiskRequest] = []
        self._delayed = 0
        self._ready: deque[DiskRequest] = deque()
        self._finishing = False

    # --- faults -----------------------------------------------------------------------

    def fail(self, start: int, stop: int, code: int = errno.EIO, ops: Collection[Op] = tuple(Op)) -> None:
        """Fail all later requests of ``ops`` that touch [start, stop) with -``code``. A FLUSH touches every range."""
        self._faults.append(_Fault(start, stop, code, ops))

    def heal(self) -> None:
        self._faults.clear()

    def stall(self, predicate: Predicate = lambda request: True) -> None:
        """Hold every later request for which ``predicate`` is true, until ``release``."""
        self._stalls = predicate

    def release(self, predicate: Predicate | None = None) -> None:
        """Execute the held requests in the order of their arrival, and hold no more requests.

        With a ``predicate``, execute only the requests for which it is true. The disk then keeps the other requests,
        and goes on holding new ones.
        """
        if predicate is None:
            self._stalls = None
        stalled, self._stalled = self._stalled, []
        for request in stalled:
            released = predicate is None or predicate(request)
            (self._ready if released else self._stalled).append(request)
        self._finish_ready()

    def power_loss(self) -> None:
        """Forget every write that was not flushed; the verifier changes."""
        for start, stop in self._unstable:
            self.data[start:stop] = self._stable[start:stop]
        self._unstable.clear()
        self._instance += 1
        self.verifier = self._make_verifier()

    def _make_verifier(self) -> str:
        return make_verifier(f"memory {self._name}", f"{id(self)} {self._instance}")

    @property
    def stalled(self) -> int:
        """Return the number of requests that are held now."""
        return len(self._stalled)

    @property
    def in_flight(self) -> int:
        return len(self._stalled) + self._delayed + len(self._ready)

    # --- disk.base.Disk ---------------------------------------------------------------

    def submit(self, requests: Sequence[DiskRequest]) -> None:
        for request in requests:
            if self._stalls is not None and self._stalls(request):
                self._stalled.append(request)
            elif self.delay_s > 0:
                self._delayed += 1
                trio.lowlevel.spawn_system_task(self._finish_later, request, self.delay_s)
            else:
                self._ready.append(request)
        self._finish_ready()

    def close(self) -> None:
        if self.in_flight:
            raise RuntimeError("a disk was closed with requests in flight")

    async def _finish_later(self, request: DiskRequest, delay_s: float) -> None:
        await trio.sleep(delay_s)
        self._delayed -= 1
        self._ready.append(request)
        self._finish_ready()

    def _finish_ready(self) -> None:
        """Execute the ready requests one by one. If an ``on_done`` submits more, the same loop executes them too."""
        if self._finishing:
            return
        self._finishing = True
        try:
            while self._ready:
                request = self._ready.popleft()
                request.result = self._perform(request)
                self.completed += 1
                request.on_done(request)
        finally:
            self._finishing = False

    def _perform(self, request: DiskRequest) -> int:
        start, stop = request.offset, request.offset + request.length
        if request.op == Op.FLUSH:
            start, stop = 0, self.size_bytes
        for fault in self._faults:
            if request.op in fault.ops and start < fault.stop and fault.start < stop:
                return -fault.errno
        if request.op == Op.FLUSH:
            self._make_stable()
            self.flushes += 1
            return 0
        if request.op == Op.READ:
            return self._read(request, start, min(stop, self.size_bytes))
        if self.read_only:
            return -errno.EROFS
        if stop > self.size_bytes:
            return -errno.ENOSPC
        if request.op == Op.ZERO:
            self._change(request, start, stop, bytes(request.length))
        elif request.op == Op.DISCARD:
            if not self.granules:
                return -errno.EOPNOTSUPP
            start, stop = self.granules.whole(start, stop)
            self._change(request, start, stop, DISCARDED * (stop - start))
        elif request.buffer is not None:
            data = request.buffer.view[request.start : request.start + request.length]
            self._change(request, start, stop, data)
        return request.length

    def _read(self, request: DiskRequest, start: int, stop: int) -> int:
        length = max(stop - start, 0)
        if length and request.buffer is not None:
            request.buffer.view[request.start : request.start + length] = self.data[start:stop]
        return length

    def _change(self, request: DiskRequest, start: int, stop: int, data: bytes | memoryview) -> None:
        self.data[start:stop] = data
        if request.write_through:
            self._stable[start:stop] = data
        elif start < stop:
            self._unstable.append((start, stop))

    def _make_stable(self) -> None:
        for start, stop in self._unstable:
            self._stable[start:stop] = self.data[start:stop]
        self._unstable.clear()

"""What a disk is to the exporter: asynchronous requests in batches, completions by callback.

Data flow (one event loop, no await between message and submission):

    dispatch -> scheduler queue -> runner -> Disk.submit([requests])
    engine's completion fd readable -> Disk sets request.result -> request.on_done(request)

``submit`` never blocks and never raises for an I/O error; the result of every submitted
request is delivered exactly once, possibly before ``submit`` returns.
"""

import enum
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from meshfs import bugs
from meshfs.buffers import Buffer
from meshfs.model import NO_FLOW, FlowKey

logger = logging.getLogger(__name__)


class Op(enum.IntEnum):
    READ = 0
    WRITE = 1
    FLUSH = 2
    #: The bytes read as zeros afterwards; it has no payload.
    ZERO = 3


#: A time that has not come.
NEVER_S: Final = -math.inf


class DiskRequest:
    """One request, from the wire to the disk and back.

    op, offset, length   what to do; ``length`` in bytes, any alignment
    buffer, start        the payload's memory is ``buffer.view[start:start + length]``;
                         the request keeps the buffer until it is done (None for FLUSH and ZERO)
    write_through        the write (or zeroing) must be stable before it is done
    flow                 whose request it is for the scheduler
    on_done              called once with the request when ``result`` is set
    result               bytes done (short only at the end of the disk), or -errno
    context              the caller's own
    cost_s               seconds of the disk's time it is expected to take; the scheduler's
    added_s, sent_s      when it came to the queue and left it for the disk, by the queue's clock; NEVER_S before
    """

    __slots__ = (
        "added_s", "buffer", "context", "cost_s", "flow", "length", "offset", "on_done", "op", "result",
        "sent_s", "start", "write_through",
    )  # fmt: skip

    def __init__(
        self,
        op: Op,
        offset: int,
        length: int,
        buffer: Buffer | None,
        start: int,
        on_done: Callable[["DiskRequest"], None],
        *,
        flow: FlowKey = NO_FLOW,
        write_through: bool = False,
        context: Any = None,
    ) -> None:
        self.op = op
        self.offset = offset
        self.length = length
        self.buffer = buffer
        self.start = start
        self.on_done = on_done
        self.flow = flow
        self.write_through = write_through
        self.context = context
        self.result = 0
        self.cost_s = 0.0
        self.added_s = NEVER_S
        self.sent_s = NEVER_S


class Disk(Protocol):
    """A disk's backend. Offsets and lengths are checked against ``size_bytes`` by the caller."""

    size_bytes: int
    logical_block_size_bytes: int
    physical_block_size_bytes: int
    rotational: bool
    read_only: bool
    #: Changes when acknowledged, unflushed writes may have been lost (design: write verifier).
    verifier: str

    def submit(self, requests: Sequence[DiskRequest]) -> None: ...

    def close(self) -> None:
        """End it; requires that nothing is in flight."""


#: How an engine tells a result: bytes done (>= 0, possibly short), or -errno.
Done = Callable[[int], object]


def report_fault(done: Done, error: Exception) -> None:
    """What was to be done with an answer of the kernel failed; the engine goes on with the next answer."""
    what = getattr(getattr(done, "func", done), "__qualname__", "a callback")
    bugs.report(logger, f"{what}, with an answer of the kernel,", error)


class Engine(Protocol):
    """How I/O on file descriptors is done: io_uring, Linux AIO, or threads.

    One engine serves all disks of a process. ``queue_*`` only records; ``flush`` hands
    everything recorded to the kernel in one call (submission order is not completion
    order) and delivers what completed meanwhile. ``done`` is called exactly once each,
    never from ``queue_*``, always in the event loop's thread; it may queue and flush more.
    The memory at ``address`` belongs to the engine until then. Short results and -EAGAIN
    are passed on as they come: the disk knows where its end is.

    Create and use it in the thread (and process) of the event loop only.
    """

    @property
    def name(self) -> str: ...

    @property
    def buffered(self) -> "Engine":
        """The engine to use for files in the page cache (not ``self`` where those would block)."""

    def queue_read(self, fd: int, address: int, length: int, offset: int, done: Done) -> None: ...

    def queue_write(self, fd: int, address: int, length: int, offset: int, done: Done, *, dsync: bool) -> None: ...

    def queue_fdatasync(self, fd: int, done: Done) -> None: ...

    def queue_fallocate(self, fd: int, mode: int, offset: int, length: int, done: Done) -> None:
        """fallocate(2); ``done`` gets 0 or -errno."""

    def flush(self) -> None: ...

    async def run(self) -> None:
        """Deliver completions until cancelled."""

    def close(self) -> None:
        """End it; requires that nothing is in flight."""

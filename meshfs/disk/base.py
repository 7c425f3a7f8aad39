"""The interfaces of a disk and of an engine: requests are submitted in batches, and a callback reports each result.

Data flow (one event loop; nothing awaits between the arrival of a message and its submission):

    dispatch -> scheduler queue -> runner -> Disk.submit([requests])
    engine's completion fd readable -> Disk sets request.result -> request.on_done(request)

``submit`` never blocks, and it never raises for an I/O error. The result of every submitted request is delivered
exactly once, possibly before ``submit`` returns.
"""

import enum
import logging
import math
from collections.abc import Callable, Sequence
from typing import Final, Protocol, Self

from meshfs import bugs
from meshfs.buffers import Buffer
from meshfs.granules import Granules
from meshfs.model import NO_FLOW, FlowKey

logger = logging.getLogger(__name__)


class Op(enum.IntEnum):
    """Names the operation of a request. Only READ and WRITE have a payload.

    ZERO makes a range read as zeros. DISCARD tells the disk that the data of a range is not needed. Until the range is
    written again, its content is undefined.
    """

    READ = 0
    WRITE = 1
    FLUSH = 2
    ZERO = 3
    DISCARD = 4


#: The time stamp of an event that has not happened yet.
NEVER_S: Final = -math.inf


class DiskRequest:
    """Holds one request, from the wire to the disk and back.

    op, offset, length   the operation and its range, in bytes; any alignment is allowed
    buffer, start        the payload's memory is ``buffer.view[start:start + length]``. The request keeps the
                         buffer until the request is done. The buffer is None for other operations
    write_through        the change must be on stable storage before it is done
    flow                 the flow to which the scheduler charges the request
    on_done              called once with the request, after ``result`` is set
    result               bytes done (fewer than ``length`` only at the end of the disk), or -errno
    cost_s               the disk's time that the request is expected to take, in seconds; set by the scheduler
    added_s, sent_s      when the request entered the queue, and when it was sent to the disk, by the queue's
                         clock; NEVER_S until then
    """

    __slots__ = (
        "added_s",
        "buffer",
        "cost_s",
        "flow",
        "length",
        "offset",
        "on_done",
        "op",
        "result",
        "sent_s",
        "start",
        "write_through",
    )

    def __init__(
        self,
        op: Op,
        offset: int,
        length: int,
        buffer: Buffer | None,
        start: int,
        on_done: Callable[[Self], None],
        *,
        flow: FlowKey = NO_FLOW,
        write_through: bool = False,
    ) -> None:
        self.op = op
        self.offset = offset
        self.length = length
        self.buffer = buffer
        self.start = start
        self.on_done = on_done
        self.flow = flow
        self.write_through = write_through
        self.result = 0
        self.cost_s = 0.0
        self.added_s = NEVER_S
        self.sent_s = NEVER_S


class Disk(Protocol):
    """Serves one disk. The caller checks offsets and lengths against ``size_bytes``."""

    size_bytes: int
    logical_block_size_bytes: int
    physical_block_size_bytes: int
    rotational: bool
    read_only: bool
    #: The units in which the disk can discard, or NO_GRANULES.
    granules: Granules
    #: The write verifier. It changes when acknowledged, unflushed writes may have been lost.
    verifier: str

    def submit(self, requests: Sequence[DiskRequest]) -> None: ...

    def close(self) -> None:
        """Close the disk. No request may be in flight."""


#: Receives one result of an engine: bytes done (>= 0, possibly fewer than asked for), or -errno.
Done = Callable[[int], object]


def report_fault(done: Done, error: Exception) -> None:
    """Report that ``done`` raised. The caller, an engine, then goes on with the next completion."""
    what = getattr(getattr(done, "func", done), "__qualname__", "a callback")
    bugs.report(logger, f"{what}, with an answer of the kernel,", error)


class Engine(Protocol):
    """Does I/O on file descriptors by io_uring, Linux AIO or threads. One engine serves all disks of a process.

    ``queue_*`` only records a request. ``flush`` passes all recorded requests to the kernel in one call, and delivers
    the completions that have arrived. Requests may complete in any order.

    ``done`` is called exactly once per request, in the event loop's thread, and never from inside ``queue_*``. It may
    queue and flush more requests. The memory at ``address`` belongs to the engine until ``done`` is called. An engine
    passes on short results and -EAGAIN unchanged, because only the disk knows where its end is.

    Create and use an engine only in the thread (and process) of the event loop.
    """

    @property
    def name(self) -> str: ...

    @property
    def buffered(self) -> "Engine":
        """Return the engine for I/O through the page cache, which is another engine if ``self`` would block on it."""

    def queue_read(self, fd: int, address: int, length: int, offset: int, done: Done) -> None: ...

    def queue_write(self, fd: int, address: int, length: int, offset: int, done: Done, *, dsync: bool) -> None: ...

    def queue_fdatasync(self, fd: int, done: Done) -> None: ...

    def queue_fallocate(self, fd: int, mode: int, offset: int, length: int, done: Done) -> None:
        """Record a fallocate(2) with this mode. ``done`` gets 0 or -errno."""

    def queue_discard(self, fd: int, offset: int, length: int, done: Done) -> None:
        """Record a discard of a range of a block device, by BLKDISCARD. ``done`` gets 0 or -errno."""

    def flush(self) -> None: ...

    async def run(self) -> None:
        """Deliver completions until cancelled."""

    def close(self) -> None:
        """Free the engine's resources. No request may be in flight."""

"""The loss of acknowledged writes: the disk's write verifier, which outlives the exporter, and its flushes.

Theory. The kernel reports a failed write-back only once to each descriptor (errseq_t, include/linux/errseq.h). A
device that lost its volatile cache fails only one flush. An exporter has one descriptor for all initiators. So only
one initiator gets the error, and all others must learn of the loss from a new write verifier. Three things can go
wrong:

 1. Two flushes run at the same time. The kernel reports the error to the first flush, so the second may succeed. That
    success could be answered before the exporter knows of the failure. `Flushes` therefore has only one flush at the
    disk at a time. That flush serves every request that waited for it (group commit), so no request waits for more
    than one flush after the current one.
 2. The exporter restarts after the failure. The new process would compute the old verifier again, and a repeated
    flush would succeed, so the loss would stay hidden. `Losses` therefore puts a seed into the verifier, and stores
    the seed outside the process. It holds back every answer to a flush until the new seed is stored.
 3. The machine crashes. Nothing has to be stored for that case, as the verifier contains the boot id. For the same
    reason a seed need not be on stable storage. It only has to outlive the process, and the page cache does.

A restart without a loss keeps the seed, and so the verifier stays the same. No writer has to repeat anything then:
earlier writes are still in the page cache or the device's cache. A write-back may fail while no process has the disk
open. The kernel then reports it to the next process: errseq_sample gives an unreported error to a new descriptor.

One gap remains. The process may be killed while the failing flush is at the disk, or before the process has read the
kernel's report. The kernel does not repeat that report. A failing flush mostly takes long, because the kernel retries
and resets the device. In that time an administrator may well kill the exporter. Therefore a flush that has been at the
disk for FLUSH_DOUBT_S is recorded as a loss in advance. If the flush succeeds, the record is removed.
"""

import errno
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Final

from meshfs import limits
from meshfs.disk.base import DiskRequest, Engine
from meshfs.disk.file.verifier import make_verifier

#: Stores a seed outside the process, and calls back when it is stored. It must neither block nor raise.
Keep = Callable[[str, Callable[[], object]], None]

# With these errnos the kernel refuses a write before it writes or flushes anything.
_WRITES_NOTHING: Final = (
    errno.EAGAIN,
    errno.EINTR,
    errno.ENOMEM,
    errno.EPERM,
    errno.EROFS,
    errno.EINVAL,
    errno.EBADF,
    errno.EFAULT,
)


def may_report_loss(number: int, *, direct: bool) -> bool:
    """Return whether a write-through that failed with errno ``number`` may have consumed a report of the kernel.

    A write-through also flushes, and so may get the report that earlier writes were lost. ENOSPC and EDQUOT are the
    write's own errors if it was ``direct``. If it went through the page cache, they may concern other pages, which
    found no room at their write-back.
    """
    if number in (errno.ENOSPC, errno.EDQUOT):
        return not direct
    return number not in _WRITES_NOTHING


def _at_once(seed: str, then: Callable[[], object]) -> None:
    """Call back without storing the seed. This is the default for disks that do not outlive the process."""
    then()


class Losses:
    """Holds the write verifier of one disk, and the answers that wait until its seed is stored."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._keep: Keep = _at_once
        self._unkept = 0
        self._held: list[Callable[[], object]] = []
        self.verifier = make_verifier(instance)

    def recall(self, seed: str, keep: Keep) -> None:
        """Continue with the seed that an earlier process stored. ``keep`` stores new seeds."""
        self._keep = keep
        self.verifier = make_verifier(self._instance, seed)

    def lose(self) -> None:
        """Make a verifier that was never used before, because acknowledged writes may be lost.

        Its seed is stored before any flush is answered.
        """
        seed = uuid.uuid4().hex
        self.verifier = make_verifier(self._instance, seed)
        self._unkept += 1
        self._keep(seed, self._kept)

    def answer(self, call: Callable[[], object]) -> None:
        """Call ``call`` as soon as the seeds of all losses until now are stored."""
        if self._unkept:
            self._held.append(call)
        else:
            call()

    def _kept(self) -> None:
        self._unkept -= 1
        if not self._unkept:
            held, self._held = self._held, []
            for call in held:
                call()


class Flushes:
    """Sends the flushes of one descriptor, one at a time. A flush serves all requests that waited for it."""

    def __init__(self, engine: Engine, fd: int, done: Callable[[list[DiskRequest], int], None]) -> None:
        self._engine = engine
        self._fd = fd
        self._done = done
        self._running: list[DiskRequest] | None = None
        self._waiting: list[DiskRequest] = []
        self._start_s = 0.0

    def age_s(self, now_s: float) -> float:
        """Return for how many seconds the current flush has been at the disk, or 0 if there is none.

        ``now_s`` is the time by time.monotonic().
        """
        return 0.0 if self._running is None else now_s - self._start_s

    @property
    def running(self) -> bool:
        return self._running is not None

    def add(self, request: DiskRequest) -> None:
        """Let the next flush that starts serve the request. The caller must then flush the engine."""
        self._waiting.append(request)
        if self._running is None:
            self._start()

    def _start(self) -> None:
        self._running, self._waiting = self._waiting, []
        self._start_s = time.monotonic()
        self._engine.queue_fdatasync(self._fd, partial(self._finished, 0))

    def _finished(self, again: int, result: int) -> None:
        if result in (-errno.EAGAIN, -errno.EINTR) and again < limits.DISK_AGAIN_MAX:
            self._engine.queue_fdatasync(self._fd, partial(self._finished, again + 1))
            self._engine.flush()
            return
        done, self._running = self._running, None
        assert done is not None
        if self._waiting:
            self._start()
            self._engine.flush()
        self._done(done, result)

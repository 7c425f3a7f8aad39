"""What a disk has lost: its write verifier, which outlives the exporter, and its flushes.

Theory. The kernel reports a failed write-back once to each descriptor (errseq_t, include/linux/errseq.h), and a
device that lost its volatile cache reports one failed flush. An exporter has one descriptor for all initiators, so
that one of them gets the error and all others learn of it by another write verifier. Three things can go wrong:

 1. Two flushes run at once. The second may succeed, as the kernel gave the error to the first, and its success
    could be answered before the exporter knows of the failure. `Flushes` therefore has one flush at the disk at a
    time, which is for everybody that waited for it (group commit), and costs nobody more than one flush.
 2. The exporter restarts after the failure. The new process would make the old verifier again, and a flush that is
    repeated then succeeds. `Losses` has a seed in the verifier that is kept outside the process, and holds back
    every answer about a flush until the new seed is kept.
 3. The machine dies. Nothing has to be kept for that: the verifier contains the boot id. For the same reason a seed
    need not be on stable storage; it has to outlive the process, for which the page cache is enough.

A restart without a loss keeps the seed, hence the verifier, and no writer notices it: what was written before is in
the page cache or the device's cache still. What the kernel failed to write back while no process had the disk open
is reported to the next one (errseq_sample gives an error that nobody has seen to a new descriptor).

What remains is a process that is killed while the failing flush is at the disk, or before it has taken the kernel's
report: that report is gone, and nobody can ask for it again. A failing flush mostly takes long, as the kernel tries
again and resets the device, and then somebody loses patience with the exporter. A flush that has been at the disk for
FLUSH_DOUBT_S is therefore noted as a loss in advance, and the note is taken back when it succeeds.
"""

import errno
import time
import uuid
from collections.abc import Callable
from functools import partial

from meshfs import limits
from meshfs.disk.base import DiskRequest, Engine
from meshfs.disk.file.verifier import make_verifier

#: Keep a seed outside the process, and call back when it is kept. Must neither block nor raise.
Keep = Callable[[str, Callable[[], object]], None]


def _at_once(seed: str, then: Callable[[], object]) -> None:
    """Nobody keeps seeds: for disks that do not outlive the process."""
    then()


class Losses:
    """The write verifier of one disk, and the answers that wait until it is kept."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._keep: Keep = _at_once
        self._unkept = 0
        self._held: list[Callable[[], object]] = []
        self.verifier = make_verifier(instance)

    def recall(self, seed: str, keep: Keep) -> None:
        """Go on from the seed that an earlier process kept."""
        self._keep = keep
        self.verifier = make_verifier(self._instance, seed)

    def lose(self) -> None:
        """Acknowledged writes may be lost: a verifier that never was, kept before anything is answered."""
        seed = uuid.uuid4().hex
        self.verifier = make_verifier(self._instance, seed)
        self._unkept += 1
        self._keep(seed, self._kept)

    def answer(self, call: Callable[[], object]) -> None:
        """Call it as soon as every loss until now is kept."""
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
    """The flushes of one descriptor: one at the disk at a time, for all requests that waited for it."""

    def __init__(self, engine: Engine, fd: int, done: Callable[[list[DiskRequest], int], None]) -> None:
        self._engine = engine
        self._fd = fd
        self._done = done
        self._running: list[DiskRequest] | None = None
        self._waiting: list[DiskRequest] = []
        self._start_s = 0.0

    def age_s(self, now_s: float) -> float:
        """For how long the flush at the disk has been there, by time.monotonic(); 0 without one."""
        return 0.0 if self._running is None else now_s - self._start_s

    @property
    def running(self) -> bool:
        return self._running is not None

    def add(self, request: DiskRequest) -> None:
        """Have it done by the next flush that begins; the caller flushes the engine."""
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

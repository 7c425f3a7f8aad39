"""A load that knows what every block must hold: the number of its last acknowledged write.

One thread writes blocks with rising numbers and reads them back at once. The load thereby finds a write that was lost,
that was carried out twice, or that landed over a newer one, whatever happened to the exporter meanwhile.
"""

import mmap
import os
import random
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BLOCK_BYTES = 4096
_STAMP = struct.Struct("<QQ")


class StampedLoad(threading.Thread):
    """Runs until `finish`. `errors` lists what went wrong, and `writes` counts the acknowledged writes."""

    def __init__(self, path: Path, blocks: range, seed: int) -> None:
        super().__init__(daemon=True)
        self._fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        self._buffer = mmap.mmap(-1, BLOCK_BYTES)
        self._blocks = blocks
        self._random = random.Random(seed)
        self._stopping = threading.Event()
        self.expected: dict[int, int] = {}
        self.writes = 0
        self.errors: list[str] = []
        self._slowest_s = 0.0
        self._begun_s: float | None = None

    def take_slowest(self) -> float:
        """Return how long the slowest I/O since the last call took. An unfinished I/O counts with the time so far."""
        begun_s = self._begun_s
        running_s = 0.0 if begun_s is None else time.monotonic() - begun_s
        slowest_s, self._slowest_s = self._slowest_s, 0.0
        return max(slowest_s, running_s)

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._write(self._random.choice(self._blocks))
                self._check(self._random.choice(self._blocks))
        except (OSError, AssertionError) as error:
            self.errors.append(f"after {self.writes} writes: {error!r}")
            with suppress(OSError):
                os.close(self._fd)

    def finish(self, timeout_s: float) -> None:
        """Stop the load, and then read every block once more."""
        self._stopping.set()
        self.join(timeout_s)
        assert not self.is_alive(), "an I/O of the load hangs"
        assert not self.errors, self.errors
        for block in self._blocks:
            self._check(block)
        os.close(self._fd)

    def _write(self, block: int) -> None:
        stamp = _STAMP.pack(block, self.writes + 1)
        self._buffer[:] = stamp * (BLOCK_BYTES // _STAMP.size)
        with self._timed():
            written = os.pwritev(self._fd, [self._buffer], block * BLOCK_BYTES)
        assert written == BLOCK_BYTES, f"short write of {written} bytes"
        self.writes += 1
        self.expected[block] = self.writes

    def _check(self, block: int) -> None:
        if block not in self.expected:
            return
        with self._timed():
            count = os.preadv(self._fd, [self._buffer], block * BLOCK_BYTES)
        assert count == BLOCK_BYTES, f"short read of {count} bytes"
        want = _STAMP.pack(block, self.expected[block]) * (BLOCK_BYTES // _STAMP.size)
        assert self._buffer[:] == want, f"block {block}: not its last write"

    @contextmanager
    def _timed(self) -> Iterator[None]:
        self._begun_s = begun_s = time.monotonic()
        yield
        self._begun_s = None
        self._slowest_s = max(self._slowest_s, time.monotonic() - begun_s)

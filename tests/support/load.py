"""Writes to a disk in the background, until a write fails or the test ends."""

import os
import threading
from pathlib import Path
from typing import Self

from meshfs.limits import MIB
from support.commands import until
from support.direct import write_errno

FIRST_WITHIN_S = 60.0


class Load(threading.Thread):
    """Writes one block of a disk again and again. `errno` is that of the open or the first write that failed, or 0."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._ending = threading.Event()
        self.writes = 0
        self.errno = 0

    def __enter__(self) -> Self:
        self.start()
        until(lambda: self.writes or self.errno, "the first write", FIRST_WITHIN_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self.join()

    def run(self) -> None:
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_DIRECT)
        except OSError as error:
            self.errno = error.errno or -1
            return
        try:
            while not self._ending.is_set() and not self.errno:
                self.errno = write_errno(fd, 8 * MIB, flush=False)
                self.writes += 1
        finally:
            os.close(fd)

"""Keeps one file descriptor for the moment in which the process has no other left."""

import contextlib
import os
import socket
from types import TracebackType
from typing import Self


class Reserve:
    """Holds the spare descriptor. ``turn_away`` needs a descriptor, and gives the spare one up for a moment."""

    def __init__(self) -> None:
        self._fd: int | None = None

    def __enter__(self) -> Self:
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_up()

    def turn_away(self, listening: socket.socket) -> None:
        """Accept a connection and close it, so that its client learns at once that it is refused."""
        self._give_up()
        with contextlib.suppress(OSError):
            accepted, _ = listening.accept()
            accepted.close()
        self._take()

    def _take(self) -> None:
        with contextlib.suppress(OSError):
            self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _give_up(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

"""Declares what `StreamInlet` and `StreamOutQueue` need of a stream of bytes that never blocks."""

from collections.abc import Callable, Sequence
from typing import Protocol

from meshfs.transport.base import Memory


class ByteStream(Protocol):
    """Carries bytes in order. Every OSError other than BlockingIOError means that the connection is lost."""

    #: (parts, at most IOV_MAX of them) -> how many of their bytes were sent. Raises BlockingIOError if none can be.
    send: Callable[[Sequence[Memory]], int]
    #: (memory) -> how many bytes were received into it; 0 is the end of the stream. Raises BlockingIOError if there are
    #: none yet.
    receive_into: Callable[[memoryview], int]

    def when_writable(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, as soon as ``send`` is worth a try. After the close of the stream, do nothing."""

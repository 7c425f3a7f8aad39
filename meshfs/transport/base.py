"""What a channel needs of a transport: an ordered stream of bytes, never blocking.

``send`` and ``receive_into`` do what they can at once; when they can do nothing they raise
BlockingIOError, and the caller awaits ``wait_writable`` or ``wait_readable`` (or has the
reactor watch ``fd``) and tries again. One task may wait in each direction.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

Memory = bytes | bytearray | memoryview


class Transport(Protocol):
    """One connection. Every other OSError than BlockingIOError means that it is gone."""

    #: "tcp" or "unix", for people.
    kind: str
    #: Our end and the peer's, for people.
    local: str
    remote: str
    #: Readable when ``receive_into`` is worth a try.
    fd: int
    #: (parts) -> how many bytes of them were taken.
    send: Callable[[Sequence[Memory]], int]
    #: (memory) -> how many bytes came; 0 is the end of the stream.
    receive_into: Callable[[memoryview], int]
    #: () -> how many bytes came that ``receive_into`` was not asked for yet.
    pending: Callable[[], int]
    #: (bytes of a message under way that are sure to come, or 0): don't wake for less than fits.
    expect: Callable[[int], None]

    async def wait_readable(self) -> None:
        """Return when ``receive_into`` is worth a try; trio.ClosedResourceError after ``close``."""

    async def wait_writable(self) -> None:
        """The same for ``send``."""

    def close(self) -> None:
        """End the connection at once; twice does no harm."""

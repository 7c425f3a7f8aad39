"""The transport that a channel needs: an ordered stream of bytes that never blocks.

``send`` and ``receive_into`` transfer as many bytes as they can at once. If they can transfer none, they raise
BlockingIOError. The caller then awaits ``wait_writable`` or ``wait_readable``, or has the reactor watch ``fd``, and
tries again. In each direction, at most one task may wait.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

Memory = bytes | bytearray | memoryview


class Transport(Protocol):
    """Carries one connection. Every OSError other than BlockingIOError means that the connection is lost."""

    #: The kind of transport, for people: "tcp" or "unix".
    kind: str
    #: The addresses of this end and of the peer, for people.
    local: str
    remote: str
    #: The descriptor that becomes readable when ``receive_into`` can return bytes.
    fd: int
    #: (parts) -> how many of their bytes were sent.
    send: Callable[[Sequence[Memory]], int]
    #: (memory) -> how many bytes were received into it; 0 is the end of the stream.
    receive_into: Callable[[memoryview], int]
    #: () -> how many received bytes wait for ``receive_into``.
    pending: Callable[[], int]
    #: (missing bytes of a partly received message, or 0) -> None. ``fd`` need not become readable before a good part of
    #: them has arrived, because each wake-up costs time.
    expect: Callable[[int], None]

    async def wait_readable(self) -> None:
        """Return when ``receive_into`` is worth a try. Raises trio.ClosedResourceError after ``close``."""

    async def wait_writable(self) -> None:
        """Return when ``send`` is worth a try. Raises trio.ClosedResourceError after ``close``."""

    def close(self) -> None:
        """End the connection at once. A second call does nothing."""

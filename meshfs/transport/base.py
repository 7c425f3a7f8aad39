"""The transport that both wings need: an ordered stream of bytes that never blocks, and whole messages from it.

``send`` and ``receive_into`` transfer as many bytes as they can at once. If they can transfer none, they raise
BlockingIOError. The caller then awaits ``wait_writable`` or ``wait_readable``, or has the reactor watch ``fd``, and
tries again. In each direction, at most one task may wait.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from meshfs.buffers import Account, BufferPool, Frame

Memory = bytes | bytearray | memoryview


class MessageMemory(Protocol):
    """The memory of the messages that one connection receives."""

    #: The account that is charged for the memory of large messages.
    account: Account
    #: The longest message that is accepted. It is raised once the peer is authenticated.
    frame_max_bytes: int

    @property
    def large_progress(self) -> tuple[int, int] | None:
        """Return the number of the partly received large message and its received bytes, or None without such one."""

    @property
    def holds_large(self) -> bool:
        """Return whether a large message that is partly received, or not handled yet, holds memory.

        Such a connection must be allowed to continue, because that returns the memory.
        """

    @property
    def missing_bytes(self) -> int:
        """Return the bytes that a partly received large message still needs, or 0 without such one."""

    def lend(self, frame: Frame) -> None:
        """Add ``frame``, which was decrypted from another one, to those that end with the next receive."""

    def rest(self) -> None:
        """Return idle memory to the pool. The caller has received nothing for a while, and handles no message."""

    def close(self) -> None:
        """Return all memory to the pool."""


class Inlet(MessageMemory, Protocol):
    """Receives the whole messages of one connection."""

    #: How many bytes were received in all.
    received_bytes: int
    #: Set by `receive` where the transport had less than it could have taken, so that nothing more has come by now.
    is_drained: bool

    def receive(self, most_bytes: int | None = None) -> list[Frame]:
        """Receive once, at most ``most_bytes`` (if given), and return the messages that are whole now.

        They are valid until the next call, unless their memory is taken. Raises BlockingIOError if nothing has come,
        EndOfStream if nothing will, any other OSError if the connection is lost, and RemoteProtocolError if the peer
        broke the rules by which messages are told apart.
        """


class EndOfStream(ConnectionResetError):
    """The peer has closed the connection."""


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

    def inlet(self, pool: BufferPool, payload_offset: int, frame_max_bytes: int) -> Inlet:
        """Return what receives the messages of this connection; it is asked for once.

        A payload at ``payload_offset`` of a large message lands page-aligned in memory of ``pool``.
        """

    async def wait_readable(self) -> None:
        """Return when ``receive_into`` is worth a try. Raises trio.ClosedResourceError after ``close``."""

    async def wait_writable(self) -> None:
        """Return when ``send`` is worth a try. Raises trio.ClosedResourceError after ``close``."""

    def close(self) -> None:
        """End the connection at once. A second call does nothing."""

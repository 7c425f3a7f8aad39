"""Declares the transport that both wings need. It carries whole messages in both directions, and never blocks.

    watch       calls back while there is something to receive
    inlet       receives whole messages
    out_queue   takes whole messages, and keeps what is not sent yet

How messages are told apart, and cut into what the wire carries, concerns the transport alone. A stream writes the
length of each message in front of it (framing.py). SMB Direct sends fragments, and each of them needs a direct credit.
"""

import enum
from collections.abc import Callable
from typing import Protocol

from meshfs.buffers import Account, Buffer, BufferPool, Frame

Memory = bytes | bytearray | memoryview


class MessageMemory(Protocol):
    """Holds the memory of the messages that one connection receives."""

    #: The account that is charged for the memory of large messages.
    account: Account
    #: The longest message that is accepted. It is raised once the peer is authenticated.
    frame_max_bytes: int

    @property
    def large_progress(self) -> tuple[int, int] | None:
        """Return the number of the partly received large message, and its received bytes, or None if there is none."""

    @property
    def holds_large(self) -> bool:
        """Return whether a large message that is partly received, or not handled yet, holds memory.

        Such a connection must be allowed to continue, because that returns the memory.
        """

    @property
    def missing_bytes(self) -> int:
        """Return the bytes that a partly received large message still needs, or 0 if there is no such message."""

    def lend(self, frame: Frame) -> None:
        """Add ``frame``, which was decrypted from another one, to those that end with the next receive."""

    def rest(self) -> None:
        """Return idle memory to the pool. The caller has received nothing for a while, and handles no message."""

    def close(self) -> None:
        """Return all memory to the pool."""


class Inlet(MessageMemory, Protocol):
    """Receives the whole messages of one connection."""

    #: The number of bytes that were received in all.
    received_bytes: int
    #: Is set by `receive` if it received everything that the transport had.
    is_drained: bool

    def receive(self, most_bytes: int | None = None) -> list[Frame]:
        """Receive once, at most ``most_bytes`` (if given), and return the messages that are whole now.

        They are valid until the next call, unless their memory is taken. The 16 bytes behind each message may be
        overwritten until then. Raises BlockingIOError if nothing has come, EndOfStream if nothing will, any other
        OSError if the connection is lost, and RemoteProtocolError if the peer broke the rules by which messages are
        told apart.
        """


class EndOfStream(ConnectionResetError):
    """The peer has closed the connection."""


class Sent(enum.Enum):
    """Tells what `OutQueue.send` left unsent."""

    #: Nothing is left.
    ALL = enum.auto()
    #: Something is left, because the transport takes no more for now.
    FULL = enum.auto()
    #: Something is left, because the bound was reached. The transport would take more.
    SOME = enum.auto()


class OutQueue(Protocol):
    """Takes the whole messages of one connection, and sends them in their order."""

    #: The number of bytes that the transport has taken so far.
    sent_bytes: int
    #: The number of bytes that were added and not sent.
    unsent_bytes: int
    #: The part of ``unsent_bytes`` outside of the pool's memory, and the bytes that the queue itself needs for it.
    unpooled_bytes: int

    def __len__(self) -> int:
        """Return how many parts of messages are unsent. A message with ``data`` has two."""

    def add(
        self, frame: bytearray | memoryview, data: bytes | memoryview | None = None, buffer: Buffer | None = None
    ) -> int:
        """Queue a message, and return how many parts are unsent now.

        The message is ``frame`` without its first FRAMING_BYTES, and then ``data``. The queue releases ``buffer``, in
        which the message lies, when the message was sent or dropped. The memory of ``data`` stays the caller's, and
        may change once the next `send` has returned.
        """

    def send(self, most_bytes: int | None = None) -> Sent:
        """Send until nothing is unsent, the transport is full, or ``most_bytes`` (if given) were sent.

        Send nothing while `when_room` waits. Raises OSError if the connection is lost.
        """

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, as soon as the transport takes more or the connection is lost."""

    def drop(self) -> None:
        """Forget what is unsent, release its buffers, and make no callback."""


class Transport(Protocol):
    """Carries one connection."""

    #: The kind of transport, for people: "tcp" or "unix".
    kind: str
    #: The addresses of this end and of the peer, for people.
    local: str
    remote: str
    #: () -> how many received bytes wait for `Inlet.receive`.
    pending: Callable[[], int]
    #: (missing bytes of a partly received message, or 0) -> None. The callback of `watch` need not be called before a
    #: good part of them has arrived, because each wake-up costs time.
    expect: Callable[[int], None]

    def inlet(self, pool: BufferPool, payload_offset: int, frame_max_bytes: int) -> Inlet:
        """Return what receives the messages of this connection. It is called once.

        A payload at ``payload_offset`` of a large message lands page-aligned in memory of ``pool``.
        """

    def out_queue(self) -> OutQueue:
        """Return what sends the messages of this connection. It is called once."""

    def watch(self, callback: Callable[[], None], on_failure: Callable[[Exception], None]) -> None:
        """Call ``callback`` in each round of the reactor in which there is something to receive, until `unwatch`.

        The end of the connection counts as something to receive. ``on_failure`` gets each exception that this callback
        or that of `OutQueue.when_room` raises.
        """

    def unwatch(self) -> None:
        """Stop calling the callback of `watch`. It is no error if there is no callback."""

    def close(self) -> None:
        """End the connection at once, and make no more callbacks. A second call does nothing."""

"""What may still change a file when its initiator went on with another channel (MS-SMB2 3.3.5.2.10).

An initiator that loses a channel adds 1 to the ChannelSequence of its requests and sends what was
in flight again, marked as a replay. So of an open's requests

    an older one          came late from the lost channel: it changes nothing any more
    a replay              has to wait (to be refused, and sent again) until all from before the
                          change have ended, the one it repeats among them
    any other             is served

"Older" is by 16-bit arithmetic: up to 0x7FFF ahead is newer, and the open adopts it. Only WRITE,
SET_INFO and IOCTL are ever refused; the others change nothing.
"""

from collections.abc import Iterator
from typing import Final, Protocol

from meshfs.smb.connection import Message
from meshfs.smb.constants import Command, Flags

_AHEAD_MAX: Final = 0x7FFF
_CHANGING: Final = frozenset((Command.WRITE, Command.SET_INFO, Command.IOCTL))


def is_newer_or_equal(sequence: int, than: int) -> bool:
    return (sequence - than) & 0xFFFF <= _AHEAD_MAX


class Requested(Protocol):
    """What an open tells of the requests that name it."""

    channel_sequence: int

    def outstanding(self) -> Iterator[tuple[object, int]]:
        """The requests that were not answered yet, each with its sequence; an object stands for the request."""

    def is_outstanding(self, each: object) -> bool:
        """Whether the request that ``each`` stands for was not answered meanwhile."""


class EarlierRequests:
    """Whether requests from before an open's newest sequence are outstanding; of one open.

    The hot path counts nothing, so all that is outstanding is looked at, which may be thousands of requests. What was
    found is remembered, so that a series of replays does not look at all of them each time: one that is earlier, for as
    long as it is outstanding; or that there is none, as all that come afterwards have the newest sequence.
    """

    __slots__ = ("_found", "_none")

    def __init__(self) -> None:
        #: An earlier request, as its open's `is_outstanding` knows it, and its sequence.
        self._found: tuple[object, int] | None = None
        self._none = False

    def forget(self) -> None:
        """The newest sequence is another one, or a request of an older one came late and is served."""
        self._found, self._none = None, False

    def exist(self, opened: Requested) -> bool:
        if self._none:
            return False
        if self._found is None or not opened.is_outstanding(self._found[0]):
            newest = opened.channel_sequence
            earlier = (each for each in opened.outstanding() if each[1] != newest)
            self._found = next(earlier, None)
            self._none = self._found is None
        return not self._none


class Sequenced(Requested, Protocol):
    """An open, as far as its sequence is concerned."""

    earlier: EarlierRequests


def refuses(opened: Sequenced, message: Message) -> bool:
    """Whether a request has to be refused: it is a replay, or its sequence is not that of its open.

    The open adopts a newer sequence. A READ that came late counts among the outstanding requests from then on.
    """
    sequence = message.channel_sequence
    changing = message.command in _CHANGING
    if not is_newer_or_equal(sequence, opened.channel_sequence):
        opened.earlier.forget()
        return changing
    if sequence != opened.channel_sequence:
        opened.channel_sequence = sequence
        opened.earlier.forget()
    return changing and bool(message.flags & Flags.REPLAY_OPERATION) and opened.earlier.exist(opened)

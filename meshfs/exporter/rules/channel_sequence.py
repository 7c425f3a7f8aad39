"""Which requests may still change a file after its initiator has lost a channel (MS-SMB2 3.3.5.2.10). Pure.

An initiator that loses a channel adds 1 to the ChannelSequence of its requests. It sends again what was in flight, and
marks that as a replay. So a request of an open is judged like this:

    its sequence is older   It came late from the lost channel, so it must not change anything any more: refused.
    it is a replay          While a request with an earlier sequence is outstanding, the replay could be overtaken by
                            the request that it repeats: refused, and the initiator sends it again. Otherwise served.
    any other               served

A sequence is 16 bits. One that is up to 0x7FFF ahead of the open's is newer, and the open adopts it. Only WRITE,
SET_INFO and IOCTL are ever refused, because no other request changes a file.
"""

from collections.abc import Iterator
from typing import Final, Protocol

from meshfs.smb.connection import Message
from meshfs.smb.constants import Command, Flags

_AHEAD_MAX: Final = 0x7FFF
_CHANGING: Final = frozenset((Command.WRITE, Command.SET_INFO, Command.IOCTL))


def is_newer_or_equal(sequence: int, than: int) -> bool:
    """Compare two sequences, which begin again at 0 after 0xFFFF."""
    return (sequence - than) & 0xFFFF <= _AHEAD_MAX


class Requested(Protocol):
    """What an open tells of the requests that name it."""

    channel_sequence: int

    def outstanding(self) -> Iterator[tuple[object, int]]:
        """The requests that were not answered yet, each with its sequence; an object stands for the request."""

    def is_outstanding(self, each: object) -> bool:
        """Return whether the request that ``each`` stands for was not answered meanwhile."""


class EarlierRequests:
    """Knows whether requests with an earlier sequence than an open's newest one are outstanding.

    The hot path counts nothing, so the answer is found by looking at all outstanding requests, of which there may be
    thousands. To spare a series of replays that search, the answer is remembered:

        an earlier request was found   it is the answer for as long as it is outstanding
        there was none                 it stays so, because all later requests have the newest sequence
    """

    __slots__ = ("_found", "_none")

    def __init__(self) -> None:
        #: An earlier request, as its open's `is_outstanding` knows it, and its sequence.
        self._found: tuple[object, int] | None = None
        self._none = False

    def forget(self) -> None:
        """Search again: the open has adopted a sequence, or a request with an older one is served."""
        self._found, self._none = None, False

    def exist(self, opened: Requested) -> bool:
        """Return whether an earlier request of the open is outstanding."""
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
    """Return whether a request has to be refused: it is a replay, or its sequence is not that of its open.

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

"""Decides which requests may change a file after the initiator has lost a channel (MS-SMB2 3.3.5.2.10). Pure.

An initiator that loses a channel adds 1 to the ChannelSequence of its requests. It sends the requests that were in
flight again, and marks them as replays. The exporter judges each request of an open:

    its sequence is older   The request came late from the lost channel, and must not change anything any more. It is
                            refused.
    it is a replay          The replay is refused while a request with an earlier sequence is outstanding, because the
                            request that it repeats could still be carried out after it. The initiator sends the replay
                            again. Otherwise the replay is served.
    any other               The request is served.

A sequence has 16 bits. A sequence that is up to 0x7FFF ahead of the open's sequence is newer, and the open adopts it.
Only WRITE, SET_INFO and IOCTL are ever refused, because no other request changes a file.
"""

from collections.abc import Iterator
from typing import Final, Protocol

from meshfs.smb.connection import Message
from meshfs.smb.constants import Command, Flags

_AHEAD_MAX: Final = 0x7FFF
_CHANGING: Final = frozenset((Command.WRITE, Command.SET_INFO, Command.IOCTL))


def is_newer_or_equal(sequence: int, than: int) -> bool:
    """Return whether the first sequence is equal to the second or newer. After 0xFFFF, sequences begin again at 0."""
    return (sequence - than) & 0xFFFF <= _AHEAD_MAX


class Requested(Protocol):
    """Declares what `EarlierRequests` needs of an open."""

    channel_sequence: int

    def outstanding(self) -> Iterator[tuple[object, int]]:
        """Return an object that stands for each request without an answer, and the sequence of the request."""

    def is_outstanding(self, each: object) -> bool:
        """Return whether the request that ``each`` stands for still has no answer."""


class EarlierRequests:
    """Knows whether requests with an earlier sequence than an open's newest one are outstanding.

    The hot path counts nothing. The answer is found by a search through all outstanding requests, which may be
    thousands. The answer is remembered, because a series of replays would repeat the search:

        an earlier request was found   The answer stays true as long as that request is outstanding.
        there was none                 The answer stays true, because all later requests have the newest sequence.
    """

    __slots__ = ("_found", "_none")

    def __init__(self) -> None:
        #: An earlier request, as its open's `is_outstanding` knows it, and its sequence.
        self._found: tuple[object, int] | None = None
        self._none = False

    def forget(self) -> None:
        """Forget the answer, because the open has adopted a sequence or a request with an older one is served."""
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
    """Declares what the rules of this module need of an open."""

    earlier: EarlierRequests


def refuses(opened: Sequenced, message: Message) -> bool:
    """Return whether to refuse a request that is a replay, or whose sequence differs from that of its open.

    The open adopts a newer sequence. A READ that came late is served, and counts among the outstanding requests.
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

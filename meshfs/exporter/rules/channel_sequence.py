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

from typing import TYPE_CHECKING, Final

from meshfs.errors import StatusError
from meshfs.smb.constants import Command, Flags, NtStatus

if TYPE_CHECKING:
    from meshfs.exporter.exchange.request import Request
    from meshfs.exporter.state.opens import Open

_AHEAD_MAX: Final = 0x7FFF
_CHANGING: Final = frozenset((Command.WRITE, Command.SET_INFO, Command.IOCTL))


def is_newer_or_equal(sequence: int, than: int) -> bool:
    return (sequence - than) & 0xFFFF <= _AHEAD_MAX


class EarlierRequests:
    """Whether requests from before an open's newest sequence are outstanding; of one open.

    The hot path counts nothing, so all that is outstanding is looked at, which may be thousands of requests. What was
    found is remembered, so that a series of replays does not look at all of them each time: one that is earlier, for as
    long as it is outstanding; or that there is none, as all that come afterwards have the newest sequence.
    """

    __slots__ = ("_found", "_none")

    def __init__(self) -> None:
        #: What tells whether it is outstanding, and the request.
        self._found: tuple[object, Request] | None = None
        self._none = False

    def forget(self) -> None:
        """The newest sequence is another one, or a request of an older one came late and is served."""
        self._found, self._none = None, False

    def exist(self, opened: "Open") -> bool:
        if self._none:
            return False
        if self._found is None or not opened.is_outstanding(self._found[0]):
            newest = opened.channel_sequence
            earlier = (each for each in opened.outstanding() if each[1].message.channel_sequence != newest)
            self._found = next(earlier, None)
            self._none = self._found is None
        return not self._none


def check_sequence(request: "Request", opened: "Open") -> None:
    """Judge a request that is a replay, or whose sequence is not its open's, which may adopt it.

    Raises StatusError FILE_NOT_AVAILABLE. A READ that came late counts among the outstanding ones as well.
    """
    message = request.message
    sequence = message.channel_sequence
    changing = message.command in _CHANGING
    if not is_newer_or_equal(sequence, opened.channel_sequence):
        refused = changing
        opened.earlier.forget()
    else:
        if sequence != opened.channel_sequence:
            opened.channel_sequence = sequence
            opened.earlier.forget()
        refused = changing and bool(message.flags & Flags.REPLAY_OPERATION) and opened.earlier.exist(opened)
    if refused:
        request.peer.exporter.count("stale_requests")
        raise StatusError(NtStatus.FILE_NOT_AVAILABLE, f"channel sequence {sequence} of {opened.channel_sequence}")

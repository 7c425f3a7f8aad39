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
    from meshfs.exporter.opens import Open
    from meshfs.exporter.request import Request

_AHEAD_MAX: Final = 0x7FFF
_CHANGING: Final = frozenset((Command.WRITE, Command.SET_INFO, Command.IOCTL))


def is_newer_or_equal(sequence: int, than: int) -> bool:
    return (sequence - than) & 0xFFFF <= _AHEAD_MAX


def check_sequence(request: "Request", opened: "Open") -> None:
    """Judge a request that is a replay, or whose sequence is not its open's, which may adopt it.

    Raises StatusError FILE_NOT_AVAILABLE. What is outstanding is not counted but looked at: the hot
    path has neither. A READ that came late counts among the outstanding ones as well.
    """
    message = request.message
    sequence = message.channel_sequence
    if is_newer_or_equal(sequence, opened.channel_sequence):
        opened.channel_sequence = sequence
        refused = bool(message.flags & Flags.REPLAY_OPERATION) and any(
            earlier.message.channel_sequence != sequence for earlier in opened.outstanding()
        )
    else:
        refused = True
    if refused and message.command in _CHANGING:
        request.peer.exporter.count("stale_requests")
        raise StatusError(NtStatus.FILE_NOT_AVAILABLE, f"channel sequence {sequence} of {opened.channel_sequence}")

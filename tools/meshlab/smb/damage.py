"""Messages that are changed on their way between an initiator and an exporter: a bit of each, as a bad link would.

damage = proxy.damages.of_messages(Message.is_write)     the next WRITE request
damage = proxy.damages.of_sealed(replies=True)           the next encrypted reply, whatever it is
damage = proxy.damages.of_lengths(replies=True)          what the next reply's prefix says of its length
assert damage.done == 1
"""

from collections.abc import Callable
from typing import Final

from meshlab.smb.frames import Message, messages

#: Of the length prefix the byte whose lowest bit is 64 KiB.
_LENGTH_64_KIB_AT: Final = 1
_SEALED: Final = b"\xfdSMB"
_PROTOCOL_AT: Final = slice(4, 8)


class Damage:
    """``done`` of ``times`` frames were changed."""

    def __init__(self, where: Callable[[bytes, bool], int | None], times: int) -> None:
        #: Which byte of a frame to change, of a request or a reply; None where the frame is not meant.
        self.where = where
        self.times = times
        self.done = 0


class Damages:
    """All that is to be changed. Tests add to it in their own thread."""

    def __init__(self) -> None:
        self._damages: list[Damage] = []

    def of_messages(self, wanted: Callable[[Message], bool], times: int = 1) -> Damage:
        """The last byte of the next messages, requests or replies, that are wanted."""

        def where(frame: bytes, _: bool) -> int | None:
            for message in messages(frame):
                if wanted(message):
                    return frame.index(message.bytes) + len(message.bytes) - 1
            return None

        return self._add(Damage(where, times))

    def of_sealed(self, *, replies: bool, least_bytes: int = 0, times: int = 1) -> Damage:
        """A byte in the middle of the next encrypted frames of one direction that are at least so long."""

        def where(frame: bytes, is_reply: bool) -> int | None:
            fits = is_reply == replies and len(frame) >= least_bytes and frame[_PROTOCOL_AT] == _SEALED
            return len(frame) // 2 if fits else None

        return self._add(Damage(where, times))

    def of_lengths(self, *, replies: bool, least_bytes: int = 0, times: int = 1) -> Damage:
        """The prefix of the next frames of one direction that are at least so long: it says 64 KiB more than there are.

        The frames are shorter than 64 KiB.
        """

        def where(frame: bytes, is_reply: bool) -> int | None:
            return _LENGTH_64_KIB_AT if is_reply == replies and len(frame) >= least_bytes else None

        return self._add(Damage(where, times))

    def _add(self, damage: Damage) -> Damage:
        self._damages.append(damage)
        return damage

    def passing(self, frame: bytes, is_reply: bool) -> bytes:
        """The frame as it goes on."""
        for damage in self._damages:
            where = damage.where(frame, is_reply) if damage.done < damage.times else None
            if where is not None:
                damage.done += 1
                frame = frame[:where] + bytes((frame[where] ^ 0x01,)) + frame[where + 1 :]
        return frame

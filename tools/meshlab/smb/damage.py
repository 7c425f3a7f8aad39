"""Flip one bit in chosen messages between an initiator and an exporter, as a bad link does.

damage = proxy.damages.of_messages(Message.is_write)     the next WRITE request
damage = proxy.damages.of_sealed(replies=True)           the next encrypted reply of any kind
damage = proxy.damages.of_lengths(replies=True)          the length in the next reply's prefix
assert damage.done == 1
"""

from collections.abc import Callable
from typing import Final

from meshlab.smb.frames import Message, messages

#: The byte of the length prefix whose lowest bit stands for 64 KiB.
_LENGTH_64_KIB_AT: Final = 1
_SEALED: Final = b"\xfdSMB"
_PROTOCOL_AT: Final = slice(4, 8)


class Damage:
    """Describes one kind of change to frames. So far, ``done`` of the wanted ``times`` frames were changed."""

    def __init__(self, where: Callable[[bytes, bool], int | None], times: int) -> None:
        #: Takes a frame and whether it is a reply. Returns the index of the byte to change, or None to leave the frame.
        self.where = where
        self.times = times
        self.done = 0


class Damages:
    """Holds all changes that the proxy has to make. Tests add changes in their own thread."""

    def __init__(self) -> None:
        self._damages: list[Damage] = []

    def of_messages(self, wanted: Callable[[Message], bool], times: int = 1) -> Damage:
        """Change the last byte of the next messages, requests or replies, for which `wanted` is true."""

        def where(frame: bytes, _: bool) -> int | None:
            for message in messages(frame):
                if wanted(message):
                    return frame.index(message.bytes) + len(message.bytes) - 1
            return None

        return self._add(Damage(where, times))

    def of_sealed(self, *, replies: bool, least_bytes: int = 0, times: int = 1) -> Damage:
        """Change the middle byte of the next encrypted frames of one direction with at least ``least_bytes``."""

        def where(frame: bytes, is_reply: bool) -> int | None:
            fits = is_reply == replies and len(frame) >= least_bytes and frame[_PROTOCOL_AT] == _SEALED
            return len(frame) // 2 if fits else None

        return self._add(Damage(where, times))

    def of_lengths(self, *, replies: bool, least_bytes: int = 0, times: int = 1) -> Damage:
        """Add 64 KiB to the length in the prefix of the next frames of one direction with at least ``least_bytes``.

        The frames must be shorter than 64 KiB, as the change flips the bit that stands for 64 KiB.
        """

        def where(frame: bytes, is_reply: bool) -> int | None:
            return _LENGTH_64_KIB_AT if is_reply == replies and len(frame) >= least_bytes else None

        return self._add(Damage(where, times))

    def _add(self, damage: Damage) -> Damage:
        self._damages.append(damage)
        return damage

    def passing(self, frame: bytes, is_reply: bool) -> bytes:
        """Return the frame with its changes, to be passed on."""
        for damage in self._damages:
            where = damage.where(frame, is_reply) if damage.done < damage.times else None
            if where is not None:
                damage.done += 1
                frame = frame[:where] + bytes((frame[where] ^ 0x01,)) + frame[where + 1 :]
        return frame

"""Knows which LOCK requests of an open were carried out already (MS-SMB2 3.3.1.10, 3.3.5.14). Pure.

An initiator that loses a channel repeats the LOCK requests without an answer on another channel. It cannot know
whether they were carried out. Therefore each LOCK names an entry of the open's LockSequenceArray (1 to 64) and a number
of 4 bits. A successful LOCK leaves its number in the entry. If a LOCK finds its own number there, it is a repetition,
and succeeds without being carried out again. A LOCK that finds another number clears the entry. The initiator has at
most one LOCK under way for each entry.
"""

from typing import Final

ENTRIES: Final = 64
_NUMBER_BITS: Final = 4
_NUMBER_MASK: Final = (1 << _NUMBER_BITS) - 1
# The value of an entry without a number. No number of 4 bits is equal to this value.
_INVALID: Final = 0xFF


class LockSequences:
    """Holds the LockSequenceArray of one open, with a byte for each entry."""

    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        self._numbers = bytearray([_INVALID]) * ENTRIES

    def repeats(self, sequence: int) -> bool:
        """Return whether a LOCK with this LockSequence field repeats the last one of its entry that succeeded."""
        index = sequence >> _NUMBER_BITS
        return 1 <= index <= ENTRIES and self._numbers[index - 1] == sequence & _NUMBER_MASK

    def begin(self, sequence: int) -> None:
        """Clear the entry of a LOCK that is no repetition and is about to be carried out."""
        index = sequence >> _NUMBER_BITS
        if 1 <= index <= ENTRIES:
            self._numbers[index - 1] = _INVALID

    def succeeded(self, sequence: int) -> None:
        """Leave the number of a LOCK in its entry, because the LOCK was carried out completely."""
        index = sequence >> _NUMBER_BITS
        if 1 <= index <= ENTRIES:
            self._numbers[index - 1] = sequence & _NUMBER_MASK

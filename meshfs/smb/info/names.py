r"""Short names of files, and search patterns of QUERY_DIRECTORY (MS-FSA 2.1.4.4).

    *   zero or more characters
    ?   exactly one character
    <   zero or more characters, but not the last dot of the name (DOS_STAR)
    >   exactly one character except a dot; or nothing, before a dot or at the end (DOS_QM)
    "   a dot; or nothing, at the end (DOS_DOT)

``*`` and ``*.*`` match every name. Case does not matter.

The pattern comes from the peer, so its worst case must be cheap, and matching must not backtrack. Therefore the pattern
runs as a nondeterministic automaton whose states are the bits of one int. Bit i is set if the first i characters of the
pattern match the characters of the name so far. A name costs a few operations on ints per character, whatever the
pattern.

Some pattern characters may match nothing: their bits are in ``empty``, and a state moves over them without reading a
character. One addition does this for a whole run of them, because its carry moves the bit to the end of the run.
"""

import hashlib
import re
from typing import Final

from meshfs.smb.info.facts import NAME_MAX_CHARS

_SHORT: Final = re.compile(r"[A-Z0-9_-]{1,8}(\.[A-Z0-9_-]{1,3})?")
_WILDCARDS: Final = frozenset('*?<>"')


def _fold(character: str) -> str:
    upper = character.upper()
    return upper if len(upper) == 1 else character


def short_name(name: str) -> str:
    """Return the 8.3 name of a file (MS-FSCC 2.1.5.2.1), which old programs and `smbclient allinfo` ask for.

    A name that is an 8.3 name already is returned as it is, in upper case. Otherwise the result is two characters of
    the name and a hash, for example DI4F2A~1. Windows makes such names if many names begin alike. The result does not
    depend on other files, so it stays the same when files are added or removed.
    """
    upper = name.upper()
    if _SHORT.fullmatch(upper):
        return upper
    start = re.sub(r"[^A-Z0-9]", "", upper)[:2]
    return f"{start}{hashlib.sha256(upper.encode()).hexdigest()[:4].upper()}~1"


def has_wildcards(pattern: str) -> bool:
    return not _WILDCARDS.isdisjoint(pattern)


class NamePattern:
    """Holds a compiled pattern. A pattern longer than NAME_MAX_CHARS matches nothing."""

    __slots__ = ("_end", "_everything", "_literals", "_masks", "_too_long")

    def __init__(self, pattern: str) -> None:
        self._everything = pattern in ("*", "*.*")
        self._too_long = len(pattern) > NAME_MAX_CHARS
        self._masks = dict.fromkeys('*?<>"', 0)
        self._literals: dict[str, int] = {}
        if self._too_long:
            pattern = ""
        for index, character in enumerate(pattern):
            if character in _WILDCARDS:
                self._masks[character] |= 1 << index
            else:
                folded = _fold(character)
                self._literals[folded] = self._literals.get(folded, 0) | 1 << index
        self._end = 1 << len(pattern)

    def matches(self, name: str) -> bool:
        if self._everything:
            return bool(name)
        if self._too_long or len(name) > NAME_MAX_CHARS:
            return False
        masks, states = self._masks, 1
        stars = masks["*"] | masks["<"]
        last_dot = name.rfind(".")
        for index, character in enumerate(name):
            states = self._step(states, stars, _fold(character), index == last_dot)
            if not states:
                return False
        return bool(_closure(states, stars | masks[">"] | masks['"']) & self._end)

    def _step(self, states: int, stars: int, character: str, is_last_dot: bool) -> int:
        masks = self._masks
        one = self._literals.get(character, 0) | masks["?"]
        if character == ".":
            states = _closure(states, stars | masks[">"])
            one |= masks['"']
        else:
            states = _closure(states, stars)
            one |= masks[">"]
        stay = masks["*"] if is_last_dot else stars
        return states & stay | (states & one) << 1


def _closure(states: int, empty: int) -> int:
    """Return the states, and all states that are reached from them over pattern characters that match nothing."""
    moving = states & empty
    return states | moving | ((moving + empty) ^ empty)


def name_matches(pattern: str, name: str) -> bool:
    return NamePattern(pattern).matches(name)

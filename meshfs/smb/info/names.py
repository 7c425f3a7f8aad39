r"""Short names of files, and search patterns of QUERY_DIRECTORY (MS-FSA 2.1.4.4).

    *   any characters, also none
    ?   any one character
    <   any characters, also none, but not the name's last dot (DOS_STAR)
    >   any one character but a dot; nothing before a dot or at the end (DOS_QM)
    "   a dot; nothing at the end (DOS_DOT)

``*`` and ``*.*`` match every name; case does not matter.

A pattern comes from the peer, so matching must not backtrack. It runs as a nondeterministic
automaton whose states are the bits of one int: bit i is set when the pattern's first i
characters match what was read. A name costs a few int operations per character, whatever the
pattern. Empty matches move a bit along a whole run of ``empty`` bits by one addition's carry.
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
    """The 8.3 name of a file (MS-FSCC 2.1.5.2.1), which old programs and `smbclient allinfo` ask for.

    It is the name itself where that is short enough. Else it is made of two characters and a hash, as Windows does
    where many names begin alike: DI4F2A~1. It does not depend on other files, so it stays as they come and go.
    """
    upper = name.upper()
    if _SHORT.fullmatch(upper):
        return upper
    start = re.sub(r"[^A-Z0-9]", "", upper)[:2]
    return f"{start}{hashlib.sha256(upper.encode()).hexdigest()[:4].upper()}~1"


def has_wildcards(pattern: str) -> bool:
    return not _WILDCARDS.isdisjoint(pattern)


class NamePattern:
    """A compiled pattern. One longer than any name can be matches nothing."""

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
    """The states, and all that are reached from them over pattern characters that may match nothing."""
    moving = states & empty
    return states | moving | ((moving + empty) ^ empty)


def name_matches(pattern: str, name: str) -> bool:
    return NamePattern(pattern).matches(name)

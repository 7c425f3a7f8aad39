"""Words that may follow on a command line, and the words of a mesh among them. Pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

#: A word with any other character would need quotes, and each shell has its own rules for them. So it is not offered.
_PLAIN: Final = re.compile(r"[\w@%+=:,./\[\]-]+")


@dataclass(frozen=True)
class Candidate:
    """Is a word that may follow, with its help."""

    word: str
    help: str = ""


@dataclass
class Candidates:
    """Collects the words that may follow. ``files`` says that the name of a file may also follow."""

    words: list[Candidate] = field(default_factory=list)
    files: bool = False

    def add(self, found: Iterable[Candidate], start: str, prefix: str = "") -> None:
        """Add the words that begin with ``start``, behind ``prefix``, which is already on the command line."""
        known = {each.word for each in self.words}
        for each in found:
            word = prefix + each.word
            if each.word.startswith(start) and word not in known and _PLAIN.fullmatch(word):
                self.words.append(Candidate(word, each.help))
                known.add(word)

    def __bool__(self) -> bool:
        return bool(self.words) or self.files


class Known(Protocol):
    """Knows the words of a mesh. Every method returns nothing if nothing answers in a moment."""

    def disks(self) -> Sequence[Candidate]: ...

    def enclosures(self) -> Sequence[Candidate]: ...

    def slots(self) -> Sequence[Candidate]: ...

    def nodes(self, config: Path | None) -> Sequence[Candidate]: ...

    def mount_points(self) -> Sequence[Candidate]: ...


def of_names(names: str, known: Known, config: Path | None) -> list[Candidate]:
    """Return the words for a value that the help calls ``names``, for example DISK|all or NODE[/CLASS].

    Words in capitals name a kind of things. Words in small letters stand for themselves.
    """
    found: list[Candidate] = []
    for name in re.findall(r"[A-Z]+(?:/[A-Z]+)*|[a-z][a-z-]*", names):
        if name.islower():
            found.append(Candidate(name))
        elif name == "DISK":
            found += known.disks()
        elif name == "ENCLOSURE":
            found += known.enclosures()
        elif name == "ENCLOSURE/SLOT":
            found += known.slots()
        elif name in ("NODE", "NAME"):
            found += known.nodes(config)
    return found

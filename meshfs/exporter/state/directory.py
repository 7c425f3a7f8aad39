"""What an open of a directory keeps: a listing under way, and changes to tell (MS-SMB2 3.3.5.18, 3.3.4.4).

The first CHANGE_NOTIFY of an open says what it is told of, and how much is kept for the next one; what later ones say
of that does not count. Changes are told once, to the oldest request that waits.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from meshfs import limits
from meshfs.exporter.rules.turns import ProcessorFlow
from meshfs.smb.info import NamePattern
from meshfs.smb.messages import pack_notifications

#: Where a listing stands: "." and ".." come first, then the files in the order of their folded names.
Position = tuple[int, str]
BEGINNING: Final[Position] = (0, "")
DOT: Final[Position] = (1, "")
DOT_DOT: Final[Position] = (2, "")
FILES: Final = 3
# NextEntryOffset, Action and FileNameLength (MS-FSCC 2.7.1), and the padding to 4 bytes.
_CHANGE_BYTES: Final = 12 + 2


class Page(Protocol):
    """A QUERY_DIRECTORY; `meshfs.exporter.commands.query_directory` has it."""

    flow: ProcessorFlow

    def step(self, until_s: float) -> ProcessorFlow | None:
        """Go on until that time."""


class Directory:
    """Of one open.

    pattern    of the listing under way; None before the first
    position   of the last file that it told of
    pages      the QUERY_DIRECTORY requests that were not answered yet, the oldest first
    newest     the index number of the newest file when it began: younger ones are left out
    watchers   of the waiting CHANGE_NOTIFY requests, the oldest first; each takes itself out
    """

    __slots__ = (
        "_changes", "_changes_bytes", "_filter", "_lost", "_max_bytes", "_whole_tree", "newest", "pages", "pattern",
        "position", "watched", "watchers",
    )  # fmt: skip

    def __init__(self) -> None:
        self.pattern: NamePattern | None = None
        self.position = BEGINNING
        self.newest = 0
        self.pages: deque[Page] = deque()
        self.watchers: dict[Callable[[], object], None] = {}
        self.watched = False
        self._filter = 0
        self._whole_tree = False
        self._max_bytes = 0
        self._changes: deque[tuple[int, str]] = deque()
        self._changes_bytes = 0
        self._lost = False

    def begin_listing(self, pattern: NamePattern, newest: int) -> None:
        self.pattern, self.position, self.newest = pattern, BEGINNING, newest

    # --- changes -----------------------------------------------------------------------

    def watch(self, wanted: int, *, whole_tree: bool, output_bytes_max: int) -> None:
        """Keep changes from now on: those of ``wanted`` (NotifyFilter)."""
        self.watched = True
        self._filter = wanted
        self._whole_tree = whole_tree
        self._max_bytes = min(output_bytes_max, limits.NOTIFY_CHANGES_MAX_BYTES)

    def changed(self, what: int, action: int, name: str, *, below: bool = False) -> None:
        """Something changed: tell the oldest waiting request, or keep it for the next.

        What changed several times in the same way is kept once.
        """
        if not what & self._filter or (below and not self._whole_tree):
            return
        change = (action, name)
        if not self._lost and (not self._changes or self._changes[-1] != change):
            self._keep(change)
        for tell in list(self.watchers)[:1]:
            tell()

    def _keep(self, change: tuple[int, str]) -> None:
        size = _CHANGE_BYTES + 2 * len(change[1])
        if len(self._changes) >= limits.NOTIFY_CHANGES_MAX or self._changes_bytes + size > self._max_bytes:
            self._lost = True
            self._forget()
        else:
            self._changes.append(change)
            self._changes_bytes += size

    def _forget(self) -> None:
        self._changes.clear()
        self._changes_bytes = 0

    @property
    def has_changes(self) -> bool:
        """Whether there is something to tell at once."""
        return bool(self._changes) or self._lost

    def take(self, output_bytes_max: int) -> bytes | None:
        """The changes for one CHANGE_NOTIFY, packed; they are not kept any longer (MS-SMB2 3.3.4.4).

        Returns None where some were lost or they do not fit: the initiator has to list the directory again.
        """
        output = pack_notifications(tuple(self._changes))
        lost, self._lost = self._lost, False
        self._forget()
        return None if lost or len(output) > output_bytes_max else output

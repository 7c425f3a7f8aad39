"""Keeps the place of the listing of an open directory, and its changes (MS-SMB2 3.3.5.18, 3.3.4.4).

The first CHANGE_NOTIFY of an open chooses which changes are kept, and how many bytes of them. Later requests do not
alter that choice. A change is reported once, in the answer to the oldest CHANGE_NOTIFY that waits. If none waits, the
change is reported in the answer to the next one.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from meshfs import limits
from meshfs.exporter.state.processor_flow import ProcessorFlow, Work
from meshfs.smb.info import NamePattern
from meshfs.smb.messages import pack_notifications

#: The place of a listing. "." and ".." come first, and the files follow in the order of their folded names.
Position = tuple[int, str]
BEGINNING: Final[Position] = (0, "")
DOT: Final[Position] = (1, "")
DOT_DOT: Final[Position] = (2, "")
FILES: Final = 3
# The size of NextEntryOffset, Action and FileNameLength (MS-FSCC 2.7.1), and of the padding to 4 bytes.
_CHANGE_BYTES: Final = 12 + 2


class Page(Work, Protocol):
    """Stands for a QUERY_DIRECTORY without an answer yet, which `meshfs.exporter.commands.query_directory` makes."""

    flow: ProcessorFlow


class DirectoryState:
    """Holds the listing and the changes of one open.

    pattern    the pattern of the listing under way, or None before the first listing
    position   the place of the last file that was answered
    pages      the QUERY_DIRECTORY requests that were not answered yet, the oldest first
    newest     the index number of the newest file when the listing began. The listing leaves out newer files
    watched    tells whether changes are kept
    watchers   one callable for each CHANGE_NOTIFY that waits, the oldest first. It answers the request, and removes
               itself
    """

    __slots__ = (
        "_changes",
        "_changes_bytes",
        "_filter",
        "_lost",
        "_max_bytes",
        "_whole_tree",
        "newest",
        "pages",
        "pattern",
        "position",
        "watched",
        "watchers",
    )

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
        """Begin a listing at the first file."""
        self.pattern, self.position, self.newest = pattern, BEGINNING, newest

    # --- changes -----------------------------------------------------------------------

    def watch(self, wanted: int, *, whole_tree: bool, output_bytes_max: int) -> None:
        """Keep changes of the kinds ``wanted`` (NotifyFilter). Changes in lower directories need ``whole_tree``."""
        self.watched = True
        self._filter = wanted
        self._whole_tree = whole_tree
        self._max_bytes = min(output_bytes_max, limits.NOTIFY_CHANGES_MAX_BYTES)

    def changed(self, what: int, action: int, name: str, *, below: bool = False) -> None:
        """Keep a change, and answer the oldest CHANGE_NOTIFY that waits. If the last change is repeated, keep one.

        ``below`` says that the file is not in this directory, but in a directory below it.
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
        """Return whether a CHANGE_NOTIFY can be answered at once."""
        return bool(self._changes) or self._lost

    def take(self, output_bytes_max: int) -> bytes | None:
        """Return the changes for one CHANGE_NOTIFY, packed, and keep them no longer (MS-SMB2 3.3.4.4).

        Return None if changes were lost or do not fit. The initiator then has to list the directory again.
        """
        output = pack_notifications(tuple(self._changes))
        lost, self._lost = self._lost, False
        self._forget()
        return None if lost or len(output) > output_bytes_max else output

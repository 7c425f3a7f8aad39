"""What an open of a directory keeps: a listing under way, and changes to tell (MS-SMB2 3.3.5.18, 3.3.5.19)."""

from collections import deque
from collections.abc import Callable

from meshfs.exporter.request import Request
from meshfs.smb.constants import NtStatus
from meshfs.smb.info import FileFacts, NamePattern
from meshfs.smb.messages import ChangeNotifyResponse, pack_notifications

# Changes kept for a watcher between two of its requests; past that it is told to look again.
_CHANGES_MAX = 64


class Directory:
    """Of one open."""

    __slots__ = ("_changes", "_lost", "_watched", "listing", "pattern", "watchers")

    def __init__(self) -> None:
        self.pattern: NamePattern | None = None
        self.listing: list[FileFacts] = []
        #: Of the waiting CHANGE_NOTIFY requests, the oldest first; each takes itself out.
        self.watchers: list[Callable[[], object]] = []
        self._changes: deque[tuple[int, str]] = deque()
        self._lost = False
        self._watched = False

    def changed(self, action: int, name: str) -> None:
        """A name in it changed; tells the waiting watcher, or keeps it for the next."""
        if not self._watched:
            return
        if len(self._changes) >= _CHANGES_MAX:
            self._lost = True
        else:
            self._changes.append((action, name))
        for tell in self.watchers[:1]:
            tell()

    def has_changes(self) -> bool:
        """Whether there is something to tell at once; from now on changes are kept."""
        self._watched = True
        return bool(self._changes) or self._lost

    def tell(self, request: Request, output_bytes_max: int) -> None:
        """Answer a CHANGE_NOTIFY with what changed (MS-SMB2 3.3.4.4)."""
        output = pack_notifications(tuple(self._changes))
        lost, self._lost = self._lost, False
        self._changes.clear()
        if lost or len(output) > output_bytes_max:
            request.reply(ChangeNotifyResponse(b"").pack(), NtStatus.NOTIFY_ENUM_DIR)
        else:
            request.reply(ChangeNotifyResponse(output).pack())

"""Keeps what a share offers, by name.

Disks (`disks.py`) and enclosures (`enclosures.py`) are offered in the same way.
"""

from collections.abc import Callable, Collection
from typing import Generic, Protocol, TypeVar

from sortedcontainers import SortedDict

from meshfs.exporter.rules.access import DISK_RIGHTS
from meshfs.exporter.rules.changes import NotifyAction
from meshfs.exporter.state.closing import Closable, close_all, nobody
from meshfs.model import Access
from meshfs.smb.info import short_name


class OpenOfOffered(Closable, Protocol):
    """Stands for an open of a disk or of an enclosure."""

    access: int

    @property
    def node(self) -> str:
        """Return the node that has the file open."""


class CreateOfOffered(Protocol):
    """Stands for a CREATE that waits, as `meshfs.exporter.kinds.pending_create.PendingCreate` does."""

    def retry(self) -> None:
        """Try the CREATE again. It is refused if what it opens is no longer offered."""


class Offered(Protocol):
    """Stands for a disk or an enclosure on offer."""

    @property
    def name(self) -> str:
        """Return the name of its file in the share."""

    @property
    def opens(self) -> Collection[OpenOfOffered]:
        """Return its opens, the oldest first."""

    @property
    def creates(self) -> Collection[CreateOfOffered]:
        """Return the CREATEs that wait for it."""

    def access_of(self, node: str) -> Access:
        """Return what the node may do. A node with the access NONE may not know of the file."""


T = TypeVar("T", bound=Offered)


class Offer(Generic[T]):
    """Holds what is offered. As all names in SMB, the names are compared without regard to case."""

    def __init__(self) -> None:
        # By folded names, which is the order of listings.
        self._by_name: SortedDict[str, T] = SortedDict()
        self._by_short_name: dict[str, list[T]] = {}
        #: The calls to make after every change, with the action (NotifyAction) and what has changed.
        self.on_change: list[Callable[[int, T], None]] = []

    def __len__(self) -> int:
        return len(self._by_name)

    def add(self, offered: T) -> None:
        """Offer something from now on. Nothing else on offer has its name."""
        self._by_name[offered.name.casefold()] = offered
        self._by_short_name.setdefault(short_name(offered.name), []).append(offered)
        self._changed(NotifyAction.ADDED, offered)

    def remove(self, name: str) -> T:
        """Stop offering what has that name. The caller closes its opens."""
        offered: T = self._by_name.pop(name.casefold())
        self._by_short_name[short_name(offered.name)].remove(offered)
        self._changed(NotifyAction.REMOVED, offered)
        return offered

    def modified(self, offered: T) -> None:
        """Notify of a change in the state or the size, or in the access of nodes."""
        self._changed(NotifyAction.MODIFIED, offered)

    def enforce(self, offered: T) -> None:
        """End the opens with more access than their nodes now have, and notify of the change."""
        for opened in list(offered.opens):
            if opened.access & ~DISK_RIGHTS[offered.access_of(opened.node)]:
                opened.close(nobody)
        self.modified(offered)

    def end_opens(self, offered: T, then: Callable[[], object] = nobody) -> None:
        """End all opens, so that the initiators open again and see how the disk or the enclosure has changed.

        Call ``then`` when none of their I/O is left.
        """
        close_all(list(offered.opens), then)

    def withdraw(self, name: str, then: Callable[[T], None]) -> None:
        """Stop offering what has that name. Call ``then`` when its opens are closed and none of their I/O is left."""
        offered = self.remove(name)
        for pending in list(offered.creates):
            pending.retry()
        close_all(list(offered.opens), lambda: then(offered))

    def find(self, name: str, node: str) -> T | None:
        """Return what has that name, or None if the node may not know of it."""
        offered: T | None = self._by_name.get(name.casefold())
        if offered is None and "~" in name:
            # No name on offer has a tilde, so the name may be a short name. If it is that of two, it names neither.
            named = self._by_short_name.get(name.upper(), ())
            same = [each for each in named if each.access_of(node) is not Access.NONE]
            offered = same[0] if len(same) == 1 else None
        return offered if offered is not None and offered.access_of(node) is not Access.NONE else None

    def visible(self, node: str) -> list[T]:
        """Return everything that the node may know of, in the order of the names."""
        return [each for each in self.all() if each.access_of(node) is not Access.NONE]

    def all(self) -> list[T]:
        """Return everything on offer, in the order of the names."""
        return list(self._by_name.values())

    def _changed(self, action: int, offered: T) -> None:
        for call in list(self.on_change):
            call(action, offered)

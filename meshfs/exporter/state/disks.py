"""Keeps the disks that an exporter offers, by name."""

from collections.abc import Callable

from sortedcontainers import SortedDict

from meshfs.exporter.rules.access import DISK_RIGHTS
from meshfs.exporter.rules.changes import NotifyAction
from meshfs.exporter.state.closing import close_all, nobody
from meshfs.exporter.state.offered_disk import OfferedDisk
from meshfs.model import Access
from meshfs.smb.info import short_name


class OfferedDisks:
    """Holds the disks on offer. As all names in SMB, their names are compared without regard to case."""

    def __init__(self) -> None:
        # The disks by their folded names, which is the order of listings.
        self._disks: SortedDict[str, OfferedDisk] = SortedDict()
        self._by_short_name: dict[str, list[OfferedDisk]] = {}
        #: The calls to make after every change, with the action (NotifyAction) and the disk.
        self.on_change: list[Callable[[int, OfferedDisk], None]] = []

    def __len__(self) -> int:
        return len(self._disks)

    def add(self, disk: OfferedDisk) -> None:
        """Offer a disk from now on. No other disk has its name."""
        self._disks[disk.name.casefold()] = disk
        self._by_short_name.setdefault(short_name(disk.name), []).append(disk)
        self._changed(NotifyAction.ADDED, disk)

    def remove(self, name: str) -> OfferedDisk:
        """Stop offering the disk of that name. The caller closes its opens."""
        disk: OfferedDisk = self._disks.pop(name.casefold())
        self._by_short_name[short_name(disk.name)].remove(disk)
        self._changed(NotifyAction.REMOVED, disk)
        return disk

    def modified(self, disk: OfferedDisk) -> None:
        """Notify of a change in the state or the size of the disk, or in the access of nodes."""
        self._changed(NotifyAction.MODIFIED, disk)

    def enforce(self, disk: OfferedDisk) -> None:
        """End the opens with more access than their nodes now have, and notify of the change."""
        for opened in list(disk.opens):
            access = disk.access_of(opened.node)
            if opened.access & ~DISK_RIGHTS[access]:
                opened.close(nobody)
            elif access is not Access.READ_WRITE:
                opened.stop_excluding()
        self.modified(disk)

    def end_opens(self, disk: OfferedDisk) -> None:
        """End all opens of the disk, so that its initiators open the disk again and see how it has changed."""
        for opened in list(disk.opens):
            opened.close(nobody)

    def withdraw(self, name: str, then: Callable[[OfferedDisk], None]) -> None:
        """Stop offering a disk, and call ``then`` when all its opens are closed and nothing of them is at the disk."""
        disk = self.remove(name)
        for pending in list(disk.creates):
            pending.retry()
        close_all(list(disk.opens), lambda: then(disk))

    def find(self, name: str, node: str) -> OfferedDisk | None:
        """Return the disk of that name, or None if the node may not know of such a disk."""
        disk: OfferedDisk | None = self._disks.get(name.casefold())
        if disk is None and "~" in name:
            # No disk has a tilde in its name, so the name may be a short name. If two disks have it, it names neither.
            named = self._by_short_name.get(name.upper(), ())
            same = [each for each in named if each.access_of(node) is not Access.NONE]
            disk = same[0] if len(same) == 1 else None
        return disk if disk is not None and disk.access_of(node) is not Access.NONE else None

    def visible(self, node: str) -> list[OfferedDisk]:
        """Return the disks that the node may know of, in the order of their names."""
        return [disk for disk in self.all() if disk.access_of(node) is not Access.NONE]

    def all(self) -> list[OfferedDisk]:
        """Return all disks, in the order of their names."""
        return list(self._disks.values())

    def _changed(self, action: int, disk: OfferedDisk) -> None:
        for call in list(self.on_change):
            call(action, disk)

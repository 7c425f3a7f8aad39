"""The disks that an exporter offers, by name."""

from collections.abc import Callable

from sortedcontainers import SortedDict

from meshfs.exporter.rules.access import DISK_RIGHTS
from meshfs.exporter.rules.changes import NotifyAction
from meshfs.exporter.state.offered_disk import OfferedDisk
from meshfs.model import Access
from meshfs.smb.info import short_name


class OfferedDisks:
    """The disks on offer, by name; names are found without regard to case, as SMB does."""

    def __init__(self) -> None:
        # In the order listings have, which is that of the names as they are found.
        self._disks: SortedDict[str, OfferedDisk] = SortedDict()
        self._by_short_name: dict[str, list[OfferedDisk]] = {}
        #: Called with (action, disk) after every change of the list.
        self.on_change: list[Callable[[int, OfferedDisk], None]] = []

    def __len__(self) -> int:
        return len(self._disks)

    def add(self, disk: OfferedDisk) -> None:
        self._disks[disk.name.casefold()] = disk
        self._by_short_name.setdefault(short_name(disk.name), []).append(disk)
        self._changed(NotifyAction.ADDED, disk)

    def remove(self, name: str) -> OfferedDisk:
        """Stop offering it. Its opens are the caller's to end."""
        disk: OfferedDisk = self._disks.pop(name.casefold())
        self._by_short_name[short_name(disk.name)].remove(disk)
        self._changed(NotifyAction.REMOVED, disk)
        return disk

    def modified(self, disk: OfferedDisk) -> None:
        """Its state, its size, or who may do what with it changed."""
        self._changed(NotifyAction.MODIFIED, disk)

    def enforce(self, disk: OfferedDisk) -> None:
        """End the opens that may do more than their nodes now may, and tell that the disk changed."""
        for opened in list(disk.opens):
            access = disk.access_of(opened.node)
            if opened.access & ~DISK_RIGHTS[access]:
                opened.close(_nobody)
            elif access is not Access.READ_WRITE:
                opened.stop_excluding()
        self.modified(disk)

    def end_opens(self, disk: OfferedDisk) -> None:
        """End all opens of the disk, so that its initiators open it again and learn what became of it."""
        for opened in list(disk.opens):
            opened.close(_nobody)

    def withdraw(self, name: str, then: Callable[[OfferedDisk], None]) -> None:
        """Stop offering a disk; ``then`` when all its opens are closed and nothing is in flight."""
        disk = self.remove(name)
        for pending in list(disk.creates):
            pending.retry()
        opens = list(disk.opens)
        left = len(opens) + 1

        def one_less() -> None:
            nonlocal left
            left -= 1
            if not left:
                then(disk)

        for opened in opens:
            opened.close(one_less)
        one_less()

    def find(self, name: str, node: str) -> OfferedDisk | None:
        """The disk, or None when it is not there or the node may not know of it."""
        disk: OfferedDisk | None = self._disks.get(name.casefold())
        if disk is None and "~" in name:
            # A disk's own name has no such character. Two disks of one short name have none.
            named = self._by_short_name.get(name.upper(), ())
            same = [each for each in named if each.access_of(node) is not Access.NONE]
            disk = same[0] if len(same) == 1 else None
        return disk if disk is not None and disk.access_of(node) is not Access.NONE else None

    def visible(self, node: str) -> list[OfferedDisk]:
        """The disks the node may know of, by name."""
        return [disk for disk in self.all() if disk.access_of(node) is not Access.NONE]

    def all(self) -> list[OfferedDisk]:
        return list(self._disks.values())

    def _changed(self, action: int, disk: OfferedDisk) -> None:
        for call in list(self.on_change):
            call(action, disk)


def _nobody() -> None:
    """Nobody waits for the end of the open's I/O."""

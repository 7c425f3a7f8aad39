"""Notifies the opens of the roots of shares of disks when a disk is added, changes or is removed."""

from typing import Final

from meshfs.exporter.rules.changes import NotifyAction
from meshfs.exporter.state.batches import Batches
from meshfs.exporter.state.directory import DirectoryState
from meshfs.exporter.state.offered_disk import OfferedDisk
from meshfs.smb.constants import NotifyFilter

#: The kinds of changes when a disk is modified. Its state, its size, or the access of nodes has changed.
_MODIFIED: Final = NotifyFilter.ATTRIBUTES | NotifyFilter.SIZE


class DiskWatchers:
    """Holds the directories of all opens of the roots. The answers to their CHANGE_NOTIFYs are sent in one batch."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._directories: dict[DirectoryState, None] = {}

    def __len__(self) -> int:
        return len(self._directories)

    def add(self, directory: DirectoryState) -> None:
        """Notify the directory of changes from now on."""
        self._directories[directory] = None

    def remove(self, directory: DirectoryState) -> None:
        """Stop notifying the directory, because its open is closed."""
        del self._directories[directory]

    def notify(self, action: int, disk: OfferedDisk) -> None:
        """Notify all directories that ``action`` (NotifyAction) has happened to the disk."""
        what = int(_MODIFIED if action == NotifyAction.MODIFIED else NotifyFilter.FILE_NAME)
        with self._batches.one():
            for directory in list(self._directories):
                directory.changed(what, action, disk.name)

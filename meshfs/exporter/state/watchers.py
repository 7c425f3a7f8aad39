"""Notifies the opens of the roots of shares when something that the shares offer is added, changes or is removed."""

from typing import Final, Protocol

from meshfs.exporter.rules.changes import NotifyAction
from meshfs.exporter.state.batches import Batches
from meshfs.exporter.state.directory import DirectoryState
from meshfs.smb.constants import NotifyFilter

#: The kinds of changes when a file is modified. Its state, its size, or the access of nodes has changed.
_MODIFIED: Final = NotifyFilter.ATTRIBUTES | NotifyFilter.SIZE


class Named(Protocol):
    """Stands for a disk or an enclosure."""

    @property
    def name(self) -> str:
        """Return the name of its file in the share."""


class RootWatchers:
    """Holds the directories of all opens of the roots of the same content.

    The answers to their CHANGE_NOTIFYs are sent in one batch.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._directories: dict[DirectoryState, None] = {}
        #: The directories that were notified, and whose openers have not asked for the present state since.
        self._uninformed: set[DirectoryState] = set()

    def __len__(self) -> int:
        return len(self._directories)

    def add(self, directory: DirectoryState) -> None:
        """Notify the directory of changes from now on."""
        self._directories[directory] = None

    def remove(self, directory: DirectoryState) -> None:
        """Stop notifying the directory, because its open is closed."""
        del self._directories[directory]
        self._uninformed.discard(directory)

    def notify(self, action: int, file: Named) -> None:
        """Notify all directories that ``action`` (NotifyAction) has happened to the file."""
        what = int(_MODIFIED if action == NotifyAction.MODIFIED else NotifyFilter.FILE_NAME)
        with self._batches.one():
            for directory in list(self._directories):
                directory.changed(what, action, file.name)
                if directory.watched:
                    self._uninformed.add(directory)

    def informed(self, directory: DirectoryState) -> None:
        """Note that the opener of the directory has asked for the present state of everything in it."""
        self._uninformed.discard(directory)

    @property
    def all_informed(self) -> bool:
        """Return whether every opener that is notified of changes has asked for the present state since the last."""
        return not self._uninformed

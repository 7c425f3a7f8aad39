"""An open of the root of a share of disks, in which all disks are listed that its node may know of."""

from collections.abc import Callable

from meshfs.exporter.kinds.kind import Kind
from meshfs.exporter.state.directory import Directory
from meshfs.exporter.state.open import Owner
from meshfs.exporter.state.tree import Tree
from meshfs.smb.constants import NtStatus


class RootOpen(Kind):
    """An open of the root. ``watched`` has the directories of all such opens: changes of the disks are told to them."""

    __slots__ = ("_watched",)
    directory: Directory

    def __init__(self, session: Owner, tree: Tree, file_id: int, access: int, watched: dict[Directory, None]) -> None:
        super().__init__(session, tree, file_id, access, "")
        self.directory = Directory()
        self._watched = watched
        watched[self.directory] = None

    def watch(self, wanted: int, *, whole_tree: bool, output_bytes_max: int) -> None:
        if not self.directory.watched:
            self.directory.watch(wanted, whole_tree=whole_tree, output_bytes_max=output_bytes_max)

    def close(self, then: Callable[[], object]) -> None:
        if not self.gone:
            del self._watched[self.directory]
            self._end_waits(NtStatus.NOTIFY_CLEANUP)
            self._end()
        then()

"""An open of a scratch file or directory: its oplock, its share of the file, and what goes with it when it ends."""

from collections.abc import Callable

from meshfs.errors import StatusError
from meshfs.exporter.kinds import oplock_break
from meshfs.exporter.kinds.kind import Kind
from meshfs.exporter.rules.holdings import Resource
from meshfs.exporter.rules.oplock import Oplock
from meshfs.exporter.rules.scratch.tree import ScratchFile
from meshfs.exporter.rules.scratch.volume import ScratchVolume
from meshfs.exporter.state.directory import Directory
from meshfs.exporter.state.session import Session
from meshfs.exporter.state.tree import Tree
from meshfs.smb.constants import AccessMask, NtStatus
from meshfs.smb.info import OpenFacts


class ScratchOpen(Kind):
    """An open of a scratch file or directory; ``directory`` is None of a file.

    delete_on_close   the file is to go with this open
    position          behind the last byte read or written
    keeps_times       what it writes does not count as the file's last write (MS-FSCC 2.4.7)
    """

    __slots__ = (
        "delete_on_close", "file", "keeps_times", "now", "oplock", "position", "readable",
        "share_access", "volume", "writable",
    )  # fmt: skip
    session: Session

    def __init__(
        self,
        session: Session,
        tree: Tree,
        file_id: int,
        access: int,
        share_access: int,
        volume: ScratchVolume,
        file: ScratchFile,
        *,
        delete_on_close: bool,
        now: Callable[[], int],
    ) -> None:
        super().__init__(session, tree, file_id, access, file.path)
        self.volume = volume
        self.file = file
        self.share_access = share_access
        self.readable = bool(access & (AccessMask.READ_DATA | AccessMask.EXECUTE))
        self.writable = bool(access & (AccessMask.WRITE_DATA | AccessMask.APPEND_DATA))
        self.delete_on_close = delete_on_close
        self.position = 0
        self.keeps_times = False
        self.directory = Directory() if file.is_directory else None
        self.oplock: Oplock | None = None
        self.now = now
        file.add_open(self)

    def facts(self) -> OpenFacts:
        return OpenFacts(self.access, self.position, self.mode, delete_pending=self.file.delete_pending)

    def time_of_writing(self) -> int | None:
        return None if self.keeps_times else self.now()

    def watch(self, wanted: int, *, whole_tree: bool, output_bytes_max: int) -> None:
        if self.directory is None:
            super().watch(wanted, whole_tree=whole_tree, output_bytes_max=output_bytes_max)
            return
        if self.file.delete_pending:
            raise StatusError(NtStatus.DELETE_PENDING, f"{self.file.path!r} is being deleted")
        if not self.directory.watched:
            self.session.holdings.take_for(lambda: self.volume.watch(self.file, self), Resource.WATCHES)
            self.directory.watch(wanted, whole_tree=whole_tree, output_bytes_max=output_bytes_max)

    def changed(self, what: int, action: int, name: str, *, below: bool) -> None:
        if self.directory is not None:
            self.directory.changed(what, action, name, below=below)

    def deleted(self) -> None:
        """The directory is about to be deleted: CHANGE_NOTIFY requests that wait for a change wait in vain."""
        for waiting in list(self.waits):
            waiting.end(NtStatus.DELETE_PENDING)

    def close(self, then: Callable[[], object]) -> None:
        if self.closing:
            then()
            return
        self._end_waits(NtStatus.RANGE_NOT_LOCKED if self.directory is None else NtStatus.NOTIFY_CLEANUP)
        file = self.file
        freed = self._release_locks(file)
        self.volume.close(file, self, delete=self.delete_on_close, now=self.now())
        if self.directory is not None and self.directory.watched:
            self.session.holdings.give_back(Resource.WATCHES)
        self._end()
        then()
        if freed is not None:
            file.wake_lock_waiters(freed)
        self.drop_oplock()

    # --- its oplock --------------------------------------------------------------------

    def grant_oplock(self, level: int) -> None:
        self.oplock = self.file.oplock = Oplock(self, level)

    def oplock_broken(self) -> None:
        """Tell the initiator that it may cache no more (MS-SMB2 3.3.4.6)."""
        oplock_break.notify(self.session, self.file_id)

    def drop_oplock(self) -> None:
        """It was acknowledged, or took too long, or goes with the open; those that wait go on."""
        oplock, self.oplock = self.oplock, None
        if oplock is not None:
            self.file.oplock = None
            self.volume.breaking.pop(oplock, None)
            oplock.wake()

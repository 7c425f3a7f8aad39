"""Defines the open of a scratch file or directory, and its answers to requests.

Everything is in memory, so every request is answered at once (MS-SMB2 3.3.5.11 to 3.3.5.13, 3.3.5.21; MS-FSA 2.1.5.3,
2.1.5.4, 2.1.5.15).
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.facts import volume_serial
from meshfs.exporter.kinds.kind import Kind, reply_to_ioctl
from meshfs.exporter.kinds.scratch import facts as scratch_facts
from meshfs.exporter.kinds.scratch import oplock_break
from meshfs.exporter.rules.holdings import Resource
from meshfs.exporter.rules.locks import Lockable
from meshfs.exporter.rules.oplock import Oplock
from meshfs.exporter.rules.scratch.tree import ScratchFile
from meshfs.exporter.rules.scratch.volume import ScratchVolume
from meshfs.exporter.state.directory import DirectoryState
from meshfs.exporter.state.session import Session
from meshfs.exporter.state.tree import Tree
from meshfs.smb.constants import AccessMask, Fsctl, NtStatus, OplockLevel
from meshfs.smb.info import (
    Change,
    FileFacts,
    FilesystemFacts,
    NamePattern,
    OpenFacts,
    SetAllocation,
    SetBasic,
    SetDisposition,
    SetEndOfFile,
    SetPosition,
    SetRename,
)
from meshfs.smb.messages import FlushResponse, IoctlRequest, OplockBreak
from meshfs.smb.wire import READ_DATA_OFFSET, READ_RESPONSE, WRITE_RESPONSE

_OFFSET_MAX: Final = (1 << 63) - 1


class ScratchOpen(Kind):
    """Represents an open of a scratch file or directory. ``directory`` is None for a file.

    delete_on_close   tells whether the file is deleted when this open ends
    position          the offset after the last byte that was read or written
    keeps_times       tells whether a write of this open leaves the file's times as they are (MS-FSCC 2.4.7)
    """

    __slots__ = (
        "delete_on_close",
        "file",
        "keeps_times",
        "now",
        "oplock",
        "position",
        "readable",
        "share_access",
        "volume",
        "writable",
    )
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
        self.directory = DirectoryState() if file.is_directory else None
        self.oplock: Oplock | None = None
        self.now = now
        file.add_open(self)

    def close(self, then: Callable[[], object]) -> None:
        """End at once. The CLOSE is answered before the requests of others that waited for this open."""
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

    # --- content -----------------------------------------------------------------------

    def read(self, request: Request, offset: int, length: int, minimum: int) -> None:
        self._check_range(offset, length)
        if not self.readable:
            raise StatusError(NtStatus.ACCESS_DENIED, "the open has no right to read")
        file = self.file
        available = max(0, min(length, len(file.data) - offset))
        if available < minimum or (length and not available):
            raise StatusError(NtStatus.END_OF_FILE, f"fewer bytes than wanted are left at {offset}")
        if available and file.locks and not file.locks.can_read(self, offset, available):
            raise StatusError(NtStatus.FILE_LOCK_CONFLICT, "another open has locked the range of the READ")
        data = self.volume.read(file, offset, available)
        self.position = offset + available
        request.reply(READ_RESPONSE.pack(17, READ_DATA_OFFSET, 0, len(data), 0, 0) + data)

    def write(self, request: Request, offset: int, start: int, length: int, flags: int) -> None:
        self._check_range(offset, length)
        if not self.writable:
            raise StatusError(NtStatus.ACCESS_DENIED, "the open has no right to write")
        file = self.file
        if length and file.locks and not file.locks.can_write(self, offset, length):
            raise StatusError(NtStatus.FILE_LOCK_CONFLICT, "the range of the WRITE is locked")
        data = request.message.view[start : start + length]
        self.volume.write(file, offset, data, self._time_of_writing())
        self.position = offset + length
        request.reply(WRITE_RESPONSE.pack(17, 0, length, 0, 0, 0))

    def _check_range(self, offset: int, length: int) -> None:
        if self.directory is not None:
            raise StatusError(NtStatus.INVALID_DEVICE_REQUEST, "a directory has no bytes")
        if offset + length > _OFFSET_MAX:
            raise StatusError(NtStatus.INVALID_PARAMETER, f"{length} bytes at {offset} end beyond the largest offset")

    def _time_of_writing(self) -> int | None:
        return None if self.keeps_times else self.now()

    def flush(self, request: Request) -> None:
        """Answer at once, because nothing has to be flushed. The open needs the right to write nevertheless."""
        if not self.writable:
            raise StatusError(NtStatus.ACCESS_DENIED, "the open has no right to write")
        request.reply(FlushResponse().pack())

    def lockable(self) -> Lockable:
        if self.directory is not None:
            raise StatusError(NtStatus.INVALID_PARAMETER, "a directory cannot be locked")
        if not self.readable and not self.writable:
            raise StatusError(NtStatus.ACCESS_DENIED, "the open has no right to read or write data")
        return self.file

    # --- information -------------------------------------------------------------------

    def facts(self) -> OpenFacts:
        return OpenFacts(self.access, self.position, self.mode, delete_pending=self.file.delete_pending)

    def file_facts(self, request: Request) -> FileFacts:
        return scratch_facts.facts(self.file, self.file.path, volume_serial(request.peer.exporter))

    def volume_facts(self, request: Request) -> FilesystemFacts:
        volume = self.volume
        return replace(
            super().volume_facts(request), total_bytes=volume.size_bytes, available_bytes=volume.available_bytes
        )

    def set_info(self, request: Request, change: Change) -> None:
        volume, file = self.volume, self.file
        match change:
            case SetEndOfFile(size_bytes):
                self._check_may_resize()
                volume.set_size(file, size_bytes, self._time_of_writing())
            case SetAllocation(allocation_bytes):
                self._check_may_resize()
                # A larger allocation changes nothing. It reserves no room, because the whole share has one bound.
                if allocation_bytes < len(file.data):
                    volume.set_size(file, allocation_bytes, self._time_of_writing())
            case SetBasic():
                self._check_right(AccessMask.WRITE_ATTRIBUTES)
                self._set_basic(change)
            case SetDisposition(delete):
                self._check_right(AccessMask.DELETE)
                volume.set_disposition(file, delete=delete)
            case SetRename(name, overwrite):
                self._check_right(AccessMask.DELETE)
                volume.rename(file, name, overwrite=overwrite, now=self.now())
            case SetPosition(offset):
                self.position = offset
            case _:
                raise StatusError(NtStatus.NOT_SUPPORTED, f"a scratch file does not support {type(change).__name__}")

    def _check_right(self, right: AccessMask) -> None:
        if not self.access & right:
            raise StatusError(NtStatus.ACCESS_DENIED, f"the open has no right {right.name}")

    def _check_may_resize(self) -> None:
        self._check_right(AccessMask.WRITE_DATA)
        if self.directory is not None:
            raise StatusError(NtStatus.INVALID_PARAMETER, "a directory has no size")

    def _set_basic(self, change: SetBasic) -> None:
        """Set times and attributes. A LastWriteTime that was set is kept when this open writes (MS-FSA 2.1.5.15.2)."""
        file = self.file
        scratch_facts.set_basic(file, change)
        if change.write_filetime:
            self.keeps_times = change.write_filetime != scratch_facts.RESUME_UPDATES
        if not change.change_filetime and not self.keeps_times:
            file.times = replace(file.times, change_filetime=self.now())
        self.volume.modified(file, scratch_facts.changed_by(change))

    def ioctl(self, request: Request, body: IoctlRequest) -> None:
        if body.ctl_code not in (Fsctl.GET_OBJECT_ID, Fsctl.CREATE_OR_GET_OBJECT_ID):
            super().ioctl(request, body)
            return
        # Every scratch file has an object id from the beginning (MS-FSA 2.1.5.10.1).
        output = scratch_facts.object_id(self.file, request.peer.exporter.guid)
        if len(output) > body.output_bytes_max:
            raise StatusError(
                NtStatus.INVALID_PARAMETER, f"the output buffer is too small for {len(output)} bytes of an object id"
            )
        reply_to_ioctl(request, body, output)

    # --- a directory -------------------------------------------------------------------

    def newest_entry(self) -> int:
        return self.volume.last_index

    def entries(
        self, request: Request, pattern: NamePattern, after: str | None, newest: int
    ) -> Iterator[tuple[str, FileFacts | None]]:
        serial = volume_serial(request.peer.exporter)
        for key, file in self.file.children_after(after):
            listed = file.index_number <= newest and pattern.matches(file.name)
            yield key, scratch_facts.facts(file, file.name, serial) if listed else None

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
        """End the CHANGE_NOTIFY requests that wait, because the directory is about to be deleted."""
        for waiting in list(self.waits):
            waiting.end(NtStatus.DELETE_PENDING)

    # --- the oplock of the open --------------------------------------------------------

    def grant_oplock(self, level: int) -> None:
        """Let the initiator cache the file, because this is its only open."""
        self.oplock = self.file.oplock = Oplock(self, level)

    def oplock_broken(self) -> None:
        """Notify the initiator that it may not cache the file any more (MS-SMB2 3.3.4.6)."""
        oplock_break.notify(self.session, self.file_id)

    def drop_oplock(self) -> None:
        """End the oplock, and let the CREATEs that wait for its end go on."""
        oplock, self.oplock = self.oplock, None
        if oplock is not None:
            self.file.oplock = None
            self.volume.breaking.pop(oplock, None)
            oplock.wake()

    def acknowledge_break(self, request: Request, body: OplockBreak) -> None:
        """Answer the acknowledgment, and then let the requests that waited for it go on (MS-SMB2 3.3.5.22.1)."""
        oplock = self.oplock
        if oplock is None or not oplock.breaking:
            raise StatusError(NtStatus.INVALID_DEVICE_STATE, "no oplock is being broken")
        if body.oplock_level != OplockLevel.NONE:
            # The oplock ends nevertheless.
            request.fail(NtStatus.INVALID_OPLOCK_PROTOCOL)
        else:
            request.reply(OplockBreak(body.file_id, OplockLevel.NONE).pack())
        self.drop_oplock()

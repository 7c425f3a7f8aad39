"""`Kind` is the base of all kinds of opens. It answers every request about an open with a refusal.

A kind overrides the requests that it can serve. No command asks for the kind of an open. A command reads the request,
finds the open by its file id (`find_open`), and lets the open answer. So a new kind is a new file with a subclass of
`Kind` and a `Creator` (`at_create.py`), and one line in `registry.py`.

    command           asks the open for
    READ, WRITE       read, write
    FLUSH             flush
    LOCK              lockable, check_may_lock
    QUERY_INFO        file_facts, volume_facts, facts
    SET_INFO          set_info, set_mode
    IOCTL             ioctl, disks
    QUERY_DIRECTORY   as_listable, newest_entry, entries
    CHANGE_NOTIFY     as_listable, watch
    OPLOCK_BREAK      acknowledge_break
    CLOSE             close, file_facts

Each method raises StatusError to refuse. The methods read, write, flush, ioctl and acknowledge_break answer the request
themselves, at once or later. For all other methods, the command makes the answer from the returned value.
"""

from collections.abc import Iterator
from typing import Final

from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.facts import index_number, volume_serial
from meshfs.exporter.rules.channel_sequence import refuses
from meshfs.exporter.rules.locks import Lockable
from meshfs.exporter.state.directory import DirectoryState
from meshfs.exporter.state.offered_disk import OfferedDisk
from meshfs.exporter.state.open import Open
from meshfs.smb.constants import AccessMask, Flags, NtStatus
from meshfs.smb.info import (
    Change,
    FileFacts,
    FilesystemFacts,
    NamePattern,
    SetAllocation,
    SetBasic,
    SetDisposition,
    SetEndOfFile,
    SetRename,
)
from meshfs.smb.messages import IoctlRequest, IoctlResponse, OplockBreak

_RELATED: Final = int(Flags.RELATED_OPERATIONS)
_REPLAY: Final = int(Flags.REPLAY_OPERATION)


class Kind(Open):
    """Represents an open that requests can name. The methods refuse, or return the facts of an open without content."""

    __slots__ = ()

    # --- content -----------------------------------------------------------------------

    def read(self, request: Request, offset: int, length: int, minimum: int) -> None:
        """Answer a READ of ``length`` bytes. If there are fewer than ``minimum``, the answer is END_OF_FILE."""
        raise StatusError(NtStatus.INVALID_DEVICE_REQUEST, f"{self.name!r} cannot be read")

    def write(self, request: Request, offset: int, start: int, length: int, flags: int) -> None:
        """Answer a WRITE. Its payload is the ``length`` bytes of the message that begin at ``start``."""
        raise StatusError(NtStatus.INVALID_DEVICE_REQUEST, f"{self.name!r} cannot be written")

    def flush(self, request: Request) -> None:
        """Answer a FLUSH when all written data is on stable storage."""
        raise StatusError(NtStatus.INVALID_DEVICE_REQUEST, f"{self.name!r} cannot be flushed")

    def lockable(self) -> Lockable:
        """Return the object whose ranges a LOCK of this open locks."""
        raise StatusError(NtStatus.INVALID_PARAMETER, f"{self.name!r} has no bytes to lock")

    def check_may_lock(self) -> None:
        """Raise StatusError if this open must not lock ranges, although it may unlock them."""

    # --- information -------------------------------------------------------------------

    def file_facts(self, request: Request) -> FileFacts:
        """Return the facts of the file for QUERY_INFO, CREATE and CLOSE."""
        return FileFacts(self.name, 0, 4096, index_number(self.name))

    def volume_facts(self, request: Request) -> FilesystemFacts:
        """Return the facts of the volume for QUERY_INFO. It is as large as all disks that the node may know of."""
        exporter = request.peer.exporter
        return FilesystemFacts(
            label=exporter.name,
            serial=volume_serial(exporter),
            total_bytes=sum(each.size_bytes for each in exporter.disks.visible(request.session.user)),
            available_bytes=0,
            created_filetime=exporter.started_filetime,
            object_id=exporter.guid,
            logical_sector_bytes=512,
            physical_sector_bytes=4096,
            read_only=False,
        )

    def set_info(self, request: Request, change: Change) -> None:
        """Change something of the file. Changes that copying tools make without need are accepted without effect."""
        match change:
            case SetRename() | SetDisposition(delete=True):
                raise StatusError(NtStatus.ACCESS_DENIED, f"{self.name!r} is neither renamed nor deleted")
            case SetBasic() if not self.access & AccessMask.WRITE_ATTRIBUTES:
                raise StatusError(NtStatus.ACCESS_DENIED, "the open has no right to write attributes")
            case SetEndOfFile() | SetAllocation():
                raise StatusError(NtStatus.INVALID_PARAMETER, f"{self.name!r} has no size to set")

    def ioctl(self, request: Request, body: IoctlRequest) -> None:
        """Answer an FSCTL that is about the open."""
        raise StatusError(
            NtStatus.INVALID_DEVICE_REQUEST, f"{self.name!r} does not support FSCTL 0x{body.ctl_code:08x}"
        )

    def disks(self, request: Request, name: bytes) -> list[OfferedDisk]:
        """Return the disks for QUERY_DISKS. If ``name`` is not empty, it may name the only disk that is asked for."""
        raise StatusError(NtStatus.INVALID_DEVICE_REQUEST, f"{self.name!r} has no disks")

    # --- directories -------------------------------------------------------------------

    def as_listable(self) -> DirectoryState:
        """Return the state of an open directory. Raise StatusError if it is none, or there is no right to list it."""
        if self.directory is None:
            raise StatusError(NtStatus.INVALID_PARAMETER, f"{self.name!r} is no directory")
        if not self.access & AccessMask.READ_DATA:
            raise StatusError(NtStatus.ACCESS_DENIED, "the open has no right to list")
        return self.directory

    def newest_entry(self) -> int:
        """Return the index number of the newest file when a listing begins. `entries` leaves out newer files."""
        return 0

    def entries(
        self, request: Request, pattern: NamePattern, after: str | None, newest: int
    ) -> Iterator[tuple[str, FileFacts | None]]:
        """Yield the directory's files that come after the folded name ``after``, with their folded names, in order.

        None stands for a file that is not listed. It is yielded nevertheless, because a look at the file took time.
        """
        yield from ()

    def watch(self, wanted: int, *, whole_tree: bool, output_bytes_max: int) -> None:
        """Keep changes in the directory from now on. A second call has no effect."""
        raise StatusError(NtStatus.INVALID_PARAMETER, f"{self.name!r} is no directory")

    # --- oplocks -----------------------------------------------------------------------

    def acknowledge_break(self, request: Request, body: OplockBreak) -> None:
        """Answer an acknowledgment of an oplock break."""
        raise StatusError(NtStatus.INVALID_DEVICE_STATE, "there is no oplock to acknowledge")


def reply_to_ioctl(request: Request, body: IoctlRequest, output: bytes, status: int = NtStatus.SUCCESS) -> None:
    """Answer an FSCTL with ``output``."""
    request.reply(IoctlResponse(body.ctl_code, body.file_id, output).pack(), status)


def find_open(request: Request, persistent: int, volatile: int) -> Kind:
    """Return the open that a file id names, or in a compound the open of the request before.

    Raises StatusError if there is no such open, or if the channel sequence is too old. The channel sequence of every
    request with a file id is checked here (MS-SMB2 3.3.5.2.10). Both halves of an id from this exporter are equal, so
    an id with another persistent half names no open.
    """
    compound = request.compound
    if compound is not None:
        if request.message.flags & _RELATED:
            persistent = volatile = compound.related_file()
        compound.file_id = volatile
    opened = request.session.opens.get(volatile)
    if not isinstance(opened, Kind) or opened.tree is not request.tree or persistent != volatile:
        raise StatusError(NtStatus.FILE_CLOSED, f"the session has no open 0x{volatile:x}")
    request.open = opened
    message = request.message
    # In a request, the header's Status field holds ChannelSequence and a reserved zero (MS-SMB2 2.2.1.2).
    if (message.status != opened.channel_sequence or message.flags & _REPLAY) and refuses(opened, message):
        request.peer.exporter.count("stale_requests")
        raise StatusError(
            NtStatus.FILE_NOT_AVAILABLE,
            f"the request has channel sequence {message.channel_sequence}, and the open {opened.channel_sequence}",
        )
    return opened

"""`Kind` is the base of all kinds of opens: it answers every request about an open with a refusal.

A kind overrides what it can do. No command asks which kind an open is of: a command reads the request, finds the open
by its file id (`find_open`), and lets the open answer. So a new kind is a new file with a subclass of `Kind` and a
`Creator` (`at_create.py`), and one line in `registry.py`.

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

Each of them raises StatusError where it refuses. The methods read, write, flush, ioctl and acknowledge_break answer the
request themselves, at once or later. From what the others return, the command makes the answer.
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
    """An open that requests can be about. All methods are refusals, or what is true of opens without content."""

    __slots__ = ()

    # --- content -----------------------------------------------------------------------

    def read(self, request: Request, offset: int, length: int, minimum: int) -> None:
        """Answer a READ of ``length`` bytes, or with END_OF_FILE where there are fewer than ``minimum``."""
        raise StatusError(NtStatus.INVALID_DEVICE_REQUEST, f"READ of {self.name!r}")

    def write(self, request: Request, offset: int, start: int, length: int, flags: int) -> None:
        """Answer a WRITE. Its payload is the ``length`` bytes of the message that begin at ``start``."""
        raise StatusError(NtStatus.INVALID_DEVICE_REQUEST, f"WRITE of {self.name!r}")

    def flush(self, request: Request) -> None:
        """Answer a FLUSH when all that was written is safe."""
        raise StatusError(NtStatus.INVALID_DEVICE_REQUEST, f"FLUSH of {self.name!r}")

    def lockable(self) -> Lockable:
        """Return what a LOCK of this open locks ranges of."""
        raise StatusError(NtStatus.INVALID_PARAMETER, f"LOCK of {self.name!r}, which has no bytes")

    def check_may_lock(self) -> None:
        """Raises StatusError where what is `lockable` must not be locked by this open, although it may be unlocked."""

    # --- information -------------------------------------------------------------------

    def file_facts(self, request: Request) -> FileFacts:
        """Return what is told of the file, by QUERY_INFO, CREATE and CLOSE."""
        return FileFacts(self.name, 0, 4096, index_number(self.name))

    def volume_facts(self, request: Request) -> FilesystemFacts:
        """Return what QUERY_INFO tells of the volume: it is as large as all disks that the node may know of."""
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
        """Change something of the file. What copying tools set without need is accepted, and changes nothing."""
        match change:
            case SetRename() | SetDisposition(delete=True):
                raise StatusError(NtStatus.ACCESS_DENIED, f"{self.name!r} is neither renamed nor deleted")
            case SetBasic() if not self.access & AccessMask.WRITE_ATTRIBUTES:
                raise StatusError(NtStatus.ACCESS_DENIED, "open has no right to write attributes")
            case SetEndOfFile() | SetAllocation():
                raise StatusError(NtStatus.INVALID_PARAMETER, f"{self.name!r} has no size to set")

    def ioctl(self, request: Request, body: IoctlRequest) -> None:
        """Answer an FSCTL that is about the open."""
        raise StatusError(NtStatus.INVALID_DEVICE_REQUEST, f"FSCTL 0x{body.ctl_code:08x} of {self.name!r}")

    def disks(self, request: Request, name: bytes) -> list[OfferedDisk]:
        """The disks that QUERY_DISKS tells of; where ``name`` is not empty, it may name the one that is asked for."""
        raise StatusError(NtStatus.INVALID_DEVICE_REQUEST, f"{self.name!r} has no disks")

    # --- directories -------------------------------------------------------------------

    def as_listable(self) -> DirectoryState:
        """What the open of a directory keeps. Raises StatusError where it is of none, or has no right to list it."""
        if self.directory is None:
            raise StatusError(NtStatus.INVALID_PARAMETER, f"{self.name!r} is no directory")
        if not self.access & AccessMask.READ_DATA:
            raise StatusError(NtStatus.ACCESS_DENIED, "open has no right to list")
        return self.directory

    def newest_entry(self) -> int:
        """The index number of the newest file when a listing begins: `entries` leaves younger ones out."""
        return 0

    def entries(
        self, request: Request, pattern: NamePattern, after: str | None, newest: int
    ) -> Iterator[tuple[str, FileFacts | None]]:
        """The files of the directory behind the folded name ``after``, by their folded names and in their order.

        None stands for a file that is not listed. It is yielded all the same, as looking at it took time.
        """
        yield from ()

    def watch(self, wanted: int, *, whole_tree: bool, output_bytes_max: int) -> None:
        """Keep changes in the directory from now on. A later call changes nothing."""
        raise StatusError(NtStatus.INVALID_PARAMETER, f"{self.name!r} is no directory")

    # --- oplocks -----------------------------------------------------------------------

    def acknowledge_break(self, request: Request, body: OplockBreak) -> None:
        """Answer an acknowledgment of an oplock break."""
        raise StatusError(NtStatus.INVALID_DEVICE_STATE, "no oplock to acknowledge")


def reply_to_ioctl(request: Request, body: IoctlRequest, output: bytes, status: int = NtStatus.SUCCESS) -> None:
    """Answer an FSCTL with ``output``."""
    request.reply(IoctlResponse(body.ctl_code, body.file_id, output).pack(), status)


def find_open(request: Request, persistent: int, volatile: int) -> Kind:
    """The open that a file id names, or in a compound the open of the request before. Raises StatusError.

    Every request with a file id passes here, and has its channel sequence looked at (MS-SMB2 3.3.5.2.10). Both halves
    of an id that the exporter gave out are equal, so an id with a wrong persistent half names no open.
    """
    compound = request.compound
    if compound is not None:
        if request.message.flags & _RELATED:
            persistent = volatile = compound.related_file()
        compound.file_id = volatile
    opened = request.session.opens.get(volatile)
    if not isinstance(opened, Kind) or opened.tree is not request.tree or persistent != volatile:
        raise StatusError(NtStatus.FILE_CLOSED, f"no open 0x{volatile:x}")
    request.open = opened
    message = request.message
    # In a request, the header's Status field holds ChannelSequence and a reserved zero (MS-SMB2 2.2.1.2).
    if (message.status != opened.channel_sequence or message.flags & _REPLAY) and refuses(opened, message):
        request.peer.exporter.count("stale_requests")
        raise StatusError(
            NtStatus.FILE_NOT_AVAILABLE, f"channel sequence {message.channel_sequence} of {opened.channel_sequence}"
        )
    return opened

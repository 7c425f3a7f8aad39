"""`Kind` is the base of all kinds of opens: it answers every request about an open with a refusal.

A kind overrides what it can do. No command asks which kind an open is of: it finds the open by the file id of the
request (`find_open`), and lets it answer.
"""

from typing import Final

from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.rules.channel_sequence import refuses
from meshfs.exporter.state.directory import Directory
from meshfs.exporter.state.open import Open
from meshfs.smb.constants import AccessMask, Flags, NtStatus

_RELATED: Final = int(Flags.RELATED_OPERATIONS)
_REPLAY: Final = int(Flags.REPLAY_OPERATION)


class Kind(Open):
    """An open that requests can be about."""

    __slots__ = ()

    def as_listable(self) -> Directory:
        """The directory that it is an open of. Raises StatusError where it is of none, or has no right to list it."""
        if self.directory is None:
            raise StatusError(NtStatus.INVALID_PARAMETER, f"{self.name!r} is no directory")
        if not self.access & AccessMask.READ_DATA:
            raise StatusError(NtStatus.ACCESS_DENIED, "open has no right to list")
        return self.directory

    def watch(self, wanted: int, *, whole_tree: bool, output_bytes_max: int) -> None:
        """Keep changes in the directory from now on. Raises StatusError; a later call changes nothing."""
        raise StatusError(NtStatus.INVALID_PARAMETER, f"{self.name!r} is no directory")


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

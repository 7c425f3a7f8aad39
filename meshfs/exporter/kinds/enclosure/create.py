"""Answers CREATE of an enclosure's file (MS-SMB2 3.3.5.9).

A CREATE that asks for the right to read waits for a reading of the device that begins after the CREATE came. The open
keeps the content of that reading. All other opens do not touch the device.

No CREATE makes, removes or truncates an enclosure. Programs such as `cp` and `smbclient put` overwrite what they write
to, so a CREATE that overwrites is accepted, and changes nothing.
"""

import errno
from typing import Final

from meshfs.enclosure.base import EnclosureReading
from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.at_create import Creator, answer, check_not_deleted, takes_all
from meshfs.exporter.kinds.enclosure.open import EnclosureOpen
from meshfs.exporter.kinds.offered_file import find_offered
from meshfs.exporter.kinds.pending_create import PendingCreate
from meshfs.exporter.rules.access import DISK_RIGHTS, expand_access
from meshfs.exporter.rules.dispositions import OVERWRITES, action_on_existing
from meshfs.exporter.rules.holdings import Resource
from meshfs.exporter.state.offered_enclosure import OfferedEnclosure
from meshfs.smb.constants import AccessMask, NtStatus
from meshfs.smb.messages import CreateRequest
from meshfs.smb.status import status_from_errno

_READS: Final = AccessMask.READ_DATA | AccessMask.EXECUTE


def create(request: Request, body: CreateRequest) -> None:
    """Answer a CREATE of an enclosure, now or later. Raise StatusError if it is refused now."""
    check_not_deleted(body)
    enclosure = _find(request, body)
    granted = _granted(request, body, enclosure)
    if granted & _READS:
        request.session.holdings.check(Resource.CONTENTS)
        _Pending(request, body, enclosure).begin()
    else:
        _open(request, body, enclosure, granted, None)


class _Pending(PendingCreate):
    """Represents a CREATE that waits for a reading."""

    __slots__ = ("_body", "_enclosure", "_result")

    def __init__(self, request: Request, body: CreateRequest, enclosure: OfferedEnclosure) -> None:
        super().__init__(request)
        self._body = body
        self._enclosure = enclosure
        self._result: EnclosureReading | OSError | None = None
        enclosure.creates[self] = None

    def begin(self) -> None:
        """Have the device read."""
        self._enclosure.read(self._read)

    def _read(self, result: EnclosureReading | OSError) -> None:
        self._result = result
        self.retry()

    def end(self) -> None:
        super().end()
        self._enclosure.creates.pop(self, None)

    def _try(self) -> None:
        request, body = self.request, self._body
        enclosure = _find(request, body)
        granted = _granted(request, body, enclosure)
        if enclosure is not self._enclosure:
            raise StatusError(NtStatus.NO_SUCH_DEVICE, f"another device is enclosure {enclosure.name} now")
        result = self._result
        if isinstance(result, OSError):
            raise StatusError(
                status_from_errno(result.errno or errno.EIO), f"enclosure {enclosure.name} could not be read: {result}"
            )
        if result is not None:
            self.end()
            _open(request, body, enclosure, granted, result.content)


def _find(request: Request, body: CreateRequest) -> OfferedEnclosure:
    return find_offered(request.peer.exporter.enclosures, request.session.user, body, "enclosure")


def _granted(request: Request, body: CreateRequest, enclosure: OfferedEnclosure) -> int:
    """Return the access that the open gets. Raise StatusError if the node may not have all the access it asks for."""
    allowed = DISK_RIGHTS[enclosure.access_of(request.session.user)]
    wanted = body.desired_access
    if body.disposition in OVERWRITES:
        wanted |= AccessMask.WRITE_DATA
    granted = expand_access(wanted, allowed)
    if granted & ~allowed:
        raise StatusError(NtStatus.ACCESS_DENIED, f"access 0x{granted:x} to enclosure {enclosure.name} is not allowed")
    return granted


def _open(
    request: Request, body: CreateRequest, enclosure: OfferedEnclosure, granted: int, content: bytes | None
) -> None:
    exporter, session, tree = request.peer.exporter, request.session, request.tree
    opened = EnclosureOpen(session, tree, exporter.new_file_id(), granted, enclosure, content)
    allowed = DISK_RIGHTS[enclosure.access_of(session.user)]
    answer(request, body, opened, allowed=allowed, action=action_on_existing(body.disposition))


CREATOR: Final = Creator(takes_all, create)

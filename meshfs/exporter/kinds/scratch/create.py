"""Answers CREATE in the share `scratch`, now or when an oplock in its way has ended (MS-SMB2 3.3.5.9)."""

from typing import Final

from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.at_create import Creator, answer, takes_all
from meshfs.exporter.kinds.pending_create import PendingCreate
from meshfs.exporter.kinds.scratch.open import ScratchOpen
from meshfs.exporter.kinds.scratch.oplock_break import end_late_breaks
from meshfs.exporter.rules.oplock import GRANTED_LEVELS, Oplock
from meshfs.exporter.rules.scratch.rules import SCRATCH_RIGHTS
from meshfs.exporter.rules.scratch.volume import Created, ScratchVolume
from meshfs.smb.constants import CreateOptions, NtStatus, OplockLevel
from meshfs.smb.messages import CreateRequest

#: Contexts of CREATE for features that scratch files lack. They are refused, because a client relies on the features.
_REFUSED_CONTEXTS: Final = (
    (b"ExtA", NtStatus.EAS_NOT_SUPPORTED, "files have no extended attributes"),
    (b"SecD", NtStatus.NOT_SUPPORTED, "files have no security descriptors of their own"),
)


def create(request: Request, body: CreateRequest) -> None:
    """Answer a CREATE of a scratch file, now or later. Raise StatusError if it is refused now."""
    volume = request.peer.exporter.scratch
    if volume is None:
        raise StatusError(NtStatus.NETWORK_NAME_DELETED, "there is no scratch share any more")
    for name, status, text in _REFUSED_CONTEXTS:
        if body.context(name) is not None:
            raise StatusError(status, text)
    created = volume.create(body, request.peer.exporter.now_filetime())
    if isinstance(created, Oplock):
        _Pending(request, body, volume, created)
    else:
        _open(request, body, volume, created)


def _open(request: Request, body: CreateRequest, volume: ScratchVolume, created: Created) -> None:
    exporter, file = request.peer.exporter, created.file
    opened = ScratchOpen(
        request.session,
        request.tree,
        exporter.new_file_id(),
        created.access,
        body.share_access,
        volume,
        file,
        delete_on_close=bool(body.options & CreateOptions.DELETE_ON_CLOSE),
        now=exporter.now_filetime,
    )
    level = OplockLevel.NONE
    if body.oplock_level in GRANTED_LEVELS and not file.is_directory and len(file.opens) == 1:
        level = OplockLevel(body.oplock_level)
        opened.grant_oplock(level)
    answer(request, body, opened, allowed=SCRATCH_RIGHTS, action=created.action, oplock_level=level)


class _Pending(PendingCreate):
    """Represents a CREATE that is tried again when the oplock in its way has ended."""

    __slots__ = ("_body", "_oplock", "_volume")

    def __init__(self, request: Request, body: CreateRequest, volume: ScratchVolume, oplock: Oplock) -> None:
        super().__init__(request)
        self._body = body
        self._volume = volume
        self._wait_for(oplock)

    def _wait_for(self, oplock: Oplock) -> None:
        self._oplock = oplock
        oplock.add_waiter(self.retry)
        self._volume.breaking[oplock] = None
        oplock.start_break(self.request.peer.exporter.clock())

    def end(self) -> None:
        super().end()
        self._oplock.remove_waiter(self.retry)

    def _try(self) -> None:
        request = self.request
        created = self._volume.create(self._body, request.peer.exporter.now_filetime())
        if isinstance(created, Oplock):
            self._wait_for(created)
        else:
            self.end()
            _open(request, self._body, self._volume, created)


CREATOR: Final = Creator(takes_all, create, end_late_breaks)

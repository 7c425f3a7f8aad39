"""Answers FSCTL_MESHFS_EXCHANGE_VIEWS on the root of a share of disks (`meshfs.mesh_view`).

The input is the view of the asking mount. The session keeps the view, so a mount that is gone has no view. A mount that
wants no output only renews its view.
"""

from meshfs import limits
from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.kind import reply_to_ioctl
from meshfs.exporter.state.exporter import Exporter
from meshfs.exporter.state.offered_disk import OfferedDisk
from meshfs.exporter.state.open import Open
from meshfs.exporter.state.session import Session, SessionView
from meshfs.mesh_view import DiskView, MountView, SeenView, ViewExchange, decode_view, encode_exchange, only_known
from meshfs.model import Access
from meshfs.smb.constants import AccessMask, NtStatus
from meshfs.smb.messages import IoctlRequest


def exchange_views(request: Request, body: IoctlRequest, opened: Open) -> None:
    """Keep the view of the session, and answer with all views. Raise StatusError if the input is no view."""
    if not opened.access & AccessMask.READ_DATA:
        raise StatusError(NtStatus.ACCESS_DENIED, "the open has no right to read")
    if len(body.input) > limits.VIEW_MAX_BYTES:
        raise StatusError(NtStatus.INVALID_PARAMETER, f"a view of {len(body.input)} bytes is too large")
    try:
        view = decode_view(body.input)
    except ValueError as error:
        raise StatusError(NtStatus.INVALID_PARAMETER, str(error)) from error
    exporter, session = request.peer.exporter, request.session
    _keep(exporter, session, view)
    output = encode_exchange(_exchange(exporter, session.user)) if body.output_bytes_max else b""
    if len(output) > body.output_bytes_max:
        raise StatusError(NtStatus.BUFFER_TOO_SMALL, f"the output buffer is too small for {len(output)} bytes of views")
    reply_to_ioctl(request, body, output)


def _keep(exporter: Exporter, session: Session, view: MountView) -> None:
    """Keep the view. Drop the oldest view of the node if its other sessions have too many."""
    session.view = None
    kept = [each for each in exporter.sessions.values() if each.user == session.user and each.view is not None]
    if len(kept) >= limits.VIEWS_PER_NODE_MAX:
        min(kept, key=_received_s).view = None
    session.view = SessionView(view, exporter.clock())


def _received_s(session: Session) -> float:
    return session.view.received_s if session.view is not None else 0.0


def _exchange(exporter: Exporter, asking: str) -> ViewExchange:
    known = exporter.disks.visible(asking)
    unknown = {disk.info.id for disk in exporter.disks.all()} - {disk.info.id for disk in known}
    now = exporter.clock()
    views = [
        _seen(session, session.view, known, unknown, now)
        for session in exporter.sessions.values()
        if session.view is not None
    ]
    disks = (DiskView(disk.info.id, disk.size_bytes, disk.info.instance) for disk in known)
    return ViewExchange(tuple(disks), tuple(views))


def _seen(session: Session, kept: SessionView, known: list[OfferedDisk], unknown: set[str], now: float) -> SeenView:
    hidden = tuple(disk.info.id for disk in known if disk.access_of(session.user) is Access.NONE)
    return SeenView(session.user, round(now - kept.received_s, 3), only_known(kept.view, unknown), hidden)

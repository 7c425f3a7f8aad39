"""Oplock breaks on the wire: the notification and its acknowledgment (MS-SMB2 3.3.4.6, 3.3.5.22.1)."""

from typing import TYPE_CHECKING

from meshfs.errors import StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.smb.constants import MESSAGE_ID_UNSOLICITED, Command, Flags, NtStatus, OplockLevel
from meshfs.smb.messages import FileId, OplockBreak
from meshfs.smb.wire import pack_header

if TYPE_CHECKING:
    from meshfs.exporter.kinds.scratch_open import ScratchOpen
    from meshfs.exporter.state.session import Session


def notify(session: "Session", file_id: int) -> None:
    """The holder may cache no more. Never signed; sealed where the session is.

    It names no session, unless it is sealed: then header and transform header must agree (3.2.5.1.1.1).
    """
    body = OplockBreak(FileId(file_id, file_id), OplockLevel.NONE).pack()
    header = pack_header(
        Command.OPLOCK_BREAK, flags=Flags.SERVER_TO_REDIR, message_id=MESSAGE_ID_UNSOLICITED,
        session_id=session.id if session.encrypt else 0,
    )  # fmt: skip
    for peer, security in session.channels.items():
        if not peer.closed:
            seal = security if session.encrypt else None
            peer.send(peer.connection.protect([bytearray(header + body)], None, seal))
            return


def acknowledge(request: Request, opened: "ScratchOpen", body: OplockBreak) -> None:
    """Answered before those that waited for it go on."""
    oplock = opened.oplock
    if oplock is None or not oplock.breaking:
        raise StatusError(NtStatus.INVALID_DEVICE_STATE, "no oplock is being broken")
    if body.oplock_level != OplockLevel.NONE:
        # The oplock is lost all the same.
        request.fail(NtStatus.INVALID_OPLOCK_PROTOCOL)
    else:
        request.reply(OplockBreak(body.file_id, OplockLevel.NONE).pack())
    opened.drop_oplock()

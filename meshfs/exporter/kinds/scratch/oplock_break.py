"""Breaks an oplock.

The exporter notifies the holder, although no request has asked for a message (MS-SMB2 3.3.4.6). If the holder does not
acknowledge the break in time, the oplock is dropped (3.3.6.1).
"""

from itertools import takewhile

from meshfs.exporter.state.exporter import Exporter
from meshfs.exporter.state.session import Session
from meshfs.smb.constants import MESSAGE_ID_UNSOLICITED, Command, Flags, OplockLevel
from meshfs.smb.messages import FileId, OplockBreak
from meshfs.smb.wire import pack_header


def notify(session: Session, file_id: int) -> None:
    """Notify the holder of an oplock, an open of the session, that it may not cache the file any more.

    The notification is never signed, but is sealed if the session encrypts. It names the session only if it is sealed,
    because header and transform header must then agree (3.2.5.1.1.1).
    """
    body = OplockBreak(FileId(file_id, file_id), OplockLevel.NONE).pack()
    header = pack_header(
        Command.OPLOCK_BREAK,
        flags=Flags.SERVER_TO_REDIR,
        message_id=MESSAGE_ID_UNSOLICITED,
        session_id=session.id if session.encrypt else 0,
    )
    for peer, security in session.channels.items():
        if not peer.closed:
            seal = security if session.encrypt else None
            peer.send(peer.connection.protect([bytearray(header + body)], None, seal))
            return


def end_late_breaks(exporter: Exporter) -> None:
    """Drop the oplocks whose holders did not acknowledge the break in time. The CREATEs that wait then go on."""
    if exporter.scratch is None:
        return
    now = exporter.clock()
    # Breaks are in the order in which they began, and all have the same timeout.
    late = list(takewhile(lambda oplock: oplock.is_late(now), exporter.scratch.breaking))
    with exporter.batches.one():
        for oplock in late:
            exporter.count("oplock_breaks_late")
            oplock.holder.drop_oplock()

"""Handles NEGOTIATE, the first message of a connection, which may come only once (MS-SMB2 3.3.5.2 to 3.3.5.4)."""

from meshfs.buffers import FRAMING_BYTES
from meshfs.errors import RemoteProtocolError, StatusError
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.rules import negotiation
from meshfs.exporter.rules.admission import AdmissionStage
from meshfs.exporter.state.peer import Peer
from meshfs.smb.auth import negotiate_hint
from meshfs.smb.connection import Message, Smb1Opening
from meshfs.smb.constants import Command, Dialect, NtStatus
from meshfs.smb.messages import NegotiateRequest
from meshfs.smb.states import SmbEvent


def negotiate(peer: Peer, message: Message) -> None:
    """Answer a message before the connection is ready. Raise RemoteProtocolError if it is no NEGOTIATE.

    After a NEGOTIATE in the form of SMB 1, a NEGOTIATE of SMB 2 has to follow (3.3.5.3.1).
    """
    peer.happened(SmbEvent.NEGOTIATE if message.command == Command.NEGOTIATE else SmbEvent.REQUEST)
    if message.next is not None:
        raise RemoteProtocolError("NEGOTIATE must not be part of a compound")
    request, negotiated, exporter = Request(peer, message), peer.connection.negotiated, peer.exporter
    hint, now = negotiate_hint(), exporter.now_filetime()
    if isinstance(message, Smb1Opening):
        peer.happened(SmbEvent.AGAIN)
        reply = negotiation.negotiate_again(security=exporter.security, guid=exporter.guid, hint=hint, filetime=now)
        request.reply(reply.pack())
        return
    try:
        reply = negotiation.negotiate(
            NegotiateRequest.unpack(message.body),
            negotiated,
            security=exporter.security,
            guid=exporter.guid,
            hint=hint,
            filetime=now,
        )
    except (StatusError, RemoteProtocolError) as error:
        status = error.status if isinstance(error, StatusError) else NtStatus.INVALID_PARAMETER
        exporter.count("negotiations_refused")
        peer.log_warning("a NEGOTIATE was refused: %s", error)
        peer.happened(SmbEvent.REFUSED)
        request.fail(status)
        peer.closing = True
        return
    peer.happened(SmbEvent.NEGOTIATED)
    peer.on_stage(AdmissionStage.NEGOTIATED)
    frame = request.reply(reply.pack())
    if negotiated.dialect is Dialect.SMB_3_1_1 and frame is not None:
        negotiated.preauth.update(message.view)
        negotiated.preauth.update(memoryview(frame)[FRAMING_BYTES:])

"""Handles CLOSE, which ends an open (MS-SMB2 3.3.5.10)."""

from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.kind import find_open
from meshfs.smb.constants import CloseFlags, NtStatus
from meshfs.smb.messages import CloseRequest, CloseResponse


def close(request: Request) -> None:
    """End the open, and answer when nothing of it is at its disk any more.

    Initiators rely on that: after the answer, no write of the open lands any more. An initiator that lost the channel
    of its CLOSE sends another CLOSE, whose answer waits in the same way.
    """
    body = CloseRequest.unpack(request.message.body)
    closing = request.session.find_closing(request.tree, body.file_id)
    if closing is not None:
        closing.close(lambda: request.fail(NtStatus.FILE_CLOSED))
        return
    opened = find_open(request, *body.file_id)
    reply = CloseResponse()
    if body.flags & CloseFlags.POSTQUERY_ATTRIB:
        facts = opened.file_facts(request)
        reply = CloseResponse(
            int(CloseFlags.POSTQUERY_ATTRIB), facts.times, facts.allocation_bytes, facts.size_bytes, facts.attributes
        )
    opened.close(lambda: request.reply(reply.pack()))

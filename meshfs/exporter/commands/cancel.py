"""CANCEL: a session takes one of its own requests back (MS-SMB2 3.3.5.16).

CANCEL has no reply and takes no credit. What would let a peer have work done for nothing is bounded instead: a
connection sends no more CANCELs than it has used message ids (`ConnectionEngine`), and finding what one means costs the
same however much is in flight, by `Peer.cancellable`: the requests of the connection that can still be given up, by
their message id.

    at a disk's queue              taken from there, and answered with CANCELLED
    at the disk, or done           goes on: the answer tells what became of it
    waits for an event             LOCK, CHANGE_NOTIFY, an open that is delayed: answered with CANCELLED
    a long zeroing                 begins no further piece
    of another session             not found
    of two ids that differ         not found

A CANCEL of an asynchronous request has its AsyncId and its MessageId (3.2.4.24). The initiator has the AsyncId from an
interim reply, which is not signed: somebody between the two can put another request's there, and would choose what a
well signed CANCEL ends. So the MessageId has to be of the same request, or 0, as some initiators leave it out.
"""

from meshfs.exporter.exchange.request import Request
from meshfs.exporter.state.peer import Cancellable
from meshfs.smb.constants import Flags


def cancel(request: Request) -> None:
    """End the request that the CANCEL names, if it is one of the session's own and can still be ended."""
    target = _target(request)
    if target is not None and target.session is request.session:
        target.cancel()


def _target(request: Request) -> Cancellable | None:
    message, peer = request.message, request.peer
    if message.flags & Flags.ASYNC_COMMAND:
        waiting = peer.waiting.get(message.async_id)
        if waiting is None or message.message_id not in (0, waiting.message_id):
            return None
        return waiting
    return peer.cancellable.get(message.message_id)

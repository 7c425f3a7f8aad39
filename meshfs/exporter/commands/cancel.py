"""Handles CANCEL, by which a session ends one of its own requests early (MS-SMB2 3.3.5.16).

CANCEL has no reply and takes no credit. A peer must not cause unlimited work with CANCELs. So a connection may send no
more CANCELs than it has used message ids (`ConnectionEngine`). To find the request costs the same however many are in
flight: `Peer.cancellable` has the requests of the connection that can still be cancelled, by their message id.

    request                          what a CANCEL does
    in the queue of a disk           The request is taken from the queue, and answered with CANCELLED.
    at the disk, or done             The request goes on, and its answer tells its result.
    waits for an event               A LOCK, CHANGE_NOTIFY or delayed CREATE is answered with CANCELLED.
    a long zeroing                   No further piece begins.
    of another session               The request is not found.
    with two ids that differ         The request is not found.

A CANCEL of an asynchronous request has its AsyncId and its MessageId (3.2.4.24). The initiator has the AsyncId from an
interim reply, which is not signed. An attacker between the two could replace the AsyncId, and so choose the request
that a well signed CANCEL ends. Therefore the MessageId has to be that of the same request. It may also be 0, because
some initiators leave it out.
"""

from meshfs.exporter.exchange.request import Request
from meshfs.exporter.state.peer import Cancellable
from meshfs.smb.constants import Flags


def cancel(request: Request) -> None:
    """End the request that the CANCEL names, if it belongs to the session and can still be ended."""
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

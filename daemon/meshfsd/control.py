"""The control socket: one JSON object per line in, one out.

Its mode is 0600, so only its owner and root can ask.

    {"verb": "status"}  ->  the object `meshfsd.status` makes
    anything else       ->  {"error": "..."}
"""

import json
import logging
import socket
from collections.abc import Callable

import trio

from meshfs import limits

logger = logging.getLogger(__name__)

Status = Callable[[], dict[str, object]]


async def serve_control(listening: socket.socket, status: Status) -> None:
    """Answer until cancelled; the socket is the caller's."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening.dup()))
    limit = trio.CapacityLimiter(limits.CONTROL_CONNECTIONS_MAX)

    async def serve(stream: trio.SocketStream) -> None:
        async with stream, limit:
            try:
                await _converse(stream, status)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                logger.debug("control connection broken")

    await trio.serve_listeners(serve, [listener])


async def _converse(stream: trio.SocketStream, status: Status) -> None:
    """Line by line; silence and overlong lines end it."""
    received = bytearray()
    while True:
        with trio.move_on_after(limits.CONTROL_TIMEOUT_S) as patience:
            while b"\n" not in received:
                data = await stream.receive_some()
                if not data:
                    return
                received += data
                if len(received) > limits.CONTROL_LINE_MAX_BYTES:
                    return
        if patience.cancelled_caught:
            return
        line, _, received = received.partition(b"\n")
        with trio.move_on_after(limits.CONTROL_TIMEOUT_S):
            await stream.send_all(json.dumps(_answer(bytes(line), status)).encode() + b"\n")


def _answer(line: bytes, status: Status) -> dict[str, object]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        return {"error": "not a JSON object"}
    verb = request.get("verb") if isinstance(request, dict) else None
    if verb == "status":
        return status()
    return {"error": f"unknown verb {verb!r}, expected status"}

"""Serve the control socket, where each request and each answer is one JSON object on one line.

The socket's mode is 0600, so only its owner and root can connect. A script of theirs may forget to close connections.
Therefore, if there are CONTROL_CONNECTIONS_MAX connections, a new one replaces the connection that has been silent for
the longest time.

    {"verb": "status", ...}  ->  the answer of the verb's handler
    anything else            ->  {"error": "..."}

An answer may have megabytes. It is encoded piece by piece, so that I/O continues meanwhile.
"""

import json
import logging
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

import trio

from meshfs import limits
from meshfs.errors import MeshfsError
from meshfs.wording import describe

logger = logging.getLogger(__name__)

Request = Mapping[str, object]
Answer = Mapping[str, object]
#: Makes the answer to a request. Raises RefusedError. A handler may take long, but I/O continues only while it awaits.
Handler = Callable[[Request], Awaitable[Answer]]


#: trio's logger, which reports that a connection cannot be accepted because no file descriptor is left.
_ACCEPTING = logging.getLogger("trio.serve_listeners")


class RefusedError(MeshfsError):
    """A request is refused. The text is the error in the answer."""


def _without_traceback(record: logging.LogRecord) -> bool:
    """Keep the line and drop the traceback, because a lack of descriptors is no bug in the program."""
    record.exc_info = None
    return True


class _Silent:
    """Counts the connections, and orders those that wait for a request by the length of their silence."""

    def __init__(self) -> None:
        self.count = 0
        self._scopes: OrderedDict[trio.CancelScope, None] = OrderedDict()

    def make_room(self) -> bool:
        """Return whether one more connection may be served. If needed, end the connection with the longest silence."""
        if self.count < limits.CONTROL_CONNECTIONS_MAX:
            return True
        if not self._scopes:
            return False
        longest, _ = self._scopes.popitem(last=False)
        longest.cancel()
        return True

    @contextmanager
    def waiting(self, scope: trio.CancelScope) -> Iterator[None]:
        """Count the connection with this scope as silent during the block."""
        self._scopes[scope] = None
        try:
            yield
        finally:
            self._scopes.pop(scope, None)


async def serve_control(listening: socket.socket, verbs: Mapping[str, Handler]) -> None:
    """Answer requests until cancelled. The caller keeps ``listening`` and closes it."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening.dup()))
    silent = _Silent()

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            if not silent.make_room():
                return
            silent.count += 1
            try:
                await converse(stream, verbs, silent)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                logger.debug("a control connection broke")
            finally:
                silent.count -= 1

    _ACCEPTING.addFilter(_without_traceback)
    await trio.serve_listeners(serve, [listener])


async def converse(stream: trio.abc.Stream, verbs: Mapping[str, Handler], silent: _Silent | None = None) -> None:
    """Answer the requests of one connection, line by line. A long silence or an overlong line ends the connection."""
    silent = silent or _Silent()
    received = bytearray()
    while True:
        with trio.move_on_after(limits.CONTROL_TIMEOUT_S) as patience, silent.waiting(patience):
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
        # A handler may take longer than the time limit, for example to discard a part of a slow disk.
        made = await answer(bytes(line), verbs) + b"\n"
        with trio.move_on_after(limits.CONTROL_TIMEOUT_S):
            await stream.send_all(made)


async def answer(line: bytes, verbs: Mapping[str, Handler]) -> bytes:
    """Return the answer to one request, as a line without its end."""
    try:
        made = await _handle(line, verbs)
    except RefusedError as error:
        made = {"error": str(error)}
    except Exception:
        # A bug in a verb's handler must not end the I/O of a node.
        logger.exception("a control request failed")
        made = {"error": "the request failed; see the log of the process for the reason"}
    encoded = await _encode(made)
    if len(encoded) > limits.STATUS_MAX_BYTES:
        return json.dumps({"error": f"the answer is larger than {limits.STATUS_MAX_BYTES} bytes"}).encode()
    return encoded


async def _handle(line: bytes, verbs: Mapping[str, Handler]) -> Answer:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise RefusedError("not a JSON object") from None
    verb = request.get("verb") if isinstance(request, dict) else None
    if not isinstance(verb, str) or verb not in verbs:
        raise RefusedError(f"unknown verb {describe(verb)}, expected one of {', '.join(verbs)}")
    return await verbs[verb](request)


async def _encode(made: Answer) -> bytes:
    parts: list[str] = []
    for key, value in made.items():
        if not isinstance(value, list):
            parts.append(f"{json.dumps(key)}: {json.dumps(value)}")
            continue
        items = []
        for item in value:
            items.append(json.dumps(item))
            await trio.lowlevel.checkpoint()
        parts.append(f"{json.dumps(key)}: [{', '.join(items)}]")
    return f"{{{', '.join(parts)}}}".encode()

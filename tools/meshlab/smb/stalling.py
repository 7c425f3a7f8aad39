"""Relay connections and hold back their bytes, to make channels that stall, die late, or send after they were given up.

    initiator <-> Relay <-> exporter

After ``hold``, the relay keeps all bytes that it receives, and the ends of streams. Each side then sees only silence,
even if the other side has closed its connection. ``release`` sends the kept bytes in order, and then relays again.
``cut`` drops the kept bytes and closes both connections. All methods must be called in trio's thread.
"""

import socket
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from meshfs.transport.base import Transport
from meshfs.transport.stream import StreamTransport
from meshlab.smb.stir import Stir

_RECEIVE_BYTES = 1 << 18
#: If more bytes than this wait to be sent in one direction, the relay stops receiving there. Held bytes have no limit.
_PASSING_MAX_BYTES = 1 << 22

#: Makes the relay's connection to the exporter. Raises OSError if that fails.
Connect = Callable[[], Awaitable[trio.SocketStream]]


class Relays:
    """Makes the relays of one path, and runs them in ``nursery``. ``dial`` can be a dialer of `FixedWays`."""

    def __init__(self, connect: Connect, nursery: trio.Nursery) -> None:
        #: The relays that still have an open end.
        self.alive: list[Relay] = []
        #: While this is True, `dial` raises ConnectionRefusedError.
        self.refusing = False
        self._connect = connect
        self._nursery = nursery

    async def dial(self) -> Transport:
        if self.refusing:
            raise ConnectionRefusedError(111, "Connection refused")
        outside = await self._connect()
        # No await may follow. Otherwise a cancellation there would leave the sockets open.
        ours, inside = socket.socketpair()
        relay = Relay(trio.SocketStream(trio.socket.from_stdlib_socket(inside)), outside)
        self.alive.append(relay)
        self._nursery.start_soon(self._run, relay)
        return StreamTransport(ours)

    async def _run(self, relay: "Relay") -> None:
        try:
            await relay.run()
        finally:
            self.alive.remove(relay)


class Relay:
    """Relays one connection."""

    def __init__(self, initiator: trio.SocketStream, exporter: trio.SocketStream) -> None:
        self.requests = Direction(initiator, exporter)
        self.replies = Direction(exporter, initiator)
        self._streams = (initiator, exporter)
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Relay until both directions have ended, or until `cut`. Then close both connections."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for direction in (self.requests, self.replies):
                        nursery.start_soon(direction.receive)
                        nursery.start_soon(direction.send)
        finally:
            for stream in self._streams:
                stream.socket.close()

    def hold(self, *, requests: bool = True, replies: bool = True) -> None:
        self.requests.held |= requests
        self.replies.held |= replies

    def release(self) -> None:
        self.requests.release()
        self.replies.release()

    def cut(self) -> None:
        self._scope.cancel()


class Direction:
    """Relays one direction of a connection. An empty piece in ``_pieces`` stands for the end of the stream."""

    def __init__(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        self.held = False
        self._source = source
        self._sink = sink
        self._pieces: deque[bytes] = deque()
        self._bytes = 0
        self._stir = Stir()

    @property
    def held_bytes(self) -> int:
        return self._bytes if self.held else 0

    def release(self) -> None:
        self.held = False
        self._stir.stir()

    async def receive(self) -> None:
        data = b"?"
        while data:
            while self._bytes > _PASSING_MAX_BYTES and not self.held:
                await self._stir.wait()
            try:
                data = await self._source.receive_some(_RECEIVE_BYTES)
            except trio.BrokenResourceError:
                data = b""
            self._pieces.append(data)
            self._bytes += len(data)
            self._stir.stir()

    async def send(self) -> None:
        while True:
            while self.held or not self._pieces:
                await self._stir.wait()
            piece = self._pieces.popleft()
            self._bytes -= len(piece)
            self._stir.stir()
            # A closed sink accepts nothing, so drop the piece. The opposite direction relays the end of the stream.
            with suppress(trio.BrokenResourceError):
                if not piece:
                    await self._sink.send_eof()
                    return
                await self._sink.send_all(piece)

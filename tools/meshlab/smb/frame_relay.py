"""One connection that the proxy relays: its frames pass whole and in order, until a test or a hold freezes it.

On a frozen connection nothing passes in either direction, not even the end of the stream. Both TCP connections stay up
and acknowledge all data, and the exporter's answers are still recorded.
"""

import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol, TypeVar

import trio

from meshfs.smb.constants import NtStatus
from meshlab.smb.damage import Damages
from meshlab.smb.frames import FrameSplitter, messages
from meshlab.smb.stir import Stir

WAIT_S: Final = 10.0
RECEIVE_BYTES: Final = 256 * 1024
# If more bytes than this wait to be sent to one end, the relay stops receiving from the other.
_OUTBOX_MAX_BYTES: Final = 1024 * 1024
# SO_LINGER on, 0 seconds: close sends RST.
_ABORT: Final = struct.pack("ii", 1, 0)

Result = TypeVar("Result")


class Unanswered(Exception):
    """The exporter did not answer the released requests: its connection is gone, or the wait timed out."""


class RelayOwner(Protocol):
    """Declares the part of a proxy that its relays use."""

    @property
    def damages(self) -> Damages: ...

    def call(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Run the function in the thread of the relays, and return its result."""

    def caught(self, relay: "FrameRelay", frame: bytes) -> bool:
        """Return whether a hold waits for one of the frame's messages; if so, freeze the relay."""


class FrameRelay:
    """Relays one connection of an initiator to a connection to the exporter. Tests call the public methods."""

    def __init__(self, owner: RelayOwner, initiator: trio.socket.SocketType, exporter: trio.socket.SocketType) -> None:
        self._owner = owner
        #: The initiator's address and port, as the proxy sees them.
        self.remote: tuple[str, int] = initiator.getpeername()[:2]
        self.frozen = False
        self._sockets = (initiator, exporter)
        self._answers: dict[int, int] = {}
        self._heard = threading.Condition()
        for stream in self._sockets:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._requests = _Direction(self, initiator, exporter, self._look_at_request, is_reply=False)
        self._replies = _Direction(self, exporter, initiator, self._look_at_reply, is_reply=True)

    @property
    def initiator_gone(self) -> bool:
        """Return whether the initiator has closed or reset its connection."""
        return self._requests.ended

    @property
    def exporter_gone(self) -> bool:
        return self._replies.ended

    def freeze(self) -> None:
        """Let nothing pass from now on."""
        self._owner.call(self.stop_passing)

    def thaw(self) -> None:
        """Pass the held frames in order, then an end of the stream that came meanwhile, and pass all frames again."""
        self._owner.call(self._pass_again)

    def cut(self) -> None:
        """Send RST to both ends."""
        self._owner.call(self._abort)

    def held(self) -> bytes:
        """Return the bytes that the initiator sent since the freeze and that were not released."""
        return self._owner.call(lambda: b"".join(self._requests.kept))

    def release(self) -> None:
        """Send the held requests to the exporter; the relay stays frozen. Raises Unanswered if the exporter is gone."""
        if self.exporter_gone:
            raise Unanswered("the exporter's connection is gone")
        self._owner.call(self._requests.pass_kept)

    def status(self, message_id: int, timeout_s: float = WAIT_S) -> int:
        """Return the final status of the reply to a message, received since the freeze, or raise Unanswered."""

        def settled() -> bool:
            return message_id in self._answers or self.exporter_gone

        with self._heard:
            self._heard.wait_for(settled, timeout_s)
            if message_id in self._answers:
                return self._answers[message_id]
        raise Unanswered("the exporter's connection is gone" if self.exporter_gone else f"not within {timeout_s:g} s")

    # --- in the proxy's thread

    async def run(self) -> None:
        """Relay until both directions have ended. If cancelled, send RST to both ends."""
        whole = False
        try:
            async with trio.open_nursery() as nursery:
                for direction in (self._requests, self._replies):
                    nursery.start_soon(direction.receive)
                    nursery.start_soon(direction.send)
            whole = True
        finally:
            for stream in self._sockets:
                stream.close() if whole else abort(stream)

    def damaged(self, frame: bytes, is_reply: bool) -> bytes:
        return self._owner.damages.passing(frame, is_reply)

    def stop_passing(self) -> None:
        self.frozen = True

    def _pass_again(self) -> None:
        self.frozen = False
        for direction in (self._requests, self._replies):
            direction.pass_kept()
            if direction.ended:
                direction.finish()

    def _abort(self) -> None:
        for stream in self._sockets:
            abort(stream)
        for direction in (self._requests, self._replies):
            direction.finish()

    def _look_at_request(self, frame: bytes) -> None:
        if not self.frozen:
            self._owner.caught(self, frame)

    def _look_at_reply(self, frame: bytes) -> None:
        with self._heard:
            for answer in messages(frame) if self.frozen else ():
                if answer.status != NtStatus.PENDING:
                    self._answers[answer.message_id] = answer.status
            self._heard.notify_all()


class _Direction:
    """Relays one direction: it receives frames, shows each to `look`, and sends or keeps the frame."""

    def __init__(
        self,
        relay: FrameRelay,
        source: trio.socket.SocketType,
        sink: trio.socket.SocketType,
        look: Callable[[bytes], None],
        *,
        is_reply: bool,
    ) -> None:
        self._relay = relay
        self._is_reply = is_reply
        self._source = source
        self._sink = sink
        self._look = look
        #: Frames held back, in order.
        self.kept: deque[bytes] = deque()
        self.ended = False
        self._reset = False
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        #: Tells whether the end of the stream follows the outbox.
        self._closing = False
        self._stir = Stir()

    async def receive(self) -> None:
        splitter = FrameSplitter()
        try:
            while data := await self._source.recv(RECEIVE_BYTES):
                for frame in splitter.feed(data):
                    self._take(frame)
                while self._outbox_bytes > _OUTBOX_MAX_BYTES:
                    await self._stir.wait()
        except (OSError, trio.ClosedResourceError):
            self._reset = True
        if splitter.rest:
            self._take(splitter.rest)
        self.ended = True
        self._look(b"")
        if not self._relay.frozen:
            self.finish()

    async def send(self) -> None:
        """Send the outbox. Drop bytes that the receiver no longer accepts; the other direction sees the end."""
        while self._outbox or not self._closing:
            if not self._outbox:
                await self._stir.wait()
                continue
            data = memoryview(self._outbox.popleft())
            self._outbox_bytes -= len(data)
            with suppress(OSError, trio.ClosedResourceError):
                while data:
                    data = data[await self._sink.send(data) :]
            self._stir.stir()
        if self._reset:
            abort(self._sink)
        else:
            with suppress(OSError):
                self._sink.shutdown(socket.SHUT_WR)

    def pass_kept(self) -> None:
        while self.kept:
            self._put(self.kept.popleft())

    def finish(self) -> None:
        """Send the end of the stream after the outbox."""
        self._closing = True
        self._stir.stir()

    def _take(self, frame: bytes) -> None:
        self._look(frame)
        frame = self._relay.damaged(frame, self._is_reply)
        if self._relay.frozen:
            self.kept.append(frame)
        else:
            self._put(frame)

    def _put(self, frame: bytes) -> None:
        self._outbox.append(frame)
        self._outbox_bytes += len(frame)
        self._stir.stir()


def abort(stream: trio.socket.SocketType) -> None:
    """Close with an RST."""
    with suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    stream.close()

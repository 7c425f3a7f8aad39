"""A TCP proxy between initiators and an exporter, which makes a channel die while requests are in transit.

    with Network() as network:
        n1, n2 = network.host("n1", lans=2), network.host("n2", lans=2)
        with Proxy.before(n1.nics[0], port=4450) as proxy:      # no node's config needs to change
            hold = proxy.hold(Message.is_write)
            ...                                                 # n2 writes; the WRITE goes over eth0
            held = hold.wait()                                  # that channel is dead from here on
            ...                                                 # n2 writes again over eth1
            held.release()
            assert held.status() == NtStatus.FILE_NOT_AVAILABLE

The proxy passes the frames of a connection whole and in order, in both directions. It changes only the frames that
``damages`` asks for (damage.py). A connection is frozen by `freeze`, or by a request that a hold waits for; that
request is the first frame that does not pass. On a frozen connection nothing passes in either direction, not even the
end of the stream. Both TCP connections stay up and acknowledge all data. The proxy still records the exporter's
answers.

The proxy runs in its own thread, so it serves real processes while the test blocks.
"""

import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self, TypeAlias, TypeVar

import trio

from meshfs.smb.constants import NtStatus
from meshlab.cluster.network import Nic
from meshlab.smb.damage import Damages
from meshlab.smb.frames import FrameSplitter, Message, messages

WAIT_S: Final = 10.0
_RECEIVE_BYTES: Final = 256 * 1024
# If more bytes than this wait to be sent to one end, the proxy stops receiving from the other.
_OUTBOX_MAX_BYTES: Final = 1024 * 1024
# SO_LINGER on, 0 seconds: close sends RST.
_ABORT: Final = struct.pack("ii", 1, 0)

Result = TypeVar("Result")
Wanted: TypeAlias = Callable[[Message], bool]
Connect: TypeAlias = Callable[[], socket.socket]


class Unanswered(Exception):
    """The exporter did not answer the released requests: its connection is gone, or the wait timed out."""


class ProxyClosed(Exception):
    """A call came to a proxy that no longer runs."""


class Proxy:
    """The proxy of one listening socket, with all connections that it accepted."""

    def __init__(self, listening: socket.socket, connect: Connect) -> None:
        """Serve the socket, which the proxy then owns; `connect` makes a connection to the exporter."""
        self.connect = connect
        #: All relays, also ended ones, in the order in which their connections to the exporter were made.
        self.relays: list[Relay] = []
        self.port = int(listening.getsockname()[1])
        self._holds: list[Hold] = []
        #: The changes to make to passing frames.
        self.damages = Damages()
        self._cancel = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken | None = None
        self._failure: BaseException | None = None
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listening, started), name="proxy", daemon=True)
        self._thread.start()
        started.wait()

    @classmethod
    def at(cls, address: str, port: int, to: tuple[str, int]) -> Self:
        """Listen at this address and port (0: any port, see `port`) of this machine, and connect to ``to``."""
        return cls(socket.create_server((address, port)), lambda: socket.create_connection(to, WAIT_S))

    @classmethod
    def before(cls, nic: Nic, port: int) -> Self:
        """Stand between an exporter's interface and its LAN, under the interface's own address (Nic.interpose).

        The other nodes need no other config. To the exporter, all connections come from one address. Faults of this
        nic then occur between proxy and exporter, and faults of other nodes' nics between initiator and proxy.
        """
        front, back = nic.interpose()
        with front.entered():
            listening = socket.create_server((nic.address, port), family=nic.family)

        def connect() -> socket.socket:
            with back.entered():
                stream = socket.socket(nic.family)
            try:
                stream.settimeout(WAIT_S)
                stream.connect((nic.address, port))
            except BaseException:
                stream.close()
                raise
            return stream

        return cls(listening, connect)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cut every connection and stop listening. Raises the exception that ended the proxy's thread, if any."""
        with suppress(ProxyClosed):
            self.call(self._cancel.cancel)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def hold(self, wanted: Wanted) -> "Hold":
        """Freeze the connection of the next request that is `wanted`, before that request passes. Works once."""
        hold = Hold(wanted)
        self.call(self._holds.append, hold)
        return hold

    def call(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Run the function in the proxy's thread, which alone may touch the proxy's state. Return its result."""
        assert self._token is not None
        try:
            return trio.from_thread.run_sync(function, *arguments, trio_token=self._token)
        except trio.RunFinishedError:
            raise ProxyClosed from self._failure

    # --- in the proxy's thread

    def caught(self, relay: "Relay", frame: bytes) -> bool:
        """Return whether a hold waits for one of the frame's messages; if so, freeze the relay."""
        for message in messages(frame) if self._holds else ():
            for hold in self._holds:
                if hold.wanted(message):
                    self._holds.remove(hold)
                    relay.stop_passing()
                    hold.catch(Held(relay, message))
                    return True
        return False

    def _run(self, listening: socket.socket, started: threading.Event) -> None:
        try:
            trio.run(self._serve, listening, started)
        except BaseException as error:
            self._failure = error
        finally:
            listening.close()
            started.set()

    async def _serve(self, listening: socket.socket, started: threading.Event) -> None:
        self._token = trio.lowlevel.current_trio_token()
        accepting = trio.socket.from_stdlib_socket(listening)
        with self._cancel:
            async with trio.open_nursery() as nursery:
                started.set()
                while True:
                    initiator, _ = await accepting.accept()
                    nursery.start_soon(self._relay, initiator)

    async def _relay(self, initiator: trio.socket.SocketType) -> None:
        try:
            exporter = await trio.to_thread.run_sync(self.connect)
        except OSError:
            # The exporter's own machine would also send RST while no process listens.
            _abort(initiator)
            return
        relay = Relay(self, initiator, trio.socket.from_stdlib_socket(exporter))
        self.relays.append(relay)
        await relay.run()


class Hold:
    """Waits for one request that the proxy is to hold."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self._came = threading.Event()
        self._held: Held | None = None

    def catch(self, held: "Held") -> None:
        self._held = held
        self._came.set()

    def wait(self, timeout_s: float = WAIT_S) -> "Held":
        """Wait for the request, and return it. Raises TimeoutError when no such request came in time."""
        if not self._came.wait(timeout_s):
            raise TimeoutError(f"no request to hold came within {timeout_s:g} s")
        assert self._held is not None
        return self._held


class Held:
    """A request that did not pass, on a connection that is frozen from this request on."""

    def __init__(self, relay: "Relay", message: Message) -> None:
        self.relay = relay
        #: The wanted message. Its frame and all later frames are held.
        self.message = message

    def release(self) -> None:
        """Send all held frames to the exporter, unchanged, on the frozen connection.

        The replies don't pass to the initiator. Raises Unanswered when the connection to the exporter is gone.
        """
        self.relay.release()

    def status(self, timeout_s: float = WAIT_S) -> int:
        """Return the status of the exporter's final answer to the message, after `release`, or raise Unanswered."""
        return self.relay.status(self.message.message_id, timeout_s)

    def release_anew(self, timeout_s: float = WAIT_S) -> int:
        """Send all held frames over a new connection, as after a restart. Return the status, or raise Unanswered."""
        deadline = time.monotonic() + timeout_s
        splitter = FrameSplitter()
        try:
            with self.relay.proxy.connect() as stream:
                stream.sendall(self.relay.held())
                while True:
                    stream.settimeout(max(0.001, deadline - time.monotonic()))
                    data = stream.recv(_RECEIVE_BYTES)
                    if not data:
                        raise Unanswered("the exporter closed the new connection")
                    for answer in [each for frame in splitter.feed(data) for each in messages(frame)]:
                        if answer.message_id == self.message.message_id and answer.status != NtStatus.PENDING:
                            return answer.status
        except OSError as error:
            raise Unanswered(f"the new connection: {error}") from error


class Relay:
    """One connection of an initiator, and the proxy's connection to the exporter that belongs to it."""

    def __init__(self, proxy: Proxy, initiator: trio.socket.SocketType, exporter: trio.socket.SocketType) -> None:
        self.proxy = proxy
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
        self.proxy.call(self.stop_passing)

    def thaw(self) -> None:
        """Pass the held frames in order, then an end of the stream that came meanwhile, and pass all frames again."""
        self.proxy.call(self._pass_again)

    def cut(self) -> None:
        """Send RST to both ends."""
        self.proxy.call(self._abort)

    def held(self) -> bytes:
        """Return the bytes that the initiator sent since the freeze and that were not released."""
        return self.proxy.call(lambda: b"".join(self._requests.kept))

    def release(self) -> None:
        """Send the held requests to the exporter; the relay stays frozen. Raises Unanswered if the exporter is gone."""
        if self.exporter_gone:
            raise Unanswered("the exporter's connection is gone")
        self.proxy.call(self._requests.pass_kept)

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
                stream.close() if whole else _abort(stream)

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
            _abort(stream)
        for direction in (self._requests, self._replies):
            direction.finish()

    def _look_at_request(self, frame: bytes) -> None:
        if not self.frozen:
            self.proxy.caught(self, frame)

    def _look_at_reply(self, frame: bytes) -> None:
        with self._heard:
            for answer in messages(frame) if self.frozen else ():
                if answer.status != NtStatus.PENDING:
                    self._answers[answer.message_id] = answer.status
            self._heard.notify_all()


class _Direction:
    """One direction of a relay: it receives frames, shows each to `look`, and sends or keeps it."""

    def __init__(
        self,
        relay: Relay,
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
        #: Set when the end of the stream is to follow the outbox.
        self._closing = False
        self._stirred = trio.Event()

    async def receive(self) -> None:
        splitter = FrameSplitter()
        try:
            while data := await self._source.recv(_RECEIVE_BYTES):
                for frame in splitter.feed(data):
                    self._take(frame)
                while self._outbox_bytes > _OUTBOX_MAX_BYTES:
                    await self._stirring()
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
                await self._stirring()
                continue
            data = memoryview(self._outbox.popleft())
            self._outbox_bytes -= len(data)
            with suppress(OSError, trio.ClosedResourceError):
                while data:
                    data = data[await self._sink.send(data) :]
            self._stir()
        if self._reset:
            _abort(self._sink)
        else:
            with suppress(OSError):
                self._sink.shutdown(socket.SHUT_WR)

    def pass_kept(self) -> None:
        while self.kept:
            self._put(self.kept.popleft())

    def finish(self) -> None:
        """Send the end of the stream after the outbox."""
        self._closing = True
        self._stir()

    def _take(self, frame: bytes) -> None:
        self._look(frame)
        frame = self._relay.proxy.damages.passing(frame, self._is_reply)
        if self._relay.frozen:
            self.kept.append(frame)
        else:
            self._put(frame)

    def _put(self, frame: bytes) -> None:
        self._outbox.append(frame)
        self._outbox_bytes += len(frame)
        self._stir()

    def _stir(self) -> None:
        stirred, self._stirred = self._stirred, trio.Event()
        stirred.set()

    async def _stirring(self) -> None:
        await self._stirred.wait()


def _abort(stream: trio.socket.SocketType) -> None:
    """Close with an RST."""
    with suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
    stream.close()

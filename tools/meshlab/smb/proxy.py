"""Between initiators and an exporter: a TCP proxy that makes a channel die with requests on the way.

    with Network() as network:
        n1, n2 = network.host("n1", lans=2), network.host("n2", lans=2)
        with Proxy.before(n1.nics[0], port=4450) as proxy:      # nobody's config knows of it
            hold = proxy.hold(Message.is_write)
            ...                                                 # n2 writes; the WRITE went by eth0
            held = hold.wait()                                  # that channel is dead from here on
            ...                                                 # n2 writes again by eth1
            held.release()
            assert held.status() == NtStatus.FILE_NOT_AVAILABLE

Frames of a connection pass whole and in order, both ways, unchanged unless ``damages`` wants one (damage.py),
until it is frozen: by `freeze`, or by a request that a hold waits for, which is the first that does not pass. Of a
frozen connection nothing passes, in either direction, neither bytes nor its end; both ends of TCP stay up and
acknowledge all. What the exporter answers is taken note of all the same.

A thread of its own runs it, so it serves real processes beside a test that waits for something.
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
# What one end does not take yet; with more, nothing is received from the other.
_OUTBOX_MAX_BYTES: Final = 1024 * 1024
# SO_LINGER on, 0 seconds: close sends RST.
_ABORT: Final = struct.pack("ii", 1, 0)

Result = TypeVar("Result")
Wanted: TypeAlias = Callable[[Message], bool]
Connect: TypeAlias = Callable[[], socket.socket]


class Unanswered(Exception):
    """The exporter said nothing to what was released: its connection is gone, or it took too long."""


class ProxyClosed(Exception):
    """Something was asked of a proxy that does not run any more."""


class Proxy:
    """Everything that was accepted at one listening socket."""

    def __init__(self, listening: socket.socket, connect: Connect) -> None:
        """Serve at the socket, which becomes the proxy's; `connect` makes a connection to the exporter."""
        self.connect = connect
        #: In the order in which their connections to the exporter were made, those that ended included.
        self.relays: list[Relay] = []
        self.port = int(listening.getsockname()[1])
        self._holds: list[Hold] = []
        #: What is changed on its way.
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
        """Listen here (port 0: any, see `port`) and connect to there, on this machine."""
        return cls(socket.create_server((address, port)), lambda: socket.create_connection(to, WAIT_S))

    @classmethod
    def before(cls, nic: Nic, port: int) -> Self:
        """Between an exporter's interface and its LAN, under the interface's own address (Nic.interpose).

        The other nodes need no other config. The exporter sees all connections come from one address.
        Faults of the nic itself are from now on behind the proxy, those of the others' before it.
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
        """Cut every connection and stop listening. Raises what went wrong in the proxy itself."""
        with suppress(ProxyClosed):
            self.call(self._cancel.cancel)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def hold(self, wanted: Wanted) -> "Hold":
        """Freeze the connection on which the next request that is wanted comes, before it passes. Once."""
        hold = Hold(wanted)
        self.call(self._holds.append, hold)
        return hold

    def call(self, function: Callable[..., Result], *arguments: object) -> Result:
        """What it returns, run between two events of the proxy, whose state nobody else touches."""
        assert self._token is not None
        try:
            return trio.from_thread.run_sync(function, *arguments, trio_token=self._token)
        except trio.RunFinishedError:
            raise ProxyClosed from self._failure

    # --- in the proxy's thread

    def caught(self, relay: "Relay", frame: bytes) -> bool:
        """Whether a hold waited for one of the frame's messages."""
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
            # As the exporter's own machine would have it while nobody listens.
            _abort(initiator)
            return
        relay = Relay(self, initiator, trio.socket.from_stdlib_socket(exporter))
        self.relays.append(relay)
        await relay.run()


class Hold:
    """Waits for one request."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self._came = threading.Event()
        self._held: Held | None = None

    def catch(self, held: "Held") -> None:
        self._held = held
        self._came.set()

    def wait(self, timeout_s: float = WAIT_S) -> "Held":
        """What was held. Raises TimeoutError when nothing such came."""
        if not self._came.wait(timeout_s):
            raise TimeoutError(f"no request to hold came within {timeout_s:g} s")
        assert self._held is not None
        return self._held


class Held:
    """A request that did not pass, on a connection that is frozen from there on."""

    def __init__(self, relay: "Relay", message: Message) -> None:
        self.relay = relay
        #: The one that was wanted; its frame and all that came behind it are held.
        self.message = message

    def release(self) -> None:
        """Send the exporter all that is held, on its own connection, as it came; the initiator hears nothing of it.

        Raises Unanswered when that connection is gone.
        """
        self.relay.release()

    def status(self, timeout_s: float = WAIT_S) -> int:
        """The exporter's final answer to the message, after `release`. Raises Unanswered when there is none."""
        return self.relay.status(self.message.message_id, timeout_s)

    def release_anew(self, timeout_s: float = WAIT_S) -> int:
        """Send all that is held over a new connection, as after a restart, and return the answer; else Unanswered."""
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
    """One connection of an initiator and the exporter's that goes with it."""

    def __init__(self, proxy: Proxy, initiator: trio.socket.SocketType, exporter: trio.socket.SocketType) -> None:
        self.proxy = proxy
        #: The initiator's end, as the proxy sees it.
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
        """It closed its connection, or reset it."""
        return self._requests.ended

    @property
    def exporter_gone(self) -> bool:
        return self._replies.ended

    def freeze(self) -> None:
        """Nothing passes any more."""
        self.proxy.call(self.stop_passing)

    def thaw(self) -> None:
        """What was held passes, in order, then an end that came meanwhile, and all goes on."""
        self.proxy.call(self._pass_again)

    def cut(self) -> None:
        """RST to both ends."""
        self.proxy.call(self._abort)

    def held(self) -> bytes:
        """What the initiator sent since the freeze, and was not released."""
        return self.proxy.call(lambda: b"".join(self._requests.kept))

    def release(self) -> None:
        """Send the exporter what the initiator sent since the freeze; still frozen. Raises Unanswered without one."""
        if self.exporter_gone:
            raise Unanswered("the exporter's connection is gone")
        self.proxy.call(self._requests.pass_kept)

    def status(self, message_id: int, timeout_s: float = WAIT_S) -> int:
        """The final status of the exporter's reply that came for a message since the freeze, or Unanswered."""

        def settled() -> bool:
            return message_id in self._answers or self.exporter_gone

        with self._heard:
            self._heard.wait_for(settled, timeout_s)
            if message_id in self._answers:
                return self._answers[message_id]
        raise Unanswered("the exporter's connection is gone" if self.exporter_gone else f"not within {timeout_s:g} s")

    # --- in the proxy's thread

    async def run(self) -> None:
        """Until both directions ended; with a cancellation both ends get an RST."""
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
    """One way of a relay: frames are received, looked at, and sent or kept."""

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
        #: Held back, in order.
        self.kept: deque[bytes] = deque()
        self.ended = False
        self._reset = False
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        #: The last of the outbox is the end of the stream.
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
        """What a receiver does not take any more is dropped; that it is gone is seen by the other direction."""
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
        """After what waits to be sent comes the end."""
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

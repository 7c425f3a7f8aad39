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
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

import trio

from meshlab.cluster.network import Nic
from meshlab.smb.damage import Damages
from meshlab.smb.frame_relay import WAIT_S, FrameRelay, abort
from meshlab.smb.frames import messages
from meshlab.smb.holds import Connect, Held, Hold, Wanted

Result = TypeVar("Result")


class ProxyClosed(Exception):
    """A call came to a proxy that no longer runs."""


class Proxy:
    """Serves one listening socket, and relays all connections that it accepts."""

    def __init__(self, listening: socket.socket, connect: Connect) -> None:
        """Serve the socket, which the proxy then owns; `connect` makes a connection to the exporter."""
        self.connect = connect
        #: All relays, also ended ones, in the order in which their connections to the exporter were made.
        self.relays: list[FrameRelay] = []
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

    def hold(self, wanted: Wanted) -> Hold:
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

    def caught(self, relay: FrameRelay, frame: bytes) -> bool:
        """Return whether a hold waits for one of the frame's messages; if so, freeze the relay."""
        for message in messages(frame) if self._holds else ():
            for hold in self._holds:
                if hold.wanted(message):
                    self._holds.remove(hold)
                    relay.stop_passing()
                    hold.catch(Held(relay, message, self.connect))
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
            abort(initiator)
            return
        relay = FrameRelay(self, initiator, trio.socket.from_stdlib_socket(exporter))
        self.relays.append(relay)
        await relay.run()

"""Carries the transport over raw non-blocking stream sockets, TCP and Unix.

The reactor watches for their readiness. Streams of trio would cost a lock, a checkpoint and a copy for each message.
"""

import array
import errno
import fcntl
import functools
import os
import socket
import termios
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import trio

from meshfs import limits
from meshfs.buffers import BufferPool
from meshfs.endpoint import format_endpoint
from meshfs.loop import reactor
from meshfs.transport.base import Inlet, Memory, OutQueue
from meshfs.transport.inlet import StreamInlet
from meshfs.transport.out_queue import StreamOutQueue

# With these options root may exceed the system's maximum (socket(7)). Python has no names for them.
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33


class StreamTransport:
    """Carries one connection over a connected stream socket. The transport owns the socket and closes it.

    Nothing is watched after the close, when the kernel may give the descriptor's number to another connection.

    ``remote`` describes the peer. Without it the socket is asked, which fails (OSError) if the peer is gone already.
    ``enlarge`` is that of `tune`.
    """

    def __init__(self, sock: socket.socket, *, remote: str = "", enlarge: bool = True) -> None:
        sock.setblocking(False)
        tune(sock, enlarge=enlarge)
        self._sock = sock
        self._reactor = reactor.current()
        self.fd = sock.fileno()
        self.kind = "unix" if sock.family == socket.AF_UNIX else "tcp"
        self.local = address_text(sock.getsockname())
        self.remote = remote or address_text(sock.getpeername())
        self.send: Callable[[Sequence[Memory]], int] = sock.sendmsg
        self.receive_into: Callable[[memoryview], int] = sock.recv_into
        self.expect: Callable[[int], None] = LowWater(sock).expect
        self.pending: Callable[[], int] = functools.partial(pending_bytes, self.fd)

    def inlet(self, pool: BufferPool, payload_offset: int, frame_max_bytes: int) -> Inlet:
        return StreamInlet(self, pool, payload_offset, frame_max_bytes)

    def out_queue(self) -> OutQueue:
        return StreamOutQueue(self)

    def watch(self, callback: Callable[[], None], on_failure: Callable[[Exception], None]) -> None:
        if self._sock.fileno() >= 0:
            self._reactor.add(self.fd, callback, on_failure=on_failure)

    def unwatch(self) -> None:
        if self._sock.fileno() >= 0:
            self._reactor.remove(self.fd)

    def when_writable(self, callback: Callable[[], None]) -> None:
        """Do what `meshfs.transport.byte_stream.ByteStream.when_writable` says."""
        if self._sock.fileno() >= 0:
            self._reactor.when_writable(self.fd, callback)

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._reactor.forget(self.fd)
            self._sock.close()


def pending_bytes(fd: int) -> int:
    """Return how many bytes are in the socket's receive queue (FIONREAD, ioctl_tty(2))."""
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


class LowWater:
    """Makes a TCP socket readable only when much of a large message has arrived (SO_RCVLOWAT, socket(7)).

    A large message arrives in many pieces, and waking up for a piece costs more than copying it. The mark is never
    above the bytes that the message still needs, because with a higher mark its end would not wake the receiver.
    """

    __slots__ = ("_mark", "_set")

    def __init__(self, sock: socket.socket) -> None:
        self._mark = 1
        self._set = sock.setsockopt if sock.family != socket.AF_UNIX else None

    def expect(self, missing_bytes: int) -> None:
        """Set the mark for a message that still needs ``missing_bytes``. With 0, any byte makes the socket readable."""
        mark = min(missing_bytes, limits.LOW_WATER_MAX_BYTES) or 1
        if mark != self._mark and self._set is not None:
            self._mark = mark
            self._set(socket.SOL_SOCKET, socket.SO_RCVLOWAT, mark)


async def connect_tcp(address: str, port: int, local: str = "", device: str = "") -> StreamTransport:
    """Connect to an IPv4 or IPv6 address. Raises OSError if connecting fails or takes longer than CONNECT_TIMEOUT_S.

    ``local`` is the address to connect from. ``device`` is the interface to use, whatever the routes say. If two
    interfaces are in the same network, the routes would send the connections of both through the first one.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def prepare(sock: socket.socket) -> None:
        if device:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        if local:
            sock.bind((local, 0))

    return await _connect(family, (address, port), prepare)


async def connect_unix(path: Path) -> StreamTransport:
    """Connect to a Unix socket. Raises OSError if connecting fails or takes longer than CONNECT_TIMEOUT_S."""
    return await _connect(socket.AF_UNIX, os.fspath(path), lambda sock: None)


async def _connect(
    family: socket.AddressFamily, address: tuple[str, int] | str, prepare: Callable[[socket.socket], None]
) -> StreamTransport:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        prepare(sock)
        with trio.move_on_after(limits.CONNECT_TIMEOUT_S) as scope:
            await _finish_connect(sock, address)
        if scope.cancelled_caught:
            raise TimeoutError(errno.ETIMEDOUT, f"no connection within {limits.CONNECT_TIMEOUT_S:g} s")
        return StreamTransport(sock)
    except BaseException:
        sock.close()
        raise


async def _finish_connect(sock: socket.socket, address: tuple[str, int] | str) -> None:
    """Call connect(2), and wait for its result. Raises OSError."""
    number = sock.connect_ex(address)
    while number == errno.EAGAIN:
        # While the backlog of a Unix socket is full, no readiness can be waited for (connect(2)).
        await trio.sleep(limits.RECONNECT_DELAY_MIN_S)
        number = sock.connect_ex(address)
    if number == errno.EINPROGRESS:
        await trio.lowlevel.wait_writable(sock.fileno())
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))


def tune(sock: socket.socket, *, enlarge: bool = True) -> None:
    """Set the options of a socket.

    A TCP socket sends without delay and finds a dead peer within seconds. Its buffers are left alone: TCP sizes them
    itself, better than a fixed number would (tcp(7)). A Unix socket gets room for large messages if ``enlarge``.
    """
    if sock.family == socket.AF_UNIX:
        if enlarge:
            enlarge_buffers(sock)
        return
    # An accepted socket inherits the mark of its listening socket, which waits for a whole first message.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, limits.TCP_KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, limits.TCP_KEEPALIVE_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, limits.TCP_KEEPALIVE_COUNT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limits.TCP_USER_TIMEOUT_MS)


def enlarge_buffers(sock: socket.socket) -> None:
    """Give a Unix socket room for whole large messages, because it does not size its buffers by itself."""
    for forced, plain in ((_SO_SNDBUFFORCE, socket.SO_SNDBUF), (_SO_RCVBUFFORCE, socket.SO_RCVBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, limits.UNIX_SOCKET_BUFFER_BYTES)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, plain, limits.UNIX_SOCKET_BUFFER_BYTES)


def address_text(address: object) -> str:
    """Return a socket's address as people write it. A Unix socket without a name is "-"."""
    if isinstance(address, tuple):
        return format_endpoint(address[0], address[1])
    text = os.fsdecode(address) if isinstance(address, str | bytes) else str(address)
    return text or "-"

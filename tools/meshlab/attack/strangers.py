"""Attackers without a password: they connect, and occupy the resources that a connection takes.

idle        connections that send nothing, opened again as soon as the exporter closes them
trickle     connections that send their first message a byte at a time
half        connections that send all but the last byte of the largest frame a stranger may send
passwords   logins with a wrong password, one after the other on each connection
unread      ECHO without a session over and over, without receiving the answers
"""

import random
import select
import socket
import struct
from collections.abc import Callable
from typing import Final

from meshfs import limits
from meshfs.smb.constants import Command
from meshfs.smb.messages import EchoRequest
from meshfs.smb.wire import pack_header
from meshlab.attack.base import REFUSALS, Attack, Run
from meshlab.smb.frames import prefix

#: After so many attempts to connect, the attack checks which connections were closed.
_BURST: Final = 64
_CONNECTIONS: Final = 128
_TRICKLE_S: Final = 0.05
_RST: Final = struct.pack("ii", 1, 0)
_CLOSED: Final = select.POLLIN | select.POLLERR | select.POLLHUP | select.POLLRDHUP

#: Returns the bytes to send on a new connection at once, and the bytes to send one at a time afterwards.
Opening = Callable[[random.Random], tuple[bytes, bytes]]


class Crowd:
    """Keeps the wanted number of connections of a stranger, and replaces each closed one at once."""

    def __init__(self, attack: Attack, opening: Opening) -> None:
        self._attack = attack
        self._opening = opening
        self._rng = random.Random(attack.options.seed)
        self._streams: dict[int, socket.socket] = {}
        self._slowly: dict[int, bytes] = {}
        self._poll = select.poll()
        self._sources = attack.options.source.split(",")
        self._dialled = 0

    def run(self) -> None:
        attack, wanted = self._attack, self._attack.options.count or _CONNECTIONS
        while not attack.over:
            for _ in range(min(_BURST, wanted - len(self._streams))):
                with attack.refusals():
                    self._open()
            if len(self._streams) >= wanted or attack.counts["closed by the exporter"]:
                attack.ready()
            attack.counts["held at most"] = max(attack.counts["held at most"], len(self._streams))
            for descriptor, _ in self._poll.poll(1 if len(self._streams) < wanted else 1000 * _TRICKLE_S):
                self._closed(descriptor)
            self._trickle()
        for stream in self._streams.values():
            stream.close()

    def _open(self) -> None:
        source = self._sources[self._dialled % len(self._sources)]
        self._dialled += 1
        stream = self._attack.stream(source)
        self._attack.counts["connections"] += 1
        self._streams[stream.fileno()] = stream
        self._poll.register(stream, _CLOSED)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        stream.setblocking(False)
        at_once, slowly = self._opening(self._rng)
        if slowly:
            self._slowly[stream.fileno()] = slowly
        if at_once:
            try:
                stream.send(at_once)
            except OSError:
                self._closed(stream.fileno())

    def _closed(self, descriptor: int) -> None:
        stream = self._streams.pop(descriptor)
        self._slowly.pop(descriptor, None)
        self._poll.unregister(stream)
        stream.close()
        self._attack.counts["closed by the exporter"] += 1

    def _trickle(self) -> None:
        for descriptor, rest in list(self._slowly.items()):
            try:
                self._streams[descriptor].send(rest[:1])
            except OSError:
                self._closed(descriptor)
            else:
                self._slowly[descriptor] = rest[1:] or rest


def crowd(opening: Opening) -> Run:
    return lambda attack: Crowd(attack, opening).run()


def nothing(rng: random.Random) -> tuple[bytes, bytes]:
    return b"", b""


def first_message_slowly(rng: random.Random) -> tuple[bytes, bytes]:
    frame = prefix(limits.FRAME_MAX_UNAUTHENTICATED_BYTES) + pack_header(Command.NEGOTIATE)
    return frame[:5], frame[5:]


def half_a_frame(rng: random.Random) -> tuple[bytes, bytes]:
    size = limits.FRAME_MAX_UNAUTHENTICATED_BYTES
    return prefix(size) + pack_header(Command.NEGOTIATE) + rng.randbytes(size - 65), b""


def passwords(attack: Attack) -> None:
    """Log in with a node's name and a wrong password. `got in` counts the logins that a broken exporter accepts."""
    while not attack.over:
        with attack.refusals(), attack.dial() as client:
            client.negotiate()
            attack.ready()
            while not attack.over:
                attack.counts["logins"] += 1
                client.session_id = 0
                reply = client.set_up(attack.node, f"no password {attack.counts['logins']}")
                attack.counts["refused" if reply.status else "got in"] += 1


def unread(attack: Attack) -> None:
    """Send ECHOs without a session. The exporter refuses each; the refusals pile up there, as nobody receives them."""
    attack.ready()
    while not attack.over:
        with attack.refusals(), attack.dial(1.0) as client:
            client.negotiate()
            body = EchoRequest().pack()
            while not attack.over:
                _, frame = client.pack(Command.ECHO, body, credits=8, sign=False)
                try:
                    client.deliver(frame)
                except REFUSALS:
                    attack.counts["stalled or closed"] += 1
                    raise
                attack.counts["requests"] += 1


STRANGERS: Final[dict[str, Run]] = {
    "idle": crowd(nothing),
    "trickle": crowd(first_message_slowly),
    "half": crowd(half_a_frame),
    "passwords": passwords,
    "unread": unread,
}

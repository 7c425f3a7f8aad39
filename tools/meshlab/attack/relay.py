"""A relay between an honest session and the exporter, which flips a bit in some of the messages.

The relay listens at ``--source`` (an address of this machine) and the exporter's own port. The honest session has a
config that gives the relay's address as the exporter's. On each connection and in each direction, the relay flips one
bit of one of the first `count` frames after the login. The bit is anywhere after the length prefix: in a header, a
signature or data. The relay prints `flipped` each time.
"""

import random
import selectors
import socket
import threading
from contextlib import closing
from typing import Final

from meshfs import limits
from meshlab.attack.base import Attack, Run
from meshlab.smb.frames import FrameSplitter

_RECEIVE_BYTES: Final = 256 * limits.KIB
#: The first frames of a connection pass unchanged, so that NEGOTIATE and the login succeed and there is a session to
#: attack.
_LOGIN_FRAMES: Final = 6
_FRAMES: Final = 100
_ACCEPT_S: Final = 0.1


def flip(attack: Attack) -> None:
    node = attack.config.node(attack.exporter)
    with socket.create_server((attack.options.source, node.port), backlog=64) as listening:
        listening.settimeout(_ACCEPT_S)
        attack.ready()
        while not attack.over:
            try:
                near, _ = listening.accept()
            except TimeoutError:
                continue
            attack.counts["connections"] += 1
            threading.Thread(target=_relay, args=(attack, near), daemon=True).start()


def _relay(attack: Attack, near: socket.socket) -> None:
    """Pass frames both ways until one end closes, then close the other."""
    with closing(near), closing(attack.stream("")) as far, selectors.DefaultSelector() as selector:
        for here, there in ((near, far), (far, near)):
            here.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            here.settimeout(30)
            selector.register(here, selectors.EVENT_READ, _Way(attack, here, there))
        while not attack.over:
            for key, _ in selector.select(_ACCEPT_S):
                try:
                    if not key.data.passes():
                        return
                except OSError:
                    return


class _Way:
    """Passes the frames of one direction of a connection."""

    def __init__(self, attack: Attack, source: socket.socket, sink: socket.socket) -> None:
        self._attack = attack
        self._source = source
        self._sink = sink
        self._splitter = FrameSplitter()
        self._random = random.Random(f"{attack.options.seed} {attack.counts['connections']}")
        self._frames = 0
        self._victim = _LOGIN_FRAMES + self._random.randrange(attack.options.count or _FRAMES)

    def passes(self) -> bool:
        data = self._source.recv(_RECEIVE_BYTES)
        if not data:
            return False
        frames = [self._changed(frame) for frame in self._splitter.feed(data)]
        if frames:
            self._sink.sendall(b"".join(frames))
        return True

    def _changed(self, frame: bytes) -> bytes:
        self._attack.counts["frames"] += 1
        if self._frames != self._victim:
            self._frames += 1
            return frame
        self._frames += 1
        self._attack.counts["flipped"] += 1
        print("flipped", flush=True)
        changed = bytearray(frame)
        changed[4 + self._random.randrange(len(frame) - 4)] ^= 1 << self._random.randrange(8)
        return bytes(changed)


RELAYS: Final[dict[str, Run]] = {"flip": flip}

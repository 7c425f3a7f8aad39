"""A node that is logged in and makes the exporter keep bytes: replies that are not received, messages without an end.

replies   sends as many READs of 1 MiB as the credits allow, and never receives the replies
halves    sends all but the last byte of the largest WRITE
sips      receives the replies to READs a few bytes at a time
drips     sends a WRITE a few bytes at a time
"""

import socket
from collections.abc import Callable
from typing import Final

from meshfs import limits
from meshfs.smb.constants import AccessMask, Command
from meshfs.smb.credits import charge_for
from meshlab.attack.base import Attack, Run
from meshlab.attack.keeping import Kept, keep
from meshlab.smb.raw_messages import read_body, write_body

_READ: Final = int(AccessMask.READ_DATA)
_READ_WRITE: Final = int(AccessMask.READ_DATA | AccessMask.WRITE_DATA)
_CONNECTIONS: Final = 20
_SIP_BYTES: Final = 512


class Slow(Kept):
    """Logs in one connection of these attacks, and makes the exporter keep bytes for it."""

    def __init__(self, attack: Attack) -> None:
        super().__init__(attack.logged_in(credits=limits.CREDITS_MAX))
        self.attack = attack
        try:
            self.begin()
        except BaseException:
            self.client.socket.close()
            raise

    def begin(self) -> None:
        """Start the attack on this connection; called once, after the login."""

    def ask(self, size_bytes: int) -> None:
        """Send READ requests until the credits are used up or the socket's send buffer is full."""
        opened, credits = self.client.open(self.attack.options.disk, _READ), self.client.granted
        charge = charge_for(size_bytes)
        self.client.socket.setblocking(False)
        while credits >= charge:
            body = read_body(opened, 0, size_bytes)
            _, frame = self.client.pack(Command.READ, body, charge=charge, credits=charge)
            try:
                self.client.socket.send(frame)
            except BlockingIOError:
                return
            credits -= charge
            self.attack.counts["requests"] += 1


class Replies(Slow):
    """Requests data, and never receives the replies."""

    def begin(self) -> None:
        self.ask(limits.MIB)


class Sips(Slow):
    """Receives the replies a few bytes at a time."""

    def begin(self) -> None:
        self.client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.ask(64 * limits.KIB)

    def turn(self) -> None:
        try:
            if not self.client.socket.recv(_SIP_BYTES):
                raise EOFError("the exporter closed the connection")
        except BlockingIOError:
            pass


class Halves(Slow):
    """Sends a WRITE of the largest size without its last byte."""

    def begin(self) -> None:
        self.frame = self._frame()
        self.client.socket.sendall(self.frame[:-1])

    def _frame(self) -> bytes:
        opened = self.client.open(self.attack.options.disk, _READ_WRITE)
        body = write_body(opened, 0, bytes(limits.IO_SIZE_MAX_BYTES))
        return bytes(self.client.pack(Command.WRITE, body, charge=charge_for(limits.IO_SIZE_MAX_BYTES))[1])


class Drips(Halves):
    """Sends a WRITE of the largest size a few bytes at a time."""

    def begin(self) -> None:
        self.frame = self._frame()
        self.sent = 0

    def turn(self) -> None:
        self.sent += self.client.socket.send(self.frame[self.sent : self.sent + _SIP_BYTES])


def several(make: Callable[[Attack], Slow]) -> Run:
    return lambda attack: keep(attack, attack.options.count or _CONNECTIONS, lambda: make(attack))


MEMORY: Final[dict[str, Run]] = {
    "replies": several(Replies),
    "halves": several(Halves),
    "sips": several(Sips),
    "drips": several(Drips),
}

"""A node that is logged in and makes the exporter keep bytes: replies that nobody takes, messages that do not end.

replies   READ of 1 MiB as many as there are credits for, and the answers are never received
halves    all but the last byte of the largest WRITE
sips      answers are received, a few bytes at a time
drips     WRITE is sent, a few bytes at a time
"""

import select
import socket
from collections.abc import Callable
from typing import Final

from meshfs import limits
from meshfs.smb.constants import AccessMask, Command
from meshfs.smb.credits import charge_for
from meshfs.testing.attack.base import REFUSALS, Attack, Client, Run
from meshfs.testing.raw_initiator import read_body, write_body

_READ: Final = int(AccessMask.READ_DATA)
_READ_WRITE: Final = int(AccessMask.READ_DATA | AccessMask.WRITE_DATA)
_GONE: Final = select.POLLERR | select.POLLHUP | select.POLLRDHUP
_CONNECTIONS: Final = 20
_TURN_S: Final = 0.02
_SIP_BYTES: Final = 512


class Slow:
    """A connection of these attacks; `turn` is called every now and then, and raises one of REFUSALS at its end."""

    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        self.client: Client = attack.logged_in(credits=limits.CREDITS_MAX)
        try:
            self.begin()
        except BaseException:
            self.client.socket.close()
            raise

    def begin(self) -> None:
        """Called once."""

    def turn(self) -> None:
        """Nothing unless a kind of these does something over time."""

    def ask(self, size_bytes: int) -> None:
        """Send READ requests until the credits or the socket's room are used up."""
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
    def begin(self) -> None:
        self.ask(limits.MIB)


class Sips(Slow):
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
    """A WRITE of the largest size, but for its end."""

    def begin(self) -> None:
        self.frame = self._frame()
        self.client.socket.sendall(self.frame[:-1])

    def _frame(self) -> bytes:
        opened = self.client.open(self.attack.options.disk, _READ_WRITE)
        body = write_body(opened, 0, bytes(limits.IO_SIZE_MAX_BYTES))
        return bytes(self.client.pack(Command.WRITE, body, charge=charge_for(limits.IO_SIZE_MAX_BYTES))[1])


class Drips(Halves):
    """The same, a few bytes at a time."""

    def begin(self) -> None:
        self.frame = self._frame()
        self.sent = 0

    def turn(self) -> None:
        self.sent += self.client.socket.send(self.frame[self.sent : self.sent + _SIP_BYTES])


def several(make: Callable[[Attack], Slow]) -> Run:
    """Have as many as wanted, and make those anew that the exporter ended."""

    def run(attack: Attack) -> None:
        wanted = attack.options.count or _CONNECTIONS
        slow: dict[int, Slow] = {}
        poll = select.poll()
        refused = 0
        while not attack.over:
            if len(slow) < wanted:
                try:
                    made = make(attack)
                except REFUSALS as error:
                    attack.counts[f"refused: {type(error).__name__}"] += 1
                    refused += 1
                    attack.rest(0.05)
                else:
                    slow[made.client.socket.fileno()] = made
                    poll.register(made.client.socket, _GONE)
            if len(slow) >= wanted or refused or attack.is_held_up:
                attack.ready()
            attack.counts["held at most"] = max(attack.counts["held at most"], len(slow))
            ended = {descriptor for descriptor, _ in poll.poll(0)}
            for descriptor, each in list(slow.items()):
                try:
                    each.turn()
                except REFUSALS:
                    ended.add(descriptor)
            for descriptor in ended:
                poll.unregister(descriptor)
                slow.pop(descriptor).client.socket.close()
                attack.counts["closed by the exporter"] += 1
            if len(slow) >= wanted:
                attack.rest(_TURN_S)
        for each in slow.values():
            each.client.socket.close()

    return run


MEMORY: Final[dict[str, Run]] = {
    "replies": several(Replies),
    "halves": several(Halves),
    "sips": several(Sips),
    "drips": several(Drips),
}

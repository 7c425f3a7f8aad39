"""The common part of all attacks: the attacked exporter, the attacking node, the time it ends, and its counts."""

import argparse
import ctypes
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from meshfs.cluster.config import Config, load
from meshfs.cluster.keys import Keyring
from meshfs.model import SHARE_DISKS
from meshfs.smb.constants import Command, SessionFlags
from meshfs.smb.messages import EchoRequest, SessionSetupResponse
from meshlab.smb.socket_initiator import SocketInitiator

#: These exceptions end one connection but not the attack: the exporter closed it, refused it, or answered otherwise
#: than expected.
REFUSALS: Final = (OSError, EOFError, AssertionError)
#: The pause after a refusal, before the next attempt to connect: an attacker that spins would only slow itself down.
REFUSED_PAUSE_S: Final = 0.01
HELD_UP_AFTER_S: Final = 10.0
_ECHO: Final = EchoRequest().pack()
_PR_SET_PDEATHSIG: Final = 1


class Client(SocketInitiator):
    """Keeps one connection of an attack."""

    #: The least number of credits that the connection has after the login.
    granted = 0


@dataclass
class Attack:
    """Runs one attacker. The attacker's loops end when `over` is true. It reports `counts` at the end."""

    config: Config
    node: str
    exporter: str
    options: argparse.Namespace
    ends_s: float
    counts: Counter[str] = field(default_factory=Counter)
    stopped: bool = False
    begun_s: float = field(default_factory=time.monotonic)

    @property
    def over(self) -> bool:
        return self.stopped or time.monotonic() >= self.ends_s

    @property
    def is_held_up(self) -> bool:
        """Return whether the attack has had enough time to get as far as the exporter lets it."""
        return time.monotonic() - self.begun_s > HELD_UP_AFTER_S

    @property
    def left_s(self) -> float:
        return 0.0 if self.stopped else max(self.ends_s - time.monotonic(), 0.0)

    def ready(self) -> None:
        """Print `ready`, once, so that the starter of the attack knows that it has reached its full load."""
        if not self.counts["ready"]:
            self.counts["ready"] = 1
            print("ready", flush=True)

    def rest(self, seconds: float) -> None:
        """Sleep, in pieces, so that a signal ends the attack soon."""
        until = time.monotonic() + seconds
        while not self.over and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    @property
    def address(self) -> str | tuple[str, int]:
        """Return the attacked address: the exporter's first TCP address, or its Unix socket."""
        node = self.config.node(self.exporter)
        return str(node.socket) if self.options.unix else (node.addresses[0], node.port)

    def dial(self, timeout_s: float = 10.0, source: str | None = None) -> Client:
        """Connect and send nothing yet. Raises OSError."""
        chosen = self.options.source if source is None else source
        return Client(self.address, timeout_s, source="" if self.options.unix else chosen)

    def stream(self, source: str | None = None) -> socket.socket:
        """Connect for an attack that speaks no SMB. Raises OSError."""
        return self.dial(source=source).socket

    def password(self) -> str:
        return Keyring(self.config, self.node).password_to(self.exporter)

    def log_in(self, client: Client, *, share: str = SHARE_DISKS, credits: int = 0) -> Client:
        """Log in as the node, connect to the share, and request ``credits`` (64 by default). Raises one of REFUSALS."""
        try:
            client.negotiate()
            reply = client.set_up(self.node, self.password())
            if reply.status:
                raise AssertionError(f"SESSION_SETUP: 0x{reply.status:08x}")
            client.sealed = bool(SessionSetupResponse.unpack(reply.body).session_flags & SessionFlags.ENCRYPT_DATA)
            client.connect(share)
            client.granted = client.call(Command.ECHO, _ECHO, credits=credits or 64).credits
        except BaseException:
            client.socket.close()
            raise
        self.counts["logins"] += 1
        return client

    def logged_in(self, *, credits: int = 0, timeout_s: float = 10.0) -> Client:
        return self.log_in(self.dial(timeout_s), credits=credits)

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Count each of REFUSALS that the block raises, and pause for a moment."""
        try:
            yield
        except REFUSALS as error:
            self.counts[f"refused: {type(error).__name__}"] += 1
            self.rest(REFUSED_PAUSE_S)


Run = Callable[[Attack], None]


def parser(kinds: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m meshlab.attack", description=__doc__)
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--node", required=True, help="the node that the attacker is, or pretends to be")
    parser.add_argument("--to", required=True, help="the node whose exporter is attacked")
    parser.add_argument("--disk", default="disk0", help="the disk that the attack opens")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--depth", type=int, default=64, help="requests in flight on each connection")
    parser.add_argument("--count", type=int, default=0, help="how many the attack sends or piles up; 0: its default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--source", default="", help="local address that connections come from")
    parser.add_argument("--unix", action="store_true", help="attack the Unix socket instead of TCP")
    return parser


def end_with_starter() -> None:
    """Have the kernel send SIGTERM when the parent process ends, because a killed test run cannot send it itself."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def from_options(options: argparse.Namespace) -> Attack:
    attack = Attack(load(options.config), options.node, options.to, options, time.monotonic() + options.seconds)

    def stop(number: int, frame: object) -> None:
        attack.stopped = True

    signal.signal(signal.SIGTERM, stop)
    end_with_starter()
    return attack

"""Send faulty frames over real sockets, as a node that is logged in and signs correctly, or as a stranger.

fuzz        bursts of mutated and made-up requests and compounds; an ECHO that the exporter must answer ends each burst
stranger    the same before a login, unsigned

Each burst depends only on `seed`, the connection's number and the burst's number, so a run can be repeated. When the
exporter closes a connection, the attack writes the connection's port and the last burst's seed to stderr. The exporter
logs the same port.
"""

import random
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from meshfs.exporter.state.shares import SHARE_SCRATCH
from meshfs.model import SHARE_DISKS
from meshfs.smb import messages as m
from meshfs.smb.constants import AccessMask, Command, CreateDisposition, CreateOptions, Flags, NtStatus
from meshfs.smb.wire import pack_header
from meshlab.attack.base import REFUSALS, Attack, Client, Run
from meshlab.smb.frames import prefix
from meshlab.smb.mutations import mutated, write_number
from meshlab.smb.raw_messages import SHARE_ALL, Reply, read_body, write_body
from meshlab.smb.samples import CREATE_CONTEXTS, FILE, MESSAGES

#: How many frames `fuzz` or `stranger` sends unless `count` says otherwise.
FRAMES: Final = 10_000
_BURST_MAX: Final = 32
#: An exporter that sends no answer for this long is considered hung. It may close a connection at any time.
_ANSWER_S: Final = 60.0
#: The attack replaces a connection after so many bursts, because by then its opens are closed and its tables full.
_BURSTS_PER_CONNECTION: Final = 64
_CREDITS_LOW: Final = 2 * _BURST_MAX
_COMMANDS: Final[dict[str, Command]] = {command.name.replace("_", ""): command for command in Command}
#: Commands that may end the session or the tree. Only one in _ENDS_ONE_IN of them is sent, because otherwise sessions
#: would end before much else is tried.
_ENDS: Final = (Command.NEGOTIATE, Command.SESSION_SETUP, Command.LOGOFF, Command.TREE_DISCONNECT)
_ENDS_ONE_IN: Final = 50
_ALL: Final = int(AccessMask.READ_DATA | AccessMask.WRITE_DATA)
_ECHO: Final = m.EchoRequest().pack()

Sample = tuple[int, bytes]


def samples(disk: str) -> tuple[Sample, ...]:
    """Return pairs of a command and a valid body. They include responses, because a peer may send those as well."""
    found = [(_command(type(message).__name__), message.pack()) for message in MESSAGES]
    names = ("", disk, "absent", "folder", "folder\\file", "file", "*", disk * 40)
    for name in names:
        for disposition in CreateDisposition:
            for options in (0, int(CreateOptions.DIRECTORY_FILE), int(CreateOptions.DELETE_ON_CLOSE)):
                create = m.CreateRequest(name, _ALL, SHARE_ALL, disposition, options, 0, CREATE_CONTEXTS[:3])
                found.append((Command.CREATE, create.pack()))
    file_id = FILE.volatile
    found += [(Command.READ, read_body(file_id, offset, length)) for offset in (0, 1 << 62) for length in (0, 4096)]
    found += [(Command.WRITE, write_body(file_id, offset, bytes(512))) for offset in (0, 1 << 20, (1 << 63) - 1)]
    for kind in range(1, 70):
        found.append((Command.QUERY_INFO, m.QueryInfoRequest(FILE, 1 + kind % 4, kind, 4096).pack()))
        found.append((Command.SET_INFO, m.SetInfoRequest(FILE, 1, kind, bytes(40), 0).pack()))
    return tuple(found)


def _command(kind: str) -> int:
    """Return the command of a message's class, such as CREATE for CreateRequest; ECHO for a class without a command."""
    for end in ("Request", "Response"):
        kind = kind.removesuffix(end)
    return int(_COMMANDS.get(kind.upper(), Command.ECHO))


class Fuzzed:
    """Sends bursts over one connection that is logged in, and keeps its opens."""

    def __init__(self, attack: Attack, number: int, pool: Sequence[Sample]) -> None:
        self._attack = attack
        self._number = number
        self._pool = pool
        self._bursts = 0
        self.client: Client | None = None
        self._probe = 0
        self._seed = ""
        self._opens: list[int] = []
        self._credits = 0

    def send(self) -> int:
        """Send a burst. Returns the number of its frames. Raises one of REFUSALS."""
        self._bursts += 1
        self._seed = f"{self._attack.options.seed} {self._number} {self._bursts}"
        rng = random.Random(self._seed)
        if self.client is None or self._credits < _CREDITS_LOW or self._bursts % _BURSTS_PER_CONNECTION == 0:
            self._connect(rng)
        assert self.client is not None
        frames = [self._frame(self.client, rng) for _ in range(rng.randrange(1, _BURST_MAX))]
        self._probe, probe = self.client.pack(Command.ECHO, _ECHO, credits=512)
        self._credits -= len(frames) + 1
        self.client.socket.sendall(b"".join((*frames, probe)))
        return len(frames)

    def receive(self) -> None:
        """Receive all answers up to the one to the ECHO. Raises one of REFUSALS."""
        if self.client is None:
            return
        try:
            self._credits += self.client.take(self._probe).credits
        except TimeoutError:
            self._attack.counts["unanswered"] += 1
            self._note("left unanswered")
            raise
        for reply in self.client.replies:
            self._attack.counts[f"status 0x{reply.status:08x}"] += 1
            self._credits += reply.credits
        if any(reply.status == NtStatus.USER_SESSION_DELETED for reply in self.client.replies):
            self.close()
        else:
            self.client.replies.clear()

    def refused(self) -> None:
        if self.client is not None:
            self._attack.counts["closed by the exporter"] += 1
            self._note("closed")
            self.close()

    def close(self) -> None:
        if self.client is not None:
            self.client.socket.close()
            self.client = None

    def _note(self, what: str) -> None:
        assert self.client is not None
        local: Any = "?"
        with suppress(OSError):
            local = self.client.socket.getsockname()
        print(f"{local} {what} after burst {self._seed!r}", file=sys.stderr, flush=True)

    def _connect(self, rng: random.Random) -> None:
        self.close()
        share = rng.choice((SHARE_DISKS, SHARE_SCRATCH))
        self.client = client = self._attack.log_in(self._attack.dial(_ANSWER_S), share=share, credits=512)
        names = ("", self._attack.options.disk) if share == SHARE_DISKS else ("", "file")
        self._opens = []
        for name in names:
            disposition = CreateDisposition.OPEN if share == SHARE_DISKS else CreateDisposition.OPEN_IF
            reply = client.create(name, _ALL if name else int(AccessMask.READ_DATA), SHARE_ALL, disposition)
            if not reply.status:
                self._opens.append(m.CreateResponse.unpack(reply.body).file_id.volatile)
        self._credits = client.granted

    def _frame(self, client: Client, rng: random.Random) -> bytes:
        parts = [self._part(rng) for _ in range(1 if rng.random() < 0.9 else rng.randrange(2, 6))]
        frame = _packed(client, rng, parts)
        if rng.random() < 0.002:
            # This fault makes the signature wrong, so the exporter may close the connection. The length prefix stays
            # right. Otherwise the exporter would wait for more bytes and never answer the ECHO.
            message = mutated(rng, frame[4:])
            frame = prefix(len(message)) + message
        return frame

    def _part(self, rng: random.Random) -> Sample:
        command, body = rng.choice(self._pool)
        if command in _ENDS and rng.randrange(_ENDS_ONE_IN):
            command, body = Command.ECHO, _ECHO
        if self._opens and rng.random() < 0.9:
            file_id = rng.choice(self._opens).to_bytes(8, "little") * 2
            body = body.replace(FILE.persistent.to_bytes(8, "little") + FILE.volatile.to_bytes(8, "little"), file_id)
            body = body.replace(FILE.volatile.to_bytes(8, "little") * 2, file_id)
        return command, mutated(rng, body) if rng.random() < 0.7 else body


def _packed(client: Client, rng: random.Random, parts: Sequence[Sample]) -> bytes:
    """Return a frame of one request or a compound, correctly signed or sealed, with odd numbers in some headers."""
    messages = []
    for number, (command, body) in enumerate(parts):
        message_id, client.next_id = client.next_id, client.next_id + 1
        flags = int(Flags.RELATED_OPERATIONS) if number and rng.random() < 0.5 else 0
        if command == Command.CANCEL:
            client.next_id -= 1
        header = bytearray(_header(client, command, message_id, flags))
        if rng.random() < 0.03:
            _odd_header(rng, header)
        messages.append(header + body + bytes(-len(body) % 8 if number + 1 < len(parts) else 0))
    if client.security is None:
        joined = b"".join(messages)
        return prefix(len(joined)) + joined
    seal = client.security if client.sealed else None
    return bytes(client.connection.protect(messages, None if seal else client.security, seal))


def _header(client: Client, command: int, message_id: int, flags: int) -> bytes:
    signed = 0 if client.sealed or client.security is None else int(Flags.SIGNED)
    return pack_header(
        command,
        message_id=message_id,
        flags=flags | signed,
        credits=2,
        credit_charge=1,
        tree_id=client.tree_id,
        session_id=client.session_id,
    )


def _odd_header(rng: random.Random, header: bytearray) -> None:
    """Put a fault into a header field, but not into the message id: that would only end the connection each time."""
    start, end = rng.choice(((4, 20), (4, 20), (4, 20), (32, 40), (32, 40), (40, 48)))
    field = bytearray(header[start:end])
    write_number(rng, field, rng.randrange(len(field)))
    header[start:end] = field


def fuzz(attack: Attack) -> None:
    pool = samples(attack.options.disk)
    frames = attack.options.count or FRAMES
    fuzzed = [Fuzzed(attack, number, pool) for number in range(attack.options.connections)]
    attack.ready()
    while not attack.over and attack.counts["frames"] < frames:
        for step in ("send", "receive"):
            for each in fuzzed:
                try:
                    if step == "send":
                        attack.counts["frames"] += each.send()
                    else:
                        each.receive()
                except REFUSALS:
                    each.refused()
    for each in fuzzed:
        each.close()


def stranger(attack: Attack) -> None:
    """On each connection, send one burst, shut down the sending side, and read until the exporter closes."""
    pool = samples(attack.options.disk)
    frames, number = attack.options.count or FRAMES, 0
    attack.ready()
    while not attack.over and attack.counts["frames"] < frames:
        number += 1
        rng = random.Random(f"{attack.options.seed} {number}")
        with attack.refusals(), attack.dial(_ANSWER_S) as client:
            if rng.random() < 0.7:
                client.negotiate()
            for _ in range(rng.randrange(1, 8)):
                attack.counts["frames"] += 1
                client.deliver(_stranger_frame(client, rng, pool))
            client.socket.shutdown(socket.SHUT_WR)
            _drain(attack, client, number)


def _stranger_frame(client: Client, rng: random.Random, pool: Sequence[Sample]) -> bytes:
    command, body = rng.choice(pool)
    if rng.random() < 0.5:
        command = rng.choice((Command.NEGOTIATE, Command.SESSION_SETUP))
        body = next(body for kind, body in rng.sample(pool, len(pool)) if kind == command)
    frame = _packed(client, rng, [(command, mutated(rng, body) if rng.random() < 0.8 else body)])
    return mutated(rng, frame) if rng.random() < 0.3 else frame


def _drain(attack: Attack, client: Client, number: int) -> None:
    received = bytearray()
    try:
        while data := client.socket.recv(65536):
            received += data
    except TimeoutError:
        attack.counts["unanswered"] += 1
        print(f"connection of seed '{attack.options.seed} {number}' was not closed", file=sys.stderr, flush=True)
        return
    for reply in _replies(client, bytes(received)):
        attack.counts[f"status 0x{reply.status:08x}"] += 1
        # NEGOTIATE and ECHO need no session (MS-SMB2 3.3.5.4, 3.3.5.17).
        if not reply.status and reply.command not in (Command.NEGOTIATE, Command.ECHO):
            attack.counts["got in"] += 1
            print(f"command {reply.command} of seed '{attack.options.seed} {number}' succeeded", file=sys.stderr)


def _replies(client: Client, data: bytes) -> list[Reply]:
    return client._receive(memoryview(data))


FUZZ: Final[dict[str, Run]] = {"fuzz": fuzz, "stranger": stranger}

"""Floods by a node that is logged in: the same request over and over, up to `depth` in flight on each connection.

create      CREATE of a disk with a share access that conflicts, so that the exporter keeps no open
directory   QUERY_DIRECTORY of the root: all entries with all their information, from the start each time
signature   READ with a wrong signature; when the exporter closes the connection, the attack logs in on a new one
read4k      READ of 4 KiB at random offsets of the disk
read64k     READ of 64 KiB at random offsets
read1m      READ of 1 MiB at random offsets
echo        ECHO
lock        LOCK and unlock of a range
"""

import random
import selectors
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from meshfs import limits
from meshfs.smb.constants import AccessMask, Command, Flags, LockFlags, NtStatus, ShareAccess
from meshfs.smb.credits import charge_for
from meshfs.smb.messages import CreateRequest, EchoRequest, FileId, LockElement, LockRequest, QueryDirectoryRequest
from meshfs.smb.signing import NONCE_INITIATOR
from meshfs.smb.wire import HEADER
from meshlab.attack.base import REFUSALS, Attack, Client, Run
from meshlab.smb.frames import prefix
from meshlab.smb.raw_messages import READ_WRITE, SHARE_ALL, read_body

#: An endless iterator over (command, body, credit charge) of the next request.
Requests = Iterator[tuple[int, bytes, int]]
#: A function that is called after the login of a connection. It returns the requests to flood the connection with.
Begin = Callable[[Attack, Client, random.Random], Requests]

_pack_header: Final = HEADER.pack
_RECEIVE_BYTES: Final = 256 * limits.KIB
#: ProtocolId, Status and Credits of a reply, after the length prefix of its frame.
_HEAD: Final = struct.Struct("<4x4s4xI2xH48x")
_PROTOCOL: Final = b"\xfeSMB"
_SIGNED: Final = int(Flags.SIGNED)
_NO_SIGNATURE: Final = bytes(16)
#: Position of the last byte of the transform header's signature in a sealed frame.
_SIGNATURE_END: Final = 4 + 19
_RESTART: Final = 1
_ID_BOTH_DIRECTORY_INFORMATION: Final = 37


class Flooded:
    """Floods over one connection. It packs requests and counts replies with as little work as possible.

    Otherwise the attacker's own processor time would limit the load on the exporter.
    """

    def __init__(self, client: Client, requests: Requests, depth: int, *, damage: bool = False) -> None:
        assert client.security is not None
        self.client = client
        self._signer = client.security.signer
        self._requests = requests
        self._depth = depth
        self._damage = damage
        self._received = bytearray()
        self._credits = client.granted
        self._in_flight = 0
        self.statuses: Counter[int] = Counter()
        self._next: tuple[int, bytes, int] | None = None

    def fill(self) -> None:
        """Send requests until `depth` are in flight or the credits are used up.

        The flood waits until half of the requests are answered. If it sent a few at a time, the attacker would spend
        more time on system calls than on requests.
        """
        if self._in_flight > self._depth // 2:
            return
        frames: list[bytes | bytearray | memoryview] = []
        pack = self._sealed if self.client.sealed else self._signed
        while self._in_flight < self._depth:
            command, body, charge = self._next or next(self._requests)
            if charge > self._credits:
                self._next = (command, body, charge)
                break
            self._next = None
            frames.append(pack(command, body, charge))
            self._credits -= charge
            self._in_flight += 1
        if frames:
            self.client.socket.sendall(b"".join(frames))

    def _sealed(self, command: int, body: bytes, charge: int) -> bytes | bytearray | memoryview:
        _, frame = self.client.pack(command, body, charge=charge, credits=charge)
        if self._damage:
            frame[_SIGNATURE_END] ^= 0x55
        return frame

    def _signed(self, command: int, body: bytes, charge: int) -> bytes | bytearray | memoryview:
        client = self.client
        message_id, client.next_id = client.next_id, client.next_id + charge
        message = bytearray(
            _pack_header(
                _PROTOCOL,
                64,
                charge,
                0,
                command,
                charge,
                _SIGNED,
                0,
                message_id,
                client.tree_id << 32,
                client.session_id,
                _NO_SIGNATURE,
            )
        )
        message += body
        self._signer.sign(message, message_id, NONCE_INITIATOR)
        if self._damage:
            message[63] ^= 0x55
        return prefix(len(message)) + message

    def take(self) -> int:
        """Receive once, and return how many requests were answered. Raises EOFError when the connection has ended."""
        data = self.client.socket.recv(_RECEIVE_BYTES)
        if not data:
            raise EOFError("the exporter closed the connection")
        received, start, answered = self._received, 0, 0
        received += data
        while len(received) - start >= _HEAD.size:
            protocol, status, credits = _HEAD.unpack_from(received, start)
            end = start + 4 + int.from_bytes(received[start + 1 : start + 4])
            if end > len(received):
                break
            if protocol == _PROTOCOL:
                answered += self._count(status, credits)
            else:
                for reply in self.client._receive(memoryview(bytes(received[start:end]))):
                    answered += self._count(reply.status, reply.credits)
            start = end
        del received[:start]
        return answered

    def _count(self, status: int, credits: int) -> int:
        self._credits += credits
        self.statuses[status] += 1
        if status == NtStatus.PENDING:
            return 0
        self._in_flight -= 1
        return 1


def flood(begin: Begin, *, damage: bool = False) -> Run:
    """Return an attack that keeps all its connections full, and replaces each one that the exporter closes."""

    def run(attack: Attack) -> None:
        rng = random.Random(attack.options.seed)
        with selectors.DefaultSelector() as selector:
            while not attack.over:
                missing = attack.options.connections - len(selector.get_map())
                for _ in range(missing):
                    with attack.refusals():
                        _connect(attack, selector, begin, rng, damage=damage)
                attack.ready()
                for key, _ in selector.select(min(attack.left_s, 0.1)):
                    _turn(attack, selector, key.data)
            for key in list(selector.get_map().values()):
                _end(attack, selector, key.data)

    return run


def _connect(
    attack: Attack, selector: selectors.BaseSelector, begin: Begin, rng: random.Random, *, damage: bool
) -> None:
    client = attack.logged_in(credits=limits.CREDITS_MAX)
    try:
        flooded = Flooded(client, begin(attack, client, rng), attack.options.depth, damage=damage)
        flooded.fill()
    except BaseException:
        client.socket.close()
        raise
    selector.register(client.socket, selectors.EVENT_READ, flooded)


def _turn(attack: Attack, selector: selectors.BaseSelector, flooded: Flooded) -> None:
    try:
        attack.counts["requests"] += flooded.take()
        flooded.fill()
    except REFUSALS:
        attack.counts["connections ended"] += 1
        _end(attack, selector, flooded)


def _end(attack: Attack, selector: selectors.BaseSelector, flooded: Flooded) -> None:
    selector.unregister(flooded.client.socket)
    flooded.client.socket.close()
    for status, count in flooded.statuses.items():
        attack.counts[f"status 0x{status:08x}"] += count


# --- the requests of each flood


def creates(attack: Attack, client: Client, rng: random.Random) -> Requests:
    """Yield CREATEs that exclude writers while a writer exists: the exporter checks each in full and keeps no open."""
    client.open(attack.options.disk, READ_WRITE, SHARE_ALL)
    excluding = CreateRequest(attack.options.disk, int(AccessMask.READ_DATA), int(ShareAccess.READ), 1).pack()
    while True:
        yield Command.CREATE, excluding, 1


def directories(attack: Attack, client: Client, rng: random.Random) -> Requests:
    root = client.open("", int(AccessMask.READ_DATA))
    query = QueryDirectoryRequest(
        FileId(root, root), _ID_BOTH_DIRECTORY_INFORMATION, 64 * limits.KIB, "*", _RESTART
    ).pack()
    while True:
        yield Command.QUERY_DIRECTORY, query, 1


def reads(size_bytes: int) -> Begin:
    def begin(attack: Attack, client: Client, rng: random.Random) -> Requests:
        file_id = client.open(attack.options.disk, int(AccessMask.READ_DATA))
        charge = charge_for(size_bytes)
        while True:
            offset = rng.randrange(4 * limits.MIB // size_bytes) * size_bytes
            yield Command.READ, read_body(file_id, offset, size_bytes), charge

    return begin


def echoes(attack: Attack, client: Client, rng: random.Random) -> Requests:
    body = EchoRequest().pack()
    while True:
        yield Command.ECHO, body, 1


def locks(attack: Attack, client: Client, rng: random.Random) -> Requests:
    opened = client.open(attack.options.disk, int(AccessMask.READ_DATA))
    file_id = FileId(opened, opened)
    while True:
        offset = rng.randrange(1 << 40)
        for flags in (int(LockFlags.SHARED_LOCK | LockFlags.FAIL_IMMEDIATELY), int(LockFlags.UNLOCK)):
            yield Command.LOCK, LockRequest(file_id, (LockElement(offset, 1, flags),)).pack(), 1


FLOODS: Final[dict[str, Run]] = {
    "create": flood(creates),
    "directory": flood(directories),
    "signature": flood(reads(4 * limits.KIB), damage=True),
    "read4k": flood(reads(4 * limits.KIB)),
    "read64k": flood(reads(64 * limits.KIB)),
    "read1m": flood(reads(limits.MIB)),
    "echo": flood(echoes),
    "lock": flood(locks),
}

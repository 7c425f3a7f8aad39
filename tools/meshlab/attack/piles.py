"""A node that is logged in, piles up state that the exporter has to keep, and then goes on using that state.

locks         byte-range locks on as many opens as they need, then lock and unlock over and over
opens         opens of one disk, then CREATE over and over
notifies      CHANGE_NOTIFY requests that wait, on several connections
connections   connections of one node, each with a session
sessions      sessions of one node, as many on each connection as it may have
patterns      directory listings with a pattern of 100 stars that matches nothing
tiny          directory listings whose buffer has room for one entry or for none
compounds     compounds of the largest number of parts
reconnects    logins with the right password, one after the other
readonly      a node that may only read: exclusive locks, and opens that share nothing, on disks that others write
"""

import random
from collections.abc import Callable
from typing import Any, Final

from meshfs import limits
from meshfs.smb.constants import AccessMask, Command, Flags, LockFlags
from meshfs.smb.messages import (
    ChangeNotifyRequest,
    CreateRequest,
    EchoRequest,
    FileId,
    LockElement,
    LockRequest,
    QueryDirectoryRequest,
)
from meshlab.attack.base import Attack, Client, Run
from meshlab.attack.floods import Flooded, Requests, flood
from meshlab.attack.keeping import Kept, keep
from meshlab.smb.raw_messages import SHARE_ALL

_READ: Final = int(AccessMask.READ_DATA)
_SHARED: Final = int(LockFlags.SHARED_LOCK | LockFlags.FAIL_IMMEDIATELY)
_UNLOCK: Final = int(LockFlags.UNLOCK)
_RELATED_ID: Final = (1 << 64) - 1
_RESTART: Final = 1
#: How many of each the attack tries unless `count` says otherwise: more than any exporter should allow.
_LOCKS_PER_OPEN: Final = 1024
_NOTIFIES: Final = 520
_CONNECTIONS: Final = 1023
_SESSIONS: Final = 2047
_SESSIONS_PER_CONNECTION: Final = 16
_NAMES_INFORMATION: Final = 12


def hammer(attack: Attack, client: Client, requests: Requests) -> None:
    """Keep the connection full of requests until the attack is over.

    Raises one of REFUSALS when the exporter closes the connection.
    """
    flooded = Flooded(client, requests, attack.options.depth)
    attack.ready()
    flooded.fill()
    while not attack.over:
        attack.counts["requests"] += flooded.take()
        flooded.fill()


def locks(attack: Attack) -> None:
    wanted = attack.options.count or 10_000
    while not attack.over:
        with attack.refusals(), attack.logged_in(credits=limits.CREDITS_MAX) as client:
            held = _lock(attack, client, wanted)
            hammer(attack, client, _locking(held or [client.open(attack.options.disk, _READ)]))


def _lock(attack: Attack, client: Client, wanted: int) -> list[int]:
    """Take up to ``wanted`` shared locks of one byte each. Returns the opens that hold locks."""
    opened: list[int] = []
    for first in range(0, wanted, _LOCKS_PER_OPEN):
        if attack.over:
            break
        created = client.create(attack.options.disk, _READ, SHARE_ALL)
        if created.status:
            attack.counts[f"CREATE 0x{created.status:08x}"] += 1
            break
        file_id = FileId(*_ids(created.body))
        count = min(_LOCKS_PER_OPEN, wanted - first)
        elements = tuple(LockElement(2 * (first + number), 1, _SHARED) for number in range(count))
        reply = client.call(Command.LOCK, LockRequest(file_id, elements).pack())
        attack.counts[f"LOCK 0x{reply.status:08x}"] += 1
        if reply.status:
            break
        attack.counts["locks"] += count
        opened.append(file_id.volatile)
    return opened


def _ids(body: bytes) -> tuple[int, int]:
    """Return both halves of the file id in a CREATE response (MS-SMB2 2.2.14)."""
    return int.from_bytes(body[64:72], "little"), int.from_bytes(body[72:80], "little")


def _locking(opened: list[int]) -> Requests:
    rng = random.Random(1)
    while True:
        file_id, offset = opened[rng.randrange(len(opened))], 2 * rng.randrange(1 << 30) + 1
        for flags in (_SHARED, _UNLOCK):
            yield Command.LOCK, LockRequest(FileId(file_id, file_id), (LockElement(offset, 1, flags),)).pack(), 1


def opens(attack: Attack) -> None:
    wanted = attack.options.count or 2500
    while not attack.over:
        with attack.refusals(), attack.logged_in(credits=limits.CREDITS_MAX) as client:
            for _ in range(wanted):
                status = client.create(attack.options.disk, _READ, SHARE_ALL).status
                attack.counts[f"CREATE 0x{status:08x}"] += 1
                if status or attack.over:
                    break
            hammer(attack, client, _refused_creates(attack.options.disk))


def _refused_creates(disk: str) -> Requests:
    """Yield CREATEs that share nothing. The attacker's own opens conflict with them, so the exporter refuses them."""
    body = CreateRequest(disk, _READ, 0, 1).pack()
    while True:
        yield Command.CREATE, body, 1


def notifies(attack: Attack) -> None:
    """Send more CHANGE_NOTIFY requests than each connection may have waiting, then cancel and replace them."""
    clients: list[Client] = []
    for _ in range(attack.options.connections):
        with attack.refusals():
            client = attack.logged_in(credits=2 * _NOTIFIES)
            clients.append(client)
            root = client.open("", _READ)
            body = ChangeNotifyRequest(FileId(root, root), 4096, 0xFFF).pack()
            for _ in range(_NOTIFIES):
                reply = client.call(Command.CHANGE_NOTIFY, body)
                attack.counts[f"CHANGE_NOTIFY 0x{reply.status:08x}"] += 1
                if attack.over:
                    break
    attack.ready()
    while not attack.over:
        attack.rest(0.001)
        for client in clients:
            with attack.refusals():
                # Cancel one request, so that another one can take its place.
                client.replies.clear()
                client.deliver(client.pack(Command.CANCEL, EchoRequest().pack(), message_id=client.next_id - 1)[1])
                client.call(Command.CHANGE_NOTIFY, body)
                attack.counts["cancelled"] += 1


def connections(attack: Attack) -> None:
    """Open as many connections as the exporter accepts, each with a session, and replace those that it closes."""
    keep(attack, attack.options.count or _CONNECTIONS, lambda: Kept(attack.logged_in(timeout_s=5.0)))


def sessions(attack: Attack) -> None:
    per_connection = _SESSIONS_PER_CONNECTION
    wanted = attack.options.count or _SESSIONS

    def connect() -> Kept:
        client = attack.logged_in(timeout_s=5.0)
        for _ in range(per_connection - 1):
            client.security, client.session_id = None, 0
            status = client.set_up(attack.node, attack.password()).status
            attack.counts["sessions" if not status else f"SESSION_SETUP 0x{status:08x}"] += 1
            if status or attack.over:
                break
        return Kept(client)

    keep(attack, -(-wanted // per_connection), connect)


def _listings(pattern: str, *sizes: int) -> Callable[[Attack, Client, random.Random], Requests]:
    def begin(attack: Attack, client: Client, rng: random.Random) -> Requests:
        opened = client.open("", _READ)
        while True:
            for size_bytes in sizes:
                query = QueryDirectoryRequest(
                    FileId(opened, opened), _NAMES_INFORMATION, size_bytes, pattern, rng.choice((0, _RESTART))
                )
                yield Command.QUERY_DIRECTORY, query.pack(), 1

    return begin


def compounds(attack: Attack) -> None:
    """Send compounds of one CREATE of the root and as many related listings as a compound may have."""
    create: tuple[int, bytes, dict[str, Any]]
    create = (Command.CREATE, CreateRequest("", _READ, SHARE_ALL, 1).pack(), {})
    query = QueryDirectoryRequest(FileId(_RELATED_ID, _RELATED_ID), 37, 65536, "*", _RESTART).pack()
    related: list[tuple[int, bytes, dict[str, Any]]]
    related = [(Command.QUERY_DIRECTORY, _padded(query), {"flags": int(Flags.RELATED_OPERATIONS)})]
    while not attack.over:
        with attack.refusals(), attack.logged_in(credits=limits.CREDITS_MAX) as client:
            attack.ready()
            while not attack.over:
                create = (Command.CREATE, _padded(create[1]), {})
                ids = client.compound(create, *related * (limits.COMPOUND_MAX - 1))
                for message_id in ids:
                    attack.counts[f"status 0x{client.take(message_id).status:08x}"] += 1
                attack.counts["compounds"] += 1
                if attack.counts["compounds"] % 32 == 0:
                    # Each compound's open stays open. A new session begins before there are too many.
                    break


def _padded(body: bytes) -> bytes:
    """Return the body padded to a multiple of 8 bytes, where the next part of a compound begins."""
    return body + bytes(-len(body) % 8)


def reconnects(attack: Attack) -> None:
    """Log in with the right password, one time after another; each login costs both ends milliseconds."""
    while not attack.over:
        with attack.refusals():
            attack.logged_in().socket.close()
            attack.ready()


def read_only(attack: Attack) -> None:
    """Request opens and locks that would stop a writer, and keep those that are granted."""
    everything = int(LockFlags.EXCLUSIVE_LOCK | LockFlags.FAIL_IMMEDIATELY)
    while not attack.over:
        with attack.refusals(), attack.logged_in() as client:
            while not attack.over:
                for share in (0, SHARE_ALL):
                    opened = client.create(attack.options.disk, _READ, share)
                    attack.counts[f"open 0x{opened.status:08x}"] += 1
                    if not opened.status:
                        lock = LockRequest(FileId(*_ids(opened.body)), (LockElement(0, 1 << 62, everything),))
                        attack.counts[f"lock 0x{client.call(Command.LOCK, lock.pack()).status:08x}"] += 1
                attack.ready()
                attack.rest(0.2)


PILES: Final[dict[str, Run]] = {
    "locks": locks,
    "opens": opens,
    "notifies": notifies,
    "connections": connections,
    "sessions": sessions,
    "patterns": flood(_listings("*a" * 100 + "*", 65536)),
    "tiny": flood(_listings("*", 16, 40, 1, 0)),
    "compounds": compounds,
    "reconnects": reconnects,
    "readonly": read_only,
}

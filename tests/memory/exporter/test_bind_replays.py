"""A recorded bind that a stranger sends again: the exporter signs nothing a second time under one message id.

The nonce of AES-GMAC contains the message id. Two messages that are signed with one key under one nonce reveal the
secret part of the key. Then a stranger can sign what he likes.
"""

import socket
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import trio

from meshfs.model import IoClass
from meshfs.smb.constants import Command
from meshlab.fakes.mesh_pair import mesh_pair
from meshlab.smb.raw_messages import framed
from support.pairs import bound
from support.wiretap import Recorded, RecordedWays, command, is_signed, message_id, messages

CHANNELS = 2
REPLAYS = 5


def first_of_a_bind(tap: Recorded) -> list[bytes]:
    """Return the frames that a bind sent, up to its first SESSION_SETUP."""
    frames = []
    for message in messages(bytes(tap.sent)):
        frames.append(framed(message))
        if command(message) == Command.SESSION_SETUP:
            return frames
    raise AssertionError("no SESSION_SETUP was sent")


def replay(path: Path, frames: Sequence[bytes]) -> list[bytes]:
    """Send recorded frames over another connection, each after the answer to the one before. Return the answers."""
    answers = bytearray()
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(5)
        stream.connect(str(path))
        for count, frame in enumerate(frames, 1):
            stream.sendall(frame)
            while len(messages(bytes(answers))) < count:
                data = stream.recv(65536)
                if not data:
                    return messages(bytes(answers))
                answers += data
    return messages(bytes(answers))


def is_bind(tap: Recorded) -> bool:
    """Return whether the connection made a bind, whose first SESSION_SETUP is signed, and no login."""
    return is_signed(first_of_a_bind(tap)[-1][4:])


async def test_a_replayed_bind_is_answered_without_a_signature(tmp_path: Path) -> None:
    path = tmp_path / "exporter.sock"
    ways = RecordedWays(path)
    async with mesh_pair(tmp_path, ways=ways) as pair:
        await bound(pair, CHANNELS)
        [bind] = [tap for tap in ways.tapped if is_bind(tap)]
        recorded = first_of_a_bind(bind)
        answers = messages(bytes(bind.received))
        for _ in range(REPLAYS):
            answers += await trio.to_thread.run_sync(replay, path, recorded)
        signed: defaultdict[int, set[bytes]] = defaultdict(set)
        for message in answers:
            if command(message) == Command.SESSION_SETUP and is_signed(message):
                signed[message_id(message)].add(message)
        assert signed, "the answers to the bind of the mount are signed"
        assert {number: len(found) for number, found in signed.items()} == dict.fromkeys(signed, 1)
        # The session goes on undisturbed.
        assert len(pair.session.channels) == CHANNELS
        handle = await pair.port.open(IoClass.APP, writable=True)
        assert await handle.write(0, b"as before") == 9

"""A whole session over transports without a socket: one of memory, and one of fragments without stream and prefix.

Nothing of smb, initiator or exporter knows these transports. So SMB Direct can join as another one.
"""

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import trio

from meshfs.initiator.session.negotiation import Policy
from meshfs.limits import KIB, MIB
from meshfs.model import IoClass, Security
from meshfs.transport.base import Transport
from meshlab.fakes.fragment_transport import FragmentTransport, fragment_pair
from meshlab.fakes.memory_transport import MemoryTransport, memory_pair
from meshlab.fakes.mesh_pair import mesh_pair

SIZE: Final = 8 * MIB
Ends = tuple[Transport, Transport]
#: name -> what makes both ends of a connection. The slow ones have room for less than a small message.
KINDS: Final[dict[str, Callable[[], Ends]]] = {
    "memory": memory_pair,
    "slow memory": functools.partial(memory_pair, 100),
    "fragments": fragment_pair,
    "slow fragments": functools.partial(fragment_pair, 1),
}


class Connections:
    """Makes connections of one kind, and keeps the initiator's ends."""

    def __init__(self, kind: str) -> None:
        self.made: list[Ends] = []
        self._kind = kind

    def __call__(self) -> Ends:
        self.made.append(KINDS[self._kind]())
        return self.made[-1]


@pytest.mark.parametrize("security", [Security.SIGN, Security.ENCRYPT])
@pytest.mark.parametrize("kind", list(KINDS))
async def test_a_session_logs_in_reads_writes_and_flushes(tmp_path: Path, kind: str, security: Security) -> None:
    connections = Connections(kind)
    generator = random.Random(1)
    # Through a hundred bytes at a time, a megabyte takes seconds.
    sizes = (512, 4 * KIB, 100 * KIB) if kind == "slow memory" else (512, 4 * KIB, 100 * KIB, MIB, 3 * MIB)
    with trio.fail_after(30):
        async with mesh_pair(tmp_path, SIZE, policy=Policy(security), connect=connections) as pair:
            handle = await pair.port.open(IoClass.APP, writable=True)
            for size in sizes:
                data = generator.randbytes(size)
                assert await handle.write(size, data) == size
                assert bytes(await handle.read(size, size)) == data
                await handle.flush()
                assert bytes(pair.exporter.disk.data[size : 2 * size]) == data
            pieces = [generator.randbytes(4 * KIB) for _ in range(100)]
            async with trio.open_nursery() as nursery:
                for index, piece in enumerate(pieces):
                    nursery.start_soon(handle.write, 4 * MIB + index * 4 * KIB, piece)
            assert bytes(await handle.read(4 * MIB, 400 * KIB)) == b"".join(pieces)
            (channel,) = pair.session.channels
            assert channel.transport is connections.made[-1][0]
            assert channel.sent_bytes > sum(sizes)
            assert channel.received_bytes > sum(sizes)
    assert len(connections.made) == 1, "the connection was never lost"


@pytest.mark.parametrize("cut", ["reset", "closed by the exporter"])
@pytest.mark.parametrize("kind", list(KINDS))
async def test_a_session_that_is_cut_goes_on_over_the_next_connection(tmp_path: Path, kind: str, cut: str) -> None:
    connections = Connections(kind)
    data = random.Random(2).randbytes(200 * KIB)
    with trio.fail_after(30):
        async with mesh_pair(tmp_path, SIZE, connect=connections, io_timeout_s=20.0) as pair:
            handle = await pair.port.open(IoClass.APP, writable=True)
            async with trio.open_nursery() as nursery:
                for index in range(10):
                    nursery.start_soon(handle.write, index * MIB // 2, data)
                pair.exporter.disk.stall()
                await trio.sleep(0.01)
                ours, theirs = connections.made[-1]
                assert isinstance(ours, MemoryTransport | FragmentTransport)
                if cut == "reset":
                    ours.reset()
                else:
                    theirs.close()
                await trio.sleep(0.01)
                pair.exporter.disk.release()
            for index in range(10):
                assert bytes(await handle.read(index * MIB // 2, len(data))) == data
            assert len(connections.made) > 1
            exporter = pair.exporter.exporter
            assert exporter is not None
            assert len(exporter.peers) == 1, "the exporter has ended what was cut"

"""The initiator half of a session by itself, and an exporter in memory at a Unix socket."""

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from meshfs.buffers import BufferPool
from meshfs.initiator.remote.exporter import RemoteExporter
from meshfs.initiator.session.negotiation import Policy
from meshfs.limits import MIB
from meshfs.model import Security
from meshfs.smb.auth import Login
from meshlab.fakes.mesh_pair import NODE, PASSWORD, MemoryExporter
from meshlab.smb.fixed_ways import Dialer, FixedWays


def make_session(
    dialers: list[Dialer],
    policy: Policy | None = None,
    password: str = PASSWORD,
    login: Callable[[], Login] | None = None,
    *,
    asks: bool = False,
) -> RemoteExporter:
    return RemoteExporter(
        NODE,
        FixedWays(dialers, asks=asks),
        login or (lambda: Login("n2", password, "demo")),
        policy=policy or Policy(),
        guid=uuid.uuid4().bytes_le,
        pool=BufferPool(),
        on_change=lambda: None,
    )


@asynccontextmanager
async def exporter_at(
    path: Path, security: Security = Security.SIGN
) -> AsyncIterator[tuple[MemoryExporter, trio.Nursery]]:
    exporter = MemoryExporter(path, MIB, security)
    async with trio.open_nursery() as nursery:
        await nursery.start(exporter.run)
        yield exporter, nursery
        nursery.cancel_scope.cancel()

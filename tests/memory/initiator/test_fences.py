"""A write that was given up, or whose session was lost, never lands over a newer one."""

import errno
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from meshfs.disk.base import Op
from meshfs.initiator.session.commands import query_disks
from meshfs.limits import MIB
from meshfs.model import IoClass
from meshfs.transport.base import Transport
from meshfs.transport.stream import StreamTransport
from meshlab.fakes.mesh_pair import Pair, mesh_pair
from support.pairs import errno_of
from support.waiting import until

SIZE = 8 * MIB


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=3.0) as both:
        yield both


@pytest.mark.parametrize("how", ["timeout", "cancel"])
async def test_a_write_that_was_given_up_never_lands_over_a_newer_one(tmp_path: Path, how: str) -> None:
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=1.0) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        disk = pair.exporter.disk
        disk.stall(lambda request: request.op == Op.WRITE)
        if how == "timeout":
            assert await errno_of(handle.write(0, b"old!")) == errno.ETIMEDOUT
        else:
            with trio.move_on_after(0.1):
                await handle.write(0, b"old!")
        assert disk.stalled == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.write, 0, b"new!")
            # The newer write waits in the mount, because the exporter has not answered the CLOSE.
            await until(lambda: bool(pair.session.waiting))
            await trio.sleep(0.1)
            assert disk.stalled == 1
            disk.release()
        assert bytes(disk.data[:4]) == b"new!"


@pytest.mark.parametrize("attempts", [1, 3])
async def test_a_write_of_a_lost_session_never_lands_over_a_newer_one(tmp_path: Path, attempts: int) -> None:
    """The write of the old session is at the disk, while further logins name that session and fail."""
    sockets: list[socket.socket] = []

    async def dial() -> Transport:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(tmp_path / "exporter.sock"))
        sockets.append(sock)
        return StreamTransport(sock)

    async with mesh_pair(tmp_path, SIZE, dialers=[dial]) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        disk = pair.exporter.disk
        disk.stall(lambda request: request.op == Op.WRITE)
        with trio.move_on_after(0.05):
            await handle.write(0, b"old!")
        assert disk.stalled == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handle.write, 0, b"new!")
            for number in range(attempts):
                # The first socket is that of the session. The others are those of the logins that follow.
                sockets[-1].shutdown(socket.SHUT_RDWR)
                await until(lambda number=number: len(sockets) > number + 1)
                await trio.sleep(0.2)
                assert disk.stalled == 1, "nothing newer is at the disk beside the write of the old session"
                await pair.connected()
                session = pair.session.session
                assert session is not None
                with trio.fail_after(5):
                    # Requests that need no data of the disk are served.
                    assert await query_disks(session.channels[0], session.root)
            disk.release()
        assert bytes(disk.data[:4]) == b"new!"


async def test_a_fence_holds_the_writes_of_the_other_class(tmp_path: Path) -> None:
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=1.0) as pair:
        app = await pair.port.open(IoClass.APP, writable=True)
        system = await pair.port.open(IoClass.SYSTEM, writable=True)
        disk = pair.exporter.disk
        disk.stall(lambda request: request.op == Op.WRITE)
        assert await errno_of(app.write(0, b"old!")) == errno.ETIMEDOUT
        async with trio.open_nursery() as nursery:
            nursery.start_soon(system.write, 0, b"new!")
            await trio.sleep(0.1)
            assert disk.stalled == 1
            disk.release()
        assert bytes(disk.data[:4]) == b"new!"
        assert await system.read(0, 4) == await app.read(0, 4) == b"new!"


async def test_a_write_given_up_while_the_other_class_is_fenced_is_fenced(tmp_path: Path) -> None:
    """Without its own fence, the write could land over a newer one after the end of the other class's fence."""
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=1.0) as pair:
        app = await pair.port.open(IoClass.APP, writable=True)
        system = await pair.port.open(IoClass.SYSTEM, writable=True)
        disk = pair.exporter.disk
        disk.stall(lambda request: request.op == Op.WRITE and request.length == 4)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(errno_of, app.write(8192, b"app!"))
            await until(lambda: disk.stalled == 1)
            await trio.sleep(0.5)
            nursery.start_soon(errno_of, system.write(0, b"old!"))
            await until(lambda: disk.stalled == 2)
        # Both writes were given up, the second one during the fence of the first. Only the first one ends here.
        disk.release(lambda request: request.offset == 8192)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.write, 0, b"newer")
            await trio.sleep(0.2)
            disk.release()
        assert bytes(disk.data[:5]) == b"newer"

"""The promises of a port while its exporter comes and goes, with both ends in one process."""

import errno
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from meshfs.exporter.commands.table import HANDLERS, Needs
from meshfs.initiator.attached.port import Port
from meshfs.initiator.remote.states import ExporterState
from meshfs.initiator.remote.status import exporter_status
from meshfs.initiator.session.negotiation import Policy
from meshfs.limits import KIB, MIB
from meshfs.model import Access, IoClass, Security
from meshfs.smb.constants import Cipher, Command, Dialect, SigningAlgorithm
from meshlab.fakes.mesh_pair import Pair, mesh_pair
from support.pairs import errno_of
from support.waiting import until

SIZE = 8 * MIB


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=3.0) as both:
        yield both


POLICIES = {
    "gmac": Policy(),
    "cmac": Policy(signing=(SigningAlgorithm.AES_CMAC,)),
    "gcm-128": Policy(Security.ENCRYPT),
    "ccm-256": Policy(Security.ENCRYPT, ciphers=(Cipher.AES_256_CCM,)),
    "none": Policy(Security.NONE),
    "3.0.2": Policy(dialects=(Dialect.SMB_3_0_2,)),
    "3.0-encrypted": Policy(Security.ENCRYPT, dialects=(Dialect.SMB_3_0,)),
}


@pytest.mark.parametrize("name", POLICIES)
async def test_a_port_reads_back_written_data(tmp_path: Path, name: str) -> None:
    data = os.urandom(SIZE)
    with trio.fail_after(20):
        async with mesh_pair(tmp_path, SIZE, policy=POLICIES[name]) as pair:
            handle = await pair.port.open(IoClass.APP, writable=True)
            for start, size in ((0, 512), (512, 4 * KIB), (4 * KIB + 512, MIB), (MIB + 4 * KIB + 512, 7 * MIB)):
                part = data[start : start + size]
                assert await handle.write(start, part) == len(part)
            await handle.flush()
            assert bytes(pair.exporter.disk.data) == data
            for start, size in ((0, 1), (511, 2), (4 * KIB, 64 * KIB), (MIB - 1, MIB), (0, SIZE)):
                assert bytes(await handle.read(start, size)) == data[start : start + size]
            await handle.close()


async def test_io_at_the_end_of_the_disk_is_cut_or_refused(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    assert await handle.read(SIZE, 4096) == b""
    assert await handle.read(SIZE + MIB, 1) == b""
    assert await handle.read(0, 0) == b""
    assert len(await handle.read(SIZE - 100, 4096)) == 100
    assert await handle.write(SIZE - 100, bytes(4096)) == 100
    assert await handle.write(5, b"") == 0
    assert await errno_of(handle.write(SIZE, b"x")) == errno.ENOSPC


async def test_refusals_have_their_errno(pair: Pair) -> None:
    reader = await pair.port.open(IoClass.APP, writable=False)
    assert await errno_of(reader.write(0, b"x")) == errno.EBADF
    await reader.close()
    assert await errno_of(reader.read(0, 1 << 40)) == errno.EBADF
    missing = replace(pair.exporter.info(), id="other", name="other")
    port = Port(missing, pair.session, 3.0, pair.nursery.start_soon)
    assert await errno_of(port.open(IoClass.APP, writable=False)) == errno.ENOENT
    read_only = Port(replace(missing, access=Access.READ_ONLY), pair.session, 3.0, pair.nursery.start_soon)
    assert await errno_of(read_only.open(IoClass.APP, writable=True)) == errno.EROFS


async def test_a_sick_disk_fails_its_requests_only(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    pair.exporter.disk.fail(4096, 8192)
    assert await errno_of(handle.read(0, 8192)) == errno.EIO
    assert await errno_of(handle.write(4096, bytes(512))) == errno.EIO
    pair.exporter.disk.heal()
    pair.exporter.disk.fail(0, 512, errno.ENOSPC)
    assert await errno_of(handle.write(0, bytes(512))) == errno.ENOSPC
    assert await handle.read(4096, 512) == bytes(512)
    assert pair.session.state is ExporterState.CONNECTED


async def test_handles_share_one_open_until_the_last_is_closed(pair: Pair) -> None:
    assert pair.exporter.exporter is not None
    sessions = pair.exporter.exporter.sessions

    def opens() -> int:
        # The roots of the shares have no name. The mount opens them whenever it likes.
        return sum(bool(opened.name) for session in sessions.values() for opened in session.opens.values())

    first = await pair.port.open(IoClass.APP, writable=True)
    second = await pair.port.open(IoClass.APP, writable=False)
    system = await pair.port.open(IoClass.SYSTEM, writable=True)
    assert opens() == 2
    await first.close()
    await system.close()
    assert opens() == 1
    assert await second.read(0, 10) == bytes(10)
    await second.close()
    assert opens() == 0
    again = await pair.port.open(IoClass.APP, writable=True)
    assert await again.read(0, 10) == bytes(10)


async def test_requests_of_a_lost_connection_go_again(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    await handle.write(0, b"old" * 1000)
    results: dict[str, object] = {}

    async def read() -> None:
        results["read"] = bytes(await handle.read(0, 3000))

    async def write() -> None:
        results["write"] = await handle.write(MIB, b"new" * 1000)

    pair.exporter.disk.stall()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(write)
        await until(lambda: pair.exporter.disk.stalled == 2)
        for channel in pair.session.channels:
            channel.fail("cable pulled")
        await until(lambda: pair.session.state is not ExporterState.CONNECTED or not pair.session.channels)
        pair.exporter.disk.release()
    assert results == {"read": b"old" * 1000, "write": 3000}
    assert bytes(pair.exporter.disk.data[MIB : MIB + 3000]) == b"new" * 1000


async def test_io_waits_for_an_exporter_that_is_away(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    await pair.exporter.stop()
    done = trio.Event()

    async def write() -> None:
        assert await handle.write(0, b"patience") == 8
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await until(lambda: bool(pair.session.waiting))
        status = exporter_status(pair.session, trio.current_time())
        assert status["state"] == "down"
        assert status["why"]
        (waiting,) = status["waiting"]
        assert (waiting["disk"], waiting["op"]) == ("disk0", "write")
        assert 2.0 < waiting["for_s"] + waiting["left_s"] < 3.5
        await pair.nursery.start(pair.exporter.run)
        with trio.fail_after(2.9):
            await done.wait()
    assert pair.exporter.disk.data.startswith(b"patience")
    assert not pair.session.waiting


@pytest.mark.parametrize("op", ["read", "write", "flush", "open"])
async def test_every_call_ends_at_the_bound(tmp_path: Path, op: str) -> None:
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=1.0) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        await pair.exporter.stop()
        calls = {
            "read": lambda: handle.read(0, 4096),
            "write": lambda: handle.write(0, bytes(4096)),
            "flush": handle.flush,
            "open": lambda: pair.port.open(IoClass.SYSTEM, writable=False),
        }
        start = trio.current_time()
        assert await errno_of(calls[op]()) == errno.ETIMEDOUT
        assert 0.9 < trio.current_time() - start < 2.0
        await handle.close()
        await pair.nursery.start(pair.exporter.run)
        await pair.connected()
        again = await pair.port.open(IoClass.APP, writable=True)
        assert await again.read(0, 512) == bytes(512)


async def test_a_disk_that_stalls_ends_its_calls_at_the_bound_and_no_others(tmp_path: Path) -> None:
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=1.0) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        pair.exporter.disk.stall(lambda request: request.offset == 0)
        start = trio.current_time()
        assert await errno_of(handle.read(0, 512)) == errno.ETIMEDOUT
        assert 0.9 < trio.current_time() - start < 2.0
        assert await handle.read(4096, 512) == bytes(512)
        pair.exporter.disk.release()
        assert await handle.read(0, 512) == bytes(512)
        assert pair.session.state is ExporterState.CONNECTED


async def test_a_cancelled_read_leaves_the_channel_in_order(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    await handle.write(0, os.urandom(MIB))
    pair.exporter.disk.stall()
    for _ in range(3):
        with trio.move_on_after(0.02):
            await handle.read(0, MIB)
    channel = pair.session.channels[0]
    assert channel.outstanding == 3
    pair.exporter.disk.release()
    assert await handle.read(4096, 100) == bytes(pair.exporter.disk.data[4096:4196])
    assert pair.session.channels == [channel]
    # The small reply may come first. The channel also takes the replies that nobody waits for.
    await until(lambda: channel.outstanding == 0)


async def test_a_session_that_the_exporter_ended_is_replaced(pair: Pair) -> None:
    handle = await pair.port.open(IoClass.APP, writable=True)
    exporter = pair.exporter.exporter
    assert exporter is not None
    for session in list(exporter.sessions.values()):
        exporter.sessions.end(session, lambda: None)
    assert await handle.write(0, b"again") == 5
    assert bytes(await handle.read(0, 5)) == b"again"


async def test_a_changed_list_of_disks_is_followed(pair: Pair) -> None:
    exporter = pair.exporter.exporter
    assert exporter is not None
    assert [info.name for info in pair.session.disks] == ["disk0"]
    exporter.disks.withdraw("disk0", lambda disk: None)
    await until(lambda: not pair.session.disks)


@pytest.mark.parametrize("sealed", [False, True], ids=["signed", "encrypted"])
async def test_no_byte_is_wrong_while_connections_die_under_load(tmp_path: Path, sealed: bool) -> None:
    """Tasks write stamps into ranges of their own and read them back, through restarts and lost connections."""
    policy = Policy(Security.ENCRYPT if sealed else Security.SIGN)
    async with mesh_pair(tmp_path, SIZE, policy=policy) as pair:
        stop = False
        rounds = 0

        async def worker(number: int) -> None:
            nonlocal rounds
            handle = await pair.port.open(IoClass.APP if number % 2 else IoClass.SYSTEM, writable=True)
            size = (512, 4 * KIB, 64 * KIB, 300 * KIB)[number % 4]
            offset = number * 512 * KIB
            while not stop:
                stamp = os.urandom(16) * (size // 16)
                assert await handle.write(offset, stamp) == size
                assert bytes(await handle.read(offset, size)) == stamp
                rounds += 1
            await handle.close()

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for number in range(16):
                    nursery.start_soon(worker, number)
                for cut in range(6):
                    before = rounds
                    await until(lambda before=before: rounds > before + 40)
                    if cut % 2:
                        await pair.restart()
                    else:
                        for channel in pair.session.channels:
                            channel.fail("cable pulled")
                stop = True
        assert pair.session.failures >= 6


async def test_an_open_that_is_never_answered_ends_at_the_bound(tmp_path: Path) -> None:
    """The exporter opened nothing, so there is no open whose end the next call would have to wait for."""
    async with mesh_pair(tmp_path, SIZE, io_timeout_s=1.0) as pair:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(HANDLERS, Command.CREATE, (lambda request: None, Needs.TREE))
            start = trio.current_time()
            assert await errno_of(pair.port.open(IoClass.APP, writable=False)) == errno.ETIMEDOUT
            assert trio.current_time() - start < 2.0
        for channel in pair.session.channels:
            channel.fail("cable pulled")
        handle = await pair.port.open(IoClass.APP, writable=False)
        assert await handle.read(0, 512) == bytes(512)

"""Messages that somebody changes between a mount and an exporter are repeated, and no application gets an error.

A proxy in between changes a bit of a request or of a reply. The exporter ends the connection of a request with a wrong
signature, and the mount ends the connection of such a reply. Requests without an answer are sent again over another
channel or in a new session, by the rules of both ends (MS-SMB2 3.2.4.1.5, 3.3.5.2.10).
"""

import functools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from meshfs import limits
from meshfs.errors import StatusError
from meshfs.exporter.commands.table import HANDLERS
from meshfs.exporter.exchange.request import Request
from meshfs.initiator.attached.handle import Handle
from meshfs.initiator.remote.status import exporter_status
from meshfs.initiator.session.negotiation import Policy
from meshfs.limits import KIB, MIB
from meshfs.model import IoClass, Security
from meshfs.smb.constants import Command, Flags, LockFlags, NtStatus
from meshfs.smb.messages import FileId, LockElement, LockRequest
from meshfs.transport.stream import connect_tcp
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.fakes.mesh_pair import Pair, mesh_pair
from meshlab.smb.damage import Damage
from meshlab.smb.frames import Message
from meshlab.smb.proxy import Proxy
from meshlab.smb.raw_binding import second_channel
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from support.waiting import until

SIZE = 8 * MIB
BLOCK = 64 * KIB
TIMEOUT_S = 60


@asynccontextmanager
async def pair_behind(
    proxy: Proxy, port: int, folder: Path, channels: int, security: Security = Security.SIGN
) -> AsyncIterator[Pair]:
    """Make a pair whose channels all go through the proxy."""
    dialers = [functools.partial(connect_tcp, "127.0.0.1", proxy.port)] * channels
    with trio.fail_after(TIMEOUT_S):
        async with mesh_pair(
            folder, SIZE, io_timeout_s=20.0, dialers=dialers, policy=Policy(security), tcp_port=port
        ) as pair:
            await until(lambda: len(pair.session.channels) == channels)
            yield pair


def pattern(number: int, size: int = BLOCK) -> bytes:
    return bytes((number + each) % 251 for each in range(256)) * (size // 256)


async def work(handle: Handle, rounds: int) -> bytes:
    """Overwrite, flush, zero and read back. Return the bytes that the beginning of the disk has to hold at the end."""
    expected = bytearray(4 * BLOCK)
    for number in range(rounds):
        for place in range(4):
            data = pattern(16 * number + place)
            assert await handle.write(place * BLOCK, data) == BLOCK
            expected[place * BLOCK : (place + 1) * BLOCK] = data
        await handle.flush()
        place = number % 4
        done = 0
        while done < BLOCK:
            done += await handle.zero(place * BLOCK + done, BLOCK - done)
        expected[place * BLOCK : (place + 1) * BLOCK] = bytes(BLOCK)
        for place in range(4):
            found = bytes(await handle.read(place * BLOCK, BLOCK))
            assert found == expected[place * BLOCK : (place + 1) * BLOCK]
    return bytes(expected)


COMMANDS = (Command.READ, Command.WRITE, Command.FLUSH, Command.IOCTL, Command.CREATE, Command.CLOSE)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("replies", [False, True], ids=["requests", "replies"])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
async def test_every_change_is_repeated_and_the_data_is_right(
    proxy: Proxy, port: int, tmp_path: Path, command: Command, replies: bool, channels: int
) -> None:
    async with pair_behind(proxy, port, tmp_path, channels) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        damage = proxy.damages.of_messages(
            lambda message: message.command == command and message.is_response == replies, times=3
        )
        if command in (Command.CREATE, Command.CLOSE):
            for _ in range(4):
                await handle.close()
                handle = await pair.port.open(IoClass.APP, writable=True)
        expected = await work(handle, 4)
        assert damage.done >= 1
        assert bytes(pair.exporter.disk.data[: len(expected)]) == expected
        await handle.close()
        exporter = pair.exporter.exporter
        assert exporter is not None
        await until(lambda: bool(pair.session.ended.bad_signatures if replies else exporter.counters["bad_signatures"]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("replies", [False, True], ids=["requests", "replies"])
async def test_sealed_messages_are_repeated_as_well(
    proxy: Proxy, port: int, tmp_path: Path, replies: bool, channels: int
) -> None:
    async with pair_behind(proxy, port, tmp_path, channels, Security.ENCRYPT) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        damages: list[Damage] = []
        expected = b""
        for least_bytes in (0, BLOCK, 0):
            damages.append(proxy.damages.of_sealed(replies=replies, least_bytes=least_bytes))
            expected = await work(handle, 1)
        assert [damage.done for damage in damages] == [1, 1, 1]
        assert bytes(pair.exporter.disk.data[: len(expected)]) == expected
        exporter = pair.exporter.exporter
        assert exporter is not None
        await until(
            lambda: (pair.session.ended.bad_signatures if replies else exporter.counters["bad_signatures"]) == 3
        )
        assert not exporter.counters["protocol_errors"]


@pytest.mark.parametrize("security", [Security.SIGN, Security.ENCRYPT])
@pytest.mark.parametrize("replies", [False, True], ids=["requests", "replies"])
async def test_a_message_with_a_changed_length_ends_its_channel_in_time(
    proxy: Proxy, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replies: bool, security: Security
) -> None:
    """The message swallows all that follows, also answers to probes. Bytes arrive, but no further message does."""
    monkeypatch.setattr(limits, "CHANNEL_SILENCE_MAX_S", 2.0)
    async with pair_behind(proxy, port, tmp_path, 1, security) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        damage = proxy.damages.of_lengths(replies=replies, least_bytes=4096)
        assert await handle.write(0, pattern(1, 4096)) == 4096
        assert bytes(await handle.read(0, 4096)) == pattern(1, 4096)
        assert damage.done == 1
        assert pair.session.failures == 1


async def test_a_write_whose_reply_was_changed_is_a_replay_and_lands_once_in_order(
    proxy: Proxy, port: int, tmp_path: Path
) -> None:
    """The exporter carried the WRITE out. The replay is marked, and waits for all older requests of the open."""
    async with pair_behind(proxy, port, tmp_path, 3) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        replays: list[int] = []

        def is_replay(message: Message) -> bool:
            if message.is_write() and message.is_replay:
                replays.append(message.message_id)
            return False

        proxy.damages.of_messages(is_replay)
        damage = proxy.damages.of_messages(lambda message: message.command == Command.WRITE and message.is_response)
        await handle.write(0, b"a" * 512)
        assert damage.done == 1
        await handle.write(0, b"b" * 512)
        assert bytes(await handle.read(0, 512)) == b"b" * 512 == bytes(pair.exporter.disk.data[:512])
        assert len(replays) == 1


async def test_a_changed_message_is_named_on_both_ends(
    proxy: Proxy, port: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with pair_behind(proxy, port, tmp_path, 3) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        proxy.damages.of_messages(lambda message: message.command == Command.READ and message.is_response)
        await handle.read(0, 512)
        assert "came with a wrong signature" in caplog.text
        assert "broke the protocol" not in caplog.text
        await until(lambda: bool(pair.session.ended.bad_signatures))
        status = exporter_status(pair.session, trio.current_time())
        assert status["bad_signatures"] == 1
        assert sum(path["bad_signatures"] for path in status["channels"]) == 1
        proxy.damages.of_messages(Message.is_write)
        await handle.write(0, bytes(512))
        assert "closed: WRITE with a wrong signature" in caplog.text


def test_a_changed_lock_is_taken_once_where_it_goes_again() -> None:
    """The mount sends no LOCK. Other clients do, and repeat a LOCK on another channel (3.2.4.1.5)."""
    client = RawInitiator(make_exporter(disk0=MemoryDisk(SIZE))).log_in(to_be_bound=True)
    file_id = client.open("disk0")
    channel = second_channel(client, RawInitiator(client.exporter))
    element = LockElement(0, 512, LockFlags.EXCLUSIVE_LOCK | LockFlags.FAIL_IMMEDIATELY)
    body = LockRequest(FileId(file_id, file_id), (element,), 1 << 4).pack()
    message_id, frame = client.pack(Command.LOCK, body)
    frame[-1] ^= 1
    client.deliver(frame)
    assert (client.answered(message_id), client.peer.closing) == (False, True)
    client.peer.lost()
    locks = client.exporter.disks.all()[0].locks
    assert not locks
    replay = int(Flags.REPLAY_OPERATION)
    assert channel.call(Command.LOCK, body, sequence=1, flags=replay).status == 0
    # The reply may be changed as well. Then the LOCK comes once more, and there is still only one lock.
    assert channel.call(Command.LOCK, body, sequence=2, flags=replay).status == 0
    unlock = LockRequest(FileId(file_id, file_id), (LockElement(0, 512, LockFlags.UNLOCK),)).pack()
    assert channel.call(Command.LOCK, unlock, sequence=2).status == 0
    assert not locks


# --- other exporters answer ACCESS_DENIED -----------------------------------------------


def deny(monkeypatch: pytest.MonkeyPatch, command: Command, times: int) -> list[int]:
    """Let the exporter refuse requests as smbd does where a signature is wrong. Return their message ids."""
    handler, needs = HANDLERS[command]
    refused: list[int] = []

    def answer(request: Request) -> None:
        if len(refused) < times:
            refused.append(request.message.message_id)
            raise StatusError(NtStatus.ACCESS_DENIED, "wrong signature")
        handler(request)

    monkeypatch.setitem(HANDLERS, command, (answer, needs))
    return refused


@pytest.mark.parametrize("command", [Command.READ, Command.WRITE, Command.FLUSH], ids=lambda command: command.name)
async def test_a_refusal_of_what_the_open_may_do_is_repeated(
    proxy: Proxy, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    async with pair_behind(proxy, port, tmp_path, 3) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        refused = deny(monkeypatch, command, 2)
        expected = await work(handle, 1)
        assert len(refused) == 2
        assert bytes(pair.exporter.disk.data[: len(expected)]) == expected


@pytest.mark.parametrize("size", [512, 4 * MIB], ids=["whole", "in parts"])
async def test_a_server_that_means_its_refusal_is_believed(
    proxy: Proxy,
    port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    size: int,
) -> None:
    async with pair_behind(proxy, port, tmp_path, 3) as pair:
        handle = await pair.port.open(IoClass.APP, writable=True)
        refused = deny(monkeypatch, Command.WRITE, 1 << 30)
        for _ in range(3):
            with pytest.raises(PermissionError, match=os.strerror(13)):
                await handle.write(0, bytes(size))
        given_up = [record.message for record in caplog.records if "although its open allows it" in record.message]
        assert len(given_up) == limits.DENIALS_MAX < len(refused), "not every refusal ends a connection"


async def test_a_refusal_of_what_the_open_may_not_do_is_believed_at_once(
    proxy: Proxy, port: int, tmp_path: Path
) -> None:
    async with pair_behind(proxy, port, tmp_path, 1) as pair:
        handle = await pair.port.open(IoClass.APP, writable=False)
        shared = handle._shared
        shared.writable = False
        with pytest.MonkeyPatch.context() as patch:
            refused = deny(patch, Command.FLUSH, 1 << 30)
            with pytest.raises(PermissionError):
                await handle.flush()
        assert len(refused) == 1
        assert pair.session.failures == 0

"""Several channels, and events in an unlucky order."""

import errno
import functools
from pathlib import Path

import pytest
import trio

from meshfs import limits
from meshfs.disk.base import Op
from meshfs.errors import StatusError
from meshfs.exporter.commands import binding
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.state.session import Session
from meshfs.initiator.attached.outcomes import NOT_EXECUTED, MayHaveBeenExecuted
from meshfs.initiator.channel.outbox import Outbox
from meshfs.initiator.channel.slots import Slot
from meshfs.initiator.remote import news
from meshfs.initiator.remote.dialing import UnixWay
from meshfs.initiator.session.address import Remote
from meshfs.limits import KIB, MIB
from meshfs.model import IoClass
from meshfs.smb.constants import NtStatus
from meshfs.transport.stream import connect_unix
from meshlab.fakes.mesh_pair import mesh_pair
from meshlab.smb.fixed_ways import FixedWays
from meshlab.smb.stalling import Relays
from support.pairs import bound
from support.waiting import until

PART = 256 * KIB


def ways(folder: Path, channels: int, *, asks: bool = False) -> FixedWays:
    return FixedWays([functools.partial(connect_unix, folder / "exporter.sock")] * channels, asks=asks)


async def test_a_part_that_is_late_outranks_one_whose_channel_was_lost(tmp_path: Path) -> None:
    """The second part has the sequence of after the loss. So a replay of the whole write would not wait for it."""
    async with mesh_pair(tmp_path, 4 * MIB, io_timeout_s=0.6, ways=ways(tmp_path, 2)) as pair:
        await bound(pair, 2)
        handle = await pair.port.open(IoClass.APP, writable=True)
        session, disk, stalled = pair.session.session, pair.exporter.disk, []
        assert session is not None
        first, second = session.spread.channels

        def hang(request: object) -> bool:
            assert hasattr(request, "op")
            if stalled or request.op != Op.WRITE or getattr(request, "offset", 0) != PART:
                return False
            stalled.append(request)
            return True

        disk.stall(hang)
        session.split = lambda size, now: [(first, PART), (second, PART)] if size == 2 * PART and not first.why else []
        start_write = first.start_write

        def torn(*args: object, **keywords: object) -> Slot:
            slot = start_write(*args, **keywords)  # type: ignore[arg-type]
            first.fail("sending failed")
            return slot

        first.start_write = torn  # type: ignore[method-assign]
        with pytest.raises(TimeoutError):
            await handle.write(0, b"O" * (2 * PART))
        newer: list[int | str] = []

        async def write_newer() -> None:
            try:
                newer.append(await handle.write(PART, b"N" * PART))
            except OSError as error:
                newer.append(errno.errorcode[error.errno or 0])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_newer)
            await trio.sleep(0.2)
            assert not newer, "nothing newer is answered while the old part is at the disk"
            disk.release()
        assert newer == [PART]
        assert bytes(disk.data[PART : PART + 4]) == b"NNNN"


async def test_a_late_answer_about_an_earlier_open_leaves_the_new_one_alone(tmp_path: Path) -> None:
    async with mesh_pair(tmp_path, ways=ways(tmp_path, 2)) as pair:
        await bound(pair, 2)
        handle = await pair.port.open(IoClass.APP, writable=True)
        shared, channel = handle._shared, pair.session.channels[0]
        old = shared.file_id
        gone = StatusError(NtStatus.FILE_CLOSED, "READ")
        assert handle._attempts.failed(gone, channel, old, None) is NOT_EXECUTED
        await until(lambda: shared.file_id != old and shared.session is not None)
        new = shared.file_id
        handle._attempts.failed(gone, channel, old, None)
        handle._attempts.give_up(MayHaveBeenExecuted(old))
        await trio.sleep(0.05)
        assert shared.file_id == new
        assert shared.session is not None


async def test_a_slow_exporter_is_logged_in_to_whoever_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login takes about twenty round trips. It gives way to another path only if no byte arrives at all."""
    send_now = Outbox._send

    def late(self: Outbox) -> None:
        async def send() -> None:
            await trio.sleep(0.05)
            send_now(self)

        trio.lowlevel.spawn_system_task(send)

    monkeypatch.setattr(Outbox, "_send", late)
    monkeypatch.setattr(limits, "LOGIN_BESIDE_OTHERS_S", 0.6)
    with trio.fail_after(9):
        async with mesh_pair(tmp_path, ways=ways(tmp_path, 2, asks=True)) as pair:
            assert pair.session.failures == 0


async def test_the_own_exporter_has_one_channel_whatever_the_config_says(tmp_path: Path) -> None:
    async with mesh_pair(tmp_path, ways=UnixWay(tmp_path / "exporter.sock"), channels=4) as pair:
        await trio.sleep(0.2)
        assert len(pair.session.channels) == len(pair.session.keepers) == 1


async def test_refused_paths_are_tried_again_however_much_others_come_and_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BIND_AGAIN_S", 0.3)
    bind_of, room = binding._bind_of, [2]

    def full(request: Request, session: Session) -> binding.Bind:
        if len(session.channels) >= room[0]:
            raise StatusError(NtStatus.INSUFFICIENT_RESOURCES, "no room")
        return bind_of(request, session)

    monkeypatch.setattr(binding, "_bind_of", full)
    async with mesh_pair(tmp_path, ways=ways(tmp_path, 3)) as pair:
        await bound(pair, 2)
        await until(lambda: any("no further channel" in keeper.why for keeper in pair.session.keepers))
        room[0] = 3
        for _ in range(20):
            pair.session.channels_changed()
            await trio.sleep(0.05)
        await bound(pair, 3)


async def test_interfaces_are_asked_for_again_after_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exporter whose links are still coming up has no interface to list."""
    asked = []

    async def refused_once(*_: object) -> tuple[Remote, ...]:
        asked.append(trio.current_time())
        if len(asked) == 1:
            raise StatusError(NtStatus.NOT_SUPPORTED, "IOCTL")
        return (Remote("way-0", 25_000_000_000, 3),)

    monkeypatch.setattr(news, "query_interfaces", refused_once)
    monkeypatch.setattr(limits, "INTERFACES_REFRESH_S", 0.1)
    async with mesh_pair(tmp_path, ways=ways(tmp_path, 1, asks=True)) as pair:
        await until(lambda: pair.session.keepers[0].path.speed_bits_s == 25_000_000_000)
        assert len(asked) >= 2


async def test_a_restarted_exporter_is_not_kept_waiting_for_by_a_silent_channel(tmp_path: Path) -> None:
    """The other channel finds another instance of the exporter. So the silent channel cannot be merely slow."""
    socket = tmp_path / "exporter.sock"
    async with trio.open_nursery() as nursery:
        relays = Relays(functools.partial(trio.open_unix_socket, socket), nursery)
        dialers = [relays.dial, functools.partial(connect_unix, socket)]
        async with mesh_pair(tmp_path, 4 * MIB, ways=FixedWays(dialers)) as pair:
            await bound(pair, 2)
            handle = await pair.port.open(IoClass.APP, writable=True)
            relays.alive[0].hold()
            start_s = trio.current_time()
            await pair.restart()
            assert await handle.write(0, b"data") == 4
            took_s = trio.current_time() - start_s
            assert took_s < limits.CHANNEL_SILENCE_MAX_S / 2
        nursery.cancel_scope.cancel()


async def test_a_lost_write_whose_handle_is_closed_meanwhile_is_fenced(tmp_path: Path) -> None:
    """The write may still be at the disk, and other handles write through the same open."""
    async with mesh_pair(tmp_path, ways=ways(tmp_path, 2)) as pair:
        await bound(pair, 2)
        other = await pair.port.open(IoClass.APP, writable=True)
        handle = await pair.port.open(IoClass.APP, writable=True)
        shared, lost = handle._shared, handle._shared.file_id
        await handle.close()
        with pytest.raises(OSError, match="closed") as raised:
            await handle._write_slowly(
                0, memoryview(b"data"), trio.current_time() + 5, False, MayHaveBeenExecuted(lost)
            )
        assert raised.value.errno == errno.EBADF
        await until(lambda: shared.file_id != lost)
        assert await other.write(0, b"next") == 4

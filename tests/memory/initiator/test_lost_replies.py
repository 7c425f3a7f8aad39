"""A single reply that is lost on the way costs at most its own call, and no later one."""

from pathlib import Path

import pytest
import trio

from meshfs.limits import KIB
from meshfs.model import IoClass
from meshfs.smb.constants import Command
from meshfs.transport.stream import connect_tcp
from meshlab.fakes.mesh_pair import mesh_pair
from meshlab.smb.frames import messages
from meshlab.smb.proxy import Proxy
from support.waiting import until

IO_TIMEOUT_S = 2.0
TIMEOUT_S = 60


class Lost:
    """Stands in for the damages of a proxy: turns the next reply to a command into an interim reply without signature.

    For IOCTL, that is the reply after a CREATE, which is about the disk that was opened.
    """

    def __init__(self, command: Command) -> None:
        self.command = command
        self.done = 0
        self.armed = command is not Command.IOCTL

    def passing(self, frame: bytes, is_reply: bool) -> bytes:
        first = next(iter(messages(frame)), None)
        if not is_reply or self.done or first is None:
            return frame
        if not self.armed or first.command != self.command:
            self.armed |= first.command == Command.CREATE
            return frame
        self.done += 1
        changed = bytearray(frame)
        changed[12:16] = (0x103).to_bytes(4, "little")  # STATUS_PENDING
        changed[20:24] = (0x3).to_bytes(4, "little")  # a response, asynchronous, not signed
        return bytes(changed)


@pytest.mark.parametrize("command", [Command.CREATE, Command.CLOSE, Command.IOCTL], ids=lambda command: command.name)
async def test_a_disk_is_opened_again_after_a_reply_was_lost(
    proxy: Proxy, port: int, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dial() -> object:
        return await connect_tcp("127.0.0.1", proxy.port)

    with trio.fail_after(TIMEOUT_S):
        async with mesh_pair(tmp_path, 64 * KIB, io_timeout_s=IO_TIMEOUT_S, dialers=[dial], tcp_port=port) as pair:
            lost = Lost(command)
            if command is Command.CLOSE:
                handle = await pair.port.open(IoClass.APP, writable=True)
                monkeypatch.setattr(proxy.damages, "passing", lost.passing)
                await handle.close()
            else:
                monkeypatch.setattr(proxy.damages, "passing", lost.passing)
            session = pair.session.session
            with trio.fail_after(10 * IO_TIMEOUT_S):
                while True:
                    try:
                        handle = await pair.port.open(IoClass.APP, writable=True)
                        await handle.write(0, b"a" * 512)
                        break
                    except TimeoutError:
                        await trio.sleep(0.1)
            assert lost.done == 1
            assert pair.session.session is session is not None
            await handle.close()


async def test_the_list_of_disks_is_asked_for_again(
    proxy: Proxy, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dial() -> object:
        return await connect_tcp("127.0.0.1", proxy.port)

    with trio.fail_after(TIMEOUT_S):
        async with mesh_pair(tmp_path, 64 * KIB, io_timeout_s=IO_TIMEOUT_S, dialers=[dial], tcp_port=port) as pair:
            exporter = pair.exporter.exporter
            assert exporter is not None
            lost = Lost(Command.IOCTL)
            lost.armed = True
            monkeypatch.setattr(proxy.damages, "passing", lost.passing)
            (before,) = pair.session.disks
            disk = exporter.disks.all()[0]
            exporter.take_config("another digest")
            await until(lambda: bool(lost.done))
            exporter.disks.remove(disk.name)
            await until(lambda: before not in pair.session.disks)
            assert pair.session.failures == 0

"""smbclient reads the SES pages of an enclosure, lists the share, and sends control pages."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from meshfs.exporter.serving.listener import Listener
from meshfs.model import Access
from meshfs.ses.status import Lamps
from meshfs.transport.listening import listen_tcp
from meshlab.fakes.enclosure import FakeEnclosureDevice, offer_enclosure
from meshlab.smb.raw_client import PASSWORDS
from meshlab.smb.raw_initiator import make_exporter
from support.commands import run
from support.waiting import until

pytestmark = pytest.mark.peers
T = TypeVar("T")


class Peer:
    """Runs smbclient as any node: n1 may read and control the enclosure, n2 may read, and n3 may not know of it."""

    def __init__(self, port: int, device: FakeEnclosureDevice) -> None:
        self._port = port
        self.device = device

    async def run(self, call: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(call)

    async def smbclient(self, command: str, *, node: str = "n1", options: tuple[str, ...] = ()) -> str:
        line = ["smbclient", "//127.0.0.1/enclosures", "-p", str(self._port), "-U", f"{node}%{PASSWORDS[node]}"]
        return await self.run(partial(run, *line, "-c", command, *options, status=None, timeout_s=60))

    async def list_shares(self) -> str:
        line = ["smbclient", "-L", "//127.0.0.1", "-p", str(self._port), "-U", f"n1%{PASSWORDS['n1']}"]
        return await self.run(partial(run, *line, status=None, timeout_s=60))


@asynccontextmanager
async def serving() -> AsyncIterator[Peer]:
    exporter, device = make_exporter(), FakeEnclosureDevice()
    offer_enclosure(exporter, device, {"n2": Access.READ_ONLY, "n3": Access.NONE})
    with listen_tcp("127.0.0.1", 0) as listening:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Listener(exporter, [listening]).run)
            yield Peer(listening.getsockname()[1], device)
            await until(lambda: not exporter.peers)
            nursery.cancel_scope.cancel()
    assert not exporter.sessions
    assert exporter.pool.used_bytes == 0


@pytest.mark.parametrize("node", ["n1", "n2"])
@pytest.mark.parametrize("protection", ["sign", "encrypt"])
async def test_smbclient_reads_what_the_device_gives_byte_for_byte(tmp_path: Path, node: str, protection: str) -> None:
    async with serving() as peer:
        options = (f"--client-protection={protection}",)
        output = await peer.smbclient(f"get shelf {tmp_path}/pages", node=node, options=options)
        assert "NT_STATUS" not in output
        assert (tmp_path / "pages").read_bytes() == peer.device.reading().content


async def test_smbclient_sends_a_control_page(tmp_path: Path) -> None:
    async with serving() as peer:
        page, pages = tmp_path / "page", tmp_path / "pages"
        page.write_bytes(peer.device.control_page(2, Lamps(locate=True)))
        output = await peer.smbclient(f"put {page} shelf; get shelf {pages}")
        assert "NT_STATUS" not in output
        assert [bay.locate for bay in peer.device.bays] == [False, False, True, False]
        assert pages.read_bytes() == peer.device.reading().content


async def test_what_is_no_control_page_is_refused(tmp_path: Path) -> None:
    async with serving() as peer:
        good = peer.device.control_page(2, Lamps(locate=True))
        for name, content, status in (
            ("short", good[:-4], "INVALID_PARAMETER"),
            ("long", good + bytes(4), "INVALID_PARAMETER"),
            ("another page", peer.device.reading().content, "INVALID_PARAMETER"),
            ("another generation", good[:4] + bytes(4) + good[8:], "FILE_INVALID"),
        ):
            (tmp_path / name).write_bytes(content)
            assert f"NT_STATUS_{status}" in await peer.smbclient(f'put "{tmp_path}/{name}" shelf')
        assert not peer.device.controls


async def test_a_node_that_may_only_read_is_refused_to_write(tmp_path: Path) -> None:
    async with serving() as peer:
        page = tmp_path / "page"
        page.write_bytes(peer.device.control_page(2, Lamps(locate=True)))
        assert "NT_STATUS_ACCESS_DENIED" in await peer.smbclient(f"put {page} shelf", node="n2")
        assert not peer.device.controls


async def test_smbclient_lists_the_enclosures_that_the_node_may_know_of(tmp_path: Path) -> None:
    async with serving() as peer:
        size_bytes = len(peer.device.reading().content)
        for node in ("n1", "n2"):
            assert re.search(rf"shelf +[NR]+ +{size_bytes} ", await peer.smbclient("ls", node=node)) is not None
        assert "shelf" not in await peer.smbclient("ls", node="n3")
        gone = await peer.smbclient(f"get shelf {tmp_path}/pages", node="n3")
        assert "NT_STATUS_OBJECT_NAME_NOT_FOUND" in gone


async def test_the_list_of_shares_has_the_share() -> None:
    async with serving() as peer:
        assert re.search(r"enclosures +Disk +enclosures of disks", await peer.list_shares())

"""The initiator as the mount uses it: config and keys in, exporters, ports and status out."""

import errno
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from meshfs.cluster import config as cluster_config
from meshfs.cluster.config import Config
from meshfs.cluster.keys import Keyring, generate
from meshfs.initiator import Initiator
from meshfs.initiator.remote.states import ExporterState
from meshfs.limits import MIB
from meshfs.model import IoClass
from meshlab.fakes.mesh_pair import MemoryExporter
from support.waiting import until

NODES = ("n1", "n2", "n3")


@dataclass(frozen=True)
class Settings:
    config: Config
    node: str
    keyring: Keyring
    io_timeout_s: float


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def write_config(folder: Path) -> Config:
    lines = ['[cluster]\nname = "demo"\n']
    for node in NODES:
        generate(folder / "keys", node)
        disk = f'[[node.disk]]\nname = "disk0"\npath = "{node}.img"\n' if node != "n3" else ""
        lines.append(f'[[node]]\nname = "{node}"\naddresses = ["127.0.0.1"]\nport = {free_port()}\n{disk}')
    (folder / "cluster.toml").write_text("".join(lines))
    return cluster_config.load(folder / "cluster.toml")


@dataclass
class Cluster:
    exporters: dict[str, MemoryExporter]
    initiator: Initiator
    nursery: trio.Nursery
    changes: int = 0

    async def until(self, node: str, state: ExporterState) -> None:
        await until(lambda: self.initiator.exporters[node].state is state)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Run the initiator of a mount on n1. n1 and n2 have exporters, and only that of n1 is up."""
    config = write_config(tmp_path)
    exporters = {
        name: MemoryExporter(
            config.node(name).socket,
            MIB,
            node=name,
            passwords=Keyring(config, name).passwords(),
            port=config.node(name).port,
        )
        for name in ("n1", "n2")
    }
    initiator = Initiator(Settings(config, "n1", Keyring(config, "n1"), 2.0))
    async with trio.open_nursery() as nursery:
        running = Cluster(exporters, initiator, nursery)

        def changed() -> None:
            running.changes += 1

        initiator.on_change = changed
        await nursery.start(exporters["n1"].run)
        await nursery.start(initiator.run)
        yield running
        nursery.cancel_scope.cancel()


async def test_exporters_are_the_nodes_with_disks(cluster: Cluster) -> None:
    assert list(cluster.initiator.exporters) == ["n1", "n2"]
    await cluster.until("n1", ExporterState.CONNECTED)
    await cluster.until("n2", ExporterState.DOWN)
    assert cluster.changes >= 2
    with pytest.raises(KeyError):
        cluster.initiator.port("meshfs-n2-disk0")


async def test_one_exporter_down_does_not_touch_the_other(cluster: Cluster) -> None:
    await cluster.until("n1", ExporterState.CONNECTED)
    port = cluster.initiator.port("meshfs-n1-disk0")
    handle = await port.open(IoClass.APP, writable=True)
    assert await handle.write(4096, b"mine") == 4
    assert bytes(await handle.read(4096, 4)) == b"mine"
    assert cluster.initiator.port("meshfs-n1-disk0") is port


async def test_an_exporter_that_comes_later_is_used(cluster: Cluster) -> None:
    await cluster.until("n2", ExporterState.DOWN)
    before = cluster.changes
    await cluster.nursery.start(cluster.exporters["n2"].run)
    await cluster.until("n2", ExporterState.CONNECTED)
    assert cluster.changes > before
    handle = await cluster.initiator.port("meshfs-n2-disk0").open(IoClass.SYSTEM, writable=True)
    assert await handle.write(0, b"far away") == 8
    assert cluster.exporters["n2"].disk.data.startswith(b"far away")


async def test_own_exporter_by_unix_socket_others_by_tcp(cluster: Cluster) -> None:
    await cluster.nursery.start(cluster.exporters["n2"].run)
    await cluster.until("n1", ExporterState.CONNECTED)
    await cluster.until("n2", ExporterState.CONNECTED)
    own, other = cluster.initiator.status()
    assert [status["channels"][0]["transport"] for status in (own, other)] == ["unix", "tcp"]
    port = cluster.exporters["n2"].port
    assert other["channels"][0]["remote"] == f"127.0.0.1:{port}"


async def test_a_lost_exporter_leaves_other_disks_alone_and_its_own_waiting(cluster: Cluster) -> None:
    await cluster.nursery.start(cluster.exporters["n2"].run)
    await cluster.until("n1", ExporterState.CONNECTED)
    await cluster.until("n2", ExporterState.CONNECTED)
    mine = await cluster.initiator.port("meshfs-n1-disk0").open(IoClass.APP, writable=True)
    theirs = await cluster.initiator.port("meshfs-n2-disk0").open(IoClass.APP, writable=True)
    await cluster.exporters["n2"].stop()
    ended: list[float] = []

    async def wait_in_vain() -> None:
        with pytest.raises(OSError) as caught:  # noqa: PT011 - its errno is looked at
            await theirs.read(0, 512)
        assert caught.value.errno == errno.ETIMEDOUT
        ended.append(trio.current_time())

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_in_vain)
        for _ in range(50):
            assert await mine.read(0, 512) == bytes(512)
        assert trio.current_time() - start < 1
    assert 1.9 < ended[0] - start < 3.0

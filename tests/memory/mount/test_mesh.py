"""The tree of a mount follows the sessions of its initiator."""

import json
import logging
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from meshfs import bugs
from meshfs.cluster import config as cluster_config
from meshfs.cluster.config_watch import LoadedConfig, read
from meshfs.cluster.keys import Keyring, generate
from meshfs.enclosure_info import SlotInfo
from meshfs.errors import ConfigError, KeyFileError, MountFailed
from meshfs.fuse.operations import Operations
from meshfs.fuse.transfers import Transfers
from meshfs.initiator.remote.states import ExporterState
from meshfs.mount import control as mount_control
from meshfs.mount import process
from meshfs.mount.mount import Mount
from meshfs.mount.options import MountOptions, parse_arguments
from meshfs.mount.reload import _is_config
from meshfs.mount.settings import Settings, prepare
from meshfs.namespace.entries import Directory, DiskFile
from meshfs.namespace.tree import ROOT_INODE
from meshlab.fakes.enclosure_port import fake_enclosure
from meshlab.fakes.initiator import FakeInitiator
from meshlab.fakes.port import fake_disk

ROOT = SimpleNamespace(uid=0, gid=0, pid=0)
DISK = """
  [[node.disk]]
  name = "a"
  path = "a.img"
"""
CONFIG = f"""
[cluster]
name = "demo"
io_timeout_s = 7
[[node]]
name = "n1"
addresses = ["127.0.0.1"]
socket = "n1.sock"
{DISK}
[[node]]
name = "n2"
addresses = ["127.0.0.2"]
socket = "n2.sock"
"""


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.toml"
    path.write_text(CONFIG)
    (tmp_path / "keys").mkdir()
    for node in ("n1", "n2"):
        generate(tmp_path / "keys", node)
    return path


def mounted(settings: Settings, initiator: FakeInitiator) -> Mount:
    return Mount(settings, initiator, lambda: {"path": "", "error": ""})


def disk_files(mount: Mount) -> dict[str, str]:
    by_id = mount.mesh.tree.root.entries[b"disk"]
    assert isinstance(by_id, Directory)
    files = by_id.entries[b"by-id"]
    assert isinstance(files, Directory)
    return {name.decode(): file.disk.state for name, file in files.entries.items() if isinstance(file, DiskFile)}


async def test_disks_come_and_go_with_their_exporters(config_path: Path) -> None:
    config = cluster_config.load(config_path)
    settings = Settings(config, "n1", Keyring(config, "n1"), "/mesh", MountOptions("c", "/mesh"))
    initiator = FakeInitiator(settings)
    mount = mounted(settings, initiator)
    assert not mount.mesh.settled.is_set()
    info = fake_disk("n1", "a", 4096)
    first, second = initiator.exporters.values()
    first.state, first.disks = ExporterState.CONNECTED, (info,)
    initiator.on_change()
    assert disk_files(mount) == {info.id: "ok"}
    assert not mount.mesh.settled.is_set()
    second.state = ExporterState.DOWN
    initiator.on_change()
    assert mount.mesh.settled.is_set()
    first.state = ExporterState.DOWN
    initiator.on_change()
    assert disk_files(mount) == {info.id: "absent"}
    first.state, first.disks = ExporterState.CONNECTED, ()
    initiator.on_change()
    assert disk_files(mount) == {}


def without_disk(config_path: Path) -> LoadedConfig:
    config_path.write_text(CONFIG.replace(DISK, ""))
    return read(config_path, "n2")


@pytest.mark.parametrize("state", [ExporterState.CONNECTED, ExporterState.DOWN])
async def test_disks_that_leave_the_config_leave_the_mount(config_path: Path, state: ExporterState) -> None:
    """The node stays in the config. Its exporter has not been reloaded yet, or has stopped."""
    loaded = read(config_path, "n2")
    settings = Settings(loaded.config, "n2", loaded.keyring, "/mesh", MountOptions("c", "/mesh"))
    initiator = FakeInitiator(settings)
    mount = mounted(settings, initiator)
    exporter = initiator.exporters["n1"]
    exporter.state, exporter.disks = ExporterState.CONNECTED, (fake_disk("n1", "a", 4096),)
    initiator.on_change()
    exporter.state = state
    initiator.on_change()
    assert len(disk_files(mount)) == 1
    loaded = without_disk(config_path)
    mount.reload(replace(settings, config=loaded.config, keyring=loaded.keyring), loaded)
    assert disk_files(mount) == {}
    assert mount.status.document()["problems"] == []


async def test_an_internal_error_of_a_mount_is_a_problem(config_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bugs, "_seen", {})
    config = cluster_config.load(config_path)
    settings = Settings(config, "n2", Keyring(config, "n2"), "/mesh", MountOptions("c", "/mesh"))
    mount = mounted(settings, FakeInitiator(settings))
    await mount.status.problem_watch.look()
    bugs.report(logging.getLogger("test"), "a callback", ValueError("an error of ours"))
    await mount.status.problem_watch.look()
    assert "internal-errors" in [problem["code"] for problem in mount.status.document()["problems"]]


async def test_the_status_tells_what_meshctl_needs(config_path: Path) -> None:
    config = cluster_config.load(config_path)
    settings = Settings(config, "n2", Keyring(config, "n2"), "/mesh", MountOptions("c", "/mesh"))
    initiator = FakeInitiator(settings)
    info = fake_disk("n1", "a", 4096)
    initiator.exporters["n1"].state, initiator.exporters["n1"].disks = ExporterState.CONNECTED, (info, info)
    status = json.loads(mounted(settings, initiator).status.text(True))
    assert (status["version"], status["node"], status["io_timeout_s"]) == (1, "n2", 7)
    assert [(each["node"], each["state"], each["addresses"]) for each in status["exporters"]] == [
        ("n1", "connected", 1),
        ("n2", "connecting", 1),
    ]
    assert status["config_digest"] == config.digest
    (disk,) = status["disks"]
    assert (disk["id"], disk["access"], disk["present"], disk["opens"]) == (info.id, "rw", True, 0)
    assert (disk["local"], disk["io"]["reads"]) == (False, 0)
    own = Settings(config, "n1", Keyring(config, "n1"), "/mesh", MountOptions("c", "/mesh"))
    assert [disk["local"] for disk in mounted(own, initiator).status.document()["disks"]] == [True]
    assert len(status["refused"]) == 1


async def test_enclosures_follow_their_exporter(config_path: Path) -> None:
    config = cluster_config.load(config_path)
    settings = Settings(config, "n2", Keyring(config, "n2"), "/mesh", MountOptions("c", "/mesh"))
    initiator = FakeInitiator(settings)
    mount = mounted(settings, initiator)

    def shown() -> list[tuple[str, str, bool]]:
        document = mount.status.document()
        return [(each["id"], each["state"], each["present"]) for each in document["enclosures"]]

    exporter = initiator.exporters["n1"]
    exporter.state = ExporterState.CONNECTED
    initiator.on_change()
    assert shown() == []
    slot = SlotInfo("07", text="Bay 7", number=7, status="ok", locate=True, disk="image-1")
    exporter.enclosures = (fake_enclosure("n1", "shelf", slots=(slot,)), fake_enclosure("n2", "wrong"))
    initiator.on_change()
    assert shown() == [("enc-n1-shelf", "ok", True)]
    document = mount.status.document()
    assert document["enclosures"][0]["slots"] == [asdict(slot)]
    assert document["refused_enclosures"] == ["node n1: enclosure 'enc-n2-wrong': claims to be node 'n2''s"]
    assert json.loads(mount.status.text(False))["enclosures"] == document["enclosures"]
    assert (await mount.status.slow_document())["enclosures"] == document["enclosures"]
    assert "enclosure-refused" in [problem["code"] for problem in document["problems"]]
    exporter.state = ExporterState.DOWN
    initiator.on_change()
    assert shown() == [("enc-n1-shelf", "absent", False)]
    loaded = without_disk(config_path)
    mount.reload(replace(settings, config=loaded.config, keyring=loaded.keyring), loaded)
    assert shown() == []


async def test_which_path_is_the_config_of_a_mount(config_path: Path, tmp_path: Path) -> None:
    config = cluster_config.load(config_path)
    loop, link, pipe = tmp_path / "loop", tmp_path / "link", tmp_path / "pipe"
    loop.symlink_to("loop")
    link.symlink_to(config_path)
    os.mkfifo(pipe)
    assert await _is_config(str(config_path), config)
    assert await _is_config(str(link), config)
    for other in (loop, pipe, tmp_path / "missing"):
        assert not await _is_config(str(other), config)


def test_mistakes_are_found_before_anything_starts(config_path: Path, tmp_path: Path) -> None:
    def attempt(config: object, mountpoint: object, options: str) -> Settings:
        return prepare(parse_arguments("meshfs", [str(config), str(mountpoint), "-o", options]))

    settings = attempt(config_path, tmp_path, "node=n1,io_timeout=3,log=x")
    assert settings.io_timeout_s == 3
    assert settings.mountpoint == str(tmp_path)
    assert settings.options.log_path == str(Path("x").absolute())
    with pytest.raises(ConfigError, match="no node 'n9'"):
        attempt(config_path, tmp_path, "node=n9")
    with pytest.raises(ConfigError, match="no node is named as this host"):
        attempt(config_path, tmp_path, "ro")
    with pytest.raises(ConfigError):
        attempt(tmp_path / "missing.toml", tmp_path, "node=n1")
    with pytest.raises(MountFailed, match="not a directory"):
        attempt(config_path, config_path, "node=n1")
    with pytest.raises(MountFailed, match="No such file"):
        attempt(config_path, tmp_path / "missing", "node=n1")
    (tmp_path / "keys" / "n1.key").chmod(0o644)
    with pytest.raises(KeyFileError):
        attempt(config_path, tmp_path, "node=n1")


async def test_a_mount_runs_on_a_front_end_without_a_kernel(config_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole process of a mount runs here but for its command. The test hands a front end in, and ends it."""
    monkeypatch.setattr(process, "be_spared_at_shutdown", lambda: None)
    monkeypatch.setattr(process, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(mount_control, "_RUN", config_path.parent / "run")
    config = cluster_config.load(config_path)
    options = MountOptions("c", "/mesh", foreground=True)
    settings = Settings(config, "n1", Keyring(config, "n1"), "/mesh", options, awaited=("n1/a",))
    ready, sizes = trio.Event(), []

    async def front(
        operations: Operations, mountpoint: str, options: Iterable[str], *, on_ready: Callable[[], None]
    ) -> None:
        on_ready()
        await ready.wait()
        transfers = Transfers(operations.files.by_number)
        disk, status = (inode_of(operations, path) for path in ("disk/by-id/meshfs-n1-a", ".meshfs/status"))
        opened = await operations.open(disk, os.O_RDWR, ROOT)
        sizes.append(await transfers.write(opened.number, 0, b"data"))
        shown = await operations.open(status, os.O_RDONLY, ROOT)
        document = json.loads(bytes(await transfers.read(shown.number, 0, 1 << 20)))
        assert (mountpoint, document["mountpoint"], document["node"]) == ("/mesh", "/mesh", "n1")
        assert [each["opens"] for each in document["disks"]] == [1]
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(document["control"])

    log = SimpleNamespace(state=lambda: {"path": "", "error": ""})
    with trio.fail_after(10):
        await process.run(settings, FakeInitiator(settings), log, ready.set, front)
    assert sizes == [4]
    assert list((config_path.parent / "run").iterdir()) == []


def inode_of(operations: Operations, path: str) -> int:
    inode = ROOT_INODE
    for name in path.split("/"):
        inode = operations.lookup(inode, name.encode()).inode
    return inode

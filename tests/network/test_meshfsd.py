"""The exporter's process: status, reload, stop, systemd, and what it leaves behind."""

import json
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from benchmark.fio import rss_mib
from meshfs import limits
from meshfs.cluster.config import load
from meshfs.cluster.keys import Keyring
from meshfs.model import SHARE_DISKS
from meshfs.smb.constants import AccessMask, Command, NtStatus
from meshfs.smb.messages import (
    ChangeNotifyRequest,
    ChangeNotifyResponse,
    EchoRequest,
    FileId,
    unpack_notifications,
)
from meshlab.cluster.cluster import BIN, LocalCluster, LocalDisk, free_port
from meshlab.smb.frames import prefix
from meshlab.smb.raw_messages import read_body, write_body
from meshlab.smb.socket_initiator import SocketInitiator
from support.commands import run

MIB = 1 << 20
ECHO = EchoRequest().pack()
LIST = int(AccessMask.READ_DATA)


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path) as cluster:
        disks = [cluster.image(name, MIB, cache="writeback") for name in ("disk0", "disk1")]
        cluster.add_node("n1", disks)
        cluster.add_node("n2")
        cluster.write()
        cluster.keygen()
        yield cluster


def connect(cluster: LocalCluster, node: str = "n2") -> SocketInitiator:
    password = Keyring(load(cluster.config), node).password_to("n1")
    client = SocketInitiator(str(cluster.folder / "run" / "n1.sock"))
    client.negotiate()
    assert client.set_up(node, password).status == 0
    client.connect(SHARE_DISKS)
    return client


def log_of(cluster: LocalCluster) -> str:
    return cluster.exporters["n1"].log.read_text()


def test_status_tells_of_sessions_disks_and_counters(cluster: LocalCluster) -> None:
    running = cluster.start_exporter("n1")
    with connect(cluster) as client:
        file_id = client.open("disk0")
        assert client.call(Command.WRITE, write_body(file_id, 0, bytes(4096))).status == 0
        assert len(client.call(Command.READ, read_body(file_id, 0, 512)).data) == 512
        status = cluster.control("n1")
        assert (status["version"], status["node"], status["pid"]) == (1, "n1", running.pid)
        assert len(status["listening"]) == 2
        [session] = status["sessions"]
        expected = {"node": "n2", "dialect": "3.1.1", "signing": "AES-GMAC", "cipher": "none", "opens": 1}
        assert {key: session[key] for key in expected} == expected
        disk = status["disks"][0]
        assert (disk["name"], disk["size_bytes"], disk["state"]) == ("disk0", MIB, "ok")
        assert (disk["reads"], disk["writes"], disk["read_bytes"], disk["written_bytes"]) == (1, 1, 512, 4096)
        assert status["counters"]["logins"] == 1
    until(lambda: not cluster.control("n1")["sessions"], "the session of a closed connection stays")


@pytest.mark.parametrize("line", [b"not JSON", b"[]", b'{"verb": "no such"}', b"{}", b"[" * 50_000])
def test_bad_lines_on_the_control_socket_are_answered(cluster: LocalCluster, line: bytes) -> None:
    cluster.start_exporter("n1")
    path = cluster.folder / "run" / "n1.ctl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(5)
        stream.connect(str(path))
        stream.sendall(line + b"\n")
        with stream.makefile("rb") as lines:
            assert "error" in json.loads(lines.readline())
    assert cluster.control("n1")["node"] == "n1"


def test_reload_adds_and_withdraws_disks_and_tells_watchers(cluster: LocalCluster) -> None:
    running = cluster.start_exporter("n1")
    node = cluster.nodes["n1"]
    with connect(cluster) as client:
        kept, going = client.open("disk0"), client.open("disk1")
        root = client.open("", LIST)
        watch = client.send(Command.CHANGE_NOTIFY, ChangeNotifyRequest(FileId(root, root), 4096, 0xFFF).pack())
        assert client.take(watch).status == NtStatus.PENDING
        node.disks[1:] = [cluster.image("disk2", 2 * MIB, cache="writeback")]
        cluster.write()
        os.kill(running.pid, signal.SIGHUP)
        changes = unpack_notifications(ChangeNotifyResponse.unpack(client.take(watch).body).output)
        assert changes == ((2, "disk1"),)
        until(lambda: [disk["name"] for disk in cluster.control("n1")["disks"]] == ["disk0", "disk2"], "not reloaded")
        assert client.call(Command.READ, read_body(kept, 0, 512)).status == 0
        assert client.call(Command.READ, read_body(going, 0, 512)).status == NtStatus.FILE_CLOSED
        assert client.create("disk2").status == 0


def test_a_broken_config_changes_nothing(cluster: LocalCluster) -> None:
    running = cluster.start_exporter("n1")
    good = cluster.config.read_text()
    with connect(cluster) as client:
        file_id = client.open("disk0")
        cluster.config.write_text(good.replace('cache = "writeback"', 'cache = "maybe"'))
        os.kill(running.pid, signal.SIGHUP)
        until(lambda: "the old config stays in force" in log_of(cluster), "no log line")
        assert client.call(Command.READ, read_body(file_id, 0, 512)).status == 0
        cluster.config.write_text(good)
        os.kill(running.pid, signal.SIGHUP)
        until(lambda: "reloaded " in log_of(cluster), "not reloaded")
        assert client.call(Command.READ, read_body(file_id, 0, 512)).status == 0


def test_a_disk_that_cannot_be_opened_at_reload_leaves_the_others_alone(cluster: LocalCluster) -> None:
    running = cluster.start_exporter("n1")
    cluster.nodes["n1"].disks.append(cluster.image("disk2", MIB, cache="writeback"))
    (cluster.folder / "disks" / "disk2.img").unlink()
    cluster.write()
    os.kill(running.pid, signal.SIGHUP)
    until(lambda: "disk disk2 is missing: " in log_of(cluster), "no log line")
    until(lambda: "reloaded " in log_of(cluster), "not reloaded")
    states = {disk["name"]: disk["state"] for disk in cluster.control("n1")["disks"]}
    assert states == {"disk0": "ok", "disk1": "ok", "disk2": "missing"}


def test_a_node_that_left_the_cluster_loses_its_session(cluster: LocalCluster) -> None:
    cluster.add_node("n3")
    cluster.write()
    cluster.keygen()
    running = cluster.start_exporter("n1")
    with connect(cluster, "n3") as leaving, connect(cluster) as staying:
        del cluster.nodes["n3"]
        cluster.write()
        os.kill(running.pid, signal.SIGHUP)
        until(lambda: len(cluster.control("n1")["sessions"]) == 1, "the session stays")
        assert leaving.call(Command.ECHO, ECHO).status == NtStatus.USER_SESSION_DELETED
        assert staying.call(Command.ECHO, ECHO).status == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_well_and_leaves_no_sockets(cluster: LocalCluster, how: signal.Signals) -> None:
    running = cluster.start_exporter("n1")
    with connect(cluster) as client:
        file_id = client.open("disk0")
        assert client.call(Command.WRITE, write_body(file_id, 0, b"before the end")).status == 0
        os.kill(running.pid, how)
        assert running.process.wait(10) == 0
        with pytest.raises(EOFError):
            client.answered(client.next_id)
    assert not list((cluster.folder / "run").iterdir())
    assert (cluster.folder / "disks" / "disk0.img").read_bytes()[:14] == b"before the end"
    text = running.log.read_text()
    assert "Traceback" not in text
    assert "WARNING" not in text


def test_a_killed_exporter_is_replaced(cluster: LocalCluster) -> None:
    cluster.start_exporter("n1")
    cluster.stop_exporter("n1", signal.SIGKILL)
    assert (cluster.folder / "run" / "n1.sock").exists()
    cluster.start_exporter("n1")
    with connect(cluster) as client:
        assert client.open("disk0")


def test_a_second_exporter_of_a_node_gives_up_and_harms_nothing(cluster: LocalCluster) -> None:
    cluster.start_exporter("n1")
    # Without disks, the exporter gets as far as the addresses.
    other = cluster.folder / "other.toml"
    other.write_text(cluster.config.read_text().split("  [[node.disk]]")[0])
    done = subprocess.run(
        [BIN / "meshfsd", "--config", other, "--node", "n1"], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 2
    assert "Address already in use" in done.stderr
    assert "Traceback" not in done.stderr
    with connect(cluster) as client:
        assert client.open("disk0")


def test_strangers_cost_bounded_memory_and_leave_others_alone(cluster: LocalCluster) -> None:
    running = cluster.start_exporter("n1")
    node = cluster.nodes["n1"]
    frame = limits.FRAME_MAX_UNAUTHENTICATED_BYTES
    with connect(cluster) as client, ExitStack() as strangers:
        file_id = client.open("disk0")
        before_mib = rss_mib(running.pid)
        for number in range(16 * limits.CONNECTIONS_STRANGER_MAX):
            stranger = strangers.enter_context(socket.create_connection((node.address, node.port)))
            # The frame lacks its last byte, or is too long.
            announced, sent = (frame, frame - 1) if number % 4 else (frame + 1, 64)
            with suppress(ConnectionError):
                stranger.sendall(prefix(announced) + random.Random(number).randbytes(sent))
        until(lambda: cluster.control("n1")["counters"].get("connections_ended"), "some are ended for others")
        assert client.call(Command.WRITE, write_body(file_id, 0, bytes(4096))).status == 0
        assert rss_mib(running.pid) - before_mib < 64
        assert len(cluster.control("n1")["sessions"]) == 1
    assert "Traceback" not in log_of(cluster)


@pytest.mark.parametrize("name", ["meshfsd@.service", "meshfs-wait@.service", "mesh.mount"])
def test_the_unit_is_sound(tmp_path: Path, name: str) -> None:
    """systemd itself judges the unit, with the command at its path on this machine."""
    unit = tmp_path / name
    shipped = Path(__file__).parents[2] / "daemon/systemd" / name
    unit.write_text(shipped.read_text().replace("/usr/bin/", f"{BIN}/"))
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd here")
    said = run("systemd-analyze", "verify", "--man=no", unit, status=None)
    assert [line for line in said.splitlines() if "meshfs" in line] == []


def test_a_mistake_in_a_disk_at_reload_changes_nothing(cluster: LocalCluster) -> None:
    """A path that can never be a disk, or two names for one image. At a start, either is refused with status 2."""
    running = cluster.start_exporter("n1")
    node, good = cluster.nodes["n1"], cluster.config.read_text()
    image = cluster.folder / "disks" / "disk1.img"
    (cluster.folder / "again.img").symlink_to(image)
    for path, reason in ((cluster.logs, "is a directory"), (cluster.folder / "again.img", "same device or image")):
        node.disks[2:] = [LocalDisk("disk2", path)]
        cluster.write()
        os.kill(running.pid, signal.SIGHUP)
        until(lambda reason=reason: reason in log_of(cluster), "no log line")  # type: ignore[misc]
    assert log_of(cluster).count("not reloaded, the old config stays in force: n1/disk2: ") == 2
    assert [disk["name"] for disk in cluster.control("n1")["disks"]] == ["disk0", "disk1"]
    cluster.stop_exporter("n1")
    said = run(BIN / "meshfsd", "--config", cluster.config, "--node", "n1", status=2)
    assert "same device or image as that of disk disk1" in said
    cluster.config.write_text(good)


def test_systemd_is_notified(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cluster.folder / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        running = cluster.start_exporter("n1")
        ready = b"READY=1\nSTATUS=serving 2 of 2 disks"
        assert manager.recv(1000) == ready
        os.kill(running.pid, signal.SIGHUP)
        reloading = manager.recv(1000)
        assert reloading.startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert manager.recv(1000) == ready
        os.kill(running.pid, signal.SIGTERM)
        assert manager.recv(1000) == b"STOPPING=1"
        assert running.process.wait(10) == 0


def test_systemd_is_notified_that_the_exporter_is_alive(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter reports twice within WatchdogSec, from its first moment to its last."""
    path = cluster.folder / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        running = cluster.start_exporter("n1")
        assert manager.recv(1000).startswith(b"READY=1")
        times = []
        for _ in range(5):
            assert manager.recv(1000) == b"WATCHDOG=1"
            times.append(time.monotonic())
        assert 0.6 < times[-1] - times[0] < 3
        os.kill(running.pid, signal.SIGSTOP)
        manager.settimeout(0.5)
        with suppress(TimeoutError):
            # A report that was sent just before may still arrive, but no second one.
            manager.recv(1000)
            with pytest.raises(TimeoutError):
                manager.recv(1000)
        os.kill(running.pid, signal.SIGCONT)


def test_a_reload_moves_addresses_and_port_while_connections_go_on(cluster: LocalCluster) -> None:
    running, node = cluster.start_exporter("n1"), cluster.nodes["n1"]
    old = node.address, node.port
    with connect(cluster) as client, socket.create_connection(old) as there:
        node.addresses[:], node.port = ["127.0.0.2", "127.0.0.8"], free_port("127.0.0.8")
        cluster.write()
        os.kill(running.pid, signal.SIGHUP)
        until(lambda: "reloaded" in log_of(cluster), "reloaded")
        for address in node.addresses:
            socket.create_connection((address, node.port)).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(old)
        assert len(client.call(Command.READ, read_body(client.open("disk0"), 0, 512)).data) == 512
        there.settimeout(0.1)
        with pytest.raises(TimeoutError):
            there.recv(1)
        assert not cluster.control("n1")["problems"]


def test_a_reload_that_cannot_listen_keeps_the_old_address(cluster: LocalCluster) -> None:
    running, node = cluster.start_exporter("n1"), cluster.nodes["n1"]
    old, port = (node.address, node.port), free_port("127.0.0.2")
    with socket.create_server(("127.0.0.2", port)):
        node.port = port
        cluster.write()
        os.kill(running.pid, signal.SIGHUP)
        until(lambda: "addresses and port stay unchanged" in log_of(cluster), "refused")
        until(lambda: cluster.control("n1")["problems"], "a problem")
        socket.create_connection(old).close()
    os.kill(running.pid, signal.SIGHUP)
    until(lambda: not cluster.control("n1")["problems"], "moved")
    socket.create_connection(("127.0.0.2", port)).close()

"""The command as a process, with exporters in memory: the background, signals, exit statuses, logs."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshfs.cluster.keys import generate
from meshfs.linux.mountinfo import read_mounts, topmost
from meshfs.mount.exit_status import EXIT_CONFIG, EXIT_FAILURE, EXIT_USAGE

pytestmark = pytest.mark.mounted

GUARD_S = 60
CONFIG = """
[cluster]
name = "demo"
[[node]]
name = "n1"
addresses = ["127.0.0.1"]
socket = "n1.sock"
  [[node.disk]]
  name = "a"
  path = "a.img"
[[node]]
name = "{second}"
addresses = ["127.0.0.2"]
socket = "n2.sock"
"""
# The command, in which only the initiator is replaced.
COMMAND = """
import sys
from meshfs import limits
from meshfs.mount import program
from meshlab.fakes.initiator import FakeInitiator
limits.MOUNT_SETTLE_S = 0.2
program.Initiator = FakeInitiator
sys.argv[0] = "meshfs"
sys.exit(program.main())
"""


class Place:
    """A config, a mountpoint, and the command on them."""

    def __init__(self, folder: Path, second: str = "n2") -> None:
        self.config = folder / "cluster.toml"
        self.config.write_text(CONFIG.format(second=second))
        self.keys = folder / "keys"
        self.keys.mkdir()
        for node in ("n1", second):
            generate(self.keys, node)
        self.mountpoint = folder / "mesh"
        self.mountpoint.mkdir()
        self.log = folder / "log"
        self.disk = self.mountpoint / "disk" / "by-node" / "n1" / "a"

    def command(self, *arguments: object) -> list[str]:
        given = arguments or (self.config, self.mountpoint, "-o", f"node=n1,log={self.log}")
        return [sys.executable, "-c", COMMAND, *(str(argument) for argument in given)]

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=GUARD_S, check=False)

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads((self.mountpoint / ".meshfs" / "status").read_bytes())
        return status

    def end(self) -> None:
        # os.path.ismount sees no mount whose process is dead.
        while topmost(read_mounts(), str(self.mountpoint)):
            subprocess.run(["umount", "-l", self.mountpoint], check=True)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.end()


def wait_for_end(pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], GUARD_S)[0]
    finally:
        os.close(fd)


def test_the_command_returns_when_the_tree_serves(place: Place) -> None:
    result = place.run()
    assert (result.returncode, result.stderr) == (0, "")
    assert place.disk.read_bytes() == bytes(1 << 20)
    status = place.status()
    assert (status["node"], status["mountpoint"]) == ("n1", str(place.mountpoint))
    assert [disk["id"] for disk in status["disks"]] == ["meshfs-n1-a"]
    assert os.readlink(f"/proc/{status['pid']}/cwd") == "/"
    assert os.readlink(f"/proc/{status['pid']}/fd/2") == "/dev/null"
    subprocess.run(["umount", place.mountpoint], check=True)
    wait_for_end(status["pid"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unmounts(place: Place, number: signal.Signals) -> None:
    assert place.run().returncode == 0
    pid = place.status()["pid"]
    os.kill(pid, number)
    wait_for_end(pid)
    assert not os.path.ismount(place.mountpoint)
    assert number.name in place.log.read_text()


def test_in_the_foreground_systemd_is_told_and_the_status_is_zero(place: Place, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(GUARD_S)
        process = subprocess.Popen(
            place.command(place.config, place.mountpoint, "-f", "-o", "node=n1"),
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
        )
        try:
            assert manager.recv(100) == b"READY=1"
            assert place.disk.exists()
            assert place.status()["pid"] == process.pid
            process.terminate()
            assert process.wait(GUARD_S) == 0
        finally:
            process.kill()
            process.wait(GUARD_S)


def test_an_exporter_that_does_not_answer_stops_no_mount(tmp_path: Path) -> None:
    place = Place(tmp_path, "silent")
    try:
        assert place.run().returncode == 0
        assert os.listdir(place.mountpoint / "disk" / "by-node") == ["n1", "silent"]
        assert os.listdir(place.mountpoint / "disk" / "by-node" / "silent") == []
        pid = place.status()["pid"]
    finally:
        place.end()
    wait_for_end(pid)


def test_mistakes_have_their_status_and_are_named(place: Place) -> None:
    def attempt(*arguments: object) -> tuple[int, str]:
        result = place.run(*arguments)
        assert "Traceback" not in result.stderr
        return result.returncode, result.stderr

    point = place.mountpoint
    status, text = attempt(place.config, point, "-o", "node=n1,nonsense=1")
    assert (status, "nonsense" in text) == (EXIT_USAGE, True)
    status, text = attempt(place.config)
    assert (status, "MOUNTPOINT" in text) == (EXIT_USAGE, True)
    status, text = attempt(place.config, point, "-o", "node=other")
    assert (status, "other" in text) == (EXIT_CONFIG, True)
    status, text = attempt(place.config.with_name("none"), point, "-o", "node=n1")
    assert (status, "none" in text) == (EXIT_CONFIG, True)
    status, text = attempt(place.config, point / "none", "-o", "node=n1")
    assert (status, "none" in text) == (EXIT_FAILURE, True)
    status, text = attempt(place.config, point, "-o", f"node=n1,log={point}/none/log")
    assert (status, "none/log" in text) == (EXIT_FAILURE, True)
    assert not os.path.ismount(point)


def test_a_dead_mount_is_named_as_such(place: Place) -> None:
    assert place.run().returncode == 0
    pid = place.status()["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)
    result = place.run()
    assert result.returncode == EXIT_FAILURE
    assert "umount it first" in result.stderr


def test_a_read_only_mount(place: Place) -> None:
    assert place.run(place.config, place.mountpoint, "-o", "ro,node=n1").returncode == 0
    with pytest.raises(OSError, match="Read-only"):
        os.open(place.disk, os.O_RDWR)
    pid = place.status()["pid"]
    subprocess.run(["umount", place.mountpoint], check=True)
    wait_for_end(pid)

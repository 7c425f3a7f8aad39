"""meshctl flows and top beside a running cluster: the figures they show, and what top does to a terminal."""

import fcntl
import json
import mmap
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import BIN, LocalCluster
from support.commands import until

pytestmark = pytest.mark.mounted

LIMIT_IOPS = 400
GUARD_S = 20.0
ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"


class Reader(threading.Thread):
    """Reads 4 KiB of the file again and again, past the page cache."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        self._stopping = threading.Event()
        self.reads = 0

    def run(self) -> None:
        with mmap.mmap(-1, 4096) as buffer:
            while not self._stopping.is_set():
                self.reads += os.preadv(self._fd, [buffer], 0) == 4096

    def finish(self) -> None:
        self._stopping.set()
        self.join(GUARD_S)
        assert not self.is_alive()
        os.close(self._fd)


@pytest.fixture
def cluster(new_cluster: Callable[..., LocalCluster]) -> LocalCluster:
    """Start n1 with a disk that has a limit. n1 and n2 read the disk without pause (see `load`)."""
    made = new_cluster()
    made.add_node("n1", [made.image("disk0", MIB, limit_iops=LIMIT_IOPS)])
    made.add_node("n2")
    made.write()
    made.keygen()
    made.start_exporter("n1")
    for node in ("n1", "n2"):
        made.mount(node)
    return made


@contextmanager
def load(cluster: LocalCluster) -> Iterator[None]:
    readers = [Reader(cluster.mountpoint(node) / "disk/by-node/n1/disk0") for node in ("n1", "n2") for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        yield
    finally:
        for reader in readers:
            reader.finish()


def flows(cluster: LocalCluster, *arguments: str) -> dict[tuple[str, str], dict[str, Any]]:
    done = cluster.meshctl("flows", *arguments, "--config", str(cluster.config), "--json")
    (exporter,) = json.loads(done.stdout)["exporters"]
    (disk,) = exporter["disks"]
    return {(flow["node"], flow["class"]): flow for flow in disk["flows"]}


def test_flows_are_shown_and_changed_while_they_run(cluster: LocalCluster) -> None:
    with load(cluster):
        until(lambda: len(flows(cluster)) == 2, "both nodes are seen at the disk")
        shown = cluster.meshctl("flows", "disk0", "--config", str(cluster.config)).stdout
        assert "disk n1/disk0: fair" in shown
        assert f"limit {LIMIT_IOPS}/s, set by config" in shown
        changed = flows(cluster, "set", "disk0", "--flow", "n2/app", "--weight", "3")
        assert (changed["n2", "app"]["weight"], changed["n2", "app"]["source"]) == (3.0, "run time")
        assert (changed["n1", "app"]["weight"], changed["n1", "app"]["source"]) == (1.0, "config")
        until(lambda: flows(cluster)["n2", "app"]["entitlement"] > 0.7, "the weight counts")
        cluster.exporters["n1"].process.send_signal(signal.SIGHUP)
        log = cluster.exporters["n1"].log
        until(lambda: "reloaded" in log.read_text(), "the config was read again")
        assert flows(cluster)["n2", "app"]["weight"] == 3.0
        assert flows(cluster, "reset", "all")["n2", "app"]["weight"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("set", "disk0", "--system-floor", "100%"), "system_floor: found"),
        (("set", "disk0", "--flow", "n9", "--weight", "2"), "there is no node"),
        (("set", "disk0", "--flow", "n1/app", "--reservation", "90%"), "add up to 0.9"),
        (("set", "disk9", "--limit-iops", "9"), "there is no disk"),
        (("reset", "disk9"), "there is no disk"),
    ],
)
def test_what_cannot_be_is_refused(cluster: LocalCluster, arguments: tuple[str, ...], expected: str) -> None:
    done = cluster.meshctl("flows", *arguments, "--config", str(cluster.config), check=False)
    assert done.returncode == 1
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1


def test_top_counts_local_and_remote_reads(cluster: LocalCluster) -> None:
    with load(cluster):
        points = [str(cluster.mountpoint(node)) for node in ("n1", "n2")]
        options = ("--config", str(cluster.config), "--interval", "0.5", "--count", "2")
        printed = cluster.meshctl("top", *points, *options).stdout
        lines = cluster.meshctl("top", *points, *options, "--json").stdout.splitlines()
    assert "\x1b" not in printed
    assert printed.count("meshctl top, ") == 2
    assert len(lines) == 2
    for shown in map(json.loads, lines):
        assert shown["ok"]
        for where in ("local", "remote"):
            total = shown["totals"][f"{where}_read"]
            assert total["per_s"] > 0
            assert total["bytes_per_s"] == pytest.approx(4096 * total["per_s"])
            assert sum(total["histogram"]) > 0
            assert shown["totals"][f"{where}_write"]["per_s"] == 0
        disks = {mount["node"]: mount["disks"][0] for mount in shown["mounts"]}
        assert (disks["n1"]["local"], disks["n2"]["local"]) == (True, False)
        for flow in shown["exporters"][0]["disks"][0]["flows"]:
            assert flow["interval"]["reads"] > 0


class Terminal:
    """A pseudo-terminal in which top runs. `seen` is what top drew."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._master, slave = pty.openpty()
        self.resize(20, 70)
        self.before = termios.tcgetattr(slave)
        self._slave = slave
        command = [str(BIN / "meshctl"), "top", str(cluster.mountpoint("n2")), "--config", str(cluster.config)]
        self.process = subprocess.Popen(
            [*command, "--interval", "0.2"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm"},
            # top gets a session with this terminal as its own, like a login.
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def read_until(self, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + GUARD_S
        while not ready():
            assert time.monotonic() < deadline, f"{what}: {self.seen[-2000:]!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                self.seen += os.read(self._master, 1 << 16)

    def frames(self) -> list[list[str]]:
        """Return the lines of each complete frame."""
        drawn = self.seen.split(b"\x1b[H")[1:]
        whole = [frame.partition(b"\x1b[J")[0] for frame in drawn if b"\x1b[J" in frame]
        return [
            [line.replace("\x1b[K", "") for line in frame.decode().replace("\r", "").split("\n")] for frame in whole
        ]

    def ended(self) -> int:
        """Return top's exit status, and check that the terminal is as it was before."""
        self.read_until(lambda: self.process.poll() is not None, "it ends")
        self.read_until(lambda: LEAVE in self.seen, "the alternate screen is left")
        assert self.seen.index(ENTER) < self.seen.rindex(LEAVE)
        assert self.seen.endswith(b"\x1b[?7h\x1b[?25h" + LEAVE)
        assert termios.tcgetattr(self._slave) == self.before
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._slave)
        os.close(self._master)


@pytest.fixture
def terminal(cluster: LocalCluster) -> Iterator[Terminal]:
    made = Terminal(cluster)
    yield made
    made.close()


def test_top_in_a_terminal(cluster: LocalCluster, terminal: Terminal) -> None:
    with load(cluster):
        terminal.read_until(lambda: len(terminal.frames()) >= 3, "three frames")
        assert terminal.seen.startswith(ENTER)
        assert termios.tcgetattr(terminal._slave)[3] & (termios.ICANON | termios.ECHO) == 0
        (first, *_, last) = terminal.frames()
        assert all(len(frame) <= 20 and max(map(len, frame)) <= 70 for frame in terminal.frames())
        assert first[0].startswith("meshctl top, ")
        assert any(line.startswith("remote read") for line in last)
        assert any(line.startswith("n1/disk0 remote") for line in last)
        assert any(line.startswith("disk n1/disk0: fair") for line in last)
        terminal.resize(9, 30)
        terminal.read_until(lambda: len(terminal.frames()[-1]) == 9, "it fits the smaller window")
        assert max(map(len, terminal.frames()[-1])) == 30
        terminal.type(b"x\x1bOq")
        drawn = len(terminal.frames())
        terminal.read_until(lambda: len(terminal.frames()) > drawn + 1, "other keys end nothing")
        terminal.type(b"xq")
        assert terminal.ended() == 0


def test_top_is_stopped_and_continued(terminal: Terminal) -> None:
    """Ctrl-Z gives the terminal back until top is continued."""
    terminal.read_until(lambda: bool(terminal.frames()), "a frame")
    terminal.process.send_signal(signal.SIGTSTP)
    terminal.read_until(lambda: terminal.seen.endswith(LEAVE), "the alternate screen is left")
    until(lambda: Path(f"/proc/{terminal.process.pid}/stat").read_text().split()[2] == "T", "it is stopped")
    assert termios.tcgetattr(terminal._slave) == terminal.before
    terminal.process.send_signal(signal.SIGCONT)
    terminal.read_until(lambda: terminal.seen.rindex(LEAVE) < terminal.seen.rindex(b"\x1b[J"), "it draws again")
    assert terminal.seen.count(ENTER) == 2
    terminal.type(b"q")
    assert terminal.ended() == 0


def test_ctrl_c_ends_top(terminal: Terminal) -> None:
    terminal.read_until(lambda: bool(terminal.frames()), "a frame")
    terminal.type(b"\x03")
    assert terminal.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_top(terminal: Terminal, number: signal.Signals) -> None:
    terminal.read_until(lambda: bool(terminal.frames()), "a frame")
    terminal.process.send_signal(number)
    assert terminal.ended() == 128 + number


def test_a_stopped_mount_holds_up_nothing_else(cluster: LocalCluster, terminal: Terminal) -> None:
    """The process of one mount is stopped for a while: top says so, and shows the mount again afterwards."""
    terminal.read_until(lambda: bool(terminal.frames()), "a frame")
    process = cluster.mounts["n2"].process
    process.send_signal(signal.SIGSTOP)
    try:
        terminal.read_until(lambda: "stuck" in "".join(terminal.frames()[-1]), "the mount is said to be stuck")
        drawn = len(terminal.frames())
        terminal.read_until(lambda: len(terminal.frames()) > drawn + 1, "it goes on without")
        assert any(line.startswith("disk n1/disk0: ") for line in terminal.frames()[-1])
    finally:
        process.send_signal(signal.SIGCONT)
    terminal.read_until(lambda: "stuck" not in "".join(terminal.frames()[-1]), "the mount is back")
    terminal.type(b"q")
    assert terminal.ended() == 0

"""Mount and exporter are started by processes that pass on what a service must not keep."""

import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshfs.linux.mountinfo import read_mounts, topmost
from meshlab.cluster.cluster import BIN, LocalCluster

pytestmark = pytest.mark.mounted

GUARD_S = 60
CLOSED = ("sh", "-c", 'exec 0<&- 1>&- 2>&-; exec "$@"', "sh")
# What a shell cannot do: signals that are blocked, and a child's end that nobody is to be told of.
DEAF = (
    sys.executable,
    "-c",
    """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD})
os.umask(0)
os.execv(sys.argv[1], sys.argv[1:])
""",
)


@pytest.fixture
def cluster(new_cluster: Callable[..., LocalCluster]) -> LocalCluster:
    cluster = new_cluster()
    cluster.add_node("n1", [cluster.image("disk0", MIB)])
    cluster.write()
    cluster.keygen()
    return cluster


class Mounted:
    """A mount of the cluster that the command ``meshfs`` left in the background."""

    def __init__(self, cluster: LocalCluster, name: str = "mesh") -> None:
        self.point = cluster.folder / name
        self.point.mkdir()
        self.log = cluster.folder / "mount.log"
        self._command = [BIN / "meshfs", cluster.config, self.point, "-o", f"node=n1,log={self.log}"]

    def start(self, prefix: Sequence[str] = (), **settings: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*prefix, *self._command], timeout=GUARD_S, check=False, **settings)  # type: ignore[call-overload,no-any-return]

    def pid(self) -> int:
        return int(json.loads((self.point / ".meshfs" / "status").read_bytes())["pid"])

    def end(self) -> None:
        # os.path.ismount sees no mount whose process is dead.
        while topmost(read_mounts(), str(self.point)):
            subprocess.run(["umount", "-l", self.point], check=True)


@pytest.fixture
def mounted(cluster: LocalCluster) -> Iterator[Mounted]:
    mounted = Mounted(cluster)
    yield mounted
    mounted.end()


def streams(pid: int) -> list[str]:
    return [os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1, 2)]


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + GUARD_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_a_mount_started_with_its_streams_closed_serves(cluster: LocalCluster, mounted: Mounted) -> None:
    cluster.start_exporter("n1")
    assert mounted.start(CLOSED).returncode == 0
    assert (mounted.point / "disk/by-node/n1/disk0").read_bytes() == bytes(MIB)
    assert streams(mounted.pid()) == ["/dev/null"] * 3


def test_a_mistake_is_answered_by_its_status_also_without_streams(cluster: LocalCluster, mounted: Mounted) -> None:
    cluster.config.write_text("nonsense")
    assert mounted.start(CLOSED).returncode == 2


def test_a_lock_of_the_starter_is_free_when_the_starter_gives_it_up(
    cluster: LocalCluster, mounted: Mounted, tmp_path: Path
) -> None:
    cluster.start_exporter("n1")
    with locked(tmp_path / "lock") as descriptor:
        assert mounted.start(pass_fds=[descriptor]).returncode == 0
    assert is_free(tmp_path / "lock")


def test_a_mount_started_with_signals_blocked_and_ignored_obeys_them(cluster: LocalCluster, mounted: Mounted) -> None:
    cluster.start_exporter("n1")
    started = mounted.start(DEAF, capture_output=True)
    assert (started.returncode, started.stderr) == (0, b"")
    assert stat.S_IMODE(mounted.log.stat().st_mode) == 0o644
    os.kill(mounted.pid(), signal.SIGTERM)
    until(lambda: not os.path.ismount(mounted.point), "SIGTERM did not unmount")


def test_no_environment_and_a_mountpoint_beyond_ascii(cluster: LocalCluster) -> None:
    cluster.start_exporter("n1")
    mounted = Mounted(cluster, "mésh")
    try:
        assert mounted.start(env={}).returncode == 0
        assert (mounted.point / "disk/by-node/n1/disk0").stat().st_size == MIB
    finally:
        mounted.end()


def test_an_exporter_keeps_nothing_of_its_starter(cluster: LocalCluster, tmp_path: Path) -> None:
    (cluster.folder / "run").mkdir()
    command = [*CLOSED, *DEAF, BIN / "meshfsd", "--config", cluster.config, "--node", "n1"]
    with locked(tmp_path / "lock") as descriptor:
        process = subprocess.Popen([str(part) for part in command], cwd=tmp_path, pass_fds=[descriptor])
    try:
        until((cluster.folder / "run" / "n1.ctl").exists, "it did not start")
        pid = cluster.control("n1")["pid"]
        assert is_free(tmp_path / "lock")
        assert streams(pid) == ["/dev/null"] * 3
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        os.kill(pid, signal.SIGTERM)
        assert process.wait(GUARD_S) == 0
    finally:
        process.kill()
        process.wait(GUARD_S)


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold a file's lock by a descriptor until the block ends, as ``exec 9>FILE; flock 9`` does in a script."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def is_free(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                raise
            return False
    return True

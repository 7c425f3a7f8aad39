"""A mount takes another config and other options while it is used, and names what cannot change."""

import errno
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import BIN, LocalCluster, free_port
from support import commands

pytestmark = pytest.mark.mounted

GUARD_S = 30

until = partial(commands.until, timeout_s=GUARD_S)


@pytest.fixture
def cluster(new_cluster: Callable[..., LocalCluster]) -> LocalCluster:
    """Start n1 with a disk, and mount on n2."""
    cluster = new_cluster(io_timeout_s=20)
    cluster.add_node("n1", [cluster.image("disk0", 4 * MIB)])
    cluster.add_node("n2")
    cluster.write()
    cluster.keygen()
    cluster.start_exporter("n1")
    cluster.mount("n2", f"log={cluster.logs / 'own'}")
    return cluster


def disk_of(cluster: LocalCluster, node: str = "n1") -> Path:
    return cluster.mountpoint("n2") / "disk/by-node" / node / "disk0"


def document(cluster: LocalCluster) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((cluster.mountpoint("n2") / ".meshfs/status").read_bytes())
    return found


def codes(cluster: LocalCluster) -> list[str]:
    return [problem["code"] for problem in document(cluster)["problems"]]


def own_log(cluster: LocalCluster) -> str:
    return (cluster.logs / "own").read_text()


def hang_up(cluster: LocalCluster) -> None:
    os.kill(cluster.mounts["n2"].pid, signal.SIGHUP)


def reload(cluster: LocalCluster, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = cluster.meshctl("reload", str(cluster.mountpoint("n2")), check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done


class Writer:
    """Writes and reads back one block after the other of an open disk, and keeps the first error."""

    def __init__(self, path: Path) -> None:
        self.rounds = 0
        self.error: OSError | None = None
        self._over = threading.Event()
        self._fd = os.open(path, os.O_RDWR)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(GUARD_S)
        os.close(self._fd)

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                block = self.rounds.to_bytes(8, "big") * 512
                os.pwrite(self._fd, block, 4096 * (self.rounds % 64))
                os.fsync(self._fd)
                assert os.pread(self._fd, 4096, 4096 * (self.rounds % 64)) == block
                self.rounds += 1
        except OSError as error:
            self.error = error


def test_a_node_that_is_added_is_seen_without_an_umount(cluster: LocalCluster) -> None:
    with Writer(disk_of(cluster)) as writer:
        cluster.add_node("n3", [cluster.image("disk0", 2 * MIB, file=str(cluster.folder / "disks/n3.img"))])
        cluster.write()
        cluster.keygen()
        cluster.start_exporter("n3")
        until(lambda: "config-reload" in codes(cluster), "a changed config is a problem")
        status = cluster.meshctl("status", check=False)
        assert (status.returncode, "node n3 is new" in status.stderr) == (1, True)
        hang_up(cluster)
        until(disk_of(cluster, "n3").exists, "the new node's disk is there")
        rounds = writer.rounds
        until(lambda: writer.rounds > rounds + 5 or writer.error, "the old disk is still used")
        until(lambda: codes(cluster) == ["config-differs"], "n1's exporter goes by the old config")
        os.kill(cluster.exporters["n1"].pid, signal.SIGHUP)
    assert writer.error is None
    until(lambda: not codes(cluster), "all is well")
    assert disk_of(cluster, "n3").read_bytes() == bytes(2 * MIB)
    assert "reloaded" in own_log(cluster)
    assert cluster.meshctl("status", str(cluster.mountpoint("n2"))).returncode == 0


def test_a_node_that_is_removed_goes_with_its_disks(cluster: LocalCluster) -> None:
    cluster.add_node("n3", [cluster.image("disk0", 2 * MIB, file=str(cluster.folder / "disks/n3.img"))])
    cluster.write()
    cluster.keygen()
    cluster.start_exporter("n3")
    assert "node n3 is new" in reload(cluster).stdout
    until(disk_of(cluster, "n3").exists, "the new node's disk is there")
    fd = os.open(disk_of(cluster, "n3"), os.O_RDONLY | os.O_DIRECT)
    with Writer(disk_of(cluster)) as writer:
        del cluster.nodes["n3"]
        cluster.write()
        reload(cluster)
        assert sorted(os.listdir(cluster.mountpoint("n2") / "disk/by-node")) == ["n1", "n2"]
        with pytest.raises(OSError, match=os.strerror(errno.ENODEV)):
            os.read(fd, 4096)
        os.close(fd)
    assert writer.error is None
    assert [exporter["node"] for exporter in document(cluster)["exporters"]] == ["n1"]


def test_an_exporter_that_moved_is_followed(cluster: LocalCluster) -> None:
    with Writer(disk_of(cluster)) as writer:
        cluster.stop_exporter("n1")
        node = cluster.nodes["n1"]
        node.addresses[:] = ["127.0.0.9"]
        node.port = free_port("127.0.0.9")
        cluster.write()
        cluster.start_exporter("n1")
        reload(cluster)
        rounds = writer.rounds
        until(lambda: writer.rounds > rounds + 5 or writer.error, "I/O goes on at the new place")
    assert writer.error is None
    (path,) = document(cluster)["exporters"][0]["channels"]
    assert path["remote_address"] == "127.0.0.9"


def test_times_and_channels_change_in_place(cluster: LocalCluster) -> None:
    cluster.io_timeout_s = 7
    cluster.multichannel = {"channels": 2}
    cluster.write()
    changed = reload(cluster).stdout
    assert "io_timeout_s" in changed
    assert "channels" in changed
    assert document(cluster)["io_timeout_s"] == 7
    until(lambda: [path["state"] for path in document(cluster)["exporters"][0]["channels"]] == ["connected"] * 2, "two")


def test_what_cannot_change_is_named_and_stays_a_problem(cluster: LocalCluster) -> None:
    cluster.security = "encrypt"
    cluster.write()
    assert "security cannot change while the mesh is mounted" in reload(cluster, status=1).stderr
    assert "config-restart" in codes(cluster)
    assert document(cluster)["security"] == "sign"
    assert disk_of(cluster).read_bytes() == bytes(4 * MIB)
    cluster.security = "sign"
    cluster.write()
    reload(cluster)
    assert codes(cluster) == []


def test_a_broken_config_changes_nothing_and_is_shown_until_it_is_mended(cluster: LocalCluster) -> None:
    good = cluster.config.read_text()
    cluster.config.write_text(good + "[[node]\n")
    hang_up(cluster)
    until(lambda: "not reloaded" in own_log(cluster), "the log says so")
    assert "nothing changed" in reload(cluster, status=1).stderr
    assert codes(cluster) == ["config-broken"]
    status = cluster.meshctl("status", str(cluster.mountpoint("n2")), check=False)
    assert (status.returncode, "keeps the config that it read before" in status.stderr) == (1, True)
    assert disk_of(cluster).read_bytes() == bytes(4 * MIB)
    cluster.config.write_text(good)
    until(lambda: not codes(cluster), "mended, also without a reload")
    until(lambda: "problem config-broken has ended" in own_log(cluster), "the log says that it ended")


def test_a_log_file_that_was_moved_away_is_opened_again(cluster: LocalCluster) -> None:
    log = cluster.logs / "own"
    log.rename(log.with_name("own.1"))
    hang_up(cluster)
    until(lambda: log.exists() and "reloaded" in log.read_text(), "a new file")
    before = log.with_name("own.1").read_text()
    assert "connected" in before
    assert "reloaded" not in before


def test_a_log_that_cannot_be_written_is_a_problem(cluster: LocalCluster, tmp_path: Path) -> None:
    log = cluster.logs / "own"
    log.unlink()
    log.mkdir()
    hang_up(cluster)
    until(lambda: "log-unwritable" in codes(cluster), "a problem")
    log.rmdir()
    hang_up(cluster)
    until(lambda: not codes(cluster), "no problem any more")


class Mount8:
    """A mesh that mount(8) mounted, and its remounts."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.config = cluster.config
        self.point = cluster.folder / "mnt/by8"
        self.log = cluster.logs / "by8"
        self.point.mkdir()

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = ["mount", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def remount(self, options: str = "") -> tuple[int, str]:
        done = self.run("-o", f"remount,{options}".rstrip(","), self.point)
        return done.returncode, done.stderr

    def flags(self) -> list[str]:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return next(line.split()[5] for line in lines if line.split()[4] == str(self.point)).split(",")


@pytest.fixture
def mount8(cluster: LocalCluster, installed: None) -> Iterator[Mount8]:
    mount = Mount8(cluster)
    done = mount.run("-t", "fuse.meshfs", mount.config, mount.point, "-o", f"node=n2,log={mount.log}")
    assert done.returncode == 0, done.stderr
    yield mount
    subprocess.run(["umount", "-l", mount.point], check=False)


def test_mount_8_remounts(cluster: LocalCluster, mount8: Mount8) -> None:
    disk = mount8.point / "disk/by-node/n1/disk0"
    assert mount8.remount() == (0, "")
    assert mount8.remount("class=system,io_timeout=5,ro") == (0, "")
    assert "ro" in mount8.flags()
    found = json.loads((mount8.point / ".meshfs/status").read_bytes())
    assert found["io_timeout_s"] == 5
    assert mount8.remount("rw") == (0, ""), "a read-only mount takes it as well"
    assert "rw" in mount8.flags()
    assert disk.read_bytes() == bytes(4 * MIB)
    cluster.add_node("n3", [cluster.image("disk0", 2 * MIB, file=str(cluster.folder / "disks/n3.img"))])
    cluster.write()
    cluster.keygen()
    assert mount8.remount() == (0, "")
    assert "n3" in os.listdir(mount8.point / "disk/by-node")
    assert found["pid"] == json.loads((mount8.point / ".meshfs/status").read_bytes())["pid"]


def test_a_remount_as_systemd_and_by_fstab(cluster: LocalCluster, mount8: Mount8, tmp_path: Path) -> None:
    """`systemctl reload` of a mount unit gives all options again. A line in fstab has the options of the mount."""
    options = f"node=n2,log={mount8.log}"
    again = mount8.run(
        mount8.config, mount8.point, "-t", "fuse.meshfs", "-o", f"remount,{options},_netdev,io_timeout=6"
    )
    assert (again.returncode, again.stderr) == (0, "")
    assert json.loads((mount8.point / ".meshfs/status").read_bytes())["io_timeout_s"] == 6
    fstab = tmp_path / "fstab"
    fstab.write_text(
        f"{mount8.config} {mount8.point} fuse.meshfs {options},noauto,x-systemd.automount,io_timeout=9 0 0\n"
    )
    done = mount8.run("-T", fstab, "-o", "remount", mount8.point)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((mount8.point / ".meshfs/status").read_bytes())["io_timeout_s"] == 9


def test_mount_8_says_what_it_cannot_change(cluster: LocalCluster, mount8: Mount8) -> None:
    status, text = mount8.remount("node=n1")
    assert (status != 0, "node=n1 cannot change while the mesh is mounted" in text) == (True, True)
    status, text = mount8.remount("nonsense=1")
    assert (status != 0, "nonsense" in text) == (True, True)
    cluster.config.write_text("broken")
    status, text = mount8.remount("class=system")
    assert (status != 0, "nothing was changed" in text) == (True, True)
    assert "not reloaded" in mount8.log.read_text()


def test_a_mount_that_is_none_cannot_be_remounted(cluster: LocalCluster, tmp_path: Path) -> None:
    done = subprocess.run(
        [BIN / "meshfs", cluster.config, tmp_path, "-o", "remount"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "is not a mounted mesh" in done.stderr) == (32, True)

"""md RAID1, with its defaults, over disks of two nodes: if one node is killed, the application stalls once."""

import mmap
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from meshfs.limits import KIB, MIB
from meshlab.cluster.cluster import LocalCluster, tracebacks
from support.commands import run, until
from support.guest_disks import await_disks

pytestmark = pytest.mark.guest

DISK_BYTES = 24 * MIB
IO_TIMEOUT_S = 5.0
#: One bound, 1 s that an I/O may take longer, md's own work on it, and an emulated machine that has other work.
STALL_MAX_S = 3 * IO_TIMEOUT_S
#: md repeats a failed write sector by sector. If each of these 32 writes waits for a bound of its own, that is 160 s.
WRITE_BYTES = 16 * KIB
ARRAY = Path("/dev/md0")
STATE = Path("/sys/block/md0/md")
SECTOR_BYTES = 512


class Writer(threading.Thread):
    """An application that writes the array from end to end again and again, and keeps its longest write."""

    def __init__(self, path: Path):
        super().__init__()
        self._path = path
        self._ending = threading.Event()
        self.writes = 0
        self.longest_s = 0.0
        self.error: OSError | None = None

    def run(self) -> None:
        fd = os.open(self._path, os.O_WRONLY | os.O_DIRECT)
        buffer = mmap.mmap(-1, WRITE_BYTES)
        places = os.lseek(fd, 0, os.SEEK_END) // WRITE_BYTES
        try:
            while not self._ending.is_set():
                buffer[:16] = self.writes.to_bytes(16, "big")
                start = time.monotonic()
                os.pwritev(fd, [buffer], self.writes % places * WRITE_BYTES)
                self.longest_s = max(self.longest_s, time.monotonic() - start)
                self.writes += 1
        except OSError as error:
            self.error = error
        finally:
            os.close(fd)

    def end(self) -> None:
        self._ending.set()
        self.join()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    """Start n1 and n2 with a disk each, and mount both disks on n3."""
    with LocalCluster(tmp_path, io_timeout_s=IO_TIMEOUT_S) as cluster:
        for name in ("n1", "n2"):
            cluster.add_node(name, [cluster.image("leg", DISK_BYTES, file=str(tmp_path / f"{name}.img"))])
        cluster.add_node("n3")
        cluster.write()
        cluster.keygen()
        for name in ("n1", "n2"):
            cluster.start_exporter(name)
        disks = cluster.mount("n3") / "disk/by-node"
        await_disks(disks / "n1/leg", disks / "n2/leg")
        yield cluster
    assert list(tracebacks(cluster.logs)) == []


def test_a_killed_exporter_stalls_the_array_once(cluster: LocalCluster) -> None:
    with array(cluster) as legs:
        writer = Writer(ARRAY)
        writer.start()
        try:
            await_writes(writer, 20)
            cluster.stop_exporter("n2", signal.SIGKILL)
            killed = time.monotonic()
            until(lambda: "faulty" in leg_state(legs[1]), "md has failed the leg", timeout_s=120)
            print(f"failed the leg after {time.monotonic() - killed:.2f} s")
            # The application goes on with one leg, and the bitmap remembers what it writes.
            await_writes(writer, 50)
        finally:
            writer.end()
        assert writer.error is None
        assert (STATE / "degraded").read_text().strip() == "1"
        print(f"longest write {writer.longest_s:.2f} s of {writer.writes}")
        assert writer.longest_s < STALL_MAX_S
        cluster.start_exporter("n2")
        run("mdadm", ARRAY, "--remove", legs[1])
        until(lambda: readable(legs[1]), "the leg can be read again", timeout_s=60)
        added = run("mdadm", ARRAY, "--re-add", legs[1])
        assert "re-added" in added, added
        await_idle()
        assert (STATE / "degraded").read_text().strip() == "0"
        (STATE / "sync_action").write_text("check")
        await_idle()
        assert (STATE / "mismatch_cnt").read_text().strip() == "0"
        offset = int((STATE / "rd0/offset").read_text()) * SECTOR_BYTES
        size = int((STATE / "component_size").read_text()) * KIB
    images = [cluster.nodes[name].disks[0].path for name in ("n1", "n2")]
    run("cmp", f"--ignore-initial={offset}", f"--bytes={size}", *images)


@contextmanager
def array(cluster: LocalCluster) -> Iterator[list[Path]]:
    """Make an array with an internal bitmap over loop devices on the two disks, and undo all of it at the end."""
    with ExitStack() as stack:
        legs = []
        for name in ("n1", "n2"):
            file = cluster.mountpoint("n3") / f"disk/by-node/{name}/leg"
            legs.append(Path(run("losetup", "--find", "--show", "--direct-io=on", file).strip()))
            stack.callback(run, "losetup", "--detach", legs[-1])
        create = ["mdadm", "--create", ARRAY, "--level=1", "--raid-devices=2", "--bitmap=internal", "--run"]
        run(*create, "--assume-clean", *legs)
        stack.callback(run, "mdadm", "--stop", ARRAY)
        yield legs


def await_writes(writer: Writer, count: int) -> None:
    wanted = writer.writes + count
    until(lambda: writer.writes >= wanted or writer.error, f"{count} more writes", timeout_s=120)
    assert writer.error is None


def leg_state(leg: Path) -> str:
    return (STATE / f"dev-{leg.name}/state").read_text()


def readable(device: Path) -> bool:
    command = ["dd", f"if={device}", "of=/dev/null", "bs=4096", "count=1", "iflag=direct"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def await_idle() -> None:
    until(lambda: (STATE / "sync_action").read_text().strip() == "idle", "md is idle", timeout_s=240)

"""Two nodes with two networks between them: n2 mounts a disk of n1 over both, and the tests ask what meshctl shows.

The links are of 400 Mbit/s. They are fast enough for many requests a second. They are slow enough that a machine of two
cores, which has other work as well, keeps both of them busy.
"""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshfs.limits import KIB, MIB
from meshlab.cluster.cluster import LocalCluster, tracebacks
from meshlab.cluster.network import Network, Nic
from support.commands import FIO_VERIFY

RATE = "400mbit"
DISK_BYTES = 64 * MIB
STALL_MAX_S = 2.0
REUSE_MAX_S = 10.0
#: A path in use moves this much within seconds. An idle path, which only gets probes, never does.
USED_BYTES = 256 * KIB
# Each `meshctl` is a new process. Without a pause between calls it would take half a core.
POLL_S = 0.15
FIO_STOP_S = 30.0
# fio's exit status when it ended early because it was told to (backend.c, sig_int).
FIO_INTERRUPTED = 128


@dataclass
class TwoPaths:
    """Two nodes. ``LAN`` i is between ``ours[i]`` (of n2, where the mount is) and ``theirs[i]`` (of the exporter)."""

    cluster: LocalCluster
    network: Network

    @property
    def ours(self) -> list[Nic]:
        return self.network.hosts["n2"].nics

    @property
    def theirs(self) -> list[Nic]:
        return self.network.hosts["n1"].nics

    @property
    def disk(self) -> Path:
        """Return the disk as the mount shows it."""
        return self.cluster.mountpoint("n2") / "disk/by-node/n1/disk0"

    @property
    def image(self) -> Path:
        """Return the image as its owner has it."""
        return self.cluster.nodes["n1"].disks[0].path

    def exporter(self) -> dict[str, Any]:
        """Return what `meshctl paths --json` says of n1."""
        done = self.cluster.meshctl("paths", "--json", str(self.cluster.mountpoint("n2")), check=False)
        [exporter] = json.loads(done.stdout)["exporters"]
        return dict(exporter)

    def path(self, lan: int) -> dict[str, Any]:
        """Return what `meshctl paths --json` says of the path through one network."""
        return only(self.exporter()["channels"], self.theirs[lan].address)

    def states(self) -> list[str]:
        """Return the states of the paths, by network."""
        paths = self.exporter()["channels"]
        return [only(paths, nic.address)["state"] for nic in self.theirs]

    def await_both(self) -> None:
        self.await_paths(lambda: self.states() == ["connected", "connected"], "both are connected")

    def await_paths(self, condition: Callable[[], object], what: str, timeout_s: float = REUSE_MAX_S) -> float:
        """Wait until the condition holds, and return how long that took."""
        start = time.monotonic()
        while not condition():
            took_s = time.monotonic() - start
            assert took_s < timeout_s, f"not within {timeout_s:g} s: {what}; {self.exporter()}"
            time.sleep(POLL_S)
        return time.monotonic() - start

    def await_use(self, lan: int, before: dict[str, Any]) -> float:
        """Wait until more load goes through the network than `before` says. Return how long that took."""

        def used() -> bool:
            path = self.path(lan)
            return path["state"] == "connected" and min(moved_since(path, before)) >= USED_BYTES

        return self.await_paths(used, f"load goes through LAN {lan}")

    def await_more_use(self, lan: int) -> None:
        """Wait until the path, which may have been in use for long, moves more bytes in both directions."""
        before = self.path(lan)

        def more() -> bool:
            path = self.path(lan)
            assert path["state"] == "connected", path
            return min(moved_since(path, before)) >= USED_BYTES

        self.await_paths(more, f"load goes through LAN {lan}")


def only(paths: list[dict[str, Any]], remote: str) -> dict[str, Any]:
    """Return the path to that address of the exporter. If there are several, prefer a connected one."""
    found = [path for path in paths if path["remote"].partition(":")[0] == remote]
    found.sort(key=lambda path: path["state"] != "connected")
    assert found, paths
    return found[0]


def moved_since(path: dict[str, Any], before: dict[str, Any]) -> tuple[int, int]:
    """Return the bytes that the path sent and received since `before`."""
    return path["sent_bytes"] - before["sent_bytes"], path["received_bytes"] - before["received_bytes"]


@contextmanager
def two_paths(folder: Path, **settings: Any) -> Iterator[TwoPaths]:
    """Yield both nodes with all paths connected. The ``settings`` are those of `exporter_alone`."""
    with exporter_alone(folder, **settings) as pair:
        pair.cluster.mount("n2")
        pair.await_both()
        yield pair


@contextmanager
def exporter_alone(
    folder: Path,
    *,
    rate: str | Sequence[str] = RATE,
    io_timeout_s: float = 30,
    prefix: Sequence[str] = (),
    start: bool = True,
    more_addresses: Sequence[str] = (),
    **disk: str,
) -> Iterator[TwoPaths]:
    """Yield n1, which serves if it is to ``start``, and n2, which has not mounted yet.

    The config gives the exporter ``more_addresses``, and ``disk`` adds keys to its disk.
    """
    with Network() as network, LocalCluster(folder, io_timeout_s=io_timeout_s, prefix=prefix) as cluster:
        image = cluster.image("disk0", DISK_BYTES, **disk)
        host = network.host("n1", lans=2, rate=rate)
        cluster.add_node("n1", [image], host=host, addresses=[*host.addresses, *more_addresses])
        cluster.add_node("n2", host=network.host("n2", lans=2, rate=rate))
        cluster.write()
        cluster.keygen()
        if start:
            cluster.start_exporter("n1")
        yield TwoPaths(cluster, network)
    assert not list(tracebacks(folder / "log"))


@dataclass
class FioResult:
    """The result of one job. Times are of the slowest request, from its submission."""

    reads: int
    writes: int
    slowest_s: float


class Fio:
    """A fio process that writes and verifies what it wrote, again and again, until it is stopped."""

    def __init__(self, label: str, file: Path, folder: Path, *, start: int, size: int, direct: bool) -> None:
        self._output = folder / f"fio-{label}.json"
        self._said = folder / f"fio-{label}.txt"
        command = [
            "fio",
            f"--name={label}",
            f"--filename={file}",
            f"--offset={start}",
            f"--size={size}",
            "--rw=randwrite",
            "--bsrange=4k-256k",
            "--blockalign=4k",
            f"--direct={int(direct)}",
            *(("--ioengine=libaio", "--iodepth=16") if direct else ("--ioengine=psync", "--fsync=64")),
            *FIO_VERIFY,
            "--verify_backlog=32",
            "--verify_state_save=0",
            "--rate=12m",
            "--time_based",
            "--runtime=600",
            "--output-format=json",
            f"--output={self._output}",
        ]
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
            )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def finish(self) -> FioResult:
        """Stop fio. Fail if it saw an error or a wrong byte."""
        assert self.running, f"it ended early: {self._text()}"
        self._process.send_signal(signal.SIGINT)
        self._process.wait(FIO_STOP_S)
        text = self._text()
        assert self._process.returncode == FIO_INTERRUPTED, text
        [job] = json.loads(text[text.index("{") : text.rindex("}") + 1])["jobs"]
        assert job["error"] == 0, text
        reads, writes = job["read"], job["write"]
        assert reads["total_ios"] > 0, text
        assert writes["total_ios"] > 0, text
        slowest_ns = max(kind[latency]["max"] for kind in (reads, writes) for latency in ("lat_ns", "clat_ns"))
        return FioResult(reads["total_ios"], writes["total_ios"], slowest_ns / 1e9)

    def stop(self) -> None:
        """Stop fio, whatever it is doing. Do nothing if it has ended."""
        if self.running:
            self._process.kill()
        self._process.wait(FIO_STOP_S)

    def _text(self) -> str:
        said = self._said.read_text(errors="replace")
        return said + (self._output.read_text(errors="replace") if self._output.exists() else "")


@contextmanager
def fio_load(pair: TwoPaths, *, direct: bool = True) -> Iterator[Fio]:
    """Run a fio load on the first 16 MiB of the disk. The buffered load uses the next 16 MiB."""
    fio = Fio(
        "direct" if direct else "buffered",
        pair.disk,
        pair.cluster.folder,
        start=0 if direct else 16 * MIB,
        size=16 * MIB,
        direct=direct,
    )
    try:
        yield fio
    finally:
        fio.stop()

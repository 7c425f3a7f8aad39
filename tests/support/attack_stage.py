"""An exporter under attack: honest sessions beside the attackers, and the memory and descriptors of the exporter.

    row = stage.beside(("idle", "stranger", {"count": 128}))     # checked, and in the report

The nodes have roles. n1 exports disk0 and disk1. n2 is honest and has disk0. n3 attacks, may use disk1 and does not see
disk0. n4 may only read disk0. A name that the config does not have is a stranger's.
"""

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from meshfs import limits
from meshfs.cluster.config import load
from meshfs.cluster.keys import Keyring
from meshlab.cluster.cluster import BIN, LocalCluster
from support.attack_process import Process
from support.commands import until

OWNER, HONEST, ATTACKER, READER = "n1", "n2", "n3", "n4"
DISK: Final = "disk0"
ATTACKED: Final = "disk1"
DISK_BYTES: Final = 16 * limits.MIB
#: The time within which every call of the honest session ends.
IO_TIMEOUT_S = 10
SCRATCH_BYTES = 1 << 20
#: The honest nodes connect from these addresses, which the exporter knows from its config. Others connect from
#: elsewhere.
HONEST_ADDRESS, ATTACKER_ADDRESS, READER_ADDRESS = "127.0.0.1", "127.0.0.4", "127.0.0.5"
#: A person notices a call that takes longer than this. Without an attack, a call takes about a millisecond.
P99_MAX_MS: Final = 1000.0
#: How much an exporter's memory may grow while it is attacked, and how much of that may stay.
GROWTH_MAX_MIB: Final = limits.MEMORY_MAX_BYTES // limits.MIB + 128
LEFT_MAX_MIB: Final = 160
SAMPLE_S: Final = 0.05
#: The exporter's log may have so many bytes, and so many more for each second.
LOG_BYTES: Final = 64 * limits.KIB
LOG_BYTES_PER_S: Final = 2 * limits.KIB


@dataclass
class Usage:
    """The memory and descriptors of a process: before an attack, the most during the attack, and after it."""

    rss_mib: tuple[float, float, float] = (0, 0, 0)
    descriptors: tuple[int, int, int] = (0, 0, 0)


@dataclass
class Row:
    """A line of the report."""

    attack: str
    security: str
    honest: dict[str, Any]
    usage: Usage
    counts: dict[str, int] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        usage = {"rss_mib": self.usage.rss_mib, "descriptors": self.usage.descriptors}
        return {"attack": self.attack, "security": self.security, "honest": self.honest, **usage, "counts": self.counts}


class AttackedCluster(LocalCluster):
    """A cluster whose exporters run `program`, which may be another version."""

    def __init__(self, folder: Path, *, program: str = "", **settings: Any) -> None:
        super().__init__(folder, **settings)
        self.program = program

    def _at(self, node: str, command: Sequence[str]) -> list[str]:
        if self.program and command[0] == str(BIN / "meshfsd"):
            command = [self.program, *command[1:]]
        return super()._at(node, command)


def attacked_cluster(folder: Path, security: str = "sign", program: str = "") -> AttackedCluster:
    cluster = AttackedCluster(folder, program=program, security=security, io_timeout_s=IO_TIMEOUT_S)
    mine, theirs = {f"nodes.{ATTACKER}": "none", f"nodes.{READER}": "ro"}, {f"nodes.{READER}": "ro"}
    disks = [
        cluster.image(name, DISK_BYTES, cache="writeback", **rules)
        for name, rules in ((DISK, mine), (ATTACKED, theirs))
    ]
    cluster.add_node(OWNER, disks, addresses=["127.0.0.2"], scratch_size_bytes=SCRATCH_BYTES)
    for node, address in ((HONEST, HONEST_ADDRESS), (ATTACKER, ATTACKER_ADDRESS), (READER, READER_ADDRESS)):
        cluster.add_node(node, addresses=[address])
    cluster.write()
    cluster.keygen()
    return cluster


class Stage:
    """An exporter, the honest sessions and the attackers."""

    def __init__(self, cluster: LocalCluster, seconds: float, report: list[Row]) -> None:
        self.cluster = cluster
        self.seconds = seconds
        self.report = report
        self._started = time.monotonic()
        self._names = 0
        self._running: list[Process] = []
        self._standing: Process | None = None

    @property
    def pid(self) -> int:
        return self.cluster.exporters[OWNER].pid

    @property
    def log(self) -> str:
        return self.cluster.exporters[OWNER].log.read_text(errors="replace")

    def counters(self) -> Mapping[str, int]:
        return dict(self.cluster.control(OWNER)["counters"])

    def password(self, node: str) -> str:
        return Keyring(load(self.cluster.config), node).password_to(OWNER)

    # --- processes

    def _start(self, name: str, words: Sequence[str]) -> Process:
        self._names += 1
        process = Process(f"{name}-{self._names}", self.cluster.logs, words)
        self._running.append(process)
        return process

    def honest(
        self, node: str = HONEST, *, config: Path | None = None, seconds: float = 0.0, disk: str = DISK, **options: Any
    ) -> Process:
        """Start an honest session, and return when it is connected."""
        words = ["meshlab.attack.honest", "--config", str(config or self.cluster.config), "--node", node]
        words += ["--disk", f"{OWNER}/{disk}", "--seconds", str(seconds or self.seconds), *_words(options)]
        process = self._start(f"honest-{node}", words)
        process.ready()
        return process

    def attack(self, kind: str, node: str = ATTACKER, *, seconds: float = 600.0, **options: Any) -> Process:
        """Start an attacker, and return when its attack is going on."""
        process = self.launch(kind, node, seconds=seconds, **options)
        process.ready()
        return process

    def launch(self, kind: str, node: str = ATTACKER, *, seconds: float = 600.0, **options: Any) -> Process:
        words = ["meshlab.attack", kind, "--config", str(self.cluster.config), "--node", node, "--to", OWNER]
        words += ["--seconds", str(seconds), *_words({"disk": ATTACKED, **options})]
        return self._start(kind, words)

    def end_all(self) -> None:
        for process in self._running:
            process.kill()
        self._running.clear()

    def close(self) -> None:
        self.end_all()
        if self._standing is not None:
            self._standing.kill()

    # --- measuring

    def settle(self) -> None:
        """Wait until the exporter has noticed the end of all attackers' connections."""
        mine = {OWNER, HONEST}
        with suppress(AssertionError):
            until(lambda: all(each["node"] in mine for each in self.cluster.control(OWNER)["sessions"]), "", 25.0)

    @contextmanager
    def measured(self) -> Iterator[Usage]:
        """Measure the memory and descriptors of the exporter before, during and after the block."""
        usage, over = Usage(), threading.Event()
        self.settle()
        before = at_most = (rss_mib(self.pid), descriptors(self.pid))

        def sample() -> None:
            nonlocal at_most
            while not over.wait(SAMPLE_S):
                with suppress(OSError):
                    at_most = (max(at_most[0], rss_mib(self.pid)), max(at_most[1], descriptors(self.pid)))

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            yield usage
        finally:
            over.set()
            sampler.join()
        # The exporter still has a connection for a moment after the peer closed it.
        with suppress(AssertionError):
            until(lambda: descriptors(self.pid) <= before[1], "its descriptors come back", 25.0)
        usage.rss_mib = (before[0], at_most[0], rss_mib(self.pid))
        usage.descriptors = (before[1], at_most[1], descriptors(self.pid))

    def beside(self, *attacks: tuple[str, str, Mapping[str, Any]], name: str = "", patience_s: float = 0.0) -> Row:
        """Measure the standing session beside attacks of (kind, node, options), and return its row of the report.

        The row's percentiles are of `seconds` in which all attacks are going on. The worst call, the errors and the
        wrong bytes include the time in which the attacks start.
        """
        self.standing()
        with self.measured() as usage:
            running = [self.launch(kind, node, **options) for kind, node, options in attacks]
            for attack in running:
                attack.ready()
            before = self.figures()
            time.sleep(patience_s + self.seconds)
            figures = joined(before, self.figures())
            counts: dict[str, int] = {}
            for attack in running:
                for what, count in attack.end().items():
                    counts[what] = counts.get(what, 0) + count
        row = self.row(name or "+".join(kind for kind, _, _ in attacks), figures, usage, counts)
        self.check(row)
        return row

    def standing(self) -> Process:
        """Return the honest session that goes on from test to test. Its figures start at zero."""
        if self._standing is None or not self._standing.runs:
            self._standing = self.honest(seconds=1e6)
            self._running.remove(self._standing)
        self._standing.report()
        return self._standing

    def figures(self) -> dict[str, Any]:
        """Return what the standing session got since `figures` or `standing` was called last."""
        assert self._standing is not None
        return self._standing.report()

    def row(self, name: str, honest: dict[str, Any], usage: Usage, counts: dict[str, int]) -> Row:
        """Add a line to the report."""
        row = Row(name, self.cluster.security, honest, usage, counts)
        self.report.append(row)
        return row

    def check(self, row: Row) -> None:
        """Check what holds on any machine, under any attack."""
        check_honest(row.honest, self.cluster.io_timeout_s)
        self.check_exporter()
        before, at_most, after = row.usage.rss_mib
        assert at_most - before < GROWTH_MAX_MIB, f"{row.attack}: {at_most - before:.0f} MiB more than before"
        assert after - before < LEFT_MAX_MIB, f"{row.attack}: {after - before:.0f} MiB stay"
        assert row.usage.descriptors[2] <= row.usage.descriptors[0], f"{row.attack}: descriptors stay open"

    def check_exporter(self) -> None:
        """Check that the exporter runs, had no fault of its own, wrote little to its log, and wrote no secret."""
        running = self.cluster.exporters[OWNER]
        assert running.process.poll() is None, "the exporter ended"
        log = self.log
        assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:4000]
        assert not self.counters().get("internal_errors")
        allowed = LOG_BYTES + LOG_BYTES_PER_S * (time.monotonic() - self._started)
        assert len(log) < allowed, f"{len(log)} bytes of log; its end:\n{log[-2000:]}"
        for node in self.cluster.nodes:
            secrets = (self.password(node), (self.cluster.folder / "keys" / f"{node}.key").read_text().strip())
            assert not any(secret in log for secret in secrets), f"the log has a secret of {node}"


def check_honest(figures: Mapping[str, Any], io_timeout_s: float) -> None:
    """Check that there was no error and no wrong byte, and that each call ended within its bound."""
    assert figures["errors"] == {}, figures
    assert figures["wrong"] == 0, figures
    assert figures["calls"] > 0, figures
    assert figures["worst_ms"] < 1000 * io_timeout_s, figures
    assert figures["p99_ms"] < P99_MAX_MS, figures


def joined(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Join two reports of an honest session into one, with the percentiles of the second."""
    errors = dict(before["errors"])
    for what, count in now["errors"].items():
        errors[what] = errors.get(what, 0) + count
    worst_ms = max(before["worst_ms"], now["worst_ms"])
    return {**now, "worst_ms": worst_ms, "errors": errors, "wrong": before["wrong"] + now["wrong"]}


def _words(options: Mapping[str, Any]) -> list[str]:
    """Return the words of a command line: `rest_ms=2` becomes `--rest-ms 2`, and True becomes the option alone."""
    words = []
    for name, value in options.items():
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            words.append(str(value))
    return words


def rss_mib(pid: int) -> float:
    """Return the resident memory of the process, without the files that it maps (its program and libraries)."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("RssAnon:")[2].split()[0]) * limits.KIB / limits.MIB


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def table(rows: Sequence[Row]) -> list[str]:
    """Return the report as text, with times in milliseconds, and memory and descriptors before, at most, and after."""
    head = (
        f"{'attack':<26} {'security':<8} {'calls':>6} {'p50':>8} {'p99':>8} {'worst':>9}  {'RSS MiB':<15} descriptors"
    )
    lines = [head]
    for row in rows:
        figures = row.honest
        rss = " ".join(f"{value:.0f}" for value in row.usage.rss_mib)
        opened = " ".join(map(str, row.usage.descriptors))
        lines.append(
            f"{row.attack:<26} {row.security:<8} {figures['calls']:>6} {figures['p50_ms']:>8.1f} "
            f"{figures['p99_ms']:>8.1f} {figures['worst_ms']:>9.1f}  {rss:<15} {opened}"
        )
    return lines

"""tools/bench multichannel: the gain of several interfaces, the cost of several channels, and the stall of a lost link.

links      Two hosts in network namespaces are joined by 1, 2 and 4 links of the same rate (tbf), and by one such link
           and one of a tenth of the rate. Each set has its own disk. They are measured in turn and compared with the
           single link.
loopback   One address has 1, 2 and 4 channels. There is nothing to gain, so this shows their cost.
failover   One of two links is pulled under load, at either end, again and again. The figures are the longest answer,
           and the time until the link is used again after its return.
"""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmark import fio
from benchmark.fio import FioSample, FioWorkload
from benchmark.subjects import loop_on_tmpfs
from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster, LocalDisk, Setting
from meshlab.cluster.network import Network

Say = Callable[[str], None]

DISK_SIZE_BYTES: Final = 256 * MIB
RATE: Final = "200mbit"
TENTH: Final = "20mbit"
LINKS: Final[Mapping[str, list[str]]] = {
    "1 link": [RATE],
    "2 links": [RATE] * 2,
    "4 links": [RATE] * 4,
    "1 and a tenth": [RATE, TENTH],
}
LINK_MARKS: Final = {"2 links": 1.9, "4 links": 3.6, "1 and a tenth": 1.0}
LINK_WORKLOADS: Final = tuple(
    FioWorkload(f"{pattern}-1m-qd{depth}", pattern, "1m", depth)
    for pattern in ("read", "write")
    for depth in (1, 4, 16)
)
CHANNELS: Final = {"1 channel": 1, "2 channels": 2, "4 channels": 4}
CHANNEL_MARK: Final = 0.95
PULLS: Final = 10
STALL_MARK_S: Final = 2.0
REUSE_MARK_S: Final = 10.0
PULL_AFTER_S: Final = 1.0
PULLED_S: Final = 4.0


@dataclass(frozen=True)
class ChannelStage:
    """Runs a cluster of an exporter n1 and a mount on n2, with the disk to measure."""

    name: str
    cluster: LocalCluster
    path: Path

    @property
    def pids(self) -> dict[str, int]:
        return {"mount": self.cluster.mounts["n2"].pid, "exporter": self.cluster.exporters["n1"].pid}


def measure(folder: Path, rounds: int, seconds: float, only: str, say: Say) -> dict[str, Any]:
    """Run all groups, and print each table when it is done. `folder` is for temporary files."""
    found: dict[str, Any] = {"settings": {"rounds": rounds, "seconds": seconds, "rate": RATE, "tenth": TENTH}}
    with ExitStack() as stack:
        if _wanted("links", LINK_WORKLOADS, only):
            network = stack.enter_context(Network())
            stages = [_linked(stack, folder, network, name, rates) for name, rates in LINKS.items()]
            found["links"] = _compare("links", stages, LINK_WORKLOADS, LINK_MARKS, rounds, seconds, only, say)
    with ExitStack() as stack:
        if _wanted("loopback", fio.WORKLOADS, only):
            stages = [_looped(stack, folder, name, channels) for name, channels in CHANNELS.items()]
            marks = dict.fromkeys(list(CHANNELS)[1:], CHANNEL_MARK)
            found["loopback"] = _compare("loopback", stages, fio.WORKLOADS, marks, rounds, seconds, only, say)
    if fnmatch("failover", only):
        with ExitStack() as stack:
            found["failover"] = _failover(stack, folder, say)
    return found


def _wanted(group: str, workloads: tuple[FioWorkload, ...], only: str) -> list[FioWorkload]:
    return [workload for workload in workloads if fnmatch(f"{group}/{workload.name}", only)]


def _linked(
    stack: ExitStack, folder: Path, network: Network, name: str, rates: list[str | None] | list[str]
) -> ChannelStage:
    number = len(network.hosts) // 2
    hosts = [network.host(f"{role}{number}", lans=len(rates), rate=list(rates)) for role in ("x", "m")]
    return _stage(stack, folder, name, {"host": hosts[0]}, {"host": hosts[1]}, {})


def _looped(stack: ExitStack, folder: Path, name: str, channels: int) -> ChannelStage:
    return _stage(stack, folder, name, {}, {}, {"channels": channels})


def _stage(
    stack: ExitStack,
    folder: Path,
    name: str,
    exporter: Mapping[str, Any],
    mount: Mapping[str, Any],
    multichannel: Mapping[str, Setting],
) -> ChannelStage:
    place = folder / name.replace(" ", "-")
    place.mkdir()
    device = loop_on_tmpfs(stack, f"{folder.name}-{place.name}", DISK_SIZE_BYTES)
    cluster = stack.enter_context(LocalCluster(place, name="bench", multichannel=multichannel))
    cluster.add_node("n1", [LocalDisk("disk0", device, {"cache": "none"})], **exporter)
    cluster.add_node("n2", **mount)
    cluster.write()
    cluster.keygen()
    cluster.start_exporter("n1")
    path = cluster.mount("n2") / "disk/by-node/n1/disk0"
    stage = ChannelStage(name, cluster, path)
    _await_channels(stage)
    return stage


def _channels(stage: ChannelStage) -> list[dict[str, Any]]:
    """Return the paths to n1 in the mount's status."""
    status = json.loads((stage.cluster.mountpoint("n2") / ".meshfs/status").read_bytes())
    channels: list[dict[str, Any]] = status["exporters"][0]["channels"]
    return channels


def _await_channels(stage: ChannelStage, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not all(channel["state"] == "connected" for channel in _channels(stage)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{stage.name}: not all channels after {timeout_s:g} s: {_channels(stage)}")
        time.sleep(0.05)


# --- throughput --------------------------------------------------------------------------


def _compare(
    group: str,
    stages: list[ChannelStage],
    workloads: tuple[FioWorkload, ...],
    marks: Mapping[str, float],
    rounds: int,
    seconds: float,
    only: str,
    say: Say,
) -> list[dict[str, Any]]:
    """Measure every workload on every stage in turn. The first stage is the base of the ratios."""
    rows = []
    for workload in _wanted(group, workloads, only):
        samples: dict[str, list[FioSample]] = {stage.name: [] for stage in stages}
        for number in range(rounds):
            say(f"{group}/{workload.name}: round {number + 1} of {rounds}")
            for stage in stages:
                samples[stage.name].append(fio.measure(stage.path, workload, stage.pids, seconds))
        rows.append(_row(group, workload, samples, marks))
        print(_table(rows[-1]) + "\n", flush=True)
    return rows


def _row(
    group: str, workload: FioWorkload, samples: Mapping[str, list[FioSample]], marks: Mapping[str, float]
) -> dict[str, Any]:
    first = next(iter(samples.values()))
    return {
        "name": f"{group}/{workload.name}",
        "unit": workload.unit,
        "stages": {
            name: {
                "median": median(sample.rate for sample in taken),
                "ratio": median(sample.rate / base.rate for sample, base in zip(taken, first, strict=True)),
                "mark": marks.get(name),
                "cpu_us_per_op": {
                    process: median(sample.cpu_us_per_op[process] for sample in taken)
                    for process in taken[0].cpu_us_per_op
                },
                "latency_p99_us": median(sample.latency_p99_us for sample in taken),
                "rates": [sample.rate for sample in taken],
            }
            for name, taken in samples.items()
        },
    }


def _table(row: Mapping[str, Any]) -> str:
    head = f"{row['name']:<28} {row['unit']:>8} {'ratio':>6} {'mark':>5}"
    lines = [f"{head}  {'CPU us/op mount':>15} {'exporter':>9} {'p99 us':>9}"]
    for name, stage in row["stages"].items():
        mark = stage["mark"]
        missed = " MISSED" if mark is not None and stage["ratio"] < mark else ""
        cpu = stage["cpu_us_per_op"]
        lines.append(
            f"  {name:<26} {stage['median']:>8.1f} {stage['ratio']:>6.2f} {'' if mark is None else mark:>5}"
            f"  {cpu['mount']:>15.1f} {cpu['exporter']:>9.1f} {stage['latency_p99_us']:>9.0f}{missed}"
        )
    return "\n".join(lines)


# --- failover ----------------------------------------------------------------------------


def _failover(stack: ExitStack, folder: Path, say: Say) -> dict[str, Any]:
    network = stack.enter_context(Network())
    # The links are limited, so that the load needs both of them while both work.
    hosts = [network.host(name, lans=2, rate=RATE) for name in ("n1", "n2")]
    stage = _stage(stack, folder, "pulled links", {"host": hosts[0]}, {"host": hosts[1]}, {})
    generator = random.Random(1)
    pulls = []
    for number in range(PULLS):
        host, nic, how = generator.choice(hosts), generator.randrange(2), generator.choice(("down", "blackhole"))
        say(f"failover: pull {number + 1} of {PULLS}, {how} of eth{nic} at {host.name}")
        pulls.append(_pull(stage, host.nics[nic], how))
    stalls, reuses = [pull["stall_s"] for pull in pulls], [pull["reused_after_s"] for pull in pulls]
    print(
        f"failover: longest stall of {PULLS} pulls {max(stalls):.2f} s (mark {STALL_MARK_S:g}), median "
        f"{median(stalls):.2f} s; used again after {max(reuses):.1f} s at most (mark {REUSE_MARK_S:g}), median "
        f"{median(reuses):.1f} s\n",
        flush=True,
    )
    return {"pulls": pulls, "stall_mark_s": STALL_MARK_S, "reuse_mark_s": REUSE_MARK_S}


def _pull(stage: ChannelStage, nic: Any, how: str) -> dict[str, Any]:
    """Pull one link under load and restore it. Return fio's longest latency, and the time until the link is reused."""
    with ExitStack() as stack:
        load = _load(stage.path, PULL_AFTER_S + PULLED_S)
        stack.callback(_end, load)
        time.sleep(PULL_AFTER_S)
        (nic.down if how == "down" else nic.blackhole)()
        stack.callback(nic.heal if how == "blackhole" else nic.up)
        output, _ = load.communicate(timeout=60)
        job = json.loads(output[output.index("{") :])["jobs"][0]
        if job["error"]:
            raise RuntimeError(f"fio ended with error {job['error']} while a link was pulled")
    back = time.monotonic()
    load = _load(stage.path, REUSE_MARK_S)
    try:
        reused = _await_use(stage, back)
    finally:
        _end(load)
    stall_ns = max(job[side]["clat_ns"]["max"] for side in ("read", "write"))
    return {"how": how, "stall_s": stall_ns / 1e9, "reused_after_s": reused}


def _load(path: Path, seconds: float) -> subprocess.Popen[str]:
    command = [
        "fio",
        "--name=pull",
        f"--filename={path}",
        "--rw=randrw",
        "--bs=64k",
        "--iodepth=16",
        "--ioengine=libaio",
        "--direct=1",
        "--time_based",
        f"--runtime={seconds:g}",
        "--output-format=json",
    ]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )


def _end(load: subprocess.Popen[str]) -> None:
    """Kill fio with all its jobs, which are separate processes."""
    with suppress(ProcessLookupError):
        os.killpg(load.pid, signal.SIGKILL)
    load.wait()


def _await_use(stage: ChannelStage, since: float) -> float:
    """Wait until every path transfers data, and return the seconds since ``since``."""
    before = {channel["remote_address"]: channel["received_bytes"] for channel in _channels(stage)}
    while time.monotonic() - since < 2 * REUSE_MARK_S:
        channels = _channels(stage)
        if all(
            channel["state"] == "connected" and channel["received_bytes"] - before[channel["remote_address"]] > MIB
            for channel in channels
        ):
            return time.monotonic() - since
        time.sleep(0.05)
    raise TimeoutError(f"a path is not used again: {_channels(stage)}")

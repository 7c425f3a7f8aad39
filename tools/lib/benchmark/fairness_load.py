"""One run: fio for each load at the same time, samples of the exporter's flows, and the processors' use."""

import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmark.fairness_cases import BLOCK_BYTES, Load
from benchmark.fairness_rules import Sample, between, sample_of
from benchmark.fairness_stage import Stage
from benchmark.fio import TICKS_PER_S, cpu_s

RAMP_S: Final = 0.8
SAMPLE_EVERY_S: Final = 0.25
# The last sample begins at the end of the time, and its answer takes a moment.
SAMPLE_LATE_S: Final = 0.1
# The time from the start of fio to its first request.
FIO_START_S: Final = 0.3
# A load may end so much later than planned, because its last requests wait behind a deep queue of large ones.
FIO_END_MAX_S: Final = 60.0
FIO_STOP_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True)
class LoadResult:
    """Holds fio's results of one load, after its ramp. Latencies are those of completion."""

    iops: float
    operations: int
    bytes: int
    mean_ms: float
    p50_ms: float
    p99_ms: float
    cores: float
    """Processor time of fio itself per second."""


@dataclass(frozen=True)
class Run:
    """Holds the results of one run. `samples` are from the time that fio measured.

    `cores` is the processor time per second of each process.
    """

    results: list[LoadResult]
    samples: list[Sample]
    cores: dict[str, float]
    machine: float
    """The part of all processors' time that any process used."""
    others: float
    """The part of all processors' time that other processes used, including the kernel's threads."""
    depth: int
    """The exporter's depth at the end: the most requests at the disk at once; 0 if the run was not sampled."""
    model: dict[str, Any]
    """The exporter's cost model of the disk at the end; empty if the run was not sampled."""

    @property
    def cpu_bound(self) -> bool:
        """Return whether a processor may have been the bottleneck instead of the disk.

        A process is mostly one thread, so 90 % of one core counts as bound.
        """
        return self.machine > 0.9 or any(used > 0.9 for used in self.cores.values())


def run(stage: Stage, loads: Sequence[Load], runtime_s: float, *, sampled: bool = False, ramp_s: float = RAMP_S) -> Run:
    """Run the loads. Raises RuntimeError with the output of a fio that fails, and TimeoutError if one does not end."""
    paths = [stage.path(load.mount) for load in loads]  # makes missing mounts, before the timing starts
    outputs = [stage.folder / f"fio-{number}.json" for number in range(len(loads))]
    processes: list[subprocess.Popen[bytes]] = []
    start_s = time.monotonic()
    begin_s, end_s = start_s + FIO_START_S + ramp_s, start_s + ramp_s + runtime_s
    try:
        for load, path, output in zip(loads, paths, outputs, strict=True):
            processes.append(_start(stage.prefix(load), load, path, output, ramp_s, runtime_s))
        watch = _Watch(stage, sampled)
        watch.until(begin_s)
        before = _Usage(stage.pids)
        watch.until(end_s)
        after = _Usage(stage.pids)
        watch.until(end_s + FIO_END_MAX_S, processes)
    finally:
        for process in processes:
            _end(process)
    results = [_result(load, output, process) for load, output, process in zip(loads, outputs, processes, strict=True)]
    cores, machine = after.since(before)
    disk: dict[str, Any] = stage.flows()["disks"][0] if sampled else {"depth": 0, "cost": {}}
    samples = between(watch.samples, begin_s, end_s + SAMPLE_LATE_S) if sampled else []
    ours = (sum(cores.values()) + sum(result.cores for result in results)) / (os.cpu_count() or 1)
    return Run(results, samples, cores, machine, round(max(machine - ours, 0.0), 3), disk["depth"], disk["cost"])


class _Watch:
    """Waits, and samples the exporter's flows at each tick."""

    def __init__(self, stage: Stage, sampled: bool) -> None:
        self._stage, self._sampled = stage, sampled
        self.samples: list[Sample] = []

    def until(self, deadline_s: float, processes: Sequence[subprocess.Popen[bytes]] = ()) -> None:
        """Wait until the deadline, or until all given `processes` have ended. Raises TimeoutError if one has not."""
        while (now := time.monotonic()) < deadline_s:
            if processes and all(process.poll() is not None for process in processes):
                return
            if self._sampled:
                before = now
                document = self._stage.flows()
                now = time.monotonic()
                # The totals are from a moment between the request and the answer.
                self.samples.append(sample_of(document, (before + now) / 2))
            time.sleep(min(SAMPLE_EVERY_S, max(deadline_s - now, 0.0)))
        if any(process.poll() is None for process in processes):
            raise TimeoutError(f"fio has not ended {FIO_END_MAX_S:g} s after its time")


class _Usage:
    """Measures the processor time that was used so far, by each process and by the machine."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._time_s = time.monotonic()
        self._by_process = {name: cpu_s(pid) for name, pid in pids.items()}
        fields = [int(field) for field in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
        self._idle_s = (fields[3] + fields[4]) / TICKS_PER_S

    def since(self, before: "_Usage") -> tuple[dict[str, float], float]:
        """Return (cores used by each process, part of the machine's cores that was busy)."""
        elapsed_s = self._time_s - before._time_s
        cores = {name: (used - before._by_process[name]) / elapsed_s for name, used in self._by_process.items()}
        idle = (self._idle_s - before._idle_s) / (elapsed_s * (os.cpu_count() or 1))
        return {name: round(used, 3) for name, used in cores.items()}, round(min(max(1 - idle, 0.0), 1.0), 3)


def _start(
    prefix: Sequence[str], load: Load, path: Path, output: Path, ramp_s: float, runtime_s: float
) -> subprocess.Popen[bytes]:
    command = [
        *prefix,
        *(["ionice", "-c", "idle"] if load.idle else []),
        "fio",
        "--name=load",
        f"--filename={path}",
        f"--rw={load.pattern}",
        f"--bs={BLOCK_BYTES[load.block]}",
        f"--iodepth={load.depth}",
        "--ioengine=libaio",
        "--direct=1",
        "--time_based",
        f"--ramp_time={round(ramp_s * 1000)}ms",  # in ms, because fio accepts only whole seconds
        f"--runtime={round(runtime_s * 1000)}ms",
        "--norandommap",
        "--randrepeat=0",
        "--percentile_list=50:90:99:99.9",
        "--output-format=json",
        f"--output={output}",
    ]
    output.unlink(missing_ok=True)
    with output.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=output.parent)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End fio, first with a signal that it can catch: fio's job is a separate process, which only fio ends."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(FIO_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _result(load: Load, output: Path, process: subprocess.Popen[bytes]) -> LoadResult:
    text = output.read_text() if output.exists() else ""
    if process.returncode:
        said = output.with_suffix(".log").read_text(errors="replace")
        raise RuntimeError(f"fio failed as {load}: {text[-1000:]}{said[-1000:]}")
    job = json.loads(text[text.index("{") :])["jobs"][0]
    side = job["write" if load.writes else "read"]
    latency = side["clat_ns"]
    return LoadResult(
        iops=side["iops"],
        operations=side["total_ios"],
        bytes=side["io_bytes"],
        mean_ms=latency["mean"] / 1e6,
        p50_ms=latency["percentile"]["50.000000"] / 1e6,
        p99_ms=latency["percentile"]["99.000000"] / 1e6,
        cores=(job["usr_cpu"] + job["sys_cpu"]) / 100,
    )

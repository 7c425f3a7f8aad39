"""One measurement: run fio on one file, and return its rate and each process's CPU time per operation."""

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_UTIME: Final = 11  # field of /proc/PID/stat after the command's closing parenthesis; stime follows


@dataclass(frozen=True)
class FioWorkload:
    """Describes the I/O of one fio: the pattern, the size of a request, and the depth."""

    name: str
    pattern: str
    block: str
    depth: int

    @property
    def writes(self) -> bool:
        return self.pattern.endswith("write")

    @property
    def unit(self) -> str:
        return "IOPS" if self.block == "4k" else "MB/s"


WORKLOADS: Final = (
    FioWorkload("randread-4k-qd1", "randread", "4k", 1),
    FioWorkload("randwrite-4k-qd1", "randwrite", "4k", 1),
    FioWorkload("randread-4k-qd16", "randread", "4k", 16),
    FioWorkload("randwrite-4k-qd16", "randwrite", "4k", 16),
    FioWorkload("read-1m-qd4", "read", "1m", 4),
    FioWorkload("write-1m-qd4", "write", "1m", 4),
)


@dataclass(frozen=True)
class FioSample:
    """One sample: the rate in the workload's unit, the CPU time per operation by process, and completion latencies."""

    rate: float
    cpu_us_per_op: dict[str, float]
    latency_p50_us: float
    latency_p99_us: float


def measure(path: Path, workload: FioWorkload, pids: dict[str, int], runtime_s: float) -> FioSample:
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    job = run(path, workload, runtime_s)
    used_s = {name: cpu_s(pid) - before[name] for name, pid in pids.items()}
    side = job["write" if workload.writes else "read"]
    rate = side["iops"] if workload.unit == "IOPS" else side["bw_bytes"] / 1e6
    percentiles = side["clat_ns"]["percentile"]
    return FioSample(
        rate=rate,
        cpu_us_per_op={name: used * 1e6 / side["total_ios"] for name, used in used_s.items()},
        latency_p50_us=percentiles["50.000000"] / 1000,
        latency_p99_us=percentiles["99.000000"] / 1000,
    )


def run(path: Path, workload: FioWorkload, runtime_s: float) -> dict[str, Any]:
    """Run fio, and return its report of its one job. Raises RuntimeError with its output if it fails."""
    command = [
        "fio",
        "--name=bench",
        f"--filename={path}",
        f"--rw={workload.pattern}",
        f"--bs={workload.block}",
        f"--iodepth={workload.depth}",
        "--ioengine=libaio",
        "--direct=1",
        "--time_based",
        f"--runtime={runtime_s:g}",
        "--norandommap",
        "--randrepeat=0",
        "--output-format=json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"fio failed on {path}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    found = re.search(r"^\{", done.stdout, re.MULTILINE)
    job: dict[str, Any] = json.loads(done.stdout[found.start() if found else 0 :])["jobs"][0]
    return job


def cpu_s(pid: int) -> float:
    """Return the user and system time of a process with all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[_UTIME]) + int(fields[_UTIME + 1])) / TICKS_PER_S


def rss_mib(pid: int) -> float:
    match = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(match.group(1)) / 1024 if match else 0.0

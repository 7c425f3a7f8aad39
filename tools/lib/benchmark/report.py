"""Summarise the samples as medians and as ratios within each round, as a table and as JSON."""

import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmark.fio import FioSample, FioWorkload

PEERS: Final = ("nbdfuse", "qsd")


@dataclass
class WorkloadRow:
    """One disk and workload: the samples of each subject, in the order of the rounds."""

    disk: str
    workload: FioWorkload
    samples: dict[str, list[FioSample]]

    @property
    def name(self) -> str:
        return f"{self.disk}/{self.workload.name}"

    def rate(self, subject: str) -> float:
        return median(sample.rate for sample in self.samples[subject])

    def ratio(self, subject: str, peer: str) -> float | None:
        """Return the median of the rounds' ratios. The samples of a round are close in time, in like conditions."""
        if subject == peer or peer not in self.samples:
            return None
        pairs = zip(self.samples[subject], self.samples[peer], strict=True)
        return median(ours.rate / theirs.rate for ours, theirs in pairs)

    def cpu(self, subject: str) -> dict[str, float]:
        samples = self.samples[subject]
        return {name: median(sample.cpu_us_per_op[name] for sample in samples) for name in samples[0].cpu_us_per_op}


def table(row: WorkloadRow) -> str:
    unit = row.workload.unit
    head = f"{row.name:<24} {unit:>8} " + " ".join(f"{'/' + peer:>8}" for peer in PEERS)
    lines = [f"{head}  {'CPU us/op mount':>15} {'exporter':>9} {'p50 us':>8} {'p99 us':>8}"]
    for subject, samples in row.samples.items():
        cpu = row.cpu(subject)
        ratios = " ".join(_ratio(row.ratio(subject, peer)) for peer in PEERS)
        p50, p99 = (median(getattr(sample, key) for sample in samples) for key in ("latency_p50_us", "latency_p99_us"))
        lines.append(
            f"  {subject:<22} {row.rate(subject):>8.0f} {ratios}  {cpu['mount']:>15.1f} {cpu['exporter']:>9.1f}"
            f" {p50:>8.0f} {p99:>8.0f}"
        )
    return "\n".join(lines)


def _ratio(value: float | None) -> str:
    return f"{'' if value is None else format(value, '.2f'):>8}"


def document(rows: list[WorkloadRow], settings: dict[str, Any]) -> dict[str, Any]:
    return {"machine": machine(), "settings": settings, "rows": [_as_json(row) for row in rows]}


def _as_json(row: WorkloadRow) -> dict[str, Any]:
    return {
        "disk": row.disk,
        "workload": asdict(row.workload),
        "unit": row.workload.unit,
        "subjects": {
            subject: {
                "median": row.rate(subject),
                "cpu_us_per_op": row.cpu(subject),
                "ratios": {peer: row.ratio(subject, peer) for peer in PEERS},
                "samples": [asdict(sample) for sample in samples],
            }
            for subject, samples in row.samples.items()
        },
    }


def machine() -> dict[str, Any]:
    return {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "cpu": _cpu_model(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("fio", "nbdkit", "nbdfuse", "qemu-storage-daemon")},
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(program: str) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]

"""Compare the measured figures with their marks: rows, a table of rows, and JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmark.fairness_cases import CEPH
from benchmark.report import machine


@dataclass(frozen=True)
class Row:
    """Holds one figure. `reached` is None if there is no mark, or if the mark does not apply."""

    name: str
    measured: float
    unit: str = ""
    mark: str = ""
    reached: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class RecoveryResult:
    """Holds the clients' figures under one setting, as medians of the rounds."""

    kind: str
    name: str
    iops: float
    mean_ms: float
    p99_ms: float
    recovery_bytes_per_s: float


@dataclass
class Findings:
    """Collects the rows, figures and runs of all experiments."""

    rows: list[Row] = field(default_factory=list)
    recovery: list[RecoveryResult] = field(default_factory=list)
    shares: dict[str, dict[str, Any]] = field(default_factory=dict)
    """For the plot, by row name: "flows" (labels) and "points" (seconds, each flow's part)."""
    runs: list[dict[str, Any]] = field(default_factory=list)
    """Every run: its name, the results of each load, and the processor time of each process."""


def at_least(name: str, measured: float, mark: float, note: str = "", unit: str = "") -> Row:
    return Row(name, measured, unit, f">= {mark:g}", measured >= mark, note)


def at_most(name: str, measured: float, mark: float, note: str = "", unit: str = "") -> Row:
    return Row(name, measured, unit, f"<= {mark:g}", measured <= mark, note)


def line(row: Row) -> str:
    reached = {True: "yes", False: "NO", None: "-"}[row.reached]
    measured = f"{row.measured:.3f}" if abs(row.measured) < 100 else f"{row.measured:,.0f}"
    return f"{row.name:<46} {measured:>9} {row.unit:<5} {row.mark:<12} {reached:<4} {row.note}".rstrip()


HEAD = f"{'':<46} {'measured':>9} {'':<5} {'mark':<12} {'':<4} note"


def table(findings: Findings) -> str:
    rows = findings.rows
    lines = [HEAD, *map(line, rows)]
    if findings.recovery:
        lines += ["", *recovery_table(findings.recovery)]
    marked = [row for row in rows if row.reached is not None]
    missed = [row.name for row in marked if not row.reached]
    lines += ["", f"{len(marked) - len(missed)} of {len(marked)} marks reached" + (":" if missed else "")]
    lines += [f"  missed: {name}" for name in missed]
    return "\n".join(lines) + "\n"


def recovery_table(results: Sequence[RecoveryResult]) -> list[str]:
    """Return a table of our results by disk, and then Ceph's, each relative to its own baseline."""
    head = f"{'clients beside recovery':<28} {'IOPS':>8} {'mean ms':>8} {'p99 ms':>8} {'of base':>8} {'latency':>8}"
    lines = [f"{head}  recovery MB/s"]
    for result in results:
        base = next((it for it in results if it.kind == result.kind and it.name == "baseline"), None)
        relative = f"{'':>8} {'':>8}"
        if base is not None:
            relative = f"{result.iops / base.iops:>8.3f} {result.mean_ms / base.mean_ms:>7.1f}x"
        lines.append(
            f"{result.kind + '/' + result.name:<28} {result.iops:>8,.0f} {result.mean_ms:>8.2f} {result.p99_ms:>8.2f}"
            f" {relative}  {result.recovery_bytes_per_s / 1e6:.1f}"
        )
    base_of_ceph = CEPH[0]
    for ceph in CEPH:
        lines.append(
            f"{'Ceph/' + ceph.name:<28} {ceph.iops:>8,.0f} {ceph.mean_ms:>8.2f} {'':>8}"
            f" {ceph.iops / base_of_ceph.iops:>8.3f} {ceph.mean_ms / base_of_ceph.mean_ms:>7.1f}x"
        )
    return lines


def document(findings: Findings, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "machine": machine(),
        "settings": settings,
        "rows": [asdict(row) for row in findings.rows],
        "recovery": [asdict(result) for result in findings.recovery],
        "ceph": [asdict(ceph) for ceph in CEPH],
        "shares": findings.shares,
        "runs": findings.runs,
    }

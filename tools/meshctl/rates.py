"""Rates of I/O between two answers of a mount or an exporter. Pure: the functions get answers and their times.

A rate is the difference of two totals, so no I/O between the two answers is missed. If a total became smaller, the
process was restarted, and the interval has no rate.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from meshctl.sources import Answer
from meshfs.telemetry.exporter_records import FlowRecord, FlowsDiskRecord, FlowsRecord
from meshfs.telemetry.mount_records import MountDiskRecord, MountRecord
from meshfs.telemetry.problems import Problem
from meshfs.telemetry.records import BUCKETS, StatusRecord, TotalsRecord

#: The rows of totals: where the disk is, and the kind of I/O.
TOTALS: Final = (("local", "read"), ("local", "write"), ("remote", "read"), ("remote", "write"))
_COUNTS: Final = ("reads", "writes", "flushes", "errors", "read_bytes", "written_bytes")


@dataclass(frozen=True)
class Traffic:
    """Holds counts, bytes and histograms of I/O: totals since the start of a process, or the I/O of an interval.

    The buckets of the histograms are COARSE_BOUNDS_MS.
    """

    reads: int
    writes: int
    flushes: int
    errors: int
    read_bytes: int
    written_bytes: int
    read_histogram: tuple[int, ...]
    write_histogram: tuple[int, ...]


@dataclass(frozen=True)
class Reading:
    """Holds an answer, and the time of its arrival on a monotonic clock."""

    answer: Answer
    at_s: float


What = TypeVar("What", bound=MountDiskRecord | FlowRecord)
Of = TypeVar("Of", bound=MountRecord | FlowsDiskRecord)


@dataclass(frozen=True)
class RateRow(Generic[What]):
    """Holds a disk of a mount, or a flow of an exporter's disk. ``traffic`` is its I/O in the interval, if known."""

    what: What
    traffic: Traffic | None

    @property
    def operations(self) -> int:
        return self.traffic.reads + self.traffic.writes + self.traffic.flushes if self.traffic else 0


@dataclass(frozen=True)
class RateGroup(Generic[Of, What]):
    """Holds the disks of a mount, or the flows of one disk."""

    of: Of
    rows: tuple[RateRow[What], ...]


@dataclass(frozen=True)
class Side(Generic[Of, What]):
    """Describes one mount or exporter in one interval. ``elapsed_s`` is None if there was no earlier answer."""

    answer: Answer
    elapsed_s: float | None
    groups: tuple[RateGroup[Of, What], ...]

    def per_s(self, number: int) -> float | None:
        return number / self.elapsed_s if self.elapsed_s else None


MountSide = Side[MountRecord, MountDiskRecord]
ExporterSide = Side[FlowsDiskRecord, FlowRecord]


@dataclass(frozen=True)
class Interval:
    """Holds all mounts, exporters and problems that are shown at once."""

    mounts: tuple[MountSide, ...]
    exporters: tuple[ExporterSide, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Total:
    """Sums up one kind of I/O of several disks."""

    per_s: float
    bytes_per_s: float
    histogram: tuple[int, ...]


def traffic(totals: TotalsRecord) -> Traffic | None:
    """Return the totals of a record. Return None if a total is missing or negative."""
    counts = {
        "reads": totals.reads,
        "writes": totals.writes,
        "flushes": totals.flushes,
        "errors": totals.errors,
        "read_bytes": totals.read_bytes,
        "written_bytes": totals.written_bytes,
    }
    known = {name: count for name, count in counts.items() if count is not None and count >= 0}
    reads, writes = totals.read_histogram, totals.write_histogram
    if len(known) < len(counts) or reads is None or writes is None:
        return None
    return Traffic(**known, read_histogram=tuple(reads), write_histogram=tuple(writes))


def between(before: Traffic | None, after: Traffic | None) -> Traffic | None:
    """Return the difference. Return None if one of the two is unknown, or if a total became smaller."""
    if before is None or after is None:
        return None
    counts = {name: getattr(after, name) - getattr(before, name) for name in _COUNTS}
    reads = _minus(after.read_histogram, before.read_histogram)
    writes = _minus(after.write_histogram, before.write_histogram)
    if min(*counts.values(), *reads, *writes) < 0:
        return None
    return Traffic(**counts, read_histogram=reads, write_histogram=writes)


def mount_side(before: Reading | None, after: Reading) -> MountSide:
    old = {disk.id: traffic(disk.io) for disk in before.answer.read(MountRecord).disks} if before else {}
    mount = after.answer.read(MountRecord)
    rows = tuple(RateRow(disk, between(old.get(disk.id), traffic(disk.io))) for disk in mount.disks)
    return _side(before, after, (RateGroup(mount, rows),))


def exporter_side(before: Reading | None, after: Reading) -> ExporterSide:
    old: dict[tuple[str, ...], Traffic | None] = {}
    for disk in before.answer.read(FlowsRecord).disks if before else ():
        old |= {_flow_key(disk, flow): traffic(flow) for flow in disk.flows}

    def group(disk: FlowsDiskRecord) -> RateGroup[FlowsDiskRecord, FlowRecord]:
        return RateGroup(
            disk, tuple(RateRow(flow, between(old.get(_flow_key(disk, flow)), traffic(flow))) for flow in disk.flows)
        )

    return _side(before, after, tuple(group(disk) for disk in after.answer.read(FlowsRecord).disks))


def totals(sides: Iterable[MountSide | ExporterSide]) -> Mapping[tuple[str, str], Total]:
    """Return the sums of the reads and writes of local and remote disks, over all rows whose traffic is known."""
    found = {key: Total(0.0, 0.0, (0,) * BUCKETS) for key in TOTALS}
    for side in sides:
        for row in (row for group in side.groups for row in group.rows):
            if row.traffic is None or not side.elapsed_s:
                continue
            where, came = "local" if row.what.local else "remote", row.traffic
            for kind, count, size_bytes, histogram in (
                ("read", came.reads, came.read_bytes, came.read_histogram),
                ("write", came.writes, came.written_bytes, came.write_histogram),
            ):
                known = found[where, kind]
                found[where, kind] = Total(
                    known.per_s + count / side.elapsed_s,
                    known.bytes_per_s + size_bytes / side.elapsed_s,
                    tuple(map(sum, zip(known.histogram, histogram, strict=True))),
                )
    return found


def document(interval: Interval) -> dict[str, object]:
    """Return the interval as JSON values. Figures below "interval" are of the time between two answers."""
    shown = totals(interval.mounts or interval.exporters)
    return {
        "version": 1,
        "ok": not any(problem.counts for problem in interval.problems),
        "problems": [problem.as_json() for problem in interval.problems],
        "totals": {f"{where}_{kind}": vars(shown[where, kind]) for where, kind in TOTALS},
        "mounts": [
            {**_about(side), "disks": [_row(side, row) for group in side.groups for row in group.rows]}
            for side in interval.mounts
        ],
        "exporters": [
            {
                **_about(side),
                "disks": [{**group.of.raw, "flows": [_row(side, row) for row in group.rows]} for group in side.groups],
            }
            for side in interval.exporters
        ],
    }


def _side(before: Reading | None, after: Reading, groups: tuple[RateGroup[Of, What], ...]) -> Side[Of, What]:
    if after.answer.error:
        return Side(after.answer, None, ())
    if before is None or _restarted(before.answer, after.answer) or after.at_s <= before.at_s:
        return Side(after.answer, None, tuple(_unrated(group) for group in groups))
    return Side(after.answer, after.at_s - before.at_s, groups)


def _unrated(group: RateGroup[Of, What]) -> RateGroup[Of, What]:
    return RateGroup(group.of, tuple(RateRow(row.what, None) for row in group.rows))


def _restarted(before: Answer, after: Answer) -> bool:
    """Return whether the process was restarted between the answers.

    The totals do not always show a restart, because the new ones may be larger. A smaller uptime always shows it.
    """
    early, late = before.read(StatusRecord).uptime_s, after.read(StatusRecord).uptime_s
    return early is not None and late is not None and late < early


def _flow_key(disk: FlowsDiskRecord, flow: FlowRecord) -> tuple[str, ...]:
    return disk.name, flow.node, flow.io_class


def _minus(after: tuple[int, ...], before: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(late - early for early, late in zip(before, after, strict=True))


def _about(side: MountSide | ExporterSide) -> dict[str, object]:
    about: dict[str, object] = {
        "source": side.answer.source,
        "node": side.answer.read(StatusRecord).node,
        "elapsed_s": side.elapsed_s,
    }
    return {**about, "error": side.answer.error} if side.answer.error else about


def _row(side: Side[Of, What], row: RateRow[What]) -> dict[str, object]:
    if row.traffic is None:
        return {**row.what.raw, "interval": None}
    came = vars(row.traffic)
    rates = {f"{name}_per_s": side.per_s(came[name]) for name in _COUNTS if name != "errors"}
    return {**row.what.raw, "interval": {**came, **rates}}

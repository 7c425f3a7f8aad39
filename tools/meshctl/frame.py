"""The lines that meshctl top shows. Pure: the functions get an interval and the window's size, and return lines."""

from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Final

from meshctl import flows, table
from meshctl.rates import TOTALS, ExporterSide, Interval, MountSide, RateGroup, RateRow, totals
from meshfs.telemetry.exporter_records import FlowRecord, FlowsDiskRecord, FlowsRecord
from meshfs.telemetry.histogram import COARSE_BOUNDS_MS
from meshfs.telemetry.mount_records import MountDiskRecord, MountRecord
from meshfs.telemetry.records import LatencyRecord

# A block that is shortened to fit the window keeps this many lines: its heading and its first rows.
_BLOCK_ROWS_MIN: Final = 6
# With narrower columns, most changes of a figure's length would move the columns to the right of the figure.
_COLUMN_WIDTH_MIN: Final = 6
_BUCKETS: Final = (*(f"<={bound}" for bound in COARSE_BOUNDS_MS), f">{COARSE_BOUNDS_MS[-1]} ms")
_TOTALS: Final = ("I/O", "IOPS", "BYTES/S", *_BUCKETS)
_DISKS: Final = (
    *("DISK", "WHERE", "READS/S", "BYTES/S", "P50", "P99", "WRITES/S", "BYTES/S ", "P50 ", "P99 "),
    *("FLUSHES/S", "ERRORS", "STATE"),
)
_FLOWS: Final = (
    *("NODE", "CLASS", "WEIGHT", "DUE", "SHARE 1s", "60s", "LAG", "QUEUED", "FLYING", "P50", "P99"),
    *("IOPS", "BYTES/S", "HELD"),
)


def frame(interval: Interval, title: str = "", columns: int | None = None) -> list[list[str]]:
    """Return blocks of lines: first the totals, then the problems, then mounts and exporters.

    Blocks and lines may be longer than a window. Only the lines of problems are wrapped at ``columns``.
    """
    blocks = [[*([title] if title else []), *_block(_TOTALS, _total_rows(interval), left=("I/O",))]]
    problems = [problem.line for problem in interval.problems]
    if problems:
        blocks.append([line for text in problems for line in ([text] if columns is None else wrap(text, columns))])
    blocks += [_mount_lines(side) for side in interval.mounts]
    for side in interval.exporters:
        busiest = sorted(side.groups, key=_utilisation, reverse=True)
        blocks += [_exporter_disk_lines(side, group) for group in busiest]
    return blocks


def joined(blocks: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of all blocks, with an empty line before each block but the first."""
    lines = [line for block in blocks for line in ("", *block)]
    return lines[1:]


def fit(blocks: Sequence[Sequence[str]], columns: int, rows: int) -> list[str]:
    """Return the lines that fit into a window. Shorten the longest blocks first, then leave out the last lines."""
    room = rows - len(blocks) + 1
    longest = max(map(len, blocks), default=0)
    while longest > _BLOCK_ROWS_MIN and sum(min(len(block), longest) for block in blocks) > room:
        longest -= 1
    shown = _cut(joined([_cut(block, longest) for block in blocks]), rows)
    return [line[:columns] for line in shown]


def _cut(lines: Sequence[str], rows: int) -> list[str]:
    """Return at most ``rows`` lines. If lines are left out, the last line says how many."""
    if len(lines) <= rows:
        return list(lines)
    return [*lines[: rows - 1], f"... {len(lines) - rows + 1} more lines"][:rows]


def _total_rows(interval: Interval) -> list[list[str]]:
    """Return the rows of totals: those of the mounts, or those of the exporters if no mount is shown.

    The two must not be added up, because the flows of an exporter are the same I/O as that of the mounts.
    """
    sides = interval.mounts or interval.exporters
    found = totals(sides)
    if not any(side.elapsed_s for side in sides):
        return [[f"{where} {kind}", *[""] * (len(_TOTALS) - 1)] for where, kind in TOTALS]
    return [
        [
            f"{where} {kind}",
            table.rate(found[where, kind].per_s),
            table.bytes_rate(found[where, kind].bytes_per_s),
            *(table.rate(count) for count in found[where, kind].histogram),
        ]
        for where, kind in TOTALS
    ]


def _mount_lines(side: MountSide) -> list[str]:
    mount, source = side.answer.read(MountRecord), table.printable(side.answer.source)
    if side.answer.error:
        return [f"mount {source}: no answer"]
    node = table.printable(mount.node) or table.UNKNOWN
    head = f"mount {source} of node {node}, up {table.duration(mount.uptime_s)}"
    rows = [row for group in side.groups for row in group.rows]
    busiest = sorted(rows, key=lambda row: (-row.operations, row.what.id))
    return [head, *_block(_DISKS, [_disk_row(side, row) for row in busiest], left=("DISK", "WHERE", "STATE"))]


def _disk_row(side: MountSide, row: RateRow[MountDiskRecord]) -> list[str]:
    disk, came, io = row.what, row.traffic, row.what.io
    rates = [side.per_s(n) if came else None for n in _per_kind(row)]
    return [
        f"{disk.node}/{disk.name}",
        "local" if disk.local else "remote",
        table.rate(rates[0]),
        table.bytes_rate(rates[1]),
        *_percentiles(io.read_latency_ms),
        table.rate(rates[2]),
        table.bytes_rate(rates[3]),
        *_percentiles(io.write_latency_ms),
        table.rate(rates[4]),
        table.count(io.errors),
        disk.shown_state,
    ]


def _exporter_disk_lines(side: ExporterSide, group: RateGroup[FlowsDiskRecord, FlowRecord]) -> list[str]:
    head = flows.headline(side.answer.read(FlowsRecord).node, group.of)
    if not group.rows:
        return [head]
    largest = sorted(group.rows, key=lambda row: (-_share(row.what), -row.operations, row.what.node))
    return [head, *_block(_FLOWS, [_flow_row(side, row) for row in largest], left=("NODE", "CLASS", "HELD"))]


def _flow_row(side: ExporterSide, row: RateRow[FlowRecord]) -> list[str]:
    flow, came = row.what, row.traffic
    return [
        flow.node,
        flow.io_class,
        flows.weight(flow.policy.weight),
        table.percent(flow.entitlement),
        table.percent(flow.share.second),
        table.percent(flow.share.minute),
        flows.lag(flow.lag_s),
        table.count(flow.queued),
        table.count(flow.in_flight),
        *_percentiles(flow.latency_ms),
        table.rate(side.per_s(row.operations) if came else None),
        table.bytes_rate(side.per_s(came.read_bytes + came.written_bytes) if came else None),
        flow.held,
    ]


def _per_kind(row: RateRow[MountDiskRecord]) -> tuple[int, ...]:
    came = row.traffic
    if came is None:
        return (0,) * 5
    return came.reads, came.read_bytes, came.writes, came.written_bytes, came.flushes


def _percentiles(latency_ms: LatencyRecord) -> list[str]:
    return [table.latency(latency_ms.p50), table.latency(latency_ms.p99)]


def _share(flow: FlowRecord) -> float:
    return flow.share.second or 0.0


def _utilisation(group: RateGroup[FlowsDiskRecord, FlowRecord]) -> float:
    return group.of.utilisation.second or 0.0


def _block(head: Sequence[str], rows: Sequence[Sequence[str]], left: Iterable[str]) -> list[str]:
    wide = [name if name in left else name.rjust(_COLUMN_WIDTH_MIN) for name in head]
    right = [name for name, plain in zip(wide, head, strict=True) if plain not in left]
    return table.render(wide, rows, right).split("\n")

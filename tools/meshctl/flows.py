"""meshctl flows shows the share of each disk that every flow is entitled to, and the share that it gets."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from meshctl import output, table
from meshctl.sources import CONFIG_DEFAULT, Answer, exporters_here
from meshctl.subparsers import Subparsers
from meshfs.cluster.config_nodes import disk_id
from meshfs.telemetry.exporter_records import CostRecord, FlowRecord, FlowsDiskRecord, FlowsRecord, PolicyRecord
from meshfs.telemetry.problems import Problem, Severity
from meshfs.telemetry.records import WindowsRecord

COLUMNS = (
    *("NODE", "CLASS", "WEIGHT", "RESERVE", "LIMIT", "DUE", "SHARE 1s", "60s", "LAG", "QUEUED", "WAITS", "FLYING"),
    *("P50", "P99", "IOPS", "BYTES/S", "HELD", "SET BY"),
)
RIGHT = frozenset(COLUMNS) - {"NODE", "CLASS", "HELD", "SET BY"}
CLASSES = ("app", "system")
_EPILOG = """\
A flow is all I/O of one node in one class at one disk. DUE is the share of the disk's time that the flow is entitled to
among the flows that want the disk now. SHARE is the share that it got in the last second and in the last minute. LAG is
the time by which it is behind; a negative LAG means that it is ahead. WAITS is the time that its oldest request has
waited. P50 and P99 are latencies of the last minute, from arrival to completion. "meshctl flows set" changes weights,
floors and limits. If a disk has the name "set" or "reset", write NODE/set or NODE/reset.
"""


def add_parser(verbs: Subparsers) -> None:
    parser = verbs.add_parser("flows", help="show which flow gets how much of this machine's disks", epilog=_EPILOG)
    parser.add_argument("disk", nargs="*", metavar="DISK", help="the disks to show: NAME or NODE/NAME (default: all)")
    add_exporter_arguments(parser)
    output.add_json(parser)
    parser.set_defaults(run=run)


def add_exporter_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, default=CONFIG_DEFAULT, help="the cluster's config file (default: %(default)s)"
    )
    parser.add_argument(
        "--node",
        action="append",
        default=[],
        metavar="NAME",
        help="ask the exporter of this node; may be repeated (default: all exporters that run on this machine)",
    )


def run(arguments: argparse.Namespace) -> int:
    exporters = exporters_here(arguments.config, arguments.node)
    return show([item.ask({"verb": "flows"}) for item in exporters], arguments.disk, arguments.json)


def show(answers: Sequence[Answer], wanted: Sequence[str], json: bool, problems: Sequence[Problem] = ()) -> int:
    """Print the disks with the ``wanted`` names that are in the answers, and return the exit status."""
    shown = [(answer, chosen(answer.read(FlowsRecord), wanted)) for answer in answers]
    found = [*problems, *(line for answer in answers for line in flow_problems(answer))]
    if all(not answer.error for answer in answers):
        found += [
            Problem("disk-unknown", Severity.ERROR, f"disk {name}", "no exporter that was asked has this disk")
            for name in wanted
            if not has(answers, name)
        ]
    if json:
        documents = [{**output.as_json(answer), "disks": [disk.raw for disk in disks]} for answer, disks in shown]
        output.print_json({"exporters": documents}, found)
    else:
        blocks = [disk_block(answer.read(FlowsRecord).node, disk) for answer, disks in shown for disk in disks]
        output.print_blocks(blocks or ["no disks"], found)
    return output.exit_status(found)


def flow_problems(answer: Answer) -> list[Problem]:
    who = f"exporter {answer.source}"
    return [output.no_answer(who, answer)] if answer.error else output.version_problems(who, answer)


def chosen(document: FlowsRecord, wanted: Sequence[str]) -> list[FlowsDiskRecord]:
    """Return the disks of the document with the ``wanted`` names. Return all disks if no name is given."""
    node = document.node
    return [disk for disk in document.disks if not wanted or set(wanted) & names(node, disk.name)]


def has(answers: Sequence[Answer], name: str) -> bool:
    return any(chosen(answer.read(FlowsRecord), [name]) for answer in answers)


def names(node: str, disk: str) -> set[str]:
    """Return all names by which a user may name the disk."""
    return {disk, f"{node}/{disk}", disk_id(node, disk)}


def disk_block(node: str, disk: FlowsDiskRecord) -> str:
    rows = [flow_row(flow) for flow in disk.flows]
    flows = table.render(COLUMNS, rows, right=tuple(RIGHT)) if rows else "  no I/O yet"
    return "\n".join([*disk_lines(node, disk), flows])


def disk_lines(node: str, disk: FlowsDiskRecord) -> list[str]:
    """Return the lines above the table of flows: the disk's state and settings, its cost model, and its fairness."""
    policy, jain = disk.policy, disk.jain
    fairness = [f"{name} {pair(windows, fixed)}" for name, windows in (("app", jain.app), ("system", jain.system))]
    limit = limits(policy)
    return [
        headline(node, disk),
        f"  floor of system I/O {table.percent(policy.system_floor)}, "
        + (f"limit {limit}" if limit else "no limit")
        + f", set by {table.printable(policy.source) or table.UNKNOWN}",
        "  cost of " + cost_model(disk.cost),
        "  Jain's index of fairness, 1s (60s): " + ", ".join(fairness),
    ]


def headline(node: str, disk: FlowsDiskRecord) -> str:
    """Return one line with the disk's name, discipline, depth and load."""
    return (
        f"disk {table.printable(f'{node}/{disk.name}')}: "
        f"{table.printable(disk.discipline) or table.UNKNOWN}, depth {table.count(disk.depth)}, "
        f"{table.count(disk.in_flight)} in flight, {table.count(disk.queued)} queued, "
        f"utilisation, 1s (60s): {pair(disk.utilisation, table.percent)}"
    )


def flow_row(flow: FlowRecord) -> list[str]:
    share, latency, policy = flow.share, flow.latency_ms, flow.policy
    return [
        flow.node,
        flow.io_class,
        weight(policy.weight),
        table.percent(policy.reservation or None),
        limits(policy),
        table.percent(flow.entitlement),
        table.percent(share.second),
        table.percent(share.minute),
        lag(flow.lag_s),
        table.count(flow.queued),
        table.latency(milli(flow.waits_s or None, 1e3)),
        table.count(flow.in_flight),
        table.latency(latency.p50),
        table.latency(latency.p99),
        table.rate(flow.iops.second),
        table.bytes_rate(flow.bytes_per_s.second),
        flow.held,
        policy.source,
    ]


def cost_model(cost: CostRecord) -> str:
    """Show the fixed cost of each kind of request, and the cost per byte as a speed: 1 ns per byte is 1000 MB/s."""
    parts = []
    for kind, fixed_us, byte_ns in (
        ("read", cost.read_fixed_us, cost.read_byte_ns),
        ("write", cost.write_fixed_us, cost.write_byte_ns),
    ):
        speed = f"{1000 / byte_ns:.0f} MB/s" if byte_ns and byte_ns > 1e-6 else table.UNKNOWN
        parts.append(f"a {kind} {table.latency(milli(fixed_us, 1e-3))} and {speed}")
    parts.append(f"a flush {table.latency(milli(cost.flush_fixed_us, 1e-3))}")
    learnt = "learnt from" if cost.calibrated else "not calibrated yet,"
    return ", ".join(parts) + f" ({learnt} {table.count(cost.windows)} windows)"


def limits(policy: PolicyRecord) -> str:
    """Show limits, for example "500/s 10M/s". Return an empty text if there is no limit."""
    iops, bytes_per_s = policy.limit_iops, policy.limit_bytes_per_s
    shown = [] if iops is None else [f"{table.rate(iops)}/s"]
    return " ".join(shown if bytes_per_s is None else [*shown, f"{table.bytes_rate(bytes_per_s)}/s"])


def pair(values: WindowsRecord, form: table.Form) -> str:
    """Show a figure over the last second and, in brackets, over the last minute."""
    return f"{form(values.second)} ({form(values.minute)})"


def fixed(value: float | None) -> str:
    return table.UNKNOWN if value is None else f"{value:.3f}"


def weight(value: float | None) -> str:
    return table.UNKNOWN if value is None else f"{value:g}"


def lag(value_s: float | None) -> str:
    return table.latency(milli(value_s, 1e3))


def milli(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor

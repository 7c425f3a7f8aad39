"""meshctl paths shows the interfaces and channels to each exporter, and the calls that wait for an exporter."""

import argparse

from meshctl import output, table
from meshctl.sources import Answer, ask_mounts
from meshctl.subparsers import Subparsers
from meshfs.telemetry.mount_records import MountRecord, PathRecord
from meshfs.telemetry.problems import merged

_COLUMNS = (
    *("EXPORTER", "STATE", "TRANSPORT", "INTERFACE", "LOCAL", "REMOTE", "SPEED", "CHANNEL", "SECURITY"),
    *("FLYING", "FAILURES", "SENT/S", "RECEIVED/S", "RETRY", "WHY"),
)
_RIGHT = ("SPEED", "FLYING", "FAILURES", "SENT/S", "RECEIVED/S", "RETRY", "FOR", "LEFT")
_WAITING = ("EXPORTER", "DISK", "WAITS", "FOR", "LEFT")


def add_parser(verbs: Subparsers) -> None:
    parser = verbs.add_parser(
        "paths", help="show the channels to every exporter, and the calls that wait for an exporter"
    )
    output.add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    mounts = ask_mounts(arguments.mountpoint)
    found = output.about(merged(*map(output.mount_problems, mounts)), output.PATH_CODES)
    if arguments.json:
        exporters = [
            {"mountpoint": mount.source, **exporter.raw}
            for mount in mounts
            for exporter in mount.read(MountRecord).exporters
        ]
        output.print_json({"exporters": exporters}, found)
    else:
        output.print_blocks([block(mount, len(mounts) > 1) for mount in mounts], found)
    return output.exit_status(found)


def block(answer: Answer, named: bool) -> str:
    parts = [f"mount {table.printable(answer.source)}"] if named else []
    parts.append(table.render(_COLUMNS, channel_rows(answer), _RIGHT))
    waiting = waiting_rows(answer)
    if waiting:
        parts += ["", table.render(_WAITING, waiting, _RIGHT)]
    failing = failing_lines(answer)
    if failing:
        parts += ["", *failing]
    return "\n".join(parts)


def channel_rows(answer: Answer) -> list[list[str]]:
    """Return a row for each path. An exporter without a path has one row with the reason."""
    rows = []
    for exporter in answer.read(MountRecord).exporters:
        head = [exporter.node, exporter.state]
        channels = exporter.channels
        if not channels:
            retry = table.duration(exporter.retry_in_s)
            rows.append([*head, *[""] * (len(_COLUMNS) - 4), retry, exporter.why])
        rows += [[*head, *_channel_cells(channel)] for channel in channels]
    return rows


def _channel_cells(channel: PathRecord) -> list[str]:
    connected = channel.state == "connected"
    counts = [table.count(count) for count in (channel.outstanding, channel.failures)]
    traffic = [table.bytes_rate(rate) for rate in (channel.sent_bytes_s, channel.received_bytes_s)]
    return [
        channel.transport,
        channel.interface,
        channel.local,
        channel.remote,
        table.bits_rate(channel.speed_bits_s),
        channel.state,
        _security(channel) if connected else "",
        *(counts if connected else [table.UNKNOWN, counts[1]]),
        *(traffic if connected else [table.UNKNOWN] * 2),
        table.duration(channel.retry_in_s),
        channel.why,
    ]


def _security(channel: PathRecord) -> str:
    """Show the agreed dialect and cipher, or signing if nothing is encrypted, for example "3.1.1 AES-GMAC"."""
    protection = channel.cipher if channel.cipher not in ("", "none") else channel.signing
    return f"{channel.dialect} {protection}".strip()


def waiting_rows(answer: Answer) -> list[list[str]]:
    return [
        [
            exporter.node,
            item.disk,
            item.op,
            table.duration(item.for_s),
            table.duration(item.left_s),
        ]
        for exporter in answer.read(MountRecord).exporters
        for item in exporter.waiting
    ]


def failing_lines(answer: Answer) -> list[str]:
    """Return a line for each exporter and each disk whose calls fail at once."""
    lines = []
    for exporter in answer.read(MountRecord).exporters:
        node = exporter.node
        if exporter.failing_fast:
            away = table.duration(exporter.away_s)
            lines.append(
                f"exporter {node} is failing fast: it has been away for {away}, so calls end with ETIMEDOUT at once"
            )
        for disk in exporter.hung_disks:
            hung = f"disk {disk.disk} of {node} hangs: it has answered nothing for"
            lines.append(f"{hung} {table.duration(disk.for_s)}, so calls end with ETIMEDOUT at once")
    return [table.printable(line) for line in lines]

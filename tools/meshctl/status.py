"""meshctl status shows the state of mounts and exporters, and every problem that they have."""

import argparse
import os
from pathlib import Path

from meshctl import output, table
from meshctl.sources import EXPORTER_SILENT, NOT_ALLOWED, Answer, ask_exporter, ask_mounts
from meshctl.subparsers import Subparsers
from meshfs.errors import ConfigError
from meshfs.telemetry.exporter_records import ExporterRecord
from meshfs.telemetry.fields import Fields
from meshfs.telemetry.mount_records import MountRecord
from meshfs.telemetry.problems import merged


def add_parser(verbs: Subparsers) -> None:
    parser = verbs.add_parser(
        "status", help="show the state and the problems of the mounts and of this node's exporter"
    )
    output.add_arguments(parser)
    parser.add_argument("--config", type=Path, help="ask an exporter of this config, and no mount")
    parser.add_argument(
        "--node", metavar="NAME", help="ask the exporter of this node (with --config; default: this host's)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.config is None and arguments.node is not None:
        raise ConfigError("--node names an exporter of a config; give --config as well")
    if arguments.config is not None and arguments.mountpoint:
        raise ConfigError("--config asks an exporter, and a mount point asks a mount; give only one of the two")
    if arguments.config is not None:
        mounts, exporters = [], [ask_exporter(str(arguments.config), arguments.node)]
    else:
        mounts = ask_mounts(arguments.mountpoint)
        exporters = own_exporters(mounts)
    asked_for = arguments.config is not None
    of_exporters = [output.exporter_problems(answer, asked_for=asked_for) for answer in exporters]
    found = merged(*map(output.mount_problems, mounts), *of_exporters)
    if arguments.json:
        shown = {"mounts": [output.as_json(m) for m in mounts], "exporters": [output.as_json(e) for e in exporters]}
        output.print_json(shown, found)
    else:
        blocks = [mount_block(mount) for mount in mounts] + [exporter_block(item) for item in exporters]
        output.print_blocks(blocks, found)
    return output.exit_status(found)


def own_exporters(mounts: list[Answer]) -> list[Answer]:
    """Ask the exporters of the mounts' own nodes. Skip a node without disks whose exporter no mount knows."""
    answers = {}
    for mount in mounts:
        seen = mount.read(MountRecord)
        path, node = seen.config, seen.node
        own_disks = any(disk.node == node for disk in seen.disks)
        own_session = any(exporter.node == node for exporter in seen.exporters)
        if path and node and (own_disks or own_session) and (path, node) not in answers:
            try:
                answers[path, node] = ask_exporter(path, node)
            except ConfigError as error:
                allowed = os.access(path, os.R_OK)
                text = str(error) if allowed else f"only root may read {path}, which says where to ask the exporter"
                answers[path, node] = Answer(node, Fields(None), text, EXPORTER_SILENT if allowed else NOT_ALLOWED)
    return list(answers.values())


def mount_block(answer: Answer) -> str:
    if answer.error:
        return f"mount {table.printable(answer.source)}: {table.printable(answer.error)}"
    mount = answer.read(MountRecord)
    head = (
        f"mount {table.printable(answer.source)} of node {table.printable(mount.node) or table.UNKNOWN}, "
        f"pid {table.count(mount.pid)}, up {table.duration(mount.uptime_s)}"
    )
    rows = []
    for exporter in mount.exporters:
        node = exporter.node
        disks = sum(disk.node == node and disk.present for disk in mount.disks)
        channels = sum(channel.state == "connected" for channel in exporter.channels)
        since = table.duration(exporter.since_s)
        rows.append([node, exporter.state, since, str(disks), str(channels), exporter.why])
    columns = ("EXPORTER", "STATE", "SINCE", "DISKS", "CHANNELS", "WHY")
    return head + "\n" + table.render(columns, rows, right=("SINCE", "DISKS", "CHANNELS"))


def exporter_block(answer: Answer) -> str:
    if answer.error:
        return f"exporter {table.printable(answer.source)}: {table.printable(answer.error)}"
    exporter = answer.read(ExporterRecord)
    listening = table.printable(", ".join(exporter.listening)) or "nothing"
    head = (
        f"exporter {table.printable(exporter.node) or table.UNKNOWN}, pid {table.count(exporter.pid)}, "
        f"up {table.duration(exporter.uptime_s)}, {len(exporter.sessions)} sessions, "
        f"listening on {listening}"
    )
    rows = [
        [
            disk.name,
            table.size(disk.size_bytes),
            disk.access,
            disk.cache,
            disk.engine,
            disk.state,
            table.count(disk.queued),
            table.count(disk.in_flight),
            table.size(disk.read_bytes),
            table.size(disk.written_bytes),
            table.count(disk.errors),
        ]
        for disk in exporter.disks
    ]
    columns = (
        *("DISK", "SIZE", "ACCESS", "CACHE", "ENGINE", "STATE"),
        *("QUEUED", "FLYING", "READ", "WRITTEN", "ERRORS"),
    )
    return head + "\n" + table.render(columns, rows, right=("SIZE", *columns[6:]))

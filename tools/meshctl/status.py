"""meshctl status: is all well, and if not, what is not."""

import argparse
import os
from pathlib import Path

from meshctl import output, table
from meshctl.main_types import Subparsers
from meshctl.sources import EXPORTER_SILENT, NOT_ALLOWED, Answer, ask_exporter, ask_mounts
from meshfs.errors import ConfigError
from meshfs.telemetry.fields import Fields
from meshfs.telemetry.problems import merged


def add_parser(verbs: Subparsers) -> None:
    parser = verbs.add_parser("status", help="show what is not well at the mounts and at this node's exporter")
    output.add_arguments(parser)
    parser.add_argument("--config", type=Path, help="ask an exporter of this config instead of the mounts")
    parser.add_argument("--node", metavar="NAME", help="whose exporter to ask (with --config); without, this host's")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.config is None and arguments.node is not None:
        raise ConfigError("--node names an exporter of a config: give --config too")
    if arguments.config is not None and arguments.mountpoint:
        raise ConfigError("--config asks an exporter, a mount point a mount: give one of the two")
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
    """The exporters of the nodes the mounts belong to; a node without disks need not run one."""
    answers = {}
    for mount in mounts:
        path, node = mount.fields.text("config"), mount.fields.text("node")
        own_disks = any(disk.text("node") == node for disk in mount.fields.items("disks"))
        own_session = any(item.text("node") == node for item in mount.fields.items("exporters"))
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
    fields = answer.fields
    head = (
        f"mount {table.printable(answer.source)} of node {table.printable(fields.text('node')) or table.UNKNOWN}, "
        f"pid {table.count(fields.integer('pid'))}, up {table.duration(fields.number('uptime_s'))}"
    )
    rows = []
    for exporter in fields.items("exporters"):
        node = exporter.text("node")
        disks = sum(disk.text("node") == node and disk.flag("present") for disk in fields.items("disks"))
        channels = sum(channel.text("state") == "connected" for channel in exporter.items("channels"))
        since = table.duration(exporter.number("since_s"))
        rows.append([node, exporter.text("state"), since, str(disks), str(channels), exporter.text("why")])
    columns = ("EXPORTER", "STATE", "SINCE", "DISKS", "CHANNELS", "WHY")
    return head + "\n" + table.render(columns, rows, right=("SINCE", "DISKS", "CHANNELS"))


def exporter_block(answer: Answer) -> str:
    if answer.error:
        return f"exporter {table.printable(answer.source)}: {table.printable(answer.error)}"
    fields = answer.fields
    listening = table.printable(", ".join(fields.texts("listening"))) or "nothing"
    head = (
        f"exporter {table.printable(fields.text('node')) or table.UNKNOWN}, pid {table.count(fields.integer('pid'))}, "
        f"up {table.duration(fields.number('uptime_s'))}, {sum(1 for _ in fields.items('sessions'))} sessions, "
        f"listening on {listening}"
    )
    rows = [
        [
            disk.text("name"),
            table.size(disk.integer("size_bytes")),
            disk.text("access"),
            disk.text("cache"),
            disk.text("engine"),
            disk.text("state"),
            table.count(disk.integer("queued")),
            table.count(disk.integer("in_flight")),
            table.size(disk.integer("read_bytes")),
            table.size(disk.integer("written_bytes")),
            table.count(disk.integer("errors")),
        ]
        for disk in fields.items("disks")
    ]
    columns = (
        *("DISK", "SIZE", "ACCESS", "CACHE", "ENGINE", "STATE"),
        *("QUEUED", "FLYING", "READ", "WRITTEN", "ERRORS"),
    )
    return head + "\n" + table.render(columns, rows, right=("SIZE", *columns[6:]))

"""meshctl disks shows every disk that the mounts know, and with --all every disk of this machine.

A node with [node.disks] discovers its disks, and one with [[node.enclosure]] has folders of images. `meshctl disks
--all` asks the node's exporter which disks and images it has found, which of them it offers, and why not the others.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from meshctl import enclosures, output, table
from meshctl.sources import CONFIG_DEFAULT, Answer, ask_mounts, exporters_here
from meshctl.subparsers import Subparsers
from meshfs.errors import ConfigError
from meshfs.telemetry.exporter_records import ExporterRecord, MachineDiskRecord
from meshfs.telemetry.mount_records import MountDiskRecord, MountRecord
from meshfs.telemetry.problems import merged

_MACHINE_COLUMNS = ("PATH", "ID", "SIZE", "BUS", "MODEL", "SERIAL", "OFFERED")
_COLUMNS = ("ID", "NODE", "NAME", "SIZE", "ACCESS", "CACHE", "STATE", "OPENS", "SECTOR", "MODEL", "SERIAL")


def add_parser(verbs: Subparsers) -> None:
    parser = verbs.add_parser("disks", help="show every disk of the mesh")
    output.add_arguments(parser)
    parser.add_argument("--tree", action="store_true", help="show the disks by node, enclosure and slot")
    parser.add_argument("--all", action="store_true", help="show this machine's disks, and why some are not offered")
    parser.add_argument(
        "--config",
        type=Path,
        default=CONFIG_DEFAULT,
        help="with --all: the cluster's config file (default: %(default)s)",
    )
    parser.add_argument("--node", metavar="NAME", help="with --all: the exporter's node (default: all that run here)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    return _run_all(arguments) if arguments.all else _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    mounts = ask_mounts(arguments.mountpoint)
    found = output.about(merged(*map(output.mount_problems, mounts)), output.DISK_CODES)
    if arguments.json:
        disks = [{"mountpoint": mount.source, **disk.raw} for mount in mounts for disk in mount.read(MountRecord).disks]
        output.print_json({"disks": disks}, found)
    elif arguments.tree:
        blocks = [
            "\n".join([*_head(mount, mounts), *enclosures.mesh_lines(mount.read(MountRecord))]) for mount in mounts
        ]
        output.print_blocks(blocks, found)
    else:
        blocks = []
        for mount in mounts:
            rows = [row(disk) for disk in mount.read(MountRecord).disks]
            blocks.append(
                "\n".join([*_head(mount, mounts), table.render(_COLUMNS, rows, right=("SIZE", "OPENS", "SECTOR"))])
            )
        output.print_blocks(blocks, found)
    return output.exit_status(found)


def _head(mount: Answer, mounts: Sequence[Answer]) -> list[str]:
    return [f"mount {table.printable(mount.source)}"] if len(mounts) > 1 else []


def row(disk: MountDiskRecord) -> list[str]:
    sectors = [disk.logical_block_size_bytes, disk.physical_block_size_bytes]
    return [
        disk.id,
        disk.node,
        disk.name,
        table.size(disk.size_bytes),
        disk.access,
        disk.cache,
        disk.shown_state,
        table.count(disk.opens),
        "/".join(map(table.count, sectors)),
        disk.model,
        disk.serial,
    ]


def _run_all(arguments: argparse.Namespace) -> int:
    if arguments.tree:
        raise ConfigError(
            "--tree shows the disks of the mesh, and --all those of this machine; give only one of the two"
        )
    if arguments.mountpoint:
        raise ConfigError(
            "--all asks the exporters of this machine, so it takes no mount point; use --config and --node"
        )
    exporters = exporters_here(arguments.config, [arguments.node] if arguments.node else [])
    answers = [exporter.ask({"verb": "status"}) for exporter in exporters]
    found = merged(*map(output.exporter_problems, answers))
    found = output.about(found, output.DISK_CODES)
    records = [answer.read(ExporterRecord) for answer in answers]
    if arguments.json:
        disks = [{"node": record.node, **disk.raw} for record in records for disk in record.machine_disks]
        output.print_json({"disks": disks}, found)
    else:
        output.print_blocks([_machine_table(answer, len(answers) > 1) for answer in answers if not answer.error], found)
    return output.exit_status(found)


def _machine_table(answer: Answer, named: bool) -> str:
    record = answer.read(ExporterRecord)
    head = [f"node {table.printable(record.node)}"] if named else []
    if not record.machine_disks:
        why = "it does not discover disks (see [node.disks] in the config) and has no images, or there are none"
        return "\n".join([*head, f"node {table.printable(record.node)} knows no disks of its machine: {why}"])
    rows = [machine_row(disk) for disk in record.machine_disks]
    return "\n".join([*head, table.render(_MACHINE_COLUMNS, rows, right=("SIZE",))])


def machine_row(disk: MachineDiskRecord) -> list[str]:
    shown = "yes" if disk.offered else f"no: {disk.why}"
    return [disk.path, disk.id, table.size(disk.size_bytes), disk.bus, disk.model, disk.serial, shown]

"""meshctl disks: every disk the mounts know."""

import argparse

from meshctl import output, table
from meshctl.main_types import Subparsers
from meshctl.sources import ask_mounts
from meshfs.telemetry.fields import Fields
from meshfs.telemetry.problems import merged

_COLUMNS = ("ID", "NODE", "NAME", "SIZE", "ACCESS", "CACHE", "STATE", "OPENS", "SECTOR", "MODEL", "SERIAL")


def add_parser(verbs: Subparsers) -> None:
    parser = verbs.add_parser("disks", help="every disk of the mesh")
    output.add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    mounts = ask_mounts(arguments.mountpoint)
    found = output.about(merged(*map(output.mount_problems, mounts)), output.DISK_CODES)
    if arguments.json:
        disks = [{"mountpoint": mount.source, **disk.raw} for mount in mounts for disk in mount.fields.items("disks")]
        output.print_json({"disks": disks}, found)
    else:
        blocks = []
        for mount in mounts:
            rows = [row(disk) for disk in mount.fields.items("disks")]
            head = [f"mount {table.printable(mount.source)}"] if len(mounts) > 1 else []
            blocks.append("\n".join([*head, table.render(_COLUMNS, rows, right=("SIZE", "OPENS", "SECTOR"))]))
        output.print_blocks(blocks, found)
    return output.exit_status(found)


def row(disk: Fields) -> list[str]:
    sectors = [disk.integer("logical_block_size_bytes"), disk.integer("physical_block_size_bytes")]
    return [
        disk.text("id"),
        disk.text("node"),
        disk.text("name"),
        table.size(disk.integer("size_bytes")),
        disk.text("access"),
        disk.text("cache"),
        disk.text("state") if disk.flag("present") else "away",
        table.count(disk.integer("opens")),
        "/".join(map(table.count, sectors)),
        disk.text("model"),
        disk.text("serial"),
    ]

"""meshctl disks: every disk the mounts know."""

import argparse

from meshctl import output, table
from meshctl.main_types import Subparsers
from meshctl.sources import ask_mounts
from meshfs.fields import Fields

_COLUMNS = ("ID", "NODE", "NAME", "SIZE", "ACCESS", "CACHE", "STATE", "OPENS", "SECTOR", "MODEL", "SERIAL")


def add_parser(verbs: Subparsers) -> None:
    parser = verbs.add_parser("disks", help="every disk of the mesh")
    output.add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    mounts = ask_mounts(arguments.mountpoint)
    problems = [line for mount in mounts for line in output.mount_problems(mount)]
    if arguments.json:
        disks = [{"mountpoint": mount.source, **disk.raw} for mount in mounts for disk in mount.fields.items("disks")]
        output.print_json({"disks": disks}, problems)
    else:
        blocks = []
        for mount in mounts:
            rows = [row(disk) for disk in mount.fields.items("disks")]
            head = [f"mount {table.printable(mount.source)}"] if len(mounts) > 1 else []
            blocks.append("\n".join([*head, table.render(_COLUMNS, rows, right=("SIZE", "OPENS", "SECTOR"))]))
        output.print_blocks(blocks, problems)
    return 1 if problems else 0


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

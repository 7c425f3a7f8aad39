"""meshctl disks shows every disk that the mounts know."""

import argparse

from meshctl import output, table
from meshctl.sources import ask_mounts
from meshctl.subparsers import Subparsers
from meshfs.telemetry.mount_records import MountDiskRecord, MountRecord
from meshfs.telemetry.problems import merged

_COLUMNS = ("ID", "NODE", "NAME", "SIZE", "ACCESS", "CACHE", "STATE", "OPENS", "SECTOR", "MODEL", "SERIAL")


def add_parser(verbs: Subparsers) -> None:
    parser = verbs.add_parser("disks", help="show every disk of the mesh")
    output.add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    mounts = ask_mounts(arguments.mountpoint)
    found = output.about(merged(*map(output.mount_problems, mounts)), output.DISK_CODES)
    if arguments.json:
        disks = [{"mountpoint": mount.source, **disk.raw} for mount in mounts for disk in mount.read(MountRecord).disks]
        output.print_json({"disks": disks}, found)
    else:
        blocks = []
        for mount in mounts:
            rows = [row(disk) for disk in mount.read(MountRecord).disks]
            head = [f"mount {table.printable(mount.source)}"] if len(mounts) > 1 else []
            blocks.append("\n".join([*head, table.render(_COLUMNS, rows, right=("SIZE", "OPENS", "SECTOR"))]))
        output.print_blocks(blocks, found)
    return output.exit_status(found)


def row(disk: MountDiskRecord) -> list[str]:
    sectors = [disk.logical_block_size_bytes, disk.physical_block_size_bytes]
    return [
        disk.id,
        disk.node,
        disk.name,
        table.size(disk.size_bytes),
        disk.access,
        disk.cache,
        disk.state if disk.present else "away",
        table.count(disk.opens),
        "/".join(map(table.count, sectors)),
        disk.model,
        disk.serial,
    ]

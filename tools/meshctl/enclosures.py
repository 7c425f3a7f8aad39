"""meshctl enclosures shows every enclosure that the mounts know, with its slots and the disks in them."""

import argparse
from collections.abc import Iterator, Mapping, Sequence

from meshctl import output, table
from meshctl.sources import Answer, ask_mounts
from meshctl.subparsers import Subparsers
from meshfs.telemetry.mount_records import MountDiskRecord, MountEnclosureRecord, MountRecord, MountSlotRecord
from meshfs.telemetry.problems import merged

_COLUMNS = ("ID", "NODE", "NAME", "KIND", "STATE", "ACCESS", "SLOTS", "DISKS", "LAMPS", "VENDOR", "PRODUCT", "WHY")
_CODES = ("not-allowed", "mount-", "version-", "exporter-", "enclosure-", "slot-")
_EPILOG = """\
SLOTS counts the slots, DISKS those with a disk of the mesh. LAMPS names the slots whose locate lamp or fault lamp is
on. WHY says what is wrong, for example why a page of the enclosure was refused. "meshctl locate" and "meshctl fault"
switch lamps.
"""


def add_parser(verbs: Subparsers) -> None:
    parser = verbs.add_parser("enclosures", help="show every enclosure of the mesh, and its slots", epilog=_EPILOG)
    output.add_arguments(parser)
    parser.add_argument("--tree", action="store_true", help="show the slots of each enclosure, and what is in them")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    mounts = ask_mounts(arguments.mountpoint)
    found = output.about(merged(*map(output.mount_problems, mounts)), _CODES)
    if arguments.json:
        shown = [
            {"mountpoint": mount.source, **each.raw} for mount in mounts for each in mount.read(MountRecord).enclosures
        ]
        output.print_json({"enclosures": shown}, found)
    else:
        output.print_blocks([_block(mount, len(mounts) > 1, tree=arguments.tree) for mount in mounts], found)
    return output.exit_status(found)


def _block(mount: Answer, named: bool, *, tree: bool) -> str:
    record = mount.read(MountRecord)
    head = [f"mount {table.printable(mount.source)}"] if named else []
    if tree:
        disks = {disk.id: disk for disk in record.disks}
        return "\n".join([*head, *(line for each in record.enclosures for line in enclosure_lines(each, disks))])
    rows = [row(each) for each in record.enclosures]
    return "\n".join([*head, table.render(_COLUMNS, rows, right=("SLOTS", "DISKS"))])


def row(enclosure: MountEnclosureRecord) -> list[str]:
    slots = enclosure.slots
    return [
        enclosure.id,
        enclosure.node,
        enclosure.name,
        enclosure.kind,
        enclosure.state if enclosure.present else "away",
        enclosure.access,
        str(len(slots)),
        str(sum(bool(slot.disk) for slot in slots)),
        " ".join(f"{slot.name}={'+'.join(lamps(slot))}" for slot in slots if lamps(slot)),
        enclosure.vendor,
        enclosure.product,
        enclosure.why,
    ]


def lamps(slot: MountSlotRecord) -> list[str]:
    """Return the names of the slot's lamps that are on."""
    return [name for name, on in (("locate", slot.locate), ("fault", slot.fault)) if on]


# --- trees


def enclosure_lines(enclosure: MountEnclosureRecord, disks: Mapping[str, MountDiskRecord]) -> Iterator[str]:
    """Yield the lines of one enclosure and its slots."""
    yield table.printable(enclosure_text(enclosure))
    yield from branches([slot_text(slot, disks) for slot in enclosure.slots])


def enclosure_text(enclosure: MountEnclosureRecord) -> str:
    made_by = " ".join(each for each in (enclosure.vendor, enclosure.product) if each)
    state = enclosure.state if enclosure.present else "away"
    parts = [f"{enclosure.path} ({enclosure.id})", enclosure.kind, state, made_by]
    why = f": {enclosure.why}" if enclosure.why else ""
    return ", ".join(each for each in parts if each) + why


def slot_text(slot: MountSlotRecord, disks: Mapping[str, MountDiskRecord]) -> str:
    """Return one line, for example "slot07  ok  n1/db (image-3f..), 4G, ok  [locate]"."""
    inside = ""
    if slot.disk:
        disk = disks.get(slot.disk)
        inside = slot.disk if disk is None else disk_text(disk)
    parts = [slot.name, slot.status, inside, slot.why, f"[{' '.join(lamps(slot))}]" if lamps(slot) else ""]
    return "  ".join(each for each in parts if each)


def disk_text(disk: MountDiskRecord) -> str:
    return f"{disk.path('')} ({disk.id}), {table.size(disk.size_bytes)}, {disk.shown_state}"


def mesh_lines(mount: MountRecord) -> Iterator[str]:
    """Yield the lines of the tree: each node, its enclosures, their slots with a disk, and its disks in no slot."""
    disks = {disk.id: disk for disk in mount.disks}
    nodes = sorted({disk.node for disk in mount.disks} | {each.node for each in mount.enclosures})
    for node in nodes:
        yield table.printable(node)
        blocks: list[tuple[str, list[str]]] = []
        placed: set[str] = set()
        for enclosure in mount.enclosures:
            if enclosure.node == node:
                used = [slot for slot in enclosure.slots if slot.disk]
                placed |= {slot.disk for slot in used}
                blocks.append((enclosure_text(enclosure), [slot_text(slot, disks) for slot in used]))
        blocks += [(disk_text(disk), []) for disk in mount.disks if disk.node == node and disk.id not in placed]
        for index, (text, below) in enumerate(blocks):
            last = index == len(blocks) - 1
            yield table.printable(f"{'`-' if last else '|-'} {text}")
            yield from (f"{'  ' if last else '| '} {line}" for line in branches(below))


def branches(texts: Sequence[str]) -> list[str]:
    """Return the texts as the leaves of a tree. A leaf is one line, whatever a firmware has put into its texts."""
    return [table.printable(f"{'`-' if index == len(texts) - 1 else '|-'} {text}") for index, text in enumerate(texts)]

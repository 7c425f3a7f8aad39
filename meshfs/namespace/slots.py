"""Find the disk of each slot of each enclosure, for the links of /disk/by-enclosure. Pure.

An exporter says of each of its disks in which slot it is (``DiskInfo.enclosure`` and ``slot``). A link leads to one
disk. If several disks claim a slot, these rules choose one of them, in this order:

    1. a present disk before an absent one, whose slot may be known from long ago
    2. a disk of the node that announces the enclosure before a disk of any other node
    3. the first id in the order of the alphabet

If two of the disks are present, the claim is reported. The owner of one of them is wrong about its slot.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from meshfs import limits
from meshfs.namespace.catalog import CatalogDisk
from meshfs.namespace.enclosures import CatalogEnclosure
from meshfs.namespace.names import is_file_name


@dataclass(frozen=True, slots=True)
class Slots:
    """Holds the disk's id of each slot, by enclosure and slot, and a line for each slot that is refused or disputed."""

    disks: Mapping[str, Mapping[str, str]]
    problems: tuple[str, ...]


def slots_of(disks: Mapping[str, CatalogDisk], enclosures: Mapping[str, CatalogEnclosure]) -> Slots:
    """Return the slots of all disks. A slot whose names cannot be file names is left out."""
    found: dict[str, dict[str, str]] = {}
    problems: list[str] = []
    for disk in sorted(disks.values(), key=lambda disk: _rank(disk, enclosures)):
        enclosure, slot, disk_id = disk.info.enclosure, disk.info.slot, disk.info.id
        if not (is_file_name(enclosure) and is_file_name(slot)):
            continue
        slots = found.setdefault(enclosure, {})
        holder = slots.get(slot)
        if holder is not None:
            if disk.present:
                problems.append(f"slot {enclosure}/{slot}: disk {holder!r} and disk {disk_id!r} both claim it")
        elif len(slots) >= limits.SLOTS_PER_ENCLOSURE_MAX:
            most = limits.SLOTS_PER_ENCLOSURE_MAX
            problems.append(f"slot {enclosure}/{slot}: more than {most} slots of the enclosure have disks")
        else:
            slots[slot] = disk_id
    most = limits.DISK_PROBLEMS_PER_NODE_MAX
    more = len(problems) - most
    last = (f"{more} more disks claim a slot of another disk",) if more > 0 else ()
    ordered = {enclosure: dict(sorted(slots.items())) for enclosure, slots in sorted(found.items())}
    return Slots(ordered, (*problems[:most], *last))


def _rank(disk: CatalogDisk, enclosures: Mapping[str, CatalogEnclosure]) -> tuple[bool, bool, str]:
    enclosure = enclosures.get(disk.info.enclosure)
    of_another = enclosure is not None and enclosure.info.node != disk.info.node
    return not disk.present, of_another, disk.info.id

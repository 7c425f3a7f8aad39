"""Finds out which disk is in which slot of a SES enclosure. Pure.

Theory of the match. A disk is in a slot if the slot's descriptor on page 0a has one of the disk's SAS addresses. An
address is unique in the world, so nothing else has to be believed. For an NVMe disk, the same holds for its model with
its serial number.

Only for disks that are in no slot by their addresses, the links of the kernel's ses driver count. The driver names the
folder of a slot by its text on page 07, and counts texts wrongly: it forgets the overall element of all types except
the first. So the folders "Slot 1" and "Slot 2" may belong to the slots 0 and 1. A link therefore counts in two cases:
the slot's number on the chassis is unique and equal on both sides, or all names of folders are exactly those that
follow from the texts, by only one of the two ways of counting.

If a disk would be in several slots of one enclosure, it is in none. Otherwise a lamp would light at the wrong disk.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from meshfs.enclosure.found import DiskPorts, SlotLink
from meshfs.ses.slots import EnclosureSlot, EnclosureView

#: The names of enclosure_component in drivers/misc/enclosure.c have at most so many bytes.
_FOLDER_NAME_MAX_BYTES: Final = 63


def occupants(
    view: EnclosureView, disks: Sequence[DiskPorts], links: Sequence[SlotLink] = ()
) -> dict[str, tuple[str, ...]]:
    """Return the kernel's names of the disks in each slot, by the slot's name. A slot without a disk is left out.

    A slot has several names if the kernel reaches its disk over several paths.
    """
    named: dict[int | tuple[str, str], set[str]] = {}
    for slot in view.slots:
        for each in _names_in(slot):
            named.setdefault(each, set()).add(slot.name)
    slots_of: dict[str, set[str]] = {}
    for disk in disks:
        names: list[int | tuple[str, str]] = [*disk.sas_addresses, (disk.serial, disk.model)]
        slots = set().union(*(named.get(name, set()) for name in names))
        if slots:
            slots_of[disk.name] = slots
    by_address = frozenset(slots_of)
    for slot, link in _linked(view, links):
        for disk_name in link.disks:
            if disk_name not in by_address:
                slots_of.setdefault(disk_name, set()).add(slot.name)
    found: dict[str, list[str]] = {}
    for disk_name, inside in sorted(slots_of.items()):
        if len(inside) == 1:
            found.setdefault(inside.pop(), []).append(disk_name)
    return {slot: tuple(names) for slot, names in found.items()}


def _names_in(slot: EnclosureSlot) -> Iterator[int | tuple[str, str]]:
    """Yield the names that page 0a gives to the disk in a slot: its SAS addresses, or its serial number and model."""
    yield from slot.device.sas_addresses
    if slot.device.serial:
        yield slot.device.serial, slot.device.model


def _linked(view: EnclosureView, links: Sequence[SlotLink]) -> Iterable[tuple[EnclosureSlot, SlotLink]]:
    """Yield each slot with the kernel's folder of it, as far as it is certain which folder is the slot's."""
    numbers = Counter(slot.device.number for slot in view.slots)
    link_numbers = Counter(link.number for link in links)
    by_number = {link.number: link for link in links if link.number is not None and link_numbers[link.number] == 1}
    by_name = {_as_text(link.name): link for link in links}
    names = _folder_names(view, set(by_name))
    for slot, name in zip(view.slots, names, strict=True):
        number = slot.device.number
        if number in by_number and numbers[number] == 1:
            yield slot, by_number[number]
        elif number is None and name in by_name:
            yield slot, by_name[name]


def _folder_names(view: EnclosureView, there: set[str]) -> list[str | None]:
    """Return the name of the kernel's folder of each slot, or None for each slot if the names are not certain."""
    places = list(view.configuration.places())
    elements = [place for place in places if not place.is_overall]
    # As the driver counts: the first text is the overall one of the first type, and each following one an element's.
    shifted = dict(zip(elements, places[1:], strict=False))
    ways = []
    for text_of in ({slot.place: slot.place for slot in view.slots}, shifted):
        texts = [view.texts.get(text_of[slot.place], "") for slot in view.slots]
        names = _as_the_driver_names(texts)
        if set(names) == there and names not in ways:
            ways.append(names)
    return list(ways[0]) if len(ways) == 1 else [None] * len(view.slots)


def _as_the_driver_names(texts: Sequence[str]) -> list[str]:
    names: dict[str, None] = {}
    uses: Counter[str] = Counter()
    for position, text in enumerate(texts):
        first = name = text.replace("/", "!")[:_FOLDER_NAME_MAX_BYTES] or str(position)
        while name in names:
            uses[first] += 1
            name = f"{first}-{uses[first]}"
        names[name] = None
    return list(names)


def _as_text(name: str) -> str:
    """Return the name of a folder as `meshfs.ses.page.decode_text` would return its bytes."""
    return "".join(each if each.isascii() and each.isprintable() else "\ufffd" for each in name.strip())

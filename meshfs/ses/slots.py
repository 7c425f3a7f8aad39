"""The slots of an enclosure, as its pages describe them together.

The name of a slot becomes a file name in /mesh/disk/by-enclosure. The text of its element comes from the enclosure's
firmware, so the text may be empty, may repeat, and may hold any bytes. `slot_names` makes file names of the texts that
are unique in the enclosure and stay the same as long as the configuration does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from meshfs.ses.additional import SlotDevice, parse_additional
from meshfs.ses.configuration import Configuration, ElementPlace, parse_configuration
from meshfs.ses.page import SLOT_KINDS
from meshfs.ses.status import Element, ElementCode, parse_status
from meshfs.ses.texts import parse_texts

_NAME_MAX_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class EnclosurePages:
    """Holds the pages of one enclosure as bytes. The last two are empty if the enclosure does not support them."""

    configuration: bytes
    status: bytes
    texts: bytes = b""
    additional: bytes = b""


@dataclass(frozen=True, slots=True)
class EnclosureSlot:
    """Describes one slot. ``name`` is unique in the enclosure and can be a file name; ``text`` is the firmware's."""

    place: ElementPlace
    name: str
    text: str
    element: Element
    device: SlotDevice

    @property
    def is_installed(self) -> bool:
        return self.element.code != ElementCode.NOT_INSTALLED


def read_slots(pages: EnclosurePages) -> tuple[Configuration, tuple[EnclosureSlot, ...]]:
    """Return the configuration of an enclosure and all its slots. Raises EnclosurePageError for a malformed page."""
    configuration = parse_configuration(pages.configuration)
    elements = parse_status(pages.status, configuration)
    texts = parse_texts(pages.texts, configuration) if pages.texts else {}
    devices = parse_additional(pages.additional, configuration) if pages.additional else {}
    places = [
        place
        for place in configuration.places()
        if not place.is_overall and configuration.types[place.header].kind in SLOT_KINDS
    ]
    slot_texts = [texts.get(place, "") for place in places]
    numbers = [devices[place].number if place in devices else None for place in places]
    slots = tuple(
        EnclosureSlot(place, name, text, elements[place], devices.get(place, SlotDevice()))
        for place, name, text in zip(places, slot_names(slot_texts, numbers), slot_texts, strict=True)
    )
    return configuration, slots


def slot_names(texts: Sequence[str], numbers: Sequence[int | None]) -> list[str]:
    """Return a file name for each slot, from its text, or from its number on the chassis if the text is empty.

    If several slots would have the same name, the position of each later one among all slots is added to its name.
    """
    names: list[str] = []
    used: set[str] = set()
    for position, (text, number) in enumerate(zip(texts, numbers, strict=True)):
        name = _safe(text) or f"slot{position if number is None else number}"
        while name in used:
            name = f"{name}-{position}"
        used.add(name)
        names.append(name)
    return names


def _safe(text: str) -> str:
    """Return ``text`` with every character replaced that is awkward in a file name or on a command line."""
    safe = "".join(each if each.isascii() and (each.isalnum() or each in "-_.:+") else "_" for each in text)
    return safe.strip("_")[:_NAME_MAX_BYTES].lstrip(".")

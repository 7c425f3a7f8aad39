"""The slots of an enclosure, as its pages describe them together.

The name of a slot becomes a file name in /mesh/disk/by-enclosure. The text of its element comes from the enclosure's
firmware, so the text may be empty, may repeat, and may hold any bytes. `slot_names` makes file names of the texts that
are unique in the enclosure and stay the same as long as the configuration does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from meshfs.errors import EnclosurePageError
from meshfs.ses.additional import SlotDevice, parse_additional
from meshfs.ses.configuration import Configuration, ElementPlace, parse_configuration
from meshfs.ses.page import SLOT_KINDS
from meshfs.ses.status import Element, ElementCode, parse_status
from meshfs.ses.texts import parse_texts

_NAME_MAX_BYTES: Final = 64

Found = TypeVar("Found")


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


@dataclass(frozen=True, slots=True)
class EnclosureView:
    """Holds what the pages of one enclosure say together.

    ``flags`` are those of the status page (byte 1). ``elements`` are the states of all elements, ``texts`` the texts
    of all elements that have one. ``problems`` has a sentence for each page that was malformed and therefore left out.
    """

    configuration: Configuration
    flags: int
    elements: Mapping[ElementPlace, Element]
    texts: Mapping[ElementPlace, str]
    slots: tuple[EnclosureSlot, ...]
    problems: tuple[str, ...] = ()


def read_slots(pages: EnclosurePages) -> EnclosureView:
    """Return what the pages say. Raises EnclosurePageError if the configuration or the status is malformed.

    The texts and the additional status are only names and addresses. If one of these two pages is malformed, the
    slots are known without it: with names such as "slot3", or without the addresses of their disks.
    """
    configuration = parse_configuration(pages.configuration)
    elements = parse_status(pages.status, configuration)
    problems: list[str] = []
    texts = _optional(parse_texts, pages.texts, configuration, problems)
    devices = _optional(parse_additional, pages.additional, configuration, problems)
    places = [
        place
        for place in configuration.places()
        if not place.is_overall and configuration.types[place.header].kind in SLOT_KINDS
    ]
    slot_texts = [texts.get(place, "") for place in places]
    slots = tuple(
        EnclosureSlot(place, name, text, elements[place], devices.get(place, SlotDevice()))
        for place, name, text in zip(places, slot_names(slot_texts), slot_texts, strict=True)
    )
    return EnclosureView(configuration, pages.status[1], elements, texts, slots, tuple(problems))


def _optional(
    parse: Callable[[bytes, Configuration], dict[ElementPlace, Found]],
    page: bytes,
    configuration: Configuration,
    problems: list[str],
) -> dict[ElementPlace, Found]:
    """Return what ``page`` says, or nothing if it is missing or malformed. ``problems`` then gets the reason."""
    if not page:
        return {}
    try:
        return parse(page, configuration)
    except EnclosurePageError as error:
        problems.append(str(error))
        return {}


def slot_names(texts: Sequence[str]) -> list[str]:
    """Return a file name for each slot, from its text, or from its position among all slots if the text is empty.

    The slot's number on the chassis is not used: many enclosures give it only while a disk is in the slot, and the name
    would change with the disk. If several slots would have the same name, each later one gets its position appended.
    """
    names: list[str] = []
    used: set[str] = set()
    for position, text in enumerate(texts):
        name = _safe(text) or f"slot{position}"
        while name in used:
            name = f"{name}-{position}"
        used.add(name)
        names.append(name)
    return names


def _safe(text: str) -> str:
    """Return ``text`` with every character replaced that is awkward in a file name or on a command line."""
    safe = "".join(each if each.isascii() and (each.isalnum() or each in "-_.:+") else "_" for each in text)
    return safe.strip("_")[:_NAME_MAX_BYTES].lstrip(".")

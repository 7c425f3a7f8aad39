"""The pages of a virtual enclosure, which has no SES device: a server's bays, or a folder of images.

The enclosure has one array device slot per bay. Their texts, states, lamps and numbers stand where a real enclosure has
them, so every SES program can decode the pages.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from meshfs.ses.additional import SlotDevice, pack_additional
from meshfs.ses.configuration import Configuration, ElementPlace, ElementType, Subenclosure, pack_configuration
from meshfs.ses.page import HEAD_BYTES, ElementKind, PageCode
from meshfs.ses.slots import EnclosurePages
from meshfs.ses.status import Element, ElementCode, pack_status
from meshfs.ses.texts import pack_texts

_SUPPORTED: Final = (
    PageCode.SUPPORTED,
    PageCode.CONFIGURATION,
    PageCode.STATUS,
    PageCode.ELEMENT_DESCRIPTOR,
    PageCode.ADDITIONAL_STATUS,
)
#: The count of a type header has 8 bits, so an enclosure with more bays has more than one header.
_COUNT_MAX: Final = 255
_CRITICAL_FLAG: Final = 0x02


@dataclass(frozen=True, slots=True)
class Bay:
    """Describes one bay of a virtual enclosure. ``number`` is 0 to 255."""

    name: str
    number: int
    installed: bool
    locate: bool = False
    fault: bool = False
    failing: bool = False


def virtual_pages(identity: Subenclosure, generation: int, bays: Sequence[Bay]) -> EnclosurePages:
    """Return the pages of the enclosure. ``generation`` must change whenever the names or numbers of bays change."""
    counts = [min(_COUNT_MAX, len(bays) - start) for start in range(0, len(bays), _COUNT_MAX)]
    types = tuple(ElementType(ElementKind.ARRAY_DEVICE_SLOT, count, identity.id, "Bays") for count in counts)
    configuration = Configuration(generation & 0xFFFF_FFFF, (identity,), types)
    places = [place for place in configuration.places() if not place.is_overall]
    by_place = dict(zip(places, bays, strict=True))
    elements = {place: _element(bay) for place, bay in by_place.items()}
    worst = ElementCode.CRITICAL if any(bay.failing for bay in bays) else ElementCode.OK
    for header in range(len(types)):
        elements[ElementPlace(header, -1)] = Element(bytes((worst, 0, 0, 0)))
    return EnclosurePages(
        pack_configuration(configuration),
        pack_status(configuration, _CRITICAL_FLAG if worst == ElementCode.CRITICAL else 0, elements),
        pack_texts(configuration, {place: bay.name for place, bay in by_place.items()}),
        pack_additional(configuration, {place: SlotDevice(bay.number) for place, bay in by_place.items()}),
    )


def _element(bay: Bay) -> Element:
    code = ElementCode.NOT_INSTALLED
    if bay.installed:
        code = ElementCode.CRITICAL if bay.failing else ElementCode.OK
    return Element(bytes((code, 0, 0x02 if bay.locate else 0, 0x20 if bay.fault else 0)))


def supported_pages(codes: Sequence[int] = _SUPPORTED) -> bytes:
    """Return the page 00 that lists ``codes`` (SPC-4 7.2.10). It has no generation code."""
    return bytes((PageCode.SUPPORTED, 0)) + len(codes).to_bytes(2, "big") + bytes(codes)


def bundle(supported: bytes, pages: EnclosurePages) -> bytes:
    """Return the content of an enclosure's device file: the pages one after the other, each with its own length.

    Their order is 00, 01, 02, 07, 0a. `unbundle` is the reverse.
    """
    return supported + pages.configuration + pages.status + pages.texts + pages.additional


def unbundle(content: bytes) -> dict[int, bytes]:
    """Return the pages of a device file by page code. A page that is cut off at the end is left out."""
    pages: dict[int, bytes] = {}
    start = 0
    while start + HEAD_BYTES - 4 <= len(content):
        end = start + 4 + int.from_bytes(content[start + 2 : start + 4], "big")
        if end > len(content):
            break
        pages[content[start]] = content[start:end]
        start = end
    return pages

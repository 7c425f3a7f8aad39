"""The enclosure status page and the enclosure control page (SES-3 6.1.3, 6.1.4): the state of each element.

    head          byte 1 has the flags of the enclosure, as a whole: INVOP 10, INFO 08, NON-CRIT 04, CRIT 02, UNRECOV 01
    elements      4 bytes each, in the order of `Configuration.places`

The element of a device slot or an array device slot (SES-3 7.3.2, 7.3.3):

            status                                              control
    byte 0  PRDFAIL 40, DISABLED 20, SWAP 10, code 0f           SELECT 80, PRDFAIL 40, DISABLE 20, RST SWAP 10
    byte 1  slot address, or flags of an array's slot           reserved, or flags of an array's slot
    byte 2  DO NOT REMOVE 40, READY TO INSERT 08, RMV 04,       DO NOT REMOVE 40, RQST MISSING 10, RQST INSERT 08,
            IDENT 02                                            RQST REMOVE 04, RQST IDENT 02
    byte 3  FAULT SENSED 40, FAULT REQSTD 20, DEVICE OFF 10     RQST FAULT 20, DEVICE OFF 10

An enclosure changes only the elements of a control page whose SELECT bit is set.
"""

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from meshfs.ses.configuration import Configuration, ElementPlace, check_generation
from meshfs.ses.page import SLOT_KINDS, ElementKind, PageCode, PageReader, pack_page

ELEMENT_BYTES: Final = 4
_SELECT: Final = 0x80
_IDENT: Final = 0x02
_FAULT: Final = 0x20
#: The bits of a slot's status that are valid in its control element, too. A change of one bit must keep the others.
#: In byte 1, a device slot has its slot address in the status, and reserved bits in the control element.
_KEPT_OF_ARRAY: Final = bytes((0x40, 0xFF, 0x4E, 0x3C))
_KEPT_OF_DEVICE: Final = bytes((0x40, 0x00, 0x4E, 0x3C))


class ElementCode(enum.IntEnum):
    """Names the status codes of elements (SES-3 table 72)."""

    UNSUPPORTED = 0
    OK = 1
    CRITICAL = 2
    NONCRITICAL = 3
    UNRECOVERABLE = 4
    NOT_INSTALLED = 5
    UNKNOWN = 6
    NOT_AVAILABLE = 7
    NO_ACCESS = 8


@dataclass(frozen=True, slots=True)
class Element:
    """Wraps the 4 bytes of one element of a status page."""

    raw: bytes

    @property
    def code(self) -> int:
        """Return the status code (`ElementCode`, or a reserved number)."""
        return self.raw[0] & 0x0F

    @property
    def predicts_failure(self) -> bool:
        return bool(self.raw[0] & 0x40)

    @property
    def identifies(self) -> bool:
        """Return whether the locate lamp of a slot is on."""
        return bool(self.raw[2] & _IDENT)

    @property
    def fault_sensed(self) -> bool:
        return bool(self.raw[3] & 0x40)

    @property
    def fault_requested(self) -> bool:
        """Return whether somebody has switched the fault lamp of a slot on."""
        return bool(self.raw[3] & _FAULT)

    @property
    def device_off(self) -> bool:
        return bool(self.raw[3] & 0x10)


@dataclass(frozen=True, slots=True)
class Lamps:
    """Says which lamps of a slot are to be changed. None leaves a lamp as it is."""

    locate: bool | None = None
    fault: bool | None = None


def parse_status(page: bytes, configuration: Configuration) -> dict[ElementPlace, Element]:
    """Return all elements of a status page. Raises EnclosurePageError for a malformed or outdated page.

    Bytes after the last element are ignored, because some enclosures pad the page.
    """
    reader = PageReader(page, PageCode.STATUS)
    check_generation(configuration, reader)
    return {place: Element(reader.take(ELEMENT_BYTES, "an element")) for place in configuration.places()}


def pack_status(configuration: Configuration, flags: int, elements: Mapping[ElementPlace, Element]) -> bytes:
    """Return the status page. An element that is not in ``elements`` is reported as unsupported."""
    empty = Element(bytes(ELEMENT_BYTES))
    content = b"".join(elements.get(place, empty).raw for place in configuration.places())
    return pack_page(PageCode.STATUS, flags, configuration.generation, content)


def pack_control(
    configuration: Configuration, status: Mapping[ElementPlace, Element], changes: Mapping[ElementPlace, Lamps]
) -> bytes:
    """Return the control page that makes ``changes``, and selects no other element."""
    content = bytearray()
    for place in configuration.places():
        lamps = changes.get(place)
        kind = configuration.types[place.header].kind
        content += bytes(ELEMENT_BYTES) if lamps is None else _control_element(kind, status[place], lamps)
    return pack_page(PageCode.STATUS, 0, configuration.generation, bytes(content))


def _control_element(kind: int, status: Element, lamps: Lamps) -> bytes:
    kept_bits = _KEPT_OF_ARRAY if kind == ElementKind.ARRAY_DEVICE_SLOT else _KEPT_OF_DEVICE
    element = bytearray(byte & kept for byte, kept in zip(status.raw, kept_bits, strict=True))
    element[0] |= _SELECT
    if lamps.locate is not None:
        element[2] = element[2] & ~_IDENT | (_IDENT if lamps.locate else 0)
    if lamps.fault is not None:
        element[3] = element[3] & ~_FAULT | (_FAULT if lamps.fault else 0)
    return bytes(element)


def parse_control(page: bytes, configuration: Configuration) -> Iterator[tuple[ElementPlace, Lamps]]:
    """Return an iterator over the slots that a control page selects, each with the lamps that the page asks for.

    Raises EnclosurePageError if the page is malformed, or if its length or its generation is not the configuration's.
    Nothing of such a page must be carried out, as its elements may mean other slots.
    """
    reader = PageReader(page, PageCode.STATUS)
    check_generation(configuration, reader)
    places = list(configuration.places())
    expected = len(places) * ELEMENT_BYTES
    if reader.left_bytes != expected or len(page) != reader.offset + expected:
        raise reader.error(f"a control page of this enclosure has {reader.offset + expected} bytes, not {len(page)}")
    elements = [reader.take(ELEMENT_BYTES, "an element") for _ in places]
    return _selected(configuration, places, elements)


def _selected(
    configuration: Configuration, places: list[ElementPlace], elements: list[bytes]
) -> Iterator[tuple[ElementPlace, Lamps]]:
    for place, raw in zip(places, elements, strict=True):
        if not raw[0] & _SELECT or configuration.types[place.header].kind not in SLOT_KINDS:
            continue
        lamps = Lamps(locate=bool(raw[2] & _IDENT), fault=bool(raw[3] & _FAULT))
        if place.is_overall:
            # A selected overall element applies to all elements of its type (SES-3 7.2.2).
            for number in range(configuration.types[place.header].count):
                yield ElementPlace(place.header, number), lamps
        else:
            yield place, lamps

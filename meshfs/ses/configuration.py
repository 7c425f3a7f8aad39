"""The configuration page (SES-3 6.1.2): which elements an enclosure has.

    head                     byte 1 is the number of secondary subenclosures
    enclosure descriptors    1 for the primary subenclosure, and 1 for each secondary one:
                               0  process ids     1  subenclosure id     2  number of its type headers
                               3  bytes that follow     4-11  logical id     12-19  vendor     20-35  product
                               36-39  revision     then vendor-specific bytes
    type headers             4 bytes each, for all subenclosures: element type, number of elements, subenclosure id,
                             length of the text
    texts                    one for each type header

The status pages list, for each type header in this order, an overall element and then its elements.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from meshfs.errors import OutdatedPageError
from meshfs.ses.page import HEAD_BYTES, PAGE_MAX_BYTES, PageCode, PageReader, decode_text, pack_page

_DESCRIPTOR: Final = struct.Struct(">BBBBQ8s16s4s")
_TYPE_HEADER: Final = struct.Struct(">BBBB")
#: A status page has 4 bytes for each element, also for the overall ones.
_ELEMENTS_MAX: Final = (PAGE_MAX_BYTES - HEAD_BYTES) // 4


@dataclass(frozen=True, slots=True)
class Subenclosure:
    """Describes one subenclosure. The primary one has the id 0. ``logical_id`` is a NAA identifier of 64 bits."""

    id: int
    logical_id: int
    vendor: str
    product: str
    revision: str


@dataclass(frozen=True, slots=True)
class ElementType:
    """Describes the elements of one type header: ``count`` elements of type ``kind`` (`ElementKind`)."""

    kind: int
    count: int
    subenclosure: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class ElementPlace:
    """Names one element: the number of its type header, and its number there. ``number`` is -1 for the overall one."""

    header: int
    number: int

    @property
    def is_overall(self) -> bool:
        return self.number < 0


@dataclass(frozen=True, slots=True)
class Configuration:
    """Holds the content of a configuration page. Pages with another ``generation`` belong to another configuration."""

    generation: int
    subenclosures: tuple[Subenclosure, ...]
    types: tuple[ElementType, ...]

    @property
    def primary(self) -> Subenclosure:
        return self.subenclosures[0]

    def places(self) -> Iterator[ElementPlace]:
        """Yield every element, also the overall ones, in the order of the status pages."""
        for header, each in enumerate(self.types):
            for number in range(-1, each.count):
                yield ElementPlace(header, number)


def parse_configuration(page: bytes) -> Configuration:
    """Raises EnclosurePageError for a malformed page."""
    reader = PageReader(page, PageCode.CONFIGURATION)
    subenclosures = []
    headers = 0
    for _ in range(1 + reader.flags):
        subenclosure, count = _subenclosure(reader)
        subenclosures.append(subenclosure)
        headers += count
    raw = [_TYPE_HEADER.unpack(reader.take(_TYPE_HEADER.size, "a type header")) for _ in range(headers)]
    known = {each.id for each in subenclosures}
    types = []
    for kind, count, subenclosure_id, text_bytes in raw:
        if subenclosure_id not in known:
            raise reader.error(f"a type header names subenclosure {subenclosure_id}, which it does not describe")
        text = decode_text(reader.take(text_bytes, "the text of a type header"))
        types.append(ElementType(kind, count, subenclosure_id, text))
    elements = sum(1 + each.count for each in types)
    if elements > _ELEMENTS_MAX:
        raise reader.error(f"it has {elements} elements, but a status page can have only {_ELEMENTS_MAX}")
    return Configuration(reader.generation, tuple(subenclosures), tuple(types))


def _subenclosure(reader: PageReader) -> tuple[Subenclosure, int]:
    """Return the next subenclosure, and the number of its type headers."""
    what = "an enclosure descriptor"
    raw = reader.take(_DESCRIPTOR.size, what)
    _, number, headers, follows, logical_id, vendor, product, revision = _DESCRIPTOR.unpack(raw)
    more = 4 + follows - _DESCRIPTOR.size
    if more < 0:
        raise reader.error(f"an enclosure descriptor has {4 + follows} bytes, fewer than {_DESCRIPTOR.size}")
    reader.take(more, what)
    texts = (decode_text(vendor), decode_text(product), decode_text(revision))
    return Subenclosure(number, logical_id, *texts), headers


def pack_configuration(configuration: Configuration) -> bytes:
    """Return the page of ``configuration``. Texts that are too long for their fields are cut."""
    content = bytearray()
    for each in configuration.subenclosures:
        headers = sum(header.subenclosure == each.id for header in configuration.types)
        content += _DESCRIPTOR.pack(
            1 << 4 | 1,
            each.id,
            headers,
            _DESCRIPTOR.size - 4,
            each.logical_id,
            _padded(each.vendor, 8),
            _padded(each.product, 16),
            _padded(each.revision, 4),
        )
    texts = [header.text.encode("ascii", errors="replace")[:255] for header in configuration.types]
    for header, text in zip(configuration.types, texts, strict=True):
        content += _TYPE_HEADER.pack(header.kind, header.count, header.subenclosure, len(text))
    content += b"".join(texts)
    secondary = len(configuration.subenclosures) - 1
    return pack_page(PageCode.CONFIGURATION, secondary, configuration.generation, bytes(content))


def _padded(text: str, length: int) -> bytes:
    return text.encode("ascii", errors="replace")[:length].ljust(length)


def check_generation(configuration: Configuration, reader: PageReader) -> None:
    """Raise OutdatedPageError if the page of ``reader`` belongs to another configuration."""
    if reader.generation != configuration.generation:
        raise OutdatedPageError(
            f"page {reader.code:02x} of the enclosure has generation {reader.generation}, but the configuration has"
            f" {configuration.generation}: it changed meanwhile, so read all pages again"
        )

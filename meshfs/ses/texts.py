"""The element descriptor page (SES-3 6.1.10): the name of each element.

per element, in the order of `Configuration.places`:    0-1  reserved    2-3  length of the text    4-  text
"""

import struct
from collections.abc import Mapping
from typing import Final

from meshfs.ses.configuration import Configuration, ElementPlace, check_generation
from meshfs.ses.page import PageCode, PageReader, decode_text, pack_page

_DESCRIPTOR: Final = struct.Struct(">HH")


def parse_texts(page: bytes, configuration: Configuration) -> dict[ElementPlace, str]:
    """Return the text of each element. Raises EnclosurePageError for a malformed or outdated page."""
    reader = PageReader(page, PageCode.ELEMENT_DESCRIPTOR)
    check_generation(configuration, reader)
    texts = {}
    for place in configuration.places():
        _, length = _DESCRIPTOR.unpack(reader.take(_DESCRIPTOR.size, "an element descriptor"))
        texts[place] = decode_text(reader.take(length, "the text of an element"))
    return texts


def pack_texts(configuration: Configuration, texts: Mapping[ElementPlace, str]) -> bytes:
    """Return the page with ``texts``. Elements without a text have an empty one."""
    content = bytearray()
    for place in configuration.places():
        text = texts.get(place, "").encode("ascii", errors="replace")
        content += _DESCRIPTOR.pack(0, len(text)) + text
    return pack_page(PageCode.ELEMENT_DESCRIPTOR, 0, configuration.generation, bytes(content))

"""The head that all pages have, and reading behind it without ever leaving the page.

byte 0      page code
byte 1      depends on the page
bytes 2-3   the number of bytes that follow
bytes 4-7   generation code: it changes when the configuration changes     (all pages here except 00)
"""

import enum
import struct
from typing import Final

from meshfs.errors import EnclosurePageError

HEAD_BYTES: Final = 8
#: A page's own length field has 16 bits.
PAGE_MAX_BYTES: Final = 4 + 0xFFFF
_HEAD: Final = struct.Struct(">BBHI")


class PageCode(enum.IntEnum):
    """Names the pages that an enclosure is asked for (SES-3 table 11)."""

    SUPPORTED = 0x00
    CONFIGURATION = 0x01
    STATUS = 0x02
    ELEMENT_DESCRIPTOR = 0x07
    ADDITIONAL_STATUS = 0x0A


class ElementKind(enum.IntEnum):
    """Names the element types that meshfs treats specially (SES-3 table 71)."""

    DEVICE_SLOT = 0x01
    ENCLOSURE_SERVICES_CONTROLLER = 0x07
    SCSI_TARGET_PORT = 0x14
    SCSI_INITIATOR_PORT = 0x15
    ARRAY_DEVICE_SLOT = 0x17
    SAS_EXPANDER = 0x18


#: The element types that hold a disk.
SLOT_KINDS: Final = frozenset((ElementKind.DEVICE_SLOT, ElementKind.ARRAY_DEVICE_SLOT))


class PageReader:
    """Reads one page from its head to the end that its length field gives."""

    def __init__(self, page: bytes, code: PageCode) -> None:
        """Raises EnclosurePageError if ``page`` is shorter than its length field says, or is another page."""
        self.code = code
        if len(page) < HEAD_BYTES:
            raise self.error(f"it has {len(page)} bytes, which is less than its head of {HEAD_BYTES}")
        head: tuple[int, int, int, int] = _HEAD.unpack_from(page)
        found, self.flags, length, self.generation = head
        if found != code:
            raise self.error(f"its code is {found:02x}")
        if length < HEAD_BYTES - 4 or 4 + length > len(page):
            raise self.error(f"its length field says {4 + length} bytes, but {len(page)} were received")
        self._page = page
        self._end = 4 + length
        self.offset = HEAD_BYTES

    @property
    def left_bytes(self) -> int:
        return self._end - self.offset

    def take(self, count: int, what: str) -> bytes:
        """Return the next ``count`` bytes. Raises EnclosurePageError if the page ends before ``what`` does."""
        if count > self.left_bytes:
            raise self.error(f"it ends within {what} at byte {self.offset}")
        start, self.offset = self.offset, self.offset + count
        return self._page[start : self.offset]

    def error(self, reason: str) -> EnclosurePageError:
        return EnclosurePageError(f"page {self.code:02x} of the enclosure is malformed: {reason}")


def pack_page(code: PageCode, flags: int, generation: int, content: bytes) -> bytes:
    """Return a whole page with its head."""
    return _HEAD.pack(code, flags, HEAD_BYTES - 4 + len(content), generation) + content


def decode_text(raw: bytes) -> str:
    """Return a text of a page. Enclosures pad texts with blanks or zeros, and some send bytes that are not ASCII.

    U+FFFD replaces such bytes, and also control characters. On a terminal, control characters would be commands.
    """
    text = raw.decode("ascii", errors="replace").replace("\0", " ").strip()
    return text if text.isprintable() else "".join(each if each.isprintable() else "\ufffd" for each in text)

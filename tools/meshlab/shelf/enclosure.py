"""The enclosure of the shelf, as a SCSI enclosure services device answers (SES-3). Pure.

Its elements, in the order of the pages: the array device slots, two power supplies, a SAS expander, and the enclosure
services controller. The slots come first, because the kernel's ses driver skips only the first type's overall element,
and so counts all elements of later types wrongly.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from meshlab.shelf.unit import (
    ILLEGAL_REQUEST,
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_PARAMETERS,
    Answer,
    Identity,
    LogicalUnit,
    failed,
)

ENCLOSURE_TYPE: Final = 0x0D
ENCLOSURE_SERVICES: Final = 0x40

RECEIVE_DIAGNOSTIC: Final = 0x1C
SEND_DIAGNOSTIC: Final = 0x1D
_PAGE_CODE_VALID: Final = 0x01
_SELF_TEST: Final = 0x04

_SUPPORTED: Final = 0x00
_CONFIGURATION: Final = 0x01
_STATUS: Final = 0x02
_TEXTS: Final = 0x07
_ADDITIONAL: Final = 0x0A

_POWER_SUPPLY: Final = 0x02
_SERVICES_CONTROLLER: Final = 0x07
_ARRAY_DEVICE_SLOT: Final = 0x17
_SAS_EXPANDER: Final = 0x18

_ELEMENT_BYTES: Final = 4
_HEAD_BYTES: Final = 8
_SELECT: Final = 0x80
_OK: Final = bytes((1, 0, 0, 0))
_EMPTY: Final = bytes((0, 0, 0, 0))
_CODE_OK: Final = 1
_CODE_NOT_INSTALLED: Final = 5
#: The bits of a slot's control element that the enclosure keeps, and shows in the status element again.
_KEPT: Final = bytes((0x40, 0xFF, 0x4E, 0x30))
_IDENT: Final = 0x02
_FAULT: Final = 0x20

_EIP_SAS: Final = 0x16
_SLOT_DESCRIPTOR: Final = 0x00
_OTHER_DESCRIPTOR: Final = 0x40
#: The phy of a SAS end device: type and roles, the address of the expander, its own address, and the phy's number.
_PHY: Final = struct.Struct(">B2xBQQB7x")


@dataclass
class Slot:
    """Holds a slot: its number on the chassis, its text, and the SAS address of the disk in it (0 if there is none)."""

    number: int
    text: str
    address: int = 0
    control: bytes = bytes(_ELEMENT_BYTES)

    @property
    def locate(self) -> bool:
        return bool(self.control[2] & _IDENT)

    @property
    def fault(self) -> bool:
        return bool(self.control[3] & _FAULT)

    def element(self) -> bytes:
        code = _CODE_OK if self.address else _CODE_NOT_INSTALLED
        return bytes((code | self.control[0], *self.control[1:]))


@dataclass
class _Type:
    """Holds the elements of one type header, each with its text and its status element."""

    kind: int
    text: str
    elements: list[tuple[str, Callable[[], bytes]]] = field(default_factory=list)


class Enclosure(LogicalUnit):
    """Executes the commands of an enclosure with ``slots`` empty slots. ``identity.naa`` is its logical id."""

    def __init__(self, identity: Identity, slots: int) -> None:
        super().__init__(identity)
        self.slots = [Slot(number, f"Slot {number:02d}") for number in range(1, slots + 1)]
        self.generation = 1
        #: Pages that are sent instead of the right ones, by page code.
        self.wrong_pages: dict[int, bytes] = {}
        self.commands |= {RECEIVE_DIAGNOSTIC: self._receive_diagnostic, SEND_DIAGNOSTIC: self._send_diagnostic}
        self._types = (
            _Type(_ARRAY_DEVICE_SLOT, "Drive slots", [(slot.text, slot.element) for slot in self.slots]),
            _Type(_POWER_SUPPLY, "Power", [("PSU A", lambda: _OK), ("PSU B", lambda: _OK)]),
            _Type(_SAS_EXPANDER, "Expander", [("Expander 0", lambda: _OK)]),
            _Type(_SERVICES_CONTROLLER, "Controller", [("", lambda: _OK)]),
        )
        self._pages: dict[int, Callable[[], bytes]] = {
            _SUPPORTED: self._supported,
            _CONFIGURATION: self._configuration,
            _STATUS: self._status,
            _TEXTS: self._texts,
            _ADDITIONAL: self._additional,
        }

    def page(self, code: int) -> bytes:
        """Return a page as the enclosure sends it now."""
        return self.wrong_pages[code] if code in self.wrong_pages else self._pages[code]()

    # --- commands

    def _receive_diagnostic(self, cdb: bytes, sent: Callable[[], bytes]) -> Answer:
        if not cdb[1] & _PAGE_CODE_VALID or cdb[2] not in self._pages:
            return failed(ILLEGAL_REQUEST, INVALID_FIELD_IN_CDB)
        return Answer(self.page(cdb[2])[: int.from_bytes(cdb[3:5], "big")])

    def _send_diagnostic(self, cdb: bytes, sent: Callable[[], bytes]) -> Answer:
        if cdb[1] & _SELF_TEST:
            return Answer()
        return Answer() if self.control(sent()) else failed(ILLEGAL_REQUEST, INVALID_FIELD_IN_PARAMETERS)

    def control(self, page: bytes) -> bool:
        """Carry out an enclosure control page. Return False, and change nothing, if the page is not right."""
        expected = len(self._status())
        if len(page) != expected or page[0] != _STATUS or int.from_bytes(page[2:4], "big") != expected - 4:
            return False
        if int.from_bytes(page[4:8], "big") != self.generation:
            return False
        at = _HEAD_BYTES
        for each in self._types:
            overall, at = page[at : at + _ELEMENT_BYTES], at + _ELEMENT_BYTES
            for number in range(len(each.elements)):
                own, at = page[at : at + _ELEMENT_BYTES], at + _ELEMENT_BYTES
                if each.kind == _ARRAY_DEVICE_SLOT:
                    self._select(self.slots[number], overall, own)
        return True

    def _select(self, slot: Slot, overall: bytes, own: bytes) -> None:
        for element in (overall, own):
            if element[0] & _SELECT:
                slot.control = bytes(byte & kept for byte, kept in zip(element, _KEPT, strict=True))

    # --- pages

    def _supported(self) -> bytes:
        codes = bytes(sorted(self._pages))
        return bytes((_SUPPORTED, 0)) + len(codes).to_bytes(2, "big") + codes

    def _configuration(self) -> bytes:
        own = self.identity
        names = own.vendor.encode().ljust(8) + own.product.encode().ljust(16) + own.revision.encode().ljust(4)
        descriptor = bytes((0x11, 0, len(self._types), 36)) + own.naa.to_bytes(8, "big") + names
        headers = b"".join(bytes((each.kind, len(each.elements), 0, len(each.text))) for each in self._types)
        return self._page(_CONFIGURATION, descriptor + headers + "".join(each.text for each in self._types).encode())

    def _status(self) -> bytes:
        content = bytearray()
        for each in self._types:
            content += _EMPTY
            content += b"".join(element() for _, element in each.elements)
        return self._page(_STATUS, bytes(content))

    def _texts(self) -> bytes:
        content = bytearray()
        for each in self._types:
            for text in ("", *(text for text, _ in each.elements)):
                content += bytes(2) + len(text).to_bytes(2, "big") + text.encode()
        return self._page(_TEXTS, bytes(content))

    def _additional(self) -> bytes:
        return self._page(_ADDITIONAL, b"".join(self._descriptors()))

    def _descriptors(self) -> Iterator[bytes]:
        index = 0
        for each in self._types:
            for number in range(len(each.elements)):
                if each.kind == _ARRAY_DEVICE_SLOT:
                    slot = self.slots[number]
                    phy = _PHY.pack(0x10, 0x08, self.identity.sas_address, slot.address, number)
                    yield _descriptor(index, bytes((1, _SLOT_DESCRIPTOR, 0, slot.number)) + phy)
                elif each.kind == _SAS_EXPANDER:
                    address = self.identity.sas_address.to_bytes(8, "big")
                    yield _descriptor(index, bytes((0, _OTHER_DESCRIPTOR, 0, 0)) + address)
                elif each.kind == _SERVICES_CONTROLLER:
                    yield _descriptor(index, bytes((0, _OTHER_DESCRIPTOR, 0, 0)))
                index += 1

    def _page(self, code: int, content: bytes) -> bytes:
        return struct.pack(">BBHI", code, 0, 4 + len(content), self.generation) + content


def _descriptor(index: int, content: bytes) -> bytes:
    body = bytes((0, index)) + content
    return bytes((_EIP_SAS, len(body))) + body

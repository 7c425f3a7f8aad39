"""The additional element status page (SES-3 6.1.13): which device is in a slot.

    per descriptor:   0  INVALID 80, EIP 10, protocol 0f     1  bytes that follow
      if EIP:         2  EIIOE 03     3  element index       then the protocol's part
      otherwise:      2- the protocol's part

With EIP, the element index counts the elements of all types in the order of the configuration. The overall elements are
counted only if EIIOE is 1. Without EIP, the descriptors belong one after the other to the elements whose types can have
one (`_DESCRIBED`).

The protocol's part of a SAS device slot (protocol 6, descriptor type 0), 4 bytes and then 28 for each phy:

    EIP             4  number of phys     5  descriptor type c0     6  reserved     7  slot number     8- phys
    without EIP     2  number of phys     3  descriptor type c0                                        4- phys
    phy             0  device type 70     1-3  roles     4-11  attached address     12-19  SAS address     20  phy id
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from meshfs.ses.configuration import Configuration, ElementPlace, check_generation
from meshfs.ses.page import ElementKind, PageCode, PageReader, pack_page

_INVALID: Final = 0x80
_EIP: Final = 0x10
_PROTOCOL: Final = 0x0F
_EIIOE: Final = 0x03
_SAS: Final = 6
_PHY_BYTES: Final = 28
_INDEX_MAX: Final = 254
_SAS_ADDRESS: Final = struct.Struct(">12xQ8x")
#: The element types that have a descriptor if the descriptors carry no element index.
_DESCRIBED: Final = frozenset(ElementKind)


@dataclass(frozen=True, slots=True)
class SlotDevice:
    """Describes the device in a slot. ``number`` is the slot's number on the chassis, or None if it is not given.

    ``sas_addresses`` are the device's own, one for each port. They also stand in the disk's VPD page 83.
    """

    number: int | None = None
    sas_addresses: tuple[int, ...] = ()


def parse_additional(page: bytes, configuration: Configuration) -> dict[ElementPlace, SlotDevice]:
    """Return what the page says of SAS device slots. Raises EnclosurePageError for a malformed or outdated page.

    Descriptors of other protocols are skipped, and so are those that the enclosure marks as invalid.
    """
    reader = PageReader(page, PageCode.ADDITIONAL_STATUS)
    check_generation(configuration, reader)
    all_places = list(configuration.places())
    elements = [place for place in all_places if not place.is_overall]
    described = iter([place for place in elements if configuration.types[place.header].kind in _DESCRIBED])
    found = {}
    while reader.left_bytes:
        flags, follows = reader.take(2, "a descriptor")
        body = reader.take(follows, "a descriptor")
        place = _place(reader, flags, body, all_places, elements, described)
        if not flags & _INVALID and flags & _PROTOCOL == _SAS:
            device = _sas_device(reader, body, 2 if flags & _EIP else 0)
            if device is not None:
                found[place] = device
    return found


def _place(
    reader: PageReader,
    flags: int,
    body: bytes,
    all_places: list[ElementPlace],
    elements: list[ElementPlace],
    described: Iterator[ElementPlace],
) -> ElementPlace:
    """Return the element that a descriptor belongs to."""
    if not flags & _EIP:
        place = next(described, None)
        if place is None:
            raise reader.error("it has more descriptors than elements that can have one")
        return place
    if len(body) < 2:
        raise reader.error("a descriptor is too short for its element index")
    counted = all_places if body[0] & _EIIOE == 1 else elements
    index = body[1]
    if index >= len(counted):
        raise reader.error(f"a descriptor names element {index}, but there are {len(counted)}")
    return counted[index]


def _sas_device(reader: PageReader, body: bytes, start: int) -> SlotDevice | None:
    """Return the device of a SAS descriptor, or None if the descriptor is not about a device slot."""
    has_index = start > 0
    head_bytes = 4 if has_index else 2
    if len(body) < start + head_bytes:
        raise reader.error("a SAS descriptor is too short for its head")
    phys, descriptor_type = body[start], body[start + 1] >> 6
    if descriptor_type != 0:
        return None
    number = body[start + 3] if has_index else None
    at = start + head_bytes
    if len(body) < at + phys * _PHY_BYTES:
        raise reader.error(f"a SAS descriptor of {phys} phys is too short for them")
    addresses = [_SAS_ADDRESS.unpack_from(body, at + phy * _PHY_BYTES)[0] for phy in range(phys)]
    return SlotDevice(number, tuple(address for address in dict.fromkeys(addresses) if address))


def pack_additional(configuration: Configuration, devices: Mapping[ElementPlace, SlotDevice]) -> bytes:
    """Return the page with a SAS descriptor for each element of ``devices``, in the order of the elements.

    Elements after the first 255 have none, because the element index has 8 bits and 255 has another meaning.
    """
    content = bytearray()
    elements = [place for place in configuration.places() if not place.is_overall]
    for index, place in enumerate(elements):
        device = devices.get(place)
        if device is not None and index <= _INDEX_MAX:
            content += _sas_descriptor(index, device)
    return pack_page(PageCode.ADDITIONAL_STATUS, 0, configuration.generation, bytes(content))


def _sas_descriptor(index: int, device: SlotDevice) -> bytes:
    phys = b"".join(_phy(address) for address in device.sas_addresses)
    body = bytes((0, index, len(device.sas_addresses), 0, 0, (device.number or 0) & 0xFF)) + phys
    return bytes((_EIP | _SAS, len(body))) + body


def _phy(address: int) -> bytes:
    """Return the phy of an end device that is an SSP target."""
    return b"\x10\0\0\x08" + bytes(8) + address.to_bytes(8, "big") + bytes(8)

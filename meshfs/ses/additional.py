"""The additional element status page (SES-3 6.1.13): which device is in a slot.

    per descriptor:   0  INVALID 80, EIP 10, protocol 0f     1  bytes that follow
      if EIP:         2  EIIOE 03     3  element index       then the protocol's part
      otherwise:      2- the protocol's part

The protocol's part of a device slot:

    SAS (6), descriptor type 0, 4 bytes and then 28 for each phy
    EIP             4  number of phys     5  descriptor type c0     6  reserved     7  slot number     8- phys
    without EIP     2  number of phys     3  descriptor type c0                                        4- phys
    phy             0  device type 70     1-3  roles     4-11  attached address     12-19  SAS address     20  phy id

    FCP (0)         only with EIP:        7  slot number
    PCIe (b)        only with EIP:        5  protocol type e0 (NVMe is 1)           7  slot number
                                          12-31  serial number                      32-71  model

Theory of the element index. Firmware disagrees on which elements it counts, so there are three numberings:

    all             every element of the status page. EIIOE 1 says so. Some JBODs use it although they send EIIOE 0
    elements        all but the overall ones. This is the rule for EIIOE 0, 2 and 3
    described       as elements, and only of the types that can have a descriptor (`_DESCRIBED`). Old firmware does so

With EIIOE 0, the first numbering of "elements", "all", "described" counts that puts every device slot's descriptor on
a slot, and no two on the same slot. Without EIP, the descriptors belong one after the other to the elements of the
third numbering. The kernel's ses driver and sg_ses also handle such firmware.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from meshfs.ses.configuration import Configuration, ElementPlace, check_generation
from meshfs.ses.page import SLOT_KINDS, ElementKind, PageCode, PageReader, decode_text, pack_page

_INVALID: Final = 0x80
_EIP: Final = 0x10
_PROTOCOL: Final = 0x0F
_EIIOE: Final = 0x03
_FCP: Final = 0x0
_SAS: Final = 0x6
_PCIE: Final = 0xB
_NVME: Final = 1
_PHY_BYTES: Final = 28
#: 255 stands for every element that 8 bits cannot count.
_INDEX_MAX: Final = 254
_SAS_ADDRESS: Final = struct.Struct(">12xQ8x")
#: Where the slot number, the serial number and the model stand in a descriptor with EIP, after its first two bytes.
_NUMBER_AT: Final = 5
_SERIAL: Final = slice(10, 30)
_MODEL: Final = slice(30, 70)
#: The element types that have a descriptor if the descriptors carry no element index.
_DESCRIBED: Final = frozenset(ElementKind)


@dataclass(frozen=True, slots=True)
class SlotDevice:
    """Describes the device in a slot. ``number`` is the slot's number on the chassis, or None if it is not given.

    ``sas_addresses`` are the device's own, one for each port. They also stand in the disk's VPD page 83. ``serial`` and
    ``model`` are those of an NVMe disk.
    """

    number: int | None = None
    sas_addresses: tuple[int, ...] = ()
    serial: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class _Descriptor:
    """Holds one descriptor of a device slot. ``index`` is its element index; without EIP, ``place`` is known."""

    eiioe: int
    index: int
    place: ElementPlace | None
    device: SlotDevice


def parse_additional(page: bytes, configuration: Configuration) -> dict[ElementPlace, SlotDevice]:
    """Return what the page says of device slots. Raises EnclosurePageError for a malformed or outdated page.

    Descriptors of other protocols or other elements are skipped, and so are those that the enclosure marks as invalid.
    """
    reader = PageReader(page, PageCode.ADDITIONAL_STATUS)
    check_generation(configuration, reader)
    described = _numbering(configuration, "described")
    in_turn = iter(described)
    descriptors = []
    while reader.left_bytes:
        flags, follows = reader.take(2, "a descriptor")
        body = reader.take(follows, "a descriptor")
        place = None if flags & _EIP else _next(reader, in_turn)
        device = None if flags & _INVALID else _slot_device(reader, flags, body)
        eiioe, index = (body[0] & _EIIOE, body[1]) if flags & _EIP and len(body) > 1 else (0, 0)
        if device is not None and index <= _INDEX_MAX:
            descriptors.append(_Descriptor(eiioe, index, place, device))
    return _placed(reader, configuration, descriptors)


def _next(reader: PageReader, in_turn: Iterator[ElementPlace]) -> ElementPlace:
    place = next(in_turn, None)
    if place is None:
        raise reader.error("it has more descriptors than elements that can have one")
    return place


def _numbering(configuration: Configuration, name: str) -> list[ElementPlace]:
    """Return the elements that an element index counts, in order."""
    places = configuration.places()
    if name == "all":
        return list(places)
    if name == "elements":
        return [place for place in places if not place.is_overall]
    kinds = [header.kind in _DESCRIBED for header in configuration.types]
    return [place for place in places if not place.is_overall and kinds[place.header]]


def _placed(
    reader: PageReader, configuration: Configuration, descriptors: Sequence[_Descriptor]
) -> dict[ElementPlace, SlotDevice]:
    """Return the devices by slot. Raises EnclosurePageError if an element index fits in no numbering."""
    numberings = [_numbering(configuration, name) for name in ("elements", "all", "described")]
    wrong = ""
    for ambiguous in numberings:
        by_eiioe = {0: ambiguous, 1: numberings[1], 2: numberings[0], 3: numberings[0]}
        placed: dict[ElementPlace, SlotDevice] = {}
        reason = ""
        for each in descriptors:
            counted = by_eiioe[each.eiioe]
            place = each.place or (counted[each.index] if each.index < len(counted) else None)
            reason = _misplaced(configuration, each, place, len(counted), placed)
            if reason or place is None:
                break
            placed[place] = each.device
        if not reason:
            return placed
        wrong = wrong or reason
    raise reader.error(wrong)


def _misplaced(
    configuration: Configuration,
    each: _Descriptor,
    place: ElementPlace | None,
    count: int,
    placed: Mapping[ElementPlace, SlotDevice],
) -> str:
    """Return why ``each`` cannot be the descriptor of the element at ``place``, or ""."""
    if place is None:
        return f"a descriptor names element {each.index}, but there are {count}"
    if place.is_overall or configuration.types[place.header].kind not in SLOT_KINDS:
        return f"a descriptor of a slot names element {each.index}, which is no slot"
    return f"two descriptors name element {each.index}" if place in placed else ""


def _slot_device(reader: PageReader, flags: int, body: bytes) -> SlotDevice | None:
    """Return the device of a descriptor, or None if the descriptor is not about a device slot."""
    has_index, protocol = bool(flags & _EIP), flags & _PROTOCOL
    if has_index and len(body) < 2:
        raise reader.error("a descriptor is too short for its element index")
    if protocol == _SAS:
        return _sas_device(reader, body, 2 if has_index else 0)
    if not has_index or len(body) <= _NUMBER_AT:
        return None
    if protocol == _FCP:
        return SlotDevice(body[_NUMBER_AT])
    if protocol == _PCIE and body[3] >> 5 == _NVME:
        return SlotDevice(body[_NUMBER_AT], serial=decode_text(body[_SERIAL]), model=decode_text(body[_MODEL]))
    return None


def _sas_device(reader: PageReader, body: bytes, start: int) -> SlotDevice | None:
    """Return the device of a SAS descriptor, or None if the descriptor is not about a device slot."""
    has_index = start > 0
    head_bytes = 4 if has_index else 2
    if len(body) < start + head_bytes:
        raise reader.error("a SAS descriptor is too short for its head")
    phys, descriptor_type = body[start], body[start + 1] >> 6
    if descriptor_type != 0:
        return None
    number = body[_NUMBER_AT] if has_index else None
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

"""The device identification page of a SCSI disk (VPD page 83, SPC-4 7.8.6): the addresses of its ports. Pure.

page head       0  peripheral     1  page code 83     2-3  bytes that follow
per designator  0  protocol f0, code set 0f     1  PIV 80, association 30, designator type 0f     3  bytes that follow
"""

from typing import Final

_PAGE_CODE: Final = 0x83
_HEAD_BYTES: Final = 4
_BINARY: Final = 1
_SAS: Final = 6
_PIV: Final = 0x80
_TARGET_PORT: Final = 1
_NAA: Final = 3
_ADDRESS_BYTES: Final = 8


def port_addresses(page: bytes) -> tuple[int, ...]:
    """Return the SAS addresses of the target ports on the page. Of a malformed page, return those before the fault."""
    if len(page) < _HEAD_BYTES or page[1] != _PAGE_CODE:
        return ()
    end = min(len(page), _HEAD_BYTES + int.from_bytes(page[2:4], "big"))
    addresses: list[int] = []
    at = _HEAD_BYTES
    while at + _HEAD_BYTES <= end:
        start, length = at + _HEAD_BYTES, page[at + 3]
        if start + length > end:
            break
        of_another_protocol = bool(page[at + 1] & _PIV) and page[at] >> 4 != _SAS
        kind = (page[at] & 0x0F, page[at + 1] >> 4 & 0x03, page[at + 1] & 0x0F, length)
        if kind == (_BINARY, _TARGET_PORT, _NAA, _ADDRESS_BYTES) and not of_another_protocol:
            addresses.append(int.from_bytes(page[start : start + length], "big"))
        at = start + length
    return tuple(addresses)

"""Pack and unpack the parts that all message bodies have: the fixed part, variable parts such as names, and padding.

A body follows the 64-byte header. Offsets on the wire count from the start of the header (MS-SMB2 2.2). The functions
that read raise only RemoteProtocolError, and copy no more than the body. ``what`` names the part in error texts.
"""

from struct import Struct
from typing import Any, Final, NamedTuple

from meshfs.errors import LocalProtocolError, RemoteProtocolError
from meshfs.smb.constants import HEADER_BYTES

Body = bytes | bytearray | memoryview


class FileId(NamedTuple):
    """Identifies an open, as SMB2_FILEID does (MS-SMB2 2.2.14.1). On the wire, each half is a u64."""

    persistent: int
    volatile: int


# In a related compound, this id means the open of the previous request (MS-SMB2 3.3.5.2.7.2).
RELATED_FILE: Final = FileId(0xFFFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF)


def unpack_fixed(layout: Struct, structure_size: int, body: Body, what: str) -> tuple[Any, ...]:
    """Return the fields of the fixed part without StructureSize, which must be the first field."""
    if len(body) < layout.size:
        raise RemoteProtocolError(f"{what}: the body has {len(body)} bytes, expected at least {layout.size}")
    fields = layout.unpack_from(body)
    if fields[0] != structure_size:
        raise RemoteProtocolError(f"{what}: StructureSize is {fields[0]}, expected {structure_size}")
    return fields[1:]


def block(body: Body, offset: int, length: int, fixed_bytes: int, what: str) -> bytes:
    """Return a variable part, which must come after the fixed part and lie inside the body.

    ``offset`` counts from the start of the header. If ``length`` is 0, the offset is ignored, because then some
    senders write an arbitrary offset.
    """
    if length == 0:
        return b""
    start = offset - HEADER_BYTES
    if start < fixed_bytes or start + length > len(body):
        raise RemoteProtocolError(
            f"{what}: offset {offset} and length {length} reach outside a message of {HEADER_BYTES + len(body)} bytes"
        )
    return bytes(body[start : start + length])


def text(data: Body, what: str) -> str:
    """Decode UTF-16LE. Raises RemoteProtocolError if the data is incomplete or invalid."""
    try:
        return bytes(data).decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(f"{what} is not UTF-16 text: {error.reason}") from error


def encode(value: str, what: str) -> bytes:
    """Encode a name of this end as UTF-16LE. Raises LocalProtocolError if the name has no UTF-16 form."""
    try:
        return value.encode("utf-16-le")
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"{what}: {value!r} has no UTF-16 form") from error


def request_tail(data: bytes) -> bytes:
    """Return the variable part ``data``, or a zero byte if there is no data.

    If the StructureSize of a request is odd, its variable part has at least one byte (MS-SMB2 2.2.13).
    """
    return data or b"\0"


def padding(length: int) -> bytes:
    """Return the zero bytes that extend ``length`` bytes to a multiple of 8."""
    return bytes(-length % 8)


class Empty:
    """Packs a body with StructureSize 4 and two reserved bytes. This is the base of messages without other fields."""

    __slots__ = ()
    _LAYOUT = Struct("<HH")

    def pack(self) -> bytes:
        return b"\x04\x00\x00\x00"

    @classmethod
    def check(cls, body: Body) -> None:
        unpack_fixed(cls._LAYOUT, 4, body, cls.__name__)

"""IOCTL, and the payloads of the FSCTLs that meshfs sends or answers (MS-SMB2 2.2.31, 2.2.32)."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import Struct
from typing import ClassVar, Final, Self

from meshfs import limits
from meshfs.errors import RemoteProtocolError
from meshfs.smb.constants import HEADER_BYTES, IOCTL_IS_FSCTL
from meshfs.smb.messages.body import RELATED_FILE, Body, FileId, block, padding, request_tail, unpack_fixed

# An FSCTL that concerns no file has this id: 16 bytes of 0xff, as in a related compound (2.2.31).
NO_FILE: Final = RELATED_FILE


@dataclass(frozen=True, slots=True)
class IoctlRequest:
    """Asks for the control function that its code names (MS-SMB2 2.2.31).

    Layout: StructureSize 57, reserved, CtlCode u32, FileId, InputOffset, InputCount, MaxInputResponse, OutputOffset,
    OutputCount, MaxOutputResponse, Flags, reserved (u32); then the input. Some clients also send output. Its bounds are
    checked, and it is dropped.
    """

    ctl_code: int
    file_id: FileId
    input: bytes
    output_bytes_max: int
    flags: int = IOCTL_IS_FSCTL
    input_bytes_max: int = 0
    _LAYOUT: ClassVar[Struct] = Struct("<HHIQQIIIIIIII")

    def pack(self) -> bytes:
        fixed = self._LAYOUT.pack(
            57,
            0,
            self.ctl_code,
            *self.file_id,
            HEADER_BYTES + self._LAYOUT.size,
            len(self.input),
            self.input_bytes_max,
            0,
            0,
            self.output_bytes_max,
            self.flags,
            0,
        )
        return fixed + request_tail(self.input)

    @classmethod
    def unpack(cls, body: Body) -> Self:
        _, code, persistent, volatile, *numbers = unpack_fixed(cls._LAYOUT, 57, body, "IOCTL request")
        offset, count, input_max, output_offset, output_count, output_max, flags, _ = numbers
        data = block(body, offset, count, cls._LAYOUT.size, "IOCTL input")
        block(body, output_offset, output_count, cls._LAYOUT.size, "IOCTL output")
        return cls(code, FileId(persistent, volatile), data, output_max, flags, input_max)


@dataclass(frozen=True, slots=True)
class IoctlResponse:
    """Gives the output of a control function (MS-SMB2 2.2.32).

    Layout: StructureSize 49, reserved, CtlCode u32, FileId, InputOffset, InputCount, OutputOffset, OutputCount, Flags,
    reserved (u32); then the input, padded to a multiple of 8 bytes, and the output.
    """

    ctl_code: int
    file_id: FileId
    output: bytes
    input: bytes = b""
    _LAYOUT: ClassVar[Struct] = Struct("<HHIQQIIIIII")

    def pack(self) -> bytes:
        start = HEADER_BYTES + self._LAYOUT.size
        pad = padding(len(self.input))
        fixed = self._LAYOUT.pack(
            49,
            0,
            self.ctl_code,
            *self.file_id,
            start,
            len(self.input),
            start + len(self.input) + len(pad),
            len(self.output),
            0,
            0,
        )
        return fixed + self.input + pad + self.output

    @classmethod
    def unpack(cls, body: Body) -> Self:
        _, code, persistent, volatile, *numbers = unpack_fixed(cls._LAYOUT, 49, body, "IOCTL response")
        input_offset, input_count, output_offset, output_count, _, _ = numbers
        size = cls._LAYOUT.size
        data = block(body, input_offset, input_count, size, "IOCTL input")
        output = block(body, output_offset, output_count, size, "IOCTL output")
        return cls(code, FileId(persistent, volatile), output, data)


@dataclass(frozen=True, slots=True)
class ValidateNegotiateRequest:
    """Holds the input of FSCTL_VALIDATE_NEGOTIATE_INFO (MS-SMB2 2.2.31.4).

    Layout: Capabilities u32, Guid, SecurityMode, DialectCount (u16), dialects (u16).
    """

    capabilities: int
    guid: bytes
    security_mode: int
    dialects: tuple[int, ...]
    _LAYOUT: ClassVar[Struct] = Struct("<I16sHH")

    def pack(self) -> bytes:
        fixed = self._LAYOUT.pack(self.capabilities, self.guid, self.security_mode, len(self.dialects))
        return fixed + Struct(f"<{len(self.dialects)}H").pack(*self.dialects)

    @classmethod
    def unpack(cls, data: Body) -> Self:
        if len(data) < cls._LAYOUT.size:
            raise RemoteProtocolError("VALIDATE_NEGOTIATE_INFO is too short")
        capabilities, guid, mode, count = cls._LAYOUT.unpack_from(data)
        if count > limits.NEGOTIATE_DIALECTS_MAX or len(data) < cls._LAYOUT.size + 2 * count:
            raise RemoteProtocolError(f"VALIDATE_NEGOTIATE_INFO has {len(data)} bytes, too few for {count} dialects")
        return cls(capabilities, guid, mode, Struct(f"<{count}H").unpack_from(data, cls._LAYOUT.size))


@dataclass(frozen=True, slots=True)
class ValidateNegotiateResponse:
    """Holds the output of FSCTL_VALIDATE_NEGOTIATE_INFO (MS-SMB2 2.2.32.6).

    Layout: Capabilities u32, Guid, SecurityMode, Dialect (u16).
    """

    capabilities: int
    guid: bytes
    security_mode: int
    dialect: int
    _LAYOUT: ClassVar[Struct] = Struct("<I16sHH")

    def pack(self) -> bytes:
        return self._LAYOUT.pack(self.capabilities, self.guid, self.security_mode, self.dialect)

    @classmethod
    def unpack(cls, data: Body) -> Self:
        if len(data) < cls._LAYOUT.size:
            raise RemoteProtocolError("the VALIDATE_NEGOTIATE_INFO response is too short")
        return cls(*cls._LAYOUT.unpack_from(data))


@dataclass(frozen=True, slots=True)
class ZeroData:
    """Holds the input of FSCTL_SET_ZERO_DATA, FILE_ZERO_DATA_INFORMATION (MS-FSCC 2.3.85).

    Layout: FileOffset, BeyondFinalZero (i64). The bytes from ``offset`` up to, and without, ``stop`` become zeros.
    """

    offset: int
    stop: int
    _LAYOUT: ClassVar[Struct] = Struct("<qq")

    def pack(self) -> bytes:
        return self._LAYOUT.pack(self.offset, self.stop)

    @classmethod
    def unpack(cls, data: Body) -> Self:
        if len(data) < cls._LAYOUT.size:
            raise RemoteProtocolError("SET_ZERO_DATA is too short")
        return cls(*cls._LAYOUT.unpack_from(data))


@dataclass(frozen=True, slots=True)
class TrimRanges:
    """Holds the input of FSCTL_FILE_LEVEL_TRIM, FILE_LEVEL_TRIM (MS-FSCC 2.3.13).

    Layout: Key, NumRanges (u32), then for each range Offset and Length (u64). ``ranges`` are (offset, length), at most
    TRIM_RANGES_MAX. A server need not process more: its answer says how many it has processed.
    """

    ranges: tuple[tuple[int, int], ...]
    key: int = 0
    _LAYOUT: ClassVar[Struct] = Struct("<II")
    _RANGE: ClassVar[Struct] = Struct("<QQ")

    def pack(self) -> bytes:
        head = self._LAYOUT.pack(self.key, len(self.ranges))
        return head + b"".join(self._RANGE.pack(offset, length) for offset, length in self.ranges)

    @classmethod
    def unpack(cls, data: Body) -> Self:
        if len(data) < cls._LAYOUT.size:
            raise RemoteProtocolError("FILE_LEVEL_TRIM is too short")
        key, count = cls._LAYOUT.unpack_from(data)
        if len(data) < cls._LAYOUT.size + count * cls._RANGE.size:
            raise RemoteProtocolError(f"FILE_LEVEL_TRIM has {len(data)} bytes, too few for {count} ranges")
        starts = range(cls._LAYOUT.size, len(data), cls._RANGE.size)[: min(count, limits.TRIM_RANGES_MAX)]
        return cls(tuple(cls._RANGE.unpack_from(data, start) for start in starts), key)


@dataclass(frozen=True, slots=True)
class TrimOutput:
    """Holds the output of FSCTL_FILE_LEVEL_TRIM, FILE_LEVEL_TRIM_OUTPUT (MS-FSCC 2.3.14): NumRangesProcessed u32.

    The first ranges of the input were processed, and the others were not.
    """

    ranges_processed: int
    LAYOUT: ClassVar[Struct] = Struct("<I")

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.ranges_processed)

    @classmethod
    def unpack(cls, data: Body) -> Self:
        if len(data) < cls.LAYOUT.size:
            raise RemoteProtocolError("the FILE_LEVEL_TRIM response is too short")
        return cls(*cls.LAYOUT.unpack_from(data))


@dataclass(frozen=True, slots=True)
class NetworkInterface:
    """Describes one address in the output of FSCTL_QUERY_NETWORK_INTERFACE_INFO (MS-SMB2 2.2.32.5)."""

    RSS_CAPABLE: ClassVar[int] = 0x1
    RDMA_CAPABLE: ClassVar[int] = 0x2
    index: int
    address: IPv4Address | IPv6Address
    link_speed_bits_s: int
    capability: int = 0


# Next, IfIndex, Capability, reserved (u32), LinkSpeed u64, SockAddr_Storage; 152 bytes.
_INTERFACE: Final = Struct("<IIIIQ128s")
# In SOCKADDR_IN and SOCKADDR_IN6 (2.2.32.5.1.1, 2.2.32.5.1.2), the family is little-endian. The rest is in network
# order. The family has the number of Windows, which may differ from the number on this machine.
_FAMILY: Final = Struct("<H")
_AF_INET: Final = 2
_AF_INET6: Final = 23


def pack_interfaces(interfaces: tuple[NetworkInterface, ...]) -> bytes:
    """Pack a chain of interfaces in their order. Next is 0 in the last entry."""
    chain = bytearray()
    for index, interface in enumerate(interfaces):
        following = 0 if index == len(interfaces) - 1 else _INTERFACE.size
        address = interface.address
        if isinstance(address, IPv4Address):
            storage = _FAMILY.pack(_AF_INET) + bytes(2) + address.packed
        else:
            storage = _FAMILY.pack(_AF_INET6) + bytes(6) + address.packed
        chain += _INTERFACE.pack(
            following, interface.index, interface.capability, 0, interface.link_speed_bits_s, storage
        )
    return bytes(chain)


def unpack_interfaces(chain: Body) -> tuple[NetworkInterface, ...]:
    """Unpack a chain of interfaces. Entries that are neither IPv4 nor IPv6 are left out.

    Raises RemoteProtocolError for a malformed chain, or for more than NETWORK_INTERFACES_MAX entries.
    """
    interfaces: list[NetworkInterface] = []
    start = 0
    for _ in range(limits.NETWORK_INTERFACES_MAX):
        if start + _INTERFACE.size > len(chain):
            raise RemoteProtocolError("a network interface reaches outside the output")
        following, index, capability, _, speed, storage = _INTERFACE.unpack_from(chain, start)
        family = _FAMILY.unpack_from(storage)[0]
        if family == _AF_INET:
            interfaces.append(NetworkInterface(index, ip_address(storage[4:8]), speed, capability))
        elif family == _AF_INET6:
            interfaces.append(NetworkInterface(index, ip_address(storage[8:24]), speed, capability))
        if not following:
            return tuple(interfaces)
        if following < _INTERFACE.size:
            raise RemoteProtocolError(f"network interface: Next is {following}, less than the size of an entry")
        start += following
    raise RemoteProtocolError(f"the output lists more than {limits.NETWORK_INTERFACES_MAX} network interfaces")

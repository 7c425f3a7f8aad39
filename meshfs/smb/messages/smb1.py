"""The only packet of SMB 1 that meshfs parses: SMB_COM_NEGOTIATE (MS-CIFS 2.2.4.52.1).

A client that does not know which version the server supports may begin with this packet, and list "SMB 2.???" among its
dialects. The server answers in SMB 2, and the client negotiates again in SMB 2 (MS-SMB2 3.3.5.3.1).
"""

from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Final, Self

from meshfs.errors import RemoteProtocolError
from meshfs.smb.constants import PROTOCOL_ID_SMB1
from meshfs.smb.messages.body import Body

_COMMAND: Final = 0x72
_REPLY: Final = 0x80
_DIALECT: Final = b"\x02"


@dataclass(frozen=True, slots=True)
class Smb1Negotiate:
    """Offers dialects in SMB 1, as an SMB_COM_NEGOTIATE request.

    Layout of the header: protocol, command u8, status u32, flags u8, 22 bytes that are ignored. Layout of the body:
    WordCount u8 (0), ByteCount u16; then each dialect: 0x02, its name in ASCII, 0x00.
    """

    SMB_2_WILDCARD: ClassVar[bytes] = b"SMB 2.???"
    dialects: tuple[bytes, ...]
    _LAYOUT: ClassVar[Struct] = Struct("<4sBIB22xBH")

    def pack(self) -> bytes:
        data = b"".join(_DIALECT + dialect + b"\0" for dialect in self.dialects)
        return self._LAYOUT.pack(PROTOCOL_ID_SMB1, _COMMAND, 0, 0, 0, len(data)) + data

    @classmethod
    def unpack(cls, message: Body) -> Self:
        start = cls._LAYOUT.size
        if len(message) < start:
            raise RemoteProtocolError(f"the SMB 1 packet has {len(message)} bytes, expected at least {start}")
        protocol, command, _status, flags, words, count = cls._LAYOUT.unpack_from(message)
        if protocol != PROTOCOL_ID_SMB1 or command != _COMMAND or flags & _REPLY:
            raise RemoteProtocolError("SMB 1 is not supported, and the SMB 1 packet is no negotiation")
        if words or start + count > len(message):
            raise RemoteProtocolError(f"SMB 1 negotiation: {words} words and {count} bytes do not fit {len(message)}")
        *dialects, rest = bytes(message[start : start + count]).split(b"\0")
        if rest or not all(dialect.startswith(_DIALECT) for dialect in dialects):
            raise RemoteProtocolError("SMB 1 negotiation: the list of dialects is malformed")
        return cls(tuple(dialect[1:] for dialect in dialects))

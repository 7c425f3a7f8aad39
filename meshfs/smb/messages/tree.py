"""TREE_CONNECT and TREE_DISCONNECT (MS-SMB2 2.2.9 to 2.2.12)."""

from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Self

from meshfs.errors import RemoteProtocolError
from meshfs.smb.constants import HEADER_BYTES
from meshfs.smb.messages.body import Body, Empty, block, encode, request_tail, text, unpack_fixed


@dataclass(frozen=True, slots=True)
class TreeConnectRequest:
    r"""Asks for a tree of a share (MS-SMB2 2.2.9).

    Layout: StructureSize 9, Flags, PathOffset, PathLength (u16); then ``\\server\share``.
    """

    path: str
    flags: int = 0
    _LAYOUT: ClassVar[Struct] = Struct("<HHHH")

    def pack(self) -> bytes:
        path = encode(self.path, "share path")
        offset = HEADER_BYTES + self._LAYOUT.size
        return self._LAYOUT.pack(9, self.flags, offset, len(path)) + request_tail(path)

    @classmethod
    def unpack(cls, body: Body) -> Self:
        flags, offset, length = unpack_fixed(cls._LAYOUT, 9, body, "TREE_CONNECT request")
        path = block(body, offset, length, cls._LAYOUT.size, "TREE_CONNECT path")
        return cls(text(path, "TREE_CONNECT path"), flags)

    def share(self) -> str:
        r"""Return the last part of ``\\server\share``. Raises RemoteProtocolError if the path has another form."""
        parts = self.path.rstrip("\0").split("\\")
        if len(parts) != 4 or parts[0] or parts[1] or not parts[3]:
            raise RemoteProtocolError(f"TREE_CONNECT: {self.path!r} is not \\\\server\\share")
        return parts[3]


@dataclass(frozen=True, slots=True)
class TreeConnectResponse:
    """Gives the properties of the share (MS-SMB2 2.2.10). The id of the tree is in the header.

    Layout: StructureSize 16, ShareType u8, reserved, ShareFlags, Capabilities, MaximalAccess (u32).
    """

    share_type: int
    share_flags: int
    capabilities: int
    maximal_access: int
    _LAYOUT: ClassVar[Struct] = Struct("<HBBIII")

    def pack(self) -> bytes:
        return self._LAYOUT.pack(16, self.share_type, 0, self.share_flags, self.capabilities, self.maximal_access)

    @classmethod
    def unpack(cls, body: Body) -> Self:
        kind, _, flags, capabilities, access = unpack_fixed(cls._LAYOUT, 16, body, "TREE_CONNECT response")
        return cls(kind, flags, capabilities, access)


@dataclass(frozen=True, slots=True)
class TreeDisconnectRequest(Empty):
    """Asks to end a tree (MS-SMB2 2.2.11). It has no fields."""

    @classmethod
    def unpack(cls, body: Body) -> Self:
        cls.check(body)
        return cls()


@dataclass(frozen=True, slots=True)
class TreeDisconnectResponse(TreeDisconnectRequest):
    """Confirms the end of a tree (MS-SMB2 2.2.12). It has no fields."""

"""Answers NetrShareEnum (MS-SRVS 3.1.4.8), with which `smbclient -L` and file managers ask for the list of shares.

The protocol is connection-oriented DCE/RPC 1.1 (C706 chapter 12), as far as one interface with one function needs it:
bind, one request, and faults. NDR is as in C706 chapter 14, little-endian.
"""

from struct import Struct, error
from typing import Final

# rpc_vers, rpc_vers_minor, PTYPE, pfc_flags, packed_drep, frag_length, auth_length, call_id
_HEADER: Final = Struct("<BBBB4sHHI")
_REQUEST, _RESPONSE, _FAULT, _BIND, _BIND_ACK = 0, 2, 3, 11, 12
_FIRST_AND_LAST: Final = 0x03
_LITTLE_ENDIAN: Final = b"\x10\x00\x00\x00"
_NDR: Final = bytes.fromhex("045d888aeb1cc9119fe808002b104860") + b"\x02\x00\x00\x00"
_SHARE_ENUM_ALL: Final = 15
_FRAGMENT_MAX_BYTES: Final = 4280
#: The largest value of frag_length. A longer message is no PDU, and could hold a megabyte of contexts to check.
_PDU_MAX_BYTES: Final = 0xFFFF
_TYPE_DISK, _TYPE_IPC_HIDDEN = 0x00000000, 0x80000003
# nca_s_op_rng_error, nca_s_proto_error
_NO_SUCH_FUNCTION, _PROTOCOL_ERROR = 0x1C010002, 0x1C01000B
_ERROR_INVALID_LEVEL: Final = 124
_U32: Final = Struct("<I")


class ShareList:
    """Answers one open of the pipe with the list of shares."""

    def __init__(self, shares: tuple[tuple[str, str], ...]) -> None:
        self._shares = (*((name, _TYPE_DISK, remark) for name, remark in shares), ("IPC$", _TYPE_IPC_HIDDEN, ""))

    def answer(self, pdu: bytes) -> bytes:
        """Return the reply to one PDU. Do not raise any error."""
        if len(pdu) > _PDU_MAX_BYTES:
            return _fault(0, _PROTOCOL_ERROR)
        try:
            _, _, kind, _, _, _, _, call_id = _HEADER.unpack_from(pdu)
            if kind == _BIND:
                return _pdu(_BIND_ACK, call_id, _bind_ack(pdu))
            if kind != _REQUEST:
                return _fault(call_id, _PROTOCOL_ERROR)
            context, function = Struct("<HH").unpack_from(pdu, _HEADER.size + 4)
            if function != _SHARE_ENUM_ALL:
                return _fault(call_id, _NO_SUCH_FUNCTION)
            stub = self._share_enum(pdu[_HEADER.size + 8 :])
        except error:
            return _fault(0, _PROTOCOL_ERROR)
        return _pdu(_RESPONSE, call_id, Struct("<IHBB").pack(len(stub), context, 0, 0) + stub)

    def _share_enum(self, stub: bytes) -> bytes:
        level = _level(stub)
        if level not in (0, 1):
            return Struct("<IIIIII").pack(level, level, 0, 0, 0, _ERROR_INVALID_LEVEL)
        count = len(self._shares)
        # level, switch, container pointer; EntriesRead, array pointer, max count
        head = Struct("<IIIIII").pack(level, level, 0x20000, count, 0x20004, count)
        entries, strings = b"", b""
        for index, (name, kind, remark) in enumerate(self._shares):
            entries += _U32.pack(0x20008 + 8 * index)
            strings += _string(name)
            if level == 1:
                entries += Struct("<II").pack(kind, 0x2000C + 8 * index)
                strings += _string(remark)
        # TotalEntries, no resume handle, NERR_Success
        return head + entries + strings + Struct("<III").pack(count, 0, 0)


def _level(stub: bytes) -> int:
    """Return InfoStruct.Level, which follows the optional server name."""
    offset = 4
    if _U32.unpack_from(stub)[0]:
        _, _, characters = Struct("<III").unpack_from(stub, offset)
        offset += 12 + 2 * characters
        offset += -offset % 4
    level: int = _U32.unpack_from(stub, offset)[0]
    return level


def _string(text: str) -> bytes:
    """Return a conformant varying string with its NUL, padded for the alignment of the next value."""
    data = (text + "\0").encode("utf-16-le")
    characters = len(text) + 1
    return Struct("<III").pack(characters, 0, characters) + data + bytes(-len(data) % 4)


def _bind_ack(pdu: bytes) -> bytes:
    """Return a bind_ack that accepts every presentation context with NDR, and rejects all others."""
    send_max, receive_max, _, count = Struct("<HHIB").unpack_from(pdu, _HEADER.size)
    address = b"\\PIPE\\srvsvc\0"
    body = Struct("<HHI").pack(min(send_max, _FRAGMENT_MAX_BYTES), min(receive_max, _FRAGMENT_MAX_BYTES), 0x53F0)
    body += Struct("<H").pack(len(address)) + address
    body += bytes(-(len(body) + _HEADER.size) % 4) + Struct("<BBH").pack(count, 0, 0)
    offset = _HEADER.size + 12
    for _ in range(count):
        _, syntaxes = Struct("<HB").unpack_from(pdu, offset)
        offered = [pdu[start : start + 20] for start in range(offset + 24, offset + 24 + 20 * syntaxes, 20)]
        offset += 24 + 20 * syntaxes
        # result and reason: acceptance, or provider_rejection: proposed_transfer_syntaxes_not_supported
        body += Struct("<HH").pack(0, 0) + _NDR if _NDR in offered else Struct("<HH").pack(2, 2) + bytes(20)
    return body


def _pdu(kind: int, call_id: int, body: bytes) -> bytes:
    return _HEADER.pack(5, 0, kind, _FIRST_AND_LAST, _LITTLE_ENDIAN, _HEADER.size + len(body), 0, call_id) + body


def _fault(call_id: int, status: int) -> bytes:
    return _pdu(_FAULT, call_id, Struct("<IHBBII").pack(0, 0, 0, 0, status, 0))

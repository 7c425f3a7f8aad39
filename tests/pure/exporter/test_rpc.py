"""The pipe that lists shares gives answers that impacket's own parser reads, and refuses nonsense."""

import random
import struct

import pytest
from impacket.dcerpc.v5 import srvs
from impacket.dcerpc.v5.rpcrt import MSRPCBindAck, MSRPCRequestHeader

from meshfs.exporter.kinds.srvsvc import ShareList

SHARES = (("disks", "disks, for applications"), ("disks-system", "odd"))


def bind_pdu(transfer: bytes | None = None) -> bytes:
    interface = srvs.MSRPC_UUID_SRVS
    syntax = bytes.fromhex("045d888aeb1cc9119fe808002b104860") + b"\2\0\0\0" if transfer is None else transfer
    body = struct.pack("<HHIBBH", 4280, 4280, 0, 1, 0, 0) + struct.pack("<HBB", 0, 1, 0) + interface + syntax
    return struct.pack("<BBBB4sHHI", 5, 0, 11, 3, b"\x10\0\0\0", 16 + len(body), 0, 7) + body


def enum_pdu(level: int = 1, opnum: int = 15) -> bytes:
    request = srvs.NetrShareEnum()
    request["ServerName"] = "\\\\odd\x00"
    request["PreferedMaximumLength"] = 0xFFFFFFFF
    request["ResumeHandle"] = srvs.NULL
    request["InfoStruct"]["ShareInfo"]["tag"] = level
    if level in (0, 1):
        request["InfoStruct"]["ShareInfo"][f"Level{level}"]["Buffer"] = srvs.NULL
    request["InfoStruct"]["Level"] = level
    packet = MSRPCRequestHeader()
    packet["op_num"] = opnum
    packet["pduData"] = request.getData()
    packet["alloc_hint"] = len(packet["pduData"])
    packet["frag_len"] = len(packet.get_packet())
    return bytes(packet.get_packet())


def test_a_bind_is_taken():
    ack = MSRPCBindAck(ShareList(SHARES).answer(bind_pdu()))
    assert ack["type"] == 12
    assert ack["call_id"] == 7
    assert ack["ctx_num"] == 1
    assert ack.getCtxItem(1)["Result"] == 0
    assert ack["SecondaryAddr"].rstrip("\0") == "\\PIPE\\srvsvc"


def test_another_transfer_syntax_is_refused():
    ack = MSRPCBindAck(ShareList(SHARES).answer(bind_pdu(bytes(20))))
    assert ack.getCtxItem(1)["Result"] == 2


def test_the_shares_are_listed():
    reply = ShareList(SHARES).answer(enum_pdu())
    assert reply[2] == 2
    # The header is followed by alloc_hint, context and cancel count.
    response = srvs.NetrShareEnumResponse(reply[24:])
    entries = response["InfoStruct"]["ShareInfo"]["Level1"]["Buffer"]
    names = [entry["shi1_netname"].rstrip("\0") for entry in entries]
    assert names == ["disks", "disks-system", "IPC$"]
    assert [entry["shi1_remark"].rstrip("\0") for entry in entries] == ["disks, for applications", "odd", ""]
    assert [entry["shi1_type"] for entry in entries] == [0, 0, 0x80000003]
    assert response["ErrorCode"] == 0


@pytest.mark.parametrize("pdu", [b"", b"\5", bytes(24), enum_pdu(opnum=3)])
def test_what_is_no_request_is_a_fault(pdu):
    assert ShareList(SHARES).answer(pdu)[2] == 3


def test_nonsense_never_raises():
    rng = random.Random(3)
    good = [bind_pdu(), enum_pdu()]
    for _ in range(5000):
        pdu = bytearray(rng.choice(good))
        for _ in range(rng.randrange(6)):
            pdu[rng.randrange(len(pdu))] = rng.choice((0, 0xFF, rng.randrange(256)))
        assert len(ShareList(SHARES).answer(bytes(pdu[: rng.randrange(len(pdu) + 1)]))) < 16384

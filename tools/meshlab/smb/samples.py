"""One or more valid messages of every kind, for the tests of their decoders."""

from ipaddress import ip_address
from typing import Any

from meshfs.smb import messages as m
from meshfs.smb.constants import Fsctl

GUID = bytes(range(16))
FILE = m.FileId(0x1122334455667788, 0x99AABBCCDDEEFF00)
TIMES = m.FileTimes(1, 2, 3, 132_514_500_000_000_000)
CONTEXTS_311 = (
    m.PreauthIntegrity((1,), bytes(range(32))),
    m.Encryption((2, 4, 1)),
    m.RawContext(3, b"\x01\0\0\0\0\0\0\0\x02\0"),
    m.NetName("n1.example"),
    m.RawContext(6, bytes(4)),
    m.RawContext(7, b"\x01\0\0\0\0\0\0\0\x01\0"),
    m.Signing((2, 1, 0)),
    m.RawContext(0x100, GUID),
)
CREATE_CONTEXTS = (
    (b"DH2Q", bytes(32)),
    (b"MxAc", b""),
    (b"QFid", b""),
    (b"RqLs", bytes(52)),
    (b"AlSi", bytes(8)),
    (b"TWrp", bytes(8)),
    (b"ExtA", b"\0\0\0\0\0\x01\x02\0a\0xy"),
    (GUID, b"application"),
)
INTERFACES = (
    m.NetworkInterface(1, ip_address("10.0.1.1"), 10_000_000_000, m.NetworkInterface.RSS_CAPABLE),
    m.NetworkInterface(2, ip_address("fd00::1"), 25_000_000_000),
)

MESSAGES: tuple[Any, ...] = (
    m.NegotiateRequest((0x0300, 0x0302, 0x0311), 1, 0x7F, GUID, CONTEXTS_311),
    m.NegotiateRequest((0x0202, 0x0210, 0x0300), 1, 0, GUID),
    m.NegotiateResponse(1, 0x0311, GUID, 0x44, 1 << 20, 8 << 20, 8 << 20, 1, b"spnego", CONTEXTS_311[:3], 5),
    m.NegotiateResponse(1, 0x0302, GUID, 0x44, 1 << 20, 8 << 20, 8 << 20, 1, b"spnego"),
    m.SessionSetupRequest(1, 1, 0, b"ntlmssp", 7),
    m.SessionSetupResponse(4, b"challenge"),
    m.SessionSetupResponse(0),
    m.LogoffRequest(),
    m.LogoffResponse(),
    m.EchoRequest(),
    m.EchoResponse(),
    m.CancelRequest(),
    m.TreeConnectRequest("\\\\n1\\disks"),
    m.TreeConnectResponse(1, 0x30, 0, 0x1F01FF),
    m.TreeDisconnectRequest(),
    m.TreeDisconnectResponse(),
    m.CreateRequest("disk0", 0x12019F, 7, 1, 0x40, 0, CREATE_CONTEXTS, 0xFF),
    m.CreateRequest("", 0x80, 7, 1, 1),
    m.CreateRequest("disk-ä-\N{GRINNING FACE}", 0x80, 7, 1, 1),
    m.CreateResponse(FILE, 1, 1 << 40, 1 << 40, 0x80, TIMES, ((b"MxAc", bytes(8)), (b"QFid", bytes(32)))),
    m.CreateResponse(FILE, 1, 1 << 40, 1 << 40, 0x80, TIMES),
    m.CloseRequest(FILE, 1),
    m.CloseResponse(1, TIMES, 4096, 4095, 0x80),
    m.FlushRequest(FILE),
    m.FlushResponse(),
    m.LockRequest(FILE, (m.LockElement(0, 10, 2), m.LockElement(1 << 63, 1, 0x11)), 3),
    m.LockResponse(),
    m.OplockBreak(FILE, 1),
    m.LeaseBreak(GUID, 3),
    m.IoctlRequest(Fsctl.VALIDATE_NEGOTIATE_INFO, m.NO_FILE, b"input", 24),
    m.IoctlRequest(Fsctl.QUERY_NETWORK_INTERFACE_INFO, m.NO_FILE, b"", 65536),
    m.IoctlResponse(Fsctl.MESHFS_QUERY_DISKS, FILE, b"[]", b"in"),
    m.IoctlResponse(Fsctl.MESHFS_QUERY_DISKS, FILE, b"[{}]"),
    m.QueryDirectoryRequest(FILE, 37, 65536, "*", 1, 0),
    m.QueryDirectoryResponse(b"entries"),
    m.ChangeNotifyRequest(FILE, 4096, 0xFFF, 1),
    m.ChangeNotifyResponse(m.pack_notifications(((1, "disk0"), (2, "disk-1")))),
    m.ChangeNotifyResponse(b""),
    m.QueryInfoRequest(FILE, 1, 18, 4096, 3, 1, b"ea list"),
    m.QueryInfoRequest(FILE, 2, 5, 4096),
    m.QueryInfoResponse(b"information"),
    m.SetInfoRequest(FILE, 1, 20, bytes(8), 0),
    m.SetInfoResponse(),
    m.ErrorResponse(),
    m.ErrorResponse(b"\x40\0\0\0"),
    m.ErrorResponse.with_context(b"\x40\0\0\0"),
)


def sample_id(message: object) -> str:
    return type(message).__name__

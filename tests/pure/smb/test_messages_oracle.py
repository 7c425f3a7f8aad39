"""Messages against smbprotocol's structures: each side reads what the other packs, with equal values."""

import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from smbprotocol import change_notify, connection, create_contexts, exceptions, file_info, ioctl, session, tree
from smbprotocol import open as smb_open
from smbprotocol.structure import Structure

from meshfs.smb import messages as m
from meshfs.smb.info import SetRename, parse_change
from meshlab.smb.samples import FILE, GUID, INTERFACES

FILE_BYTES = FILE.persistent.to_bytes(8, "little") + FILE.volatile.to_bytes(8, "little")
# smbprotocol packs the bytes as they are, not as the little-endian fields of a GUID
UUID = uuid.UUID(bytes=GUID)
# 2021-01-02 03:04:05 UTC in 100 ns since 1601
WHEN = datetime(2021, 1, 2, 3, 4, 5)
FILETIME = (WHEN - datetime(1601, 1, 1)) // timedelta(microseconds=1) * 10
FOUR = m.FileTimes.same(FILETIME)


def made(kind: type[Structure], **fields: Any) -> Structure:
    structure = kind()
    for name, value in fields.items():
        structure[name] = value
    return structure


def negotiate_context(kind: int, data: Structure) -> Structure:
    return made(connection.SMB2NegotiateContextRequest, context_type=kind, data=data)


def request_contexts() -> list[Structure]:
    preauth = made(connection.SMB2PreauthIntegrityCapabilities, hash_algorithms=[1], salt=b"s" * 32)
    signing = made(connection.SMB2SigningCapabilities, signing_algorithms=[2, 1])
    encryption = made(connection.SMB2EncryptionCapabilities, ciphers=[2, 1, 4])
    contexts = [negotiate_context(1, preauth), negotiate_context(8, signing), negotiate_context(2, encryption)]
    # smbprotocol leaves padding to the sender of a list.
    for context in contexts[:-1]:
        context["padding"] = b"\0" * (-len(context["data"]) % 8)
    return contexts


OUR_CONTEXTS = (m.PreauthIntegrity((1,), b"s" * 32), m.Signing((2, 1)), m.Encryption((2, 1, 4)))


def create_context(name: bytes, data: bytes, following: int) -> Structure:
    context = made(create_contexts.SMB2CreateContextRequest, buffer_name=name, buffer_data=data)
    context["next"] = following
    return context


CASES: list[tuple[Any, Structure]] = [
    (
        m.NegotiateRequest((0x0300, 0x0302, 0x0311), 1, 0x7F, GUID, OUR_CONTEXTS),
        made(
            connection.SMB3NegotiateRequest,
            security_mode=1,
            capabilities=0x7F,
            client_guid=UUID,
            dialects=[0x0300, 0x0302, 0x0311],
            negotiate_context_list=request_contexts(),
        ),
    ),
    (
        m.NegotiateRequest((0x0300, 0x0302, 0x0210), 3, 0x44, GUID),
        made(
            connection.SMB2NegotiateRequest,
            security_mode=3,
            capabilities=0x44,
            client_guid=UUID,
            dialects=[0x0300, 0x0302, 0x0210],
        ),
    ),
    (
        m.NegotiateResponse(3, 0x0311, GUID, 0x44, 65536, 1 << 20, 1 << 23, FILETIME, b"tok", OUR_CONTEXTS, FILETIME),
        made(
            connection.SMB2NegotiateResponse,
            security_mode=3,
            dialect_revision=0x0311,
            server_guid=UUID,
            capabilities=0x44,
            max_transact_size=65536,
            max_read_size=1 << 20,
            max_write_size=1 << 23,
            system_time=WHEN,
            server_start_time=WHEN,
            buffer=b"tok",
            negotiate_context_list=request_contexts(),
        ),
    ),
    (
        m.SessionSetupRequest(1, 2, 1, b"token", 0x1234),
        made(
            session.SMB2SessionSetupRequest,
            flags=1,
            security_mode=2,
            capabilities=1,
            previous_session_id=0x1234,
            buffer=b"token",
        ),
    ),
    (m.SessionSetupResponse(4, b"token"), made(session.SMB2SessionSetupResponse, session_flags=4, buffer=b"token")),
    (m.LogoffRequest(), made(session.SMB2Logoff)),
    (m.EchoRequest(), made(connection.SMB2Echo)),
    (m.CancelRequest(), made(connection.SMB2CancelRequest)),
    (m.TreeDisconnectRequest(), made(tree.SMB2TreeDisconnect)),
    (
        m.TreeConnectRequest("\\\\n1\\disks"),
        made(tree.SMB2TreeConnectRequest, buffer="\\\\n1\\disks".encode("utf-16-le")),
    ),
    (
        m.TreeConnectResponse(1, 0x30, 0x10, 0x1F01FF),
        made(tree.SMB2TreeConnectResponse, share_type=1, share_flags=0x30, capabilities=0x10, maximal_access=0x1F01FF),
    ),
    (
        m.CreateRequest("disk0", 0x12019F, 7, 1, 0x42, 0x80, ((b"MxAc", b""), (b"AlSi", b"12345678"))),
        made(
            smb_open.SMB2CreateRequest,
            impersonation_level=2,
            requested_oplock_level=0,
            desired_access=0x12019F,
            file_attributes=0x80,
            share_access=7,
            create_disposition=1,
            create_options=0x42,
            buffer_path="disk0".encode("utf-16-le"),
            buffer_contexts=[create_context(b"MxAc", b"", 24), create_context(b"AlSi", b"12345678", 0)],
        ),
    ),
    (
        m.CreateResponse(FILE, 1, 4095, 4096, 0x80, FOUR, ((b"QFid", b"q" * 32),)),
        made(
            smb_open.SMB2CreateResponse,
            oplock_level=0,
            create_action=1,
            creation_time=WHEN,
            last_access_time=WHEN,
            last_write_time=WHEN,
            change_time=WHEN,
            allocation_size=4096,
            end_of_file=4095,
            file_attributes=0x80,
            file_id=FILE_BYTES,
            buffer=[create_context(b"QFid", b"q" * 32, 0)],
        ),
    ),
    (m.CloseRequest(FILE, 1), made(smb_open.SMB2CloseRequest, flags=1, file_id=FILE_BYTES)),
    (
        m.CloseResponse(1, FOUR, 4096, 4095, 0x80),
        made(
            smb_open.SMB2CloseResponse,
            flags=1,
            creation_time=WHEN,
            last_access_time=WHEN,
            last_write_time=WHEN,
            change_time=WHEN,
            allocation_size=4096,
            end_of_file=4095,
            file_attributes=0x80,
        ),
    ),
    (m.FlushRequest(FILE), made(smb_open.SMB2FlushRequest, file_id=FILE_BYTES)),
    (m.FlushResponse(), made(smb_open.SMB2FlushResponse)),
    (
        m.LockRequest(FILE, (m.LockElement(1, 2, 0x11), m.LockElement(3, 4, 4)), 5),
        made(
            smb_open.SMB2LockRequest,
            lock_sequence=5,
            file_id=FILE_BYTES,
            locks=[
                made(smb_open.SMB2LockElement, offset=1, length=2, flags=0x11),
                made(smb_open.SMB2LockElement, offset=3, length=4, flags=4),
            ],
        ),
    ),
    (m.LockResponse(), made(smb_open.SMB2LockResponse)),
    (
        m.IoctlRequest(0x00140204, FILE, b"input", 24, 1, 7),
        made(
            ioctl.SMB2IOCTLRequest,
            ctl_code=0x00140204,
            file_id=FILE_BYTES,
            max_input_response=7,
            max_output_response=24,
            flags=1,
            buffer=b"input",
        ),
    ),
    (
        m.QueryDirectoryRequest(FILE, 37, 65536, "d*", 1, 3),
        made(
            smb_open.SMB2QueryDirectoryRequest,
            file_information_class=37,
            flags=1,
            file_index=3,
            file_id=FILE_BYTES,
            output_buffer_length=65536,
            buffer="d*".encode("utf-16-le"),
        ),
    ),
    (m.QueryDirectoryResponse(b"entries"), made(smb_open.SMB2QueryDirectoryResponse, buffer=b"entries")),
    (
        m.ChangeNotifyRequest(FILE, 4096, 0x1F, 1),
        made(
            change_notify.SMB2ChangeNotifyRequest,
            flags=1,
            output_buffer_length=4096,
            file_id=FILE_BYTES,
            completion_filter=0x1F,
        ),
    ),
    (m.ChangeNotifyResponse(b"changes"), made(change_notify.SMB2ChangeNotifyResponse, buffer=b"changes")),
    (
        m.QueryInfoRequest(FILE, 1, 18, 4096, 7, 2, b"input"),
        made(
            smb_open.SMB2QueryInfoRequest,
            info_type=1,
            file_info_class=18,
            output_buffer_length=4096,
            additional_information=7,
            flags=2,
            file_id=FILE_BYTES,
            buffer=b"input",
        ),
    ),
    (m.QueryInfoResponse(b"information"), made(smb_open.SMB2QueryInfoResponse, buffer=b"information")),
    (
        m.SetInfoRequest(FILE, 1, 20, b"12345678", 3),
        made(
            smb_open.SMB2SetInfoRequest,
            info_type=1,
            file_info_class=20,
            additional_information=3,
            file_id=FILE_BYTES,
            buffer=b"12345678",
        ),
    ),
    (m.SetInfoResponse(), made(smb_open.SMB2SetInfoResponse)),
]

# The packer chooses positions, lengths and padding. The test compares what is read back.
LAYOUT_FIELDS = {"padding", "padding2", "negotiate_context_offset", "create_contexts_offset", "input_buffer_offset"}
LAYOUT_FIELDS |= {"output_offset", "negotiate_context_list", "buffer_contexts"}


def named(case: tuple[Any, Structure]) -> Any:
    return pytest.param(*case, id=type(case[0]).__name__)


@pytest.mark.parametrize(("ours", "theirs"), [named(case) for case in CASES])
def test_ours_is_read_by_theirs(ours: Any, theirs: Structure) -> None:
    read = type(theirs)()
    rest = read.unpack(ours.pack())
    # smbprotocol drops a bit of a list of negotiate contexts. The contexts have a test of their own.
    assert rest in (b"", b"\0") or "negotiate_context_list" in theirs.fields
    for name in set(theirs.fields) - LAYOUT_FIELDS:
        assert read[name].pack() == theirs[name].pack(), name


@pytest.mark.parametrize(("ours", "theirs"), [named(case) for case in CASES])
def test_theirs_is_read_by_ours(ours: Any, theirs: Structure) -> None:
    assert type(ours).unpack(theirs.pack()) == ours


def test_negotiate_contexts_are_read_by_theirs() -> None:
    read = connection.SMB3NegotiateRequest()
    read.unpack(m.NegotiateRequest((0x0300, 0x0302, 0x0311), 1, 0, GUID, OUR_CONTEXTS).pack())
    preauth, signing, encryption = read["negotiate_context_list"].get_value()
    assert preauth["data"].get_value()["salt"].get_value() == b"s" * 32
    assert signing["data"].get_value()["signing_algorithms"].get_value() == [2, 1]
    assert encryption["data"].get_value()["ciphers"].get_value() == [2, 1, 4]


def test_create_contexts_are_read_by_theirs() -> None:
    read = smb_open.SMB2CreateRequest()
    contexts = ((b"MxAc", b""), (b"AlSi", b"12345678"), (b"QFid", b""))
    read.unpack(m.CreateRequest("disk0", 1, 7, 1, contexts=contexts).pack())
    found = [
        (context["buffer_name"].get_value(), context["buffer_data"].pack())
        for context in read["buffer_contexts"].get_value()
    ]
    assert tuple(found) == contexts


def test_ioctl_response() -> None:
    read = ioctl.SMB2IOCTLResponse()
    read.unpack(m.IoctlResponse(0x00144064, FILE, b"output").pack())
    assert read["buffer"].get_value() == b"output"
    assert read["file_id"].get_value() == FILE_BYTES


def test_validate_negotiate() -> None:
    ours = m.ValidateNegotiateRequest(0x7F, GUID, 1, (0x0300, 0x0302))
    theirs = made(
        ioctl.SMB2ValidateNegotiateInfoRequest,
        capabilities=0x7F,
        guid=UUID,
        security_mode=1,
        dialect_count=2,
        dialects=[0x0300, 0x0302],
    )
    assert ours.pack() == theirs.pack()
    answer = m.ValidateNegotiateResponse(0x7F, GUID, 1, 0x0302)
    read = ioctl.SMB2ValidateNegotiateInfoResponse()
    read.unpack(answer.pack())
    assert (read["dialect"].get_value(), read["guid"].get_value()) == (0x0302, UUID)


def test_network_interfaces() -> None:
    read = ioctl.SMB2NetworkInterfaceInfo.unpack_multiple(m.pack_interfaces(INTERFACES))
    assert [entry["if_index"].get_value() for entry in read] == [1, 2]
    assert [entry["link_speed"].get_value() for entry in read] == [i.link_speed_bits_s for i in INTERFACES]
    addresses = [entry["sock_addr_storage"].get_value()["buffer"].get_value() for entry in read]
    assert [address.get_ipaddress() for address in addresses] == ["10.0.1.1", "fd00:0000:0000:0000:0000:0000:0000:0001"]


def test_error_response() -> None:
    read = exceptions.SMB2ErrorResponse()
    read.unpack(m.ErrorResponse().pack())
    assert read["byte_count"].get_value() == 0


def test_notification() -> None:
    read = change_notify.FileNotifyInformation()
    rest = read.unpack(m.pack_notifications(((1, "disk0"),)))
    assert (rest, read["action"].get_value(), read["file_name"].get_value()) == (b"", 1, "disk0")


def test_rename_information() -> None:
    """This is the only SET_INFO class with a variable part, as smbprotocol sends it."""
    theirs = made(file_info.FileRenameInformation, replace_if_exists=True, file_name="new name")
    assert parse_change(10, theirs.pack()) == SetRename("new name", True)

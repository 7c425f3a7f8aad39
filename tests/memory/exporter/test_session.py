"""Sessions and trees: how requests have to be protected, and what ends with a tree, a session or a connection."""

import pytest

from meshfs import limits
from meshfs.errors import RemoteProtocolError
from meshfs.model import Security
from meshfs.smb.connection import Protection
from meshfs.smb.constants import (
    AccessMask,
    Command,
    NtStatus,
)
from meshfs.smb.messages import (
    EchoRequest,
    LogoffRequest,
    TreeConnectRequest,
    TreeDisconnectRequest,
)
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import read_body

ECHO = EchoRequest().pack()


def exporter(security: Security = Security.SIGN):
    return make_exporter(security, disk0=MemoryDisk(1 << 20))


# --- the protection of requests --------------------------------------------------------


def test_unsigned_requests_are_denied_where_signing_is_a_must():
    client = RawInitiator(exporter()).log_in()
    file_id = client.open("disk0")
    reply = client.call(Command.READ, read_body(file_id, 0, 512), sign=False)
    assert (reply.status, reply.protection) == (NtStatus.ACCESS_DENIED, Protection.NONE)


def test_a_wrong_signature_ends_the_connection_and_is_counted(caplog):
    client = RawInitiator(exporter()).log_in()
    message_id, frame = client.pack(Command.ECHO, ECHO)
    frame[4 + 50] ^= 1
    client.deliver(frame)
    assert not client.answered(message_id)
    assert client.peer.closing
    assert client.exporter.counters["bad_signatures"] == 1
    assert not client.exporter.counters["protocol_errors"]
    assert "closed: ECHO with a wrong signature" in caplog.text


def test_plain_requests_are_denied_where_encryption_is_a_must():
    client = RawInitiator(exporter(Security.ENCRYPT)).log_in()
    for sign in (True, False):
        reply = client.call(Command.TREE_CONNECT, TreeConnectRequest(r"\\n1\disks").pack(), seal=False, sign=sign)
        assert reply.status == NtStatus.ACCESS_DENIED


def test_an_initiator_may_encrypt_where_signing_is_enough():
    client = RawInitiator(exporter()).log_in()
    reply = client.call(Command.ECHO, ECHO, seal=True)
    assert (reply.status, reply.protection) == (0, Protection.SEALED)


def test_with_security_none_signed_requests_are_checked_and_answered_signed():
    client = RawInitiator(exporter(Security.NONE)).log_in()
    assert client.call(Command.ECHO, ECHO, sign=False).protection == Protection.NONE
    assert client.call(Command.ECHO, ECHO).protection == Protection.SIGNED
    message_id, frame = client.pack(Command.ECHO, ECHO)
    frame[4 + 50] ^= 1
    client.deliver(frame)
    assert not client.answered(message_id)
    assert client.peer.closing


def test_tree_connect_of_3_1_1_has_to_be_signed():
    client = RawInitiator(exporter(Security.NONE))
    client.negotiate()
    client.set_up()
    body = TreeConnectRequest(r"\\n1\disks").pack()
    assert client.call(Command.TREE_CONNECT, body, sign=False).status == NtStatus.ACCESS_DENIED
    assert client.call(Command.TREE_CONNECT, body).status == 0


def test_sealed_messages_of_an_unknown_session_end_the_connection():
    client = RawInitiator(exporter()).log_in()
    frame = bytearray(client.pack(Command.ECHO, ECHO, seal=True)[1])
    frame[4 + 44] ^= 0xFF
    with pytest.raises(RemoteProtocolError, match="no keys"):
        client.deliver(frame)


# --- trees and the end -----------------------------------------------------------------


def test_shares_are_found_without_regard_to_case():
    client = RawInitiator(exporter()).log_in()
    for share in ("DISKS", "Disks-System", "ipc$"):
        assert client.connect(share).status == 0


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (r"\\n1\nothing", NtStatus.BAD_NETWORK_NAME),
        ("disks", NtStatus.INVALID_PARAMETER),
        (r"\\n1", NtStatus.INVALID_PARAMETER),
    ],
)
def test_shares_that_do_not_exist_are_refused(path, status):
    client = RawInitiator(exporter()).log_in()
    assert client.call(Command.TREE_CONNECT, TreeConnectRequest(path).pack()).status == status


def test_trees_are_limited():
    client = RawInitiator(exporter()).log_in()
    statuses = [client.connect("disks").status for _ in range(limits.TREES_PER_SESSION_MAX)]
    assert statuses[-1] == NtStatus.INSUFFICIENT_RESOURCES
    assert not any(statuses[:-1])


def test_a_disconnected_tree_closes_its_opens():
    client = RawInitiator(exporter()).log_in()
    file_id = client.open("disk0", share=0)
    assert client.call(Command.TREE_DISCONNECT, TreeDisconnectRequest().pack()).status == 0
    assert client.call(Command.READ, read_body(file_id, 0, 1)).status == NtStatus.NETWORK_NAME_DELETED
    client.connect("disks")
    assert client.call(Command.READ, read_body(file_id, 0, 1)).status == NtStatus.FILE_CLOSED
    assert client.open("disk0", share=0)


def test_an_open_belongs_to_its_tree():
    client = RawInitiator(exporter()).log_in()
    file_id = client.open("disk0")
    client.connect("disks-system")
    assert client.call(Command.READ, read_body(file_id, 0, 1)).status == NtStatus.FILE_CLOSED


def test_log_off_closes_everything():
    client = RawInitiator(exporter()).log_in()
    client.open("disk0", share=0)
    reply = client.call(Command.LOGOFF, LogoffRequest().pack())
    assert (reply.status, reply.protection) == (0, Protection.SIGNED)
    assert client.call(Command.ECHO, ECHO).status == NtStatus.USER_SESSION_DELETED
    assert not client.exporter.sessions
    assert not client.exporter.disks.all()[0].opens


@pytest.mark.parametrize(
    ("before", "after", "ends"),
    [
        (Security.NONE, Security.SIGN, True),
        (Security.NONE, Security.ENCRYPT, True),
        (Security.SIGN, Security.ENCRYPT, True),
        (Security.SIGN, Security.SIGN, False),
        (Security.SIGN, Security.NONE, False),
        (Security.ENCRYPT, Security.SIGN, False),
        (Security.ENCRYPT, Security.ENCRYPT, False),
    ],
)
def test_a_session_that_is_protected_less_than_is_demanded_now_ends(before, after, ends):
    client = RawInitiator(exporter(before)).log_in()
    client.exporter.take_security(after)
    assert (client.session_id not in client.exporter.sessions) is ends
    if not ends:
        assert client.call(Command.ECHO, ECHO).status == 0


def test_a_lost_connection_frees_everything():
    disk = MemoryDisk(1 << 20)
    server = make_exporter(disk0=disk)
    client = RawInitiator(server).log_in()
    file_id = client.open("disk0", share=0)
    disk.stall()
    client.send(Command.READ, read_body(file_id, 0, 65536))
    client.peer.lost()
    assert not server.sessions
    assert not server.peers
    # The request is still at the disk. No other node may open the disk alone before the request has ended.
    other = RawInitiator(server).log_in("n3")
    assert other.create("disk0", share=0).status == NtStatus.SHARING_VIOLATION
    disk.release()
    assert other.create("disk0", int(AccessMask.READ_DATA), share=0).status == 0
    assert server.pool.used_bytes == 0

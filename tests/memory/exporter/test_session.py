"""NEGOTIATE, SESSION_SETUP, LOGOFF, trees: what the exporter agrees to and refuses."""

import pytest

from meshfs import limits
from meshfs.errors import RemoteProtocolError
from meshfs.exporter.state.exporter import Exporter
from meshfs.model import Security
from meshfs.smb.auth import Accounts, Login
from meshfs.smb.connection import Protection
from meshfs.smb.constants import (
    AccessMask,
    Capabilities,
    Cipher,
    Command,
    Dialect,
    HashAlgorithm,
    NtStatus,
    SecurityMode,
    SessionFlags,
    SigningAlgorithm,
)
from meshfs.smb.messages import (
    CancelRequest,
    CloseRequest,
    EchoRequest,
    Encryption,
    FileId,
    IoctlRequest,
    IoctlResponse,
    LogoffRequest,
    NegotiateRequest,
    NegotiateResponse,
    PreauthIntegrity,
    SessionSetupRequest,
    SessionSetupResponse,
    Signing,
    Smb1Negotiate,
    TreeConnectRequest,
    TreeDisconnectRequest,
    ValidateNegotiateRequest,
    ValidateNegotiateResponse,
    only_context,
)
from meshfs.smb.messages.ioctl import NO_FILE
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import PASSWORDS, RawInitiator, file_id_of, framed, make_exporter, read_body, write_body

ALL_SIGNING = (SigningAlgorithm.AES_CMAC, SigningAlgorithm.HMAC_SHA256, SigningAlgorithm.AES_GMAC)
ALL_CIPHERS = (Cipher.AES_256_CCM, Cipher.AES_128_CCM, Cipher.AES_256_GCM, Cipher.AES_128_GCM)
ECHO = EchoRequest().pack()
SMB1 = Smb1Negotiate((b"NT LM 0.12", b"SMB 2.002", Smb1Negotiate.SMB_2_WILDCARD))


def exporter(security: Security = Security.SIGN):
    return make_exporter(security, disk0=MemoryDisk(1 << 20))


def negotiate_status(client: RawInitiator, *dialects: int, contexts=()) -> int:
    body = NegotiateRequest(dialects, 1, 0, bytes(16), contexts)
    return client.call(Command.NEGOTIATE, body.pack(), sign=False).status


# --- NEGOTIATE -------------------------------------------------------------------------


def test_the_best_of_everything_is_chosen():
    client = RawInitiator(exporter())
    dialects = (Dialect.SMB_2_0_2, Dialect.SMB_3_0, Dialect.SMB_3_1_1, Dialect.SMB_3_0_2)
    response = client.negotiate(dialects, ciphers=ALL_CIPHERS, signing=ALL_SIGNING)
    assert response.dialect == Dialect.SMB_3_1_1
    assert only_context(response.contexts, Encryption).algorithms == (Cipher.AES_128_GCM,)
    assert only_context(response.contexts, Signing).algorithms == (SigningAlgorithm.AES_GMAC,)
    assert response.security_mode == SecurityMode.SIGNING_ENABLED | SecurityMode.SIGNING_REQUIRED
    assert response.capabilities == Capabilities.LARGE_MTU | Capabilities.MULTI_CHANNEL
    assert response.max_read_bytes == response.max_write_bytes == limits.IO_SIZE_MAX_BYTES


@pytest.mark.parametrize("signing", [*ALL_SIGNING, None])
@pytest.mark.parametrize("dialect", [Dialect.SMB_3_0, Dialect.SMB_3_0_2, Dialect.SMB_3_1_1])
def test_every_dialect_and_signing_algorithm_logs_in(dialect, signing):
    client = RawInitiator(exporter())
    client.log_in(dialects=(dialect,), signing=(signing,) if signing is not None else ())
    reply = client.call(Command.ECHO, ECHO)
    assert (reply.status, reply.protection) == (0, Protection.SIGNED)


@pytest.mark.parametrize(
    ("dialect", "cipher"),
    [
        *((Dialect.SMB_3_1_1, cipher) for cipher in ALL_CIPHERS),
        (Dialect.SMB_3_0, Cipher.AES_128_CCM),
        (Dialect.SMB_3_0_2, Cipher.AES_128_CCM),
    ],
)
def test_every_cipher_encrypts(dialect, cipher):
    client = RawInitiator(exporter(Security.ENCRYPT))
    client.log_in(dialects=(dialect,), ciphers=(cipher,))
    assert client.sealed
    reply = client.call(Command.ECHO, ECHO)
    assert (reply.status, reply.protection) == (0, Protection.SEALED)


@pytest.mark.parametrize("dialects", [(Dialect.SMB_2_0_2,), (Dialect.SMB_2_1,), (0x02FF,), (0x1234, 0x0210)])
def test_older_dialects_are_refused_and_the_connection_ends(dialects):
    client = RawInitiator(exporter())
    assert negotiate_status(client, *dialects) == NtStatus.NOT_SUPPORTED
    assert client.peer.closing


def test_who_begins_in_smb_1_and_offers_smb_2_goes_on_in_smb_2():
    client = RawInitiator(exporter())
    client.deliver(framed(SMB1.pack()))
    reply = client.take(0)
    assert (reply.status, reply.command, reply.credits) == (0, Command.NEGOTIATE, 1)
    response = NegotiateResponse.unpack(reply.body)
    assert (response.dialect, response.contexts) == (Dialect.SMB_2_WILDCARD, ())
    client.next_id = 1
    # Of pre-authentication integrity the packet of SMB 1 is no part: with another hash the login fails.
    client.log_in()
    assert client.call(Command.ECHO, ECHO).status == 0


@pytest.mark.parametrize("dialects", [(), (b"NT LM 0.12",), (b"NT LM 0.12", b"SMB 2.002")])
def test_who_offers_smb_1_only_is_disconnected(dialects):
    client = RawInitiator(exporter())
    with pytest.raises(RemoteProtocolError, match="not spoken"):
        client.deliver(framed(Smb1Negotiate(dialects).pack() + bytes(32)))
    assert not client.peer.out


@pytest.mark.parametrize("negotiated", [False, True])
def test_smb_1_comes_once_and_first(negotiated):
    client = RawInitiator(exporter())
    if negotiated:
        client.negotiate()
    else:
        client.deliver(framed(SMB1.pack()))
    with pytest.raises(RemoteProtocolError, match="not granted"):
        client.deliver(framed(SMB1.pack()))


def test_negotiate_after_smb_1_has_message_id_1():
    client = RawInitiator(exporter())
    client.deliver(framed(SMB1.pack()))
    with pytest.raises(RemoteProtocolError, match="not granted"):
        client.negotiate()


def test_negotiate_without_a_dialect_is_invalid():
    assert negotiate_status(RawInitiator(exporter())) == NtStatus.INVALID_PARAMETER


@pytest.mark.parametrize(
    ("contexts", "status"),
    [
        ((), NtStatus.INVALID_PARAMETER),
        ((PreauthIntegrity((2,)),), NtStatus.SMB_NO_PREAUTH_INTEGRITY_HASH_OVERLAP),
        ((PreauthIntegrity((HashAlgorithm.SHA_512,)),) * 2, NtStatus.INVALID_PARAMETER),
    ],
)
def test_pre_authentication_integrity_is_a_must(contexts, status):
    client = RawInitiator(exporter())
    assert negotiate_status(client, Dialect.SMB_3_1_1, contexts=contexts) == status


def test_a_second_negotiate_ends_the_connection():
    client = RawInitiator(exporter())
    client.negotiate()
    with pytest.raises(RemoteProtocolError, match="NEGOTIATE"):
        client.negotiate()


def test_nothing_comes_before_negotiate():
    with pytest.raises(RemoteProtocolError):
        RawInitiator(exporter()).call(Command.ECHO, ECHO)


def test_validate_negotiate_confirms_what_arrived():
    asked = int(Capabilities.LARGE_MTU | Capabilities.ENCRYPTION)
    client = RawInitiator(exporter()).log_in(dialects=(Dialect.SMB_3_0, Dialect.SMB_3_0_2), capabilities=asked)
    mine = ValidateNegotiateRequest(asked, b"test client guid", 1, (0x0300, 0x0302))
    body = IoctlRequest(0x00140204, NO_FILE, mine.pack(), 24)
    reply = client.call(Command.IOCTL, body.pack())
    answer = ValidateNegotiateResponse.unpack(IoctlResponse.unpack(reply.body).output)
    assert (answer.dialect, answer.security_mode) == (0x0302, 3)
    assert answer.capabilities == Capabilities.LARGE_MTU | Capabilities.ENCRYPTION


def test_a_changed_negotiate_ends_the_connection():
    client = RawInitiator(exporter()).log_in(dialects=(Dialect.SMB_3_0,))
    mine = ValidateNegotiateRequest(int(Capabilities.LARGE_MTU), b"test client guid", 1, (0x0300, 0x0302))
    message_id = client.send(Command.IOCTL, IoctlRequest(0x00140204, NO_FILE, mine.pack(), 24).pack())
    assert not client.answered(message_id)
    assert client.peer.closing


# --- login -----------------------------------------------------------------------------


@pytest.mark.parametrize(("user", "password"), [("n2", "wrong"), ("n9", "password of n2"), ("guest", ""), ("n2", "")])
def test_wrong_logins_are_all_the_same_failure(user, password, caplog):
    client = RawInitiator(exporter())
    client.negotiate()
    reply = client.set_up(user, password)
    assert reply.status == NtStatus.LOGON_FAILURE
    assert not client.exporter.sessions
    assert client.exporter.counters["logins_denied"] == 1
    assert "password of" not in caplog.text


def test_a_malformed_token_is_a_failed_login():
    client = RawInitiator(exporter())
    client.negotiate()
    for token in (b"", b"\0", b"NTLMSSP\0", b"`\x82\xff\xff", bytes(1000)):
        body = SessionSetupRequest(0, 1, 0, token)
        assert client.call(Command.SESSION_SETUP, body.pack(), sign=False).status == NtStatus.LOGON_FAILURE
    assert not client.exporter.sessions


def test_the_last_reply_of_a_login_is_signed_whatever_the_policy():
    for security in Security:
        client = RawInitiator(exporter(security))
        client.negotiate()
        reply = client.set_up()
        assert reply.status == 0
        # Its key was not known when it came.
        assert reply.protection == Protection.UNKNOWN
        flags = SessionSetupResponse.unpack(reply.body).session_flags
        assert flags == (SessionFlags.ENCRYPT_DATA if security is Security.ENCRYPT else 0)


def test_an_initiator_that_cannot_encrypt_is_refused_where_that_is_a_must():
    client = RawInitiator(exporter(Security.ENCRYPT))
    client.negotiate(ciphers=())
    assert client.set_up().status == NtStatus.ACCESS_DENIED


def test_set_up_of_an_unknown_session():
    client = RawInitiator(exporter())
    client.negotiate()
    reply = client.call(Command.SESSION_SETUP, SessionSetupRequest(0, 1, 0, b"t").pack(), session_id=77, sign=False)
    assert reply.status == NtStatus.USER_SESSION_DELETED


def test_logging_in_once_more_keeps_the_session():
    client = RawInitiator(exporter()).log_in()
    file_id = client.open("disk0")
    reply = client.set_up("n2")
    assert (reply.status, reply.protection) == (0, Protection.SIGNED)
    assert client.call(Command.READ, read_body(file_id, 0, 512)).data == bytes(512)


def test_failing_to_log_in_once_more_ends_the_session():
    client = RawInitiator(exporter()).log_in()
    assert client.set_up("n2", "wrong").status == NtStatus.LOGON_FAILURE
    assert client.call(Command.ECHO, ECHO).status == NtStatus.USER_SESSION_DELETED


def test_another_user_cannot_take_the_session_over():
    client = RawInitiator(exporter()).log_in("n2")
    assert client.set_up("n3").status == NtStatus.LOGON_FAILURE
    assert not client.exporter.sessions


def test_credits_are_few_before_the_login_and_many_after():
    client = RawInitiator(exporter())
    client.negotiate()
    reply = client.call(Command.ECHO, ECHO, credits=500, session_id=0, sign=False)
    assert reply.credits <= limits.CREDITS_UNAUTHENTICATED_MAX
    client.set_up()
    reply = client.call(Command.ECHO, ECHO, credits=5000)
    assert reply.credits > limits.CREDITS_MAX - 100


def test_sessions_of_a_connection_are_limited():
    client = RawInitiator(exporter())
    client.negotiate()
    statuses = []
    for _ in range(limits.SESSIONS_PER_CONNECTION_MAX + 1):
        client.session_id, client.security = 0, None
        statuses.append(client.set_up().status)
    assert statuses[:-1] == [0] * limits.SESSIONS_PER_CONNECTION_MAX
    assert statuses[-1] == NtStatus.INSUFFICIENT_RESOURCES


def test_logins_under_way_are_limited():
    client = RawInitiator(exporter())
    client.negotiate()
    token = SessionSetupRequest(0, 1, 0, Login("n2", "password of n2", "").step()[0]).pack()
    client.call(Command.ECHO, ECHO, credits=16, session_id=0, sign=False)
    statuses = [client.call(Command.SESSION_SETUP, token, sign=False).status for _ in range(4)]
    more = [NtStatus.MORE_PROCESSING_REQUIRED] * limits.LOGINS_PER_CONNECTION_MAX
    assert statuses == [*more, *[NtStatus.INSUFFICIENT_RESOURCES] * (4 - len(more))]


# --- PreviousSessionId -----------------------------------------------------------------


def test_the_previous_session_ends_first():
    old = RawInitiator(exporter()).log_in()
    file_id = old.open("disk0", share=0)
    new = RawInitiator(old.exporter)
    new.negotiate()
    assert new.set_up(previous=old.session_id).status == 0
    assert old.call(Command.READ, read_body(file_id, 0, 512)).status == NtStatus.USER_SESSION_DELETED
    new.connect("disks")
    assert new.open("disk0", share=0)


def log_in_after(server: Exporter, old: RawInitiator) -> RawInitiator:
    """A login that names the old session, and is answered at once."""
    new = RawInitiator(server)
    new.negotiate()
    assert new.set_up(previous=old.session_id).status == 0
    new.connect("disks")
    return new


def test_the_new_session_opens_a_disk_when_the_old_ones_requests_there_have_ended():
    """Another disk, and what touches no data, is opened at once."""
    disk = MemoryDisk(1 << 20)
    server = make_exporter(disk0=disk, disk1=MemoryDisk(1 << 20))
    old = RawInitiator(server).log_in()
    file_id = old.open("disk0")
    disk.stall()
    waiting = old.send(Command.READ, read_body(file_id, 0, 512))
    new = log_in_after(server, old)
    opening = new.create("disk0")
    assert opening.status == NtStatus.PENDING
    assert new.call(Command.READ, read_body(new.open("disk1"), 0, 512)).status == 0
    assert new.open("disk0", int(AccessMask.READ_ATTRIBUTES))
    disk.release()
    new.collect()
    old.collect()
    assert old.take(waiting).status == 0
    mine = file_id_of(new.take(opening.message_id))
    assert new.call(Command.READ, read_body(mine, 0, 512)).status == 0


def test_another_nodes_open_waits_for_nobody_elses_requests():
    disk = MemoryDisk(1 << 20)
    server = make_exporter(disk0=disk)
    old = RawInitiator(server).log_in("n2")
    file_id = old.open("disk0")
    disk.stall()
    old.send(Command.WRITE, write_body(file_id, 0, bytes(512)))
    old.peer.lost()
    assert RawInitiator(server).log_in("n3").open("disk0")
    disk.release()


@pytest.mark.parametrize("end", ["cancel", "lost", "logoff"])
def test_an_open_that_waits_ends_with_its_cancel_its_connection_or_its_session(end: str) -> None:
    disk = MemoryDisk(1 << 20)
    server = make_exporter(disk0=disk)
    old = RawInitiator(server).log_in()
    file_id = old.open("disk0")
    disk.stall()
    old.send(Command.WRITE, write_body(file_id, 0, bytes(512)))
    new = log_in_after(server, old)
    opening = new.create("disk0")
    expected = NtStatus.CANCELLED
    if end == "cancel":
        new.send(
            Command.CANCEL, CancelRequest().pack(), message_id=opening.message_id, flags=2, async_id=opening.async_id
        )
    elif end == "lost":
        new.peer.lost()
    else:
        assert new.call(Command.LOGOFF, LogoffRequest().pack()).status == 0
        expected = NtStatus.USER_SESSION_DELETED
    disk.release()
    if end != "lost":
        new.collect()
        assert new.take(opening.message_id).status == expected
    assert not any(opened for session in server.sessions.values() for opened in session.opens.values())
    assert server.pool.used_bytes == 0


def test_a_login_that_is_denied_waits_for_no_disk():
    """The failed login ends the session it was made on, whose requests may be stuck."""
    disk = MemoryDisk(1 << 20)
    client = RawInitiator(make_exporter(disk0=disk)).log_in()
    file_id = client.open("disk0")
    disk.stall()
    client.send(Command.WRITE, write_body(file_id, 0, bytes(512)))
    assert client.set_up(password="wrong").status == NtStatus.LOGON_FAILURE
    disk.release()


@pytest.mark.parametrize("end", [Command.CLOSE, Command.TREE_DISCONNECT])
def test_the_new_open_waits_for_an_open_that_was_closing_when_the_connection_went(end: Command) -> None:
    """A CLOSE that waits for a write at the disk must not hide that write from the next session."""
    disk = MemoryDisk(1 << 20)
    server = make_exporter(disk0=disk)
    old = RawInitiator(server).log_in()
    file_id = old.open("disk0")
    disk.stall()
    old.send(Command.WRITE, write_body(file_id, 0, bytes(512)))
    closes = CloseRequest(FileId(file_id, file_id)) if end is Command.CLOSE else TreeDisconnectRequest()
    old.send(end, closes.pack())
    old.peer.lost()
    new = log_in_after(server, old)
    opening = new.create("disk0")
    assert opening.status == NtStatus.PENDING
    disk.release()
    new.collect()
    assert new.take(opening.message_id).status == 0
    assert server.pool.used_bytes == 0


def test_another_users_session_is_none_of_ones_business():
    mine = RawInitiator(exporter()).log_in("n2")
    other = RawInitiator(mine.exporter)
    other.negotiate()
    assert other.set_up("n3", previous=mine.session_id).status == 0
    assert mine.call(Command.ECHO, ECHO).status == 0


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


def test_an_initiator_may_encrypt_of_its_own_will():
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
def test_wrong_shares(path, status):
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


@pytest.mark.parametrize("passwords", [{"n2": "another password", "n3": PASSWORDS["n3"]}, {"n3": PASSWORDS["n3"]}])
def test_a_node_with_another_key_or_none_loses_its_sessions_and_nobody_else_does(passwords):
    """Else a stolen key would be good as long as its thief stays connected."""
    client = RawInitiator(exporter()).log_in("n2")
    other = RawInitiator(client.exporter).log_in("n3")
    client.exporter.take_accounts(Accounts(PASSWORDS))
    assert client.call(Command.ECHO, ECHO).status == 0
    client.exporter.take_accounts(Accounts(passwords))
    assert client.call(Command.ECHO, ECHO).status == NtStatus.USER_SESSION_DELETED
    assert other.call(Command.ECHO, ECHO).status == 0


@pytest.mark.parametrize("passwords", [{"n3": PASSWORDS["n3"]}, {**PASSWORDS, "n2": "another"}])
def test_a_login_that_is_under_way_when_its_key_is_taken_away_is_refused(passwords):
    """Else a stolen key would be good for whoever always has a login that is not finished."""

    class Reloaded(RawInitiator):
        """Its exporter gets other accounts between the first and the last message of each login."""

        def take(self, message_id):
            reply = super().take(message_id)
            if reply.status == NtStatus.MORE_PROCESSING_REQUIRED:
                self.exporter.take_accounts(Accounts(passwords))
            return reply

    client = Reloaded(exporter())
    client.negotiate()
    assert client.set_up("n2").status == NtStatus.LOGON_FAILURE
    assert not client.exporter.sessions
    assert Reloaded(client.exporter).log_in("n3").call(Command.ECHO, ECHO).status == 0


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
    # Its request is at the disk still: nobody else gets in before that is over.
    other = RawInitiator(server).log_in("n3")
    assert other.create("disk0", share=0).status == NtStatus.SHARING_VIOLATION
    disk.release()
    assert other.create("disk0", int(AccessMask.READ_DATA), share=0).status == 0
    assert server.pool.used_bytes == 0

"""Logins: SESSION_SETUP, its limits, the previous session that a new one replaces, and accounts that change."""

import pytest

from meshfs import limits
from meshfs.exporter.state.exporter import Exporter
from meshfs.model import Security
from meshfs.smb.auth import Accounts, Login
from meshfs.smb.connection import Protection
from meshfs.smb.constants import (
    AccessMask,
    Command,
    NtStatus,
    SessionFlags,
)
from meshfs.smb.messages import (
    CancelRequest,
    CloseRequest,
    EchoRequest,
    FileId,
    LogoffRequest,
    SessionSetupRequest,
    SessionSetupResponse,
    TreeDisconnectRequest,
)
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_client import PASSWORDS
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import file_id_of, read_body, write_body

ECHO = EchoRequest().pack()


def exporter(security: Security = Security.SIGN):
    return make_exporter(security, disk0=MemoryDisk(1 << 20))


# --- login -----------------------------------------------------------------------------


@pytest.mark.parametrize(("user", "password"), [("n2", "wrong"), ("n9", "password of n2"), ("guest", ""), ("n2", "")])
def test_every_wrong_login_gets_the_same_status(user, password, caplog):
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
        # The client does not know the key yet when the reply comes.
        assert reply.protection == Protection.UNKNOWN
        flags = SessionSetupResponse.unpack(reply.body).session_flags
        assert flags == (SessionFlags.ENCRYPT_DATA if security is Security.ENCRYPT else 0)


def test_an_initiator_that_cannot_encrypt_is_refused_where_that_is_a_must():
    client = RawInitiator(exporter(Security.ENCRYPT))
    client.negotiate(ciphers=())
    assert client.set_up().status == NtStatus.ACCESS_DENIED


def test_a_session_setup_of_an_unknown_session_is_refused():
    client = RawInitiator(exporter())
    client.negotiate()
    reply = client.call(Command.SESSION_SETUP, SessionSetupRequest(0, 1, 0, b"t").pack(), session_id=77, sign=False)
    assert reply.status == NtStatus.USER_SESSION_DELETED


def test_a_reauthentication_keeps_the_session():
    client = RawInitiator(exporter()).log_in()
    file_id = client.open("disk0")
    reply = client.set_up("n2")
    assert (reply.status, reply.protection) == (0, Protection.SIGNED)
    assert client.call(Command.READ, read_body(file_id, 0, 512)).data == bytes(512)


def test_a_failed_reauthentication_ends_the_session():
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
    """Log in with the id of the old session. The exporter answers at once."""
    new = RawInitiator(server)
    new.negotiate()
    assert new.set_up(previous=old.session_id).status == 0
    new.connect("disks")
    return new


def test_a_new_session_opens_a_disk_when_the_old_sessions_requests_there_have_ended():
    """Another disk is opened at once, and so is an open that touches no data."""
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


def test_an_open_does_not_wait_for_requests_of_other_nodes():
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
    """A failed reauthentication ends the session, whose requests may be stuck at a disk."""
    disk = MemoryDisk(1 << 20)
    client = RawInitiator(make_exporter(disk0=disk)).log_in()
    file_id = client.open("disk0")
    disk.stall()
    client.send(Command.WRITE, write_body(file_id, 0, bytes(512)))
    assert client.set_up(password="wrong").status == NtStatus.LOGON_FAILURE
    disk.release()


@pytest.mark.parametrize("end", [Command.CLOSE, Command.TREE_DISCONNECT])
def test_the_new_open_waits_for_an_open_that_was_closing_when_the_connection_went(end: Command) -> None:
    """A CLOSE that waits for a write at the disk must not hide the write from the next session."""
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


def test_a_login_cannot_end_a_session_of_another_user():
    mine = RawInitiator(exporter()).log_in("n2")
    other = RawInitiator(mine.exporter)
    other.negotiate()
    assert other.set_up("n3", previous=mine.session_id).status == 0
    assert mine.call(Command.ECHO, ECHO).status == 0


@pytest.mark.parametrize("passwords", [{"n2": "another password", "n3": PASSWORDS["n3"]}, {"n3": PASSWORDS["n3"]}])
def test_a_node_whose_key_changed_loses_its_sessions_and_no_other_node_does(passwords):
    """If the sessions stayed, a stolen key would be valid as long as the thief stays connected."""
    client = RawInitiator(exporter()).log_in("n2")
    other = RawInitiator(client.exporter).log_in("n3")
    client.exporter.take_accounts(Accounts(PASSWORDS))
    assert client.call(Command.ECHO, ECHO).status == 0
    client.exporter.take_accounts(Accounts(passwords))
    assert client.call(Command.ECHO, ECHO).status == NtStatus.USER_SESSION_DELETED
    assert other.call(Command.ECHO, ECHO).status == 0


@pytest.mark.parametrize("passwords", [{"n3": PASSWORDS["n3"]}, {**PASSWORDS, "n2": "another"}])
def test_a_login_that_is_under_way_when_its_key_is_taken_away_is_refused(passwords):
    """If the login succeeded, a thief who has begun a login could still use a stolen key."""

    class Reloaded(RawInitiator):
        """A client whose exporter gets other accounts between the first and the last message of each login."""

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

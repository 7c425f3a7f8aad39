"""Compounds: what related parts take over from the part before, which parts fail together, and how all are answered."""

import pytest

from meshfs.model import Security
from meshfs.smb.connection import Protection
from meshfs.smb.constants import (
    AccessMask,
    Command,
    CreateDisposition,
    Flags,
    NtStatus,
)
from meshfs.smb.messages import (
    ChangeNotifyRequest,
    CloseRequest,
    CreateRequest,
    FileId,
)
from meshfs.smb.signing import NONCE_EXPORTER
from meshfs.smb.wire import pack_header
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import READ_WRITE, SHARE_ALL, read_body, write_body
from support.two_disks import client_of_two_disks

LIST = int(AccessMask.READ_DATA)
RELATED = {"flags": int(Flags.RELATED_OPERATIONS), "session_id": (1 << 64) - 1, "tree_id": (1 << 32) - 1}
ANY_FILE = (1 << 64) - 1
CREATE = CreateRequest("disk0", READ_WRITE, SHARE_ALL, CreateDisposition.OPEN).pack()
CREATE_NOTHING = CreateRequest("nothing", READ_WRITE, SHARE_ALL, CreateDisposition.OPEN).pack()
CLOSE = CloseRequest(FileId(ANY_FILE, ANY_FILE)).pack()


@pytest.fixture
def client():
    return client_of_two_disks()


@pytest.mark.parametrize("security", [Security.SIGN, Security.ENCRYPT])
def test_a_related_compound_uses_the_file_it_opened(security):
    client = RawInitiator(make_exporter(security, disk0=MemoryDisk(1 << 20))).log_in()
    client.call(Command.ECHO, b"\x04\0\0\0", credits=50)
    ids = client.compound(
        (Command.CREATE, CREATE, {}),
        (Command.WRITE, write_body(ANY_FILE, 0, b"compound"), RELATED),
        (Command.READ, read_body(ANY_FILE, 0, 8), RELATED),
        (Command.CLOSE, CLOSE, RELATED),
    )
    replies = [client.take(message_id) for message_id in ids]
    assert [reply.status for reply in replies] == [0, 0, 0, 0]
    assert replies[2].data[:8] == b"compound"
    assert [bool(reply.flags & Flags.RELATED_OPERATIONS) for reply in replies] == [False, True, True, True]
    expected = Protection.SEALED if client.sealed else Protection.SIGNED
    assert {reply.protection for reply in replies} == {expected}
    assert not client.exporter.disks.all()[0].opens


def test_a_compound_is_answered_as_one_when_its_io_is_done():
    disk = MemoryDisk(1 << 20)
    client = RawInitiator(make_exporter(disk0=disk)).log_in()
    client.call(Command.ECHO, b"\x04\0\0\0", credits=50)
    disk.stall()
    ids = client.compound((Command.CREATE, CREATE, {}), (Command.READ, read_body(ANY_FILE, 0, 8), RELATED))
    assert not client.replies
    disk.release()
    assert len(client.peer.out) == 1
    client.collect()
    assert [client.take(message_id).status for message_id in ids] == [0, 0]


def test_the_rest_of_a_compound_is_kept_while_a_disk_works():
    disk = MemoryDisk(1 << 20)
    client = RawInitiator(make_exporter(disk0=disk)).log_in()
    client.call(Command.ECHO, b"\x04\0\0\0", credits=50)
    file_id = client.open("disk0")
    disk.stall()
    ids = client.compound(
        (Command.READ, read_body(file_id, 0, 8), {}),
        (Command.WRITE, write_body(ANY_FILE, 0, b"as it was sent"), RELATED),
    )
    # Meanwhile another request comes into the memory that the compound was received into.
    client.create("x" * 1000)
    disk.release()
    client.collect()
    assert [client.take(message_id).status for message_id in ids] == [0, 0]
    assert client.call(Command.READ, read_body(file_id, 0, 14)).data == b"as it was sent"


def test_the_next_part_of_a_compound_at_another_disk_starts_without_another_message():
    first = MemoryDisk(1 << 20)
    client = RawInitiator(make_exporter(disk0=first, disk1=MemoryDisk(1 << 20))).log_in()
    client.call(Command.ECHO, b"\x04\0\0\0", credits=50)
    files = client.open("disk0"), client.open("disk1")
    first.stall()
    ids = client.compound(*((Command.READ, read_body(file_id, 0, 8), {}) for file_id in files))
    rings: list[bool] = []
    client.exporter.batches.on_dirty = lambda: rings.append(True)
    first.release()
    assert rings
    client.exporter.batches.flush()
    client.collect()
    assert [client.take(message_id).status for message_id in ids] == [0, 0]


def test_errors_of_a_related_compound_carry_on(client):
    ids = client.compound(
        (Command.CREATE, CREATE_NOTHING, {}),
        (Command.READ, read_body(ANY_FILE, 0, 8), RELATED),
        (Command.CLOSE, CLOSE, RELATED),
    )
    assert [client.take(message_id).status for message_id in ids] == [NtStatus.OBJECT_NAME_NOT_FOUND] * 3


def test_unrelated_compounds_are_independent(client):
    ids = client.compound(
        (Command.CREATE, CREATE_NOTHING, {}), (Command.ECHO, b"\x04\0\0\0", {}), (Command.CREATE, CREATE, {})
    )
    statuses = [client.take(message_id).status for message_id in ids]
    assert statuses == [NtStatus.OBJECT_NAME_NOT_FOUND, 0, 0]


def test_a_related_request_needs_a_file_before_it(client):
    ids = client.compound((Command.ECHO, b"\x04\0\0\0", {}), (Command.CLOSE, CLOSE, RELATED))
    assert [client.take(message_id).status for message_id in ids] == [0, NtStatus.INVALID_HANDLE]


def test_the_first_of_a_compound_is_not_related(client):
    ids = client.compound((Command.CREATE, CREATE, RELATED), (Command.CLOSE, CLOSE, RELATED))
    assert [client.take(message_id).status for message_id in ids] == [NtStatus.INVALID_PARAMETER] * 2


def test_an_unrelated_part_takes_over_no_file(client):
    """Windows answers in the same way (smbtorture's smb2.compound.invalid1 to 3)."""
    ids = client.compound(
        (Command.CLOSE, CLOSE, {"flags": RELATED["flags"]}),
        (Command.CREATE, CREATE, {}),
        (Command.READ, read_body(ANY_FILE, 0, 8), RELATED),
        (Command.READ, read_body(ANY_FILE, 0, 8), {}),
        (Command.CLOSE, CLOSE, RELATED),
    )
    replies = [client.take(message_id) for message_id in ids]
    closed = NtStatus.FILE_CLOSED
    assert [reply.status for reply in replies] == [NtStatus.INVALID_PARAMETER, 0, 0, closed, closed]
    assert {reply.protection for reply in replies} == {Protection.SIGNED}


def test_a_request_refused_before_its_session_is_looked_up_gets_a_signed_reply(client):
    nowhere = {"session_id": (1 << 64) - 1, "tree_id": (1 << 32) - 1}
    ids = client.compound(
        (Command.CREATE, CREATE, {}),
        (Command.CLOSE, CLOSE, nowhere),
        (Command.CLOSE, CLOSE, RELATED),
        (Command.CLOSE, CLOSE, RELATED),
    )
    replies = [client.take(message_id) for message_id in ids]
    invalid = NtStatus.INVALID_PARAMETER
    assert [reply.status for reply in replies] == [0, NtStatus.USER_SESSION_DELETED, invalid, invalid]
    unknown = client.call(0x13, b"\x04\0\0\0")
    assert (unknown.status, unknown.protection) == (invalid, Protection.SIGNED)
    security, session_id = client.security, client.session_id
    assert security is not None
    for reply in replies[2:]:
        # The client looks the key up by the session id, which these replies do not have. So check it here.
        message = bytearray(reply.view)
        signature, message[48:64] = bytes(message[48:64]), bytes(16)
        assert reply.session_id != session_id
        security.signer.sign(memoryview(message), reply.message_id, NONCE_EXPORTER)
        assert bytes(message[48:64]) == signature


def test_a_failed_request_leaves_the_file_to_those_behind_it(client):
    """Windows answers in the same way (smbtorture's smb2.compound.related6)."""
    create = CreateRequest("disk0", LIST, SHARE_ALL, CreateDisposition.OPEN).pack()
    ids = client.compound(
        (Command.CREATE, create, {}),
        (Command.WRITE, write_body(ANY_FILE, 0, b"x"), RELATED),
        (Command.READ, read_body(ANY_FILE, 0, 8), RELATED),
        (Command.CREATE, CREATE_NOTHING, RELATED),
        (Command.CLOSE, CLOSE, RELATED),
    )
    missing = NtStatus.OBJECT_NAME_NOT_FOUND
    statuses = [client.take(message_id).status for message_id in ids]
    assert statuses == [0, NtStatus.ACCESS_DENIED, 0, missing, missing]


def test_only_the_last_of_a_compound_may_wait(client):
    notify = ChangeNotifyRequest(FileId(ANY_FILE, ANY_FILE), 4096, 0xFFF).pack()
    create = CreateRequest("", LIST, SHARE_ALL, CreateDisposition.OPEN).pack()
    ids = client.compound(
        (Command.CREATE, create, {}), (Command.CHANGE_NOTIFY, notify, RELATED), (Command.CLOSE, CLOSE, RELATED)
    )
    assert client.take(ids[1]).status == NtStatus.INTERNAL_ERROR
    ids = client.compound((Command.CREATE, create, {}), (Command.CHANGE_NOTIFY, notify, RELATED))
    assert [client.take(message_id).status for message_id in ids] == [0, NtStatus.PENDING]
    client.exporter.disks.remove("disk1")
    client.collect()
    final = client.take(ids[1])
    assert (final.status, final.protection) == (0, Protection.SIGNED)


def test_replies_that_fit_into_no_frame_are_refused_and_the_rest_is_served():
    """A compound of 64 reads of 8 MiB would have a reply of half a gigabyte, and the length has 24 bits."""
    client = RawInitiator(make_exporter(disk0=MemoryDisk(8 << 20))).log_in()
    client.call(Command.ECHO, b"\x04\0\0\0", credits=8000)
    file_id, size = client.open("disk0"), 3 << 20
    part = (Command.READ, read_body(file_id, 0, size), {"credit_charge": 48})
    replies = [client.take(message_id) for message_id in wide_compound(client, *[part] * 8)]
    assert [len(reply.data) for reply in replies if not reply.status] == [size] * 2
    assert {reply.status for reply in replies[2:]} == {NtStatus.INSUFFICIENT_RESOURCES}
    assert client.exporter.pool.used_bytes == 0


def wide_compound(client, *parts):
    """Deliver requests in one frame. Each takes as many message ids as it pays credits."""
    ids = []
    for _, _, header in parts:
        ids.append(client.next_id)
        client.next_id += header["credit_charge"]
    messages = [
        bytearray(
            pack_header(
                command,
                message_id=message_id,
                tree_id=client.tree_id,
                session_id=client.session_id,
                credits=64,
                flags=Flags.SIGNED,
                **header,
            )
            + body
        )
        for message_id, (command, body, header) in zip(ids, parts, strict=True)
    ]
    client.deliver(client.connection.protect(messages, client.security, None))
    return ids


def test_memory_of_compounds_that_wait_for_a_hung_disk_is_charged_to_their_node():
    """In each compound, the reply of the first part waits for the reply of the last one."""
    disk, hangs = MemoryDisk(8 << 20), MemoryDisk(1 << 20)
    client = RawInitiator(make_exporter(disk0=disk, disk1=hangs)).log_in()
    client.call(Command.ECHO, b"\x04\0\0\0", credits=8000)
    first, second, size = client.open("disk0"), client.open("disk1"), 4 << 20
    hangs.stall()
    for _ in range(10):
        wide_compound(
            client,
            (Command.READ, read_body(first, 0, size), {"credit_charge": 64}),
            (Command.READ, read_body(second, 0, 512), {"credit_charge": 1}),
        )
    account = client.exporter.usage.of("n2").memory
    assert account.used_bytes >= 10 * size
    client.peer.lost()
    hangs.release()
    assert account.used_bytes == 0
    assert client.exporter.pool.used_bytes == 0

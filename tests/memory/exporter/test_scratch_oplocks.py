"""Oplocks of scratch files: which opens get one, how an oplock is broken, and which requests wait for the break."""

import pytest

from meshfs import limits
from meshfs.exporter.kinds.registry import ticks
from meshfs.model import Security
from meshfs.smb.connection import Protection
from meshfs.smb.constants import (
    MESSAGE_ID_UNSOLICITED,
    AccessMask,
    Command,
    CreateDisposition,
    CreateOptions,
    Flags,
    NtStatus,
    OplockLevel,
)
from meshfs.smb.info import FileInfoClass
from meshfs.smb.messages import (
    CancelRequest,
    CloseRequest,
    CreateRequest,
    CreateResponse,
    FileId,
    LogoffRequest,
    OplockBreak,
    TreeConnectRequest,
    TreeDisconnectRequest,
)
from meshlab.smb.raw_initiator import RawInitiator
from meshlab.smb.raw_messages import SHARE_ALL, Reply
from support.scratch import (
    ALL,
    Clock,
    another,
    client_of,
    close,
    make,
    set_info,
    write,
)

A, D = AccessMask, CreateDisposition
RELATED = {"flags": int(Flags.RELATED_OPERATIONS), "session_id": (1 << 64) - 1, "tree_id": (1 << 32) - 1}
ANY_FILE = (1 << 64) - 1


def tick(exporter):
    for call in ticks(exporter):
        call(exporter)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def client(clock):
    return client_of(Security.SIGN, clock)


def create_with_oplock(client: RawInitiator, name: str, level: int = OplockLevel.BATCH) -> tuple[int, int]:
    """Create or open a file, and return its file id and the granted oplock level."""
    reply = CreateResponse.unpack(client.create(name, ALL, disposition=D.OPEN_IF, oplock_level=level).body)
    return reply.file_id.volatile, reply.oplock_level


def notified(client: RawInitiator) -> Reply:
    client.collect()
    reply = client.take(MESSAGE_ID_UNSOLICITED)
    assert reply.command == Command.OPLOCK_BREAK
    return reply


def acknowledge(client: RawInitiator, file_id: int, level: int = OplockLevel.NONE) -> Reply:
    return client.call(Command.OPLOCK_BREAK, OplockBreak(FileId(file_id, file_id), level).pack())


def start_create(client: RawInitiator, name: str, access: int = ALL, share: int = SHARE_ALL) -> int:
    message_id = client.send(Command.CREATE, CreateRequest(name, access, share, D.OPEN).pack(), credits=2)
    interim = client.take(message_id)
    assert (interim.status, interim.protection) == (NtStatus.PENDING, Protection.NONE)
    return message_id


def answer(client: RawInitiator, message_id: int) -> Reply:
    client.collect()
    return client.take(message_id)


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        (OplockLevel.NONE, OplockLevel.NONE),
        (OplockLevel.II, OplockLevel.NONE),
        (OplockLevel.EXCLUSIVE, OplockLevel.EXCLUSIVE),
        (OplockLevel.BATCH, OplockLevel.BATCH),
        (OplockLevel.LEASE, OplockLevel.NONE),
    ],
)
def test_the_only_open_of_a_file_may_have_an_oplock(client, asked, granted):
    file, level = create_with_oplock(client, "file", asked)
    assert level == granted
    close(client, file)
    make(client, "file")
    assert create_with_oplock(client, "file", asked)[1] == OplockLevel.NONE


def test_a_directory_and_a_disk_have_no_oplocks(client):
    options = {"disposition": D.CREATE, "options": CreateOptions.DIRECTORY_FILE, "oplock_level": OplockLevel.BATCH}
    assert CreateResponse.unpack(client.create("folder", ALL, **options).body).oplock_level == OplockLevel.NONE
    other = RawInitiator(client.exporter).log_in("n3", "disks")
    assert CreateResponse.unpack(other.create("disk0", oplock_level=OplockLevel.BATCH).body).oplock_level == 0


@pytest.mark.parametrize("security", list(Security))
def test_the_next_open_waits_until_the_holder_acknowledged(security, clock):
    client = client_of(security, clock)
    other = another(client.exporter)
    held, _ = create_with_oplock(client, "file")
    message_id = other.send(Command.CREATE, CreateRequest("file", ALL, SHARE_ALL, D.OPEN).pack(), credits=2)
    assert other.take(message_id).status == NtStatus.PENDING
    told = notified(client)
    sealed = security is Security.ENCRYPT
    expected = (client.session_id, Protection.SEALED) if sealed else (0, Protection.NONE)
    assert (told.status, told.credits, told.session_id, told.protection) == (0, 0, *expected)
    assert OplockBreak.unpack(told.body) == OplockBreak(FileId(held, held), OplockLevel.NONE)
    write(client, held, 0, b"cached till now")
    assert not other.collect()
    acknowledged = acknowledge(client, held)
    assert OplockBreak.unpack(acknowledged.body) == OplockBreak(FileId(held, held), OplockLevel.NONE)
    opened = CreateResponse.unpack(answer(other, message_id).body)
    assert (opened.size_bytes, opened.oplock_level) == (15, OplockLevel.NONE)
    assert acknowledge(client, held).status == NtStatus.INVALID_DEVICE_STATE
    assert other.create("file", ALL).status == 0


def test_a_holder_that_closes_has_acknowledged(client):
    other = another(client.exporter)
    held, _ = create_with_oplock(client, "file")
    set_info(client, held, FileInfoClass.DISPOSITION, b"\x01")
    assert other.create("file", ALL).status == NtStatus.DELETE_PENDING
    set_info(client, held, FileInfoClass.DISPOSITION, b"\x00")
    first, second = start_create(other, "file"), start_create(other, "file")
    assert notified(client)
    close(client, held)
    assert [answer(other, message_id).status for message_id in (first, second)] == [0, 0]
    assert not other.peer.waiting


def test_a_holder_that_is_lost_has_acknowledged(client):
    other = another(client.exporter)
    create_with_oplock(client, "file")
    message_id = start_create(other, "file")
    client.peer.lost()
    assert answer(other, message_id).status == 0


def test_a_holder_that_does_not_answer_loses_the_oplock_after_the_time_out(client, clock):
    other = another(client.exporter)
    held, _ = create_with_oplock(client, "file")
    message_id = start_create(other, "file")
    clock.now_s += limits.OPLOCK_BREAK_TIMEOUT_S - 0.1
    tick(client.exporter)
    assert not other.collect()
    clock.now_s += 0.1
    tick(client.exporter)
    assert answer(other, message_id).status == 0
    assert client.exporter.counters["oplock_breaks_late"] == 1
    assert acknowledge(client, held).status == NtStatus.INVALID_DEVICE_STATE


def test_only_the_kinds_of_shares_that_are_offered_are_called_by_time(client):
    assert len(ticks(client.exporter)) == 1
    client.exporter.scratch = None
    assert ticks(client.exporter) == []


def test_an_acknowledgment_of_another_level_is_wrong_and_counts(client):
    other = another(client.exporter)
    held, _ = create_with_oplock(client, "file")
    assert acknowledge(client, held).status == NtStatus.INVALID_DEVICE_STATE
    message_id = start_create(other, "file")
    assert acknowledge(client, held, OplockLevel.II).status == NtStatus.INVALID_OPLOCK_PROTOCOL
    assert answer(other, message_id).status == 0


def test_a_create_that_waits_can_be_cancelled(client):
    other = another(client.exporter)
    held, _ = create_with_oplock(client, "file")
    message_id = start_create(other, "file")
    async_id = next(iter(other.peer.waiting))
    other.send(Command.CANCEL, CancelRequest().pack(), message_id=message_id, flags=2, async_id=async_id)
    assert other.take(message_id).status == NtStatus.CANCELLED
    assert acknowledge(client, held).status == 0
    assert not other.collect()


def test_a_create_that_waits_ends_with_its_connection(client):
    other = another(client.exporter)
    held, _ = create_with_oplock(client, "file")
    start_create(other, "file")
    other.peer.lost()
    assert acknowledge(client, held).status == 0
    assert len(client.exporter.scratch.root.children["file"].opens) == 1


def test_a_create_that_waits_is_of_a_tree_and_session_that_may_end(client):
    other = another(client.exporter)
    held, _ = create_with_oplock(client, "file")
    first_tree, first = other.tree_id, start_create(other, "file")
    other.call(Command.TREE_DISCONNECT, TreeDisconnectRequest().pack())
    body = TreeConnectRequest("\\\\n1\\scratch").pack()
    other.tree_id = other.call(Command.TREE_CONNECT, body).tree_id
    assert other.tree_id != first_tree
    second = start_create(other, "file")
    other.call(Command.LOGOFF, LogoffRequest().pack())
    acknowledge(client, held)
    statuses = [answer(other, message_id).status for message_id in (first, second)]
    assert statuses == [NtStatus.NETWORK_NAME_DELETED, NtStatus.USER_SESSION_DELETED]
    again = another(client.exporter)
    held, _ = create_with_oplock(again, "second")
    third = start_create(client, "second")
    client.call(Command.TREE_DISCONNECT, TreeDisconnectRequest().pack())
    acknowledge(again, held)
    assert answer(client, third).status == NtStatus.NETWORK_NAME_DELETED


def test_a_create_that_waited_may_find_the_file_deleted_or_taken(client):
    other = another(client.exporter)
    held, _ = create_with_oplock(client, "file")
    message_id = start_create(other, "file")
    set_info(client, held, FileInfoClass.DISPOSITION, b"\x01")
    close(client, held)
    assert answer(other, message_id).status == NtStatus.OBJECT_NAME_NOT_FOUND
    held = CreateResponse.unpack(client.create("file", ALL, 0, D.CREATE, oplock_level=OplockLevel.BATCH).body).file_id
    message_id = start_create(other, "file")
    acknowledge(client, held.volatile)
    assert answer(other, message_id).status == NtStatus.SHARING_VIOLATION


def test_in_a_compound_the_parts_after_a_waiting_create_wait(client):
    other = another(client.exporter)
    held, _ = create_with_oplock(client, "file")
    body = CreateRequest("file", ALL, SHARE_ALL, D.OPEN).pack()
    closing = CloseRequest(FileId(ANY_FILE, ANY_FILE)).pack()
    ids = other.compound((Command.CREATE, body, {}), (Command.CLOSE, closing, RELATED))
    assert not other.replies
    assert acknowledge(client, held).status == 0
    other.collect()
    assert [other.take(message_id).status for message_id in ids] == [0, 0]


def test_a_compound_whose_create_waits_ends_with_its_connection(client):
    other = another(client.exporter)
    held, _ = create_with_oplock(client, "file")
    body = CreateRequest("file", ALL, SHARE_ALL, D.OPEN).pack()
    closing = CloseRequest(FileId(ANY_FILE, ANY_FILE)).pack()
    other.compound((Command.CREATE, body, {}), (Command.CLOSE, closing, RELATED))
    other.peer.lost()
    assert acknowledge(client, held).status == 0
    assert len(client.exporter.scratch.root.children["file"].opens) == 1

"""CREATE, share access and IPC$."""

import struct

import pytest

from meshfs import limits
from meshfs.smb.constants import (
    AccessMask,
    Command,
    CreateAction,
    CreateDisposition,
    CreateOptions,
    LockFlags,
    NtStatus,
    ShareAccess,
)
from meshfs.smb.messages import (
    CloseRequest,
    CreateResponse,
    FileId,
    LockElement,
    LockRequest,
)
from meshlab.smb.raw_messages import READ_WRITE, read_body, write_body
from support.two_disks import another, client_of_two_disks

LIST = int(AccessMask.READ_DATA)
EXCLUSIVE, SHARED = int(LockFlags.EXCLUSIVE_LOCK), int(LockFlags.SHARED_LOCK)


@pytest.fixture
def client():
    return client_of_two_disks()


# --- CREATE ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("disposition", "action"),
    [
        (CreateDisposition.OPEN, CreateAction.OPENED),
        (CreateDisposition.OPEN_IF, CreateAction.OPENED),
        (CreateDisposition.OVERWRITE, CreateAction.OVERWRITTEN),
        (CreateDisposition.OVERWRITE_IF, CreateAction.OVERWRITTEN),
        (CreateDisposition.SUPERSEDE, CreateAction.SUPERSEDED),
    ],
)
def test_overwriting_a_disk_keeps_its_size_and_content(client, disposition, action):
    client.call(Command.WRITE, write_body(client.open("disk0"), 0, b"content"))
    reply = client.create("DISK0", disposition=disposition)
    response = CreateResponse.unpack(reply.body)
    assert (response.create_action, response.size_bytes) == (action, 1 << 20)
    assert client.call(Command.READ, read_body(response.file_id.volatile, 0, 7)).data == b"content"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"name": "new", "disposition": CreateDisposition.OPEN}, NtStatus.OBJECT_NAME_NOT_FOUND),
        ({"name": "new", "disposition": CreateDisposition.OVERWRITE}, NtStatus.OBJECT_NAME_NOT_FOUND),
        ({"name": "new", "disposition": CreateDisposition.CREATE}, NtStatus.ACCESS_DENIED),
        ({"name": "new", "disposition": CreateDisposition.OPEN_IF}, NtStatus.ACCESS_DENIED),
        ({"name": "disk0", "disposition": CreateDisposition.CREATE}, NtStatus.OBJECT_NAME_COLLISION),
        ({"name": "disk0", "disposition": 6}, NtStatus.INVALID_PARAMETER),
        ({"name": "disk0", "options": CreateOptions.DIRECTORY_FILE}, NtStatus.NOT_A_DIRECTORY),
        ({"name": "disk0", "options": CreateOptions.DELETE_ON_CLOSE}, NtStatus.ACCESS_DENIED),
        ({"name": "disk0", "options": CreateOptions.OPEN_BY_FILE_ID}, NtStatus.NOT_SUPPORTED),
        ({"name": "disk0", "options": 0x41}, NtStatus.INVALID_PARAMETER),
        ({"name": "disk0", "access": int(AccessMask.DELETE)}, NtStatus.ACCESS_DENIED),
        ({"name": "disk0", "access": 0}, NtStatus.ACCESS_DENIED),
        ({"name": "disk0", "share": 8}, NtStatus.INVALID_PARAMETER),
        ({"name": "disk0", "impersonation": 4}, NtStatus.BAD_IMPERSONATION_LEVEL),
        ({"name": "\\disk0"}, NtStatus.INVALID_PARAMETER),
        ({"name": "folder\\disk0"}, NtStatus.OBJECT_PATH_NOT_FOUND),
        ({"name": "disk*"}, NtStatus.OBJECT_NAME_INVALID),
        ({"name": "disk0:stream"}, NtStatus.OBJECT_NAME_INVALID),
        ({"name": "disk0::$DATA"}, 0),
        ({"name": "x" * 5000}, NtStatus.OBJECT_NAME_NOT_FOUND),
        ({"name": "\ud7ff\x01"}, NtStatus.OBJECT_NAME_NOT_FOUND),
        ({"name": "", "options": CreateOptions.NON_DIRECTORY_FILE, "access": LIST}, NtStatus.FILE_IS_A_DIRECTORY),
        ({"name": "", "access": int(AccessMask.WRITE_DATA)}, NtStatus.ACCESS_DENIED),
        ({"name": "", "access": LIST, "disposition": CreateDisposition.CREATE}, NtStatus.OBJECT_NAME_COLLISION),
        ({"name": "", "access": LIST, "disposition": CreateDisposition.SUPERSEDE}, NtStatus.INVALID_PARAMETER),
        ({"name": "", "access": int(AccessMask.MAXIMUM_ALLOWED)}, 0),
        ({"name": "", "access": int(AccessMask.GENERIC_ALL)}, 0),
        ({"name": "disk0", "access": int(AccessMask.GENERIC_ALL)}, 0),
        ({"name": "disk0", "contexts": ((b"TWrp", bytes(8)),)}, NtStatus.OBJECT_NAME_NOT_FOUND),
        ({"name": "disk0", "contexts": ((b"DHnQ", bytes(16)), (b"RqLs", bytes(32)))}, 0),
    ],
)
def test_a_create_is_granted_or_refused_by_its_fields(client, fields, status):
    assert client.create(**fields).status == status


def test_create_answers_the_contexts_it_knows(client):
    contexts = ((b"MxAc", b""), (b"QFid", b""), (b"RqLs", bytes(32)))
    response = CreateResponse.unpack(client.create("disk0", LIST, contexts=contexts).body)
    answers = dict(response.contexts)
    assert set(answers) == {b"MxAc", b"QFid"}
    status, maximal = struct.unpack("<II", answers[b"MxAc"])
    assert status == 0
    assert maximal & READ_WRITE == READ_WRITE
    assert not maximal & AccessMask.DELETE
    assert response.oplock_level == 0


def test_opens_are_limited(client, monkeypatch):
    monkeypatch.setattr(limits, "OPENS_PER_SESSION_MAX", 3)
    statuses = [client.create("disk0").status for _ in range(4)]
    assert statuses == [0, 0, 0, NtStatus.INSUFFICIENT_RESOURCES]


# --- share access ----------------------------------------------------------------------


def test_an_exclusive_open_holds_others_off_across_shares_and_sessions(client):
    other = another(client)
    mine = client.open("disk0", share=0)
    assert client.create("disk0").status == NtStatus.SHARING_VIOLATION
    assert other.create("disk0").status == NtStatus.SHARING_VIOLATION
    assert other.create("disk0", int(AccessMask.READ_ATTRIBUTES), share=0).status == 0
    assert other.create("disk1", share=0).status == 0
    client.call(Command.CLOSE, CloseRequest(FileId(mine, mine)).pack())
    assert other.create("disk0").status == 0


def test_a_reader_may_forbid_writers(client):
    client.open("disk0", LIST, int(ShareAccess.READ))
    other = another(client)
    assert other.create("disk0", READ_WRITE).status == NtStatus.SHARING_VIOLATION
    assert other.create("disk0", LIST).status == 0


# --- LOCK ------------------------------------------------------------------------------


def lock_body(file_id: int, *elements: tuple[int, int, int]) -> bytes:
    return LockRequest(FileId(file_id, file_id), tuple(LockElement(*element) for element in elements)).pack()


# --- IPC$ ------------------------------------------------------------------------------


def test_ipc_has_the_one_pipe_that_lists_shares(client):
    client.connect("IPC$")
    assert client.create("lsarpc").status == NtStatus.OBJECT_NAME_NOT_FOUND
    pipe = client.open("srvsvc")
    assert client.call(Command.WRITE, write_body(pipe, 0, b"no RPC")).status == 0
    fault = client.call(Command.READ, read_body(pipe, 0, 4096)).data
    assert fault[2] == 3
    assert client.call(Command.LOCK, lock_body(pipe, (0, 1, EXCLUSIVE))).status == NtStatus.INVALID_PARAMETER

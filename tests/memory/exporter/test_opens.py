"""CREATE, share access, LOCK, CHANGE_NOTIFY, listings, information, IPC$."""

import struct

import pytest

from meshfs import limits
from meshfs.exporter.rules.access import DISK_RIGHTS
from meshfs.exporter.state.offered_disk import OfferedDisk
from meshfs.model import Access, DiskInfo
from meshfs.scheduler.decide.queue import FifoQueue
from meshfs.scheduler.runner import Runner
from meshfs.smb.connection import Protection
from meshfs.smb.constants import (
    AccessMask,
    Command,
    CreateAction,
    CreateDisposition,
    CreateOptions,
    Flags,
    InfoType,
    LockFlags,
    NtStatus,
    ShareAccess,
)
from meshfs.smb.messages import (
    CancelRequest,
    ChangeNotifyRequest,
    ChangeNotifyResponse,
    CloseRequest,
    CreateResponse,
    FileId,
    IoctlRequest,
    LockElement,
    LockRequest,
    QueryDirectoryRequest,
    QueryDirectoryResponse,
    QueryInfoRequest,
    QueryInfoResponse,
    SetInfoRequest,
    unpack_notifications,
)
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import READ_WRITE, RawInitiator, file_id_of, make_exporter, read_body, write_body

LIST = int(AccessMask.READ_DATA)
EXCLUSIVE, SHARED = int(LockFlags.EXCLUSIVE_LOCK), int(LockFlags.SHARED_LOCK)
NOW, UNLOCK = int(LockFlags.FAIL_IMMEDIATELY), int(LockFlags.UNLOCK)


@pytest.fixture
def client():
    server = make_exporter(disk0=MemoryDisk(1 << 20), disk1=MemoryDisk(1 << 20))
    client = RawInitiator(server).log_in()
    client.call(Command.ECHO, b"\x04\0\0\0", credits=500)
    return client


def another(client: RawInitiator, node: str = "n3", share: str = "disks-system") -> RawInitiator:
    other = RawInitiator(client.exporter).log_in(node, share)
    other.call(Command.ECHO, b"\x04\0\0\0", credits=500)
    return other


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
def test_create(client, fields, status):
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


def test_locks_keep_others_off_their_range(client):
    other = another(client)
    mine, theirs = client.open("disk0"), other.open("disk0")
    assert client.call(Command.LOCK, lock_body(mine, (0, 100, EXCLUSIVE | NOW))).status == 0
    assert other.call(Command.READ, read_body(theirs, 99, 1)).status == NtStatus.FILE_LOCK_CONFLICT
    assert other.call(Command.WRITE, write_body(theirs, 50, b"x")).status == NtStatus.FILE_LOCK_CONFLICT
    assert other.call(Command.READ, read_body(theirs, 100, 1)).status == 0
    assert client.call(Command.WRITE, write_body(mine, 50, b"x")).status == 0
    refused = other.call(Command.LOCK, lock_body(theirs, (200, 1, SHARED | NOW), (0, 1, SHARED | NOW)))
    assert refused.status == NtStatus.LOCK_NOT_GRANTED
    assert client.call(Command.LOCK, lock_body(mine, (200, 1, EXCLUSIVE | NOW))).status == 0
    assert client.call(Command.LOCK, lock_body(mine, (0, 100, UNLOCK))).status == 0
    assert client.call(Command.LOCK, lock_body(mine, (0, 100, UNLOCK))).status == NtStatus.RANGE_NOT_LOCKED
    assert other.call(Command.READ, read_body(theirs, 99, 1)).status == 0


def test_nothing_is_read_and_written_also_in_a_lock(client):
    """smb2.lock.zerobyteread"""
    other = another(client)
    mine, theirs = client.open("disk0"), other.open("disk0")
    assert client.call(Command.LOCK, lock_body(mine, (0, 100, EXCLUSIVE | NOW))).status == 0
    assert other.call(Command.READ, read_body(theirs, 50, 0)).status == 0
    assert other.call(Command.WRITE, write_body(theirs, 50, b"")).status == 0


def test_unlocks_before_a_wrong_one_count(client):
    """smb2.lock.multiple-unlock, MS-SMB2 3.3.5.14.1"""
    mine = client.open("disk0")
    assert client.call(Command.LOCK, lock_body(mine, (0, 1, EXCLUSIVE | NOW), (5, 1, EXCLUSIVE | NOW))).status == 0
    mixed = lock_body(mine, (0, 1, UNLOCK), (7, 1, EXCLUSIVE | NOW), (5, 1, UNLOCK))
    assert client.call(Command.LOCK, mixed).status == NtStatus.INVALID_PARAMETER
    assert client.call(Command.LOCK, lock_body(mine, (0, 1, EXCLUSIVE | NOW))).status == 0
    assert client.call(Command.LOCK, lock_body(mine, (5, 1, EXCLUSIVE | NOW))).status == NtStatus.LOCK_NOT_GRANTED


def wait_for_lock(client: RawInitiator, other: RawInitiator) -> tuple[int, int, int]:
    """(open that holds it, open that waits, message id of the waiting request)"""
    mine, theirs = client.open("disk0"), other.open("disk0")
    assert client.call(Command.LOCK, lock_body(mine, (0, 100, EXCLUSIVE))).status == 0
    message_id = other.send(Command.LOCK, lock_body(theirs, (50, 1, EXCLUSIVE)), credits=5)
    interim = other.take(message_id)
    assert interim.status == NtStatus.PENDING
    assert interim.flags & Flags.ASYNC_COMMAND
    assert interim.credits > 0
    # Two signatures under one message id would be two under one GMAC nonce.
    assert interim.protection == Protection.NONE
    return mine, theirs, message_id


def test_a_lock_that_waits_is_answered_when_the_other_lets_go(client):
    other = another(client)
    mine, _, message_id = wait_for_lock(client, other)
    client.call(Command.LOCK, lock_body(mine, (0, 100, UNLOCK)))
    other.collect()
    final = other.take(message_id)
    assert (final.status, final.credits, final.protection) == (0, 0, Protection.SIGNED)
    assert final.flags & Flags.ASYNC_COMMAND
    assert not other.peer.waiting


def test_a_lock_that_waits_is_answered_when_the_other_is_gone(client):
    other = another(client)
    _, _, message_id = wait_for_lock(client, other)
    client.peer.lost()
    other.collect()
    assert other.take(message_id).status == 0


def test_a_lock_that_waits_can_be_cancelled(client):
    other = another(client)
    _, _, message_id = wait_for_lock(client, other)
    async_id = next(iter(other.peer.waiting))
    other.send(Command.CANCEL, CancelRequest().pack(), message_id=message_id, flags=2, async_id=async_id)
    assert other.take(message_id).status == NtStatus.CANCELLED
    assert not client.exporter.disks.all()[0].lock_waiters


def test_closing_ends_a_lock_that_waits(client):
    other = another(client)
    _, theirs, message_id = wait_for_lock(client, other)
    assert other.call(Command.CLOSE, CloseRequest(FileId(theirs, theirs)).pack()).status == 0
    assert other.take(message_id).status == NtStatus.RANGE_NOT_LOCKED


@pytest.mark.parametrize(
    ("elements", "status"),
    [
        ((), NtStatus.INVALID_PARAMETER),
        (((0, 1, 0),), NtStatus.INVALID_PARAMETER),
        (((0, 1, EXCLUSIVE | SHARED),), NtStatus.INVALID_PARAMETER),
        (((0, 1, EXCLUSIVE), (5, 1, EXCLUSIVE)), NtStatus.INVALID_PARAMETER),
        (((0, 1, UNLOCK), (5, 1, EXCLUSIVE | NOW)), NtStatus.RANGE_NOT_LOCKED),
        (((0, 1, UNLOCK | NOW),), NtStatus.INVALID_PARAMETER),
        ((((1 << 64) - 1, 2, EXCLUSIVE | NOW),), NtStatus.INVALID_LOCK_RANGE),
        (((0, 1, 0xFFFFFFFF),), NtStatus.INVALID_PARAMETER),
    ],
)
def test_bad_locks(client, elements, status):
    assert client.call(Command.LOCK, lock_body(client.open("disk0"), *elements)).status == status


def test_locks_of_an_open_and_requests_that_wait_are_limited(client, monkeypatch):
    monkeypatch.setattr(limits, "LOCKS_PER_OPEN_MAX", 2)
    monkeypatch.setattr(limits, "ASYNC_PER_CONNECTION_MAX", 1)
    mine = client.open("disk0")
    three = [(index, 1, EXCLUSIVE | NOW) for index in range(2)]
    assert client.call(Command.LOCK, lock_body(mine, *three)).status == 0
    reply = client.call(Command.LOCK, lock_body(mine, (9, 1, EXCLUSIVE | NOW)))
    assert reply.status == NtStatus.INSUFFICIENT_RESOURCES
    theirs = client.open("disk0")
    waiting = lock_body(theirs, (0, 1, EXCLUSIVE))
    assert client.call(Command.LOCK, waiting).status == NtStatus.PENDING
    assert client.call(Command.LOCK, waiting).status == NtStatus.INSUFFICIENT_RESOURCES


# --- CHANGE_NOTIFY ---------------------------------------------------------------------


def new_disk(name: str) -> OfferedDisk:
    disk = MemoryDisk(4096)
    info = DiskInfo(id=name, node="n1", name=name, size_bytes=4096, access=Access.READ_WRITE, verifier="")
    return OfferedDisk(info, Runner(FifoQueue(1), disk, now=lambda: 0.0), lambda node: Access.READ_WRITE)


def watch(client: RawInitiator, root: int, size: int = 4096) -> int:
    return client.send(Command.CHANGE_NOTIFY, ChangeNotifyRequest(FileId(root, root), size, 0xFFF).pack())


def test_watchers_are_told_of_new_and_removed_disks(client):
    root = client.open("", LIST)
    message_id = watch(client, root)
    assert client.take(message_id).status == NtStatus.PENDING
    client.exporter.disks.add(new_disk("disk2"))
    client.collect()
    output = ChangeNotifyResponse.unpack(client.take(message_id).body).output
    assert unpack_notifications(output) == ((1, "disk2"),)
    # What changes between two requests is kept for the second.
    client.exporter.disks.remove("disk2")
    client.exporter.disks.remove("disk1")
    message_id = watch(client, root)
    output = ChangeNotifyResponse.unpack(client.take(message_id).body).output
    assert unpack_notifications(output) == ((2, "disk2"), (2, "disk1"))


def test_changes_that_do_not_fit_mean_look_again(client):
    root = client.open("", LIST)
    message_id = watch(client, root, size=8)
    client.take(message_id)
    client.exporter.disks.remove("disk1")
    client.collect()
    assert client.take(message_id).status == NtStatus.NOTIFY_ENUM_DIR


def test_a_watch_ends_with_its_open(client):
    root = client.open("", LIST)
    message_id = watch(client, root)
    client.take(message_id)
    client.call(Command.CLOSE, CloseRequest(FileId(root, root)).pack())
    assert client.take(message_id).status == NtStatus.NOTIFY_CLEANUP


def test_only_the_root_is_watched(client):
    message_id = watch(client, client.open("disk0"))
    assert client.take(message_id).status == NtStatus.INVALID_PARAMETER


# --- listings and information ----------------------------------------------------------


def query(client: RawInitiator, root: int, pattern: str, *, info_class: int = 12, size: int = 65536, flags: int = 0):
    body = QueryDirectoryRequest(FileId(root, root), info_class, size, pattern, flags)
    return client.call(Command.QUERY_DIRECTORY, body.pack())


def names(reply) -> list[str]:
    output, found, offset = QueryDirectoryResponse.unpack(reply.body).output, [], 0
    while True:
        step, _, length = struct.unpack_from("<III", output, offset)
        found.append(output[offset + 12 : offset + 12 + length].decode("utf-16-le"))
        if not step:
            return found
        offset += step


def test_a_share_lists_its_disks(client):
    root = client.open("", LIST)
    assert names(query(client, root, "*")) == [".", "..", "disk0", "disk1"]
    assert query(client, root, "*").status == NtStatus.NO_MORE_FILES
    assert names(query(client, root, "disk1", flags=1)) == ["disk1"]
    assert query(client, root, "nothing", flags=1).status == NtStatus.NO_SUCH_FILE
    assert names(query(client, root, "disk?", flags=1 | 2)) == ["disk0"]
    assert names(query(client, root, "disk?", flags=2)) == ["disk1"]
    assert query(client, root, "*", flags=1, size=10).status == NtStatus.INFO_LENGTH_MISMATCH
    assert query(client, root, "*", flags=1, info_class=99).status == NtStatus.INVALID_INFO_CLASS
    assert query(client, root, "*", size=65537).status == NtStatus.INVALID_PARAMETER
    assert query(client, client.open("disk0"), "*").status == NtStatus.INVALID_PARAMETER


def info(client: RawInitiator, file_id: int, kind: int, info_class: int, size: int = 4096, additional: int = 0):
    body = QueryInfoRequest(FileId(file_id, file_id), kind, info_class, size, additional)
    return client.call(Command.QUERY_INFO, body.pack())


def test_information_of_disk_root_and_volume(client):
    attributes = int(AccessMask.READ_ATTRIBUTES)
    disk = client.open("disk0", READ_WRITE | AccessMask.READ_CONTROL | attributes)
    root = client.open("", LIST | attributes)
    standard = QueryInfoResponse.unpack(info(client, disk, 1, 5).body).output
    assert struct.unpack_from("<QQ", standard) == (1 << 20, 1 << 20)
    for file_id in (disk, root):
        assert info(client, file_id, 1, 18).status == 0
        assert info(client, file_id, 2, 3).status == 0
    assert info(client, disk, 3, 0, additional=7).status == 0
    too_small = info(client, disk, 3, 0, additional=7, size=1)
    assert too_small.status == NtStatus.BUFFER_TOO_SMALL
    assert info(client, root, 3, 0, additional=7).status == NtStatus.ACCESS_DENIED
    assert info(client, disk, 1, 200).status == NtStatus.INVALID_INFO_CLASS
    assert info(client, disk, 9, 0).status == NtStatus.INVALID_PARAMETER
    assert info(client, disk, 4, 0).status == NtStatus.NOT_SUPPORTED


@pytest.mark.parametrize(
    ("info_class", "buffer", "status"),
    [
        (20, struct.pack("<Q", 0), 0),
        (20, struct.pack("<Q", 1 << 20), 0),
        (20, struct.pack("<Q", 4096), NtStatus.ACCESS_DENIED),
        (20, struct.pack("<Q", 1 << 21), NtStatus.DISK_FULL),
        (19, struct.pack("<Q", 4096), 0),
        (13, b"\1", NtStatus.ACCESS_DENIED),
        (13, b"\0", 0),
        (10, struct.pack("<QQI", 0, 0, 2) + "x".encode("utf-16-le"), NtStatus.ACCESS_DENIED),
        (20, b"", NtStatus.INFO_LENGTH_MISMATCH),
        (99, b"", NtStatus.INVALID_INFO_CLASS),
    ],
)
def test_set_info_changes_nothing(client, info_class, buffer, status):
    file_id = client.open("disk0")
    body = SetInfoRequest(FileId(file_id, file_id), 1, info_class, buffer)
    assert client.call(Command.SET_INFO, body.pack()).status == status


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (0x00060194, NtStatus.FS_DRIVER_REQUIRED),
        (0x00090028, NtStatus.INVALID_DEVICE_REQUEST),
        (0x0011C017, NtStatus.INVALID_DEVICE_REQUEST),
    ],
)
def test_other_ioctls(client, code, status):
    file_id = client.open("disk0")
    body = IoctlRequest(code, FileId(file_id, file_id), b"", 1024)
    assert client.call(Command.IOCTL, body.pack()).status == status


# --- IPC$ ------------------------------------------------------------------------------


def test_ipc_has_the_one_pipe_that_lists_shares(client):
    client.connect("IPC$")
    assert client.create("lsarpc").status == NtStatus.OBJECT_NAME_NOT_FOUND
    pipe = client.open("srvsvc")
    assert client.call(Command.WRITE, write_body(pipe, 0, b"no RPC")).status == 0
    fault = client.call(Command.READ, read_body(pipe, 0, 4096)).data
    assert fault[2] == 3
    assert client.call(Command.LOCK, lock_body(pipe, (0, 1, EXCLUSIVE))).status == NtStatus.INVALID_PARAMETER


# --- security descriptors --------------------------------------------------------------

DACL, SACL = 4, 8


@pytest.mark.parametrize("name", ["", "disk0"])
@pytest.mark.parametrize("more", [0, int(AccessMask.READ_CONTROL), int(AccessMask.MAXIMUM_ALLOWED)])
def test_the_right_to_the_sacl_is_a_privilege_that_nobody_has(client, name, more):
    """Just this status makes clients go on without the SACL, as getcifsacl does."""
    access = int(AccessMask.ACCESS_SYSTEM_SECURITY) | more
    assert client.create(name, access=access).status == NtStatus.PRIVILEGE_NOT_HELD


def test_the_dacl_tells_what_the_node_may_do_and_not_what_the_open_was_for(client):
    file_id = client.open("disk0", access=int(AccessMask.READ_CONTROL))
    descriptor = QueryInfoResponse.unpack(info(client, file_id, InfoType.SECURITY, 0, additional=DACL).body).output
    authenticated_users = bytes.fromhex("01 01 000000000005 0b000000")
    assert descriptor.endswith(struct.pack("<I", DISK_RIGHTS[Access.READ_WRITE]) + authenticated_users)
    assert info(client, file_id, InfoType.SECURITY, 0, additional=DACL | SACL).status == NtStatus.ACCESS_DENIED


def test_the_mode_of_an_open_is_told_and_set(client):
    disk = file_id_of(client.create("disk0", READ_WRITE, options=CreateOptions.WRITE_THROUGH))
    opened = next(iter(client.exporter.sessions.values())).opens[disk]
    assert QueryInfoResponse.unpack(info(client, disk, 1, 16).body).output == struct.pack("<I", 2)
    assert opened.write_through
    for wanted, status, mode in ((4, 0, 4), (2, 0, 2), (1, NtStatus.INVALID_PARAMETER, 2), (0, 0, 0)):
        body = SetInfoRequest(FileId(disk, disk), InfoType.FILE, 16, struct.pack("<I", wanted)).pack()
        assert client.call(Command.SET_INFO, body).status == status
        assert QueryInfoResponse.unpack(info(client, disk, 1, 16).body).output == struct.pack("<I", mode)
        assert opened.write_through == bool(mode & 2)


def test_quotas_of_a_share_of_disks(client):
    """FileFsControlInformation, which Samba's clients call quota information: there is no quota."""
    for name in ("", "disk0"):
        output = QueryInfoResponse.unpack(info(client, client.open(name, LIST), 2, 6).body).output
        assert struct.unpack("<3QQQI4x", output) == (0, 0, 0, (1 << 64) - 1, (1 << 64) - 1, 0)

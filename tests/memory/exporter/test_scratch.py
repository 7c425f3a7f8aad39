"""The share `scratch` of an exporter: the requests that it serves and refuses, and that it is no disk."""

import struct

import pytest

from meshfs import limits
from meshfs.model import Security, decode_disks
from meshfs.smb.constants import (
    AccessMask,
    Command,
    CreateAction,
    CreateDisposition,
    CreateOptions,
    FileAttributes,
    Fsctl,
    InfoType,
    LockFlags,
    NtStatus,
    ShareAccess,
)
from meshfs.smb.info import FileInfoClass, FsInfoClass
from meshfs.smb.messages import (
    CloseResponse,
    CreateResponse,
    FileId,
    FlushRequest,
    IoctlRequest,
    IoctlResponse,
    LockElement,
    LockRequest,
    QueryInfoRequest,
    QueryInfoResponse,
)
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import READ_WRITE
from support.scratch import (
    ALL,
    SIZE,
    Clock,
    another,
    client_of,
    close,
    files,
    get_info,
    listing,
    make,
    mkdir,
    read,
    rename,
    set_info,
    write,
)

A, D = AccessMask, CreateDisposition


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def client(clock):
    return client_of(Security.SIGN, clock)


# --- a share, and no disk --------------------------------------------------------------


def test_there_is_no_scratch_share_unless_the_config_asks_for_it():
    client = RawInitiator(make_exporter(disk0=MemoryDisk(4096)))
    client.negotiate()
    client.set_up()
    assert client.connect("scratch").status == NtStatus.BAD_NETWORK_NAME


def test_the_scratch_share_is_never_listed_as_a_disk(client):
    make(client, "file")
    root = client.open("", int(A.READ_DATA))
    query = IoctlRequest(Fsctl.MESHFS_QUERY_DISKS, FileId(root, root), b"", 65536)
    assert client.call(Command.IOCTL, query.pack()).status == NtStatus.INVALID_DEVICE_REQUEST
    other = RawInitiator(client.exporter).log_in("n3", "disks")
    root = other.open("", int(A.READ_DATA))
    query = IoctlRequest(Fsctl.MESHFS_QUERY_DISKS, FileId(root, root), b"", 65536)
    disks = decode_disks(IoctlResponse.unpack(other.call(Command.IOCTL, query.pack()).body).output)
    assert [disk.name for disk in disks] == ["disk0"]
    assert listing(other, root) == [".", "..", "disk0"]
    assert listing(client, client.open("", int(A.READ_DATA))) == [".", "..", "file"]


# --- files -----------------------------------------------------------------------------


@pytest.mark.parametrize("security", list(Security))
def test_a_file_is_made_written_read_and_deleted(security, clock):
    client = client_of(security, clock)
    reply = CreateResponse.unpack(client.create("file", ALL, disposition=D.CREATE).body)
    assert (reply.create_action, reply.size_bytes, reply.file_attributes) == (CreateAction.CREATED, 0, 0x20)
    file = reply.file_id.volatile
    data = bytes(range(256)) * 1024
    assert write(client, file, 10, data) == 0
    assert read(client, file, 10, len(data)) == data
    assert read(client, file, 0, 12) == bytes(10) + data[:2]
    assert client.call(Command.FLUSH, FlushRequest(FileId(file, file)).pack()).status == 0
    assert set_info(client, file, FileInfoClass.DISPOSITION, b"\x01") == 0
    clock.now_s += 5
    assert client.create("file", ALL).status == NtStatus.DELETE_PENDING
    closed = CloseResponse.unpack(close(client, file, flags=1).body)
    assert (closed.size_bytes, closed.allocation_bytes) == (len(data) + 10, len(data) + 4096)
    assert client.create("file", ALL).status == NtStatus.OBJECT_NAME_NOT_FOUND
    assert client.exporter.scratch.used_bytes == 0


def test_a_lost_connection_deletes_its_delete_on_close_files(client):
    other = another(client.exporter)
    file = make(client, "file", options=CreateOptions.DELETE_ON_CLOSE)
    assert write(client, file, 0, bytes(1000)) == 0
    held = make(other, "held", share=0)
    client.peer.lost()
    assert [each.path for each in files(client.exporter.scratch)] == ["held"]
    assert client.exporter.scratch.used_bytes == 0
    assert close(other, held).status == 0


@pytest.mark.parametrize(
    ("offset", "length", "minimum", "expected"),
    [
        (0, 4, 0, b"0123"),
        (8, 10, 0, b"89"),
        (8, 10, 3, NtStatus.END_OF_FILE),
        (10, 1, 0, NtStatus.END_OF_FILE),
        (10, 0, 0, b""),
        (10, 0, 1, NtStatus.END_OF_FILE),
        ((1 << 63) - 2, 1, 0, NtStatus.END_OF_FILE),
        ((1 << 63) - 1, 0, 0, b""),
        ((1 << 63) - 1, 1, 0, NtStatus.INVALID_PARAMETER),
        (1 << 63, 0, 0, NtStatus.INVALID_PARAMETER),
    ],
)
def test_reads_at_the_end(client, offset, length, minimum, expected):
    file = make(client, "file")
    write(client, file, 0, b"0123456789")
    assert read(client, file, offset, length, minimum) == expected


@pytest.mark.parametrize(
    ("offset", "data", "expected"),
    [
        (SIZE - 1, b"x", 0),
        (SIZE, b"x", NtStatus.DISK_FULL),
        (1 << 62, b"x", NtStatus.INVALID_PARAMETER),
        ((1 << 63) - 1, b"", 0),
        ((1 << 63) - 1, b"x", NtStatus.INVALID_PARAMETER),
        (1 << 63, b"", NtStatus.INVALID_PARAMETER),
    ],
)
def test_writes_are_bounded(client, offset, data, expected):
    assert write(client, make(client, "file"), offset, data) == expected


def test_an_open_does_only_what_it_was_granted(client):
    write(client, make(client, "file"), 0, b"data")
    reader, writer = make(client, "file", int(A.READ_DATA)), make(client, "file", int(A.APPEND_DATA))
    runner, nobody = make(client, "file", int(A.EXECUTE)), make(client, "file", int(A.READ_ATTRIBUTES))
    denied = NtStatus.ACCESS_DENIED
    assert (read(client, reader, 0, 4), read(client, runner, 0, 4)) == (b"data", b"data")
    assert (read(client, writer, 0, 4), read(client, nobody, 0, 4)) == (denied, denied)
    assert (write(client, writer, 0, b"DATA"), write(client, reader, 0, b"x")) == (0, denied)
    flush = FlushRequest(FileId(reader, reader)).pack()
    assert client.call(Command.FLUSH, flush).status == denied
    size, times = bytes(8), bytes(36)
    assert set_info(client, writer, FileInfoClass.END_OF_FILE, size) == denied
    assert set_info(client, reader, FileInfoClass.ALLOCATION, size) == denied
    assert set_info(client, reader, FileInfoClass.BASIC, times) == denied
    assert set_info(client, reader, FileInfoClass.DISPOSITION, b"\x01") == denied
    assert rename(client, reader, "other") == denied
    assert read(client, reader, 0, 4) == b"DATA"


def test_share_access_holds_across_sessions(client):
    other = another(client.exporter)
    mine = make(client, "file", int(A.READ_DATA), share=int(ShareAccess.READ))
    assert other.create("file", READ_WRITE).status == NtStatus.SHARING_VIOLATION
    assert other.create("file", int(A.DELETE)).status == NtStatus.SHARING_VIOLATION
    assert other.create("file", int(A.READ_DATA)).status == 0
    close(client, mine)
    assert other.create("file", int(A.DELETE)).status == 0


def test_the_size_and_the_allocation_of_a_file_are_set(client):
    file = make(client, "file")
    assert set_info(client, file, FileInfoClass.END_OF_FILE, struct.pack("<q", 100)) == 0
    assert read(client, file, 0, 200) == bytes(100)
    assert set_info(client, file, FileInfoClass.ALLOCATION, struct.pack("<q", 1 << 19)) == 0
    assert len(read(client, file, 0, 200)) == 100
    assert set_info(client, file, FileInfoClass.ALLOCATION, struct.pack("<q", 50)) == 0
    assert len(read(client, file, 0, 200)) == 50
    assert set_info(client, file, FileInfoClass.END_OF_FILE, struct.pack("<q", SIZE + 1)) == NtStatus.DISK_FULL
    folder = mkdir(client, "folder")
    assert set_info(client, folder, FileInfoClass.END_OF_FILE, bytes(8)) == NtStatus.INVALID_PARAMETER


def basic(client: RawInitiator, file_id: int) -> tuple[int, ...]:
    return struct.unpack("<4QII", get_info(client, file_id, FileInfoClass.BASIC))[:5]


def test_writes_move_times_that_were_not_set(client, clock):
    file = make(client, "file")
    made, *_ = basic(client, file)
    clock.now_s += 1
    write(client, file, 0, b"x")
    later = made + 10_000_000
    assert basic(client, file) == (made, made, later, later, FileAttributes.ARCHIVE)
    hidden = struct.pack("<4qI", 0, 5, 7, 0, FileAttributes.HIDDEN)
    assert set_info(client, file, FileInfoClass.BASIC, hidden) == 0
    clock.now_s += 1
    write(client, file, 0, b"y")
    assert basic(client, file) == (made, 5, 7, later, FileAttributes.HIDDEN)
    resume = struct.pack("<4qI", 0, 0, -2, 0, FileAttributes.NORMAL)
    assert set_info(client, file, FileInfoClass.BASIC, resume) == 0
    write(client, file, 0, b"z")
    assert basic(client, file)[2:] == (later + 10_000_000, later + 10_000_000, FileAttributes.NORMAL)
    for wrong in (struct.pack("<4qI", 0, 0, -3, 0, 0), struct.pack("<4qI", 0, 0, 0, 0, FileAttributes.DIRECTORY)):
        assert set_info(client, file, FileInfoClass.BASIC, wrong) == NtStatus.INVALID_PARAMETER
    folder = mkdir(client, "folder")
    assert basic(client, folder)[4] == FileAttributes.DIRECTORY
    wrong = struct.pack("<4qI", 0, 0, 0, 0, FileAttributes.TEMPORARY)
    assert set_info(client, folder, FileInfoClass.BASIC, wrong) == NtStatus.INVALID_PARAMETER


def test_information_of_an_open_and_of_the_share(client):
    folder, file = mkdir(client, "folder"), make(client, "folder\\file")
    write(client, file, 0, bytes(5000))
    read(client, file, 0, 10)
    assert struct.unpack("<Q", get_info(client, file, FileInfoClass.POSITION)) == (10,)
    assert set_info(client, file, FileInfoClass.POSITION, struct.pack("<q", 77)) == 0
    assert struct.unpack("<Q", get_info(client, file, FileInfoClass.POSITION)) == (77,)
    assert set_info(client, file, FileInfoClass.DISPOSITION, b"\x01") == 0
    assert struct.unpack("<QQIBBH", get_info(client, file, FileInfoClass.STANDARD)) == (8192, 5000, 0, 1, 0, 0)
    assert struct.unpack("<QQIBBH", get_info(client, folder, FileInfoClass.STANDARD)) == (0, 0, 1, 0, 1, 0)
    name = get_info(client, file, FileInfoClass.NAME)
    assert name[4:].decode("utf-16-le") == "\\folder\\file"
    total, free, _, _, _ = struct.unpack("<QQQII", get_info(client, file, FsInfoClass.FULL_SIZE, InfoType.FILESYSTEM))
    assert (total, free) == (SIZE // 4096, (SIZE - 5000) // 4096)
    assert get_info(client, file, FileInfoClass.MODE) == bytes(4)
    assert set_info(client, file, FileInfoClass.MODE, struct.pack("<I", 2)) == 0
    assert get_info(client, file, FileInfoClass.MODE) == struct.pack("<I", 2)
    assert set_info(client, file, FileInfoClass.MODE, struct.pack("<I", 1)) == NtStatus.INVALID_PARAMETER


def test_every_open_of_a_file_gets_the_same_security_descriptor(client):
    """smbtorture's smb2.winattr compares the descriptors of two opens."""
    query = [
        QueryInfoRequest(FileId(file, file), InfoType.SECURITY, 0, 4096, 7).pack()
        for file in (make(client, "file"), make(client, "file", int(A.READ_CONTROL)))
    ]
    one, other = (QueryInfoResponse.unpack(client.call(Command.QUERY_INFO, body).body).output for body in query)
    assert one == other


def test_extended_attributes_and_streams_are_refused(client):
    for context, status in ((b"ExtA", NtStatus.EAS_NOT_SUPPORTED), (b"SecD", NtStatus.NOT_SUPPORTED)):
        reply = client.create("file", ALL, disposition=D.CREATE, contexts=((context, bytes(8)),))
        assert reply.status == status
    assert client.create("file:stream", disposition=D.CREATE).status == NtStatus.OBJECT_NAME_INVALID
    assert listing(client, client.open("", int(A.READ_DATA))) == [".", ".."]


def test_an_object_id_is_of_one_file(client):
    ids = []
    for name in ("one", "two", "one"):
        file = make(client, name)
        query = IoctlRequest(Fsctl.CREATE_OR_GET_OBJECT_ID, FileId(file, file), b"", 64)
        ids.append(IoctlResponse.unpack(client.call(Command.IOCTL, query.pack()).body).output)
    assert len(ids[0]) == 64
    assert ids[0] == ids[2] != ids[1]
    short = IoctlRequest(Fsctl.GET_OBJECT_ID, FileId(file, file), b"", 63)
    assert client.call(Command.IOCTL, short.pack()).status == NtStatus.INVALID_PARAMETER
    other = RawInitiator(client.exporter).log_in("n3", "disks")
    disk = other.open("disk0")
    query = IoctlRequest(Fsctl.CREATE_OR_GET_OBJECT_ID, FileId(disk, disk), b"", 64)
    assert other.call(Command.IOCTL, query.pack()).status == NtStatus.INVALID_DEVICE_REQUEST


def test_opens_are_limited(client, monkeypatch):
    monkeypatch.setattr(limits, "OPENS_PER_SESSION_MAX", 2)
    assert [client.create("file", disposition=D.OPEN_IF).status for _ in range(3)] == [
        0,
        0,
        NtStatus.INSUFFICIENT_RESOURCES,
    ]


# --- locks -----------------------------------------------------------------


def lock(client: RawInitiator, file_id: int, offset: int, length: int, flags: int) -> int:
    body = LockRequest(FileId(file_id, file_id), (LockElement(offset, length, int(flags)),))
    return client.call(Command.LOCK, body.pack()).status


def test_locks_of_a_scratch_file_keep_others_off(client):
    other = another(client.exporter)
    mine, theirs = make(client, "file"), make(other, "file")
    write(client, mine, 0, bytes(100))
    now = LockFlags.FAIL_IMMEDIATELY
    assert lock(client, mine, 10, 10, LockFlags.EXCLUSIVE_LOCK | now) == 0
    assert lock(other, theirs, 15, 1, LockFlags.SHARED_LOCK | now) == NtStatus.LOCK_NOT_GRANTED
    assert read(other, theirs, 0, 11) == NtStatus.FILE_LOCK_CONFLICT
    assert write(other, theirs, 19, b"x") == NtStatus.FILE_LOCK_CONFLICT
    assert read(other, theirs, 0, 10) == bytes(10)
    message_id = other.send(Command.LOCK, LockRequest(FileId(theirs, theirs), (LockElement(15, 1, 2),)).pack())
    assert other.take(message_id).status == NtStatus.PENDING
    close(client, mine)
    other.collect()
    assert other.take(message_id).status == 0
    assert lock(other, theirs, 15, 1, LockFlags.UNLOCK) == 0
    assert lock(other, mkdir(other, "folder"), 0, 1, LockFlags.SHARED_LOCK | now) == NtStatus.INVALID_PARAMETER

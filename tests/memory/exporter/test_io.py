"""READ, WRITE, FLUSH, CLOSE and CANCEL on disks: data, the end of the disk, refusals, and when answers come."""

import errno
import random

import pytest

from meshfs import limits
from meshfs.disk.base import Op
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds.disk import io as disk_io
from meshfs.exporter.state.directory import DirectoryState
from meshfs.model import Access, Security, decode_disks
from meshfs.smb.connection import Protection
from meshfs.smb.constants import AccessMask, Command, CreateOptions, NtStatus, WriteFlags
from meshfs.smb.messages import (
    CancelRequest,
    CloseRequest,
    CloseResponse,
    FileId,
    FlushRequest,
    IoctlRequest,
    IoctlResponse,
)
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import read_body, write_body

SIZE = 16 << 20
READ_ONLY = int(AccessMask.READ_DATA)
CANCEL = CancelRequest().pack()


def close_body(file_id: int, flags: int = 0) -> bytes:
    return CloseRequest(FileId(file_id, file_id), flags).pack()


def flush_body(file_id: int) -> bytes:
    return FlushRequest(FileId(file_id, file_id)).pack()


@pytest.fixture
def disk():
    return MemoryDisk(SIZE)


@pytest.fixture
def client(disk):
    client = RawInitiator(make_exporter(disk0=disk)).log_in()
    client.call(Command.ECHO, b"\x04\0\0\0", credits=500)
    return client


@pytest.mark.parametrize("security", list(Security))
def test_reads_return_written_data_at_every_size(disk, security):
    client = RawInitiator(make_exporter(security, disk0=disk)).log_in()
    client.call(Command.ECHO, b"\x04\0\0\0", credits=500)
    file_id = client.open("disk0")
    rng = random.Random(1)
    for size in (1, 511, 512, 4096, 32 * 1024, 65536, 65537, 1 << 20, 8 << 20):
        offset, data = rng.randrange(SIZE - size), rng.randbytes(size)
        charge = (size - 1) // 65536 + 1
        reply = client.call(Command.WRITE, write_body(file_id, offset, data), charge=charge, credits=charge)
        assert (reply.status, int.from_bytes(reply.body[4:8], "little")) == (0, size)
        assert disk.data[offset : offset + size] == data
        reply = client.call(Command.READ, read_body(file_id, offset, size), charge=charge, credits=charge)
        assert reply.status == 0
        assert reply.data == data
        assert reply.protection == (Protection.SEALED if client.sealed else Protection.SIGNED)
    # The last message stays in pooled memory until the next one is received.
    client.received.get_buffer()
    assert client.exporter.pool.used_bytes == 0


def test_a_batch_is_answered_in_one_go(client, disk):
    file_id = client.open("disk0")
    disk.data[:] = random.Random(2).randbytes(SIZE)
    packed = [client.pack(Command.READ, read_body(file_id, index * 4096, 4096)) for index in range(64)]
    client.deliver(*(frame for _, frame in packed))
    for index, (message_id, _) in enumerate(packed):
        assert client.take(message_id).data == disk.data[index * 4096 : index * 4096 + 4096]


def test_a_read_at_the_end_of_the_disk_is_cut_or_refused(client):
    file_id = client.open("disk0")

    def read(offset, length, minimum=0):
        return client.call(Command.READ, read_body(file_id, offset, length, minimum=minimum))

    assert len(read(SIZE - 100, 4096).data) == 100
    assert read(SIZE - 100, 4096, minimum=101).status == NtStatus.END_OF_FILE
    assert read(SIZE - 100, 4096, minimum=100).status == 0
    assert read(SIZE, 1).status == NtStatus.END_OF_FILE
    assert read(SIZE + 4096, 4096).status == NtStatus.END_OF_FILE
    assert read(0, 10, minimum=11).status == NtStatus.END_OF_FILE
    empty = read(0, 0)
    assert (empty.status, empty.data) == (0, b"")
    assert read((1 << 63), 1).status == NtStatus.INVALID_PARAMETER


def test_a_write_past_the_end_of_the_disk_is_refused(client):
    file_id = client.open("disk0")

    def write(offset, data):
        return client.call(Command.WRITE, write_body(file_id, offset, data)).status

    assert write(SIZE - 4, b"last") == 0
    assert write(SIZE - 4, b"past it") == NtStatus.DISK_FULL
    assert write(SIZE, b"x") == NtStatus.DISK_FULL
    assert write(SIZE, b"") == 0
    assert write((1 << 64) - 1, b"append") == NtStatus.INVALID_PARAMETER


def test_payloads_have_to_be_paid_for(client):
    file_id = client.open("disk0")
    assert client.call(Command.READ, read_body(file_id, 0, 65537)).status == NtStatus.INVALID_PARAMETER
    assert client.call(Command.READ, read_body(file_id, 0, 65536), charge=0).status == 0
    too_long = write_body(file_id, 0, bytes(65537))
    assert client.call(Command.WRITE, too_long).status == NtStatus.INVALID_PARAMETER
    assert client.call(Command.WRITE, too_long, charge=2).status == 0


def test_more_than_the_largest_io_is_invalid(client):
    file_id = client.open("disk0")
    body = read_body(file_id, 0, limits.IO_SIZE_MAX_BYTES + 1)
    assert client.call(Command.READ, body, charge=129).status == NtStatus.INVALID_PARAMETER


def test_rdma_channels_are_invalid(client):
    file_id = client.open("disk0")
    assert client.call(Command.READ, read_body(file_id, 0, 512, channel=1)).status == NtStatus.INVALID_PARAMETER


def test_rights_of_the_open_count(client):
    reader, writer = client.open("disk0", READ_ONLY), client.open("disk0", int(AccessMask.WRITE_DATA))
    assert client.call(Command.WRITE, write_body(reader, 0, b"x")).status == NtStatus.ACCESS_DENIED
    assert client.call(Command.FLUSH, flush_body(reader)).status == NtStatus.ACCESS_DENIED
    assert client.call(Command.READ, read_body(writer, 0, 1)).status == NtStatus.ACCESS_DENIED
    assert client.call(Command.FLUSH, flush_body(writer)).status == 0


def test_write_through_reaches_the_disk_as_such(disk, client):
    seen = []
    disk.stall(lambda request: seen.append((request.op, request.write_through)) or False)
    file_id = client.open("disk0")
    client.call(Command.WRITE, write_body(file_id, 0, b"x", flags=WriteFlags.WRITE_THROUGH))
    client.call(Command.WRITE, write_body(file_id, 0, b"x"))
    assert client.create("disk0", options=CreateOptions.WRITE_THROUGH).status == 0
    again = max(client.peer.sessions[client.session_id].opens)
    client.call(Command.WRITE, write_body(again, 0, b"x"))
    assert seen == [(Op.WRITE, True), (Op.WRITE, False), (Op.WRITE, True)]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (errno.EIO, NtStatus.IO_DEVICE_ERROR),
        (errno.ENOSPC, NtStatus.DISK_FULL),
        (errno.EROFS, NtStatus.MEDIA_WRITE_PROTECTED),
        (errno.ENODATA, NtStatus.DEVICE_DATA_ERROR),
    ],
)
def test_errors_of_the_disk_reach_the_initiator(disk, client, code, status):
    file_id = client.open("disk0")
    disk.fail(4096, 8192, code)
    assert client.call(Command.READ, read_body(file_id, 0, 8192)).status == status
    assert client.call(Command.WRITE, write_body(file_id, 4096, b"x")).status == status
    assert client.call(Command.FLUSH, flush_body(file_id)).status == status
    assert client.call(Command.READ, read_body(file_id, 0, 4096)).status == 0
    assert client.exporter.pool.used_bytes == 0


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("an error of ours")


def test_replies_of_later_completions_are_sent_then(disk, client):
    woken = []
    client.exporter.batches.on_dirty = lambda: woken.append(True)
    file_id = client.open("disk0")
    disk.stall()
    ids = [client.send(Command.READ, read_body(file_id, 0, 512)) for _ in range(3)]
    assert not woken
    disk.release()
    assert woken == [True]
    client.collect()
    assert [client.take(message_id).status for message_id in ids] == [0, 0, 0]


def test_a_failing_watcher_of_disks_keeps_no_replies_back(disk, client, monkeypatch):
    """If a fault of ours ends the report of a changed disk, the batch still ends, and later replies are sent."""
    file_id = client.open("disk0")
    client.open("", READ_ONLY)
    monkeypatch.setattr(DirectoryState, "changed", fail)
    with pytest.raises(RuntimeError):
        client.exporter.disks.modified(client.exporter.disks.all()[0])
    woken = []
    client.exporter.batches.on_dirty = lambda: woken.append(True)
    disk.stall()
    message_id = client.send(Command.READ, read_body(file_id, 0, 512))
    disk.release()
    assert woken == [True]
    client.collect()
    assert client.take(message_id).status == 0


@pytest.mark.parametrize("compound", [False, True])
def test_a_reply_that_cannot_be_made_gives_its_memory_back(client, disk, monkeypatch, compound):
    """If a fault of ours ends the making of a reply, the connection ends, and the node gets its memory back."""
    file_id = client.open("disk0")
    disk.stall()
    body = read_body(file_id, 0, 65536)
    if compound:
        client.compound((Command.READ, body, {}), (Command.READ, body, {}))
    else:
        client.send(Command.READ, body)
    client.received.get_buffer()
    assert client.exporter.pool.used_bytes == 65536
    monkeypatch.setattr(Request, "packed", fail)
    monkeypatch.setattr(disk_io, "pack_read_response_frame", fail)
    disk.release()
    assert client.peer.closing
    assert client.exporter.pool.used_bytes == 0


# --- CLOSE is a fence ------------------------------------------------------------------


def test_close_is_answered_when_no_io_is_at_the_disk_and_cancels_queued_io(disk):
    client = RawInitiator(make_exporter(disk0=disk, depth=1)).log_in()
    file_id = client.open("disk0")
    disk.stall()
    at_disk = client.send(Command.WRITE, write_body(file_id, 0, b"at the disk"))
    queued = client.send(Command.WRITE, write_body(file_id, 0, b"queued"))
    closing = client.send(Command.CLOSE, close_body(file_id))
    assert client.take(queued).status == NtStatus.CANCELLED
    assert not client.answered(at_disk)
    assert not client.answered(closing)
    assert client.call(Command.READ, read_body(file_id, 0, 1)).status == NtStatus.FILE_CLOSED
    disk.release()
    client.collect()
    assert [reply.message_id for reply in client.replies] == [at_disk, closing]
    assert client.take(closing).status == client.take(at_disk).status == 0
    assert disk.data[:11] == b"at the disk"
    assert client.exporter.pool.used_bytes == 0


def test_close_returns_attributes_if_asked_for(client):
    reply = client.call(Command.CLOSE, close_body(client.open("disk0"), flags=1))
    assert CloseResponse.unpack(reply.body).size_bytes == SIZE
    reply = client.call(Command.CLOSE, close_body(client.open("disk0")))
    assert CloseResponse.unpack(reply.body) == CloseResponse()


def test_a_closed_file_is_closed(client):
    file_id = client.open("disk0")
    assert client.call(Command.CLOSE, close_body(file_id)).status == 0
    assert client.call(Command.CLOSE, close_body(file_id)).status == NtStatus.FILE_CLOSED


# --- CANCEL ----------------------------------------------------------------------------


def test_a_queued_read_can_be_cancelled(disk):
    client = RawInitiator(make_exporter(disk0=disk, depth=1)).log_in()
    file_id = client.open("disk0")
    disk.stall()
    at_disk = client.send(Command.READ, read_body(file_id, 0, 512))
    queued = client.send(Command.READ, read_body(file_id, 512, 512))
    client.send(Command.CANCEL, CANCEL, message_id=queued)
    assert client.take(queued).status == NtStatus.CANCELLED
    # A READ that is at the disk ends by itself.
    client.send(Command.CANCEL, CANCEL, message_id=at_disk)
    assert not client.answered(at_disk)
    disk.release()
    client.collect()
    assert client.take(at_disk).status == 0


def test_cancel_of_nothing_is_ignored(client):
    client.send(Command.CANCEL, CANCEL, message_id=1000)
    client.send(Command.CANCEL, CANCEL, message_id=1, flags=2, async_id=99)
    assert not client.replies


def test_a_forged_cancel_is_ignored(disk):
    client = RawInitiator(make_exporter(disk0=disk, depth=1)).log_in()
    file_id = client.open("disk0")
    disk.stall()
    client.send(Command.READ, read_body(file_id, 0, 512))
    queued = client.send(Command.READ, read_body(file_id, 512, 512))
    client.send(Command.CANCEL, CANCEL, message_id=queued, sign=False)
    assert client.exporter.counters["cancels_refused"] == 1
    frame = client.pack(Command.CANCEL, CANCEL, message_id=queued)[1]
    frame[60] ^= 1
    client.deliver(frame)
    assert not client.answered(queued)
    assert client.exporter.counters["bad_signatures"] == 1
    assert client.peer.closing
    disk.release()


# --- disks on offer --------------------------------------------------------------------


def query_disks(client: RawInitiator, file_id: int):
    body = IoctlRequest(0x00146004, FileId(file_id, file_id), b"", 65536)
    reply = client.call(Command.IOCTL, body.pack())
    assert reply.status == 0
    return decode_disks(IoctlResponse.unpack(reply.body).output)


def test_a_node_sees_the_disks_that_it_may_use():
    rules = {"disk0": {"n2": Access.NONE}, "disk1": {"n2": Access.READ_ONLY}}
    server = make_exporter(disk0=MemoryDisk(4096), disk1=MemoryDisk(8192), disk2=MemoryDisk(512), allow=rules)
    seen = {}
    for node in ("n2", "n3"):
        client = RawInitiator(server).log_in(node)
        root = client.open("", READ_ONLY)
        seen[node] = {disk.name: (disk.access, disk.size_bytes) for disk in query_disks(client, root)}
        if node == "n2":
            assert client.create("disk0").status == NtStatus.OBJECT_NAME_NOT_FOUND
            assert client.create("disk1").status == NtStatus.ACCESS_DENIED
            assert [disk.name for disk in query_disks(client, client.open("disk1", READ_ONLY))] == ["disk1"]
    assert seen["n2"] == {"disk1": (Access.READ_ONLY, 8192), "disk2": (Access.READ_WRITE, 512)}
    assert set(seen["n3"]) == {"disk0", "disk1", "disk2"}


def test_a_read_only_disk_is_write_protected():
    client = RawInitiator(make_exporter(disk0=MemoryDisk(4096, read_only=True))).log_in()
    assert client.create("disk0").status == NtStatus.MEDIA_WRITE_PROTECTED
    assert client.create("disk0", READ_ONLY).status == 0


def test_the_flow_is_the_node_and_the_class_of_the_share(disk):
    server, flows = make_exporter(disk0=disk), []
    disk.stall(lambda request: flows.append(request.flow) or False)
    for node, share in (("n2", "disks"), ("n3", "disks-system")):
        client = RawInitiator(server).log_in(node, share)
        client.call(Command.READ, read_body(client.open("disk0"), 0, 512))
    assert flows == [("n2", "app"), ("n3", "system")]


def test_a_withdrawn_disk_ends_its_opens(disk, client):
    file_id = client.open("disk0")
    disk.stall()
    at_disk = client.send(Command.READ, read_body(file_id, 0, 512))
    gone = []
    client.exporter.disks.withdraw("disk0", gone.append)
    assert client.call(Command.READ, read_body(file_id, 0, 512)).status == NtStatus.FILE_CLOSED
    assert client.create("disk0").status == NtStatus.OBJECT_NAME_NOT_FOUND
    assert not gone
    disk.release()
    assert len(gone) == 1
    client.collect()
    assert client.take(at_disk).status == 0


def test_a_node_that_may_do_less_loses_the_opens_that_do_more(disk, client):
    writer, reader = client.open("disk0"), client.open("disk0", READ_ONLY)
    offered = client.exporter.disks.all()[0]
    offered.allow = lambda node: Access.READ_ONLY
    client.exporter.disks.enforce(offered)
    assert client.call(Command.WRITE, write_body(writer, 0, b"x")).status == NtStatus.FILE_CLOSED
    assert client.call(Command.READ, read_body(reader, 0, 1)).status == 0
    offered.allow = lambda node: Access.NONE
    client.exporter.disks.enforce(offered)
    assert client.call(Command.READ, read_body(reader, 0, 1)).status == NtStatus.FILE_CLOSED

"""A node that may only read a disk stops no writer: neither by share access nor by locks, and not when it ends."""

import pytest

from meshfs.model import Access
from meshfs.smb.constants import AccessMask, Command, CreateDisposition, LockFlags, NtStatus, ShareAccess
from meshfs.smb.messages import CloseRequest, FileId, LockElement, LockRequest
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import READ_WRITE, SHARE_ALL, read_body, write_body

READ = int(AccessMask.READ_DATA)
R, W = int(ShareAccess.READ), int(ShareAccess.WRITE)
EXCLUSIVE, SHARED, NOW, UNLOCK = (
    int(LockFlags.EXCLUSIVE_LOCK),
    int(LockFlags.SHARED_LOCK),
    int(LockFlags.FAIL_IMMEDIATELY),
    int(LockFlags.UNLOCK),
)


@pytest.fixture
def pair():
    """Return a client of n2, which may write disk0, and a client of n3, which may only read it."""
    exporter = make_exporter(allow={"disk0": {"n3": Access.READ_ONLY}}, disk0=MemoryDisk(1 << 20))
    clients = RawInitiator(exporter).log_in("n2"), RawInitiator(exporter).log_in("n3", "disks-system")
    for client in clients:
        client.call(Command.ECHO, b"\x04\0\0\0", credits=200)
    return clients


def lock(client: RawInitiator, file_id: int, *elements: tuple[int, int, int]) -> int:
    body = LockRequest(FileId(file_id, file_id), tuple(LockElement(*element) for element in elements)).pack()
    return client.call(Command.LOCK, body).status


@pytest.mark.parametrize("share", [0, R, W, R | W])
def test_an_open_that_shares_nothing_stops_no_writer(pair, share):
    writer, reader = pair
    held = reader.open("disk0", READ, share)
    mine = writer.open("disk0", READ_WRITE, SHARE_ALL)
    assert writer.call(Command.WRITE, write_body(mine, 0, b"data")).status == 0
    assert reader.call(Command.READ, read_body(held, 0, 4)).data == b"data"


def test_an_open_to_read_stops_no_writer_that_wants_to_be_alone(pair):
    writer, reader = pair
    held = reader.open("disk0", READ)
    mine = writer.open("disk0", READ_WRITE, share=0)
    assert writer.call(Command.WRITE, write_body(mine, 0, b"data")).status == 0
    assert reader.call(Command.READ, read_body(held, 0, 4)).status == 0


def test_a_reader_is_refused_beside_a_writer_that_it_does_not_share_with_or_that_does_not_share_with_it(pair):
    writer, reader = pair
    mine = writer.open("disk0")
    assert reader.create("disk0", READ, R).status == NtStatus.SHARING_VIOLATION
    assert reader.create("disk0", READ, R | W).status == 0
    writer.call(Command.CLOSE, CloseRequest(FileId(mine, mine)).pack())
    writer.open("disk0", READ_WRITE, share=0)
    assert reader.create("disk0", READ).status == NtStatus.SHARING_VIOLATION


def test_a_node_that_may_write_excludes_others_also_by_an_open_to_read(pair):
    """The config lets the node write, and programs rely on share access."""
    writer, _ = pair
    other = RawInitiator(writer.exporter).log_in("n1")
    writer.open("disk0", READ, R)
    assert other.create("disk0", READ_WRITE).status == NtStatus.SHARING_VIOLATION


@pytest.mark.parametrize("flags", [EXCLUSIVE | NOW, SHARED | NOW, EXCLUSIVE, SHARED])
def test_a_lock_of_a_reader_is_refused_and_writers_go_on(pair, flags):
    writer, reader = pair
    mine, held = writer.open("disk0"), reader.open("disk0", READ)
    assert lock(reader, held, (0, 1 << 20, flags)) == NtStatus.ACCESS_DENIED
    assert writer.call(Command.WRITE, write_body(mine, 0, b"data")).status == 0
    assert lock(writer, mine, (0, 1 << 20, EXCLUSIVE | NOW)) == 0
    assert reader.call(Command.READ, read_body(held, 0, 4)).status == NtStatus.FILE_LOCK_CONFLICT
    assert lock(reader, held, (0, 1 << 20, UNLOCK)) == NtStatus.RANGE_NOT_LOCKED


@pytest.mark.parametrize(
    "disposition", [CreateDisposition.OVERWRITE, CreateDisposition.OVERWRITE_IF, CreateDisposition.SUPERSEDE]
)
def test_a_reader_overwrites_nothing(pair, disposition):
    writer, reader = pair
    mine = writer.open("disk0")
    writer.call(Command.WRITE, write_body(mine, 0, b"data"))
    assert reader.create("disk0", READ, SHARE_ALL, disposition).status == NtStatus.ACCESS_DENIED
    assert writer.call(Command.READ, read_body(mine, 0, 4)).data == b"data"


def test_a_reader_does_not_flush(pair):
    """A flood of flushes would delay the writers."""
    _, reader = pair
    held = reader.open("disk0", READ)
    body = b"\x18\0\0\0\0\0\0\0" + held.to_bytes(8, "little") * 2
    assert reader.call(Command.FLUSH, body).status == NtStatus.ACCESS_DENIED


def demote(client: RawInitiator, *nodes: str) -> None:
    disk = client.exporter.disks.all()[0]
    disk.allow = lambda node: Access.READ_ONLY if node in nodes else Access.READ_WRITE
    client.exporter.batches.begin()
    client.exporter.disks.enforce(disk)
    client.exporter.batches.end()


def test_a_node_that_becomes_a_reader_loses_its_locks_and_its_part_in_share_access(pair):
    """Opens for reading stay. Opens for writing are closed, as with any reload."""
    _, reader = pair
    other = RawInitiator(reader.exporter).log_in("n2")
    demote(reader)
    held, written = reader.open("disk0", READ, R | W), reader.open("disk0", READ_WRITE)
    assert lock(reader, held, (0, 10, EXCLUSIVE | NOW), (20, 0, SHARED | NOW)) == 0
    mine = other.open("disk0", READ_WRITE)
    assert other.call(Command.WRITE, write_body(mine, 0, b"data")).status == NtStatus.FILE_LOCK_CONFLICT
    demote(reader, "n3")
    assert other.call(Command.WRITE, write_body(mine, 0, b"data")).status == 0
    assert lock(other, mine, (0, 100, EXCLUSIVE | NOW)) == 0
    assert other.create("disk0", READ_WRITE, W).status == NtStatus.SHARING_VIOLATION, "the first open of n2 reads"
    other.call(Command.CLOSE, CloseRequest(FileId(mine, mine)).pack())
    assert other.create("disk0", READ_WRITE, 0).status == 0
    assert reader.call(Command.READ, read_body(held, 0, 4)).data == b"data"
    assert reader.call(Command.READ, read_body(written, 0, 4)).status == NtStatus.FILE_CLOSED
    assert lock(reader, held, (0, 10, EXCLUSIVE | NOW)) == NtStatus.ACCESS_DENIED


def test_a_lock_that_waits_ends_when_its_node_becomes_a_reader(pair):
    _, reader = pair
    other = RawInitiator(reader.exporter).log_in("n2")
    demote(reader)
    mine, held = other.open("disk0"), reader.open("disk0", READ)
    assert lock(other, mine, (0, 10, EXCLUSIVE | NOW)) == 0
    body = LockRequest(FileId(held, held), (LockElement(0, 10, EXCLUSIVE),)).pack()
    message_id = reader.send(Command.LOCK, body)
    assert reader.take(message_id).status == NtStatus.PENDING
    demote(reader, "n3")
    reader.collect()
    assert reader.take(message_id).status == NtStatus.ACCESS_DENIED
    assert lock(other, mine, (0, 10, UNLOCK)) == 0
    assert not reader.exporter.disks.all()[0].lock_waiters
    assert not reader.exporter.disks.all()[0].locks


def test_a_lock_that_a_reader_lets_go_goes_to_whoever_waits(pair):
    _, reader = pair
    other = RawInitiator(reader.exporter).log_in("n2")
    demote(reader)
    held, mine = reader.open("disk0", READ), other.open("disk0")
    assert lock(reader, held, (0, 10, EXCLUSIVE | NOW)) == 0
    message_id = other.send(Command.LOCK, LockRequest(FileId(mine, mine), (LockElement(5, 1, EXCLUSIVE),)).pack())
    assert other.take(message_id).status == NtStatus.PENDING
    demote(reader, "n3")
    other.collect()
    assert other.take(message_id).status == 0


def test_a_reader_whose_read_never_ends_stops_no_writer(pair):
    """The open of the reader stays until the read ends. Meanwhile it excludes nobody."""
    writer, reader = pair
    disk = writer.exporter.disks.all()[0]
    disk.runner.disk.stall()
    held = reader.open("disk0", READ, 0)
    message_id = reader.send(Command.READ, read_body(held, 0, 4))
    reader.peer.lost()
    assert not reader.answered(message_id)
    assert len(disk.opens) == 1
    assert writer.create("disk0", READ_WRITE, 0).status == 0


def test_a_closed_open_gives_up_no_share_access_of_another(pair):
    """A reload visits all opens of a disk. The end of one may already have closed another."""
    writer, _ = pair
    first, second = writer.open("disk0", READ, R), writer.open("disk0", READ, R)
    disk = writer.exporter.disks.all()[0]
    gone = writer.exporter.sessions[writer.session_id].opens[first]
    writer.call(Command.CLOSE, CloseRequest(FileId(first, first)).pack())
    gone.stop_excluding()
    assert disk.share_counts.conflicts(READ_WRITE, SHARE_ALL), f"open {second} still excludes writers"

"""FSCTL_FILE_LEVEL_TRIM at the exporter: what is discarded, what is refused, and when the answer comes."""

import errno
import struct

import pytest

from meshfs import limits
from meshfs.disk.base import DiskRequest, Op
from meshfs.granules import NO_GRANULES, Granules
from meshfs.model import Access
from meshfs.smb.constants import AccessMask, Command, CreateOptions, Fsctl, InfoType, NtStatus
from meshfs.smb.info import FsInfoClass
from meshfs.smb.messages import (
    CancelRequest,
    CreateResponse,
    EchoRequest,
    FileId,
    IoctlRequest,
    IoctlResponse,
    LockElement,
    LockRequest,
    QueryInfoRequest,
    QueryInfoResponse,
    TrimOutput,
    TrimRanges,
)
from meshlab.fakes.memory_disk import DISCARDED, MemoryDisk
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import Reply, write_body

MIB = limits.MIB
SIZE = 32 * MIB
GRANULE = 65536
FULL = b"\xaa" * SIZE
FIRST = limits.ZERO_PIECE_BYTES
EXCLUSIVE_NOW = 0x2 | 0x10
Ranges = tuple[tuple[int, int], ...]


@pytest.fixture
def disk() -> MemoryDisk:
    disk = MemoryDisk(SIZE, granules=Granules(GRANULE))
    disk.data[:] = FULL
    return disk


def client_of(exporter, user: str = "n2") -> RawInitiator:
    client = RawInitiator(exporter).log_in(user, "disks", to_be_bound=True)
    client.call(Command.ECHO, EchoRequest().pack(), credits=100)
    return client


@pytest.fixture
def client(disk: MemoryDisk) -> RawInitiator:
    return client_of(make_exporter(disk0=disk))


def trim_body(file_id: int, data: bytes, output_bytes_max: int = 4) -> bytes:
    return IoctlRequest(Fsctl.FILE_LEVEL_TRIM, FileId(file_id, file_id), data, output_bytes_max).pack()


def trim(client: RawInitiator, file_id: int, *ranges: tuple[int, int]) -> Reply:
    """Return the last reply. A trim of several ranges is asynchronous."""
    reply = client.call(Command.IOCTL, trim_body(file_id, TrimRanges(ranges).pack()))
    return client.take(reply.message_id) if reply.status == NtStatus.PENDING else reply


def processed(reply: Reply) -> int:
    assert reply.status == 0
    return TrimOutput.unpack(IoctlResponse.unpack(reply.body).output).ranges_processed


def discarded(*ranges: tuple[int, int]) -> bytes:
    expected = bytearray(FULL)
    for start, stop in ranges:
        expected[start:stop] = DISCARDED * (stop - start)
    return bytes(expected)


def test_the_layouts_are_those_of_the_specification() -> None:
    """MS-FSCC 2.3.13: Key and NumRanges (4 bytes), then Offset and Length (8 bytes) each. 2.3.14: 4 bytes."""
    packed = TrimRanges(((0x0102, 0x0304), (5, 6))).pack()
    assert packed == bytes.fromhex("00000000 02000000 0201000000000000 0403000000000000") + struct.pack("<QQ", 5, 6)
    assert TrimRanges.unpack(packed) == TrimRanges(((0x0102, 0x0304), (5, 6)))
    assert TrimOutput(0x0201).pack() == bytes.fromhex("01020000")


def test_whole_granules_inside_the_ranges_are_discarded(client, disk) -> None:
    file_id = client.open("disk0")
    assert processed(trim(client, file_id, (100, 2 * GRANULE), (4 * GRANULE, GRANULE), (MIB, 10))) == 3
    assert disk.data == discarded((GRANULE, 2 * GRANULE), (4 * GRANULE, 5 * GRANULE))


def test_what_lies_past_the_end_is_left_out(client, disk) -> None:
    file_id = client.open("disk0")
    assert processed(trim(client, file_id, (SIZE - GRANULE, 1 << 40), (SIZE + 5, 4096))) == 2
    assert disk.data == discarded((SIZE - GRANULE, SIZE))
    assert trim(client, file_id, (SIZE, 1 << 40)).status == NtStatus.NO_RANGES_PROCESSED


def test_ranges_without_a_granule_count_as_processed_if_another_one_is_discarded(client, disk) -> None:
    file_id = client.open("disk0")
    assert trim(client, file_id, (1, GRANULE), (0, 0)).status == NtStatus.NO_RANGES_PROCESSED
    assert processed(trim(client, file_id, (0, 0), (1, GRANULE), (GRANULE, GRANULE), (7, 7))) == 4
    assert disk.data == discarded((GRANULE, 2 * GRANULE))


@pytest.mark.parametrize(
    ("data", "output_bytes_max", "status"),
    [
        (b"", 4, NtStatus.INVALID_PARAMETER),
        (bytes(7), 4, NtStatus.INVALID_PARAMETER),
        (TrimRanges(()).pack(), 4, NtStatus.INVALID_PARAMETER),
        (TrimRanges(((0, SIZE),), key=1).pack(), 4, NtStatus.INVALID_PARAMETER),
        (TrimRanges(((0, SIZE),)).pack(), 3, NtStatus.INVALID_PARAMETER),
        (TrimRanges(((0, SIZE), (0, SIZE))).pack()[:-1], 4, NtStatus.INVALID_PARAMETER),
        (TrimRanges(((0, SIZE), ((1 << 64) - 4096, 8192))).pack(), 4, NtStatus.INTEGER_OVERFLOW),
    ],
    ids=["empty", "short", "no range", "a key", "no room for the answer", "less than it says", "overflow"],
)
def test_a_request_that_makes_no_sense_is_refused(client, disk, data: bytes, output_bytes_max: int, status) -> None:
    reply = client.call(Command.IOCTL, trim_body(client.open("disk0"), data, output_bytes_max))
    assert reply.status == status
    assert disk.data == FULL


def test_a_count_of_four_billion_ranges_allocates_nothing(client) -> None:
    data = struct.pack("<II", 0, 0xFFFFFFFF) + bytes(16)
    assert client.call(Command.IOCTL, trim_body(client.open("disk0"), data)).status == NtStatus.INVALID_PARAMETER


def test_more_ranges_than_the_limit_are_not_processed(client, disk) -> None:
    ranges = [(index * GRANULE, GRANULE) for index in range(limits.TRIM_RANGES_MAX + 5)]
    message_id = client.send(
        Command.IOCTL, trim_body(client.open("disk0"), TrimRanges(tuple(ranges)).pack()), credits=10
    )
    assert client.take(message_id).status == NtStatus.PENDING
    assert processed(client.take(message_id)) == limits.TRIM_RANGES_MAX
    assert disk.data == discarded((0, limits.TRIM_RANGES_MAX * GRANULE))


def test_needs_the_right_to_write(client, disk) -> None:
    assert trim(client, client.open("disk0", int(AccessMask.READ_DATA)), (0, SIZE)).status == NtStatus.ACCESS_DENIED
    exporter = make_exporter(allow={"disk0": {"n3": Access.READ_ONLY}}, disk0=disk)
    other = client_of(exporter, "n3")
    opened = other.open("disk0", int(AccessMask.READ_DATA))
    assert trim(other, opened, (0, SIZE)).status == NtStatus.ACCESS_DENIED
    assert disk.data == FULL


def test_only_disks_can_be_trimmed(client) -> None:
    assert trim(client, client.open("", int(AccessMask.READ_DATA)), (0, 1)).status == NtStatus.INVALID_DEVICE_REQUEST
    assert trim(client, 4711, (0, 1)).status == NtStatus.FILE_CLOSED


def test_respects_the_locks_of_others(client, disk) -> None:
    other = client_of(client.exporter, "n3")
    theirs, mine = other.open("disk0"), client.open("disk0")
    lock = LockRequest(FileId(theirs, theirs), (LockElement(GRANULE + 10, 10, EXCLUSIVE_NOW),))
    assert other.call(Command.LOCK, lock.pack()).status == 0
    assert trim(client, mine, (0, GRANULE), (GRANULE, GRANULE)).status == NtStatus.FILE_LOCK_CONFLICT
    assert disk.data == FULL
    assert processed(trim(client, mine, (0, GRANULE))) == 1
    assert processed(trim(other, theirs, (GRANULE, GRANULE))) == 1


def test_a_disk_that_cannot_discard_says_so(disk) -> None:
    disk.granules = NO_GRANULES
    client = client_of(make_exporter(disk0=disk))
    assert trim(client, client.open("disk0"), (0, SIZE)).status == NtStatus.INVALID_DEVICE_REQUEST
    assert not sector_flags(client) & 0x8


def sector_flags(client: RawInitiator) -> int:
    file_id = client.open("disk0")
    body = QueryInfoRequest(FileId(file_id, file_id), InfoType.FILESYSTEM, FsInfoClass.SECTOR_SIZE, 4096).pack()
    reply = client.call(Command.QUERY_INFO, body)
    flags: int = struct.unpack("<7I", QueryInfoResponse.unpack(reply.body).output)[4]
    return flags


def test_a_client_learns_that_the_disk_can_trim(client) -> None:
    """SSINFO_FLAGS_TRIM_ENABLED of FileFsSectorSizeInformation (MS-FSCC 2.5.7)."""
    assert sector_flags(client) & 0x8


def test_a_device_that_turns_out_not_to_discard_is_an_error(client, disk) -> None:
    file_id = client.open("disk0")
    disk.granules = NO_GRANULES
    assert trim(client, file_id, (0, SIZE)).status == NtStatus.NOT_SUPPORTED


def test_an_error_after_some_ranges_says_how_many_are_done(client, disk) -> None:
    file_id = client.open("disk0")
    disk.fail(2 * GRANULE, 3 * GRANULE, errno.EIO, (Op.DISCARD,))
    assert trim(client, file_id, (2 * GRANULE, GRANULE), (0, GRANULE)).status == NtStatus.IO_DEVICE_ERROR
    assert processed(trim(client, file_id, (0, GRANULE), (2 * GRANULE, GRANULE), (4 * GRANULE, GRANULE))) == 1
    assert disk.data == discarded((0, GRANULE))


def test_a_disk_is_sparse_already(client, disk) -> None:
    """The kernel's cifs client sets a file sparse before it punches a hole by SET_ZERO_DATA."""
    file_id = client.open("disk0")

    def set_sparse(data: bytes, file_id: int = file_id) -> int:
        return client.call(
            Command.IOCTL, IoctlRequest(Fsctl.SET_SPARSE, FileId(file_id, file_id), data, 0).pack()
        ).status

    assert set_sparse(b"") == set_sparse(b"\1") == 0
    assert set_sparse(b"\0") == NtStatus.INVALID_PARAMETER
    assert set_sparse(b"\1", client.open("disk0", int(AccessMask.READ_DATA))) == NtStatus.ACCESS_DENIED
    assert disk.data == FULL


# --- in pieces ---------------------------------------------------------------------------


def held(disk: MemoryDisk) -> list[tuple[int, int]]:
    return [(request.offset, request.length) for request in disk._stalled]


def begin(client: RawInitiator, disk: MemoryDisk, ranges: Ranges = ((0, SIZE),)) -> int:
    """Start a discard of several pieces, of which the first is held at the disk. Return its message id."""
    disk.stall(lambda request: request.op == Op.DISCARD)
    message_id = client.send(Command.IOCTL, trim_body(client.open("disk0"), TrimRanges(ranges).pack()))
    assert client.take(message_id).status == NtStatus.PENDING
    return message_id


def let_one_go(disk: MemoryDisk) -> None:
    first: DiskRequest = disk._stalled[0]
    disk.release(lambda request: request is first)


def test_a_long_discard_goes_piece_by_piece_and_its_pieces_end_where_granules_begin(client, disk) -> None:
    start = 2 * GRANULE
    message_id = begin(client, disk, ((start - 5, SIZE),))
    assert held(disk) == [(start, FIRST)]
    let_one_go(disk)
    # The exporter's clock stands still, so the first piece took no time.
    assert held(disk) == [(start + FIRST, 2 * FIRST)]
    disk.release()
    client.collect()
    assert processed(client.take(message_id)) == 1
    assert disk.data == discarded((start, SIZE))


def test_pieces_have_at_least_one_granule(disk) -> None:
    disk.granules = Granules(16 * MIB, 4 * MIB)
    client = client_of(make_exporter(disk0=disk))
    disk.stall(lambda request: request.op == Op.DISCARD)
    client.send(Command.IOCTL, trim_body(client.open("disk0"), TrimRanges(((0, SIZE),)).pack()))
    assert held(disk) == [(4 * MIB, 16 * MIB)]
    disk.release()
    assert disk.data == discarded((4 * MIB, 20 * MIB))


def test_a_read_of_another_node_waits_at_most_for_one_piece(disk) -> None:
    """The disk takes one request at a time. A read that comes during the first piece goes before the second."""
    client = client_of(make_exporter(depth=1, disk0=disk))
    begin(client, disk)
    other = client_of(client.exporter, "n3")
    writing = other.send(Command.WRITE, write_body(other.open("disk0"), 0, b"other"))
    let_one_go(disk)
    other.collect()
    assert other.take(writing).status == 0
    assert held(disk) == [(FIRST, 2 * FIRST)]
    disk.release()
    # The write came after the discard of its range, so it is kept.
    assert disk.data[:5] == b"other"


def test_a_range_that_another_open_locks_meanwhile_is_not_discarded(client, disk) -> None:
    message_id = begin(client, disk)
    other = client_of(client.exporter, "n3")
    theirs = other.open("disk0")
    lock = LockRequest(FileId(theirs, theirs), (LockElement(SIZE - 10, 10, EXCLUSIVE_NOW),))
    assert other.call(Command.LOCK, lock.pack()).status == 0
    assert other.call(Command.WRITE, write_body(theirs, SIZE - 10, b"other")).status == 0
    disk.release()
    client.collect()
    assert client.take(message_id).status == NtStatus.FILE_LOCK_CONFLICT
    assert disk.data[FIRST:] == FULL[FIRST:-10] + b"other" + FULL[-5:]


def test_a_cancelled_discard_is_answered_when_its_piece_has_left_the_disk(client, disk) -> None:
    message_id = begin(client, disk)
    client.deliver(client.pack(Command.CANCEL, CancelRequest().pack(), message_id=message_id)[1])
    assert not client.answered(message_id)
    disk.release()
    client.collect()
    assert client.take(message_id).status == NtStatus.CANCELLED
    assert disk.data == discarded((0, FIRST))


def test_the_end_of_its_connection_ends_the_rest(client, disk) -> None:
    begin(client, disk)
    client.peer.lost()
    disk.release()
    assert disk.data == discarded((0, FIRST))


def test_a_discard_moves_the_time_of_the_last_write(client, disk) -> None:
    offered = next(iter(client.exporter.disks.visible("n2")))
    before = offered.written_ns()
    trim(client, client.open("disk0"), (0, GRANULE))
    assert offered.written_ns() > before


def test_an_open_for_write_through_discards_as_any_other(client, disk) -> None:
    reply = client.create("disk0", options=int(CreateOptions.WRITE_THROUGH))
    assert processed(trim(client, CreateResponse.unpack(reply.body).file_id.volatile, (0, GRANULE))) == 1

"""FSCTL_SET_ZERO_DATA at the exporter: what is zeroed, what is refused, and when the answer comes."""

import errno
import struct

import pytest

from meshfs import limits
from meshfs.disk.base import DiskRequest, Op
from meshfs.exporter.kinds.disk.pieces import next_piece_bytes
from meshfs.model import Access
from meshfs.smb.constants import AccessMask, Command, CreateOptions, Flags, Fsctl, NtStatus
from meshfs.smb.messages import (
    CancelRequest,
    CloseRequest,
    CreateResponse,
    EchoRequest,
    FileId,
    IoctlRequest,
    LockElement,
    LockRequest,
    ZeroData,
)
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import write_body

MIB = limits.MIB
#: The disk is larger than two pieces. The second piece is twice as large as the first, as the clock stands still.
SIZE = 32 * MIB
FULL = b"\xaa" * SIZE
FIRST = limits.ZERO_PIECE_BYTES
EXCLUSIVE_NOW = 0x2 | 0x10
REPLAY = int(Flags.REPLAY_OPERATION)


@pytest.fixture
def disk() -> MemoryDisk:
    disk = MemoryDisk(SIZE)
    disk.data[:] = FULL
    return disk


def client_of(exporter, user: str = "n2", share: str = "disks") -> RawInitiator:
    client = RawInitiator(exporter).log_in(user, share, to_be_bound=True)
    client.call(Command.ECHO, EchoRequest().pack(), credits=100)
    return client


@pytest.fixture
def client(disk: MemoryDisk) -> RawInitiator:
    return client_of(make_exporter(disk0=disk))


def zero_body(file_id: int, offset: int, stop: int, data: bytes | None = None) -> bytes:
    data = ZeroData(offset, stop).pack() if data is None else data
    return IoctlRequest(Fsctl.SET_ZERO_DATA, FileId(file_id, file_id), data, 0).pack()


def zero(client: RawInitiator, file_id: int, offset: int, stop: int, **header: int) -> int:
    """Return the status of a zeroing that is answered at once."""
    return client.call(Command.IOCTL, zero_body(file_id, offset, stop), **header).status


def test_the_layout_is_that_of_the_specification() -> None:
    """MS-FSCC 2.3.85: FileOffset and BeyondFinalZero, 8 bytes each, little-endian."""
    packed = ZeroData(0x0102, 0x0304).pack()
    assert packed == bytes.fromhex("0201000000000000 0403000000000000")
    assert ZeroData.unpack(packed) == ZeroData(0x0102, 0x0304)


@pytest.mark.parametrize(
    ("offset", "stop"),
    [(0, 1), (511, 513), (4096, 8192), (SIZE - 5, SIZE), (SIZE - 5, SIZE + 100), (100, 100), (SIZE, SIZE + 9)],
)
def test_zeroes_exactly_the_range_and_nothing_behind_the_end(client, disk, offset: int, stop: int) -> None:
    assert zero(client, client.open("disk0"), offset, stop) == 0
    end = min(stop, SIZE)
    expected = bytearray(FULL)
    expected[offset:end] = bytes(max(end - offset, 0))
    assert disk.data == expected


def test_a_range_that_makes_no_sense_is_refused(client, disk) -> None:
    file_id = client.open("disk0")
    for data in (struct.pack("<qq", 10, 5), struct.pack("<qq", -1, 5), struct.pack("<qq", 5, -1), b"", bytes(15)):
        reply = client.call(Command.IOCTL, zero_body(file_id, 0, 0, data))
        assert reply.status == NtStatus.INVALID_PARAMETER
    assert disk.data == FULL


def test_needs_the_right_to_write(client, disk) -> None:
    assert zero(client, client.open("disk0", int(AccessMask.READ_DATA)), 0, 512) == NtStatus.ACCESS_DENIED
    exporter = make_exporter(allow={"disk0": {"n3": Access.READ_ONLY}}, disk0=disk)
    other = client_of(exporter, "n3")
    assert zero(other, other.open("disk0", int(AccessMask.READ_DATA)), 0, 512) == NtStatus.ACCESS_DENIED
    assert disk.data == FULL


@pytest.mark.parametrize("share", ["disks", "IPC$"])
def test_only_disks_can_be_zeroed(client, share: str) -> None:
    client.connect(share)
    file_id = client.open("", int(AccessMask.READ_DATA)) if share == "disks" else client.open("srvsvc")
    assert zero(client, file_id, 0, 512) == NtStatus.INVALID_DEVICE_REQUEST
    assert zero(client, 4711, 0, 512) == NtStatus.FILE_CLOSED


def test_respects_the_locks_of_others(client, disk) -> None:
    other = client_of(client.exporter, "n3")
    theirs, mine = other.open("disk0"), client.open("disk0")
    lock = LockRequest(FileId(theirs, theirs), (LockElement(1000, 10, EXCLUSIVE_NOW),))
    assert other.call(Command.LOCK, lock.pack()).status == 0
    assert zero(client, mine, 0, 1001) == NtStatus.FILE_LOCK_CONFLICT
    assert zero(client, mine, 0, 1000) == 0
    assert zero(other, theirs, 1000, 1010) == 0
    assert disk.data == bytes(1000) + bytes(10) + FULL[1010:]


@pytest.mark.parametrize(
    ("code", "status"),
    [(errno.EIO, NtStatus.IO_DEVICE_ERROR), (errno.EROFS, NtStatus.MEDIA_WRITE_PROTECTED)],
)
def test_an_error_of_the_disk_is_the_answer(client, disk, code: int, status: int) -> None:
    disk.fail(0, 4096, code, (Op.ZERO,))
    assert zero(client, client.open("disk0"), 0, 8192) == status
    assert zero(client, client.open("disk0"), 4096, 8192) == 0


def test_an_open_for_write_through_zeroes_through(client, disk) -> None:
    reply = client.create("disk0", options=int(CreateOptions.WRITE_THROUGH))
    assert zero(client, CreateResponse.unpack(reply.body).file_id.volatile, 0, 4096) == 0
    disk.power_loss()
    assert disk.data[:4096] == bytes(4096)


# --- in pieces ---------------------------------------------------------------------------


def held(disk: MemoryDisk) -> list[tuple[int, int]]:
    return [(request.offset, request.length) for request in disk._stalled]


def begin(client: RawInitiator, disk: MemoryDisk, stop: int = SIZE, **header: int) -> int:
    """Start a zeroing of several pieces, of which the first is held at the disk. Return its message id."""
    disk.stall(lambda request: request.op == Op.ZERO)
    message_id = client.send(Command.IOCTL, zero_body(client.open("disk0"), 0, stop), **header)
    assert client.take(message_id).status == NtStatus.PENDING
    assert held(disk) == [(0, FIRST)]
    return message_id


def let_one_go(disk: MemoryDisk) -> None:
    first: DiskRequest = disk._stalled[0]
    disk.release(lambda request: request is first)


def test_a_long_zeroing_is_asynchronous_and_goes_piece_by_piece(client, disk) -> None:
    message_id = begin(client, disk)
    assert disk.stalled == 1
    let_one_go(disk)
    # The exporter's clock stands still, so the first piece took no time.
    assert held(disk) == [(FIRST, 2 * FIRST)]
    let_one_go(disk)
    assert held(disk) == [(3 * FIRST, FIRST)]
    client.collect()
    assert not client.answered(message_id)
    disk.release()
    client.collect()
    assert client.take(message_id).status == 0
    assert disk.data == bytes(SIZE)


def test_others_get_their_turn_between_two_pieces(disk) -> None:
    client = client_of(make_exporter(depth=1, disk0=disk))
    begin(client, disk)
    other = client_of(client.exporter, "n3")
    writing = other.send(Command.WRITE, write_body(other.open("disk0"), 0, b"other"))
    let_one_go(disk)
    other.collect()
    assert other.take(writing).status == 0
    assert disk.data[:5] == b"other"
    disk.release()


def test_how_large_the_next_piece_is() -> None:
    quick, slow = limits.ZERO_PIECE_S / 5, limits.ZERO_PIECE_S * 2
    assert next_piece_bytes(FIRST, quick) == 2 * FIRST
    assert next_piece_bytes(FIRST, limits.ZERO_PIECE_S / 2) == FIRST
    assert next_piece_bytes(FIRST, slow) == FIRST // 2
    assert next_piece_bytes(limits.ZERO_PIECE_MAX_BYTES, quick) == limits.ZERO_PIECE_MAX_BYTES
    assert next_piece_bytes(limits.ZERO_PIECE_MIN_BYTES, slow) == limits.ZERO_PIECE_MIN_BYTES


def test_an_error_of_a_later_piece_is_the_answer_and_ends_it(client, disk) -> None:
    message_id = begin(client, disk)
    disk.fail(FIRST, FIRST + 1, errno.EIO, (Op.ZERO,))
    disk.release()
    client.collect()
    assert client.take(message_id).status == NtStatus.IO_DEVICE_ERROR
    assert disk.data == bytes(FIRST) + FULL[FIRST:]


def test_a_cancelled_zeroing_is_answered_when_its_piece_has_left_the_disk(client, disk) -> None:
    message_id = begin(client, disk)
    client.deliver(client.pack(Command.CANCEL, CancelRequest().pack(), message_id=message_id)[1])
    assert not client.answered(message_id)
    disk.release()
    client.collect()
    assert client.take(message_id).status == NtStatus.CANCELLED
    assert disk.data == bytes(FIRST) + FULL[FIRST:]


def test_a_close_waits_for_the_piece_at_the_disk_and_ends_the_rest(client, disk) -> None:
    message_id = begin(client, disk)
    file_id = next(iter(client.exporter.sessions[client.session_id].opens))
    closing = client.send(Command.CLOSE, CloseRequest(FileId(file_id, file_id)).pack())
    assert not client.answered(closing)
    disk.release()
    client.collect()
    assert client.take(message_id).status == NtStatus.CANCELLED
    assert client.take(closing).status == 0
    assert disk.data == bytes(FIRST) + FULL[FIRST:]


def test_the_end_of_its_connection_ends_the_rest(client, disk) -> None:
    begin(client, disk)
    client.peer.lost()
    disk.release()
    assert disk.data == bytes(FIRST) + FULL[FIRST:]
    assert not client.exporter.sessions


# --- the channel sequence ----------------------------------------------------------------


@pytest.mark.parametrize("lost", [False, True])
def test_a_replay_is_refused_while_the_old_zeroing_is_at_the_disk(client, channel, disk, lost: bool) -> None:
    begin(client, disk, sequence=0)
    file_id = next(iter(client.exporter.sessions[client.session_id].opens))
    if lost:
        client.peer.lost()
    for _ in range(3):
        assert zero(channel, file_id, 0, 4096, sequence=1, flags=REPLAY) == NtStatus.FILE_NOT_AVAILABLE
    disk.release()
    channel.collect()
    # Without its connection, no further piece is begun.
    assert disk.data[FIRST:] == (FULL[FIRST:] if lost else bytes(SIZE - FIRST))
    assert zero(channel, file_id, 0, 4096, sequence=1, flags=REPLAY) == 0


def test_the_end_of_one_of_two_channels_ends_a_zeroing_that_is_not_asynchronous(
    client, channel, disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ASYNC_PER_CONNECTION_MAX", 0)
    disk.stall(lambda request: request.op == Op.ZERO)
    client.send(Command.IOCTL, zero_body(client.open("disk0"), 0, SIZE))
    assert held(disk) == [(0, FIRST)]
    client.peer.lost()
    disk.release()
    assert client.exporter.sessions, "the session goes on with its other channel"
    assert disk.data == bytes(FIRST) + FULL[FIRST:]


def test_an_old_zeroing_that_comes_late_changes_nothing(client, channel, disk) -> None:
    file_id = client.open("disk0")
    _, held_back = client.pack(Command.IOCTL, zero_body(file_id, 0, 4096), sequence=0)
    assert channel.call(Command.WRITE, write_body(file_id, 0, b"newer"), sequence=1).status == 0
    client.deliver(held_back)
    assert client.replies.pop().status == NtStatus.FILE_NOT_AVAILABLE
    assert disk.data[:5] == b"newer"

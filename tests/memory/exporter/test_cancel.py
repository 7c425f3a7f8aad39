"""CANCEL: which requests it reaches, and how many of them a connection may send."""

import struct

import pytest

from meshfs.errors import RemoteProtocolError
from meshfs.model import Security
from meshfs.smb.constants import Command, Flags, NtStatus
from meshfs.smb.messages import (
    CancelRequest,
    ChangeNotifyRequest,
    EchoRequest,
    FileId,
    FlushRequest,
    IoctlRequest,
    LockElement,
    LockRequest,
)
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import read_body, write_body
from support.channels import second_session

CANCEL, ECHO = CancelRequest().pack(), EchoRequest().pack()
ASYNC = int(Flags.ASYNC_COMMAND)
EXCLUSIVE = 2


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk(1 << 24)


def logged_in(disk: MemoryDisk, security: Security = Security.SIGN, depth: int = 1) -> RawInitiator:
    client = RawInitiator(make_exporter(security, depth=depth, disk0=disk)).log_in()
    client.call(Command.ECHO, ECHO, credits=200)
    return client


def notify(client: RawInitiator) -> tuple[int, int]:
    """Send a CHANGE_NOTIFY that waits, and return its message id and its AsyncId."""
    root = client.open("", 1)
    reply = client.call(Command.CHANGE_NOTIFY, ChangeNotifyRequest(FileId(root, root), 4096, 0xFFF).pack())
    assert reply.status == NtStatus.PENDING
    return reply.message_id, reply.async_id


def queued(client: RawInitiator, disk: MemoryDisk) -> int:
    """Send two READs, of which the first is held at the disk, and return the message id of the second."""
    file_id = client.open("disk0")
    disk.stall()
    client.send(Command.READ, read_body(file_id, 0, 512))
    return client.send(Command.READ, read_body(file_id, 512, 512))


@pytest.mark.parametrize("security", list(Security))
@pytest.mark.parametrize("session_id", [0, 77])
def test_a_cancel_without_a_session_reaches_nothing(disk: MemoryDisk, security: Security, session_id: int) -> None:
    client = logged_in(disk, security)
    waiting, async_id = notify(client)
    message_id = queued(client, disk)
    plain = {"session_id": session_id, "sign": False, "seal": False}
    client.send(Command.CANCEL, CANCEL, message_id=message_id, **plain)
    client.send(Command.CANCEL, CANCEL, message_id=waiting, **plain)
    client.send(Command.CANCEL, CANCEL, message_id=waiting, flags=ASYNC, async_id=async_id, **plain)
    assert not client.replies
    assert client.exporter.counters["cancels_refused"] == 3


@pytest.mark.parametrize("sign", [False, True])
def test_a_plain_cancel_reaches_nothing_where_the_session_encrypts(disk: MemoryDisk, sign: bool) -> None:
    client = logged_in(disk, Security.ENCRYPT)
    message_id = queued(client, disk)
    client.send(Command.CANCEL, CANCEL, message_id=message_id, sign=sign, seal=False)
    assert not client.replies
    client.send(Command.CANCEL, CANCEL, message_id=message_id)
    assert client.take(message_id).status == NtStatus.CANCELLED


@pytest.mark.parametrize("security", list(Security))
def test_a_cancel_reaches_only_its_own_session(disk: MemoryDisk, security: Security) -> None:
    client = logged_in(disk, security)
    other = second_session(client)
    waiting, async_id = notify(client)
    message_id = queued(client, disk)
    other.send(Command.CANCEL, CANCEL, message_id=message_id)
    other.send(Command.CANCEL, CANCEL, message_id=waiting)
    other.send(Command.CANCEL, CANCEL, message_id=waiting, flags=ASYNC, async_id=async_id)
    assert not client.replies
    client.send(Command.CANCEL, CANCEL, message_id=waiting, flags=ASYNC, async_id=async_id)
    client.send(Command.CANCEL, CANCEL, message_id=message_id)
    assert {client.take(each).status for each in (waiting, message_id)} == {NtStatus.CANCELLED}


@pytest.mark.parametrize("by_message_id", [True, False])
def test_a_waiting_request_is_cancelled_by_its_message_id_or_its_async_id(
    disk: MemoryDisk, by_message_id: bool
) -> None:
    client = logged_in(disk)
    waiting, async_id = notify(client)
    if by_message_id:
        client.send(Command.CANCEL, CANCEL, message_id=waiting)
    else:
        client.send(Command.CANCEL, CANCEL, message_id=0, flags=ASYNC, async_id=async_id)
    assert client.take(waiting).status == NtStatus.CANCELLED


def test_an_async_id_that_was_changed_on_its_way_ends_no_other_request(disk: MemoryDisk) -> None:
    """An interim reply is not signed. So somebody on the way may put the AsyncId of another request into it."""
    client = logged_in(disk)
    (first, _), (second, async_id) = notify(client), notify(client)
    client.send(Command.CANCEL, CANCEL, message_id=first, flags=ASYNC, async_id=async_id)
    assert not client.answered(first)
    assert not client.answered(second)
    client.send(Command.CANCEL, CANCEL, message_id=second, flags=ASYNC, async_id=async_id)
    assert client.take(second).status == NtStatus.CANCELLED


def test_a_connection_sends_no_more_cancels_than_it_has_used_message_ids(disk: MemoryDisk) -> None:
    """A CANCEL takes no credit. Without this limit, a peer could send any number of them."""
    client = logged_in(disk)
    used = client.next_id
    for _ in range(used):
        client.send(Command.CANCEL, CANCEL, message_id=1000)
    with pytest.raises(RemoteProtocolError, match=f"{used + 1} CANCELs"):
        client.send(Command.CANCEL, CANCEL, message_id=1000)


def test_a_stranger_sends_even_fewer() -> None:
    client = RawInitiator(make_exporter())
    client.negotiate()
    client.send(Command.CANCEL, CANCEL, message_id=1000)
    with pytest.raises(RemoteProtocolError, match="2 CANCELs"):
        client.send(Command.CANCEL, CANCEL, message_id=1000)


def test_all_of_many_queued_requests_can_be_cancelled(disk: MemoryDisk) -> None:
    client = logged_in(disk)
    file_id = client.open("disk0")
    disk.stall()
    ids = [client.send(Command.READ, read_body(file_id, 512 * each, 512)) for each in range(100)]
    for message_id in ids:
        client.send(Command.CANCEL, CANCEL, message_id=message_id)
    assert [client.take(each).status for each in ids[1:]] == [NtStatus.CANCELLED] * 99
    disk.release()
    client.collect()
    assert client.take(ids[0]).status == 0


@pytest.mark.parametrize("cancelled", [True, False])
def test_finished_requests_leave_nothing_to_cancel(disk: MemoryDisk, cancelled: bool) -> None:
    """If finished requests stayed in the table, a peer could fill the exporter's memory with them."""
    client = logged_in(disk, depth=1)
    file_id, holder = client.open("disk0"), client.open("disk0")
    ids = [notify(client)[0]]
    lock = LockElement(0, 16, EXCLUSIVE)
    assert client.call(Command.LOCK, LockRequest(FileId(holder, holder), (lock,)).pack()).status == 0
    disk.stall()
    own = FileId(file_id, file_id)
    zeroing = IoctlRequest(0x000980C8, own, struct.pack("<qq", 1 << 16, 1 << 17), 0).pack()
    long_zeroing = IoctlRequest(0x000980C8, own, struct.pack("<qq", 1 << 16, 1 << 24), 0).pack()
    ids += [
        client.send(Command.FLUSH, FlushRequest(own).pack()),
        client.send(Command.READ, read_body(file_id, 512, 512)),
        client.send(Command.WRITE, write_body(file_id, 512, b"data")),
        client.send(Command.FLUSH, FlushRequest(own).pack()),
        client.send(Command.IOCTL, zeroing),
        client.send(Command.IOCTL, long_zeroing),
        client.send(Command.LOCK, LockRequest(own, (lock,)).pack()),
    ]
    assert sorted(client.peer.cancellable) == ids
    client.replies.clear()
    if cancelled:
        for message_id in ids:
            client.send(Command.CANCEL, CANCEL, message_id=message_id)
    disk.release()
    client.collect()
    statuses = {message_id: client.take(message_id).status for message_id in ids if client.answered(message_id)}
    if cancelled:
        # The first FLUSH was at the disk already.
        assert [statuses[each] for each in ids] == [NtStatus.CANCELLED, 0, *[NtStatus.CANCELLED] * 6]
        assert not client.peer.cancellable
    else:
        assert [statuses[each] for each in ids[1:-1]] == [0] * 6
        assert sorted(client.peer.cancellable) == [ids[0], ids[-1]], "the CHANGE_NOTIFY and the LOCK still wait"

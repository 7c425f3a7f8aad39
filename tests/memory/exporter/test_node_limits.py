"""An exporter limits what a node has in all its sessions together. The node gives all of it back at the end."""

import pytest

from meshfs.enclosure_info import SHARE_ENCLOSURES
from meshfs.exporter.rules.holdings import NODE_MOST, TARGET_MOST, Resource
from meshfs.exporter.rules.scratch.volume import ScratchVolume
from meshfs.exporter.state.exporter import Exporter
from meshfs.smb.constants import AccessMask, Command, LockFlags, NtStatus
from meshfs.smb.messages import (
    ChangeNotifyRequest,
    CloseRequest,
    CreateRequest,
    FileId,
    LockElement,
    LockRequest,
    TreeConnectRequest,
    TreeDisconnectRequest,
)
from meshlab.fakes.enclosure import FakeEnclosureDevice, offer_enclosure
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import read_body
from support.scratch import files

FULL = int(NtStatus.INSUFFICIENT_RESOURCES)
LIST = int(AccessMask.READ_DATA)
EXCLUSIVE, NOW, UNLOCK = (
    int(LockFlags.EXCLUSIVE_LOCK),
    int(LockFlags.FAIL_IMMEDIATELY),
    int(LockFlags.UNLOCK),
)


@pytest.fixture
def exporter() -> Exporter:
    exporter = make_exporter(disk0=MemoryDisk(1 << 20), disk1=MemoryDisk(1 << 20))
    exporter.scratch = ScratchVolume(1 << 20, 0)
    return exporter


def log_in(exporter: Exporter, node: str = "n2", share: str = "disks") -> RawInitiator:
    client = RawInitiator(exporter).log_in(node, share)
    client.call(Command.ECHO, b"\x04\0\0\0", credits=400)
    return client


def limit(exporter: Exporter, resource: Resource, of_node: int, of_target: int = 1 << 30) -> None:
    """Let n2 have at most ``of_node`` of the resource in all, and ``of_target`` at one disk."""
    holdings = exporter.usage.of("n2").holdings
    holdings.node_most = {**NODE_MOST, resource: of_node}
    holdings.target_most = {**TARGET_MOST, resource: of_target}


def lock(client: RawInitiator, file_id: int, *elements: tuple[int, int, int]) -> int:
    body = LockRequest(FileId(file_id, file_id), tuple(LockElement(*element) for element in elements)).pack()
    return client.call(Command.LOCK, body).status


def close(client: RawInitiator, file_id: int) -> None:
    assert client.call(Command.CLOSE, CloseRequest(FileId(file_id, file_id)).pack()).status == 0


def test_the_opens_of_a_node_are_limited_in_all_its_sessions_together(exporter):
    limit(exporter, Resource.OPENS, 4)
    one, two, other = log_in(exporter), log_in(exporter), log_in(exporter, "n3")
    first = one.open("disk0")
    one.open("", LIST)
    two.open("disk1")
    two.open("disk0")
    assert [client.create(name, LIST).status for client in (one, two) for name in ("disk0", "")] == [FULL] * 4
    assert other.create("disk0").status == 0
    close(one, first)
    assert two.create("disk0").status == 0
    assert one.create("disk0").status == FULL


def test_the_opens_of_a_node_at_one_disk_leave_room_for_its_others(exporter):
    limit(exporter, Resource.OPENS, 100, 2)
    one, two = log_in(exporter), log_in(exporter, share="disks-system")
    statuses = [one.create("disk0").status, two.create("disk0").status, one.create("disk0").status]
    assert statuses == [0, 0, FULL]
    assert one.create("disk1").status == 0


def test_a_refused_open_of_a_scratch_file_makes_no_file(exporter):
    limit(exporter, Resource.OPENS, 1)
    client = log_in(exporter, share="scratch")
    assert client.create("kept", disposition=2).status == 0
    assert client.create("refused", disposition=2).status == FULL
    assert [file.name for file in files(exporter.scratch)] == ["kept"]


def test_the_locks_of_a_node_are_limited_at_one_disk_and_in_all(exporter):
    limit(exporter, Resource.LOCKS, 5, 3)
    one, two = log_in(exporter), log_in(exporter)
    mine, again, elsewhere = one.open("disk0"), two.open("disk0"), two.open("disk1")
    assert lock(one, mine, (0, 1, EXCLUSIVE | NOW), (1, 1, EXCLUSIVE | NOW)) == 0
    assert lock(two, again, (2, 1, EXCLUSIVE | NOW), (3, 1, EXCLUSIVE | NOW)) == FULL
    assert lock(two, again, (2, 1, EXCLUSIVE | NOW)) == 0
    assert lock(one, mine, (4, 1, EXCLUSIVE | NOW)) == FULL
    assert lock(two, elsewhere, (0, 1, EXCLUSIVE | NOW), (1, 1, EXCLUSIVE | NOW)) == 0
    assert lock(two, elsewhere, (2, 1, EXCLUSIVE | NOW)) == FULL
    assert lock(one, mine, (0, 1, UNLOCK)) == 0
    assert lock(one, mine, (4, 1, EXCLUSIVE | NOW)) == 0
    close(two, again)
    assert lock(one, mine, (2, 1, EXCLUSIVE | NOW)) == 0


def test_a_lock_that_is_not_granted_does_not_count(exporter):
    limit(exporter, Resource.LOCKS, 3)
    one, other = log_in(exporter), log_in(exporter, "n3")
    mine, theirs = one.open("disk0"), other.open("disk0")
    assert lock(other, theirs, (5, 1, EXCLUSIVE | NOW)) == 0
    for _ in range(5):
        assert lock(one, mine, (0, 1, EXCLUSIVE | NOW), (5, 1, EXCLUSIVE | NOW)) == NtStatus.LOCK_NOT_GRANTED
    assert exporter.usage.of("n2").holdings.used(Resource.LOCKS) == 0
    assert lock(one, mine, *((index, 1, EXCLUSIVE | NOW) for index in (0, 1, 2))) == 0


def test_a_lock_of_several_elements_that_fails_leaves_older_locks_as_they_are(exporter):
    """A shared lock may lie on an exclusive one of the same open and range. Taking it back leaves the exclusive one."""
    one, other = log_in(exporter), log_in(exporter, "n3")
    mine, theirs = one.open("disk0"), other.open("disk0")
    shared = int(LockFlags.SHARED_LOCK)
    assert lock(one, mine, (0, 10, EXCLUSIVE | NOW)) == 0
    assert lock(other, theirs, (50, 1, EXCLUSIVE | NOW)) == 0
    assert lock(one, mine, (0, 10, shared | NOW), (50, 1, shared | NOW)) == NtStatus.LOCK_NOT_GRANTED
    assert lock(other, theirs, (0, 10, shared | NOW)) == NtStatus.LOCK_NOT_GRANTED, "the exclusive lock is still there"
    assert lock(one, mine, (0, 10, UNLOCK)) == 0
    assert lock(one, mine, (0, 10, UNLOCK)) == NtStatus.RANGE_NOT_LOCKED


def wait(client: RawInitiator, file_id: int, offset: int) -> tuple[int, int]:
    """Send a LOCK that may wait. Return its message id and the status of the first answer."""
    body = LockRequest(FileId(file_id, file_id), (LockElement(offset, 1, EXCLUSIVE),)).pack()
    message_id = client.send(Command.LOCK, body)
    return message_id, client.take(message_id).status


def test_the_locks_of_a_node_that_wait_are_limited(exporter):
    limit(exporter, Resource.WAITING_LOCKS, 3, 2)
    one, two, other = log_in(exporter), log_in(exporter), log_in(exporter, "n3")
    mine, again, elsewhere, theirs = one.open("disk0"), two.open("disk0"), two.open("disk1"), other.open("disk0")
    at_disk1 = other.open("disk1")
    assert lock(other, theirs, (0, 100, EXCLUSIVE | NOW)) == 0
    assert lock(other, at_disk1, (0, 100, EXCLUSIVE | NOW)) == 0
    waiting, status = wait(one, mine, 0)
    assert status == NtStatus.PENDING
    assert wait(two, again, 1)[1] == NtStatus.PENDING
    assert wait(two, again, 2)[1] == FULL
    assert wait(two, elsewhere, 0)[1] == NtStatus.PENDING
    assert wait(two, elsewhere, 1)[1] == FULL
    assert lock(other, theirs, (0, 100, UNLOCK)) == 0
    one.collect()
    assert one.take(waiting).status == 0
    assert wait(two, elsewhere, 1)[1] == NtStatus.PENDING


def watch(client: RawInitiator, root: int) -> int:
    message_id = client.send(Command.CHANGE_NOTIFY, ChangeNotifyRequest(FileId(root, root), 4096, 0xFFF).pack())
    return client.take(message_id).status


def test_the_change_notifies_of_a_node_are_limited(exporter):
    limit(exporter, Resource.NOTIFIES, 2)
    one, two = log_in(exporter), log_in(exporter)
    first, second = one.open("", LIST), two.open("", LIST)
    assert [watch(one, first), watch(two, second), watch(one, first)] == [NtStatus.PENDING, NtStatus.PENDING, FULL]
    close(two, second)
    assert watch(one, first) == NtStatus.PENDING
    exporter.disks.modified(exporter.disks.all()[0])
    assert exporter.usage.of("n2").holdings.used(Resource.NOTIFIES) == 1, "one of the two was answered"


def connect(client: RawInitiator) -> int:
    return client.call(Command.TREE_CONNECT, TreeConnectRequest("\\\\n1\\disks").pack()).status


def test_the_shares_a_node_is_connected_to_are_limited(exporter):
    limit(exporter, Resource.TREES, 3)
    one, two = log_in(exporter), log_in(exporter)
    assert [connect(one), connect(two), connect(one)] == [0, FULL, FULL]
    assert two.call(Command.TREE_DISCONNECT, TreeDisconnectRequest().pack()).status == 0
    assert connect(one) == 0


def test_a_refusal_is_counted_and_logged_and_a_flood_of_them_is_not(exporter, caplog):
    limit(exporter, Resource.OPENS, 0)
    client = log_in(exporter)
    for _ in range(200):
        client.call(Command.ECHO, b"\x04\0\0\0", credits=10)
        assert client.create("disk0").status == FULL
    assert exporter.counters["node_limits_reached"] == 200
    lines = [record.message for record in caplog.records if "node n2 has 0 opens of at most 0" in record.message]
    assert 0 < len(lines) < 100
    assert len(lines) + exporter.counters["log_lines_held_back"] == 200


def fill(client: RawInitiator) -> None:
    """Let the client have some of each resource that is counted."""
    first, second, root = client.open("disk0"), client.open("disk0"), client.open("", LIST)
    assert lock(client, first, (0, 10, EXCLUSIVE | NOW), (20, 0, EXCLUSIVE | NOW)) == 0
    assert wait(client, second, 5)[1] == NtStatus.PENDING
    assert watch(client, root) == NtStatus.PENDING
    client.open("disk1", int(AccessMask.READ_ATTRIBUTES))
    tree_id = client.tree_id
    client.connect("scratch")
    scratch = client.create("file", disposition=3)
    assert scratch.status == 0
    assert watch(client, client.open("", LIST)) == NtStatus.PENDING
    client.connect("IPC$")
    assert client.create("srvsvc").status == 0
    client.connect(SHARE_ENCLOSURES)
    offer_enclosure(client.exporter, FakeEnclosureDevice())
    assert client.take(client.create("shelf").message_id).status == 0
    assert watch(client, client.open("", LIST)) == NtStatus.PENDING
    client.tree_id = tree_id


@pytest.mark.parametrize("how", ["lost", "logoff", "next session"])
def test_all_that_a_node_had_is_given_back_when_its_session_ends(exporter, how):
    client = log_in(exporter)
    fill(client)
    holdings = exporter.usage.of("n2").holdings
    assert [holdings.used(resource) for resource in Resource] == [9, 4, 3, 3, 1, 0, 1, 1, 0]
    if how == "lost":
        client.peer.lost()
    elif how == "logoff":
        client.call(Command.LOGOFF, b"\x04\0\0\0")
    else:
        following = RawInitiator(exporter)
        following.negotiate()
        assert following.set_up("n2", previous=client.session_id).status == 0
    assert holdings.is_empty
    assert not len(exporter.disk_watchers)
    assert not len(exporter.enclosure_watchers)
    assert all(not enclosure.opens for enclosure in exporter.enclosures.all())
    assert all(not disk.opens and not disk.locks and not disk.lock_waiters for disk in exporter.disks.all())
    assert not exporter.disks.all()[0].share_counts.conflicts(LIST, 0)


def test_all_of_a_disk_is_given_back_when_the_disk_is_withdrawn(exporter):
    client = log_in(exporter)
    fill(client)
    gone: list[object] = []
    exporter.disks.withdraw("disk0", gone.append)
    exporter.disks.withdraw("disk1", gone.append)
    assert len(gone) == 2
    holdings = exporter.usage.of("n2").holdings
    assert [holdings.used(resource) for resource in Resource] == [6, 4, 2, 0, 0, 0, 1, 1, 0]


def test_an_open_whose_io_is_at_the_disk_counts_until_that_ends(exporter):
    disk = exporter.disks.all()[0]
    disk.runner.disk.stall()
    client = log_in(exporter)
    held = client.open("disk0")
    client.send(Command.READ, read_body(held, 0, 4))
    client.peer.lost()
    assert exporter.usage.of("n2").holdings.used(Resource.OPENS, disk) == 1
    disk.runner.disk.release()
    assert exporter.usage.of("n2").holdings.is_empty


def test_the_opens_of_a_node_that_wait_are_limited(exporter):
    """An open waits for I/O of the node's earlier session at the disk. A wait that ends makes room for another."""
    limit(exporter, Resource.WAITING_CREATES, 2)
    disk = exporter.disks.all()[0].runner.disk
    disk.stall()
    earlier = log_in(exporter)
    earlier.send(Command.READ, read_body(earlier.open("disk0"), 0, 4))
    earlier.peer.lost()
    one, two = log_in(exporter), log_in(exporter)
    holdings = exporter.usage.of("n2").holdings
    replies = [client.create("disk0") for client in (one, two, one)]
    assert [reply.status for reply in replies] == [NtStatus.PENDING, NtStatus.PENDING, FULL]
    assert two.create("disk1").status == 0, "an open of another disk does not wait"
    two.peer.lost()
    assert holdings.used(Resource.WAITING_CREATES) == 1
    assert one.create("disk0").status == NtStatus.PENDING
    disk.release()
    one.collect()
    assert one.take(replies[0].message_id).status == 0
    assert holdings.used(Resource.WAITING_CREATES) == 0
    assert holdings.used(Resource.OPENS) == 2


def test_a_waiting_open_in_the_middle_of_a_compound_is_given_back_with_its_connection(exporter):
    disk = exporter.disks.all()[0].runner.disk
    disk.stall()
    earlier = log_in(exporter)
    earlier.send(Command.READ, read_body(earlier.open("disk0"), 0, 4))
    earlier.peer.lost()
    client = log_in(exporter)
    create = CreateRequest("disk0", LIST, 7, 1).pack()
    client.compound((Command.CREATE, create, {}), (Command.ECHO, b"\x04\0\0\0", {}))
    holdings = exporter.usage.of("n2").holdings
    assert holdings.used(Resource.WAITING_CREATES) == 1
    client.peer.lost()
    disk.release()
    assert holdings.is_empty

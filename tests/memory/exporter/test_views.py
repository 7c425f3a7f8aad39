"""FSCTL_MESHFS_EXCHANGE_VIEWS: an exporter keeps the view of each session, and shows no node what it may not know."""

import pytest

from meshfs import limits
from meshfs.mesh_view import DiskView, MountView, ReachView, ViewExchange, decode_exchange, encode_view
from meshfs.model import Access
from meshfs.smb.constants import AccessMask, Command, Fsctl, NtStatus
from meshfs.smb.messages import FileId, IoctlRequest, IoctlResponse
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import Reply

READ = int(AccessMask.READ_DATA)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Client:
    """A mount that sends views."""

    def __init__(self, exporter, node: str) -> None:
        self.raw = RawInitiator(exporter).log_in(node)
        self.raw.call(Command.ECHO, b"\x04\0\0\0", credits=200)
        self.root = self.raw.open("", READ)

    def send(self, data: bytes, output_bytes_max: int = 65536) -> Reply:
        body = IoctlRequest(Fsctl.MESHFS_EXCHANGE_VIEWS, FileId(self.root, self.root), data, output_bytes_max).pack()
        return self.raw.call(Command.IOCTL, body, charge=max(1, -(-max(len(data), output_bytes_max) // 65536)))

    def exchange(self, view: MountView) -> ViewExchange:
        reply = self.send(encode_view(view))
        assert not reply.status
        return decode_exchange(IoctlResponse.unpack(reply.body).output)


@pytest.fixture
def exporter():
    return make_exporter(
        allow={"secret": {"n3": Access.NONE}}, clock=Clock(), disk0=MemoryDisk(1 << 20), secret=MemoryDisk(2 << 20)
    )


DISK0, SECRET = DiskView("meshfs-n1-disk0", 1 << 20, ""), DiskView("meshfs-n1-secret", 2 << 20, "")
REACH = (ReachView("n1", "connected", 1, 2),)


def test_a_view_is_seen_by_other_nodes_with_its_age(exporter) -> None:
    view = MountView((DISK0, SECRET), REACH)
    one, two = Client(exporter, "n1"), Client(exporter, "n2")
    assert not one.exchange(view).views[0].age_s
    exporter.clock.now += 7.5
    exchange = two.exchange(MountView())
    assert exchange.disks == (DISK0, SECRET)
    assert {seen.node: (seen.age_s, seen.view, seen.hidden) for seen in exchange.views} == {
        "n1": (7.5, view, ()),
        "n2": (0.0, MountView(), ()),
    }


def test_a_node_without_access_learns_nothing_of_a_disk_and_others_learn_that_it_may_not_know(exporter) -> None:
    one, three = Client(exporter, "n1"), Client(exporter, "n3")
    one.exchange(MountView((DISK0, SECRET), REACH))
    theirs = three.exchange(MountView((DISK0,), REACH))
    assert theirs.disks == (DISK0,)
    assert [(seen.node, seen.view.disks, seen.hidden) for seen in theirs.views] == [
        ("n1", (DISK0,), ()),
        ("n3", (DISK0,), ()),
    ]
    ours = one.exchange(MountView((DISK0, SECRET), REACH))
    assert {seen.node: seen.hidden for seen in ours.views} == {"n1": (), "n3": (SECRET.id,)}


def test_a_view_lasts_as_long_as_its_session(exporter) -> None:
    one, two = Client(exporter, "n1"), Client(exporter, "n2")
    one.exchange(MountView((DISK0,)))
    one.raw.peer.lost()
    assert [seen.node for seen in two.exchange(MountView()).views] == ["n2"]


def test_a_new_view_replaces_the_old_one(exporter) -> None:
    one = Client(exporter, "n1")
    one.exchange(MountView((DISK0,)))
    (seen,) = one.exchange(MountView((SECRET,))).views
    assert seen.view.disks == (SECRET,)


def test_a_mount_that_wants_no_output_only_renews_its_view(exporter) -> None:
    one, two = Client(exporter, "n1"), Client(exporter, "n2")
    reply = one.send(encode_view(MountView((DISK0,))), 0)
    assert (reply.status, IoctlResponse.unpack(reply.body).output) == (0, b"")
    assert [seen.node for seen in two.exchange(MountView()).views] == ["n1", "n2"]


@pytest.mark.parametrize("data", [b"", b"[]", b"nonsense", b" " * (limits.VIEW_MAX_BYTES + 1)])
def test_what_is_no_view_is_refused_and_the_old_view_stays(exporter, data: bytes) -> None:
    one, two = Client(exporter, "n1"), Client(exporter, "n2")
    one.exchange(MountView((DISK0,)))
    assert one.send(data).status == NtStatus.INVALID_PARAMETER
    assert two.exchange(MountView()).views[0].view.disks == (DISK0,)


def test_an_output_buffer_that_is_too_small(exporter) -> None:
    assert Client(exporter, "n1").send(encode_view(MountView()), 10).status == NtStatus.BUFFER_TOO_SMALL


def test_only_the_root_takes_views_and_needs_the_right_to_read(exporter) -> None:
    client = Client(exporter, "n1")
    client.root = client.raw.open("disk0", READ)
    assert client.send(encode_view(MountView())).status == NtStatus.INVALID_DEVICE_REQUEST
    client.root = client.raw.open("", int(AccessMask.READ_ATTRIBUTES))
    assert client.send(encode_view(MountView())).status == NtStatus.ACCESS_DENIED


def test_an_exporter_keeps_a_bounded_number_of_views_of_a_node(exporter) -> None:
    mounts = []
    for _ in range(limits.VIEWS_PER_NODE_MAX + 1):
        exporter.clock.now += 1
        mounts.append(Client(exporter, "n2"))
        mounts[-1].exchange(MountView((DISK0,)))
    exchange = Client(exporter, "n1").exchange(MountView())
    ages = [seen.age_s for seen in exchange.views if seen.node == "n2"]
    assert sorted(ages) == [float(age) for age in range(limits.VIEWS_PER_NODE_MAX)]

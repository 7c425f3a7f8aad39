"""The share `enclosures`: reading pages, writing control pages, and what happens when the device is late or fails."""

import errno
from dataclasses import replace

import pytest

from meshfs import limits
from meshfs.enclosure_info import SHARE_ENCLOSURES, EnclosureInfo, decode_enclosures
from meshfs.exporter.rules.holdings import Resource
from meshfs.model import Access
from meshfs.ses.build import unbundle
from meshfs.ses.status import Lamps
from meshfs.smb.constants import (
    AccessMask,
    Command,
    CreateDisposition,
    Flags,
    Fsctl,
    InfoType,
    LockFlags,
    NotifyFilter,
    NtStatus,
)
from meshfs.smb.messages import (
    CancelRequest,
    ChangeNotifyRequest,
    ChangeNotifyResponse,
    CloseRequest,
    CreateRequest,
    CreateResponse,
    FileId,
    FlushRequest,
    IoctlRequest,
    IoctlResponse,
    LockElement,
    LockRequest,
    LogoffRequest,
    QueryDirectoryRequest,
    QueryDirectoryResponse,
    QueryInfoRequest,
    QueryInfoResponse,
    SetInfoRequest,
    TreeDisconnectRequest,
    ZeroData,
)
from meshlab.fakes.enclosure import FakeEnclosureDevice, offer_enclosure
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import READ_WRITE, SHARE_ALL, Reply, file_id_of, read_body, write_body

READ, WRITE = int(AccessMask.READ_DATA), int(AccessMask.WRITE_DATA)
ATTRIBUTES = int(AccessMask.READ_ATTRIBUTES)
ON = Lamps(locate=True)
NAMES_CLASS, STANDARD_CLASS, SIZE_CLASS = 12, 5, 20
ECHO = b"\x04\0\0\0"


class Stage:
    """An exporter with one enclosure, which n1 may read and control, n2 may read, and n3 may not know of."""

    def __init__(self) -> None:
        self.exporter = make_exporter(disk0=MemoryDisk(1 << 20))
        self.device = FakeEnclosureDevice()
        self.allow = {"n2": Access.READ_ONLY, "n3": Access.NONE}
        self.enclosure = offer_enclosure(self.exporter, self.device, self.allow)
        self.client = self.log_in("n1")
        self.message_id = -1

    def log_in(self, node: str) -> RawInitiator:
        client = RawInitiator(self.exporter).log_in(node, SHARE_ENCLOSURES)
        client.call(Command.ECHO, ECHO, credits=400)
        return client

    def begin(self, access: int = READ_WRITE, client: RawInitiator | None = None) -> None:
        """Send a CREATE that waits for the device."""
        client = client or self.client
        self.message_id = client.send(Command.CREATE, create_body(access))
        assert client.take(self.message_id).status == NtStatus.PENDING

    def finish(self, client: RawInitiator | None = None) -> Reply:
        """Return the reply to the request that waited."""
        client = client or self.client
        client.collect()
        return client.take(self.message_id)

    def open(self, access: int = READ_WRITE, client: RawInitiator | None = None, **fields: int) -> int:
        """Open the enclosure, and return the file id."""
        return file_id_of(self.create(access, client, **fields))

    def create(self, access: int = READ_WRITE, client: RawInitiator | None = None, **fields: int) -> Reply:
        client = client or self.client
        reply = client.create("shelf", access, **fields)
        return client.take(reply.message_id) if reply.status == NtStatus.PENDING else reply

    def read(self, file_id: int, offset: int = 0, length: int = 65536) -> Reply:
        return self.client.call(Command.READ, read_body(file_id, offset, length))

    def write(self, file_id: int, page: bytes, offset: int = 0) -> int:
        return self.client.call(Command.WRITE, write_body(file_id, offset, page)).status

    def close(self, file_id: int, client: RawInitiator | None = None) -> int:
        return (client or self.client).call(Command.CLOSE, CloseRequest(FileId(file_id, file_id)).pack()).status

    def query(self, client: RawInitiator) -> list[EnclosureInfo]:
        root = client.open("", READ)
        body = IoctlRequest(Fsctl.MESHFS_QUERY_ENCLOSURES, FileId(root, root), b"", 65536).pack()
        reply = client.call(Command.IOCTL, body)
        assert not reply.status
        return decode_enclosures(IoctlResponse.unpack(reply.body).output, 10, 100)

    def held_by(self, node: str) -> bool:
        """Return whether the node holds anything but its trees."""
        holdings = self.exporter.usage.of(node).holdings
        return any(holdings.used(resource) for resource in Resource if resource is not Resource.TREES)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def create_body(access: int = READ) -> bytes:
    return CreateRequest("shelf", access, SHARE_ALL, CreateDisposition.OPEN).pack()


# --- reading ---------------------------------------------------------------------------


def test_reading_gives_the_pages_as_the_device_has_them(stage: Stage) -> None:
    file_id = stage.open()
    content = stage.device.reading().content
    assert stage.read(file_id).data == content
    assert stage.read(file_id, 5, 10).data == content[5:15]
    assert stage.read(file_id, len(content), 1).status == NtStatus.END_OF_FILE
    assert stage.read(file_id, len(content) - 2, 10).data == content[-2:]


def test_the_reads_of_one_open_see_one_content(stage: Stage) -> None:
    file_id = stage.open()
    before = stage.read(file_id).data
    stage.device.bays[0] = replace(stage.device.bays[0], locate=True, installed=True)
    assert stage.read(file_id).data == before
    assert stage.read(stage.open()).data == stage.device.reading().content != before


def test_an_open_without_the_right_to_read_does_not_read_the_device(stage: Stage) -> None:
    stage.device.hold()
    for access in (ATTRIBUTES, WRITE):
        file_id = stage.open(access)
        assert stage.read(file_id).status == NtStatus.ACCESS_DENIED
    assert not stage.device.reads


def test_creates_during_a_reading_share_the_next_one(stage: Stage) -> None:
    """Each CREATE gets a reading that began after the CREATE, and the device is not read once for each."""
    stage.device.hold()
    ids = [stage.client.send(Command.CREATE, create_body()) for _ in range(10)]
    stage.device.bays[0] = replace(stage.device.bays[0], fault=True)
    stage.device.heal()
    stage.client.collect()
    for message_id in ids:
        assert stage.client.take(message_id).status == NtStatus.PENDING
        file_id = file_id_of(stage.client.take(message_id))
        assert stage.read(file_id).data == stage.device.reading().content
    assert stage.device.reads == 2


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (errno.ENODEV, NtStatus.NO_SUCH_DEVICE),
        (errno.ETIMEDOUT, NtStatus.IO_TIMEOUT),
        (errno.EIO, NtStatus.IO_DEVICE_ERROR),
        (None, NtStatus.IO_DEVICE_ERROR),
    ],
)
def test_a_create_fails_with_the_error_of_the_device(stage: Stage, code: int | None, status: int) -> None:
    stage.device.hold()
    stage.begin()
    stage.device.release(OSError() if code is None else OSError(code, "no answer"))
    assert stage.finish().status == status
    assert not stage.held_by("n1")
    assert not stage.enclosure.creates
    stage.device.heal()
    assert not stage.create().status


# --- a CREATE that waits ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda stage: stage.client.call(Command.LOGOFF, LogoffRequest().pack()), NtStatus.USER_SESSION_DELETED),
        (
            lambda stage: stage.client.call(Command.TREE_DISCONNECT, TreeDisconnectRequest().pack()),
            NtStatus.NETWORK_NAME_DELETED,
        ),
        (
            lambda stage: stage.client.send(Command.CANCEL, CancelRequest().pack(), message_id=stage.message_id),
            NtStatus.CANCELLED,
        ),
        (
            lambda stage: stage.exporter.enclosures.withdraw("shelf", lambda _: None),
            NtStatus.OBJECT_NAME_NOT_FOUND,
        ),
        (lambda stage: stage.device.heal(), NtStatus.SUCCESS),
    ],
    ids=["logoff", "disconnect", "cancel", "withdrawn", "answered"],
)
def test_a_create_that_waits_ends_with_what_it_waits_for(stage: Stage, end, status: int) -> None:
    stage.device.hold()
    stage.begin(READ)
    end(stage)
    assert stage.finish().status == status
    assert not stage.enclosure.creates
    stage.device.heal()
    assert len(stage.enclosure.opens) == (status == NtStatus.SUCCESS)


def test_a_lost_connection_ends_a_create_that_waits(stage: Stage) -> None:
    stage.device.hold()
    stage.begin()
    stage.client.peer.lost()
    assert not stage.enclosure.creates
    stage.device.heal()
    assert not stage.enclosure.opens
    assert not stage.held_by("n1")


def test_a_create_that_waits_is_refused_if_the_rights_change_meanwhile(stage: Stage) -> None:
    stage.device.hold()
    stage.begin()
    stage.allow["n1"] = Access.READ_ONLY
    stage.exporter.enclosures.enforce(stage.enclosure)
    stage.device.heal()
    assert stage.finish().status == NtStatus.ACCESS_DENIED
    assert not stage.held_by("n1")


def test_a_create_that_waits_is_refused_if_another_enclosure_takes_the_name(stage: Stage) -> None:
    stage.device.hold()
    stage.begin()
    stage.exporter.enclosures.remove("shelf")
    offer_enclosure(stage.exporter, FakeEnclosureDevice(bays=2))
    stage.device.heal()
    assert stage.finish().status == NtStatus.NO_SUCH_DEVICE


def test_create_read_and_close_in_one_compound(stage: Stage) -> None:
    stage.device.hold()
    related = {"flags": int(Flags.RELATED_OPERATIONS)}
    last = (1 << 64) - 1
    close = CloseRequest(FileId(last, last)).pack()
    ids = stage.client.compound(
        (Command.CREATE, create_body(), {}),
        (Command.READ, read_body(last, 0, 65536), related),
        (Command.CLOSE, close, related),
    )
    assert not stage.client.answered(ids[0])
    stage.device.heal()
    stage.client.collect()
    replies = [stage.client.take(message_id) for message_id in ids]
    assert [reply.status for reply in replies] == [0, 0, 0]
    assert replies[1].data == stage.device.reading().content
    assert not stage.held_by("n1")


def test_a_compound_behind_a_device_that_fails_is_refused(stage: Stage) -> None:
    stage.device.hold()
    related = {"flags": int(Flags.RELATED_OPERATIONS)}
    last = (1 << 64) - 1
    ids = stage.client.compound((Command.CREATE, create_body(), {}), (Command.READ, read_body(last, 0, 65536), related))
    stage.device.release(OSError(errno.ETIMEDOUT, "no answer"))
    stage.client.collect()
    assert {stage.client.take(message_id).status for message_id in ids} == {NtStatus.IO_TIMEOUT}


# --- control pages ---------------------------------------------------------------------


def test_a_control_page_changes_what_it_selects_and_the_open_sees_it(stage: Stage) -> None:
    file_id = stage.open()
    before = stage.read(file_id).data
    assert not stage.write(file_id, stage.device.control_page(2, ON))
    assert [bay.locate for bay in stage.device.bays] == [False, False, True, False]
    assert stage.read(file_id).data == stage.device.reading().content != before
    assert [slot.locate for slot in stage.query(stage.client)[0].slots] == [False, False, True, False]


def test_an_open_that_only_writes_renews_the_advertisement(stage: Stage) -> None:
    file_id = stage.open(WRITE)
    assert not stage.write(file_id, stage.device.control_page(1, Lamps(fault=True)))
    assert stage.query(stage.client)[0].slots[1].fault
    assert stage.read(file_id).status == NtStatus.ACCESS_DENIED


def page_of_another_generation(stage: Stage) -> bytes:
    page = stage.device.control_page(0, ON)
    stage.device.generation += 1
    return page


@pytest.mark.parametrize(
    ("page", "offset", "status"),
    [
        (lambda stage: stage.device.control_page(0, ON), 1, NtStatus.INVALID_PARAMETER),
        (lambda stage: stage.device.control_page(0, ON), 4096, NtStatus.INVALID_PARAMETER),
        (lambda stage: stage.device.control_page(0, ON)[:-1], 0, NtStatus.INVALID_PARAMETER),
        (lambda stage: stage.device.control_page(0, ON) + b"\0", 0, NtStatus.INVALID_PARAMETER),
        (lambda stage: stage.device.control_page(0, ON)[:4], 0, NtStatus.INVALID_PARAMETER),
        (lambda stage: b"", 0, NtStatus.INVALID_PARAMETER),
        (lambda stage: b"1\n", 0, NtStatus.INVALID_PARAMETER),
        (lambda stage: stage.device.reading().content, 0, NtStatus.INVALID_PARAMETER),
        (lambda stage: unbundle(stage.device.reading().content)[7], 0, NtStatus.INVALID_PARAMETER),
        (lambda stage: b"\x02\0\0\x04" + (7).to_bytes(4, "big"), 0, NtStatus.INVALID_PARAMETER),
        (page_of_another_generation, 0, NtStatus.FILE_INVALID),
    ],
)
def test_anything_else_is_refused_and_changes_nothing(stage: Stage, page, offset: int, status: int) -> None:
    file_id = stage.open()
    assert stage.write(file_id, page(stage), offset) == status
    assert not stage.device.controls
    assert not any(bay.locate for bay in stage.device.bays)
    assert stage.read(file_id).status == 0


def test_a_control_page_is_answered_when_the_device_was_read_again(stage: Stage) -> None:
    file_id = stage.open()
    stage.device.hold()
    body = write_body(file_id, 0, stage.device.control_page(0, ON))
    message_id = stage.client.send(Command.WRITE, body)
    stage.device.release()
    stage.client.collect()
    assert not stage.client.answered(message_id)
    stage.device.release()
    stage.client.collect()
    assert stage.client.take(message_id).status == 0


def test_a_control_page_was_carried_out_even_if_the_device_cannot_be_read_after_it(stage: Stage) -> None:
    file_id = stage.open()
    stage.device.hold()
    message_id = stage.client.send(Command.WRITE, write_body(file_id, 0, stage.device.control_page(0, ON)))
    stage.device.release()
    stage.device.release(OSError(errno.ENODEV, "gone"))
    stage.client.collect()
    assert stage.client.take(message_id).status == 0
    assert stage.read(file_id).status == NtStatus.NO_SUCH_DEVICE
    stage.device.heal()
    assert not stage.write(file_id, stage.device.control_page(1, ON))
    assert stage.read(file_id).data == stage.device.reading().content


def test_a_control_page_that_the_device_does_not_take_is_refused_with_its_error(stage: Stage) -> None:
    file_id = stage.open()
    stage.device.hold()
    message_id = stage.client.send(Command.WRITE, write_body(file_id, 0, stage.device.control_page(0, ON)))
    stage.device.release(OSError(errno.ETIMEDOUT, "no answer"))
    stage.client.collect()
    assert stage.client.take(message_id).status == NtStatus.IO_TIMEOUT


def test_a_close_waits_for_the_control_pages_of_the_open(stage: Stage) -> None:
    file_id = stage.open()
    stage.device.hold()
    write = stage.client.send(Command.WRITE, write_body(file_id, 0, stage.device.control_page(0, ON)))
    close = stage.client.send(Command.CLOSE, CloseRequest(FileId(file_id, file_id)).pack())
    assert stage.read(file_id).status == NtStatus.FILE_CLOSED
    assert not stage.client.answered(close)
    stage.device.heal()
    stage.client.collect()
    assert [stage.client.take(each).status for each in (write, close)] == [0, 0]
    assert not stage.held_by("n1")


def test_a_login_that_ends_the_session_waits_for_its_control_pages(stage: Stage) -> None:
    file_id = stage.open()
    stage.device.hold()
    stage.client.send(Command.WRITE, write_body(file_id, 0, stage.device.control_page(0, ON)))
    ended: list[bool] = []
    (session,) = stage.exporter.sessions.values()
    stage.exporter.sessions.end(session, lambda: ended.append(True))
    assert not ended
    stage.device.heal()
    assert ended
    assert not stage.enclosure.opens
    assert stage.device.controls


@pytest.mark.parametrize(
    "disposition", [CreateDisposition.OVERWRITE, CreateDisposition.OVERWRITE_IF, CreateDisposition.SUPERSEDE]
)
def test_a_create_that_overwrites_truncates_nothing(stage: Stage, disposition: int) -> None:
    file_id = stage.open(disposition=disposition)
    assert stage.read(file_id).data == stage.device.reading().content
    assert not stage.write(file_id, stage.device.control_page(0, ON))


def test_a_truncation_is_accepted_without_effect(stage: Stage) -> None:
    file_id = stage.open()

    def resize(size_bytes: int) -> int:
        data = size_bytes.to_bytes(8, "little")
        body = SetInfoRequest(FileId(file_id, file_id), InfoType.FILE, SIZE_CLASS, data).pack()
        return stage.client.call(Command.SET_INFO, body).status

    size_bytes = len(stage.device.reading().content)
    assert [resize(0), resize(size_bytes)] == [0, 0]
    assert resize(size_bytes + 1) == NtStatus.INVALID_PARAMETER
    assert stage.read(file_id).data == stage.device.reading().content


# --- rights ----------------------------------------------------------------------------


def test_a_node_that_may_only_read_sends_no_control_page(stage: Stage) -> None:
    reader = stage.log_in("n2")
    for access, disposition in (
        (WRITE, CreateDisposition.OPEN),
        (READ_WRITE, CreateDisposition.OPEN),
        (READ, CreateDisposition.OVERWRITE),
    ):
        assert reader.create("shelf", access, disposition=disposition).status == NtStatus.ACCESS_DENIED
    file_id = stage.open(READ, reader)
    body = write_body(file_id, 0, stage.device.control_page(0, ON))
    assert reader.call(Command.WRITE, body).status == NtStatus.ACCESS_DENIED
    assert not stage.device.controls


def test_a_node_without_access_does_not_know_of_the_enclosure(stage: Stage) -> None:
    stranger = stage.log_in("n3")
    assert stranger.create("shelf", ATTRIBUTES).status == NtStatus.OBJECT_NAME_NOT_FOUND
    assert stage.query(stranger) == []
    assert names_in_root(stranger) == []


def test_the_query_tells_each_node_its_own_access(stage: Stage) -> None:
    assert [each.access for each in stage.query(stage.client)] == [Access.READ_WRITE]
    assert [each.access for each in stage.query(stage.log_in("n2"))] == [Access.READ_ONLY]


def test_an_open_with_more_access_than_the_node_has_after_a_reload_ends(stage: Stage) -> None:
    reader, writer = stage.open(READ), stage.open(READ_WRITE)
    stage.allow["n1"] = Access.READ_ONLY
    stage.exporter.enclosures.enforce(stage.enclosure)
    assert stage.read(reader).status == 0
    assert stage.read(writer).status == NtStatus.FILE_CLOSED
    stage.allow["n1"] = Access.NONE
    stage.exporter.enclosures.enforce(stage.enclosure)
    assert stage.read(reader).status == NtStatus.FILE_CLOSED
    assert not stage.held_by("n1")


# --- the directory ---------------------------------------------------------------------


def names_in_root(client: RawInitiator) -> list[str]:
    root = client.open("", READ)
    body = QueryDirectoryRequest(FileId(root, root), NAMES_CLASS, 65536, "*").pack()
    output = QueryDirectoryResponse.unpack(client.call(Command.QUERY_DIRECTORY, body).body).output
    return [name for name in ("shelf", "other") if name.encode("utf-16-le") in output]


def test_the_root_lists_enclosures_and_no_disks(stage: Stage) -> None:
    offer_enclosure(stage.exporter, FakeEnclosureDevice(name="other"))
    assert names_in_root(stage.client) == ["shelf", "other"]
    assert stage.client.create("disk0", READ).status == NtStatus.OBJECT_NAME_NOT_FOUND
    root = stage.client.open("", READ)
    body = IoctlRequest(Fsctl.MESHFS_QUERY_DISKS, FileId(root, root), b"", 65536).pack()
    assert stage.client.call(Command.IOCTL, body).status == NtStatus.INVALID_DEVICE_REQUEST


def test_a_share_of_disks_has_no_enclosures(stage: Stage) -> None:
    client = RawInitiator(stage.exporter).log_in("n1", "disks")
    assert client.create("shelf", READ).status == NtStatus.OBJECT_NAME_NOT_FOUND
    root = client.open("", READ)
    body = IoctlRequest(Fsctl.MESHFS_QUERY_ENCLOSURES, FileId(root, root), b"", 65536).pack()
    assert client.call(Command.IOCTL, body).status == NtStatus.INVALID_DEVICE_REQUEST


def test_the_share_exists_without_enclosures() -> None:
    client = RawInitiator(make_exporter()).log_in("n1", SHARE_ENCLOSURES)
    assert names_in_root(client) == []


def test_a_change_of_an_enclosure_answers_change_notify_of_its_root_only(stage: Stage) -> None:
    other = RawInitiator(stage.exporter).log_in("n1", "disks")
    waits = {}
    for client in (stage.client, other):
        root = client.open("", READ)
        wanted = int(NotifyFilter.FILE_NAME | NotifyFilter.ATTRIBUTES | NotifyFilter.SIZE)
        body = ChangeNotifyRequest(FileId(root, root), 4096, wanted).pack()
        waits[client] = client.send(Command.CHANGE_NOTIFY, body)
        assert client.take(waits[client]).status == NtStatus.PENDING
    stage.write(stage.open(WRITE), stage.device.control_page(0, ON))
    changes = ChangeNotifyResponse.unpack(stage.client.take(waits[stage.client]).body).output
    assert "shelf".encode("utf-16-le") in bytes(changes)
    other.collect()
    assert not other.answered(waits[other])


def test_the_query_of_an_open_gives_its_enclosure(stage: Stage) -> None:
    offer_enclosure(stage.exporter, FakeEnclosureDevice(name="other"))
    file_id = stage.open(READ)
    body = IoctlRequest(Fsctl.MESHFS_QUERY_ENCLOSURES, FileId(file_id, file_id), b"", 65536).pack()
    output = IoctlResponse.unpack(stage.client.call(Command.IOCTL, body).body).output
    assert [each.name for each in decode_enclosures(output, 10, 100)] == ["shelf"]
    body = IoctlRequest(Fsctl.MESHFS_QUERY_ENCLOSURES, FileId(file_id, file_id), b"", 100).pack()
    assert stage.client.call(Command.IOCTL, body).status == NtStatus.BUFFER_TOO_SMALL


def test_the_file_has_the_size_and_the_time_of_its_pages(stage: Stage) -> None:
    reply = CreateResponse.unpack(stage.create(ATTRIBUTES).body)
    assert reply.size_bytes == len(stage.device.reading().content)
    assert reply.times.write_filetime == 116_444_736_000_000_000 + 1_700_000_000 * 10**7
    file_id = stage.open(READ)
    body = QueryInfoRequest(FileId(file_id, file_id), InfoType.FILE, STANDARD_CLASS, 100).pack()
    output = QueryInfoResponse.unpack(stage.client.call(Command.QUERY_INFO, body).body).output
    assert int.from_bytes(output[8:16], "little") == reply.size_bytes


def test_locks_and_zeroing_are_refused_and_a_flush_is_answered(stage: Stage) -> None:
    file_id = stage.open()
    pair = FileId(file_id, file_id)
    lock = LockRequest(pair, (LockElement(0, 1, int(LockFlags.EXCLUSIVE_LOCK)),)).pack()
    assert stage.client.call(Command.LOCK, lock).status == NtStatus.INVALID_PARAMETER
    zero = IoctlRequest(Fsctl.SET_ZERO_DATA, pair, ZeroData(0, 10).pack(), 0).pack()
    assert stage.client.call(Command.IOCTL, zero).status == NtStatus.INVALID_DEVICE_REQUEST
    assert stage.client.call(Command.FLUSH, FlushRequest(pair).pack()).status == 0


# --- limits ----------------------------------------------------------------------------


def test_a_node_keeps_a_bounded_number_of_contents(stage: Stage) -> None:
    opens = [stage.open(READ) for _ in range(limits.ENCLOSURE_CONTENTS_PER_NODE_MAX)]
    assert stage.create(READ).status == NtStatus.INSUFFICIENT_RESOURCES
    assert not stage.create(WRITE).status
    reader = stage.log_in("n2")
    assert not stage.create(READ, reader).status
    stage.close(opens[0])
    assert not stage.create(READ).status


def test_creates_that_wait_are_refused_when_they_would_keep_too_many_contents(stage: Stage) -> None:
    most = limits.ENCLOSURE_CONTENTS_PER_NODE_MAX
    stage.device.hold()
    ids = [stage.client.send(Command.CREATE, create_body()) for _ in range(most + 1)]
    stage.device.heal()
    stage.client.collect()
    for each in ids:
        stage.client.take(each)
    statuses = [stage.client.take(each).status for each in ids]
    assert statuses == [0] * most + [NtStatus.INSUFFICIENT_RESOURCES]
    assert len(stage.enclosure.opens) == most


def test_a_node_has_a_bounded_number_of_control_pages_at_enclosures(stage: Stage) -> None:
    file_id = stage.open(WRITE)
    stage.device.hold()
    body = write_body(file_id, 0, stage.device.control_page(0, ON))
    ids = [stage.client.send(Command.WRITE, body) for _ in range(limits.ENCLOSURE_CONTROLS_PER_NODE_MAX)]
    assert stage.client.call(Command.WRITE, body).status == NtStatus.INSUFFICIENT_RESOURCES
    stage.device.heal()
    stage.client.collect()
    assert {stage.client.take(each).status for each in ids} == {0}
    assert not stage.client.call(Command.WRITE, body).status

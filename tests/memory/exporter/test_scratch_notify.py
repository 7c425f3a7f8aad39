"""CHANGE_NOTIFY in the share `scratch`: which changes a watch reports, which are kept, and that no request is stuck."""

import struct

import pytest

from meshfs import limits
from meshfs.model import Security
from meshfs.smb.constants import AccessMask, Command, CreateDisposition, CreateOptions, FileAttributes, NtStatus
from meshfs.smb.info import FileInfoClass
from meshfs.smb.messages import ChangeNotifyRequest, ChangeNotifyResponse, FileId, unpack_notifications
from meshlab.smb.raw_initiator import RawInitiator
from support.scratch import Clock, another, client_of, close, files, make, mkdir, rename, set_info, write

A, D = AccessMask, CreateDisposition


@pytest.fixture
def client():
    return client_of(Security.SIGN, Clock())


def watch(client: RawInitiator, folder: int, wanted: int = 0xFFF, *, tree: bool = False, size: int = 4096) -> int:
    """Send a CHANGE_NOTIFY, and return its message id."""
    body = ChangeNotifyRequest(FileId(folder, folder), size, wanted, int(tree))
    return client.send(Command.CHANGE_NOTIFY, body.pack())


def pending(client: RawInitiator, folder: int, wanted: int = 0xFFF, *, tree: bool = False, size: int = 4096) -> int:
    """Send a CHANGE_NOTIFY that waits, and return its message id."""
    message_id = watch(client, folder, wanted, tree=tree, size=size)
    assert client.take(message_id).status == NtStatus.PENDING
    return message_id


def changes(client: RawInitiator, message_id: int) -> tuple[tuple[int, str], ...]:
    """Return the changes that a CHANGE_NOTIFY was answered with."""
    client.collect()
    reply = client.take(message_id)
    assert reply.status == 0, hex(reply.status)
    return unpack_notifications(ChangeNotifyResponse.unpack(reply.body).output)


def test_a_watch_of_a_directory_reports_its_changes_and_ends_with_its_open(client):
    other = another(client.exporter)
    close(client, mkdir(client, "folder"))
    folder = make(client, "folder", int(A.READ_DATA))
    message_id = watch(client, folder)
    assert client.take(message_id).status == NtStatus.PENDING
    file = make(other, "folder\\new", options=CreateOptions.DELETE_ON_CLOSE)
    client.collect()
    output = ChangeNotifyResponse.unpack(client.take(message_id).body).output
    assert unpack_notifications(output) == ((1, "new"),)
    assert rename(other, file, "folder\\renamed") == 0
    close(other, file)
    output = ChangeNotifyResponse.unpack(client.take(watch(client, folder)).body).output
    assert unpack_notifications(output) == ((4, "new"), (5, "renamed"), (3, "renamed"), (2, "renamed"))
    message_id = watch(client, folder)
    assert client.take(message_id).status == NtStatus.PENDING
    close(client, folder)
    assert client.take(message_id).status == NtStatus.NOTIFY_CLEANUP


@pytest.mark.parametrize("how", ["disposition", "delete on close", "rmdir of its own"])
def test_a_watch_of_a_deleted_directory_is_answered(client, how):
    """smbtorture's smb2.notify.rmdir1 to rmdir4 demand it."""
    other = another(client.exporter)
    folder = mkdir(client, "folder")
    waiting = [pending(client, folder), pending(client, folder)]
    if how == "rmdir of its own":
        assert set_info(client, folder, FileInfoClass.DISPOSITION, b"\x01") == 0
    elif how == "disposition":
        deleting = make(other, "folder")
        assert set_info(other, deleting, FileInfoClass.DISPOSITION, b"\x01") == 0
    else:
        options = CreateOptions.DIRECTORY_FILE | CreateOptions.DELETE_ON_CLOSE
        close(other, make(other, "folder", disposition=D.OPEN, options=options))
    client.collect()
    assert [client.take(each).status for each in waiting] == [NtStatus.DELETE_PENDING] * 2
    assert client.take(watch(client, folder)).status == NtStatus.DELETE_PENDING
    assert not client.peer.waiting
    assert close(client, folder).status == 0
    assert [file.path for file in files(client.exporter.scratch)] == ([] if how != "disposition" else ["folder"])


def test_a_watch_of_a_tree_reports_changes_below_it(client):
    other = another(client.exporter)
    for path in ("top", "top\\inner"):
        close(client, mkdir(client, path))
    top, inner = make(client, "top", int(A.READ_DATA)), make(client, "top\\inner", int(A.READ_DATA))
    tree, flat = pending(client, top, tree=True), pending(client, inner)
    only_flat = pending(client, make(client, "top", int(A.READ_DATA)), tree=False)
    close(other, mkdir(other, "top\\inner\\new"))
    assert changes(client, tree) == ((1, "inner\\new"),)
    assert changes(client, flat) == ((1, "new"),)
    with pytest.raises(AssertionError):
        changes(client, only_flat)
    file = make(other, "top\\inner\\new\\file")
    assert rename(other, file, "top\\file") == 0
    assert changes(client, watch(client, top)) == (
        (1, "inner\\new\\file"),
        (2, "inner\\new\\file"),
        (1, "file"),
        (3, "file"),
    )
    assert changes(client, only_flat) == ((1, "file"),)


NAME, DIRECTORY, ATTRIBUTES, SIZE_CHANGED, LAST_WRITE, LAST_ACCESS, CREATION = (1 << bit for bit in range(7))
HIDE = struct.pack("<4qI", 0, 0, 0, 0, FileAttributes.HIDDEN)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda client, file: make(client, "folder\\new"), NAME),
        (lambda client, file: mkdir(client, "folder\\new"), DIRECTORY),
        (lambda client, file: rename(client, file, "folder\\new"), NAME | ATTRIBUTES | CREATION),
        (lambda client, file: rename(client, make(client, "folder\\below"), "folder\\new"), DIRECTORY),
        (lambda client, file: set_info(client, file, FileInfoClass.BASIC, HIDE), ATTRIBUTES),
        (
            lambda client, file: set_info(client, file, FileInfoClass.BASIC, struct.pack("<4qI", 5, 0, 0, 0, 0)),
            CREATION,
        ),
        (
            lambda client, file: set_info(client, file, FileInfoClass.BASIC, struct.pack("<4qI", 0, 5, 0, 0, 0)),
            LAST_ACCESS,
        ),
        (
            lambda client, file: set_info(client, file, FileInfoClass.BASIC, struct.pack("<4qI", 0, 0, 5, 0, 0)),
            LAST_WRITE,
        ),
        (lambda client, file: set_info(client, file, FileInfoClass.END_OF_FILE, bytes(8)), SIZE_CHANGED | LAST_WRITE),
        (lambda client, file: write(client, file, 0, b"longer than it is"), SIZE_CHANGED | LAST_WRITE),
        (lambda client, file: write(client, file, 0, b"x"), LAST_WRITE),
        (
            lambda client, file: close(client, make(client, "folder\\file", disposition=D.OVERWRITE)),
            ATTRIBUTES | SIZE_CHANGED | LAST_WRITE,
        ),
    ],
)
def test_the_filter_of_the_first_request_decides_which_changes_are_reported(client, change, wanted):
    """A watch is answered if its filter has one of the bits of the change, and only then."""
    other = another(client.exporter)
    for path in ("folder", "folder\\below"):
        close(client, mkdir(client, path))
    file = make(other, "folder\\file")
    write(other, file, 0, b"content")
    waiting = {1 << bit: pending(client, make(client, "folder", int(A.READ_DATA)), 1 << bit) for bit in range(12)}
    change(other, file)
    client.collect()
    assert {bit for bit, message_id in waiting.items() if client.answered(message_id)} == {
        1 << bit for bit in range(12) if wanted & 1 << bit
    }


def test_the_filter_of_a_later_request_does_not_count(client):
    """The filter of an open stays that of its first request (MS-SMB2 3.3.1.3, smbtorture's smb2.notify.mask-change)."""
    folder = mkdir(client, "folder")
    message_id = pending(client, folder, ATTRIBUTES)
    assert set_info(client, make(client, "folder\\file"), FileInfoClass.BASIC, HIDE) == 0
    assert changes(client, message_id) == ((3, "file"),)
    pending(client, folder, NAME, tree=True)
    make(client, "folder\\other")
    assert len(client.peer.waiting) == 1


def test_changes_that_do_not_fit_send_the_initiator_to_list(client, monkeypatch):
    """smbtorture's smb2.notify.overflow and smb2.notify.valid-req demand it."""
    folder, tiny = mkdir(client, "folder"), make(client, "folder", int(A.READ_DATA))
    message_id, small = pending(client, folder), pending(client, tiny, size=1)
    make(client, "folder\\one")
    assert changes(client, message_id) == ((1, "one"),)
    client.collect()
    assert client.take(small).status == NtStatus.NOTIFY_ENUM_DIR
    # An open whose first request had no room for a change keeps none.
    make(client, "folder\\two")
    assert client.take(watch(client, tiny)).status == NtStatus.NOTIFY_ENUM_DIR
    assert changes(client, watch(client, folder)) == ((1, "two"),)
    monkeypatch.setattr(limits, "NOTIFY_CHANGES_MAX", 3)
    for name in ("three", "four", "five", "six"):
        make(client, f"folder\\{name}")
    assert client.take(watch(client, folder)).status == NtStatus.NOTIFY_ENUM_DIR
    assert pending(client, folder)


def test_watched_opens_are_limited(client, monkeypatch):
    monkeypatch.setattr(limits, "SCRATCH_WATCHERS_MAX", 1)
    folder, second = mkdir(client, "folder"), make(client, "folder", int(A.READ_DATA))
    pending(client, folder)
    assert client.take(watch(client, second)).status == NtStatus.INSUFFICIENT_RESOURCES
    pending(client, folder)
    close(client, folder)
    pending(client, second)


def test_a_node_leaves_others_room_to_watch(client):
    other = another(client.exporter, "n3")
    mkdir(client, "folder")
    opens = [make(client, "folder", int(A.READ_DATA)) for _ in range(limits.SCRATCH_WATCHERS_PER_NODE_MAX + 1)]
    waiting = [pending(client, folder) for folder in opens[:-1]]
    assert client.take(watch(client, opens[-1])).status == NtStatus.INSUFFICIENT_RESOURCES
    told = pending(other, make(other, "folder", int(A.READ_DATA)))
    make(other, "folder\\file")
    assert changes(other, told) == ((1, "file"),)
    assert [changes(client, each) for each in waiting] == [((1, "file"),)] * len(waiting)
    close(client, opens[0])
    pending(client, opens[-1])
    for folder in opens[1:]:
        close(client, folder)
    pending(client, make(client, "", int(A.READ_DATA)))
    client.peer.lost()
    assert client.exporter.usage.of("n2").holdings.is_empty

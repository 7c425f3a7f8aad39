"""No request waits for an event that cannot happen any more: a wait ends when the thing that it waits at ends.

A function of the first group lets a request wait, one of the second group ends something meanwhile.
"""

from collections.abc import Callable

import pytest

from meshfs.exporter.exchange.waiting import AsyncCommand
from meshfs.exporter.rules.scratch.volume import ScratchVolume
from meshfs.model import Security
from meshfs.smb.constants import (
    AccessMask,
    Command,
    CreateDisposition,
    CreateOptions,
    LockFlags,
    NtStatus,
    OplockLevel,
)
from meshfs.smb.info import FileInfoClass
from meshfs.smb.messages import (
    CancelRequest,
    ChangeNotifyRequest,
    CloseRequest,
    CreateRequest,
    FileId,
    LockElement,
    LockRequest,
    LogoffRequest,
    TreeDisconnectRequest,
)
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import READ_WRITE, SHARE_ALL, file_id_of, read_body
from support.scratch import set_info

LIST = int(AccessMask.READ_DATA)
ALL = 0x001F01FF


class Stage:
    """An exporter with a disk and a scratch share, the node whose request waits, and another one."""

    def __init__(self) -> None:
        self.disk = MemoryDisk(1 << 20)
        self.exporter = make_exporter(Security.SIGN, disk0=self.disk)
        self.exporter.scratch = ScratchVolume(1 << 20, self.exporter.now_filetime())
        self.client = self.log_in("n2", "disks")
        self.other = self.log_in("n3", "disks")
        #: The open that the waiting request uses, if it uses one.
        self.file_id: int | None = None
        self.message_id = -1

    def log_in(self, node: str, share: str) -> RawInitiator:
        client = RawInitiator(self.exporter).log_in(node, share)
        client.call(Command.ECHO, b"\x04\0\0\0", credits=200)
        return client

    def wait(self, command: int, body: bytes) -> None:
        self.message_id = self.client.send(command, body)
        assert self.client.take(self.message_id).status == NtStatus.PENDING

    def answer(self) -> int:
        self.client.collect()
        return self.client.take(self.message_id).status


# --- requests that wait ----------------------------------------------------------------


def lock_of_a_disk(stage: Stage) -> None:
    lock(stage, stage.other.open("disk0"), stage.client.open("disk0"))


def lock_of_a_file(stage: Stage) -> None:
    for client in (stage.client, stage.other):
        client.connect("scratch")
    theirs, mine = (
        file_id_of(client.create("file", ALL, disposition=CreateDisposition.OPEN_IF))
        for client in (stage.other, stage.client)
    )
    lock(stage, theirs, mine)


def lock(stage: Stage, theirs: int, mine: int) -> None:
    element = (LockElement(0, 10, int(LockFlags.EXCLUSIVE_LOCK)),)
    assert stage.other.call(Command.LOCK, LockRequest(FileId(theirs, theirs), element).pack()).status == 0
    stage.file_id = mine
    stage.wait(Command.LOCK, LockRequest(FileId(mine, mine), element).pack())


def notify_of_the_disks(stage: Stage) -> None:
    notify(stage, stage.client.open("", LIST))


def notify_of_a_directory(stage: Stage) -> None:
    stage.client.connect("scratch")
    create = stage.client.create(
        "folder", ALL, disposition=CreateDisposition.CREATE, options=CreateOptions.DIRECTORY_FILE
    )
    notify(stage, file_id_of(create))


def notify(stage: Stage, file_id: int) -> None:
    stage.file_id = file_id
    stage.wait(Command.CHANGE_NOTIFY, ChangeNotifyRequest(FileId(file_id, file_id), 1024, 0xFFF, 1).pack())


def create_of_a_disk(stage: Stage) -> None:
    """Wait for a READ that an earlier session of the node left at the disk. The READ never ends."""
    old = stage.log_in("n2", "disks")
    file_id = old.open("disk0")
    stage.disk.stall()
    old.send(Command.READ, read_body(file_id, 0, 512))
    old.peer.lost()
    stage.wait(Command.CREATE, CreateRequest("disk0", READ_WRITE, SHARE_ALL, CreateDisposition.OPEN).pack())


def create_of_a_file(stage: Stage) -> None:
    """Wait for an oplock that the other node does not give up."""
    for client in (stage.client, stage.other):
        client.connect("scratch")
    holding = stage.other.create("file", ALL, disposition=CreateDisposition.CREATE, oplock_level=OplockLevel.BATCH)
    assert holding.status == 0
    stage.wait(Command.CREATE, CreateRequest("file", ALL, SHARE_ALL, CreateDisposition.OPEN).pack())


# --- ends of what they wait at ---------------------------------------------------------


def cancelled(stage: Stage) -> None:
    stage.client.send(Command.CANCEL, CancelRequest().pack(), message_id=stage.message_id)


def closed(stage: Stage) -> None:
    assert stage.file_id is not None
    body = CloseRequest(FileId(stage.file_id, stage.file_id)).pack()
    assert stage.client.call(Command.CLOSE, body).status == 0


def disconnected(stage: Stage) -> None:
    assert stage.client.call(Command.TREE_DISCONNECT, TreeDisconnectRequest().pack()).status == 0


def logged_off(stage: Stage) -> None:
    assert stage.client.call(Command.LOGOFF, LogoffRequest().pack()).status == 0


def followed(stage: Stage) -> None:
    """Log in with the session's id as PreviousSessionId."""
    following = RawInitiator(stage.exporter)
    following.negotiate()
    assert following.set_up("n2", previous=stage.client.session_id).status == 0


def withdrawn(stage: Stage) -> None:
    stage.exporter.batches.begin()
    stage.exporter.disks.withdraw("disk0", lambda disk: None)
    stage.exporter.batches.end()


def ended_opens(stage: Stage) -> None:
    """End all opens of the disk, as if another disk had replaced it."""
    stage.exporter.batches.begin()
    stage.exporter.disks.end_opens(stage.exporter.disks.all()[0])
    stage.exporter.batches.end()


def deleted(stage: Stage) -> None:
    name = "folder" if stage.exporter.scratch.root.children.get("folder") else "file"
    stage.other.connect("scratch")
    deleting = file_id_of(stage.other.create(name, ALL))
    assert set_info(stage.other, deleting, FileInfoClass.DISPOSITION, b"\x01") == 0


S = NtStatus
LOGGED_OFF, GONE, CLOSED = S.USER_SESSION_DELETED, S.NETWORK_NAME_DELETED, S.RANGE_NOT_LOCKED


@pytest.mark.parametrize(
    ("begin", "end", "status"),
    [
        (lock_of_a_disk, cancelled, S.CANCELLED),
        (lock_of_a_disk, closed, CLOSED),
        (lock_of_a_disk, disconnected, CLOSED),
        (lock_of_a_disk, logged_off, CLOSED),
        (lock_of_a_disk, followed, CLOSED),
        # The other node's open ends first, and with it the lock that was in the way.
        (lock_of_a_disk, withdrawn, S.SUCCESS),
        (lock_of_a_disk, ended_opens, S.SUCCESS),
        (lock_of_a_file, cancelled, S.CANCELLED),
        (lock_of_a_file, closed, CLOSED),
        (lock_of_a_file, disconnected, CLOSED),
        (lock_of_a_file, logged_off, CLOSED),
        (lock_of_a_file, followed, CLOSED),
        (notify_of_the_disks, cancelled, S.CANCELLED),
        (notify_of_the_disks, closed, S.NOTIFY_CLEANUP),
        (notify_of_the_disks, disconnected, S.NOTIFY_CLEANUP),
        (notify_of_the_disks, logged_off, S.NOTIFY_CLEANUP),
        (notify_of_the_disks, followed, S.NOTIFY_CLEANUP),
        (notify_of_the_disks, withdrawn, S.SUCCESS),
        (notify_of_a_directory, cancelled, S.CANCELLED),
        (notify_of_a_directory, closed, S.NOTIFY_CLEANUP),
        (notify_of_a_directory, disconnected, S.NOTIFY_CLEANUP),
        (notify_of_a_directory, logged_off, S.NOTIFY_CLEANUP),
        (notify_of_a_directory, followed, S.NOTIFY_CLEANUP),
        (notify_of_a_directory, deleted, S.DELETE_PENDING),
        (create_of_a_disk, cancelled, S.CANCELLED),
        (create_of_a_disk, disconnected, GONE),
        (create_of_a_disk, logged_off, LOGGED_OFF),
        (create_of_a_disk, followed, LOGGED_OFF),
        (create_of_a_disk, withdrawn, S.OBJECT_NAME_NOT_FOUND),
        (create_of_a_file, cancelled, S.CANCELLED),
        (create_of_a_file, disconnected, GONE),
        (create_of_a_file, logged_off, LOGGED_OFF),
        (create_of_a_file, followed, LOGGED_OFF),
    ],
)
def test_every_wait_has_an_end(begin: Callable[[Stage], None], end: Callable[[Stage], None], status: int) -> None:
    stage = Stage()
    begin(stage)
    end(stage)
    assert stage.answer() == status
    assert not stage.client.peer.waiting
    # Whatever ends later, the request is not answered twice.
    stage.disk.release()
    stage.other.peer.lost()
    stage.client.collect()
    assert not [reply for reply in stage.client.replies if reply.message_id == stage.message_id]
    assert not any(tree.creates for session in stage.exporter.sessions.values() for tree in session.trees.values())


@pytest.mark.parametrize(
    "begin",
    [
        lock_of_a_disk,
        lock_of_a_file,
        notify_of_the_disks,
        notify_of_a_directory,
        create_of_a_disk,
        create_of_a_file,
    ],
)
def test_a_wait_goes_with_its_connection(begin: Callable[[Stage], None]) -> None:
    stage = Stage()
    begin(stage)
    stage.client.peer.lost()
    assert not stage.client.peer.waiting
    stage.disk.release()
    stage.other.peer.lost()
    assert not any(disk.creates or disk.lock_waiters or disk.opens for disk in stage.exporter.disks.all())
    assert stage.exporter.scratch is not None
    assert not stage.exporter.scratch.root.opens_below
    assert not stage.exporter.scratch.breaking


def test_a_file_that_is_to_be_deleted_still_gives_its_locks() -> None:
    """The opens of the file stay until they are closed, and their waits go on."""
    stage = Stage()
    lock_of_a_file(stage)
    deleted(stage)
    stage.other.peer.lost()
    assert stage.answer() == 0


def test_a_lost_connection_ends_although_one_of_its_waiting_requests_cannot_be_ended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If a fault of ours ends the end of the first waiting request, the session and its opens still end."""
    stage = Stage()
    file_id = stage.client.open("", LIST)
    for _ in range(2):
        stage.wait(Command.CHANGE_NOTIFY, ChangeNotifyRequest(FileId(file_id, file_id), 1024, 0xFFF).pack())
    ends = AsyncCommand.end
    ended: list[int] = []

    def end(self: AsyncCommand, status: int) -> None:
        ended.append(status)
        if len(ended) == 1:
            raise RuntimeError("an error of ours")
        ends(self, status)

    monkeypatch.setattr(AsyncCommand, "end", end)
    stage.client.peer.lost()
    assert len(ended) >= 2
    assert [session.user for session in stage.exporter.sessions.values()] == ["n3"]
    assert "ending a lost connection failed" in caplog.text
    caplog.clear()

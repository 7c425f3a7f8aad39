"""Listings of a share, information about opens and disks, and CHANGE_NOTIFY on the root."""

import struct

import pytest

from meshfs.exporter.rules.access import DISK_RIGHTS
from meshfs.exporter.state.offered_disk import OfferedDisk
from meshfs.model import Access, DiskInfo
from meshfs.scheduler.decide.queue import FifoQueue
from meshfs.scheduler.runner import Runner
from meshfs.smb.constants import (
    AccessMask,
    Command,
    CreateOptions,
    InfoType,
    NtStatus,
)
from meshfs.smb.messages import (
    ChangeNotifyRequest,
    ChangeNotifyResponse,
    CloseRequest,
    FileId,
    IoctlRequest,
    QueryDirectoryRequest,
    QueryDirectoryResponse,
    QueryInfoRequest,
    QueryInfoResponse,
    SetInfoRequest,
    unpack_notifications,
)
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import RawInitiator
from meshlab.smb.raw_messages import READ_WRITE, file_id_of, read_body, write_body
from support.two_disks import client_of_two_disks

LIST = int(AccessMask.READ_DATA)


@pytest.fixture
def client():
    return client_of_two_disks()


# --- CHANGE_NOTIFY ---------------------------------------------------------------------


def new_disk(name: str) -> OfferedDisk:
    disk = MemoryDisk(4096)
    info = DiskInfo(id=name, node="n1", name=name, size_bytes=4096, access=Access.READ_WRITE, verifier="")
    return OfferedDisk(info, Runner(FifoQueue(1), disk, now=lambda: 0.0), lambda node: Access.READ_WRITE)


def watch(client: RawInitiator, root: int, size: int = 4096) -> int:
    return client.send(Command.CHANGE_NOTIFY, ChangeNotifyRequest(FileId(root, root), size, 0xFFF).pack())


def test_a_watch_reports_new_and_removed_disks(client):
    root = client.open("", LIST)
    message_id = watch(client, root)
    assert client.take(message_id).status == NtStatus.PENDING
    client.exporter.disks.add(new_disk("disk2"))
    client.collect()
    output = ChangeNotifyResponse.unpack(client.take(message_id).body).output
    assert unpack_notifications(output) == ((1, "disk2"),)
    # Changes between two requests are kept for the second one.
    client.exporter.disks.remove("disk2")
    client.exporter.disks.remove("disk1")
    message_id = watch(client, root)
    output = ChangeNotifyResponse.unpack(client.take(message_id).body).output
    assert unpack_notifications(output) == ((2, "disk2"), (2, "disk1"))


def test_changes_that_do_not_fit_make_the_client_list_again(client):
    root = client.open("", LIST)
    message_id = watch(client, root, size=8)
    client.take(message_id)
    client.exporter.disks.remove("disk1")
    client.collect()
    assert client.take(message_id).status == NtStatus.NOTIFY_ENUM_DIR


def test_a_watch_ends_with_its_open(client):
    root = client.open("", LIST)
    message_id = watch(client, root)
    client.take(message_id)
    client.call(Command.CLOSE, CloseRequest(FileId(root, root)).pack())
    assert client.take(message_id).status == NtStatus.NOTIFY_CLEANUP


def test_only_the_root_is_watched(client):
    message_id = watch(client, client.open("disk0"))
    assert client.take(message_id).status == NtStatus.INVALID_PARAMETER


# --- listings and information ----------------------------------------------------------


def query(client: RawInitiator, root: int, pattern: str, *, info_class: int = 12, size: int = 65536, flags: int = 0):
    body = QueryDirectoryRequest(FileId(root, root), info_class, size, pattern, flags)
    return client.call(Command.QUERY_DIRECTORY, body.pack())


def names(reply) -> list[str]:
    output, found, offset = QueryDirectoryResponse.unpack(reply.body).output, [], 0
    while True:
        step, _, length = struct.unpack_from("<III", output, offset)
        found.append(output[offset + 12 : offset + 12 + length].decode("utf-16-le"))
        if not step:
            return found
        offset += step


def test_a_share_lists_its_disks(client):
    root = client.open("", LIST)
    assert names(query(client, root, "*")) == [".", "..", "disk0", "disk1"]
    assert query(client, root, "*").status == NtStatus.NO_MORE_FILES
    assert names(query(client, root, "disk1", flags=1)) == ["disk1"]
    assert query(client, root, "nothing", flags=1).status == NtStatus.NO_SUCH_FILE
    assert names(query(client, root, "disk?", flags=1 | 2)) == ["disk0"]
    assert names(query(client, root, "disk?", flags=2)) == ["disk1"]
    assert query(client, root, "*", flags=1, size=10).status == NtStatus.INFO_LENGTH_MISMATCH
    assert query(client, root, "*", flags=1, info_class=99).status == NtStatus.INVALID_INFO_CLASS
    assert query(client, root, "*", size=65537).status == NtStatus.INVALID_PARAMETER
    assert query(client, client.open("disk0"), "*").status == NtStatus.INVALID_PARAMETER


def info(client: RawInitiator, file_id: int, kind: int, info_class: int, size: int = 4096, additional: int = 0):
    body = QueryInfoRequest(FileId(file_id, file_id), kind, info_class, size, additional)
    return client.call(Command.QUERY_INFO, body.pack())


def test_information_of_disk_root_and_volume(client):
    attributes = int(AccessMask.READ_ATTRIBUTES)
    disk = client.open("disk0", READ_WRITE | AccessMask.READ_CONTROL | attributes)
    root = client.open("", LIST | attributes)
    standard = QueryInfoResponse.unpack(info(client, disk, 1, 5).body).output
    assert struct.unpack_from("<QQ", standard) == (1 << 20, 1 << 20)
    for file_id in (disk, root):
        assert info(client, file_id, 1, 18).status == 0
        assert info(client, file_id, 2, 3).status == 0
    assert info(client, disk, 3, 0, additional=7).status == 0
    too_small = info(client, disk, 3, 0, additional=7, size=1)
    assert too_small.status == NtStatus.BUFFER_TOO_SMALL
    assert info(client, root, 3, 0, additional=7).status == NtStatus.ACCESS_DENIED
    assert info(client, disk, 1, 200).status == NtStatus.INVALID_INFO_CLASS
    assert info(client, disk, 9, 0).status == NtStatus.INVALID_PARAMETER
    assert info(client, disk, 4, 0).status == NtStatus.NOT_SUPPORTED


@pytest.mark.parametrize(
    ("info_class", "buffer", "status"),
    [
        (20, struct.pack("<Q", 0), 0),
        (20, struct.pack("<Q", 1 << 20), 0),
        (20, struct.pack("<Q", 4096), NtStatus.ACCESS_DENIED),
        (20, struct.pack("<Q", 1 << 21), NtStatus.DISK_FULL),
        (19, struct.pack("<Q", 4096), 0),
        (13, b"\1", NtStatus.ACCESS_DENIED),
        (13, b"\0", 0),
        (10, struct.pack("<QQI", 0, 0, 2) + "x".encode("utf-16-le"), NtStatus.ACCESS_DENIED),
        (20, b"", NtStatus.INFO_LENGTH_MISMATCH),
        (99, b"", NtStatus.INVALID_INFO_CLASS),
    ],
)
def test_set_info_changes_nothing(client, info_class, buffer, status):
    file_id = client.open("disk0")
    client.call(Command.WRITE, write_body(file_id, 0, b"content"))
    body = SetInfoRequest(FileId(file_id, file_id), 1, info_class, buffer)
    assert client.call(Command.SET_INFO, body.pack()).status == status
    standard = QueryInfoResponse.unpack(info(client, file_id, 1, 5).body).output
    assert struct.unpack_from("<QQ", standard) == (1 << 20, 1 << 20)
    assert client.call(Command.READ, read_body(file_id, 0, 7)).data == b"content"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (0x00060194, NtStatus.FS_DRIVER_REQUIRED),
        (0x00090028, NtStatus.INVALID_DEVICE_REQUEST),
        (0x0011C017, NtStatus.INVALID_DEVICE_REQUEST),
    ],
)
def test_fsctls_that_a_disk_does_not_have_are_refused(client, code, status):
    file_id = client.open("disk0")
    body = IoctlRequest(code, FileId(file_id, file_id), b"", 1024)
    assert client.call(Command.IOCTL, body.pack()).status == status


# --- security descriptors --------------------------------------------------------------

DACL, SACL = 4, 8


@pytest.mark.parametrize("name", ["", "disk0"])
@pytest.mark.parametrize("more", [0, int(AccessMask.READ_CONTROL), int(AccessMask.MAXIMUM_ALLOWED)])
def test_the_right_to_the_sacl_is_a_privilege_that_nobody_has(client, name, more):
    """Clients that get exactly this status go on without the SACL, as getcifsacl does."""
    access = int(AccessMask.ACCESS_SYSTEM_SECURITY) | more
    assert client.create(name, access=access).status == NtStatus.PRIVILEGE_NOT_HELD


def test_the_dacl_has_the_rights_of_the_node_and_not_those_of_the_open(client):
    file_id = client.open("disk0", access=int(AccessMask.READ_CONTROL))
    descriptor = QueryInfoResponse.unpack(info(client, file_id, InfoType.SECURITY, 0, additional=DACL).body).output
    authenticated_users = bytes.fromhex("01 01 000000000005 0b000000")
    assert descriptor.endswith(struct.pack("<I", DISK_RIGHTS[Access.READ_WRITE]) + authenticated_users)
    assert info(client, file_id, InfoType.SECURITY, 0, additional=DACL | SACL).status == NtStatus.ACCESS_DENIED


def test_the_mode_of_an_open_is_queried_and_set(client):
    disk = file_id_of(client.create("disk0", READ_WRITE, options=CreateOptions.WRITE_THROUGH))
    opened = next(iter(client.exporter.sessions.values())).opens[disk]
    assert QueryInfoResponse.unpack(info(client, disk, 1, 16).body).output == struct.pack("<I", 2)
    assert opened.write_through
    for wanted, status, mode in ((4, 0, 4), (2, 0, 2), (1, NtStatus.INVALID_PARAMETER, 2), (0, 0, 0)):
        body = SetInfoRequest(FileId(disk, disk), InfoType.FILE, 16, struct.pack("<I", wanted)).pack()
        assert client.call(Command.SET_INFO, body).status == status
        assert QueryInfoResponse.unpack(info(client, disk, 1, 16).body).output == struct.pack("<I", mode)
        assert opened.write_through == bool(mode & 2)


def test_a_share_of_disks_has_no_quotas(client):
    """Samba's clients call FileFsControlInformation quota information. It says that there is no quota."""
    for name in ("", "disk0"):
        output = QueryInfoResponse.unpack(info(client, client.open(name, LIST), 2, 6).body).output
        assert struct.unpack("<3QQQI4x", output) == (0, 0, 0, (1 << 64) - 1, (1 << 64) - 1, 0)

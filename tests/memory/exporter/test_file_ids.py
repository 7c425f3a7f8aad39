"""Every command that names a file, with a file id that is no open: FILE_CLOSED comes before every other refusal."""

import pytest

from meshfs.exporter.commands.table import HANDLERS
from meshfs.limits import TRANSACT_SIZE_MAX_BYTES
from meshfs.smb.constants import Command, Fsctl, InfoType, LockFlags, NtStatus, OplockLevel
from meshfs.smb.info import FileInfoClass
from meshfs.smb.messages import (
    ChangeNotifyRequest,
    CloseRequest,
    FileId,
    FlushRequest,
    IoctlRequest,
    LockElement,
    LockRequest,
    OplockBreak,
    QueryDirectoryRequest,
    QueryInfoRequest,
    SetInfoRequest,
)
from meshfs.smb.wire import READ_REQUEST, WRITE_REQUEST
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import RawInitiator, make_exporter

WITHOUT_FILE = frozenset(
    (
        Command.SESSION_SETUP,
        Command.LOGOFF,
        Command.TREE_CONNECT,
        Command.TREE_DISCONNECT,
        Command.CREATE,
        Command.ECHO,
        Command.CANCEL,
    )
)
UNPAID = TRANSACT_SIZE_MAX_BYTES + 1


def read(file: FileId, *, length: int = 1, channel: int = 0) -> bytes:
    return READ_REQUEST.pack(49, 80, 0, length, 0, *file, 0, channel, 0, 0, 0, 0)


def write(file: FileId, *, length: int = 1, channel: int = 0) -> bytes:
    return WRITE_REQUEST.pack(49, 112, length, 0, *file, channel, 0, 0, 0, 0) + b"x"


def lock(file: FileId, *flags: int) -> bytes:
    return LockRequest(file, tuple(LockElement(0, 1, int(each)) for each in flags)).pack()


#: For each command, a request that is right, and some that are wrong in another field as well.
REQUESTS = [
    (Command.CLOSE, lambda file: CloseRequest(file).pack()),
    (Command.CLOSE, lambda file: CloseRequest(file, 1).pack()),
    (Command.FLUSH, lambda file: FlushRequest(file).pack()),
    (Command.READ, read),
    (Command.READ, lambda file: read(file, length=UNPAID)),
    (Command.READ, lambda file: read(file, channel=1)),
    (Command.WRITE, write),
    (Command.WRITE, lambda file: write(file, length=2)),
    (Command.WRITE, lambda file: write(file, channel=1)),
    (Command.LOCK, lambda file: lock(file, LockFlags.EXCLUSIVE_LOCK | LockFlags.FAIL_IMMEDIATELY)),
    (Command.LOCK, lambda file: lock(file, LockFlags.UNLOCK)),
    (Command.LOCK, lambda file: lock(file, 0)),
    (Command.LOCK, lambda file: lock(file, LockFlags.EXCLUSIVE_LOCK, LockFlags.EXCLUSIVE_LOCK)),
    (Command.LOCK, lock),
    (Command.IOCTL, lambda file: IoctlRequest(Fsctl.MESHFS_QUERY_DISKS, file, b"", 65536).pack()),
    (Command.IOCTL, lambda file: IoctlRequest(Fsctl.SET_ZERO_DATA, file, b"", 0).pack()),
    (Command.IOCTL, lambda file: IoctlRequest(Fsctl.GET_OBJECT_ID, file, b"", UNPAID).pack()),
    (Command.IOCTL, lambda file: IoctlRequest(Fsctl.PIPE_TRANSCEIVE, file, b"", 100).pack()),
    (Command.IOCTL, lambda file: IoctlRequest(0x00090000, file, b"", UNPAID).pack()),
    (Command.QUERY_DIRECTORY, lambda file: QueryDirectoryRequest(file, FileInfoClass.NAMES, 4096).pack()),
    (Command.QUERY_DIRECTORY, lambda file: QueryDirectoryRequest(file, 99, UNPAID, "").pack()),
    (Command.CHANGE_NOTIFY, lambda file: ChangeNotifyRequest(file, 4096, 0xFFF).pack()),
    (Command.CHANGE_NOTIFY, lambda file: ChangeNotifyRequest(file, UNPAID, 0).pack()),
    (Command.QUERY_INFO, lambda file: QueryInfoRequest(file, InfoType.FILE, FileInfoClass.ALL, 4096).pack()),
    (Command.QUERY_INFO, lambda file: QueryInfoRequest(file, 9, 99, UNPAID).pack()),
    (Command.SET_INFO, lambda file: SetInfoRequest(file, InfoType.FILE, FileInfoClass.BASIC, bytes(40)).pack()),
    (Command.SET_INFO, lambda file: SetInfoRequest(file, InfoType.QUOTA, 99, b"").pack()),
    (Command.OPLOCK_BREAK, lambda file: OplockBreak(file, OplockLevel.NONE).pack()),
    (Command.OPLOCK_BREAK, lambda file: OplockBreak(file, 99).pack()),
]


@pytest.fixture
def client() -> RawInitiator:
    client = RawInitiator(make_exporter(disk0=MemoryDisk(1 << 20))).log_in()
    client.call(Command.ECHO, b"\x04\0\0\0", credits=500)
    return client


def test_every_command_with_a_file_is_in_the_table() -> None:
    assert {command for command, _ in REQUESTS} == HANDLERS.keys() - WITHOUT_FILE


@pytest.mark.parametrize("name", ["disk0", ""])
@pytest.mark.parametrize("wrong", ["closed", "unknown", "persistent half", "tree", "session"])
@pytest.mark.parametrize(("command", "body"), REQUESTS)
def test_an_unknown_file_id_is_refused_first(client: RawInitiator, command: int, body, wrong: str, name: str) -> None:
    access = 1 if not name else 3
    number = client.open(name, access)
    file, asking, tree_id = FileId(number, number), client, client.tree_id
    if wrong == "closed":
        assert client.call(Command.CLOSE, CloseRequest(file).pack()).status == 0
    elif wrong == "unknown":
        file = FileId(number + 99, number + 99)
    elif wrong == "persistent half":
        file = FileId(number + 1, number)
    elif wrong == "tree":
        client.connect("disks-system")
        asking, tree_id = client, client.tree_id
    else:
        asking = RawInitiator(client.exporter).log_in("n3")
        tree_id = asking.tree_id
    reply = asking.call(command, body(file), tree_id=tree_id)
    assert reply.status == NtStatus.FILE_CLOSED, hex(reply.status)
    if wrong != "closed":
        # The open that has the id, or half of it, is not touched.
        assert number in next(iter(client.exporter.sessions.values())).opens

"""A kind of opens is one class and one line: commands serve a made-up kind, and refuse what a kind does not serve."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import meshfs.exporter
from meshfs.exporter.exchange.request import Request
from meshfs.exporter.kinds import registry
from meshfs.exporter.kinds.at_create import Creator, answer
from meshfs.exporter.kinds.kind import Kind, reply_to_ioctl
from meshfs.exporter.state.directory import DirectoryState
from meshfs.exporter.state.open import Open
from meshfs.model import SHARE_DISKS
from meshfs.smb.constants import AccessMask, Command, CreateAction, InfoType, LockFlags, NtStatus
from meshfs.smb.info import FileFacts, NamePattern
from meshfs.smb.messages import (
    ChangeNotifyRequest,
    CloseRequest,
    CreateRequest,
    FileId,
    FlushRequest,
    IoctlRequest,
    IoctlResponse,
    LockElement,
    LockRequest,
    OplockBreak,
    QueryDirectoryRequest,
    QueryDirectoryResponse,
    QueryInfoRequest,
    QueryInfoResponse,
    SetInfoRequest,
)
from meshfs.smb.wire import READ_DATA_OFFSET, READ_RESPONSE
from meshlab.fakes.memory_disk import MemoryDisk
from meshlab.smb.raw_initiator import RawInitiator, make_exporter
from meshlab.smb.raw_messages import read_body, write_body

FOLDER = "jukeboxes\\"
TEXT = b"fan 1: 4200 rpm"
LIST = int(AccessMask.READ_DATA)
BLINK = 0x0009_C123
#: FileNamesInformation, FileStandardInformation and FileEndOfFileInformation (MS-FSCC 2.4).
NAMES_CLASS, STANDARD_CLASS, SIZE_CLASS = 12, 5, 20


class Jukebox(Kind):
    """Stands for a box of optical disks: its text is read, its slots are listed, and an FSCTL lets its lamp blink."""

    def read(self, request: Request, offset: int, length: int, minimum: int) -> None:
        data = TEXT[offset : offset + length]
        request.reply(READ_RESPONSE.pack(17, READ_DATA_OFFSET, 0, len(data), 0, 0) + data)

    def file_facts(self, request: Request) -> FileFacts:
        return FileFacts(self.name, len(TEXT), len(TEXT), 7)

    def ioctl(self, request: Request, body: IoctlRequest) -> None:
        if body.ctl_code == BLINK:
            reply_to_ioctl(request, body, b"blinks " + body.input)
        else:
            super().ioctl(request, body)

    def entries(
        self, request: Request, pattern: NamePattern, after: str | None, newest: int
    ) -> Iterator[tuple[str, FileFacts | None]]:
        for name in ("slot1", "slot2"):
            if after is None or name > after:
                yield name, FileFacts(name, 0, 0, 8) if pattern.matches(name) else None


class Bare(Kind):
    """Serves no request, as each default of a kind is a refusal."""


def creator_of(kind: type[Kind]) -> Creator:
    def create(request: Request, body: CreateRequest) -> None:
        file_id = request.peer.exporter.new_file_id()
        opened = kind(request.session, request.tree, file_id, body.desired_access, body.name)
        if kind is Jukebox:
            opened.directory = DirectoryState()
        answer(request, body, opened, allowed=body.desired_access, action=CreateAction.OPENED)

    return Creator(lambda name: name.startswith(FOLDER), create)


@pytest.fixture(params=[Jukebox])
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RawInitiator:
    others = registry.CREATORS[SHARE_DISKS]
    monkeypatch.setitem(registry.CREATORS, SHARE_DISKS, (creator_of(request.param), *others))
    client = RawInitiator(make_exporter(disk0=MemoryDisk(1 << 20))).log_in()
    client.call(Command.ECHO, b"\x04\0\0\0", credits=100)
    return client


@pytest.fixture
def file(client: RawInitiator) -> FileId:
    opened = client.open(FOLDER + "box", LIST)
    return FileId(opened, opened)


def test_a_made_up_kind_is_read(client: RawInitiator, file: FileId) -> None:
    assert client.call(Command.READ, read_body(file.volatile, 4, 100)).data == TEXT[4:]


def test_a_made_up_kind_is_described(client: RawInitiator, file: FileId) -> None:
    reply = client.call(Command.QUERY_INFO, QueryInfoRequest(file, InfoType.FILE, STANDARD_CLASS, 100).pack())
    assert QueryInfoResponse.unpack(reply.body).output[8:16] == len(TEXT).to_bytes(8, "little")


def test_a_made_up_kind_answers_its_own_fsctl(client: RawInitiator, file: FileId) -> None:
    reply = client.call(Command.IOCTL, IoctlRequest(BLINK, file, b"slot2", 100).pack())
    assert (reply.status, IoctlResponse.unpack(reply.body).output) == (0, b"blinks slot2")


def test_the_entries_of_a_made_up_kind_are_listed(client: RawInitiator, file: FileId) -> None:
    body = QueryDirectoryRequest(file, NAMES_CLASS, 1000, "slot*").pack()
    listed = QueryDirectoryResponse.unpack(client.call(Command.QUERY_DIRECTORY, body).body).output
    assert [name for name in ("slot1", "slot2", "slot3") if name.encode("utf-16-le") in listed] == ["slot1", "slot2"]
    assert client.call(Command.QUERY_DIRECTORY, body).status == NtStatus.NO_MORE_FILES


def test_disks_are_opened_beside_a_made_up_kind(client: RawInitiator, file: FileId) -> None:
    assert client.call(Command.WRITE, write_body(client.open("disk0"), 0, b"content")).status == 0


def test_a_made_up_kind_is_closed(client: RawInitiator, file: FileId) -> None:
    assert client.call(Command.CLOSE, CloseRequest(file).pack()).status == 0
    assert client.call(Command.READ, read_body(file.volatile, 0, 1)).status == NtStatus.FILE_CLOSED
    (session,) = client.exporter.sessions.values()
    client.call(Command.LOGOFF, b"\x04\0\0\0")
    assert session.holdings.is_empty


REFUSED = [
    (Command.READ, lambda file: read_body(file.volatile, 0, 1), NtStatus.INVALID_DEVICE_REQUEST),
    (Command.WRITE, lambda file: write_body(file.volatile, 0, b"x"), NtStatus.INVALID_DEVICE_REQUEST),
    (Command.FLUSH, lambda file: FlushRequest(file).pack(), NtStatus.INVALID_DEVICE_REQUEST),
    (
        Command.LOCK,
        lambda file: LockRequest(file, (LockElement(0, 1, LockFlags.EXCLUSIVE_LOCK),)).pack(),
        NtStatus.INVALID_PARAMETER,
    ),
    (Command.IOCTL, lambda file: IoctlRequest(BLINK, file, b"", 100).pack(), NtStatus.INVALID_DEVICE_REQUEST),
    (
        Command.QUERY_DIRECTORY,
        lambda file: QueryDirectoryRequest(file, NAMES_CLASS, 100).pack(),
        NtStatus.INVALID_PARAMETER,
    ),
    (Command.CHANGE_NOTIFY, lambda file: ChangeNotifyRequest(file, 100, 1).pack(), NtStatus.INVALID_PARAMETER),
    (
        Command.SET_INFO,
        lambda file: SetInfoRequest(file, InfoType.FILE, SIZE_CLASS, bytes(8)).pack(),
        NtStatus.INVALID_PARAMETER,
    ),
    (Command.OPLOCK_BREAK, lambda file: OplockBreak(file, 0).pack(), NtStatus.INVALID_DEVICE_STATE),
]


@pytest.mark.parametrize("client", [Bare], indirect=True)
@pytest.mark.parametrize(("command", "body", "status"), REFUSED)
def test_a_request_that_a_kind_does_not_serve_is_refused(
    client: RawInitiator, file: FileId, command, body, status
) -> None:
    assert client.call(command, body(file)).status == status
    assert client.call(Command.CLOSE, CloseRequest(file).pack()).status == 0


def test_nothing_outside_of_the_kinds_asks_which_kind_an_open_is_of() -> None:
    def below(base: type) -> Iterator[str]:
        for kind in base.__subclasses__():
            yield kind.__name__
            yield from below(kind)

    kinds = {each for each in below(Open) if each not in (Jukebox.__name__, Bare.__name__)} - {Kind.__name__}
    assert len(kinds) >= 4
    folder = Path(meshfs.exporter.__path__[0])
    for path in folder.rglob("*.py"):
        if folder / "kinds" not in path.parents:
            assert not set(names_in(path)) & kinds, path


def names_in(path: Path) -> Iterator[str]:
    for each in ast.walk(ast.parse(path.read_text())):
        if isinstance(each, ast.Name):
            yield each.id
        elif isinstance(each, ast.Attribute):
            yield each.attr
        elif isinstance(each, ast.alias):
            yield each.name

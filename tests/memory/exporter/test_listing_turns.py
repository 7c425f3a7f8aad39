"""A listing that takes long continues in later turns of its node, and delays no other node."""

import struct
from collections.abc import Callable

import pytest

from meshfs import limits
from meshfs.model import Security
from meshfs.smb.constants import Command, CreateDisposition, Flags, NtStatus
from meshfs.smb.info import FileInfoClass
from meshfs.smb.messages import (
    CancelRequest,
    CloseRequest,
    EchoRequest,
    FileId,
    QueryDirectoryRequest,
    QueryDirectoryResponse,
)
from meshlab.smb.raw_initiator import RawInitiator
from support.scratch import Clock, another, client_of, close, make, mkdir

FILES = 120
RELATED = {"flags": int(Flags.RELATED_OPERATIONS), "session_id": (1 << 64) - 1, "tree_id": (1 << 32) - 1}
ANY_FILE = FileId((1 << 64) - 1, (1 << 64) - 1)


class Rounds:
    """Stands for the reactor. Keeps the callbacks for the end of a round until the test calls `run`."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []

    def soon(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)

    def run(self) -> int:
        """Run one round, and return how many callbacks wait for the next one."""
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()
        return len(self.callbacks)


class Stage:
    """Has an exporter with a directory of FILES files, and a clock that makes each listing stop early.

    A listing reads the clock after every 16 files. Each reading advances the clock by more than LISTING_STEP_S, so the
    listing has used up its time.
    """

    def __init__(self) -> None:
        self.client = client_of(Security.SIGN, Clock())
        self.folder = mkdir(self.client, "folder")
        for number in range(FILES):
            close(self.client, make(self.client, f"folder\\file{number:03}"))
        self.rounds, self.now_s = Rounds(), 0.0
        processor = self.client.exporter.processor
        processor.loop, processor.clock = self.rounds, self.look

    def look(self) -> float:
        self.now_s += 1.01 * limits.LISTING_STEP_S
        return self.now_s

    def body(self, pattern: str, size: int = 65536) -> bytes:
        return QueryDirectoryRequest(FileId(self.folder, self.folder), FileInfoClass.NAMES, size, pattern).pack()

    def begin(self, pattern: str) -> int:
        """Send a request for a listing that finds nothing in its first turn. Return the message id."""
        message_id = self.client.send(Command.QUERY_DIRECTORY, self.body(pattern))
        assert self.client.take(message_id).status == NtStatus.PENDING
        return message_id

    def finish(self) -> int:
        """Run rounds until no callback waits. Return the number of rounds."""
        rounds = 1
        while self.rounds.run():
            rounds += 1
        self.client.collect()
        return rounds


@pytest.fixture
def stage() -> Stage:
    return Stage()


def names(output: bytes) -> list[str]:
    found, offset, step = [], 0, 1
    while step:
        step, _, length = struct.unpack_from("<III", output, offset)
        found.append(output[offset + 12 : offset + 12 + length].decode("utf-16-le"))
        offset += step
    return found


def test_a_page_has_the_entries_that_its_time_was_enough_for(stage: Stage) -> None:
    found, pages = [], 0
    while not (reply := stage.client.call(Command.QUERY_DIRECTORY, stage.body("*"))).status:
        page = names(QueryDirectoryResponse.unpack(reply.body).output)
        assert 1 <= len(page) <= 16
        found, pages = found + page, pages + 1
    assert reply.status == NtStatus.NO_MORE_FILES
    assert found == [".", "..", *(f"file{number:03}" for number in range(FILES))]
    assert pages > FILES / 17
    assert not stage.rounds.callbacks


@pytest.mark.parametrize(("pattern", "expected"), [("*070", ["file070"]), ("file119", ["file119"])])
def test_an_entry_that_is_found_late_comes_in_a_later_page(stage: Stage, pattern: str, expected: list[str]) -> None:
    message_id = stage.begin(pattern)
    # Other clients are served between the turns of the listing.
    other = another(stage.client.exporter)
    assert other.call(Command.ECHO, EchoRequest().pack()).status == 0
    assert stage.finish() > 3
    reply = stage.client.take(message_id)
    assert names(QueryDirectoryResponse.unpack(reply.body).output) == expected
    assert not stage.client.peer.waiting


def test_nothing_is_found_at_all(stage: Stage) -> None:
    message_id = stage.begin("*x")
    stage.finish()
    assert stage.client.take(message_id).status == NtStatus.NO_SUCH_FILE


def test_files_that_come_and_go_meanwhile(stage: Stage) -> None:
    message_id = stage.begin("*119")
    stage.rounds.run()
    for number in range(0, FILES - 1, 2):
        file = make(stage.client, f"folder\\file{number:03}", disposition=CreateDisposition.OPEN, options=0x1000)
        close(stage.client, file)
    close(stage.client, make(stage.client, "folder\\file070b119"))
    stage.finish()
    assert names(QueryDirectoryResponse.unpack(stage.client.take(message_id).body).output) == ["file119"]


@pytest.mark.parametrize("how", ["cancelled", "closed", "lost", "anew"])
def test_a_listing_that_is_given_up(stage: Stage, how: str) -> None:
    client = stage.client
    message_id = stage.begin("*x")
    stage.rounds.run()
    if how == "cancelled":
        client.send(Command.CANCEL, CancelRequest().pack(), message_id=message_id)
        assert client.take(message_id).status == NtStatus.CANCELLED
    elif how == "closed":
        assert client.call(Command.CLOSE, CloseRequest(FileId(stage.folder, stage.folder)).pack()).status == 0
        stage.finish()
        assert client.take(message_id).status == NtStatus.FILE_CLOSED
    elif how == "anew":
        # The second listing waits until the first has ended.
        restart = QueryDirectoryRequest(FileId(stage.folder, stage.folder), FileInfoClass.NAMES, 4096, "*", 1).pack()
        anew = client.send(Command.QUERY_DIRECTORY, restart)
        stage.finish()
        assert client.take(message_id).status == NtStatus.NO_SUCH_FILE
        assert names(QueryDirectoryResponse.unpack(client.take(anew).body).output)[0] == "."
    else:
        client.peer.lost()
    assert stage.finish() <= 2
    assert not client.peer.waiting
    assert not [reply for reply in client.replies if reply.message_id == message_id]


def test_in_a_compound_the_parts_after_a_listing_wait_for_it(stage: Stage) -> None:
    client: RawInitiator = stage.client
    ids = client.compound(
        (Command.QUERY_DIRECTORY, stage.body("*x"), {}), (Command.CLOSE, CloseRequest(ANY_FILE).pack(), RELATED)
    )
    assert not client.replies
    stage.finish()
    assert [client.take(message_id).status for message_id in ids] == [NtStatus.NO_SUCH_FILE, 0]


def test_requests_of_one_open_are_answered_one_after_the_other(stage: Stage) -> None:
    """A client that asks for several pages at once gets each file once, in order."""
    client = stage.client
    ids = [stage.begin("file1*"), *(client.send(Command.QUERY_DIRECTORY, stage.body("*", 60)) for _ in range(25))]
    stage.finish()
    pages = [client.take(message_id) for message_id in ids]
    full = [QueryDirectoryResponse.unpack(page.body).output for page in pages if not page.status]
    assert [name for output in full for name in names(output)] == [f"file{number}" for number in range(100, FILES)]
    assert {page.status for page in pages[len(full) :]} == {NtStatus.NO_MORE_FILES}


def test_queued_requests_end_with_their_connection(stage: Stage) -> None:
    client = stage.client
    stage.begin("*x")
    for _ in range(20):
        client.send(Command.QUERY_DIRECTORY, stage.body("*x"))
    client.peer.lost()
    assert stage.finish() <= 22
    assert not client.exporter.scratch.root.opens_below

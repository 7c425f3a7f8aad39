"""The proxy of the tests, between plain sockets that send frames."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from meshfs.smb.constants import Command, NtStatus
from meshlab.smb.frame_relay import Unanswered
from meshlab.smb.frames import FrameSplitter, Message, messages
from meshlab.smb.proxy import Proxy, ProxyClosed

HEADER = struct.Struct("<4sHHIHHIIQQQ16s")
WRITE, ECHO = int(Command.WRITE), int(Command.ECHO)
RESPONSE, REPLAY = 0x1, 0x20000000
SESSION = 0x55


def message(
    command: int, message_id: int, status: int = 0, flags: int = 0, body: bytes = b"", following: int = 0
) -> bytes:
    return (
        HEADER.pack(b"\xfeSMB", 64, 1, status, command, 1, flags, following, message_id, 0, SESSION, bytes(16)) + body
    )


def frame(*parts: bytes) -> bytes:
    return len(joined := b"".join(parts)).to_bytes(4) + joined


def request(command: int, message_id: int, body: bytes = b"", sequence: int = 0, flags: int = 0) -> bytes:
    return frame(message(command, message_id, sequence, flags, body))


def write(message_id: int, offset: int = 0, data: bytes = b"data") -> bytes:
    return request(WRITE, message_id, struct.pack("<HHIQ", 49, 0x70, len(data), offset) + data)


class Exporter:
    """Accepts connections and answers every message with STATUS_SUCCESS. A WRITE gets an interim answer first."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.place: tuple[str, int] = self.listening.getsockname()
        self.received: list[bytes] = []
        self.streams: list[socket.socket] = []
        self.ends: list[str] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                stream, _ = self.listening.accept()
            except OSError:
                return
            self.received.append(b"")
            self.ends.append("")
            self.streams.append(stream)
            self._threads.append(threading.Thread(target=self._serve, args=(stream, len(self.streams) - 1)))
            self._threads[-1].start()

    def _serve(self, stream: socket.socket, number: int) -> None:
        splitter = FrameSplitter()
        try:
            while data := stream.recv(1 << 16):
                self.received[number] += data
                for each in splitter.feed(data):
                    for one in messages(each):
                        if one.command == WRITE:
                            stream.sendall(frame(message(WRITE, one.message_id, NtStatus.PENDING, RESPONSE)))
                        stream.sendall(frame(message(one.command, one.message_id, 0, RESPONSE, bytes(4))))
            self.ends[number] = "end"
            stream.close()
        except OSError as error:
            self.ends[number] = type(error).__name__

    def close(self) -> None:
        with suppress(OSError):
            self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        for stream in self.streams:
            with suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for stream in self.streams:
            stream.close()


class Initiator:
    def __init__(self, proxy: Proxy) -> None:
        self.stream = socket.create_connection(("127.0.0.1", proxy.port))
        self.stream.settimeout(5)
        self._splitter = FrameSplitter()
        self._frames: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.stream.sendall(data)

    def answer(self) -> Message:
        while not self._frames:
            data = self.stream.recv(1 << 16)
            if not data:
                raise EOFError
            self._frames += self._splitter.feed(data)
        [answer] = messages(self._frames.pop(0))
        return answer

    def hears_nothing(self) -> bool:
        assert not self._frames
        self.stream.settimeout(0.2)
        try:
            return self.stream.recv(1) is None
        except TimeoutError:
            return True
        finally:
            self.stream.settimeout(5)


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    exporter = Exporter()
    yield exporter
    exporter.close()


@pytest.fixture
def proxy(exporter: Exporter) -> Iterator[Proxy]:
    with Proxy.at("127.0.0.1", 0, exporter.place) as proxy:
        yield proxy


@pytest.fixture
def connect(exporter: Exporter, proxy: Proxy) -> Iterator[Callable[[], Initiator]]:
    """Makes connections that reach the exporter, and become relays of the proxy, in the order of the calls.

    The proxy connects in threads, so two initiators that do not wait for each other arrive in any order.
    """
    made: list[Initiator] = []

    def make() -> Initiator:
        accepted, relays = len(exporter.streams), len(proxy.relays)
        made.append(Initiator(proxy))
        until(lambda: len(exporter.streams) > accepted and len(proxy.relays) > relays)
        return made[-1]

    yield make
    for each in made:
        each.stream.close()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_frames_pass_unchanged_both_ways(exporter: Exporter, connect: Callable[[], Initiator]) -> None:
    initiator = connect()
    sent = request(ECHO, 1) + write(2, data=bytes(range(256)) * 40_000) + frame(b"\xfdSMB encrypted") + request(ECHO, 3)
    for start in range(0, len(sent), 99_991):
        initiator.send(sent[start : start + 99_991])
    answers = [initiator.answer() for _ in range(4)]
    assert [each.message_id for each in answers] == [1, 2, 2, 3]
    assert [each.status for each in answers] == [0, NtStatus.PENDING, 0, 0]
    assert all(each.is_response for each in answers)
    assert exporter.received == [sent]


def test_a_held_write_and_all_behind_it(exporter: Exporter, proxy: Proxy, connect: Callable[[], Initiator]) -> None:
    hold = proxy.hold(Message.is_write)
    dying, other = connect(), connect()
    dying.send(request(ECHO, 1))
    assert dying.answer().message_id == 1
    late = write(2, offset=4096, data=b"old") + request(ECHO, 3)
    dying.send(late)
    held = hold.wait()
    assert (held.message.command, held.message.message_id, held.message.session_id) == (WRITE, 2, SESSION)
    assert held.message.is_write(4096)
    assert not held.message.is_write(0)
    assert held.relay.frozen
    assert held.relay.remote == dying.stream.getsockname()
    assert dying.hears_nothing()
    other.send(write(2, offset=4096, data=b"new"))
    assert [other.answer().status for _ in range(2)] == [NtStatus.PENDING, 0], "a hold catches one"
    until(lambda: held.relay.held() == late)
    assert exporter.received == [request(ECHO, 1), write(2, offset=4096, data=b"new")]
    with pytest.raises(Unanswered, match="not within"):
        held.status(0.05)
    held.release()
    assert held.status() == 0, "the final answer, not the interim one"
    assert held.relay.status(3) == 0
    assert exporter.received[0] == request(ECHO, 1) + late
    assert dying.hears_nothing(), "the answer is not for the initiator"
    assert held.relay.held() == b""


@pytest.mark.parametrize("reset", [False, True])
def test_a_release_after_the_initiator_went(
    exporter: Exporter, proxy: Proxy, connect: Callable[[], Initiator], reset: bool
) -> None:
    hold = proxy.hold(lambda each: each.is_write())
    initiator = connect()
    initiator.send(write(7))
    held = hold.wait()
    if reset:
        initiator.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    initiator.stream.close()
    until(lambda: held.relay.initiator_gone)
    time.sleep(0.1)
    assert exporter.ends == [""], "the exporter does not hear of it"
    held.release()
    assert held.status() == 0
    assert exporter.received == [write(7)]


def test_a_release_when_the_exporter_went(exporter: Exporter, proxy: Proxy, connect: Callable[[], Initiator]) -> None:
    hold = proxy.hold(Message.is_write)
    initiator = connect()
    initiator.send(write(1))
    held = hold.wait()
    exporter.streams[0].shutdown(socket.SHUT_RDWR)
    until(lambda: held.relay.exporter_gone)
    assert initiator.hears_nothing(), "nor does the initiator"
    with pytest.raises(Unanswered, match="gone"):
        held.release()
    with pytest.raises(Unanswered, match="gone"):
        held.status()
    assert held.release_anew() == 0
    assert exporter.received == [b"", write(1)]
    exporter.close()
    with pytest.raises(Unanswered, match="new connection"):
        held.release_anew()


def test_a_new_connection_that_answers_nothing(proxy: Proxy, connect: Callable[[], Initiator]) -> None:
    hold = proxy.hold(lambda each: each.message_id == 4)
    connect().send(frame(message(ECHO, 4)[:-1] + b"x"))
    held = hold.wait()
    held.relay.release()
    until(lambda: not held.relay.held())
    with pytest.raises(Unanswered, match="timed out"):
        held.release_anew(0.1)


def test_a_hold_looks_at_every_message_of_a_compound(proxy: Proxy, connect: Callable[[], Initiator]) -> None:
    hold = proxy.hold(lambda each: each.command == WRITE)
    connect().send(frame(message(ECHO, 1, following=64), message(WRITE, 2, 0x1234, REPLAY)))
    found = hold.wait().message
    assert (found.message_id, found.channel_sequence, found.is_replay) == (2, 0x1234, True)


def test_a_hold_that_nothing_meets(proxy: Proxy, connect: Callable[[], Initiator]) -> None:
    initiator = connect()
    hold = proxy.hold(Message.is_write)
    initiator.send(request(ECHO, 1) + frame(b"\xfdSMB") + frame(b"\xfeSMB, and too short") + request(ECHO, 2))
    assert [initiator.answer().message_id for _ in range(2)] == [1, 2]
    with pytest.raises(TimeoutError):
        hold.wait(0.05)


def test_freeze_and_thaw_keep_everything_in_order(
    exporter: Exporter, proxy: Proxy, connect: Callable[[], Initiator]
) -> None:
    initiator = connect()
    initiator.send(request(ECHO, 0))
    initiator.answer()
    relay = proxy.relays[0]
    relay.freeze()
    requests = [request(ECHO, number, bytes(number * 100)) for number in range(1, 50)]
    for each in requests[:25]:
        initiator.send(each)
    until(lambda: relay.held() == b"".join(requests[:25]))
    exporter.streams[0].sendall(frame(message(ECHO, 1000, 0, RESPONSE)))
    assert initiator.hears_nothing()
    relay.thaw()
    for each in requests[25:]:
        initiator.send(each)
    assert sorted(initiator.answer().message_id for _ in range(50)) == [*range(1, 50), 1000]
    assert exporter.received == [request(ECHO, 0) + b"".join(requests)]


def test_an_end_that_came_while_frozen_passes_at_the_thaw(
    exporter: Exporter, proxy: Proxy, connect: Callable[[], Initiator]
) -> None:
    initiator = connect()
    initiator.send(request(ECHO, 1))
    initiator.answer()
    proxy.relays[0].freeze()
    initiator.send(request(ECHO, 2))
    initiator.stream.shutdown(socket.SHUT_WR)
    until(lambda: proxy.relays[0].initiator_gone)
    assert exporter.ends == [""]
    proxy.relays[0].thaw()
    assert initiator.answer().message_id == 2
    with pytest.raises(EOFError):
        initiator.answer()
    assert exporter.ends == ["end"]


def test_ends_and_resets_pass(exporter: Exporter, connect: Callable[[], Initiator]) -> None:
    ending, resetting = connect(), connect()
    for each in (ending, resetting):
        each.send(request(ECHO, 1) + b"\0\0\0\x10cut off")
        each.answer()
    ending.stream.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        ending.answer()
    resetting.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    resetting.stream.close()
    until(lambda: sorted(exporter.ends) == ["ConnectionResetError", "end"])
    assert exporter.received[exporter.ends.index("end")].endswith(b"cut off"), "the beginning of a frame too"


@pytest.mark.parametrize("frozen", [False, True])
def test_a_cut_resets_both_ends_of_one_connection(
    exporter: Exporter, proxy: Proxy, connect: Callable[[], Initiator], frozen: bool
) -> None:
    cut, other = connect(), connect()
    for each in (cut, other):
        each.send(request(ECHO, 1))
        each.answer()
    [relay] = [each for each in proxy.relays if each.remote == cut.stream.getsockname()]
    if frozen:
        relay.freeze()
    relay.cut()
    with pytest.raises(ConnectionResetError):
        cut.answer()
    until(lambda: sorted(exporter.ends) == ["", "ConnectionResetError"])
    other.send(request(ECHO, 2))
    assert other.answer().message_id == 2


def test_an_exporter_that_does_not_answer(exporter: Exporter, proxy: Proxy) -> None:
    exporter.close()
    initiator = Initiator(proxy)
    with pytest.raises((ConnectionResetError, EOFError)):
        initiator.answer()
    initiator.stream.close()
    assert proxy.relays == []


def test_a_receiver_that_rests_stops_the_sender(
    exporter: Exporter, proxy: Proxy, connect: Callable[[], Initiator]
) -> None:
    initiator = connect()
    initiator.send(request(ECHO, 1))
    initiator.answer()
    replies = [frame(message(ECHO, number, 0, RESPONSE, bytes(1 << 20))) for number in range(64)]
    sender = threading.Thread(target=exporter.streams[0].sendall, args=(b"".join(replies),))
    sender.start()
    sender.join(1)
    assert sender.is_alive(), "the proxy takes without end"
    assert [initiator.answer().message_id for _ in replies] == list(range(64))
    sender.join()


def test_a_close_ends_all_connections(exporter: Exporter) -> None:
    with Proxy.at("127.0.0.1", 0, exporter.place) as proxy:
        initiator = Initiator(proxy)
        initiator.send(request(ECHO, 1))
        initiator.answer()
        proxy.relays[0].freeze()
    with pytest.raises(ConnectionResetError):
        initiator.answer()
    initiator.stream.close()
    until(lambda: exporter.ends == ["ConnectionResetError"])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port))
    with pytest.raises(ProxyClosed):
        proxy.hold(Message.is_write)
    proxy.close()

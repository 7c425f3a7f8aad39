"""The HTTP server of metrics beside an event loop: bounds, refusals, a busy loop, and the end."""

import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest
import trio
import trio.testing

from meshfs import limits
from meshfs.errors import ConfigError
from meshfs.telemetry import prometheus as metrics
from meshfs.telemetry.prometheus import Document, Families, MetricsServer, SnapshotUnavailable, open_metrics
from meshlab.cluster.cluster import free_port

GUARD_S = 30
LOOPBACK = "127.0.0.1"


def fill(families: Families, document: Document) -> None:
    families.gauge("meshfs_x", "X.", {}, document.get("x"))


def snapshot(make: Callable[[], Document]) -> metrics.Snapshot:
    async def made() -> Document:
        await trio.lowlevel.checkpoint()
        return make()

    return made


@asynccontextmanager
async def serving(make: Callable[[], Document], place: tuple[str, int] | None = None) -> AsyncIterator[MetricsServer]:
    with closing(open_metrics(place or (LOOPBACK, free_port(LOOPBACK)), snapshot(make), fill)) as server:
        with trio.fail_after(GUARD_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.run)
                yield server
                nursery.cancel_scope.cancel()


def get(server: MetricsServer, query: str = "", headers: dict[str, str] | None = None) -> tuple[int, str]:
    host = f"[{server.server_name}]" if ":" in server.server_name else server.server_name
    request = urllib.request.Request(f"http://{host}:{server.server_port}/metrics{query}", headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=GUARD_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def scrape(server: MetricsServer, *arguments: Any) -> tuple[int, str]:
    return await trio.to_thread.run_sync(get, server, *arguments)


def connect(server: MetricsServer) -> socket.socket:
    stream = socket.create_connection((server.server_name, server.server_port), timeout=GUARD_S)
    stream.settimeout(GUARD_S)
    return stream


async def unused(server: MetricsServer) -> None:
    """Wait until every connection has ended."""
    while server.connections:  # noqa: ASYNC110 - a thread ends them
        await trio.sleep(0.01)


async def test_the_snapshot_is_made_in_the_event_loop() -> None:
    threads = []

    def make() -> Document:
        threads.append(threading.current_thread())
        return {"x": len(threads)}

    async with serving(make) as server:
        for count in (1, 2):
            status, text = await scrape(server)
            assert status == 200
            assert f"\nmeshfs_x {count}.0\n" in text
            assert "\nprocess_cpu_seconds_total " in text
    assert set(threads) == {threading.current_thread()}


async def test_ipv6_and_a_choice_of_names() -> None:
    async with serving(lambda: {"x": 5}, ("::1", free_port(LOOPBACK))) as server:
        _, text = await scrape(server, "?name[]=meshfs_x")
        assert [line for line in text.splitlines() if not line.startswith("#")] == ["meshfs_x 5.0"]
        _, text = await scrape(server, "", {"Accept": "application/openmetrics-text; version=1.0.0"})
        assert text.endswith("# EOF\n")


async def test_an_address_that_is_taken_or_not_ours_is_the_administrators() -> None:
    async with serving(dict) as server:
        with pytest.raises(ConfigError, match=rf"metrics at {LOOPBACK}:{server.server_port}: Address already in use"):
            open_metrics((LOOPBACK, server.server_port), snapshot(dict), fill)
    with pytest.raises(ConfigError, match="Cannot assign"):
        open_metrics(("192.0.2.1", 9464), snapshot(dict), fill)


async def test_an_event_loop_without_time_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot that no request waits for any more is not made."""
    monkeypatch.setattr(limits, "METRICS_SNAPSHOT_TIMEOUT_S", 0.05)
    made: list[int] = []
    refused: list[str] = []

    def make() -> Document:
        made.append(1)
        return {}

    def collect() -> None:
        try:
            snapshots.collect()
        except SnapshotUnavailable as error:
            refused.append(str(error))

    snapshots = metrics._Snapshots(snapshot(make), fill)
    async with trio.open_nursery() as nursery:
        snapshots.begin(nursery)
        asking = threading.Thread(target=collect)
        asking.start()
        # The event loop stands still while this waits.
        asking.join(GUARD_S)
        assert refused == ["no snapshot within 0.05 s"]
        await trio.testing.wait_all_tasks_blocked()
        assert made == []
        monkeypatch.setattr(limits, "METRICS_SNAPSHOT_TIMEOUT_S", GUARD_S)
        await trio.to_thread.run_sync(collect)
        assert (made, len(refused)) == ([1], 1)


async def test_a_snapshot_that_is_never_ready_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async def never() -> Document:
        await trio.sleep_forever()
        raise AssertionError

    snapshots = metrics._Snapshots(never, fill)
    async with trio.open_nursery() as nursery:
        snapshots.begin(nursery)
        taken: Future[Document] = Future()
        snapshots._start(taken)
        await trio.sleep(limits.METRICS_SNAPSHOT_TIMEOUT_S * 2)
        with pytest.raises(SnapshotUnavailable, match="took too long"):
            taken.result(0)


async def test_a_wait_for_a_snapshot_ends_with_an_error_when_the_server_ends() -> None:
    async with trio.open_nursery() as nursery:
        snapshots = metrics._Snapshots(snapshot(dict), fill)
        snapshots.begin(nursery)
        under_way: Future[Document] = Future()
        snapshots._start(under_way)
        nursery.cancel_scope.cancel()
    snapshots.end()
    late: Future[Document] = Future()
    snapshots._start(late)
    for taken in (under_way, late):
        with pytest.raises(SnapshotUnavailable):
            taken.result(0)


async def test_without_a_snapshot_the_answer_is_503() -> None:
    def make() -> Document:
        raise SnapshotUnavailable("ending")

    async with serving(make) as server:
        assert await scrape(server) == (503, "ending\n")


def test_an_event_loop_that_ended_gives_no_snapshot() -> None:
    snapshots = metrics._Snapshots(snapshot(dict), fill)

    async def begin_only() -> None:
        async with trio.open_nursery() as nursery:
            snapshots.begin(nursery)

    with pytest.raises(SnapshotUnavailable, match="not serving"):
        snapshots.collect()
    trio.run(begin_only)
    with pytest.raises(SnapshotUnavailable, match="ending"):
        snapshots.collect()


async def test_a_fault_of_ours_is_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    broken = [True]

    def make() -> Document:
        if broken:
            raise ZeroDivisionError("on purpose")
        return {"x": 1}

    async with serving(make) as server:
        status, text = await scrape(server)
        assert (status, "on purpose" in text) == (500, False)
        assert "on purpose" in caplog.text
        broken.clear()
        assert (await scrape(server))[0] == 200


async def test_silent_connections_lock_nobody_out_and_are_bounded() -> None:
    async with serving(dict) as server:
        silent = [connect(server) for _ in range(3 * limits.METRICS_CONNECTIONS_MAX)]
        trickling = connect(server)
        trickling.sendall(b"GET /metr")
        # The oldest connections are closed for the newer ones at once, and not after their time.
        for stream in silent[: 2 * limits.METRICS_CONNECTIONS_MAX + 1]:
            assert await trio.to_thread.run_sync(stream.recv, 1) == b""
        assert (await scrape(server))[0] == 200
        for stream in (*silent, trickling):
            stream.close()
        await unused(server)
        assert not server._silent


async def test_a_silent_connection_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics._Handler, "timeout", 0.2)
    async with serving(dict) as server:
        with connect(server) as stream:
            assert await trio.to_thread.run_sync(stream.recv, 1) == b"", "the server closes the connection"
        await unused(server)


async def test_one_more_connection_is_closed_when_all_others_have_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()
    monkeypatch.setattr(metrics._Snapshots, "_take", lambda _: told.wait(GUARD_S) and {})
    async with serving(dict) as server, trio.open_nursery() as nursery:
        for _ in range(limits.METRICS_CONNECTIONS_MAX):
            nursery.start_soon(scrape, server)
        while server.connections < limits.METRICS_CONNECTIONS_MAX or server._silent:  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.005)
        with connect(server) as refused:
            assert await trio.to_thread.run_sync(refused.recv, 1) == b""
        told.set()
    await unused(server)


@pytest.mark.parametrize(
    "sent", [b"", b"\x00" * 1000, b"GET\r\n\r\n", b"POST /metrics HTTP/1.0\r\n\r\n", b"GET /" + b"a" * 70_000]
)
async def test_bytes_that_are_no_request_are_refused(sent: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    async with serving(dict) as server:
        with connect(server) as stream:
            stream.sendall(sent)
            stream.shutdown(socket.SHUT_WR)
        await unused(server)
        assert (await scrape(server))[0] == 200
    assert capfd.readouterr().err == ""


async def test_a_client_that_leaves_without_its_answer(capfd: pytest.CaptureFixture[str]) -> None:
    def many(families: Families, document: Document) -> None:
        for number in range(20_000):
            families.gauge("meshfs_x", "X.", {"n": str(number)}, number)

    with (
        closing(open_metrics((LOOPBACK, free_port(LOOPBACK)), snapshot(dict), many)) as server,
        trio.fail_after(GUARD_S),
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            with connect(server) as stream:
                stream.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                assert await trio.to_thread.run_sync(stream.recv, 1)
            await unused(server)
            assert 'meshfs_x{n="19999"} 19999.0' in (await scrape(server))[1]
            nursery.cancel_scope.cancel()
    assert capfd.readouterr().err == ""


async def test_formatting_stands_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    monkeypatch.setattr(time, "sleep", rests.append)
    families = Families()
    for number in range(10 * limits.METRICS_STEPS_MAX):
        families.gauge("meshfs_x", "X.", {"n": str(number)}, number)
    filling = len(rests)
    (family,) = families
    assert len(list(family.samples)) == 10 * limits.METRICS_STEPS_MAX
    assert (filling, len(rests)) == (9, 9 + 9)
    assert set(rests) == {limits.METRICS_REST_S}


async def test_its_end_closes_the_port() -> None:
    async with serving(dict) as server:
        assert (await scrape(server))[0] == 200
    with pytest.raises(ConnectionRefusedError):
        connect(server)

"""The exporter reports to systemd's watchdog only while trio and the reactor both run."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from meshfs.linux.systemd import watchdog_interval_s
from meshfs.loop.reactor import Reactor
from meshfsd.watchdog import report_alive

INTERVAL_S = 0.05


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Yield the socket of a service manager that expects a report every 0.1 s."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", str(int(2 * INTERVAL_S * 1e6)))
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        yield manager


def received(manager: socket.socket) -> list[bytes]:
    found = []
    try:
        while True:
            found.append(manager.recv(100))
    except BlockingIOError:
        return found


async def test_reports_come_while_the_reactor_runs(manager: socket.socket) -> None:
    with trio.move_on_after(20 * INTERVAL_S):
        await report_alive()
    found = received(manager)
    assert set(found) == {b"WATCHDOG=1"}
    assert len(found) >= 3


async def test_no_report_comes_from_a_reactor_that_makes_no_rounds(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """trio goes on, so that a task that only slept and reported would hide the fault."""
    monkeypatch.setattr(Reactor, "_rounds", lambda reactor: os.sched_yield())
    with trio.move_on_after(5 * INTERVAL_S) as patience:
        await report_alive()
    assert patience.cancelled_caught
    assert received(manager) == []


async def test_without_a_watchdog_nothing_is_reported(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC")
    await report_alive()
    assert received(manager) == []


@pytest.mark.parametrize(
    ("usec", "pid", "interval_s"),
    [
        ("20000000", None, 10.0),
        ("20000000", "mine", 10.0),
        ("20000000", "1", None),
        ("0", None, None),
        ("soon", None, None),
        ("", None, None),
    ],
)
def test_the_interval_is_half_of_what_systemd_expects(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str | None, interval_s: float | None
) -> None:
    """The variables are those of sd_watchdog_enabled(3). A child of the watched process is not watched."""
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "mine" else pid)
    assert watchdog_interval_s() == interval_s

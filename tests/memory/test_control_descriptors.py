"""The control socket while the process has no file descriptor left."""

import errno
import logging
import os
from pathlib import Path

import pytest
import trio

from meshfs.control import serve_control
from meshfs.exporter.endpoints import listen_unix


async def test_a_connection_that_cannot_be_accepted_is_one_line_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, autojump_clock: object
) -> None:
    tries = 0

    async def accept(listener: trio.SocketListener) -> trio.SocketStream:
        nonlocal tries
        tries += 1
        await trio.lowlevel.checkpoint()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(trio.SocketListener, "accept", accept)
    with listen_unix(tmp_path / "control") as listening, trio.move_on_after(0.25), caplog.at_level(logging.ERROR):
        await serve_control(listening, {})
    assert tries > 1, "it is tried again"
    assert len(caplog.records) == tries
    assert all("Too many open files" in record.getMessage() and not record.exc_info for record in caplog.records)

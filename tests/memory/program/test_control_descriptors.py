"""The control socket of a process without a free file descriptor, and of one whose clients keep connections open."""

import errno
import logging
import os
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
import trio.testing

from meshfs import limits
from meshfs.program.control import Answer, Request, converse, serve_control
from meshfs.program.control_client import read_control
from meshfs.transport.listening import listen_unix


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


async def test_silent_connections_lock_nobody_out(tmp_path: Path) -> None:
    async def status(_: Request) -> Answer:
        return {"well": True}

    path = tmp_path / "control"
    with listen_unix(path) as listening, ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_control, listening, {"status": status})
            silent = [await trio.open_unix_socket(path) for _ in range(4 * limits.CONTROL_CONNECTIONS_MAX)]
            for stream in silent:
                stack.callback(stream.socket.close)
            document = await trio.to_thread.run_sync(read_control, path, {"verb": "status"})
            assert document.flag("well")
            # The oldest connections were closed for the newer ones, and the newest are still served.
            with trio.fail_after(5):
                assert await silent[0].receive_some() == b""
                await silent[-1].send_all(b'{"verb": "status"}\n')
                assert await silent[-1].receive_some() == b'{"well": true}\n'
            nursery.cancel_scope.cancel()


async def test_a_handler_that_takes_long_is_not_cut_off(autojump_clock: object) -> None:
    async def slow(_: Request) -> Answer:
        await trio.sleep(10 * limits.CONTROL_TIMEOUT_S)
        return {"done": 1}

    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(converse, theirs, {"slow": slow})
        await ours.send_all(b'{"verb": "slow"}\n')
        with trio.fail_after(20 * limits.CONTROL_TIMEOUT_S):
            assert await ours.receive_some() == b'{"done": 1}\n'
        await ours.aclose()

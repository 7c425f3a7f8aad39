"""The worker loop without a kernel: requests are messages on a socket, pyfuse3's loop is imitated."""

import errno
import os
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio
import trio.lowlevel
import trio.testing

from meshfs import limits
from meshfs.fuse import session


class Kernel:
    """Sends requests; ``serve`` is what a handler does with one."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.theirs.setblocking(False)
        self.ours.setblocking(False)
        self.served: list[str] = []
        self.order: list[tuple[str, str]] = []
        self.loops = 0
        self.handler: Callable[[bytes], Awaitable[None]] = self.nothing
        self.withdraw = 0

    async def nothing(self, request: bytes) -> None:
        return

    def send(self, *requests: bytes) -> None:
        for request in requests:
            self.ours.send(request)

    async def session_loop(self, nursery: object, tasks_min: int, tasks_max: int) -> None:
        """What pyfuse3._session_loop does, as far as the hook is concerned."""
        self.loops += 1
        while await session._private._wait_fuse_readable():
            if self.withdraw:
                self.withdraw -= 1
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            request = self.theirs.recv(100)
            if not request:
                return
            self.order.append((request.decode(), trio.lowlevel.current_task().name))
            await self.handler(request)
            self.served.append(request.decode())


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    kernel = Kernel()
    monkeypatch.setattr(session._private, "_session_loop", kernel.session_loop)
    yield kernel
    kernel.ours.close()
    kernel.theirs.close()


class Loop:
    """The workers in a nursery of the test."""

    def __init__(self, kernel: Kernel, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workers = session._Workers(kernel.theirs.fileno(), nursery)
        monkeypatch.setattr(session._private, "_wait_fuse_readable", self.workers.wait)
        self.workers.start()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.lowlevel.checkpoint()


async def test_requests_in_turn_need_two_workers(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(request: bytes) -> None:
        await trio.lowlevel.checkpoint()

    kernel.handler = handler
    async with trio.open_nursery() as nursery:
        loop = Loop(kernel, nursery, monkeypatch)
        for number in range(200):
            kernel.send(b"%d" % number)
            await until(lambda number=number: len(kernel.served) == number + 1)  # type: ignore[misc]
        assert loop.workers._count <= 3
        nursery.cancel_scope.cancel()
    assert kernel.served == [str(number) for number in range(200)]


async def test_workers_are_as_many_as_requests_that_wait(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = trio.Event()

    async def handler(request: bytes) -> None:
        await gate.wait()

    kernel.handler = handler
    async with trio.open_nursery() as nursery:
        loop = Loop(kernel, nursery, monkeypatch)
        for number in range(50):
            kernel.send(b"%d" % number)
            await until(lambda number=number: len(kernel.order) == number + 1)  # type: ignore[misc]
        assert 50 <= loop.workers._count <= 51
        gate.set()
        await until(lambda: len(kernel.served) == 50)
        await trio.testing.wait_all_tasks_blocked()
        assert loop.workers._watched
        assert len(loop.workers._parked) == loop.workers._count - 1
        parked = loop.workers._parked[-1].name
        kernel.send(b"a")
        await until(lambda: len(kernel.served) == 51)
        await trio.testing.wait_all_tasks_blocked()
        kernel.send(b"b")
        await until(lambda: len(kernel.served) == 52)
        assert kernel.order[-1][1] == parked
        nursery.cancel_scope.cancel()


async def test_above_the_limit_the_next_free_worker_serves(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FUSE_WORKERS_MAX", 3)
    gates = [trio.Event() for _ in range(5)]

    async def handler(request: bytes) -> None:
        await gates[int(request)].wait()

    kernel.handler = handler
    async with trio.open_nursery() as nursery:
        loop = Loop(kernel, nursery, monkeypatch)
        kernel.send(b"0", b"1", b"2", b"3", b"4")
        await trio.testing.wait_all_tasks_blocked()
        assert loop.workers._count == 3
        assert len(kernel.order) == 3
        for gate in (gates[1], gates[0]):
            gate.set()
            await trio.testing.wait_all_tasks_blocked()
        assert len(kernel.order) == 5
        for gate in gates:
            gate.set()
        await until(lambda: len(kernel.served) == 5)
        nursery.cancel_scope.cancel()


async def test_a_request_withdrawn_before_it_was_read(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel.withdraw = 3
    async with trio.open_nursery() as nursery:
        Loop(kernel, nursery, monkeypatch)
        kernel.send(b"a")
        await until(lambda: kernel.served == ["a"])
        assert kernel.loops >= 4
        nursery.cancel_scope.cancel()


async def test_a_flood_that_never_waits_lets_others_run(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0

    async def handler(request: bytes) -> None:
        kernel.send(b"again")

    async def bystander() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    kernel.handler = handler
    async with trio.open_nursery() as nursery:
        Loop(kernel, nursery, monkeypatch)
        nursery.start_soon(bystander)
        kernel.send(b"first")
        await until(lambda: len(kernel.served) > 1000)
        assert turns > 5
        nursery.cancel_scope.cancel()


async def test_the_end_of_the_session_ends_all(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(request: bytes) -> None:
        await trio.sleep_forever()

    kernel.handler = handler
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            Loop(kernel, nursery, monkeypatch)
            kernel.send(b"a", b"b")
            await until(lambda: len(kernel.order) == 2)
            kernel.ours.close()


async def test_any_other_error_is_not_hidden(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(request: bytes) -> None:
        raise OSError(errno.EBADF, "bad")

    kernel.handler = handler
    caught: list[BaseException] = []

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            Loop(kernel, nursery, monkeypatch)
            kernel.send(b"a")

    try:
        await run()
    except* OSError as group:
        caught += group.exceptions
    assert [error.errno for error in caught if isinstance(error, OSError)] == [errno.EBADF]

"""The worker loop without a kernel. Requests are messages on a socket, and the test imitates the loop of pyfuse3."""

import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.lowlevel
import trio.testing

from meshfs import limits
from meshfs.fuse.pyfuse3_front import workers as loop
from meshfs.loop import worker
from meshfs.loop.worker import Worker
from support.waiting import until


class Kernel:
    """Sends requests to the workers. ``handler`` serves each one."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.theirs.setblocking(False)
        self.ours.setblocking(False)
        self.served: list[str] = []
        self.order: list[str] = []
        self.loops = 0
        self.handler: Callable[[bytes], Awaitable[None]] = self.nothing
        self.withdraw = 0
        #: The number of loops that have memory. The others end with ENOMEM.
        self.workers_max = 1 << 30

    async def nothing(self, request: bytes) -> None:
        return

    def send(self, *requests: bytes) -> None:
        for request in requests:
            self.ours.send(request)

    async def session_loop(self, nursery: object, tasks_min: int, tasks_max: int) -> None:
        """Do what pyfuse3._session_loop does, as far as the hook can see."""
        self.loops += 1
        number = self.loops
        while await loop._private._wait_fuse_readable():
            if number > self.workers_max:
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            if self.withdraw:
                self.withdraw -= 1
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            try:
                request = self.theirs.recv(100)
            except BlockingIOError as error:
                raise OSError(errno.EAGAIN, "nothing there") from error
            if not request:
                return
            self.order.append(request.decode())
            await self.handler(request)
            self.served.append(request.decode())


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    kernel = Kernel()
    monkeypatch.setattr(loop._private, "_session_loop", kernel.session_loop)
    yield kernel
    kernel.ours.close()
    kernel.theirs.close()


@asynccontextmanager
async def serving(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, writes_bytes: Callable[[], int] = int
) -> AsyncIterator[loop._Workers]:
    """Run the workers in a nursery, until the block ends."""
    monkeypatch.setattr(loop._private, "_wait_fuse_readable", loop._next_request)
    async with trio.open_nursery() as nursery:
        workers = loop._Workers(kernel.theirs.fileno(), nursery, writes_bytes)
        nursery.start_soon(workers.run)
        yield workers
        nursery.cancel_scope.cancel()


async def in_trio(_: bytes) -> None:
    await worker.enter_trio()
    await trio.lowlevel.checkpoint()


async def directly(_: bytes) -> None:
    return


@pytest.mark.parametrize("handler", [directly, in_trio])
async def test_requests_in_turn_need_one_worker(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, handler: Callable[[bytes], Awaitable[None]]
) -> None:
    kernel.handler = handler
    async with serving(kernel, monkeypatch):
        for number in range(200):
            kernel.send(b"%d" % number)
            await until(lambda number=number: len(kernel.served) == number + 1)  # type: ignore[misc]
        assert kernel.loops <= 2
    assert kernel.served == [str(number) for number in range(200)]


async def test_a_parked_worker_is_resumed_with_its_answer(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    parked: list[Worker] = []
    answers: list[object] = []

    async def handler(request: bytes) -> None:
        assert worker.running is not None
        parked.append(worker.running)
        answers.append(await worker.park())

    kernel.handler = handler
    async with serving(kernel, monkeypatch):
        kernel.send(b"a", b"b", b"c")
        await until(lambda: len(parked) == 3)
        assert len(set(parked)) == 3
        for number in (2, 0, 1):
            parked[number].resume(number)
        assert answers == [2, 0, 1]
        assert kernel.served == ["c", "a", "b"]
        kernel.send(b"d")
        await until(lambda: len(parked) == 4)
        # The worker that became idle last serves next, because its memory is warm.
        assert parked[3] is parked[1]


async def test_workers_are_as_many_as_requests_that_wait(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = trio.Event()

    async def handler(request: bytes) -> None:
        await worker.enter_trio()
        await gate.wait()

    kernel.handler = handler
    async with serving(kernel, monkeypatch):
        for number in range(50):
            kernel.send(b"%d" % number)
            await until(lambda number=number: len(kernel.order) == number + 1)  # type: ignore[misc]
        assert kernel.loops == 50
        gate.set()
        await until(lambda: len(kernel.served) == 50)


async def test_above_the_limit_the_next_free_worker_serves(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FUSE_WORKERS_MAX", 3)
    gates = [trio.Event() for _ in range(5)]

    async def handler(request: bytes) -> None:
        await worker.enter_trio()
        await gates[int(request)].wait()

    kernel.handler = handler
    async with serving(kernel, monkeypatch) as workers:
        kernel.send(b"0", b"1", b"2", b"3", b"4")
        await until(lambda: len(kernel.order) == 3 and not workers._watched)
        assert len(kernel.order) == 3
        for gate in (gates[1], gates[0]):
            gate.set()
        await until(lambda: len(kernel.order) == 5)
        assert kernel.loops == 3
        for gate in gates:
            gate.set()
        await until(lambda: len(kernel.served) == 5)


async def test_writes_that_hold_too_much_data_let_no_request_in_until_one_ends(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FUSE_WRITES_MAX_BYTES", 2)
    gates = [trio.Event() for _ in range(5)]
    waiting = 0

    async def handler(request: bytes) -> None:
        nonlocal waiting
        waiting += 1
        await worker.enter_trio()
        await gates[int(request)].wait()
        waiting -= 1

    kernel.handler = handler
    async with serving(kernel, monkeypatch, lambda: waiting) as workers:
        kernel.send(b"0", b"1", b"2", b"3", b"4")
        await until(lambda: len(kernel.order) == 3 and not workers._watched)
        gates[1].set()
        await until(lambda: len(kernel.order) == 4 and not workers._watched)
        for gate in gates:
            gate.set()
        await until(lambda: len(kernel.served) == 5)


async def test_without_memory_for_more_workers_those_there_serve(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = trio.Event()

    async def handler(request: bytes) -> None:
        await worker.enter_trio()
        await gate.wait()

    kernel.handler, kernel.workers_max = handler, 2
    async with serving(kernel, monkeypatch):
        kernel.send(b"0", b"1", b"2", b"3")
        await until(lambda: kernel.loops == 3)
        assert len(kernel.order) == 2
        gate.set()
        await until(lambda: len(kernel.served) == 4)


async def test_a_request_withdrawn_before_it_was_read(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel.withdraw = 3
    async with serving(kernel, monkeypatch):
        kernel.send(b"a")
        await until(lambda: kernel.served == ["a"])
        assert kernel.loops == 4


async def test_a_flood_that_never_waits_lets_others_run(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0

    async def handler(request: bytes) -> None:
        kernel.send(b"again")

    async def bystander() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.sleep(0.001)

    kernel.handler = handler
    async with serving(kernel, monkeypatch), trio.open_nursery() as nursery:
        nursery.start_soon(bystander)
        kernel.send(b"first")
        await until(lambda: len(kernel.served) > 1000 and turns > 5)
        nursery.cancel_scope.cancel()


async def test_the_end_of_the_session_ends_all(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    parked: list[Worker] = []

    async def handler(request: bytes) -> None:
        if request == b"a":
            assert worker.running is not None
            parked.append(worker.running)
            await worker.park()
        await worker.enter_trio()
        await trio.sleep_forever()

    kernel.handler = handler
    monkeypatch.setattr(loop._private, "_wait_fuse_readable", loop._next_request)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            workers = loop._Workers(kernel.theirs.fileno(), nursery)
            kernel.send(b"a", b"b")
            nursery.start_soon(workers.run)
            await until(lambda: len(kernel.order) == 2)
            kernel.ours.close()
            await until(workers._over.is_set)
            await trio.testing.wait_all_tasks_blocked()
            # A late answer reaches nobody.
            parked[0].resume(b"late")
            parked[0].throw(OSError(errno.EIO, "late"))
            nursery.cancel_scope.cancel()
    assert kernel.served == []


async def test_a_fault_in_one_worker_ends_no_other(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(request: bytes) -> None:
        if request == b"bad":
            raise RuntimeError("a fault of ours")
        if request == b"bad later":
            await in_trio(request)
            raise RuntimeError("a fault of ours, later")

    kernel.handler = handler
    async with serving(kernel, monkeypatch):
        kernel.send(b"bad", b"a", b"bad later", b"b")
        await until(lambda: kernel.served == ["a", "b"])


async def test_any_other_error_is_not_hidden(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(request: bytes) -> None:
        raise OSError(errno.EBADF, "bad")

    kernel.handler = handler
    monkeypatch.setattr(loop._private, "_wait_fuse_readable", loop._next_request)
    async with trio.open_nursery() as nursery:
        kernel.send(b"a")
        with pytest.raises(OSError, match="bad"):
            await loop._Workers(kernel.theirs.fileno(), nursery).run()

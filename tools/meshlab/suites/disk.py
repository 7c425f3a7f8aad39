"""One test suite that every disk backend has to pass.

A backend joins the suite with a subclass of DiskSuite and a pytest fixture ``case``. While the fixture is active, the
disk is open and its engine runs:

    class TestMemoryDisk(DiskSuite):
        @pytest.fixture
        def case(self): return DiskCase(disk, contents=lambda: bytes(disk.data))
"""

import errno
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from meshfs.buffers import HEADROOM_BYTES, Buffer, BufferPool
from meshfs.disk.base import Disk, DiskRequest, Op

KIB: Final = 1024
MIB: Final = 1024 * KIB


@dataclass(frozen=True, slots=True)
class DiskCase:
    """Holds a disk of at least 2 MiB, all zeros. ``contents`` reads the disk without the backend, after a FLUSH."""

    disk: Disk
    contents: Callable[[], bytes]


class Batch:
    """Requests and their results. It counts results per request, to detect a result that is delivered twice."""

    def __init__(self, disk: Disk) -> None:
        self.pool = BufferPool()
        #: Completed requests, in the order of completion.
        self.done: list[DiskRequest] = []
        self._disk = disk
        self._open = 0
        self._counts: dict[DiskRequest, int] = {}
        self._changed = trio.Event()

    def make(self, op: Op, offset: int, length: int, *, start: int = HEADROOM_BYTES) -> DiskRequest:
        buffer = None if op not in (Op.READ, Op.WRITE) else self.pool.acquire(length)
        request = DiskRequest(op, offset, length, buffer, start, self._on_done)
        self._counts[request] = 0
        self._open += 1
        return request

    def write(self, offset: int, data: bytes, *, start: int = HEADROOM_BYTES, through: bool = False) -> DiskRequest:
        request = self.make(Op.WRITE, offset, len(data), start=start)
        memory_of(request)[:] = data
        request.write_through = through
        return request

    def _on_done(self, request: DiskRequest) -> None:
        self._counts[request] += 1
        assert self._counts[request] == 1, "a result was delivered twice"
        self.done.append(request)
        self._open -= 1
        if not self._open:
            self._changed.set()

    async def do(self, requests: Sequence[DiskRequest]) -> list[int]:
        """Submit all requests in one call, and wait for every result, including those of earlier submissions."""
        self._disk.submit(requests)
        await self.finished()
        return [request.result for request in requests]

    async def finished(self) -> None:
        while self._open:
            self._changed = trio.Event()
            with trio.fail_after(20):
                await self._changed.wait()


def memory_of(request: DiskRequest) -> memoryview:
    buffer = request.buffer
    assert isinstance(buffer, Buffer)
    return buffer.view[request.start : request.start + request.length]


async def read(disk: Disk, offset: int, length: int, *, start: int = HEADROOM_BYTES) -> bytes | int:
    """Read, and return the bytes, or -errno."""
    batch = Batch(disk)
    request = batch.make(Op.READ, offset, length, start=start)
    (result,) = await batch.do([request])
    return result if result < 0 else bytes(memory_of(request)[:result])


async def write(disk: Disk, offset: int, data: bytes, *, start: int = HEADROOM_BYTES, through: bool = False) -> int:
    batch = Batch(disk)
    (result,) = await batch.do([batch.write(offset, data, start=start, through=through)])
    return result


async def flush(disk: Disk) -> int:
    batch = Batch(disk)
    (result,) = await batch.do([batch.make(Op.FLUSH, 0, 0)])
    return result


async def zero(disk: Disk, offset: int, length: int, *, through: bool = False) -> int:
    batch = Batch(disk)
    request = batch.make(Op.ZERO, offset, length)
    request.write_through = through
    (result,) = await batch.do([request])
    return result


async def discard(disk: Disk, offset: int, length: int) -> int:
    batch = Batch(disk)
    (result,) = await batch.do([batch.make(Op.DISCARD, offset, length)])
    return result


# (offset, length): aligned to sectors, aligned to pages, and misaligned in every way.
_SHAPES: Final = (
    (0, 512),
    (512, 512),
    (0, 4096),
    (4096, 4096),
    (3584, 1024),
    (65536, MIB),
    (0, 1),
    (1, 1),
    (511, 2),
    (513, 510),
    (4095, 2),
    (100, 4096),
    (1000, 9000),
    (4097, 65535),
    (12345, MIB - 1),
)


class DiskSuite:
    """Tests a disk backend. A subclass gives the backend by the fixture ``case``."""

    async def test_reads_back_what_was_written(self, case: DiskCase) -> None:
        model = bytearray(case.disk.size_bytes)
        generator = random.Random(1)
        for offset, length in _SHAPES:
            for start in (HEADROOM_BYTES, HEADROOM_BYTES + 512, HEADROOM_BYTES + 1):
                data = generator.randbytes(length)
                assert await write(case.disk, offset, data, start=start) == length
                model[offset : offset + length] = data
                assert await read(case.disk, offset, length, start=start) == data, (offset, length, start)
        assert await flush(case.disk) == 0
        assert case.contents() == bytes(model)

    async def test_serves_the_last_bytes(self, case: DiskCase) -> None:
        size = case.disk.size_bytes
        model = bytearray(size)
        generator = random.Random(2)
        for length in (1, 2, 511, 512, 513, 4095, 4096, 4097, 70000):
            data = generator.randbytes(length)
            assert await write(case.disk, size - length, data) == length
            model[size - length :] = data
            assert await read(case.disk, size - length, length) == data
            assert await read(case.disk, size - length - 1, length + 1) == bytes(model[size - length - 1 :])
        assert await flush(case.disk) == 0
        assert case.contents() == bytes(model)

    async def test_reads_are_short_at_the_end_only(self, case: DiskCase) -> None:
        size = case.disk.size_bytes
        assert await write(case.disk, size - 100, b"e" * 100) == 100
        assert await read(case.disk, size - 100, 4096) == b"e" * 100
        assert await read(case.disk, size - 4096, 8192) == bytes(3996) + b"e" * 100
        assert await read(case.disk, size, 4096) == b""
        assert await read(case.disk, size + MIB, 4096) == b""

    async def test_writes_beyond_the_end_change_nothing(self, case: DiskCase) -> None:
        size = case.disk.size_bytes
        for offset, length in ((size, 1), (size, 4096), (size - 1, 2), (size - 512, 4096), (size + MIB, 512)):
            assert await write(case.disk, offset, b"x" * length) == -errno.ENOSPC
        assert await flush(case.disk) == 0
        assert case.contents() == bytes(size)

    async def test_nothing_is_done_for_nothing(self, case: DiskCase) -> None:
        assert await read(case.disk, 0, 0) == b""
        assert await write(case.disk, 0, b"") == 0
        assert await zero(case.disk, 0, 0) == 0

    async def test_zeroes_exactly_what_was_asked(self, case: DiskCase) -> None:
        """Reads at once see zeros in the range and the old bytes around it; so does the disk after a flush."""
        model = bytearray(b"\xaa" * case.disk.size_bytes)
        assert await write(case.disk, 0, bytes(model)) == len(model)
        shapes = [*_SHAPES, (MIB - 7, 14), (len(model) - 5000, 5000), (len(model) - 1, 1)]
        for index, (offset, length) in enumerate(shapes):
            assert await zero(case.disk, offset, length, through=index % 2 == 1) == length
            model[offset : offset + length] = bytes(length)
            around = max(offset - 5000, 0)
            expected = bytes(model[around : offset + length + 5000])
            assert await read(case.disk, around, len(expected)) == expected, (offset, length)
            assert await write(case.disk, offset, b"\xaa" * length) == length
            model[offset : offset + length] = b"\xaa" * length
            model[offset + length // 2 : offset + length] = bytes(length - length // 2)
            assert await zero(case.disk, offset + length // 2, length - length // 2) == length - length // 2
        assert await flush(case.disk) == 0
        assert case.contents() == bytes(model)

    async def test_zeroes_all_of_the_disk_and_nothing_beyond(self, case: DiskCase) -> None:
        size = case.disk.size_bytes
        assert await write(case.disk, 0, b"\xaa" * size) == size
        for offset, length in ((size, 1), (size - 512, 4096), (0, size + 1)):
            assert await zero(case.disk, offset, length) == -errno.ENOSPC
        assert await flush(case.disk) == 0
        assert case.contents() == b"\xaa" * size
        assert await zero(case.disk, 0, size) == size
        assert await flush(case.disk) == 0
        assert case.contents() == bytes(size)

    async def test_discards_at_most_what_was_asked(self, case: DiskCase) -> None:
        """Only whole granules inside the range lose their content, and a discarded range can be written again."""
        size, granules = case.disk.size_bytes, case.disk.granules
        assert granules, "this machine's file systems and loop devices can discard"
        assert await write(case.disk, 0, b"\xaa" * size) == size
        for offset, length in [*_SHAPES, (MIB - 7, 14), (size - 5000, 5000), (size - 1, 1), (0, 0)]:
            assert await discard(case.disk, offset, length) == length
            first, last = granules.whole(offset, offset + length)
            assert offset <= first <= last <= offset + length
            assert await read(case.disk, 0, first) == b"\xaa" * first, (offset, length)
            assert await read(case.disk, last, size - last) == b"\xaa" * (size - last), (offset, length)
            again = b"\xaa" * (last - first)
            assert await write(case.disk, first, again) == len(again)
            assert await read(case.disk, first, len(again)) == again
        for offset, length in ((size, 1), (size - 512, 4096), (0, size + 1)):
            assert await discard(case.disk, offset, length) == -errno.ENOSPC
        assert await flush(case.disk) == 0
        assert case.contents() == b"\xaa" * size

    async def test_discards_keep_their_order_with_overlapping_writes(self, case: DiskCase) -> None:
        """A write after a discard's answer is kept, and so is a write beside the discard, even of parts of blocks."""
        generator = random.Random(5)
        for round_ in range(50):
            start = generator.randrange(0, MIB)
            length = generator.randrange(1, MIB)
            batch = Batch(case.disk)
            edge = batch.write(start + length, b"e" * generator.randrange(1, 5000))
            results = await batch.do([batch.make(Op.DISCARD, start, length), edge])
            assert results == [length, edge.length]
            data = generator.randbytes(generator.randrange(1, 9000))
            at = start + generator.randrange(0, length)
            assert await write(case.disk, at, data) == len(data)
            assert await read(case.disk, at, len(data)) == data, round_
            if at + len(data) <= start + length:
                assert await read(case.disk, start + length, edge.length) == b"e" * edge.length, round_

    async def test_write_through_and_flush(self, case: DiskCase) -> None:
        for offset, length in ((0, 4096), (8192, 100), (20000, 5000)):
            assert await write(case.disk, offset, b"t" * length, through=True) == length
            assert await read(case.disk, offset, length) == b"t" * length
        batch = Batch(case.disk)
        requests = [batch.write(index * 4096, b"f" * 4096) for index in range(8)]
        assert await batch.do([*requests, batch.make(Op.FLUSH, 0, 0)]) == [4096] * 8 + [0]

    async def test_more_requests_than_the_engine_has_room_for(self, case: DiskCase) -> None:
        batch = Batch(case.disk)
        # The small engines of the tests have at most 16 requests in flight.
        count = 400
        requests = [
            batch.write(index * 512, index.to_bytes(2, "big") * 256, start=HEADROOM_BYTES) for index in range(count)
        ]
        assert await batch.do(requests) == [512] * count
        batch = Batch(case.disk)
        requests = [batch.make(Op.READ, index * 512, 512) for index in range(count)]
        assert await batch.do(requests) == [512] * count
        for index, request in enumerate(requests):
            assert bytes(memory_of(request)) == index.to_bytes(2, "big") * 256

    async def test_a_completion_may_submit_more(self, case: DiskCase) -> None:
        """Each completion submits the next request, in a chain that is far longer than the stack allows to nest."""
        left = 3000
        ended = trio.Event()

        def again(request: DiskRequest) -> None:
            nonlocal left
            assert request.result == 4096
            left -= 1
            if left:
                case.disk.submit([request])
            else:
                ended.set()

        request = DiskRequest(Op.READ, 0, 4096, BufferPool().acquire(4096), HEADROOM_BYTES, again)
        case.disk.submit([request])
        with trio.fail_after(20):
            await ended.wait()

    async def test_a_refused_request_leaves_its_neighbours_alone(self, case: DiskCase) -> None:
        batch = Batch(case.disk)
        requests = [
            batch.write(0, b"a" * 4096),
            batch.write(case.disk.size_bytes, b"b" * 4096),
            batch.write(4096, b"c" * 1000),
        ]
        assert await batch.do(requests) == [4096, -errno.ENOSPC, 1000]
        assert await read(case.disk, 0, 5096) == b"a" * 4096 + b"c" * 1000

    async def test_writes_to_parts_of_one_block_lose_nothing(self, case: DiskCase) -> None:
        """Concurrent writes and zeroings of disjoint bytes in shared blocks, in any order, must all take effect.

        A concurrent read sees, for every byte, either the old or the new value.
        """
        for seed in range(20):
            await self._race(case, random.Random(seed))

    async def _race(self, case: DiskCase, generator: random.Random) -> None:
        disk = case.disk
        base = generator.choice((0, 512 * generator.randrange(1000), disk.size_bytes - 40000))
        stop = base + 40000
        before = await read(disk, base, stop - base)
        assert isinstance(before, bytes)
        cuts = {base, stop} | {generator.randrange(base, stop) for _ in range(30)}
        cuts |= {generator.randrange(base, stop) // 512 * 512 for _ in range(20)}
        edges = sorted(cut for cut in cuts if cut >= base)
        after = bytearray(generator.randbytes(stop - base))
        batch = Batch(disk)
        writes = []
        for begin, end in itertools.pairwise(edges):
            start = HEADROOM_BYTES + generator.choice((0, 0, 512, 7))
            if generator.random() < 0.2:
                after[begin - base : end - base] = bytes(end - begin)
                writes.append(batch.make(Op.ZERO, begin, end - begin))
            else:
                writes.append(batch.write(begin, bytes(after[begin - base : end - base]), start=start))
        reads = [batch.make(Op.READ, generator.randrange(base, stop - 9000), 9000) for _ in range(5)]
        requests = writes + reads
        generator.shuffle(requests)
        while requests:
            count = generator.randrange(1, 12)
            disk.submit(requests[:count])
            requests = requests[count:]
            if generator.random() < 0.3:
                await trio.lowlevel.checkpoint()
        await batch.finished()
        assert [request.result for request in writes] == [request.length for request in writes]
        assert await read(disk, base, stop - base) == bytes(after)
        for request in reads:
            skip = request.offset - base
            for index, value in enumerate(memory_of(request)):
                assert value in (before[skip + index], after[skip + index])

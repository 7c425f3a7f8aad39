"""Splits one caller's request into parts, which go over several channels at once.

A `SplitRequest` collects the results of the parts, and its caller continues when all of them are there. It waits for
every part even if one fails, so that afterwards no part is in flight without the caller's knowledge. Then it raises an
error. Of several errors, it raises the one after which most may still happen:

    1. a deadline that passed: the part is still under way, with the present ChannelSequence
    2. a lost channel
    3. an error status, which is an answer

A caller that is cancelled leaves the parts behind, as it leaves a slot.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any

from trio.lowlevel import Abort, Task, current_task, wait_task_rescheduled

from meshfs.errors import ChannelLost
from meshfs.initiator.channel.channel import Channel
from meshfs.initiator.channel.slots import Slot, resume
from meshfs.loop import worker
from meshfs.loop.worker import PARKED, Worker

#: The parts of a request, each with its channel and its number of bytes.
Parts = Sequence[tuple[Channel, int]]


class SplitRequest:
    """Collects the results of one request in parts. ``add`` every part, then await the whole.

    Awaiting returns the count that all parts have written or, for a read, the data. If the data is shorter than asked
    for, it is of no use, because bytes in its middle may be missing.
    """

    __slots__ = ("_error", "_left", "_memory", "_starts", "_task", "count", "failed", "slots")

    def __init__(self, read_bytes: int = 0) -> None:
        self.slots: list[Slot] = []
        #: The part whose error ends the whole request. It is None if that part could not be started.
        self.failed: Slot | None = None
        #: The number of bytes read or written so far.
        self.count = 0
        self._left = 0
        self._starts: dict[Slot, int] = {}
        self._memory = bytearray(read_bytes)
        self._error: BaseException | None = None
        self._task: Task | Worker | None = None

    def add(self, slot: Slot, start: int) -> None:
        """Add a part whose data begins at ``start`` of the whole. Call this before its reply can be handled."""
        slot.task = self
        self.slots.append(slot)
        self._starts[slot] = start
        self._left += 1

    def fail(self, error: BaseException, slot: Slot | None = None) -> None:
        """Keep the error of a part, unless another one weighs more. A part without a ``slot`` could not be started."""
        if self._error is None or _weight(error) > _weight(self._error):
            self._error, self.failed = error, slot

    def take(self, slot: Slot, result: object) -> None:
        """Take the result of a part. After the last part, the caller continues."""
        if isinstance(result, BaseException):
            self.fail(result, slot)
        elif isinstance(result, int):
            self.count += result
        else:
            assert isinstance(result, bytes | memoryview)
            start = self._starts[slot]
            self._memory[start : start + len(result)] = result
            self.count += len(result)
        self._left -= 1
        task = self._task
        if not self._left and task is not None:
            self._task = None
            resume(task, self._result())

    def _result(self) -> object:
        if self._error is not None:
            return self._error
        if not self._memory:
            return self.count
        return self._memory if self.count == len(self._memory) else self._memory[: self.count]

    @property
    def changes(self) -> bool:
        """Return whether the parts change the disk."""
        return self.slots[0].changes

    @property
    def sent(self) -> bool:
        """Return whether the peer may act on any part."""
        return any(slot.sent for slot in self.slots)

    def __await__(self) -> Generator[Any, Any, Any]:
        if not self._left:
            result = self._result()
            if isinstance(result, BaseException):
                raise result
            return result
        self._task = worker.running or current_task()
        if worker.running is not None:
            return (yield PARKED)
        return (yield from wait_task_rescheduled(self._abandon).__await__())  # noqa: ASYNC105  # it is, by this

    def _abandon(self, _: object) -> Abort:
        """Leave the parts behind, because the task that waits is cancelled."""
        self._task = None
        for slot in self.slots:
            slot.task = None
        return Abort.SUCCEEDED


def start_parts(parts: Parts, whole: SplitRequest, start: Callable[[Channel, int, int], Slot]) -> SplitRequest:
    """Start every part: ``start`` gets its channel, its beginning in the whole, and its length."""
    begin = 0
    for channel, length in parts:
        try:
            whole.add(start(channel, begin, length), begin)
        except ChannelLost as error:
            whole.fail(error)
            break
        begin += length
    return whole


def _weight(error: BaseException) -> int:
    """Return how much may still happen after an error.

    A part that is late may still be executed after the whole was sent again. A part that was lost with its channel is
    executed before that, or never.
    """
    return 2 if isinstance(error, TimeoutError) else 1 if isinstance(error, ChannelLost) else 0

"""One caller's request that goes in parts, over several channels at once.

`Group` stands where the caller would: the slots of its parts give it their results, and when all
have, the caller goes on. It waits for all of them also when one fails, so that afterwards no part
is in flight that the caller does not know of, and then raises an error. Of several that is the one
after which most may still happen: a deadline that passed, as that part is still out under the
present ChannelSequence; then a lost channel; then what was answered. A caller that gives up (cancelled) leaves the
parts behind, as it leaves a slot.
"""

from collections.abc import Generator
from typing import Any

from trio.lowlevel import Abort, Task, current_task, wait_task_rescheduled

from meshfs.errors import ChannelLost
from meshfs.initiator.channel.slots import Slot, resume
from meshfs.loop import worker
from meshfs.loop.worker import PARKED, Worker


class Group:
    """``add`` every part, then await it: the bytes of all parts written or, for a read, the data.

    Data that is shorter than what was asked for is of no use, as it may lack what is in its middle.
    """

    __slots__ = ("_error", "_left", "_memory", "_starts", "_task", "count", "failed", "slots")

    def __init__(self, read_bytes: int = 0) -> None:
        self.slots: list[Slot] = []
        #: The part whose error the whole ends with; None where that part could not be started.
        self.failed: Slot | None = None
        #: Bytes read or written so far.
        self.count = 0
        self._left = 0
        self._starts: dict[Slot, int] = {}
        self._memory = bytearray(read_bytes)
        self._error: BaseException | None = None
        self._task: Task | Worker | None = None

    def add(self, slot: Slot, start: int) -> None:
        """A part, whose data begins at ``start`` of the whole; before its result can be there."""
        slot.task = self
        self.slots.append(slot)
        self._starts[slot] = start
        self._left += 1

    def fail(self, error: BaseException, slot: Slot | None = None) -> None:
        """A part could not be started, or failed."""
        if self._error is None or _weight(error) > _weight(self._error):
            self._error, self.failed = error, slot

    def take(self, slot: Slot, result: object) -> None:
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
        """Whether its parts change the disk."""
        return self.slots[0].changes

    @property
    def sent(self) -> bool:
        """Whether the peer may act on any part."""
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
        """The task that waits was cancelled."""
        self._task = None
        for slot in self.slots:
            slot.task = None
        return Abort.SUCCEEDED


def _weight(error: BaseException) -> int:
    """A part that is late may be executed after a replay of the whole; a lost one is before it or never."""
    return 2 if isinstance(error, TimeoutError) else 1 if isinstance(error, ChannelLost) else 0

"""A model of the data that each block of a disk may hold while initiators write and flush and power is lost. Pure.

A test reports the beginning and the end of each call to the model. For each block, the model keeps two sets of writes:

    now      the writes whose data a read may see
    stable   the writes whose data may be on the medium, and so may be there after a power loss

A write is in both sets from its beginning. When it is acknowledged, the writes that were over before it began leave
``now``. When a flush or write-through covers it, they leave ``stable`` as well.

A write that was given up may still be executed until its fence is complete. Its own initiator holds back newer
requests until then, so for that initiator the write is over at once. For the other initiators it is over when its
initiator's next call has succeeded.

The model also knows which writers have to get EIO after a loss. A writer MUST get it at the next flush, MAY get it (a
flush was in progress, so it depends on which came first), or must NOT get it.
"""

import enum
import itertools
from collections import defaultdict
from math import inf
from typing import Final

BLOCK_BYTES: Final = 512
_INITIAL: Final = 0
_UNIT_BYTES: Final = 16


class LossReport(enum.IntEnum):
    """Says whether a flush reports lost writes with EIO: not, perhaps, or certainly."""

    NOT = 0
    MAY = 1
    MUST = 2


class Writer:
    """Models one handle. ``port`` is the initiator's end of the disk, which all handles of the initiator share."""

    def __init__(self, port: object) -> None:
        self.port = port
        self.due = LossReport.NOT
        #: The number of losses that may still be reported to this handle. Each is reported at most once.
        self.unreported = 0
        #: Acknowledged writes that no flush through the same port has covered yet.
        self.uncovered: set[Write] = set()

    def expect_report(self, due: LossReport) -> None:
        """Add a loss that must, or may, be reported to this handle."""
        self.due = max(self.due, due)
        self.unreported += 1

    def reported(self) -> None:
        self.unreported -= 1
        self.due = LossReport.MAY if self.unreported > 0 else LossReport.NOT

    def all_reported(self) -> None:
        self.unreported, self.due = 0, LossReport.NOT


class Write:
    """Records one write, with the times of its call and of its answer."""

    __slots__ = (
        "discards",
        "end",
        "first",
        "losses",
        "number",
        "settled",
        "start",
        "stop",
        "through",
        "writer",
        "zeroes",
    )

    def __init__(self, number: int, writer: Writer, first: int, stop: int, start: float, losses: int) -> None:
        self.number = number
        self.writer = writer
        self.first = first
        self.stop = stop
        self.start = start
        self.end = inf
        #: From this time on, the write can no longer overwrite newer writes of other initiators.
        self.settled = inf
        self.losses = losses
        self.through = False
        #: True if the write is a zeroing.
        self.zeroes = False
        #: True if the write is a discard. Its blocks may hold anything until they are written again.
        self.discards = False

    def data(self) -> bytes:
        return b"".join(pattern(self.number, block) for block in range(self.first, self.stop))

    def before(self, other: "Write") -> bool:
        """Return whether this write was over when ``other`` began."""
        return (self.end if self.writer.port is other.writer.port else self.settled) < other.start


class Read:
    """Records one read. ``seen`` has, for each block, the writes that were overwritten during the read."""

    __slots__ = ("first", "seen", "start", "stop")

    def __init__(self, first: int, stop: int, start: float) -> None:
        self.first = first
        self.stop = stop
        self.start = start
        self.seen: defaultdict[int, set[int]] = defaultdict(set)


class Flush:
    """Records one flush, and the unflushed writes that it covers."""

    __slots__ = ("covered", "losses", "start")

    def __init__(self, covered: set[Write], start: float, losses: int) -> None:
        self.covered = covered
        self.start = start
        self.losses = losses


def pattern(number: int, block: int) -> bytes:
    """Return the content of ``block`` after write ``number``; zeros for the initial state."""
    if number == _INITIAL:
        return bytes(BLOCK_BYTES)
    return (number.to_bytes(8, "little") + block.to_bytes(8, "little")) * (BLOCK_BYTES // _UNIT_BYTES)


class BlockModel:
    """Models one disk with ``blocks`` blocks, which are all zero at first."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.losses = 0
        self._writes: dict[int, Write] = {}
        self._now: list[set[int]] = [{_INITIAL} for _ in range(blocks)]
        self._stable: list[set[int]] = [{_INITIAL} for _ in range(blocks)]
        self._reads: set[Read] = set()
        self._flushes: set[Flush] = set()
        self._last_flush_end = 0.0
        #: Acknowledged writes that a power loss may undo.
        self._unflushed: set[Write] = set()
        #: For each port, the number of losses that a flush through it has already found.
        self._found: dict[object, int] = {}
        self._unsettled: defaultdict[object, set[Write]] = defaultdict(set)
        self._writers: set[Writer] = set()
        self._ticks = itertools.count(1)
        initial = Write(_INITIAL, Writer(None), 0, blocks, 0, 0)
        initial.end = initial.settled = 0
        initial.zeroes = True
        self._writes[_INITIAL] = initial

    def writer(self, port: object) -> Writer:
        writer = Writer(port)
        self._writers.add(writer)
        return writer

    def forget(self, writer: Writer) -> None:
        """Forget a handle that is closed, so that no loss is reported to it."""
        self._writers.discard(writer)

    # --- writes ------------------------------------------------------------------------

    def begin_write(
        self,
        writer: Writer,
        first: int,
        stop: int,
        *,
        through: bool = False,
        zeroes: bool = False,
        discards: bool = False,
    ) -> Write:
        write = Write(len(self._writes), writer, first, stop, next(self._ticks), self.losses)
        write.through, write.zeroes, write.discards = through, zeroes, discards
        self._writes[write.number] = write
        for block in range(first, stop):
            self._now[block].add(write.number)
            self._stable[block].add(write.number)
        return write

    def acknowledged(self, write: Write) -> None:
        write.end = write.settled = next(self._ticks)
        self._settle(write.writer.port, write.start)
        lost = write.losses != self.losses
        if write.through or not lost:
            self._overwrite(self._now, write)
        if write.through:
            self._overwrite(self._stable, write)
            return
        write.writer.uncovered.add(write)
        if lost:
            write.writer.expect_report(LossReport.MAY)
        else:
            self._unflushed.add(write)

    def given_up(self, write: Write) -> None:
        """Record that a write failed. It may have been executed, or may still be executed later."""
        write.end = next(self._ticks)
        self._unsettled[write.writer.port].add(write)

    def _settle(self, port: object, start: float) -> None:
        """Record that a call through ``port`` succeeded that began at ``start``: all earlier fences are complete."""
        for write in [each for each in self._unsettled[port] if each.end < start]:
            self._unsettled[port].discard(write)
            write.settled = next(self._ticks)

    def _overwrite(self, sets: list[set[int]], write: Write) -> None:
        writes = self._writes
        for block in range(write.first, write.stop):
            gone = {number for number in sets[block] if number != write.number and writes[number].before(write)}
            if not gone:
                continue
            sets[block] -= gone
            if sets is self._now:
                for read in self._reads:
                    if read.first <= block < read.stop:
                        read.seen[block] |= gone

    # --- reads -------------------------------------------------------------------------

    def begin_read(self, first: int, stop: int) -> Read:
        read = Read(first, stop, next(self._ticks))
        self._reads.add(read)
        return read

    def end_read(self, read: Read, port: object, data: bytes | bytearray | memoryview | None) -> str:
        """Return what is wrong with the data, or an empty text. ``data`` is None for a read that failed."""
        self._reads.discard(read)
        if data is None:
            return ""
        self._settle(port, read.start)
        for index, block in enumerate(range(read.first, read.stop)):
            content = bytes(data[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES])
            number = int.from_bytes(content[:8], "little")
            may_be = self._now[block] | read.seen[block]
            if any(self._writes[each].discards for each in may_be):
                continue
            # All zeroings look the same, and look like the initial state.
            zeroed = number == _INITIAL and any(self._writes[each].zeroes for each in may_be)
            if number not in may_be and not zeroed:
                return f"block {block} holds write {number}, but may only hold {sorted(may_be)}"
            if content != pattern(number, block):
                return f"block {block} is mixed up: {content[:48].hex()}"
        return ""

    # --- flushes and losses ------------------------------------------------------------

    def begin_flush(self) -> Flush:
        flush = Flush(set(self._unflushed), next(self._ticks), self.losses)
        self._flushes.add(flush)
        return flush

    def end_flush(self, flush: Flush, writer: Writer, *, reported_loss: bool, done: bool) -> str:
        """Return what is wrong with the result of a flush, or an empty text.

        ``reported_loss`` is true if the flush failed with EIO, and ``done`` if it succeeded.
        """
        self._flushes.discard(flush)
        self._last_flush_end = next(self._ticks)
        fresh = flush.losses == self.losses
        if fresh and (reported_loss or done):
            self._find(writer.port, flush, done=done)
        due = writer.due
        if reported_loss:
            writer.reported()
            return "" if due else "EIO, though nothing was lost"
        if not done:
            return ""
        if due is LossReport.MUST and fresh:
            return "writes were lost, and the flush succeeded"
        if fresh:
            writer.all_reported()
        self._settle(writer.port, flush.start)
        for write in sorted(flush.covered & self._unflushed, key=lambda each: each.start):
            self._unflushed.discard(write)
            self._overwrite(self._stable, write)
        if fresh:
            for each in self._writers:
                if each.port is writer.port:
                    each.uncovered = {write for write in each.uncovered if write.end > flush.start}
        return ""

    def _find(self, port: object, flush: Flush, *, done: bool) -> None:
        """Let the first flush after a loss that covers an earlier write find the loss.

        Writes since the loss are suspect as well. A flush that fails may have reported an earlier loss.
        """
        if self._found.get(port, 0) == self.losses:
            return
        for writer in self._writers:
            if writer.port is port and writer.uncovered:
                if not writer.due:
                    writer.expect_report(LossReport.MAY)
                if done and any(write.end < flush.start for write in writer.uncovered):
                    self._found[port] = self.losses

    def flush_failed(self) -> None:
        """Record that a FLUSH failed at the disk: every handle with unflushed writes may get EIO for it."""
        for writer in self._writers:
            if writer.uncovered:
                writer.expect_report(LossReport.MAY)

    def power_loss(self) -> None:
        self.losses += 1
        next(self._ticks)
        sure_after = inf if self._flushes else self._last_flush_end
        for writer in self._writers:
            if any(write in self._unflushed and write.end > sure_after for write in writer.uncovered):
                writer.expect_report(LossReport.MUST)
            elif writer.uncovered:
                writer.expect_report(LossReport.MAY)
            writer.uncovered.clear()
        self._unflushed.clear()
        self._now = [set(block) for block in self._stable]

"""The zeros that a truncated opener still has to write, against the model of a regular file over a block device.

The calls come one after another, and at once.
"""

import random
from collections.abc import Generator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshfs import limits
from meshfs.fuse.openers import Ambiguous, Openers
from meshfs.fuse.truncation import BEYOND, ClaimedRanges, Truncation

SIZE = 40
OLD = 0xAA


class Overlay:
    """The model: the file of a truncated opener, and the disk, whose data shows past the file's end."""

    def __init__(self) -> None:
        self.file: bytearray | None = None
        self.disk = bytearray([OLD]) * SIZE

    def truncate(self, size: int) -> None:
        if self.file is None:
            self.file = bytearray(self.disk[:size])
        elif size < len(self.file):
            # The bytes past the end stay as they are on the disk.
            self.disk[: len(self.file)] = self.file
            del self.file[size:]
        else:
            self.file.extend(bytes(size - len(self.file)))

    def write(self, offset: int, data: bytes) -> None:
        stop = offset + len(data)
        if self.file is None:
            self.disk[offset:stop] = data
            return
        if stop > len(self.file):
            self.file.extend(bytes(stop - len(self.file)))
        self.file[offset:stop] = data

    @property
    def seen(self) -> bytes:
        file = self.file or b""
        return bytes(file) + bytes(self.disk[len(file) :])


def zero_gaps(claim: ClaimedRanges, disk: bytearray, most: int = BEYOND) -> None:
    while claim.gaps and most:
        start, stop = claim.gaps[0]
        count = min(stop - start, most)
        disk[start : start + count] = bytes(count)
        claim.zeroed(count)
        most -= count


CALL = st.one_of(
    st.tuples(st.just("truncate"), st.integers(0, SIZE)),
    st.tuples(st.just("write"), st.integers(0, SIZE - 8), st.integers(1, 8)),
)


@settings(max_examples=500)
@given(calls=st.lists(CALL, max_size=12))
def test_the_disk_shows_what_a_file_over_it_would(calls: list[tuple]) -> None:  # type: ignore[type-arg]
    model, disk, state = Overlay(), bytearray([OLD]) * SIZE, Truncation()
    state.truncate(0)
    model.truncate(0)
    for number, (kind, start, *length) in enumerate(calls):
        data = bytes([number + 1]) * (length[0] if length else 0)
        assert not state.waits(BEYOND)
        claim = state.claim(start, start + len(data))
        zero_gaps(claim, disk)
        disk[start : start + len(data)] = data
        state.end(claim, start + len(data))
        if kind == "truncate":
            state.truncate(start)
            model.truncate(start)
        else:
            model.write(start, data)
        assert disk == model.seen


def test_an_opener_that_never_truncated_keeps_what_is_below_its_first_truncation() -> None:
    state = Truncation()
    claim = state.claim(30, 30)
    assert claim.gaps == []
    state.end(claim, 30)
    state.truncate(30)
    assert state.stale == [(30, BEYOND)]


@settings(max_examples=300)
@given(calls=st.lists(st.tuples(CALL, st.integers(0, 50)), max_size=12))
def test_what_failed_is_stale_again(calls: list[tuple]) -> None:  # type: ignore[type-arg]
    """Calls fail after some of their zeros. Where a later call succeeds, everything below it is data or zeros."""
    disk, state = bytearray([OLD]) * SIZE, Truncation()
    state.truncate(0)
    for number, ((kind, start, *length), most) in enumerate(calls):
        data = bytes([number + 1]) * (length[0] if length else 0)
        claim = state.claim(start, start + len(data))
        zero_gaps(claim, disk, most)
        failed = bool(claim.gaps) or most % 5 == 0
        if failed:
            state.end(claim, start)
            continue
        disk[start : start + len(data)] = data
        state.end(claim, start + len(data))
        if kind == "truncate":
            state.truncate(start)
        assert OLD not in disk[: start + len(data)]


# --- at once -----------------------------------------------------------------------------


@dataclass
class World:
    """A disk whose bytes name the write that put them there. 0 is a zero, and OLD is what was there before."""

    random: random.Random
    disk: bytearray = field(default_factory=lambda: bytearray([OLD]) * SIZE)
    state: Truncation = field(default_factory=Truncation)
    #: The bytes that writes have put there that were acknowledged or are in progress.
    data_at: dict[int, int] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    #: The ranges of writes that have begun and not ended.
    under_way: list[range] = field(default_factory=list)

    def old_below(self, stop: int) -> set[int]:
        """Return the bytes that are still old, although no write in progress may put something there."""
        busy = {position for each in self.under_way for position in each}
        return {position for position in range(stop) if self.disk[position] == OLD} - busy - self.failed

    def writer(self, number: int, start: int, length: int, fails: bool) -> Generator[None, None, None]:
        """Do one write in steps, which the caller interleaves with those of other writes."""
        while self.state.waits(start + length):
            yield
        claim, mine = self.state.claim(start, start + length), range(start, start + length)
        self.under_way.append(mine)
        wrote = False
        yield
        while claim.gaps:
            begin, stop = claim.gaps[0]
            count = self.random.randint(1, stop - begin)
            for position in range(begin, begin + count):
                assert position not in self.data_at, f"zeros over the data of write {self.data_at[position]}"
                self.disk[position] = 0
            claim.zeroed(count)
            yield
            if fails and self.random.random() < 0.3:
                break
        else:
            wrote = True
            for position in range(start, start + length):
                self.disk[position] = number
                self.data_at[position] = number
                if self.random.random() < 0.3:
                    yield
        self.under_way.remove(mine)
        if not wrote:
            self.failed.update(mine)
            self.state.end(claim, start)
        else:
            self.state.end(claim, start + length)
            # Below a write that succeeded, no byte is old.
            assert not self.old_below(start + length)


@settings(max_examples=300)
@given(seed=st.integers(0, 1 << 32), fails=st.booleans())
def test_zeros_never_land_over_data_of_calls_at_once(seed: int, fails: bool) -> None:
    dice = random.Random(seed)
    world = World(dice)
    world.state.truncate(0)
    writers = []
    for number in range(1, dice.randint(2, 9)):
        length = dice.randint(1, 6)
        start = dice.randint(0, SIZE - length)
        writers.append(world.writer(number, start, length, fails and dice.random() < 0.4))
    steps = 0
    while writers:
        steps += 1
        assert steps < 10_000, "they wait for each other"
        writer = dice.choice(writers)
        if next(writer, "over") == "over":
            writers.remove(writer)
    # A writer at the end finds no old byte below.
    claim = world.state.claim(SIZE, SIZE)
    zero_gaps(claim, world.disk)
    world.state.end(claim, SIZE)
    assert not world.old_below(SIZE)
    assert all(world.disk[position] == number for position, number in world.data_at.items())


def test_a_failed_write_does_not_owe_what_another_wrote_meanwhile() -> None:
    state = Truncation()
    state.truncate(0)
    failing = state.claim(0, 10)
    other = state.claim(4, 6)
    state.end(other, 6)
    state.end(failing, 0)
    assert state.stale == [(0, 4), (6, BEYOND)]


def test_a_write_waits_for_zeroing_below_its_end_only() -> None:
    state = Truncation()
    state.truncate(0)
    claim = state.claim(20, 24)
    assert claim.gaps == [(0, 20)]
    assert state.waits(1)
    claim.zeroed(10)
    assert not state.waits(10)
    assert state.waits(11)
    claim.zeroed(10)
    assert not state.waits(BEYOND)


# --- whose truncation ---------------------------------------------------------------------


def test_a_truncation_is_that_of_its_threads_latest_open() -> None:
    openers: Openers[str] = Openers()
    openers.opened("first", 7, 100, 0.0)
    openers.opened("second", 7, 100, 1.0)
    openers.opened("another thread's", 7, 101, 2.0)
    openers.opened("another disk's", 8, 100, 3.0)
    assert openers.truncating(7, 100, 4.0) == "second"
    openers.released("second", 7, 100)
    assert openers.truncating(7, 100, 4.0) == "first"
    openers.released("first", 7, 100)
    assert openers.truncating(7, 100, 4.0) is None
    openers.released("first", 7, 100)
    assert openers.truncating(8, 100, 1e6) == "another disk's"


def test_openers_whose_threads_are_not_known_are_not_taken_for_each_other() -> None:
    openers: Openers[str] = Openers()
    openers.opened("old", 7, 0, 0.0)
    openers.opened("first", 7, 0, 100.0)
    assert openers.truncating(7, 0, 100.1) == "first"
    openers.opened("second", 7, 0, 100.2)
    assert openers.truncating(7, 0, 100.3) == "second"
    openers.opened("third", 7, 0, 100.4)
    openers.opened("fourth", 7, 0, 100.5)
    with pytest.raises(Ambiguous):
        openers.truncating(7, 0, 100.6)
    openers.released("third", 7, 0)
    assert openers.truncating(7, 0, 100.6) == "fourth"
    openers.opened("fifth", 7, 0, 101.0)
    openers.opened("sixth", 7, 0, 101.0 + limits.FUSE_TRUNCATE_WITHIN_S + 1)
    assert openers.truncating(7, 0, 101.0 + limits.FUSE_TRUNCATE_WITHIN_S + 1) == "sixth"

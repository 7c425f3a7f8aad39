"""The channel that the next request takes, against a model of links of given rates."""

import heapq
import random
from collections import deque

import pytest

from meshfs.initiator.channel.load import Load, Throughput
from meshfs.initiator.session.balance import SPLIT_MIN_BYTES, Spread

MIB = 1 << 20


class Link:
    """A link that serves in order at a rate. ``load`` is what the spread knows of the link."""

    def __init__(self, rate_bytes_s: float, promised_bytes_s: float = 1.25e9) -> None:
        self.rate = rate_bytes_s
        self.load = Load(0.0, promised_bytes_s)
        self.free_s = 0.0

    def __lt__(self, other: "Link") -> bool:
        return id(self) < id(other)


def run(
    links: list[Link], depth: int, size: int, seconds: float, *, latency_s: float = 2e-4, in_order: bool = False
) -> float:
    """Return the bytes per second of ``depth`` callers that always have a request out, split as the spread says.

    With ``in_order``, there is one reader, who has ``depth`` requests out from the first unanswered one on.
    """
    spread: Spread[Link] = Spread()
    for link in links:
        spread.add(link)
    now, done_bytes, parts_left = 0.0, 0, [0] * depth
    events: list[tuple[float, int, int, Link]] = []
    order = iter(range(10**9))
    ahead: deque[int] = deque(range(depth))

    def start(caller: int) -> None:
        parts = spread.split(size, now)
        if not parts:
            channel = spread.pick(size, now)
            assert channel is not None
            parts = [(channel, size)]
        assert sum(part for _, part in parts) == size
        parts_left[caller] = len(parts)
        for link, part in parts:
            link.load.begin(part, now)
            link.free_s = max(link.free_s, now + latency_s) + part / link.rate
            heapq.heappush(events, (link.free_s, next(order), caller * 2**32 + part, link))

    for caller in range(depth):
        start(caller)
    while events[0][0] < seconds:
        now, _, both, link = heapq.heappop(events)
        caller, part = divmod(both, 2**32)
        link.load.end(part, now)
        done_bytes += part
        parts_left[caller] -= 1
        if in_order:
            while not parts_left[ahead[0]]:
                ahead.rotate(-1)
                start(ahead[-1])
        elif not parts_left[caller]:
            start(caller)
    return done_bytes / now


@pytest.mark.parametrize("depth", [1, 2, 4, 16])
@pytest.mark.parametrize("count", [2, 4])
def test_equal_links_add_up(depth: int, count: int) -> None:
    one = run([Link(25e6)], depth, MIB, 20)
    several = run([Link(25e6) for _ in range(count)], depth, MIB, 20)
    wanted = {2: 1.9, 4: 3.6}[count]
    assert several >= wanted * one


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 32])
def test_a_link_of_a_tenth_never_slows_the_fast_one(depth: int) -> None:
    alone = run([Link(50e6)], depth, MIB, 30)
    both = run([Link(50e6), Link(5e6)], depth, MIB, 30)
    assert both >= alone


@pytest.mark.parametrize(("depth", "size"), [(32, 16384), (32, 65536), (64, 131072), (8, MIB)])
@pytest.mark.parametrize("part", [0.1, 0.2, 0.5])
def test_a_slow_link_never_slows_who_reads_in_order(depth: int, size: int, part: float) -> None:
    """The kernel reads ahead of a program that reads a file, and there the slowest answer delays all others."""
    alone = run([Link(50e6)], depth, size, 10, in_order=True)
    both = run([Link(50e6), Link(50e6 * part)], depth, size, 10, in_order=True)
    assert both >= 0.97 * alone


@pytest.mark.parametrize("depth", [4, 32])
def test_small_requests_use_both(depth: int) -> None:
    alone = run([Link(10e6)], depth, 65536, 10)
    both = run([Link(10e6), Link(10e6)], depth, 65536, 10)
    assert both >= 1.9 * alone


def worked(link: Link, seconds: list[float], now: float = 0.0) -> float:
    """Let a link move 1 MiB in each of the times."""
    for each in seconds:
        link.load.begin(MIB, now)
        now += each
        link.load.end(MIB, now)
    return now


def test_a_link_that_becomes_slow_is_found_out_and_tried_again() -> None:
    spread: Spread[Link] = Spread()
    good, bad = Link(50e6), Link(50e6)
    spread.add(good)
    spread.add(bad)
    worked(good, [0.02] * 8)
    now = worked(bad, [0.02] + [0.5] * 12)
    good.load.sampled_s = now
    assert spread.pick(MIB, now) is good
    good.load.begin(MIB, now)
    assert spread.pick(MIB, now) is good, "a second one is sooner done there, too"
    later = now + 3
    good.load.sampled_s = later
    assert spread.pick(MIB, later) is good, "nothing large is risked"
    assert spread.pick(4096, later) is bad
    assert spread.split(MIB, later) == [(good, MIB - 65536), (bad, 65536)]
    bad.load.begin(65536, later)
    assert spread.split(MIB, later) == [], "one try at a time"


def test_a_bad_first_impression_is_forgotten_soon() -> None:
    """The first answer over a link that just came up may take the time of a retransmission."""
    spread: Spread[Link] = Spread()
    busy, new = Link(1e9), Link(1e9)
    spread.add(busy)
    spread.add(new)
    worked(busy, [0.001] * 20)
    new.load.begin(65536, 0.02)
    new.load.end(65536, 0.32)
    assert new.load.measured
    busy.load.begin(16 * 65536, 1.0)
    assert spread.pick(65536, 1.0) is busy
    assert spread.pick(65536, 2.5) is new, "tried again"
    new.load.begin(65536, 2.5)
    new.load.end(65536, 2.5003)
    assert spread.pick(65536, 2.6) is new, "and found to be fast"


@pytest.mark.parametrize("size", [4096, 65536, 65537, 100_000, SPLIT_MIN_BYTES - 1, SPLIT_MIN_BYTES, MIB])
def test_requests_of_any_size_try_what_was_never_measured(size: int) -> None:
    spread: Spread[Link] = Spread()
    known, new = Link(1e9), Link(1e9)
    spread.add(known)
    spread.add(new)
    worked(known, [0.001])
    assert spread.pick(0, 0.0) is known, "what has no length would not measure it"
    tried = [channel for channel, _ in spread.split(size, 0.0)] or [spread.pick(size, 0.0)]
    assert new in tried


def test_the_drivers_word_is_not_trusted_with_much() -> None:
    spread: Spread[Link] = Spread()
    known, promised = Link(50e6), Link(5e6, promised_bytes_s=1.25e9)
    spread.add(known)
    spread.add(promised)
    worked(known, [0.02])
    assert spread.pick(MIB, 0.0) is known
    assert spread.split(MIB, 0.0) == [(known, MIB - 65536), (promised, 65536)]
    promised.load.begin(65536, 0.0)
    for _ in range(30):
        assert spread.pick(MIB, 0.0) is known
        known.load.begin(MIB, 0.0)


def test_parts_are_whole_pages_and_not_too_small() -> None:
    generator = random.Random(5)
    for _ in range(2000):
        spread: Spread[Link] = Spread()
        for _ in range(generator.randrange(2, 6)):
            link = Link(1, generator.choice((1e6, 5e6, 25e6, 1e8)))
            link.load.measured = generator.random() < 0.9
            link.load.outstanding_bytes = generator.choice((0, 0, 100_000, 3_000_000))
            spread.add(link)
        size = generator.randrange(1, 2 * MIB)
        parts = spread.split(size, 0.0)
        if parts:
            assert size >= SPLIT_MIN_BYTES
            assert sum(part for _, part in parts) == size
            assert all(part >= 65536 - 4096 for _, part in parts)
            assert all(part % 4096 == 0 for _, part in parts[1:])
            assert len({id(link) for link, _ in parts}) == len(parts) > 1


def test_a_fast_path_takes_its_requests_whole() -> None:
    spread: Spread[Link] = Spread()
    for _ in range(2):
        spread.add(Link(1, 2e9))
        worked(spread.channels[-1], [0.0005])
    assert spread.split(MIB, 0.0) == []


def test_one_channel_needs_no_choice() -> None:
    spread: Spread[Link] = Spread()
    assert spread.pick(4096, 0.0) is None
    link = Link(1)
    spread.add(link)
    assert spread.pick(4096, 0.0) is link
    assert spread.split(MIB, 0.0) == []
    spread.remove(Link(1))
    spread.remove(link)
    assert spread.pick(4096, 0.0) is None


def test_throughput_is_a_mean_of_the_last_seconds() -> None:
    throughput = Throughput()
    for tick in range(61):
        throughput.look(tick * 0.25, tick * 1000, tick * 500)
    assert throughput.sent_bytes_s == pytest.approx(4000, rel=0.01)
    assert throughput.received_bytes_s == pytest.approx(2000, rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_equal_channels_that_share_a_processor_come_to_equal_shares(seed: int) -> None:
    """The processor serves each channel in proportion to its load, and therefore each moves what it is given."""
    rng, spread = random.Random(seed), Spread[Link]()
    paths = [Link(1e9), Link(1e9)]
    for path in paths:
        spread.add(path)
    now, size = 0.0, 16 << 10
    waiting = [paths[0]] * 30 + [paths[1]] * 2
    for path in waiting:
        path.load.begin(size, now)
    counts = dict.fromkeys(paths, 0)
    for step in range(6000):
        now += 100e-6
        ended = waiting.pop(rng.randrange(len(waiting)))
        ended.load.end(size, now)
        chosen = spread.pick(size, now)
        assert chosen is not None
        chosen.load.begin(size, now)
        waiting.append(chosen)
        if step >= 3000:
            counts[chosen] += 1
    assert min(counts.values()) > 0.35 * sum(counts.values())

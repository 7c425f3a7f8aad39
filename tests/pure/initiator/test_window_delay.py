"""A channel's window that follows the delay of an ECHO, on a model of an exporter's processor, link and disk."""

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from math import inf
from statistics import quantiles

import pytest

from meshfs import limits
from meshfs.initiator.channel.credits import ChannelCredits, Lane
from meshfs.initiator.channel.delay import DelayControl
from meshfs.model import IoClass
from meshfs.smb.credits import CreditAccount, charge_for

APP, SYSTEM = IoClass.APP, IoClass.SYSTEM
KIB, MIB = 1 << 10, 1 << 20
RTT_S = 100e-6


@dataclass(eq=False)
class Ask:
    lane: Lane
    size: int
    asked_s: float
    charge: int
    wanted: bool = True
    echo: bool = False


@dataclass
class Load:
    """A number of requests of one disk and class. Each is repeated when it is answered."""

    io_class: IoClass
    size: int
    depth: int
    until_s: float = inf
    done: int = 0
    latencies_s: list[float] = field(default_factory=list)


@dataclass
class Exporter:
    """Messages pass its processor in their order, then the disk's queue (by class), then the processor again."""

    request_s: float = 20e-6
    byte_s: float = 0.1e-9
    link_byte_s: float = 0.0
    disk_s: float = 0.0
    disk_at_once: int = 64


class Model:
    """One channel with loads. If ``controlled``, the window follows the delay. Time is in seconds."""

    def __init__(self, exporter: Exporter, loads: list[Load], *, controlled: bool, credits: int = limits.CREDITS_MAX):
        self.exporter, self.loads, self.controlled = exporter, loads, controlled
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = count()
        self.credits = CreditAccount()
        self.credits.grant(credits - 1)
        self.window: ChannelCredits[Ask] = ChannelCredits(self.credits)
        self.control = DelayControl(0.0)
        self.lanes = [self.window.lane(load.io_class) for load in loads]
        self.in_flight: set[Ask] = set()
        self.echo: Ask | None = None
        self.cpu: deque[tuple[float, Callable[[], None]]] = deque()
        self.cpu_busy = False
        self.link_free_s = 0.0
        self.disk_queue: dict[IoClass, deque[Ask]] = {APP: deque(), SYSTEM: deque()}
        self.at_disk = 0
        #: The number of requests in the exporter's scheduler, sampled at each completion.
        self.seen: list[int] = []

    def at(self, time_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.events, (time_s, next(self.numbers), what))

    def run(self, seconds: float) -> None:
        self.probe()
        for load, lane in zip(self.loads, self.lanes, strict=True):
            for _ in range(load.depth):
                self.ask(load, lane)
        self.go_on(seconds)

    def go_on(self, seconds: float) -> None:
        while self.events and self.events[0][0] < seconds:
            self.now, _, what = heapq.heappop(self.events)
            what()

    # the initiator

    def ask(self, load: Load, lane: Lane) -> None:
        ask = Ask(lane, load.size, self.now, charge_for(load.size))
        if self.window.start(lane, ask.charge) is None:
            self.window.wait(lane, ask)
            self.pump()
        else:
            self.send(ask)

    def pump(self) -> None:
        while turn := self.window.next(idle=not self.in_flight):
            self.send(turn[0])

    def send(self, ask: Ask) -> None:
        self.in_flight.add(ask)
        self.at(self.now + RTT_S / 2, lambda: self.work(self.exporter.request_s, lambda: self.queue(ask)))

    def answered(self, ask: Ask) -> None:
        self.in_flight.remove(ask)
        ask.lane.held -= ask.charge
        self.credits.grant(ask.charge)
        if ask.echo:
            self.echo = None
            self.control.answered(self.now - ask.asked_s, self.now, app_used=self.window.app_used())
            in_flight = sum(other.charge for other in self.in_flight)
            self.window.room(APP, self.control.app_credits, in_flight)
            self.window.room(SYSTEM, self.control.system_credits, in_flight)
        if self.window.waiting:
            self.pump()
        if not ask.echo:
            index = self.lanes.index(ask.lane)
            load = self.loads[index]
            load.done += 1
            load.latencies_s.append(self.now - ask.asked_s)
            if self.now < load.until_s:
                self.ask(load, ask.lane)
        if self.controlled and self.echo is None and self.due():
            self.probe()

    def due(self) -> bool:
        loaded = len(self.in_flight) >= self.control.requests_min or self.window.waiting > 0
        return loaded and self.now >= self.control.next_s

    def probe(self) -> None:
        if self.credits.take(1) is None:
            return
        self.control.sent(self.now)
        self.echo = Ask(self.window.control, 0, self.now, 1, echo=True)
        self.window.control.held += 1
        self.send(self.echo)

    # the exporter

    def work(self, seconds: float, then: Callable[[], None]) -> None:
        """A piece of work of the only processor."""
        self.cpu.append((seconds, then))
        if not self.cpu_busy:
            self.cpu_busy = True
            self.at(self.now + self.cpu[0][0], self.worked)

    def worked(self) -> None:
        _, then = self.cpu.popleft()
        then()
        self.cpu_busy = bool(self.cpu)
        if self.cpu:
            self.at(self.now + self.cpu[0][0], self.worked)

    def queue(self, ask: Ask) -> None:
        if ask.echo:
            self.reply(ask)
            return
        self.disk_queue[ask.lane.io_class].append(ask)
        self.to_disk()

    def to_disk(self) -> None:
        while self.at_disk < self.exporter.disk_at_once and any(self.disk_queue.values()):
            ask = (self.disk_queue[APP] or self.disk_queue[SYSTEM]).popleft()
            self.at_disk += 1
            self.at(self.now + self.exporter.disk_s, lambda ask=ask: self.from_disk(ask))  # type: ignore[misc]

    def from_disk(self, ask: Ask) -> None:
        self.seen.append(self.at_disk + sum(map(len, self.disk_queue.values())))
        self.at_disk -= 1
        self.to_disk()
        self.work(self.exporter.request_s + ask.size * self.exporter.byte_s, lambda: self.reply(ask))

    def reply(self, ask: Ask) -> None:
        self.link_free_s = max(self.link_free_s, self.now) + (ask.size + 100) * self.exporter.link_byte_s
        self.at(self.link_free_s + RTT_S / 2, lambda: self.answered(ask))


def rates(exporter: Exporter, seconds: float, *loads: tuple[IoClass, int, int], credits: int = 512) -> list[float]:
    """Return what each load gets with the control, as a part of what it gets without."""
    found = []
    for controlled in (True, False):
        model = Model(exporter, [Load(*load) for load in loads], controlled=controlled, credits=credits)
        model.run(seconds)
        found.append([load.done for load in model.loads])
    return [one / other for one, other in zip(*found, strict=True)]


SLOW_PROCESSOR = Exporter(request_s=60e-6, byte_s=0.5e-9)
SLOW_LINK = Exporter(link_byte_s=8e-9)
SLOWER_LINK = Exporter(link_byte_s=40e-9)
SLOW_DISK = Exporter(disk_s=5e-3, disk_at_once=10)
SERIAL_DISK = Exporter(disk_s=2e-3, disk_at_once=1)


@pytest.mark.parametrize("io_class", [APP, SYSTEM])
@pytest.mark.parametrize(
    "exporter",
    [Exporter(), SLOW_PROCESSOR, SLOW_LINK, SLOWER_LINK, SLOW_DISK, SERIAL_DISK],
    ids=["fast", "slow processor", "1 Gbit/s", "200 Mbit/s", "slow disk", "serial disk"],
)
@pytest.mark.parametrize(("size", "depth"), [(4 * KIB, 16), (4 * KIB, 256), (64 * KIB, 32), (MIB, 16)])
def test_a_lone_lane_loses_nothing(exporter: Exporter, io_class: IoClass, size: int, depth: int) -> None:
    (rate,) = rates(exporter, 0.8, (io_class, size, depth))
    assert rate >= 0.97


@pytest.mark.parametrize("exporter", [SLOW_DISK, SERIAL_DISK], ids=["slow disk", "serial disk"])
def test_a_slow_disk_leaves_its_backlog_where_the_scheduler_sees_it(exporter: Exporter) -> None:
    model = Model(exporter, [Load(APP, 4 * KIB, 64), Load(SYSTEM, 4 * KIB, 64)], controlled=True)
    model.run(1.5)
    assert min(model.seen[200:]) >= 120
    assert model.control.app_credits == model.control.system_credits == limits.WINDOW_ROOM_MAX_CREDITS


def p99_ms(exporter: Exporter, flood: Load, *, controlled: bool) -> tuple[float, float]:
    """Return the delay of a reader of depth 1 beside a flood of the same mount, and the flood's rate.

    Both are measured after the window had time to follow.
    """
    reader = Load(APP, 4 * KIB, 1)
    model = Model(exporter, [reader, flood], controlled=controlled)
    model.run(2.0)
    return quantiles(reader.latencies_s[len(reader.latencies_s) // 3 :], n=100)[-1] * 1e3, flood.done


@pytest.mark.parametrize("exporter", [SLOW_PROCESSOR, SLOW_LINK], ids=["slow processor", "slow link"])
def test_a_reader_waits_less_for_a_system_flood_of_its_mount(exporter: Exporter) -> None:
    before_ms, flood_before = p99_ms(exporter, Load(SYSTEM, 64 * KIB, 64), controlled=False)
    after_ms, flood_after = p99_ms(exporter, Load(SYSTEM, 64 * KIB, 64), controlled=True)
    assert after_ms < 0.35 * before_ms
    # The exporter stays busy with what the reader leaves.
    assert flood_after > 0.8 * flood_before


def test_a_reader_waits_less_for_a_large_flood_of_its_class() -> None:
    before_ms, flood_before = p99_ms(SLOW_LINK, Load(APP, MIB, 64), controlled=False)
    after_ms, flood_after = p99_ms(SLOW_LINK, Load(APP, MIB, 64), controlled=True)
    assert after_ms < 0.35 * before_ms
    assert flood_after > 0.97 * flood_before


def test_large_system_requests_get_their_room_back_when_the_application_is_gone() -> None:
    """Beside the application, one system request was in flight, and one alone would be too few to measure."""
    done, exporter = [], Exporter(link_byte_s=8e-9, disk_s=10e-3)
    for controlled in (True, False):
        flood = Load(SYSTEM, MIB, 3)
        model = Model(exporter, [flood, Load(APP, 4 * KIB, 1, until_s=1.0)], controlled=controlled)
        model.run(1.0)
        beside = flood.done
        model.go_on(3.0)
        done.append(flood.done - beside)
    assert done[0] >= 0.9 * done[1]
    assert done[1] > 100


def test_the_room_comes_back_when_the_queue_is_gone() -> None:
    control, now = DelayControl(0.0), 0.0
    control.answered(0.0002, now, app_used=True)
    for _ in range(20):
        now += limits.WINDOW_ECHO_EVERY_S
        control.answered(0.050, now, app_used=True)
    assert control.app_credits == limits.WINDOW_ROOM_APP_MIN_CREDITS
    assert control.system_credits == limits.WINDOW_ROOM_SYSTEM_MIN_CREDITS
    for _ in range(30):
        now += limits.WINDOW_ECHO_EVERY_S
        control.answered(0.0003, now, app_used=False)
    assert control.app_credits == control.system_credits == limits.WINDOW_ROOM_MAX_CREDITS


def test_system_room_shrinks_before_that_of_applications() -> None:
    control, now = DelayControl(0.0), 0.0
    control.answered(0.0002, now, app_used=True)
    for _ in range(20):
        now += limits.WINDOW_ECHO_EVERY_S
        control.answered(0.002, now, app_used=True)
    assert control.system_credits == limits.WINDOW_ROOM_SYSTEM_MIN_CREDITS
    assert control.app_credits == limits.WINDOW_ROOM_MAX_CREDITS


def test_a_path_that_became_longer_is_no_queue_for_ever() -> None:
    control, now = DelayControl(0.0), 0.0
    control.answered(0.0002, now, app_used=False)
    while now < 3 * limits.WINDOW_DELAY_LEAST_S:
        now += limits.WINDOW_ECHO_EVERY_S
        control.answered(0.030, now, app_used=False)
    assert control.app_credits == limits.WINDOW_ROOM_MAX_CREDITS


def test_any_delay_leaves_every_lane_a_request_of_the_largest_size() -> None:
    credits = CreditAccount()
    credits.grant(limits.CREDITS_MAX - 1)
    window: ChannelCredits[Ask] = ChannelCredits(credits)
    for io_class in IoClass:
        window.room(io_class, limits.WINDOW_ROOM_SYSTEM_MIN_CREDITS, 0)
    for io_class in (SYSTEM, APP):
        lane = window.lane(io_class)
        ask = Ask(lane, 8 * MIB, 0.0, charge_for(8 * MIB))
        assert window.start(lane, ask.charge) is None
        window.wait(lane, ask)
        turn = window.next(idle=False)
        assert turn is not None
        assert turn[0] is ask


def test_a_peer_that_grants_few_credits_is_not_held_to_one_request() -> None:
    (rate,) = rates(SLOW_PROCESSOR, 1.0, (APP, 4 * KIB, 64), credits=130)
    assert rate >= 0.97


def test_credits_are_kept_whatever_comes() -> None:
    """At random, credits in flight and available ones always add up to all credits, and everybody makes progress."""
    rng = random.Random(7)
    for _ in range(10):
        loads = [
            Load(rng.choice((APP, SYSTEM)), rng.choice((4 * KIB, 64 * KIB, MIB)), rng.randrange(1, 80))
            for _ in range(rng.randrange(1, 5))
        ]
        exporter = Exporter(
            rng.uniform(1e-5, 2e-4),
            rng.uniform(0, 1e-9),
            rng.uniform(0, 2e-8),
            rng.uniform(0, 5e-3),
            rng.randrange(1, 32),
        )
        model = Model(exporter, loads, controlled=True)
        model.run(0.7)
        held = sum(ask.charge for ask in model.in_flight)
        assert model.credits.available + held == limits.CREDITS_MAX
        assert held == sum(lane.held for lane in model.lanes) + model.window.control.held
        assert all(load.done for load in loads)

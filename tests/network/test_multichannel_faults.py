"""Links die and come back under load: no error, no wrong byte, no long stall, and all links are used again.

A link dies in three ways: an administrator takes an interface down, at our end or at the exporter's; the cable is
pulled, at either end; or the link stays up and drops everything.
"""

import errno
import mmap
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from meshlab.cluster.network import Nic
from support.commands import until
from support.stamps import BLOCK_BYTES, StampedLoad
from support.two_paths import STALL_MAX_S, TwoPaths, fio_load, two_paths

pytestmark = [pytest.mark.mounted, pytest.mark.network]

ROUNDS = 10
AWAY_S = 10.0
FLAPPING_S = 8.0
# The last 8 MiB of the disk, which are 64 blocks for each of the loads with stamps.
STAMPED_BLOCK = 56 * 256

Act = Callable[[], None]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[TwoPaths]:
    with two_paths(tmp_path) as pair:
        yield pair


@contextmanager
def stamped(pair: TwoPaths, count: int = 3) -> Iterator[list[StampedLoad]]:
    """Run writers that know what every block must hold. At the end, all blocks are read once more."""
    firsts = [STAMPED_BLOCK + 64 * number for number in range(count)]
    loads = [StampedLoad(pair.disk, range(first, first + 64), first) for first in firsts]
    for load in loads:
        load.start()
    yield loads
    for load in loads:
        load.finish(40)


def slowest_s(loads: list[StampedLoad]) -> float:
    return max(load.take_slowest() for load in loads)


def die_and_return(pair: TwoPaths, loads: list[StampedLoad], lan: int, how: str, fault: Act, repair: Act) -> None:
    """Let one link fail, and repair it a moment after everything goes by the other link."""
    slowest_s(loads)
    fault()
    pair.await_paths(lambda: pair.path(lan)["state"] != "connected", f"{how}: noticed", 5)
    pair.await_more_use(1 - lan)
    before = pair.path(lan)
    repair()
    reuse_s = pair.await_use(lan, before)
    stall_s = slowest_s(loads)
    print(f"{how}: stall {stall_s:.2f} s, used again after {reuse_s:.2f} s")
    assert stall_s < STALL_MAX_S, how


def test_links_taken_down_in_random_order_cost_nothing_but_a_moment(pair: TwoPaths) -> None:
    """Each way is tried once, and two of them again. fio verifies directly and through the page cache."""
    order = random.Random(4)
    ways = [(lan, end, how) for lan in (0, 1) for end in ("ours", "theirs") for how in ("down", "unplug")]
    rounds = ways + order.sample(ways, ROUNDS - len(ways))
    order.shuffle(rounds)
    with ExitStack() as stack:
        jobs = [stack.enter_context(fio_load(pair, direct=direct)) for direct in (True, False)]
        loads = stack.enter_context(stamped(pair))
        for lan in (0, 1):
            pair.await_more_use(lan)
        for lan, end, how in rounds:
            nic = (pair.ours if end == "ours" else pair.theirs)[lan]
            fault, repair = (nic.down, nic.up) if how == "down" else (nic.unplug, nic.plug)
            die_and_return(pair, loads, lan, f"{end} {nic.name} {how}", fault, repair)
            assert all(job.running for job in jobs)
            time.sleep(order.uniform(0, 0.5))
        results = [job.finish() for job in jobs]
    print(results)
    assert max(result.slowest_s for result in results) < STALL_MAX_S


def test_a_link_that_drops_everything_is_found_and_used_again(pair: TwoPaths) -> None:
    """The link's carrier stays. Both directions, or one of them, drop everything."""
    ways = [(pair.theirs[1], True, True), (pair.ours[0], True, False), (pair.theirs[0], True, False)]
    with fio_load(pair) as job:
        with stamped(pair) as loads:
            for nic, to_host, from_host in ways:
                how = f"{nic.host.name} {nic.name} drops {'all' if from_host else 'what it is sent'}"
                fault = partial(nic.blackhole, to_host=to_host, from_host=from_host)
                die_and_return(pair, loads, nic.lan, how, fault, nic.heal)
                assert nic.has_carrier()
        result = job.finish()
    print(result)
    assert result.slowest_s < STALL_MAX_S


def test_faults_at_once_and_over_one_another_cost_no_byte(tmp_path: Path, soak_s: float) -> None:
    """Two links fail before one is back, also both at once, and the exporter is killed. No step waits for another."""
    with two_paths(tmp_path, io_timeout_s=120) as pair:
        _fail_at_random(pair, soak_s)


def _fail_at_random(pair: TwoPaths, soak_s: float) -> None:
    seed = random.randrange(1 << 32) if soak_s else 7
    order = random.Random(seed)
    nics = [*pair.ours, *pair.theirs]
    broken: dict[Nic, Act] = {}
    with ExitStack() as stack:
        jobs = [stack.enter_context(fio_load(pair, direct=direct)) for direct in (True, False)]
        loads = stack.enter_context(stamped(pair))
        pair.await_more_use(0)
        end = time.monotonic() + max(soak_s, FLAPPING_S)
        while time.monotonic() < end:
            nic = order.choice(list(broken) if len(broken) == 2 else nics)
            if nic in broken:
                broken.pop(nic)()
            else:
                half = partial(nic.blackhole, from_host=False)
                faults = [(nic.down, nic.up), (nic.unplug, nic.plug), (nic.blackhole, nic.heal), (half, nic.heal)]
                fault, broken[nic] = order.choice(faults)
                fault()
            if order.random() < 0.05:
                pair.cluster.stop_exporter("n1", signal.SIGKILL)
                pair.cluster.launch_exporter("n1")
            time.sleep(order.choice((0.0, 0.1, 0.5, 2.0)))
            assert all(job.running for job in jobs), f"seed {seed}"
            assert not any(load.errors for load in loads), (seed, [load.errors for load in loads])
        before = [pair.path(lan) for lan in (0, 1)]
        for repair in broken.values():
            repair()
        reuses_s = [pair.await_use(lan, before[lan]) for lan in (0, 1)]
        print(f"slowest {slowest_s(loads):.2f} s, used again after {reuses_s} s")
        for job in jobs:
            job.finish()


def test_without_any_link_io_waits_and_completes(pair: TwoPaths) -> None:
    """There is no link for 10 of the 30 s that I/O may take. meshctl shows that I/O waits, and for what."""
    with ExitStack() as stack:
        jobs = [stack.enter_context(fio_load(pair, direct=direct)) for direct in (True, False)]
        loads = stack.enter_context(stamped(pair))
        pair.await_more_use(0)
        for nic in pair.ours:
            nic.down()
        start = time.monotonic()
        pair.await_paths(lambda: pair.exporter()["state"] == "down" and pair.exporter()["waiting"], "it is down")
        exporter = pair.exporter()
        assert {path["why"] for path in exporter["channels"]} == {"interface eth0 is down", "interface eth1 is down"}
        assert {call["disk"] for call in exporter["waiting"]} == {"disk0"}
        assert all(15 < call["left_s"] < 30 for call in exporter["waiting"]), exporter["waiting"]
        time.sleep(max(0.0, start + AWAY_S - time.monotonic()))
        assert all(job.running for job in jobs)
        before = [pair.path(lan) for lan in (0, 1)]
        for nic in pair.ours:
            nic.up()
        reuses_s = [pair.await_use(lan, before[lan]) for lan in (0, 1)]
        stall_s = slowest_s(loads)
        print(f"stall {stall_s:.2f} s, used again after {reuses_s} s")
        assert stall_s < AWAY_S + STALL_MAX_S
        assert pair.exporter()["waiting"] == []
        for job in jobs:
            job.finish()


def test_io_without_any_link_ends_at_its_bound_and_all_is_well_again(tmp_path: Path) -> None:
    bound_s = 4
    with two_paths(tmp_path, io_timeout_s=bound_s) as pair:
        fd = os.open(pair.disk, os.O_RDWR | os.O_DIRECT)
        block = mmap.mmap(-1, BLOCK_BYTES)
        block[:] = b"1" * BLOCK_BYTES
        assert os.pwritev(fd, [block], 0) == BLOCK_BYTES
        for nic in pair.theirs:
            nic.unplug()
        calls = {
            "read": lambda: os.preadv(fd, [mmap.mmap(-1, BLOCK_BYTES)], BLOCK_BYTES),
            "write": lambda: os.pwritev(fd, [block], 2 * BLOCK_BYTES),
            "fsync": lambda: os.fsync(fd),
        }
        # The exporter is away for the bound once. The calls after that end at once, because it is still away.
        first, later = (bound_s - 0.3, bound_s + 1), (0, 1)
        # The kernel lets an fsync wait for a write of the same file, so the two are not called at the same time.
        for names, (least_s, most_s) in ((("read", "fsync"), first), (("read", "write"), later)):
            with ThreadPoolExecutor() as threads:
                ends = {name: threads.submit(outcome, calls[name]) for name in names}
            for name, end in ends.items():
                number, took_s = end.result()
                print(f"{name}: {took_s:.2f} s")
                assert number == errno.ETIMEDOUT, name
                assert least_s <= took_s <= most_s, name
        exporter = pair.exporter()
        assert (exporter["state"], exporter["waiting"]) == ("down", [])
        assert {path["state"] for path in exporter["channels"]} <= {"down", "connecting"}
        assert all(path["selected"] and path["failures"] for path in exporter["channels"]), exporter
        for nic in pair.theirs:
            nic.plug()
        until(lambda: outcome(calls["read"])[0] == 0, "it answers again")
        block[:] = b"2" * BLOCK_BYTES
        assert [outcome(calls[name])[0] for name in ("write", "read", "fsync")] == [0, 0, 0]
        assert pair.image.read_bytes()[: 3 * BLOCK_BYTES] == b"".join(
            digit * BLOCK_BYTES for digit in (b"1", b"\0", b"2")
        )
        pair.await_both()
        os.close(fd)


def outcome(call: Callable[[], object]) -> tuple[int, float]:
    """Return the errno of a call (0 if it succeeded), and how long it took."""
    start = time.monotonic()
    try:
        call()
    except OSError as error:
        return error.errno or -1, time.monotonic() - start
    return 0, time.monotonic() - start

"""The window of a channel: thresholds, order, the system's floor, and the room that hung disks leave."""

import random

import pytest

from meshfs import limits
from meshfs.initiator.channel.credits import ChannelCredits, Lane
from meshfs.model import IoClass
from support.window_peer import APP, MIB_CHARGE, SYSTEM, Ask, Peer, churn

# --- thresholds -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("io_class", "lanes", "held", "free"),
    [
        (APP, 1, 357, 153),
        (APP, 2, 198, 113),
        (APP, 4, 105, 90),
        (APP, 8, 54, 77),
        (APP, 25, 17, 68),
        (SYSTEM, 1, 149, 362),
        (SYSTEM, 2, 111, 287),
        (SYSTEM, 4, 74, 213),
        (SYSTEM, 8, 44, 153),
        (SYSTEM, 25, 16, 97),
    ],
)
def test_where_lanes_that_take_what_they_can_come_to_rest(io_class: IoClass, lanes: int, held: int, free: int) -> None:
    """The numbers are the table in credits.py's docstring."""
    peer, rng = Peer(), random.Random(lanes)
    all_lanes = [Lane(io_class) for _ in range(lanes)]
    for lane in all_lanes:
        peer.fill(lane, 1)
    churn(peer, rng, 2500)
    mean = sum(lane.held for lane in all_lanes) / lanes
    assert mean == pytest.approx(held, abs=1.5)
    # What is lost by rounding at each of them is free as well.
    assert free - 1 <= peer.credits.available - 1 <= free + lanes
    assert max(lane.held for lane in all_lanes) - min(lane.held for lane in all_lanes) <= limits.WINDOW_APP_SHARE + 1


@pytest.mark.parametrize(("io_class", "count"), [(APP, 22), (SYSTEM, 9)])
def test_what_one_busy_disk_gets(io_class: IoClass, count: int) -> None:
    peer = Peer()
    peer.fill(Lane(io_class), MIB_CHARGE, 32)
    assert len(peer.in_flight) == count


def test_a_system_flood_leaves_an_application_its_room() -> None:
    peer = Peer()
    peer.fill(Lane(SYSTEM), MIB_CHARGE, 32)
    app = Lane(APP)
    peer.fill(app, MIB_CHARGE, 32)
    assert app.held == 15 * MIB_CHARGE
    assert peer.ask(Lane(APP), 1) in peer.in_flight


def test_hung_disks_leave_room_for_another() -> None:
    """One disk after the other takes what it may, and never answers."""
    peer = Peer()
    for _ in range(6):
        peer.fill(Lane(APP), MIB_CHARGE, 32)
    for other in (Lane(APP), Lane(SYSTEM)):
        (ask,) = peer.fill(other, 4, 1)
        assert ask in peer.in_flight
        peer.answer(ask)
    ask = peer.ask(Lane(APP), MIB_CHARGE)
    assert ask in peer.in_flight
    peer.answer(ask)


def test_small_requests_of_a_hog_give_way_too() -> None:
    peer = Peer()
    peer.fill(Lane(APP), 1, 512)
    assert peer.ask(Lane(APP), MIB_CHARGE) in peer.in_flight


def test_a_lane_waiting_for_its_threshold_is_in_nobodys_way() -> None:
    peer = Peer()
    peer.fill(Lane(SYSTEM), MIB_CHARGE, 100)
    waiting = peer.window.waiting
    app = Lane(APP)
    assert not peer.window.short
    assert peer.window.start(app, 1) is not None
    assert peer.window.waiting == waiting


# --- order ----------------------------------------------------------------------------------


def test_within_a_lane_first_come_first_served() -> None:
    peer, lane = Peer(64), Lane(APP)
    asks = [peer.ask(lane, charge) for charge in (8, 1, 16, 2, 1, 1)]
    for ask in asks:
        assert ask is peer.in_flight[0]
        peer.answer(ask)


def test_requests_of_no_disk_go_first() -> None:
    peer = Peer(40)
    first = peer.ask(peer.window.control, 38)
    app = [peer.ask(Lane(APP), 30) for _ in range(2)]
    control = peer.ask(peer.window.control, 20)
    peer.answer(first)
    assert peer.granted[-1] is control
    assert not any(ask in peer.in_flight for ask in app)


def test_applications_first_but_a_fifth_is_the_systems() -> None:
    """Many lanes of both classes wait. They share 4 to 1 in credits, whatever their sizes."""
    peer, rng = Peer(), random.Random(1)
    for index in range(30):
        peer.fill(Lane(APP), MIB_CHARGE, 20)
        peer.fill(Lane(SYSTEM), (4, MIB_CHARGE)[index % 2], 20)
    peer.granted.clear()
    churn(peer, rng, 4000)
    shares = {
        io_class: sum(ask.charge for ask in peer.granted if ask.lane.io_class is io_class) for io_class in IoClass
    }
    assert shares[SYSTEM] / (shares[APP] + shares[SYSTEM]) == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("charge", [1, MIB_CHARGE, 128])
def test_the_system_makes_progress_whatever_applications_do(charge: int) -> None:
    """Between two grants to the system, applications get at most their turns, one request, and one pool of credits."""
    peer, rng, system = Peer(), random.Random(2), Lane(SYSTEM)
    for _ in range(25):
        peer.fill(Lane(APP), 1, 40)
    ask = peer.ask(system, charge)
    since = 0
    for _ in range(2000):
        done = ask if ask in peer.in_flight else rng.choice(peer.in_flight)
        before = len(peer.granted)
        peer.answer(done)
        if done is ask:
            since, ask = 0, peer.ask(system, charge)
        else:
            peer.ask(done.lane, 1)
        since += sum(granted.charge for granted in peer.granted[before:] if granted.lane is not system)
        if ask in peer.in_flight:
            since = 0
        assert since <= limits.WINDOW_APP_TURNS * charge + 2 * peer.total
    assert sum(granted.lane is system for granted in peer.granted) > 3


def test_lanes_of_a_class_share_by_credits_not_by_requests() -> None:
    peer = Peer()
    first = peer.ask(peer.window.control, limits.CREDITS_MAX - 1)
    small, large = Lane(APP), Lane(APP)
    peer.fill(large, MIB_CHARGE, 20)
    peer.fill(small, 2, 200)
    peer.granted.clear()
    peer.answer(first)
    got = {small: 0, large: 0}
    for ask in peer.granted:
        got[ask.lane] += ask.charge
        # Start tags differ by at most the largest charge (the bound of the paper, for one server).
        assert abs(got[small] - got[large]) <= MIB_CHARGE
    assert min(got.values()) > 150


def test_a_class_saves_nothing_up_while_the_other_wants_nothing() -> None:
    peer, app, system = Peer(), Lane(APP), Lane(SYSTEM)
    for ask in peer.fill(app, 1, 600):
        if ask in peer.in_flight:
            peer.answer(ask)
    assert peer.window._balance == 0
    for ask in peer.fill(system, 1, 600):
        if ask in peer.in_flight:
            peer.answer(ask)
    assert peer.window._balance == 0


# --- waiting for credits -----------------------------------------------------------------------


def test_who_waits_for_credits_is_not_overtaken_by_smaller_ones() -> None:
    peer = Peer(100)
    busy = [peer.ask(Lane(APP), 9) for _ in range(11)]
    large = peer.ask(Lane(APP), 64)
    assert peer.window.short
    small = peer.ask(Lane(APP), 1)
    assert small not in peer.in_flight
    for ask in busy[:8]:
        assert large not in peer.in_flight
        assert small not in peer.in_flight
        peer.answer(ask)
    assert large in peer.in_flight
    assert small in peer.in_flight
    assert not peer.window.short


def test_a_system_request_that_lacks_credits_stops_no_application_before_its_turn() -> None:
    peer = Peer(100)
    hung = [peer.ask(Lane(APP), 15) for _ in range(6)]
    system = peer.ask(Lane(SYSTEM), 40)
    assert peer.window.short
    app = peer.ask(Lane(APP), 2)
    assert app in peer.in_flight
    # That was the applications' turn. Now nobody may overtake the request.
    assert peer.ask(Lane(APP), 2) not in peer.in_flight
    for ask in hung[:3]:
        peer.answer(ask)
    assert system in peer.in_flight


def test_what_cannot_come_together_is_passed_over() -> None:
    """The credits that the request lacks are held by requests that never end."""
    peer = Peer(100)
    hung = [peer.ask(Lane(APP), 15) for _ in range(6)]
    large = peer.ask(peer.window.control, 64)
    live = Lane(APP)
    ask = peer.ask(live, 1)
    assert ask not in peer.in_flight
    peer.window.tick()
    peer.pump()
    assert ask not in peer.in_flight
    peer.window.tick()
    peer.pump()
    assert ask in peer.in_flight
    for _ in range(50):
        peer.answer(ask)
        ask = peer.ask(live, 1)
        assert ask in peer.in_flight
    peer.answer(ask)
    # One of them is answered after all, and now waiting makes sense again.
    peer.answer(hung[0])
    assert peer.ask(live, 1) not in peer.in_flight
    for ask in hung[1:5]:
        peer.answer(ask)
    assert large in peer.in_flight


def test_credits_that_keep_coming_are_waited_for() -> None:
    peer = Peer(100)
    busy = [peer.ask(Lane(APP), 3) for _ in range(33)]
    peer.ask(peer.window.control, 64)
    small = peer.ask(Lane(APP), 1)
    for ask in busy[:20]:
        peer.window.tick()
        peer.answer(ask)
        assert small not in peer.in_flight


def test_the_credit_for_probes_goes_only_when_nothing_is_in_flight() -> None:
    peer, lane = Peer(1), Lane(APP)
    first, second = peer.ask(lane, 1), peer.ask(lane, 1)
    assert peer.in_flight == [first]
    peer.answer(first)
    assert peer.in_flight == [second]
    two = Peer(2)
    two.ask(lane := Lane(APP), 1)
    two.ask(Lane(APP), 1)
    two.ask(two.window.control, 1)
    assert two.credits.available == 1


# --- who leaves -----------------------------------------------------------------------------


def test_who_left_is_not_started_and_holds_nothing() -> None:
    peer, lane = Peer(), Lane(APP)
    asks = peer.fill(lane, MIB_CHARGE, 32)
    waiting = [ask for ask in asks if ask not in peer.in_flight]
    for ask in waiting[:-1]:
        ask.wanted = False
    for ask in asks[:2]:
        peer.answer(ask)
    assert [ask for ask in waiting if ask in peer.in_flight] == waiting[-1:]
    assert not peer.window.waiting


def test_a_hung_lane_forgets_who_left_at_the_next_tick() -> None:
    peer, lane = Peer(), Lane(APP)
    for _ in range(20):
        for ask in peer.fill(lane, MIB_CHARGE, 32):
            ask.wanted = False
        peer.window.tick()
        assert peer.window.waiting == 0
        assert not lane.waiting
    assert peer.window.waiters() == []


def test_who_left_is_told_of_once() -> None:
    left: list[Ask] = []
    peer = Peer(200)
    peer.window = ChannelCredits(peer.credits, left.append)
    app, system = Lane(APP), Lane(SYSTEM)
    asks = [*peer.fill(app, MIB_CHARGE, 20), *peer.fill(system, MIB_CHARGE, 20)]
    gone = [ask for ask in asks if ask not in peer.in_flight][::2]
    for ask in gone:
        ask.wanted = False
    peer.window.tick()
    assert len(left) == len(gone)
    assert set(left) == set(gone)
    late = next(ask for ask in asks if ask not in peer.in_flight and ask.wanted)
    late.wanted = False
    while peer.in_flight:
        peer.answer(peer.in_flight[0])
    assert left.count(late) == 1
    assert len(left) == len(gone) + 1
    assert sorted(map(id, left + peer.granted)) == sorted(map(id, {*left, *peer.granted}))


def test_clear_forgets_all() -> None:
    peer = Peer(100)
    for lane in (Lane(APP), Lane(SYSTEM), peer.window.control):
        peer.fill(lane, MIB_CHARGE, 10)
    waiters = peer.window.waiters()
    assert len(waiters) == peer.window.waiting > 10
    peer.window.clear()
    assert (peer.window.waiting, peer.window.waiters()) == (0, [])
    assert not peer.window.short


# --- anything -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_at_random_nothing_leaks_and_everything_ends(seed: int) -> None:
    """With any mix of sizes, classes, leaving and answering, all that was wanted is done at the end."""
    rng = random.Random(seed)
    peer = Peer(rng.choice((20, 70, 200, 512)))
    lanes = [Lane(rng.choice((APP, SYSTEM))) for _ in range(rng.randrange(1, 12))]
    lanes.append(peer.window.control)
    asked: list[Ask] = []
    for _ in range(600):
        choice = rng.random()
        if choice < 0.5:
            asked.append(peer.ask(rng.choice(lanes), rng.choice((1, 1, 4, MIB_CHARGE))))
        elif choice < 0.9 and peer.in_flight:
            peer.answer(rng.choice(peer.in_flight))
        elif choice < 0.95 and asked:
            rng.choice(asked).wanted = False
        else:
            peer.window.tick()
            peer.pump()
    done = set(peer.in_flight)
    while peer.in_flight:
        peer.answer(rng.choice(peer.in_flight))
        done.update(peer.in_flight)
    assert peer.window.waiting == 0
    assert peer.credits.available == peer.total
    assert all(lane.held == 0 for lane in lanes)


def test_applications_use_a_channel_also_with_requests_that_only_wait() -> None:
    """Zeroings and flushes only wait, because they are no part of the hot path."""
    peer = Peer()
    assert not peer.window.app_used()
    for io_class in (SYSTEM, APP):
        lane = peer.window.lane(io_class)
        peer.window.wait(lane, Ask(lane, 1))
        assert peer.window.app_used() == (io_class is APP)
        assert not peer.window.app_used()
    peer.window.wait(peer.window.control, Ask(peer.window.control, 1))
    assert not peer.window.app_used()

"""Which connections may stay: groups by address, bounds, and the connection that ends for a newcomer."""

import random

import pytest

from meshfs import limits
from meshfs.exporter.rules.admission import LOCAL, Admission, AdmissionStage, Arrival

NODE, OTHER_NODE, NODE_6 = "10.0.0.1", "10.0.0.2", "2001:db8::1"
STRANGER = "192.0.2.7"


@pytest.fixture
def admission() -> Admission:
    return Admission([NODE, OTHER_NODE, NODE_6])


def fill(
    admission: Admission, address: str, count: int, stage: AdmissionStage = AdmissionStage.SILENT
) -> list[Arrival]:
    """Add ``count`` connections that fit."""
    arrivals = []
    for _ in range(count):
        arrival, victim = admission.arrive(address)
        assert victim is None
        assert admission.advance(arrival, stage) is None
        arrivals.append(arrival)
    return arrivals


def knock(admission: Admission, address: str) -> tuple[Arrival, Arrival | None]:
    """Add a newcomer, and return it with the connection that ends for it."""
    arrival, victim = admission.arrive(address)
    if victim is not None:
        admission.leave(victim)
    return arrival, victim


BOUNDS = [
    (STRANGER, limits.CONNECTIONS_STRANGER_MAX),
    (NODE, limits.CONNECTIONS_NODE_MAX),
    (LOCAL, limits.CONNECTIONS_LOCAL_MAX),
]


@pytest.mark.parametrize(("address", "bound"), BOUNDS)
def test_past_its_bound_an_address_loses_its_oldest_silent_connection(
    admission: Admission, address: str, bound: int
) -> None:
    waiting = fill(admission, address, bound)
    for oldest in waiting:
        assert knock(admission, address)[1] is oldest
    assert admission.waiting == bound


@pytest.mark.parametrize(("address", "bound"), BOUNDS)
def test_newcomers_push_nobody_out_who_came_further(admission: Admission, address: str, bound: int) -> None:
    further = [
        *fill(admission, address, bound, AdmissionStage.NEGOTIATED),
        *fill(admission, address, bound, AdmissionStage.LOGGING_IN),
    ]
    ended = [knock(admission, address)[1] for _ in range(10 * bound)]
    assert not set(ended) & set(further)


@pytest.mark.parametrize(("address", "bound"), BOUNDS)
def test_those_that_came_far_and_stay_there_lock_nobody_out(admission: Admission, address: str, bound: int) -> None:
    """A newcomer passes each stage while as many others arrive in it as there is room for."""
    for stage in (AdmissionStage.LOGGING_IN, AdmissionStage.NEGOTIATED, AdmissionStage.SILENT):
        fill(admission, address, bound, stage)
    honest, _ = knock(admission, address)
    for stage in (AdmissionStage.NEGOTIATED, AdmissionStage.LOGGING_IN, AdmissionStage.LOGGED_IN):
        others = [knock(admission, address)[0] for _ in range(bound - 1)]
        for other in others:
            if (victim := admission.advance(other, honest.stage)) is not None:
                assert victim is not honest
                admission.leave(victim)
        if (victim := admission.advance(honest, stage)) is not None:
            assert victim is not honest
            admission.leave(victim)
    assert honest.stage is AdmissionStage.LOGGED_IN


def test_a_connection_that_is_logged_in_is_never_ended(admission: Admission) -> None:
    inside = []
    for address in (NODE, LOCAL, STRANGER):
        (arrival,) = fill(admission, address, 1)
        admission.advance(arrival, AdmissionStage.LOGGED_IN)
        inside.append(arrival)
    ended = [knock(admission, address)[1] for address in (NODE, LOCAL, STRANGER) for _ in range(500)]
    assert not set(ended) & set(inside)


def test_strangers_take_nothing_from_nodes_nor_from_the_unix_socket(admission: Admission) -> None:
    nodes = [*fill(admission, NODE, 60), *fill(admission, OTHER_NODE, 60), *fill(admission, LOCAL, 60)]
    ended = [knock(admission, f"198.51.{n % 256}.{n // 256}")[1] for n in range(5000)]
    assert not set(ended) & set(nodes)
    assert admission.waiting == len(nodes) + limits.CONNECTIONS_STRANGERS_MAX


def test_a_nodes_address_takes_nothing_from_another_nodes(admission: Admission) -> None:
    others = fill(admission, OTHER_NODE, limits.CONNECTIONS_NODE_MAX)
    ended = [knock(admission, NODE)[1] for _ in range(5000)]
    assert not set(ended) & set(others)


def test_one_stranger_leaves_room_for_another(admission: Admission) -> None:
    other = fill(admission, "192.0.2.8", 1)[0]
    ended = [knock(admission, STRANGER)[1] for _ in range(5000)]
    assert other not in ended
    assert admission.waiting == limits.CONNECTIONS_STRANGER_MAX + 1


def test_an_ipv6_stranger_is_its_network_and_a_node_is_its_address(admission: Admission) -> None:
    for n in range(500):
        # These are neighbours of the node, in its own /64.
        knock(admission, f"2001:db8::{n + 2:x}")
    assert admission.waiting == limits.CONNECTIONS_STRANGER_MAX
    fill(admission, NODE_6, limits.CONNECTIONS_NODE_MAX)
    knock(admission, "2001:db8:0:1::1")
    assert admission.waiting == limits.CONNECTIONS_STRANGER_MAX + limits.CONNECTIONS_NODE_MAX + 1


def test_a_link_local_address_with_its_interface_is_an_address(admission: Admission) -> None:
    arrival, victim = admission.arrive("fe80::1%eth0")
    assert victim is None
    assert not arrival.is_known


def test_who_fails_a_login_is_the_first_of_its_stage_to_go(admission: Admission) -> None:
    fill(admission, STRANGER, limits.CONNECTIONS_STRANGER_MAX - 1, AdmissionStage.NEGOTIATED)
    (failed,) = fill(admission, STRANGER, 1, AdmissionStage.LOGGING_IN)
    admission.advance(failed, AdmissionStage.NEGOTIATED)
    newcomer, victim = admission.arrive(STRANGER)
    assert victim is None
    assert admission.advance(newcomer, AdmissionStage.NEGOTIATED) is failed


def test_who_logs_off_is_a_newcomer(admission: Admission) -> None:
    (arrival,) = fill(admission, NODE, 1)
    admission.advance(arrival, AdmissionStage.LOGGED_IN)
    waiting = fill(admission, NODE, limits.CONNECTIONS_NODE_MAX, AdmissionStage.NEGOTIATED)
    assert admission.advance(arrival, AdmissionStage.NEGOTIATED) is waiting[0]


def test_the_addresses_of_a_new_config_are_known_at_once(admission: Admission) -> None:
    strangers = fill(admission, STRANGER, limits.CONNECTIONS_STRANGER_MAX)
    nodes = fill(admission, NODE, limits.CONNECTIONS_NODE_MAX)
    (inside,) = fill(admission, OTHER_NODE, 1)
    admission.advance(inside, AdmissionStage.LOGGED_IN)
    surplus = admission.know([STRANGER])
    assert set(surplus) == set(nodes[: limits.CONNECTIONS_NODE_MAX - limits.CONNECTIONS_STRANGER_MAX])
    assert all(arrival.is_known for arrival in strangers)
    assert not inside.is_known
    for arrival in surplus:
        admission.leave(arrival)
    assert admission.arrive(STRANGER)[1] is None


def test_when_a_descriptor_is_wanted_a_stranger_goes_first(admission: Admission) -> None:
    assert admission.emptiest() is None
    (node,) = fill(admission, NODE, 1)
    assert admission.emptiest() is node
    (stranger,) = fill(admission, STRANGER, 1, AdmissionStage.LOGGING_IN)
    assert admission.emptiest() is stranger


def test_with_many_nodes_their_addresses_share_a_bound() -> None:
    many = [f"10.1.{n // 250}.{n % 250}" for n in range(1000)]
    admission = Admission(many)
    for address in many:
        for _ in range(limits.CONNECTIONS_NODE_MIN + 8):
            knock(admission, address)
    assert admission.waiting == 1000 * limits.CONNECTIONS_NODE_MIN


def test_whatever_happens_the_counts_are_those_of_what_is_there() -> None:
    """A random history is compared with a plain list of the connections that are open."""
    rng = random.Random(7)
    admission = Admission([NODE])
    addresses = [NODE, LOCAL, *(f"192.0.2.{n}" for n in range(9)), "2001:db8::5"]
    there: set[Arrival] = set()
    for _ in range(20_000):
        event = rng.random()
        if event < 0.5 or not there:
            arrival, victim = admission.arrive(rng.choice(addresses))
            there.add(arrival)
        else:
            arrival = rng.choice(sorted(there, key=id))
            victim = None
            if event < 0.6:
                victim = arrival
            elif event < 0.99:
                victim = admission.advance(arrival, rng.choice(list(AdmissionStage)))
            else:
                for surplus in admission.know(rng.sample([a for a in addresses if a], 3)):
                    admission.leave(surplus)
                    there.remove(surplus)
        if victim is not None:
            assert victim is arrival or victim.stage is not AdmissionStage.LOGGED_IN
            admission.leave(victim)
            there.remove(victim)
        waiting = [each for each in there if each.stage is not AdmissionStage.LOGGED_IN]
        assert admission.waiting == len(waiting)
        strangers = [each for each in waiting if not each.is_known]
        assert len(strangers) <= 3 * limits.CONNECTIONS_STRANGERS_MAX
    for arrival in there:
        admission.leave(arrival)
    assert admission.waiting == 0
    assert admission.emptiest() is None

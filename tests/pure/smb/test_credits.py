"""Credits: the window of the exporter, the account of the initiator, and both together."""

import random

import pytest

from meshfs import limits
from meshfs.errors import LocalProtocolError
from meshfs.smb.credits import CreditAccount, CreditWindow, charge_covers, charge_for


def window_of(size: int) -> CreditWindow:
    """Return a window with ``size`` credits at the peer, and ids from 1 on."""
    window = CreditWindow(size)
    assert window.take(0, 0)
    assert window.grant(size, 0) == size
    return window


@pytest.mark.parametrize(
    ("payload_bytes", "charge"),
    [(0, 1), (1, 1), (65536, 1), (65537, 2), (131072, 2), (1 << 20, 16), (8 << 20, 128)],
)
def test_charge_of_a_payload(payload_bytes: int, charge: int) -> None:
    assert charge_for(payload_bytes) == charge
    assert charge_covers(charge, payload_bytes)
    assert charge_covers(charge - 1, payload_bytes) is (charge == 1)


def test_starts_with_id_0_alone() -> None:
    assert not CreditWindow().take(1, 1)
    window = CreditWindow()
    assert window.take(0, 0)
    assert not window.take(0, 1)
    assert not window.take(1, 1)


def test_the_example_of_the_specification() -> None:
    """{0}, 3 granted: {0, 1, 2, 3}. 2 may come before 0 (MS-SMB2 3.3.1.1)."""
    window = window_of(4)
    for message_id in (3, 1, 4, 2):
        assert window.take(message_id, 1)
    assert window.held == 0
    assert not window.take(5, 1)


@pytest.mark.parametrize("order", [(1, 2, 3, 4), (4, 3, 2, 1), (2, 4, 1, 3)])
def test_no_id_twice(order: tuple[int, ...]) -> None:
    window = window_of(4)
    for position, message_id in enumerate(order):
        assert window.take(message_id, 1)
        for used in order[: position + 1]:
            assert not window.take(used, 1)


def test_a_charge_uses_consecutive_ids() -> None:
    window = window_of(8)
    assert window.take(4, 3)
    for message_id, charge in ((4, 1), (5, 1), (6, 1), (3, 2), (1, 4), (7, 3), (8, 2), (1, 8)):
        assert not window.take(message_id, charge), (message_id, charge)
    assert window.take(1, 3)
    assert window.take(7, 2)
    assert (window.held, window.in_flight) == (0, 8)


@pytest.mark.parametrize(("message_id", "charge"), [(1, 9), (0xFFFF_FFFF_FFFF_FFFF, 1), (1, 0xFFFF), (9, 1)])
def test_ids_beyond_the_window_are_refused(message_id: int, charge: int) -> None:
    assert not window_of(8).take(message_id, charge)


def test_a_refused_request_uses_nothing() -> None:
    window = window_of(8)
    assert not window.take(7, 9)
    assert (window.held, window.in_flight) == (8, 0)


def test_grants_what_is_asked_while_there_is_room() -> None:
    window = CreditWindow(100)
    window.take(0, 1)
    assert window.grant(10, 1) == 10
    window.take(1, 1)
    assert window.grant(200, 1) == 91
    assert window.held == 100


def test_credits_in_flight_count() -> None:
    """A peer that asks for much in each of many requests gets the limit in all, and not each time."""
    window = window_of(64)
    for message_id in range(1, 65):
        window.take(message_id, 1)
    granted = [window.grant(64, 1) for _ in range(64)]
    assert sum(granted) == 64
    assert window.held + window.in_flight == 64


def test_never_starves() -> None:
    window = CreditWindow(16)
    for message_id in range(1000):
        assert window.take(message_id, 1)
        assert window.grant(0, 1) == 1


def test_asking_for_nothing_gives_credits_back() -> None:
    window = window_of(8)
    for message_id in range(1, 8):
        window.take(message_id, 1)
        assert window.grant(0, 1) == 0
    assert window.held == 1


def test_a_peer_that_never_sends_its_lowest_id_gets_no_more() -> None:
    window = window_of(8)
    for message_id in range(2, 9):
        assert window.take(message_id, 1)
    assert [window.grant(8, 1) for _ in range(7)] == [0] * 7
    assert window.held == 1
    assert window.take(1, 1)
    assert window.grant(8, 1) == 8


def test_a_raised_limit_is_granted_at_once() -> None:
    window = CreditWindow()
    window.take(0, 1)
    assert window.grant(1000, 1) == limits.CREDITS_UNAUTHENTICATED_MAX
    window.limit = limits.CREDITS_MAX
    window.take(1, 1)
    assert window.grant(1000, 1) == limits.CREDITS_MAX - limits.CREDITS_UNAUTHENTICATED_MAX + 1
    assert window.held == limits.CREDITS_MAX


def test_who_asks_for_many_gets_the_larger_window() -> None:
    window = window_of(limits.CREDITS_UNAUTHENTICATED_MAX)
    window.take(1, 1)
    assert window.grant(65535, 1) == 1
    window.limit, window.limit_max = limits.CREDITS_MAX, limits.CREDITS_GRANTED_MAX
    window.take(2, 1)
    window.grant(2 * limits.CREDITS_MAX, 1)
    assert window.held == limits.CREDITS_MAX
    window.take(3, 1)
    window.grant(2 * limits.CREDITS_MAX + 1, 1)
    assert window.held == limits.CREDITS_MAX + 2 * limits.CREDITS_MAX
    window.take(4, 1)
    window.grant(65535, 1)
    assert window.held == limits.CREDITS_GRANTED_MAX


def test_our_own_account_never_asks_for_that_many() -> None:
    account = CreditAccount()
    assert account.ask(charge_for(limits.IO_SIZE_MAX_BYTES)) <= 2 * limits.CREDITS_MAX


def test_a_grant_without_request_is_our_fault() -> None:
    window = window_of(4)
    with pytest.raises(LocalProtocolError):
        window.grant(1, 1)


def test_an_account_takes_ids_in_order_and_never_more_than_granted() -> None:
    account = CreditAccount(goal=16)
    assert account.ask(1) == 16
    assert account.take(1) == 0
    assert account.take(1) is None
    account.grant(16)
    assert account.take(17) is None
    assert account.take(10) == 1
    assert account.take(6) == 11
    assert account.take(1) is None
    account.grant(40)
    assert account.ask(3) == 3
    assert account.take(1) == 17


def test_what_an_account_asks_fits_its_field() -> None:
    assert CreditAccount(goal=1 << 20).ask(100) == 0xFFFF


@pytest.mark.parametrize("seed", range(20))
def test_both_ends_together_neither_refuse_nor_stall(seed: int) -> None:
    """With any charges, in any order of arrival within what is in flight, nothing is refused and nothing stalls."""
    rng = random.Random(seed)
    window, account = CreditWindow(64), CreditAccount(goal=rng.choice((8, 64, 512)))
    wire: list[tuple[int, int, int]] = []
    served: list[tuple[int, int]] = []
    sent = 0
    while sent < 2000:
        charge = rng.choice((1, 1, 1, 2, 4))
        message_id = account.take(charge)
        if message_id is not None:
            wire.append((message_id, charge, account.ask(charge)))
            sent += 1
        elif not wire and not served:
            # All credits are here, and too few for this charge. Nothing else will bring more.
            assert account.available == window.held < charge
            message_id = account.take(1)
            assert message_id is not None
            wire.append((message_id, 1, account.ask(1)))
            sent += 1
        if wire and rng.random() < 0.7:
            message_id, charge, asked = wire.pop(rng.randrange(len(wire)))
            assert window.take(message_id, charge)
            served.append((asked, charge))
        if served and rng.random() < 0.6:
            asked, charge = served.pop(rng.randrange(len(served)))
            account.grant(window.grant(asked, charge))
        assert window.held + window.in_flight <= 64


def test_a_request_is_the_only_one_while_no_other_and_no_lower_id_can_come() -> None:
    window = CreditWindow(limit=64)
    assert window.take(0, 0)
    window.grant(20, 0)
    assert window.take(1, 2)
    assert window.is_only(1, 2)
    # Another id is in flight.
    assert window.take(3, 1)
    assert not window.is_only(3, 1)
    window.grant(0, 2)
    assert window.is_only(3, 1)
    window.grant(0, 1)
    # A lower id is left.
    assert window.take(5, 1)
    assert not window.is_only(5, 1)
    assert window.take(4, 1)
    window.grant(0, 1)
    assert window.is_only(5, 1)

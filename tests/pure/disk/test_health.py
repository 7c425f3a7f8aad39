"""A disk's state: the table of transitions, and the times of its events."""

import itertools

import pytest

from meshfs.disk.base import Op
from meshfs.disk.health import TRANSITIONS, DiskEvent, Health, error_text, next_state
from meshfs.errors import LocalProtocolError
from meshfs.limits import DISK_STEADY_S
from meshfs.model import DiskState

_S, _E = DiskState, DiskEvent

# All transitions that exist. Every other pair is a bug.
TABLE = [
    (_S.MISSING, _E.CLAIMED, _S.OK),
    (_S.MISSING, _E.REFUSED, _S.MISSING),
    (_S.OK, _E.FAILED, _S.FAILING),
    (_S.OK, _E.STEADY, _S.OK),
    (_S.OK, _E.VANISHED, _S.GONE),
    (_S.OK, _E.RELEASED, _S.MISSING),
    (_S.FAILING, _E.RELEASED, _S.MISSING),
    (_S.FAILING, _E.FAILED, _S.FAILING),
    (_S.FAILING, _E.STEADY, _S.OK),
    (_S.FAILING, _E.VANISHED, _S.GONE),
    (_S.GONE, _E.CLAIMED, _S.OK),
    (_S.GONE, _E.REFUSED, _S.GONE),
    (_S.GONE, _E.FAILED, _S.GONE),
    (_S.GONE, _E.VANISHED, _S.GONE),
]


@pytest.mark.parametrize(("state", "event", "after"), TABLE)
def test_each_transition_leads_where_the_table_says(state: DiskState, event: DiskEvent, after: DiskState) -> None:
    assert next_state(state, event) is after


def test_everything_else_is_a_bug() -> None:
    allowed = {(state, event) for state, event, _ in TABLE}
    assert allowed == {(state, event) for state, row in TRANSITIONS.items() for event in row}
    for state, event in set(itertools.product(_S, _E)) - allowed:
        with pytest.raises(LocalProtocolError, match=event.name):
            next_state(state, event)


@pytest.fixture
def health() -> Health:
    health = Health(0.0)
    health.claimed(1.0)
    return health


def test_a_disk_is_missing_until_it_is_claimed() -> None:
    health = Health(0.0)
    assert (health.state, health.served) == (_S.MISSING, False)
    assert health.why
    health.refused("No such file or directory", 1.0)
    assert (health.state, health.why, health.since_s) == (_S.MISSING, "No such file or directory", 0.0)
    health.claimed(2.0)
    assert (health.state, health.why, health.since_s, health.served) == (_S.OK, "", 2.0, True)


def test_one_error_makes_it_failing_and_the_first_reason_stays(health: Health) -> None:
    health.failed(error_text(Op.READ, 5), 2.0)
    health.failed(error_text(Op.WRITE, 28), 3.0)
    assert (health.state, health.why, health.since_s) == (_S.FAILING, "read: Input/output error", 2.0)
    assert health.served


def test_it_is_ok_again_after_success_and_a_time_without_errors(health: Health) -> None:
    health.failed("read: Input/output error", 2.0)
    health.looked("", 10, 3.0)
    health.looked("", 11, 2.0 + DISK_STEADY_S - 0.1)
    assert health.state is _S.FAILING
    health.looked("", 11, 2.0 + DISK_STEADY_S)
    assert (health.state, health.why) == (_S.OK, "")


def test_time_alone_heals_nothing(health: Health) -> None:
    health.failed("read: Input/output error", 2.0)
    for hours in range(1, 5):
        health.looked("", 10, 3600.0 * hours)
    assert health.state is _S.FAILING


def test_success_between_errors_does_not_change_the_state_to_and_fro(health: Health) -> None:
    states = []
    for second in range(2, 100):
        health.failed("read: Input/output error", float(second))
        health.looked("", 1000 * second, second + 0.5)
        states.append(health.state)
    assert set(states) == {_S.FAILING}


def test_a_fault_that_lasts_holds_until_it_is_mended(health: Health) -> None:
    health.looked("shrank from 8192 to 4096 bytes", 5, 2.0)
    health.looked("shrank from 8192 to 4096 bytes", 500, 1000.0)
    assert (health.state, health.why) == (_S.FAILING, "shrank from 8192 to 4096 bytes")
    health.looked("", 500, 1005.0)
    assert (health.state, health.why) == (_S.OK, "")


def test_a_mended_fault_does_not_hide_errors(health: Health) -> None:
    health.looked("shrank", 5, 2.0)
    health.failed("read: Input/output error", 3.0)
    assert health.why == "shrank"
    health.looked("", 5, 4.0)
    assert (health.state, health.why) == (_S.FAILING, "read: Input/output error")
    health.looked("", 6, 3.0 + DISK_STEADY_S)
    assert health.state is _S.OK


def test_gone_keeps_its_reason_and_adds_why_it_cannot_come_back(health: Health) -> None:
    health.failed("read: Input/output error", 2.0)
    health.vanished("the device was removed", 3.0)
    health.failed("write: Input/output error", 3.1)
    assert (health.state, health.why, health.served) == (_S.GONE, "the device was removed", False)
    health.refused("No such file or directory", 4.0)
    health.refused("is claimed by another exporter", 5.0)
    assert health.why == "the device was removed; is claimed by another exporter"
    assert health.since_s == 3.0
    health.claimed(6.0)
    assert (health.state, health.why) == (_S.OK, "")
    health.looked("", 0, 7.0)
    assert health.state is _S.OK

"""What administrators may ask of a disk in which state, and what is announced of it."""

import itertools

import pytest

from meshfs.disk.admin_state import TRANSITIONS, AdminEvent, Administration, AdminState, NotInThisState, next_state
from meshfs.model import DiskState

_S, _E = AdminState, AdminEvent

TABLE = [
    (_S.SERVING, _E.SUSPEND, _S.SUSPENDING),
    (_S.SERVING, _E.DRAIN, _S.DRAINING),
    (_S.SERVING, _E.RESUME, _S.SERVING),
    (_S.SUSPENDING, _E.SUSPEND, _S.SUSPENDING),
    (_S.SUSPENDING, _E.DRAIN, _S.DRAINING),
    (_S.SUSPENDING, _E.SETTLED, _S.SUSPENDED),
    (_S.SUSPENDING, _E.RESUME, _S.SERVING),
    (_S.SUSPENDED, _E.SUSPEND, _S.SUSPENDED),
    (_S.SUSPENDED, _E.DRAIN, _S.DRAINING),
    (_S.SUSPENDED, _E.RESUME, _S.SERVING),
    (_S.DRAINING, _E.DRAIN, _S.DRAINING),
    (_S.DRAINING, _E.SETTLED, _S.DRAINED),
    (_S.DRAINING, _E.RESUME, _S.SERVING),
    (_S.DRAINED, _E.DRAIN, _S.DRAINED),
    (_S.DRAINED, _E.RESUME, _S.SERVING),
]


@pytest.mark.parametrize(("state", "event", "after"), TABLE)
def test_each_transition_leads_where_the_table_says(state: AdminState, event: AdminEvent, after: AdminState) -> None:
    assert next_state(state, event) is after


def test_everything_else_is_refused() -> None:
    allowed = {(state, event) for state, event, _ in TABLE}
    assert allowed == {(state, event) for state, row in TRANSITIONS.items() for event in row}
    for state, event in set(itertools.product(_S, _E)) - allowed:
        with pytest.raises(NotInThisState, match=f"it is {state}"):
            next_state(state, event)


@pytest.mark.parametrize(
    ("state", "announced"),
    [
        (_S.SUSPENDING, DiskState.SUSPENDED),
        (_S.SUSPENDED, DiskState.SUSPENDED),
        (_S.DRAINING, DiskState.DRAINED),
        (_S.DRAINED, DiskState.DRAINED),
    ],
)
def test_the_announced_state_is_what_the_administrator_wants(state: AdminState, announced: DiskState) -> None:
    admin = Administration(state)
    told, why = admin.announced(DiskState.OK, "")
    assert told is announced
    assert "an administrator" in why
    assert "device" not in why or state is _S.SUSPENDING
    assert ("; the device is gone: pulled" in admin.announced(DiskState.GONE, "pulled")[1]) is admin.waits


def test_a_disk_that_is_served_announces_its_health() -> None:
    assert Administration().announced(DiskState.FAILING, "read: EIO") == (DiskState.FAILING, "read: EIO")


def test_an_exporter_that_stops_announces_every_disk_as_drained() -> None:
    admin = Administration()
    admin.leaving = True
    assert admin.announced(DiskState.OK, "") == (DiskState.DRAINED, "its exporter is stopping")

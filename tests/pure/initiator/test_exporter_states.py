"""The states of an exporter and of a path, in the order in which a mount goes through them."""

from collections.abc import Mapping
from typing import Any

import pytest

from meshfs.errors import LocalProtocolError
from meshfs.initiator.remote.states import (
    EXPORTER,
    PATH,
    ExporterEvent,
    ExporterState,
    PathEvent,
    PathState,
    next_state,
)

TABLES = [pytest.param(EXPORTER, ExporterState, id="exporter"), pytest.param(PATH, PathState, id="path")]


@pytest.mark.parametrize(("table", "states"), TABLES)
def test_every_state_has_a_row_and_is_reached(table: Mapping[Any, Mapping[Any, Any]], states: type) -> None:
    assert set(table) == set(states)
    first = next(iter(states))
    reached, left = {first}, [first]
    while left:
        for after in table[left.pop()].values():
            if after not in reached:
                reached.add(after)
                left.append(after)
    assert reached == set(states)


def walk(table: Mapping[Any, Mapping[Any, Any]], state: Any, events: list[Any]) -> list[Any]:
    seen = []
    for event in events:
        state = next_state(table, state, event)
        seen.append(state)
    return seen


def test_an_exporter_is_lost_and_comes_back() -> None:
    event = ExporterEvent
    events = [event.FAILED, event.FAILED, event.LOGGED_IN, event.LOST, event.LOGGED_IN, event.REMOVED, event.LOST]
    down, connected = ExporterState.DOWN, ExporterState.CONNECTED
    assert walk(EXPORTER, ExporterState.CONNECTING, events) == [down, down, connected, down, connected, down, down]


def test_a_path_fails_is_bound_is_lost_and_waits() -> None:
    event, state = PathEvent, PathState
    events = [event.TRY, event.FAILED, event.TRY, event.BOUND, event.FAILED, event.WAITS, event.TRY, event.ENDED]
    assert walk(PATH, state.IDLE, events) == [
        state.CONNECTING,
        state.DOWN,
        state.CONNECTING,
        state.CONNECTED,
        state.DOWN,
        state.IDLE,
        state.CONNECTING,
        state.IDLE,
    ]


@pytest.mark.parametrize(
    ("table", "state", "event"),
    [
        (EXPORTER, ExporterState.CONNECTED, ExporterEvent.LOGGED_IN),
        (EXPORTER, ExporterState.CONNECTED, ExporterEvent.FAILED),
        (EXPORTER, ExporterState.CONNECTING, ExporterEvent.LOST),
        (PATH, PathState.IDLE, PathEvent.BOUND),
        (PATH, PathState.CONNECTED, PathEvent.TRY),
        (PATH, PathState.CONNECTED, PathEvent.WAITS),
        (PATH, PathState.DOWN, PathEvent.FAILED),
    ],
)
def test_what_cannot_happen_is_an_error(table: Mapping[Any, Mapping[Any, Any]], state: Any, event: Any) -> None:
    with pytest.raises(LocalProtocolError, match=f"{event.name} is not allowed in state {state.name}"):
        next_state(table, state, event)


def test_the_words_of_the_status_documents_stay() -> None:
    assert [state.value for state in ExporterState] == ["connecting", "connected", "down", "drained"]
    assert [state.value for state in PathState] == ["idle", "connecting", "connected", "down"]

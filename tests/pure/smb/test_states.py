"""States: every event in every state, by both roles, and the ways of a connection and a session."""

from typing import Any

import pytest

from meshfs.errors import LocalProtocolError, RemoteProtocolError
from meshfs.smb.connection import Role
from meshfs.smb.states import CONNECTION, SESSION, ConnectionState, SessionState, SmbEvent, StateMachine, next_state

TABLES: tuple[Any, ...] = (CONNECTION, SESSION)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("event", SmbEvent)
def test_every_event_in_every_state(event: SmbEvent, role: Role) -> None:
    """An event is allowed, or an error blames the right end: the same event blames a different end in each role."""
    for table in TABLES:
        for state in table:
            if event in table[state]:
                assert next_state(table, state, event, role) in table
            else:
                peers = event.by not in (None, role)
                with pytest.raises(RemoteProtocolError if peers else LocalProtocolError, match=state.name):
                    next_state(table, state, event, role)


def test_tables_are_complete() -> None:
    assert set(CONNECTION) == set(ConnectionState)
    assert set(SESSION) == set(SessionState)


@pytest.mark.parametrize("table", TABLES)
def test_every_state_is_reached_and_can_end(table: Any) -> None:
    start, *_, end = table
    reached = {start}
    while more := {after for state in reached for after in table[state].values()} - reached:
        reached |= more
    assert reached == set(table)
    assert all(end in table[state].values() for state in table)


def ways_to(table: Any) -> dict[Any, tuple[SmbEvent, ...]]:
    """Return a shortest sequence of events from the first state to each state of the table."""
    start = next(iter(table))
    ways: dict[Any, tuple[SmbEvent, ...]] = {start: ()}
    todo = [start]
    for state in todo:
        for event, after in table[state].items():
            if after not in ways:
                ways[after] = (*ways[state], event)
                todo.append(after)
    return ways


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("event", SmbEvent)
@pytest.mark.parametrize("table", TABLES)
def test_a_machine_goes_by_the_table(table: Any, event: SmbEvent, role: Role) -> None:
    """Each end's machine takes every transition.

    For an event that is not allowed, the error names it with the state, which stays.
    """
    for state, way in ways_to(table).items():
        machine = StateMachine(table, role)
        for before in way:
            machine.happened(before)
        assert machine.state is state
        if event in table[state]:
            machine.happened(event)
            assert machine.state is table[state][event]
        else:
            error = LocalProtocolError if event.by in (None, role) else RemoteProtocolError
            with pytest.raises(error, match=f"^{event.name} is not allowed in state {state.name}$"):
                machine.happened(event)
            assert machine.state is state


def go(table: Any, state: Any, *events: SmbEvent) -> Any:
    for event in events:
        for role in Role:
            after = next_state(table, state, event, role)
        state = after
    return state


def test_a_connection_goes_through_its_states_in_order() -> None:
    ready = go(
        CONNECTION, ConnectionState.NEW, SmbEvent.NEGOTIATE, SmbEvent.NEGOTIATED, SmbEvent.REQUEST, SmbEvent.RESPONSE
    )
    assert ready is ConnectionState.READY
    assert go(CONNECTION, ConnectionState.NEW, SmbEvent.NEGOTIATE, SmbEvent.AGAIN) is ConnectionState.NEW
    with pytest.raises(RemoteProtocolError):
        next_state(CONNECTION, ready, SmbEvent.NEGOTIATE, Role.EXPORTER)
    assert go(CONNECTION, ready, SmbEvent.CLOSE, SmbEvent.CLOSE) is ConnectionState.CLOSED


def test_a_request_before_negotiate() -> None:
    with pytest.raises(RemoteProtocolError):
        next_state(CONNECTION, ConnectionState.NEW, SmbEvent.REQUEST, Role.EXPORTER)
    with pytest.raises(LocalProtocolError):
        next_state(CONNECTION, ConnectionState.NEW, SmbEvent.REQUEST, Role.INITIATOR)


def test_a_session_goes_through_its_states_in_order() -> None:
    login = (SmbEvent.SETUP, SmbEvent.MORE, SmbEvent.SETUP, SmbEvent.GRANTED)
    valid = go(SESSION, SessionState.NEW, *login)
    assert valid is SessionState.VALID
    assert go(SESSION, valid, SmbEvent.EXPIRE, SmbEvent.REQUEST, SmbEvent.RESPONSE) is SessionState.EXPIRED
    assert go(SESSION, valid, SmbEvent.EXPIRE, *login, SmbEvent.REQUEST) is SessionState.VALID
    assert (
        go(SESSION, valid, SmbEvent.SETUP, SmbEvent.REQUEST, SmbEvent.MORE, SmbEvent.SETUP, SmbEvent.DENIED)
        is SessionState.ENDED
    )
    assert go(SESSION, valid, SmbEvent.LOGOFF, SmbEvent.RESPONSE, SmbEvent.LOGGED_OFF) is SessionState.ENDED


@pytest.mark.parametrize("state", [SessionState.NEW, SessionState.AUTHENTICATING, SessionState.CHALLENGED])
def test_no_request_before_the_login(state: SessionState) -> None:
    with pytest.raises(RemoteProtocolError):
        next_state(SESSION, state, SmbEvent.REQUEST, Role.EXPORTER)

"""The states of an exporter's link: every state with every event, and what ends a turn and a pause."""

import itertools

import pytest

from meshfs.errors import LocalProtocolError
from meshfs.exporter.rules.link_states import LINK, RECEIVING, LinkEvent, LinkState, after_turn, next_state, when_room

S, E = LinkState, LinkEvent

#: What each event makes of READING, WAITING, PAUSED, STARVED, STOPPED, ENDING and CLOSED; None is a fault.
EXPECTED = {
    E.TURN: (S.READING, S.READING, None, None, S.STOPPED, S.ENDING, S.CLOSED),
    E.WAIT: (S.WAITING, None, S.WAITING, None, None, None, None),
    E.PAUSE: (S.PAUSED, None, None, S.STARVED, None, None, None),
    E.RESUME: (None, None, S.READING, None, None, None, None),
    E.LACK: (S.STARVED, None, None, None, None, None, None),
    E.ROOM: (None, None, None, S.PAUSED, None, None, None),
    E.STOP: (S.STOPPED, S.STOPPED, S.STOPPED, S.STOPPED, S.STOPPED, S.ENDING, S.CLOSED),
    E.END: (S.ENDING, S.ENDING, S.ENDING, S.ENDING, S.ENDING, S.ENDING, S.CLOSED),
    E.CLOSE: (S.CLOSED,) * 7,
}


@pytest.mark.parametrize("event", LinkEvent, ids=lambda event: event.name)
@pytest.mark.parametrize("state", LinkState, ids=lambda state: state.name)
def test_every_state_with_every_event(state: LinkState, event: LinkEvent) -> None:
    after = dict(zip(LinkState, EXPECTED[event], strict=True))[state]
    if after is None:
        with pytest.raises(LocalProtocolError, match=f"{event.name} is not allowed in state {state.name}"):
            next_state(state, event)
    else:
        assert next_state(state, event) is after


def test_every_state_is_reached_and_nothing_leads_back_to_receiving() -> None:
    assert {after for row in LINK.values() for after in row.values()} == set(LinkState)
    for state in set(LinkState) - RECEIVING:
        assert not RECEIVING & set(LINK[state].values())


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("state", [S.READING, S.STARVED])
def test_a_turn_ends_with_a_pause_or_a_wait(state: LinkState, full: bool) -> None:
    event = after_turn(state, full=full)
    assert event is (E.WAIT if state is S.READING and not full else E.PAUSE)
    assert next_state(state, event) in (S.WAITING, S.PAUSED, S.STARVED)


@pytest.mark.parametrize("state", LinkState, ids=lambda state: state.name)
def test_only_a_pause_ends_and_only_when_nothing_stands_against_it(state: LinkState) -> None:
    for sending, held, has_room in itertools.product((False, True), repeat=3):
        event = when_room(state, sending=sending, held=held, has_room=has_room)
        if state is not S.PAUSED or sending or (held and not has_room):
            assert event is None
        else:
            assert event is (E.WAIT if held else E.RESUME)
            assert next_state(state, event) is (S.WAITING if held else S.READING)

"""When a silent peer is asked, and when it is given up."""

from meshfs import limits
from meshfs.initiator.silence import Silence, Verdict

PROBE_S, MAX_S, IDLE_S = limits.CHANNEL_PROBE_AFTER_S, limits.CHANNEL_SILENCE_MAX_S, limits.CHANNEL_IDLE_PROBE_S


def test_a_busy_silent_peer_is_asked_once_and_then_given_up() -> None:
    silence = Silence(100.0)
    assert silence.look(100.0, heard=False, busy=True) is Verdict.FINE
    assert silence.look(100.0 + PROBE_S, heard=False, busy=True) is Verdict.PROBE
    silence.probed = True
    assert silence.look(100.1 + PROBE_S, heard=False, busy=True) is Verdict.FINE
    assert silence.look(100.0 + MAX_S, heard=False, busy=True) is Verdict.GIVE_UP
    assert silence.seconds(100.0 + MAX_S) == MAX_S


def test_a_sign_of_life_starts_anew() -> None:
    silence = Silence(0.0)
    silence.look(0.0, heard=False, busy=True)
    silence.probed = True
    assert silence.look(MAX_S - 0.1, heard=True, busy=True) is Verdict.FINE
    assert silence.look(MAX_S + 0.1, heard=False, busy=True) is Verdict.FINE
    assert silence.look(MAX_S - 0.1 + PROBE_S, heard=False, busy=True) is Verdict.PROBE


def test_silence_before_anything_was_asked_does_not_count() -> None:
    silence = Silence(0.0)
    assert silence.look(1000.0, heard=False, busy=True) is Verdict.FINE
    assert silence.seconds(1000.5) == 0.5


def test_an_idle_peer_is_asked_now_and_then() -> None:
    silence = Silence(0.0)
    assert silence.look(IDLE_S - 0.1, heard=False, busy=False) is Verdict.FINE
    assert silence.look(IDLE_S, heard=False, busy=False) is Verdict.PROBE
    assert silence.look(IDLE_S + 0.1, heard=True, busy=False) is Verdict.FINE


def test_one_that_could_not_be_asked_has_until_the_first_deadline() -> None:
    silence = Silence(0.0)
    silence.look(0.0, heard=False, busy=True)
    assert silence.look(2 * MAX_S, heard=False, busy=True) is Verdict.PROBE
    silence.overdue = True
    assert silence.look(2 * MAX_S, heard=False, busy=True) is Verdict.GIVE_UP

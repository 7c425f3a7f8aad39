"""A silent peer is probed, and given up later."""

from meshfs import limits
from meshfs.initiator.channel.silence import Silence, Verdict

PROBE_S, MAX_S, IDLE_S = limits.CHANNEL_PROBE_AFTER_S, limits.CHANNEL_SILENCE_MAX_S, limits.CHANNEL_IDLE_PROBE_S


def test_a_busy_silent_peer_is_asked_once_and_then_given_up() -> None:
    silence = Silence(100.0)
    assert silence.look(100.0, heard=False, busy=True) is Verdict.FINE
    assert silence.look(100.0 + PROBE_S, heard=False, busy=True) is Verdict.PROBE
    silence.probed_s = 100.0 + PROBE_S
    assert silence.look(100.1 + PROBE_S, heard=False, busy=True) is Verdict.FINE
    assert silence.look(100.0 + MAX_S, heard=False, busy=True) is Verdict.GIVE_UP
    assert silence.seconds(100.0 + MAX_S) == MAX_S


def test_a_sign_of_life_starts_anew() -> None:
    silence = Silence(0.0)
    silence.look(0.0, heard=False, busy=True)
    silence.probed_s = 1.0
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


class TestSiblings:
    """The session's other channels show whether the exporter is silent or the path is lost."""

    def test_a_channel_is_given_up_soon_while_another_answers(self) -> None:
        silence = Silence(0.0, dead_after_s=1.25)
        silence.look(0.0, heard=False, busy=True, siblings_heard_s=0.0)
        assert silence.look(0.4, heard=False, busy=True, siblings_heard_s=0.0) is Verdict.FINE
        assert silence.look(0.5, heard=False, busy=True, siblings_heard_s=0.0) is Verdict.PROBE
        silence.probed_s = 0.5
        assert silence.look(1.0, heard=False, busy=True, siblings_heard_s=0.9) is Verdict.FINE
        assert silence.look(1.25, heard=False, busy=True, siblings_heard_s=0.9) is Verdict.GIVE_UP

    def test_an_exporter_that_is_silent_on_all_of_them_has_its_time(self) -> None:
        silence = Silence(0.0, dead_after_s=1.25)
        silence.look(0.0, heard=False, busy=True, siblings_heard_s=0.0)
        silence.probed_s = 0.5
        assert silence.look(MAX_S - 0.1, heard=False, busy=True, siblings_heard_s=0.4) is Verdict.FINE
        assert silence.look(MAX_S, heard=False, busy=True, siblings_heard_s=0.4) is Verdict.GIVE_UP

    def test_what_a_sibling_said_before_the_question_proves_nothing(self) -> None:
        silence = Silence(0.0, dead_after_s=1.25)
        silence.look(0.0, heard=False, busy=True, siblings_heard_s=0.0)
        silence.probed_s = 0.5
        assert silence.look(2.0, heard=False, busy=True, siblings_heard_s=0.5) is Verdict.FINE

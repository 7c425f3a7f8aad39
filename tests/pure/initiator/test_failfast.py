"""The time at which a call ends that waits for an exporter, or for a disk that may hang."""

from math import inf

from meshfs import limits
from meshfs.initiator.remote.failfast import Answers, ends_at, silence_max_s

T = 30.0
PATIENCE_S = limits.PROBE_PATIENCE_S


def test_the_bound_of_an_exporter_counts_from_when_it_went_away() -> None:
    assert ends_at(130.0, T, None) == 130.0
    assert ends_at(130.0, T, 90.0) == 120.0
    assert ends_at(130.0, T, 110.0) == 130.0


def test_a_channel_is_given_up_before_the_bound_but_never_before_a_probe_could_be_answered() -> None:
    assert silence_max_s(30.0) == limits.CHANNEL_SILENCE_MAX_S
    assert silence_max_s(2.0) == 2.0
    assert silence_max_s(1.0) > limits.CHANNEL_PROBE_AFTER_S + limits.CHANNEL_TICK_S


def test_a_disk_that_answered_nothing_within_the_bound_hangs_unless_it_answers_the_probe() -> None:
    answers = Answers(0.0)
    answers.last_s = 50.0
    assert answers.ends_at(inf, T) == inf
    assert answers.timed_out(100.0, 0.0, 130.0, fenced=False)
    assert answers.held
    assert answers.ends_at(160.0, T) == 130.0 + PATIENCE_S
    assert not answers.hung(130.0, T)
    assert answers.hung(130.0 + PATIENCE_S, T)
    answers.well(140.0)
    assert (answers.held, answers.hung(140.0, T), answers.ends_at(170.0, T)) == (False, False, 170.0)


def test_a_disk_that_answered_others_meanwhile_is_merely_slow_unless_the_call_is_a_fenced_write() -> None:
    answers = Answers(0.0)
    answers.last_s = 120.0
    assert not answers.timed_out(100.0, 0.0, 130.0, fenced=False)
    assert not answers.held
    assert answers.timed_out(100.0, 0.0, 130.0, fenced=True)
    assert answers.ends_at(inf, T) == 150.0


def test_silence_from_before_the_session_is_not_the_disks() -> None:
    answers = Answers(0.0)
    answers.timed_out(100.0, 125.0, 130.0, fenced=False)
    assert answers.ends_at(inf, T) == 155.0


def test_only_the_first_time_out_asks_the_disk() -> None:
    answers = Answers(0.0)
    assert answers.timed_out(100.0, 0.0, 130.0, fenced=False)
    assert not answers.timed_out(101.0, 0.0, 131.0, fenced=True)
    assert answers.ends_at(inf, T) == 130.0 + PATIENCE_S

"""Nonces that were seen: the intervals say what a set says, and memory is bounded."""

import os
import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshfs.smb.replay import SeenNonces

# Few enough values that intervals meet.
NUMBERS = st.lists(st.integers(0, 40), max_size=80)


@given(NUMBERS)
def test_it_knows_what_a_set_knows(numbers: list[int]) -> None:
    seen, model = SeenNonces(1000), set[int]()
    for number in numbers:
        assert seen.add(number) == (number not in model)
        model.add(number)
        assert len(seen) == sum(each - 1 not in model for each in model)
    assert not any(seen.add(number) for number in model)
    assert not seen.full


@given(NUMBERS, st.integers(1, 4))
def test_at_its_bound_it_refuses_what_it_knows_and_remembers_no_more(numbers: list[int], most: int) -> None:
    seen, model, told = SeenNonces(most), set[int](), 0

    def full() -> None:
        nonlocal told
        told += 1

    seen.on_full = full
    for number in numbers:
        joins = {number - 1, number + 1} & model
        room = len(seen) < most
        assert seen.add(number) == (number not in model)
        if number not in model and (joins or room):
            model.add(number)
        else:
            assert number in model or seen.full
        assert len(seen) <= most
    assert told == seen.full


@pytest.mark.parametrize("channels", [1, 2, 32])
def test_counted_nonces_of_several_channels_take_no_memory(channels: int) -> None:
    """The nonces of each channel arrive in their order, and those of several channels in batches."""
    rng = random.Random(channels)
    seen, waiting, longest = SeenNonces(16384), [[] for _ in range(channels)], 0
    for nonce in range(20_000):
        waiting[rng.randrange(channels)].append(nonce)
        if nonce % 16 == 15:
            chosen = rng.randrange(channels)
            assert all(map(seen.add, waiting[chosen]))
            waiting[chosen] = []
            longest = max(longest, len(seen))
    for rest in waiting:
        assert all(map(seen.add, rest))
    assert len(seen) == 1
    assert longest < 2048
    assert not seen.full


def test_nonces_drawn_at_random_take_bounded_memory() -> None:
    seen = SeenNonces(1000)
    nonces = [int.from_bytes(os.urandom(12), "little") for _ in range(3000)]
    assert all(map(seen.add, nonces))
    assert seen.full
    assert not any(map(seen.add, nonces[:1000]))
    assert sys.getsizeof(seen._edges) < 2 * 1000 * 8 * 2

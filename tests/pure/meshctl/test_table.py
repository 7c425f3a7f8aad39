"""The sizes and durations in meshctl's tables."""

import pytest

from meshctl import table


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [(0, "0B"), (512, "512B"), (1000, "1000B"), (1024, "1K"), (1536, "1.5K"), (4 << 40, "4T"), (1 << 63, "8E")],
)
def test_sizes_have_a_unit_and_few_digits(size_bytes: int, shown: str) -> None:
    assert table.size(size_bytes) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0.0s"),
        (59.94, "59.9s"),
        (75, "1min 15s"),
        (3600 * 3 + 61, "3h 1min"),
        (86400 * 12.5, "12d 12h"),
        (None, "-"),
    ],
)
def test_durations_have_two_units(seconds: float | None, shown: str) -> None:
    assert table.duration(seconds) == shown

"""Granules: which part of a range a disk can discard, and where a long range is cut."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshfs.disk.discovery import scan
from meshfs.granules import BYTES, NO_GRANULES, Granules

KIB = 1024

sizes = st.sampled_from([1, 512, 4096, 5000, 65536, 1 << 30])
granules = st.builds(Granules, sizes, st.integers(0, 1 << 20))
ranges = st.tuples(st.integers(0, 1 << 32), st.integers(0, 1 << 32)).map(lambda pair: (min(pair), max(pair)))


def test_a_range_shrinks_to_whole_granules() -> None:
    unit = Granules(64 * KIB)
    assert unit.whole(10 * KIB, 200 * KIB) == (64 * KIB, 192 * KIB)
    assert unit.whole(64 * KIB, 128 * KIB) == (64 * KIB, 128 * KIB)
    assert unit.whole(10 * KIB, 100 * KIB) == (10 * KIB, 10 * KIB)
    shifted = Granules(64 * KIB, 8 * KIB)
    assert shifted.whole(0, 190 * KIB) == (8 * KIB, 136 * KIB)
    assert shifted.whole(0, 60 * KIB) == (0, 0)
    assert BYTES.whole(3, 17) == (3, 17)


def test_a_disk_without_granules_cannot_discard() -> None:
    assert not NO_GRANULES
    assert Granules(512)


@given(granules, ranges)
def test_the_whole_granules_are_all_that_lie_inside(unit: Granules, asked: tuple[int, int]) -> None:
    start, stop = asked
    first, last = unit.whole(start, stop)
    assert start <= first <= last <= stop
    if first < last:
        assert (first - unit.offset_bytes) % unit.size_bytes == (last - unit.offset_bytes) % unit.size_bytes == 0
        assert first - start < unit.size_bytes
        assert stop - last < unit.size_bytes
    else:
        assert stop - start < 2 * unit.size_bytes


@given(granules, ranges, st.integers(1, 1 << 28))
def test_the_pieces_of_a_range_free_as_much_as_the_whole_range(
    unit: Granules, asked: tuple[int, int], length: int
) -> None:
    start, stop = asked
    freed, at, pieces = 0, start, 0
    while at < stop and pieces < 100:
        end = unit.cut(at, stop, length)
        assert at < end <= stop
        assert end - at <= max(length, unit.size_bytes)
        first, last = unit.whole(at, end)
        freed += last - first
        at, pieces = end, pieces + 1
    first, last = unit.whole(start, at)
    assert freed == last - first


def sysfs_disk(folder: Path, **attributes: str) -> Path:
    (folder / "queue").mkdir(parents=True)
    for name, value in attributes.items():
        (folder / name.replace("__", "/")).write_text(value + "\n")
    return folder


@pytest.mark.parametrize(
    ("attributes", "granules"),
    [
        ({"queue__discard_max_bytes": "4294966784", "queue__discard_granularity": "65536"}, Granules(65536)),
        ({"queue__discard_max_bytes": "0", "queue__discard_granularity": "65536"}, NO_GRANULES),
        ({"queue__discard_max_bytes": "4096", "queue__discard_granularity": "0"}, NO_GRANULES),
        ({}, NO_GRANULES),
        ({"queue__discard_max_bytes": "4096", "queue__discard_granularity": "512"}, Granules(4096)),
        (
            {
                "queue__discard_max_bytes": "1048576",
                "queue__discard_granularity": "65536",
                "discard_alignment": "28672",
            },
            Granules(65536, 28672),
        ),
    ],
)
def test_the_granules_are_those_of_sysfs(tmp_path: Path, attributes: dict[str, str], granules: Granules) -> None:
    """The last disk is a partition that begins in the middle of a granule. The disk before it has larger sectors."""
    folder = sysfs_disk(tmp_path / "sda", **attributes)
    assert scan._granules(folder, folder, 4096) == granules

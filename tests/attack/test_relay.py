"""Somebody on the way changes bits: no wrong byte arrives, and no call fails for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.attack_stage import HONEST, Stage, check_honest

RELAY = "127.0.0.60"
#: One of so many frames is changed; each costs its connection, and the next is tried after a while.
ONE_IN = 40


@pytest.fixture
def beside_the_way(secured: Stage) -> Iterator[Path]:
    """A config that gives the relay's address as the exporter's."""
    given = secured.cluster.config
    path = given.with_name("relayed.toml")
    path.write_text(given.read_text().replace('"127.0.0.2"', f'"{RELAY}"'))
    yield path
    path.unlink()


@pytest.mark.parametrize("loaded", [False, True], ids=["alone", "under-load"])
def test_flipped_bits_reach_nobody(secured: Stage, beside_the_way: Path, long: bool, loaded: bool) -> None:
    secured.standing()
    if loaded:
        secured.attack("read4k", source="127.0.0.4", connections=2)
    relay = secured.attack("flip", HONEST, source=RELAY, count=ONE_IN)
    honest = secured.honest(config=beside_the_way, area=1, seconds=60 if long else 5, writes=0.5)
    figures = honest.finish(120)
    counts = relay.end()
    assert counts.get("flipped", 0) > 0, counts
    assert (figures["errors"], figures["wrong"]) == ({}, 0), (figures, counts)
    assert figures["worst_ms"] < 1000 * secured.cluster.io_timeout_s
    check_honest(secured.figures(), secured.cluster.io_timeout_s)
    secured.check_exporter()

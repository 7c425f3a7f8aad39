"""An attacker on the way changes bits: no wrong byte arrives, and no call fails."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.attack_stage import HONEST, Stage, check_honest
from support.commands import until

RELAY = "127.0.0.60"
#: One of the first so many frames of a connection is changed. The connection then ends, and another is made.
ONE_IN = 40
FLIPS_SHORT, FLIPS_LONG = 2, 40


@pytest.fixture
def beside_the_way(secured: Stage) -> Iterator[Path]:
    """Make a config that gives the relay's address as the exporter's."""
    given = secured.cluster.config
    path = given.with_name("relayed.toml")
    path.write_text(given.read_text().replace('"127.0.0.2"', f'"{RELAY}"'))
    yield path
    path.unlink()


@pytest.mark.parametrize(
    "loaded", [pytest.param(False, id="alone"), pytest.param(True, id="under-load", marks=pytest.mark.long_attack)]
)
def test_flipped_bits_reach_nobody(secured: Stage, beside_the_way: Path, long: bool, loaded: bool) -> None:
    secured.standing()
    if loaded:
        secured.attack("read4k", source="127.0.0.4", connections=2)
    relay = secured.attack("flip", HONEST, source=RELAY, count=ONE_IN)
    honest = secured.honest(config=beside_the_way, area=1, seconds=3600, writes=0.5)
    wanted = FLIPS_LONG if long else FLIPS_SHORT
    until(lambda: relay.lines.count("flipped\n") >= wanted, f"{wanted} bits are flipped", 30.0 * wanted)
    # Requests in flight at that time are repeated, and answered.
    reports = [honest.report()]
    until(lambda: reports.append(honest.report()) or reports[-1]["p50_ms"] < 1000, "the session goes on", 60.0)
    reports.append(honest.end())
    counts = relay.end()
    for figures in reports:
        assert (figures["errors"], figures["wrong"]) == ({}, 0), (reports, counts)
        assert figures["worst_ms"] < 1000 * secured.cluster.io_timeout_s, (reports, counts)
    check_honest(secured.figures(), secured.cluster.io_timeout_s)
    secured.check_exporter()

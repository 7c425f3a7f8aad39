"""A node piles up what the exporter has to keep, beside an honest session of another node on another disk."""

from typing import Any

import pytest

from meshfs import limits
from support.attack_stage import ATTACKED, ATTACKER, READER, Stage, check_honest

LONG = pytest.mark.long_attack
NODE = {"source": "127.0.0.4"}
#: More than a node may have of each kind is piled up here.
PAST_LIMITS = ("locks", "opens", "notifies")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param("locks", {"count": 10_000}, id="10000-locks"),
        pytest.param("opens", {"count": 2500}, id="2500-opens"),
        pytest.param("notifies", {"connections": 3}, id="notifies", marks=LONG),
        pytest.param("patterns", {}, id="patterns-of-100-stars", marks=LONG),
        pytest.param("tiny", {}, id="tiny-listings", marks=LONG),
        pytest.param("compounds", {}, id="64-part-compounds", marks=LONG),
        pytest.param("replies", {"count": 20}, id="unread-replies"),
        pytest.param("halves", {"count": 20}, id="half-frames"),
        pytest.param("sips", {"count": 20}, id="slow-readers", marks=LONG),
        pytest.param("drips", {"count": 20}, id="slow-writers", marks=LONG),
        pytest.param("reconnects", {}, id="logins", marks=LONG),
        pytest.param("connections", {"count": 80}, id="connections"),
        pytest.param("sessions", {"count": 160}, id="sessions", marks=LONG),
    ],
)
def test_a_pile_leaves_others_served(stage: Stage, kind: str, options: dict[str, Any]) -> None:
    before = stage.counters().get("node_limits_reached", 0)
    row = stage.beside((kind, ATTACKER, {**NODE, **options}), name=_name(kind, options))
    assert row.counts["logins"] > 0, row.counts
    if kind in PAST_LIMITS:
        assert stage.counters()["node_limits_reached"] > before, row.counts


@LONG
@pytest.mark.parametrize(
    ("kind", "count", "patience_s"),
    [("locks", 100_000, 5.0), ("connections", 1023, 20.0), ("sessions", 2047, 20.0)],
    ids=["100000-locks", "1023-connections", "2047-sessions"],
)
def test_a_pile_as_high_as_it_gets(stage: Stage, kind: str, count: int, patience_s: float) -> None:
    options = {**NODE, "count": count}
    stage.beside((kind, ATTACKER, options), name=_name(kind, options), patience_s=patience_s)


def test_nobody_is_shut_out_by_a_node_that_has_all_connections(stage: Stage) -> None:
    """Another node logs in meanwhile."""
    wanted = limits.CONNECTIONS_MAX - 1
    attack = stage.attack("connections", ATTACKER, **NODE, count=wanted)
    honest = stage.honest(seconds=0.5, area=1).finish()
    counts = attack.end()
    check_honest(honest, stage.cluster.io_timeout_s)
    assert counts["held at most"] >= limits.CONNECTIONS_PER_NODE_MIN, counts
    assert counts["held at most"] < wanted, counts
    stage.check_exporter()


def test_a_node_that_may_only_read_stops_no_writer(stage: Stage) -> None:
    """The node asks first, for opens that share nothing and for exclusive locks of the whole disk."""
    attack = stage.attack("readonly", READER, source="127.0.0.5")
    figures = stage.honest(disk=ATTACKED, writes=0.5).finish()
    counts = attack.end()
    assert counts["logins"] > 0, counts
    assert "lock 0x00000000" not in counts, counts
    check_honest(figures, stage.cluster.io_timeout_s)
    stage.check_exporter()


def _name(kind: str, options: dict[str, Any]) -> str:
    return f"{kind} {options['count']}" if "count" in options else kind

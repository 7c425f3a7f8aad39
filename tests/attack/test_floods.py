"""A node that sends all it can, beside an honest session of another node and another disk."""

import pytest

from support.attack_stage import ATTACKER, Stage

LONG = pytest.mark.long_attack
SHORT, MORE = ("create", "signature", "read1m"), ("directory", "read4k", "lock")
SOURCE = {"source": "127.0.0.4"}


def test_alone(stage: Stage) -> None:
    """What the others are compared with."""
    stage.beside(name="alone")


@pytest.mark.parametrize(
    "kind", [*SHORT, *(pytest.param(kind, marks=LONG) for kind in ("directory", "read4k", "lock"))]
)
def test_a_flood_leaves_others_served(stage: Stage, kind: str) -> None:
    row = stage.beside((kind, ATTACKER, {**SOURCE, "connections": 2, "depth": 64}))
    # A wrong signature may get no answer but the connection's end.
    assert row.counts.get("requests", 0) + row.counts["logins"] > 1, row.counts


@LONG
def test_floods_of_sealed_requests(encrypted: Stage) -> None:
    encrypted.beside(("read4k", ATTACKER, {**SOURCE, "connections": 2, "depth": 64}))


@LONG
def test_a_wrong_signature_gets_nobody_anything(stage: Stage) -> None:
    before = stage.counters().get("bad_signatures", 0)
    row = stage.beside(("signature", ATTACKER, {**SOURCE, "depth": 1}), name="signature, one by one")
    assert "status 0x00000000" not in row.counts, row.counts
    assert stage.counters()["bad_signatures"] > before

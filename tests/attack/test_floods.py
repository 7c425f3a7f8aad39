"""A node sends all it can, beside an honest session of another node on another disk."""

import pytest

from meshfs.smb.constants import NtStatus
from support.attack_stage import ATTACKER, Stage

LONG = pytest.mark.long_attack
SHORT, MORE = ("create", "read1m"), ("directory", "read4k", "lock")
SOURCE = {"source": "127.0.0.4"}
DEPTH = 64
#: How the exporter answers. CREATE is refused after all of it was examined, because the disk is open for writing.
ANSWERS = {"create": NtStatus.SHARING_VIOLATION}


def test_an_honest_session_alone_is_measured(stage: Stage) -> None:
    """The session alone is what the sessions beside attacks are compared with."""
    stage.beside(name="alone")


@pytest.mark.parametrize("kind", [*SHORT, *(pytest.param(kind, marks=LONG) for kind in MORE)])
def test_a_flood_leaves_others_served(stage: Stage, kind: str) -> None:
    row = stage.beside((kind, ATTACKER, {**SOURCE, "connections": 2, "depth": DEPTH}))
    answers = f"status 0x{ANSWERS.get(kind, 0):08x}"
    # The flood went on, because more requests came than one connection can have in flight at once.
    assert row.counts[answers] > DEPTH, row.counts


def test_a_flood_of_wrong_signatures_leaves_others_served(stage: Stage) -> None:
    """Each wrong signature costs the attacker its connection and a login."""
    before = stage.counters().get("bad_signatures", 0)
    row = stage.beside(("signature", ATTACKER, {**SOURCE, "connections": 2, "depth": DEPTH}))
    assert row.counts["connections ended"] > 2, row.counts
    assert stage.counters()["bad_signatures"] > before + 2


@LONG
def test_floods_of_sealed_requests(encrypted: Stage) -> None:
    row = encrypted.beside(("read4k", ATTACKER, {**SOURCE, "connections": 2, "depth": DEPTH}))
    assert row.counts["status 0x00000000"] > DEPTH, row.counts


@LONG
def test_a_wrong_signature_gets_nobody_anything(stage: Stage) -> None:
    before = stage.counters().get("bad_signatures", 0)
    row = stage.beside(("signature", ATTACKER, {**SOURCE, "depth": 1}), name="signature, one by one")
    assert "status 0x00000000" not in row.counts, row.counts
    assert stage.counters()["bad_signatures"] > before

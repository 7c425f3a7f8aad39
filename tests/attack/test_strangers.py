"""An attacker without a password can neither log in nor, from another address, prevent a node from logging in."""

from typing import Any

import pytest

from support.attack_stage import ATTACKER, HONEST, OWNER, Stage, check_honest

LONG = pytest.mark.long_attack
#: The addresses of strangers, one or 400. None of them is in the config.
ONE = "127.9.0.1"
MANY = ",".join(f"127.9.{number // 200}.{number % 200 + 1}" for number in range(400))
#: The address of the honest node. An attack has the same source address if it runs on the same machine or comes through
#: the same NAT router.
SHARED = "127.0.0.1"


@pytest.mark.parametrize(
    ("kind", "source", "count"),
    [
        pytest.param("idle", ONE, 128, id="idle"),
        pytest.param("idle", MANY, 2000, id="idle-2000", marks=LONG),
        pytest.param("trickle", ONE, 128, id="trickle", marks=LONG),
        pytest.param("half", MANY, 300, id="half"),
    ],
)
def test_connections_that_say_nothing_keep_nobody_out(stage: Stage, kind: str, source: str, count: int) -> None:
    attack = kind, "stranger", {"source": source, "count": count}
    row = stage.beside(attack, name=f"{kind} {count}")
    assert row.counts["connections"] >= count, row.counts


def test_nodes_log_in_while_strangers_reconnect(stage: Stage) -> None:
    """The nodes log in over TCP, and over the owner's own Unix socket."""
    with stage.measured():
        attack = stage.attack("idle", "stranger", source=ONE, count=256)
        for node in (HONEST, OWNER):
            check_honest(stage.honest(node, seconds=0.5, area=1).finish(), stage.cluster.io_timeout_s)
        attack.end()
    stage.check_exporter()


@LONG
def test_a_stranger_at_a_nodes_own_address_leaves_its_sessions_and_the_unix_socket(stage: Stage) -> None:
    stage.beside(("idle", "stranger", {"source": SHARED, "count": 256}), name="idle 256, same address")
    attack = stage.attack("idle", "stranger", source=SHARED, count=256)
    check_honest(stage.honest(OWNER, seconds=0.5, area=1).finish(), stage.cluster.io_timeout_s)
    attack.end()


@pytest.mark.parametrize("options", [pytest.param({}, id="tcp"), pytest.param({"unix": True}, id="unix", marks=LONG)])
def test_wrong_passwords_let_nobody_in(stage: Stage, options: dict[str, Any]) -> None:
    place, before = "unix" if options else "tcp", stage.counters().get("logins_denied", 0)
    row = stage.beside(("passwords", ATTACKER, {"source": ONE, **options}), name=f"passwords, {place}")
    assert row.counts.get("got in", 0) == 0, row.counts
    assert row.counts["logins"] > 0, row.counts
    assert stage.counters()["logins_denied"] >= before + row.counts["refused"]


def test_refusals_that_a_stranger_does_not_take(stage: Stage) -> None:
    row = stage.beside(("unread", "stranger", {"source": ONE}))
    assert row.counts["requests"] > 0, row.counts

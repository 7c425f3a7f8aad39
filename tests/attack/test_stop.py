"""An exporter that is flooded reloads its config, and stops."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshfs import limits
from support.attack_stage import ATTACKER, OWNER, Stage, attacked_cluster, check_honest, joined
from support.commands import until

FLOODS = (("read4k", ATTACKER), ("create", ATTACKER), ("idle", "stranger"))
SOURCES = {ATTACKER: "127.0.0.4", "stranger": "127.9.0.1"}


@pytest.fixture
def own(tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[Stage]:
    """Make a stage for the test alone, because its exporter ends in the test."""
    with attacked_cluster(tmp_path, program=pytestconfig.getoption("--attack-exporter")) as cluster:
        cluster.start_exporter(OWNER)
        stage = Stage(cluster, 1.0, [])
        try:
            yield stage
        finally:
            stage.close()


def flooded(stage: Stage) -> None:
    for kind, node in FLOODS:
        stage.attack(kind, node, source=SOURCES[node], connections=2)


def goes_on(stage: Stage) -> tuple[dict[str, int], int]:
    """Wait until the honest session is served again. Return all errors and wrong bytes that it met meanwhile."""
    reports = [stage.figures()]

    def is_served() -> bool:
        time.sleep(0.5)
        reports.append(joined(reports[-1], stage.figures()))
        return bool(reports[-1]["calls"] > 10)

    until(is_served, "the honest session goes on", 60.0)
    return reports[-1]["errors"], reports[-1]["wrong"]


@pytest.mark.long_attack
def test_a_reload_under_attack_changes_nothing_for_others(own: Stage) -> None:
    own.standing()
    flooded(own)
    node = own.cluster.nodes[OWNER]
    node.disks.append(own.cluster.image("disk2", limits.MIB, cache="writeback"))
    own.cluster.write()
    os.kill(own.pid, signal.SIGHUP)
    until(lambda: "disk2" in [disk["name"] for disk in own.cluster.control(OWNER)["disks"]], "reloaded", 60.0)
    check_honest(own.figures(), own.cluster.io_timeout_s)
    own.check_exporter()


def test_a_stop_under_attack_ends_in_time(own: Stage) -> None:
    """The process ends by itself within the time for requests in flight, and what it acknowledged is on the disk."""
    own.standing()
    flooded(own)
    check_honest(own.figures(), own.cluster.io_timeout_s)
    running = own.cluster.exporters[OWNER]
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(3 * limits.DRAIN_TIMEOUT_S) == 0
    assert "Traceback" not in own.log
    assert not list((own.cluster.folder / "run").iterdir()), "its sockets stay behind"
    # The stop may take longer than a call waits. Errors are therefore allowed here, but wrong bytes are not.
    own.cluster.start_exporter(OWNER)
    _, wrong = goes_on(own)
    assert wrong == 0


def test_an_exporter_that_is_killed_under_attack_comes_back(own: Stage) -> None:
    """The honest session waits within its bound meanwhile, and goes on without an error."""
    own.standing()
    flooded(own)
    own.cluster.stop_exporter(OWNER, signal.SIGKILL)
    own.cluster.start_exporter(OWNER)
    assert goes_on(own) == ({}, 0)
    own.check_exporter()

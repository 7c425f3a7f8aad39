"""Each command takes the node that has the name of the machine."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from meshlab.cluster.cluster import BIN, LocalCluster
from support.commands import run, until

pytestmark = pytest.mark.mounted

NewCluster = Callable[..., LocalCluster]


def as_host(name: str, *command: str | Path) -> list[str]:
    """Return the command for a machine that has this name."""
    return ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name, *(str(part) for part in command)]


@pytest.mark.parametrize(("host", "known"), [("N2.example.com", True), ("n2", True), ("n22", False)])
def test_every_command_finds_the_same_node(new_cluster: NewCluster, tmp_path: Path, host: str, known: bool) -> None:
    cluster = new_cluster()
    cluster.add_node("n1")
    cluster.add_node("n2")
    cluster.write()
    cluster.keygen()
    point = tmp_path / "mesh"
    point.mkdir()
    # Under this name, -f means what it means to mount(8): everything is checked, and nothing is mounted.
    helper = tmp_path / "mount.meshfs"
    helper.symlink_to(BIN / "meshfs")
    mount = as_host(host, helper, cluster.config, point, "-f")
    status = as_host(host, BIN / "meshctl", "status", "--config", cluster.config)
    exporter = as_host(host, BIN / "meshfsd", "--config", cluster.config)
    if not known:
        for command in (mount, status, exporter):
            assert f"no node is named as this host ({host})" in run(*command, status=2)
        return
    run(*mount)
    log = tmp_path / "log"
    with log.open("wb") as output, subprocess.Popen(exporter, stdout=output, stderr=output) as process:
        try:
            until(lambda: "node n2 serves" in log.read_text(), "the exporter of n2 serves")
            assert "exporter n2, pid" in run(*status)
        finally:
            process.terminate()

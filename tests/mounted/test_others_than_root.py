"""A real unprivileged user sees whether a mount is well, and nothing of anybody's I/O."""

import grp
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import BIN, LocalCluster
from support.commands import until

pytestmark = pytest.mark.mounted

NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
OF_GROUP_DISK = ("setpriv", "--reuid", "65534", "--regid", "65534", "--groups", str(grp.getgrnam("disk").gr_gid))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Make a folder that everybody may enter.

    tmp_path would not do: whenever another pytest starts, it closes the folder above to other users.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        yield Path(folder)


@pytest.fixture
def cluster(open_folder: Path, new_cluster: Callable[..., LocalCluster]) -> LocalCluster:
    """Start n1 with a disk and a mount, below a folder that everybody may enter."""
    # An absolute path as the label replaces the folder of the test.
    cluster = new_cluster(str(open_folder / "c"))
    cluster.add_node("n1", [cluster.image("disk0", 4 * MIB)])
    cluster.write()
    cluster.keygen()
    cluster.start_exporter("n1")
    cluster.mount("n1")
    cluster.folder.joinpath("run").chmod(0o700)
    return cluster


def run(who: Sequence[str], *command: object, status: int = 0) -> tuple[str, str]:
    done = subprocess.run([*who, *map(str, command)], capture_output=True, text=True, timeout=60, check=False, cwd="/")
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr


def test_meshctl_shows_everybody_whether_all_is_well(cluster: LocalCluster) -> None:
    point = cluster.mountpoint("n1")
    out, err = run(NOBODY, BIN / "meshctl", "status", point)
    assert "n1       connected" in out
    assert "note: exporter n1" in err
    assert "only root may ask the exporter" in err
    assert "meshfs-n1-disk0 n1   disk0   4M rw" in run(NOBODY, BIN / "meshctl", "disks", point)[0]
    assert "connected" in run(NOBODY, BIN / "meshctl", "paths", point)[0]
    cluster.stop_exporter("n1", signal.SIGKILL)
    until(lambda: run(NOBODY, "cat", point / ".meshfs/status")[0].count("exporter-away"), "the mount noticed")
    _, err = run(NOBODY, BIN / "meshctl", "status", point, status=1)
    assert "exporter n1: it is down" in err


def test_a_config_that_only_root_reads_is_no_fault(cluster: LocalCluster) -> None:
    cluster.config.chmod(0o600)
    _, err = run(NOBODY, BIN / "meshctl", "status", cluster.mountpoint("n1"))
    assert f"note: exporter n1: only root may read {cluster.config}" in err


def test_asked_for_by_name_what_only_root_sees_is_an_error(cluster: LocalCluster) -> None:
    _, err = run(NOBODY, BIN / "meshctl", "status", "--config", cluster.config, "--node", "n1", status=1)
    assert "only root may ask the exporter" in err


def test_the_status_file_tells_others_nothing_of_io(cluster: LocalCluster) -> None:
    path = cluster.mountpoint("n1") / ".meshfs/status"
    whole, shown = json.loads(path.read_bytes()), json.loads(run(NOBODY, "cat", path)[0])
    assert (whole["whole"], shown["whole"]) == (True, False)
    assert {"io", "opens"} & whole["disks"][0].keys() == {"io", "opens"}
    assert {"io", "opens"} & shown["disks"][0].keys() == set()
    assert "waiting" not in shown["exporters"][0]
    assert shown["disks"][0]["state"] == "ok"


def test_getfattr_shows_what_the_caller_may_read(cluster: LocalCluster) -> None:
    disk = cluster.mountpoint("n1") / "disk/by-node/n1/disk0"
    for who in ((), OF_GROUP_DISK):
        out, err = run(who, "getfattr", "--absolute-names", "-d", disk)
        assert 'user.meshfs.state="ok"' in out
        assert err == ""
    assert run(NOBODY, "getfattr", "--absolute-names", "-d", disk) == ("", "")
    out, err = run(NOBODY, "getfattr", "--absolute-names", "-d", "-m", "meshfs", disk)
    assert 'system.meshfs.state="ok"' in out
    assert 'system.meshfs.node="n1"' in out
    assert err == ""
    assert "system." not in run((), "getfattr", "--absolute-names", "-d", "-m", "-", disk)[0]


def test_copying_a_disk_with_its_attributes_works(cluster: LocalCluster, tmp_path: Path) -> None:
    disk = cluster.mountpoint("n1") / "disk/by-node/n1/disk0"
    assert run((), "cp", "-aL", disk, tmp_path / "copy") == ("", "")

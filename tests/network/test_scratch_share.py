"""smbclient uses the share `scratch` of a real exporter. The mesh and a reload know nothing of the share."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshfs.limits import KIB, MIB
from meshlab.cluster.cluster import LocalCluster, tracebacks
from support.commands import run, until

pytestmark = pytest.mark.peers

SCRATCH_BYTES = 8 * MIB


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    folder = tmp_path_factory.mktemp("scratch")
    with LocalCluster(folder) as cluster:
        cluster.add_node("n1", [cluster.image("disk0", 256 * KIB)])
        cluster.nodes["n1"].settings["scratch_size_bytes"] = SCRATCH_BYTES
        cluster.add_node("n2")
        cluster.write()
        cluster.keygen()
        cluster.start_exporter("n1")
        yield cluster
    assert list(tracebacks(cluster.logs)) == []


def smbclient(cluster: LocalCluster, command: str, *options: str, status: int | None = 0) -> str:
    node = cluster.nodes["n1"]
    password = cluster.meshctl("password", str(cluster.config), "--node", "n2", "--to", "n1").stdout.strip()
    line = ["smbclient", f"//{node.address}/scratch", "-p", str(node.port), "-U", f"n2%{password}", "-c", command]
    return run(*line, *options, status=status, timeout_s=60)


@pytest.mark.parametrize("protection", ["sign", "encrypt"])
def test_smbclient_makes_and_removes_files_and_directories(
    cluster: LocalCluster, tmp_path: Path, protection: str
) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(3 * MIB + 17))
    protected = f"--client-protection={protection}"
    commands = f"put {source} file; mkdir folder; put {source} folder\\inner; get folder\\inner {back}"
    output = smbclient(cluster, f"{commands}; rename file folder\\moved; ls; ls folder\\*; du", protected)
    assert "NT_STATUS" not in output, output
    run("cmp", source, back)
    lines = [line.split()[:3] for line in output.splitlines()]
    assert ["folder", "D", "0"] in lines
    assert ["moved", "A", str(source.stat().st_size)] in lines
    assert ["inner", "A", str(source.stat().st_size)] in lines
    refused = smbclient(cluster, f"rmdir folder; put {source} third", protected, status=None)
    assert "NT_STATUS_DIRECTORY_NOT_EMPTY" in refused
    assert "NT_STATUS_DISK_FULL" in refused
    output = smbclient(cluster, "rm third; rm folder\\*; rmdir folder; ls", protected)
    assert "NT_STATUS" not in output, output
    assert [line.split()[0] for line in output.splitlines() if line.split()[1:2] in (["A"], ["D"])] == [".", ".."]


def test_smbclient_goes_through_nested_directories(cluster: LocalCluster, tmp_path: Path) -> None:
    """A tree of directories is made, copied in and out, listed, found by 8.3 names, moved and removed."""
    source, back = tmp_path / "source", tmp_path / "back"
    for path in ("a/b/c", "a/other"):
        (source / path).mkdir(parents=True)
    for path in ("a/one", "a/b/two", "a/b/c/a-long-name.three"):
        (source / path).write_bytes(os.urandom(10_000))
    back.mkdir()
    copy = f"prompt off; recurse on; lcd {source}; mput a; lcd {back}; mget a"
    assert "NT_STATUS" not in smbclient(cluster, copy)
    run("diff", "-r", source, back)
    found = smbclient(cluster, "allinfo a\\b\\c\\a-long-name.three")
    short = next(line.split()[1] for line in found.splitlines() if line.startswith("altname:"))
    assert "~" in short
    again = tmp_path / "again"
    smbclient(cluster, f"get a\\b\\c\\{short} {again}")
    run("cmp", source / "a/b/c/a-long-name.three", again)
    refused = smbclient(cluster, "rename a a\\b\\a", status=None)
    assert "NT_STATUS_ACCESS_DENIED" in refused
    assert "NT_STATUS" not in smbclient(cluster, "rename a\\b b; ls b\\c\\*")
    assert "NT_STATUS" not in smbclient(cluster, "deltree a; deltree b; ls")


def test_smbclient_lists_the_share(cluster: LocalCluster) -> None:
    node = cluster.nodes["n1"]
    password = cluster.meshctl("password", str(cluster.config), "--node", "n2", "--to", "n1").stdout.strip()
    listed = run("smbclient", "-L", f"//{node.address}", "-p", str(node.port), "-U", f"n2%{password}", status=None)
    assert [line.split()[:2] for line in listed.splitlines() if "Disk" in line] == [
        ["disks", "Disk"],
        ["disks-system", "Disk"],
        ["enclosures", "Disk"],
        ["scratch", "Disk"],
    ]


def test_a_reload_leaves_it_as_it_is(cluster: LocalCluster, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"kept")
    smbclient(cluster, f"put {source} kept")
    running = cluster.exporters["n1"]
    settings = cluster.nodes["n1"].settings
    before = len(running.log.read_text())
    try:
        del settings["scratch_size_bytes"]
        cluster.write()
        running.process.send_signal(signal.SIGHUP)
        until(lambda: "reloaded" in running.log.read_text()[before:], "reloaded")
        assert "need a restart to be in force: scratch_size_bytes of node n1" in running.log.read_text()[before:]
        assert "kept" in smbclient(cluster, "ls")
        cluster.stop_exporter("n1")
        cluster.start_exporter("n1")
        assert "NT_STATUS_BAD_NETWORK_NAME" in smbclient(cluster, "ls", status=1)
    finally:
        settings["scratch_size_bytes"] = SCRATCH_BYTES
        cluster.write()


@pytest.mark.mounted
def test_it_is_not_in_the_mesh(cluster: LocalCluster) -> None:
    point = cluster.mount("n1")
    try:
        assert os.listdir(point / "disk/by-node/n1") == ["disk0"]
        assert os.listdir(point / "disk/by-id") == ["meshfs-n1-disk0"]
    finally:
        cluster.unmount("n1")

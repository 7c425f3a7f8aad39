"""The kernel's SMB client at our exporter: a cifs mount writes, reads and asks for a disk's security descriptor."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster, tracebacks
from support.commands import run

pytestmark = pytest.mark.guest

DISK_BYTES = 16 * MIB


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("cifs")) as cluster:
        cluster.add_node("n1", [cluster.image("disk0", DISK_BYTES)])
        cluster.add_node("n2")
        cluster.write()
        cluster.keygen()
        cluster.start_exporter("n1")
        yield cluster
    assert list(tracebacks(cluster.logs)) == []


@contextmanager
def cifs(cluster: LocalCluster, point: Path, *options: str) -> Iterator[Path]:
    """Mount the share with all disks by mount.cifs, as node n2."""
    node = cluster.nodes["n1"]
    password = cluster.meshctl("password", str(cluster.config), "--node", "n2", "--to", "n1").stdout.strip()
    point.mkdir()
    given = ",".join([f"port={node.port}", "username=n2", f"password={password}", *options])
    mount = ["mount.cifs", f"//{node.address}/disks", point, "-o", given]
    # The first login loads the kernel's modules. On a machine with other work, that takes longer than the exporter
    # allows.
    if "mount error" in run(*mount, status=None):
        run(*mount)
    try:
        yield point
    finally:
        run("umount", point)


@pytest.mark.parametrize("options", [("sec=ntlmsspi",), ("seal",), ("sec=ntlmsspi", "cache=none")], ids=",".join)
def test_what_the_kernels_client_writes_it_reads_again(
    cluster: LocalCluster, tmp_path: Path, options: tuple[str, ...]
) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3 * MIB + 512))
    image = cluster.nodes["n1"].disks[0].path
    with cifs(cluster, tmp_path / "mnt", "vers=3.1.1", *options) as share:
        disk = share / "disk0"
        assert disk.stat().st_size == DISK_BYTES
        run("dd", f"if={source}", f"of={disk}", "bs=64K", "seek=4096", "oflag=seek_bytes", "conv=notrunc,fsync")
        run("cmp", "--ignore-initial=0:4096", f"--bytes={source.stat().st_size}", source, disk)
    run("cmp", "--ignore-initial=0:4096", f"--bytes={source.stat().st_size}", source, image)
    # Another mount has nothing in its page cache.
    with cifs(cluster, tmp_path / "again", "vers=3.1.1", *options) as share:
        run("cmp", "--ignore-initial=0:4096", f"--bytes={source.stat().st_size}", source, share / "disk0")


def test_the_security_descriptor_of_a_disk_can_be_asked_for(cluster: LocalCluster, tmp_path: Path) -> None:
    """getcifsacl first asks for the SACL, which the exporter refuses, and then for owner, group and DACL."""
    with cifs(cluster, tmp_path / "mnt", "sec=ntlmsspi") as share:
        shown = run("getcifsacl", "-r", share / "disk0")
    assert "OWNER:S-1-" in shown, shown


def test_the_kernels_client_punches_holes_and_zeroes(cluster: LocalCluster, tmp_path: Path) -> None:
    """fallocate sends SET_SPARSE and SET_ZERO_DATA. The hole frees blocks of the image at the owner."""
    image = cluster.nodes["n1"].disks[0].path
    with cifs(cluster, tmp_path / "mnt", "vers=3.1.1") as share:
        disk = share / "disk0"
        run("dd", "if=/dev/urandom", f"of={disk}", "bs=1M", "count=8", "conv=notrunc,fsync")
        before, full = image.read_bytes(), image.stat().st_blocks * 512
        run("fallocate", "--punch-hole", "--offset", "1M", "--length", "4M", disk)
        assert image.read_bytes() == before[:MIB] + bytes(4 * MIB) + before[5 * MIB :]
        assert full - image.stat().st_blocks * 512 >= 4 * MIB
        run("fallocate", "--zero-range", "--keep-size", "--offset", "6000000", "--length", "5000", disk)
        assert image.read_bytes()[6000000:6005000] == bytes(5000)
        assert disk.stat().st_size == DISK_BYTES

"""File systems on disks of the mesh in fstab are mounted and unmounted in order, with a real systemd as PID 1."""

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster
from support.systemd_machine import SystemdMachine, unavailable

pytestmark = [pytest.mark.mounted, pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "none")]

IMAGE_BYTES = 400 * MIB
DATA_BYTES = 250 * MIB
MESH = "/etc/meshfs/cluster.toml  /mesh  fuse.meshfs  node=n1,wait=own,_netdev  0  0"
FILESYSTEM = "/mesh/disk/by-id/meshfs-n1-disk0  /srv  ext4  loop,_netdev,x-systemd.requires-mounts-for=/mesh  0  0"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[SystemdMachine]:
    with SystemdMachine(tmp_path) as machine:
        yield machine


@pytest.fixture
def image(machine: SystemdMachine) -> Path:
    """Make the disk of node n1 with an empty ext4, and the config and keys of its mesh at /etc/meshfs."""
    cluster = LocalCluster(machine.folder / "etc")
    disk = cluster.image("disk0", IMAGE_BYTES, file=str(machine.share / "disk0.img"), cache="writeback")
    cluster.add_node("n1", [disk], port=4450, addresses=["127.0.0.2"])
    cluster.write()
    cluster.keygen()
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0", disk.path], check=True, capture_output=True)
    machine.enable("meshfsd@n1.service")
    return disk.path


def write_data(machine: SystemdMachine, size_bytes: int = DATA_BYTES) -> str:
    """Write a file that stays in the page cache; its SHA-256."""
    said = machine.shell(f"head -c {size_bytes} /dev/urandom | tee /srv/data | sha256sum")
    return said.split()[0]


def arrived(image: Path, folder: Path) -> str:
    """Return the SHA-256 of the file in the image, whose file system must be clean."""
    checked = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    copy = folder / "copy"
    subprocess.run(["debugfs", "-R", f"dump /data {copy}", image], check=True, capture_output=True)
    with copy.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_all_that_was_written_arrives_at_a_shutdown(machine: SystemdMachine, image: Path) -> None:
    machine.fstab(MESH, FILESYSTEM)
    # A unit like rescue.target: systemd stops for it everything that can be stopped.
    machine.unit("quiet.target", "[Unit]\nAllowIsolate=yes\nRequires=sysinit.target\n")
    assert machine.boot() == "running", machine.journal()
    expected = write_data(machine)
    machine.run("systemctl", "isolate", "quiet.target")
    assert machine.run("systemctl", "is-active", "meshfsd@n1.service", "srv.mount").split() == ["active", "active"]
    machine.power_off()
    assert arrived(image, machine.folder) == expected, machine.journal()


def test_a_boot_waits_for_the_disk_of_an_exporter_that_comes_late(machine: SystemdMachine, image: Path) -> None:
    """The exporter's unit is not ordered before the mounts, as if it ran on another node or were being restarted."""
    (machine.units / "multi-user.target.wants" / "meshfsd@n1.service").unlink()
    exporter = "sleep 4; exec meshfsd --config /etc/meshfs/cluster.toml --node n1"
    machine.unit("late.service", f"[Service]\nExecStart=sh -c '{exporter}'\n")
    machine.enable("late.service")
    machine.fstab(MESH.replace("wait=own", "wait=n1/disk0"), FILESYSTEM)
    assert machine.boot() == "running", machine.journal()
    assert machine.run("systemctl", "is-active", "srv.mount").strip() == "active"


def test_all_that_was_written_to_what_was_mounted_by_hand_arrives(machine: SystemdMachine, image: Path) -> None:
    """The mount's process is in the scope of a login, which systemd ends at once at a shutdown."""
    machine.boot()
    mesh = "mount -t fuse.meshfs /etc/meshfs/cluster.toml /mesh -o node=n1,wait=own"
    machine.shell(f"systemd-run --quiet --scope --unit=session-1 {mesh}")
    machine.shell("mount -o loop,_netdev /mesh/disk/by-id/meshfs-n1-disk0 /srv")
    expected = write_data(machine, 64 * MIB)
    machine.power_off()
    assert arrived(image, machine.folder) == expected, machine.journal()


def test_an_automounted_mesh_and_a_unit_that_waits_for_a_disk(machine: SystemdMachine, image: Path) -> None:
    waits = "x-systemd.requires=meshfs-wait@n1-disk0.service"
    machine.fstab(
        MESH.replace("_netdev", "_netdev,x-systemd.automount"), FILESYSTEM.replace("loop", f"loop,noauto,{waits}")
    )
    assert machine.boot() == "running", machine.journal()
    assert "mesh.mount" not in machine.run("systemctl", "list-units", "--state=mounted")
    assert machine.run("ls", "/mesh/disk/by-node/n1").split() == ["disk0"]
    machine.run("systemctl", "start", "srv.mount")
    machine.shell("echo here >/srv/data")
    machine.power_off()
    assert arrived(image, machine.folder) == hashlib.sha256(b"here\n").hexdigest(), machine.journal()


def test_autofs_mounts_the_mesh(machine: SystemdMachine, image: Path) -> None:
    machine.unit("automounter.service", "[Service]\nExecStart=/usr/sbin/automount --foreground --dont-check-daemon\n")
    machine.boot()
    machine.shell(
        "echo '/- /etc/auto.mesh' >/etc/auto.master; "
        "echo '/auto -fstype=fuse.meshfs,node=n1,wait=own :/etc/meshfs/cluster.toml' >/etc/auto.mesh; "
        "systemctl start automounter; until grep -q ' /auto autofs' /proc/mounts; do sleep 0.1; done"
    )
    assert machine.run("ls", "/auto/disk/by-node/n1").split() == ["disk0"]
    machine.shell("echo here >/auto/disk/by-node/n1/disk0")
    machine.power_off()
    with image.open("rb") as disk:
        assert disk.read(5) == b"here\n"

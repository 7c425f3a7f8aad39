"""The unit of the exporter in a real systemd: what it may do, and what systemd does if it hangs."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster, LocalDisk
from support.loop_device import loop_device
from support.systemd_machine import SystemdMachine, unavailable

pytestmark = [pytest.mark.mounted, pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "none")]

#: The capabilities that the unit keeps, as bits of linux/capability.h.
CAPABILITIES = sum(1 << bit for bit in (1, 10, 12, 17, 28))
SECCOMP_FILTER = "2"
WATCHDOG = "[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[SystemdMachine]:
    """Yield a booted machine with node n1, whose disks are an image and a loop device, and with its mount at /mesh."""
    with SystemdMachine(tmp_path) as machine:
        cluster = LocalCluster(machine.folder / "etc")
        image = cluster.image("image", 4 * MIB, file=str(machine.share / "image.img"), cache="writeback")
        with loop_device(machine.share / "device.img", 4 * MIB) as device:
            cluster.add_node("n1", [image, LocalDisk("device", Path(device))], port=4450, addresses=["127.0.0.2"])
            cluster.write()
            cluster.keygen()
            machine.drop_in("meshfsd@.service", WATCHDOG)
            machine.enable("meshfsd@n1.service")
            machine.fstab("/etc/meshfs/cluster.toml  /mesh  fuse.meshfs  node=n1,wait=own,_netdev  0  0")
            assert machine.boot() == "running", machine.journal()
            yield machine


def show(machine: SystemdMachine, name: str) -> str:
    return machine.run("systemctl", "show", "--value", "--property", name, "meshfsd@n1").strip()


def test_the_exporter_serves_with_no_more_rights_than_it_needs(machine: SystemdMachine) -> None:
    pid = show(machine, "MainPID")
    status = machine.run("cat", f"/proc/{pid}/status")
    facts = dict(re.findall(r"^(\w+):\s+(\S+)", status, re.MULTILINE))
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", SECCOMP_FILTER)
    assert int(facts["CapBnd"], 16) == int(facts["CapEff"], 16) == CAPABILITIES
    for name in ("image", "device"):
        machine.shell(f"echo {name} | dd of=/mesh/disk/by-node/n1/{name} conv=notrunc,fsync status=none")
        assert machine.shell(f"head -c {len(name)} /mesh/disk/by-node/n1/{name}") == name
    assert machine.run("stat", "--format=%a", "/run/meshfs/n1", "/var/lib/meshfs/n1").split() == ["755", "755"]
    assert machine.run("meshctl", "status").splitlines()[:1]
    journal = machine.journal("--unit=meshfsd@n1.service")
    assert "Operation not permitted" not in journal
    assert "Read-only file system" not in journal


def test_an_exporter_that_hangs_is_restarted_and_the_io_goes_on(machine: SystemdMachine) -> None:
    machine.shell("echo before | dd of=/mesh/disk/by-node/n1/image conv=notrunc,fsync status=none")
    machine.run("systemctl", "kill", "--signal=STOP", "meshfsd@n1")
    assert machine.shell("dd if=/mesh/disk/by-node/n1/image iflag=direct bs=4096 count=1 status=none | head -c 6") == (
        "before"
    )
    assert show(machine, "NRestarts") == "1"
    assert "Watchdog timeout" in machine.journal("--unit=meshfsd@n1.service")


def test_systemd_itself_judges_the_unit() -> None:
    """The page of the installation gives the figure of systemd-analyze."""
    unit = Path(__file__).parents[2] / "daemon/systemd/meshfsd@.service"
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=35", unit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]

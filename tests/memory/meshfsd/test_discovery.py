"""The discovery of disks, with made-up devices: one that hangs, a claim at the same moment, and a lack of facts."""

import errno
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from meshfs import limits
from meshfs.cluster.config_discovery import DiscoveryConfig
from meshfs.cluster.config_nodes import DiskConfig
from meshfs.disk.discovery.block_device import BlockDevice
from meshfs.disk.discovery.selection import Examined, Refusal, Selection
from meshfs.model import Access, Cache
from meshfsd import discovery
from meshfsd.discovery import DiskDiscovery
from meshfsd.served import ClaimedDevice

CONFIG = DiscoveryConfig(Selection(), Cache.NONE, Access.READ_WRITE, {})


def device(name: str, number: str, disk_id: str) -> BlockDevice:
    return BlockDevice(
        name=name,
        path=Path("/dev") / name,
        number=number,
        size_bytes=1 << 40,
        bus="sas",
        model="M",
        serial="S",
        id=disk_id,
        rotational=True,
        removable=False,
        read_only=False,
        place=Path("/nowhere") / name,
    )


A, B = device("sda", "8:0", "wwn-0xa"), device("sdb", "8:16", "wwn-0xb")


class FakeClaims:
    """Stands for the exporter's disks. ``late`` are the claims that are in progress."""

    def __init__(self, claimed: dict[str, ClaimedDevice] | None = None) -> None:
        self.now = claimed or {}
        self.late: dict[str, ClaimedDevice] = {}

    def claimed(self) -> dict[str, ClaimedDevice]:
        return dict(self.now)

    async def claim_ended(self, disk_id: str) -> None:
        await trio.lowlevel.checkpoint()
        self.now |= {key: value for key, value in self.late.items() if key == disk_id}


class Machine:
    """Stands for the devices of the machine, and what is found out about their use."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.devices: Sequence[BlockDevice] = (A, B)
        self.examined: dict[str, Examined] = {}
        self.hanging: dict[str, threading.Event] = {}
        self.error: OSError | None = None
        self.claims = FakeClaims()
        self.discovery = DiskDiscovery(tmp_path / "state")
        monkeypatch.setattr(discovery, "read_block_devices", self._read)
        monkeypatch.setattr(discovery, "examine", self._examine)
        monkeypatch.setattr(limits, "DISCOVERY_TIMEOUT_S", 0.2)

    def _read(self, **_: object) -> list[BlockDevice]:
        if self.error is not None:
            raise self.error
        return list(self.devices)

    def _examine(self, device: BlockDevice) -> Examined:
        if device.name in self.hanging:
            self.hanging[device.name].wait(10)
        return self.examined.get(device.name, Examined())

    async def find(self, listed: Sequence[DiskConfig] = ()) -> list[str]:
        with trio.fail_after(5):
            return [disk.name for disk in await self.discovery.find(CONFIG, listed, self.claims)]

    def refusal(self, name: str) -> Refusal | None:
        (verdict,) = [each for each in self.discovery.verdicts if each.device.name == name]
        return verdict.refusal


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine(tmp_path, monkeypatch)
    yield machine
    for event in machine.hanging.values():
        event.set()


async def test_a_device_that_hangs_is_not_offered_and_hides_no_other(machine: Machine) -> None:
    machine.hanging["sda"] = threading.Event()
    assert await machine.find() == ["wwn-0xb"]
    assert machine.refusal("sda") is Refusal.UNKNOWN
    assert machine.discovery.wants_another_look
    assert await machine.find() == ["wwn-0xb"], "the thread that is stuck stops the next look"
    machine.hanging["sda"].set()
    with trio.fail_after(5):
        while await machine.find() != ["wwn-0xa", "wwn-0xb"]:  # noqa: ASYNC110 - a thread ends without an event
            await trio.sleep(0.01)


async def test_while_the_disks_cannot_be_listed_those_found_before_stay_and_another_look_follows(
    machine: Machine,
) -> None:
    assert await machine.find() == ["wwn-0xa", "wwn-0xb"]
    machine.error = OSError(errno.EMFILE, "Too many open files")
    assert await machine.find() == ["wwn-0xa", "wwn-0xb"]
    assert machine.discovery.wants_another_look
    machine.error = None
    machine.devices = [B]
    assert await machine.find() == ["wwn-0xb"]
    assert not machine.discovery.wants_another_look


async def test_a_disk_that_its_keeper_claims_during_the_look_is_not_in_use_by_another(machine: Machine) -> None:
    machine.examined["sda"] = machine.examined["sdb"] = Examined(used_by="a program has opened it exclusively")
    machine.claims.late["wwn-0xa"] = ClaimedDevice("/dev/sda", "")
    assert await machine.find() == ["wwn-0xa"]
    assert machine.refusal("sdb") is Refusal.USED


async def test_a_claimed_disk_keeps_its_id_when_udev_learns_another_or_forgets_it(machine: Machine) -> None:
    machine.claims.now["scsi-M_S"] = ClaimedDevice("/dev/sda", "")
    machine.examined["sda"] = Examined(used_by="the exporter itself")
    for changed in (A, replace(A, id=""), replace(A, id="", is_pending=True), replace(A, read_only=True)):
        machine.devices = [changed, B]
        assert await machine.find() == ["scsi-M_S", "wwn-0xb"]


async def test_another_device_at_the_path_of_a_claimed_disk_does_not_get_its_id(machine: Machine) -> None:
    machine.claims.now["wwn-0xold"] = ClaimedDevice("/dev/sda", "an earlier diskseq")
    assert await machine.find() == ["wwn-0xa", "wwn-0xb"]


async def test_a_listed_image_on_a_file_system_that_is_stuck_stops_no_discovery(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.hanging["listed"] = threading.Event()
    monkeypatch.setattr(limits, "DISK_CALL_TIMEOUT_S", 0.2)
    monkeypatch.setattr(discovery, "_number", lambda _: machine.hanging["listed"].wait(10))
    listed = DiskConfig("disk0", Path("/stuck/disk.img"), Cache.NONE, Access.READ_WRITE, {})
    assert await machine.find([listed]) == ["wwn-0xa", "wwn-0xb"]


async def test_a_record_that_cannot_be_looked_for_counts_as_none(machine: Machine, tmp_path: Path) -> None:
    name = "wwn-0x" + "a" * 300
    machine.devices = [replace(A, id=name), B]
    machine.examined["sda"] = Examined(member_of="a ZFS pool")
    assert await machine.find() == ["wwn-0xb"]
    assert machine.refusal("sda") is Refusal.MEMBER

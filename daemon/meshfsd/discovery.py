"""Find the disks that a node with [node.disks] offers, and say of the machine's other disks why they are not offered.

    find        looks at all disks of the machine, and returns the configs of those that are to be served
    verdicts    the result of the last look, for `meshctl disks --all`

A disk that is served already is not examined again: the exporter itself has claimed it, and would find it in use. It
also keeps its id, whatever udev says of it later. If the device of a disk disappears, the disk is no longer found, and
so it is withdrawn. When the device comes back, in whatever slot, it is found under the same id.

A device that hangs must not hide the others. So each disk is examined in a thread of its own, with a time limit. A disk
whose thread is stuck is not offered, and is asked again later. While the disks cannot even be listed, the last result
stays in force.
"""

import logging
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import trio

from meshfs import limits
from meshfs.cluster.config_discovery import DiscoveryConfig
from meshfs.cluster.config_nodes import DiskConfig
from meshfs.disk.discovery.block_device import BlockDevice, read_block_devices
from meshfs.disk.discovery.examine import examine
from meshfs.disk.discovery.selection import DiskVerdict, Examined, Refusal, candidates, judge
from meshfs.disk.discovery.sysfs import device_folder, read_text, whole_disk
from meshfs.errors import TookTooLong
from meshfs.loop.bounded import Bounded
from meshfsd.remembered import is_remembered
from meshfsd.served import ClaimedDevice

logger = logging.getLogger(__name__)

#: The refusals that may end without an event of the kernel.
_MAY_END: frozenset[Refusal] = frozenset((Refusal.USED, Refusal.UNKNOWN, Refusal.PENDING))
#: The refusals that are not logged, because nobody asked for such a disk, or because they last for a moment.
_QUIET: frozenset[Refusal] = frozenset((Refusal.EMPTY, Refusal.PENDING))


class Claims(Protocol):
    """Knows which discovered disks are served now. `Disks` is the real one."""

    def claimed(self) -> Mapping[str, ClaimedDevice]:
        """Return the devices of the discovered disks that are claimed now, by the disks' ids."""
        ...

    async def claim_ended(self, disk_id: str) -> None:
        """Wait until no attempt to claim the disk is in progress."""
        ...


class DiskDiscovery:
    """Finds disks for one node. ``state_folder`` has the records of the disks that the node has served before."""

    def __init__(self, state_folder: Path) -> None:
        self.verdicts: list[DiskVerdict] = []
        self._state_folder = state_folder
        self._listing = Bounded("the list of this machine's disks")
        self._calls: dict[str, Bounded] = {}
        self._at_once = trio.CapacityLimiter(limits.DISCOVERY_AT_ONCE_MAX)
        self._found: list[DiskConfig] = []
        # True if the disks could not be listed.
        self._missed = False

    @property
    def found(self) -> Sequence[DiskConfig]:
        """Return the result of the last `find`."""
        return self._found

    @property
    def wants_another_look(self) -> bool:
        """Return whether another look is due without an event: a use may have ended, or the last look failed."""
        return self._missed or any(verdict.refusal in _MAY_END for verdict in self.verdicts)

    async def find(
        self,
        config: DiscoveryConfig | None,
        listed: Sequence[DiskConfig],
        claims: Claims,
        *,
        freed_only: bool = False,
    ) -> Sequence[DiskConfig]:
        """Return the configs of the discovered disks that are to be served. None of them is one of ``listed``.

        With ``freed_only``, only disks that were in use are examined again, because the kernel does not report the end
        of a use.
        """
        if config is None:
            self.verdicts, self._found, self._missed = [], [], False
            return self._found
        kept = {_key(each.device): each for each in self.verdicts if each.refusal not in _MAY_END} if freed_only else {}
        claimed = claims.claimed()
        numbers = await self._numbers(listed)
        try:
            devices = await self._listing.call(_devices, config, dict(claimed), timeout_s=limits.DISCOVERY_TIMEOUT_S)
        except (OSError, TookTooLong) as error:
            logger.warning("disks are not looked for now, those found before stay: %s", error)
            self._missed = True
            return self._found
        self._missed = False
        served = {each.id: each.number for each in devices if each.id in claimed and _is(each, claimed[each.id])}
        names = [disk.name for disk in listed]
        examined, verdicts = candidates(devices, config.selection, numbers, served, names)
        self._forget_calls(devices, listed)
        async with trio.open_nursery() as nursery:
            for device in examined:
                known = kept.get(_key(device))
                if served.get(device.id) == device.number:
                    verdicts.append(DiskVerdict(device))
                elif known is not None and not known.is_offered:
                    verdicts.append(known)
                else:
                    nursery.start_soon(self._judge, device, claims, verdicts)
        verdicts.sort(key=lambda verdict: verdict.device.name)
        _log(self.verdicts, verdicts)
        self.verdicts = verdicts
        self._found = [_config(verdict.device, config) for verdict in verdicts if verdict.is_offered]
        return self._found

    async def _judge(self, device: BlockDevice, claims: Claims, verdicts: list[DiskVerdict]) -> None:
        """Examine a disk, and append the verdict on it."""
        verdict = await self._examined(device)
        if verdict.refusal is Refusal.USED:
            # The user may be this exporter: the disk's keeper may have claimed it since the look began.
            await claims.claim_ended(device.id)
            claimed = claims.claimed().get(device.id)
            if claimed is not None and claimed.path == str(device.path):
                verdict = DiskVerdict(device)
        verdicts.append(verdict)

    async def _examined(self, device: BlockDevice) -> DiskVerdict:
        calls = self._calls.setdefault(_subject(device), Bounded(f"the examination of disk {device.path}"))
        async with self._at_once:
            try:
                return await calls.call(_examine, device, self._state_folder, timeout_s=limits.DISCOVERY_TIMEOUT_S)
            except TookTooLong:
                return judge(device, Examined(unknown="it does not answer"), offered_before=False)

    async def _numbers(self, listed: Sequence[DiskConfig]) -> dict[str, str]:
        """Return the numbers (MAJOR:MINOR) of the disks that listed block devices are or belong to, with their names.

        An image may be on a file system that is stuck, so the path of each has a thread of its own. A path that does
        not answer is no device file.
        """
        numbers: dict[str, str] = {}

        async def add(disk: DiskConfig) -> None:
            calls = self._calls.setdefault(str(disk.path), Bounded(f"disk {disk.name}: {disk.path}"))
            try:
                number = await calls.call(_number, disk.path, timeout_s=limits.DISK_CALL_TIMEOUT_S)
            except TookTooLong:
                return
            if number:
                numbers[number] = disk.name

        async with trio.open_nursery() as nursery:
            for disk in listed:
                nursery.start_soon(add, disk)
        return numbers

    def _forget_calls(self, devices: Sequence[BlockDevice], listed: Sequence[DiskConfig]) -> None:
        present = {*map(_subject, devices), *(str(disk.path) for disk in listed)}
        self._calls = {subject: calls for subject, calls in self._calls.items() if subject in present or calls.stuck}


def _key(device: BlockDevice) -> tuple[str, str, int]:
    return device.number, device.id, device.size_bytes


def _subject(device: BlockDevice) -> str:
    """Return the key of the calls about a device. Another device at the path has another number or id."""
    return f"{device.path} {device.number} {device.id}"


def _devices(config: DiscoveryConfig, claimed: Mapping[str, ClaimedDevice]) -> list[BlockDevice]:
    """Return the disks of the machine, in a thread. A claimed device keeps the id under which it was claimed."""
    ids = {device.path: disk_id for disk_id, device in claimed.items()}
    devices = []
    for device in read_block_devices(may_open=config.selection.may_include):
        disk_id = ids.get(str(device.path))
        if disk_id is not None and _is(device, claimed[disk_id]):
            devices.append(replace(device, id=disk_id))
        else:
            devices.append(device)
    return devices


def _is(device: BlockDevice, claimed: ClaimedDevice) -> bool:
    return str(device.path) == claimed.path and read_text(device.place, "diskseq") == claimed.sequence


def _examine(device: BlockDevice, state_folder: Path) -> DiskVerdict:
    """Return the verdict on a candidate, in a thread."""
    examined = examine(device)
    # Only the signature of a member needs a look into the state folder, whose file system may be stuck.
    offered_before = examined.member_of is not None and is_remembered(state_folder, device.id)
    return judge(device, examined, offered_before=offered_before)


def _number(path: Path) -> str:
    """Return the number of the disk at ``path``, or of the disk that the partition there belongs to, or ""."""
    try:
        status = path.stat()
    except OSError:
        return ""
    if not stat.S_ISBLK(status.st_mode):
        return ""
    number = read_text(whole_disk(device_folder(status.st_rdev)), "dev")
    return number or f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def _config(device: BlockDevice, config: DiscoveryConfig) -> DiskConfig:
    return DiskConfig(
        name=device.id,
        path=device.path,
        cache=config.cache,
        access=config.access,
        nodes=config.nodes,
        id=device.id,
    )


def _log(before: Sequence[DiskVerdict], now: Sequence[DiskVerdict]) -> None:
    """Log each disk that is offered or refused now, and was not before."""
    known = {(each.device.name, each.device.id, each.why) for each in before}
    for each in now:
        device = each.device
        if (device.name, device.id, each.why) in known:
            continue
        if each.is_offered:
            logger.info("discovered disk %s: %s, %d bytes", device.id, device.path, device.size_bytes)
        elif each.refusal not in _QUIET:
            logger.info("disk %s (%s) is not offered: %s", device.path, device.id or "no id", each.why)

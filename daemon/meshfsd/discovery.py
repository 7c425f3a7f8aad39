"""Find the disks that a node with [node.disks] offers, and say of the machine's other disks why they are not offered.

    find        looks at all disks of the machine, and returns the configs of those that are to be served
    verdicts    the result of the last look, for `meshctl disks --all`

A disk that is served already is not examined again: the exporter itself has claimed it, and would find it in use. If
the device of a disk disappears, the disk is no longer found, and so it is withdrawn. When the device comes back, in
whatever slot, it is found under the same id.

A look may block on a device that hangs, so a thread does it, with a time limit per look. While the thread of an earlier
look is stuck, the last result stays in force.
"""

import logging
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from meshfs import limits
from meshfs.cluster.config_discovery import DiscoveryConfig
from meshfs.cluster.config_nodes import DiskConfig
from meshfs.disk.discovery.block_device import BlockDevice, read_block_devices
from meshfs.disk.discovery.examine import examine
from meshfs.disk.discovery.selection import DiskVerdict, Refusal, candidates, judge
from meshfs.errors import TookTooLong
from meshfs.loop.bounded import Bounded
from meshfsd.remembered import is_remembered

logger = logging.getLogger(__name__)

#: The refusals that end without an event of the kernel.
_MAY_END: frozenset[Refusal] = frozenset((Refusal.USED, Refusal.UNKNOWN))


class DiskDiscovery:
    """Finds disks for one node. ``state_folder`` has the records of the disks that the node has served before."""

    def __init__(self, state_folder: Path) -> None:
        self.verdicts: list[DiskVerdict] = []
        self._state_folder = state_folder
        self._calls = Bounded("the discovery of disks")
        self._found: list[DiskConfig] = []

    @property
    def waits_for_use_to_end(self) -> bool:
        """Return whether a disk is refused only because something uses it now."""
        return any(verdict.refusal in _MAY_END for verdict in self.verdicts)

    async def find(
        self,
        config: DiscoveryConfig | None,
        listed: Sequence[DiskConfig],
        served: Mapping[str, str],
        *,
        freed_only: bool = False,
    ) -> Sequence[DiskConfig]:
        """Return the configs of the discovered disks that are to be served. None of them is one of ``listed``.

        ``served`` has the paths of the discovered disks that are served now, by id. With ``freed_only``, only disks
        that were in use are examined again, because the kernel does not report the end of a use.
        """
        if config is None:
            self.verdicts, self._found = [], []
            return self._found
        kept = {_key(each.device): each for each in self.verdicts if each.refusal not in _MAY_END} if freed_only else {}
        try:
            verdicts = await self._calls.call(
                _verdicts, config, listed, dict(served), kept, self._state_folder,
                timeout_s=limits.DISCOVERY_TIMEOUT_S,
            )  # fmt: skip
        except TookTooLong as error:
            logger.warning("disks are not looked for now, those found before stay: %s", error)
            return self._found
        _log(self.verdicts, verdicts)
        self.verdicts = verdicts
        self._found = [_config(verdict.device, config) for verdict in verdicts if verdict.is_offered]
        return self._found


def _key(device: BlockDevice) -> tuple[str, str, int]:
    return device.number, device.id, device.size_bytes


def _verdicts(
    config: DiscoveryConfig,
    listed: Sequence[DiskConfig],
    served: Mapping[str, str],
    kept: Mapping[tuple[str, str, int], DiskVerdict],
    state_folder: Path,
) -> list[DiskVerdict]:
    """Look at all disks of the machine, in a thread. Returns a verdict on each, in the order of the kernel names."""
    devices = read_block_devices()
    numbers = {each.id: each.number for each in devices if served.get(each.id) == str(each.path)}
    examined, verdicts = candidates(devices, config.selection, _numbers(listed), numbers)
    for device in examined:
        known = kept.get(_key(device))
        if numbers.get(device.id) == device.number:
            verdicts.append(DiskVerdict(device))
        elif known is not None and not known.is_offered:
            verdicts.append(known)
        else:
            offered_before = is_remembered(state_folder, device.id)
            verdicts.append(judge(device, examine(device), offered_before=offered_before))
    return sorted(verdicts, key=lambda verdict: verdict.device.name)


def _numbers(listed: Sequence[DiskConfig]) -> dict[str, str]:
    """Return the numbers (MAJOR:MINOR) of the listed block devices, with the names of the disks."""
    numbers = {}
    for disk in listed:
        try:
            status = disk.path.stat()
        except OSError:
            continue
        if stat.S_ISBLK(status.st_mode):
            numbers[f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"] = disk.name
    return numbers


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
        elif each.refusal is not Refusal.EMPTY:
            logger.info("disk %s (%s) is not offered: %s", device.path, device.id or "no id", each.why)

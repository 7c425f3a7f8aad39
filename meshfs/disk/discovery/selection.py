"""Decide which of the machine's disks a node offers, and for each other disk, why the node does not offer it. Pure.

The rules apply in this order. The first rule that refuses a disk gives the reason:

    listed          a [[node.disk]] of the config has the disk, or a partition of it, with settings of its own
    empty           the disk has no medium, or a size of 0
    excluded        a pattern of "exclude" matches the disk
    not included    there are patterns in "include", and none of them matches the disk
    virtual, removable, read-only
                    only a pattern of "include" makes such a disk a candidate
    pending         udev has not finished with the disk, so the id could change
    no id           nothing could distinguish the disk from another one
    name taken      a listed disk has the id as its name
    same id         another disk that passed the rules above, or a listed disk, has the same id
    unknown         the use of the disk could not be found out, because the disk or blkid failed or did not answer
    used            the disk is mounted, swap space, held by another device, or opened exclusively
    a member        the signature says that the disk belongs to an array, a pool or a volume group

A disk that is served already stays although it has become read-only, or although another device with its id appears.

The last rule has one exception: a disk that this node has offered before stays offered. Somebody may have put an array
or a file system on disks of the mesh. After a restart, these disks have the signatures of members.
"""

import enum
import fnmatch
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from meshfs.disk.discovery.block_device import BlockDevice

NONE_SERVED: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Pattern:
    """Matches disks by all of its fields that are not empty. Texts are patterns of fnmatch(3), such as "ST*"."""

    id: str = ""
    path: str = ""
    model: str = ""
    bus: str = ""
    size_min_bytes: int = 0
    size_max_bytes: int | None = None

    def may_match(self, device: BlockDevice) -> bool:
        """Return whether the pattern can match the device, whose id is not known yet."""
        return replace(self, id="").matches(device)

    def matches(self, device: BlockDevice) -> bool:
        if not self.size_min_bytes <= device.size_bytes:
            return False
        if self.size_max_bytes is not None and device.size_bytes > self.size_max_bytes:
            return False
        texts = (
            (self.id, device.id),
            (self.path, str(device.path)),
            (self.model, device.model),
            (self.bus, device.bus),
        )
        return all(not pattern or fnmatch.fnmatchcase(text, pattern) for pattern, text in texts)


@dataclass(frozen=True, slots=True)
class Selection:
    """Holds the patterns of a node's config. An empty ``include`` means all physical disks."""

    include: tuple[Pattern, ...] = ()
    exclude: tuple[Pattern, ...] = ()

    def may_include(self, device: BlockDevice) -> bool:
        """Return whether a pattern of "include" can match the device, whose id is not known yet."""
        return any(pattern.may_match(device) for pattern in self.include)


class Refusal(enum.Enum):
    """Names the rules that refuse a disk."""

    LISTED = enum.auto()
    PENDING = enum.auto()
    NAME_TAKEN = enum.auto()
    NO_ID = enum.auto()
    SAME_ID = enum.auto()
    EXCLUDED = enum.auto()
    NOT_INCLUDED = enum.auto()
    VIRTUAL = enum.auto()
    REMOVABLE = enum.auto()
    READ_ONLY = enum.auto()
    EMPTY = enum.auto()
    USED = enum.auto()
    MEMBER = enum.auto()
    UNKNOWN = enum.auto()


@dataclass(frozen=True, slots=True)
class Examined:
    """Holds the result of examining one disk.

    ``used_by`` is None if nothing uses the disk. ``member_of`` is None if the disk belongs to no array, pool or volume
    group. If the disk could not be examined, ``unknown`` is the reason.
    """

    used_by: str | None = None
    member_of: str | None = None
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class DiskVerdict:
    """Says whether a disk is offered. If it is refused, ``why`` is the reason as a text for the administrator."""

    device: BlockDevice
    refusal: Refusal | None = None
    why: str = ""

    @property
    def is_offered(self) -> bool:
        return self.refusal is None


def candidates(
    devices: Sequence[BlockDevice],
    selection: Selection,
    listed: Mapping[str, str],
    served: Mapping[str, str] = NONE_SERVED,
    names: Collection[str] = (),
) -> tuple[list[BlockDevice], list[DiskVerdict]]:
    """Return the disks that must be examined, and the verdicts on the disks that are refused without an examination.

    ``listed`` has the numbers ("MAJOR:MINOR") of the devices of [[node.disk]] entries, with the entries' names. For an
    entry with a partition, it is the number of the whole disk. ``names`` has the names of all entries. ``served`` has
    the numbers of the devices that are served as discovered disks now, by id.
    """
    taken = {name.casefold() for name in names}
    examine: list[BlockDevice] = []
    refused: list[DiskVerdict] = []
    for device in devices:
        is_served = served.get(device.id) == device.number
        verdict = (
            _refused_by_itself(device, listed)
            or _refused_by_patterns(device, selection, is_served=is_served)
            or _refused_by_id(device, taken, is_served=is_served)
        )
        if verdict is None:
            examine.append(device)
        else:
            refused.append(verdict)
    holders = [*examine, *(verdict.device for verdict in refused if verdict.refusal is Refusal.LISTED)]
    twins = {device.number: twin for device in examine if (twin := _twin(device, holders, served))}
    refused += [
        DiskVerdict(device, Refusal.SAME_ID, twins[device.number]) for device in examine if device.number in twins
    ]
    return [device for device in examine if device.number not in twins], refused


def _refused_by_itself(device: BlockDevice, listed: Mapping[str, str]) -> DiskVerdict | None:
    if device.number in listed:
        return DiskVerdict(
            device, Refusal.LISTED, f"the config lists it, or a partition of it, as disk {listed[device.number]!r}"
        )
    if not device.size_bytes:
        return DiskVerdict(device, Refusal.EMPTY, "it has no medium, or a size of 0")
    return None


def _refused_by_id(device: BlockDevice, taken: Collection[str], *, is_served: bool) -> DiskVerdict | None:
    if device.is_pending and not is_served:
        return DiskVerdict(device, Refusal.PENDING, "udev has not finished with it (see udevadm settle)")
    if not device.id:
        return DiskVerdict(
            device,
            Refusal.NO_ID,
            "it has no WWN and no serial number, so nothing tells it from another disk; list it as [[node.disk]]",
        )
    if device.id.casefold() in taken:
        return DiskVerdict(
            device, Refusal.NAME_TAKEN, "a listed disk of the config has this id as its name; rename the listed disk"
        )
    return None


def _twin(device: BlockDevice, holders: Sequence[BlockDevice], served: Mapping[str, str]) -> str:
    """Return why the disk is refused if another device has the same id, or "". A disk served already is not refused."""
    others = [each.name for each in holders if _same(each.id, device.id) and each.number != device.number]
    if not others or served.get(device.id) == device.number:
        return ""
    return (
        f"{', '.join(others)} has the same id; if both are paths to one disk, set up multipath, and exclude the paths"
    )


def _same(an_id: str, other: str) -> bool:
    """Return whether two ids are the same name in a share, where upper and lower case are equal."""
    return an_id.casefold() == other.casefold()


def _refused_by_patterns(device: BlockDevice, selection: Selection, *, is_served: bool) -> DiskVerdict | None:
    if any(pattern.matches(device) for pattern in selection.exclude):
        return DiskVerdict(device, Refusal.EXCLUDED, 'a pattern of "exclude" in the config matches it')
    if selection.include:
        if any(pattern.matches(device) for pattern in selection.include):
            return None
        return DiskVerdict(device, Refusal.NOT_INCLUDED, 'no pattern of "include" in the config matches it')
    needed = 'so only a pattern of "include" makes it a candidate'
    if device.is_virtual:
        return DiskVerdict(device, Refusal.VIRTUAL, f"it is a virtual device ({device.bus}), {needed}")
    if device.removable:
        return DiskVerdict(device, Refusal.REMOVABLE, f"its medium is removable, {needed}")
    if device.read_only and not is_served:
        return DiskVerdict(device, Refusal.READ_ONLY, f"it is read-only, {needed}")
    return None


def judge(device: BlockDevice, examined: Examined, *, offered_before: bool) -> DiskVerdict:
    """Return the verdict on an examined candidate. If ``offered_before``, a member is offered as well (see above)."""
    if examined.unknown:
        return DiskVerdict(device, Refusal.UNKNOWN, f"its use cannot be found out: {examined.unknown}")
    if examined.used_by is not None:
        return DiskVerdict(device, Refusal.USED, f"this machine uses it: {examined.used_by}")
    if examined.member_of is not None and not offered_before:
        return DiskVerdict(
            device,
            Refusal.MEMBER,
            f"it belongs to {examined.member_of}; list it as [[node.disk]], or erase that with wipefs if unneeded",
        )
    return DiskVerdict(device)

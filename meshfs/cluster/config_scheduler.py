"""The config's [scheduler] and [[scheduler.flow]], which define how flows share the disks of the cluster.

    [scheduler]
    system_floor = 0.2        the part of every disk that the system class gets at least
    discipline = "fair"       or "fifo", for comparison

    [[scheduler.flow]]        settings of one node's flow, at every disk or at one
    node = "n2"
    class = "app"             the default is app
    disk = "n1/disk0"         the default is every disk
    weight, reservation, limit_iops, limit_bytes_per_s

If a flow has settings for one disk and for every disk, those for the one disk take precedence, key by key. A flow
without a weight has the weight of its node.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Final

from meshfs import limits
from meshfs.cluster.config_text import Table
from meshfs.model import Discipline, FlowKey, IoClass
from meshfs.scheduler.decide.policy import FLOW_KEYS, RANGES, DiskPolicy, FlowPolicy, PolicyError, check
from meshfs.wording import describe

SCHEDULER_KEYS: Final = ("system_floor", "discipline", "flow")
#: Stands for the discovered disks of a node. No disk can have this name.
ANY_DISK: Final = "*"
FLOW_TABLE_KEYS: Final = ("node", "class", "disk", *FLOW_KEYS)


@dataclass(frozen=True)
class FlowSettings:
    """Holds one [[scheduler.flow]]. A setting that is missing is None.

    ``disk`` is OWNER/NAME, or None for every disk.
    """

    node: str
    io_class: IoClass
    disk: str | None
    weight: float | None
    reservation: float | None
    limit_iops: float | None
    limit_bytes_per_s: float | None

    @property
    def flow(self) -> FlowKey:
        return FlowKey(self.node, self.io_class)

    def over(self, policy: FlowPolicy) -> FlowPolicy:
        """Return the policy with these settings on top."""
        said = {key: value for key in FLOW_KEYS if (value := getattr(self, key)) is not None}
        return replace(policy, **said)


@dataclass(frozen=True)
class Scheduler:
    """Holds the values of [scheduler]."""

    system_floor: float = limits.SYSTEM_FLOOR
    discipline: Discipline = Discipline.FAIR
    flows: tuple[FlowSettings, ...] = ()

    def policy(self, disk: str, bare: DiskPolicy) -> DiskPolicy:
        """Return the policy of a disk (OWNER/NAME). ``bare`` has the nodes' weights and the disk's own limits."""
        flows: dict[FlowKey, FlowPolicy] = {}
        for where in (None, disk):
            for settings in self._by_disk.get(where, ()):
                flow = settings.flow
                flows[flow] = settings.over(flows.get(flow, bare.of(flow)))
        return replace(bare, system_floor=self.system_floor, flows=MappingProxyType(flows))

    @cached_property
    def _by_disk(self) -> dict[str | None, list[FlowSettings]]:
        found: dict[str | None, list[FlowSettings]] = {}
        for settings in self.flows:
            found.setdefault(settings.disk, []).append(settings)
        return found


def read_scheduler(table: Table) -> Scheduler:
    """Read [scheduler]. Raises ConfigError at a key whose value is wrong by itself. See also `check_scheduler`."""
    return Scheduler(
        system_floor=table.number("system_floor", limits.SYSTEM_FLOOR, *RANGES["system_floor"]),
        discipline=table.choice("discipline", Discipline, Discipline.FAIR),
        flows=tuple(_flow(each) for each in _flow_tables(table)),
    )


def check_scheduler(
    table: Table, scheduler: Scheduler, nodes: Collection[str], disks: Mapping[str, DiskPolicy]
) -> None:
    """Check that flows name existing nodes and disks, that each flow occurs once, and that reservations fit each disk.

    ``disks`` maps OWNER/NAME to the bare policy that `Scheduler.policy` takes, and OWNER/* to that of the disks which a
    node discovers. A flow may name such a disk by any name. Raises ConfigError at the wrong flow, or at the flow with
    which the reservations of a disk become too much.
    """
    tables = _flow_tables(table)
    seen: set[tuple[FlowKey, str | None]] = set()
    for flow_table, settings in zip(tables, scheduler.flows, strict=True):
        _check_names(flow_table, settings, nodes, disks)
        if (settings.flow, settings.disk) in seen:
            where = f"at {settings.disk or 'every disk'}"
            what = f"found a second flow of node {settings.node}, class {settings.io_class}, {where}"
            flow_table.fail(None, f"{what}, expected all its settings in one [[scheduler.flow]]")
        seen.add((settings.flow, settings.disk))
    for disk, bare in {**_named_of_discovered(scheduler, disks), **disks}.items():
        why = _too_much(scheduler, disk, bare, nodes)
        if why:
            guilty = _guilty(scheduler, disk, bare, nodes)
            tables[guilty].fail("reservation", f"at disk {disk}, {why}")


def _named_of_discovered(scheduler: Scheduler, disks: Mapping[str, DiskPolicy]) -> dict[str, DiskPolicy]:
    """Return the bare policies of the discovered disks that flows name. Each such disk may appear at any time."""
    named = [settings.disk for settings in scheduler.flows if settings.disk is not None and settings.disk not in disks]
    return {disk: disks[f"{disk.partition('/')[0]}/{ANY_DISK}"] for disk in named}


def _flow_tables(table: Table) -> list[Table]:
    return table.tables("flow", FLOW_TABLE_KEYS)


def _flow(table: Table) -> FlowSettings:
    if not any(key in table for key in FLOW_KEYS):
        table.fail(None, f"the flow has no setting, expected at least one of {', '.join(FLOW_KEYS)}")
    values = {key: table.optional_number(key, *RANGES[key]) for key in FLOW_KEYS}
    return FlowSettings(
        node=table.text("node"),
        io_class=table.choice("class", IoClass, IoClass.APP),
        disk=table.text("disk") if "disk" in table else None,
        **values,
    )


def _check_names(table: Table, settings: FlowSettings, nodes: Iterable[str], disks: Collection[str]) -> None:
    if settings.node not in nodes:
        rule = f"expected one of {', '.join(sorted(nodes))}"
        table.fail("node", f"there is no node {describe(settings.node)}, {rule}")
    if settings.disk is None:
        return
    owner, _, name = settings.disk.partition("/")
    is_discovered = f"{owner}/{ANY_DISK}" in disks and bool(name)
    if name == ANY_DISK or (settings.disk not in disks and not is_discovered):
        known = [disk for disk in disks if not disk.endswith(f"/{ANY_DISK}")]
        near = sorted(disk for disk in known if disk.startswith(f"{owner}/")) or sorted(known)
        rule = "expected NODE/DISK" if disks else "the cluster has no disks"
        rule += f", one of {', '.join(near)}" if near else ""
        table.fail("disk", f"there is no disk {describe(settings.disk)}, {rule}")


def _too_much(scheduler: Scheduler, disk: str, bare: DiskPolicy, nodes: Collection[str]) -> str | None:
    try:
        check(scheduler.policy(disk, bare), nodes)
    except PolicyError as error:
        return str(error)
    return None


def _guilty(scheduler: Scheduler, disk: str, bare: DiskPolicy, nodes: Collection[str]) -> int:
    """Return the index of the flow, in the file's order, with which the reservations of the disk become too much."""
    there = [index for index, settings in enumerate(scheduler.flows) if settings.disk in (None, disk)]
    guilty, possible = there[0], True
    for count, index in enumerate(there, 1):
        flows = tuple(scheduler.flows[each] for each in there[:count])
        fits = not _too_much(replace(scheduler, flows=flows), disk, bare, nodes)
        if possible and not fits:
            guilty = index
        possible = fits
    return guilty

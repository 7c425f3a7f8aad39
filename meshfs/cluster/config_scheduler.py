"""The config's [scheduler] and [[scheduler.flow]]: how the disks of the cluster are shared.

    [scheduler]
    system_floor = 0.2        what the system class has of every disk at least
    discipline = "fair"       "fifo" for comparison

    [[scheduler.flow]]        one node's flow, at every disk or at one
    node = "n2"
    class = "app"             app unless given
    disk = "n1/disk0"         every disk unless given
    weight, reservation, limit_iops, limit_bytes_per_s

A flow for one disk goes before the same flow for every disk, key by key. Without a weight of its
own a flow has its node's.
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
FLOW_TABLE_KEYS: Final = ("node", "class", "disk", *FLOW_KEYS)


@dataclass(frozen=True)
class FlowSettings:
    """One [[scheduler.flow]]; None where it says nothing. `disk` is OWNER/NAME, None is every disk."""

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
        """The policy with what is said here on top."""
        said = {key: value for key in FLOW_KEYS if (value := getattr(self, key)) is not None}
        return replace(policy, **said)


@dataclass(frozen=True)
class Scheduler:
    system_floor: float = limits.SYSTEM_FLOOR
    discipline: Discipline = Discipline.FAIR
    flows: tuple[FlowSettings, ...] = ()

    def policy(self, disk: str, bare: DiskPolicy) -> DiskPolicy:
        """What holds at a disk (OWNER/NAME); `bare` has the nodes' weights and the disk's own limits."""
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
    """Raises ConfigError at the key that is wrong by itself."""
    return Scheduler(
        system_floor=table.number("system_floor", limits.SYSTEM_FLOOR, *RANGES["system_floor"]),
        discipline=table.choice("discipline", Discipline, Discipline.FAIR),
        flows=tuple(_flow(each) for each in _flow_tables(table)),
    )


def check_scheduler(
    table: Table, scheduler: Scheduler, nodes: Collection[str], disks: Mapping[str, DiskPolicy]
) -> None:
    """Flows are of nodes and disks (OWNER/NAME -> what `Scheduler.policy` takes) there are, each is there
    once, and no disk is promised away twice. Raises ConfigError at the flow that is one too many."""
    tables = _flow_tables(table)
    seen: set[tuple[FlowKey, str | None]] = set()
    for flow_table, settings in zip(tables, scheduler.flows, strict=True):
        _check_names(flow_table, settings, nodes, disks)
        if (settings.flow, settings.disk) in seen:
            what = f"a second flow of {settings.node}, class {settings.io_class}, at {settings.disk or 'every disk'}"
            flow_table.fail(None, f"{what}, expected one")
        seen.add((settings.flow, settings.disk))
    for disk, bare in disks.items():
        why = _too_much(scheduler, disk, bare, nodes)
        if why:
            guilty = _guilty(scheduler, disk, bare, nodes)
            tables[guilty].fail("reservation", f"at disk {disk}, {why}")


def _flow_tables(table: Table) -> list[Table]:
    return table.tables("flow", FLOW_TABLE_KEYS)


def _flow(table: Table) -> FlowSettings:
    if not any(key in table for key in FLOW_KEYS):
        table.fail(None, f"a flow without a setting, expected one of {', '.join(FLOW_KEYS)}")
    values = {key: table.optional_number(key, *RANGES[key]) for key in FLOW_KEYS}
    return FlowSettings(
        node=table.text("node"),
        io_class=table.choice("class", IoClass, IoClass.APP),
        disk=table.text("disk") if "disk" in table else None,
        **values,
    )


def _check_names(table: Table, settings: FlowSettings, nodes: Iterable[str], disks: Iterable[str]) -> None:
    if settings.node not in nodes:
        rule = f"expected one of {', '.join(sorted(nodes))}"
        table.fail("node", f"there is no node {describe(settings.node)}, {rule}")
    if settings.disk is not None and settings.disk not in disks:
        owner = settings.disk.partition("/")[0]
        near = sorted(disk for disk in disks if disk.startswith(f"{owner}/")) or sorted(disks)
        rule = f"expected NODE/DISK, one of {', '.join(near)}" if near else "the cluster has no disks"
        table.fail("disk", f"there is no disk {describe(settings.disk)}, {rule}")


def _too_much(scheduler: Scheduler, disk: str, bare: DiskPolicy, nodes: Collection[str]) -> str | None:
    try:
        check(scheduler.policy(disk, bare), nodes)
    except PolicyError as error:
        return str(error)
    return None


def _guilty(scheduler: Scheduler, disk: str, bare: DiskPolicy, nodes: Collection[str]) -> int:
    """The flow, in the file's order, with which what was possible became too much."""
    there = [index for index, settings in enumerate(scheduler.flows) if settings.disk in (None, disk)]
    guilty, possible = there[0], True
    for count, index in enumerate(there, 1):
        flows = tuple(scheduler.flows[each] for each in there[:count])
        fits = not _too_much(replace(scheduler, flows=flows), disk, bare, nodes)
        if possible and not fits:
            guilty = index
        possible = fits
    return guilty

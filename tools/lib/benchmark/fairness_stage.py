"""The clusters of the experiments: one exporter with one disk, and nodes that mount it, all on this machine.

limit  a loop device over tmpfs, with a limit at the exporter
serial a device that is slow by itself, one request at a time (`slow_device`), without a limit
slow   the same with ten requests at a time
fast   a loop device over tmpfs without a limit, so that the processor is the bottleneck
pinned a file on tmpfs through the page cache, so that the exporter does all work itself and does not wait for threads
       of the kernel; the exporter runs on one core and its users on another (`fairness_pins`)

A stage has one kind of disk and one discipline. Its mounts are started at their first use.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmark.fairness_cases import DEFAULT_LIMIT, Limit, Load
from benchmark.fairness_pins import Pins, pins
from benchmark.fairness_rules import Unit
from benchmark.slow_device import slow_device
from benchmark.subjects import file_on_tmpfs, loop_on_tmpfs
from meshfs.limits import MIB
from meshlab.cluster.cluster import LocalCluster, LocalDisk

DISK_SIZE_BYTES: Final = 256 * MIB
OWNER: Final = "n1"
USERS: Final = ("n2", "n3", "n4", "n5")
# The node of the measured readers. On a pinned stage, it runs before the others on their core.
READER: Final = "n2"


@dataclass
class Stage:
    """Runs one cluster: an exporter with one disk, and the mounts that use the disk."""

    kind: str
    discipline: str
    cluster: LocalCluster
    device_pids: dict[str, int]
    folder: Path
    pins: Pins | None = None
    _paths: dict[str, Path] = field(default_factory=dict)

    def path(self, mount: str) -> Path:
        """Return the disk's file in a mount: "n2", or "n2-system" with class=system. Mounts it at the first call."""
        if mount not in self._paths:
            node, _, io_class = mount.partition("-")
            options = [f"class={io_class}"] if io_class else []
            point = self.cluster.mount(node, *options, label=mount)
            if self.pins is not None:
                self.pins.pin_user(self.cluster.mounts[mount].pid, first=mount == READER)
            self._paths[mount] = point / f"disk/by-node/{OWNER}/disk0"
        return self._paths[mount]

    def prefix(self, load: Load) -> list[str]:
        """Return the words to put before the fio command of this load."""
        return [] if self.pins is None else self.pins.prefix(first=load.mount == READER and not load.idle)

    @property
    def pids(self) -> dict[str, int]:
        mounts = {name: running.pid for name, running in self.cluster.mounts.items()}
        return {"exporter": self.exporter_pid, **mounts, **self.device_pids}

    @property
    def exporter_pid(self) -> int:
        return self.cluster.exporters[OWNER].pid

    def flows(self) -> dict[str, Any]:
        """Return the exporter's "flows" document. Raises RuntimeError with the error that it answers."""
        return _granted(self.cluster.control(OWNER, "flows"))

    def set_flows(self, **settings: object) -> None:
        _granted(self.cluster.control(OWNER, "flows-set", disk=None, set=settings))

    @contextmanager
    def limited(self, limit: Limit) -> Iterator[Unit]:
        """Set this limit for the block if the stage's disk is a limited one. Yield the unit to compare flows by."""
        if self.kind != "limit":
            yield "cost_s"
            return
        self.set_flows(limit_iops=limit.iops, limit_bytes_per_s=limit.bytes_per_s)
        try:
            yield limit.unit
        finally:
            self.reset_flows()

    def reset_flows(self) -> None:
        """Return to the settings of the config."""
        _granted(self.cluster.control(OWNER, "flows-set", disk=None, reset=True))


def _granted(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        raise RuntimeError(f"the exporter's control socket: {answer['error']}")
    return answer


class Stages:
    """Holds the running stages. The stack ends them."""

    def __init__(self, stack: ExitStack, folder: Path, warm: Callable[[Stage], None]) -> None:
        self._stack, self._folder, self._warm = stack, folder, warm
        self._up: dict[tuple[str, str], Stage] = {}

    def get(self, kind: str, discipline: str = "fair") -> Stage:
        """Return a running, warm stage: its exporter has served every kind of request and learnt the disk's costs."""
        key = kind, discipline
        if key not in self._up:
            self._up[key] = _start(self._stack, self._folder, kind, discipline)
            self._warm(self._up[key])
        return self._up[key]


def _start(stack: ExitStack, folder: Path, kind: str, discipline: str) -> Stage:
    place = folder / f"{kind}-{discipline}"
    place.mkdir()
    settings: dict[str, str | int | float] = {"cache": "none"}
    device_pids: dict[str, int] = {}
    if kind in ("slow", "serial"):
        slow = slow_device(stack, place, kind, f"{folder.name}-{kind}-{discipline}", DISK_SIZE_BYTES)
        device, device_pids = slow.path, slow.pids
    elif kind == "pinned":
        settings["cache"] = "writeback"
        device = file_on_tmpfs(stack, f"{folder.name}-{kind}-{discipline}", DISK_SIZE_BYTES)
    else:
        device = loop_on_tmpfs(stack, f"{folder.name}-{kind}-{discipline}", DISK_SIZE_BYTES)
    if kind == "limit":
        settings.update({f"limit_{name}": value for name, value in asdict(DEFAULT_LIMIT).items() if value is not None})
    cluster = LocalCluster(place, name="fairness", scheduler={"discipline": discipline})
    stack.enter_context(cluster)
    cluster.add_node(OWNER, [LocalDisk("disk0", device, settings)])
    for name in USERS:
        cluster.add_node(name)
    cluster.write()
    cluster.keygen()
    exporter = cluster.start_exporter(OWNER)
    where = pins() if kind == "pinned" else None
    if where is not None:
        where.pin_exporter(exporter.pid)
    return Stage(kind, discipline, cluster, device_pids, place, where)

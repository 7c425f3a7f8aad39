"""The documents that an exporter writes about itself for other processes (see documents.py).

ExporterStatus      the answer to "status" on the control socket of meshfsd
  DiskStatus          a disk that it offers
  MachineDisk         a disk of the machine, if the node discovers its disks: whether it is offered, or why not
  ExporterEnclosure   an enclosure that it serves
  NodeUsageDocument   the resources that a node holds, and their limits, for each node seen since the start
  ProcessorTime       the time of the exporter's thread by node and class
FlowsDocument       the answer to "flows" and "flows-set"
  DiskFlows           how one disk is shared
  FlowItem            the part of one node and class in the I/O of the disk
AdminDocument       the answer to "suspend", "drain", "resume" and "admin"
  DiskAdminItem       what an administrator wants of one disk, and the progress
"""

from typing import TypedDict

from meshfs.telemetry.documents import ConfigState, Percentiles, ProblemItem, ProcessFacts

# Keys that cannot be names in Python need this form.
Windows = TypedDict("Windows", {"1s": float, "60s": float})
WindowsOrNone = TypedDict("WindowsOrNone", {"1s": float | None, "60s": float | None})
WindowFlags = TypedDict("WindowFlags", {"1s": bool, "60s": bool})
_OfClass = TypedDict("_OfClass", {"class": str})


# --- status -----------------------------------------------------------------------------------


class StateFolder(TypedDict):
    """Names the folder of learnt costs and disk records. ``error`` says why the last write failed, if it did."""

    path: str
    error: str


class SessionStatus(TypedDict):
    """Describes a session of a node, with what was negotiated on the oldest of its channels."""

    node: str
    remote: str
    dialect: str
    signing: str
    cipher: str
    opens: int
    channels: int


class Held(TypedDict):
    """Holds the amount of one resource that a node holds, and its limit."""

    what: str
    used: int
    max: int


class NodeUsageDocument(TypedDict):
    """Holds the resources that a node holds, and its limits."""

    node: str
    connections: int
    connections_max: int
    sessions: int
    sessions_max: int
    memory_bytes: int
    holds: list[Held]


class ProcessorTime(_OfClass):
    """Holds the time of the exporter's thread for one node and class.

    A node named "logins from" an address has not logged in yet. An empty name stands for strangers.
    """

    node: str
    used_s: float
    turns: int


class MemoryUse(TypedDict):
    """Holds the memory that an exporter holds for all its peers, and the limit."""

    used_bytes: int
    max_bytes: int


class DiskStatus(TypedDict):
    """Describes a disk. ``access`` is the one in force: it is "ro" for a read-only device, whatever the config says."""

    name: str
    path: str
    size_bytes: int
    access: str
    access_configured: str
    cache: str
    engine: str
    state: str
    why: str
    discipline: str
    depth: int
    queued: int
    in_flight: int
    oldest_request_s: float | None
    reads: int
    writes: int
    flushes: int
    zeroes: int
    discards: int
    read_bytes: int
    written_bytes: int
    zeroed_bytes: int
    discarded_bytes: int
    errors: int


class MachineDisk(TypedDict):
    """A disk of the exporter's machine. ``id`` is "" if the disk has none, and ``why`` is "" if it is offered."""

    path: str
    id: str
    size_bytes: int
    bus: str
    model: str
    serial: str
    offered: bool
    why: str


class ExporterEnclosure(TypedDict):
    """Describes an enclosure of the node. ``slots`` counts its slots, and ``disks`` the disks in them."""

    name: str
    id: str
    kind: str
    state: str
    why: str
    access: str
    slots: int
    disks: int


class ExporterFacts(ProcessFacts):
    """Describes an exporter's status without its problems."""

    version: int
    node: str
    uptime_s: float
    listening: list[str]
    #: The node's addresses that no interface of its machine has.
    addresses_missing: list[str]
    security: str
    state_folder: StateFolder
    #: All disks of the machine if the node discovers its disks, and all images in the node's folders.
    machine_disks: list[MachineDisk]
    connections: int
    sessions: list[SessionStatus]
    nodes: list[NodeUsageDocument]
    memory: MemoryUse
    processor: list[ProcessorTime]
    disks: list[DiskStatus]
    enclosures: list[ExporterEnclosure]
    counters: dict[str, int]


class ExporterRecent(TypedDict):
    """Holds the growth of counters within the last minute, by the name of the disk and of the counter."""

    disk_errors: dict[str, int]
    counters: dict[str, int]


class MissingKey(TypedDict):
    """Describes a node that cannot log in, and the reason why its key is missing."""

    node: str
    why: str


class ExporterFindings(ExporterFacts):
    """Holds the part of the status that the rules of problems.py examine."""

    config_state: ConfigState
    keys_missing: list[MissingKey]
    recent: ExporterRecent


class ExporterStatus(ExporterFindings):
    """Holds the whole status of an exporter."""

    problems: list[ProblemItem]


# --- flows ------------------------------------------------------------------------------------


class DiskPolicyItem(TypedDict):
    """Holds a disk's policy. A limit of None means no limit. ``source`` says whether a value was set at run time."""

    system_floor: float
    limit_iops: float | None
    limit_bytes_per_s: float | None
    source: str


class Cost(TypedDict):
    """Holds the parameters of the cost model, and the number of windows by which they were calibrated."""

    read_fixed_us: float
    read_byte_ns: float
    write_fixed_us: float
    write_byte_ns: float
    flush_fixed_us: float
    calibrated: bool
    windows: int


class Totals(TypedDict):
    """Holds totals since the start. A histogram has coarse buckets: at most 1, 5, 10, 100, 1000, 10000 ms, longer."""

    reads: int
    writes: int
    flushes: int
    zeroes: int
    discards: int
    errors: int
    read_bytes: int
    written_bytes: int
    zeroed_bytes: int
    discarded_bytes: int
    cost_s: float
    read_time_s: float
    write_time_s: float
    read_histogram: list[int]
    write_histogram: list[int]


class FlowItem(_OfClass, Totals):
    """Describes a flow. Shares are 0 to 1. ``held`` is the reason why a waiting flow's requests may not be sent now."""

    node: str
    local: bool
    weight: float
    reservation: float
    limit_iops: float | None
    limit_bytes_per_s: float | None
    source: str
    entitlement: float
    share: Windows
    backlogged: WindowFlags
    lag_s: float
    queued: int
    in_flight: int
    waits_s: float
    held: str
    latency_ms: Percentiles
    disk_latency_ms: Percentiles
    iops: Windows
    bytes_per_s: Windows


class OtherFlows(Totals):
    """Holds the totals of the flows that the meter has dropped, and the number of those flows."""

    flows: int


class Jain(TypedDict):
    """Holds Jain's index of share / weight by class, or None if there is nothing to compare."""

    app: WindowsOrNone
    system: WindowsOrNone


class DiskFlows(TypedDict):
    """Holds the way in which one disk is shared: its policy, its cost model and its flows."""

    name: str
    discipline: str
    depth: int
    in_flight: int
    queued: int
    policy: DiskPolicyItem
    cost: Cost
    jain: Jain
    utilisation: Windows
    flows: list[FlowItem]
    others: OtherFlows


class FlowsDocument(TypedDict):
    """Holds the flows of all disks of an exporter."""

    version: int
    node: str
    uptime_s: float
    disks: list[DiskFlows]


# --- what administrators want of disks --------------------------------------------------------


class DiskAdminItem(TypedDict):
    """Describes what an administrator wants of a disk (``admin``, a state of `meshfs.disk.admin_state`).

    ``settled`` says whether no step of that is under way. Requests that wait in the queue are ``queued``.
    ``ends_in_s`` is the time until a suspension ends by itself, or None.
    """

    name: str
    id: str
    admin: str
    state: str
    why: str
    settled: bool
    flushed: bool
    queued: int
    in_flight: int
    ends_in_s: float | None


class AdminDocument(TypedDict):
    """Holds what an administrator wants of disks. ``drained`` says that the whole node is drained."""

    version: int
    node: str
    drained: bool
    disks: list[DiskAdminItem]

"""The readers' view of the documents that an exporter writes (exporter_documents.py); see records.py."""

from meshfs.telemetry.records import (
    DiskRecord,
    FindingsRecord,
    LatencyRecord,
    Record,
    StatusRecord,
    TotalsRecord,
    WindowsRecord,
    WrittenPlaceRecord,
    counts,
    flag,
    integer,
    number,
    part,
    parts,
    text,
    texts,
)


class ExporterDiskRecord(DiskRecord):
    """Describes a disk as its exporter sees it."""

    access_configured = text()
    engine = text()
    queued = integer()
    in_flight = integer()
    oldest_request_s = number()
    reads = integer()
    writes = integer()
    flushes = integer()
    zeroes = integer()
    discards = integer()
    read_bytes = integer()
    written_bytes = integer()
    zeroed_bytes = integer()
    discarded_bytes = integer()
    errors = integer()


class SessionRecord(Record):
    """Describes a session of a node."""

    node = text()
    opens = integer()


class HeldRecord(Record):
    """Holds the amount of one resource that a node holds, and its limit."""

    what = text()
    used = integer()
    most = integer("max")


class NodeUsageRecord(Record):
    """Holds the resources that a node holds, and their limits."""

    node = text()
    connections = integer()
    connections_max = integer()
    sessions = integer()
    sessions_max = integer()
    memory_bytes = integer()
    holds = parts(HeldRecord)


class MemoryRecord(Record):
    """Holds the memory that an exporter holds for all its peers."""

    used_bytes = integer()


class ProcessorRecord(Record):
    """Holds the time of the exporter's thread that went to one node and class."""

    node = text()
    io_class = text("class")
    used_s = number()
    turns = integer()


class MissingKeyRecord(Record):
    """Describes a node that cannot log in, and the reason why its key is missing."""

    node = text()
    why = text()


class MachineDiskRecord(Record):
    """A disk of the exporter's machine, and why it is not offered."""

    path = text()
    id = text()
    size_bytes = integer()
    bus = text()
    model = text()
    serial = text()
    offered = flag()
    why = text()


class ExporterEnclosureRecord(Record):
    """Describes an enclosure that the exporter serves."""

    name = text()
    id = text()
    kind = text()
    state = text()
    why = text()
    access = text()
    slots = integer()
    disks = integer()


class ExporterRecord(FindingsRecord):
    """Holds the status of an exporter."""

    listening = texts()
    addresses_missing = texts()
    machine_disks = parts(MachineDiskRecord)
    state_folder = part(WrittenPlaceRecord)
    connections = integer()
    sessions = parts(SessionRecord)
    nodes = parts(NodeUsageRecord)
    memory = part(MemoryRecord)
    processor = parts(ProcessorRecord)
    disks = parts(ExporterDiskRecord)
    enclosures = parts(ExporterEnclosureRecord)
    counters = counts()
    keys_missing = parts(MissingKeyRecord)


class PolicyRecord(Record):
    """Holds the policy in force for a disk, or for a flow at a disk."""

    limit_iops = number()
    limit_bytes_per_s = number()
    source = text()


class DiskPolicyRecord(PolicyRecord):
    """Holds the policy in force for a disk."""

    system_floor = number()


class FlowPolicyRecord(PolicyRecord):
    """Holds the policy in force for a flow."""

    weight = number()
    reservation = number()


class FlowRecord(TotalsRecord):
    """Describes a flow: the I/O of one node in one class at one disk."""

    node = text()
    io_class = text("class")
    local = flag()
    entitlement = number()
    share = part(WindowsRecord)
    lag_s = number()
    queued = integer()
    in_flight = integer()
    waits_s = number()
    held = text()
    zeroes = integer()
    discards = integer()
    zeroed_bytes = integer()
    discarded_bytes = integer()
    cost_s = number()
    latency_ms = part(LatencyRecord)
    iops = part(WindowsRecord)
    bytes_per_s = part(WindowsRecord)

    @property
    def policy(self) -> FlowPolicyRecord:
        """Return the flow's policy, whose keys are in the flow's own object."""
        return FlowPolicyRecord(self.raw)


class CostRecord(Record):
    """Holds the cost model of a disk."""

    read_fixed_us = number()
    read_byte_ns = number()
    write_fixed_us = number()
    write_byte_ns = number()
    flush_fixed_us = number()
    calibrated = flag()
    windows = integer()


class JainRecord(Record):
    """Holds Jain's index by class."""

    app = part(WindowsRecord)
    system = part(WindowsRecord)


class FlowsDiskRecord(Record):
    """Holds the way in which one disk is shared between flows."""

    name = text()
    discipline = text()
    depth = integer()
    in_flight = integer()
    queued = integer()
    policy = part(DiskPolicyRecord)
    cost = part(CostRecord)
    jain = part(JainRecord)
    utilisation = part(WindowsRecord)
    flows = parts(FlowRecord)


class FlowsRecord(StatusRecord):
    """Holds the answer to "flows"."""

    disks = parts(FlowsDiskRecord)


class DiskAdminRecord(Record):
    """Holds what an administrator wants of a disk, and the progress."""

    name = text()
    id = text()
    admin = text()
    state = text()
    why = text()
    settled = flag()
    flushed = flag()
    queued = integer()
    in_flight = integer()
    ends_in_s = number()


class AdminRecord(StatusRecord):
    """Holds the answer to "suspend", "drain", "resume" and "admin"."""

    drained = flag()
    disks = parts(DiskAdminRecord)

"""The readers' view of the documents that a mount writes (documents.py); records.py says how it reads them."""

from meshfs.telemetry.records import (
    DiskRecord,
    FindingsRecord,
    LatencyRecord,
    RecentRecord,
    Record,
    TotalsRecord,
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


class DiskTotalsRecord(TotalsRecord):
    """Holds totals with the latencies of the last minute."""

    read_latency_ms = part(LatencyRecord)
    write_latency_ms = part(LatencyRecord)


class MountDiskRecord(DiskRecord):
    """Describes a disk as a mount sees it."""

    id = text()
    node = text()
    logical_block_size_bytes = integer()
    physical_block_size_bytes = integer()
    discard_granularity_bytes = integer()
    discard_alignment_bytes = integer()
    model = text()
    serial = text()
    present = flag()
    local = flag()
    opens = integer()
    io = part(DiskTotalsRecord)

    def path(self, exporter: str) -> str:
        """Return node/disk. The node is the disk's ``exporter`` unless the document names another one."""
        return f"{self.node or exporter}/{self.name or self.id}"

    @property
    def shown_state(self) -> str:
        """Return the state for people: "away" if no exporter offers the disk now, unless it was drained before."""
        return self.state if self.present or self.state == "drained" else "away"

    @property
    def counter(self) -> str:
        """Return the disk's name among the counters in "recent"."""
        return self.id or self.name

    @property
    def is_offered(self) -> bool:
        """Return whether an exporter offers the disk now. If the document does not say that, return True."""
        return self.raw.get("present", True) is True


class MountSlotRecord(Record):
    """Describes a slot of an enclosure."""

    name = text()
    label = text("text")
    number = integer()
    status = text()
    locate = flag()
    fault = flag()
    disk = text()
    why = text()


class MountEnclosureRecord(Record):
    """Describes an enclosure as a mount sees it."""

    id = text()
    node = text()
    name = text()
    kind = text()
    access = text()
    state = text()
    why = text()
    vendor = text()
    product = text()
    revision = text()
    size_bytes = integer()
    changed_ns = integer()
    present = flag()
    slots = parts(MountSlotRecord)

    @property
    def path(self) -> str:
        """Return node/enclosure."""
        return f"{self.node}/{self.name or self.id}"


class PathRecord(Record):
    """Describes a path to an exporter, and its channel if it has one."""

    transport = text()
    interface = text()
    local = text()
    remote = text()
    local_address = text()
    remote_address = text()
    path_number = integer("number")
    speed_bits_s = integer()
    state = text()
    selected = flag()
    why = text()
    retry_in_s = number()
    dialect = text()
    signing = text()
    cipher = text()
    outstanding = integer()
    failures = integer()
    bad_signatures = integer()
    sent_bytes = integer()
    received_bytes = integer()
    sent_bytes_s = number()
    received_bytes_s = number()


class WaitingRecord(Record):
    """Describes an opener's call that waits for an exporter."""

    disk = text()
    op = text()
    for_s = number()
    left_s = number()


class HungDiskRecord(Record):
    """Describes a disk whose answers the mount no longer waits for."""

    disk = text()
    for_s = number()


class MountExporterRecord(Record):
    """Describes an exporter as a mount sees it."""

    node = text()
    state = text()
    why = text()
    since_s = number()
    retry_in_s = number()
    away_s = number()
    failing_fast = flag()
    failures = integer()
    addresses = integer()
    config_digest = text()
    sent_bytes = integer()
    received_bytes = integer()
    hung_disks = parts(HungDiskRecord)
    channels = parts(PathRecord)
    waiting = parts(WaitingRecord)

    @property
    def out_of_reach_s(self) -> float | None:
        """Return how long the exporter has been out of reach: "away_s", or "since_s" from a writer without "away_s"."""
        return self.away_s if "away_s" in self.fields.names() else self.since_s


class MountRecentRecord(RecentRecord):
    """Holds the growth of a mount's counters within the last minute."""

    path_losses = counts()
    path_forgeries = counts()


class MountRecord(FindingsRecord):
    """Holds the status of a mount."""

    mountpoint = text()
    config = text()
    config_digest = text()
    addresses = integer()
    io_timeout_s = number()
    refused = texts()
    refused_enclosures = texts()
    slot_problems = texts()
    control = text()
    log = part(WrittenPlaceRecord)
    recent = part(MountRecentRecord)
    exporters = parts(MountExporterRecord)
    disks = parts(MountDiskRecord)
    enclosures = parts(MountEnclosureRecord)

    @property
    def is_partial(self) -> bool:
        """Return whether this is only the public part, because the reader is neither root nor the process's user."""
        return self.raw.get("whole") is False

    @property
    def process(self) -> str:
        """Return a name of the process. The same problem may exist in a mount and in an exporter, under other names."""
        return f"mount {self.mountpoint}"


class ReloadRecord(Record):
    """Holds the answer to "reload"."""

    changed = texts()
    refused = texts()
    failure = text()

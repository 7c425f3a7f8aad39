"""The readers' view of another process's documents: a class per object, and an attribute per key.

The writer may be older, newer or broken, so no read raises an error: a key that is missing or has another type reads as
empty (fields.py). documents.py defines the documents of this version's writers; a test compares the names here with it.

    class DiskRecord(Record):
        name = text()                     # disk.name is the "name" of the object, or ""
        size_bytes = integer()            # None if the value is no integer
        io_class = text("class")          # for a key that cannot be a name in Python
        io = part(TotalsRecord)           # an object within the object
        flows = parts(FlowRecord)         # an array of objects
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar

from meshfs.telemetry.fields import Fields
from meshfs.telemetry.histogram import COARSE_BOUNDS_MS

BUCKETS: Final = len(COARSE_BOUNDS_MS) + 1


class Record:
    """One JSON object. ``raw`` is the whole object, so that it can be passed on unchanged."""

    def __init__(self, value: object) -> None:
        self.fields = Fields(value)

    @property
    def raw(self) -> Mapping[str, Any]:
        return self.fields.raw


T = TypeVar("T")
R = TypeVar("R", bound=Record)


class Entry(Generic[T]):
    """A key of a record. The value is read from the object at each access."""

    def __init__(self, read: Callable[[Fields, str], T], key: str) -> None:
        self._read = read
        self.key = key

    def __set_name__(self, owner: type[Record], name: str) -> None:
        self.key = self.key or name

    def __get__(self, record: Record, owner: type[Record]) -> T:
        return self._read(record.fields, self.key)


def text(key: str = "") -> Entry[str]:
    return Entry(Fields.text, key)


def texts(key: str = "") -> Entry[list[str]]:
    return Entry(Fields.texts, key)


def integer(key: str = "") -> Entry[int | None]:
    return Entry(Fields.integer, key)


def number(key: str = "") -> Entry[float | None]:
    return Entry(Fields.number, key)


def flag(key: str = "") -> Entry[bool]:
    return Entry(Fields.flag, key)


def histogram(key: str = "") -> Entry[list[int] | None]:
    """Declare an array of counts in the coarse buckets."""
    return Entry(lambda fields, name: fields.integers(name, BUCKETS), key)


def part(kind: type[R], key: str = "") -> Entry[R]:
    return Entry(lambda fields, name: kind(fields.raw.get(name)), key)


def parts(kind: type[R], key: str = "") -> Entry[list[R]]:
    return Entry(lambda fields, name: [kind(item.raw) for item in fields.items(name)], key)


# --- both programs --------------------------------------------------------------------------


class LatencyRecord(Record):
    """Percentiles of latencies in ms."""

    p50 = number()
    p99 = number()


class WindowsRecord(Record):
    """A figure over the last second and the last minute."""

    second = number("1s")
    minute = number("60s")


class TotalsRecord(Record):
    """Totals since the start of the process."""

    reads = integer()
    writes = integer()
    flushes = integer()
    errors = integer()
    read_bytes = integer()
    written_bytes = integer()
    read_histogram = histogram()
    write_histogram = histogram()
    read_time_s = number()
    write_time_s = number()


class StatusRecord(Record):
    """The keys that every status document has."""

    version = integer()
    program = text()
    node = text()
    pid = integer()
    uptime_s = number()


# --- a mount --------------------------------------------------------------------------------


class DiskTotalsRecord(TotalsRecord):
    """Totals with the latencies of the last minute."""

    read_latency_ms = part(LatencyRecord)
    write_latency_ms = part(LatencyRecord)


class MountDiskRecord(Record):
    """A disk as a mount sees it."""

    id = text()
    node = text()
    name = text()
    size_bytes = integer()
    access = text()
    cache = text()
    state = text()
    why = text()
    logical_block_size_bytes = integer()
    physical_block_size_bytes = integer()
    model = text()
    serial = text()
    present = flag()
    local = flag()
    opens = integer()
    io = part(DiskTotalsRecord)


class PathRecord(Record):
    """A path to an exporter, and its channel if it has one."""

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
    """An opener's call that waits for an exporter."""

    disk = text()
    op = text()
    for_s = number()
    left_s = number()


class HungDiskRecord(Record):
    """A disk whose answers the mount no longer waits for."""

    disk = text()
    for_s = number()


class MountExporterRecord(Record):
    """An exporter as a mount sees it."""

    node = text()
    state = text()
    why = text()
    since_s = number()
    retry_in_s = number()
    away_s = number()
    failing_fast = flag()
    failures = integer()
    sent_bytes = integer()
    received_bytes = integer()
    hung_disks = parts(HungDiskRecord)
    channels = parts(PathRecord)
    waiting = parts(WaitingRecord)


class MountRecord(StatusRecord):
    """The status of a mount."""

    mountpoint = text()
    config = text()
    io_timeout_s = number()
    control = text()
    exporters = parts(MountExporterRecord)
    disks = parts(MountDiskRecord)

    @property
    def is_partial(self) -> bool:
        """Return whether this is only the public part, because the reader is neither root nor the process's user."""
        return self.raw.get("whole") is False


class ReloadRecord(Record):
    """The answer to "reload"."""

    changed = texts()
    refused = texts()
    failure = text()


# --- an exporter ----------------------------------------------------------------------------


class ExporterDiskRecord(Record):
    """A disk as its exporter sees it."""

    name = text()
    size_bytes = integer()
    access = text()
    cache = text()
    engine = text()
    state = text()
    queued = integer()
    in_flight = integer()
    read_bytes = integer()
    written_bytes = integer()
    errors = integer()


class SessionRecord(Record):
    """A session of a node."""

    node = text()


class ExporterRecord(StatusRecord):
    """The status of an exporter."""

    listening = texts()
    sessions = parts(SessionRecord)
    disks = parts(ExporterDiskRecord)


class PolicyRecord(Record):
    """The policy in force for a disk, or for a flow at a disk."""

    limit_iops = number()
    limit_bytes_per_s = number()
    source = text()


class DiskPolicyRecord(PolicyRecord):
    """The policy in force for a disk."""

    system_floor = number()


class FlowPolicyRecord(PolicyRecord):
    """The policy in force for a flow."""

    weight = number()
    reservation = number()


class FlowRecord(TotalsRecord):
    """The I/O of one node in one class at one disk."""

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
    latency_ms = part(LatencyRecord)
    iops = part(WindowsRecord)
    bytes_per_s = part(WindowsRecord)

    @property
    def policy(self) -> FlowPolicyRecord:
        """Return the flow's policy, whose keys are in the flow's own object."""
        return FlowPolicyRecord(self.raw)


class CostRecord(Record):
    """The cost model of a disk."""

    read_fixed_us = number()
    read_byte_ns = number()
    write_fixed_us = number()
    write_byte_ns = number()
    flush_fixed_us = number()
    calibrated = flag()
    windows = integer()


class JainRecord(Record):
    """Jain's index by class."""

    app = part(WindowsRecord)
    system = part(WindowsRecord)


class FlowsDiskRecord(Record):
    """The way in which one disk is shared between flows."""

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
    """The answer to "flows"."""

    disks = parts(FlowsDiskRecord)

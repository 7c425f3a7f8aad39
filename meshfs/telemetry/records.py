"""The readers' view of another process's documents: a class per object, and an attribute per key.

The writer may be older, newer or broken, so no read raises an error: a key that is missing or has another type reads as
empty (fields.py). This module has the kinds of keys, and the objects that both programs write. mount_records.py and
exporter_records.py have the others. documents.py and exporter_documents.py define the documents of this version's
writers, and a test compares their names with those of the records.

    class DiskRecord(Record):
        name = text()                     # disk.name is the "name" of the object, or ""
        size_bytes = integer()            # None if the value is no integer
        io_class = text("class")          # for a key that cannot be a name in Python
        io = part(TotalsRecord)           # an object within the object
        flows = parts(FlowRecord)         # an array of objects
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

from meshfs.telemetry.fields import Fields
from meshfs.telemetry.histogram import COARSE_BOUNDS_MS

BUCKETS: Final = len(COARSE_BOUNDS_MS) + 1


class Record:
    """Holds one JSON object. ``raw`` is the whole object, so that it can be passed on unchanged."""

    def __init__(self, value: object) -> None:
        self.fields = Fields(value)

    @property
    def raw(self) -> Mapping[str, Any]:
        return self.fields.raw


T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R", bound=Record)


class Entry(Generic[T_co]):
    """Declares a key of a record. Each access reads the value from the object."""

    def __init__(self, read: Callable[[Fields, str], T_co], key: str) -> None:
        self._read = read
        self.key = key

    def __set_name__(self, owner: type[Record], name: str) -> None:
        self.key = self.key or name

    def __get__(self, record: Record, owner: type[Record]) -> T_co:
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


def counts(key: str = "") -> Entry[Mapping[str, int]]:
    """Declare an object whose keys are the names of counters. A count that is no integer is left out."""
    return Entry(_counts, key)


def _counts(fields: Fields, key: str) -> Mapping[str, int]:
    group = fields.object(key)
    return {name: count for name in group.names() if (count := group.integer(name)) is not None}


def part(kind: type[R], key: str = "") -> Entry[R]:
    return Entry(lambda fields, name: kind(fields.raw.get(name)), key)


def parts(kind: type[R], key: str = "") -> Entry[Sequence[R]]:
    return Entry(lambda fields, name: [kind(item.raw) for item in fields.items(name)], key)


# --- both programs --------------------------------------------------------------------------


class LatencyRecord(Record):
    """Holds percentiles of latencies, in ms."""

    p50 = number()
    p99 = number()


class WindowsRecord(Record):
    """Holds a figure over the last second and over the last minute."""

    second = number("1s")
    minute = number("60s")


class TotalsRecord(Record):
    """Holds totals since the start of the process."""

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
    """Holds the keys that every status document has."""

    version = integer()
    program = text()
    node = text()
    pid = integer()
    uptime_s = number()


class ConfigStateRecord(Record):
    """Holds the differences between the config file and the config in force."""

    error = text()
    reload = texts()
    restart = texts()


class DescriptorsRecord(Record):
    """Holds the number of open file descriptors, and their limit."""

    used = integer()
    limit = integer()


class WrittenPlaceRecord(Record):
    """Names a file or folder that the process writes. ``error`` says why the last write failed, if it did."""

    path = text()
    error = text()


class RecentRecord(Record):
    """Holds the growth of counters within the last minute."""

    disk_errors = counts()
    counters = counts()


class ProblemRecord(Record):
    """Describes a problem that the process has found in itself."""

    code = text()
    severity = text()
    subject = text()
    what = text("text")


class DiskRecord(Record):
    """Holds the keys that a disk has in the status of a mount and in that of its exporter."""

    name = text()
    size_bytes = integer()
    access = text()
    cache = text()
    state = text()
    why = text()

    def path(self, exporter: str) -> str:
        """Return node/disk. It is equal in the documents of a mount and of the disk's ``exporter``."""
        return f"{exporter}/{self.name}"

    @property
    def counter(self) -> str:
        """Return the disk's name among the counters in "recent"."""
        return self.name

    @property
    def is_offered(self) -> bool:
        """Return whether an exporter offers the disk now. An exporter describes only such disks."""
        return True


class FindingsRecord(StatusRecord):
    """Holds the keys that the status of a mount and that of an exporter have, and in which problems are found."""

    security = text()
    config_state = part(ConfigStateRecord)
    descriptors = part(DescriptorsRecord)
    recent = part(RecentRecord)
    disks = parts(DiskRecord)
    problems = parts(ProblemRecord)

    @property
    def process(self) -> str:
        """Return the name of the process, by which a problem of a mount differs from the same one of an exporter."""
        return f"exporter {self.node}"

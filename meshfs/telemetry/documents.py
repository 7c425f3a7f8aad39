"""What a mount says of itself: the documents between processes, as their writer makes them.

A document is one JSON object. Its types say which keys it has and what is in them, so that the parts of the process
that put it together cannot differ about it. A reader in another process trusts none of this, because the writer may be
older, newer or broken: it reads through telemetry/records.py, whose names a test compares with these.

    MountStatus         the status file of a mount: /.meshfs/status
      MountExporter       an exporter as the mount sees it, with a PathStatus for each path there may be
      MountDisk           a disk, with what its openers got of it so far (DiskIo)
      ProblemItem         what the process itself finds wrong
    ReloadOutcome       the answer to "reload" on the control socket
"""

from typing import Final, TypedDict

#: Of all documents of both programs; meshctl calls nothing well that has another.
STATUS_VERSION: Final = 1


class ProblemItem(TypedDict):
    code: str
    severity: str
    subject: str
    text: str


class Descriptors(TypedDict):
    """File descriptors: open ones, and how many may be."""

    used: int
    limit: int


class ConfigState(TypedDict):
    """What the config file has that is not in force: a mistake, or changes for a reload or a restart."""

    error: str
    reload: list[str]
    restart: list[str]


class LogState(TypedDict):
    """Where the process logs (empty: not to a file), and why the last line could not be written."""

    path: str
    error: str


class Percentiles(TypedDict):
    """Of the last 30 to 60 s, in ms; None without any call."""

    p50: float | None
    p99: float | None


class DiskIo(TypedDict):
    """What the openers of a disk got since the start.

    A histogram has the coarse buckets: at most 1, 5, 10, 100, 1000, 10000 ms, longer. ``*_time_s`` is its sum.
    """

    errors: int
    read_bytes: int
    written_bytes: int
    read_time_s: float
    reads: int
    read_histogram: list[int]
    read_latency_ms: Percentiles
    write_time_s: float
    writes: int
    write_histogram: list[int]
    write_latency_ms: Percentiles
    flush_time_s: float
    flushes: int
    flush_histogram: list[int]
    flush_latency_ms: Percentiles


class WaitingCall(TypedDict):
    """A call of an opener that waits for an exporter."""

    disk: str
    op: str
    for_s: float
    left_s: float


class HungDisk(TypedDict):
    disk: str
    for_s: float


class ChannelStatus(TypedDict):
    """What the channel of a path agreed on and carries; empty or 0 where the path has none."""

    dialect: str
    signing: str
    cipher: str
    outstanding: int
    sent_bytes_s: int
    received_bytes_s: int
    #: None where there is no choice between channels, because nothing is measured then.
    measured_bytes_s: int | None


class PathStatus(ChannelStatus):
    transport: str
    interface: str
    #: The ends of the connection, with ports.
    local: str
    remote: str
    #: The ends of the path, which are the same each time.
    local_address: str
    remote_address: str
    number: int
    speed_bits_s: int
    rdma: bool
    state: str
    selected: bool
    why: str
    retry_in_s: float | None
    failures: int
    losses: int
    bad_signatures: int
    sent_bytes: int
    received_bytes: int


class RemoteExporterStatus(TypedDict):
    """An exporter as the initiator sees it."""

    node: str
    state: str
    why: str
    since_s: float
    retry_in_s: float | None
    away_s: float | None
    failing_fast: bool
    hung_disks: list[HungDisk]
    failures: int
    bad_signatures: int
    nonces_repeated: int
    sent_bytes: int
    received_bytes: int
    channels: list[PathStatus]
    waiting: list[WaitingCall]


class MountExporter(RemoteExporterStatus):
    """With what the mount's config says of it, and the digest of the config that the exporter goes by."""

    addresses: int
    config_digest: str


class MountDisk(TypedDict):
    """`meshfs.model.DiskInfo`, and what the mount knows beside it. ``state`` is "absent" while nobody offers it."""

    id: str
    node: str
    name: str
    size_bytes: int
    access: str
    verifier: str
    state: str
    logical_block_size_bytes: int
    physical_block_size_bytes: int
    rotational: bool
    cache: str
    model: str
    serial: str
    enclosure: str
    slot: str
    why: str
    instance: str
    written_ns: int
    config: str
    present: bool
    opens: int
    local: bool
    io: DiskIo


class ProcessFacts(TypedDict):
    program: str
    pid: int
    descriptors: Descriptors


class MountFacts(ProcessFacts):
    """All of a mount's status but its disks and what is found in it."""

    version: int
    #: False in what everybody may see: it has nothing of anybody's I/O.
    whole: bool
    mountpoint: str
    config: str
    node: str
    uptime_s: float
    io_timeout_s: float
    security: str
    addresses: int
    exporters: list[MountExporter]
    config_digest: str
    refused: list[str]
    control: str
    config_state: ConfigState
    log: LogState
    #: Growth of counters within the last minute, by group ("disk_errors", ...) and name.
    recent: dict[str, dict[str, int]]


class MountFindings(MountFacts):
    """What the rules of problems.py look at."""

    disks: list[MountDisk]


class MountStatus(MountFindings):
    problems: list[ProblemItem]


class ReloadOutcome(TypedDict):
    """Lines for people. With a ``failure`` nothing was changed."""

    changed: list[str]
    refused: list[str]
    failure: str

"""The documents that a mount writes about itself for other processes.

A document is one JSON object. The types here define its keys and values, so that all parts of the writing process agree
about them. A reader in another process cannot rely on these types, because the writer may be older, newer or broken. It
reads through mount_records.py and exporter_records.py; a test compares the names there with these.

    MountStatus         the status file of a mount: /.meshfs/status
      MountExporter       an exporter as the mount sees it, with a PathStatus for each possible path
      MountDisk           a disk, with the I/O of its openers so far (DiskIoDocument)
      MountEnclosure      an enclosure, with a MountSlot for each of its slots
      ProblemItem         a problem that the process has found in itself
    ReloadOutcome       the answer to "reload" on the control socket
"""

from typing import Final, TypedDict

#: The version of all documents of both programs. meshctl reports a document with another version as a problem.
STATUS_VERSION: Final = 1


class ProblemItem(TypedDict):
    """Describes a problem that a process has found in itself (problems.py). ``subject`` names the affected part."""

    code: str
    severity: str
    subject: str
    text: str


class Descriptors(TypedDict):
    """Holds the number of open file descriptors, and their limit."""

    used: int
    limit: int


class ConfigState(TypedDict):
    """Compares the config file with the config in force: it has a mistake, or changes for a reload or a restart."""

    error: str
    reload: list[str]
    restart: list[str]


class LogState(TypedDict):
    """Holds the path of the log file ("" without one), and the reason why the last line could not be written."""

    path: str
    error: str


class Percentiles(TypedDict):
    """Holds latencies of the last 30 to 60 s, in ms. They are None if there was no call."""

    p50: float | None
    p99: float | None


class DiskIoDocument(TypedDict):
    """Holds the I/O of a disk's openers since the start.

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
    """Describes an opener's call that waits for an exporter."""

    disk: str
    op: str
    for_s: float
    left_s: float


class HungDisk(TypedDict):
    """Describes a disk whose answers the mount no longer waits for. ``for_s`` is the time without an answer."""

    disk: str
    for_s: float


class ChannelStatus(TypedDict):
    """Holds the negotiated settings and the load of a path's channel. They are empty or 0 if there is no channel."""

    dialect: str
    signing: str
    cipher: str
    outstanding: int
    sent_bytes_s: int
    received_bytes_s: int
    #: None if there is only one channel to choose, because then nothing is measured.
    measured_bytes_s: int | None


class PathStatus(ChannelStatus):
    """Describes a path to an exporter: a pair of interfaces, and the state and counters of its channels so far."""

    transport: str
    interface: str
    #: The ends of the connection, with ports.
    local: str
    remote: str
    #: The ends of the path, which stay the same over all its connections.
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
    """Describes an exporter as the initiator sees it."""

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
    """Describes an exporter with facts from the mount's config. ``config_digest`` is of the exporter's own config."""

    addresses: int
    config_digest: str


class MountDisk(TypedDict):
    """Describes a disk: a `DiskInfo` with the mount's own facts. ``state`` is "absent" if no exporter offers it."""

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
    discard_granularity_bytes: int
    discard_alignment_bytes: int
    present: bool
    opens: int
    local: bool
    io: DiskIoDocument


class MountSlot(TypedDict):
    """Describes a slot of an enclosure, as `meshfs.enclosure_info.SlotInfo` does. ``disk`` is the id of its disk."""

    name: str
    text: str
    number: int
    status: str
    locate: bool
    fault: bool
    disk: str
    why: str


class MountEnclosure(TypedDict):
    """Describes an enclosure: an `EnclosureInfo`, and whether a session reaches its exporter.

    ``state`` is "absent" if ``present`` is False.
    """

    id: str
    node: str
    name: str
    kind: str
    access: str
    state: str
    why: str
    vendor: str
    product: str
    revision: str
    size_bytes: int
    changed_ns: int
    slots: list[MountSlot]
    present: bool


class MountRecent(TypedDict):
    """Holds the growth of counters within the last minute: by disk id, path (`problem_finders.path_key`) or name."""

    disk_errors: dict[str, int]
    path_losses: dict[str, int]
    path_forgeries: dict[str, int]
    counters: dict[str, int]


class ProcessFacts(TypedDict):
    """Holds the facts that every process publishes about itself."""

    program: str
    pid: int
    descriptors: Descriptors


class MountFacts(ProcessFacts):
    """Describes a mount's status without its disks, its enclosures and its problems.

    ``refused`` and ``refused_enclosures`` have a line for each disk, and for each enclosure or slot, that is not shown.
    ``slot_problems`` has a line for each slot whose disk is in doubt.
    """

    version: int
    #: False in the public part of the status, which has no facts about users' I/O.
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
    refused_enclosures: list[str]
    slot_problems: list[str]
    control: str
    config_state: ConfigState
    log: LogState
    recent: MountRecent


class MountFindings(MountFacts):
    """Holds the part of the status that the rules of problems.py examine."""

    disks: list[MountDisk]
    enclosures: list[MountEnclosure]


class MountStatus(MountFindings):
    """Holds the whole status of a mount."""

    problems: list[ProblemItem]


class ReloadOutcome(TypedDict):
    """Holds lines for people. If there is a ``failure``, nothing was changed."""

    changed: list[str]
    refused: list[str]
    failure: str

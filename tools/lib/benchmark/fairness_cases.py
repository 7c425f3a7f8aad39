"""The experiments of tools/bench fairness as data: who loads the disk how, and which mark it has to reach.

A mount is named by its node; "n2-system" is a second mount of n2 with class=system. Every load is fio with libaio,
direct I/O and random places.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from benchmark.fairness_rules import Flow, Unit
from meshfs.limits import KIB, MIB

BLOCK_BYTES: Final = {"4k": 4 * KIB, "64k": 64 * KIB, "1m": MIB}


@dataclass(frozen=True)
class Limit:
    """What a limited disk is limited to, one of the two: by it flows are compared there, as it is what is scarce.

    Low enough that two cores serve it with ease: the disk has to be the bottleneck, not a processor.
    """

    iops: float | None = None
    bytes_per_s: float | None = None

    @property
    def unit(self) -> Unit:
        return "operations" if self.iops is not None else "bytes"


# What a limited disk has in its config: cases with another one change it at run time.
DEFAULT_LIMIT: Final = Limit(iops=1000)
FLOOR: Final = 0.2


@dataclass(frozen=True)
class Load:
    mount: str
    pattern: str
    block: str
    depth: int
    idle: bool = False
    """Under `ionice -c idle`, which makes it system I/O on any mount."""

    @property
    def flow(self) -> Flow:
        node, _, io_class = self.mount.partition("-")
        return node, "system" if self.idle else io_class or "app"

    @property
    def writes(self) -> bool:
        return self.pattern.endswith("write")


@dataclass(frozen=True)
class Shares:
    """Loads together: nodes of one class by weight."""

    name: str
    limit: Limit
    loads: tuple[Load, ...]
    weights: Mapping[str, float] = field(default_factory=dict)
    quick: bool = False

    def weight(self, flow: Flow) -> float:
        return self.weights.get(flow[0], 1.0)


@dataclass(frozen=True)
class Reader:
    """A lone reader of 4 KiB beside a flood: its p99 against its p99 alone.

    `attacks` are the floods of ATTACKER that no fio makes: kinds of meshlab.attack.
    """

    name: str
    limit: Limit
    reader: Load
    flood: tuple[Load, ...]
    mark: float
    quick: bool = False
    attacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Profile:
    """Seconds of one measurement, and how often it is repeated, by experiment."""

    shares_s: float
    reader_s: float
    reader_rounds: int
    alone_s: float
    alone_rounds: int
    recovery_s: float
    recovery_rounds: int
    cost_s: float
    cost_rounds: int


FULL: Final = Profile(6.5, 3.0, 3, 2.0, 3, 2.5, 3, 2.0, 5)
QUICK: Final = Profile(6.0, 2.5, 1, 2.0, 1, 2.5, 1, 1.5, 2)


def _three(one: tuple[str, str, int], two: tuple[str, str, int], three: tuple[str, str, int]) -> tuple[Load, ...]:
    return tuple(Load(node, *load) for node, load in zip(("n2", "n3", "n4"), (one, two, three), strict=True))


def _depths(pattern: str, *blocks: str) -> tuple[Load, ...]:
    one, two, three = blocks if len(blocks) == 3 else blocks * 3
    return _three((pattern, one, 1), (pattern, two, 4), (pattern, three, 64))


# A third of a limit at depth 1 leaves several ms for each request, of which a round trip takes a tenth.
EQUAL: Final = (
    Shares("4k-read", Limit(iops=900), _depths("randread", "4k"), quick=True),
    Shares("64k-read", Limit(iops=600), _depths("randread", "64k")),
    Shares("1m-read", Limit(bytes_per_s=150e6), _depths("randread", "1m")),
    Shares("4k-write", Limit(iops=900), _depths("randwrite", "4k")),
    Shares("64k-write", Limit(bytes_per_s=40e6), _depths("randwrite", "64k")),
    Shares("1m-write", Limit(bytes_per_s=150e6), _depths("randwrite", "1m"), quick=True),
    Shares("small-shallow-read", Limit(iops=300), _depths("randread", "4k", "64k", "1m"), quick=True),
    Shares("large-shallow-read", Limit(bytes_per_s=30e6), _depths("randread", "1m", "64k", "4k")),
    Shares("small-shallow-write", Limit(iops=300), _depths("randwrite", "4k", "64k", "1m")),
    Shares(
        "read-beside-write",
        Limit(iops=300),
        _three(("randwrite", "64k", 1), ("randread", "4k", 4), ("randwrite", "1m", 64)),
    ),
    # All deeper than what is at a slow disk at once, so that all three stay backlogged there too.
    Shares("4k-read-deep", Limit(iops=900), _three(*[("randread", "4k", depth) for depth in (32, 48, 64)]), quick=True),
    Shares(
        "mixed-deep",
        Limit(iops=300),
        _three(("randread", "4k", 64), ("randwrite", "64k", 48), ("randread", "1m", 32)),
    ),
)

_ONE_TWO_FOUR: Final = {"n2": 1.0, "n3": 2.0, "n4": 4.0}

WEIGHTED: Final = (
    Shares("4k-read", Limit(iops=1000), _three(*[("randread", "4k", 16)] * 3), _ONE_TWO_FOUR, quick=True),
    Shares("64k-write", Limit(bytes_per_s=60e6), _three(*[("randwrite", "64k", 16)] * 3), _ONE_TWO_FOUR),
    Shares(
        "mixed",
        Limit(iops=400),
        _three(("randread", "1m", 16), ("randwrite", "64k", 16), ("randread", "4k", 16)),
        _ONE_TWO_FOUR,
    ),
)

# Applications and system together; the mark is the system's floor.
CLASSES: Final = (
    Shares(
        "4k-read",
        Limit(iops=1000),
        (Load("n2", "randread", "4k", 64), Load("n3-system", "randread", "4k", 64)),
        quick=True,
    ),
    Shares(
        "64k-write",
        Limit(bytes_per_s=60e6),
        (Load("n2", "randwrite", "64k", 64), Load("n3-system", "randwrite", "64k", 64)),
    ),
    Shares(
        "app-4k-system-1m",
        Limit(iops=400),
        (Load("n2", "randread", "4k", 16), Load("n3-system", "randwrite", "1m", 16)),
    ),
    Shares(
        "two-of-each",
        Limit(iops=400),
        (
            Load("n2", "randread", "64k", 16),
            Load("n3", "randwrite", "4k", 64),
            Load("n2-system", "randwrite", "1m", 8),
            Load("n3-system", "randread", "64k", 64),
        ),
    ),
)

ALONE: Final = (("app", Load("n2", "randread", "4k", 32)), ("system", Load("n3-system", "randread", "4k", 32)))


def _reader(depth: int) -> Load:
    return Load("n2", "randread", "4k", depth)


def _system(*mounts: str) -> tuple[Load, ...]:
    return tuple(Load(mount, "randwrite", "64k", 32) for mount in mounts)


# Three nodes flood, the reader is on a fourth.
def _flood(block: str) -> tuple[Load, ...]:
    return tuple(Load(node, "randread", block, 32) for node in ("n3", "n4", "n5"))


# A limit that the reader alone does not reach: beside three others it is entitled to a quarter of it, and a reader
# that wants more than its share waits for that share, not for the scheduler.
_MANY: Final = Limit(iops=5000)
_LARGE: Final = Limit(bytes_per_s=200e6)
# Four fifths of it are more than a reader at depth 1 can ask for; the deeper ones reach it, and share it 4 to 1.
_FEWER: Final = Limit(iops=3000)

READERS: Final = (
    Reader("flood-4k", _MANY, _reader(1), _flood("4k"), 3.0),
    Reader("flood-64k", _LARGE, _reader(1), _flood("64k"), 3.0, quick=True),
    Reader("flood-1m", _LARGE, _reader(1), _flood("1m"), 3.0),
    Reader("system-depth-1", _FEWER, _reader(1), _system("n3-system", "n4-system"), 1.5, quick=True),
    Reader("system-depth-4", _FEWER, _reader(4), _system("n3-system", "n4-system"), 1.5),
    Reader("system-depth-16", _FEWER, _reader(16), _system("n3-system", "n4-system"), 1.5),
    Reader("system-same-node", _FEWER, _reader(1), _system("n2-system"), 1.5),
    Reader("system-same-mount", _FEWER, _reader(1), (Load("n2", "randwrite", "64k", 32, idle=True),), 1.5, quick=True),
)

# A node that is logged in and floods the exporter. Under a limit of the disk most of that would wait at the limit.
ATTACKER: Final = "n3"
ATTACKS: Final = ("create", "directory", "signature", "read4k")
# As the floods of READERS, by a program that needs less of the users' core than three mounts and their fio do.
LARGE_ATTACKS: Final = ("read64k", "read1m")
ATTACKED: Final = (
    *(
        Reader(f"attack-{kind}", _MANY, _reader(1), (), 5.0, quick=True, attacks=(kind,))
        for kind in (*ATTACKS, *LARGE_ATTACKS)
    ),
    Reader("attack-all", _MANY, _reader(1), (), 5.0, quick=True, attacks=ATTACKS),
)


@dataclass(frozen=True)
class Recovery:
    """Clients beside recovery under one setting of the exporter."""

    name: str
    discipline: str
    floor: float = FLOOR
    flooded: bool = True
    quick: bool = True


RECOVERY_CLIENT: Final = Load("n2", "randread", "4k", 16)
RECOVERY_FLOOD: Final = (Load("n3-system", "randread", "64k", 64), Load("n4-system", "randwrite", "64k", 64))
# Ceph's profiles are client/recovery 50/50 (balanced), 60/40 (high_client_ops) and 30/70 (high_recovery_ops).
RECOVERIES: Final = (
    Recovery("baseline", "fair", flooded=False),
    Recovery("fifo", "fifo"),
    Recovery("fair-20", "fair", 0.2),
    Recovery("fair-40", "fair", 0.4, quick=False),
    Recovery("fair-50", "fair", 0.5),
    Recovery("fair-70", "fair", 0.7, quick=False),
)


@dataclass(frozen=True)
class CephRecovery:
    """Ceph's own figures on NVMe. The baseline's latency is Little's law's: the others' IOPS * latency is 64."""

    name: str
    iops: float
    mean_ms: float


CEPH: Final = (
    CephRecovery("baseline", 21_500, 64 / 21_500 * 1000),
    CephRecovery("uncontrolled", 2_544, 25.0),
    CephRecovery("mclock-50", 11_209, 5.7),
)

COST_LOADS: Final = (("read", Load("n2", "randread", "4k", 16)), ("write", Load("n2", "randwrite", "4k", 16)))


@dataclass(frozen=True)
class Marks:
    jain_min: float = 0.99
    window_min: float = 0.95
    weight_error_max: float = 0.05
    floor_error_max: float = 0.02
    alone_min: float = 0.97
    cost_us_max: float = 5.0


MARKS: Final = Marks()

"""The experiments of tools/bench fairness as data: the loads of each case, and the mark that it has to reach.

A mount has the name of its node; "n2-system" is a second mount of n2 with class=system. Every load is fio with libaio,
direct I/O and random offsets.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from benchmark.fairness_rules import Flow, Unit
from meshfs.limits import KIB, MIB

BLOCK_BYTES: Final = {"4k": 4 * KIB, "64k": 64 * KIB, "1m": MIB}


@dataclass(frozen=True)
class Limit:
    """Limits a disk by one of the two values. Flows are compared in the unit of that value, because it is scarce.

    The limits are so low that two cores serve them with ease: the disk has to be the bottleneck, not a processor.
    """

    iops: float | None = None
    bytes_per_s: float | None = None

    @property
    def unit(self) -> Unit:
        return "operations" if self.iops is not None else "bytes"


# The limit in the config of a limited disk. Cases with another limit change it at run time.
DEFAULT_LIMIT: Final = Limit(iops=1000)
FLOOR: Final = 0.2


@dataclass(frozen=True)
class Load:
    """Describes one fio: its mount, and the pattern, size and depth of its I/O."""

    mount: str
    pattern: str
    block: str
    depth: int
    idle: bool = False
    """True if fio runs under `ionice -c idle`, which makes its I/O system I/O on any mount."""

    @property
    def flow(self) -> Flow:
        node, _, io_class = self.mount.partition("-")
        return node, "system" if self.idle else io_class or "app"

    @property
    def writes(self) -> bool:
        return self.pattern.endswith("write")


@dataclass(frozen=True)
class Shares:
    """Describes several loads that run at the same time, and whose shares are measured. The weights are by node."""

    name: str
    limit: Limit
    loads: tuple[Load, ...]
    weights: Mapping[str, float] = field(default_factory=dict)
    quick: bool = False

    def weight(self, flow: Flow) -> float:
        return self.weights.get(flow[0], 1.0)


@dataclass(frozen=True)
class Reader:
    """Describes a reader of 4 KiB beside a flood. The measure is the reader's p99, relative to its p99 alone.

    `attacks` are floods of ATTACKER that fio cannot make: kinds of meshlab.attack.
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
    """Holds the seconds of one measurement and the number of its rounds, by experiment."""

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


# The limits are so low that a flow with depth 1 can use its third. For example, at a third of 900 IOPS each request
# has 3.3 ms, and a round trip takes only a tenth of that.
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
    # All three depths exceed the requests that a slow disk serves at once, so that all stay backlogged there too.
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

# Both classes together. The mark is the system's floor.
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


# Three nodes flood, and the reader is on a fourth node.
def _flood(block: str) -> tuple[Load, ...]:
    return tuple(Load(node, "randread", block, 32) for node in ("n3", "n4", "n5"))


# Limits of which the reader needs less than a quarter, its share beside three other nodes. A reader that wants more
# than its share would wait for the share, and not only for the scheduler.
_MANY: Final = Limit(iops=5000)
_LARGE: Final = Limit(bytes_per_s=200e6)
# Four fifths of this limit are more than a reader with depth 1 can use. Deeper readers reach the limit, and share it
# 4 to 1 with the system.
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

# The node that is logged in and floods the exporter. It is used on disks without a limit, because most of its requests
# would otherwise wait for the limit.
ATTACKER: Final = "n3"
ATTACKS: Final = ("create", "directory", "signature", "read4k")
# These are like the floods of READERS, but the program needs less of the users' core than three mounts with fio.
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
    """Describes a setting of the exporter for clients beside a recovery."""

    name: str
    discipline: str
    floor: float = FLOOR
    flooded: bool = True
    quick: bool = True


RECOVERY_CLIENT: Final = Load("n2", "randread", "4k", 16)
RECOVERY_FLOOD: Final = (Load("n3-system", "randread", "64k", 64), Load("n4-system", "randwrite", "64k", 64))
# Ceph's profiles divide client/recovery 50/50 (balanced), 60/40 (high_client_ops) and 30/70 (high_recovery_ops).
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
    """Ceph's published figures on NVMe.

    The baseline's latency is computed by Little's law, with 64 requests in flight: IOPS * latency is 64 for the others.
    """

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
    """Holds the figures that the experiments have to reach."""

    jain_min: float = 0.99
    window_min: float = 0.95
    weight_error_max: float = 0.05
    floor_error_max: float = 0.02
    alone_min: float = 0.97
    cost_us_max: float = 5.0


MARKS: Final = Marks()

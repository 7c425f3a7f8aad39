"""The words that every part shares: classes of I/O, flows, disks and their states, and what a node may do with one."""

import enum
import json
from dataclasses import dataclass
from typing import Final, NamedTuple

SHARE_DISKS: Final = "disks"
SHARE_DISKS_SYSTEM: Final = "disks-system"


class IoClass(enum.StrEnum):
    """The class of an I/O; on the wire it is the share the disk was opened through."""

    APP = "app"
    SYSTEM = "system"

    @property
    def share(self) -> str:
        return SHARE_DISKS if self is IoClass.APP else SHARE_DISKS_SYSTEM


class FlowKey(NamedTuple):
    """Names a flow: the requests of one class that one node sends. Schedulers share a resource among flows.

    A key is made once per open or connection and is looked up per request, so it is a tuple: it hashes without a call
    into Python code of its own.
    """

    node: str
    io_class: IoClass

    def __str__(self) -> str:
        return f"{self.node}/{self.io_class}"


#: The flow of requests that no node sent. No node has an empty name.
NO_FLOW: Final = FlowKey("", IoClass.APP)


class Security(enum.StrEnum):
    """How the messages of a session are protected on their way."""

    SIGN = "sign"
    ENCRYPT = "encrypt"
    NONE = "none"


class Cache(enum.StrEnum):
    """Where the writes of a disk may stay on its owner before they are on the medium."""

    NONE = "none"
    WRITEBACK = "writeback"


class Discipline(enum.StrEnum):
    """Which request goes to a disk next: that of the flow whose turn it is by weight, or the one that came first."""

    FAIR = "fair"
    FIFO = "fifo"


class Access(enum.StrEnum):
    """What a node may do with a disk."""

    NONE = "none"
    READ_ONLY = "ro"
    READ_WRITE = "rw"


class DiskState(enum.StrEnum):
    """What the exporter has measured of a disk. Every state but OK is a problem.

    OK          its I/O succeeds
    FAILING     the device answered its last I/Os with errors
    GONE        the device went away while it was served
    MISSING     the disk is configured, and could not be opened yet or any more
    SUSPENDED   reserved
    """

    OK = "ok"
    FAILING = "failing"
    GONE = "gone"
    MISSING = "missing"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True)
class DiskInfo:
    """What an exporter tells of one disk, as seen by the asking node.

    ``name`` is the file's name in the share; ``id`` the stable, cluster-wide name of
    /mesh/disk/by-id. ``verifier`` changes when acknowledged, unflushed writes may be lost.
    ``why`` is the reason of a state that is not OK, for people, and empty otherwise.
    ``instance`` identifies the claimed device or image behind the name: equal over restarts of the
    exporter, and another one when another device or image takes the name (`meshfs.disk.discovery.identity`).
    ``written_ns`` is when anybody last wrote to the disk, in ns of the epoch; 0 when it is not known.
    ``config`` is the digest of the config that the exporter goes by (`meshfs.cluster.config.Config`).
    """

    id: str
    node: str
    name: str
    size_bytes: int
    access: Access
    verifier: str
    state: DiskState = DiskState.OK
    logical_block_size_bytes: int = 512
    physical_block_size_bytes: int = 4096
    rotational: bool = False
    cache: str = "none"
    model: str = ""
    serial: str = ""
    enclosure: str = ""
    slot: str = ""
    why: str = ""
    instance: str = ""
    written_ns: int = 0
    config: str = ""


def encode_disks(disks: list[DiskInfo]) -> bytes:
    """The output of FSCTL_MESHFS_QUERY_DISKS: a UTF-8 JSON array of objects."""
    fields = [{name: getattr(disk, name) for name in DiskInfo.__slots__} for disk in disks]
    return json.dumps(fields, separators=(",", ":")).encode()


def decode_disks(data: bytes | memoryview, most: int | None = None) -> list[DiskInfo]:
    """The reverse, of the first ``most`` disks; unknown keys are ignored. Raises ValueError for anything else."""
    try:
        items = json.loads(bytes(data).decode())
        return [_disk_from(item) for item in items[:most]]
    except (TypeError, KeyError, AttributeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"disk list is malformed: {error!r}") from error


def _disk_from(item: dict[str, object]) -> DiskInfo:
    known = {key: item[key] for key in DiskInfo.__slots__ if key in item}
    for key, value in known.items():
        expected = _FIELD_TYPES[key]
        if type(value) is not expected:
            raise ValueError(f"disk list: {key} is {type(value).__name__}, expected {expected.__name__}")
    known["access"] = Access(str(known["access"]))
    if "state" in known:
        known["state"], reason = _state_from(str(known["state"]))
        known["why"] = known.get("why") or reason
    info = DiskInfo(**known)  # type: ignore[arg-type]
    if not 0 <= info.size_bytes < 1 << 63:
        raise ValueError(f"disk list: size_bytes {info.size_bytes} is out of range")
    if not 0 <= info.written_ns < 1 << 63:
        raise ValueError(f"disk list: written_ns {info.written_ns} is out of range")
    return info


def _state_from(text: str) -> tuple[DiskState, str]:
    """The state and its reason. The state of a newer exporter that is unknown here still counts as a problem."""
    try:
        return DiskState(text), ""
    except ValueError:
        return DiskState.FAILING, f"its exporter reports the state {text!r}, which this version does not know"


_FIELD_TYPES: Final[dict[str, type]] = {
    "id": str,
    "node": str,
    "name": str,
    "size_bytes": int,
    "access": str,
    "verifier": str,
    "state": str,
    "logical_block_size_bytes": int,
    "physical_block_size_bytes": int,
    "rotational": bool,
    "cache": str,
    "model": str,
    "serial": str,
    "enclosure": str,
    "slot": str,
    "why": str,
    "instance": str,
    "written_ns": int,
    "config": str,
}

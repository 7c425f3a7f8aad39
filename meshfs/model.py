"""The terms that all parts share: classes of I/O, flows, disks, their states, and what a node may do with a disk."""

import enum
import json
from dataclasses import dataclass
from typing import Final, NamedTuple

SHARE_DISKS: Final = "disks"
SHARE_DISKS_SYSTEM: Final = "disks-system"


class IoClass(enum.StrEnum):
    """Names the class of an I/O. On the wire, the share through which the disk was opened tells the class."""

    APP = "app"
    SYSTEM = "system"

    @property
    def share(self) -> str:
        return SHARE_DISKS if self is IoClass.APP else SHARE_DISKS_SYSTEM


class FlowKey(NamedTuple):
    """Names a flow: the requests of one class that one node sends. Schedulers share a resource among flows.

    A key is made once per open or connection, but is looked up for each request. Therefore a key is a tuple, which is
    hashed without a call into Python code.
    """

    node: str
    io_class: IoClass

    def __str__(self) -> str:
        return f"{self.node}/{self.io_class}"


#: The flow of requests that no node sent. No node has an empty name.
NO_FLOW: Final = FlowKey("", IoClass.APP)


class Security(enum.StrEnum):
    """Tells how the messages of a session are protected on the network."""

    SIGN = "sign"
    ENCRYPT = "encrypt"
    NONE = "none"


class Cache(enum.StrEnum):
    """Tells where written data may stay at the owner of a disk before it is on the medium."""

    NONE = "none"
    WRITEBACK = "writeback"


class Discipline(enum.StrEnum):
    """Tells which request is sent to a disk next: one of the flow whose turn it is by weight, or the oldest one."""

    FAIR = "fair"
    FIFO = "fifo"


class Access(enum.StrEnum):
    """Tells what a node may do with a disk."""

    NONE = "none"
    READ_ONLY = "ro"
    READ_WRITE = "rw"


class DiskState(enum.StrEnum):
    """Names the state of a disk as its exporter announces it. Every state except OK is a problem.

    OK          I/O succeeds
    FAILING     the device answered its last I/Os with errors
    GONE        the device went away while it was served
    MISSING     the disk is configured, but could not be opened yet, or cannot be opened any more
    SUSPENDED   an administrator suspended the disk, so its I/O waits
    DRAINED     an administrator drained the disk, or its exporter is stopping: nothing new is sent to its device
    """

    OK = "ok"
    FAILING = "failing"
    GONE = "gone"
    MISSING = "missing"
    SUSPENDED = "suspended"
    DRAINED = "drained"


@dataclass(frozen=True, slots=True)
class DiskInfo:
    """Holds the properties of one disk, as its exporter advertises them to the node that asks.

    ``name`` is the name of the disk's file in the share. ``id`` is the stable name in /mesh/disk/by-id, which is unique
    in the cluster. ``access`` is what the asking node may do with the disk.
    ``verifier`` changes when acknowledged writes that were not flushed may have been lost.
    ``why`` is the reason for a state other than OK, for people. It is empty in state OK.
    ``instance`` identifies the device or image behind the name. It stays the same when the exporter restarts, and
    changes when another device or image takes the name (`meshfs.disk.discovery.identity`).
    ``written_ns`` is the time of the last write by anybody, in ns since the epoch, or 0 if it is unknown.
    ``config`` is the digest of the config that the exporter uses (`meshfs.cluster.config.Config`).
    The two ``discard_`` numbers are those of `meshfs.granules.Granules`; both are 0 if the disk cannot discard.
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
    discard_granularity_bytes: int = 0
    discard_alignment_bytes: int = 0


def encode_disks(disks: list[DiskInfo]) -> bytes:
    """Return the output of FSCTL_MESHFS_QUERY_DISKS: a UTF-8 JSON array of objects, one for each disk."""
    fields = [{name: getattr(disk, name) for name in DiskInfo.__slots__} for disk in disks]
    return json.dumps(fields, separators=(",", ":")).encode()


def decode_disks(data: bytes | memoryview, most: int | None = None) -> list[DiskInfo]:
    """Decode the first ``most`` disks of the output of `encode_disks`, or all disks if ``most`` is None.

    Unknown keys are ignored, because a newer exporter may send more. Raises ValueError for a malformed list.
    """
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
    info = DiskInfo(**known)  # type: ignore[arg-type]  # the loop has checked each type
    if not 0 <= info.size_bytes < 1 << 63:
        raise ValueError(f"disk list: size_bytes {info.size_bytes} is out of range")
    if not 0 <= info.written_ns < 1 << 63:
        raise ValueError(f"disk list: written_ns {info.written_ns} is out of range")
    if not 0 <= info.discard_alignment_bytes <= info.discard_granularity_bytes < 1 << 63:
        raise ValueError(f"disk list: discard_granularity_bytes {info.discard_granularity_bytes} is out of range")
    return info


def _state_from(text: str) -> tuple[DiskState, str]:
    """Return the state and its reason.

    A newer exporter may report a state that is unknown here. The disk then counts as FAILING, so that the unknown state
    is still reported as a problem.
    """
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
    "discard_granularity_bytes": int,
    "discard_alignment_bytes": int,
}

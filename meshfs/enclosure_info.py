"""Defines what an exporter advertises of an enclosure and its slots, in FSCTL_MESHFS_QUERY_ENCLOSURES.

An enclosure is a chassis with slots for disks. It is a file in the share `enclosures`: reading gives its SES pages, and
writing takes a control page. This module has the facts that a mount needs without reading the pages.
"""

import enum
import json
from dataclasses import dataclass, fields
from typing import Final

from meshfs.model import Access

#: The share whose files are the enclosures of a node.
SHARE_ENCLOSURES: Final = "enclosures"


class EnclosureKind(enum.StrEnum):
    """Names where an enclosure's pages come from.

    SES         a SCSI enclosure services device of the machine
    DIRECTORY   a folder of images: each image is a disk in a slot
    VIRTUAL     the bays of a node that has no SES device
    """

    SES = "ses"
    DIRECTORY = "directory"
    VIRTUAL = "virtual"


class EnclosureState(enum.StrEnum):
    """Names the state of an enclosure as its exporter observes it. Every state except OK is a problem.

    OK          all its pages could be read, and it reports no fault
    FAULT       it reports a fault of itself or of an element: a critical or unrecoverable condition
    REFUSED     one of its pages is malformed. Without the configuration or the status, its slots are not known. Without
                another page, only the names of its slots or the addresses of its disks are unknown
    GONE        its device does not answer, or went away
    """

    OK = "ok"
    FAULT = "fault"
    REFUSED = "refused"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class SlotInfo:
    """Describes one slot of an enclosure.

    ``name`` is unique in the enclosure and can be a file name. ``text`` is the text of the enclosure's firmware.
    ``number`` is the number on the chassis, or -1 if it is unknown. ``status`` is the SES status code in words ("ok",
    "critical", "not-installed", ...). ``disk`` is the id of the disk in the slot, or "" if there is none, or if the
    exporter does not offer it. ``why`` is the reason why a device in the slot is not offered as a disk, for people.
    """

    name: str
    text: str = ""
    number: int = -1
    status: str = "unsupported"
    locate: bool = False
    fault: bool = False
    disk: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class EnclosureInfo:
    """Holds the properties of one enclosure, as its exporter advertises them to the node that asks.

    ``name`` is the name of the enclosure's file in the share. ``id`` is the stable name in /mesh/enclosure/by-id, which
    is unique in the cluster. ``access`` is what the asking node may do: read the pages (ro), or also write control
    pages (rw). ``why`` is the reason for a state other than OK, or a remark, for people. ``size_bytes`` is the size of
    all pages. ``changed_ns`` is the time at which these facts changed last, in ns since the epoch.
    """

    id: str
    node: str
    name: str
    kind: EnclosureKind
    access: Access
    state: EnclosureState = EnclosureState.OK
    why: str = ""
    vendor: str = ""
    product: str = ""
    revision: str = ""
    size_bytes: int = 0
    changed_ns: int = 0
    slots: tuple[SlotInfo, ...] = ()


class _Item:
    """Reads the fields of one JSON object, and checks their types. A field without a default must be there."""

    def __init__(self, item: dict[str, object]) -> None:
        self._item = item

    def text(self, key: str, default: str | None = "") -> str:
        value = self._item[key] if default is None else self._item.get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def number(self, key: str, default: int, smallest: int) -> int:
        value = self._item.get(key, default)
        if type(value) is not int or not smallest <= value < 1 << 63:
            raise self._wrong(key, value, f"an integer from {smallest} on")
        return value

    def flag(self, key: str) -> bool:
        value = self._item.get(key, False)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def _wrong(self, key: str, value: object, expected: str) -> ValueError:
        return ValueError(f"enclosure list: {key} is {value!r:.80}, expected {expected}")


def encode_enclosures(enclosures: list[EnclosureInfo]) -> bytes:
    """Return the output of FSCTL_MESHFS_QUERY_ENCLOSURES: a UTF-8 JSON array of objects, one for each enclosure."""
    return json.dumps([_as_json(each) for each in enclosures], separators=(",", ":")).encode()


def _as_json(enclosure: EnclosureInfo) -> dict[str, object]:
    shown: dict[str, object] = {each.name: getattr(enclosure, each.name) for each in fields(enclosure)}
    return {
        **shown,
        "slots": [{each.name: getattr(slot, each.name) for each in fields(slot)} for slot in enclosure.slots],
    }


def decode_enclosures(data: bytes | memoryview, most: int, slots_max: int) -> list[EnclosureInfo]:
    """Decode the first ``most`` enclosures of the output of `encode_enclosures`, each with at most ``slots_max`` slots.

    Unknown keys are ignored, because a newer exporter may send more. Raises ValueError for a malformed list.
    """
    try:
        items = json.loads(bytes(data).decode())
        return [_enclosure(item, slots_max) for item in items[:most]]
    except (TypeError, KeyError, AttributeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"enclosure list is malformed: {error!r}") from error


def _enclosure(item: dict[str, object], slots_max: int) -> EnclosureInfo:
    read = _Item(item)
    state, why = _state(read.text("state", EnclosureState.OK), read.text("why"))
    slots = item.get("slots", [])
    if not isinstance(slots, list):
        raise ValueError(f"enclosure list: slots is {type(slots).__name__}, expected list")
    return EnclosureInfo(
        id=read.text("id", None),
        node=read.text("node", None),
        name=read.text("name", None),
        kind=EnclosureKind(read.text("kind", None)),
        access=Access(read.text("access", None)),
        state=state,
        why=why,
        vendor=read.text("vendor"),
        product=read.text("product"),
        revision=read.text("revision"),
        size_bytes=read.number("size_bytes", 0, 0),
        changed_ns=read.number("changed_ns", 0, 0),
        slots=tuple(_slot(_Item(each)) for each in slots[:slots_max]),
    )


def _slot(read: _Item) -> SlotInfo:
    return SlotInfo(
        name=read.text("name", None),
        text=read.text("text"),
        number=read.number("number", -1, -1),
        status=read.text("status", "unsupported"),
        locate=read.flag("locate"),
        fault=read.flag("fault"),
        disk=read.text("disk"),
        why=read.text("why"),
    )


def _state(text: str, why: str) -> tuple[EnclosureState, str]:
    """Return the state and its reason.

    A newer exporter may report a state that is unknown here. The state then counts as FAULT, so that the unknown state
    is still reported as a problem.
    """
    try:
        return EnclosureState(text), why
    except ValueError:
        return EnclosureState.FAULT, f"its exporter reports the state {text!r}, which this version does not know"

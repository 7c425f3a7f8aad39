"""Defines what a mount sees of the mesh, and how the exporters pass that on (FSCTL_MESHFS_EXCHANGE_VIEWS).

Each mount sends its view to each exporter, which keeps the view as long as the session lasts. `meshctl check` asks all
exporters for the views of all nodes, and compares them.

    mount of n2 --view--> exporter n1: what n2 sees of the disks of n1, and how n2 reaches every exporter
    mount of n3 <--exchange-- exporter n1: what n1 offers, and the views of n2, n3, ...

A view has only the disks of the exporter that it is sent to. So no node learns of the disks of another exporter, which
it may not know of. Of its own disks, the exporter passes on only those that the asking node may know of.
"""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Final

from meshfs import limits
from meshfs.telemetry.fields import Fields

#: A longer text is no id, instance or name of a node. An entry with such a text is left out.
_TEXT_MAX_CHARACTERS: Final = 1024
#: A reason for people is cut here.
_WHY_MAX_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class DiskView:
    """Describes a disk as an exporter offers it, or as a mount shows it (`meshfs.model.DiskInfo`)."""

    id: str
    size_bytes: int
    instance: str


@dataclass(frozen=True, slots=True)
class ReachView:
    """Describes how a mount reaches one exporter: by ``paths`` channels of ``planned`` ones.

    ``state`` is "connected", or the state of an exporter that is away. ``why`` is the reason of such a state.
    """

    exporter: str
    state: str
    paths: int
    planned: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class MountView:
    """Holds what a mount sees of the disks of one exporter, and how it reaches every exporter."""

    disks: tuple[DiskView, ...] = ()
    reach: tuple[ReachView, ...] = ()


@dataclass(frozen=True, slots=True)
class SeenView:
    """Holds the view of a mount of ``node``, which was received ``age_s`` ago.

    ``hidden`` has the ids of the exporter's disks that the node may not know of. So these disks are not in its view.
    """

    node: str
    age_s: float
    view: MountView
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ViewExchange:
    """Holds what an exporter knows: the disks that it offers, and the views of the mounts that it has sessions with."""

    disks: tuple[DiskView, ...] = ()
    views: tuple[SeenView, ...] = ()


def encode_view(view: MountView) -> bytes:
    """Return the input of FSCTL_MESHFS_EXCHANGE_VIEWS: a UTF-8 JSON object."""
    return _encoded(_view_json(view))


def decode_view(data: bytes | memoryview) -> MountView:
    """Decode the output of `encode_view`. Unknown keys are ignored. Raises ValueError if it is no JSON object."""
    return _view(_decoded(data))


def encode_exchange(exchange: ViewExchange) -> bytes:
    """Return the output of FSCTL_MESHFS_EXCHANGE_VIEWS: a UTF-8 JSON object."""
    return _encoded(exchange_json(exchange))


def decode_exchange(data: bytes | memoryview) -> ViewExchange:
    """Decode the output of `encode_exchange`. Unknown keys are ignored. Raises ValueError if it is no JSON object."""
    return exchange_of(_decoded(data))


def exchange_json(exchange: ViewExchange) -> dict[str, object]:
    """Return the JSON object of an exchange."""
    return {
        "disks": [_disk_json(disk) for disk in exchange.disks],
        "views": [
            {"node": seen.node, "age_s": seen.age_s, "hidden": list(seen.hidden), **_view_json(seen.view)}
            for seen in exchange.views
        ],
    }


def exchange_of(fields: Fields) -> ViewExchange:
    """Return the exchange that a JSON object holds. A malformed entry is left out."""
    views = (
        SeenView(each.text("node"), each.number("age_s") or 0.0, _view(each), tuple(each.texts("hidden")))
        for each in fields.items("views")
    )
    return ViewExchange(tuple(_disks(fields)), tuple(views))


def only_known(view: MountView, hidden: Collection[str]) -> MountView:
    """Return the view without the disks in ``hidden``, which the asking node may not know of."""
    if not hidden:
        return view
    return replace(view, disks=tuple(disk for disk in view.disks if disk.id not in hidden))


def _encoded(value: dict[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _decoded(data: bytes | memoryview) -> Fields:
    try:
        value = json.loads(bytes(data).decode())
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"a view of the mesh is malformed: {error!r}") from error
    if not isinstance(value, dict):
        raise ValueError(f"a view of the mesh is {type(value).__name__}, expected an object")
    return Fields(value)


def _view_json(view: MountView) -> dict[str, object]:
    return {
        "disks": [_disk_json(disk) for disk in view.disks],
        "reach": [
            {
                "exporter": each.exporter,
                "state": each.state,
                "paths": each.paths,
                "planned": each.planned,
                "why": each.why[:_WHY_MAX_CHARACTERS],
            }
            for each in view.reach
        ],
    }


def _disk_json(disk: DiskView) -> dict[str, object]:
    return {"id": disk.id, "size_bytes": disk.size_bytes, "instance": disk.instance}


def _view(fields: Fields) -> MountView:
    return MountView(tuple(_disks(fields)), tuple(_reach(fields)))


def _disks(fields: Fields) -> Iterator[DiskView]:
    for each, _ in zip(fields.items("disks"), range(limits.DISKS_PER_NODE_MAX), strict=False):
        disk = DiskView(each.text("id"), each.integer("size_bytes") or 0, each.text("instance"))
        if disk.id and max(len(disk.id), len(disk.instance)) <= _TEXT_MAX_CHARACTERS:
            yield disk


def _reach(fields: Fields) -> Iterator[ReachView]:
    for each, _ in zip(fields.items("reach"), range(limits.VIEW_EXPORTERS_MAX), strict=False):
        exporter, state = each.text("exporter"), each.text("state")
        if exporter and max(len(exporter), len(state)) <= _TEXT_MAX_CHARACTERS:
            paths, planned = each.integer("paths") or 0, each.integer("planned") or 0
            yield ReachView(exporter, state, paths, planned, each.text("why")[:_WHY_MAX_CHARACTERS])

"""Compares the views of all mounts: does every node see the same disks, over as many paths as planned? Pure.

The exporter of a disk says what is right: which disks it offers, with which size, and which node may not know of which
disk. A disk that a node may not know of is no difference. What each mount sees is compared with what the exporter says
(`meshfs.mesh_view`). Disks that the asking node itself may not know of are not compared.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from meshfs.limits import VIEW_OLD_S
from meshfs.mesh_view import DiskView, ReachView, SeenView, ViewExchange
from meshfs.telemetry.problems import Problem, Severity

#: At most this many disks of one kind of difference are named. The rest is counted.
_NAMED_MAX = 5


@dataclass(frozen=True)
class MeshSeen:
    """Holds the answers of all exporters. ``nodes`` are those of the config that should have a mount.

    ``silent`` has the exporters that did not answer, each with the reason.
    """

    nodes: Sequence[str]
    exchanges: Mapping[str, ViewExchange]
    silent: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeRow:
    """Counts what one node sees. ``age_s`` is the age of its oldest view, or None if it has no view."""

    node: str
    disks: int
    disks_expected: int
    exporters: int
    exporters_expected: int
    paths: int
    paths_planned: int
    age_s: float | None


def problems(seen: MeshSeen) -> list[Problem]:
    """Return everything that is not symmetric."""
    found = [
        Problem("check-exporter", Severity.ERROR, f"exporter {exporter}", f"it does not answer: {why}")
        for exporter, why in seen.silent.items()
    ]
    for node in seen.nodes:
        found += _of_node(seen, node)
    return found


def rows(seen: MeshSeen) -> list[NodeRow]:
    """Return a row for each node."""
    return [_row(seen, node) for node in seen.nodes]


def _views(seen: MeshSeen, node: str) -> dict[str, list[SeenView]]:
    """Return the views of a node's mounts by exporter. A node may have several mounts."""
    return {
        exporter: [each for each in exchange.views if each.node == node]
        for exporter, exchange in seen.exchanges.items()
    }


def _of_node(seen: MeshSeen, node: str) -> Iterator[Problem]:
    views = _views(seen, node)
    if seen.exchanges and not any(views.values()):
        text = "no mount of this node tells an exporter what it sees: it has no mount, or reaches no exporter"
        yield Problem("check-node", Severity.ERROR, f"node {node}", text)
        return
    for exporter, exchange in seen.exchanges.items():
        subject = f"node {node}"
        if not views[exporter]:
            text = f"it does not reach exporter {exporter}{_reason(views, exporter)}"
            yield Problem("check-reach", Severity.ERROR, subject, text)
        for view in views[exporter]:
            yield from (
                Problem(code, Severity.ERROR, subject, text) for code, text in _of_view(exporter, exchange, view)
            )


def _reason(views: Mapping[str, Sequence[SeenView]], exporter: str) -> str:
    """Return why a node does not reach an exporter, as the node reported to other exporters."""
    for told in views.values():
        for each in told:
            for reach in each.view.reach:
                if reach.exporter == exporter and reach.state != "connected":
                    return f": there it is {reach.state}" + (f" ({reach.why})" if reach.why else "")
    return ""


def _of_view(exporter: str, exchange: ViewExchange, seen: SeenView) -> Iterator[tuple[str, str]]:
    """Yield the code and the text of each difference between an exporter and a view of it."""
    if seen.age_s > VIEW_OLD_S:
        yield "check-old", f"it has reported nothing to exporter {exporter} for {seen.age_s:.0f} s; look at its mount"
    offered = _offered_to(exchange, seen)
    shown = {disk.id: disk for disk in seen.view.disks}
    missing = [each for each in offered if each not in shown]
    if missing:
        yield "check-missing", f"it does not see {_named(missing)} of {exporter}"
    extra = [each for each in shown if each not in offered and each not in seen.hidden]
    if extra:
        yield "check-extra", f"it still sees {_named(extra)} of {exporter}, which {exporter} does not offer to it"
    for disk in offered.values():
        if disk.id in shown:
            yield from _of_disk(exporter, disk, shown[disk.id])
    reach = _reach(exporter, seen)
    if reach is not None and reach.paths < reach.planned:
        text = f"it reaches exporter {exporter} over {reach.paths} of {reach.planned} paths; see `meshctl paths` there"
        yield "check-paths", text


def _of_disk(exporter: str, offered: DiskView, shown: DiskView) -> Iterator[tuple[str, str]]:
    # An exporter does not know the size of a disk that is missing since its start, and mounts keep the earlier one.
    if offered.size_bytes and offered.size_bytes != shown.size_bytes:
        sizes = f"{shown.size_bytes} bytes, and {exporter} offers {offered.size_bytes} bytes"
        yield "check-size", f"it sees disk {offered.id} with {sizes}"
    if offered.instance and offered.instance != shown.instance:
        yield "check-instance", f"it sees another device as disk {offered.id} than {exporter} offers"


def _offered_to(exchange: ViewExchange, seen: SeenView) -> dict[str, DiskView]:
    return {disk.id: disk for disk in exchange.disks if disk.id not in seen.hidden}


def _reach(exporter: str, seen: SeenView) -> ReachView | None:
    return next((each for each in seen.view.reach if each.exporter == exporter), None)


def _named(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _NAMED_MAX} more" if len(ids) > _NAMED_MAX else ""
    return f"{'disk' if len(ids) == 1 else 'the disks'} {', '.join(ids[:_NAMED_MAX])}{more}"


def _row(seen: MeshSeen, node: str) -> NodeRow:
    """Count what the node sees of each exporter. If the node has several mounts, the worst one of them counts."""
    views = _views(seen, node)
    disks = expected = paths = planned = 0
    for exporter, exchange in seen.exchanges.items():
        told = views[exporter]
        # Without a view nobody tells which disks the node may not know of.
        expected += min((len(_offered_to(exchange, each)) for each in told), default=len(exchange.disks))
        disks += min((_shown_count(exchange, each) for each in told), default=0)
        reach = [each for view in told if (each := _reach(exporter, view)) is not None]
        if reach:
            worst = min(reach, key=lambda each: each.paths)
            paths += worst.paths
            planned += worst.planned
    return NodeRow(
        node,
        disks,
        expected,
        sum(bool(told) for told in views.values()),
        len(seen.exchanges) + len(seen.silent),
        paths,
        planned,
        max((each.age_s for told in views.values() for each in told), default=None),
    )


def _shown_count(exchange: ViewExchange, seen: SeenView) -> int:
    """Return how many of the disks that are offered to the node are in its view."""
    return len(_offered_to(exchange, seen).keys() & {disk.id for disk in seen.view.disks})

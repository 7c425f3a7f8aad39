"""meshctl wait returns when disks can be used. Units and scripts call it before they use a disk.

A disk is named by its id, as NODE/NAME, or by its path below a mount point. For a path, the disk must be usable at that
mount. For a name, it must be usable at every mount of its mesh on this machine, because the caller may use any of them.
Two mounts belong to the same mesh if they have the same config.
"""

import argparse
import math
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from meshctl import output
from meshctl.sources import Answer, NoAnswer, answer_of, mount_points, read_mount, within
from meshctl.subparsers import Subparsers
from meshctl.table import printable
from meshfs.errors import ConfigError
from meshfs.limits import CONTROL_TIMEOUT_S, WAIT_POLL_S, WAIT_S
from meshfs.mount.awaited import SeenDisk, SeenExporter, missing
from meshfs.namespace.merging import STATE_ABSENT
from meshfs.telemetry.mount_records import MountRecord
from meshfs.telemetry.problems import Problem, Severity

_PATH: Final = re.compile(r"(?P<point>.*)/disk/(?:by-id/(?P<id>[^/]+)|by-node/(?P<name>[^/]+/[^/]+))")


@dataclass(frozen=True)
class Target:
    """Names a disk to wait for: by its id or NODE/NAME, and by the mount point if the disk was given as a path."""

    name: str
    point: str = ""


@dataclass(frozen=True)
class MountSeen:
    """Holds the disks and exporters of one mount, or the reason why the mount does not answer."""

    point: str
    error: str = ""
    config: str = ""
    disks: Sequence[SeenDisk] = ()
    exporters: dict[str, SeenExporter] = field(default_factory=dict)


def add_parser(verbs: Subparsers) -> None:
    parser = verbs.add_parser("wait", help="wait until disks can be used")
    parser.add_argument("disk", nargs="+", metavar="DISK", help="the disk's id, NODE/NAME, or its path in a mount")
    parser.add_argument(
        "--timeout", type=seconds, default=WAIT_S, metavar="S", help="wait at most S seconds (default: %(default)g)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.set_defaults(run=run)


def seconds(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def run(arguments: argparse.Namespace) -> int:
    targets = [target_of(text) for text in arguments.disk]
    deadline = time.monotonic() + arguments.timeout
    while lines := look(targets, deadline):
        if time.monotonic() >= deadline:
            break
        time.sleep(WAIT_POLL_S)
    if arguments.json:
        output.print_json({}, [Problem("disk-awaited", Severity.ERROR, "wait", line) for line in lines])
    for line in lines:
        print(f"meshctl: after {arguments.timeout:g} s {printable(line)}", file=sys.stderr)
    return 1 if lines else 0


def target_of(text: str) -> Target:
    """Return the disk that an argument names. Raises ConfigError for a path that is not the path of a disk."""
    if not text.startswith((".", "/")) and text.count("/") <= 1:
        return Target(text)
    match = _PATH.fullmatch(os.path.abspath(text))
    if match is None:
        expected = "MOUNTPOINT/disk/by-id/ID or MOUNTPOINT/disk/by-node/NODE/NAME"
        raise ConfigError(f"{text} is not the path of a disk in a mesh, expected {expected}")
    return Target(match["id"] or match["name"], match["point"] or "/")


def look(targets: Sequence[Target], deadline: float) -> list[str]:
    """Return a line for each disk and mount where the disk cannot be used now."""
    listed = [str(point) for point in mount_points()]
    # A mount point of an automounter may not be listed yet. Looking into it makes the automounter mount it.
    points = list(dict.fromkeys([*listed, *(_real(each.point, listed) for each in targets if each.point)]))
    mounts = {point: seen_at(point, deadline) for point in points}
    lines = []
    for target in targets:
        point = _real(target.point, listed) if target.point else ""
        lines += not_there(target.name, [mounts[point]] if point else [mounts[each] for each in listed])
    return lines


def _real(point: str, listed: Sequence[str]) -> str:
    """Return the mount point as the kernel lists it: without symbolic links."""
    if point in listed:
        return point
    try:
        return within(CONTROL_TIMEOUT_S, lambda: os.path.realpath(point))
    except NoAnswer:
        return point


def seen_at(point: str, deadline: float) -> MountSeen:
    patience_s = min(CONTROL_TIMEOUT_S, max(deadline - time.monotonic(), WAIT_POLL_S))
    return seen(answer_of(point, partial(read_mount, Path(point), patience_s)))


def seen(answer: Answer) -> MountSeen:
    mount = answer.read(MountRecord)
    disks = [
        SeenDisk(disk.id, disk.node, disk.name, (disk.state or "unknown") if disk.present else STATE_ABSENT, disk.why)
        for disk in mount.disks
    ]
    exporters = {each.node: SeenExporter(each.state, each.why) for each in mount.exporters}
    return MountSeen(answer.source, answer.error, mount.config, disks, exporters)


def not_there(name: str, mounts: Sequence[MountSeen]) -> list[str]:
    """Return why the disk cannot be used, for each mount of its mesh. Pure."""
    if not mounts:
        return [f"disk {name} is not there: no mesh is mounted"]
    owner, slash, _ = name.partition("/")
    having = {mount.config for mount in mounts if any(disk.is_named(name) for disk in mount.disks)}
    of_its_mesh = [mount for mount in mounts if mount.config in having]
    asked = of_its_mesh or [mount for mount in mounts if slash and owner in mount.exporters] or mounts
    lines = []
    for mount in asked:
        found = [f"disk {name} is not there: {mount.error}"] if mount.error else []
        found = found or missing([name], mount.disks, mount.exporters)
        lines += [f"{line} (mount {mount.point})" for line in found]
    return lines

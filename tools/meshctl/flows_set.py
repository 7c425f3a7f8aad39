"""meshctl flows set changes weights, floors and limits of a disk at run time; meshctl flows reset undoes that."""

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshctl import output
from meshctl.flows import CLASSES, add_exporter_arguments, chosen, show
from meshctl.sources import LocalExporter, exporters_here
from meshctl.subparsers import Subparsers
from meshfs.errors import ConfigError
from meshfs.telemetry.exporter_records import DiskPolicyRecord, FlowPolicyRecord, FlowsDiskRecord, FlowsRecord
from meshfs.telemetry.problems import Problem, Severity

ALL = "all"
_FLOW_KEYS = ("weight", "reservation")
_LIMIT_KEYS = ("limit_iops", "limit_bytes_per_s")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SET_EPILOG = """\
examples:
  meshctl flows set disk0 --flow n2/system --weight 2        n2's system I/O gets twice the share of others' system I/O
  meshctl flows set disk0 --flow n3 --limit-bytes 50M        each class of n3 gets at most 50 MiB/s
  meshctl flows set all --system-floor 30%                   system I/O gets at least 30 % of each disk of the exporter
  meshctl flows set disk0 --limit-iops none                  the disk as a whole has no limit of requests any more

A change takes effect at once. If a value is out of range, or if reservations and floor would be more than the whole
disk, the command is refused and nothing changes. A change stays in force until "meshctl flows reset" or until meshfsd
ends. A reload of the config (SIGHUP) keeps it, unless the change contradicts the new config. Then meshfsd drops the
change and logs that. The command prints the settings that are in force after it.

To make a change permanent, write it into the config:
  [scheduler] system_floor = 0.3
  [[scheduler.flow]] node = "n2", class = "system", disk = "n1/disk0", weight = 2   (reservation, limit_iops,
                     limit_bytes_per_s; one key a line)
  [[node]] weight = 2                          a node's weight at every disk
  [[node.disk]] limit_iops, limit_bytes_per_s  a disk's own limit
"""
_RESET_EPILOG = """\
Undo every change that "meshctl flows set" made at the disk, and return to the settings of the config.
Print the settings that are then in force.
"""


@dataclass(frozen=True)
class Wanted:
    """The settings that a command sets: those of a node's flows, or of the disk itself without a ``node``.

    ``io_class`` names one flow of the node; None means both. A limit of None means that there is no limit.
    """

    values: Mapping[str, float | None]
    node: str = ""
    io_class: str | None = None

    def request(self) -> dict[str, object]:
        """Return the value of the request's "set"."""
        return {"node": self.node, "class": self.io_class, **self.values} if self.node else dict(self.values)


def add_parser(verbs: Subparsers) -> None:
    _add_set(verbs)
    parser = verbs.add_parser("flows reset", help="return to the settings of the config", epilog=_RESET_EPILOG)
    _add_common(parser)
    parser.set_defaults(run=run_reset)


def _add_set(verbs: Subparsers) -> None:
    parser = verbs.add_parser(
        "flows set",
        help="change weights, floors and limits while I/O runs",
        epilog=_SET_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_common(parser)
    parser.add_argument(
        "--flow", metavar="NODE[/CLASS]", help="the flow to change; CLASS is app or system (default: each of both)"
    )
    flow = parser.add_argument_group("settings of a flow (with --flow)")
    flow.add_argument(
        "--weight",
        type=positive,
        metavar="W",
        help="share relative to other flows of the class",
        default=argparse.SUPPRESS,
    )
    flow.add_argument(
        "--reservation",
        type=share,
        metavar="R",
        help="share that the flow always gets: 0.1 or 10%%",
        default=argparse.SUPPRESS,
    )
    disk = parser.add_argument_group("settings of a disk (without --flow)")
    disk.add_argument(
        "--system-floor",
        type=share,
        metavar="F",
        help="share that is kept for system I/O: 0.2 or 20%%",
        default=argparse.SUPPRESS,
    )
    both = parser.add_argument_group("settings of a flow or of a disk")
    both.add_argument(
        "--limit-iops",
        type=limit,
        metavar="N|none",
        help="at most so many requests per second",
        default=argparse.SUPPRESS,
    )
    both.add_argument(
        "--limit-bytes",
        type=limit,
        dest="limit_bytes_per_s",
        metavar="N[K|M|G]|none",
        help="at most so many bytes per second",
        default=argparse.SUPPRESS,
    )
    parser.set_defaults(run=run_set)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "disk", metavar=f"DISK|{ALL}", help=f"NAME or NODE/NAME, or {ALL} for every disk of the exporter"
    )
    add_exporter_arguments(parser)
    output.add_json(parser)


def run_set(arguments: argparse.Namespace) -> int:
    """Change settings. Raises ConfigError for settings that cannot be combined."""
    wanted = settings(vars(arguments))
    return change(arguments, {"set": wanted.request()}, wanted)


def run_reset(arguments: argparse.Namespace) -> int:
    return change(arguments, {"reset": True}, Wanted({}))


def settings(given: Mapping[str, Any]) -> Wanted:
    """Return the settings that the options of the command line name. Raises ConfigError."""
    values: dict[str, float | None] = {
        key: given[key] for key in (*_FLOW_KEYS, "system_floor", *_LIMIT_KEYS) if key in given
    }
    flow = given["flow"]
    if not values:
        raise ConfigError("no setting is given; meshctl flows set --help lists the settings")
    if flow is None:
        for key in _FLOW_KEYS:
            if key in values:
                raise ConfigError(f"--{key} is a setting of a flow; name the flow with --flow NODE[/CLASS]")
        return Wanted(values)
    if "system_floor" in values:
        raise ConfigError("--system-floor is a setting of the disk; give it without --flow")
    node, slash, io_class = flow.partition("/")
    if not node or (slash and io_class not in CLASSES):
        raise ConfigError(f"--flow {flow}: expected NODE, NODE/app or NODE/system")
    return Wanted(values, node, io_class or None)


def change(arguments: argparse.Namespace, request: Mapping[str, object], wanted: Wanted) -> int:
    """Request the change, show the settings that are then in force, and compare them with the ``wanted`` ones."""
    node, _, name = arguments.disk.rpartition("/")
    exporter = one_exporter(arguments, node)
    disk = None if arguments.disk == ALL else name.removeprefix(f"meshfs-{exporter.node}-")
    answer = exporter.ask({"verb": "flows-set", "disk": disk, **request})
    names = [] if disk is None else [disk]
    different = [
        Problem("setting-not-in-force", Severity.ERROR, f"disk {item.name}", line)
        for item in chosen(answer.read(FlowsRecord), names)
        for line in not_in_force(item, wanted)
    ]
    # A failed request has no disks to show. Its error says what was refused and why.
    return show([answer], [] if answer.error else names, arguments.json, different)


def one_exporter(arguments: argparse.Namespace, node: str) -> LocalExporter:
    """Return the exporter to change. Raises ConfigError if several exporters or none may be meant."""
    if node and any(name != node for name in arguments.node):
        raise ConfigError(f"{arguments.disk} is a disk of {node}, but --node names {', '.join(arguments.node)}")
    found = exporters_here(arguments.config, [node] if node else arguments.node)
    if len(found) > 1:
        nodes = ", ".join(item.node for item in found)
        raise ConfigError(f"{arguments.disk} may be a disk of several exporters; name one with --node: {nodes}")
    return found[0]


def not_in_force(disk: FlowsDiskRecord, wanted: Wanted) -> list[str]:
    """Return a line for each setting that the exporter accepted but does not show as being in force.

    Without this check, the user would not notice that something overrides the setting.
    """
    if not wanted.node:
        return differences("", _of_disk(disk.policy), wanted.values)
    return [
        line
        for flow in disk.flows
        if flow.node == wanted.node and wanted.io_class in (None, flow.io_class)
        for line in differences(f"{flow.node}/{flow.io_class}: ", _of_flow(flow.policy), wanted.values)
    ]


def _of_disk(policy: DiskPolicyRecord) -> dict[str, float | None]:
    return {
        "system_floor": policy.system_floor,
        "limit_iops": policy.limit_iops,
        "limit_bytes_per_s": policy.limit_bytes_per_s,
    }


def _of_flow(policy: FlowPolicyRecord) -> dict[str, float | None]:
    return {
        "weight": policy.weight,
        "reservation": policy.reservation,
        "limit_iops": policy.limit_iops,
        "limit_bytes_per_s": policy.limit_bytes_per_s,
    }


def differences(who: str, in_force: Mapping[str, float | None], values: Mapping[str, float | None]) -> list[str]:
    lines = []
    for key, value in values.items():
        actual = in_force[key]
        if actual is None or value is None:
            same = actual is value
        else:
            same = math.isclose(actual, value, rel_tol=1e-6, abs_tol=1e-9)
        if not same:
            lines.append(f"{who}{key} is {actual}, although {value} was accepted")
    return lines


# --- values of the command line


def positive(text: str) -> float:
    """Parse a positive, finite number. Raises ValueError. The exporter checks the bounds."""
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(text)
    return value


def share(text: str) -> float:
    """Parse a share, for example 0.2 or 20%."""
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 <= value <= 1:
        raise ValueError(text)
    return value


def limit(text: str) -> float | None:
    """Parse a limit, for example 500, 50M or none."""
    if text == "none":
        return None
    factor = _UNITS.get(text[-1:].upper(), 1)
    return positive(text[:-1] if factor > 1 else text) * factor

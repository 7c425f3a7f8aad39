"""meshctl top: what mounts and exporters do, live."""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from meshctl import output
from meshctl.flows import flow_problems
from meshctl.frame import fit, frame, joined
from meshctl.rates import ExporterSide, Interval, MountSide, Reading, document, exporter_side, mount_side
from meshctl.screen import Bell, Printer, Screen
from meshctl.sources import (
    CONFIG_DEFAULT,
    LocalExporter,
    answer_of,
    ask_mounts,
    exporters_here,
    exporters_running,
    mount_points,
    read_mount_unbounded,
)
from meshctl.subparsers import Subparsers
from meshctl.watcher import Watcher
from meshfs.errors import ConfigError
from meshfs.limits import CONTROL_TIMEOUT_S
from meshfs.program.control_client import EXPORTER_SILENT, MOUNT_STUCK
from meshfs.telemetry.mount_records import MountRecord
from meshfs.telemetry.problems import Problem, merged

INTERVAL_S = 2.0
INTERVAL_MIN_S = 0.1
INTERVAL_MAX_S = 3600.0
_EPILOG = """\
The totals at the top are the reads and writes of the last interval, at this node's own (local) and at other nodes'
(remote) disks, and how many of them took how many milliseconds. Rates are of the interval. P50 and P99 are of the last
minute. Without arguments, top shows every mount and exporter of this machine. The key q or Ctrl-C ends it. It prints
plain text with --count, with --json, and if the output is no terminal.
"""


def add_parser(verbs: Subparsers) -> None:
    parser = verbs.add_parser("top", help="show live what mounts and exporters do", epilog=_EPILOG)
    parser.add_argument("mountpoint", nargs="*", type=Path, help="the mount points to show")
    parser.add_argument(
        "--config", type=Path, help=f"show exporters of this config (with --node, default: {CONFIG_DEFAULT})"
    )
    parser.add_argument(
        "--node", action="append", default=[], metavar="NAME", help="show the exporter of this node; may be repeated"
    )
    parser.add_argument(
        "--interval", type=interval, default=INTERVAL_S, metavar="S", help="seconds between two looks (%(default)g)"
    )
    parser.add_argument("--count", type=count, metavar="N", help="end after this many intervals")
    parser.add_argument("--json", action="store_true", help="print a line of JSON for every interval, for programs")
    parser.set_defaults(run=run)


def interval(text: str) -> float:
    value = float(text)
    if not INTERVAL_MIN_S <= value <= INTERVAL_MAX_S:
        raise argparse.ArgumentTypeError(f"{text}: expected {INTERVAL_MIN_S:g} to {INTERVAL_MAX_S:g} seconds")
    return value


def count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected at least 1")
    return value


def run(arguments: argparse.Namespace) -> int:
    points, exporters = sources(arguments)
    plain = arguments.json or arguments.count is not None or not sys.stdout.isatty()
    with ExitStack() as stack:
        bell = stack.enter_context(Bell())
        mounts = [
            Watcher(
                str(point), partial(answer_of, str(point), partial(read_mount_unbounded, point)), bell.ring, MOUNT_STUCK
            )
            for point in points
        ]
        flows = [
            Watcher(item.source, partial(item.ask, {"verb": "flows"}), bell.ring, EXPORTER_SILENT) for item in exporters
        ]
        if plain or os.environ.get("TERM", "dumb") == "dumb":
            view: Printer | Screen = Printer(bell)
        else:
            view = stack.enter_context(Screen(bell, sys.stdin.fileno(), sys.stdout.fileno()))
        return watch(mounts, flows, view, arguments)


def sources(arguments: argparse.Namespace) -> tuple[list[Path], list[LocalExporter]]:
    """Return the named mounts and exporters. If none is named, return all of this machine.

    Raises ConfigError if there is neither a mount nor an exporter.
    """
    if arguments.config is not None or arguments.node:
        return arguments.mountpoint, exporters_here(arguments.config or CONFIG_DEFAULT, arguments.node)
    if arguments.mountpoint:
        return arguments.mountpoint, []
    points = mount_points()
    found: list[LocalExporter] = []
    for path in {mount.read(MountRecord).config for mount in ask_mounts(points)} - {""} if points else ():
        # A config that was damaged after the mount had started must not hide the mount.
        with suppress(ConfigError):
            found += exporters_running(Path(path))
    if os.path.lexists(CONFIG_DEFAULT):
        found += exporters_running(CONFIG_DEFAULT)
    if not points and not found:
        raise ConfigError("no mesh is mounted and no exporter runs on this machine; name one with --config and --node")
    return points, list(dict.fromkeys(found))


def watch(
    mounts: Sequence[Watcher], exporters: Sequence[Watcher], view: Printer | Screen, arguments: argparse.Namespace
) -> int:
    """Ask, show and wait in turn. Return the exit status, which depends on the problems of the last answers."""
    before: dict[Watcher, Reading] = {}
    problems: tuple[Problem, ...] = ()
    looks, due_s = 0, time.monotonic()
    while True:
        if not look([*mounts, *exporters], view):
            break
        readings = {watcher: watcher.reading() for watcher in (*mounts, *exporters)}
        now = interval_of(
            [mount_side(before.get(watcher), readings[watcher]) for watcher in mounts],
            [exporter_side(before.get(watcher), readings[watcher]) for watcher in exporters],
        )
        problems = now.problems
        # Rates need two answers. After the first one, a window shows all other values; plain text waits for the second.
        if looks or view.redraws:
            title = f"meshctl top, {time.strftime('%H:%M:%S')}, every {arguments.interval:g} s"
            view.show(partial(lines, now, "" if arguments.json else title))
        before |= {watcher: reading for watcher, reading in readings.items() if not reading.answer.error}
        due_s = max(due_s + arguments.interval, time.monotonic())
        if looks == arguments.count or not view.wait(due_s, lambda: False):
            break
        looks += 1
    if view.ended_by is not None and view.ended_by != signal.SIGINT:
        return 128 + view.ended_by
    return output.exit_status(problems)


def look(watchers: Sequence[Watcher], view: Printer | Screen) -> bool:
    """Ask all sources, and wait for their answers. Return False if a key or a signal asks the program to end."""
    for watcher in watchers:
        watcher.ask()
    return view.wait(time.monotonic() + CONTROL_TIMEOUT_S, lambda: all(watcher.settled() for watcher in watchers))


def interval_of(mounts: Sequence[MountSide], exporters: Sequence[ExporterSide]) -> Interval:
    found = output.about(merged(*(output.mount_problems(side.answer) for side in mounts)), output.DISK_CODES)
    found += [line for side in exporters for line in flow_problems(side.answer)]
    return Interval(tuple(mounts), tuple(exporters), tuple(found))


def lines(shown: Interval, title: str, window: tuple[int, int] | None) -> list[str]:
    """Return the lines to show. Without a title, this is one line of JSON; without a window, no line is left out.

    ``window`` has the numbers of columns and rows.
    """
    if not title:
        return [json.dumps(document(shown))]
    if window is None:
        return [*joined(frame(shown, title)), ""]
    return fit(frame(shown, title, window[0]), *window)

"""meshctl check tells whether every node sees the same disks, with the same sizes, over all planned paths.

The mount on this machine asks every exporter what it offers, and what the mounts of all nodes see. A difference counts
if it lasts: a disk that was just added is not in all views yet. So the views are compared again for a while.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

from meshctl import output, symmetry, table
from meshctl.sources import NO_MOUNT, Answer, NoAnswer, answer_of, mount_points, read_control, read_mount
from meshctl.subparsers import Subparsers
from meshctl.symmetry import MeshSeen
from meshctl.wait import seconds
from meshfs.errors import ConfigError
from meshfs.limits import CHECK_AT_ONCE, CHECK_WAIT_S, WAIT_POLL_S
from meshfs.mesh_view import ViewExchange, exchange_json, exchange_of
from meshfs.program.control_client import NOT_ALLOWED
from meshfs.telemetry.fields import Fields
from meshfs.telemetry.mount_records import MountRecord
from meshfs.telemetry.problems import Problem

_EPILOG = """\
The exit status is 0 only if every node of the config has a mount that sees the same disks, with the same ids, sizes
and devices, and reaches every exporter over all paths that are planned. A disk that the config hides from a node
(access or nodes = "none") is no difference. Only root and the user of the mount's process may check.
"""
_COLUMNS: Final = ("NODE", "DISKS", "EXPORTERS", "PATHS", "REPORTED")
_RIGHT: Final = ("DISKS", "EXPORTERS", "PATHS", "REPORTED")
_BAR_CHARACTERS: Final = 30

#: Is called with the number of exporters that were asked, and the number of all exporters.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Checked:
    """Holds the result of the check at one mount. ``mesh`` is None if the mount did not answer."""

    point: str
    found: list[Problem]
    mesh: MeshSeen | None = None


def add_parser(verbs: Subparsers) -> None:
    parser = verbs.add_parser("check", help="check that every node sees the same disks", epilog=_EPILOG)
    output.add_arguments(parser)
    parser.add_argument(
        "--ignore", action="append", default=[], metavar="NODE", help="do not expect a mount on this node (repeatable)"
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=CHECK_WAIT_S,
        metavar="S",
        help="compare again for S seconds before a difference is reported (default: %(default)g)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    points: list[Path] = arguments.mountpoint or mount_points()
    if not points:
        raise ConfigError(NO_MOUNT)
    checked = [check(point, arguments.ignore, arguments.timeout) for point in points]
    found = [problem for each in checked for problem in each.found]
    if arguments.json:
        output.print_json({"mounts": [as_json(each) for each in checked]}, found)
    else:
        shown = [block(each, len(checked) > 1) for each in checked if each.mesh is not None]
        output.print_blocks(shown, found)
    return output.exit_status(found)


def check(point: Path, ignored: Sequence[str], timeout_s: float) -> Checked:
    """Check the mesh of one mount. Repeat the check for ``timeout_s`` while there is a difference."""
    deadline = time.monotonic() + timeout_s
    with progress_bar() as progress:
        while True:
            checked = _look(point, ignored, progress)
            if not checked.found or time.monotonic() >= deadline:
                return checked
            time.sleep(WAIT_POLL_S)


def _look(point: Path, ignored: Sequence[str], progress: Progress) -> Checked:
    head = answer_of(str(point), partial(_ask, point, {"verb": "check"}))
    if head.error:
        return Checked(str(point), [output.no_answer(f"mount {head.source}", head)])
    exporters = head.fields.texts("exporters")
    answers: dict[str, Answer] = {}
    progress(0, len(exporters))
    with ThreadPoolExecutor(CHECK_AT_ONCE) as pool:
        asked = {
            pool.submit(answer_of, name, partial(_ask, point, {"verb": "check", "exporter": name})): name
            for name in exporters
        }
        for done in as_completed(asked):
            answers[asked[done]] = done.result()
            progress(len(answers), len(exporters))
    nodes = [node for node in head.fields.texts("nodes") if node not in ignored]
    exchanges: dict[str, ViewExchange] = {}
    silent: dict[str, str] = {}
    for name in exporters:
        if answers[name].error:
            silent[name] = answers[name].error
        else:
            exchanges[name] = exchange_of(answers[name].fields)
    mesh = MeshSeen(nodes, exchanges, silent)
    return Checked(str(point), symmetry.problems(mesh), mesh)


def _ask(point: Path, request: dict[str, str]) -> Fields:
    mount = MountRecord(read_mount(point).raw)
    if mount.is_partial:
        raise NoAnswer("only root and the user of the mount's process may check", NOT_ALLOWED)
    if not mount.control:
        raise NoAnswer("the mount's process has no control socket; see its log for the reason")
    return read_control(Path(mount.control), request, who="the mount's process")


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show a bar on standard error while the check runs, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, of: None
        return

    def show(done: int, of: int) -> None:
        filled = _BAR_CHARACTERS * done // max(of, 1)
        bar = "#" * filled + "." * (_BAR_CHARACTERS - filled)
        print(f"\r[{bar}] {done} of {of} exporters", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        # Erase the line, so that only the result stays.
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def block(checked: Checked, named: bool) -> str:
    parts = [f"mount {table.printable(checked.point)}"] if named else []
    if checked.mesh is not None:
        parts.append(table.render(_COLUMNS, [_cells(row) for row in symmetry.rows(checked.mesh)], _RIGHT))
        if not checked.found:
            disks = sum(len(exchange.disks) for exchange in checked.mesh.exchanges.values())
            parts.append(f"all {len(checked.mesh.nodes)} nodes see the same disks ({disks})")
    return "\n".join(parts)


def _cells(row: symmetry.NodeRow) -> list[str]:
    told = table.UNKNOWN if row.age_s is None else f"{table.duration(row.age_s)} ago"
    return [
        row.node,
        f"{row.disks}/{row.disks_expected}",
        f"{row.exporters}/{row.exporters_expected}",
        f"{row.paths}/{row.paths_planned}",
        told,
    ]


def as_json(checked: Checked) -> dict[str, object]:
    """Return what was compared: a row for each node, and what each exporter said."""
    shown: dict[str, object] = {"mountpoint": checked.point, "symmetric": not checked.found}
    if checked.mesh is None:
        return shown
    return {
        **shown,
        "nodes": [asdict(row) for row in symmetry.rows(checked.mesh)],
        "exporters": [{"node": name, **exchange_json(exchange)} for name, exchange in checked.mesh.exchanges.items()],
        "silent": dict(checked.mesh.silent),
    }

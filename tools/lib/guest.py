"""tools/guest runs a command in a QEMU guest with Debian's 6.12 kernel, and returns its output and exit status.

The guest sees this machine's files, but its own writes to them are thrown away. Its kernel has md, SCSI, NVMe, cifs and
hot removal. Its disks are those of --disk. The first use builds the guest from Debian packages, in .cache/guest.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from meshlab.cluster.cluster import terminated_as_interrupt
from vm.build import Guest, build
from vm.errors import GuestFailure
from vm.qemu import DISK_KINDS, Disk, parse_disk
from vm.run import STATUS_DIED, STATUS_NOT_MADE, STATUS_TIMED_OUT, GuestRun, Outcome

ROOT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = ROOT / ".cache/guest"
TIMEOUT_DEFAULT_S: Final = 600.0
BOOT_ATTEMPTS: Final = 3


def main() -> int:
    options = _parse()
    try:
        with terminated_as_interrupt():
            start = time.monotonic()
            guest = build(CACHE)
            if options.build_only:
                _say(f"the guest lies in {CACHE} ({time.monotonic() - start:.1f} s)")
                return 0
            folder = _folder(options.output)
            outcome = _run(guest, folder, options)
    except GuestFailure as error:
        _say(str(error))
        return STATUS_NOT_MADE
    except KeyboardInterrupt:
        _say("interrupted; the guest was ended")
        return 130
    _report(outcome.status, outcome.console, folder)
    _say(f"exit status {outcome.status} after {outcome.took_s:.1f} s, of them {outcome.boot_s:.1f} s to boot")
    if not options.output and not outcome.console:
        shutil.rmtree(folder)
    return outcome.status


def _run(guest: Guest, folder: Path, options: argparse.Namespace) -> Outcome:
    """Run the command. If the guest dies before the command begins, boot it again.

    The kernel rewrites its code for static branches, mostly at boot. QEMU's emulated processors sometimes still execute
    the breakpoint (int3) that the rewriting processor has removed already, and the kernel then dies of it.
    """
    for _ in range(BOOT_ATTEMPTS - 1):
        outcome = GuestRun(guest, folder, options.disk, options.timeout).run(options.command)
        if outcome.status != STATUS_DIED or outcome.boot_s > 0:
            return outcome
        _say("the guest died before the command began; it is booted again")
    return GuestRun(guest, folder, options.disk, options.timeout).run(options.command)


def _report(status: int, console: str, folder: Path) -> None:
    if not console:
        return
    _say(f"the end of the guest's console ({folder / 'console'}):\n{console}")
    if status == STATUS_TIMED_OUT:
        _say("the command did not end in time (--timeout), and the guest was ended")
    elif status == STATUS_DIED:
        _say("the guest ended without an exit status of the command: its kernel panicked, or the command ended it")


def _folder(output: Path | None) -> Path:
    if output is None:
        runs = CACHE / "runs"
        runs.mkdir(exist_ok=True)
        return Path(tempfile.mkdtemp(dir=runs))
    output.mkdir(parents=True, exist_ok=True)
    return output.resolve()


def _say(text: str) -> None:
    print(f"tools/guest: {text}", file=sys.stderr, flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/guest",
        usage="tools/guest [options] -- COMMAND [ARGUMENT ...]",
        description=__doc__,
        epilog=f"Exit statuses of its own: {STATUS_TIMED_OUT} the time is over, {STATUS_DIED} the guest panicked or "
        f"went down, {STATUS_NOT_MADE} the guest cannot be built or started.",
    )
    parser.add_argument("--build-only", action="store_true", help="build the guest and do not start it")
    parser.add_argument(
        "--timeout", type=float, metavar="S", default=TIMEOUT_DEFAULT_S, help="end the guest after S seconds (600)"
    )
    parser.add_argument(
        "--disk",
        type=_disk,
        action="append",
        default=[],
        metavar="KIND[:SIZE]",
        help=f"add a disk of 64M or SIZE: {', '.join(DISK_KINDS)}; its serial number is, for example, nvme-0",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="keep the console, the output and $MESHFS_GUEST_OUTPUT in DIR",
    )
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="the command to run in the guest, in this folder")
    options = parser.parse_args()
    if not options.build_only and not options.command:
        parser.error("there is no command to run; write it behind --")
    return options


def _disk(text: str) -> Disk:
    try:
        return parse_disk(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())

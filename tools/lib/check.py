"""tools/test checks style, types and import contracts, and runs all tests. Its exit status is 0 only if all passed."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from checks.plan import ATTACK_TESTS, GUEST, GUEST_TESTS, ROOT, Tools, failures, groups
from checks.runs import Result, run_together
from meshfs.program.command import run_command
from meshlab.cluster.cluster import terminated_as_interrupt
from vm.qemu import DISK_KINDS

#: The exit status of a command that SIGINT ended, as a shell gives it.
EXIT_INTERRUPTED: Final = 130


def main() -> int:
    return run_command("tools/test", _main)


def _main() -> int:
    options, rest = parse(sys.argv[1:])
    tools = Tools(sys.executable, Path(sys.executable).parent, tuple(DISK_KINDS))
    start = time.monotonic()
    results: list[Result] = []
    try:
        with terminated_as_interrupt():
            for group in groups(options, rest, len(os.sched_getaffinity(0)), tools):
                results += run_together(group, ROOT)
    except KeyboardInterrupt:
        print("\ntools/test: interrupted; all steps were ended", file=sys.stderr)
        return EXIT_INTERRUPTED
    return _summary(results, time.monotonic() - start)


def _summary(results: Sequence[Result], took_s: float) -> int:
    failed = failures({result.name: result.status for result in results})
    print("\n== summary")
    for result in results:
        print(f"{'FAILED' if result.name in failed else 'ok    '} {result.name:<18} {result.took_s:7.1f} s")
        for line in result.failed:
            print(f"         {line}")
    print(f"       {'all together':<18} {took_s:7.1f} s")
    if not any(result.name == GUEST for result in results):
        print(f"left out: the tests in the guest ({GUEST_TESTS})")
    return 1 if failed else 0


def parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of tools/test, and the words that pytest gets."""
    parser = argparse.ArgumentParser(
        prog="tools/test", description=__doc__, epilog="All other arguments go to pytest, e.g. -k NAME or a path."
    )
    parser.add_argument(
        "--quick", action="store_true", help="use no mounts, networks, programs or guest; few fuzz cases"
    )
    parser.add_argument("--fuzz-cases", type=int, metavar="N", help="run N seeded cases of each fuzz test (100000)")
    parser.add_argument("--soak", type=float, metavar="S", help="repeat the fault tests for S seconds with new seeds")
    parser.add_argument("--attack", action="store_true", help=f"run only {ATTACK_TESTS}, in the long forms")
    parser.add_argument("--attack-frames", type=int, metavar="N", help="send N frames in each fuzz over sockets")
    parser.add_argument("--attack-json", type=Path, metavar="FILE", help="write the figures of the attacks to FILE")
    parser.add_argument("--tests-only", action="store_true", help="run only the tests, here and in the guest")
    parser.add_argument("--no-guest", action="store_true", help="leave out the tests in the guest (tools/guest)")
    parser.add_argument("--serial", action="store_true", help="run one test at a time, even with several processors")
    options, rest = parser.parse_known_args(words)
    if options.quick and options.attack:
        parser.error("--quick runs no attack; leave out --quick or --attack")
    return options, rest


if __name__ == "__main__":
    sys.exit(main())

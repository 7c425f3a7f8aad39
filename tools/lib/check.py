"""tools/test checks style, types and import contracts, and runs all tests. Its exit status is 0 only if all passed."""

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meshfs.program.command import run_command
from vm.qemu import DISK_KINDS

ROOT: Final = Path(__file__).resolve().parents[2]
BIN: Final = Path(sys.executable).parent
FUZZ_CASES_QUICK: Final = 5_000
# The tests that need only Python.
QUICK: Final = "not mounted and not network and not peers and not attack"
#: The tests that do not boot a guest themselves.
NO_GUEST: Final = "not boots"
GUEST_TESTS: Final = "tests/guest"
ATTACK_TESTS: Final = "tests/attack"
#: On an idle machine the guest takes some minutes. On a busy one it takes longer, as its processors are emulated.
GUEST_TIMEOUT_S: Final = 1200
PYTEST: Final = "pytest"
GUEST: Final = "guest"
#: pytest's exit status if it found no test to run.
NOTHING_COLLECTED: Final = 5


@dataclass(frozen=True)
class Step:
    name: str
    command: Sequence[str]


def main() -> int:
    return run_command("tools/test", _main)


def _main() -> int:
    options, rest = _parse()
    results = [(step.name, *_run(step)) for step in _steps(options, rest)]
    failed = failures({name: status for name, status, _ in results})
    print("\n== summary")
    for name, _, took_s in results:
        print(f"{'FAILED' if name in failed else 'ok    '} {name:<14} {took_s:7.1f} s")
    if not any(name == GUEST for name, _, _ in results):
        print(f"left out: the tests in the guest ({GUEST_TESTS})")
    return 1 if failed else 0


def failures(statuses: Mapping[str, int]) -> set[str]:
    """Return the names of the failed steps. Either pytest or the guest may have found no test, but not both."""
    failed = {name for name, status in statuses.items() if status != 0}
    runs = {name: status for name, status in statuses.items() if name in (PYTEST, GUEST)}
    idle = {name for name, status in runs.items() if status == NOTHING_COLLECTED}
    return failed - idle if len(idle) < len(runs) else failed


def guest_words(rest: Sequence[str]) -> list[str] | None:
    """Return the arguments of pytest in the guest, from those of pytest here; None if they name only other tests."""
    places = [word for word in rest if word.partition("::")[0].rstrip("/").startswith("tests")]
    for_guest = [word for word in places if word.startswith(GUEST_TESTS)]
    everything = [word for word in places if word.rstrip("/") == "tests"]
    if places and not for_guest and not everything:
        return None
    others = [word for word in rest if word not in places]
    return [*others, *(for_guest or [GUEST_TESTS])]


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="tools/test", description=__doc__, epilog="Everything else is passed to pytest, e.g. -k NAME or a path."
    )
    parser.add_argument("--quick", action="store_true", help="no mounts, networks, programs, guest; few fuzz cases")
    parser.add_argument("--fuzz-cases", type=int, metavar="N", help="seeded cases of each fuzz test (default 100000)")
    parser.add_argument("--soak", type=float, metavar="S", help="repeat the fault tests for S seconds with new seeds")
    parser.add_argument("--attack", action="store_true", help=f"the tests of {ATTACK_TESTS} alone, in their long forms")
    parser.add_argument("--attack-frames", type=int, metavar="N", help="frames of each fuzz over sockets")
    parser.add_argument("--attack-json", type=Path, metavar="FILE", help="write the figures of the attacks there")
    parser.add_argument("--tests-only", action="store_true", help="the tests alone, here and in the guest")
    parser.add_argument("--no-guest", action="store_true", help="leave out the tests in the guest (tools/guest)")
    options, rest = parser.parse_known_args()
    if options.quick and options.attack:
        parser.error("--quick runs no attack, so it does not go with --attack")
    return options, rest


def _steps(options: argparse.Namespace, rest: list[str]) -> list[Step]:
    checks = [
        Step("ruff", [str(BIN / "ruff"), "check", "."]),
        Step("ruff format", [str(BIN / "ruff"), "format", "--check", "."]),
        Step("mypy", [str(BIN / "mypy")]),
        Step("mypy tools", [str(BIN / "mypy"), "tools/lib"]),
        Step("lint-imports", [str(BIN / "lint-imports")]),
    ]
    tests = [sys.executable, "-m", "pytest", "--no-unexpected-skips"]
    if options.quick:
        tests += ["-m", QUICK]
    elif options.no_guest:
        tests += ["-m", NO_GUEST]
    cases = options.fuzz_cases or (FUZZ_CASES_QUICK if options.quick else None)
    if cases is not None:
        tests += ["--fuzz-cases", str(cases)]
    if options.soak is not None:
        tests += ["--soak", str(options.soak)]
    tests += _attack_words(options, rest)
    steps = [] if options.tests_only else checks
    steps.append(Step(PYTEST, [*tests, *rest]))
    words = None if options.quick or options.no_guest or options.attack else guest_words(rest)
    if words is not None:
        steps.append(_guest_step(words))
    return steps


def _attack_words(options: argparse.Namespace, rest: Sequence[str]) -> list[str]:
    """Return pytest's arguments for the attacks. `--attack` runs only the attacks, unless other tests are named."""
    words = ["--attack"] if options.attack else []
    if options.attack and not any(word.startswith("tests") for word in rest):
        words.append(ATTACK_TESTS)
    if options.attack_frames is not None:
        words += ["--attack-frames", str(options.attack_frames)]
    if options.attack_json is not None:
        # Option and path are one word. Otherwise pytest would take the path for a test's, and look for its settings
        # there.
        words.append(f"--attack-json={options.attack_json.resolve()}")
    return words


def _guest_step(words: Sequence[str]) -> Step:
    """Return the step that runs all tests of the guest in one boot, with one disk of each kind."""
    disks = [word for kind in DISK_KINDS for word in ("--disk", kind)]
    tests = [sys.executable, "-m", "pytest", "--no-unexpected-skips", "-p", "no:cacheprovider", *words]
    guest = [sys.executable, str(ROOT / "tools/lib/guest.py"), "--timeout", str(GUEST_TIMEOUT_S), *disks]
    return Step(GUEST, [*guest, "--", *tests])


def _run(step: Step) -> tuple[int, float]:
    print(f"\n== {step.name}", flush=True)
    start = time.monotonic()
    status = subprocess.run(step.command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode
    return status, time.monotonic() - start


if __name__ == "__main__":
    sys.exit(main())

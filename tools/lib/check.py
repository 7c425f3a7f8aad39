"""tools/test: style, types, import contracts and every test; non-zero unless all of it passed."""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
BIN: Final = Path(sys.executable).parent
FUZZ_CASES_QUICK: Final = 5_000
# Tests that need nothing but Python.
QUICK: Final = "not mounted and not network and not peers"


@dataclass(frozen=True)
class Step:
    name: str
    command: Sequence[str]


def main() -> int:
    options, rest = _parse()
    results = [(step.name, *_run(step)) for step in _steps(options, rest)]
    print("\n== summary")
    for name, status, took_s in results:
        print(f"{'ok    ' if status == 0 else 'FAILED'} {name:<14} {took_s:7.1f} s")
    return 0 if all(status == 0 for _, status, _ in results) else 1


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="tools/test", description=__doc__, epilog="Everything else is passed to pytest, e.g. -k NAME or a path."
    )
    parser.add_argument("--quick", action="store_true", help="no mounts, networks or other programs; few fuzz cases")
    parser.add_argument("--fuzz-cases", type=int, metavar="N", help="seeded cases of each fuzz test (default 100000)")
    parser.add_argument("--soak", type=float, metavar="S", help="repeat the fault tests for S seconds with new seeds")
    parser.add_argument("--tests-only", action="store_true", help="pytest alone")
    return parser.parse_known_args()


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
    cases = options.fuzz_cases or (FUZZ_CASES_QUICK if options.quick else None)
    if cases is not None:
        tests += ["--fuzz-cases", str(cases)]
    if options.soak is not None:
        tests += ["--soak", str(options.soak)]
    return ([] if options.tests_only else checks) + [Step("pytest", [*tests, *rest])]


def _run(step: Step) -> tuple[int, float]:
    print(f"\n== {step.name}", flush=True)
    start = time.monotonic()
    status = subprocess.run(step.command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode
    return status, time.monotonic() - start


if __name__ == "__main__":
    sys.exit(main())

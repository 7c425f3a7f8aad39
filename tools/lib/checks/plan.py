"""Decide the steps of tools/test, from its options and from the number of processors. Everything here is pure.

The tests are of three kinds, and a kind decides what may run beside it:

    PROCESSOR   needs only a processor. Times are simulated, or guards of some seconds against a hang. Therefore a busy
                machine fails no test.
    MACHINE     mounts and runs real programs. These tests mostly wait, and they would disturb each other.
    ATTACK      measures an honest session beside each attack. Beside other tests, the figures would be wrong.

Two processors run PROCESSOR beside MACHINE, in a pytest process each. ATTACK comes next, and the guest last.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[3]
FUZZ_CASES_QUICK: Final = 5_000
#: The tests that need only Python.
QUICK: Final = "not mounted and not network and not peers and not attack"
#: The tests that do not boot a guest themselves.
NO_GUEST: Final = "not boots"
PROCESSOR_TESTS: Final = ("tests/pure", "tests/memory", "tests/simulation")
MACHINE_TESTS: Final = ("tests/mounted", "tests/network", "tests/systemd")
ATTACK_TESTS: Final = "tests/attack"
GUEST_TESTS: Final = "tests/guest"
#: On an idle machine the guest takes some minutes. On a busy one it takes longer, as its processors are emulated.
GUEST_TIMEOUT_S: Final = 1200
#: What runs beside the tests of mounts must not take the processor from them.
NICENESS: Final = 10

PYTEST: Final = "pytest"
PROCESSOR: Final = "pytest processor"
MACHINE: Final = "pytest machine"
ATTACK: Final = "pytest attack"
GUEST: Final = "guest"
TESTS: Final = frozenset({PYTEST, PROCESSOR, MACHINE, ATTACK, GUEST})
#: pytest's exit status if it found no test to run.
NOTHING_COLLECTED: Final = 5

#: pytest's options whose value is a file or folder that each run writes. Two runs would overwrite each other's.
WRITTEN: Final = ("--junitxml", "--junit-xml", "--basetemp", "--report-log")


@dataclass(frozen=True)
class Step:
    """Describes one step of tools/test: its name and its command."""

    name: str
    command: Sequence[str]


@dataclass(frozen=True)
class Tools:
    """The programs that the steps run: this Python, the folder of its commands, and the kinds of disks of a guest."""

    python: str
    commands: Path
    disk_kinds: Sequence[str]


#: The steps of a group run at the same time. The first one of them has the terminal.
Group = tuple[Step, ...]


def groups(options: argparse.Namespace, rest: Sequence[str], processors: int, tools: Tools) -> list[Group]:
    """Return the steps in the order in which they run. `rest` is what the user wants pytest to get."""
    found: list[Group] = [] if options.tests_only else [(step,) for step in _static_checks(tools)]
    found += _test_groups(options, rest, processors, tools)
    words = None if options.quick or options.no_guest or options.attack else guest_words(rest)
    if words is not None:
        found.append((_guest_step(words, tools),))
    return found


def failures(statuses: Mapping[str, int]) -> set[str]:
    """Return the names of the failed steps. Runs of tests may find no test to run, but not all of them."""
    failed = {name for name, status in statuses.items() if status != 0}
    runs = {name: status for name, status in statuses.items() if name in TESTS}
    idle = {name for name, status in runs.items() if status == NOTHING_COLLECTED}
    return failed - idle if len(idle) < len(runs) else failed


def guest_words(rest: Sequence[str]) -> list[str] | None:
    """Return pytest's arguments for the guest, from those given here, or None if they name only other tests."""
    places = [word for word in rest if word.partition("::")[0].rstrip("/").startswith("tests")]
    for_guest = [word for word in places if word.startswith(GUEST_TESTS)]
    everything = [word for word in places if word.rstrip("/") == "tests"]
    if places and not for_guest and not everything:
        return None
    others = [word for word in rest if word not in places]
    return [*others, *(for_guest or [GUEST_TESTS])]


def names_a_place(rest: Sequence[str]) -> bool:
    """Return whether the user names files or folders of tests.

    The word after -k may have the name of a file, too. Then the answer is wrong, and one pytest runs all tests.
    """
    return any(not word.startswith("-") and (ROOT / word.partition("::")[0]).exists() for word in rest)


def own_files(words: Sequence[str], name: str) -> list[str]:
    """Return the words with the name of the run in each file that the run writes: x.xml becomes x-processor.xml."""
    run = name.rpartition(" ")[2]
    found: list[str] = []
    for word in words:
        option, equals, value = word.partition("=")
        if equals and option in WRITTEN:
            found.append(f"{option}={_of_run(value, run)}")
        elif found and found[-1] in WRITTEN:
            found.append(_of_run(word, run))
        else:
            found.append(word)
    return found


def _of_run(path: str, run: str) -> str:
    written = Path(path)
    return str(written.with_name(f"{written.stem}-{run}{written.suffix}"))


def _static_checks(tools: Tools) -> list[Step]:
    return [
        Step("ruff", [str(tools.commands / "ruff"), "check", "."]),
        Step("ruff format", [str(tools.commands / "ruff"), "format", "--check", "."]),
        Step("mypy", [str(tools.commands / "mypy")]),
        Step("mypy tools", [str(tools.commands / "mypy"), "tools/lib"]),
        Step("lint-imports", [str(tools.commands / "lint-imports")]),
    ]


def _test_groups(options: argparse.Namespace, rest: Sequence[str], processors: int, tools: Tools) -> list[Group]:
    command = [tools.python, "-m", "pytest", "--no-unexpected-skips", *_own_words(options)]
    alone = options.quick or options.attack or options.serial or processors < 2 or names_a_place(rest)
    if alone:
        return [(Step(PYTEST, [*command, *_attack_words(options, rest), *rest]),)]
    attack_words = _attack_words(options, rest)
    machine = Step(MACHINE, [*command, *own_files(rest, MACHINE), *MACHINE_TESTS])
    # With a cache of its own, neither run loses what the other one remembers for --last-failed.
    beside = [*command, "-o", "cache_dir=.pytest_cache/processor", *own_files(rest, PROCESSOR), *PROCESSOR_TESTS]
    processor = Step(PROCESSOR, ["nice", "-n", str(NICENESS), *beside])
    attack = Step(ATTACK, [*command, *attack_words, *own_files(rest, ATTACK), ATTACK_TESTS])
    return [(machine, processor), (attack,)]


def _own_words(options: argparse.Namespace) -> list[str]:
    words = []
    if options.quick:
        words += ["-m", QUICK]
    elif options.no_guest:
        words += ["-m", NO_GUEST]
    cases = options.fuzz_cases or (FUZZ_CASES_QUICK if options.quick else None)
    if cases is not None:
        words += ["--fuzz-cases", str(cases)]
    if options.soak is not None:
        words += ["--soak", str(options.soak)]
    return words


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


def _guest_step(words: Sequence[str], tools: Tools) -> Step:
    """Return the step that runs all tests of the guest in one boot, with one disk of each kind."""
    disks = [word for kind in tools.disk_kinds for word in ("--disk", kind)]
    tests = [tools.python, "-m", "pytest", "--no-unexpected-skips", "-p", "no:cacheprovider", *own_files(words, GUEST)]
    guest = [tools.python, str(ROOT / "tools/lib/guest.py"), "--timeout", str(GUEST_TIMEOUT_S), *disks]
    return Step(GUEST, [*guest, "--", *tests])

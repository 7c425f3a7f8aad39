"""The steps of tools/test: what runs beside what, the arguments of each pytest, and which steps count as failed."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from check import parse
from checks import plan
from checks.plan import ATTACK, GUEST, MACHINE, PROCESSOR, PYTEST, ROOT, Group, Tools, failures, guest_words, own_files

TOOLS = Tools("python", Path("/bin"), ("nvme", "virtio-blk"))


def planned(*words: str, processors: int = 2) -> list[Group]:
    options, rest = parse(words)
    return plan.groups(options, rest, processors, TOOLS)


def names(groups: Sequence[Group]) -> list[tuple[str, ...]]:
    return [tuple(step.name for step in group) for group in groups]


def command(name: str, *words: str) -> list[str]:
    (found,) = [step for group in planned(*words) for step in group if step.name == name]
    return list(found.command)


def test_two_processors_run_the_tests_of_the_processor_beside_those_of_mounts() -> None:
    assert names(planned("--tests-only")) == [(MACHINE, PROCESSOR), (ATTACK,), (GUEST,)]


def test_one_processor_or_serial_runs_all_tests_in_one_pytest_and_then_the_guest() -> None:
    assert names(planned("--tests-only", processors=1)) == [(PYTEST,), (GUEST,)]
    assert names(planned("--tests-only", "--serial")) == [(PYTEST,), (GUEST,)]
    assert command(PYTEST, "--serial") == ["python", "-m", "pytest", "--no-unexpected-skips"]


def test_static_checks_come_first_and_one_by_one() -> None:
    first, *_ = planned()
    assert names([first]) == [("ruff",)]
    assert len(planned()) - len(planned("--tests-only")) == 5


@pytest.mark.parametrize("place", ["tests/pure", "tests/mounted/test_fuse.py::test_x", "tests", "./tests", str(ROOT)])
def test_a_place_that_the_user_names_is_run_by_one_pytest(place: str) -> None:
    assert names(planned("--tests-only", "--no-guest", place)) == [(PYTEST,)]
    assert command(PYTEST, place)[-1] == place


def test_a_name_that_the_user_gives_reaches_every_pytest() -> None:
    for name in (MACHINE, PROCESSOR, ATTACK, GUEST):
        words = command(name, "-k", "locks")
        assert words[words.index("-k") + 1] == "locks"


def test_every_folder_of_tests_is_in_exactly_one_step() -> None:
    holds_tests = {f"tests/{path.relative_to(ROOT / 'tests').parts[0]}" for path in (ROOT / "tests").rglob("test_*.py")}
    run = [word for name in (MACHINE, PROCESSOR, ATTACK, GUEST) for word in command(name) if word.startswith("tests/")]
    assert sorted(run) == sorted(holds_tests)


def test_the_processor_s_tests_yield_to_those_of_mounts_and_have_a_cache_of_their_own() -> None:
    words = command(PROCESSOR)
    assert words[:4] == ["nice", "-n", "10", "python"]
    assert "cache_dir=.pytest_cache/processor" in words
    assert not any("cache_dir" in word for word in command(MACHINE))


def test_no_two_runs_write_the_same_file() -> None:
    written = [
        [
            word
            for word in command(name, "--junitxml=out/all.xml", "--basetemp", "t")
            if "all" in word or word[:2] == "t-"
        ]
        for name in (MACHINE, PROCESSOR, ATTACK, GUEST)
    ]
    assert written[0] == ["--junitxml=out/all-machine.xml", "t-machine"]
    assert len({word for words in written for word in words}) == 8


def test_a_file_that_only_one_run_writes_keeps_its_name() -> None:
    assert "--junitxml=all.xml" in command(PYTEST, "--serial", "--junitxml=all.xml")
    assert own_files(["--junit-xml=a.xml", "-k", "--x=b.xml"], PROCESSOR) == [
        "--junit-xml=a-processor.xml",
        "-k",
        "--x=b.xml",
    ]


def test_options_of_the_run_reach_every_pytest_outside_the_guest() -> None:
    for name in (MACHINE, PROCESSOR, ATTACK):
        words = command(name, "--soak", "5", "--fuzz-cases", "7", "--no-guest")
        assert words[words.index("--soak") + 1] == "5.0"
        assert words[words.index("--fuzz-cases") + 1] == "7"
        assert "not boots" in words


def test_the_attack_suite_is_run_alone_and_in_its_long_forms(tmp_path: Path) -> None:
    words = command(PYTEST, "--attack", "--attack-frames", "1000000", "--attack-json", str(tmp_path / "x.json"))
    assert words[words.index("--attack") :] == [
        "--attack",
        "tests/attack",
        "--attack-frames",
        "1000000",
        f"--attack-json={tmp_path / 'x.json'}",
    ]
    assert names(planned("--tests-only", "--attack")) == [(PYTEST,)]
    assert "tests/attack" not in command(PYTEST, "--attack", "tests/attack/test_fuzz.py")
    assert command(PYTEST, "--attack", "-k", "locks")[-2:] == ["-k", "locks"]


def test_the_short_forms_of_the_attacks_write_their_figures_too() -> None:
    assert command(ATTACK, "--attack-json", "/x.json")[-2:] == ["--attack-json=/x.json", "tests/attack"]


def test_the_quick_run_attacks_nobody() -> None:
    assert "not attack" in " ".join(command(PYTEST, "--quick"))
    assert "--attack" not in command(ATTACK, "--no-guest")
    with pytest.raises(SystemExit):
        planned("--quick", "--attack")


def test_the_guest_gets_the_options_and_its_own_tests() -> None:
    assert guest_words([]) == ["tests/guest"]
    assert guest_words(["-k", "name"]) == ["-k", "name", "tests/guest"]
    assert guest_words(["tests"]) == ["tests/guest"]
    assert guest_words(["tests/pure", "-x"]) is None
    assert guest_words(["tests/pure/test_x.py::test_a"]) is None
    assert guest_words(["tests/guest/test_devices.py", "tests/pure"]) == ["tests/guest/test_devices.py"]


def test_the_guest_has_a_disk_of_each_kind() -> None:
    words = command(GUEST)
    assert words[words.index("--disk") : words.index("--")] == ["--disk", "nvme", "--disk", "virtio-blk"]


def test_a_run_without_a_test_fails_only_if_no_run_had_one() -> None:
    assert failures({"ruff": 0, PYTEST: 0, GUEST: 0}) == set()
    assert failures({"ruff": 1, PYTEST: 5, GUEST: 0}) == {"ruff"}
    assert failures({PYTEST: 0, GUEST: 5}) == set()
    assert failures({PYTEST: 5, GUEST: 5}) == {PYTEST, GUEST}
    assert failures({PYTEST: 5}) == {PYTEST}
    assert failures({PYTEST: 1, GUEST: 125}) == {PYTEST, GUEST}
    assert failures({MACHINE: 5, PROCESSOR: 0, ATTACK: 5, GUEST: 5}) == set()
    assert failures({MACHINE: 0, PROCESSOR: 1, ATTACK: 5}) == {PROCESSOR}

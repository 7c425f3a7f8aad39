"""Steps of tools/test side by side: each has its exit status, output in one piece, and one SIGINT on an interrupt."""

import os
import signal
import sys
import time
from pathlib import Path
from threading import Timer

import pytest

from checks.plan import Step
from checks.runs import failed_tests, run_together

PYTEST_OUTPUT = """\
ERROR    smb:link.py:7 a log line of a test that failed
=========================== short test summary info ============================
FAILED tests/pure/test_x.py::test_a - assert 1 == 2
ERROR tests/pure/test_x.py::test_b
SKIPPED [1] tests/pure/test_x.py:3: no reason
1 failed, 1 error in 2.00s
"""

#: A program that waits for SIGINT, and writes how many came before its clean-up ended.
WAITS = """
import signal, sys, time
from pathlib import Path
came = []
signal.signal(signal.SIGINT, lambda *_: came.append(1))
Path(sys.argv[1]).touch()
while not came:
    time.sleep(0.01)
time.sleep(0.2)
Path(sys.argv[1]).write_text(str(len(came)))
"""


def python(name: str, program: str, *words: str) -> Step:
    return Step(name, [sys.executable, "-c", program, *words])


def test_steps_side_by_side_run_at_the_same_time(tmp_path: Path) -> None:
    waits_for_other = "import sys, pathlib, time\npathlib.Path(sys.argv[1]).touch()\n"
    waits_for_other += "while not pathlib.Path(sys.argv[2]).exists(): time.sleep(0.01)"
    steps = [python("a", waits_for_other, "a", "b"), python("b", waits_for_other, "b", "a")]
    assert [result.status for result in run_together(steps, tmp_path)] == [0, 0]


def test_each_step_has_its_exit_status_and_its_time(tmp_path: Path) -> None:
    results = run_together([python("a", "raise SystemExit(3)"), python("b", "raise SystemExit(5)")], tmp_path)
    assert [(result.name, result.status) for result in results] == [("a", 3), ("b", 5)]
    assert all(result.took_s > 0 for result in results)


def test_the_output_of_the_second_step_is_printed_in_one_piece_when_it_ends(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = "import pathlib, time\nwhile not pathlib.Path('ended').exists():\n    print('first', flush=True)\n"
    first += "    time.sleep(0.01)"
    second = "import sys, pathlib\nprint('one', flush=True)\nprint('two', file=sys.stderr, flush=True)\n"
    second += "print('three', flush=True)\npathlib.Path('ended').touch()"
    run_together([python("a", first), python("b", second)], tmp_path)
    shown = capfd.readouterr().out.split("\n")
    start = shown.index("== b has ended; its output:")
    assert shown[start + 1 : start + 4] == ["one", "two", "three"]


def test_failed_tests_of_the_second_step_are_kept_for_the_summary(tmp_path: Path) -> None:
    _, second = run_together([python("a", ""), python("b", f"print({PYTEST_OUTPUT!r})")], tmp_path)
    assert second.failed == failed_tests(PYTEST_OUTPUT)


def test_a_failed_test_is_a_line_of_the_short_summary_and_not_of_a_log() -> None:
    assert failed_tests(PYTEST_OUTPUT) == (
        "FAILED tests/pure/test_x.py::test_a - assert 1 == 2",
        "ERROR tests/pure/test_x.py::test_b",
    )
    assert failed_tests("ERROR    no summary") == ()


def test_an_interrupt_gives_each_step_one_sigint_and_waits_for_its_clean_up(tmp_path: Path) -> None:
    steps = [python(name, WAITS, name) for name in ("a", "b")]

    def interrupt_when_both_run() -> None:
        while not all((tmp_path / name).exists() for name in ("a", "b")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    timer = Timer(0, interrupt_when_both_run)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run_together(steps, tmp_path)
    timer.join()
    assert [(tmp_path / name).read_text() for name in ("a", "b")] == ["1", "1"]

"""Run the steps of tools/test, one at a time or several side by side, and end them all if the run is interrupted."""

import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from checks.plan import Step

_POLL_S: Final = 0.1
#: The line of pytest after which each failed test has a line of its own.
_SHORT_SUMMARY: Final = "short test summary info"


@dataclass(frozen=True)
class Result:
    """How a step ended. `failed` has pytest's line of each failed test, if tools/test kept the step's output."""

    name: str
    status: int
    took_s: float
    failed: tuple[str, ...] = ()


def failed_tests(output: str) -> tuple[str, ...]:
    """Return the lines of pytest's short summary that name a failed test or an error."""
    _, found, summary = output.rpartition(_SHORT_SUMMARY)
    lines = summary.splitlines() if found else []
    return tuple(line for line in lines if line.startswith(("FAILED ", "ERROR ")))


class _Run:
    """A step that runs in a process group of its own, because the terminal would send SIGINT to its children, too."""

    def __init__(self, step: Step, folder: Path, output: IO[bytes] | None) -> None:
        self._name = step.name
        self._output = output
        self._start = time.monotonic()
        self._took_s = 0.0
        self._failed: tuple[str, ...] = ()
        self._process = subprocess.Popen(
            step.command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            process_group=0,
        )

    def has_ended(self) -> bool:
        """Return whether the process has ended. The first time that it has, print the output that was kept."""
        if self._process.poll() is None:
            return False
        if not self._took_s:
            self._took_s = time.monotonic() - self._start
            self._show()
        return True

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def result(self) -> Result:
        return Result(self._name, self._process.returncode, self._took_s, self._failed)

    def _show(self) -> None:
        if self._output is None:
            return
        print(f"\n== {self._name} has ended; its output:", flush=True)
        self._output.seek(0)
        text = self._output.read().decode(errors="replace")
        self._failed = failed_tests(text)
        print(text, end="", flush=True)


def run_together(steps: Sequence[Step], folder: Path) -> list[Result]:
    """Run the steps at the same time in `folder`, and return their results in the order of the steps.

    The first step has the terminal. The output of each other one is printed when that step ends. If an exception is
    raised, which is KeyboardInterrupt as a rule, each step gets one SIGINT. The exception goes on when all have ended.
    """
    print(f"\n== {' beside '.join(step.name for step in steps)}", flush=True)
    running: list[_Run] = []
    with ExitStack() as kept:
        try:
            for step in steps:
                running.append(_Run(step, folder, kept.enter_context(tempfile.TemporaryFile()) if running else None))
            _await(running)
        except BaseException:
            _end(running)
            raise
    return [each.result() for each in running]


def _end(running: Sequence[_Run]) -> None:
    """Interrupt all steps and await their clean-up. A second exception, such as a second Ctrl-C, kills them."""
    for each in running:
        each.interrupt()
    try:
        _await(running)
    finally:
        for each in running:
            each.kill()


def _await(running: Sequence[_Run]) -> None:
    left = list(running)
    while left := [each for each in left if not each.has_ended()]:
        time.sleep(_POLL_S)

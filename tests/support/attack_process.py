"""The process of an attacker or of an honest session (tools/meshlab/attack), and what it prints."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from support.nonces import FOLDER_VARIABLE

#: The time for a process to start, also on a busy machine.
START_S: Final = 60.0


class Process:
    """A process that attacks or is an honest session. It prints JSON, which this class reads."""

    def __init__(self, name: str, folder: Path, words: Sequence[str]) -> None:
        self.name = name
        self.errors = folder / f"{name}.stderr"
        environment = dict(os.environ)
        if not name.startswith("honest"):
            # An attacker may sign several messages under one nonce.
            environment.pop(FOLDER_VARIABLE, None)
        with self.errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        self.lines: list[str] = []
        self._came = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._came:
                self.lines.append(line)
                self._came.notify_all()
        with self._came:
            self._came.notify_all()

    def ready(self, timeout_s: float = START_S) -> None:
        """Wait until the process says that it is ready."""
        with self._came:
            came = self._came.wait_for(lambda: self.lines or not self._thread.is_alive(), timeout_s)
        assert came, f"{self.name} is not ready within {timeout_s:g} s: {self.text()}"
        assert self.lines[:1] == ["ready\n"], f"{self.name} failed: {self.lines} {self.text()}"

    def finish(self, timeout_s: float = START_S) -> dict[str, Any]:
        """Wait until the process ends, and return its report."""
        assert self._process.wait(timeout_s) == 0, f"{self.name} failed: {self.text()}"
        self._thread.join(timeout_s)
        return dict(json.loads(self.lines[-1]))

    def report(self, timeout_s: float = START_S) -> dict[str, Any]:
        """Ask the honest session for a report, and return what it got since its last report."""
        with self._came:
            had = len(self.lines)
            self._process.send_signal(signal.SIGUSR1)
            assert self._came.wait_for(lambda: len(self.lines) > had, timeout_s), f"{self.name} ended: {self.text()}"
            return dict(json.loads(self.lines[had]))

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def end(self, timeout_s: float = START_S) -> dict[str, Any]:
        """Ask the process to end, and return its report."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        return self.finish(timeout_s)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def text(self) -> str:
        return self.errors.read_text(errors="replace")[-3000:]

"""Programs that tests run: each has a time limit, and its output is shown if it fails."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

TIMEOUT_S = 120.0
# fio verifies each block that it wrote, and ends at the first difference.
FIO_VERIFY = ("--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_dump=0")


def run(*command: str | Path, status: int | None = 0, timeout_s: float = TIMEOUT_S, **more: object) -> str:
    """Return what the program printed to both streams. Fail if its exit status is another (None accepts any)."""
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
        **more,  # type: ignore[call-overload]
    )
    shown = " ".join(str(part) for part in command)
    assert status is None or done.returncode == status, f"{shown}: exit status {done.returncode}\n{done.stdout}"
    return str(done.stdout)


def fio(path: Path, *options: str, folder: Path, timeout_s: float = TIMEOUT_S) -> str:
    """Run a fio job on the file. The folder is for fio's state files."""
    return run("fio", "--name=job", f"--filename={path}", *options, cwd=folder, timeout_s=timeout_s)


def until(condition: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
    """Wait until the condition holds. An OSError that the condition raises means that it does not hold yet."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)

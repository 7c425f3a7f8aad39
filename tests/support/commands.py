"""Programs run by tests: always with a time limit, and what they said when they failed."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

TIMEOUT_S = 120.0
# fio's verification of every block it wrote, fatal at the first difference.
FIO_VERIFY = ("--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_dump=0")


def run(*command: str | Path, status: int | None = 0, timeout_s: float = TIMEOUT_S, **more: object) -> str:
    """What the program printed (both streams); fails when its exit status is another (None: any)."""
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
    """One fio job on the file; fio's state files go to the folder."""
    return run("fio", "--name=job", f"--filename={path}", *options, cwd=folder, timeout_s=timeout_s)


def until(condition: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
    """Wait until the condition holds; OSError counts as not yet."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)
